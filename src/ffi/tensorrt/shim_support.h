// What both halves of the shim stand on: which TensorRT this is, its log and its errors, the handles.
//
// All of it is in an unnamed namespace: this file is compiled once for each set of headers, and what has the same
// name in each of those objects would be one thing to the linker.
#pragma once
#include "shim.h"

#include <NvInfer.h>
#include <NvOnnxParser.h>

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

// What only 10 has is deprecated in its later versions; each use is under an #if.
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

// TensorRT-RTX numbers itself 1.x and has the interface of 11.
#define IS_10 (!VISORD_TRT_IS_RTX && NV_TENSORRT_MAJOR == 10)
#define HAS_SAME_COMPUTE_CAPABILITY (!IS_10 || NV_TENSORRT_MINOR >= 9)

#if VISORD_TRT_IS_RTX
#define PRODUCT "TensorRT-RTX"
#else
#define PRODUCT "TensorRT"
#endif

namespace {

using namespace nvinfer1;

constexpr visord_trt_status kOk{VISORD_TRT_OK, nullptr};

void put(visord_trt_text to, const std::string& text) { to.put(to.user, text.data(), text.size()); }

visord_trt_status refuse(int32_t code, visord_trt_text error, const std::string& text) {
  put(error, text);
  return {code, nullptr};
}

// Runs `f`; an exception becomes an error. TensorRT's functions are noexcept, our own strings and vectors are not.
template <class F>
visord_trt_status guarded(const char* call, visord_trt_text error, F f) noexcept {
  try {
    return f();
  } catch (const std::exception& e) {
    error.put(error.user, e.what(), std::strlen(e.what()));
  } catch (...) {
    const char text[] = "an exception that is none of the standard library's";
    error.put(error.user, text, sizeof text - 1);
  }
  return {VISORD_TRT_FAILED, call};
}

constexpr size_t kMaxText = 8192;

void append(std::string& text, const char* more) {
  if (!more || text.size() > kMaxText) return;
  if (!text.empty()) text += "; ";
  text += more;
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
}

bool is_aftermath(const std::string& text) { return text.find("catchCudaError") != std::string::npos; }

// Errors that TensorRT logs on this thread, while it lives: the factories and the parser report no other way.
struct Capture {
  Capture() noexcept : outer(current) { current = this; }
  ~Capture() { current = outer; }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

  std::string text() const {
    std::string all;
    for (const auto& message : messages) append(all, message.c_str());
    return all;
  }

  static constexpr size_t kMax = 64;
  std::vector<std::string> messages;
  Capture* outer;
  static thread_local Capture* current;
};
thread_local Capture* Capture::current = nullptr;

// One for the program: TensorRT keeps the first logger it is given for good, and the library may stay loaded after
// it was closed.
struct Logger final : ILogger {
  std::atomic<visord_trt_log> sink{nullptr};

  void log(Severity severity, AsciiChar const* message) noexcept override {
    if (!message) return;
    // What is captured comes back as an error, and is information only here.
    const bool captured = severity <= Severity::kERROR && Capture::current;
    if (captured) capture(*Capture::current, message);
    auto* call = sink.load(std::memory_order_acquire);
    if (call) call(static_cast<int32_t>(captured ? Severity::kINFO : severity), message);
  }

 private:
  static void capture(Capture& into, const char* message) noexcept {
    try {
      if (into.messages.size() == Capture::kMax || (!into.messages.empty() && is_aftermath(message))) return;
      into.messages.emplace_back(message);
    } catch (...) {
    }
  }
};

Logger& logger() {
  static Logger& only = *new Logger;
  return only;
}

// Collects TensorRT's errors, from any thread, until a failed call takes them.
class Recorder final : public IErrorRecorder {
 public:
  int32_t getNbErrors() const noexcept override {
    std::lock_guard<std::mutex> lock(mutex_);
    return static_cast<int32_t>(errors_.size());
  }
  ErrorCode getErrorCode(int32_t index) const noexcept override {
    std::lock_guard<std::mutex> lock(mutex_);
    return has(index) ? errors_[index].first : ErrorCode::kINVALID_ARGUMENT;
  }
  ErrorDesc getErrorDesc(int32_t index) const noexcept override {
    std::lock_guard<std::mutex> lock(mutex_);
    return has(index) ? errors_[index].second.c_str() : "";
  }
  bool hasOverflowed() const noexcept override { return false; }
  void clear() noexcept override {
    std::lock_guard<std::mutex> lock(mutex_);
    errors_.clear();
  }
  bool reportError(ErrorCode code, ErrorDesc text) noexcept override {
    std::lock_guard<std::mutex> lock(mutex_);
    if (errors_.size() < kMax) {
      try {
        errors_.emplace_back(code, text ? text : "");
      } catch (...) {
      }
    }
    return true;
  }
  // We own it: TensorRT's count frees nothing.
  RefCount incRefCount() noexcept override { return ++references_; }
  RefCount decRefCount() noexcept override { return --references_; }

