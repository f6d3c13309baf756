// The table of kernels. Two of it exist for the tests of the fake itself.
#include "kernels.h"

#include <cstdint>
#include <cstring>

namespace fake {

template <class T>
static T argument(void** arguments, int index) {
  T value;
  memcpy(&value, arguments[index], sizeof value);
  return value;
}

// fake_increment(uint32_t* values, uint32_t count): adds one to each.
static bool check_increment(Grid, Grid, void** a, Touch touch) {
  return touch(argument<void*>(a, 0), argument<uint32_t>(a, 1) * sizeof(uint32_t));
}

static void run_increment(Grid grid, Grid block, void** a) {
  auto* values = argument<uint32_t*>(a, 0);
  uint32_t threads = grid.x * block.x, count = argument<uint32_t>(a, 1);
  for (uint32_t i = 0; i < threads && i < count; ++i) ++values[i];
}

static const Kernel kernels[] = {
    {"fake_increment", check_increment, run_increment},
};

const Kernel* find_kernel(const char* name) {
  for (const Kernel& kernel : kernels) {
    if (strcmp(kernel.name, name) == 0) return &kernel;
  }
  return nullptr;
}

}  // namespace fake
