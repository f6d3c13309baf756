//! What the kernels are told, as they see it: the structures of `kernels/*.cuh`, filled from a model's
//! [`PreprocessConfig`] and a decoded image. `kernels` says how they are launched; `tests/kernels.rs` compares
//! sizes and offsets with the C++ compiler's.

use bytemuck::{Pod, Zeroable};

use crate::image::{
    Axis, ColorOrder, Geometry, Layout, Orientation, PreprocessConfig, PreprocessError, ResizeRule,
};

/// The largest side of an image that the kernel takes: its positions are 32-bit and signed.
pub const MAX_IMAGE_SIDE: u32 = 1 << 30;

/// Bit of [`ImageDescriptor::turn`]: width and height change places.
pub const TURN_TRANSPOSE: u32 = 1;
/// Bit of [`ImageDescriptor::turn`]: walking right in the upright image walks left in the stored one (up, if it
/// transposes).
pub const TURN_MIRROR_X: u32 = 2;
/// Bit of [`ImageDescriptor::turn`]: walking down in the upright image walks up in the stored one (left, if it
/// transposes).
pub const TURN_MIRROR_Y: u32 = 4;

/// Decoded pixels on a device: RGB8, `[height, width, 3]` as stored, rows `pitch` bytes apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceImage {
    /// Device address of the first pixel.
    pub address: u64,
    /// Bytes from there to the end of the memory that may be read.
    pub bytes: usize,
    /// Bytes from one row to the next; at least 3 * width.
    pub pitch: usize,
    /// Pixels in a stored row.
    pub width: u32,
    /// Stored rows.
    pub height: u32,
    /// How they are turned to be seen upright.
    pub orientation: Orientation,
}

/// Why an image cannot be described to the kernel.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DescriptorError {
    /// The model's input is not one.
    #[error(transparent)]
    Config(#[from] PreprocessError),
    /// A side is 0 or too large.
    #[error("the image is {width}x{height}: sides must be 1 to {MAX_IMAGE_SIDE}; decode it smaller")]
    Side {
        /// Stored pixels in a row.
        width: u32,
        /// Stored rows.
        height: u32,
    },
    /// Rows overlap, or are further apart than the kernel can count.
    #[error("pitch is {pitch} bytes: for {width} RGB pixels it must be {} to {}", u64::from(*width) * 3, u32::MAX)]
    Pitch {
        /// Bytes from one row to the next.
        pitch: usize,
        /// Stored pixels in a row.
        width: u32,
    },
    /// The memory does not hold the image.
    #[error("the image needs {needed} bytes at {address:#x}, and {bytes} are there")]
    Memory {
        /// Device address of the first pixel.
        address: u64,
        /// Bytes that the kernel would read, from the first to the last pixel.
        needed: u64,
        /// Bytes that it may.
        bytes: usize,
    },
}

/// One direction of a resize: pixel `start + i` of the output is pixel `skip + i` of the resized image, for `i`
/// below `count`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AxisDescriptor {
    /// Resized pixels before the first that is kept.
    pub skip: u64,
    /// Source pixels for each resized one.
    pub scale: f64,
    /// Pixels of the output before the first that shows the image.
    pub start: u32,
    /// Pixels of the output that show the image; the others are filled.
    pub count: u32,
}

/// One decoded image and where it goes. The alignment is for wide loads; whatever memory they are copied through
/// and to must keep it, as allocations on a device do.
#[repr(C, align(16))]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ImageDescriptor {
    /// Device address of the first pixel.
    pub pixels: u64,
    /// Across the upright image.
    pub x: AxisDescriptor,
    /// Down the upright image.
    pub y: AxisDescriptor,
    /// Bytes from one stored row to the next.
    pub pitch: u32,
    /// Pixels in a stored row.
    pub width: u32,
    /// Stored rows.
    pub height: u32,
    /// Bits of `TURN_*`.
    pub turn: u32,
    /// Row of the engine's input. The kernel leaves out an image whose row is not below
    /// [`PreprocessParameters::rows`].
    pub row: u32,
    /// 0.
    pub reserved: u32,
}

/// What all images of a launch share.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PreprocessParameters {
    /// Pixels in a row of the input.
    pub width: u32,
    /// Rows of pixels of the input.
    pub height: u32,
    /// Descriptors.
    pub images: u32,
    /// Rows that the input binding has room for.
    pub rows: u32,
    /// 0: NCHW, 1: NHWC.
    pub layout: u32,
    /// 0: RGB, 1: BGR.
    pub color_order: u32,
    /// Level that becomes 0, for each channel of the input in its order.
    pub mean: [f32; 3],
    /// Factor after that.
    pub scale: [f32; 3],
    /// Levels of red, green and blue around the picture.
    pub fill: [u32; 3],
}

