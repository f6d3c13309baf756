// Tests of the fake driver, one process each: tests/fake_device.rs sets the environment and names the case.
#include "check.h"
#include "cuda_api.h"

#include <atomic>
#include <chrono>
#include <thread>
#include <unistd.h>
#include <vector>

static void* context;

static void open_device(int ordinal = 0) {
  CHECK_EQUAL(cuInit(0), 0);
  CHECK_EQUAL(cuDevicePrimaryCtxRetain(&context, ordinal), 0);
  CHECK_EQUAL(cuCtxSetCurrent(context), 0);
}

static void* stream() {
  void* made;
  CHECK_EQUAL(cuStreamCreate(&made, 1), 0);
  return made;
}

static void* event(unsigned flags = 0) {
  void* made;
  CHECK_EQUAL(cuEventCreate(&made, flags), 0);
  return made;
}

template <class T = unsigned char>
static T* device(size_t count) {
  void* made;
  CHECK_EQUAL(cuMemAlloc_v2(&made, count * sizeof(T)), 0);
  return static_cast<T*>(made);
}

template <class T = unsigned char>
static T* pinned(size_t count) {
  void* made;
  CHECK_EQUAL(cuMemHostAlloc(&made, count * sizeof(T), 0), 0);
  return static_cast<T*>(made);
}

// Asks the running process for its counters and gives one of the top level, or of `group`.
static long counter(const std::string& name, const std::string& group = "") {
  const std::string file = getenv("VISORD_FAKE_CUDA_COUNTERS"), request = file + ".request";
  fclose(fopen(request.c_str(), "w"));
  while (access(request.c_str(), F_OK) == 0) usleep(1000);
  std::string text;
  FILE* in = fopen(file.c_str(), "r");
  CHECK(in);
  for (int c; (c = fgetc(in)) != EOF;) text += static_cast<char>(c);
  fclose(in);
  size_t from = group.empty() ? 0 : text.find('"' + group + "\": {");
  CHECK(from != std::string::npos);
  size_t at = text.find('"' + name + "\": ", from);
  return at == std::string::npos ? 0 : strtol(text.c_str() + at + name.size() + 4, nullptr, 10);
}

static const char INCREMENT[] =
    ".version 7.8\n.target sm_70\n.address_size 64\n.visible .entry fake_increment(\n"
    "\t.param .u64 values,\n\t.param .u32 count\n)\n.maxntid 256, 1, 1\n{\n\tret;\n}\n";

static void increment(void* values, uint32_t count, void* on) {
  static void *module, *function;
  if (!module) {
    CHECK_EQUAL(cuModuleLoadData(&module, INCREMENT), 0);
    CHECK_EQUAL(cuModuleGetFunction(&function, module, "fake_increment"), 0);
  }
  void* arguments[] = {&values, &count};
  CHECK_EQUAL(cuLaunchKernel(function, (count + 63) / 64, 1, 1, 64, 1, 1, 0, on, arguments, nullptr), 0);
}

// A copy reads its source when it runs; pageable memory is read before the call returns.
static void copies_run_later() {
  open_device();
  void* s = stream();
  auto* d = device(8);
  auto* p = pinned(8);
  memset(p, 1, 8);
  CHECK_EQUAL(cuMemcpyHtoDAsync_v2(d, p, 8, s), 0);
  CHECK_EQUAL(cuStreamQuery(s), 600);
  memset(p, 2, 8);
  CHECK_EQUAL(cuStreamSynchronize(s), 0);
  CHECK_EQUAL(cuStreamQuery(s), 0);
  unsigned char out[8];
  CHECK_EQUAL(cuMemcpyDtoH_v2(out, d, 8), 0);
  CHECK_EQUAL(out[0], 2);
  CHECK_EQUAL(counter("pageable_copies"), 0);

  unsigned char pageable[8];
  memset(pageable, 3, 8);
  CHECK_EQUAL(cuMemcpyHtoDAsync_v2(d, pageable, 8, s), 0);
  memset(pageable, 4, 8);
  CHECK_EQUAL(cuMemcpyDtoHAsync_v2(p, d, 8, s), 0);
  CHECK_EQUAL(p[7], 2);
  CHECK_EQUAL(cuStreamSynchronize(s), 0);
  CHECK_EQUAL(p[7], 3);
  CHECK_EQUAL(counter("pageable_copies"), 1);

  // Registered memory is pinned.
  std::vector<unsigned char> registered(8, 5);
  CHECK_EQUAL(cuMemHostRegister_v2(registered.data(), 8, 0), 0);
  CHECK_EQUAL(cuMemHostRegister_v2(registered.data() + 4, 8, 0), 712);
  CHECK_EQUAL(cuMemcpyHtoDAsync_v2(d, registered.data(), 8, s), 0);
  registered.assign(8, 6);
  CHECK_EQUAL(cuMemHostUnregister(registered.data()), 0);
  CHECK_EQUAL(cuMemcpyDtoH_v2(out, d, 8), 0);
  CHECK_EQUAL(out[0], 6);
  CHECK_EQUAL(counter("pageable_copies"), 1);
  CHECK_EQUAL(counter("htod", "copies"), 3);
  CHECK_EQUAL(counter("htod", "copy_bytes"), 24);
}

