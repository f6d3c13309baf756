//! [`Decoder`]: encoded bytes of any kind to RGB pixels, in buffers it keeps. `format` says which kind,
//! `jpeg` and `still` decode.

use super::format::{Format, sniff};
use super::{Limits, Rgb8View, jpeg, still};
use crate::error::InferError;

/// The most a buffer keeps from one image to the next: RGB of 5.6 Mpx. One larger image does not stay in
/// memory for as long as its thread lives.
const MAX_KEPT_BYTES: usize = 16 << 20;

/// Pixels that are written anew for every image, in memory that stays.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
}

impl Buffer {
    /// The first `len` bytes, whatever they hold.
    pub(super) fn take(&mut self, len: usize) -> &mut [u8] {
        if self.bytes.len() < len {
            // Not `resize`: that copies, and touches every page of a size that only a header claims.
            self.bytes = Vec::new();
            self.bytes = vec![0; len];
        }
        &mut self.bytes[..len]
    }

    /// The first `len` bytes, all zero: for decoders that may leave some of them as they find them.
    pub(super) fn take_zeroed(&mut self, len: usize) -> &mut [u8] {
        if self.bytes.len() >= len {
            self.bytes[..len].fill(0);
        }
        self.take(len)
    }

    fn trim(&mut self) {
        if self.bytes.len() > MAX_KEPT_BYTES {
            self.bytes = Vec::new();
        }
    }
}

/// Decodes images, one at a time; one per thread. Its buffers are used again for the next image.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The answer: RGB.
    pixels: Buffer,
    /// What a decoder writes that is not 8-bit RGB.
    raw: Buffer,
}

impl Decoder {
    /// A decoder with empty buffers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Decodes a JPEG, PNG, WebP, BMP, TIFF or GIF (its first picture) to RGB `[height, width, 3]`. Alpha is
    /// dropped, grey is repeated, 16 bits become 8, all as `cv2.imdecode(.., IMREAD_COLOR)` does; the EXIF
    /// orientation is read and left to [`super::Preprocess`]. Blocks for as long as decoding takes.
    ///
    /// **Errors:** `NotAnImage`, `UnsupportedImage`, `ImageDimensions` (checked before pixels are allocated),
    /// `TruncatedImage`, `CorruptImage`.
    pub fn decode<'a>(&'a mut self, encoded: &[u8], limits: &Limits) -> Result<Rgb8View<'a>, InferError> {
        self.trim();
        match sniff(encoded)? {
            Format::Jpeg => jpeg::decode(encoded, limits, &mut self.pixels, &mut self.raw),
            format @ (Format::Png | Format::WebP | Format::Bmp | Format::Tiff | Format::Gif) => {
                still::decode(format, encoded, limits, &mut self.pixels, &mut self.raw)
            }
        }
    }

    /// Gives back what a huge image left behind, over 16 MiB a buffer. [`Decoder::decode`] begins with it; a
    /// thread that goes idle may call it too.
    pub fn trim(&mut self) {
        self.pixels.trim();
        self.raw.trim();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_kept_up_to_a_limit() {
        let mut buffer = Buffer::default();
        buffer.take(100).fill(7);
        assert_eq!(buffer.take(10), [7; 10]);
        assert_eq!(buffer.take_zeroed(5), [0; 5]);
        assert_eq!(buffer.bytes.len(), 100);
        buffer.take(MAX_KEPT_BYTES + 1);
        buffer.trim();
        assert_eq!(buffer.bytes.len(), 0);
        buffer.take(MAX_KEPT_BYTES);
        buffer.trim();
        assert_eq!(buffer.bytes.len(), MAX_KEPT_BYTES);
    }
}
