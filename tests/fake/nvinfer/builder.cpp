// The builder's half: networks as a list of inputs and outputs, profiles, options, plans.
#include "library.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <memory>
#include <thread>

namespace fake {

struct MemoryImpl final : VHostMemoryBase {
  std::string bytes;
  void* data() const noexcept override { return const_cast<char*>(bytes.data()); }
  std::size_t size() const noexcept override { return bytes.size(); }
  DataType type() const noexcept override { return DataType::kINT8; }
};

struct Memory final : IHostMemory {
  MemoryImpl impl;
  explicit Memory(std::string bytes) {
    impl.bytes = std::move(bytes);
    mImpl = &impl;
  }
};

struct TensorImpl final : VTensorBase {
  Tensor tensor;
  bool input = false;
  void setName(char const* name) noexcept override { tensor.name = name; }
  char const* getName() const noexcept override { return tensor.name.c_str(); }
  void setDimensions(Dims const& shape) noexcept override { tensor.shape = shape; }
  Dims getDimensions() const noexcept override { return tensor.shape; }
  DataType getType() const noexcept override { return tensor.type; }
  bool isNetworkInput() const noexcept override { return input; }
  bool isNetworkOutput() const noexcept override { return !input; }
  bool isShapeTensor() const noexcept override { return false; }
  bool isExecutionTensor() const noexcept override { return true; }
  TensorLocation getLocation() const noexcept override { return TensorLocation::kDEVICE; }
  TensorFormats getAllowedFormats() const noexcept override { return 1; }
  void setAllowedFormats(TensorFormats) noexcept override {}
};

struct NetworkTensor final : ITensor {
  TensorImpl impl;
  NetworkTensor(Tensor tensor, bool input) {
    impl.tensor = std::move(tensor);
    impl.input = input;
    mImpl = &impl;
  }
};

using Tensors = std::vector<std::unique_ptr<NetworkTensor>>;

struct NetworkImpl final : VNetworkDefinitionBase {
  Tensors inputs, outputs;
  NetworkDefinitionCreationFlags flags = 0;
  IErrorRecorder* recorder = nullptr;
  std::string name;