/// What `l2_normalize_f32` is told of an output, FP32 `[rows, columns]`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct L2NormalizeParameters {
    /// Elements from one row to the next.
    pub stride: u64,
    /// Rows.
    pub rows: u32,
    /// Elements of a row.
    pub columns: u32,
}

// SAFETY: numbers only, for which zero bytes are a value.
unsafe impl Zeroable for AxisDescriptor {}
// SAFETY: numbers only, for which zero bytes are a value.
unsafe impl Zeroable for ImageDescriptor {}
// SAFETY: numbers only, for which zero bytes are a value.
unsafe impl Zeroable for PreprocessParameters {}
// SAFETY: numbers only, for which zero bytes are a value.
unsafe impl Zeroable for L2NormalizeParameters {}
// SAFETY: repr(C), numbers only, and no padding: 8 + 8 + 4 + 4 is a multiple of 8 (`no_padding` below).
unsafe impl Pod for AxisDescriptor {}
// SAFETY: repr(C), numbers only, and no padding: 8 + 2 * 24 + 6 * 4 is a multiple of 16 (`no_padding` below).
unsafe impl Pod for ImageDescriptor {}
// SAFETY: repr(C), and nothing but fields of 4 bytes.
unsafe impl Pod for PreprocessParameters {}
// SAFETY: repr(C), numbers only, and no padding: 8 + 4 + 4 is a multiple of 8 (`no_padding` below).
unsafe impl Pod for L2NormalizeParameters {}

const _: () = no_padding();

/// Fails to compile when a size is not the sum of its fields'.
const fn no_padding() {
    assert!(size_of::<AxisDescriptor>() == 8 + 8 + 4 + 4);
    assert!(size_of::<ImageDescriptor>() == 8 + 2 * 24 + 6 * 4);
    assert!(size_of::<PreprocessParameters>() == 6 * 4 + 3 * 12);
    assert!(size_of::<L2NormalizeParameters>() == 8 + 4 + 4);
}

impl AxisDescriptor {
    fn new(axis: &Axis, start: u32) -> Self {
        Self { skip: axis.skip, scale: axis.scale(), start, count: axis.take }
    }
}

impl ImageDescriptor {
    /// Describes `image`, fitted into the model's input as `config` says and written to its row `row`.
    ///
    /// **Errors:** see [`DescriptorError`].
    pub fn new(config: &PreprocessConfig, image: &DeviceImage, row: u32) -> Result<Self, DescriptorError> {
        config.check()?;
        let DeviceImage { address, bytes, pitch, width, height, orientation } = *image;
        let sides = 1..=MAX_IMAGE_SIDE;
        if !sides.contains(&width) || !sides.contains(&height) {
            return Err(DescriptorError::Side { width, height });
        }
        let row_bytes = width * 3;
        let Some(pitch) = u32::try_from(pitch).ok().filter(|pitch| *pitch >= row_bytes) else {
            return Err(DescriptorError::Pitch { pitch, width });
        };
        // The last row ends with its last pixel.
        let needed = u64::from(pitch) * u64::from(height - 1) + u64::from(row_bytes);
        if address == 0 || needed > bytes as u64 || address.checked_add(needed).is_none() {
            return Err(DescriptorError::Memory { address, needed, bytes });
        }
        let oriented = if orientation.transposes() { (height, width) } else { (width, height) };
        let Geometry { x, y, left, top } = config.geometry(oriented);
        Ok(Self {
            pixels: address,
            x: AxisDescriptor::new(&x, left),
            y: AxisDescriptor::new(&y, top),
            pitch,
            width,
            height,
            turn: turn(orientation),
            row,
            reserved: 0,
        })
    }
}

/// The bits of an orientation.
fn turn(orientation: Orientation) -> u32 {
    [
        (orientation.transposes(), TURN_TRANSPOSE),
        (orientation.mirrors_x(), TURN_MIRROR_X),
        (orientation.mirrors_y(), TURN_MIRROR_Y),
    ]
    .into_iter()
    .filter_map(|(is_set, bit)| is_set.then_some(bit))
    .sum()
}

impl PreprocessParameters {
    /// For `images` descriptors, and an input binding of `rows` rows.
    ///
    /// **Errors:** see [`PreprocessError`].
    pub fn new(config: &PreprocessConfig, images: u32, rows: u32) -> Result<Self, PreprocessError> {
        config.check()?;
        Ok(Self {
            width: config.width,
            height: config.height,
            images,
            rows,
            layout: match config.layout {
                Layout::Nchw => 0,
                Layout::Nhwc => 1,
            },
            color_order: match config.color_order {
                ColorOrder::Rgb => 0,
                ColorOrder::Bgr => 1,
            },
            mean: config.mean,
            scale: config.scale,
            fill: match config.resize {
                ResizeRule::Letterbox { fill } => fill.map(u32::from),
                // Nothing is left to fill.
                ResizeRule::Stretch | ResizeRule::CenterCrop { .. } => [0; 3],
            },
        })
    }

