//! libjpeg-turbo through its TurboJPEG 3 API: JPEG to packed 8-bit pixels for `image::jpeg`, and back for the
//! sample pictures of `gpu::jpeg`.
//!
//! libjpeg-turbo because OpenCV decodes with it: the same pixels bit for bit, where zune-jpeg differs by up
//! to 6 levels. Without nasm at build time the same pixels come out, several times slower.

#[cfg(feature = "tensorrt")]
mod compress;
mod result;
mod sys;

use std::ffi::c_int;

#[cfg(feature = "tensorrt")]
pub(crate) use compress::compress_rgb;
pub(crate) use result::{Completion, TurboJpegError};

/// Scans a progressive JPEG may have. Encoders write about 10; each scan of a hostile file costs a pass over
/// all its coefficients for some bytes of input.
pub(crate) const MAX_SCANS: c_int = 100;

/// The largest side libjpeg reads.
pub(crate) const MAX_SIDE: u32 = 65_500;

/// What the pixels of [`Decompressor::decompress`] hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PixelFormat {
    /// Red, green, blue.
    Rgb,
    /// Cyan, magenta, yellow, black, as stored: Adobe files store them inverted.
    Cmyk,
}

impl PixelFormat {
    /// Bytes a pixel takes.
    pub(crate) const fn size_bytes(self) -> usize {
        match self {
            Self::Rgb => 3,
            Self::Cmyk => 4,
        }
    }
}

/// A TurboJPEG instance that has read one JPEG's header.
///
/// An instance lives for one image. A used one keeps its Huffman and quantisation tables, and would decode the
/// next image with them where that brings none of its own (Motion JPEG frames do not); a new one is cheap:
/// an 8x8 JPEG decodes in 5 us with it (tests/bench/image.rs on Zen 3).
#[derive(Debug)]
pub(crate) struct Decompressor<'e> {
    handle: result::Handle,
    encoded: &'e [u8],
    width: u32,
    height: u32,
    precision_bits: i32,
    pixel_format: PixelFormat,
}

impl<'e> Decompressor<'e> {
    /// Reads the header of `encoded`, and will refuse to decode more than `max_pixels`.
    ///
    /// **Errors:** no JPEG, or one that ends or breaks before its first scan; out of memory.
    pub(crate) fn open(encoded: &'e [u8], max_pixels: u64) -> Result<Self, TurboJpegError> {
        let mut new = Self {
            handle: result::init_decompress()?,
            encoded,
            width: 0,
            height: 0,
            precision_bits: 0,
            pixel_format: PixelFormat::Rgb,
        };
        new.configure(max_pixels)?;
        // SAFETY: `new.handle` is live until `new` is dropped.
        unsafe { result::decompress_header(new.handle, encoded) }?;
        // -1, for a file of tables without an image, becomes 0.
        let side = |value: c_int| u32::try_from(value).unwrap_or(0);
        new.width = side(new.get(sys::TJPARAM_TJPARAM_JPEGWIDTH));
        new.height = side(new.get(sys::TJPARAM_TJPARAM_JPEGHEIGHT));
        new.precision_bits = new.get(sys::TJPARAM_TJPARAM_PRECISION);
        let colorspace = new.get(sys::TJPARAM_TJPARAM_COLORSPACE).cast_unsigned();
        if [sys::TJCS_TJCS_CMYK, sys::TJCS_TJCS_YCCK].contains(&colorspace) {
            new.pixel_format = PixelFormat::Cmyk;
        }
        Ok(new)
    }

    /// Pixels in a row; 0 for a file that holds tables and no image.
    pub(crate) fn width(&self) -> u32 {
        self.width
    }

    /// Rows; 0 for a file that holds tables and no image.
    pub(crate) fn height(&self) -> u32 {
        self.height
    }

    /// Bits in a sample; [`Decompressor::decompress`] reads 8.
    pub(crate) fn precision_bits(&self) -> i32 {
        self.precision_bits
    }

    /// What `decompress` writes: CMYK for CMYK and YCCK files, which libjpeg cannot turn to RGB, else RGB.
    pub(crate) fn pixel_format(&self) -> PixelFormat {
        self.pixel_format
    }

    /// Decodes to `pixels`, `[height, width, 3 or 4]` in `pixel_format()`; accurate DCT and smooth chroma
    /// upsampling, libjpeg's defaults.
    ///
    /// **Errors:** a fatal fault in the data. What libjpeg-turbo only warns of is in the [`Completion`], and
    /// then every pixel was written, some of them guessed.
    ///
    /// # Panics
    ///
    /// If `pixels` is too short for the image.
    pub(crate) fn decompress(self, pixels: &mut [u8]) -> Result<Completion, TurboJpegError> {
        let image_bytes = u64::from(self.width) * u64::from(self.height);
        let image_bytes = image_bytes * self.pixel_format.size_bytes() as u64;
        assert!(pixels.len() as u64 >= image_bytes, "the pixel buffer has room for the whole image");
        let pixel_format = match self.pixel_format {
            PixelFormat::Rgb => sys::TJPF_TJPF_RGB,
            PixelFormat::Cmyk => sys::TJPF_TJPF_CMYK,
        };
        // SAFETY: `self.handle` is live until `self` is dropped. `pixels` has room for the size that `open` read
        // from these very bytes, which `self` borrows.
        unsafe { result::decompress8(self.handle, self.encoded, pixels, pixel_format) }
    }

    fn configure(&mut self, max_pixels: u64) -> Result<(), TurboJpegError> {
        // A progressive file is held as coefficients: 2 bytes in up to 4 components, besides row buffers.
        let max_megabytes = c_int::try_from((max_pixels.saturating_mul(8) >> 20).saturating_add(64));
        for (param, value) in [
            (sys::TJPARAM_TJPARAM_SCANLIMIT, MAX_SCANS),
            (sys::TJPARAM_TJPARAM_MAXPIXELS, c_int::try_from(max_pixels).unwrap_or(c_int::MAX)),
            (sys::TJPARAM_TJPARAM_MAXMEMORY, max_megabytes.unwrap_or(c_int::MAX)),
            // No ICC profile is kept: nothing reads it.
            (sys::TJPARAM_TJPARAM_SAVEMARKERS, 0),
        ] {
            // SAFETY: `self.handle` is live until `self` is dropped.
            unsafe { result::set(self.handle, param, value) }?;
        }
        Ok(())
    }

    fn get(&self, param: sys::TJPARAM) -> c_int {
        // SAFETY: `self.handle` is live until `self` is dropped.
        unsafe { result::get(self.handle, param) }
    }
}

impl Drop for Decompressor<'_> {
    fn drop(&mut self) {
        // SAFETY: `self.handle` is live, and dropped with `self`.
        unsafe { result::destroy(self.handle) }
    }
}
