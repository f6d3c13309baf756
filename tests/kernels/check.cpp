// The kernels, run on the host, against references that share nothing with them: bilinear interpolation in double
// precision of an image that was turned upright first (within one level), and the documented fixed-point
// arithmetic (exactly). All memory has its exact size, so that AddressSanitizer sees a step too far; what must not
// be written is checked as well. Prints what failed; exit status 1 then.

#include <sys/mman.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "l2_normalize.cuh"
#include "preprocess.cuh"

extern "C" int run_kernel(const char* name, const unsigned grid[3], const unsigned block[3], void** arguments,
                          int ascending);

namespace {

using Byte = unsigned char;

thread_local uint32_t seed = 1;

uint32_t random_number(uint32_t below) {
    seed = seed * 1664525 + 1013904223;
    return static_cast<uint32_t>((static_cast<uint64_t>(seed >> 4) * below) >> 28);
}

struct Failures {
    std::string first;
    unsigned count = 0;
    void add(const std::string& what) {
        if (count++ == 0) first = what;
    }
};

// What EXIF's values 1 to 8 mean, by where pixel (x, y) of the upright image is stored.
struct Place {
    unsigned column, row;
};
Place stored_at(int exif, unsigned width, unsigned height, unsigned x, unsigned y) {
    switch (exif) {
        case 1: return {x, y};
        case 2: return {width - 1 - x, y};
        case 3: return {width - 1 - x, height - 1 - y};
        case 4: return {x, height - 1 - y};
        case 5: return {y, x};
        case 6: return {y, height - 1 - x};
        case 7: return {width - 1 - y, height - 1 - x};
        default: return {width - 1 - y, x};
    }
}

constexpr unsigned turns[9] = {0, 0, TURN_MIRROR_X, TURN_MIRROR_X | TURN_MIRROR_Y, TURN_MIRROR_Y, TURN_TRANSPOSE,
                               TURN_TRANSPOSE | TURN_MIRROR_X, TURN_TRANSPOSE | TURN_MIRROR_X | TURN_MIRROR_Y,
                               TURN_TRANSPOSE | TURN_MIRROR_Y};

struct Picture {
    unsigned width, height, pitch;
    int exif;
    // One allocation that ends with the last pixel; the bytes between rows are noise as well.
    std::unique_ptr<Byte[]> pixels;

    Picture(unsigned width, unsigned height, unsigned spare, int exif)
        : width(width), height(height), pitch(width * 3 + spare), exif(exif) {
        const size_t bytes = static_cast<size_t>(pitch) * (height - 1) + width * 3;
        pixels.reset(new Byte[bytes]);
        for (size_t i = 0; i < bytes; ++i) pixels[i] = static_cast<Byte>(random_number(256));
    }
    bool transposed() const { return exif >= 5; }
    unsigned upright_width() const { return transposed() ? height : width; }
    unsigned upright_height() const { return transposed() ? width : height; }
    int level(long x, long y, int channel) const {
        const long w = upright_width(), h = upright_height();
        x = x < 0 ? 0 : x >= w ? w - 1 : x;
        y = y < 0 ? 0 : y >= h ? h - 1 : y;
        const Place at = stored_at(exif, width, height, static_cast<unsigned>(x), static_cast<unsigned>(y));
        return pixels[static_cast<size_t>(at.row) * pitch + at.column * 3 + channel];
    }
};

// How one direction of a picture is resized and cut, and where it goes.
struct Axis {
    unsigned source;
    unsigned long long resized, skip;
    unsigned start, count;

