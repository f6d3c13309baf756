// Divides each row of an FP32 output by its Euclidean norm, in place; a row of zeros stays as it is. The sum is
// in double, as in its twin in src/scheduler/postprocess.rs. A square of floats is exact in double, so that only
// the order of the additions differs: results are within one unit in the last place.
//
// Launch: L2_NORMALIZE_THREADS threads in x, one block in x for each row.

#include "l2_normalize.cuh"

extern "C" __global__ void __launch_bounds__(L2_NORMALIZE_THREADS)
    l2_normalize_f32(float* data, L2NormalizeParameters parameters) {
    __shared__ double partial[L2_NORMALIZE_THREADS];
    const unsigned thread = threadIdx.x;
    // The whole block leaves, or none of it: there are barriers below.
    if (blockIdx.x >= parameters.rows) return;
    float* row = data + blockIdx.x * parameters.stride;
    double sum = 0.0;
    for (size_t c = thread; c < parameters.columns; c += L2_NORMALIZE_THREADS) {
        const double value = row[c];
        sum = __dadd_rn(sum, __dmul_rn(value, value));
    }
    partial[thread] = sum;
    __syncthreads();
#pragma unroll
    for (unsigned half = L2_NORMALIZE_THREADS / 2; half > 0; half /= 2) {
        if (thread < half) partial[thread] = __dadd_rn(partial[thread], partial[thread + half]);
        __syncthreads();
    }
    // Not a number compares false: such a row is left for the check of the outputs to find.
    if (!(partial[0] > 0.0)) return;
    const double norm = __dsqrt_rn(partial[0]);
    for (size_t c = thread; c < parameters.columns; c += L2_NORMALIZE_THREADS) {
        row[c] = __double2float_rn(__ddiv_rn(row[c], norm));
    }
}
