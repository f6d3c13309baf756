// A fake TensorRT: what its builder, its runtime and its ONNX parser share.
//
// Whatever the network, the engine computes one fixed function. A row of the input is cut into as many slices as a row
// of the output has elements; each element is the mean of its slice, in double, rounded to the output's type:
// element k of K covers the values [k * L / K, max(k * L / K + 1, (k + 1) * L / K)) of L.
//
// With VISORD_FAKE_NVINFER_FUNCTION=copy, element k is value k * (L / K) of the row of the first input instead. On a
// real driver that is the only function, made of the driver's own copies: a stub to check and to time everything
// around an engine with, on a GPU that no TensorRT at hand accepts (stub.cpp).
#pragma once
#include "overrides.h"

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace fake {

/// VISORD_FAKE_NVINFER_<name> as a number.
long setting(char const* name, long otherwise);

/// Where errors go: to the recorder where there is one, else to the logger. As the real library does it.
struct Voice {
  ILogger* logger = nullptr;
  IErrorRecorder* recorder = nullptr;
  void error(ErrorCode code, std::string const& text) const noexcept;
  void info(std::string const& text) const noexcept;
};

struct LibraryVersion {
  int32_t major, minor, patch, build;
};
LibraryVersion library_version();

struct Tensor {
  std::string name;
  DataType type;
  Dims shape;
};

struct Range {
  Dims min, opt, max;
};

/// What an engine is made of; `profiles[p][i]` is the range of input i.
struct Plan {
  int compute_capability = 0;  // 10 * major + minor
  bool hardware_compatible = false;
  std::vector<Tensor> inputs, outputs;
  std::vector<std::vector<Range>> profiles;
};

std::string write_plan(Plan const& plan);
/// False, with the reason in `error`, for what `write_plan` of this version did not write.
bool read_plan(void const* bytes, size_t size, Plan& plan, std::string& error);

/// Bytes of an element; 0 for a type that the fake does not have.
size_t bytes_of(DataType type);
/// -1 where a dimension is not known.
int64_t volume(Dims const& shape);
bool same(Dims const& a, Dims const& b);
std::string text_of(Dims const& shape);

// The driver, reached as the real library reaches it.
struct Driver {
  int (*cuInit)(unsigned);
  int (*cuDeviceGetCount)(int*);
  int (*cuDeviceGetAttribute)(int*, int, int);
  int (*cuDevicePrimaryCtxRetain)(void**, int);
  int (*cuCtxGetCurrent)(void**);
  int (*cuCtxSetCurrent)(void*);
  int (*cuCtxGetDevice)(int*);
  int (*cuMemAlloc_v2)(void**, size_t);
  int (*cuMemFree_v2)(void*);
  int (*cuStreamIsCapturing)(void*, int*);
  int (*cuMemcpy2DAsync_v2)(void const*, void*);
  int (*cuMemsetD8Async)(void*, unsigned char, size_t, void*);
  // The fake driver's own; null on a real one.
  int (*visordFakeCudaEnqueue)(void*, void (*)(void*), void*, void (*)(void*));
  int (*visordFakeCudaTouch)(void const*, size_t);
};
/// Null without a driver with a device. Makes the first device's context current where none is.
Driver const* driver();
int current_compute_capability();
/// Whether the driver is a real one, on which the engine is a stub. VISORD_FAKE_NVINFER_STUB=1 takes the fake for one.
bool on_a_real_driver();

// A tensor at the time of an enqueue.
struct Bound {
  DataType type;
  Dims shape;
  void* address;
  size_t bytes() const { return static_cast<size_t>(volume(shape)) * bytes_of(type); }
};

/// Passes over the work memory that a run of the stub makes, so that it takes a GPU's time: VISORD_FAKE_NVINFER_WORK.
long stub_passes();
size_t const STUB_WORK_BYTES = 64 << 20;
/// Enqueues the stub on a real driver's stream. What the driver refused, or "" .
std::string enqueue_stub(std::vector<Bound> const& inputs, std::vector<Bound> const& outputs, void* work, void* stream);

}  // namespace fake
