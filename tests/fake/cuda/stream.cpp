// Streams with their workers, events, host functions, and the door for the fake libraries of the device.
#include "driver.h"

#include <algorithm>
#include <cstdio>
#include <dlfcn.h>
#include <unistd.h>

namespace fake {

extern thread_local bool in_host_function;
// The context whose operation runs on this worker.
static thread_local Context* running = nullptr;
static thread_local Code touched = OK;

OpPtr operation(Kind kind, std::string name, size_t bytes, std::function<Code()> run) {
  auto op = std::make_shared<Op>();
  op->kind = kind;
  op->name = std::move(name);
  op->bytes = bytes;
  op->run = std::move(run);
  return op;
}

// An error that tests asked for; taken before the launch that it stands for.
static Code injected_fault() {
  State& s = state();
  ++s.launches;
  bool now = s.settings.sticky_after >= 0 && s.launches == s.settings.sticky_after + 1;
  if (!s.settings.sticky_file.empty() && unlink(s.settings.sticky_file.c_str()) == 0) now = true;
  return now ? ILLEGAL_ADDRESS : OK;
}

Code execute(Context* context, const Op& op, std::unique_lock<std::mutex>& lock) {
  State& s = state();
  if (context->error && !op.always) return context->error;
  Code code = OK;
  switch (op.kind) {
    case Kind::Copy:
      ++s.counters.copies[op.name];
      s.counters.copy_bytes[op.name] += op.bytes;
      ++s.copies_running;
      s.counters.overlapped_copies += s.launches_running > 0;
      break;
    case Kind::Launch:
      ++s.counters.launches[op.name];
      ++s.launches_running;
      s.counters.overlapped_copies += static_cast<uint64_t>(s.copies_running);
      code = injected_fault();
      break;
    case Kind::Memset: ++s.counters.memsets; break;
    case Kind::Host: ++s.counters.host_functions; break;
    case Kind::Graph: ++s.counters.graph_launches; break;
    case Kind::Free: case Kind::Signal: case Kind::Wait: break;
  }
  long delay = op.kind == Kind::Graph ? 0 : s.settings.delay_microseconds;
  lock.unlock();
  if (delay > 0) std::this_thread::sleep_for(std::chrono::microseconds(delay));
  running = context;
  touched = OK;
  if (!code) code = op.run();
  if (!code) code = touched;
  running = nullptr;
  lock.lock();
  s.copies_running -= op.kind == Kind::Copy;
  s.launches_running -= op.kind == Kind::Launch;
  if (code && !context->error) context->error = code;
  return code;
}

static void work(Stream* stream) {
  std::unique_lock<std::mutex> lock(state().mutex);
  for (;;) {
    stream->work.wait(lock, [&] { return !stream->queue.empty() || !stream->alive; });
    if (stream->queue.empty()) return;
    OpPtr op = stream->queue.front();
    if (op->kind == Kind::Wait) {
      state().progress.wait(lock, [&] { return op->mark->done; });
    } else if (op->kind == Kind::Signal) {
      op->mark->at = Clock::now();
      op->mark->done = true;
    } else {
      execute(stream->context, *op, lock);
    }
    stream->queue.pop_front();
    ++stream->completed;
    state().progress.notify_all();
  }
}

static Stream* start(Context* context, unsigned flags, int priority) {
  Stream* stream = create<Stream>(context, flags, priority);
  std::thread(work, stream).detach();
  return stream;
}

static Stream* default_stream(Context* context) {
  if (!context->default_stream) context->default_stream = start(context, 0, 0);
  return context->default_stream;
}

Stream* find_stream(const Call& call, void* handle) {
  uintptr_t value = reinterpret_cast<uintptr_t>(handle);
  if (value <= 2) return default_stream(call.context);  // 0 and 1: legacy, 2: per thread, taken for the same
  Stream* stream = living<Stream>(handle, "stream");
  if (stream && stream->context != call.context) {
    mistake(INVALID_HANDLE, "stream %p belongs to device %d, the current context to %d", handle,
            stream->context->device.ordinal, call.context->device.ordinal);
    return nullptr;
  }
  return stream;
}

static void push(Stream* stream, OpPtr op) {
  stream->queue.push_back(std::move(op));
  ++stream->submitted;
  stream->work.notify_one();
}

static OpPtr marking(Kind kind, MarkPtr mark) {
  auto op = std::make_shared<Op>();
  op->kind = kind;
  op->mark = std::move(mark);
  return op;
}

static MarkPtr tail(Stream* stream) {
  auto mark = std::make_shared<Mark>();
  push(stream, marking(Kind::Signal, mark));
  return mark;
}

// The default stream waits for the blocking ones and they for it.
static void order_with_default(Stream* stream) {
  Context* context = stream->context;
  if (stream == context->default_stream) {
    context->default_stream_used = true;
    ++state().counters.default_stream_operations;
    std::vector<Stream*> others;
    for (auto& [address, handle] : state().handles) {
      auto* other = dynamic_cast<Stream*>(handle.get());
      if (other && other != stream && other->alive && other->context == context && !(other->flags & 1) &&
          other->completed != other->submitted) {
        others.push_back(other);
      }
    }
    for (Stream* other : others) push(stream, marking(Kind::Wait, tail(other)));
  } else if (!(stream->flags & 1) && context->default_stream_used &&
             context->default_stream->completed != context->default_stream->submitted) {
    push(stream, marking(Kind::Wait, tail(context->default_stream)));
  }
}

Code submit(Stream* stream, OpPtr op) {
  if (stream->capture) return capture(stream, std::move(op));
  order_with_default(stream);
  push(stream, std::move(op));
  return OK;
}

void drain(Stream* stream, std::unique_lock<std::mutex>& lock) {
  uint64_t until = stream->submitted;
  state().progress.wait(lock, [&] { return stream->completed >= until; });
}

bool drain_all(Context* context, std::unique_lock<std::mutex>& lock) {
  std::vector<Stream*> streams;
  for (auto& [address, handle] : state().handles) {
    auto* stream = dynamic_cast<Stream*>(handle.get());
    if (stream && stream->context == context) streams.push_back(stream);
  }
  bool busy = std::any_of(streams.begin(), streams.end(), [](Stream* s) { return s->completed != s->submitted; });
  for (Stream* stream : streams) drain(stream, lock);
  return busy;
}

}  // namespace fake

