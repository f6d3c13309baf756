// The engine on a real driver: no network, but copies that can be checked and work that takes a GPU's time. Everything
// is enqueued on the caller's stream with driver calls that a capture takes too, so that visord's graphs, streams and
// copies are the real ones.
#include "library.h"

namespace fake {

// CUDA_MEMCPY2D_v2. Source: https://docs.nvidia.com/cuda/cuda-driver-api/structCUDA__MEMCPY2D__v2.html
struct Copy2D {
  size_t src_x_bytes = 0, src_y = 0;
  unsigned src_type = 2;  // CU_MEMORYTYPE_DEVICE
  void const* src_host = nullptr;
  void const* src_device = nullptr;
  void* src_array = nullptr;
  size_t src_pitch = 0;
  size_t dst_x_bytes = 0, dst_y = 0;
  unsigned dst_type = 2;
  void* dst_host = nullptr;
  void* dst_device = nullptr;
  void* dst_array = nullptr;
  size_t dst_pitch = 0;
  size_t width_bytes = 0, height = 0;
};

long stub_passes() { return setting("WORK", 0); }

// Element k of a row is value k * stride of the input's row, stride = L / K: a copy of columns one element wide. Where
// K divides L, the rows follow one another in that pattern, and one copy does them all.
static int copy(Bound const& input, Bound const& output, size_t rows, void* stream) {
  size_t bytes = bytes_of(output.type), length = static_cast<size_t>(volume(input.shape)) / rows;
  size_t columns = static_cast<size_t>(volume(output.shape)) / rows, stride = length / columns;
  size_t copies = length == columns * stride ? 1 : rows;
  for (size_t i = 0; i < copies; ++i) {
    Copy2D c;
    c.src_device = static_cast<char const*>(input.address) + i * length * bytes;
    c.dst_device = static_cast<char*>(output.address) + i * columns * bytes;
    c.src_pitch = stride * bytes;
    c.dst_pitch = bytes;
    c.width_bytes = bytes;
    c.height = copies == 1 ? rows * columns : columns;
    if (int code = driver()->cuMemcpy2DAsync_v2(&c, stream)) return code;
  }
  return 0;
}

std::string enqueue_stub(std::vector<Bound> const& inputs, std::vector<Bound> const& outputs, void* work, void* stream) {
  Bound const& input = inputs[0];
  size_t batch = input.shape.nbDims > 0 ? static_cast<size_t>(input.shape.d[0]) : 1;
  for (Bound const& output : outputs) {
    bool rows = output.shape.nbDims > 0 && static_cast<size_t>(output.shape.d[0]) == batch;
    if (!rows || bytes_of(output.type) != bytes_of(input.type) || volume(output.shape) > volume(input.shape)) {
      return "the stub copies: an output needs the first input's rows and type, and no longer ones";
    }
    if (int code = copy(input, output, batch, stream)) return "cuMemcpy2DAsync: Cuda failure " + std::to_string(code);
  }
  for (long pass = work ? stub_passes() : 0; pass > 0; --pass) {
    if (int code = driver()->cuMemsetD8Async(work, static_cast<unsigned char>(pass), STUB_WORK_BYTES, stream)) {
      return "cuMemsetD8Async: Cuda failure " + std::to_string(code);
    }
  }
  return "";
}

}  // namespace fake
