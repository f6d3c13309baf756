// Tests of the fake TensorRT through its C++ interface, one process each: tests/fake_device.rs sets the environment and
// names the case.
#include "check.h"
#include "cuda_api.h"

#include <NvInfer.h>
#include <NvOnnxParser.h>
#include <chrono>
#include <cmath>
#include <memory>
#include <thread>
#include <vector>

using namespace nvinfer1;

struct Logger final : ILogger {
  std::string errors;
  void log(Severity severity, AsciiChar const* text) noexcept override {
    if (severity <= Severity::kERROR) errors += std::string(text) + '\n';
  }
  bool has(char const* word) {
    bool found = errors.find(word) != std::string::npos;
    if (!found) fprintf(stderr, "\"%s\" is not in: %s\n", word, errors.c_str());
    return found;
  }
};
static Logger logger;

struct Recorder final : IErrorRecorder {
  std::string last;
  int32_t getNbErrors() const noexcept override { return last.empty() ? 0 : 1; }
  ErrorCode getErrorCode(int32_t) const noexcept override { return ErrorCode::kINVALID_ARGUMENT; }
  ErrorDesc getErrorDesc(int32_t) const noexcept override { return last.c_str(); }
  bool hasOverflowed() const noexcept override { return false; }
  void clear() noexcept override { last.clear(); }
  bool reportError(ErrorCode, ErrorDesc text) noexcept override {
    last = text;
    return true;
  }
  RefCount incRefCount() noexcept override { return 1; }
  RefCount decRefCount() noexcept override { return 1; }
};

// ONNX, as far as the fake reads it.
static std::string field(int number, std::string const& bytes) {
  std::string out(1, static_cast<char>(number << 3 | 2));
  for (size_t n = bytes.size();; n >>= 7) {
    out += static_cast<char>((n & 127) | (n > 127 ? 128 : 0));
    if (n <= 127) break;
  }
  return out + bytes;
}

static std::string field(int number, int value) { return {static_cast<char>(number << 3), static_cast<char>(value)}; }

// -1 is a dimension with a name.
static std::string value(char const* name, int type, std::vector<int> const& shape) {
  std::string dims;
  for (int d : shape) dims += field(1, d < 0 ? field(2, "batch") : field(1, d));
  return field(1, name) + field(2, field(1, field(1, type) + field(2, dims)));
}

static std::string node(char const* op, char const* domain = "") {
  return field(1, field(3, std::string(op) + "_0") + field(4, op) + field(7, domain));
}

static std::string model(std::string const& graph) { return field(8, field(2, 13)) + field(7, graph); }

static std::string small_model(int type = 1) {
  return model(node("Conv") + field(11, value("x", type, {-1, 3, 4})) + field(12, value("y", 1, {-1, 5})) +
               field(11, value("weight", 1, {3})) + field(5, field(8, "weight")));
}

struct Options {
  std::vector<Dims> profiles = {Dims{3, {1, 3, 4}}, Dims{3, {2, 3, 4}}, Dims{3, {4, 3, 4}}};
  IProgressMonitor* monitor = nullptr;
};

static std::string build(std::string const& onnx, Options options = {}) {
  std::unique_ptr<IBuilder> builder(createInferBuilder(logger));
  CHECK(builder);
  std::unique_ptr<INetworkDefinition> network(builder->createNetworkV2(0));
  std::unique_ptr<nvonnxparser::IParser> parser(nvonnxparser::createParser(*network, logger));
  CHECK(parser && parser->parse(onnx.data(), onnx.size(), "/nowhere/model.onnx"));
  std::unique_ptr<IBuilderConfig> config(builder->createBuilderConfig());
  config->setProgressMonitor(options.monitor);
  for (size_t i = 0; i + 2 < options.profiles.size(); i += 3) {
    IOptimizationProfile* profile = builder->createOptimizationProfile();
    CHECK(profile->setDimensions("x", OptProfileSelector::kMIN, options.profiles[i]));
    CHECK(profile->setDimensions("x", OptProfileSelector::kOPT, options.profiles[i + 1]));
    CHECK(profile->setDimensions("x", OptProfileSelector::kMAX, options.profiles[i + 2]));
    CHECK_EQUAL(config->addOptimizationProfile(profile), static_cast<int32_t>(i / 3));
  }
  std::unique_ptr<IHostMemory> plan(builder->buildSerializedNetwork(*network, *config));
  return plan ? std::string(static_cast<char*>(plan->data()), plan->size()) : "";
}

