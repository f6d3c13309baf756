// Decoded images of any size to rows of an engine's input: turned upright, resized, normalised and laid out in
// one launch. Bit for bit what src/image/preprocess.rs and src/image/resize.rs make of the same pixels, so the
// arithmetic is theirs: 11-bit weights from a position in double, rounded to float.
//
// Floating point goes through intrinsics with a stated rounding: the compiler may fuse `a * b + c`, but not
// those. One thread makes one pixel, all three channels: neighbours in a warp are neighbours in a row, and a
// store of a warp in NCHW is one run of memory. In NHWC its three stores fill the same run together.
//
// Launch: blocks of any shape up to 256 threads, grid.x and grid.y cover width and height, grid.z covers the
// images or, where there are more, strides over them.

#include "half.cuh"
#include "preprocess.cuh"

// The two source rows or columns that an output row or column lies between, and their weights in 1/2048.
struct Tap {
    unsigned first, second;
    unsigned first_weight, second_weight;
};

__device__ __forceinline__ unsigned clamp_to(int at, int last) {
    return at < 0 ? 0 : at > last ? last : at;
}

// Pixel `at` of the resized image, in a source of `last + 1` pixels. Past the border the edge pixel is repeated;
// columns (`whole_weight`) then give it all the weight, rows split it. With equal pixels that still matters, as
// each product of the vertical pass is rounded for itself.
__device__ __forceinline__ Tap tap(unsigned long long at, double scale, int last, bool whole_weight) {
    const double centre = __dmul_rn(__dadd_rn(__ull2double_rn(at), 0.5), scale);
    const float position = __double2float_rn(__dadd_rn(centre, -0.5));
    const float below = floorf(position);
    const int first = __float2int_rz(below);
    float fraction = __fsub_rn(position, below);
    if (whole_weight && (first < 0 || first >= last)) fraction = 0.0f;
    Tap tap;
    tap.first = clamp_to(first, last);
    tap.second = clamp_to(first + 1, last);
    tap.first_weight = __float2uint_rn(__fmul_rn(__fsub_rn(1.0f, fraction), 2048.0f));
    tap.second_weight = __float2uint_rn(__fmul_rn(fraction, 2048.0f));
    return tap;
}

// The levels of red, green and blue at pixel (`column`, `line`) of the resized image's part that is kept.
__device__ __forceinline__ void resample(const ImageDescriptor& image, unsigned column, unsigned line,
                                         unsigned level[3]) {
    const bool transposes = image.turn & TURN_TRANSPOSE;
    const unsigned last_x = (transposes ? image.height : image.width) - 1;
    const unsigned last_y = (transposes ? image.width : image.height) - 1;
    const size_t step_x = transposes ? image.pitch : 3;
    const size_t step_y = transposes ? 3 : image.pitch;
    const Tap x = tap(image.x.skip + column, image.x.scale, last_x, true);
    const Tap y = tap(image.y.skip + line, image.y.scale, last_y, false);
    const bool mirrors_x = image.turn & TURN_MIRROR_X;
    const bool mirrors_y = image.turn & TURN_MIRROR_Y;
    const size_t left = (mirrors_x ? last_x - x.first : x.first) * step_x;
    const size_t right = (mirrors_x ? last_x - x.second : x.second) * step_x;
    const size_t top = (mirrors_y ? last_y - y.first : y.first) * step_y;
    const size_t bottom = (mirrors_y ? last_y - y.second : y.second) * step_y;
    const unsigned char* pixels = reinterpret_cast<const unsigned char*>(image.pixels);
#pragma unroll
    for (int c = 0; c < 3; ++c) {
        const unsigned a = __ldg(pixels + top + left + c), b = __ldg(pixels + top + right + c);
        const unsigned d = __ldg(pixels + bottom + left + c), e = __ldg(pixels + bottom + right + c);
        const unsigned above = (a * x.first_weight + b * x.second_weight) >> 4;
        const unsigned below = (d * x.first_weight + e * x.second_weight) >> 4;
        level[c] = (((above * y.first_weight) >> 16) + ((below * y.second_weight) >> 16) + 2) >> 2;
    }
}

__device__ __forceinline__ void store(float* out, unsigned level, float mean, float scale) {
    *out = __fmul_rn(__fsub_rn(__uint2float_rn(level), mean), scale);
}

__device__ __forceinline__ void store(half_bits* out, unsigned level, float mean, float scale) {
    *out = half_from_float(__fmul_rn(__fsub_rn(__uint2float_rn(level), mean), scale));
}

__device__ __forceinline__ void store(unsigned char* out, unsigned level, float, float) {
    *out = level;
}

template <class T>
__device__ __forceinline__ void preprocess(const ImageDescriptor* __restrict__ images, T* __restrict__ out,
                                           const PreprocessParameters& parameters) {
    const unsigned x = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= parameters.width || y >= parameters.height) return;
    const size_t plane = (size_t)parameters.width * parameters.height;
    const bool nhwc = parameters.layout == LAYOUT_NHWC;
    const bool bgr = parameters.color_order == COLOR_BGR;
    const size_t pixel = ((size_t)y * parameters.width + x) * (nhwc ? 3 : 1);
    const size_t channel = nhwc ? 1 : plane;
    for (unsigned i = blockIdx.z; i < parameters.images; i += gridDim.z) {
        const ImageDescriptor image = images[i];
        if (image.row >= parameters.rows) continue;
        unsigned level[3] = {parameters.fill[0], parameters.fill[1], parameters.fill[2]};
        // Left of and above the picture these wrap round, and are larger than any count.
        const unsigned column = x - image.x.start;
        const unsigned line = y - image.y.start;
        if (column < image.x.count && line < image.y.count) resample(image, column, line, level);
        T* at = out + (size_t)image.row * 3 * plane + pixel;
        store(at, bgr ? level[2] : level[0], parameters.mean[0], parameters.scale[0]);
        store(at + channel, level[1], parameters.mean[1], parameters.scale[1]);
        store(at + 2 * channel, bgr ? level[0] : level[2], parameters.mean[2], parameters.scale[2]);
    }
}

// `out` is [rows, 3, height, width] or [rows, height, width, 3].
extern "C" __global__ void __launch_bounds__(256)
    preprocess_f32(const ImageDescriptor* images, float* out, PreprocessParameters parameters) {
    preprocess(images, out, parameters);
}

extern "C" __global__ void __launch_bounds__(256)
    preprocess_f16(const ImageDescriptor* images, half_bits* out, PreprocessParameters parameters) {
    preprocess(images, out, parameters);
}

// The levels as they are, without mean and scale.
extern "C" __global__ void __launch_bounds__(256)
    preprocess_u8(const ImageDescriptor* images, unsigned char* out, PreprocessParameters parameters) {
    preprocess(images, out, parameters);
}