  static ITensor* at(Tensors const& list, int32_t index) noexcept {
    return index >= 0 && index < static_cast<int32_t>(list.size()) ? list[static_cast<size_t>(index)].get() : nullptr;
  }
  ITensor* addInput(char const* n, DataType type, Dims const& shape) noexcept override {
    inputs.push_back(std::make_unique<NetworkTensor>(Tensor{n, type, shape}, true));
    return inputs.back().get();
  }
  int32_t getNbInputs() const noexcept override { return static_cast<int32_t>(inputs.size()); }
  ITensor* getInput(int32_t index) const noexcept override { return at(inputs, index); }
  int32_t getNbOutputs() const noexcept override { return static_cast<int32_t>(outputs.size()); }
  ITensor* getOutput(int32_t index) const noexcept override { return at(outputs, index); }
  int32_t getNbLayers() const noexcept override { return 0; }
  void setName(char const* n) noexcept override { name = n; }
  char const* getName() const noexcept override { return name.c_str(); }
  void setErrorRecorder(IErrorRecorder* r) noexcept override { recorder = r; }
  IErrorRecorder* getErrorRecorder() const noexcept override { return recorder; }
  NetworkDefinitionCreationFlags getFlags() const noexcept override { return flags; }
  bool getFlag(NetworkDefinitionCreationFlag flag) const noexcept override {
    return flags >> static_cast<uint32_t>(flag) & 1;
  }
  bool hasImplicitBatchDimension() const noexcept override { return false; }
};

struct Network final : INetworkDefinition {
  NetworkImpl impl;
  explicit Network(NetworkDefinitionCreationFlags flags) {
    impl.flags = flags;
    mImpl = &impl;
  }
};

struct ProfileImpl final : VOptimizationProfileBase {
  std::map<std::string, Range> ranges;
  Dims& side(Range& range, OptProfileSelector which) const noexcept {
    return which == OptProfileSelector::kMIN ? range.min : which == OptProfileSelector::kOPT ? range.opt : range.max;
  }
  bool setDimensions(char const* name, OptProfileSelector which, Dims const& shape) noexcept override {
    if (shape.nbDims < 0 || volume(shape) < 0) return false;
    Dims const unset{-1, {}};
    auto& range = ranges.emplace(name, Range{unset, unset, unset}).first->second;
    side(range, which) = shape;
    return true;
  }
  Dims getDimensions(char const* name, OptProfileSelector which) const noexcept override {
    auto found = ranges.find(name);
    if (found == ranges.end()) return Dims{-1, {}};
    Range range = found->second;
    return side(range, which);
  }
  bool isValid() const noexcept override {
    return std::all_of(ranges.begin(), ranges.end(), [](auto const& named) {
      Range const& r = named.second;
      if (r.min.nbDims < 0 || r.min.nbDims != r.opt.nbDims || r.opt.nbDims != r.max.nbDims) return false;
      for (int32_t i = 0; i < r.min.nbDims; ++i) {
        if (r.min.d[i] > r.opt.d[i] || r.opt.d[i] > r.max.d[i]) return false;
      }
      return true;
    });
  }
};

struct Profile final : IOptimizationProfile {
  ProfileImpl impl;
  Profile() { mImpl = &impl; }
};

static char const TIMING[] = "visord-fake-timing-cache";

struct TimingImpl final : VTimingCacheBase {
  int64_t builds = 0;
  IHostMemory* serialize() const noexcept override { return new Memory(std::string(TIMING) + ' ' + std::to_string(builds)); }
  bool combine(ITimingCache const&, bool) noexcept override { return true; }
  bool reset() noexcept override {
    builds = 0;
    return true;
  }
};

struct Timing final : ITimingCache {
  TimingImpl impl;
  Timing() { mImpl = &impl; }
};

struct ConfigImpl final : VBuilderConfigBase {
  Voice const* voice = nullptr;
  BuilderFlags flags = 1u << static_cast<uint32_t>(BuilderFlag::kTF32);
  std::map<MemoryPoolType, std::size_t> pools;
  int32_t level = 3;
  HardwareCompatibilityLevel compatibility = HardwareCompatibilityLevel::kNONE;
  ProfilingVerbosity verbosity = ProfilingVerbosity::kLAYER_NAMES_ONLY;
  std::vector<ProfileImpl> profiles;
  IProgressMonitor* monitor = nullptr;
  Timing cache;
  bool has_cache = false;
  cudaStream_t stream = nullptr;