static void* context;
static void* stream;

static void open_device() {
  CHECK_EQUAL(cuInit(0), 0);
  CHECK_EQUAL(cuDevicePrimaryCtxRetain(&context, 0), 0);
  CHECK_EQUAL(cuCtxSetCurrent(context), 0);
  CHECK_EQUAL(cuStreamCreate(&stream, 1), 0);
}

struct Loaded {
  std::unique_ptr<IRuntime> runtime{createInferRuntime(logger)};
  std::unique_ptr<ICudaEngine> engine;
  std::unique_ptr<IExecutionContext> run;
  explicit Loaded(std::string const& plan) {
    CHECK(runtime);
    engine.reset(runtime->deserializeCudaEngine(plan.data(), plan.size()));
    if (engine) run.reset(engine->createExecutionContext());
  }
};

template <class T>
static T* on_device(std::vector<T> const& values) {
  void* made;
  CHECK_EQUAL(cuMemAlloc_v2(&made, values.size() * sizeof(T)), 0);
  CHECK_EQUAL(cuMemcpyHtoD_v2(made, values.data(), values.size() * sizeof(T)), 0);
  return static_cast<T*>(made);
}

static std::vector<float> to_host(float* from, size_t count) {
  std::vector<float> out(count);
  CHECK_EQUAL(cuStreamSynchronize(stream), 0);
  CHECK_EQUAL(cuMemcpyDtoH_v2(out.data(), from, count * sizeof(float)), 0);
  return out;
}

// 12 values a row make 5 means: of 2, 2, 3, 2 and 3 values.
static void computes_means() {
  open_device();
  for (int type : {1, 10, 2}) {
    Loaded l(build(small_model(type)));
    CHECK(l.run);
    std::vector<float> values(36);
    for (size_t i = 0; i < 36; ++i) values[i] = static_cast<float>(i * i % 50);
    std::vector<_Float16> halves(values.begin(), values.end());
    std::vector<uint8_t> bytes(values.begin(), values.end());
    void* x = type == 1 ? static_cast<void*>(on_device(values)) : type == 10 ? static_cast<void*>(on_device(halves)) : on_device(bytes);
    float* y = on_device(std::vector<float>(15));
    CHECK(l.run->setInputShape("x", Dims{3, {3, 3, 4}}));
    CHECK_EQUAL(l.run->getTensorShape("y").d[0], 3);
    CHECK(l.run->setTensorAddress("x", x) && l.run->setTensorAddress("y", y));
    CHECK(l.run->enqueueV3(static_cast<cudaStream_t>(stream)));
    std::vector<float> out = to_host(y, 15);
    const size_t cuts[] = {0, 2, 4, 7, 9, 12};
    for (size_t row = 0; row < 3; ++row) {
      for (size_t k = 0; k < 5; ++k) {
        double sum = 0;
        for (size_t i = cuts[k]; i < cuts[k + 1]; ++i) sum += static_cast<double>(values[row * 12 + i]);
        float wanted = static_cast<float>(sum / static_cast<double>(cuts[k + 1] - cuts[k]));
        bool nan = getenv("VISORD_FAKE_NVINFER_NAN_ROW") && row == 1;
        CHECK(nan ? std::isnan(out[row * 5 + k]) : out[row * 5 + k] == wanted);
      }
    }
  }
}

static void engine_says_what_it_is() {
  open_device();
  Options options;
  options.profiles.insert(options.profiles.end(), {Dims{3, {4, 3, 4}}, Dims{3, {8, 3, 4}}, Dims{3, {8, 3, 4}}});
  Loaded l(build(small_model(), options));
  CHECK_EQUAL(l.engine->getNbIOTensors(), 2);
  CHECK(!strcmp(l.engine->getIOTensorName(0), "x") && !strcmp(l.engine->getIOTensorName(1), "y"));
  CHECK(l.engine->getTensorIOMode("x") == TensorIOMode::kINPUT && l.engine->getTensorIOMode("y") == TensorIOMode::kOUTPUT);
  CHECK_EQUAL(l.engine->getTensorShape("x").d[0], -1);
  CHECK_EQUAL(l.engine->getNbOptimizationProfiles(), 2);
  CHECK_EQUAL(l.engine->getProfileShape("x", 1, OptProfileSelector::kOPT).d[0], 8);
  CHECK_EQUAL(l.engine->getDeviceMemorySizeV2(), 1 << 20);
  CHECK(!l.run->setInputShape("x", Dims{3, {8, 3, 4}}));  // profile 0 ends at 4
  CHECK(l.run->setOptimizationProfileAsync(1, static_cast<cudaStream_t>(stream)));
  CHECK(l.run->setInputShape("x", Dims{3, {8, 3, 4}}));
  CHECK(!l.run->setOptimizationProfileAsync(2, static_cast<cudaStream_t>(stream)));
}

