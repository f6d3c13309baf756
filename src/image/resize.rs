//! Bilinear resize of 8-bit pixels in fixed point, bit for bit as OpenCV's `INTER_LINEAR`: which two source
//! pixels an output pixel lies between, with what weights, and the two passes over them. `preprocess` decides
//! the sizes and takes the rows.
//!
//! A pixel's centre is at half its width, so output `i` lies at `(i + 0.5) * source / output - 0.5`. Weights
//! have 11 bits. The horizontal pass keeps 15 of its 19 bits, and the vertical pass drops 16 bits of each of its
//! two products, adds them and rounds off 2 more: `tests/golden` holds this to OpenCV's results.

use super::Rgb8View;

/// Weights of 1.0.
const ONE: f32 = 2048.0;

/// Where one output row or column comes from, in the order of the upright image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tap {
    /// Byte offsets of the two source rows or columns.
    offsets: [usize; 2],
    /// Their weights, in 1/2048; they add up to 2048.
    weights: [u16; 2],
}

/// One direction of a resize: `output` pixels, or some of them, out of `source`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Axis {
    /// Pixels of the upright image.
    pub(crate) source: u32,
    /// Pixels it is resized to.
    pub(crate) output: u64,
    /// First of them that is wanted.
    pub(crate) skip: u64,
    /// How many are wanted.
    pub(crate) take: u32,
}

/// Which of OpenCV's two ways to treat the border: both repeat the edge pixel, but only columns then give it
/// all the weight. With equal pixels the weights matter all the same, as each product is rounded for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Border {
    /// Columns.
    WholeWeight,
    /// Rows.
    SplitWeight,
}

impl Axis {
    /// Source pixels for each output pixel: the inverse of the quotient, not the other quotient, for OpenCV's
    /// rounding.
    pub(crate) fn scale(&self) -> f64 {
        1.0 / (self.output as f64 / f64::from(self.source))
    }

    fn taps(&self, border: Border, mirrored: bool, stride: usize) -> impl Iterator<Item = Tap> {
        let Self { source, skip, take, .. } = *self;
        let last = i64::from(source) - 1;
        let scale = self.scale();
        (skip..skip + u64::from(take)).map(move |i| {
            let position = ((i as f64 + 0.5) * scale - 0.5) as f32;
            let first = position.floor();
            let fraction = position - first;
            let first = first as i64;
            let outside = first < 0 || first >= last;
            let fraction = if outside && border == Border::WholeWeight { 0.0 } else { fraction };
            let offset = |at: i64| {
                let at = at.clamp(0, last);
                let at = if mirrored { last - at } else { at };
                at.unsigned_abs() as usize * stride
            };
            Tap {
                offsets: [offset(first), offset(first + 1)],
                weights: [1.0 - fraction, fraction].map(|w| (w * ONE).round_ties_even() as u16),
            }
        })
    }
}

/// Where the output columns come from, in the order of memory: two neighbours, except in one-pixel sources.
#[derive(Debug, Default)]
struct Columns {
    /// Byte offset, in its row, of the first pixel of each.
    offsets: Vec<usize>,
    /// Bytes from that to the second; 0 where a row has one pixel.
    stride: usize,
    /// Weights of the first and the second pixels, in 1/2048.
    weights: [Vec<u16>; 2],
    /// The first and the second pixels of the row at hand, in the low 24 bits.
    pixels: [Vec<u32>; 2],
}

impl Columns {
    fn prepare(&mut self, axis: Axis, mirrored: bool, stride: usize) {
        let last = (axis.source as usize - 1) * stride;
        self.stride = if last == 0 { 0 } else { stride };
        self.offsets.clear();
        self.weights.iter_mut().for_each(Vec::clear);
        for tap in axis.taps(Border::WholeWeight, mirrored, stride) {
            let ([first, second], [w0, w1]) = (tap.offsets, tap.weights);
            let (offset, w0, w1) = if second < first {
                (second, w1, w0)
            } else if first == last && last > 0 {
                // At the border the first pixel has all the weight: the second may as well be before it.
                (last - stride, w1, w0)
            } else {
                (first, w0, w1)
            };
            self.offsets.push(offset);
            self.weights[0].push(w0);
            self.weights[1].push(w1);
        }
        self.pixels.iter_mut().for_each(|p| p.resize(self.offsets.len(), 0));
    }

    /// Gathers the pixels of a row that starts where `row` does.
    fn gather(&mut self, row: &[u8]) {
        let stride = self.stride;
        if stride == 3 {
            // One load of 8 bytes gets both, except at the end of the image.
            self.gather_pairs(|offset| match row.get(offset..).and_then(|rest| rest.first_chunk::<8>()) {
                Some(eight) => {
                    let both = u64::from_le_bytes(*eight);
                    [both as u32, (both >> 24) as u32]
                }
                None => [pixel(row, offset), pixel(row, offset + 3)],
            });
        } else {
            self.gather_pairs(|offset| [pixel(row, offset), pixel(row, offset + stride)]);
        }
    }

