// What nvJPEG's handles point to, the checks of every call, and queued work.
#pragma once
#include "library.h"

#include <memory>
#include <mutex>
#include <set>
#include <cstring>

namespace fake {

enum class Kind : uint32_t { Codec = 0x76697301, Stream, State, Params, Decoder, Pinned, Device };

inline const char* name_of(Kind kind) {
  switch (kind) {
    case Kind::Codec: return "handle";
    case Kind::Stream: return "JPEG stream";
    case Kind::State: return "state";
    case Kind::Params: return "decode parameters";
    case Kind::Decoder: return "decoder";
    case Kind::Pinned: return "pinned buffer";
    case Kind::Device: return "device buffer";
  }
  return "?";
}

struct Codec;

// What a handle points to. Never deleted, so that a use after the end is seen.
struct Object {
  Kind kind;
  Codec* codec;
  bool alive = true;
  std::atomic<bool> entered{false};  // some thread is inside a call with it
  std::atomic<int> in_flight{0};     // queued device work that uses it
  Object(Kind k, Codec* c) : kind(k), codec(c) {}
};

struct Codec : Object {
  int backend;
  void* context;
  std::atomic<int> children{0};
  Codec(int b, void* c) : Object(Kind::Codec, this), backend(b), context(c) {}
};

struct Stream : Object {
  const unsigned char* data = nullptr;
  size_t length = 0;
  Header header{};
  bool parsed = false, whole = false;
  using Object::Object;
};

struct Params : Object {
  int format = 0;
  using Object::Object;
};

struct Decoder : Object {
  int backend = 0;
  using Object::Object;
};

// Memory that grows, as nvJPEG's buffers do.
struct Buffer : Object {
  unsigned char* bytes = nullptr;
  size_t size = 0;
  using Object::Object;
  Status grow(size_t wanted) {
    if (wanted <= size) return SUCCESS;
    free();
    void* made = nullptr;
    int code = kind == Kind::Device ? driver()->cuMemAlloc_v2(&made, wanted) : driver()->cuMemHostAlloc(&made, wanted, 0);
    if (code) return ALLOCATOR_FAILURE;
    bytes = static_cast<unsigned char*>(made);
    size = wanted;
    return SUCCESS;
  }
  void free() {
    if (bytes) kind == Kind::Device ? driver()->cuMemFree_v2(bytes) : driver()->cuMemFreeHost(bytes);
    bytes = nullptr;
    size = 0;
  }
};

enum class Phase { Idle, Host, Transferred };

struct State : Object {
  Decoder* decoder = nullptr;  // null: for batches
  int batch_size = 0;
  Buffer staging;
  Buffer* pinned = nullptr;
  Buffer* device = nullptr;
  Phase phase = Phase::Idle;
  Stream* picture = nullptr;
  Header header{};
  State(Kind k, Codec* c) : Object(k, c), staging(Kind::Pinned, c) {}
};

inline std::mutex living_mutex;
inline std::set<const void*> living;

// Checks an object for one call, and keeps other threads out of it for as long.
template <class T>
struct Use {
  T* object;
  Use(T* given, Kind kind, const char* call) : object(given) {
    if (!given) die(call, "the %s is null", name_of(kind));
    {
      std::lock_guard<std::mutex> guard(living_mutex);
      if (!living.count(static_cast<Object*>(given))) die(call, "%p is no object of nvJPEG", static_cast<void*>(given));
    }
    if (given->kind != kind) die(call, "a %s was given for a %s", name_of(given->kind), name_of(kind));
    if (!given->alive) die(call, "the %s was destroyed", name_of(kind));
    void* context = nullptr;
    if (driver()->cuCtxGetCurrent(&context) || context != given->codec->context) {
      die(call, "the %s is of another context than the current one", name_of(kind));
    }
    if (kind != Kind::Codec && given->entered.exchange(true)) die(call, "two threads use one %s", name_of(kind));
  }
  ~Use() { object->entered.store(false); }
  T* operator->() const { return object; }
  void idle(const char* call) const {
    if (object->in_flight) die(call, "work in flight uses the %s", name_of(object->kind));
  }
};

#define BEGIN count(__func__)
#define USE(name, type, kind) Use<type> name(static_cast<type*>(name##_handle), Kind::kind, __func__)
#define NOT_NULL(pointer) \
  if (!(pointer)) die(__func__, #pointer " is null")

template <class T>
T* make(Kind kind, Codec* codec) {
  T* made = new T(kind, codec);
  ++codec->children;
  std::lock_guard<std::mutex> guard(living_mutex);
  living.insert(static_cast<Object*>(made));
  return made;
}

template <class T>
void end(Use<T>& use, const char* call) {
  use.idle(call);
  use->alive = false;
  --use->codec->children;
}

// Queued work: copies rows. Holds what it uses as in flight until it cannot run any more.
struct Copy {
  const unsigned char* from;
  bool from_device;
  unsigned char* to;
  size_t pitch, row, rows;
};

struct Job {
  std::vector<Copy> copies;
  std::vector<Object*> held;
  explicit Job(std::vector<Object*> objects) : held(std::move(objects)) {
    for (Object* object : held) ++object->in_flight;
  }
  ~Job() {
    for (Object* object : held) --object->in_flight;
  }
};

inline void run(void* argument) {
  for (const Copy& copy : static_cast<Job*>(argument)->copies) {
    if (copy.from_device && driver()->visordFakeCudaTouch(copy.from, copy.row * copy.rows)) return;
    if (driver()->visordFakeCudaTouch(copy.to, copy.pitch * (copy.rows - 1) + copy.row)) return;
    for (size_t y = 0; y < copy.rows; ++y) memcpy(copy.to + y * copy.pitch, copy.from + y * copy.row, copy.row);
  }
}

inline Status enqueue(const char* call, void* stream, std::unique_ptr<Job> job) {
  int capturing = 0;
  if (driver()->cuStreamIsCapturing(stream, &capturing)) return EXECUTION_FAILED;
  if (capturing) die(call, "the stream is being captured");
  auto release = [](void* argument) { delete static_cast<Job*>(argument); };
  return driver()->visordFakeCudaEnqueue(stream, run, job.release(), release) ? EXECUTION_FAILED : SUCCESS;
}

}  // namespace fake
