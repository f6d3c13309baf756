// Device memory, pinned host memory, and copies between them.
#include "driver.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace fake {

// NaN as FP32 and FP16 where nothing was written yet; something else where memory was freed.
static const int FRESH = 0xff, FREED = 0xdd;
// Large blocks are poisoned at both ends only: all of it would make every page real.
static const size_t POISON_BYTES = 32 << 20;
// What cuMemAlloc aligns to.
static const size_t ALIGNMENT = 256;

static void poison(void* address, size_t bytes, int value) {
  char* start = static_cast<char*>(address);
  size_t part = std::min(bytes, POISON_BYTES);
  memset(start, value, part);
  memset(start + bytes - part, value, part);
}

// The live block that holds `address`.
static std::map<uintptr_t, Block>::iterator block_of(const void* address) {
  auto& blocks = state().blocks;
  auto found = blocks.upper_bound(reinterpret_cast<uintptr_t>(address));
  if (found == blocks.begin()) return blocks.end();
  --found;
  return reinterpret_cast<uintptr_t>(address) < found->first + found->second.bytes ? found : blocks.end();
}

static bool inside(std::map<uintptr_t, Block>::iterator block, const void* address, size_t bytes) {
  size_t offset = reinterpret_cast<uintptr_t>(address) - block->first;
  return bytes <= block->second.bytes - offset;
}

Code check_device(Context* context, const void* address, size_t bytes, const char* what) {
  if (bytes == 0) return OK;
  auto found = block_of(address);
  if (found == state().blocks.end()) return fault("%s: %zu bytes at %p are in no live block", what, bytes, address);
  if (found->second.kind == Block::Device && found->second.context != context) {
    return fault("%s: %p is memory of device %d", what, address, found->second.context->device.ordinal);
  }
  if (!inside(found, address, bytes)) {
    return fault("%s: %zu bytes at %p, offset %zu of a block of %zu", what, bytes, address,
                 reinterpret_cast<uintptr_t>(address) - found->first, found->second.bytes);
  }
  return OK;
}

bool is_pinned(const void* address, size_t bytes) {
  auto found = block_of(address);
  return found != state().blocks.end() && found->second.kind != Block::Device && inside(found, address, bytes);
}

static void forget(std::map<uintptr_t, Block>::iterator block) {
  Counters& c = state().counters;
  void* address = reinterpret_cast<void*>(block->first);
  const Block& b = block->second;
  if (b.kind == Block::Device) {
    ++c.device_frees;
    c.device_bytes -= b.bytes;
    b.context->used_bytes -= b.bytes;
  } else if (b.kind == Block::Pinned) {
    ++c.host_frees;
    c.host_bytes -= b.bytes;
  }
  if (b.kind != Block::Registered) {
    poison(address, b.bytes, FREED);
    free(address);
  }
  state().blocks.erase(block);
}

void free_all(Context* context) {
  auto& blocks = state().blocks;
  for (auto it = blocks.begin(); it != blocks.end();) {
    auto next = std::next(it);
    if (it->second.context == context) forget(it);
    it = next;
  }
  for (auto& [address, handle] : state().handles) {
    if (handle->context != context) continue;
    handle->alive = false;
    if (auto* stream = dynamic_cast<Stream*>(handle.get())) stream->work.notify_one();
  }
  context->default_stream = nullptr;
  context->default_stream_used = false;
}

static Code allocate(Context* context, void** out, size_t bytes) {
  State& s = state();
  if (!out || bytes == 0) return INVALID_VALUE;
  if (s.settings.fail_alloc_after >= 0 && s.allocations >= s.settings.fail_alloc_after) return OUT_OF_MEMORY;
  if (bytes > context->device.memory_bytes - context->used_bytes) return OUT_OF_MEMORY;
  if (posix_memalign(out, ALIGNMENT, bytes)) return OUT_OF_MEMORY;
  ++s.allocations;
  poison(*out, bytes, FRESH);
  s.blocks[reinterpret_cast<uintptr_t>(*out)] = Block{bytes, context, Block::Device};
  context->used_bytes += bytes;
  ++s.counters.device_allocations;
  s.counters.device_bytes += bytes;
  s.counters.peak_device_bytes = std::max(s.counters.peak_device_bytes, s.counters.device_bytes);
  return OK;
}

