//! Declarations of nvJPEG's C API, written from its documentation (<https://docs.nvidia.com/cuda/nvjpeg/>): only
//! what [`super::result`] calls. They hold for libnvjpeg 11.9 to 13.3, which agree on every one of them.

use std::ffi::{c_int, c_uchar, c_uint, c_void};

pub(super) use cudarc::driver::sys::CUstream;

/// `nvjpegStatus_t`.
pub(super) type Status = c_int;

pub(super) const STATUS_SUCCESS: Status = 0;

/// `nvjpegBackend_t`: the library chooses.
pub(super) const BACKEND_DEFAULT: c_int = 0;
/// `nvjpegBackend_t`: Huffman decoding on the CPU, the rest on the GPU.
pub(super) const BACKEND_HYBRID: c_int = 1;
/// `nvjpegBackend_t`: the GPU's JPEG engine.
pub(super) const BACKEND_HARDWARE: c_int = 3;

/// `nvjpegOutputFormat_t`: interleaved RGB in the first channel.
pub(super) const OUTPUT_RGBI: c_int = 5;

/// Flag of `nvjpegCreateEx`, from 12.1 on: chroma is upsampled with interpolation, not repeated.
pub(super) const FLAGS_UPSAMPLING_WITH_INTERPOLATION: c_uint = 1 << 5;

// `libraryPropertyType` of the CUDA runtime.
pub(super) const MAJOR_VERSION: c_int = 0;
pub(super) const MINOR_VERSION: c_int = 1;
pub(super) const PATCH_LEVEL: c_int = 2;

/// `NVJPEG_MAX_COMPONENT`.
pub(super) const MAX_COMPONENTS: usize = 4;

/// `nvjpegImage_t`: where a decoded picture goes, in device memory. Interleaved formats use the first channel.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Image {
    /// Address of each channel's first row.
    pub(super) channel: [*mut c_uchar; MAX_COMPONENTS],
    /// Bytes from one row to the next.
    pub(super) pitch: [usize; MAX_COMPONENTS],
}

/// Opaque types of the library, so that one cannot be taken for another.
macro_rules! opaque {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[repr(C)]
        pub(super) struct $name {
            _opaque: [u8; 0],
        }
    )*};
}

opaque! {
    /// Behind `nvjpegHandle_t`.
    Codec;
    /// Behind `nvjpegJpegState_t`.
    State;
    /// Behind `nvjpegJpegStream_t`.
    Stream;
    /// Behind `nvjpegDecodeParams_t`.
    Params;
    /// Behind `nvjpegJpegDecoder_t`.
    Decoder;
    /// Behind `nvjpegBufferPinned_t`.
    PinnedBuffer;
    /// Behind `nvjpegBufferDevice_t`.
    DeviceBuffer;
}

/// The table of functions and the list of their names, in one order.
macro_rules! functions {
    (@type required ($($argument:ty),*)) => { unsafe extern "C" fn($($argument),*) -> Status };
    (@type optional ($($argument:ty),*)) => { Option<unsafe extern "C" fn($($argument),*) -> Status> };
    (@required required) => { true };
    (@required optional) => { false };
    ($($need:ident $name:ident($($argument:ty),* $(,)?);)*) => {
        /// The library's functions under their own names. `repr(C)` and nothing but function pointers: the
        /// loader fills it from a list of addresses in the order of [`SYMBOLS`].
        #[repr(C)]
        #[derive(Clone, Copy)]
        #[allow(non_snake_case, reason = "the names are the library's")]
        pub(super) struct Functions {
            $(pub(super) $name: functions!(@type $need ($($argument),*)),)*
        }

        /// Name of each function, and whether visord cannot do without it.
        pub(super) const SYMBOLS: &[(&str, bool)] = &[$((stringify!($name), functions!(@required $need))),*];
    };
}

functions! {
    required nvjpegGetProperty(c_int, *mut c_int);
    required nvjpegGetCudartProperty(c_int, *mut c_int);
    // The two allocators are null: the library's own, cudaMalloc and cudaHostAlloc.
    required nvjpegCreateEx(c_int, *mut c_void, *mut c_void, c_uint, *mut *mut Codec);
    required nvjpegDestroy(*mut Codec);
    optional nvjpegGetHardwareDecoderInfo(*mut Codec, *mut c_uint, *mut c_uint);

    required nvjpegJpegStreamCreate(*mut Codec, *mut *mut Stream);
    required nvjpegJpegStreamDestroy(*mut Stream);
    required nvjpegJpegStreamParse(*mut Codec, *const c_uchar, usize, c_int, c_int, *mut Stream);
    required nvjpegJpegStreamParseHeader(*mut Codec, *const c_uchar, usize, *mut Stream);
    required nvjpegJpegStreamGetFrameDimensions(*mut Stream, *mut c_uint, *mut c_uint);

    required nvjpegJpegStateCreate(*mut Codec, *mut *mut State);
    required nvjpegJpegStateDestroy(*mut State);
    required nvjpegDecodeBatchedInitialize(*mut Codec, *mut State, c_int, c_int, c_int);
    required nvjpegDecodeBatched(
        *mut Codec, *mut State, *const *const c_uchar, *const usize, *mut Image, CUstream,
    );
    optional nvjpegDecodeBatchedSupported(*mut Codec, *mut Stream, *mut c_int);

    required nvjpegDecodeParamsCreate(*mut Codec, *mut *mut Params);
    required nvjpegDecodeParamsDestroy(*mut Params);
    required nvjpegDecodeParamsSetOutputFormat(*mut Params, c_int);

    required nvjpegDecoderCreate(*mut Codec, c_int, *mut *mut Decoder);
    required nvjpegDecoderDestroy(*mut Decoder);
    required nvjpegDecoderStateCreate(*mut Codec, *mut Decoder, *mut *mut State);
    required nvjpegDecoderJpegSupported(*mut Decoder, *mut Stream, *mut Params, *mut c_int);

    required nvjpegBufferPinnedCreate(*mut Codec, *mut c_void, *mut *mut PinnedBuffer);
    required nvjpegBufferPinnedDestroy(*mut PinnedBuffer);
    required nvjpegBufferDeviceCreate(*mut Codec, *mut c_void, *mut *mut DeviceBuffer);
    required nvjpegBufferDeviceDestroy(*mut DeviceBuffer);
    required nvjpegStateAttachPinnedBuffer(*mut State, *mut PinnedBuffer);
    required nvjpegStateAttachDeviceBuffer(*mut State, *mut DeviceBuffer);

    required nvjpegDecodeJpegHost(*mut Codec, *mut Decoder, *mut State, *mut Params, *mut Stream);
    required nvjpegDecodeJpegTransferToDevice(*mut Codec, *mut Decoder, *mut State, *mut Stream, CUstream);
    required nvjpegDecodeJpegDevice(*mut Codec, *mut Decoder, *mut State, *mut Image, CUstream);
}
