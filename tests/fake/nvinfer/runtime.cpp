// The runtime's half: plans become engines, engines make contexts, contexts enqueue the fixed function.
#include "library.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>

namespace fake {

// What TensorRT asks of an address: https://docs.nvidia.com/deeplearning/tensorrt/ (setTensorAddress)
static uintptr_t const ALIGNMENT = 256;
// Stands for the weights that the real library puts on the device.
static size_t const WEIGHT_BYTES = 64 << 10;

// Device memory of an engine or a context.
struct DeviceMemory {
  void* address = nullptr;
  bool allocate(size_t bytes) { return bytes == 0 || driver()->cuMemAlloc_v2(&address, bytes) == 0; }
  ~DeviceMemory() {
    if (address) driver()->cuMemFree_v2(address);
  }
};

static float half_to_float(uint16_t h) {
  int exponent = h >> 10 & 31, fraction = h & 1023;
  float value = exponent == 0    ? std::ldexp(static_cast<float>(fraction), -24)
                : exponent == 31 ? (fraction ? NAN : INFINITY)
                                 : std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
  return h & 0x8000 ? -value : value;
}

static double load(DataType type, void const* base, size_t index) {
  auto at = [&](auto kind) {
    memcpy(&kind, static_cast<char const*>(base) + index * sizeof kind, sizeof kind);
    return kind;
  };
  switch (type) {
    case DataType::kFLOAT: return static_cast<double>(at(float{}));
    case DataType::kHALF: return static_cast<double>(half_to_float(at(uint16_t{})));
    case DataType::kINT8: return at(int8_t{});
    case DataType::kUINT8: case DataType::kBOOL: return at(uint8_t{});
    case DataType::kINT32: return at(int32_t{});
    case DataType::kINT64: return static_cast<double>(at(int64_t{}));
    default: abort();  // refused when the engine was made
  }
}

static void store(DataType type, void* base, size_t index, double value) {
  if (type == DataType::kFLOAT) {
    static_cast<float*>(base)[index] = static_cast<float>(value);
  } else {
    static_cast<_Float16*>(base)[index] = static_cast<_Float16>(value);
  }
}

static bool can_load(DataType type) { return bytes_of(type) != 0 && type != DataType::kBF16; }
static bool can_store(DataType type) { return type == DataType::kFLOAT || type == DataType::kHALF; }

// One enqueued run; a graph runs it again.
struct Job {
  std::vector<Bound> inputs, outputs;
  void* memory;
  size_t memory_bytes;
  long nan_row;
  bool copy;
  void const* context;
};

static size_t rows_of(Bound const& t, int64_t batch) {
  return t.shape.nbDims > 0 && t.shape.d[0] == batch ? static_cast<size_t>(batch) : 1;
}

// The outputs, one after another, of the inputs as they are now.
static std::vector<double> evaluate(Job const& job) {
  int64_t batch = job.inputs[0].shape.nbDims > 0 ? job.inputs[0].shape.d[0] : 1;
  // Where each input's rows end in a row of all inputs, one after another.
  std::vector<size_t> ends;
  size_t length = 0;
  for (Bound const& t : job.inputs) {
    ends.push_back(length += static_cast<size_t>(volume(t.shape)) / rows_of(t, batch));
  }
  std::vector<double> values;
  for (Bound const& output : job.outputs) {
    size_t rows = rows_of(output, batch), columns = static_cast<size_t>(volume(output.shape)) / rows;
    for (size_t row = 0; row < rows; ++row) {
      for (size_t k = 0; job.copy && k < columns; ++k) {
        Bound const& input = job.inputs[0];
        size_t own = static_cast<size_t>(volume(input.shape)) / rows_of(input, batch);
        values.push_back(load(input.type, input.address, (rows_of(input, batch) > 1 ? row * own : 0) + k * (own / columns)));
      }
      for (size_t k = 0; !job.copy && k < columns; ++k) {
        size_t begin = k * length / columns, end = std::max(begin + 1, (k + 1) * length / columns);
        double sum = 0;
        for (size_t i = begin; i < end; ++i) {
          size_t which = static_cast<size_t>(std::upper_bound(ends.begin(), ends.end(), i) - ends.begin());
          Bound const& input = job.inputs[which];
          size_t start = which ? ends[which - 1] : 0, own = ends[which] - start;
          sum += load(input.type, input.address, (rows_of(input, batch) > 1 ? row * own : 0) + i - start);
        }
        bool nan = static_cast<long>(row) == job.nan_row;
        values.push_back(nan ? static_cast<double>(NAN) : sum / static_cast<double>(end - begin));
      }
    }
  }
  return values;
}

static void compute(Job const& job) {
  auto touch = driver()->visordFakeCudaTouch;
  for (auto const* list : {&job.inputs, &job.outputs}) {
    for (Bound const& t : *list) {
      if (touch(t.address, t.bytes())) return;
    }
  }
  if (touch(job.memory, job.memory_bytes)) return;
  // The context's scratch memory is written, so that its use after its end can show.
  if (job.memory) memset(job.memory, 0x5a, job.memory_bytes);
  std::vector<double> values = evaluate(job);
  if (long wait = setting("COMPUTE_MICROSECONDS", 0)) {
    std::this_thread::sleep_for(std::chrono::microseconds(wait));
    // As a kernel that takes that long, it reads all the while.
    std::vector<double> again = evaluate(job);
    if (memcmp(values.data(), again.data(), values.size() * sizeof(double)) != 0) {
      fprintf(stderr, "fake nvinfer: an input was written while the engine read it\n");
      touch(nullptr, 1);
      return;
    }
  }
  auto next = values.begin();
  for (Bound const& output : job.outputs) {
    for (size_t i = 0; i < static_cast<size_t>(volume(output.shape)); ++i) store(output.type, output.address, i, *next++);
  }
}

// Contexts and scratch memory that are in use: each serves one run at a time, which the real library leaves to its user.
struct InUse {
  std::mutex mutex;
  std::multiset<void const*> running;
};
static InUse& in_use() {
  static InUse* const only = new InUse;
  return *only;
}

static void run(void* argument) {
  Job const& job = *static_cast<Job*>(argument);
  std::vector<void const*> taken{job.context};
  if (job.memory) taken.push_back(job.memory);
  {
    std::lock_guard<std::mutex> guard(in_use().mutex);
    for (void const* t : taken) {
      if (in_use().running.count(t)) {
        fprintf(stderr, "fake nvinfer: two runs of one context, or in one scratch memory, at the same time\n");
        driver()->visordFakeCudaTouch(nullptr, 1);
        return;
      }
    }
    in_use().running.insert(taken.begin(), taken.end());
  }
  compute(job);
  std::lock_guard<std::mutex> guard(in_use().mutex);
  for (void const* t : taken) in_use().running.erase(t);
}

static void release(void* argument) { delete static_cast<Job*>(argument); }

struct EngineImpl;

struct ContextImpl final : VExecutionContextBase {
  EngineImpl const* engine;
  ICudaEngine const* outer;
  Voice voice;
  DeviceMemory own, work;
  bool user_managed = false;
  void* memory = nullptr;
  size_t memory_bytes = 0;
  int32_t profile = 0;
  bool changed = true;  // a shape or the profile, since the last enqueue outside a capture
  std::map<std::string, Dims> shapes;
  std::map<std::string, void*> addresses;
  std::string name;

