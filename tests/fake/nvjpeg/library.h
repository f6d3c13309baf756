// A fake nvJPEG that decodes with libjpeg-turbo, as the CPU path does, so that pixels equal its own bit for bit. It is
// harsher than the real one: what the documentation asks for and the real library does not check ends the process.
//
//   VISORD_FAKE_NVJPEG_HARDWARE=0      no JPEG engine: ARCH_MISMATCH, as on a V100
//   VISORD_FAKE_NVJPEG_VERSION=12.4.0  what the library says that it is; before 12.1 no interpolated chroma
//   VISORD_FAKE_NVJPEG_REJECT=a,b      kinds that are not supported: progressive, baseline, gray, 444, 422, 420, 440,
//                                      411, all
//   VISORD_FAKE_NVJPEG_FAIL_EVERY=n    every n-th host phase or batch gives EXECUTION_FAILED
//   VISORD_FAKE_NVJPEG_COUNTERS=file   JSON with what was called, written when the process ends
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#define API extern "C" __attribute__((visibility("default"))) fake::Status

namespace fake {

// nvjpegStatus_t, and int where the API has an enum: one size.
using Status = int;
enum : Status {
  SUCCESS = 0,
  INVALID_PARAMETER = 2,
  BAD_JPEG = 3,
  JPEG_NOT_SUPPORTED = 4,
  ALLOCATOR_FAILURE = 5,
  EXECUTION_FAILED = 6,
  ARCH_MISMATCH = 7,
};
enum : int { DEFAULT = 0, HYBRID = 1, HARDWARE = 3, RGBI = 5, INTERPOLATE = 1 << 5 };

/// What is read of a JPEG before it is decoded.
struct Header {
  int width, height, components, precision, scans;
  bool progressive, other_process, ycc;
  std::string sampling;  // "gray", "444", ..., or "other"
};

/// Where the picture goes.
struct Image {
  unsigned char* channel[4];
  size_t pitch[4];
};

// jpeg.cpp
bool read_header(const unsigned char* data, size_t length, Header& header);
/// Decodes to packed RGB; false if libjpeg-turbo gives up. What it only warns of is decoded, as the CPU path does.
bool decode(const unsigned char* data, size_t length, const Header& header, unsigned char* pixels);
size_t bytes_of(const Header& header);

// library.cpp
const char* setting(const char* name);
[[noreturn]] void die(const char* call, const char* format, ...) __attribute__((format(printf, 2, 3)));
/// Counts a call under its name.
void count(const char* call);
void count_picture(const char* way);
void count_batch(size_t size);
/// Whether VISORD_FAKE_NVJPEG_FAIL_EVERY wants this one to fail.
bool fails_now();
bool rejected(const Header& header);

// The fake driver, reached as the real library reaches the real one.
struct Driver {
  int (*cuInit)(unsigned);
  int (*cuDeviceGetCount)(int*);
  int (*cuCtxGetCurrent)(void**);
  int (*cuMemAlloc_v2)(void**, size_t);
  int (*cuMemFree_v2)(void*);
  int (*cuMemHostAlloc)(void**, size_t, unsigned);
  int (*cuMemFreeHost)(void*);
  int (*cuStreamIsCapturing)(void*, int*);
  int (*visordFakeCudaEnqueue)(void*, void (*)(void*), void*, void (*)(void*));
  int (*visordFakeCudaTouch)(const void*, size_t);
};
/// Null without a fake driver with a device.
const Driver* driver();

}  // namespace fake
