// The kernels as a library: how they are launched, and what their structures look like to the C++ compiler.

#include <cstddef>

#include "host_kernels.h"

enum Status : int { RAN = 0, NO_SUCH_KERNEL = 1, BAD_SHAPE = 2 };

extern "C" int run_kernel(const char* name, const unsigned grid[3], const unsigned block[3], void** arguments,
                          int ascending) {
    const host_cuda::Kernel* kernel = host_cuda::find_kernel(name);
    if (!kernel) return NO_SUCH_KERNEL;
    host_cuda::order = ascending ? host_cuda::Order::ascending : host_cuda::Order::descending;
    const bool ran = kernel->run(dim3(grid[0], grid[1], grid[2]), dim3(block[0], block[1], block[2]), arguments);
    return ran ? RAN : BAD_SHAPE;
}

extern "C" unsigned short convert_to_half(float value) { return half_from_float(value); }

struct LayoutEntry {
    const char* name;
    size_t value;
};

#define SIZE(type) {#type, sizeof(type)}, {"align " #type, alignof(type)}
#define OFFSET(type, field) {#type "." #field, offsetof(type, field)}
#define VALUE(constant) {#constant, constant}

extern "C" const LayoutEntry layout[] = {
    SIZE(AxisDescriptor),
    OFFSET(AxisDescriptor, skip),
    OFFSET(AxisDescriptor, scale),
    OFFSET(AxisDescriptor, start),
    OFFSET(AxisDescriptor, count),
    SIZE(ImageDescriptor),
    OFFSET(ImageDescriptor, pixels),
    OFFSET(ImageDescriptor, x),
    OFFSET(ImageDescriptor, y),
    OFFSET(ImageDescriptor, pitch),
    OFFSET(ImageDescriptor, width),
    OFFSET(ImageDescriptor, height),
    OFFSET(ImageDescriptor, turn),
    OFFSET(ImageDescriptor, row),
    OFFSET(ImageDescriptor, reserved),
    SIZE(PreprocessParameters),
    OFFSET(PreprocessParameters, width),
    OFFSET(PreprocessParameters, height),
    OFFSET(PreprocessParameters, images),
    OFFSET(PreprocessParameters, rows),
    OFFSET(PreprocessParameters, layout),
    OFFSET(PreprocessParameters, color_order),
    OFFSET(PreprocessParameters, mean),
    OFFSET(PreprocessParameters, scale),
    OFFSET(PreprocessParameters, fill),
    SIZE(L2NormalizeParameters),
    OFFSET(L2NormalizeParameters, stride),
    OFFSET(L2NormalizeParameters, rows),
    OFFSET(L2NormalizeParameters, columns),
    VALUE(TURN_TRANSPOSE),
    VALUE(TURN_MIRROR_X),
    VALUE(TURN_MIRROR_Y),
    VALUE(LAYOUT_NCHW),
    VALUE(LAYOUT_NHWC),
    VALUE(COLOR_RGB),
    VALUE(COLOR_BGR),
    VALUE(L2_NORMALIZE_THREADS),
    {nullptr, 0},
};
