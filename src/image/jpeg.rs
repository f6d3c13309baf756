//! JPEG: the markers that libjpeg-turbo keeps to itself, and the decode with it. [`super::Decoder`] owns the
//! buffers.

mod header;
mod markers;

pub use header::{JpegColor, JpegHeader, JpegProcess, Subsampling};

use super::format::{Format, sniff};
use super::{Limits, Rgb8View, decode::Buffer, image_error};
use crate::error::{ErrorKind, InferError};
use crate::ffi::turbojpeg::{Completion, Decompressor, MAX_SIDE, PixelFormat, TurboJpegError};
use markers::{Head, ends_early};

/// Reads the markers of `encoded`, all of them; `None` if it is no JPEG. Allocates nothing.
///
/// **Errors:** what the CPU decoder would say too: `ImageDimensions`; `TruncatedImage` or `CorruptImage` for a file
/// without a frame. Every other fault is left to the decoder, and noted in the header.
#[must_use]
pub fn jpeg_header(encoded: &[u8], limits: &Limits) -> Option<Result<JpegHeader, InferError>> {
    match sniff(encoded) {
        Ok(Format::Jpeg) => Some(JpegHeader::read(encoded, limits)),
        Ok(Format::Png | Format::WebP | Format::Bmp | Format::Tiff | Format::Gif) | Err(_) => None,
    }
}

/// Decodes `encoded` to RGB in `pixels`.
///
/// **Errors:** `ImageDimensions`, `UnsupportedImage` for samples that are not 8 bits wide, `TruncatedImage`,
/// `CorruptImage`.
pub(super) fn decode<'b>(
    encoded: &[u8],
    limits: &Limits,
    pixels: &'b mut Buffer,
    cmyk: &mut Buffer,
) -> Result<Rgb8View<'b>, InferError> {
    let head = Head::read(encoded);
    if let Some((width, height)) = head.size {
        check_size(limits, width, height)?;
    }
    let decompressor =
        Decompressor::open(encoded, limits.max_image_pixels).map_err(|e| broken(encoded, &e))?;
    let (width, height) = (decompressor.width(), decompressor.height());
    if width == 0 {
        // libjpeg ends a file that runs out for it, and takes the tables it has seen for the whole file.
        return Err(frameless(encoded, !ends_early(encoded)));
    }
    limits.check(width, height)?;
    if decompressor.precision_bits() != 8 {
        let bits = decompressor.precision_bits();
        let message = format!("image is a JPEG of {bits} bits a sample; visord reads 8");
        return Err(image_error(ErrorKind::UnsupportedImage, message));
    }
    let bytes = width as usize * height as usize * 3;
    let completion = match decompressor.pixel_format() {
        PixelFormat::Rgb => decompressor.decompress(pixels.take(bytes)),
        PixelFormat::Cmyk => {
            let cmyk = cmyk.take(bytes / 3 * 4);
            let completion = decompressor.decompress(cmyk);
            cmyk_to_rgb(cmyk, pixels.take(bytes));
            completion
        }
    };
    match completion.map_err(|e| broken(encoded, &e))? {
        // A walk of its own: libjpeg-turbo keeps only the first of its warnings, and that may be another.
        Completion::Warning if ends_early(encoded) => return Err(truncated(encoded)),
        // OpenCV takes what libjpeg only warns of.
        Completion::Clean | Completion::Warning => {}
    }
    Rgb8View::new(pixels.take(bytes), width, height, head.orientation)
        .ok_or_else(|| image_error(ErrorKind::Internal, "decoded JPEG does not fill its pixel buffer"))
}

fn check_size(limits: &Limits, width: u32, height: u32) -> Result<(), InferError> {
    limits.check(width, height)?;
    if width.max(height) > MAX_SIDE {
        let message = format!("JPEG image is {width}x{height}: its sides may be at most {MAX_SIDE}");
        return Err(image_error(ErrorKind::ImageDimensions, message));
    }
    Ok(())
}

/// The fault of a file that has no frame.
fn frameless(encoded: &[u8], complete: bool) -> InferError {
    if complete {
        image_error(ErrorKind::CorruptImage, "JPEG image has tables and no picture")
    } else {
        truncated(encoded)
    }
}

fn truncated(encoded: &[u8]) -> InferError {
    let message = format!("JPEG image ends early: its {} bytes hold no end-of-image marker", encoded.len());
    image_error(ErrorKind::TruncatedImage, message)
}

fn broken(encoded: &[u8], error: &TurboJpegError) -> InferError {
    if ends_early(encoded) {
        return truncated(encoded);
    }
    image_error(ErrorKind::CorruptImage, format!("JPEG image is corrupt: {}", error.message))
}

/// Turns stored CMYK, `[n, 4]`, to RGB, `[n, 3]`, by OpenCV's rule: each ink as it lets the black through.
/// It takes every file for an inverted one, as Adobe writes them.
fn cmyk_to_rgb(cmyk: &[u8], rgb: &mut [u8]) {
    for (ink, rgb) in cmyk.as_chunks::<4>().0.iter().zip(rgb.as_chunks_mut::<3>().0) {
        let black = u16::from(ink[3]);
        for (color, &ink) in rgb.iter_mut().zip(&ink[..3]) {
            // `black * (255 - ink) / 256` is at most `black`, so this fits.
            *color = (black - (((255 - u16::from(ink)) * black) >> 8)) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ink_becomes_light() {
        // By OpenCV's formula, written out: black - ((255 - ink) * black / 256).
        for (ink, expected) in [
            ([255, 255, 255, 255], [255, 255, 255]),
            ([0, 128, 255, 255], [1, 129, 255]),
            ([9, 99, 200, 0], [0, 0, 0]),
            ([0, 0, 0, 128], [1, 1, 1]),
        ] {
            let mut rgb = [0; 3];
            cmyk_to_rgb(&ink, &mut rgb);
            assert_eq!(rgb, expected, "{ink:?}");
        }
    }
}
