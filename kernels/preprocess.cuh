// What preprocess.cu is told: written by the host (src/gpu/descriptor.rs has the same structures, and
// tests/kernels.rs compares sizes and offsets), read by every thread.
#pragma once

// Bits of ImageDescriptor::turn. Walking right in the upright image walks left in the stored one (up, if it
// transposes) where it mirrors x; walking down walks up (left) where it mirrors y.
enum Turn : unsigned { TURN_TRANSPOSE = 1, TURN_MIRROR_X = 2, TURN_MIRROR_Y = 4 };

// Values of PreprocessParameters::layout and color_order.
enum Layout : unsigned { LAYOUT_NCHW = 0, LAYOUT_NHWC = 1 };
enum ColorOrder : unsigned { COLOR_RGB = 0, COLOR_BGR = 1 };

// One direction of a resize, in the upright image: output pixel `start + i` is pixel `skip + i` of the resized
// image, for i below `count`. What lies outside is filled.
struct AxisDescriptor {
    unsigned long long skip;
    double scale;  // source pixels for each resized one: 1 / (resized / source)
    unsigned start;
    unsigned count;
};

// One decoded image and where it goes. Aligned so that it is read in six loads, not eleven.
struct alignas(16) ImageDescriptor {
    unsigned long long pixels;  // device address of RGB8, interleaved, as stored
    AxisDescriptor x;
    AxisDescriptor y;
    unsigned pitch;   // bytes from one stored row to the next
    unsigned width;   // stored pixels in a row, at most 2^30
    unsigned height;  // stored rows, at most 2^30
    unsigned turn;    // bits of Turn
    unsigned row;     // row of the output; an image whose row is not below `rows` is left out
    unsigned reserved;
};

// What all images of a launch share.
struct PreprocessParameters {
    unsigned width;   // pixels in a row of the output
    unsigned height;  // rows of pixels of an output row
    unsigned images;  // descriptors
    unsigned rows;    // rows that the output has room for
    unsigned layout;
    unsigned color_order;
    float mean[3];     // in the output's order of channels, as is `scale`
    float scale[3];    // value = (level - mean) * scale; bytes are written as they are
    unsigned fill[3];  // levels of red, green, blue around the picture
};
