// The kernels that the fake driver can run: entry name to a function on the host.
#pragma once
#include <cstddef>
#include <functional>

namespace fake {

struct Grid {
  unsigned x, y, z;
};

// What a kernel wants to touch: false where it is not the device's, and the launch is then a fault.
using Touch = bool (*)(const void* address, size_t bytes);

struct Kernel {
  const char* name;
  /// Says which memory the launch reads and writes; false where some of it may not be touched.
  bool (*check)(Grid grid, Grid block, void** arguments, Touch touch);
  std::function<void(Grid grid, Grid block, void** arguments)> run;
};

/// Null where there is none of that name.
const Kernel* find_kernel(const char* name);

}  // namespace fake