  // The texts, without those that TensorRT reports after every failure where there is no driver: what it met when
  // it cleared CUDA's last error.
  std::string take() {
    std::lock_guard<std::mutex> lock(mutex_);
    std::string text;
    for (const auto& error : errors_) {
      if (!is_aftermath(error.second)) append(text, error.second.c_str());
    }
    if (text.empty() && !errors_.empty()) text = errors_.front().second;
    errors_.clear();
    return text;
  }

 private:
  static constexpr size_t kMax = 32;
  bool has(int32_t index) const { return index >= 0 && static_cast<size_t>(index) < errors_.size(); }

  mutable std::mutex mutex_;
  std::vector<std::pair<ErrorCode, std::string>> errors_;
  std::atomic<int32_t> references_{0};
};

// cudaErrorInsufficientDriver is 35, which is also what a missing driver gives; cudaErrorNoDevice is 100.
bool means_no_driver(const std::string& text) {
  for (const char* words : {"CUDA initialization failure", "driver version is insufficient", "no CUDA-capable device",
                            "Cuda failure: 35", "Cuda failure: 100", "cudaErrorInsufficientDriver",
                            "cudaErrorNoDevice"}) {
    if (text.find(words) != std::string::npos) return true;
  }
  return false;
}

visord_trt_status failed(const char* call, const std::string& text, visord_trt_text error) {
  put(error, text);
  return {means_no_driver(text) ? VISORD_TRT_NO_DRIVER : VISORD_TRT_FAILED, call};
}

visord_trt_status failed(const char* call, Recorder& recorder, visord_trt_text error) {
  return failed(call, recorder.take(), error);
}

// With what the call was about, which TensorRT's texts often leave out.
visord_trt_status failed(const char* call, Recorder& recorder, const std::string& about, visord_trt_text error) {
  const std::string text = recorder.take();
  return failed(call, text.empty() ? "refused: " + about : text + " (" + about + ")", error);
}

// Without a driver the factories of 10.16 and 11.4 return small numbers, not null.
template <class T>
T* factory_result(void* made) {
  return reinterpret_cast<uintptr_t>(made) < 0x10000 ? nullptr : static_cast<T*>(made);
}

Dims to_dims(const int64_t* shape, int32_t rank) {
  Dims dims{};
  dims.nbDims = std::min<int32_t>(rank, Dims::MAX_DIMS);
  std::copy_n(shape, dims.nbDims, dims.d);
  return dims;
}
Dims to_dims(const visord_trt_dims& dims) { return to_dims(dims.d, dims.rank); }

visord_trt_dims from_dims(const Dims& dims) {
  visord_trt_dims out{};
  out.rank = std::min<int32_t>(dims.nbDims, VISORD_TRT_MAX_DIMS);
  if (out.rank > 0) std::copy_n(dims.d, out.rank, out.d);
  return out;
}

std::string text_of(const Dims& dims) {
  std::string text = "[";
  for (int32_t i = 0; i < dims.nbDims; ++i) text += (i ? ", " : "") + std::to_string(dims.d[i]);
  return text + "]";
}

std::string quoted(const char* name) { return "\"" + std::string(name) + "\""; }

std::string text_of(const visord_trt_version& v) {
  return std::to_string(v.major) + "." + std::to_string(v.minor) + "." + std::to_string(v.patch) + "." +
         std::to_string(v.build);
}

// What the handles of shim.h point to.
struct Library {
  void* runtime{};
  void* parser{};
  visord_trt_version version{};
  std::string path;
  // The versions that the factories want are the libraries' own: what this file uses has kept its place within a
  // major, and `library_open` has checked the major.
  int32_t runtime_version{};
  int parser_version{};
  void* (*create_runtime)(void* logger, int32_t version){};
  void* (*create_builder)(void* logger, int32_t version){};
  void* (*create_parser)(void* network, void* logger, int version){};

  Library() = default;
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;
  ~Library() {
    if (parser) dlclose(parser);
    if (runtime) dlclose(runtime);
  }
};

// In both, the first member is destroyed last.
struct Engine {
  Recorder recorder;
  std::unique_ptr<IRuntime> runtime;
  std::unique_ptr<ICudaEngine> engine;
};

struct Context {
  mutable Recorder recorder;
  std::unique_ptr<IExecutionContext> context;
};

Library* of(visord_trt_library* handle) { return reinterpret_cast<Library*>(handle); }
const Library* of(const visord_trt_library* handle) { return reinterpret_cast<const Library*>(handle); }
Engine* of(visord_trt_engine* handle) { return reinterpret_cast<Engine*>(handle); }
const Engine* of(const visord_trt_engine* handle) { return reinterpret_cast<const Engine*>(handle); }
Context* of(visord_trt_context* handle) { return reinterpret_cast<Context*>(handle); }
const Context* of(const visord_trt_context* handle) { return reinterpret_cast<const Context*>(handle); }

}  // namespace
