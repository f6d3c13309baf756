//! What kind of image some bytes are, by how they begin, and what size PNG, GIF and BMP headers declare.

use super::image_error;
use crate::error::{ErrorKind, InferError};

/// The kinds of image that are decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Jpeg,
    Png,
    WebP,
    Bmp,
    Tiff,
    Gif,
}

impl Format {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
            Self::Bmp => "BMP",
            Self::Tiff => "TIFF",
            Self::Gif => "GIF",
        }
    }
}

/// The kinds, for messages.
const READ: &str = "JPEG, PNG, WebP, BMP, TIFF and GIF";

/// Bytes of an unknown file that a message shows.
const SHOWN_BYTES: usize = 12;

/// The kind of `encoded`.
///
/// **Errors:** [`ErrorKind::NotAnImage`] for no bytes or unknown ones, [`ErrorKind::UnsupportedImage`] for a
/// known kind that is not decoded.
pub(super) fn sniff(encoded: &[u8]) -> Result<Format, InferError> {
    if encoded.is_empty() {
        return Err(image_error(ErrorKind::NotAnImage, "image is empty: it has 0 bytes"));
    }
    if let Some(format) = supported(encoded) {
        return Ok(format);
    }
    if let Some(name) = unsupported(encoded) {
        let message = format!("image is {name}, which visord does not read; it reads {READ}");
        return Err(image_error(ErrorKind::UnsupportedImage, message));
    }
    let shown = &encoded[..encoded.len().min(SHOWN_BYTES)];
    let hex = shown.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ");
    let more = if encoded.len() > SHOWN_BYTES { " ..." } else { "" };
    let message =
        format!("image begins with {hex}{more}, which is no kind that visord reads; it reads {READ}");
    Err(image_error(ErrorKind::NotAnImage, message))
}

fn supported(encoded: &[u8]) -> Option<Format> {
    let begins = |magic: &[u8]| encoded.starts_with(magic);
    if begins(b"\xff\xd8\xff") {
        Some(Format::Jpeg)
    } else if begins(b"\x89PNG\r\n\x1a\n") {
        Some(Format::Png)
    } else if begins(b"RIFF") && encoded.get(8..12) == Some(b"WEBP") {
        Some(Format::WebP)
    } else if begins(b"BM") {
        Some(Format::Bmp)
    } else if begins(b"II*\0") || begins(b"MM\0*") {
        Some(Format::Tiff)
    } else if begins(b"GIF87a") || begins(b"GIF89a") {
        Some(Format::Gif)
    } else {
        None
    }
}

/// The name of a kind that is known and not decoded.
fn unsupported(encoded: &[u8]) -> Option<&'static str> {
    const MAGIC: [(&[u8], &str); 17] = [
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"\xff\x4f\xff\x51", "JPEG 2000"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\xff\x0a", "JPEG XL"),
        (b"%PDF-", "PDF"),
        (b"\0\0\x01\0", "ICO"),
        (b"\0\0\x02\0", "CUR"),
        (b"8BPS", "PSD"),
        (b"II+\0", "BigTIFF"),
        (b"MM\0+", "BigTIFF"),
        (b"II\xbc\x01", "JPEG XR"),
        (b"\x76\x2f\x31\x01", "OpenEXR"),
        (b"#?RADIANCE", "Radiance HDR"),
        (b"DDS ", "DDS"),
        (b"qoif", "QOI"),
        (b"gimp xcf", "XCF"),
        (b"\x8aMNG", "MNG"),
    ];
    if let Some((_, name)) = MAGIC.iter().find(|(magic, _)| encoded.starts_with(magic)) {
        return Some(name);
    }
    if let (Some(b"ftyp"), Some(brand)) = (encoded.get(4..8), encoded.get(8..12)) {
        return Some(match brand {
            b"avif" | b"avis" => "AVIF",
            b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"mif1" | b"msf1" => "HEIC",
            b"jxl " => "JPEG XL",
            b"crx " => "Canon raw (CR3)",
            _ => "a video (ISO base media)",
        });
    }
    if matches!(encoded, [b'P', b'1'..=b'7', b' ' | b'\n' | b'\r' | b'\t', ..]) {
        return Some("Netpbm");
    }
    let head = &encoded[..encoded.len().min(1024)];
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    let is_markup = [&b"<svg"[..], b"<?xml", b"<!"].iter().any(|m| text.starts_with(m));
    (is_markup && text.windows(4).any(|w| w == b"<svg")).then_some("SVG")
}