  void setFlags(BuilderFlags f) noexcept override { flags = f; }
  BuilderFlags getFlags() const noexcept override { return flags; }
  void setFlag(BuilderFlag f) noexcept override { flags |= 1u << static_cast<uint32_t>(f); }
  void clearFlag(BuilderFlag f) noexcept override { flags &= ~(1u << static_cast<uint32_t>(f)); }
  bool getFlag(BuilderFlag f) const noexcept override { return flags >> static_cast<uint32_t>(f) & 1; }
  void setMemoryPoolLimit(MemoryPoolType pool, std::size_t bytes) noexcept override { pools[pool] = bytes; }
  std::size_t getMemoryPoolLimit(MemoryPoolType pool) const noexcept override {
    auto found = pools.find(pool);
    return found == pools.end() ? std::size_t{16} << 30 : found->second;
  }
  void setBuilderOptimizationLevel(int32_t l) noexcept override {
    if (l < 0 || l > 5) voice->error(ErrorCode::kINVALID_ARGUMENT, "the optimization level must be in 0..5");
    level = l;
  }
  int32_t getBuilderOptimizationLevel() const noexcept override { return level; }
  void setHardwareCompatibilityLevel(HardwareCompatibilityLevel l) noexcept override { compatibility = l; }
  HardwareCompatibilityLevel getHardwareCompatibilityLevel() const noexcept override { return compatibility; }
  void setProfilingVerbosity(ProfilingVerbosity v) noexcept override { verbosity = v; }
  ProfilingVerbosity getProfilingVerbosity() const noexcept override { return verbosity; }
  bool setMaxAuxStreams(int32_t) noexcept override { return true; }
  void setProfileStream(cudaStream_t const s) noexcept override { stream = s; }
  cudaStream_t getProfileStream() const noexcept override { return stream; }
  void setProgressMonitor(IProgressMonitor* m) noexcept override { monitor = m; }
  IProgressMonitor* getProgressMonitor() const noexcept override { return monitor; }
  int32_t addOptimizationProfile(IOptimizationProfile const* profile) noexcept override {
    ProfileImpl const& added = static_cast<Profile const*>(profile)->impl;
    if (!added.isValid()) return -1;
    profiles.push_back(added);
    return static_cast<int32_t>(profiles.size()) - 1;
  }
  int32_t getNbOptimizationProfiles() const noexcept override { return static_cast<int32_t>(profiles.size()); }
  ITimingCache* createTimingCache(void const* blob, std::size_t size) const noexcept override {
    auto made = std::make_unique<Timing>();
    if (size > 0) {
      std::string text(static_cast<char const*>(blob), size);
      if (text.rfind(TIMING, 0) != 0) {
        voice->error(ErrorCode::kINVALID_ARGUMENT, "the timing cache was not written by this version");
        return nullptr;
      }
      made->impl.builds = strtoll(text.c_str() + strlen(TIMING), nullptr, 10);
    }
    return made.release();
  }
  bool setTimingCache(ITimingCache const& given, bool) noexcept override {
    cache.impl.builds = static_cast<Timing const&>(given).impl.builds;
    return has_cache = true;
  }
  ITimingCache const* getTimingCache() const noexcept override { return has_cache ? &cache : nullptr; }
};

struct Config final : IBuilderConfig {
  ConfigImpl impl;
  explicit Config(Voice const* voice) {
    impl.voice = voice;
    mImpl = &impl;
  }
};

// The range of every input in one profile; a fixed shape needs none.
static bool ranges_of(Plan const& plan, ProfileImpl const* profile, std::vector<Range>& ranges, std::string& error) {
  for (Tensor const& input : plan.inputs) {
    auto found = profile ? profile->ranges.find(input.name) : std::map<std::string, Range>::const_iterator{};
    bool given = profile && found != profile->ranges.end();
    if (!given && volume(input.shape) < 0) {
      error = "Network has dynamic or shape inputs, but no optimization profile has been defined for " + input.name;
      return false;
    }
    Range range = given ? found->second : Range{input.shape, input.shape, input.shape};
    for (Dims const* shape : {&range.min, &range.opt, &range.max}) {
      bool fits = shape->nbDims == input.shape.nbDims;
      for (int32_t i = 0; fits && i < shape->nbDims; ++i) fits = input.shape.d[i] < 0 || input.shape.d[i] == shape->d[i];
      if (!fits) {
        error = "profile shape " + text_of(*shape) + " of input " + input.name + " does not fit " + text_of(input.shape);
        return false;
      }
    }
    ranges.push_back(range);
  }
  if (profile) {
    for (auto const& [name, range] : profile->ranges) {
      if (std::none_of(plan.inputs.begin(), plan.inputs.end(), [&](Tensor const& t) { return t.name == name; })) {
        error = "the profile names " + name + ", which is no input of the network";
        return false;
      }
    }
  }
  return true;
}

// Shows progress for VISORD_FAKE_NVINFER_BUILD_MILLISECONDS; false where the monitor stops it.
static bool take_time(IProgressMonitor* monitor) {
  constexpr int32_t STEPS = 10;
  char const *outer = "Building Engine", *inner = "Tactic Timing";
  auto step = std::chrono::milliseconds(setting("BUILD_MILLISECONDS", 0)) / STEPS;
  bool on = true;
  if (monitor) {
    monitor->phaseStart(outer, nullptr, 1);
    monitor->phaseStart(inner, outer, STEPS);
  }
  for (int32_t i = 0; on && i < STEPS; ++i) {
    std::this_thread::sleep_for(step);
    if (monitor) on = monitor->stepComplete(inner, i);
  }
  if (monitor) {
    monitor->phaseFinish(inner);
    if (on) on = monitor->stepComplete(outer, 0);
    monitor->phaseFinish(outer);
  }
  return on;
}

struct BuilderImpl final : VBuilderBase {
  Voice voice;
  std::vector<std::unique_ptr<Profile>> profiles;