    AxisDescriptor descriptor() const {
        return {skip, 1.0 / (static_cast<double>(resized) / source), start, count};
    }
    // Where output pixel `start + i` lies in the source.
    long double position(unsigned i) const {
        return (static_cast<long double>(skip + i) + 0.5L) * source / resized - 0.5L;
    }
    float rounded_position(unsigned i) const {
        const double centre = (static_cast<double>(skip + i) + 0.5) * (1.0 / (static_cast<double>(resized) / source));
        return static_cast<float>(centre - 0.5);
    }
};

struct Job {
    const Picture* picture;
    Axis x, y;
    unsigned row;
};

double interpolated(const Job& job, unsigned column, unsigned line, int channel) {
    const double px = static_cast<double>(job.x.position(column)), py = static_cast<double>(job.y.position(line));
    const double fx = std::floor(px), fy = std::floor(py), ax = px - fx, ay = py - fy;
    const auto p = [&](int dx, int dy) {
        return job.picture->level(static_cast<long>(fx) + dx, static_cast<long>(fy) + dy, channel);
    };
    return (1 - ay) * ((1 - ax) * p(0, 0) + ax * p(1, 0)) + ay * ((1 - ax) * p(0, 1) + ax * p(1, 1));
}

// 11-bit weights, half to even; 4 bits dropped after the pass over columns, 16 of each product after the one over
// rows, then 2 rounded off. Outside the source, columns give the edge all the weight.
int fixed_point(const Job& job, unsigned column, unsigned line, int channel) {
    const float px = job.x.rounded_position(column), py = job.y.rounded_position(line);
    const long x = std::lround(std::floor(px)), y = std::lround(std::floor(py));
    float ax = px - std::floor(px);
    const float ay = py - std::floor(py);
    if (x < 0 || x + 1 >= static_cast<long>(job.x.source)) ax = 0;
    const long wx[2] = {std::lrint((1.0f - ax) * 2048.0f), std::lrint(ax * 2048.0f)};
    const long wy[2] = {std::lrint((1.0f - ay) * 2048.0f), std::lrint(ay * 2048.0f)};
    long sum = 2;
    for (int dy = 0; dy < 2; ++dy) {
        long across = 0;
        for (int dx = 0; dx < 2; ++dx) across += wx[dx] * job.picture->level(x + dx, y + dy, channel);
        sum += (across / 16 * wy[dy]) / 65536;
    }
    return static_cast<int>(sum / 4);
}

double half_value(uint16_t bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const double sign = bits & 0x8000 ? -1 : 1;
    if (exponent == 31) return sign * INFINITY;
    return sign * (exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(fraction + 1024, exponent - 25));
}

struct Shape {
    unsigned grid_z;  // 0: one for each image
    unsigned block_x, block_y;
};

template <class T>
struct Check {
    PreprocessParameters parameters;
    Shape shape;
    const char* entry;
    Failures* failures;

    std::string at(const Job& job, unsigned x, unsigned y, int c, double got, double expected) const {
        char text[400];
        const Picture& p = *job.picture;
        std::snprintf(text, sizeof text,
                      "%s %ux%u layout %u colours %u: picture %ux%u pitch %u EXIF %d to %llux%llu, row %u, pixel %u,%u "
                      "channel %d is %.9g, not %.9g",
                      entry, parameters.width, parameters.height, parameters.layout, parameters.color_order, p.width,
                      p.height, p.pitch, p.exif, job.x.resized, job.y.resized, job.row, x, y, c, got, expected);
        return text;
    }

    // One pixel of one channel of the output, against both references.
    void pixel(const Job& job, unsigned x, unsigned y, int c, T got) const {
        const int source_channel = parameters.color_order == COLOR_BGR ? 2 - c : c;
        const unsigned column = x - job.x.start, line = y - job.y.start;
        const bool inside =
            x >= job.x.start && y >= job.y.start && column < job.x.count && line < job.y.count;
        const int fill = static_cast<int>(parameters.fill[source_channel]);
        const int exact = inside ? fixed_point(job, column, line, source_channel) : fill;
        const double smooth = inside ? interpolated(job, column, line, source_channel) : fill;
        const float mean = parameters.mean[c], scale = parameters.scale[c];
        const float normalised = (static_cast<float>(exact) - mean) * scale;
        double level, value, expected;
        bool equal;
        if constexpr (std::is_same_v<T, float>) {
            value = got, expected = normalised;
            level = value / scale + mean;
            equal = got == normalised;
        } else if constexpr (std::is_same_v<T, uint16_t>) {
            value = half_value(got), expected = normalised;
            level = value / scale + mean;
            equal = std::fabs(value - expected) <= std::fmax(std::fabs(expected) / 2048, std::ldexp(1.0, -25));
        } else {
            value = level = got, expected = exact;
            equal = got == exact;
        }
        if (!equal) failures->add(at(job, x, y, c, value, expected));
        // The value in levels, to within half precision's step of it.
        const double step = std::is_same_v<T, uint16_t> ? std::fabs(expected / scale) / 1024 : 1e-3;
        if (!(std::fabs(level - smooth) < 1.0 + step)) failures->add(at(job, x, y, c, level, smooth) + " (in double)");
    }