/// Width and height, where the header has them at a fixed place: so that PNG, GIF and BMP are measured before
/// their decoder sees them. `None` for the other kinds, and where the bytes end first.
pub(super) fn declared_size(format: Format, encoded: &[u8]) -> Option<(u32, u32)> {
    let bytes2 = |at: usize| encoded.get(at..)?.first_chunk::<2>().copied();
    let bytes4 = |at: usize| encoded.get(at..)?.first_chunk::<4>().copied();
    let le16 = |at: usize| bytes2(at).map(|b| u32::from(u16::from_le_bytes(b)));
    match format {
        Format::Png => Some((u32::from_be_bytes(bytes4(16)?), u32::from_be_bytes(bytes4(20)?))),
        Format::Gif => Some((le16(6)?, le16(8)?)),
        Format::Bmp if bytes4(14)? == [12, 0, 0, 0] => Some((le16(18)?, le16(20)?)),
        Format::Bmp => {
            // Signed; a negative height means rows from top to bottom.
            let side = |at| Some(i32::from_le_bytes(bytes4(at)?).unsigned_abs());
            Some((side(18)?, side(22)?))
        }
        Format::Jpeg | Format::WebP | Format::Tiff => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_by_their_first_bytes() {
        let webp = b"RIFF\x10\0\0\0WEBPVP8 ";
        for (bytes, expected) in [
            (&b"\xff\xd8\xff\xe0"[..], Format::Jpeg),
            (b"\x89PNG\r\n\x1a\n\0", Format::Png),
            (webp, Format::WebP),
            (b"BM", Format::Bmp),
            (b"II*\0", Format::Tiff),
            (b"MM\0*", Format::Tiff),
            (b"GIF87a", Format::Gif),
            (b"GIF89a", Format::Gif),
        ] {
            assert_eq!(sniff(bytes).ok(), Some(expected), "{bytes:?}");
        }
    }

    #[test]
    fn refusals_name_the_kind_or_the_bytes() {
        use ErrorKind::{NotAnImage, UnsupportedImage};
        for (bytes, kind, text) in [
            (&b""[..], NotAnImage, "0 bytes"),
            (b"\0", NotAnImage, "begins with 00,"),
            (b"\xff\xd8", NotAnImage, "ff d8,"),
            (b"hello, world, this is text", NotAnImage, "68 65 6c 6c 6f 2c 20 77 6f 72 6c 64 ..."),
            (b"RIFF\0\0\0\0WAVEfmt ", NotAnImage, "52 49 46 46"),
            (b"<html><body>", NotAnImage, "3c 68"),
            (b"\0\0\0\x20ftypavif\0\0\0\0", UnsupportedImage, "AVIF"),
            (b"\0\0\0\x18ftypheic\0\0\0\0", UnsupportedImage, "HEIC"),
            (b"\0\0\0\x18ftypisom\0\0\0\0", UnsupportedImage, "video"),
            (b"\0\0\0\x0cjP  \r\n\x87\n", UnsupportedImage, "JPEG 2000"),
            (b"\xff\x0a\xfa", UnsupportedImage, "JPEG XL"),
            (b"  <svg xmlns", UnsupportedImage, "SVG"),
            (b"<?xml version='1.0'?>\n<!-- x --><svg>", UnsupportedImage, "SVG"),
            (b"%PDF-1.7", UnsupportedImage, "PDF"),
            (b"\0\0\x01\0\x01\0", UnsupportedImage, "ICO"),
            (b"8BPS\0\x01", UnsupportedImage, "PSD"),
            (b"P6\n4 4\n255\n", UnsupportedImage, "Netpbm"),
            (b"II+\0\x08\0\0\0", UnsupportedImage, "BigTIFF"),
        ] {
            let error = sniff(bytes).expect_err("refused");
            assert_eq!(error.kind, kind, "{bytes:?}: {error}");
            assert!(error.message.contains(text), "{bytes:?}: {error}");
        }
    }
}