static void order_of_calls_matters() {
  open_device();
  Loaded l(build(small_model()));
  auto on = static_cast<cudaStream_t>(stream);
  Recorder recorder;
  l.run->setErrorRecorder(&recorder);
  auto refuses = [&](bool worked, char const* word) {
    bool right = !worked && recorder.last.find(word) != std::string::npos;
    if (!right) fprintf(stderr, "wanted \"%s\", got: %s\n", word, recorder.last.c_str());
    recorder.clear();
    return right;
  };
  float *x = on_device(std::vector<float>(48)), *y = on_device(std::vector<float>(20));
  CHECK(refuses(l.run->enqueueV3(on), "the shape of x is not set"));
  CHECK(refuses(l.run->setInputShape("z", Dims{3, {1, 3, 4}}), "no input is called z"));
  CHECK(refuses(l.run->setInputShape("x", Dims{3, {5, 3, 4}}), "[5,3,4] is not between [1,3,4] and [4,3,4]"));
  CHECK(refuses(l.run->setInputShape("x", Dims{2, {1, 3}}), "[1,3]"));
  CHECK(l.run->setInputShape("x", Dims{3, {4, 3, 4}}));
  CHECK(refuses(l.run->enqueueV3(on), "the address of x is not set"));
  CHECK(refuses(l.run->setTensorAddress("x", x + 1), "aligned"));
  CHECK(l.run->setTensorAddress("x", x));
  CHECK(refuses(l.run->enqueueV3(on), "the address of y is not set"));
  CHECK(l.run->setTensorAddress("y", y));
  // A capture wants a run with the same shapes before it.
  void *graph, *exec;
  CHECK_EQUAL(cuStreamBeginCapture_v2(stream, 1), 0);
  CHECK(refuses(l.run->enqueueV3(on), "before a capture"));
  CHECK_EQUAL(cuStreamEndCapture(stream, &graph), 0);
  CHECK(l.run->enqueueV3(on));
  CHECK_EQUAL(cuStreamBeginCapture_v2(stream, 1), 0);
  CHECK(l.run->enqueueV3(on));
  CHECK_EQUAL(cuStreamEndCapture(stream, &graph), 0);
  CHECK_EQUAL(cuGraphInstantiateWithFlags(&exec, graph, 0), 0);
  std::vector<float> ones(48, 1.0f);
  CHECK_EQUAL(cuMemcpyHtoD_v2(x, ones.data(), 192), 0);
  CHECK_EQUAL(cuGraphLaunch(exec, stream), 0);
  CHECK(to_host(y, 20)[19] == 1.0f);
  // An address that is no memory is the device's to find.
  CHECK(l.run->setTensorAddress("x", x + 64));
  CHECK(l.run->enqueueV3(on));
  CHECK_EQUAL(cuStreamSynchronize(stream), 700);
  CHECK(refuses(l.run->enqueueV3(on), "bad stream"));
}

// Two runs of one context at the same time are a mistake that the real library leaves undefined.
static void contexts_run_once_at_a_time() {
  open_device();
  Loaded l(build(small_model()));
  void* other;
  CHECK_EQUAL(cuStreamCreate(&other, 1), 0);
  std::unique_ptr<IExecutionContext> second(l.engine->createExecutionContext());
  float *x = on_device(std::vector<float>(12)), *y = on_device(std::vector<float>(5));
  for (IExecutionContext* run : {l.run.get(), second.get()}) {
    CHECK(run->setInputShape("x", Dims{3, {1, 3, 4}}));
    CHECK(run->setTensorAddress("x", x) && run->setTensorAddress("y", y));
  }
  CHECK(l.run->enqueueV3(static_cast<cudaStream_t>(stream)));
  CHECK(second->enqueueV3(static_cast<cudaStream_t>(other)));
  CHECK_EQUAL(cuCtxSynchronize(), 0);
  CHECK(l.run->enqueueV3(static_cast<cudaStream_t>(stream)));
  CHECK(l.run->enqueueV3(static_cast<cudaStream_t>(stream)));
  CHECK_EQUAL(cuCtxSynchronize(), 0);
  CHECK(l.run->enqueueV3(static_cast<cudaStream_t>(stream)));
  CHECK(l.run->enqueueV3(static_cast<cudaStream_t>(other)));
  CHECK_EQUAL(cuCtxSynchronize(), 700);
}