    #[inline(always)]
    fn gather_pairs(&mut self, pair: impl Fn(usize) -> [u32; 2]) {
        let [first, second] = &mut self.pixels;
        for ((&offset, first), second) in self.offsets.iter().zip(first).zip(second) {
            [*first, *second] = pair(offset);
        }
    }

    /// The horizontal pass for the channel that is `SHIFT` bits up in a pixel.
    fn mix<const SHIFT: u32>(&self, out: &mut [u16]) {
        let ([first, second], [w0, w1]) = (&self.pixels, &self.weights);
        for ((((out, &a), &b), &w0), &w1) in out.iter_mut().zip(first).zip(second).zip(w0).zip(w1) {
            // The masks on the weights change nothing, and tell the compiler that 16-bit products will do.
            let a = ((a >> SHIFT) & 0xff) * (u32::from(w0) & 0xfff);
            let b = ((b >> SHIFT) & 0xff) * (u32::from(w1) & 0xfff);
            // At most 255 * 2048 / 16: 15 bits.
            *out = (((a + b) >> 4) & 0x7fff) as u16;
        }
    }
}

#[inline(always)]
fn pixel(row: &[u8], offset: usize) -> u32 {
    let bytes = &row[offset..][..3];
    u32::from(bytes[0]) | u32::from(bytes[1]) << 8 | u32::from(bytes[2]) << 16
}

/// A source row, resized to the output's width: `[3, width]`, in 1/128 levels. `at` is its byte offset.
#[derive(Debug, Default)]
struct WideRow {
    at: Option<usize>,
    values: Vec<u16>,
}

/// A resize of images of one size and orientation, with what it needs to run. Nothing is allocated while the
/// geometry stays the same, or none before it was larger.
#[derive(Debug, Default)]
pub(super) struct Resizer {
    columns: Columns,
    rows: Vec<Tap>,
    above: WideRow,
    below: WideRow,
    line: Vec<u8>,
}

impl Resizer {
    /// Prepares for images shaped like `image`, resized to `x` by `y`.
    pub(super) fn prepare(&mut self, image: &Rgb8View<'_>, x: Axis, y: Axis) {
        let orientation = image.orientation();
        let row_bytes = image.width() as usize * 3;
        // In an image that transposes, one step to the right is one row down.
        let (x_stride, y_stride) = if orientation.transposes() { (row_bytes, 3) } else { (3, row_bytes) };
        self.columns.prepare(x, orientation.mirrors_x(), x_stride);
        self.rows.clear();
        self.rows.extend(y.taps(Border::SplitWeight, orientation.mirrors_y(), y_stride));
        let width = self.columns.offsets.len();
        self.above.values.resize(3 * width, 0);
        self.below.values.resize(3 * width, 0);
        self.line.resize(3 * width, 0);
    }

    /// Resizes `image`, which is shaped as it was for `prepare`, and gives each output row to
    /// `sink` with its number: `[3, width]` in RGB.
    pub(super) fn run(&mut self, image: &Rgb8View<'_>, mut sink: impl FnMut(usize, &[u8])) {
        let pixels = image.pixels();
        self.above.at = None;
        self.below.at = None;
        for (number, row) in self.rows.iter().enumerate() {
            let [first, second] = row.offsets;
            if self.above.at != Some(first) {
                // The next pair often begins with the row that the last one ended with.
                std::mem::swap(&mut self.above, &mut self.below);
                self.above.load(first, pixels, &mut self.columns);
            }
            self.below.load(second, pixels, &mut self.columns);
            blend(&self.above.values, &self.below.values, row.weights, &mut self.line);
            sink(number, &self.line);
        }
    }
}

impl WideRow {
    /// Fills `self` from the row at byte offset `at`, unless it is there already.
    fn load(&mut self, at: usize, pixels: &[u8], columns: &mut Columns) {
        if self.at == Some(at) {
            return;
        }
        self.at = Some(at);
        columns.gather(&pixels[at..]);
        let width = columns.offsets.len();
        columns.mix::<0>(&mut self.values[..width]);
        columns.mix::<8>(&mut self.values[width..2 * width]);
        columns.mix::<16>(&mut self.values[2 * width..]);
    }
}