static void events_order_streams() {
  open_device();
  void *a = stream(), *b = stream(), *start = event(), *end = event(), *never = event();
  auto* d = device(8);
  auto* p = pinned(8);
  memset(p, 7, 8);
  CHECK_EQUAL(cuEventQuery(never), 0);
  CHECK_EQUAL(cuStreamWaitEvent(b, never, 0), 0);
  CHECK_EQUAL(cuEventRecord(start, a), 0);
  CHECK_EQUAL(cuMemsetD8Async(d, 1, 8, a), 0);
  CHECK_EQUAL(cuMemcpyHtoDAsync_v2(d, p, 8, a), 0);
  CHECK_EQUAL(cuEventRecord(end, a), 0);
  CHECK_EQUAL(cuEventQuery(end), 600);
  CHECK_EQUAL(cuStreamWaitEvent(b, end, 0), 0);
  // Recorded again after the wait: the wait is for the first.
  CHECK_EQUAL(cuMemsetD8Async(device(8), 1, 8, a), 0);
  auto* copy = pinned(8);
  CHECK_EQUAL(cuMemcpyDtoHAsync_v2(copy, d, 8, b), 0);
  CHECK_EQUAL(cuStreamSynchronize(b), 0);
  CHECK_EQUAL(copy[0], 7);
  CHECK_EQUAL(cuEventSynchronize(end), 0);
  float milliseconds = 0;
  CHECK_EQUAL(cuEventElapsedTime(&milliseconds, start, end), 0);
  CHECK(milliseconds >= 38 && milliseconds < 2000);  // two operations of 20 ms
  CHECK_EQUAL(counter("events_recorded"), 2);
  CHECK_EQUAL(counter("events_queried"), 2);
  CHECK_EQUAL(counter("events_synchronized"), 1);
  void* untimed = event(2);
  CHECK_EQUAL(cuEventRecord(untimed, a), 0);
  CHECK_EQUAL(cuEventElapsedTime(&milliseconds, start, untimed), 400);
}

// Two streams work at the same time, and a copy beside a launch is counted.
static void streams_overlap() {
  open_device();
  void *a = stream(), *b = stream();
  auto* d = device<uint32_t>(64);
  auto* p = pinned(256);
  auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 3; ++i) {
    increment(d, 64, a);
    CHECK_EQUAL(cuMemcpyHtoDAsync_v2(device(256), p, 256, b), 0);
  }
  CHECK_EQUAL(cuCtxSynchronize(), 0);
  double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  CHECK(seconds < 6 * 0.05);  // six operations of 50 ms, one after another
  CHECK(counter("overlapped_copies") >= 2);
}

static void host_functions_run_on_the_stream() {
  open_device();
  void* s = stream();
  struct Seen {
    std::atomic<bool> done{false};
    std::thread::id thread;
    int inner = -1;
  } seen;
  CHECK_EQUAL(cuMemsetD8Async(device(8), 1, 8, s), 0);
  CHECK_EQUAL(cuLaunchHostFunc(s, [](void* p) {
    auto* to = static_cast<Seen*>(p);
    to->thread = std::this_thread::get_id();
    to->inner = cuCtxSynchronize();
    to->done = true;
  }, &seen), 0);
  CHECK(!seen.done);
  CHECK_EQUAL(cuStreamSynchronize(s), 0);
  CHECK(seen.done && seen.thread != std::this_thread::get_id());
  CHECK_EQUAL(seen.inner, 800);
}