  bool fail(ErrorCode code, std::string const& text) const noexcept {
    voice.error(code, "IExecutionContext::" + text);
    return false;
  }
  Tensor const* input(char const* n) const noexcept;
  Tensor const* output(char const* n) const noexcept;
  Dims shape_of(Tensor const& input) const noexcept;

  ICudaEngine const& getEngine() const noexcept override { return *outer; }
  void setName(char const* n) noexcept override { name = n; }
  char const* getName() const noexcept override { return name.c_str(); }
  void setErrorRecorder(IErrorRecorder* r) noexcept override { voice.recorder = r; }
  IErrorRecorder* getErrorRecorder() const noexcept override { return voice.recorder; }
  int32_t getOptimizationProfile() const noexcept override { return profile; }
  bool setNvtxVerbosity(ProfilingVerbosity) noexcept override { return true; }
  void setEnqueueEmitsProfile(bool) noexcept override {}
  void setDeviceMemoryV2(void* address, int64_t bytes) noexcept override;
  bool setOptimizationProfileAsync(int32_t index, cudaStream_t stream) noexcept override;
  bool setInputShape(char const* n, Dims const& shape) noexcept override;
  Dims getTensorShape(char const* n) const noexcept override;
  bool allInputDimensionsSpecified() const noexcept override;
  int32_t inferShapes(int32_t count, char const** names) noexcept override;
  bool setTensorAddress(char const* n, void* address) noexcept override;
  bool setInputTensorAddress(char const* n, void const* address) noexcept override {
    return input(n) ? setTensorAddress(n, const_cast<void*>(address)) : fail(ErrorCode::kINVALID_ARGUMENT, "setInputTensorAddress: no such input");
  }
  bool setOutputTensorAddress(char const* n, void* address) noexcept override {
    return output(n) ? setTensorAddress(n, address) : fail(ErrorCode::kINVALID_ARGUMENT, "setOutputTensorAddress: no such output");
  }
  void const* getTensorAddress(char const* n) const noexcept override {
    auto found = addresses.find(n);
    return found == addresses.end() ? nullptr : found->second;
  }
  bool enqueueV3(cudaStream_t stream) noexcept override;
};

struct Context final : IExecutionContext {
  ContextImpl impl;
  Context() { mImpl = &impl; }
};

struct EngineImpl final : VCudaEngineBase {
  Plan plan;
  Voice voice;
  ICudaEngine* outer = nullptr;
  DeviceMemory weights;

