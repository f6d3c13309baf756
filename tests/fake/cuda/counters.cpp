// Settings from the environment, counters and their JSON, mistakes and faults.
#include "driver.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <unistd.h>

namespace fake {

State& state() {
  static State* const only = new State;
  return *only;
}

static const char* text(const char* name, const char* otherwise) {
  const char* found = getenv((std::string("VISORD_FAKE_CUDA_") + name).c_str());
  return found && *found ? found : otherwise;
}

static long number(const char* name, long otherwise) {
  const char* found = text(name, nullptr);
  if (!found) return otherwise;
  char* end;
  long value = strtol(found, &end, 10);
  if (*end) {
    fprintf(stderr, "fake cuda: VISORD_FAKE_CUDA_%s=%s is not a number\n", name, found);
    abort();
  }
  return value;
}

// The value for one device from a comma-separated list, whose last one holds for the rest.
static std::string of_device(const char* name, const char* otherwise, int ordinal) {
  std::string list = text(name, otherwise);
  for (size_t comma; ordinal-- > 0 && (comma = list.find(',')) != std::string::npos;) list.erase(0, comma + 1);
  return list.substr(0, list.find(','));
}

static Device device(int ordinal) {
  Device made{};
  made.ordinal = ordinal;
  made.name = of_device("NAME", "Fake Tesla V100-SXM2-16GB", ordinal);
  if (sscanf(of_device("COMPUTE_CAPABILITY", "7.0", ordinal).c_str(), "%d.%d", &made.major, &made.minor) != 2) {
    fprintf(stderr, "fake cuda: VISORD_FAKE_CUDA_COMPUTE_CAPABILITY wants MAJOR.MINOR\n");
    abort();
  }
  made.memory_bytes = strtoull(of_device("MEMORY_BYTES", "17179869184", ordinal).c_str(), nullptr, 10);
  for (int i = 0; i < 16; ++i) made.uuid[i] = static_cast<unsigned char>(0xf0 + ordinal * 16 + i);
  return made;
}

// "GPU-" and the identifier in hexadecimal, as nvidia-smi writes it.
static std::string uuid_text(const Device& d) {
  std::string out = "GPU-";
  for (int i = 0; i < 16; ++i) {
    char pair[3];
    snprintf(pair, sizeof pair, "%02x", d.uuid[i]);
    out += pair;
    if (i == 3 || i == 5 || i == 7 || i == 9) out += '-';
  }
  return out;
}

Settings read_settings() {
  Settings s;
  s.devices = static_cast<int>(number("DEVICES", 1));
  s.driver_version = static_cast<int>(number("DRIVER_VERSION", 12040));
  s.delay_microseconds = number("DELAY_MICROSECONDS", 0);
  s.fail_alloc_after = number("FAIL_ALLOC_AFTER", -1);
  s.fail_copy_every = number("FAIL_COPY_EVERY", 0);
  s.fail_copy_code = number("FAIL_COPY_CODE", OPERATING_SYSTEM);
  s.sticky_after = number("STICKY_AFTER", -1);
  s.sticky_file = text("STICKY_FILE", "");
  s.reset_fails = static_cast<int>(number("RESET_FAILS", 0));
  s.strict = number("STRICT", 0) != 0;
  s.counters_file = text("COUNTERS", "");

  std::vector<Device> all;
  for (int i = 0; i < s.devices; ++i) all.push_back(device(i));
  std::vector<Device> seen = all;
  if (const char* visible = getenv("CUDA_VISIBLE_DEVICES")) {
    // Ordinals or identifiers (a prefix will do); the first one that fits no device ends the list.
    seen.clear();
    std::string list = visible;
    while (!list.empty()) {
      size_t comma = list.find(',');
      std::string one = list.substr(0, comma);
      list.erase(0, comma == std::string::npos ? list.size() : comma + 1);
      const Device* found = nullptr;
      for (const Device& d : all) {
        if (one == std::to_string(d.ordinal) || (one.rfind("GPU-", 0) == 0 && uuid_text(d).rfind(one, 0) == 0)) {
          found = &d;
        }
      }
      if (!found) break;
      seen.push_back(*found);
    }
  }
  for (const Device& d : seen) {
    auto* context = new Context;
    context->device = d;
    state().contexts.push_back(context);
  }
  return s;
}

static void complain(const char* kind, const char* format, va_list arguments, std::string& last) {
  char line[512];
  vsnprintf(line, sizeof line, format, arguments);
  last = line;
  fprintf(stderr, "fake cuda: %s: %s\n", kind, line);
  if (state().settings.strict) abort();
}

Code mistake(Code code, const char* format, ...) {
  ++state().counters.mistakes;
  va_list arguments;
  va_start(arguments, format);
  complain("mistake", format, arguments, state().counters.last_mistake);
  va_end(arguments);
  return code;
}

Code fault(const char* format, ...) {
  ++state().counters.faults;
  va_list arguments;
  va_start(arguments, format);
  complain("illegal address", format, arguments, state().counters.last_fault);
  va_end(arguments);
  return ILLEGAL_ADDRESS;
}

static std::string quoted(const std::string& s) {
  std::string out = "\"";
  for (char c : s) {
    if (c == '"' || c == '\\') out += '\\';
    out += static_cast<unsigned char>(c) < 32 ? ' ' : c;
  }
  return out + '"';
}

static std::string object(const std::map<std::string, uint64_t>& values) {
  std::string out = "{";
  for (const auto& [name, value] : values) {
    if (out.size() > 1) out += ", ";
    out += quoted(name) + ": " + std::to_string(value);
  }
  return out + "}";
}

// With the lock held.
static std::string json() {
  const Counters& c = state().counters;
  size_t streams = 0, events = 0, others = 0;
  for (const auto& [address, handle] : state().handles) {
    if (!handle->alive) continue;
    if (dynamic_cast<Stream*>(handle.get())) {
      ++streams;
    } else if (dynamic_cast<Event*>(handle.get())) {
      ++events;
    } else {
      ++others;
    }
  }
  std::string out = "{\n";
  const std::pair<const char*, uint64_t> numbers[] = {
      {"device_allocations", c.device_allocations},
      {"device_frees", c.device_frees},
      {"host_allocations", c.host_allocations},
      {"host_frees", c.host_frees},
      {"device_bytes", c.device_bytes},
      {"peak_device_bytes", c.peak_device_bytes},
      {"host_bytes", c.host_bytes},
      {"events_recorded", c.events_recorded},
      {"events_queried", c.events_queried},
      {"events_synchronized", c.events_synchronized},
      {"stream_synchronizations", c.stream_synchronizations},
      {"graph_launches", c.graph_launches},
      {"captures", c.captures},
      {"host_functions", c.host_functions},
      {"memsets", c.memsets},
      {"pageable_copies", c.pageable_copies},
      {"default_stream_operations", c.default_stream_operations},
      {"overlapped_copies", c.overlapped_copies},
      {"frees_with_pending_work", c.frees_with_pending_work},
      {"resets", c.resets},
      {"mistakes", c.mistakes},
      {"faults", c.faults},
      {"live_streams", streams},
      {"live_events", events},
      {"live_graphs_and_modules", others},
  };
  for (const auto& [name, value] : numbers) out += "  " + quoted(name) + ": " + std::to_string(value) + ",\n";
  out += "  \"last_mistake\": " + quoted(c.last_mistake) + ",\n";
  out += "  \"last_fault\": " + quoted(c.last_fault) + ",\n";
  out += "  \"launches\": " + object(c.launches) + ",\n";
  out += "  \"copies\": " + object(c.copies) + ",\n";
  out += "  \"copy_bytes\": " + object(c.copy_bytes) + ",\n";
  out += "  \"calls\": " + object(c.calls) + "\n}\n";
  return out;
}

static void write_counters(const std::string& path) {
  std::string text;
  {
    std::lock_guard<std::mutex> guard(state().mutex);
    text = json();
  }
  std::string temporary = path + ".new";
  FILE* file = fopen(temporary.c_str(), "w");
  if (!file) return;
  fwrite(text.data(), 1, text.size(), file);
  fclose(file);
  rename(temporary.c_str(), path.c_str());
}

// Answers `<file>.request`: writes the counters, then removes the request.
void start_counters() {
  std::string path = state().settings.counters_file;
  if (path.empty()) return;
  std::thread([path] {
    std::string request = path + ".request";
    for (;;) {
      if (access(request.c_str(), F_OK) == 0) {
        write_counters(path);
        unlink(request.c_str());
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }).detach();
}

__attribute__((destructor)) static void at_exit() {
  if (state().initialized && !state().settings.counters_file.empty()) write_counters(state().settings.counters_file);
}

}  // namespace fake