static void default_stream_waits_for_blocking_streams() {
  open_device();
  void* blocking;
  auto* d = device(8);
  CHECK_EQUAL(cuStreamCreate(&blocking, 0), 0);
  CHECK_EQUAL(cuMemsetD8Async(d, 9, 8, blocking), 0);
  unsigned char out[8];
  CHECK_EQUAL(cuMemcpyDtoH_v2(out, d, 8), 0);
  CHECK_EQUAL(out[0], 9);
  void* free_running = stream();
  for (void* to : {device(8), device(8), d}) {
    CHECK_EQUAL(cuMemsetD8Async(to, 10, 8, free_running), 0);
  }
  CHECK_EQUAL(cuMemcpyDtoH_v2(out, d, 8), 0);
  CHECK_EQUAL(out[0], 9);
  CHECK_EQUAL(counter("default_stream_operations"), 2);
}

static void memory_is_poisoned_and_counted() {
  open_device();
  size_t before, after, total;
  CHECK_EQUAL(cuMemGetInfo_v2(&before, &total), 0);
  CHECK_EQUAL(total, 1000000);
  auto* d = device(1000);
  CHECK_EQUAL(cuMemGetInfo_v2(&after, &total), 0);
  CHECK_EQUAL(before - after, 1000);
  unsigned char out[1000];
  CHECK_EQUAL(cuMemcpyDtoH_v2(out, d, 1000), 0);
  CHECK_EQUAL(out[0] & out[999], 0xff);
  CHECK_EQUAL(pinned(10)[9], 0xff);
  void* large;
  CHECK_EQUAL(cuMemAlloc_v2(&large, 999001), 2);
  CHECK_EQUAL(cuMemAlloc_v2(&large, 999000), 0);
  CHECK_EQUAL(cuMemFree_v2(large), 0);
  CHECK_EQUAL(cuMemFree_v2(large), 1);
  CHECK_EQUAL(cuMemFree_v2(d + 1), 1);
  CHECK_EQUAL(cuMemFree_v2(d), 0);
  CHECK_EQUAL(counter("mistakes"), 2);
  CHECK_EQUAL(counter("device_allocations"), 2);
  CHECK_EQUAL(counter("device_frees"), 2);
  CHECK_EQUAL(counter("peak_device_bytes"), 1000000);
  CHECK_EQUAL(counter("device_bytes"), 0);
  CHECK_EQUAL(counter("host_bytes"), 10);
}

static void two_dimensional_copies() {
  open_device();
  struct {
    size_t x, y;
    unsigned type;
    const void *host, *device, *array;
    size_t pitch;
    size_t to_x, to_y;
    unsigned to_type;
    void *to_host, *to_device, *to_array;
    size_t to_pitch, width, height;
  } c{};
  auto* p = pinned(12);  // 3 rows of 4
  for (unsigned char i = 0; i < 12; ++i) p[i] = i;
  auto* d = device(20);
  void* s = stream();
  c.x = 1, c.y = 1, c.type = 1, c.host = p, c.pitch = 4;
  c.to_type = 2, c.to_device = d, c.to_pitch = 10, c.width = 3, c.height = 2;
  CHECK_EQUAL(cuMemcpy2DAsync_v2(&c, s), 0);
  CHECK_EQUAL(cuStreamSynchronize(s), 0);
  unsigned char out[20];
  CHECK_EQUAL(cuMemcpyDtoH_v2(out, d, 20), 0);
  const unsigned char wanted[] = {5, 6, 7, 0xff};
  CHECK(memcmp(out, wanted, 4) == 0);
  CHECK_EQUAL(out[10], 9);
  CHECK_EQUAL(out[13], 0xff);
  CHECK_EQUAL(counter("htod", "copy_bytes"), 6);
  c.to_pitch = 18;
  CHECK_EQUAL(cuMemcpy2DAsync_v2(&c, s), 0);
  CHECK_EQUAL(cuStreamSynchronize(s), 700);
}

