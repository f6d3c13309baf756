// Initialisation, devices, primary contexts, the current context, and the texts of errors.
#include "driver.h"

#include <cstdio>
#include <cstring>
#include <dlfcn.h>

namespace fake {

static thread_local std::vector<Context*> stack{nullptr};
thread_local bool in_host_function = false;

Context*& current() { return stack.back(); }

Call::Call(const char* name, unsigned rules) : lock(state().mutex) {
  State& s = state();
  ++s.counters.calls[name];
  if (in_host_function) {
    code = mistake(NOT_PERMITTED, "%s called from a host function", name);
    return;
  }
  if ((rules & INIT) && !s.initialized) {
    code = mistake(NOT_INITIALIZED, "%s before cuInit", name);
    return;
  }
  context = current();
  if ((rules & CONTEXT) == CONTEXT) {
    if (!context) {
      code = mistake(INVALID_CONTEXT, "%s without a current context", name);
      return;
    }
    if (!context->active) {
      code = CONTEXT_IS_DESTROYED;
      return;
    }
    if (context->error && !(rules & FAILED_TOO)) {
      code = context->error;
      return;
    }
  }
  if (rules & NO_CAPTURE) {
    for (Capture* c : s.captures) {
      if (c->mode == 0 || (c->mode == 1 && c->thread == std::this_thread::get_id())) {
        c->invalid = true;
        code = mistake(CAPTURE_UNSUPPORTED, "%s while a stream is being captured", name);
      }
    }
  }
}

static Context* primary(int device) {
  auto& all = state().contexts;
  return device >= 0 && device < static_cast<int>(all.size()) ? all[static_cast<size_t>(device)] : nullptr;
}

// Numbers of CUdevice_attribute; what is not listed is 0.
static int attribute(const Device& d, int which) {
  switch (which) {
    case 1: case 2: case 3: return 1024;   // threads a block, block x, y
    case 4: return 64;                     // block z
    case 5: return 2147483647;             // grid x
    case 6: case 7: return 65535;          // grid y, z
    case 8: return 49152;                  // shared memory a block
    case 9: return 65536;                  // constant memory
    case 10: return 32;                    // warp
    case 12: case 82: return 65536;        // registers a block, a multiprocessor
    case 13: return 1380000;               // clock, kHz
    case 14: return 512;                   // texture alignment
    case 15: case 19: case 31: return 1;   // overlap, mapped host memory, concurrent kernels
    case 16: return d.major >= 9 ? 132 : 80;
    case 33: return d.ordinal + 1;         // PCI bus
    case 36: return 877000;                // memory clock, kHz
    case 37: return 4096;                  // bus width
    case 38: return 6291456;               // level 2 cache
    case 39: return 2048;                  // threads a multiprocessor
    case 40: return 2;                     // copy engines
    case 41: case 115: return 1;           // unified addressing, memory pools
    case 75: return d.major;
    case 76: return d.minor;
    case 81: case 97: return 98304;        // shared memory a multiprocessor, opt-in
    case 106: return 32;                   // blocks a multiprocessor
    default: return 0;
  }
}

}  // namespace fake

using namespace fake;

API cuInit(unsigned flags) {
  std::unique_lock<std::mutex> guard(state().mutex);
  ++state().counters.calls[__func__];
  if (flags) return INVALID_VALUE;
  if (!state().initialized) {
    if (state().contexts.empty()) state().settings = read_settings();
    if (state().contexts.empty()) return NO_DEVICE;
    state().initialized = true;
    guard.unlock();
    start_counters();
  }
  return OK;
}

API cuDriverGetVersion(int* version) {
  if (!version) return INVALID_VALUE;
  std::unique_lock<std::mutex> guard(state().mutex);
  if (!state().initialized && state().contexts.empty()) state().settings = read_settings();
  *version = state().settings.driver_version;
  return OK;
}

API cuDeviceGetCount(int* count) {
  ENTER(INIT);
  if (!count) return INVALID_VALUE;
  *count = static_cast<int>(state().contexts.size());
  return OK;
}

API cuDeviceGet(int* device, int ordinal) {
  ENTER(INIT);
  if (!device) return INVALID_VALUE;
  if (!primary(ordinal)) return INVALID_DEVICE;
  *device = ordinal;
  return OK;
}

API cuDeviceGetName(char* name, int capacity, int device) {
  ENTER(INIT);
  Context* c = primary(device);
  if (!c) return INVALID_DEVICE;
  if (!name || capacity < 1) return INVALID_VALUE;
  snprintf(name, static_cast<size_t>(capacity), "%s", c->device.name.c_str());
  return OK;
}

