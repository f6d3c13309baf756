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
pub(super) struct Axis {
    /// Pixels of the upright image.
    pub(super) source: u32,
    /// Pixels it is resized to.
    pub(super) output: u64,
    /// First of them that is wanted.
    pub(super) skip: u64,
    /// How many are wanted.
    pub(super) take: u32,
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
    fn taps(&self, border: Border, mirrored: bool, stride: usize) -> impl Iterator<Item = Tap> {
        let Self { source, output, skip, take } = *self;
        let last = i64::from(source) - 1;
        // The inverse of the quotient, not the other quotient: OpenCV's rounding.
        let scale = 1.0 / (output as f64 / f64::from(source));
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

/// Where one output column comes from, in the order of memory: two neighbours in all but one-pixel sources, so
/// that one load gets both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Column {
    /// Byte offset of the first in its row.
    offset: usize,
    /// Weights of both, in 1/2048.
    weights: [u16; 2],
}

impl Column {
    /// `last` is the byte offset of the last pixel, `stride` the bytes from one pixel to the next.
    fn new(tap: Tap, last: usize, stride: usize) -> Self {
        let ([first, second], [w0, w1]) = (tap.offsets, tap.weights);
        if first < second || last == 0 {
            Self { offset: first, weights: [w0, w1] }
        } else if second < first {
            Self { offset: second, weights: [w1, w0] }
        } else if first == last {
            // At the border the first pixel has all the weight, and the second is any.
            Self { offset: last - stride, weights: [w1, w0] }
        } else {
            Self { offset: first, weights: [w0, w1] }
        }
    }
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
    columns: Vec<Column>,
    /// Bytes from one pixel of a row to the next; 0 where there is one.
    column_stride: usize,
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
        self.columns.clear();
        self.column_stride = if x.source == 1 { 0 } else { x_stride };
        let last = (x.source as usize - 1) * x_stride;
        let taps = x.taps(Border::WholeWeight, orientation.mirrors_x(), x_stride);
        self.columns.extend(taps.map(|tap| Column::new(tap, last, x_stride)));
        self.rows.clear();
        self.rows.extend(y.taps(Border::SplitWeight, orientation.mirrors_y(), y_stride));
        let width = self.columns.len();
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
                self.above.load(first, pixels, &self.columns, self.column_stride);
            }
            self.below.load(second, pixels, &self.columns, self.column_stride);
            blend(&self.above.values, &self.below.values, row.weights, &mut self.line);
            sink(number, &self.line);
        }
    }
}

impl WideRow {
    /// Fills `self` from the row at byte offset `at`, unless it is there already.
    fn load(&mut self, at: usize, pixels: &[u8], columns: &[Column], stride: usize) {
        if self.at == Some(at) {
            return;
        }
        self.at = Some(at);
        let row = &pixels[at..];
        if stride == 3 {
            self.fill(columns, |offset| neighbours(row, offset));
        } else {
            self.fill(columns, |offset| [spread(pixel(row, offset)), spread(pixel(row, offset + stride))]);
        }
    }

    /// The horizontal pass. `pair` gives the two pixels at an offset, spread.
    #[inline(always)]
    fn fill(&mut self, columns: &[Column], pair: impl Fn(usize) -> [u64; 2]) {
        let (red, rest) = self.values.split_at_mut(columns.len());
        let (green, blue) = rest.split_at_mut(columns.len());
        for (((column, red), green), blue) in columns.iter().zip(red).zip(green).zip(blue) {
            let [left, right] = pair(column.offset);
            let sum = left * u64::from(column.weights[0]) + right * u64::from(column.weights[1]);
            // Each sum is at most 255 * 2048: 19 of its 21 bits.
            *red = ((sum >> 4) & 0x7fff) as u16;
            *green = ((sum >> 25) & 0x7fff) as u16;
            *blue = (sum >> 46) as u16;
        }
    }
}

/// The three channels of a pixel, the low 24 bits, each with room for 21 bits: one multiplication does for all.
#[inline(always)]
fn spread(pixel: u64) -> u64 {
    (pixel & 0xff) | (pixel & 0xff00) << 13 | (pixel & 0xff_0000) << 26
}

/// The pixel at `offset` and the one after it, spread. One load of 8 bytes; the last pixels of an image do
/// not have so many.
#[inline(always)]
fn neighbours(row: &[u8], offset: usize) -> [u64; 2] {
    if let Some(eight) = row.get(offset..).and_then(|rest| rest.first_chunk::<8>()) {
        let both = u64::from_le_bytes(*eight);
        [spread(both), spread(both >> 24)]
    } else {
        [spread(pixel(row, offset)), spread(pixel(row, offset + 3))]
    }
}

#[inline(always)]
fn pixel(row: &[u8], offset: usize) -> u64 {
    let bytes = &row[offset..][..3];
    u64::from(bytes[0]) | u64::from(bytes[1]) << 8 | u64::from(bytes[2]) << 16
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
