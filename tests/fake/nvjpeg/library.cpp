// Settings, counters, and the way to the fake driver.
#include "library.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#include <map>
#include <mutex>
#include <type_traits>
#include <unistd.h>

namespace fake {

const char* setting(const char* name) {
  const char* found = getenv((std::string("VISORD_FAKE_NVJPEG_") + name).c_str());
  return found && *found ? found : nullptr;
}

void die(const char* call, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fprintf(stderr, "fake nvjpeg: %s: ", call);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  va_end(arguments);
  abort();
}

// Lives until the process ends: other threads may still count then.
struct Counters {
  std::mutex mutex;
  std::map<std::string, uint64_t> calls, pictures;
  std::map<size_t, uint64_t> batches;
};

static Counters& counters() {
  static Counters* const only = new Counters;
  return *only;
}

void count(const char* call) {
  std::lock_guard<std::mutex> guard(counters().mutex);
  ++counters().calls[call];
}

void count_picture(const char* way) {
  std::lock_guard<std::mutex> guard(counters().mutex);
  ++counters().pictures[way];
}

void count_batch(size_t size) {
  std::lock_guard<std::mutex> guard(counters().mutex);
  ++counters().batches[size];
}

template <class Map>
static void write(FILE* out, const char* name, const Map& map) {
  fprintf(out, "\"%s\": {", name);
  const char* comma = "";
  for (const auto& [key, value] : map) {
    if constexpr (std::is_same_v<std::decay_t<decltype(key)>, std::string>) {
      fprintf(out, "%s\"%s\": %llu", comma, key.c_str(), static_cast<unsigned long long>(value));
    } else {
      fprintf(out, "%s\"%zu\": %llu", comma, key, static_cast<unsigned long long>(value));
    }
    comma = ", ";
  }
  fprintf(out, "}");
}

__attribute__((destructor)) static void write_counters() {
  const char* file = setting("COUNTERS");
  if (!file) return;
  std::lock_guard<std::mutex> guard(counters().mutex);
  std::string made = std::string(file) + "." + std::to_string(getpid());
  FILE* out = fopen(made.c_str(), "w");
  if (!out) return;
  fprintf(out, "{");
  write(out, "calls", counters().calls);
  fprintf(out, ",\n ");
  write(out, "pictures", counters().pictures);
  fprintf(out, ",\n ");
  write(out, "batches", counters().batches);
  fprintf(out, "}\n");
  fclose(out);
  rename(made.c_str(), file);
}

bool fails_now() {
  static std::atomic<long> calls{0};
  const char* every = setting("FAIL_EVERY");
  long n = every ? atol(every) : 0;
  return n > 0 && ++calls % n == 0;
}

bool rejected(const Header& header) {
  std::string list = std::string(",") + (setting("REJECT") ? setting("REJECT") : "") + ",";
  auto lists = [&](const std::string& kind) { return list.find("," + kind + ",") != std::string::npos; };
  return lists("all") || lists(header.progressive ? "progressive" : "baseline") || lists(header.sampling);
}

static const Driver* open_driver() {
  void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library) return nullptr;
  static Driver found;
  bool whole = true;
  auto find = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
    whole = whole && function;
  };
#define FIND(name) find(found.name, #name)
  FIND(cuInit);
  FIND(cuDeviceGetCount);
  FIND(cuCtxGetCurrent);
  FIND(cuMemAlloc_v2);
  FIND(cuMemFree_v2);
  FIND(cuMemHostAlloc);
  FIND(cuMemFreeHost);
  FIND(cuStreamIsCapturing);
  FIND(visordFakeCudaEnqueue);
  FIND(visordFakeCudaTouch);
#undef FIND
  int devices = 0;
  return whole && found.cuInit(0) == 0 && found.cuDeviceGetCount(&devices) == 0 && devices > 0 ? &found : nullptr;
}

const Driver* driver() {
  static const Driver* const only = open_driver();
  return only;
}

}  // namespace fake
