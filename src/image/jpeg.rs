//! JPEG: the markers that libjpeg-turbo keeps to itself, and the decode with it. [`super::Decoder`] owns the
//! buffers.

use super::exif::{Directory, Orientation};
use super::{Limits, Rgb8View, decode::Buffer, image_error};
use crate::error::{ErrorKind, InferError};
use crate::ffi::turbojpeg::{Completion, Decompressor, MAX_SIDE, PixelFormat, TurboJpegError};

// Second bytes of the markers that matter here (ITU-T T.81, table B.1).
const TEM: u8 = 0x01;
const SOF0: u8 = 0xc0;
const DHT: u8 = 0xc4;
const JPG: u8 = 0xc8;
const DAC: u8 = 0xcc;
const SOF15: u8 = 0xcf;
const RST0: u8 = 0xd0;
const RST7: u8 = 0xd7;
const SOI: u8 = 0xd8;
const EOI: u8 = 0xd9;
const SOS: u8 = 0xda;
const APP1: u8 = 0xe1;

/// One marker and, where it has one, its payload.
struct Segment<'a> {
    marker: u8,
    payload: &'a [u8],
}

/// Walks the markers of a JPEG, over the entropy-coded data as well, until `visit` answers `false` or the
/// end-of-image marker. `false` if the bytes run out before that. Bytes between segments that belong to none
/// are passed over, as libjpeg does.
fn walk<'a>(encoded: &'a [u8], mut visit: impl FnMut(&Segment<'a>) -> bool) -> bool {
    let mut rest = encoded;
    loop {
        // On to the next 0xff that is neither a stuffed nor a fill byte.
        let found = rest.windows(2).position(|w| w[0] == 0xff && !matches!(w[1], 0 | 0xff));
        let Some(found) = found else { return false };
        let marker = rest[found + 1];
        rest = &rest[found + 2..];
        let mut payload = &[][..];
        if !matches!(marker, TEM | RST0..=RST7 | SOI | EOI) {
            let Some(&length) = rest.first_chunk::<2>() else { return false };
            let end = usize::from(u16::from_be_bytes(length)).max(2);
            let Some(whole) = rest.get(..end) else { return false };
            payload = &whole[2..];
            rest = &rest[end..];
        }
        if !visit(&Segment { marker, payload }) || marker == EOI {
            return true;
        }
    }
}

/// What is read of the segments before the first scan.
#[derive(Debug, Default)]
struct Head {
    /// Width and height of the frame.
    size: Option<(u32, u32)>,
    orientation: Orientation,
}

fn read_head(encoded: &[u8]) -> Head {
    let mut head = Head::default();
    let mut app1_seen = false;
    walk(encoded, |segment| {
        match (segment.marker, segment.payload) {
            (DHT | JPG | DAC, _) => {}
            (SOF0..=SOF15, [_, h1, h0, w1, w0, ..]) => {
                let side = |high, low| u32::from(u16::from_be_bytes([high, low]));
                head.size = Some((side(*w1, *w0), side(*h1, *h0)));
            }
            // Only the first block of this marker counts, EXIF or (then there is no EXIF) XMP: OpenCV 4.12 looks
            // no further.
            (APP1, payload) if !app1_seen => {
                app1_seen = true;
                let exif = payload.strip_prefix(b"Exif\0").and_then(|p| Directory::read(p.get(1..)?));
                head.orientation = exif.map(|d| d.orientation()).unwrap_or_default();
            }
            _ => {}
        }
        segment.marker != SOS
    });
    head
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
    let head = read_head(encoded);
    if let Some((width, height)) = head.size {
        limits.check(width, height)?;
        if width.max(height) > MAX_SIDE {
            let message = format!("JPEG image is {width}x{height}: its sides may be at most {MAX_SIDE}");
            return Err(image_error(ErrorKind::ImageDimensions, message));
        }
    }
    let decompressor =
        Decompressor::open(encoded, limits.max_image_pixels).map_err(|e| broken(encoded, &e))?;
    let (width, height) = (decompressor.width(), decompressor.height());
    if width == 0 {
        // libjpeg ends a file that runs out for it, and takes the tables it has seen for the whole file.
        if ends_early(encoded) {
            return Err(truncated(encoded));
        }
        return Err(image_error(ErrorKind::CorruptImage, "JPEG image has tables and no picture"));
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
        Completion::Warning if ends_early(encoded) => return Err(truncated(encoded)),
        // OpenCV takes what libjpeg only warns of.
        Completion::Clean | Completion::Warning => {}
    }
    Rgb8View::new(pixels.take(bytes), width, height, head.orientation)
        .ok_or_else(|| image_error(ErrorKind::Internal, "decoded JPEG does not fill its pixel buffer"))
}

/// Whether the file ends before its end-of-image marker. A walk of its own: libjpeg-turbo keeps only the first
/// of its warnings, and that may be another.
fn ends_early(encoded: &[u8]) -> bool {
    !walk(encoded, |_| true)
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
    fn the_walk_sees_segments_and_the_end() {
        let whole = b"\xff\xd8\xff\xe1\0\x04ab\xff\xff\xda\0\x02\x01\xff\0\x02\xff\xd0\x03\xff\xd9tail";
        for (bytes, markers, complete) in [
            (&whole[..], &[SOI, APP1, SOS, RST0, EOI][..], true),
            (&whole[..whole.len() - 5], &[SOI, APP1, SOS, RST0], false),
            (&whole[..14], &[SOI, APP1, SOS], false),
            (&whole[..7], &[SOI], false),
            (b"\xff\xd8garbage\xff\0\xff\xd9", &[SOI, EOI], true),
            (b"\xff", &[], false),
            (b"", &[], false),
        ] {
            let mut seen = Vec::new();
            let ended = walk(bytes, |s| {
                seen.push(s.marker);
                true
            });
            assert_eq!((&seen[..], ended), (markers, complete), "{bytes:x?}");
        }
    }

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
