// The state of the fake driver. Device memory is host memory; every stream is a thread with a queue, so that what is
// asynchronous with CUDA is asynchronous here. One mutex guards everything but the work itself.
#pragma once
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#define API extern "C" __attribute__((visibility("default"))) fake::Code

namespace fake {

using Code = int;
// CUresult of the driver API.
enum : Code {
  OK = 0,
  INVALID_VALUE = 1,
  OUT_OF_MEMORY = 2,
  NOT_INITIALIZED = 3,
  NO_DEVICE = 100,
  INVALID_DEVICE = 101,
  INVALID_IMAGE = 200,
  INVALID_CONTEXT = 201,
  NO_BINARY_FOR_GPU = 209,
  INVALID_PTX = 218,
  UNSUPPORTED_PTX_VERSION = 222,
  OPERATING_SYSTEM = 304,
  INVALID_HANDLE = 400,
  ILLEGAL_STATE = 401,
  NOT_FOUND = 500,
  NOT_READY = 600,
  ILLEGAL_ADDRESS = 700,
  LAUNCH_OUT_OF_RESOURCES = 701,
  PRIMARY_CONTEXT_ACTIVE = 708,
  CONTEXT_IS_DESTROYED = 709,
  HOST_MEMORY_ALREADY_REGISTERED = 712,
  HOST_MEMORY_NOT_REGISTERED = 713,
  NOT_PERMITTED = 800,
  NOT_SUPPORTED = 801,
  CAPTURE_UNSUPPORTED = 900,
  CAPTURE_INVALIDATED = 901,
  CAPTURE_MERGE = 902,
  CAPTURE_UNMATCHED = 903,
  CAPTURE_UNJOINED = 904,
  CAPTURE_ISOLATION = 905,
  CAPTURED_EVENT = 907,
  CAPTURE_WRONG_THREAD = 908,
  GRAPH_EXEC_UPDATE_FAILURE = 910,
};

using Clock = std::chrono::steady_clock;

struct Context;
struct Stream;

// A moment in a stream: an event that was recorded, or the end of what was submitted so far.
struct Mark {
  bool done = false;
  Clock::time_point at;
};
using MarkPtr = std::shared_ptr<Mark>;

enum class Kind { Copy, Memset, Launch, Host, Graph, Free, Signal, Wait };

// One operation of a stream. `run` is called without the lock and gives a sticky error.
struct Op {
  Kind kind;
  std::string name;  // of a kernel, or the direction of a copy
  size_t bytes = 0;
  std::function<Code()> run;
  MarkPtr mark;         // of Signal and Wait
  bool always = false;  // runs in a failed context too
};
using OpPtr = std::shared_ptr<const Op>;

struct Node {
  OpPtr op;
  std::vector<size_t> after;
};

struct Capture {
  uint64_t id;
  int mode;  // 0 global, 1 thread-local, 2 relaxed
  std::thread::id thread;
  Stream* origin;
  bool invalid = false;
  std::vector<Node> nodes;
  std::set<Stream*> streams;
};
using CapturePtr = std::shared_ptr<Capture>;

// Handles are never deleted, so that a use after the end is seen. `alive` says whether it was destroyed.
struct Handle {
  Context* context;
  bool alive = true;
  explicit Handle(Context* c) : context(c) {}
  virtual ~Handle() = default;
};

struct Stream : Handle {
  unsigned flags;  // 1: does not wait for the default stream
  int priority;
  std::deque<OpPtr> queue;
  uint64_t submitted = 0, completed = 0;
  std::condition_variable work;
  CapturePtr capture;
  std::vector<size_t> tips;  // what the next node of the capture comes after
  Stream(Context* c, unsigned f, int p) : Handle(c), flags(f), priority(p) {}
};

struct Event : Handle {
  unsigned flags;
  MarkPtr mark;
  CapturePtr capture;
  std::vector<size_t> tips;
  Event(Context* c, unsigned f) : Handle(c), flags(f) {}
};

struct Graph : Handle {
  std::vector<Node> nodes;
  using Handle::Handle;
};

struct GraphExec : Handle {
  std::shared_ptr<const std::vector<Node>> nodes;
  std::shared_ptr<std::mutex> running = std::make_shared<std::mutex>();
  using Handle::Handle;
};

struct Device {
  int ordinal;
  std::string name;
  int major, minor;
  size_t memory_bytes;
  unsigned char uuid[16];
};

// The primary context of a device. Its address outlives a reset, as the driver's does.
struct Context {
  Device device;
  bool active = false;
  int retained = 0;
  unsigned flags = 0;
  Code error = OK;
  size_t used_bytes = 0;
  Stream* default_stream = nullptr;
  bool default_stream_used = false;
};

struct Block {
  size_t bytes;
  Context* context;
  enum Kind { Device, Pinned, Registered } kind;
};

struct Settings {
  int devices;
  int driver_version;
  long delay_microseconds;
  long fail_alloc_after;
  long fail_copy_every;
  long fail_copy_code;
  long sticky_after;
  std::string sticky_file;
  int reset_fails;
  bool strict;
  std::string counters_file;
};

struct Counters {
  std::map<std::string, uint64_t> calls, launches, copies, copy_bytes;
  uint64_t device_allocations = 0, device_frees = 0, host_allocations = 0, host_frees = 0;
  uint64_t events_recorded = 0, events_queried = 0, events_synchronized = 0, stream_synchronizations = 0;
  uint64_t graph_launches = 0, captures = 0, host_functions = 0, memsets = 0, pageable_copies = 0;
  uint64_t default_stream_operations = 0, overlapped_copies = 0, frees_with_pending_work = 0, resets = 0;
  size_t peak_device_bytes = 0, device_bytes = 0, host_bytes = 0;
  uint64_t mistakes = 0, faults = 0;
  std::string last_mistake, last_fault;
};

// Lives until the process ends: detached workers use it then.
struct State {
  std::mutex mutex;
  std::condition_variable progress;  // an operation was completed
  bool initialized = false;
  Settings settings;
  Counters counters;
  std::vector<Context*> contexts;  // one for each visible device
  std::map<const void*, std::unique_ptr<Handle>> handles;
  std::map<uintptr_t, Block> blocks;
  std::set<Capture*> captures;
  uint64_t capture_ids = 0;
  long allocations = 0, copies = 0, launches = 0;
  int copies_running = 0, launches_running = 0;
};
State& state();

// counters.cpp
Settings read_settings();
void start_counters();
/// A call that a correct program does not make. Aborts under VISORD_FAKE_CUDA_STRICT=1; else gives `code`.
Code mistake(Code code, const char* format, ...) __attribute__((format(printf, 2, 3)));
/// An access outside live memory. Aborts under VISORD_FAKE_CUDA_STRICT=1; else gives ILLEGAL_ADDRESS.
Code fault(const char* format, ...) __attribute__((format(printf, 1, 2)));

// What a call asks for before it does anything.
enum Rule : unsigned {
  ANYTIME = 0,      // before cuInit too
  INIT = 1,         // cuInit
  CONTEXT = 3,      // a current context that has not failed
  FAILED_TOO = 4,   // with CONTEXT: a failed one will do
  NO_CAPTURE = 8,   // not while a capture forbids it
};

// One API call: takes the lock, counts the call, checks its rules.
struct Call {
  std::unique_lock<std::mutex> lock;
  Code code = OK;
  Context* context = nullptr;
  Call(const char* name, unsigned rules);
};
#define ENTER(rules)            \
  fake::Call call(__func__, rules); \
  if (call.code) return call.code

Context*& current();

template <class T, class... A>
T* create(A... arguments) {
  auto made = std::make_unique<T>(arguments...);
  T* handle = made.get();
  state().handles[handle] = std::move(made);
  return handle;
}

// The living object behind a handle, or null and a mistake.
template <class T>
T* living(const void* handle, const char* what) {
  auto found = state().handles.find(handle);
  T* object = found == state().handles.end() ? nullptr : dynamic_cast<T*>(found->second.get());
  if (!object) {
    mistake(INVALID_HANDLE, "%p is no %s", handle, what);
  } else if (!object->alive) {
    mistake(INVALID_HANDLE, "%s %p was destroyed", what, handle);
    object = nullptr;
  }
  return object;
}

// stream.cpp
Stream* find_stream(const Call& call, void* handle);
/// Queues or captures an operation; a capture that is broken gives its error.
Code submit(Stream* stream, OpPtr op);
/// Runs one operation on the calling worker, with delay, counters and injected faults.
Code execute(Context* context, const Op& op, std::unique_lock<std::mutex>& lock);
/// Waits until the stream has done what was submitted so far.
void drain(Stream* stream, std::unique_lock<std::mutex>& lock);
/// Waits for all streams of a context; false if none had work.
bool drain_all(Context* context, std::unique_lock<std::mutex>& lock);
OpPtr operation(Kind kind, std::string name, size_t bytes, std::function<Code()> run);

// graph.cpp
/// Breaks the capture that `stream` is in, and gives CAPTURE_UNSUPPORTED.
Code forbidden(Stream* stream, const char* what);
Code record_captured(Stream* stream, Event* event);
Code wait_captured(Stream* stream, Event* event);
Code capture(Stream* stream, OpPtr op);

// memory.cpp
/// OK if `[address, address + bytes)` is inside one live block of device memory of `context`, else a fault.
Code check_device(Context* context, const void* address, size_t bytes, const char* what);
/// The same for pinned host memory, without a fault.
bool is_pinned(const void* address, size_t bytes);
void free_all(Context* context);

}  // namespace fake