    void run(const std::vector<Job>& jobs) const {
        const size_t elements = static_cast<size_t>(3) * parameters.width * parameters.height;
        const size_t images = jobs.size();
        std::unique_ptr<ImageDescriptor[]> descriptors(new ImageDescriptor[images]);
        std::vector<bool> written(parameters.rows, false);
        for (size_t i = 0; i < images; ++i) {
            const Picture& p = *jobs[i].picture;
            descriptors[i] = {reinterpret_cast<unsigned long long>(p.pixels.get()), jobs[i].x.descriptor(),
                              jobs[i].y.descriptor(), p.pitch, p.width, p.height, turns[p.exif], jobs[i].row, 0};
            if (jobs[i].row >= parameters.rows) continue;
            if (written[jobs[i].row]) return failures->add("the check sends two pictures to one row");
            written[jobs[i].row] = true;
        }
        std::unique_ptr<T[]> out(new T[parameters.rows * elements]);
        std::memset(out.get(), 0xa5, parameters.rows * elements * sizeof(T));
        T untouched;
        std::memset(&untouched, 0xa5, sizeof untouched);

        const unsigned z = shape.grid_z ? shape.grid_z : static_cast<unsigned>(images);
        const unsigned grid[3] = {(parameters.width + shape.block_x - 1) / shape.block_x,
                                  (parameters.height + shape.block_y - 1) / shape.block_y, z};
        const unsigned block[3] = {shape.block_x, shape.block_y, 1};
        PreprocessParameters passed = parameters;
        passed.images = static_cast<unsigned>(images);
        ImageDescriptor* images_argument = descriptors.get();
        T* out_argument = out.get();
        void* arguments[] = {&images_argument, &out_argument, &passed};
        if (run_kernel(entry, grid, block, arguments, 0) != 0) {
            return failures->add(std::string(entry) + " did not run");
        }

        for (const Job& job : jobs) {
            if (job.row >= parameters.rows) continue;
            const T* row = out.get() + job.row * elements;
            for (unsigned y = 0; y < parameters.height; ++y) {
                for (unsigned x = 0; x < parameters.width; ++x) {
                    for (unsigned c = 0; c < 3; ++c) {
                        const size_t nchw = (static_cast<size_t>(c) * parameters.height + y) * parameters.width + x;
                        const size_t nhwc = (static_cast<size_t>(y) * parameters.width + x) * 3 + c;
                        pixel(job, x, y, static_cast<int>(c), row[parameters.layout == LAYOUT_NHWC ? nhwc : nchw]);
                    }
                }
            }
        }
        for (unsigned row = 0; row < parameters.rows; ++row) {
            for (size_t i = 0; !written[row] && i < elements; ++i) {
                if (std::memcmp(&out[row * elements + i], &untouched, sizeof untouched) != 0) {
                    return failures->add(std::string(entry) + " wrote a row that no image goes to");
                }
            }
        }
    }
};

// Pictures of many shapes in one launch, each fitted in another way, rows in disorder; one that has no row.
template <class T>
void check_preprocess(const char* entry, Failures* failures) {
    const unsigned sizes[][2] = {{1, 1}, {1, 7}, {7, 1}, {2, 2}, {3, 2}, {2, 300}, {61, 2},
                                 {31, 17}, {64, 48}, {111, 55}, {4001, 3}, {3, 2999}};
    const unsigned outputs[][2] = {{1, 1}, {9, 33}, {33, 9}, {40, 24}};
    const Shape shapes[] = {{0, 32, 8}, {3, 16, 16}, {1, 32, 8}, {0, 7, 3}};
    unsigned turn = 0;
    for (const auto& output : outputs) {
        for (unsigned variant = 0; variant < 4; ++variant) {
            std::vector<Picture> pictures;
            std::vector<Job> jobs;
            for (const auto& size : sizes) {
                pictures.emplace_back(size[0], size[1], random_number(2) * random_number(70), 1 + turn++ % 8);
            }
            const unsigned rows = static_cast<unsigned>(pictures.size()) + 2;
            for (size_t i = 0; i < pictures.size(); ++i) {
                const Picture& p = pictures[i];
                Job job{&p, {}, {}, static_cast<unsigned>(i * 5 % rows)};
                for (int direction = 0; direction < 2; ++direction) {
                    const unsigned source = direction ? p.upright_height() : p.upright_width();
                    const unsigned limit = output[direction];
                    const unsigned count = 1 + random_number(limit), start = random_number(limit - count + 1);
                    const unsigned more = random_number(50);
                    const unsigned skip = random_number(more + 1);
                    Axis axis{source, limit, 0, 0, limit};                                // stretched
                    if (variant == 1) axis = {source, count, 0, start, count};            // letterbox
                    if (variant == 2) axis = {source, limit + more, skip, 0, limit};      // cropped
                    if (variant == 3) axis = {source, source + count - 1, 0, start, count};  // at its size, or near it
                    (direction ? job.y : job.x) = axis;
                }
                jobs.push_back(job);
            }
            // One whose row the output does not have.
            jobs.push_back(jobs.front());
            jobs.back().row = rows;
            Check<T> check{};
            check.parameters = {output[0], output[1], 0, rows, variant & 1, variant >> 1 & 1,
                                {127.5f, 103.939f, 0.1f}, {1 / 128.0f, 0.017f, 1 / 57.375f}, {114, 7, 250}};
            if (turn % 3 == 0) check.parameters.color_order ^= 1;
            check.shape = shapes[variant];
            check.entry = entry;
            check.failures = failures;
            check.run(jobs);
        }
    }
}

// Zeros for more bytes than there are: only what is touched takes memory.
struct Sparse {
    size_t bytes;
    Byte* data;
    explicit Sparse(size_t bytes)
        : bytes(bytes),
          data(static_cast<Byte*>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0))) {}
    ~Sparse() {
        if (data != MAP_FAILED) munmap(data, bytes);
    }
};

