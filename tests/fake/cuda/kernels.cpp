// The table of kernels: what kernels/ compiles to for the host, with the memory that each launch touches.
#include "kernels.h"

#include "../../kernels/host_kernels.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace fake {

template <class T>
static T argument(void** arguments, int index) {
  T value;
  memcpy(&value, arguments[index], sizeof value);
  return value;
}

// preprocess_*(const ImageDescriptor* images, T* out, PreprocessParameters parameters)
template <class T>
static bool check_preprocess(Grid, Grid, void** a, Touch touch) {
  const auto* images = argument<const ImageDescriptor*>(a, 0);
  const auto* out = argument<const T*>(a, 1);
  const auto p = argument<PreprocessParameters>(a, 2);
  size_t row_elements = size_t{3} * p.width * p.height;
  if (!touch(images, p.images * sizeof *images)) return false;
  for (unsigned i = 0; i < p.images; ++i) {
    const ImageDescriptor& image = images[i];
    if (image.row >= p.rows) continue;
    size_t bytes = size_t{image.pitch} * (image.height - 1) + size_t{3} * image.width;
    if (!touch(reinterpret_cast<const void*>(image.pixels), bytes)) return false;
    if (!touch(out + image.row * row_elements, row_elements * sizeof *out)) return false;
  }
  return true;
}

// l2_normalize_f32(float* data, L2NormalizeParameters parameters)
static bool check_l2_normalize(Grid, Grid, void** a, Touch touch) {
  const auto p = argument<L2NormalizeParameters>(a, 1);
  if (p.rows == 0) return true;
  return touch(argument<float*>(a, 0), ((p.rows - 1) * p.stride + p.columns) * sizeof(float));
}

// fake_increment(uint32_t* values, uint32_t count): adds one to each; for the tests of the fake itself.
static bool check_increment(Grid, Grid, void** a, Touch touch) {
  return touch(argument<void*>(a, 0), argument<uint32_t>(a, 1) * sizeof(uint32_t));
}

static void run_increment(Grid grid, Grid block, void** a) {
  auto* values = argument<uint32_t*>(a, 0);
  uint32_t threads = grid.x * block.x, count = argument<uint32_t>(a, 1);
  for (uint32_t i = 0; i < threads && i < count; ++i) ++values[i];
}

static const struct {
  const char* name;
  decltype(Kernel::check) check;
} checks[] = {
    {"preprocess_f32", check_preprocess<float>},
    {"preprocess_f16", check_preprocess<uint16_t>},
    {"preprocess_u8", check_preprocess<uint8_t>},
    {"l2_normalize_f32", check_l2_normalize},
};

static std::vector<Kernel> all() {
  std::vector<Kernel> out = {{"fake_increment", check_increment, run_increment}};
  for (const host_cuda::Kernel& kernel : host_cuda::kernels) {
    auto found = std::find_if(std::begin(checks), std::end(checks), [&](auto& c) { return !strcmp(c.name, kernel.name); });
    if (found == std::end(checks)) {
      fprintf(stderr, "fake cuda: tests/fake/cuda/kernels.cpp does not know what %s touches\n", kernel.name);
      abort();
    }
    auto on_host = [run = kernel.run](Grid grid, Grid block, void** arguments) {
      // A missing barrier shows in one order of the threads or the other: launches take turns.
      static std::atomic<unsigned> launches{0};
      host_cuda::order = launches++ % 2 ? host_cuda::Order::ascending : host_cuda::Order::descending;
      run(dim3(grid.x, grid.y, grid.z), dim3(block.x, block.y, block.z), arguments);
    };
    out.push_back({kernel.name, found->check, on_host});
  }
  return out;
}

const Kernel* find_kernel(const char* name) {
  static const std::vector<Kernel> kernels = all();
  auto found = std::find_if(kernels.begin(), kernels.end(), [&](const Kernel& k) { return !strcmp(k.name, name); });
  return found == kernels.end() ? nullptr : &*found;
}

}  // namespace fake