static void illegal_addresses_stick_until_a_reset() {
  open_device();
  void *s = stream(), *d = device(16), *p = pinned(32);
  CHECK_EQUAL(cuMemcpyHtoDAsync_v2(d, p, 17, s), 0);
  CHECK_EQUAL(cuStreamSynchronize(s), 700);
  void* other;
  CHECK_EQUAL(cuMemAlloc_v2(&other, 1), 700);
  CHECK_EQUAL(cuStreamCreate(&other, 1), 700);
  CHECK_EQUAL(cuMemcpyHtoDAsync_v2(d, p, 1, s), 700);
  CHECK_EQUAL(cuMemFree_v2(d), 700);
  std::thread([] {
    CHECK_EQUAL(cuCtxSetCurrent(context), 0);
    CHECK_EQUAL(cuCtxSynchronize(), 700);
  }).join();
  CHECK_EQUAL(counter("faults"), 1);
  CHECK_EQUAL(cuDevicePrimaryCtxReset_v2(0), 0);
  CHECK_EQUAL(cuCtxSynchronize(), 709);
  open_device();
  CHECK_EQUAL(cuStreamSynchronize(s), 400);
  CHECK_EQUAL(cuMemFree_v2(d), 1);
  CHECK_EQUAL(counter("device_bytes"), 0);
  CHECK_EQUAL(counter("host_bytes"), 0);
  s = stream();
  CHECK_EQUAL(cuMemsetD8Async(device(4), 0, 4, s), 0);
  CHECK_EQUAL(cuStreamSynchronize(s), 0);
}

// Freed memory is no memory, also for what a kernel is told to touch.
static void launches_check_their_addresses() {
  open_device();
  void* s = stream();
  auto* d = device<uint32_t>(100);
  CHECK_EQUAL(cuMemsetD32Async(d, 41, 100, s), 0);
  increment(d, 100, s);
  uint32_t out[100];
  CHECK_EQUAL(cuStreamSynchronize(s), 0);
  CHECK_EQUAL(cuMemcpyDtoH_v2(out, d, sizeof out), 0);
  CHECK_EQUAL(out[0] + out[99], 84);
  CHECK_EQUAL(counter("fake_increment", "launches"), 1);
  increment(d, 101, s);
  CHECK_EQUAL(cuStreamSynchronize(s), 700);
}

static void modules_are_read() {
  open_device();
  void *module, *function;
  std::string ptx = INCREMENT;
  auto with = [&](const char* from, const char* to) {
    std::string changed = ptx;
    return changed.replace(changed.find(from), strlen(from), to);
  };
  CHECK_EQUAL(cuModuleLoadData(&module, "not PTX"), 218);
  CHECK_EQUAL(cuModuleLoadData(&module, "\x7f" "ELF"), 209);
  CHECK_EQUAL(cuModuleLoadData(&module, with("7.8", "8.5").c_str()), 222);
  CHECK_EQUAL(cuModuleLoadData(&module, with("7.8", "8.4").c_str()), 0);
  CHECK_EQUAL(cuModuleLoadData(&module, with("sm_70", "sm_75").c_str()), 209);
  CHECK_EQUAL(cuModuleLoadData(&module, ptx.c_str()), 0);
  CHECK_EQUAL(cuModuleGetFunction(&function, module, "none"), 500);
  CHECK_EQUAL(cuModuleGetFunction(&function, module, "fake_increment"), 0);
  void* d = device(4);
  uint32_t count = 1;
  void* arguments[] = {&d, &count};
  void* s = stream();
  auto launch = [&](unsigned grid, unsigned block) {
    return cuLaunchKernel(function, grid, 1, 1, block, 1, 1, 0, s, arguments, nullptr);
  };
  CHECK_EQUAL(launch(1, 257), 701);
  CHECK_EQUAL(launch(1, 1025), 1);
  CHECK_EQUAL(launch(0, 1), 1);
  CHECK_EQUAL(launch(1, 256), 0);
  CHECK_EQUAL(cuModuleUnload(module), 0);
  CHECK_EQUAL(launch(1, 1), 400);
}