// Offsets beyond 32 bits: rows of the source 2 GiB apart, and the last row of a batch of the largest inputs. Only
// the first block runs.
void check_large(Failures* failures) {
    const size_t pitch = size_t{1} << 31, plane = size_t{16384} * 16384;
    const Sparse source(4 * pitch), target(9 * 3 * plane);
    if (source.data == MAP_FAILED || target.data == MAP_FAILED) return failures->add("no address space");
    for (size_t row = 0; row < 4; ++row) std::memset(source.data + row * pitch, static_cast<int>(10 + 20 * row), 6);
    // Two columns and the first rows at their own size; the turn puts the last stored row on top.
    ImageDescriptor image{reinterpret_cast<unsigned long long>(source.data), {0, 1.0, 0, 2}, {0, 1.0, 0, 4},
                          static_cast<unsigned>(pitch), 2, 4, TURN_MIRROR_Y, 8, 0};
    PreprocessParameters parameters{16384, 16384, 1, 9, LAYOUT_NCHW, COLOR_RGB, {}, {}, {1, 2, 3}};
    ImageDescriptor* images = &image;
    Byte* out = target.data;
    void* arguments[] = {&images, &out, &parameters};
    const unsigned grid[3] = {1, 1, 1}, block[3] = {32, 8, 1};
    if (run_kernel("preprocess_u8", grid, block, arguments, 0) != 0) failures->add("preprocess_u8 did not run");
    for (unsigned y = 0; y < 8; ++y) {
        for (unsigned x = 0; x < 32; ++x) {
            for (unsigned c = 0; c < 3; ++c) {
                const unsigned got = target.data[(8 * 3 + c) * plane + y * 16384 + x];
                const unsigned expected = x < 2 && y < 4 ? 10 + 20 * (3 - y) : c + 1;
                if (got != expected) {
                    failures->add("beyond 32 bits: pixel " + std::to_string(x) + "," + std::to_string(y) + " is " +
                                  std::to_string(got) + ", not " + std::to_string(expected));
                }
            }
        }
    }
}