/// The vertical pass: two wide rows to one output row.
fn blend(above: &[u16], below: &[u16], weights: [u16; 2], line: &mut [u8]) {
    let [w0, w1] = weights.map(u32::from);
    for ((&above, &below), out) in above.iter().zip(below).zip(line) {
        // Written so that it compiles to 16-bit multiplications that keep the high half.
        let above = ((u32::from(above) * w0) >> 16) as u16;
        let below = ((u32::from(below) * w1) >> 16) as u16;
        *out = ((above + below + 2) >> 2) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::super::Orientation;
    use super::*;

    /// Bilinear interpolation in double precision, with the edge pixels repeated.
    fn reference(pixels: &[u8], (w, h): (usize, usize), (width, height): (usize, usize)) -> Vec<f64> {
        let taps = |source: usize, output: usize, i: usize| {
            let at = (i as f64 + 0.5) * source as f64 / output as f64 - 0.5;
            let inside = |p: f64| p.clamp(0.0, (source - 1) as f64) as usize;
            (inside(at.floor()), inside(at.floor() + 1.0), at - at.floor())
        };
        let mut out = Vec::new();
        for c in 0..3 {
            for y in 0..height {
                let (y0, y1, fy) = taps(h, height, y);
                for x in 0..width {
                    let (x0, x1, fx) = taps(w, width, x);
                    let p = |x: usize, y: usize| f64::from(pixels[(y * w + x) * 3 + c]);
                    let top = p(x0, y0) * (1.0 - fx) + p(x1, y0) * fx;
                    let bottom = p(x0, y1) * (1.0 - fx) + p(x1, y1) * fx;
                    out.push(top * (1.0 - fy) + bottom * fy);
                }
            }
        }
        out
    }

    fn resize(view: &Rgb8View<'_>, (width, height): (u32, u32)) -> Vec<u8> {
        let (w, h) = view.oriented_size();
        let axis = |source, output: u32| Axis { source, output: u64::from(output), skip: 0, take: output };
        let (width, plane) = (width as usize, width as usize * height as usize);
        let mut out = vec![0; 3 * plane];
        let mut resizer = Resizer::default();
        resizer.prepare(view, axis(w, width as u32), axis(h, height));
        resizer.run(view, |row, line| {
            for c in 0..3 {
                out[c * plane + row * width..][..width].copy_from_slice(&line[c * width..][..width]);
            }
        });
        out
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn resize_is_within_one_level_of_double_precision() {
        for (source, output) in [
            ((1, 1), (5, 3)),
            ((1, 7), (4, 4)),
            ((7, 1), (4, 4)),
            ((2, 2), (9, 9)),
            ((3, 2), (1, 1)),
            ((16, 16), (8, 8)),
            ((8, 8), (8, 8)),
            ((31, 17), (11, 23)),
            ((300, 2), (112, 112)),
            ((200, 200), (112, 112)),
        ] {
            let (w, h) = (source.0 as usize, source.1 as usize);
            let pixels = noise(w * h * 3);
            let view = Rgb8View::new(&pixels, source.0, source.1, Orientation::Upright).unwrap();
            let expected = reference(&pixels, (w, h), (output.0 as usize, output.1 as usize));
            let got = resize(&view, output);
            let worst = got.iter().zip(&expected).map(|(&g, e)| (f64::from(g) - e).abs()).fold(0.0, f64::max);
            assert!(worst < 1.0, "{source:?} to {output:?}: {worst} levels off");
        }
    }

    /// The turn is in the offsets: it must give what turning first gives, bit for bit.
    #[test]
    fn turning_while_resizing_is_turning_before() {
        for (w, h) in [(1, 1), (1, 5), (5, 1), (2, 3), (13, 7), (40, 30)] {
            let pixels = noise(w * h * 3);
            for value in 1..=8 {
                let orientation = Orientation::from_exif(value);
                let stored = Rgb8View::new(&pixels, w as u32, h as u32, orientation).unwrap();
                let (width, height) = stored.oriented_size();
                let mut turned = Vec::new();
                for y in 0..height as usize {
                    for x in 0..width as usize {
                        let x = if orientation.mirrors_x() { width as usize - 1 - x } else { x };
                        let y = if orientation.mirrors_y() { height as usize - 1 - y } else { y };
                        let (x, y) = if orientation.transposes() { (y, x) } else { (x, y) };
                        turned.extend_from_slice(&pixels[(y * w + x) * 3..][..3]);
                    }
                }
                let turned = Rgb8View::new(&turned, width, height, Orientation::Upright).unwrap();
                for output in [(9, 11), (1, 1), (width, height)] {
                    let case = format!("{w}x{h}, EXIF {value}, to {output:?}");
                    assert_eq!(resize(&stored, output), resize(&turned, output), "{case}");
                }
            }
        }
    }

    #[test]
    fn same_size_changes_nothing() {
        let pixels = noise(6 * 4 * 3);
        let view = Rgb8View::new(&pixels, 6, 4, Orientation::Upright).unwrap();
        let got = resize(&view, (6, 4));
        for (i, pixel) in pixels.chunks(3).enumerate() {
            assert_eq!([got[i], got[24 + i], got[48 + i]], pixel, "pixel {i}");
        }
    }
}
