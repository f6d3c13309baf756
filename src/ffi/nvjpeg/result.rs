//! nvJPEG's calls with their status as a `Result`; still unsafe: that handles are live, belong together and are
//! not used by two threads at once is the caller's promise, which the owners in [`super`] keep.

mod phases;

use std::ffi::{c_int, c_uint};
use std::ptr::{NonNull, null_mut};

use super::library::{Library, NvjpegError};
use super::sys::{self, CUstream};

pub(super) use phases::*;

const BAD_JPEG: sys::Status = 3;
const ALLOCATOR_FAILURE: sys::Status = 5;

/// A status of 0 is success.
fn check(call: &'static str, code: sys::Status) -> Result<(), NvjpegError> {
    if code == sys::STATUS_SUCCESS { Ok(()) } else { Err(NvjpegError { call, code }) }
}

/// What a creating call made. A library that reports success and gives nothing is taken for out of memory.
fn made<T>(call: &'static str, code: sys::Status, made: *mut T) -> Result<NonNull<T>, NvjpegError> {
    check(call, code)?;
    NonNull::new(made).ok_or(NvjpegError { call, code: ALLOCATOR_FAILURE })
}

/// # Safety
///
/// A CUDA context is current on this thread, or the call fails.
pub(super) unsafe fn create(
    library: &Library,
    backend: c_int,
    flags: c_uint,
) -> Result<NonNull<sys::Codec>, NvjpegError> {
    let mut codec = null_mut();
    // SAFETY: null allocators are the library's own; `codec` is written once.
    let code =
        unsafe { (library.functions.nvjpegCreateEx)(backend, null_mut(), null_mut(), flags, &raw mut codec) };
    made("nvjpegCreateEx", code, codec)
}

/// # Safety
///
/// `codec` is live, and nothing made from it is.
pub(super) unsafe fn destroy(library: &Library, codec: NonNull<sys::Codec>) -> Result<(), NvjpegError> {
    // SAFETY: the caller's promise is the call's condition.
    let code = unsafe { (library.functions.nvjpegDestroy)(codec.as_ptr()) };
    check("nvjpegDestroy", code)
}

/// Engines, and cores of each; `None` where the library cannot say.
///
/// # Safety
///
/// `codec` is live.
pub(super) unsafe fn hardware_info(
    library: &Library,
    codec: NonNull<sys::Codec>,
) -> Result<Option<(u32, u32)>, NvjpegError> {
    let Some(function) = library.functions.nvjpegGetHardwareDecoderInfo else { return Ok(None) };
    let (mut engines, mut cores) = (0, 0);
    // SAFETY: the caller promises a live handle; both integers are written.
    let code = unsafe { function(codec.as_ptr(), &raw mut engines, &raw mut cores) };
    check("nvjpegGetHardwareDecoderInfo", code).map(|()| Some((engines, cores)))
}

/// # Safety
///
/// `codec` is live.
pub(super) unsafe fn stream_create(
    library: &Library,
    codec: NonNull<sys::Codec>,
) -> Result<NonNull<sys::Stream>, NvjpegError> {
    let mut stream = null_mut();
    // SAFETY: the caller promises a live handle; `stream` is written once.
    let code = unsafe { (library.functions.nvjpegJpegStreamCreate)(codec.as_ptr(), &raw mut stream) };
    made("nvjpegJpegStreamCreate", code, stream)
}

/// # Safety
///
/// `stream` is live and never used again.
pub(super) unsafe fn stream_destroy(
    library: &Library,
    stream: NonNull<sys::Stream>,
) -> Result<(), NvjpegError> {
    // SAFETY: the caller's promise is the call's condition.
    let code = unsafe { (library.functions.nvjpegJpegStreamDestroy)(stream.as_ptr()) };
    check("nvjpegJpegStreamDestroy", code)
}

/// Reads the whole file's markers. The stream refers to `encoded` and does not copy it.
///
/// # Safety
///
/// `codec` and `stream` are live, `stream` is in no other use, and `encoded` outlives every use of `stream` up to
/// the next parse.
pub(super) unsafe fn stream_parse(
    library: &Library,
    codec: NonNull<sys::Codec>,
    encoded: &[u8],
    stream: NonNull<sys::Stream>,
) -> Result<(), NvjpegError> {
    let (data, len) = (encoded.as_ptr(), encoded.len());
    // SAFETY: the caller's promise; no metadata and no copy of the stream are kept.
    let code = unsafe {
        (library.functions.nvjpegJpegStreamParse)(codec.as_ptr(), data, len, 0, 0, stream.as_ptr())
    };
    check("nvjpegJpegStreamParse", code)
}

/// Reads the header alone.
///
/// # Safety
///
/// As [`stream_parse`].
pub(super) unsafe fn stream_parse_header(
    library: &Library,
    codec: NonNull<sys::Codec>,
    encoded: &[u8],
    stream: NonNull<sys::Stream>,
) -> Result<(), NvjpegError> {
    let (data, len) = (encoded.as_ptr(), encoded.len());
    // SAFETY: the caller's promise.
    let code = unsafe {
        (library.functions.nvjpegJpegStreamParseHeader)(codec.as_ptr(), data, len, stream.as_ptr())
    };
    check("nvjpegJpegStreamParseHeader", code)
}