// The start of a live block of that kind, or the end and a mistake.
static std::map<uintptr_t, Block>::iterator freeable(const void* address, Block::Kind kind, const char* call) {
  auto found = state().blocks.find(reinterpret_cast<uintptr_t>(address));
  if (found == state().blocks.end() || found->second.kind != kind) {
    mistake(INVALID_VALUE, "%s of %p, which is no live block of that kind", call, address);
    return state().blocks.end();
  }
  return found;
}

enum class Side { Host, Device };

static Side side_of(const void* address) {
  auto found = block_of(address);
  return found != state().blocks.end() && found->second.kind == Block::Device ? Side::Device : Side::Host;
}

struct Rows {
  char* to;
  const char* from;
  size_t to_pitch, from_pitch, width, height;
  size_t bytes() const { return width * height; }
  static size_t span(size_t pitch, size_t width, size_t height) { return pitch * (height - 1) + width; }
};

static Code copy(const Call& call, void* handle, Rows rows, Side to, Side from, bool synchronous,
                 std::unique_lock<std::mutex>& lock) {
  State& s = state();
  Stream* stream = find_stream(call, handle);
  if (!stream) return INVALID_HANDLE;
  if (rows.bytes() == 0) return OK;
  if (!rows.to || !rows.from || rows.to_pitch < rows.width || rows.from_pitch < rows.width) return INVALID_VALUE;
  if (!synchronous && s.settings.fail_copy_every > 0 && ++s.copies % s.settings.fail_copy_every == 0) {
    return static_cast<Code>(s.settings.fail_copy_code);
  }
  const char* name = from == Side::Host ? (to == Side::Host ? "htoh" : "htod") : to == Side::Host ? "dtoh" : "dtod";
  size_t to_span = Rows::span(rows.to_pitch, rows.width, rows.height);
  size_t from_span = Rows::span(rows.from_pitch, rows.width, rows.height);
  bool pageable = (from == Side::Host && !is_pinned(rows.from, from_span)) ||
                  (to == Side::Host && !is_pinned(rows.to, to_span));
  if (pageable && !synchronous) {
    ++s.counters.pageable_copies;
    if (stream->capture) return forbidden(stream, "copy of pageable memory");
  }
  // The driver reads pageable memory before the call returns.
  std::shared_ptr<std::vector<char>> staged;
  if (pageable && from == Side::Host) {
    staged = std::make_shared<std::vector<char>>(rows.from, rows.from + from_span);
    rows.from = staged->data();
  }
  Context* context = stream->context;
  bool to_pinned = to == Side::Host && !pageable, from_pinned = from == Side::Host && !staged && !pageable;
  auto run = [=] {
    {
      std::lock_guard<std::mutex> guard(state().mutex);
      for (size_t row = 0; row < rows.height; ++row) {
        const char* target = rows.to + row * rows.to_pitch;
        const char* source = rows.from + row * rows.from_pitch;
        Code code = OK;
        if (to == Side::Device) code = check_device(context, target, rows.width, name);
        if (!code && from == Side::Device) code = check_device(context, source, rows.width, name);
        // Pinned when the copy was asked for, gone when it runs.
        if (!code && ((to_pinned && !is_pinned(target, rows.width)) || (from_pinned && !is_pinned(source, rows.width)))) {
          code = fault("%s: the pinned memory was freed before the copy ran", name);
        }
        if (code) return code;
      }
    }
    for (size_t row = 0; row < rows.height; ++row) {
      memmove(rows.to + row * rows.to_pitch, rows.from + row * rows.from_pitch, rows.width);
    }
    (void)staged;
    return static_cast<Code>(OK);
  };
  if (Code code = submit(stream, operation(Kind::Copy, name, rows.bytes(), run))) return code;
  if (synchronous || (pageable && to == Side::Host)) {
    drain(stream, lock);
    return context->error;
  }
  return OK;
}

static Rows line(void* to, const void* from, size_t bytes) {
  return {static_cast<char*>(to), static_cast<const char*>(from), bytes, bytes, bytes, 1};
}

static Code fill(const Call& call, void* handle, void* to, uint32_t value, size_t unit, size_t count, bool synchronous,
                 std::unique_lock<std::mutex>& lock) {
  Stream* stream = find_stream(call, handle);
  if (!stream) return INVALID_HANDLE;
  if (count == 0) return OK;
  if (reinterpret_cast<uintptr_t>(to) % unit) return INVALID_VALUE;
  Context* context = stream->context;
  auto run = [=] {
    {
      std::lock_guard<std::mutex> guard(state().mutex);
      if (Code code = check_device(context, to, count * unit, "memset")) return code;
    }
    char* out = static_cast<char*>(to);
    for (size_t i = 0; i < count; ++i) memcpy(out + i * unit, &value, unit);
    return static_cast<Code>(OK);
  };
  if (Code code = submit(stream, operation(Kind::Memset, "", count * unit, run))) return code;
  if (synchronous) {
    drain(stream, lock);
    return context->error;
  }
  return OK;
}

}  // namespace fake