static void graphs_replay_what_was_captured() {
  open_device();
  void *a = stream(), *b = stream(), *fork = event(2), *join = event(2);
  auto* d = device<uint32_t>(64);
  auto* e = device<uint32_t>(64);
  auto *in = pinned<uint32_t>(64), *out = pinned<uint32_t>(64);
  increment(d, 64, a);  // loads the module
  CHECK_EQUAL(cuCtxSynchronize(), 0);
  CHECK_EQUAL(cuStreamBeginCapture_v2(a, 0), 0);
  int status;
  CHECK_EQUAL(cuStreamIsCapturing(a, &status), 0);
  CHECK_EQUAL(status, 1);
  CHECK_EQUAL(cuMemcpyHtoDAsync_v2(d, in, 256, a), 0);
  CHECK_EQUAL(cuEventRecord(fork, a), 0);
  CHECK_EQUAL(cuStreamWaitEvent(b, fork, 0), 0);
  increment(d, 64, b);
  CHECK_EQUAL(cuMemsetD32Async(e, 1000, 64, a), 0);
  CHECK_EQUAL(cuEventRecord(join, b), 0);
  CHECK_EQUAL(cuStreamWaitEvent(a, join, 0), 0);
  increment(d, 64, a);
  CHECK_EQUAL(cuMemcpyDtoHAsync_v2(out, d, 256, a), 0);
  void *graph, *exec;
  CHECK_EQUAL(cuStreamEndCapture(a, &graph), 0);
  CHECK_EQUAL(cuStreamIsCapturing(b, &status), 0);
  CHECK_EQUAL(status, 0);
  size_t nodes = 0;
  CHECK_EQUAL(cuGraphGetNodes(graph, nullptr, &nodes), 0);
  CHECK_EQUAL(nodes, 5);
  CHECK_EQUAL(cuGraphInstantiateWithFlags(&exec, graph, 0), 0);
  CHECK_EQUAL(cuGraphDestroy(graph), 0);
  CHECK_EQUAL(counter("htod", "copies"), 0);
  for (uint32_t round = 0; round < 3; ++round) {
    for (int i = 0; i < 64; ++i) in[i] = 10 * round;
    CHECK_EQUAL(cuGraphLaunch(exec, b), 0);
    CHECK_EQUAL(cuStreamSynchronize(b), 0);
    CHECK_EQUAL(out[0], 10 * round + 2);
    CHECK_EQUAL(out[63], 10 * round + 2);
  }
  CHECK_EQUAL(counter("graph_launches"), 3);
  CHECK_EQUAL(counter("captures"), 1);
  CHECK_EQUAL(counter("fake_increment", "launches"), 7);
  CHECK_EQUAL(counter("htod", "copies"), 3);
  CHECK_EQUAL(cuGraphExecDestroy(exec), 0);
  CHECK_EQUAL(cuGraphLaunch(exec, b), 400);
}

// A missing edge shows: the replay runs what was captured later first, where it may.
static void graphs_show_missing_edges() {
  open_device();
  void *a = stream(), *b = stream(), *fork = event(2), *join = event(2);
  auto* d = device(8);
  auto* out = pinned(8);
  CHECK_EQUAL(cuStreamBeginCapture_v2(a, 1), 0);
  CHECK_EQUAL(cuEventRecord(fork, a), 0);
  CHECK_EQUAL(cuStreamWaitEvent(b, fork, 0), 0);
  CHECK_EQUAL(cuMemsetD8Async(d, 1, 8, a), 0);
  CHECK_EQUAL(cuMemcpyDtoHAsync_v2(out, d, 8, b), 0);  // wants to be after the memset
  CHECK_EQUAL(cuEventRecord(join, b), 0);
  CHECK_EQUAL(cuStreamWaitEvent(a, join, 0), 0);
  void *graph, *exec;
  CHECK_EQUAL(cuStreamEndCapture(a, &graph), 0);
  CHECK_EQUAL(cuGraphInstantiateWithFlags(&exec, graph, 0), 0);
  CHECK_EQUAL(cuGraphLaunch(exec, a), 0);
  CHECK_EQUAL(cuStreamSynchronize(a), 0);
  CHECK_EQUAL(out[0], 0xff);
}