using namespace fake;

API cuStreamCreateWithPriority(void** stream, unsigned flags, int priority) {
  ENTER(CONTEXT);
  if (!stream || flags > 1) return INVALID_VALUE;
  *stream = start(call.context, flags, std::max(-5, std::min(0, priority)));
  return OK;
}

API cuStreamCreate(void** stream, unsigned flags) {
  ENTER(CONTEXT);
  if (!stream || flags > 1) return INVALID_VALUE;
  *stream = start(call.context, flags, 0);
  return OK;
}

// What is queued is still done.
API cuStreamDestroy_v2(void* handle) {
  ENTER(CONTEXT | FAILED_TOO);
  Stream* stream = living<Stream>(handle, "stream");
  if (!stream) return INVALID_HANDLE;
  if (stream->capture) return forbidden(stream, __func__);
  stream->alive = false;
  stream->work.notify_one();
  return call.context->error;
}

API cuStreamQuery(void* handle) {
  ENTER(CONTEXT);
  Stream* stream = find_stream(call, handle);
  if (!stream) return INVALID_HANDLE;
  if (stream->capture) return forbidden(stream, __func__);
  return stream->completed == stream->submitted ? OK : NOT_READY;
}

API cuStreamSynchronize(void* handle) {
  ENTER(CONTEXT);
  Stream* stream = find_stream(call, handle);
  if (!stream) return INVALID_HANDLE;
  if (stream->capture) return forbidden(stream, __func__);
  ++state().counters.stream_synchronizations;
  drain(stream, call.lock);
  return call.context->error;
}

API cuStreamGetPriority(void* handle, int* priority) {
  ENTER(CONTEXT);
  Stream* stream = find_stream(call, handle);
  if (!stream) return INVALID_HANDLE;
  *priority = stream->priority;
  return OK;
}

API cuStreamGetFlags(void* handle, unsigned* flags) {
  ENTER(CONTEXT);
  Stream* stream = find_stream(call, handle);
  if (!stream) return INVALID_HANDLE;
  *flags = stream->flags;
  return OK;
}

API cuStreamGetCtx(void* handle, Context** context) {
  ENTER(CONTEXT);
  Stream* stream = find_stream(call, handle);
  if (!stream) return INVALID_HANDLE;
  *context = stream->context;
  return OK;
}

API cuStreamWaitEvent(void* stream_handle, void* event_handle, unsigned) {
  ENTER(CONTEXT);
  Stream* stream = find_stream(call, stream_handle);
  Event* event = living<Event>(event_handle, "event");
  if (!stream || !event) return INVALID_HANDLE;
  if (stream->capture || event->capture) return wait_captured(stream, event);
  if (!event->mark || event->mark->done) return OK;
  push(stream, marking(Kind::Wait, event->mark));
  return OK;
}

API cuLaunchHostFunc(void* handle, void (*function)(void*), void* argument) {
  ENTER(CONTEXT);
  Stream* stream = find_stream(call, handle);
  if (!stream) return INVALID_HANDLE;
  if (!function) return INVALID_VALUE;
  return submit(stream, operation(Kind::Host, "", 0, [function, argument] {
                  in_host_function = true;
                  function(argument);
                  in_host_function = false;
                  return OK;
                }));
}

