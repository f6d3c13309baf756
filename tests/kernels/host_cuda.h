// The little CUDA that kernels/ uses, for a C++ compiler: include this, then the .cu file, and compile with
// -std=c++17 -ffp-contract=off. `host_cuda::launch` then runs an entry point with the grid, the block and the
// argument pointers of cuLaunchKernel. Header only; host threads may launch at the same time, for all state is
// thread_local, and so is what the kernels share in a block.
//
// A kernel without barriers is a loop over its threads. One with barriers runs each thread as a fibre up to the
// next __syncthreads, in a chosen order. Only one order would hide half of the missing barriers: in descending
// order a thread finds what those above it wrote, in ascending order what those below it wrote. Tests run both.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#ifdef __FAST_MATH__
#error "the kernels need IEEE arithmetic"
#endif

#define __global__
#define __device__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
// One block runs at a time in a host thread.
#define __shared__ static thread_local

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

inline thread_local uint3 threadIdx{}, blockIdx{};
inline thread_local dim3 blockDim{}, gridDim{};

// Intrinsics: without contraction, plain operators round as these do. The current rounding mode is to nearest.
template <class T>
inline T __ldg(const T* at) {
    return *at;
}
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __dsqrt_rn(double a) { return std::sqrt(a); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline double __ull2double_rn(unsigned long long a) { return static_cast<double>(a); }
inline float __double2float_rn(double a) { return static_cast<float>(a); }
inline float __uint2float_rn(unsigned a) { return static_cast<float>(a); }
inline unsigned __float2uint_rn(float a) { return static_cast<unsigned>(std::nearbyintf(a)); }
inline int __float2int_rz(float a) { return static_cast<int>(a); }

// cvt.rn.f16.f32: round to nearest even; NaN becomes PTX's canonical one.
inline unsigned short half_from_float(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const uint32_t sign = bits >> 16 & 0x8000;
    const uint32_t magnitude = bits & 0x7fffffff;
    // Keeps the upper bits of `from`, rounded by the `drop` that go.
    const auto round = [](uint32_t from, uint32_t drop) {
        const uint32_t kept = from >> drop, rest = from & ((1u << drop) - 1), half = 1u << (drop - 1);
        return kept + (rest > half || (rest == half && (kept & 1)));
    };
    uint32_t result;
    if (magnitude > 0x7f800000) {
        return 0x7fff;
    } else if (magnitude >= 0x477ff000) {  // 65520: halfway to the number after the largest
        result = 0x7c00;
    } else if (magnitude >= 0x38800000) {  // 2^-14: the smallest normal number
        result = round(magnitude - 0x38000000, 13);
    } else if (magnitude >= 0x33000000) {  // 2^-25: half of the smallest subnormal number
        result = round((magnitude & 0x7fffff) | 0x800000, 126 - (magnitude >> 23));
    } else {
        result = 0;
    }
    return static_cast<unsigned short>(sign | result);
}

namespace host_cuda {

enum class Barriers { none, some };
enum class Order { descending, ascending };

// The order in which this host thread runs the fibres of a block.
inline thread_local Order order = Order::descending;

[[noreturn]] inline void fail(const char* what) {
    std::fprintf(stderr, "host_cuda: %s (block %u,%u,%u thread %u,%u,%u)\n", what, blockIdx.x, blockIdx.y,
                 blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
    std::abort();
}

// Whether cuLaunchKernel accepts these on any GPU since compute capability 3.0.
inline bool valid(dim3 grid, dim3 block) {
    const auto within = [](unsigned value, unsigned limit) { return value >= 1 && value <= limit; };
    return within(grid.x, 0x7fffffff) && within(grid.y, 65535) && within(grid.z, 65535) &&
           within(block.x, 1024) && within(block.y, 1024) && within(block.z, 64) &&
           static_cast<uint64_t>(block.x) * block.y * block.z <= 1024;
}

struct Fibre {
    static constexpr size_t stack_bytes = 64 << 10;
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[stack_bytes]};
    bool done;
};

// The fibres of this host thread, kept for its next launch.
struct Fibres {
    std::vector<Fibre> all;
    ucontext_t scheduler;
    Fibre* current = nullptr;
    void (*body)(void*) = nullptr;
    void* closure = nullptr;
};
inline thread_local Fibres fibres;

inline void fibre_main() {
    fibres.body(fibres.closure);
    fibres.current->done = true;
    swapcontext(&fibres.current->context, &fibres.scheduler);
}

inline void barrier() {
    if (!fibres.current) fail("__syncthreads in a kernel that is listed as having no barriers");
    swapcontext(&fibres.current->context, &fibres.scheduler);
}

inline void set_thread(size_t i) {
    threadIdx.x = static_cast<unsigned>(i % blockDim.x);
    threadIdx.y = static_cast<unsigned>(i / blockDim.x % blockDim.y);
    threadIdx.z = static_cast<unsigned>(i / blockDim.x / blockDim.y);
}

// Runs one block in rounds from barrier to barrier.
inline void run_block_with_barriers(size_t threads) {
    if (fibres.all.size() < threads) fibres.all.resize(threads);
    for (size_t i = 0; i < threads; ++i) {
        Fibre& fibre = fibres.all[i];
        fibre.done = false;
        getcontext(&fibre.context);
        fibre.context.uc_stack.ss_sp = fibre.stack.get();
        fibre.context.uc_stack.ss_size = Fibre::stack_bytes;
        fibre.context.uc_link = nullptr;
        makecontext(&fibre.context, fibre_main, 0);
    }
    for (size_t finished = 0; finished == 0;) {
        for (size_t n = 0; n < threads; ++n) {
            const size_t i = order == Order::descending ? threads - 1 - n : n;
            set_thread(i);
            fibres.current = &fibres.all[i];
            swapcontext(&fibres.scheduler, &fibres.all[i].context);
            fibres.current = nullptr;
            finished += fibres.all[i].done;
        }
        if (finished != 0 && finished != threads) fail("some threads of a block returned, others wait at a barrier");
    }
}

// Runs `kernel` as cuLaunchKernel does, to its end; false, and nothing run, if the shape is not valid.
// `arguments` has a pointer to each argument.
template <class... P>
bool launch(void (*kernel)(P...), Barriers barriers, dim3 grid, dim3 block, void** arguments) {
    if (!valid(grid, block)) return false;
    std::tuple<std::remove_cv_t<P>...> values;
    size_t next = 0;
    std::apply([&](auto&... value) { (std::memcpy(&value, arguments[next++], sizeof value), ...); }, values);
    auto body = [&] { std::apply(kernel, values); };
    gridDim = grid;
    blockDim = block;
    const size_t threads = static_cast<size_t>(block.x) * block.y * block.z;
    fibres.closure = &body;
    fibres.body = [](void* closure) { (*static_cast<decltype(body)*>(closure))(); };
    for (unsigned z = 0; z < grid.z; ++z) {
        for (unsigned y = 0; y < grid.y; ++y) {
            for (unsigned x = 0; x < grid.x; ++x) {
                blockIdx = {x, y, z};
                if (barriers == Barriers::some) {
                    run_block_with_barriers(threads);
                    continue;
                }
                for (size_t i = 0; i < threads; ++i) {
                    set_thread(i);
                    body();
                }
            }
        }
    }
    return true;
}

}  // namespace host_cuda

#define __syncthreads() host_cuda::barrier()