static void captures_refuse_what_cuda_refuses() {
  open_device();
  void *a = stream(), *b = stream(), *e = event(2), *outside = event(2), *d = device(8), *graph, *made;
  unsigned char pageable[8];
  CHECK_EQUAL(cuEventRecord(outside, b), 0);
  CHECK_EQUAL(cuStreamSynchronize(b), 0);
  auto capture = [&](int mode, auto forbidden, int wanted, int at_end = 901) {
    CHECK_EQUAL(cuStreamBeginCapture_v2(a, mode), 0);
    CHECK_EQUAL(forbidden(), wanted);
    CHECK_EQUAL(cuStreamEndCapture(a, &graph), at_end);
  };
  capture(0, [&] { return cuStreamSynchronize(a); }, 900);
  capture(0, [&] { return cuStreamQuery(a); }, 900);
  capture(0, [&] { return cuMemAlloc_v2(&made, 8); }, 900);
  capture(1, [&] { return cuMemAlloc_v2(&made, 8); }, 900);
  capture(2, [&] { return cuMemAlloc_v2(&made, 8); }, 0, 0);
  capture(0, [&] { return cuEventQuery(outside); }, 900);
  capture(0, [&] { return cuCtxSynchronize(); }, 900);
  capture(0, [&] { return cuMemcpyHtoDAsync_v2(d, pageable, 8, a); }, 900);
  capture(0, [&] { return cuStreamWaitEvent(a, outside, 0); }, 905);
  auto elsewhere = [&] {
    int code = -1;
    std::thread([&] {
      cuCtxSetCurrent(context);
      void* other;
      code = cuMemAlloc_v2(&other, 8);
    }).join();
    return code;
  };
  capture(0, elsewhere, 900);
  capture(1, elsewhere, 0, 0);
  // Work that is not joined.
  CHECK_EQUAL(cuStreamBeginCapture_v2(a, 1), 0);
  CHECK_EQUAL(cuEventRecord(e, a), 0);
  CHECK_EQUAL(cuStreamWaitEvent(b, e, 0), 0);
  CHECK_EQUAL(cuMemsetD8Async(d, 0, 8, b), 0);
  CHECK_EQUAL(cuStreamEndCapture(a, &graph), 904);
  CHECK_EQUAL(cuEventQuery(e), 907);
  // The end on another stream, from another thread, without a beginning.
  CHECK_EQUAL(cuStreamEndCapture(a, &graph), 401);
  CHECK_EQUAL(cuStreamBeginCapture_v2(a, 1), 0);
  int code = 0;
  std::thread([&] {
    cuCtxSetCurrent(context);
    code = cuStreamEndCapture(a, &graph);
  }).join();
  CHECK_EQUAL(code, 908);
  CHECK_EQUAL(cuStreamEndCapture(a, &graph), 0);
  // All of it can be used again.
  CHECK_EQUAL(cuMemsetD8Async(d, 0, 8, a), 0);
  CHECK_EQUAL(cuStreamSynchronize(a), 0);
}

static void handles_have_an_end() {
  open_device();
  void *s = stream(), *e = event();
  CHECK_EQUAL(cuStreamDestroy_v2(s), 0);
  CHECK_EQUAL(cuStreamDestroy_v2(s), 400);
  CHECK_EQUAL(cuStreamSynchronize(s), 400);
  CHECK_EQUAL(cuEventRecord(e, s), 400);
  CHECK_EQUAL(cuEventDestroy_v2(e), 0);
  CHECK_EQUAL(cuEventQuery(e), 400);
  CHECK_EQUAL(cuCtxSetCurrent(nullptr), 0);
  void* made;
  CHECK_EQUAL(cuMemAlloc_v2(&made, 8), 201);
  CHECK_EQUAL(counter("mistakes"), 5);
  CHECK_EQUAL(counter("live_streams"), 0);
  CHECK_EQUAL(counter("live_events"), 0);
}

// Work that was queued is done, and its memory lives until then.
static void destroyed_streams_finish() {
  open_device();
  void *s = stream(), *d = device(8);
  auto* p = pinned(8);
  CHECK_EQUAL(cuMemsetD8Async(d, 3, 8, s), 0);
  CHECK_EQUAL(cuMemcpyDtoHAsync_v2(p, d, 8, s), 0);
  CHECK_EQUAL(cuStreamDestroy_v2(s), 0);
  CHECK_EQUAL(cuMemFree_v2(d), 0);
  CHECK_EQUAL(p[0], 3);
  CHECK_EQUAL(counter("frees_with_pending_work"), 1);
}

static void use_after_destroy() {  // aborts under STRICT
  open_device();
  void* s = stream();
  cuStreamDestroy_v2(s);
  cuStreamSynchronize(s);
}

static void no_device() {
  int count;
  CHECK_EQUAL(cuInit(0), 100);
  CHECK_EQUAL(cuDeviceGetCount(&count), 3);
}

