// Versions, plans as text, the way to the driver.
#include "library.h"

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <random>
#include <sstream>

namespace fake {

void missing(char const* method) noexcept {
  fprintf(stderr, "fake nvinfer: %s is not there\n", method);
  abort();
}

long setting(char const* name, long otherwise) {
  char const* found = getenv((std::string("VISORD_FAKE_NVINFER_") + name).c_str());
  return found && *found ? strtol(found, nullptr, 10) : otherwise;
}

void Voice::error(ErrorCode code, std::string const& text) const noexcept {
  if (recorder) {
    recorder->reportError(code, text.c_str());
  } else if (logger) {
    logger->log(ILogger::Severity::kERROR, text.c_str());
  }
}

void Voice::info(std::string const& text) const noexcept {
  if (logger) logger->log(ILogger::Severity::kINFO, text.c_str());
}

LibraryVersion library_version() {
  LibraryVersion v{NV_TENSORRT_MAJOR, NV_TENSORRT_MINOR, NV_TENSORRT_PATCH, NV_TENSORRT_BUILD};
  if (char const* text = getenv("VISORD_FAKE_NVINFER_VERSION")) {
    v = {0, 0, 0, 0};
    sscanf(text, "%d.%d.%d.%d", &v.major, &v.minor, &v.patch, &v.build);
  }
  return v;
}

static std::string version_text() {
  LibraryVersion v = library_version();
  return std::to_string(v.major) + '.' + std::to_string(v.minor) + '.' + std::to_string(v.patch);
}

size_t bytes_of(DataType type) {
  switch (type) {
    case DataType::kFLOAT: case DataType::kINT32: return 4;
    case DataType::kHALF: case DataType::kBF16: return 2;
    case DataType::kINT8: case DataType::kBOOL: case DataType::kUINT8: return 1;
    case DataType::kINT64: return 8;
    default: return 0;
  }
}

int64_t volume(Dims const& shape) {
  int64_t all = 1;
  for (int32_t i = 0; i < shape.nbDims; ++i) {
    if (shape.d[i] < 0) return -1;
    all *= shape.d[i];
  }
  return all;
}

bool same(Dims const& a, Dims const& b) {
  return a.nbDims == b.nbDims && std::equal(a.d, a.d + std::max(a.nbDims, 0), b.d);
}

std::string text_of(Dims const& shape) {
  std::string out = "[";
  for (int32_t i = 0; i < shape.nbDims; ++i) out += (i ? "," : "") + std::to_string(shape.d[i]);
  return out + "]";
}

static char const MAGIC[] = "visord-fake-plan";

static uint64_t checksum(std::string const& text) {  // FNV-1a
  uint64_t hash = 14695981039346656037u;
  for (unsigned char c : text) hash = (hash ^ c) * 1099511628211u;
  return hash;
}

static std::string escaped(std::string const& name) {
  std::string out;
  for (unsigned char c : name) {
    char hex[4];
    snprintf(hex, sizeof hex, "%%%02x", c);
    out += isalnum(c) ? std::string(1, static_cast<char>(c)) : hex;
  }
  return out;
}

static std::string unescaped(std::string const& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%') {
      out += static_cast<char>(strtol(text.substr(i + 1, 2).c_str(), nullptr, 16));
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

static void put(std::ostream& out, Dims const& shape) {
  out << ' ' << shape.nbDims;
  for (int32_t i = 0; i < shape.nbDims; ++i) out << ' ' << shape.d[i];
}

static bool get(std::istream& in, Dims& shape) {
  if (!(in >> shape.nbDims) || shape.nbDims < 0 || shape.nbDims > Dims::MAX_DIMS) return false;
  for (int32_t i = 0; i < shape.nbDims; ++i) in >> shape.d[i];
  return !in.fail();
}

std::string write_plan(Plan const& plan) {
  std::ostringstream out;
  // Two builds of the same network differ, as the real ones do.
  out << MAGIC << ' ' << version_text() << '\n' << std::random_device{}() << '\n';
  out << plan.compute_capability << ' ' << plan.hardware_compatible << '\n';
  out << plan.inputs.size() << ' ' << plan.outputs.size() << ' ' << plan.profiles.size() << '\n';
  for (auto const* list : {&plan.inputs, &plan.outputs}) {
    for (Tensor const& t : *list) {
      out << escaped(t.name) << ' ' << static_cast<int32_t>(t.type);
      put(out, t.shape);
      out << '\n';
    }
  }
  for (auto const& profile : plan.profiles) {
    for (Range const& r : profile) {
      put(out, r.min);
      put(out, r.opt);
      put(out, r.max);
      out << '\n';
    }
  }
  std::string text = out.str();
  return text + std::to_string(checksum(text)) + '\n';
}

bool read_plan(void const* bytes, size_t size, Plan& plan, std::string& error) {
  std::string text(static_cast<char const*>(bytes), size);
  if (text.rfind(MAGIC, 0) != 0) {
    error = "Serialization assertion stdVersionRead == kSERIALIZATION_VERSION failed: magic tag does not match";
    return false;
  }
  std::istringstream in(text);
  std::string word, version;
  in >> word >> version;
  if (version != version_text()) {
    error = "The engine plan file is not compatible with this version of TensorRT, expecting library version " +
            version_text() + " got " + version;
    return false;
  }
  size_t last = text.size() < 2 ? std::string::npos : text.rfind('\n', text.size() - 2);
  if (last == std::string::npos || text.back() != '\n' ||
      text.substr(last + 1) != std::to_string(checksum(text.substr(0, last + 1))) + '\n') {
    error = "plan.header.size == blobSize failed: the plan is truncated or damaged";
    return false;
  }
  size_t inputs, outputs, profiles;
  in >> word >> plan.compute_capability >> plan.hardware_compatible >> inputs >> outputs >> profiles;
  auto tensors = [&](size_t count, std::vector<Tensor>& list) {
    for (size_t i = 0; i < count; ++i) {
      Tensor t;
      int32_t type;
      in >> word >> type;
      t.name = unescaped(word);
      t.type = static_cast<DataType>(type);
      if (!get(in, t.shape)) return false;
      list.push_back(t);
    }
    return true;
  };
  bool whole = tensors(inputs, plan.inputs) && tensors(outputs, plan.outputs);
  for (size_t p = 0; whole && p < profiles; ++p) {
    std::vector<Range> ranges(inputs);
    for (Range& r : ranges) whole = whole && get(in, r.min) && get(in, r.opt) && get(in, r.max);
    plan.profiles.push_back(ranges);
  }
  if (!whole) error = "the plan cannot be read";
  return whole;
}

static Driver const* open_driver() {
  void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library) return nullptr;
  static Driver found;
  bool whole = true;
  auto find = [&](auto& function, char const* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
    whole = whole && function;
  };
  auto look = [&](auto& function, char const* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
  };
#define FIND(name) find(found.name, #name)
  FIND(cuInit);
  FIND(cuDeviceGetCount);
  FIND(cuDeviceGetAttribute);
  FIND(cuDevicePrimaryCtxRetain);
  FIND(cuCtxGetCurrent);
  FIND(cuCtxSetCurrent);
  FIND(cuCtxGetDevice);
  FIND(cuMemAlloc_v2);
  FIND(cuMemFree_v2);
  FIND(cuStreamIsCapturing);
  FIND(cuMemcpy2DAsync_v2);
  FIND(cuMemsetD8Async);
#undef FIND
  look(found.visordFakeCudaEnqueue, "visordFakeCudaEnqueue");
  look(found.visordFakeCudaTouch, "visordFakeCudaTouch");
  int count = 0;
  return whole && found.cuInit(0) == 0 && found.cuDeviceGetCount(&count) == 0 && count > 0 ? &found : nullptr;
}

Driver const* driver() {
  static Driver const* const only = open_driver();
  void* context = nullptr;
  if (only && only->cuCtxGetCurrent(&context) == 0 && !context && only->cuDevicePrimaryCtxRetain(&context, 0) == 0) {
    only->cuCtxSetCurrent(context);
  }
  return only;
}

bool on_a_real_driver() {
  Driver const* d = driver();
  return d && (!(d->visordFakeCudaEnqueue && d->visordFakeCudaTouch) || setting("STUB", 0));
}

int current_compute_capability() {
  int device = 0, major = 0, minor = 0;
  Driver const* d = driver();
  if (!d || d->cuCtxGetDevice(&device)) return 0;
  d->cuDeviceGetAttribute(&major, 75, device);
  d->cuDeviceGetAttribute(&minor, 76, device);
  return 10 * major + minor;
}

}  // namespace fake

using namespace fake;

EXPORT int32_t getInferLibVersion() noexcept {
  LibraryVersion v = library_version();
  return v.major * 10000 + v.minor * 100 + v.patch;
}
EXPORT int32_t getInferLibMajorVersion() noexcept { return library_version().major; }
EXPORT int32_t getInferLibMinorVersion() noexcept { return library_version().minor; }
EXPORT int32_t getInferLibPatchVersion() noexcept { return library_version().patch; }
EXPORT int32_t getInferLibBuildVersion() noexcept { return library_version().build; }
