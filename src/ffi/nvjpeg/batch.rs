//! Decoding whole batches with the GPU's JPEG engine.

use std::ffi::c_int;
use std::sync::Arc;

use super::{Codec, NvjpegError, Owned, Target, result, sys};

/// State for batches of one size at a time.
pub(crate) struct BatchState {
    state: Owned<sys::State>,
    /// The size that `state` is initialised for; 0 for none.
    batch_size: usize,
    // Arguments of the call, kept so that a batch allocates nothing.
    data: Vec<*const u8>,
    lengths: Vec<usize>,
    images: Vec<sys::Image>,
}

// SAFETY: `state` may be sent; the pointers in the vectors are left over from the last call and are not followed
// again.
unsafe impl Send for BatchState {}

impl BatchState {
    pub(crate) fn new(codec: &Arc<Codec>) -> Result<Self, NvjpegError> {
        // SAFETY: `codec` is live.
        let raw = unsafe { result::state_create(&codec.library, codec.raw) }?;
        let state = Owned::new(codec, raw, result::state_destroy);
        Ok(Self { state, batch_size: 0, data: Vec::new(), lengths: Vec::new(), images: Vec::new() })
    }

    /// Makes the state ready for batches of `batch_size` pictures, from 1 up; does nothing where it is.
    ///
    /// # Safety
    ///
    /// No batch that this state decodes is still running.
    pub(crate) unsafe fn prepare(&mut self, batch_size: usize) -> Result<(), NvjpegError> {
        if self.batch_size == batch_size {
            return Ok(());
        }
        self.batch_size = 0;
        let count = c_int::try_from(batch_size).unwrap_or(c_int::MAX);
        let codec = &*self.state.codec;
        // SAFETY: both are live; the caller promises that the state is idle.
        unsafe { result::batched_initialize(&codec.library, codec.raw, self.state.raw, count) }?;
        self.batch_size = batch_size;
        Ok(())
    }

    /// Enqueues the decoding of `pictures` to interleaved RGB, all or none; returns before it is done.
    ///
    /// # Safety
    ///
    /// `prepare` was called with the number of `pictures`, and the state is idle. Each target is for the size that its
    /// JPEG's header says, and is device memory of the codec's GPU. The bytes and that memory stay, and `self` is
    /// neither used nor dropped, until `stream` has passed this work.
    pub(crate) unsafe fn decode<'e>(
        &mut self,
        pictures: impl IntoIterator<Item = (&'e [u8], Target)>,
        stream: sys::CUstream,
    ) -> Result<(), NvjpegError> {
        self.data.clear();
        self.lengths.clear();
        self.images.clear();
        for (encoded, target) in pictures {
            self.data.push(encoded.as_ptr());
            self.lengths.push(encoded.len());
            self.images.push(target.raw());
        }
        let Self { state: Owned { codec, raw, .. }, data, lengths, images, .. } = self;
        // SAFETY: the caller's promise, with arrays of one entry for each picture.
        let decoded =
            unsafe { result::decode_batched(&codec.library, codec.raw, *raw, data, lengths, images, stream) };
        if decoded.is_err() {
            // The guide has a failed batch reset by initialising it again.
            self.batch_size = 0;
        }
        decoded
    }
}