static void device_is_as_asked() {
  int version, count, major, minor;
  char name[64];
  CHECK_EQUAL(cuDriverGetVersion(&version), 0);
  CHECK_EQUAL(version, 12020);
  open_device();
  CHECK_EQUAL(cuDeviceGetCount(&count), 0);
  CHECK_EQUAL(count, 2);
  CHECK_EQUAL(cuDeviceGetName(name, sizeof name, 0), 0);
  CHECK(strcmp(name, "Fake H100") == 0);  // CUDA_VISIBLE_DEVICES=2,0
  CHECK_EQUAL(cuDeviceGetName(name, sizeof name, 1), 0);
  CHECK(strcmp(name, "Fake V100") == 0);
  CHECK_EQUAL(cuDeviceGetAttribute(&major, 75, 0), 0);
  CHECK_EQUAL(cuDeviceGetAttribute(&minor, 76, 1), 0);
  CHECK_EQUAL(major * 10 + minor, 90);
  // One device's memory is not the other's.
  void *here = stream(), *d = device(8);
  CHECK_EQUAL(cuMemsetD8Async(d, 0, 8, here), 0);
  CHECK_EQUAL(cuStreamSynchronize(here), 0);
  open_device(1);
  CHECK_EQUAL(cuStreamSynchronize(here), 400);
  void* there = stream();
  CHECK_EQUAL(cuMemsetD8Async(d, 0, 8, there), 0);
  CHECK_EQUAL(cuStreamSynchronize(there), 700);
}

static void allocations_fail() {
  open_device();
  device(8);
  device(8);
  void* made;
  CHECK_EQUAL(cuMemAlloc_v2(&made, 8), 2);
}

static void copies_fail() {
  open_device();
  void *s = stream(), *d = device(8), *p = pinned(8);
  CHECK_EQUAL(cuMemcpyHtoDAsync_v2(d, p, 8, s), 0);
  CHECK_EQUAL(cuMemcpyHtoDAsync_v2(d, p, 8, s), 0);
  CHECK_EQUAL(cuMemcpyHtoDAsync_v2(d, p, 8, s), 304);
  CHECK_EQUAL(cuMemcpyHtoDAsync_v2(d, p, 8, s), 0);
  CHECK_EQUAL(cuStreamSynchronize(s), 0);
}

static void launches_stick() {
  open_device();
  void* s = stream();
  auto* d = device<uint32_t>(1);
  increment(d, 1, s);
  increment(d, 1, s);
  CHECK_EQUAL(cuStreamSynchronize(s), 0);
  if (const char* file = getenv("VISORD_FAKE_CUDA_STICKY_FILE")) {
    fclose(fopen(file, "w"));
    increment(d, 1, s);
    CHECK_EQUAL(cuStreamSynchronize(s), 700);
    CHECK(access(file, F_OK) != 0);
  } else {
    increment(d, 1, s);
    CHECK_EQUAL(cuStreamSynchronize(s), 700);
  }
  const char* fails = getenv("VISORD_FAKE_CUDA_RESET_FAILS");
  CHECK_EQUAL(cuDevicePrimaryCtxReset_v2(0), fails && *fails == '1' ? 700 : 0);
  CHECK_EQUAL(cuDevicePrimaryCtxRetain(&context, 0), fails ? 700 : 0);
  CHECK_EQUAL(counter("faults"), 0);  // it was asked for
}

static const Case cases[] = {
#define CASE(name) {#name, name}
    CASE(copies_run_later),
    CASE(events_order_streams),
    CASE(streams_overlap),
    CASE(host_functions_run_on_the_stream),
    CASE(default_stream_waits_for_blocking_streams),
    CASE(memory_is_poisoned_and_counted),
    CASE(two_dimensional_copies),
    CASE(illegal_addresses_stick_until_a_reset),
    CASE(launches_check_their_addresses),
    CASE(modules_are_read),
    CASE(graphs_replay_what_was_captured),
    CASE(graphs_show_missing_edges),
    CASE(captures_refuse_what_cuda_refuses),
    CASE(handles_have_an_end),
    CASE(destroyed_streams_finish),
    CASE(use_after_destroy),
    CASE(no_device),
    CASE(device_is_as_asked),
    CASE(allocations_fail),
    CASE(copies_fail),
    CASE(launches_stick),
};

int main(int argc, char** argv) { return run_cases(cases, argc, argv); }