// Memory of the user's: it must be given, be large enough, and serve one run at a time.
static void contexts_share_scratch_memory() {
  open_device();
  Loaded l(build(small_model()));
  float *x = on_device(std::vector<float>(12)), *y = on_device(std::vector<float>(5));
  char* scratch = on_device(std::vector<char>(1 << 20));
  void* other;
  CHECK_EQUAL(cuStreamCreate(&other, 1), 0);
  std::unique_ptr<IExecutionContext> contexts[2];
  for (auto& run : contexts) {
    run.reset(l.engine->createExecutionContext(ExecutionContextAllocationStrategy::kUSER_MANAGED));
    CHECK(run->setInputShape("x", Dims{3, {1, 3, 4}}));
    CHECK(run->setTensorAddress("x", x) && run->setTensorAddress("y", y));
    CHECK(!run->enqueueV3(static_cast<cudaStream_t>(stream)) && logger.has("no device memory"));
    run->setDeviceMemoryV2(scratch, (1 << 20) - 1);
    CHECK(logger.has("1048576 bytes are needed"));
    run->setDeviceMemoryV2(scratch, 1 << 20);
    CHECK(run->enqueueV3(static_cast<cudaStream_t>(stream)));
  }
  CHECK_EQUAL(cuCtxSynchronize(), 0);
  CHECK(contexts[0]->enqueueV3(static_cast<cudaStream_t>(stream)));
  CHECK(contexts[1]->enqueueV3(static_cast<cudaStream_t>(other)));
  CHECK_EQUAL(cuCtxSynchronize(), 700);
  l.run->setDeviceMemoryV2(scratch, 1 << 20);
  CHECK(logger.has("memory of its own"));
}

static void plans_are_checked() {
  open_device();
  std::string plan = build(small_model());
  CHECK(build(small_model()) != plan);  // no two builds are alike
  Loaded whole(plan);
  CHECK(whole.engine);
  Loaded truncated(plan.substr(0, plan.size() - 5));
  CHECK(!truncated.engine && logger.has("truncated or damaged"));
  std::string flipped = plan;
  flipped[plan.size() / 2] ^= 1;
  CHECK(!Loaded(flipped).engine);
  CHECK(!Loaded("ONNX").engine && logger.has("magic tag"));
  setenv("VISORD_FAKE_NVINFER_VERSION", "11.3.0.1", 1);
  CHECK_EQUAL(getInferLibVersion(), 110300);
  CHECK(!Loaded(plan).engine && logger.has("expecting library version 11.3.0 got 11.4.0"));
  unsetenv("VISORD_FAKE_NVINFER_VERSION");
  setenv("VISORD_FAKE_NVINFER_FAIL_DESERIALIZE", "1", 1);
  CHECK(!Loaded(plan).engine);
  unsetenv("VISORD_FAKE_NVINFER_FAIL_DESERIALIZE");
  // More memory than the device has.
  setenv("VISORD_FAKE_NVINFER_DEVICE_MEMORY_BYTES", "99999999999999", 1);
  Loaded large(plan);
  CHECK(large.engine && !large.run && logger.has("out of memory"));
}

// Writes the plan of one device, then reads it on another: the case runs twice with different capabilities.
static void plans_are_for_one_device() {
  open_device();
  char const* file = getenv("PLAN_FILE");
  if (FILE* in = fopen(file, "rb")) {
    std::string plan(1 << 16, 0);
    plan.resize(fread(plan.data(), 1, plan.size(), in));
    fclose(in);
    CHECK(!Loaded(plan).engine && logger.has("expecting compute 9.0 got compute 7.0"));
    return;
  }
  std::string plan = build(small_model());
  FILE* out = fopen(file, "wb");
  CHECK_EQUAL(fwrite(plan.data(), 1, plan.size(), out), plan.size());
  fclose(out);
}

