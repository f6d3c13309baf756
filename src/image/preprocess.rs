//! [`Preprocess`]: decoded pixels to a model's input tensor, resized, normalised and laid out in one pass over
//! the output. `resize` has the arithmetic.

use super::resize::{Axis, Resizer};
use super::{Orientation, Rgb8View};
use crate::tensor::Datatype;
use half::f16;

/// Order of the dimensions of a model's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// `[channel, height, width]` in an image.
    #[default]
    Nchw,
    /// `[height, width, channel]` in an image.
    Nhwc,
}

/// Order of the channels of a model's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ColorOrder {
    /// Red, green, blue.
    #[default]
    Rgb,
    /// Blue, green, red: what OpenCV pipelines feed where they do not convert.
    Bgr,
}

impl Layout {
    /// The word in `model.toml`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nchw => "NCHW",
            Self::Nhwc => "NHWC",
        }
    }
}

impl ColorOrder {
    /// The word in `model.toml`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rgb => "RGB",
            Self::Bgr => "BGR",
        }
    }
}

/// How an image of another shape than the model's is fitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ResizeRule {
    /// Each side is resized for itself: `cv2.resize(image, (width, height))`.
    #[default]
    Stretch,
    /// The whole image, its shape kept, in the middle of the model's; the rest is filled.
    ///
    /// With `r = min(width / w, height / h)` the image is resized to `w * r` by `h * r`, each rounded half to
    /// even and at least 1. Of an odd rest, the smaller half is to the left and above.
    Letterbox {
        /// Red, green, blue of the rest, as levels before normalisation.
        fill: [u8; 3],
    },
    /// The middle of the image, its shape kept; what does not fit is cut off.
    ///
    /// The shorter side is resized to `resize_shorter_side`, the longer one in proportion, rounded down. Then
    /// the middle is cut out: `(resized - wanted) / 2` pixels off the left and off the top, rounded half to
    /// even. These are the sizes of torchvision's `Resize` and `CenterCrop`.
    CenterCrop {
        /// Pixels of the shorter side before the cut. Without it, the image is resized to just cover the
        /// model's input: by `max(width / w, height / h)`.
        resize_shorter_side: Option<u32>,
    },
}

/// What a model's image input looks like, as `model.toml` says it.
#[derive(Debug, Clone, PartialEq)]
pub struct PreprocessConfig {
    /// Pixels in a row of the input.
    pub width: u32,
    /// Rows of the input.
    pub height: u32,
    /// Order of the dimensions. Default `NCHW`.
    pub layout: Layout,
    /// Order of the channels. Default `RGB`.
    pub color_order: ColorOrder,
    /// Level that becomes 0, for each channel of the input in its order.
    pub mean: [f32; 3],
    /// Factor after that: `value = (level - mean) * scale`, with levels from 0 to 255.
    pub scale: [f32; 3],
    /// How other shapes are fitted. Default `stretch`.
    pub resize: ResizeRule,
}

/// Why a [`PreprocessConfig`] is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PreprocessError {
    /// A side is 0 or over 16384.
    #[error("width and height must be 1 to {MAX_INPUT_SIDE}, not {width}x{height}")]
    Side {
        /// As configured.
        width: u32,
        /// As configured.
        height: u32,
    },
    /// The crop is larger than the image it is cut from.
    #[error("resize_shorter_side {shorter} is less than the larger side of the {width}x{height} input")]
    Crop {
        /// As configured.
        shorter: u32,
        /// As configured.
        width: u32,
        /// As configured.
        height: u32,
    },
    /// A mean or scale is infinite or no number.
    #[error("mean and scale must be finite numbers, not {mean:?} and {scale:?}")]
    NotFinite {
        /// As configured.
        mean: [f32; 3],
        /// As configured.
        scale: [f32; 3],
    },
}

/// The largest side of a model's input: offsets and products of sides stay far from overflow.
const MAX_INPUT_SIDE: u32 = 16_384;

/// Where an image goes in the input, and from where: the geometry of a resize, for the CPU and the GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Across the upright image.
    pub(crate) x: Axis,
    /// Down the upright image.
    pub(crate) y: Axis,
    /// First column of the input that shows the image; it shows `x.take` columns.
    pub(crate) left: u32,
    /// First row of the input that shows the image; it shows `y.take` rows.
    pub(crate) top: u32,
}

/// Fits images to one model's input. Keeps the tables of the last geometry and its working rows, so that images
/// of one size cost no allocation; one per thread.
#[derive(Debug)]
pub struct Preprocess {
    config: PreprocessConfig,
    resizer: Resizer,
    /// What `resizer` is prepared for, and where its result goes.
    prepared: Option<((u32, u32, Orientation), Geometry)>,
}

