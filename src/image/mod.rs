//! The CPU image path: encoded bytes from a request to the model's input tensor. [`Decoder`] reads JPEG, PNG,
//! WebP, BMP, TIFF and GIF to RGB pixels; [`Preprocess`] resizes them, normalises them and writes them to the
//! slot that the scheduler hands it. Pixels are those of OpenCV's `imdecode` and `resize`: see `tests/golden`.

mod decode;
mod exif;
mod format;
mod jpeg;
mod preprocess;
mod resize;
mod still;

use crate::error::{ErrorKind, InferError};

pub use decode::Decoder;
pub use exif::Orientation;
pub use jpeg::{JpegColor, JpegHeader, JpegProcess, Subsampling, jpeg_header};
#[cfg(feature = "tensorrt")]
pub(crate) use preprocess::Geometry;
pub use preprocess::{ColorOrder, Layout, Preprocess, PreprocessConfig, PreprocessError, ResizeRule};
#[cfg(feature = "tensorrt")]
pub(crate) use resize::Axis;

/// What an image may ask for before anything is allocated for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most pixels, width times height, that an image may have. Default 50 000 000: a 50 Mpx camera, and
    /// 150 MB of RGB.
    pub max_image_pixels: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_image_pixels: 50_000_000 }
    }
}

impl Limits {
    /// Refuses a zero side and too many pixels.
    ///
    /// **Errors:** [`ErrorKind::ImageDimensions`], with the size and the limit.
    pub fn check(&self, width: u32, height: u32) -> Result<(), InferError> {
        let pixels = u64::from(width) * u64::from(height);
        let message = if pixels == 0 {
            format!("image is {width}x{height}: both sides must be at least 1")
        } else if pixels > self.max_image_pixels {
            format!(
                "image is {width}x{height} = {pixels} pixels; max_image_pixels is {}",
                self.max_image_pixels
            )
        } else {
            return Ok(());
        };
        Err(InferError::new(ErrorKind::ImageDimensions, message))
    }
}

/// A decoded image, borrowed from its [`Decoder`]: pixels as stored, and how to turn them.
#[derive(Debug, Clone, Copy)]
pub struct Rgb8View<'a> {
    pixels: &'a [u8],
    width: u32,
    height: u32,
    orientation: Orientation,
}

impl<'a> Rgb8View<'a> {
    /// Views `pixels`, `[height, width, 3]` in RGB, as an image; `None` if a side is 0 or the length is not
    /// that of the shape.
    #[must_use]
    pub fn new(pixels: &'a [u8], width: u32, height: u32, orientation: Orientation) -> Option<Self> {
        let bytes = (width as usize).checked_mul(height as usize)?.checked_mul(3)?;
        (bytes > 0 && bytes == pixels.len()).then_some(Self { pixels, width, height, orientation })
    }

    /// `[height, width, 3]` in RGB, before the orientation is applied.
    #[must_use]
    pub fn pixels(&self) -> &'a [u8] {
        self.pixels
    }

    /// Pixels in a stored row.
    #[must_use]
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Stored rows.
    #[must_use]
    pub fn height(&self) -> u32 {
        self.height
    }

    /// How the stored pixels are turned to be seen upright; [`Preprocess`] applies it.
    #[must_use]
    pub fn orientation(&self) -> Orientation {
        self.orientation
    }

    /// Width and height once the orientation is applied.
    #[must_use]
    pub fn oriented_size(&self) -> (u32, u32) {
        if self.orientation.transposes() { (self.height, self.width) } else { (self.width, self.height) }
    }
}

/// An error for image bytes.
fn image_error(kind: ErrorKind, message: impl Into<String>) -> InferError {
    InferError::new(kind, message)
}