API cuDeviceGetAttribute(int* value, int which, int device) {
  ENTER(INIT);
  Context* c = primary(device);
  if (!c) return INVALID_DEVICE;
  if (!value || which < 1 || which > 160) return INVALID_VALUE;
  *value = attribute(c->device, which);
  return OK;
}

API cuDeviceComputeCapability(int* major, int* minor, int device) {
  ENTER(INIT);
  Context* c = primary(device);
  if (!c) return INVALID_DEVICE;
  *major = c->device.major;
  *minor = c->device.minor;
  return OK;
}

API cuDeviceTotalMem_v2(size_t* bytes, int device) {
  ENTER(INIT);
  Context* c = primary(device);
  if (!c) return INVALID_DEVICE;
  *bytes = c->device.memory_bytes;
  return OK;
}

API cuDeviceGetUuid_v2(unsigned char* uuid, int device) {
  ENTER(INIT);
  Context* c = primary(device);
  if (!c) return INVALID_DEVICE;
  memcpy(uuid, c->device.uuid, 16);
  return OK;
}

API cuDeviceGetUuid(unsigned char* uuid, int device) { return cuDeviceGetUuid_v2(uuid, device); }

API cuDeviceGetPCIBusId(char* id, int capacity, int device) {
  ENTER(INIT);
  Context* c = primary(device);
  if (!c) return INVALID_DEVICE;
  if (!id || capacity < 13) return INVALID_VALUE;
  snprintf(id, static_cast<size_t>(capacity), "0000:%02x:00.0", c->device.ordinal + 1);
  return OK;
}

API cuDevicePrimaryCtxRetain(Context** context, int device) {
  ENTER(INIT);
  Context* c = primary(device);
  if (!c) return INVALID_DEVICE;
  if (!context) return INVALID_VALUE;
  if (c->error) return c->error;
  c->active = true;
  ++c->retained;
  *context = c;
  return OK;
}

API cuDevicePrimaryCtxRelease_v2(int device) {
  ENTER(INIT);
  Context* c = primary(device);
  if (!c) return INVALID_DEVICE;
  if (c->retained == 0) return INVALID_CONTEXT;  // a reset has dropped all
  if (--c->retained == 0) {
    drain_all(c, call.lock);
    free_all(c);
    c->active = false;
    if (state().settings.reset_fails == 0) c->error = OK;
  }
  return OK;
}

API cuDevicePrimaryCtxRelease(int device) { return cuDevicePrimaryCtxRelease_v2(device); }

API cuDevicePrimaryCtxReset_v2(int device) {
  ENTER(INIT | NO_CAPTURE);
  Context* c = primary(device);
  if (!c) return INVALID_DEVICE;
  ++state().counters.resets;
  drain_all(c, call.lock);
  // 1: the reset itself fails; 2: it says that it worked, but the device stays as it is.
  if (state().settings.reset_fails == 1) return c->error ? c->error : ILLEGAL_ADDRESS;
  free_all(c);
  c->active = false;
  c->retained = 0;
  if (state().settings.reset_fails == 0) c->error = OK;
  return OK;
}

API cuDevicePrimaryCtxReset(int device) { return cuDevicePrimaryCtxReset_v2(device); }

API cuDevicePrimaryCtxGetState(int device, unsigned* flags, int* active) {
  ENTER(INIT);
  Context* c = primary(device);
  if (!c) return INVALID_DEVICE;
  *flags = c->flags;
  *active = c->active;
  return OK;
}

API cuDevicePrimaryCtxSetFlags_v2(int device, unsigned flags) {
  ENTER(INIT);
  Context* c = primary(device);
  if (!c) return INVALID_DEVICE;
  c->flags = flags;
  return OK;
}

API cuCtxGetCurrent(Context** context) {
  ENTER(INIT);
  *context = current();
  return OK;
}

API cuCtxSetCurrent(Context* context) {
  ENTER(INIT);
  for (Context* c : state().contexts) {
    if (c == context) {
      current() = c;
      return c->active ? OK : CONTEXT_IS_DESTROYED;
    }
  }
  if (context) return mistake(INVALID_CONTEXT, "%p is no context", static_cast<void*>(context));
  current() = nullptr;
  return OK;
}

API cuCtxPushCurrent_v2(Context* context) {
  ENTER(INIT);
  for (Context* c : state().contexts) {
    if (c == context && c->active) {
      stack.push_back(c);
      return OK;
    }
  }
  return INVALID_CONTEXT;
}

API cuCtxPopCurrent_v2(Context** context) {
  ENTER(INIT);
  if (!current()) return INVALID_CONTEXT;
  if (context) *context = current();
  if (stack.size() > 1) {
    stack.pop_back();
  } else {
    current() = nullptr;
  }
  return OK;
}

