// FP16 as its bits. cuda_fp16.h would need a folder of headers wherever the kernels are compiled.
#pragma once

typedef unsigned short half_bits;

#ifdef __CUDACC__
// Round to nearest even; too large becomes infinity. The twin for the host is in tests/kernels/host_cuda.h.
__device__ __forceinline__ half_bits half_from_float(float value) {
    half_bits bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#endif
