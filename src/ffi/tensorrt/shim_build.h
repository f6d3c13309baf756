// The builder's half of the shim: an ONNX model becomes a plan.
#pragma once
#include "shim_support.h"

namespace {

class Monitor final : public IProgressMonitor {
 public:
  explicit Monitor(const visord_trt_sink& sink) : sink_(sink) {}
  void phaseStart(char const* phase, char const* parent, int32_t steps) noexcept override {
    tell(VISORD_TRT_PHASE_START, phase, parent, steps);
  }
  bool stepComplete(char const* phase, int32_t step) noexcept override {
    tell(VISORD_TRT_PHASE_STEP, phase, nullptr, step);
    return !cancelled();
  }
  void phaseFinish(char const* phase) noexcept override { tell(VISORD_TRT_PHASE_FINISH, phase, nullptr, 0); }
  bool cancelled() const noexcept { return cancelled_.load(std::memory_order_relaxed); }

 private:
  void tell(int32_t kind, char const* phase, char const* parent, int32_t number) noexcept {
    if (!sink_.progress(sink_.user, kind, phase, parent, number)) cancelled_.store(true, std::memory_order_relaxed);
  }
  const visord_trt_sink& sink_;
  std::atomic<bool> cancelled_{false};
};

// One build. Members are destroyed from the last to the first.
struct Build {
  Library& lib;
  const visord_trt_build_options& options;
  const visord_trt_sink& sink;
  visord_trt_text error;

  Recorder recorder{};
  Monitor monitor{sink};
  std::unique_ptr<IBuilder> builder{};
  std::unique_ptr<INetworkDefinition> network{};
  std::unique_ptr<nvonnxparser::IParser> parser{};
  std::unique_ptr<ITimingCache> timing_cache{};
  std::unique_ptr<IBuilderConfig> config{};

  visord_trt_status create() {
    Capture capture;
    builder.reset(factory_result<IBuilder>(lib.create_builder(&logger(), lib.runtime_version)));
    if (!builder) return failed("createInferBuilder", capture.text(), error);
    builder->setErrorRecorder(&recorder);
    network.reset(builder->createNetworkV2(0));
    if (!network) return failed("createNetworkV2", recorder, error);
    parser.reset(factory_result<nvonnxparser::IParser>(
        lib.create_parser(network.get(), &logger(), lib.parser_version)));
    if (!parser) return failed("createNvOnnxParser", capture.text(), error);
    config.reset(builder->createBuilderConfig());
    if (!config) return failed("createBuilderConfig", recorder, error);
    return kOk;
  }

  visord_trt_status parse() {
    Capture capture;
    if (!parser->parse(options.onnx, options.onnx_bytes, options.onnx_path)) {
      for (int i = 0; i < parser->getNbErrors(); ++i) {
        auto* e = parser->getError(i);
        sink.parser_error(sink.user, static_cast<int32_t>(e->code()), e->node(), e->nodeName(), e->nodeOperator(),
                          e->desc());
      }
      // The parser logs what its errors say, and besides why a file of external data cannot be read.
      for (const auto& message : capture.messages) {
        if (message.find("ModelImporter.cpp") != std::string::npos) continue;
        sink.parser_error(sink.user, 0, -1, nullptr, nullptr, message.c_str());
      }
      return {VISORD_TRT_PARSE, "IParser::parse"};
    }
    // An empty file and a short text parse without a complaint.
    const char* missing = network->getNbInputs() < 1 ? "inputs" : network->getNbOutputs() < 1 ? "outputs" : nullptr;
    if (!missing) return kOk;
    return refuse(VISORD_TRT_INTERFACE, error,
                  std::string(options.onnx_path) + ": the network has no " + missing +
                      ": the file is empty, damaged or no ONNX model");
  }

  ITensor* input_named(const char* name) const {
    for (int32_t i = 0; i < network->getNbInputs(); ++i) {
      if (!std::strcmp(network->getInput(i)->getName(), name)) return network->getInput(i);
    }
    return nullptr;
  }

  std::string inputs() const {
    std::string text;
    for (int32_t i = 0; i < network->getNbInputs(); ++i) {
      auto* input = network->getInput(i);
      text += (i ? ", " : "") + quoted(input->getName()) + " " + text_of(input->getDimensions());
    }
    return text;
  }