  Tensor const* tensor(char const* n) const noexcept {
    for (auto const* list : {&plan.inputs, &plan.outputs}) {
      for (Tensor const& t : *list) {
        if (n && t.name == n) return &t;
      }
    }
    voice.error(ErrorCode::kINVALID_ARGUMENT, std::string("ICudaEngine: no input or output is called ") + (n ? n : "(null)"));
    return nullptr;
  }
  size_t input_index(Tensor const& t) const noexcept { return static_cast<size_t>(&t - plan.inputs.data()); }
  bool is_input(Tensor const& t) const noexcept {
    return std::any_of(plan.inputs.begin(), plan.inputs.end(), [&](Tensor const& i) { return &i == &t; });
  }
  int64_t memory_bytes() const noexcept { return setting("DEVICE_MEMORY_BYTES", 1 << 20); }

  int32_t getNbIOTensors() const noexcept override { return static_cast<int32_t>(plan.inputs.size() + plan.outputs.size()); }
  char const* getIOTensorName(int32_t index) const noexcept override {
    if (index < 0 || index >= getNbIOTensors()) return nullptr;
    size_t i = static_cast<size_t>(index), inputs = plan.inputs.size();
    return i < inputs ? plan.inputs[i].name.c_str() : plan.outputs[i - inputs].name.c_str();
  }
  Dims getTensorShape(char const* n) const noexcept override {
    Tensor const* t = tensor(n);
    return t ? t->shape : Dims{-1, {}};
  }
  DataType getTensorDataType(char const* n) const noexcept override {
    Tensor const* t = tensor(n);
    return t ? t->type : DataType::kFLOAT;
  }
  TensorIOMode getTensorIOMode(char const* n) const noexcept override {
    Tensor const* t = tensor(n);
    return !t ? TensorIOMode::kNONE : is_input(*t) ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
  }
  TensorLocation getTensorLocation(char const*) const noexcept override { return TensorLocation::kDEVICE; }
  TensorFormat getTensorFormat(char const*) const noexcept override { return TensorFormat::kLINEAR; }
  TensorFormat getTensorFormatV2(char const*, int32_t) const noexcept override { return TensorFormat::kLINEAR; }
  bool isShapeInferenceIO(char const*) const noexcept override { return false; }
  int32_t getNbOptimizationProfiles() const noexcept override { return static_cast<int32_t>(plan.profiles.size()); }
  Dims getProfileShape(char const* n, int32_t profile, OptProfileSelector which) const noexcept override {
    Tensor const* t = tensor(n);
    if (!t || !is_input(*t) || profile < 0 || profile >= getNbOptimizationProfiles()) return Dims{-1, {}};
    Range const& r = plan.profiles[static_cast<size_t>(profile)][input_index(*t)];
    return which == OptProfileSelector::kMIN ? r.min : which == OptProfileSelector::kOPT ? r.opt : r.max;
  }
  int64_t getDeviceMemorySizeV2() const noexcept override { return memory_bytes(); }
  int64_t getDeviceMemorySizeForProfileV2(int32_t) const noexcept override { return memory_bytes(); }
  HardwareCompatibilityLevel getHardwareCompatibilityLevel() const noexcept override {
    return plan.hardware_compatible ? HardwareCompatibilityLevel::kSAME_COMPUTE_CAPABILITY : HardwareCompatibilityLevel::kNONE;
  }
  char const* getName() const noexcept override { return on_a_real_driver() ? "visord stub engine, not a network" : "fake"; }
  int32_t getNbLayers() const noexcept override { return 1; }
  int32_t getNbAuxStreams() const noexcept override { return 0; }
  bool isRefittable() const noexcept override { return false; }
  void setErrorRecorder(IErrorRecorder* r) noexcept override { voice.recorder = r; }
  IErrorRecorder* getErrorRecorder() const noexcept override { return voice.recorder; }
  IExecutionContext* createExecutionContext(ExecutionContextAllocationStrategy strategy) noexcept override {
    auto made = std::make_unique<Context>();
    ContextImpl& c = made->impl;
    c.engine = this;
    c.outer = outer;
    c.voice = voice;
    c.user_managed = strategy == ExecutionContextAllocationStrategy::kUSER_MANAGED;
    if (!c.user_managed) {
      c.memory_bytes = static_cast<size_t>(memory_bytes());
      if (!c.own.allocate(c.memory_bytes)) {
        voice.error(ErrorCode::kFAILED_ALLOCATION, "ICudaEngine::createExecutionContext: out of memory, " +
                                                       std::to_string(c.memory_bytes) + " bytes were asked for");
        return nullptr;
      }
      c.memory = c.own.address;
    }
    if (on_a_real_driver() && stub_passes() > 0 && !c.work.allocate(STUB_WORK_BYTES)) {
      voice.error(ErrorCode::kFAILED_ALLOCATION, "ICudaEngine::createExecutionContext: out of memory for the stub's work");
      return nullptr;
    }
    return made.release();
  }
};

struct Engine final : ICudaEngine {
  EngineImpl impl;
  Engine() {
    mImpl = &impl;
    impl.outer = this;
  }
};

Tensor const* ContextImpl::input(char const* n) const noexcept {
  auto found = std::find_if(engine->plan.inputs.begin(), engine->plan.inputs.end(), [&](Tensor const& t) { return n && t.name == n; });
  return found == engine->plan.inputs.end() ? nullptr : &*found;
}

Tensor const* ContextImpl::output(char const* n) const noexcept {
  auto found = std::find_if(engine->plan.outputs.begin(), engine->plan.outputs.end(), [&](Tensor const& t) { return n && t.name == n; });
  return found == engine->plan.outputs.end() ? nullptr : &*found;
}

Dims ContextImpl::shape_of(Tensor const& t) const noexcept {
  auto found = shapes.find(t.name);
  return found == shapes.end() ? t.shape : found->second;
}

void ContextImpl::setDeviceMemoryV2(void* address, int64_t bytes) noexcept {
  if (!user_managed) {
    fail(ErrorCode::kINVALID_STATE, "setDeviceMemoryV2: the context has memory of its own");
  } else if (reinterpret_cast<uintptr_t>(address) % ALIGNMENT || bytes < engine->memory_bytes()) {
    fail(ErrorCode::kINVALID_ARGUMENT, "setDeviceMemoryV2: " + std::to_string(engine->memory_bytes()) +
                                           " bytes are needed, aligned to 256; " + std::to_string(bytes) + " were given");
  } else {
    memory = address;
    memory_bytes = static_cast<size_t>(engine->memory_bytes());
  }
}

bool ContextImpl::setOptimizationProfileAsync(int32_t index, cudaStream_t stream) noexcept {
  if (index < 0 || index >= engine->getNbOptimizationProfiles()) {
    return fail(ErrorCode::kINVALID_ARGUMENT, "setOptimizationProfileAsync: no profile " + std::to_string(index));
  }
  int capturing = 0;
  if (driver()->cuStreamIsCapturing(stream, &capturing)) return fail(ErrorCode::kINVALID_ARGUMENT, "setOptimizationProfileAsync: bad stream");
  if (capturing) return fail(ErrorCode::kINVALID_STATE, "setOptimizationProfileAsync: the stream is being captured");
  if (index != profile) {
    profile = index;
    shapes.clear();
    changed = true;
  }
  return true;
}

bool ContextImpl::setInputShape(char const* n, Dims const& shape) noexcept {
  Tensor const* t = input(n);
  if (!t) return fail(ErrorCode::kINVALID_ARGUMENT, std::string("setInputShape: no input is called ") + (n ? n : "(null)"));
  Range const& range = engine->plan.profiles[static_cast<size_t>(profile)][engine->input_index(*t)];
  bool fits = shape.nbDims == t->shape.nbDims;
  for (int32_t i = 0; fits && i < shape.nbDims; ++i) fits = shape.d[i] >= range.min.d[i] && shape.d[i] <= range.max.d[i];
  if (!fits) {
    return fail(ErrorCode::kINVALID_ARGUMENT, "setInputShape: Static dimension mismatch or shape out of profile " + std::to_string(profile) +
                                                  " for " + t->name + ": " + text_of(shape) + " is not between " + text_of(range.min) +
                                                  " and " + text_of(range.max));
  }
  changed = changed || !same(shape_of(*t), shape);
  shapes[t->name] = shape;
  return true;
}

Dims ContextImpl::getTensorShape(char const* n) const noexcept {
  if (Tensor const* t = input(n)) return shape_of(*t);
  Tensor const* t = output(n);
  if (!t) return Dims{-1, {}};
  Dims shape = t->shape;
  if (shape.nbDims > 0 && shape.d[0] < 0 && !engine->plan.inputs.empty()) {
    Dims first = shape_of(engine->plan.inputs[0]);
    if (first.nbDims > 0) shape.d[0] = first.d[0];
  }
  return shape;
}

bool ContextImpl::allInputDimensionsSpecified() const noexcept {
  return std::all_of(engine->plan.inputs.begin(), engine->plan.inputs.end(), [&](Tensor const& t) { return volume(shape_of(t)) >= 0; });
}

int32_t ContextImpl::inferShapes(int32_t count, char const** names) noexcept {
  int32_t unknown = 0;
  for (Tensor const& t : engine->plan.inputs) {
    if (volume(shape_of(t)) >= 0) continue;
    if (names && unknown < count) names[unknown] = t.name.c_str();
    ++unknown;
  }
  return unknown;
}

bool ContextImpl::setTensorAddress(char const* n, void* address) noexcept {
  Tensor const* in = input(n);
  Tensor const* t = in ? in : output(n);
  if (!t) return fail(ErrorCode::kINVALID_ARGUMENT, std::string("setTensorAddress: no input or output is called ") + (n ? n : "(null)"));
  if (reinterpret_cast<uintptr_t>(address) % ALIGNMENT) {
    return fail(ErrorCode::kINVALID_ARGUMENT, "setTensorAddress: the address of " + t->name + " is not aligned to 256 bytes");
  }
  addresses[t->name] = address;
  return true;
}

static std::atomic<long> enqueued{0};

bool ContextImpl::enqueueV3(cudaStream_t stream) noexcept {
  long every = setting("FAIL_ENQUEUE_EVERY", 0);
  if (++enqueued && every > 0 && enqueued % every == 0) return fail(ErrorCode::kFAILED_EXECUTION, "enqueueV3: failed because a test asked for it");
  if (user_managed && !memory && engine->memory_bytes() > 0) {
    return fail(ErrorCode::kINVALID_STATE, "enqueueV3: the context was given no device memory");
  }
  auto job = std::make_unique<Job>();
  for (auto const* list : {&engine->plan.inputs, &engine->plan.outputs}) {
    for (Tensor const& t : *list) {
      Dims shape = getTensorShape(t.name.c_str());
      if (volume(shape) < 0) {
        return fail(ErrorCode::kINVALID_STATE, "enqueueV3: the shape of " + t.name + " is not set: " + text_of(shape));
      }
      void* address = const_cast<void*>(getTensorAddress(t.name.c_str()));
      if (!address) return fail(ErrorCode::kINVALID_STATE, "enqueueV3: the address of " + t.name + " is not set");
      (list == &engine->plan.inputs ? job->inputs : job->outputs).push_back({t.type, shape, address});
    }
  }
  int capturing = 0;
  if (driver()->cuStreamIsCapturing(stream, &capturing)) return fail(ErrorCode::kINVALID_ARGUMENT, "enqueueV3: bad stream");
  if (capturing && changed) {
    return fail(ErrorCode::kINVALID_STATE, "enqueueV3: a shape or the profile changed: enqueue once before a capture");
  }
  if (on_a_real_driver()) {
    std::string refused = enqueue_stub(job->inputs, job->outputs, work.address, stream);
    if (!refused.empty()) return fail(ErrorCode::kFAILED_EXECUTION, "enqueueV3: " + refused);
    if (!capturing) changed = false;
    return true;
  }
  char const* function = getenv("VISORD_FAKE_NVINFER_FUNCTION");
  job->copy = function && strcmp(function, "copy") == 0;
  job->memory = memory;
  job->memory_bytes = memory_bytes;
  job->nan_row = setting("NAN_ROW", -1);
  job->context = this;
  if (int code = driver()->visordFakeCudaEnqueue(stream, run, job.release(), release)) {
    return fail(ErrorCode::kFAILED_EXECUTION, "enqueueV3: Cuda failure " + std::to_string(code));
  }
  if (!capturing) changed = false;
  return true;
}

struct RuntimeImpl final : VRuntimeBase {
  Voice voice;
  void setErrorRecorder(IErrorRecorder* r) noexcept override { voice.recorder = r; }
  IErrorRecorder* getErrorRecorder() const noexcept override { return voice.recorder; }
  ILogger* getLogger() const noexcept override { return voice.logger; }
  bool setMaxThreads(int32_t) noexcept override { return true; }
  void setEngineHostCodeAllowed(bool) noexcept override {}
  ICudaEngine* deserializeCudaEngine(void const* blob, std::size_t size) noexcept override {
    auto fail = [&](ErrorCode code, std::string const& text) {
      voice.error(code, "IRuntime::deserializeCudaEngine: " + text);
      return nullptr;
    };
    if (setting("FAIL_DESERIALIZE", 0)) return fail(ErrorCode::kFAILED_EXECUTION, "failed because a test asked for it");
    auto made = std::make_unique<Engine>();
    std::string error;
    Plan& plan = made->impl.plan;
    if (!blob || !read_plan(blob, size, plan, error)) return fail(ErrorCode::kINVALID_ARGUMENT, error);
    int here = current_compute_capability();
    if (plan.compute_capability != here && !(plan.hardware_compatible && plan.compute_capability < here)) {
      return fail(ErrorCode::kINVALID_CONFIG, "The engine plan file is generated on an incompatible device, expecting compute " +
                                                  std::to_string(here / 10) + "." + std::to_string(here % 10) + " got compute " +
                                                  std::to_string(plan.compute_capability / 10) + "." +
                                                  std::to_string(plan.compute_capability % 10));
    }
    bool loads = !plan.inputs.empty() && std::all_of(plan.inputs.begin(), plan.inputs.end(), [](Tensor const& t) { return can_load(t.type); });
    bool stores = std::all_of(plan.outputs.begin(), plan.outputs.end(), [](Tensor const& t) { return can_store(t.type); });
    if (!loads || !stores) return fail(ErrorCode::kINVALID_CONFIG, "the fake reads FP32, FP16, integers and BOOL, and writes FP32 and FP16");
    if (!made->impl.weights.allocate(WEIGHT_BYTES)) return fail(ErrorCode::kFAILED_ALLOCATION, "out of memory for the weights");
    made->impl.voice = voice;
    return made.release();
  }
};

struct Runtime final : IRuntime {
  RuntimeImpl impl;
  explicit Runtime(ILogger* logger) {
    impl.voice.logger = logger;
    mImpl = &impl;
  }
};

}  // namespace fake

using namespace fake;

EXPORT void* createInferRuntime_INTERNAL(void* logger, int32_t version) noexcept {
  auto* log = static_cast<ILogger*>(logger);
  if (version / 10000 != NV_TENSORRT_MAJOR) {
    log->log(ILogger::Severity::kERROR, "the headers are of another major version than the library");
    return nullptr;
  }
  if (!driver()) {
    log->log(ILogger::Severity::kERROR, "CUDA initialization failure with error: 35");
    return reinterpret_cast<void*>(0x228);  // as the real one: not null, and no object
  }
  if (on_a_real_driver()) {
    log->log(ILogger::Severity::kWARNING, "this libnvinfer is visord's STUB ENGINE: it copies values of its input and computes no network");
  }
  return static_cast<IRuntime*>(new Runtime(log));
}
