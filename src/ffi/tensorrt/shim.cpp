// TensorRT behind the C interface of shim.h. build.rs compiles this file once for each set of headers, with
//   nvinfer1, nvonnxparser   renamed, so that inline functions of several majors do not collide
//   VISORD_TRT_API           the exported function
//   VISORD_TRT_IS_RTX        whether the headers are TensorRT-RTX's
// Nothing of TensorRT is linked: its three factories come from dlsym, everything else is a virtual call.
#include "shim_build.h"
#include "shim_support.h"

namespace {

template <class F>
F symbol(void* library, const char* name) {
  return reinterpret_cast<F>(dlsym(library, name));
}

std::string loader_error() {
  const char* text = dlerror();
  return text ? text : "the loader gives no reason";
}

void open_parser(Library& lib, const char* parser, visord_trt_text why) {
  lib.parser = dlopen(parser, RTLD_NOW | RTLD_LOCAL);
  if (!lib.parser) return put(why, loader_error());
  auto version = symbol<int (*)()>(lib.parser, "getNvOnnxParserVersion");
  auto create = symbol<void* (*)(void*, void*, int)>(lib.parser, "createNvOnnxParser_INTERNAL");
  if (!version || !create) return put(why, std::string(parser) + " is no ONNX parser of TensorRT");
  lib.parser_version = version();
  lib.create_parser = create;
}

visord_trt_status library_open(const char* library, const char* parser, visord_trt_log log, visord_trt_library** out,
                               visord_trt_text parser_text, visord_trt_text error) noexcept {
  return guarded("dlopen", error, [&]() -> visord_trt_status {
    auto lib = std::make_unique<Library>();
    lib->runtime = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (!lib->runtime) return refuse(VISORD_TRT_OPEN, error, loader_error());
    auto number = symbol<int32_t (*)()>(lib->runtime, "getInferLibVersion");
    lib->create_runtime = symbol<void* (*)(void*, int32_t)>(lib->runtime, "createInferRuntime_INTERNAL");
    lib->create_builder = symbol<void* (*)(void*, int32_t)>(lib->runtime, "createInferBuilder_INTERNAL");
    if (!number || !lib->create_runtime) {
      return refuse(VISORD_TRT_OPEN, error, "it is no TensorRT: getInferLibVersion or createInferRuntime is missing");
    }
    lib->runtime_version = number();
    auto part = [&](const char* name, int32_t otherwise) {
      auto get = symbol<int32_t (*)()>(lib->runtime, name);
      return get ? get() : otherwise;
    };
    // Versions before 10 have no parts, and another formula: what counts then is that the major is another.
    lib->version = {part("getInferLibMajorVersion", lib->runtime_version / 1000), part("getInferLibMinorVersion", 0),
                    part("getInferLibPatchVersion", 0), part("getInferLibBuildVersion", 0)};
    if (lib->version.major != NV_TENSORRT_MAJOR) {
      return refuse(VISORD_TRT_OPEN, error,
                    "it is version " + text_of(lib->version) + ", where " PRODUCT " " +
                        std::to_string(NV_TENSORRT_MAJOR) + " is needed");
    }
#if VISORD_TRT_IS_RTX
    // From 1.4 to 1.5 its classes changed within the major.
    if (lib->version.minor < 5) {
      return refuse(VISORD_TRT_OPEN, error,
                    "it is version " + text_of(lib->version) + ", where 1.5 or later is needed");
    }
#endif
    Dl_info info{};
    if (dladdr(reinterpret_cast<void*>(lib->create_runtime), &info) && info.dli_fname) lib->path = info.dli_fname;
    if (parser && lib->create_builder) open_parser(*lib, parser, parser_text);
    logger().sink.store(log, std::memory_order_release);
    *out = reinterpret_cast<visord_trt_library*>(lib.release());
    return kOk;
  });
}

void library_close(visord_trt_library* lib) noexcept { delete of(lib); }
visord_trt_version library_version(const visord_trt_library* lib) noexcept { return of(lib)->version; }
const char* library_path(const visord_trt_library* lib) noexcept {
  return of(lib)->path.empty() ? nullptr : of(lib)->path.c_str();
}
int32_t library_can_build(const visord_trt_library* lib) noexcept {
  return of(lib)->create_builder && of(lib)->create_parser;
}

visord_trt_status library_build(visord_trt_library* lib, const visord_trt_build_options* options,
                                const visord_trt_sink* sink, visord_trt_text error) noexcept {
  return guarded("buildSerializedNetwork", error, [&]() -> visord_trt_status {
    if (!library_can_build(lib)) {
      return refuse(VISORD_TRT_UNSUPPORTED, error,
                    of(lib)->path + " is a runtime only: it has no " +
                        (of(lib)->create_builder ? "ONNX parser" : "builder"));
    }
    return Build{*of(lib), *options, *sink, error}.run();
  });
}

visord_trt_status library_deserialize(visord_trt_library* lib, const void* plan, size_t bytes, visord_trt_engine** out,
                                      visord_trt_text error) noexcept {
  return guarded("deserializeCudaEngine", error, [&]() -> visord_trt_status {
    auto made = std::make_unique<Engine>();
    Capture capture;
    made->runtime.reset(factory_result<IRuntime>(of(lib)->create_runtime(&logger(), of(lib)->runtime_version)));
    if (!made->runtime) return failed("createInferRuntime", capture.text(), error);
    made->runtime->setErrorRecorder(&made->recorder);
    made->engine.reset(made->runtime->deserializeCudaEngine(plan, bytes));
    if (!made->engine) {
      std::string text = made->recorder.take();
      return failed("deserializeCudaEngine", text.empty() ? capture.text() : text, error);
    }
    made->engine->setErrorRecorder(&made->recorder);
    *out = reinterpret_cast<visord_trt_engine*>(made.release());
    return kOk;
  });
}

void engine_free(visord_trt_engine* engine) noexcept { delete of(engine); }
int32_t engine_io_count(const visord_trt_engine* engine) noexcept { return of(engine)->engine->getNbIOTensors(); }
int32_t engine_profile_count(const visord_trt_engine* engine) noexcept {
  return of(engine)->engine->getNbOptimizationProfiles();
}

int32_t datatype_of(DataType type) {
  switch (type) {
    case DataType::kFLOAT: return VISORD_TRT_FP32;
    case DataType::kHALF: return VISORD_TRT_FP16;
    case DataType::kBF16: return VISORD_TRT_BF16;
    case DataType::kINT8: return VISORD_TRT_INT8;
    case DataType::kINT32: return VISORD_TRT_INT32;
    case DataType::kINT64: return VISORD_TRT_INT64;
    case DataType::kUINT8: return VISORD_TRT_UINT8;
    case DataType::kBOOL: return VISORD_TRT_BOOL;
    default: return VISORD_TRT_OTHER;
  }
}

visord_trt_status engine_io(visord_trt_engine* e, int32_t index, visord_trt_io_tensor* out,
                            visord_trt_text error) noexcept {
  return guarded("getIOTensorName", error, [&]() -> visord_trt_status {
    const char* name = of(e)->engine->getIOTensorName(index);
    if (!name) return failed("getIOTensorName", of(e)->recorder, error);
    out->name = name;
    out->is_input = of(e)->engine->getTensorIOMode(name) == TensorIOMode::kINPUT;
    out->is_host =
        of(e)->engine->getTensorLocation(name) == TensorLocation::kHOST || of(e)->engine->isShapeInferenceIO(name);
    out->datatype = datatype_of(of(e)->engine->getTensorDataType(name));
    out->shape = from_dims(of(e)->engine->getTensorShape(name));
    return kOk;
  });
}

visord_trt_status engine_profile_shape(visord_trt_engine* e, const char* name, int32_t profile, visord_trt_dims* out,
                                       visord_trt_text error) noexcept {
  return guarded("getProfileShape", error, [&]() -> visord_trt_status {
    const OptProfileSelector selectors[] = {OptProfileSelector::kMIN, OptProfileSelector::kOPT,
                                            OptProfileSelector::kMAX};
    for (int i = 0; i < 3; ++i) {
      out[i] = from_dims(of(e)->engine->getProfileShape(name, profile, selectors[i]));
      if (out[i].rank >= 0) continue;
      return failed("getProfileShape", of(e)->recorder, quoted(name) + ", profile " + std::to_string(profile), error);
    }
    return kOk;
  });
}

int64_t engine_device_memory_bytes(const visord_trt_engine* engine) noexcept {
#if IS_10
  return static_cast<int64_t>(of(engine)->engine->getDeviceMemorySize());  // its successor is missing in 10.0
#else
  return of(engine)->engine->getDeviceMemorySizeV2();
#endif
}

visord_trt_status context_create(visord_trt_engine* e, visord_trt_context** out, visord_trt_text error) noexcept {
  return guarded("createExecutionContext", error, [&]() -> visord_trt_status {
    auto made = std::make_unique<Context>();
    made->context.reset(of(e)->engine->createExecutionContext(ExecutionContextAllocationStrategy::kUSER_MANAGED));
    if (!made->context) return failed("createExecutionContext", of(e)->recorder, error);
    // Its own: contexts run on threads of their own, and one must not take another's errors.
    made->context->setErrorRecorder(&made->recorder);
    *out = reinterpret_cast<visord_trt_context*>(made.release());
    return kOk;
  });
}

void context_free(visord_trt_context* context) noexcept { delete of(context); }

visord_trt_status context_set_profile(visord_trt_context* c, int32_t profile, void* stream,
                                      visord_trt_text error) noexcept {
  return guarded("setOptimizationProfileAsync", error, [&]() -> visord_trt_status {
    if (of(c)->context->setOptimizationProfileAsync(profile, static_cast<cudaStream_t>(stream))) return kOk;
    return failed("setOptimizationProfileAsync", of(c)->recorder, "profile " + std::to_string(profile), error);
  });
}

visord_trt_status context_set_input_shape(visord_trt_context* c, const char* name, const int64_t* shape, int32_t rank,
                                          visord_trt_text error) noexcept {
  return guarded("setInputShape", error, [&]() -> visord_trt_status {
    if (rank < 0 || rank > Dims::MAX_DIMS) return failed("setInputShape", "more than 8 dimensions", error);
    if (of(c)->context->setInputShape(name, to_dims(shape, rank))) return kOk;
    return failed("setInputShape", of(c)->recorder, quoted(name) + " " + text_of(to_dims(shape, rank)), error);
  });
}

visord_trt_status context_tensor_shape(const visord_trt_context* c, const char* name, visord_trt_dims* out,
                                       visord_trt_text error) noexcept {
  return guarded("getTensorShape", error, [&]() -> visord_trt_status {
    *out = from_dims(of(c)->context->getTensorShape(name));
    if (out->rank >= 0) return kOk;
    return failed("getTensorShape", of(c)->recorder, quoted(name), error);
  });
}

visord_trt_status context_set_tensor_address(visord_trt_context* c, const char* name, void* address,
                                             visord_trt_text error) noexcept {
  return guarded("setTensorAddress", error, [&]() -> visord_trt_status {
    if (of(c)->context->setTensorAddress(name, address)) return kOk;
    return failed("setTensorAddress", of(c)->recorder, quoted(name), error);
  });
}

visord_trt_status context_enqueue(visord_trt_context* c, void* stream, visord_trt_text error) noexcept {
  return guarded("enqueueV3", error, [&]() -> visord_trt_status {
    if (of(c)->context->enqueueV3(static_cast<cudaStream_t>(stream))) return kOk;
    return failed("enqueueV3", of(c)->recorder, error);
  });
}

visord_trt_status context_set_device_memory(visord_trt_context* c, void* address, int64_t bytes,
                                            visord_trt_text error) noexcept {
  return guarded("setDeviceMemory", error, [&]() -> visord_trt_status {
#if IS_10
    (void)bytes;
    of(c)->context->setDeviceMemory(address);  // its successor is missing in 10.0
#else
    of(c)->context->setDeviceMemoryV2(address, bytes);
#endif
    if (of(c)->recorder.getNbErrors() == 0) return kOk;
    return failed("setDeviceMemory", of(c)->recorder, error);
  });
}

const visord_trt_api kApi = {
    {NV_TENSORRT_MAJOR, NV_TENSORRT_MINOR, NV_TENSORRT_PATCH, NV_TENSORRT_BUILD},
    {sizeof(visord_trt_dims), sizeof(visord_trt_profile_input), sizeof(visord_trt_build_options),
     offsetof(visord_trt_build_options, workspace_bytes), offsetof(visord_trt_build_options, timing_cache_bytes),
     sizeof(visord_trt_sink), offsetof(visord_trt_io_tensor, shape), offsetof(visord_trt_api, context_set_device_memory)},
    library_open,
    library_close,
    library_version,
    library_path,
    library_can_build,
    library_build,
    library_deserialize,
    engine_free,
    engine_io_count,
    engine_io,
    engine_profile_count,
    engine_profile_shape,
    engine_device_memory_bytes,
    context_create,
    context_free,
    context_set_profile,
    context_set_input_shape,
    context_tensor_shape,
    context_set_tensor_address,
    context_enqueue,
    context_set_device_memory,
};

}  // namespace

extern "C" const visord_trt_api* VISORD_TRT_API() { return &kApi; }
