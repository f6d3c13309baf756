//! Batches on the GPU's JPEG engine.

use std::sync::Arc;

use cudarc::driver::sys::CUstream;

use super::{DecodeError, DeviceImage, Done};
use crate::ffi::nvjpeg::{BatchState, Codec, NvjpegError, Picture};

/// Decodes batches with the JPEG engine; one thread at a time.
///
/// nvJPEG wants its state initialised anew for every other number of pictures, and one initialised for more than a
/// call brings must not be used. What that costs is not known before it is measured on a GPU with an engine, so
/// nothing is padded: the state is initialised when the number changes, and full batches never change it.
pub struct HardwareDecoder {
    // Dropped from top to bottom, after `drop` has waited for the GPU.
    state: BatchState,
    picture: Picture,
    done: Done,
    max_batch: usize,
}

impl HardwareDecoder {
    pub(super) fn new(codec: &Arc<Codec>, max_batch: usize) -> Result<Self, DecodeError> {
        let mut state = BatchState::new(codec)?;
        let max_batch = max_batch.max(1);
        // SAFETY: the state is new, and nothing runs with it.
        unsafe { state.prepare(max_batch) }?;
        Ok(Self { state, picture: Picture::new(codec)?, done: Done::new()?, max_batch })
    }

    /// The most pictures that [`decode`](Self::decode) takes.
    #[must_use]
    pub fn max_batch(&self) -> usize {
        self.max_batch
    }

    /// Whether the engine takes `encoded`, by its header; `false` also for a header that nvJPEG cannot read. A
    /// header that visord found broken must not come here.
    ///
    /// **Errors:** `Device` for any status that is not the picture's.
    pub fn supported(&mut self, encoded: &[u8]) -> Result<bool, DecodeError> {
        match self.picture.supported_in_batch(encoded) {
            Ok(supported) => Ok(supported),
            Err(error) if super::of_the_picture(&error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Decodes `pictures`, each with the memory for it, to RGB `[height, pitch_bytes]`; all of them or none. Waits
    /// for the batch before on the GPU, if that still runs, and returns before this one is done. Allocates device
    /// memory where a picture is larger than any before.
    ///
    /// **Errors:** `Rejected` with the pictures that the engine does not take; `Pitch`; `Device` and `Cuda` for
    /// everything else, with work possibly enqueued.
    ///
    /// # Panics
    ///
    /// If there are no pictures, or more than [`max_batch`](Self::max_batch).
    ///
    /// # Safety
    ///
    /// The bytes of each picture are a JPEG of the size that its image has. Each image is device memory of the
    /// current context that holds `pitch_bytes * height` bytes, and is neither read nor freed, and the bytes stay,
    /// until `stream` has passed this work. `stream` is live and of the current context.
    pub unsafe fn decode(
        &mut self,
        pictures: &[(&[u8], DeviceImage)],
        stream: CUstream,
    ) -> Result<(), DecodeError> {
        assert!((1..=self.max_batch).contains(&pictures.len()), "1 to max_batch pictures in a call");
        for (at, (_, image)) in pictures.iter().enumerate() {
            image.check(at)?;
        }
        // The state's own staging memory is used by every call.
        self.done.wait()?;
        // SAFETY: everything that this state was given is done.
        unsafe { self.state.prepare(pictures.len()) }?;
        // SAFETY: prepared and idle; the caller promises bytes, memory and stream, and `drop` waits.
        let decoded = unsafe { self.state.decode(pictures, stream) };
        // A failed call may have enqueued some of its work.
        // SAFETY: the caller promises the stream.
        let recorded = unsafe { self.done.record(stream) };
        match decoded {
            Ok(()) => recorded,
            Err(error) if error.blames_picture() => {
                recorded?;
                Err(self.rejected(pictures, error))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// One status speaks for the whole batch: looks for the pictures that it is about.
    fn rejected(&mut self, pictures: &[(&[u8], DeviceImage)], source: NvjpegError) -> DecodeError {
        let takes = |picture: &mut Picture, encoded| picture.supported_in_batch(encoded) == Ok(true);
        let mut named: Vec<usize> =
            (0..pictures.len()).filter(|&at| !takes(&mut self.picture, pictures[at].0)).collect();
        if named.is_empty() {
            named = (0..pictures.len()).collect();
        }
        DecodeError::Rejected { pictures: named, source }
    }

    /// Gives up the decoder without a call: after a sticky CUDA error nothing may be freed.
    pub fn abandon(self) {
        std::mem::forget(self);
    }
}

impl Drop for HardwareDecoder {
    fn drop(&mut self) {
        if let Err(error) = self.done.wait() {
            tracing::warn!(%error, "the JPEG engine's last batch did not end well");
        }
    }
}
