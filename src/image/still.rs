//! Every kind of image but JPEG, read by the `image` crate and turned to the pixels OpenCV makes of it.
//! [`super::Decoder`] owns the buffers.

use std::io::{Cursor, ErrorKind as IoErrorKind};

use image::codecs::{
    bmp::BmpDecoder, gif::GifDecoder, png::PngDecoder, tiff::TiffDecoder, webp::WebPDecoder,
};
use image::error::ImageFormatHint;
use image::{ColorType, ImageDecoder, ImageError, ImageFormat, ImageResult};

use super::exif::{Directory, Orientation};
use super::format::{Format, declared_size};
use super::{Limits, Rgb8View, decode::Buffer, image_error};
use crate::error::{ErrorKind, InferError};

/// Decodes `encoded`, a `format` other than JPEG, to RGB in `pixels`.
///
/// **Errors:** `ImageDimensions`, `UnsupportedImage`, `TruncatedImage`, `CorruptImage`.
pub(super) fn decode<'b>(
    format: Format,
    encoded: &[u8],
    limits: &Limits,
    pixels: &'b mut Buffer,
    raw: &mut Buffer,
) -> Result<Rgb8View<'b>, InferError> {
    if let Some((width, height)) = declared_size(format, encoded) {
        limits.check(width, height)?;
    }
    let broken = |e: ImageError| broken(format, encoded, e);
    let mut decoder = open(format, encoded, limits).map_err(broken)?;
    let (width, height) = decoder.dimensions();
    limits.check(width, height)?;
    let color = decoder.color_type();
    let eight_bits = matches!(color, ColorType::L8 | ColorType::La8 | ColorType::Rgb8 | ColorType::Rgba8);
    let sixteen_bits =
        matches!(color, ColorType::L16 | ColorType::La16 | ColorType::Rgb16 | ColorType::Rgba16);
    if !eight_bits && !sixteen_bits {
        let message = format!(
            "image is a {} of {color:?} samples; visord reads integers of up to 16 bits",
            format.name()
        );
        return Err(image_error(ErrorKind::UnsupportedImage, message));
    }
    decoder.set_limits(crate_limits(limits)).map_err(broken)?;
    let count = width as usize * height as usize;
    if color == ColorType::Rgb8 {
        decoder.read_image_boxed(pixels.take_zeroed(count * 3)).map_err(broken)?;
    } else {
        let raw = raw.take_zeroed(count * usize::from(color.bytes_per_pixel()));
        decoder.read_image_boxed(raw).map_err(broken)?;
        to_rgb8(format, encoded, color, raw, pixels.take(count * 3));
    }
    let orientation = match format {
        Format::Png => png_orientation(encoded)?,
        Format::Tiff => Directory::read(encoded).map(|d| d.orientation()).unwrap_or_default(),
        // OpenCV 4.12 leaves a WebP as it is stored; BMP and GIF have no orientation. JPEG is not decoded here.
        Format::WebP | Format::Bmp | Format::Gif | Format::Jpeg => Orientation::Upright,
    };
    Rgb8View::new(pixels.take(count * 3), width, height, orientation)
        .ok_or_else(|| image_error(ErrorKind::Internal, "decoded image does not fill its pixel buffer"))
}

/// What the decoders may allocate: the widest pixels they write (16-bit RGBA), and as much again to work in.
fn crate_limits(limits: &Limits) -> image::Limits {
    let mut out = image::Limits::no_limits();
    out.max_alloc = Some(limits.max_image_pixels.saturating_mul(16).saturating_add(1 << 20));
    out
}

fn open<'e>(format: Format, encoded: &'e [u8], limits: &Limits) -> ImageResult<Box<dyn ImageDecoder + 'e>> {
    let reader = Cursor::new(encoded);
    Ok(match format {
        Format::Png => Box::new(PngDecoder::with_limits(reader, crate_limits(limits))?),
        Format::WebP => Box::new(WebPDecoder::new(reader)?),
        Format::Bmp => Box::new(BmpDecoder::new(reader)?),
        Format::Tiff => Box::new(TiffDecoder::new(reader)?),
        Format::Gif => Box::new(GifDecoder::new(reader)?),
        Format::Jpeg => {
            let hint = ImageFormatHint::from(ImageFormat::Jpeg);
            return Err(ImageError::Unsupported(hint.into()));
        }
    })
}