impl PreprocessConfig {
    /// Refuses what no input can look like.
    ///
    /// **Errors:** see [`PreprocessError`].
    pub fn check(&self) -> Result<(), PreprocessError> {
        let Self { width, height, mean, scale, .. } = *self;
        if !(1..=MAX_INPUT_SIDE).contains(&width) || !(1..=MAX_INPUT_SIDE).contains(&height) {
            return Err(PreprocessError::Side { width, height });
        }
        if let ResizeRule::CenterCrop { resize_shorter_side: Some(shorter) } = self.resize
            && shorter < width.max(height)
        {
            return Err(PreprocessError::Crop { shorter, width, height });
        }
        if !mean.iter().chain(&scale).all(|v| v.is_finite()) {
            return Err(PreprocessError::NotFinite { mean, scale });
        }
        Ok(())
    }

    /// How an upright image of `size` is fitted into this input.
    pub(crate) fn geometry(&self, size: (u32, u32)) -> Geometry {
        let (x, y) = axes(self, size);
        // Of an odd rest, the smaller half is to the left and above.
        Geometry { x, y, left: (self.width - x.take) / 2, top: (self.height - y.take) / 2 }
    }
}

impl Preprocess {
    /// Checks the configuration.
    ///
    /// **Errors:** see [`PreprocessError`].
    pub fn new(config: PreprocessConfig) -> Result<Self, PreprocessError> {
        config.check()?;
        Ok(Self { config, resizer: Resizer::default(), prepared: None })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &PreprocessConfig {
        &self.config
    }

    /// Elements that one image fills: 3 * height * width.
    #[must_use]
    pub fn elements(&self) -> usize {
        3 * self.config.width as usize * self.config.height as usize
    }

    /// Turns `image` upright, resizes it and writes `(level - mean) * scale` to `out`, `[3, height, width]` or
    /// `[height, width, 3]` by the layout.
    ///
    /// # Panics
    ///
    /// If `out` does not have [`Preprocess::elements`] elements.
    pub fn run(&mut self, image: &Rgb8View<'_>, out: &mut [f32]) {
        let PreprocessConfig { mean, scale, .. } = self.config;
        self.write(image, out, |channel, level| (f32::from(level) - mean[channel]) * scale[channel]);
    }

    /// As [`Preprocess::run`], [`Preprocess::run_f16`] or [`Preprocess::run_u8`], by the input's datatype; `out` is
    /// aligned for it.
    ///
    /// # Panics
    ///
    /// If `out` does not hold [`Preprocess::elements`] elements of that type, or is not aligned for them.
    pub fn run_as(&mut self, datatype: Datatype, image: &Rgb8View<'_>, out: &mut [u8]) {
        if datatype == Datatype::Uint8 {
            self.run_u8(image, out);
        } else if datatype == Datatype::Fp16 {
            self.run_f16(image, bytemuck::cast_slice_mut(out));
        } else {
            self.run(image, bytemuck::cast_slice_mut(out));
        }
    }

    /// As [`Preprocess::run`], with each value rounded to the nearest 16-bit float, to even.
    ///
    /// # Panics
    ///
    /// If `out` does not have [`Preprocess::elements`] elements.
    pub fn run_f16(&mut self, image: &Rgb8View<'_>, out: &mut [f16]) {
        let PreprocessConfig { mean, scale, .. } = self.config;
        self.write(image, out, |channel, level| {
            f16::from_f32((f32::from(level) - mean[channel]) * scale[channel])
        });
    }

    /// As [`Preprocess::run`], with the levels as they are: for models whose input is `UINT8`, and to compare
    /// pixels.
    ///
    /// # Panics
    ///
    /// If `out` does not have [`Preprocess::elements`] elements.
    pub fn run_u8(&mut self, image: &Rgb8View<'_>, out: &mut [u8]) {
        self.write(image, out, |_, level| level);
    }

    /// Writes every pixel of the input through `value`, which gets the channel of the input and the level.
    fn write<T: Copy>(&mut self, image: &Rgb8View<'_>, out: &mut [T], value: impl Fn(usize, u8) -> T) {
        assert_eq!(out.len(), self.elements(), "the slot holds one image of the model's input");
        let Geometry { x, y, left, top } = self.prepare(image);
        let (left, top, columns, rows) = (left as usize, top as usize, x.take as usize, y.take as usize);
        let (width, height) = (self.config.width as usize, self.config.height as usize);
        let plane = width * height;
        let layout = self.config.layout;
        // Input channel `c` is channel `from[c]` of RGB.
        let from = match self.config.color_order {
            ColorOrder::Rgb => [0, 1, 2],
            ColorOrder::Bgr => [2, 1, 0],
        };
        if let ResizeRule::Letterbox { fill } = self.config.resize
            && columns * rows < plane
        {
            let fill = [0, 1, 2].map(|c| value(c, fill[from[c]]));
            match layout {
                Layout::Nchw => out.chunks_exact_mut(plane).zip(fill).for_each(|(out, fill)| out.fill(fill)),
                Layout::Nhwc => out.as_chunks_mut::<3>().0.fill(fill),
            }
        }
        self.resizer.run(image, |row, line| {
            let start = (top + row) * width + left;
            let channel = |c: usize| &line[from[c] * columns..][..columns];
            match layout {
                Layout::Nchw => {
                    for c in 0..3 {
                        let out = &mut out[c * plane + start..][..columns];
                        out.iter_mut().zip(channel(c)).for_each(|(out, &level)| *out = value(c, level));
                    }
                }
                Layout::Nhwc => {
                    let out = out[start * 3..][..columns * 3].as_chunks_mut::<3>().0;
                    for (((out, &a), &b), &c) in
                        out.iter_mut().zip(channel(0)).zip(channel(1)).zip(channel(2))
                    {
                        *out = [value(0, a), value(1, b), value(2, c)];
                    }
                }
            }
        });
    }

    /// Makes `resizer` ready for images of this shape, unless it is.
    fn prepare(&mut self, image: &Rgb8View<'_>) -> Geometry {
        let shape = (image.width(), image.height(), image.orientation());
        if let Some((prepared, geometry)) = self.prepared
            && prepared == shape
        {
            return geometry;
        }
        let geometry = self.config.geometry(image.oriented_size());
        self.resizer.prepare(image, geometry.x, geometry.y);
        self.prepared = Some((shape, geometry));
        geometry
    }
}

/// What each direction of an upright image of `size` is resized to, and which part of that is kept.
fn axes(config: &PreprocessConfig, size: (u32, u32)) -> (Axis, Axis) {
    let (w, h) = size;
    let (width, height) = (config.width, config.height);
    let whole = |source, output: u32| Axis { source, output: u64::from(output), skip: 0, take: output };
    // The middle `take` of `output`; half to even, so a rest of 1 is cut off at the end and one of 3 at both.
    let middle = |source, output: u64, take: u32| {
        let rest = output.saturating_sub(u64::from(take));
        let skip = rest / 2 + u64::from(rest % 4 == 3);
        Axis { source, output, skip, take }
    };
    match config.resize {
        ResizeRule::Stretch => (whole(w, width), whole(h, height)),
        ResizeRule::Letterbox { .. } => {
            let ratio = (f64::from(width) / f64::from(w)).min(f64::from(height) / f64::from(h));
            let side = |source: u32, limit: u32| {
                ((f64::from(source) * ratio).round_ties_even() as u32).clamp(1, limit)
            };
            (whole(w, side(w, width)), whole(h, side(h, height)))
        }
        ResizeRule::CenterCrop { resize_shorter_side } => {
            let [w64, h64, width64, height64] = [w, h, width, height].map(u64::from);
            let (x, y) = match resize_shorter_side.map(u64::from) {
                Some(shorter) if w <= h => (shorter, h64 * shorter / w64),
                Some(shorter) => (w64 * shorter / h64, shorter),
                None if width64 * h64 >= height64 * w64 => (width64, h64 * width64 / w64),
                None => (w64 * height64 / h64, height64),
            };
            (middle(w, x, width), middle(h, y, height))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(width: u32, height: u32, resize: ResizeRule) -> PreprocessConfig {
        PreprocessConfig {
            width,
            height,
            layout: Layout::Nchw,
            color_order: ColorOrder::Rgb,
            mean: [0.0, 100.0, 200.0],
            scale: [1.0, 0.5, 0.25],
            resize,
        }
    }

    #[test]
    fn values_go_where_the_layout_says() {
        // Two pixels: (10, 20, 30) and (40, 50, 60).
        let pixels = [10, 20, 30, 40, 50, 60];
        let image = Rgb8View::new(&pixels, 2, 1, Orientation::Upright).unwrap();
        for (layout, color_order, levels) in [
            (Layout::Nchw, ColorOrder::Rgb, [10, 40, 20, 50, 30, 60]),
            (Layout::Nchw, ColorOrder::Bgr, [30, 60, 20, 50, 10, 40]),
            (Layout::Nhwc, ColorOrder::Rgb, [10, 20, 30, 40, 50, 60]),
            (Layout::Nhwc, ColorOrder::Bgr, [30, 20, 10, 60, 50, 40]),
        ] {
            let config = PreprocessConfig { layout, color_order, ..config(2, 1, ResizeRule::Stretch) };
            let mut preprocess = Preprocess::new(config).unwrap();
            let mut raw = [0; 6];
            preprocess.run_u8(&image, &mut raw);
            assert_eq!(raw, levels, "{layout:?} {color_order:?}");
            let mut out = [0.0; 6];
            preprocess.run(&image, &mut out);
            for (i, (&level, value)) in levels.iter().zip(out).enumerate() {
                // Mean and scale belong to the channels of the input, in its order.
                let channel = if layout == Layout::Nchw { i / 2 } else { i % 3 };
                let (mean, scale) = ([0.0, 100.0, 200.0][channel], [1.0, 0.5, 0.25][channel]);
                let expected = (f32::from(level) - mean) * scale;
                assert_eq!(value, expected, "{layout:?} {color_order:?} element {i}");
            }
        }
    }

    #[test]
    fn letterbox_fills_around_the_picture() {
        let fill = [7, 8, 9];
        let pixels = [200; 12];
        let image = Rgb8View::new(&pixels, 4, 1, Orientation::Upright).unwrap();
        for (layout, color_order) in [(Layout::Nhwc, ColorOrder::Rgb), (Layout::Nchw, ColorOrder::Bgr)] {
            let config = config(4, 4, ResizeRule::Letterbox { fill });
            let mut preprocess = Preprocess::new(PreprocessConfig { layout, color_order, ..config }).unwrap();
            let mut out = [0; 48];
            preprocess.run_u8(&image, &mut out);
            for (i, level) in out.into_iter().enumerate() {
                let (row, channel) = match layout {
                    Layout::Nchw => (i % 16 / 4, 2 - i / 16),
                    Layout::Nhwc => (i / 12, i % 3),
                };
                // Three rows are left: one above, two below.
                let expected = if row == 1 { 200 } else { fill[channel] };
                assert_eq!(level, expected, "{layout:?} element {i}");
            }
        }
    }

    #[test]
    fn sizes_and_cuts() {
        let crop = |resize_shorter_side| ResizeRule::CenterCrop { resize_shorter_side };
        let letterbox = ResizeRule::Letterbox { fill: [0; 3] };
        for (rule, size, x, y) in [
            (ResizeRule::Stretch, (640, 480), (112, 0, 112), (96, 0, 96)),
            (letterbox, (640, 480), (112, 0, 112), (84, 0, 84)),
            (letterbox, (10, 480), (2, 0, 2), (96, 0, 96)),
            (letterbox, (1, 100_000), (1, 0, 1), (96, 0, 96)),
            (crop(None), (640, 480), (128, 8, 112), (96, 0, 96)),
            (crop(None), (480, 640), (112, 0, 112), (149, 26, 96)),
            (crop(Some(128)), (640, 480), (170, 29, 112), (128, 16, 96)),
            (crop(Some(128)), (100, 101), (128, 8, 112), (129, 16, 96)),
            (crop(Some(128)), (1, 50_000_000), (128, 8, 112), (6_400_000_000, 3_199_999_952, 96)),
        ] {
            let (got_x, got_y) = axes(&config(112, 96, rule), size);
            let got = [got_x, got_y].map(|a| (a.output, a.skip, a.take));
            assert_eq!(got, [x, y], "{rule:?} of {size:?}");
        }
    }

    #[test]
    fn one_preprocess_takes_images_of_any_shape_in_turn() {
        let mut preprocess = Preprocess::new(config(3, 2, ResizeRule::Stretch)).unwrap();
        for (w, h, value) in [(4, 4, 1), (1, 1, 1), (5, 2, 6), (2, 5, 6), (4, 4, 3), (4, 4, 1)] {
            let pixels: Vec<u8> = (0..w * h * 3).map(|i| i as u8).collect();
            let image = Rgb8View::new(&pixels, w, h, Orientation::from_exif(value)).unwrap();
            let (mut got, mut fresh) = ([0; 18], [0; 18]);
            preprocess.run_u8(&image, &mut got);
            Preprocess::new(config(3, 2, ResizeRule::Stretch)).unwrap().run_u8(&image, &mut fresh);
            assert_eq!(got, fresh, "{w}x{h}, EXIF {value}");
        }
    }

    #[test]
    fn impossible_configurations_are_refused() {
        let good = config(112, 112, ResizeRule::Stretch);
        let crop = ResizeRule::CenterCrop { resize_shorter_side: Some(100) };
        for (config, text) in [
            (PreprocessConfig { width: 0, ..good.clone() }, "not 0x112"),
            (PreprocessConfig { height: 20_000, ..good.clone() }, "not 112x20000"),
            (PreprocessConfig { resize: crop, ..good.clone() }, "resize_shorter_side 100"),
            (PreprocessConfig { mean: [f32::NAN; 3], ..good.clone() }, "finite"),
            (PreprocessConfig { scale: [f32::INFINITY; 3], ..good.clone() }, "finite"),
        ] {
            let error = Preprocess::new(config).expect_err(text).to_string();
            assert!(error.contains(text), "{error}");
        }
        assert!(Preprocess::new(good).is_ok());
    }
}