static void networks_are_checked() {
  open_device();
  Options none;
  none.profiles.clear();
  CHECK(build(small_model(), none).empty() && logger.has("no optimization profile has been defined for x"));
  Options wrong;
  for (Dims& d : wrong.profiles) d.d[1] = 9;
  CHECK(build(small_model(), wrong).empty() && logger.has("does not fit [-1,3,4]"));
  // An empty file parses, as with the real one.
  CHECK(build("", none).empty() && logger.has("at least one output"));

  struct {
    std::string onnx;
    char const* error;
  } const refused[] = {
      {"\x0b no protobuf", "Failed to parse the ONNX model."},
      {small_model().substr(0, 40), "Failed to parse the ONNX model."},
      {model(node("Magic", "com.example") + node("Relu")), "Plugin not found"},
      {model(field(5, field(8, "w") + field(14, 1) + field(13, field(1, "location") + field(2, "w.bin")))), "/nowhere/w.bin"},
      {model(field(11, value("x", 8, {1}))), "element type of x"},
  };
  for (auto const& c : refused) {
    std::unique_ptr<IBuilder> builder(createInferBuilder(logger));
    std::unique_ptr<INetworkDefinition> network(builder->createNetworkV2(0));
    std::unique_ptr<nvonnxparser::IParser> parser(nvonnxparser::createParser(*network, logger));
    CHECK(!parser->parse(c.onnx.data(), c.onnx.size(), "/nowhere/model.onnx"));
    CHECK(parser->getNbErrors() >= 1);
    if (!strstr(parser->getError(0)->desc(), c.error)) {
      fprintf(stderr, "wanted \"%s\", got: %s\n", c.error, parser->getError(0)->desc());
      exit(1);
    }
  }
}

struct Monitor final : IProgressMonitor {
  int starts = 0, steps = 0, finishes = 0, stop_at;
  explicit Monitor(int at) : stop_at(at) {}
  void phaseStart(char const*, char const*, int32_t) noexcept override { ++starts; }
  bool stepComplete(char const*, int32_t) noexcept override { return ++steps != stop_at; }
  void phaseFinish(char const*) noexcept override { ++finishes; }
};

static void builds_take_time_and_stop() {
  open_device();
  Monitor whole(-1);
  Options options;
  options.monitor = &whole;
  auto start = std::chrono::steady_clock::now();
  CHECK(!build(small_model(), options).empty());
  CHECK(std::chrono::steady_clock::now() - start >= std::chrono::milliseconds(200));
  CHECK_EQUAL(whole.starts, 2);
  CHECK_EQUAL(whole.steps, 11);
  CHECK_EQUAL(whole.finishes, 2);
  Monitor stopped(3);
  options.monitor = &stopped;
  CHECK(build(small_model(), options).empty() && logger.has("cancelled"));
  CHECK_EQUAL(stopped.steps, 3);
  CHECK_EQUAL(stopped.finishes, 2);
}

static void enqueues_fail() {
  open_device();
  Loaded l(build(small_model()));
  float *x = on_device(std::vector<float>(12)), *y = on_device(std::vector<float>(5));
  CHECK(l.run->setInputShape("x", Dims{3, {1, 3, 4}}));
  CHECK(l.run->setTensorAddress("x", x) && l.run->setTensorAddress("y", y));
  for (int i = 1; i <= 4; ++i) CHECK(l.run->enqueueV3(static_cast<cudaStream_t>(stream)) == (i % 2 == 1));
}

// Without a device the factories give back something that is neither null nor an object.
static void no_device() {
  CHECK(reinterpret_cast<uintptr_t>(createInferRuntime_INTERNAL(&logger, NV_TENSORRT_VERSION)) == 0x228);
  CHECK(reinterpret_cast<uintptr_t>(createInferBuilder_INTERNAL(&logger, NV_TENSORRT_VERSION)) == 0x228);
  CHECK(logger.has("error: 35"));
  CHECK(!createInferRuntime_INTERNAL(&logger, 100400));
}

static Case const cases[] = {
#define CASE(name) {#name, name}
    CASE(computes_means),       CASE(engine_says_what_it_is),    CASE(order_of_calls_matters),
    CASE(contexts_run_once_at_a_time), CASE(contexts_share_scratch_memory), CASE(plans_are_checked),  CASE(plans_are_for_one_device),
    CASE(networks_are_checked), CASE(builds_take_time_and_stop), CASE(enqueues_fail),
    CASE(no_device),
};

int main(int argc, char** argv) { return run_cases(cases, argc, argv); }
