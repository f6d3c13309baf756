//! TurboJPEG calls with their status as a `Result`; still unsafe, as the handle and the buffers are the
//! caller's promise. [`super::Decompressor`] keeps that promise.

use std::ffi::{CStr, c_int, c_void};
use std::ptr::NonNull;

use super::sys;

/// A TurboJPEG instance.
pub(super) type Handle = NonNull<c_void>;

/// A call that failed, and what libjpeg-turbo says of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {message}")]
pub(crate) struct TurboJpegError {
    /// The function that failed.
    pub(crate) call: &'static str,
    /// The library's own text.
    pub(crate) message: String,
}

/// How a call that did not fail ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Completion {
    /// Without a complaint.
    Clean,
    /// With a complaint, and with every pixel written, some of them guessed.
    Warning,
}

/// How every text of libjpeg-turbo 3.1 begins that is a warning (its `JWRN_` messages).
///
/// `tj3GetErrorCode` cannot be asked: it answers `TJERR_WARNING` as soon as one warning was seen, also where a
/// fatal error came after it, and then the rest of the pixels was never written. The last text is the fatal
/// one, so the text decides, and one that is not listed counts as fatal.
const WARNINGS: [&str; 7] = [
    "Corrupt JPEG data: ",
    "Premature end of JPEG file",
    "Inconsistent progression sequence for component ",
    "Invalid SOS parameters for sequential JPEG",
    "Unknown Adobe color transform code ",
    "Warning: unknown JFIF revision number ",
    "Application transferred too many scanlines",
];