  // TensorRT says of most mistakes in a profile only that it is not valid.
  visord_trt_status check_profile(size_t index) {
    const auto& profile = options.profiles[index];
    auto refuse_profile = [&](const std::string& why) {
      return refuse(VISORD_TRT_INTERFACE, error, "optimisation profile " + std::to_string(index) + ": " + why);
    };
    for (size_t i = 0; i < profile.count; ++i) {
      const auto& given = profile.inputs[i];
      auto* input = input_named(given.name);
      if (!input) {
        return refuse_profile("the model has no input " + quoted(given.name) + "; it has " + inputs());
      }
      Dims shape = input->getDimensions();
      for (const auto* bound : {&given.min, &given.opt, &given.max}) {
        bool fits = bound->rank == shape.nbDims;
        for (int32_t d = 0; fits && d < shape.nbDims; ++d) fits = shape.d[d] < 0 || shape.d[d] == bound->d[d];
        if (fits) continue;
        return refuse_profile("input " + quoted(given.name) + " is " + text_of(shape) +
                              " in the model, which " + text_of(to_dims(*bound)) + " does not fit");
      }
    }
    for (int32_t i = 0; i < network->getNbInputs(); ++i) {
      auto* input = network->getInput(i);
      Dims shape = input->getDimensions();
      if (std::find(shape.d, shape.d + shape.nbDims, -1) == shape.d + shape.nbDims) continue;
      auto names = [&](const visord_trt_profile_input& p) { return !std::strcmp(p.name, input->getName()); };
      if (std::none_of(profile.inputs, profile.inputs + profile.count, names)) {
        return refuse_profile("it gives no shapes for input " + quoted(input->getName()) + ", which is " +
                              text_of(shape) + " in the model");
      }
    }
    return kOk;
  }

  visord_trt_status add_profiles() {
    bool varies = false;
    for (int32_t i = 0; i < network->getNbInputs(); ++i) {
      auto* input = network->getInput(i);
      Dims shape = input->getDimensions();
      varies |= std::find(shape.d, shape.d + shape.nbDims, -1) != shape.d + shape.nbDims;
      if (input->isShapeTensor()) {
        return refuse(VISORD_TRT_UNSUPPORTED, error,
                      "input " + quoted(input->getName()) + " is used as a shape; export the model with it fixed");
      }
    }
    if (varies && options.profile_count == 0) {
      return refuse(VISORD_TRT_INTERFACE, error,
                    "there is no optimisation profile, and the model needs one: its inputs are " + inputs());
    }
    for (size_t i = 0; i < options.profile_count; ++i) {
      if (auto status = check_profile(i); status.code) return status;
      auto* profile = builder->createOptimizationProfile();
      if (!profile) return failed("createOptimizationProfile", recorder, error);
      for (size_t k = 0; k < options.profiles[i].count; ++k) {
        const auto& in = options.profiles[i].inputs[k];
        if (!profile->setDimensions(in.name, OptProfileSelector::kMIN, to_dims(in.min)) ||
            !profile->setDimensions(in.name, OptProfileSelector::kOPT, to_dims(in.opt)) ||
            !profile->setDimensions(in.name, OptProfileSelector::kMAX, to_dims(in.max))) {
          return failed("IOptimizationProfile::setDimensions", recorder, "input " + quoted(in.name), error);
        }
      }
      if (!profile->isValid() || config->addOptimizationProfile(profile) < 0) {
        return failed("addOptimizationProfile", recorder, "profile " + std::to_string(i), error);
      }
    }
    return kOk;
  }

  visord_trt_status set_precision() {
    if (options.tf32) {
      config->setFlag(BuilderFlag::kTF32);
    } else {
      config->clearFlag(BuilderFlag::kTF32);
    }
#if IS_10
    if (options.fp16) config->setFlag(BuilderFlag::kFP16);
    if (options.int8) config->setFlag(BuilderFlag::kINT8);
#else
    if (options.fp16) {
      return refuse(VISORD_TRT_UNSUPPORTED, error,
                    PRODUCT " " + text_of(lib.version) +
                        " has no FP16 flag: its networks are strongly typed, so the ONNX model itself has to be FP16");
    }
#endif
    return kOk;
  }

