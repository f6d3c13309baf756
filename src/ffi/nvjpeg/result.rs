//! nvJPEG's calls with their status as a `Result`; still unsafe: that handles are live, belong together and are
//! not used by two threads at once is the caller's promise, which the owners in [`super`] keep.

use std::ffi::{c_int, c_uint};
use std::ptr::{NonNull, null_mut};

use super::library::{Library, NvjpegError};
use super::sys::{self, CUstream};

/// A status of 0 is success.
fn check(call: &'static str, code: sys::Status) -> Result<(), NvjpegError> {
    if code == sys::STATUS_SUCCESS { Ok(()) } else { Err(NvjpegError { call, code }) }
}

/// What a creating call made. A library that reports success and gives nothing is taken for out of memory.
fn made<T>(call: &'static str, code: sys::Status, made: *mut T) -> Result<NonNull<T>, NvjpegError> {
    check(call, code)?;
    NonNull::new(made).ok_or(NvjpegError { call, code: 5 })
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

/// Parameters for interleaved RGB of the whole picture, with no EXIF orientation applied.
///
/// # Safety
///
/// `codec` is live.
pub(super) unsafe fn params_create(
    library: &Library,
    codec: NonNull<sys::Codec>,
) -> Result<NonNull<sys::Params>, NvjpegError> {
    let mut params = null_mut();
    // SAFETY: the caller promises a live handle; `params` is written once.
    let code = unsafe { (library.functions.nvjpegDecodeParamsCreate)(codec.as_ptr(), &raw mut params) };
    made("nvjpegDecodeParamsCreate", code, params)
}

/// # Safety
///
/// `params` is live.
pub(super) unsafe fn params_set_rgbi(
    library: &Library,
    params: NonNull<sys::Params>,
) -> Result<(), NvjpegError> {
    // SAFETY: the caller's promise.
    let code =
        unsafe { (library.functions.nvjpegDecodeParamsSetOutputFormat)(params.as_ptr(), sys::OUTPUT_RGBI) };
    check("nvjpegDecodeParamsSetOutputFormat", code)
}

/// # Safety
///
/// `params` is live and never used again.
pub(super) unsafe fn params_destroy(
    library: &Library,
    params: NonNull<sys::Params>,
) -> Result<(), NvjpegError> {
    // SAFETY: the caller's promise is the call's condition.
    let code = unsafe { (library.functions.nvjpegDecodeParamsDestroy)(params.as_ptr()) };
    check("nvjpegDecodeParamsDestroy", code)
}

/// # Safety
///
/// `codec` is live.
pub(super) unsafe fn decoder_create(
    library: &Library,
    codec: NonNull<sys::Codec>,
    backend: c_int,
) -> Result<NonNull<sys::Decoder>, NvjpegError> {
    let mut decoder = null_mut();
    // SAFETY: the caller promises a live handle; `decoder` is written once.
    let code = unsafe { (library.functions.nvjpegDecoderCreate)(codec.as_ptr(), backend, &raw mut decoder) };
    made("nvjpegDecoderCreate", code, decoder)
}

/// # Safety
///
/// `decoder` is live and never used again.
pub(super) unsafe fn decoder_destroy(
    library: &Library,
    decoder: NonNull<sys::Decoder>,
) -> Result<(), NvjpegError> {
    // SAFETY: the caller's promise is the call's condition.
    let code = unsafe { (library.functions.nvjpegDecoderDestroy)(decoder.as_ptr()) };
    check("nvjpegDecoderDestroy", code)
}

/// Whether `decoder` can decode the picture that was parsed into `stream`.
///
/// # Safety
///
/// All three are live, and a picture was parsed into `stream`.
pub(super) unsafe fn decoder_supported(
    library: &Library,
    decoder: NonNull<sys::Decoder>,
    stream: NonNull<sys::Stream>,
    params: NonNull<sys::Params>,
) -> Result<bool, NvjpegError> {
    let mut unsupported = 0;
    let function = library.functions.nvjpegDecoderJpegSupported;
    // SAFETY: the caller's promise; the integer is written.
    let code = unsafe { function(decoder.as_ptr(), stream.as_ptr(), params.as_ptr(), &raw mut unsupported) };
    // 0 says that it is supported.
    check("nvjpegDecoderJpegSupported", code).map(|()| unsupported == 0)
}

/// # Safety
///
/// `codec` is live.
pub(super) unsafe fn pinned_create(
    library: &Library,
    codec: NonNull<sys::Codec>,
) -> Result<NonNull<sys::PinnedBuffer>, NvjpegError> {
    let mut buffer = null_mut();
    let function = library.functions.nvjpegBufferPinnedCreate;
    // SAFETY: the caller promises a live handle; `buffer` is written once; a null allocator is the library's own.
    let code = unsafe { function(codec.as_ptr(), null_mut(), &raw mut buffer) };
    made("nvjpegBufferPinnedCreate", code, buffer)
}

/// # Safety
///
/// `buffer` is live, never used again, and no copy out of it is still running.
pub(super) unsafe fn pinned_destroy(
    library: &Library,
    buffer: NonNull<sys::PinnedBuffer>,
) -> Result<(), NvjpegError> {
    // SAFETY: the caller's promise is the call's condition.
    let code = unsafe { (library.functions.nvjpegBufferPinnedDestroy)(buffer.as_ptr()) };
    check("nvjpegBufferPinnedDestroy", code)
}

/// # Safety
///
/// `codec` is live.
pub(super) unsafe fn device_create(
    library: &Library,
    codec: NonNull<sys::Codec>,
) -> Result<NonNull<sys::DeviceBuffer>, NvjpegError> {
    let mut buffer = null_mut();
    let function = library.functions.nvjpegBufferDeviceCreate;
    // SAFETY: the caller promises a live handle; `buffer` is written once; a null allocator is the library's own.
    let code = unsafe { function(codec.as_ptr(), null_mut(), &raw mut buffer) };
    made("nvjpegBufferDeviceCreate", code, buffer)
}

/// # Safety
///
/// `buffer` is live, never used again, and no work on it is still running.
pub(super) unsafe fn device_destroy(
    library: &Library,
    buffer: NonNull<sys::DeviceBuffer>,
) -> Result<(), NvjpegError> {
    // SAFETY: the caller's promise is the call's condition.
    let code = unsafe { (library.functions.nvjpegBufferDeviceDestroy)(buffer.as_ptr()) };
    check("nvjpegBufferDeviceDestroy", code)
}

/// # Safety
///
/// Both are live and in no other use, and no copy out of `buffer` is still running.
pub(super) unsafe fn attach_pinned(
    library: &Library,
    state: NonNull<sys::State>,
    buffer: NonNull<sys::PinnedBuffer>,
) -> Result<(), NvjpegError> {
    // SAFETY: the caller's promise is the call's condition.
    let code = unsafe { (library.functions.nvjpegStateAttachPinnedBuffer)(state.as_ptr(), buffer.as_ptr()) };
    check("nvjpegStateAttachPinnedBuffer", code)
}

/// # Safety
///
/// Both are live and in no other use.
pub(super) unsafe fn attach_device(
    library: &Library,
    state: NonNull<sys::State>,
    buffer: NonNull<sys::DeviceBuffer>,
) -> Result<(), NvjpegError> {
    // SAFETY: the caller's promise is the call's condition.
    let code = unsafe { (library.functions.nvjpegStateAttachDeviceBuffer)(state.as_ptr(), buffer.as_ptr()) };
    check("nvjpegStateAttachDeviceBuffer", code)
}

/// The handles that the three phases of one picture work with.
#[derive(Clone, Copy)]
pub(super) struct Phases {
    pub(super) codec: NonNull<sys::Codec>,
    pub(super) decoder: NonNull<sys::Decoder>,
    pub(super) state: NonNull<sys::State>,
    pub(super) params: NonNull<sys::Params>,
    pub(super) picture: NonNull<sys::Stream>,
}

/// First phase: entropy decoding on this thread, into the attached pinned buffer.
///
/// # Safety
///
/// The handles of `phases` are live, belong together and are in no other use; a picture is parsed, its bytes still
/// readable, and both buffers are attached.
pub(super) unsafe fn decode_host(library: &Library, phases: Phases) -> Result<(), NvjpegError> {
    let Phases { codec, decoder, state, params, picture } = phases;
    // SAFETY: the caller's promise.
    let code = unsafe {
        (library.functions.nvjpegDecodeJpegHost)(
            codec.as_ptr(),
            decoder.as_ptr(),
            state.as_ptr(),
            params.as_ptr(),
            picture.as_ptr(),
        )
    };
    check("nvjpegDecodeJpegHost", code)
}

/// Second phase: enqueues the copy to the device.
///
/// # Safety
///
/// As [`decode_host`], which has succeeded; the pinned buffer and the picture's bytes stay as they are until
/// `stream` has passed this work.
pub(super) unsafe fn decode_transfer(
    library: &Library,
    phases: Phases,
    stream: CUstream,
) -> Result<(), NvjpegError> {
    let Phases { codec, decoder, state, params: _, picture } = phases;
    // SAFETY: the caller's promise.
    let code = unsafe {
        (library.functions.nvjpegDecodeJpegTransferToDevice)(
            codec.as_ptr(),
            decoder.as_ptr(),
            state.as_ptr(),
            picture.as_ptr(),
            stream,
        )
    };
    check("nvjpegDecodeJpegTransferToDevice", code)
}

/// Third phase: enqueues the rest of the decoding.
///
/// # Safety
///
/// As [`decode_transfer`], which has succeeded on the same `stream`; `image` has room for the picture until
/// `stream` has passed this work.
pub(super) unsafe fn decode_device(
    library: &Library,
    phases: Phases,
    mut image: sys::Image,
    stream: CUstream,
) -> Result<(), NvjpegError> {
    let Phases { codec, decoder, state, params: _, picture: _ } = phases;
    // SAFETY: the caller's promise; the description of the image is read during the call.
    let code = unsafe {
        (library.functions.nvjpegDecodeJpegDevice)(
            codec.as_ptr(),
            decoder.as_ptr(),
            state.as_ptr(),
            &raw mut image,
            stream,
        )
    };
    check("nvjpegDecodeJpegDevice", code)
}
