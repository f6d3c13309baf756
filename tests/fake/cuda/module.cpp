// Modules from PTX: entries with the sizes of their parameters, and launches of the kernels' host form.
#include "driver.h"
#include "kernels.h"

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace fake {

extern "C" Code visordFakeCudaTouch(const void* address, size_t bytes);

struct Module;

struct Function : Handle {
  Module* module;
  std::string name;
  std::vector<size_t> parameters;  // bytes of each
  unsigned max_threads = 1024;
  const Kernel* kernel = nullptr;
  using Handle::Handle;
};

struct Module : Handle {
  std::map<std::string, Function*> functions;
  using Handle::Handle;
};

// Newest version of PTX for a driver: https://docs.nvidia.com/cuda/parallel-thread-execution/#release-notes
static int newest_ptx(int driver) {
  const int known[][2] = {{13000, 90}, {12090, 88}, {12080, 87}, {12050, 85}, {12040, 84}, {12030, 83}, {12020, 82},
                          {12010, 81}, {12000, 80}, {11080, 78}, {11070, 77}, {11040, 74}};
  for (const auto& [version, ptx] : known) {
    if (driver >= version) return ptx;
  }
  return 70;
}

// Bytes of a `.param .align 8 .b8 name[56]` or `.param .u64 name`.
static size_t parameter_bytes(const std::string& text) {
  size_t unit = 0;
  for (const char* type : {"8", "16", "32", "64"}) {
    for (const char* kind : {".u", ".s", ".b", ".f"}) {
      if (text.find(std::string(kind) + type + ' ') != std::string::npos) unit = static_cast<size_t>(atoi(type)) / 8;
    }
  }
  size_t bracket = text.find('[');
  return bracket == std::string::npos ? unit : unit * strtoul(text.c_str() + bracket + 1, nullptr, 10);
}

static Code read_ptx(const Context& context, const std::string& ptx, Module* module) {
  int major, minor, target;
  size_t version = ptx.find(".version "), architecture = ptx.find(".target sm_");
  if (version == std::string::npos || architecture == std::string::npos ||
      sscanf(ptx.c_str() + version, ".version %d.%d", &major, &minor) != 2 ||
      sscanf(ptx.c_str() + architecture, ".target sm_%d", &target) != 1) {
    return INVALID_PTX;
  }
  if (major * 10 + minor > newest_ptx(state().settings.driver_version)) return UNSUPPORTED_PTX_VERSION;
  if (target > context.device.major * 10 + context.device.minor) return NO_BINARY_FOR_GPU;
  for (size_t at = 0; (at = ptx.find(".entry ", at)) != std::string::npos;) {
    at += strlen(".entry ");
    size_t open = ptx.find('(', at), close = ptx.find(')', at), body = ptx.find('{', at);
    if (open == std::string::npos || close == std::string::npos || body == std::string::npos) return INVALID_PTX;
    std::string name = ptx.substr(at, open - at);
    name.erase(std::remove_if(name.begin(), name.end(), [](unsigned char c) { return isspace(c); }), name.end());
    auto* function = create<Function>(module->context);
    function->module = module;
    function->name = name;
    std::string list = ptx.substr(open + 1, close - open - 1);
    for (size_t p = 0; (p = list.find(".param", p)) != std::string::npos;) {
      size_t end = list.find(',', p);
      size_t bytes = parameter_bytes(list.substr(p, end == std::string::npos ? end : end - p));
      if (bytes == 0) return INVALID_PTX;
      function->parameters.push_back(bytes);
      p += strlen(".param");
    }
    std::string directives = ptx.substr(close, body - close);
    for (const char* limit : {".maxntid ", ".reqntid "}) {
      size_t found = directives.find(limit);
      if (found == std::string::npos) continue;
      unsigned x = 1, y = 1, z = 1;
      sscanf(directives.c_str() + found + strlen(limit), "%u, %u, %u", &x, &y, &z);
      function->max_threads = x * y * z;
    }
    function->kernel = find_kernel(name.c_str());
    module->functions[name] = function;
    at = body;
  }
  return module->functions.empty() ? INVALID_PTX : OK;
}

static Code load(const Call& call, void** out, const void* image) {
  if (!out || !image) return INVALID_VALUE;
  const char* text = static_cast<const char*>(image);
  if (memcmp(text, "\x7f""ELF", 4) == 0) return NO_BINARY_FOR_GPU;
  Module* module = create<Module>(call.context);
  if (Code code = read_ptx(*call.context, text, module)) {
    module->alive = false;
    return code;
  }
  *out = module;
  return OK;
}

// Arguments as they were at the launch; 16 bytes is the strictest alignment of a parameter.
struct Arguments {
  std::vector<std::unique_ptr<char, void (*)(void*)>> values;
  std::vector<void*> pointers;
  Arguments(const std::vector<size_t>& sizes, void** given) {
    for (size_t i = 0; i < sizes.size(); ++i) {
      void* copy = nullptr;
      if (posix_memalign(&copy, 16, sizes[i])) abort();
      memcpy(copy, given[i], sizes[i]);
      values.emplace_back(static_cast<char*>(copy), free);
      pointers.push_back(copy);
    }
  }
};

}  // namespace fake

