//! Packed RGB to JPEG: the sample pictures that decoders are timed with.

use std::ffi::c_int;

use super::{TurboJpegError, result, sys};

/// Compresses `pixels`, `[height, width, 3]` in RGB, to a baseline JPEG of `quality` 1 to 100, chroma sampled
/// 4:2:0.
///
/// **Errors:** a side of 0 or over 65 500, a quality out of range; out of memory.
///
/// # Panics
///
/// If `pixels` has another length than the picture.
pub(crate) fn compress_rgb(
    pixels: &[u8],
    width: u32,
    height: u32,
    quality: u8,
) -> Result<Vec<u8>, TurboJpegError> {
    assert_eq!(
        pixels.len() as u64,
        u64::from(width) * u64::from(height) * 3,
        "pixels are those of the picture"
    );
    let compressor = Compressor(result::init_compress()?);
    for (param, value) in [
        (sys::TJPARAM_TJPARAM_QUALITY, c_int::from(quality)),
        (sys::TJPARAM_TJPARAM_SUBSAMP, sys::TJSAMP_TJSAMP_420),
        // The buffer below has the most bytes that the picture can take.
        (sys::TJPARAM_TJPARAM_NOREALLOC, 1),
    ] {
        // SAFETY: the handle is live until `compressor` is dropped.
        unsafe { result::set(compressor.0, param, value) }?;
    }
    let size = |side: u32| c_int::try_from(side).unwrap_or(c_int::MAX);
    let (width, height) = (size(width), size(height));
    let mut encoded = vec![0; result::jpeg_buffer_bytes(width, height)];
    // SAFETY: the handle is live and told not to grow the buffer, which has the most bytes that a picture of this
    // size can take; `pixels` has its length, as asserted.
    let len = unsafe { result::compress8(compressor.0, pixels, width, height, &mut encoded) }?;
    encoded.truncate(len);
    Ok(encoded)
}

struct Compressor(result::Handle);

impl Drop for Compressor {
    fn drop(&mut self) {
        // SAFETY: the handle is live, and dropped with `self`.
        unsafe { result::destroy(self.0) }
    }
}
