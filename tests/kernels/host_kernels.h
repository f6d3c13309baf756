// Every kernel of kernels/, compiled for the host, by the name of its entry point. Include it in one source file
// of a program; compile with -std=c++17 -ffp-contract=off -I kernels.
#pragma once

#include "host_cuda.h"

#include "l2_normalize.cu"
#include "preprocess.cu"

namespace host_cuda {

struct Kernel {
    const char* name;
    // Runs it to its end; false if the shape is not valid. `arguments` as cuLaunchKernel's kernelParams.
    bool (*run)(dim3 grid, dim3 block, void** arguments);
};

inline const Kernel kernels[] = {
    {"preprocess_f32",
     [](dim3 grid, dim3 block, void** arguments) {
         return launch(preprocess_f32, Barriers::none, grid, block, arguments);
     }},
    {"preprocess_f16",
     [](dim3 grid, dim3 block, void** arguments) {
         return launch(preprocess_f16, Barriers::none, grid, block, arguments);
     }},
    {"preprocess_u8",
     [](dim3 grid, dim3 block, void** arguments) {
         return launch(preprocess_u8, Barriers::none, grid, block, arguments);
     }},
    {"l2_normalize_f32",
     [](dim3 grid, dim3 block, void** arguments) {
         return launch(l2_normalize_f32, Barriers::some, grid, block, arguments);
     }},
};

// The kernel of that name, or null.
inline const Kernel* find_kernel(const char* name) {
    for (const Kernel& kernel : kernels) {
        if (std::strcmp(kernel.name, name) == 0) return &kernel;
    }
    return nullptr;
}

}  // namespace host_cuda
