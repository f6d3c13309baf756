//! JPEG decoding on the GPU with nvJPEG. [`route()`] picks who decodes a picture, from its own header; a
//! [`HardwareDecoder`] decodes batches with the GPU's JPEG engine, a [`HybridLane`] single pictures with the CPU's
//! help. Both write interleaved RGB to device memory that the caller owns, and return before the GPU is done. What
//! neither takes, the CPU decodes (`image::Decoder`).
//!
//! Everything here runs in the CUDA context that is current on the calling thread, and that must be the context in
//! which the [`Nvjpeg`] was made.

mod hardware;
mod hybrid;
mod measure;
mod route;
mod samples;

use std::sync::Arc;

use cudarc::driver::{result::event, sys};

use crate::ffi::nvjpeg::{Backend, Codec};

use super::descriptor::DeviceImage;
use crate::ffi::nvjpeg::Target;

pub use crate::ffi::nvjpeg::{Library, LoadError, NvjpegError, Version};
pub use hardware::HardwareDecoder;
pub use hybrid::HybridLane;
pub use measure::{Rates, images_per_second, thresholds};
pub use route::{Capabilities, Decode, DecoderChoice, Policy, Thresholds, route};
pub use samples::{Sample, sample_jpegs};

/// Why a picture was not decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// nvJPEG does not take some of the pictures. None of the call's pictures was decoded; the CPU may still decode
    /// those, and the rest can be given again.
    #[error("nvJPEG does not take {} of the pictures ({source})", .pictures.len())]
    Rejected {
        /// Which ones: positions in the call, ascending. All of them where nvJPEG did not say.
        pictures: Vec<usize>,
        /// What it said.
        source: NvjpegError,
    },
    /// A picture does not fit the memory that it was given. Our mistake: nothing was handed to nvJPEG.
    #[error("picture {picture}, {width}x{height}, does not fit {bytes} bytes with rows of {pitch}")]
    Memory {
        /// Position in the call.
        picture: usize,
        /// Pixels in a row.
        width: u32,
        /// Rows.
        height: u32,
        /// Bytes of the memory.
        bytes: usize,
        /// Bytes from one row to the next.
        pitch: usize,
    },
    /// nvJPEG or the device failed, through no fault that a picture is known to have.
    #[error(transparent)]
    Device(#[from] NvjpegError),
    /// A call to CUDA failed.
    #[error("{call} failed with CUDA error {code}")]
    Cuda {
        /// The function.
        call: &'static str,
        /// Its `CUresult`.
        code: u32,
    },
}

/// nvJPEG for one GPU: what its handles are made of.
#[derive(Debug)]
pub struct Nvjpeg {
    library: Arc<Library>,
    hybrid: Arc<Codec>,
    hardware: Result<Arc<Codec>, NvjpegError>,
    engines: Option<(u32, u32)>,
}

impl Nvjpeg {
    /// Handles for the GPU of the current context. A GPU without a JPEG engine (a V100, a T4), or a container
    /// that is not given it, is no error: see [`Nvjpeg::hardware`].
    ///
    /// **Errors:** the first handle cannot be made: no usable GPU, or a driver too old for the library.
    pub fn new(library: Arc<Library>) -> Result<Self, NvjpegError> {
        let hybrid = Codec::new(&library, Backend::Default)?;
        let hardware = Codec::new(&library, Backend::Hardware);
        let engines = hardware.as_ref().ok().and_then(|codec| codec.hardware_info().ok().flatten());
        Ok(Self { library, hybrid, hardware, engines })
    }

    /// The library.
    #[must_use]
    pub fn library(&self) -> &Library {
        &self.library
    }

    /// JPEG engines of the GPU, and cores of each, where nvJPEG can say.
    ///
    /// **Errors:** why there is no engine to use: [`NvjpegError::means_no_engine`] for a GPU without one. In a
    /// container, `NVIDIA_DRIVER_CAPABILITIES` must include `video`, or the engine looks absent
    /// (<https://github.com/NVIDIA/CUDALibrarySamples/issues/132>).
    pub fn hardware(&self) -> Result<Option<(u32, u32)>, NvjpegError> {
        self.hardware.as_ref().map(|_| self.engines).map_err(|error| *error)
    }