using namespace fake;

API cuModuleLoadData(void** module, const void* image) {
  ENTER(CONTEXT | NO_CAPTURE);
  return load(call, module, image);
}

API cuModuleLoadDataEx(void** module, const void* image, unsigned count, int* options, void** values) {
  ENTER(CONTEXT | NO_CAPTURE);
  Code code = load(call, module, image);
  // 3 and 5: the info and error logs, followed by their sizes (4 and 6).
  for (unsigned i = 0; i < count; ++i) {
    if (options[i] == 4 || options[i] == 6) values[i] = nullptr;
  }
  return code;
}

API cuModuleUnload(void* handle) {
  ENTER(CONTEXT | NO_CAPTURE);
  Module* module = living<Module>(handle, "module");
  if (!module) return INVALID_HANDLE;
  drain_all(call.context, call.lock);
  module->alive = false;
  for (auto& [name, function] : module->functions) function->alive = false;
  return call.context->error;
}

API cuModuleGetFunction(void** function, void* handle, const char* name) {
  ENTER(CONTEXT);
  Module* module = living<Module>(handle, "module");
  if (!module) return INVALID_HANDLE;
  auto found = module->functions.find(name);
  if (found == module->functions.end()) return NOT_FOUND;
  if (!found->second->kernel) return mistake(NOT_FOUND, "kernel %s has no host form in tests/fake/cuda", name);
  *function = found->second;
  return OK;
}

API cuFuncGetAttribute(int* value, int which, void* handle) {
  ENTER(CONTEXT);
  Function* function = living<Function>(handle, "function");
  if (!function) return INVALID_HANDLE;
  switch (which) {
    case 0: *value = static_cast<int>(function->max_threads); break;
    case 4: *value = 32; break;  // registers
    case 5: *value = 70; break;  // PTX version
    case 6: *value = call.context->device.major * 10 + call.context->device.minor; break;
    default: *value = 0;
  }
  return OK;
}

API cuFuncSetAttribute(void* handle, int, int) {
  ENTER(CONTEXT);
  return living<Function>(handle, "function") ? OK : INVALID_HANDLE;
}

API cuFuncSetCacheConfig(void* handle, int) {
  ENTER(CONTEXT);
  return living<Function>(handle, "function") ? OK : INVALID_HANDLE;
}

API cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void* handle, int block, size_t) {
  ENTER(CONTEXT);
  if (!living<Function>(handle, "function")) return INVALID_HANDLE;
  *blocks = block > 0 ? std::min(32, 2048 / block) : 0;
  return OK;
}

API cuOccupancyMaxPotentialBlockSize(int* grid, int* block, void* handle, size_t (*)(int), size_t, int limit) {
  ENTER(CONTEXT);
  Function* function = living<Function>(handle, "function");
  if (!function) return INVALID_HANDLE;
  int most = static_cast<int>(function->max_threads);
  *block = limit > 0 ? std::min(limit, most) : most;
  *grid = 160;
  return OK;
}

API cuLaunchKernel(void* handle, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared_bytes, void* stream_handle, void** arguments, void** extra) {
  ENTER(CONTEXT);
  Function* function = living<Function>(handle, "function");
  Stream* stream = find_stream(call, stream_handle);
  if (!function || !stream) return INVALID_HANDLE;
  if (!gx || !gy || !gz || !bx || !by || !bz) return mistake(INVALID_VALUE, "launch of %s with an empty grid", function->name.c_str());
  uint64_t threads = static_cast<uint64_t>(bx) * by * bz;
  if (gy > 65535 || gz > 65535 || gx > 2147483647u || bx > 1024 || by > 1024 || bz > 64 || threads > 1024 || shared_bytes > 49152) {
    return INVALID_VALUE;
  }
  if (threads > function->max_threads) return LAUNCH_OUT_OF_RESOURCES;
  if (extra || (!arguments && !function->parameters.empty())) return INVALID_VALUE;
  auto held = std::make_shared<Arguments>(function->parameters, arguments);
  const Kernel* kernel = function->kernel;
  Grid grid{gx, gy, gz}, block{bx, by, bz};
  auto run = [=] {
    Touch touch = [](const void* address, size_t bytes) { return visordFakeCudaTouch(address, bytes) == OK; };
    if (!kernel->check(grid, block, held->pointers.data(), touch)) return static_cast<Code>(ILLEGAL_ADDRESS);
    kernel->run(grid, block, held->pointers.data());
    return static_cast<Code>(OK);
  };
  return submit(stream, operation(Kind::Launch, function->name, 0, run));
}
