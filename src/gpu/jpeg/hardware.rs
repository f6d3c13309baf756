//! Batches on the GPU's JPEG engine.

use std::sync::Arc;

use cudarc::driver::sys::CUstream;

use super::{DecodeError, DeviceImage, Done, of_the_picture, target};
use crate::ffi::nvjpeg::{BatchState, Codec, NvjpegError, Picture, Target};

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
    /// Kept, so that a batch allocates nothing.
    targets: Vec<Target>,
}

impl HardwareDecoder {
    pub(super) fn new(codec: &Arc<Codec>, max_batch: usize) -> Result<Self, DecodeError> {
        let mut state = BatchState::new(codec)?;
        let max_batch = max_batch.max(1);
        // SAFETY: the state is new, and nothing runs with it.
        unsafe { state.prepare(max_batch) }?;
        let (picture, done) = (Picture::new(codec)?, Done::new()?);
        Ok(Self { state, picture, done, max_batch, targets: Vec::with_capacity(max_batch) })
    }

    /// The most pictures that [`decode`](Self::decode) takes.
    #[must_use]
    pub fn max_batch(&self) -> usize {
        self.max_batch
    }

    /// Whether the engine takes `encoded`, whose header gave `size`; `false` also for a header that nvJPEG cannot
    /// read, or reads as another size. A header that visord found broken must not come here.
    ///
    /// **Errors:** `Device` for any status that is not the picture's.
    pub fn supported(&mut self, encoded: &[u8], size: (u32, u32)) -> Result<bool, DecodeError> {
        Ok(self.inspect(encoded, size)?.is_none())
    }

    /// Why the engine does not take `encoded`; `None` if it does.
    fn inspect(&mut self, encoded: &[u8], size: (u32, u32)) -> Result<Option<NvjpegError>, DecodeError> {
        match self.picture.supported_in_batch(encoded, size) {
            Ok(true) => Ok(None),
            Ok(false) => Ok(Some(NvjpegError { call: "nvjpegDecodeBatchedSupported", code: 4 })),
            Err(error) if of_the_picture(&error) => Ok(Some(error)),
            Err(error) => Err(error.into()),
        }
    }

    /// Decodes `pictures`, each with the memory for it, to RGB8 `[height, pitch]`; all of them or none. Waits
    /// for the batch before on the GPU, if that still runs, and returns before this one is done. Allocates device
    /// memory where a picture is larger than any before.
    ///
    /// **Errors:** `Rejected` with the pictures that the engine does not take, or whose image has another size; `Memory`; `Device` and `Cuda` for
    /// everything else, with work possibly enqueued.
    ///
    /// # Panics
    ///
    /// If there are no pictures, or more than [`max_batch`](Self::max_batch).
    ///
    /// # Safety
    ///
    /// Each image is device memory of the
    /// current context that holds `bytes` bytes, and is neither read nor freed, and the bytes stay,
    /// until `stream` has passed this work. `stream` is live and of the current context.
    pub unsafe fn decode(
        &mut self,
        pictures: &[(&[u8], DeviceImage)],
        stream: CUstream,
    ) -> Result<(), DecodeError> {
        assert!((1..=self.max_batch).contains(&pictures.len()), "1 to max_batch pictures in a call");
        self.targets.clear();
        for (at, (_, image)) in pictures.iter().enumerate() {
            self.targets.push(target(at, image)?);
        }
        // One status will speak for the whole batch, so each header is read before: some microseconds, and nothing
        // is written past a picture's memory because nvJPEG reads another size.
        let mut rejected = (Vec::new(), None);
        for (at, (encoded, image)) in pictures.iter().enumerate() {
            if let Some(error) = self.inspect(encoded, (image.width, image.height))? {
                rejected.0.push(at);
                rejected.1.get_or_insert(error);
            }
        }
        if let (pictures, Some(source)) = rejected {
            return Err(DecodeError::Rejected { pictures, source });
        }
        // The state's own staging memory is used by every call.
        self.done.wait()?;
        // SAFETY: everything that this state was given is done.
        unsafe { self.state.prepare(pictures.len()) }?;
        let both = pictures.iter().map(|(encoded, _)| *encoded).zip(self.targets.iter().copied());
        // SAFETY: prepared and idle; the caller promises bytes, memory and stream, and `drop` waits.
        let decoded = unsafe { self.state.decode(both, stream) };
        // A failed call may have enqueued some of its work.
        // SAFETY: the caller promises the stream.
        let recorded = unsafe { self.done.record(stream) };
        match decoded {
            Ok(()) => recorded,
            Err(error) if error.blames_picture() => {
                recorded?;
                Err(DecodeError::Rejected { pictures: (0..pictures.len()).collect(), source: error })
            }
            Err(error) => Err(error.into()),
        }
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