void check_l2_normalize(Failures* failures) {
    for (unsigned columns : {1u, 2u, 3u, 100u, 255u, 256u, 257u, 600u, 5000u}) {
        for (int ascending = 0; ascending < 2; ++ascending) {
            const unsigned rows = 4, gap = columns % 2 ? 5 : 0;
            const size_t stride = columns + gap, elements = stride * (rows - 1) + columns;
            std::unique_ptr<float[]> data(new float[elements]);
            for (size_t i = 0; i < elements; ++i) {
                const size_t row = i / stride, column = i % stride;
                data[i] = static_cast<float>(random_number(20001)) / 100 - 100.003f;
                if (row == 1 && column < columns) data[i] = 0;
                // One value beside which, in single precision, the squares of the others vanish.
                if (row == 2 && column < columns) data[i] = column == 0 ? 2900.0f : 0.6f;
            }
            const std::vector<float> before(data.get(), data.get() + elements);
            float* argument = data.get();
            L2NormalizeParameters parameters{stride, rows, columns};
            void* arguments[] = {&argument, &parameters};
            // A block more than there are rows.
            const unsigned grid[3] = {rows + 1, 1, 1}, block[3] = {L2_NORMALIZE_THREADS, 1, 1};
            if (run_kernel("l2_normalize_f32", grid, block, arguments, ascending) != 0) {
                return failures->add("l2_normalize_f32 did not run");
            }
            for (unsigned row = 0; row < rows; ++row) {
                const size_t first = row * stride, end = row + 1 < rows ? first + stride : elements;
                long double sum = 0;
                for (size_t i = first; i < first + columns; ++i) sum += static_cast<long double>(before[i]) * before[i];
                for (size_t i = first; i < end; ++i) {
                    const bool kept = i >= first + columns || sum == 0;
                    const float expected = kept ? before[i] : static_cast<float>(before[i] / std::sqrt(sum));
                    // One unit in the last place for the order of the additions.
                    const float next = kept ? expected : std::nextafter(expected, data[i]);
                    if (data[i] != expected && data[i] != next) {
                        failures->add("l2_normalize_f32: " + std::to_string(columns) + " columns, row " +
                                      std::to_string(row) + ", element " + std::to_string(i - first) + " is " +
                                      std::to_string(data[i]) + ", not " + std::to_string(expected));
                    }
                }
            }
        }
    }
}

}  // namespace

int main() {
    // Two at a time, as two instances of the daemon would launch.
    Failures failures[2];
    std::thread other([&] {
        check_preprocess<float>("preprocess_f32", &failures[1]);
        check_l2_normalize(&failures[1]);
    });
    check_preprocess<Byte>("preprocess_u8", &failures[0]);
    check_preprocess<uint16_t>("preprocess_f16", &failures[0]);
    check_l2_normalize(&failures[0]);
    check_large(&failures[0]);
    other.join();
    for (const Failures& f : failures) {
        if (f.count) std::printf("%s (and %u more)\n", f.first.c_str(), f.count - 1);
    }
    return failures[0].count + failures[1].count > 0;
}