  visord_trt_status set_targets() {
    HardwareCompatibilityLevel level = HardwareCompatibilityLevel::kNONE;
    if (options.hardware_compatibility == VISORD_TRT_COMPATIBLE_AMPERE_PLUS) {
      level = HardwareCompatibilityLevel::kAMPERE_PLUS;
    } else if (options.hardware_compatibility == VISORD_TRT_COMPATIBLE_SAME_CC) {
#if HAS_SAME_COMPUTE_CAPABILITY
      level = HardwareCompatibilityLevel::kSAME_COMPUTE_CAPABILITY;
#else
      return refuse(VISORD_TRT_UNSUPPORTED, error,
                    "hardware compatibility with the same compute capability needs TensorRT 10.9 or later, in the "
                    "headers that visord is built with too");
#endif
    }
    if (level != HardwareCompatibilityLevel::kNONE) {
      config->setHardwareCompatibilityLevel(level);
      // TensorRT-RTX leaves it as it was, without an error.
      if (config->getHardwareCompatibilityLevel() != level) {
        return refuse(VISORD_TRT_UNSUPPORTED, error,
                      PRODUCT " " + text_of(lib.version) + " does not have this hardware compatibility" +
                          (VISORD_TRT_IS_RTX ? "; name the compute capabilities to build for" : ""));
      }
    }
    const auto count = static_cast<int32_t>(options.compute_capability_count);
    if (count == 0) return kOk;
#if VISORD_TRT_IS_RTX
    if (!config->setNbComputeCapabilities(count)) return failed("setNbComputeCapabilities", recorder, error);
    for (int32_t i = 0; i < count; ++i) {
      const int32_t number = options.compute_capabilities[i];
      if (config->setComputeCapability(static_cast<ComputeCapability>(number), i)) continue;
      return failed("setComputeCapability", recorder,
                    "compute capability " + std::to_string(number / 10) + "." + std::to_string(number % 10), error);
    }
    return kOk;
#else
    return refuse(VISORD_TRT_UNSUPPORTED, error,
                  PRODUCT " " + text_of(lib.version) +
                      " builds for the GPU that is present only; TensorRT-RTX builds for others");
#endif
  }

  visord_trt_status set_timing_cache() {
    timing_cache.reset(config->createTimingCache(options.timing_cache, options.timing_cache_bytes));
    if (timing_cache && config->setTimingCache(*timing_cache, false)) return kOk;
    // One of another version, GPU or program: begin anew.
    recorder.clear();
    timing_cache.reset(config->createTimingCache(nullptr, 0));
    if (timing_cache && config->setTimingCache(*timing_cache, false)) return kOk;
    return failed("setTimingCache", recorder, error);
  }

  visord_trt_status run() {
    if (auto status = create(); status.code) return status;
    if (auto status = parse(); status.code) return status;
    if (auto status = add_profiles(); status.code) return status;
    if (auto status = set_precision(); status.code) return status;
    if (auto status = set_targets(); status.code) return status;
    if (auto status = set_timing_cache(); status.code) return status;
    if (options.workspace_bytes) config->setMemoryPoolLimit(MemoryPoolType::kWORKSPACE, options.workspace_bytes);
    if (options.optimization_level >= 0) config->setBuilderOptimizationLevel(options.optimization_level);
    config->setProgressMonitor(&monitor);
    recorder.clear();
    std::unique_ptr<IHostMemory> plan{builder->buildSerializedNetwork(*network, *config)};
    if (monitor.cancelled()) return {VISORD_TRT_CANCELLED, "buildSerializedNetwork"};
    if (!plan) return failed("buildSerializedNetwork", recorder, error);
    sink.plan(sink.user, plan->data(), plan->size());
    auto* filled = config->getTimingCache();
    std::unique_ptr<IHostMemory> cache{filled ? filled->serialize() : nullptr};
    if (cache) sink.timing_cache(sink.user, cache->data(), cache->size());
    return kOk;
  }
};

}  // namespace