/// Converts `raw`, pixels of `color`, to RGB as OpenCV does for this format.
fn to_rgb8(format: Format, encoded: &[u8], color: ColorType, raw: &[u8], rgb: &mut [u8]) {
    let rgb = rgb.as_chunks_mut::<3>().0;
    // libpng keeps the high byte of 16 bits. libtiff's RGBA reader rounds; OpenCV reads grey TIFF without it.
    let keep_high: fn(u16) -> u8 = |v| (v >> 8) as u8;
    let round: fn(u16) -> u8 = |v| ((u32::from(v) + 128) / 257) as u8;
    let narrow = if format == Format::Tiff && color.has_color() { round } else { keep_high };
    match color {
        ColorType::L8 => map(raw, rgb, |&[l]| [l; 3]),
        ColorType::La8 => map(raw, rgb, |&[l, _]| [l; 3]),
        ColorType::L16 => map(raw, rgb, |&[a, b]| [narrow(u16::from_ne_bytes([a, b])); 3]),
        ColorType::La16 => map(raw, rgb, |&[a, b, _, _]| [narrow(u16::from_ne_bytes([a, b])); 3]),
        ColorType::Rgb16 => map(raw, rgb, |p: &[u8; 6]| narrowed(p, narrow)),
        ColorType::Rgba8 if format == Format::Gif => {
            let background = gif_background(encoded);
            map(raw, rgb, |&[r, g, b, a]| if a == 0 { background } else { [r, g, b] });
        }
        ColorType::Rgba8 if premultiplies(format, encoded) => {
            map(raw, rgb, |&[r, g, b, a]| premultiplied([r, g, b], a));
        }
        ColorType::Rgba8 => map(raw, rgb, |&[r, g, b, _]| [r, g, b]),
        ColorType::Rgba16 if premultiplies(format, encoded) => map(raw, rgb, |p: &[u8; 8]| {
            premultiplied(narrowed(p, narrow), narrow(u16::from_ne_bytes([p[6], p[7]])))
        }),
        ColorType::Rgba16 => map(raw, rgb, |p: &[u8; 8]| narrowed(p, narrow)),
        // `decode` reads Rgb8 without this step, and refuses the others.
        ColorType::Rgb8 | ColorType::Rgb32F | ColorType::Rgba32F | _ => {}
    }
}

fn map<const N: usize>(raw: &[u8], rgb: &mut [[u8; 3]], pixel: impl Fn(&[u8; N]) -> [u8; 3]) {
    for (raw, rgb) in raw.as_chunks::<N>().0.iter().zip(rgb) {
        *rgb = pixel(raw);
    }
}

fn narrowed(p: &[u8], narrow: fn(u16) -> u8) -> [u8; 3] {
    [0, 2, 4].map(|at| narrow(u16::from_ne_bytes([p[at], p[at + 1]])))
}

/// Whether OpenCV's reader multiplies colours by alpha: libtiff's RGBA reader does.
fn premultiplies(format: Format, encoded: &[u8]) -> bool {
    format == Format::Tiff && Directory::read(encoded).is_some_and(|d| d.alpha_is_unassociated())
}

fn premultiplied(color: [u8; 3], alpha: u8) -> [u8; 3] {
    color.map(|c| ((u32::from(c) * u32::from(alpha) + 127) / 255) as u8)
}

/// The colour of a GIF's transparent pixels in OpenCV: the background entry of the global colour table.
fn gif_background(encoded: &[u8]) -> [u8; 3] {
    let color = || {
        let (&flags, &index) = (encoded.get(10)?, encoded.get(11)?);
        let entries = if flags & 0x80 == 0 { 0 } else { 2usize << (flags & 7) };
        let table = encoded.get(13..)?.get(..entries * 3)?;
        table.as_chunks::<3>().0.get(usize::from(index)).copied()
    };
    color().unwrap_or_default()
}

/// Walks the chunks of a PNG for its EXIF block.
///
/// **Errors:** `TruncatedImage` if the file ends before its `IEND` chunk: libpng refuses that too.
fn png_orientation(encoded: &[u8]) -> Result<Orientation, InferError> {
    let mut orientation = Orientation::Upright;
    let mut rest = encoded.get(8..).unwrap_or_default();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        // The type, the data and a checksum.
        let Some(chunk) = length.checked_add(8).and_then(|n| after.get(..n)) else { break };
        match &chunk[..4] {
            b"IEND" => return Ok(orientation),
            b"eXIf" => {
                let exif = Directory::read(&chunk[4..4 + length]);
                orientation = exif.map(|d| d.orientation()).unwrap_or_default();
            }
            _ => {}
        }
        rest = &after[length + 8..];
    }
    Err(truncated(Format::Png, encoded))
}

/// Whether a broken file says of itself that it is longer; for kinds whose decoder does not tell.
fn ends_early(format: Format, encoded: &[u8]) -> bool {
    match format {
        // The length in the RIFF header counts what follows it.
        Format::WebP => {
            let length = encoded.get(4..).and_then(|b| b.first_chunk::<4>()).copied().map(u32::from_le_bytes);
            length.is_some_and(|length| u64::from(length) + 8 > encoded.len() as u64)
        }
        // The last byte of a GIF is its trailer.
        Format::Gif => encoded.last() != Some(&0x3b),
        Format::Png | Format::Bmp | Format::Tiff | Format::Jpeg => false,
    }
}

fn truncated(format: Format, encoded: &[u8]) -> InferError {
    let message =
        format!("{} image ends early: its data goes on after {} bytes", format.name(), encoded.len());
    image_error(ErrorKind::TruncatedImage, message)
}

/// Names the fault: the `image` crate's error, by what lies at its root.
fn broken(format: Format, encoded: &[u8], error: ImageError) -> InferError {
    let name = format.name();
    if let ImageError::Limits(e) = &error {
        let message = format!("{name} image needs more memory than max_image_pixels allows: {e}");
        return image_error(ErrorKind::ImageDimensions, message);
    }
    if let ImageError::Unsupported(e) = &error {
        let message = format!("image is a {name} of a sort that visord does not read: {e}");
        return image_error(ErrorKind::UnsupportedImage, message);
    }
    let ran_out = matches!(&error, ImageError::IoError(e) if e.kind() == IoErrorKind::UnexpectedEof);
    if ran_out || ends_early(format, encoded) {
        return truncated(format, encoded);
    }
    image_error(ErrorKind::CorruptImage, format!("{name} image is corrupt: {error}"))
}