/// Succeeds if the frame in `stream` has the size `(width, height)`: what is about to be written must fit the
/// memory that was made for it. Another size is reported as `BAD_JPEG`, for two readers of one header disagree.
///
/// # Safety
///
/// `stream` is live, and a header was read into it.
pub(super) unsafe fn check_size(
    library: &Library,
    stream: NonNull<sys::Stream>,
    size: (u32, u32),
) -> Result<(), NvjpegError> {
    const CALL: &str = "nvjpegJpegStreamGetFrameDimensions";
    let (mut width, mut height) = (0, 0);
    let function = library.functions.nvjpegJpegStreamGetFrameDimensions;
    // SAFETY: the caller's promise; both integers are written.
    let code = unsafe { function(stream.as_ptr(), &raw mut width, &raw mut height) };
    check(CALL, code)?;
    if (width, height) == size { Ok(()) } else { Err(NvjpegError { call: CALL, code: BAD_JPEG }) }
}

/// # Safety
///
/// `codec` is live.
pub(super) unsafe fn state_create(
    library: &Library,
    codec: NonNull<sys::Codec>,
) -> Result<NonNull<sys::State>, NvjpegError> {
    let mut state = null_mut();
    // SAFETY: the caller promises a live handle; `state` is written once.
    let code = unsafe { (library.functions.nvjpegJpegStateCreate)(codec.as_ptr(), &raw mut state) };
    made("nvjpegJpegStateCreate", code, state)
}

/// # Safety
///
/// `codec` and `decoder` are live.
pub(super) unsafe fn decoder_state_create(
    library: &Library,
    codec: NonNull<sys::Codec>,
    decoder: NonNull<sys::Decoder>,
) -> Result<NonNull<sys::State>, NvjpegError> {
    let mut state = null_mut();
    // SAFETY: the caller promises live handles; `state` is written once.
    let code = unsafe {
        (library.functions.nvjpegDecoderStateCreate)(codec.as_ptr(), decoder.as_ptr(), &raw mut state)
    };
    made("nvjpegDecoderStateCreate", code, state)
}

/// # Safety
///
/// `state` is live, never used again, and no work that it was given is still running.
pub(super) unsafe fn state_destroy(library: &Library, state: NonNull<sys::State>) -> Result<(), NvjpegError> {
    // SAFETY: the caller's promise is the call's condition.
    let code = unsafe { (library.functions.nvjpegJpegStateDestroy)(state.as_ptr()) };
    check("nvjpegJpegStateDestroy", code)
}

/// Makes `state` ready for batches of `batch_size` pictures, decoded to interleaved RGB by one CPU thread.
///
/// # Safety
///
/// `codec` and `state` are live, and `state` is in no other use.
pub(super) unsafe fn batched_initialize(
    library: &Library,
    codec: NonNull<sys::Codec>,
    state: NonNull<sys::State>,
    batch_size: c_int,
) -> Result<(), NvjpegError> {
    let function = library.functions.nvjpegDecodeBatchedInitialize;
    // SAFETY: the caller's promise.
    let code = unsafe { function(codec.as_ptr(), state.as_ptr(), batch_size, 1, sys::OUTPUT_RGBI) };
    check("nvjpegDecodeBatchedInitialize", code)
}

/// Enqueues the decoding of a batch; returns before it is done.
///
/// # Safety
///
/// `codec` and `state` are live, `state` is initialised for `images.len()` pictures and in no other use; `data` and
/// `lengths` have as many entries and describe readable bytes; each image has room for its picture; the bytes, the
/// images' memory and `state` stay as they are until `stream` has passed this work.
pub(super) unsafe fn decode_batched(
    library: &Library,
    codec: NonNull<sys::Codec>,
    state: NonNull<sys::State>,
    data: &[*const u8],
    lengths: &[usize],
    images: &mut [sys::Image],
    stream: CUstream,
) -> Result<(), NvjpegError> {
    let (data, lengths, images) = (data.as_ptr(), lengths.as_ptr(), images.as_mut_ptr());
    // SAFETY: the caller's promise.
    let code = unsafe {
        (library.functions.nvjpegDecodeBatched)(codec.as_ptr(), state.as_ptr(), data, lengths, images, stream)
    };
    check("nvjpegDecodeBatched", code)
}

/// Whether batches may hold the picture whose header is in `stream`; `None` where the library cannot say.
///
/// # Safety
///
/// `codec` and `stream` are live, and a header was read into `stream`.
pub(super) unsafe fn batched_supported(
    library: &Library,
    codec: NonNull<sys::Codec>,
    stream: NonNull<sys::Stream>,
) -> Result<Option<bool>, NvjpegError> {
    let Some(function) = library.functions.nvjpegDecodeBatchedSupported else { return Ok(None) };
    let mut unsupported = 0;
    // SAFETY: the caller's promise; the integer is written.
    let code = unsafe { function(codec.as_ptr(), stream.as_ptr(), &raw mut unsupported) };
    // 0 says that it is supported.
    check("nvjpegDecodeBatchedSupported", code).map(|()| Some(unsupported == 0))
}