API cuEventCreate(void** event, unsigned flags) {
  ENTER(CONTEXT);
  if (!event || flags > 7) return INVALID_VALUE;
  *event = create<Event>(call.context, flags);
  return OK;
}

API cuEventDestroy_v2(void* handle) {
  ENTER(CONTEXT | FAILED_TOO);
  Event* event = living<Event>(handle, "event");
  if (!event) return INVALID_HANDLE;
  event->alive = false;
  return call.context->error;
}

API cuEventRecord(void* event_handle, void* stream_handle) {
  ENTER(CONTEXT);
  Event* event = living<Event>(event_handle, "event");
  Stream* stream = find_stream(call, stream_handle);
  if (!stream || !event) return INVALID_HANDLE;
  if (event->context != stream->context) {
    return mistake(INVALID_HANDLE, "event of device %d recorded in a stream of device %d",
                   event->context->device.ordinal, stream->context->device.ordinal);
  }
  if (stream->capture) return record_captured(stream, event);
  ++state().counters.events_recorded;
  event->capture = nullptr;
  event->mark = std::make_shared<Mark>();
  return submit(stream, marking(Kind::Signal, event->mark));
}

API cuEventRecordWithFlags(void* event, void* stream, unsigned flags) {
  return flags ? INVALID_VALUE : cuEventRecord(event, stream);
}

API cuEventQuery(void* handle) {
  ENTER(CONTEXT | NO_CAPTURE);
  Event* event = living<Event>(handle, "event");
  if (!event) return INVALID_HANDLE;
  ++state().counters.events_queried;
  if (event->capture) return mistake(CAPTURED_EVENT, "query of an event that was recorded in a capture");
  return !event->mark || event->mark->done ? OK : NOT_READY;
}

API cuEventSynchronize(void* handle) {
  ENTER(CONTEXT | NO_CAPTURE);
  Event* event = living<Event>(handle, "event");
  if (!event) return INVALID_HANDLE;
  ++state().counters.events_synchronized;
  if (event->capture) return mistake(CAPTURED_EVENT, "synchronizing on an event that was recorded in a capture");
  if (MarkPtr mark = event->mark) state().progress.wait(call.lock, [&] { return mark->done; });
  return call.context->error;
}

static Code elapsed(float* milliseconds, Context* context, void* from, void* to) {
  if (!milliseconds) return INVALID_VALUE;
  Event* start = living<Event>(from, "event");
  Event* end = living<Event>(to, "event");
  if (!start || !end) return INVALID_HANDLE;
  // 2: the event was made without timing.
  if ((start->flags & 2) || (end->flags & 2) || !start->mark || !end->mark) {
    return mistake(INVALID_HANDLE, "elapsed time of events that keep none");
  }
  if (context->error) return context->error;
  if (!start->mark->done || !end->mark->done) return NOT_READY;
  *milliseconds = std::chrono::duration<float, std::milli>(end->mark->at - start->mark->at).count();
  return OK;
}

API cuEventElapsedTime(float* milliseconds, void* from, void* to) {
  ENTER(CONTEXT);
  return elapsed(milliseconds, call.context, from, to);
}

API cuEventElapsedTime_v2(float* milliseconds, void* from, void* to) {
  ENTER(CONTEXT);
  return elapsed(milliseconds, call.context, from, to);
}

// For the fake libnvinfer and libnvjpeg, which find these with dlsym.

/// Queues `function(argument)` on `stream` as a launch, captured like one; `release(argument)` follows when it cannot
/// run again. The launch is counted as "engine" for a function of libnvinfer, else under its library's name.
API visordFakeCudaEnqueue(void* handle, void (*function)(void*), void* argument, void (*release)(void*)) {
  std::shared_ptr<void> held(argument, [release](void* a) {
    if (release) release(a);
  });
  ENTER(CONTEXT);
  Stream* stream = find_stream(call, handle);
  if (!stream) return INVALID_HANDLE;
  std::string name = "library";
  Dl_info library;
  if (dladdr(reinterpret_cast<void*>(function), &library) && library.dli_fname) {
    name = library.dli_fname;
    name = name.substr(name.rfind('/') + 1);
    if (name.rfind("lib", 0) == 0) name = name.substr(3, name.find('.') - 3);
    if (name == "nvinfer") name = "engine";
  }
  return submit(stream, operation(Kind::Launch, name, 0, [function, held] {
                  function(held.get());
                  return OK;
                }));
}

/// From inside such a function: may the device use `[address, address + bytes)`? Where not, the error is sticky from
/// here on, and the function should return.
API visordFakeCudaTouch(const void* address, size_t bytes) {
  std::lock_guard<std::mutex> guard(state().mutex);
  if (!running) return mistake(NOT_PERMITTED, "visordFakeCudaTouch outside an operation");
  if (Code code = check_device(running, address, bytes, "library")) touched = code;
  return touched;
}