  INetworkDefinition* createNetworkV2(NetworkDefinitionCreationFlags flags) noexcept override { return new Network(flags); }
  IBuilderConfig* createBuilderConfig() noexcept override { return new Config(&voice); }
  IOptimizationProfile* createOptimizationProfile() noexcept override {
    profiles.push_back(std::make_unique<Profile>());
    return profiles.back().get();
  }
  void setErrorRecorder(IErrorRecorder* r) noexcept override { voice.recorder = r; }
  IErrorRecorder* getErrorRecorder() const noexcept override { return voice.recorder; }
  ILogger* getLogger() const noexcept override { return voice.logger; }
  bool setMaxThreads(int32_t) noexcept override { return true; }
  int32_t getMaxThreads() const noexcept override { return 1; }
  void reset() noexcept override {}

  IHostMemory* buildSerializedNetwork(INetworkDefinition& network, IBuilderConfig& config) noexcept override {
    NetworkImpl const& net = static_cast<Network&>(network).impl;
    ConfigImpl& options = static_cast<Config&>(config).impl;
    auto fail = [&](ErrorCode code, std::string const& text) {
      voice.error(code, text);
      return nullptr;
    };
    if (net.outputs.empty()) return fail(ErrorCode::kINVALID_STATE, "Network must have at least one output");
    Plan plan;
    plan.compute_capability = current_compute_capability();
    plan.hardware_compatible = options.compatibility != HardwareCompatibilityLevel::kNONE;
    for (auto const& t : net.inputs) plan.inputs.push_back(t->impl.tensor);
    for (auto const& t : net.outputs) plan.outputs.push_back(t->impl.tensor);
    for (Tensor const& output : plan.outputs) {
      Dims fixed = output.shape;
      if (fixed.nbDims > 0) fixed.d[0] = 1;
      if (volume(fixed) < 0) {
        return fail(ErrorCode::kINVALID_CONFIG, "output " + output.name + " " + text_of(output.shape) +
                                                    ": the fake knows dynamic outputs only in their first dimension");
      }
    }
    std::string error;
    std::vector<ProfileImpl const*> given;
    for (ProfileImpl const& p : options.profiles) given.push_back(&p);
    if (given.empty()) given.push_back(nullptr);
    for (ProfileImpl const* profile : given) {
      std::vector<Range> ranges;
      if (!ranges_of(plan, profile, ranges, error)) return fail(ErrorCode::kINVALID_CONFIG, error);
      plan.profiles.push_back(ranges);
    }
    if (!take_time(options.monitor)) return fail(ErrorCode::kINVALID_STATE, "the build was cancelled by the progress monitor");
    ++options.cache.impl.builds;
    voice.info("fake engine built");
    return new Memory(write_plan(plan));
  }
};

struct Builder final : IBuilder {
  BuilderImpl impl;
  explicit Builder(ILogger* logger) {
    impl.voice.logger = logger;
    mImpl = &impl;
  }
};

}  // namespace fake

using namespace fake;

// What the real factories give back where there is no driver: not null, and no object.
void* const GARBAGE = reinterpret_cast<void*>(0x228);

EXPORT void* createInferBuilder_INTERNAL(void* logger, int32_t version) noexcept {
  auto* log = static_cast<ILogger*>(logger);
  if (version / 10000 != NV_TENSORRT_MAJOR) {
    log->log(ILogger::Severity::kERROR, "the headers are of another major version than the library");
    return nullptr;
  }
  if (!driver()) {
    log->log(ILogger::Severity::kERROR, "CUDA initialization failure with error: 35");
    return GARBAGE;
  }
  return static_cast<IBuilder*>(new Builder(log));
}

/// For the fake parser: an output of the network.
EXPORT void visordFakeNvinferOutput(INetworkDefinition* network, char const* name, DataType type, Dims const* shape) {
  auto& outputs = static_cast<Network*>(network)->impl.outputs;
  outputs.push_back(std::make_unique<NetworkTensor>(Tensor{name, type, *shape}, false));
}
