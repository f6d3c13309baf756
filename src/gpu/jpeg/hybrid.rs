//! Single pictures: entropy decoding on the CPU, the rest on the GPU.

use std::sync::Arc;

use cudarc::driver::sys::CUstream;

use super::{DecodeError, DeviceImage, Done, of_the_picture, target};
use crate::ffi::nvjpeg::{Codec, Lane, NvjpegError};

/// Decodes pictures one after the other; one lane for each thread that decodes.
///
/// The CPU's phase of a picture runs while the GPU works on the one before. The copy to the device waits until
/// that is done: state and device buffer are used again, and NVIDIA's sample waits there too
/// (CUDALibrarySamples, nvJPEG/nvJPEG-Decoder-MultipleInstances). So each of the two pinned buffers was copied from
/// before its turn comes again.
pub struct HybridLane {
    // Dropped from top to bottom, after `drop` has waited for the GPU.
    lane: Lane,
    done: Done,
}

impl HybridLane {
    pub(super) fn new(codec: &Arc<Codec>) -> Result<Self, DecodeError> {
        Ok(Self { lane: Lane::new(codec)?, done: Done::new()? })
    }

    /// Decodes `encoded` to `image`, RGB8 `[height, pitch]`. Blocks for the CPU's phase and until the GPU is
    /// done with this lane's picture before; returns before it is done with this one. Allocates pinned and device
    /// memory where a picture is larger than any before.
    ///
    /// **Errors:** `Rejected` (of picture 0) where nvJPEG does not take it; `Memory`; `Device` and `Cuda` for
    /// everything else, with work possibly enqueued.
    ///
    /// # Safety
    ///
    /// `image` is device memory of the current context that
    /// holds `bytes` bytes, and is neither read nor freed until `stream` has passed this work.
    /// `stream` is live and of the current context. (`encoded` is not used after the return: what the copy needs
    /// of it was decoded before, and pageable memory is staged by the call.)
    pub unsafe fn decode(
        &mut self,
        encoded: &[u8],
        image: &DeviceImage,
        stream: CUstream,
    ) -> Result<(), DecodeError> {
        let target = target(0, image)?;
        // SAFETY: the picture before the last was copied before the last one's copy began, which waited for it;
        // `encoded` stays until `finish` returns, below.
        match unsafe { self.lane.begin(encoded, (image.width, image.height)) } {
            Ok(true) => {}
            Ok(false) => return Err(rejected(NvjpegError { call: "nvjpegDecoderJpegSupported", code: 4 })),
            // Nothing touched the device yet.
            Err(error) if of_the_picture(&error) => return Err(rejected(error)),
            Err(error) => return Err(error.into()),
        }
        self.done.wait()?;
        // SAFETY: `begin` gave `true`, and the device is done with the picture before; the caller promises image
        // and stream, and `drop` waits.
        let finished = unsafe { self.lane.finish(target, stream) };
        // A failed call may have enqueued some of its work.
        // SAFETY: the caller promises the stream.
        let recorded = unsafe { self.done.record(stream) };
        match finished {
            Ok(()) => recorded,
            Err(error) if error.blames_picture() => recorded.and(Err(rejected(error))),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives up the lane without a call: after a sticky CUDA error nothing may be freed.
    pub fn abandon(self) {
        std::mem::forget(self);
    }
}

fn rejected(source: NvjpegError) -> DecodeError {
    DecodeError::Rejected { pictures: vec![0], source }
}

impl Drop for HybridLane {
    fn drop(&mut self) {
        if let Err(error) = self.done.wait() {
            tracing::warn!(%error, "a lane's last picture did not end well");
        }
    }
}
