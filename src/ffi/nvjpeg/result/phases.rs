//! The calls that decode one picture in phases.

use std::ffi::c_int;
use std::ptr::{NonNull, null_mut};

use super::{check, made};
use crate::ffi::nvjpeg::library::{Library, NvjpegError};
use crate::ffi::nvjpeg::sys::{self, CUstream};

/// Parameters for interleaved RGB of the whole picture, with no EXIF orientation applied.
///
/// # Safety
///
/// `codec` is live.
pub(in crate::ffi::nvjpeg) unsafe fn params_create(
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
pub(in crate::ffi::nvjpeg) unsafe fn params_set_rgbi(
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
pub(in crate::ffi::nvjpeg) unsafe fn params_destroy(
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
pub(in crate::ffi::nvjpeg) unsafe fn decoder_create(
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
pub(in crate::ffi::nvjpeg) unsafe fn decoder_destroy(
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
pub(in crate::ffi::nvjpeg) unsafe fn decoder_supported(
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
pub(in crate::ffi::nvjpeg) unsafe fn pinned_create(
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
pub(in crate::ffi::nvjpeg) unsafe fn pinned_destroy(
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
pub(in crate::ffi::nvjpeg) unsafe fn device_create(
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
pub(in crate::ffi::nvjpeg) unsafe fn device_destroy(
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
pub(in crate::ffi::nvjpeg) unsafe fn attach_pinned(
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
pub(in crate::ffi::nvjpeg) unsafe fn attach_device(
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
pub(in crate::ffi::nvjpeg) struct Phases {
    pub(in crate::ffi::nvjpeg) codec: NonNull<sys::Codec>,
    pub(in crate::ffi::nvjpeg) decoder: NonNull<sys::Decoder>,
    pub(in crate::ffi::nvjpeg) state: NonNull<sys::State>,
    pub(in crate::ffi::nvjpeg) params: NonNull<sys::Params>,
    pub(in crate::ffi::nvjpeg) picture: NonNull<sys::Stream>,
}

/// First phase: entropy decoding on this thread, into the attached pinned buffer.
///
/// # Safety
///
/// The handles of `phases` are live, belong together and are in no other use; a picture is parsed, its bytes still
/// readable, and both buffers are attached.
pub(in crate::ffi::nvjpeg) unsafe fn decode_host(
    library: &Library,
    phases: Phases,
) -> Result<(), NvjpegError> {
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
pub(in crate::ffi::nvjpeg) unsafe fn decode_transfer(
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
pub(in crate::ffi::nvjpeg) unsafe fn decode_device(
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