API cuCtxGetDevice(int* device) {
  ENTER(CONTEXT | FAILED_TOO);
  // Visible ordinals, as the program counts them.
  for (size_t i = 0; i < state().contexts.size(); ++i) {
    if (state().contexts[i] == call.context) *device = static_cast<int>(i);
  }
  return OK;
}

API cuCtxGetApiVersion(Context*, unsigned* version) {
  ENTER(CONTEXT | FAILED_TOO);
  *version = 3020;
  return OK;
}

API cuCtxGetFlags(unsigned* flags) {
  ENTER(CONTEXT);
  *flags = call.context->flags;
  return OK;
}

API cuCtxSetFlags(unsigned flags) {
  ENTER(CONTEXT);
  call.context->flags = flags;
  return OK;
}

API cuCtxGetLimit(size_t* value, int) {
  ENTER(CONTEXT);
  *value = 1024;
  return OK;
}

API cuCtxSetLimit(int, size_t) {
  ENTER(CONTEXT);
  return OK;
}

API cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  ENTER(CONTEXT);
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  return OK;
}

API cuCtxSynchronize() {
  ENTER(CONTEXT | NO_CAPTURE);
  drain_all(call.context, call.lock);
  return call.context->error;
}

API cuProfilerStart() {
  ENTER(CONTEXT);
  return OK;
}

API cuProfilerStop() {
  ENTER(CONTEXT);
  return OK;
}

static const struct {
  Code code;
  const char *name, *text;
} errors[] = {
    {OK, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {NO_BINARY_FOR_GPU, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {INVALID_PTX, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"},
    {UNSUPPORTED_PTX_VERSION, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
     "the provided PTX was compiled with an unsupported toolchain."},
    {OPERATING_SYSTEM, "CUDA_ERROR_OPERATING_SYSTEM", "OS call failed or operation not supported on this OS"},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {ILLEGAL_STATE, "CUDA_ERROR_ILLEGAL_STATE", "the operation cannot be performed in the present state"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {LAUNCH_OUT_OF_RESOURCES, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
    {PRIMARY_CONTEXT_ACTIVE, "CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE", "primary context active"},
    {CONTEXT_IS_DESTROYED, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed"},
    {HOST_MEMORY_ALREADY_REGISTERED, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED",
     "part or all of the requested memory range is already mapped"},
    {HOST_MEMORY_NOT_REGISTERED, "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED",
     "pointer does not correspond to a registered memory region"},
    {NOT_PERMITTED, "CUDA_ERROR_NOT_PERMITTED", "operation not permitted"},
    {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
     "operation failed due to a previous error during capture"},
    {CAPTURE_MERGE, "CUDA_ERROR_STREAM_CAPTURE_MERGE", "operation would result in a merge of separate capture sequences"},
    {CAPTURE_UNMATCHED, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "capture was not ended in the same stream as it began"},
    {CAPTURE_UNJOINED, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "capturing stream has unjoined work"},
    {CAPTURE_ISOLATION, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION",
     "dependency created on uncaptured work in another stream"},
    {CAPTURED_EVENT, "CUDA_ERROR_CAPTURED_EVENT", "operation not permitted on an event last recorded in a capturing stream"},
    {CAPTURE_WRONG_THREAD, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD",
     "attempt to terminate a thread-local capture sequence from another thread"},
    {GRAPH_EXEC_UPDATE_FAILURE, "CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE", "the graph update was not performed"},
};

API cuGetErrorName(Code code, const char** name) {
  for (const auto& e : errors) {
    if (e.code == code) {
      *name = e.name;
      return OK;
    }
  }
  *name = nullptr;
  return INVALID_VALUE;
}

API cuGetErrorString(Code code, const char** text) {
  for (const auto& e : errors) {
    if (e.code == code) {
      *text = e.text;
      return OK;
    }
  }
  *text = nullptr;
  return INVALID_VALUE;
}

// The newest form of a function: `_v3`, `_v2`, then the bare name.
API cuGetProcAddress_v2(const char* symbol, void** function, int, uint64_t, int* status) {
  for (const char* suffix : {"_v3", "_v2", ""}) {
    Dl_info self;
    if (!dladdr(reinterpret_cast<void*>(&cuInit), &self)) break;
    void* library = dlopen(self.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    if (!library) break;
    *function = dlsym(library, (std::string(symbol) + suffix).c_str());
    dlclose(library);
    if (*function) {
      if (status) *status = 0;
      return OK;
    }
  }
  *function = nullptr;
  if (status) {
    *status = 1;
    return OK;
  }
  return NOT_FOUND;
}

API cuGetProcAddress(const char* symbol, void** function, int version, uint64_t flags) {
  return cuGetProcAddress_v2(symbol, function, version, flags, nullptr);
}