using namespace fake;

API cuMemGetInfo_v2(size_t* free_bytes, size_t* total) {
  ENTER(CONTEXT);
  *total = call.context->device.memory_bytes;
  *free_bytes = *total - call.context->used_bytes;
  return OK;
}

API cuMemAlloc_v2(void** address, size_t bytes) {
  ENTER(CONTEXT | NO_CAPTURE);
  return allocate(call.context, address, bytes);
}

API cuMemAllocAsync(void** address, size_t bytes, void* handle) {
  ENTER(CONTEXT | NO_CAPTURE);
  Stream* stream = find_stream(call, handle);
  if (!stream) return INVALID_HANDLE;
  if (stream->capture) return forbidden(stream, __func__);
  return allocate(call.context, address, bytes);
}

// Waits for the device, as the driver does.
API cuMemFree_v2(void* address) {
  ENTER(CONTEXT | NO_CAPTURE);
  if (!address) return OK;
  if (freeable(address, Block::Device, __func__) == state().blocks.end()) return INVALID_VALUE;
  if (drain_all(call.context, call.lock)) ++state().counters.frees_with_pending_work;
  auto found = freeable(address, Block::Device, __func__);
  if (found == state().blocks.end()) return INVALID_VALUE;
  forget(found);
  return call.context->error;
}

API cuMemFreeAsync(void* address, void* handle) {
  ENTER(CONTEXT);
  Stream* stream = find_stream(call, handle);
  if (!stream) return INVALID_HANDLE;
  if (stream->capture) return forbidden(stream, __func__);
  if (freeable(address, Block::Device, __func__) == state().blocks.end()) return INVALID_VALUE;
  return submit(stream, operation(Kind::Free, "", 0, [address] {
                  std::lock_guard<std::mutex> guard(state().mutex);
                  auto found = freeable(address, Block::Device, "cuMemFreeAsync");
                  if (found != state().blocks.end()) forget(found);
                  return OK;
                }));
}

API cuMemHostAlloc(void** address, size_t bytes, unsigned flags) {
  ENTER(CONTEXT | NO_CAPTURE);
  if (!address || bytes == 0 || flags > 7) return INVALID_VALUE;
  if (posix_memalign(address, 4096, bytes)) return OUT_OF_MEMORY;
  poison(*address, bytes, FRESH);
  state().blocks[reinterpret_cast<uintptr_t>(*address)] = Block{bytes, call.context, Block::Pinned};
  ++state().counters.host_allocations;
  state().counters.host_bytes += bytes;
  return OK;
}

API cuMemAllocHost_v2(void** address, size_t bytes) { return cuMemHostAlloc(address, bytes, 0); }

API cuMemFreeHost(void* address) {
  ENTER(CONTEXT | NO_CAPTURE | FAILED_TOO);
  if (freeable(address, Block::Pinned, __func__) == state().blocks.end()) return INVALID_VALUE;
  if (drain_all(call.context, call.lock)) ++state().counters.frees_with_pending_work;
  auto found = freeable(address, Block::Pinned, __func__);
  if (found == state().blocks.end()) return INVALID_VALUE;
  forget(found);
  return call.context->error;
}

API cuMemHostRegister_v2(void* address, size_t bytes, unsigned) {
  ENTER(CONTEXT | NO_CAPTURE);
  if (!address || bytes == 0) return INVALID_VALUE;
  uintptr_t start = reinterpret_cast<uintptr_t>(address);
  auto next = state().blocks.lower_bound(start);
  if (block_of(address) != state().blocks.end() || (next != state().blocks.end() && next->first < start + bytes)) {
    return HOST_MEMORY_ALREADY_REGISTERED;
  }
  state().blocks[start] = Block{bytes, call.context, Block::Registered};
  return OK;
}