    /// Elements that a row of the input has: 3 * height * width.
    #[must_use]
    pub fn row_elements(&self) -> usize {
        3 * self.width as usize * self.height as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(resize: ResizeRule) -> PreprocessConfig {
        PreprocessConfig {
            width: 112,
            height: 96,
            layout: Layout::Nhwc,
            color_order: ColorOrder::Bgr,
            mean: [1.0, 2.0, 3.0],
            scale: [4.0, 5.0, 6.0],
            resize,
        }
    }

    fn image() -> DeviceImage {
        let orientation = Orientation::Upright;
        DeviceImage { address: 0x1000, bytes: 2048 * 480, pitch: 2048, width: 640, height: 480, orientation }
    }

    #[test]
    fn a_picture_is_placed_as_on_the_cpu() {
        let letterbox = ResizeRule::Letterbox { fill: [7, 8, 9] };
        let crop = ResizeRule::CenterCrop { resize_shorter_side: Some(128) };
        for (rule, value, x, y, bits) in [
            (ResizeRule::Stretch, 1, (0, 640.0 / 112.0, 0, 112), (0, 5.0, 0, 96), 0),
            (ResizeRule::Stretch, 3, (0, 640.0 / 112.0, 0, 112), (0, 5.0, 0, 96), 6),
            (letterbox, 1, (0, 640.0 / 112.0, 0, 112), (0, 480.0 / 84.0, 6, 84), 0),
            (letterbox, 6, (0, 480.0 / 72.0, 20, 72), (0, 640.0 / 96.0, 0, 96), 3),
            (crop, 8, (8, 480.0 / 128.0, 0, 112), (37, 640.0 / 170.0, 0, 96), 5),
        ] {
            let orientation = Orientation::from_exif(value);
            let got =
                ImageDescriptor::new(&config(rule), &DeviceImage { orientation, ..image() }, 5).unwrap();
            let case = format!("{rule:?}, EXIF {value}: {got:?}");
            for (got, (skip, scale, start, count)) in [(got.x, x), (got.y, y)] {
                assert_eq!((got.skip, got.start, got.count), (skip, start, count), "{case}");
                assert!((got.scale - scale).abs() < 1e-12, "{case}");
            }
            assert_eq!(got.turn, bits, "{case}");
            let stored = (got.pixels, got.pitch, got.width, got.height, got.row, got.reserved);
            assert_eq!(stored, (0x1000, 2048, 640, 480, 5, 0), "{case}");
        }
    }

    #[test]
    fn parameters_are_those_of_the_configuration() {
        let parameters =
            PreprocessParameters::new(&config(ResizeRule::Letterbox { fill: [7, 8, 9] }), 3, 32).unwrap();
        let expected = PreprocessParameters {
            width: 112,
            height: 96,
            images: 3,
            rows: 32,
            layout: 1,
            color_order: 1,
            mean: [1.0, 2.0, 3.0],
            scale: [4.0, 5.0, 6.0],
            fill: [7, 8, 9],
        };
        assert_eq!(parameters, expected);
        assert_eq!(parameters.row_elements(), 3 * 112 * 96);
        let bad = PreprocessConfig { width: 0, ..config(ResizeRule::Stretch) };
        let error = PreprocessParameters::new(&bad, 1, 1).unwrap_err().to_string();
        assert!(error.contains("not 0x96"), "{error}");
    }

    #[test]
    fn what_the_kernel_could_not_read_is_refused() {
        let good = image();
        let bytes = 2048 * 479 + 1920;
        assert!(
            ImageDescriptor::new(&config(ResizeRule::Stretch), &DeviceImage { bytes, ..good }, 0).is_ok()
        );
        for (image, text) in [
            (DeviceImage { width: 0, ..good }, "the image is 0x480: sides must be 1 to 1073741824"),
            (DeviceImage { height: MAX_IMAGE_SIDE + 1, ..good }, "the image is 640x1073741825"),
            (DeviceImage { pitch: 1919, ..good }, "pitch is 1919 bytes: for 640 RGB pixels it must be 1920"),
            (DeviceImage { pitch: 1 << 32, ..good }, "pitch is 4294967296 bytes"),
            (DeviceImage { bytes: bytes - 1, ..good }, "needs 982912 bytes at 0x1000, and 982911 are there"),
            (DeviceImage { address: 0, ..good }, "at 0x0"),
            (DeviceImage { address: u64::MAX - 5, ..good }, "needs 982912 bytes"),
        ] {
            let error =
                ImageDescriptor::new(&config(ResizeRule::Stretch), &image, 0).expect_err(text).to_string();
            assert!(error.contains(text), "{error}");
        }
        let bad = PreprocessConfig { scale: [f32::NAN; 3], ..config(ResizeRule::Stretch) };
        let error = ImageDescriptor::new(&bad, &good, 0).unwrap_err().to_string();
        assert!(error.contains("finite"), "{error}");
    }
}