    /// What [`route()`] may choose from.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        Capabilities { hardware: self.hardware.is_ok(), hybrid: true }
    }

    /// A decoder for batches of up to `max_batch` pictures, on the JPEG engine. One per instance: decoders share
    /// nothing but the handle.
    ///
    /// **Errors:** there is no engine; the device cannot allocate for it.
    pub fn hardware_decoder(&self, max_batch: usize) -> Result<HardwareDecoder, DecodeError> {
        let codec = self.hardware.as_ref().map_err(|error| DecodeError::Device(*error))?;
        HardwareDecoder::new(codec, max_batch)
    }

    /// A decoder for single pictures, with its own buffers. One for each thread that decodes.
    ///
    /// **Errors:** the device cannot allocate for it.
    pub fn hybrid_lane(&self) -> Result<HybridLane, DecodeError> {
        HybridLane::new(&self.hybrid)
    }

    /// Gives up the handles without a call: after a sticky CUDA error nothing may be freed.
    pub fn abandon(self) {
        std::mem::forget(self);
    }
}

/// Where `image`, of the picture at position `picture`, is to be decoded to.
fn target(picture: usize, image: &DeviceImage) -> Result<Target, DecodeError> {
    let DeviceImage { address, bytes, pitch, width, height, orientation: _ } = *image;
    let row = u64::from(width) * 3;
    let needed =
        (pitch as u64).checked_mul(u64::from(height.saturating_sub(1))).and_then(|n| n.checked_add(row));
    if width == 0 || height == 0 || (pitch as u64) < row || needed.is_none_or(|needed| needed > bytes as u64)
    {
        return Err(DecodeError::Memory { picture, width, height, bytes, pitch });
    }
    Ok(Target { address, pitch_bytes: pitch })
}

/// A CUDA event that says when the work enqueued before it is done.
#[derive(Debug)]
struct Done {
    raw: sys::CUevent,
    /// Recorded since the last wait.
    pending: bool,
}

// SAFETY: the driver API ties an event to its context, not to a thread.
unsafe impl Send for Done {}

impl Done {
    fn new() -> Result<Self, DecodeError> {
        let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING;
        let raw = event::create(flags).map_err(|e| cuda("cuEventCreate", &e))?;
        Ok(Self { raw, pending: false })
    }

    /// Marks the end of what `stream` holds now.
    ///
    /// # Safety
    ///
    /// `stream` is live and of the current context.
    unsafe fn record(&mut self, stream: sys::CUstream) -> Result<(), DecodeError> {
        // SAFETY: the event is live until `self` is dropped; the caller promises the stream.
        unsafe { event::record(self.raw, stream) }.map_err(|e| cuda("cuEventRecord", &e))?;
        self.pending = true;
        Ok(())
    }

    /// Blocks until the work before the last mark is done.
    fn wait(&mut self) -> Result<(), DecodeError> {
        if self.pending {
            // SAFETY: the event is live until `self` is dropped.
            unsafe { event::synchronize(self.raw) }.map_err(|e| cuda("cuEventSynchronize", &e))?;
            self.pending = false;
        }
        Ok(())
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        // SAFETY: the event is live, and goes with `self`.
        if let Err(error) = unsafe { event::destroy(self.raw) } {
            tracing::warn!(%error, "CUDA event was not released");
        }
    }
}

/// Whether a status of a phase that runs on the CPU alone (parsing, entropy decoding) is the picture's. There an
/// odd picture may also be an invalid parameter or an internal error to nvJPEG; neither may cost the instance.
fn of_the_picture(error: &NvjpegError) -> bool {
    error.blames_picture() || matches!(error.name(), "INVALID_PARAMETER" | "INTERNAL_ERROR")
}

fn cuda(call: &'static str, error: &cudarc::driver::DriverError) -> DecodeError {
    DecodeError::Cuda { call, code: error.0 as u32 }
}