/// What the handle says of its last call.
///
/// # Safety
///
/// `handle` is live, and its last failed call was made on this thread: the text of a warning is thread-local.
unsafe fn last_message(handle: Handle) -> String {
    // SAFETY: the caller promises a live handle.
    let text = unsafe { sys::tj3GetErrorStr(handle.as_ptr()) };
    if text.is_null() {
        return "no message".to_owned();
    }
    // SAFETY: not null, and NUL-terminated: the library formats into a fixed array of its own.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// A status of 0 is clean; anything else is a warning or an error, by its text.
///
/// # Safety
///
/// As [`last_message`], with `status` from that last call.
unsafe fn complete(handle: Handle, call: &'static str, status: c_int) -> Result<Completion, TurboJpegError> {
    if status == 0 {
        return Ok(Completion::Clean);
    }
    // SAFETY: the caller's promise is the same.
    let message = unsafe { last_message(handle) };
    if WARNINGS.iter().any(|w| message.starts_with(w)) {
        Ok(Completion::Warning)
    } else {
        Err(TurboJpegError { call, message })
    }
}

/// A new instance that decompresses.
pub(super) fn init_decompress() -> Result<Handle, TurboJpegError> {
    // SAFETY: `tj3Init` has no precondition; an unknown type would give a null pointer.
    let handle = unsafe { sys::tj3Init(sys::TJINIT_TJINIT_DECOMPRESS.cast_signed()) };
    NonNull::new(handle)
        .ok_or_else(|| TurboJpegError { call: "tj3Init", message: "cannot allocate an instance".into() })
}

/// A new instance that compresses.
#[cfg(feature = "tensorrt")]
pub(super) fn init_compress() -> Result<Handle, TurboJpegError> {
    // SAFETY: `tj3Init` has no precondition; an unknown type would give a null pointer.
    let handle = unsafe { sys::tj3Init(sys::TJINIT_TJINIT_COMPRESS.cast_signed()) };
    NonNull::new(handle)
        .ok_or_else(|| TurboJpegError { call: "tj3Init", message: "cannot allocate an instance".into() })
}

/// The most bytes that a 4:2:0 JPEG of this size can take; 0 for a size that cannot be.
#[cfg(feature = "tensorrt")]
pub(super) fn jpeg_buffer_bytes(width: c_int, height: c_int) -> usize {
    // SAFETY: the function computes with its arguments, and checks them.
    let bytes = unsafe { sys::tj3JPEGBufSize(width, height, sys::TJSAMP_TJSAMP_420) };
    usize::try_from(bytes).unwrap_or(0)
}

/// Compresses packed RGB `pixels` to `encoded`, and says how many bytes it took.
///
/// # Safety
///
/// `handle` is live and told not to grow its buffer (`TJPARAM_NOREALLOC`); `pixels` holds `3 * width * height`
/// bytes, and `encoded` [`jpeg_buffer_bytes`].
#[cfg(feature = "tensorrt")]
pub(super) unsafe fn compress8(
    handle: Handle,
    pixels: &[u8],
    width: c_int,
    height: c_int,
    encoded: &mut [u8],
) -> Result<usize, TurboJpegError> {
    let mut buffer = encoded.as_mut_ptr();
    let mut len = encoded.len() as sys::size_t;
    // SAFETY: the caller promises a live handle, the pixels, and room enough; pitch 0 means packed rows.
    let status = unsafe {
        sys::tj3Compress8(
            handle.as_ptr(),
            pixels.as_ptr(),
            width,
            0,
            height,
            sys::TJPF_TJPF_RGB,
            &raw mut buffer,
            &raw mut len,
        )
    };
    // SAFETY: the same handle and thread, and the status of its last call.
    unsafe { complete(handle, "tj3Compress8", status) }?;
    Ok(usize::try_from(len).unwrap_or(usize::MAX).min(encoded.len()))
}

/// # Safety
///
/// `handle` is live and never used again.
pub(super) unsafe fn destroy(handle: Handle) {
    // SAFETY: the caller promises a live handle that is given up here.
    unsafe { sys::tj3Destroy(handle.as_ptr()) }
}

/// # Safety
///
/// `handle` is live.
pub(super) unsafe fn set(handle: Handle, param: sys::TJPARAM, value: c_int) -> Result<(), TurboJpegError> {
    // SAFETY: the caller promises a live handle; the library checks parameter and value.
    let status = unsafe { sys::tj3Set(handle.as_ptr(), param.cast_signed(), value) };
    if status == 0 {
        return Ok(());
    }
    // SAFETY: the caller promises a live handle; the failed call was just made on this thread.
    let message = unsafe { last_message(handle) };
    Err(TurboJpegError { call: "tj3Set", message })
}

/// # Safety
///
/// `handle` is live.
pub(super) unsafe fn get(handle: Handle, param: sys::TJPARAM) -> c_int {
    // SAFETY: the caller promises a live handle; an unknown parameter gives -1.
    unsafe { sys::tj3Get(handle.as_ptr(), param.cast_signed()) }
}

/// Reads the header into the handle, for [`get`].
///
/// # Safety
///
/// `handle` is live.
pub(super) unsafe fn decompress_header(handle: Handle, encoded: &[u8]) -> Result<Completion, TurboJpegError> {
    // SAFETY: the caller promises a live handle; `encoded` outlives the call, which only reads it.
    let status =
        unsafe { sys::tj3DecompressHeader(handle.as_ptr(), encoded.as_ptr(), encoded.len() as sys::size_t) };
    // SAFETY: the same handle and thread, and the status of its last call.
    unsafe { complete(handle, "tj3DecompressHeader", status) }
}

/// Decodes `encoded` to `pixels`, rows packed from top to bottom.
///
/// # Safety
///
/// `handle` is live, and `pixels` holds at least `pixel size * width * height` of the image in `encoded`.
pub(super) unsafe fn decompress8(
    handle: Handle,
    encoded: &[u8],
    pixels: &mut [u8],
    pixel_format: c_int,
) -> Result<Completion, TurboJpegError> {
    // SAFETY: the caller promises a live handle and room for the whole image; pitch 0 means packed rows.
    let status = unsafe {
        sys::tj3Decompress8(
            handle.as_ptr(),
            encoded.as_ptr(),
            encoded.len() as sys::size_t,
            pixels.as_mut_ptr(),
            0,
            pixel_format,
        )
    };
    // SAFETY: the same handle and thread, and the status of its last call.
    unsafe { complete(handle, "tj3Decompress8", status) }
}
