//! Declarations of libjpeg-turbo's TurboJPEG 3 API, as the `turbojpeg-sys` crate vendors it: only what
//! [`super::result`] calls.

pub(super) use turbojpeg_sys::{
    TJCS_TJCS_CMYK, TJCS_TJCS_YCCK, TJINIT_TJINIT_DECOMPRESS, TJPARAM, TJPARAM_TJPARAM_COLORSPACE,
    TJPARAM_TJPARAM_JPEGHEIGHT, TJPARAM_TJPARAM_JPEGWIDTH, TJPARAM_TJPARAM_MAXMEMORY,
    TJPARAM_TJPARAM_MAXPIXELS, TJPARAM_TJPARAM_PRECISION, TJPARAM_TJPARAM_SAVEMARKERS,
    TJPARAM_TJPARAM_SCANLIMIT, TJPF_TJPF_CMYK, TJPF_TJPF_RGB, size_t, tj3Decompress8, tj3DecompressHeader,
    tj3Destroy, tj3Get, tj3GetErrorStr, tj3Init, tj3Set,
};

#[cfg(feature = "tensorrt")]
pub(super) use turbojpeg_sys::{
    TJINIT_TJINIT_COMPRESS, TJPARAM_TJPARAM_NOREALLOC, TJPARAM_TJPARAM_QUALITY, TJPARAM_TJPARAM_SUBSAMP,
    TJSAMP_TJSAMP_420, tj3Compress8, tj3JPEGBufSize,
};