API cuMemHostUnregister(void* address) {
  ENTER(CONTEXT | NO_CAPTURE | FAILED_TOO);
  auto found = state().blocks.find(reinterpret_cast<uintptr_t>(address));
  if (found == state().blocks.end() || found->second.kind != Block::Registered) return HOST_MEMORY_NOT_REGISTERED;
  if (drain_all(call.context, call.lock)) ++state().counters.frees_with_pending_work;
  state().blocks.erase(reinterpret_cast<uintptr_t>(address));
  return call.context->error;
}

API cuMemHostGetDevicePointer_v2(void** device, void* host, unsigned) {
  ENTER(CONTEXT);
  if (!is_pinned(host, 1)) return INVALID_VALUE;
  *device = host;
  return OK;
}

#define COPY(name, to_side, from_side, to_type, from_type)                                               \
  API name##Async_v2(to_type to, from_type from, size_t bytes, void* stream) {                           \
    ENTER(CONTEXT);                                                                                      \
    return copy(call, stream, line(to, from, bytes), Side::to_side, Side::from_side, false, call.lock);  \
  }                                                                                                      \
  API name##_v2(to_type to, from_type from, size_t bytes) {                                              \
    ENTER(CONTEXT | NO_CAPTURE);                                                                         \
    return copy(call, nullptr, line(to, from, bytes), Side::to_side, Side::from_side, true, call.lock);  \
  }
COPY(cuMemcpyHtoD, Device, Host, void*, const void*)
COPY(cuMemcpyDtoH, Host, Device, void*, const void*)
COPY(cuMemcpyDtoD, Device, Device, void*, const void*)
#undef COPY

API cuMemcpyAsync(void* to, const void* from, size_t bytes, void* stream) {
  ENTER(CONTEXT);
  return copy(call, stream, line(to, from, bytes), side_of(to), side_of(from), false, call.lock);
}

API cuMemcpy(void* to, const void* from, size_t bytes) {
  ENTER(CONTEXT | NO_CAPTURE);
  return copy(call, nullptr, line(to, from, bytes), side_of(to), side_of(from), true, call.lock);
}

// CUDA_MEMCPY2D of the driver API.
struct Copy2D {
  struct End {
    size_t x_bytes, y;
    unsigned type;  // 1 host, 2 device, 3 array, 4 unified
    char* host;
    char* device;
    void* array;
    size_t pitch;
  } from, to;
  size_t width_bytes, height;
};

static Code copy_2d(const Call& call, void* stream, const Copy2D* c, bool synchronous, std::unique_lock<std::mutex>& lock) {
  if (!c || c->from.type == 3 || c->to.type == 3) return INVALID_VALUE;
  auto start = [](const Copy2D::End& e) { return (e.type == 1 ? e.host : e.device) + e.y * e.pitch + e.x_bytes; };
  auto pitch = [&](const Copy2D::End& e) { return e.pitch ? e.pitch : c->width_bytes; };
  auto side = [&](const Copy2D::End& e) {
    return e.type == 1 ? Side::Host : e.type == 2 ? Side::Device : side_of(start(e));
  };
  Rows rows{start(c->to), start(c->from), pitch(c->to), pitch(c->from), c->width_bytes, c->height};
  return copy(call, stream, rows, side(c->to), side(c->from), synchronous, lock);
}

API cuMemcpy2DAsync_v2(const Copy2D* c, void* stream) {
  ENTER(CONTEXT);
  return copy_2d(call, stream, c, false, call.lock);
}

API cuMemcpy2D_v2(const Copy2D* c) {
  ENTER(CONTEXT | NO_CAPTURE);
  return copy_2d(call, nullptr, c, true, call.lock);
}

API cuMemsetD8Async(void* to, unsigned char value, size_t count, void* stream) {
  ENTER(CONTEXT);
  return fill(call, stream, to, value, 1, count, false, call.lock);
}

API cuMemsetD16Async(void* to, unsigned short value, size_t count, void* stream) {
  ENTER(CONTEXT);
  return fill(call, stream, to, value, 2, count, false, call.lock);
}

API cuMemsetD32Async(void* to, unsigned value, size_t count, void* stream) {
  ENTER(CONTEXT);
  return fill(call, stream, to, value, 4, count, false, call.lock);
}

API cuMemsetD8_v2(void* to, unsigned char value, size_t count) {
  ENTER(CONTEXT | NO_CAPTURE);
  return fill(call, nullptr, to, value, 1, count, true, call.lock);
}

API cuMemsetD32_v2(void* to, unsigned value, size_t count) {
  ENTER(CONTEXT | NO_CAPTURE);
  return fill(call, nullptr, to, value, 4, count, true, call.lock);
}
