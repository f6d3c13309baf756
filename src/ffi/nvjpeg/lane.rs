//! Decoding picture by picture in three phases: entropy decoding on the CPU, a copy, the rest on the GPU.

use std::sync::Arc;

use super::{Codec, NvjpegError, Owned, Picture, Target, result, sys};

/// Everything one thread needs to decode in phases. Two pinned buffers and two JPEG streams take turns, so that the
/// CPU's phase of one picture goes on while the GPU works on the one before; the device buffer is one, because
/// device phases follow each other anyway.
///
/// Dropped from top to bottom: the state goes before what is attached to it, the decoder after its state.
pub(crate) struct Lane {
    state: Owned<sys::State>,
    pinned: [Owned<sys::PinnedBuffer>; 2],
    _device: Owned<sys::DeviceBuffer>,
    params: Owned<sys::Params>,
    pictures: [Picture; 2],
    decoder: Owned<sys::Decoder>,
    codec: Arc<Codec>,
    /// Which of the pairs the next picture takes.
    turn: usize,
}

impl Lane {
    pub(crate) fn new(codec: &Arc<Codec>) -> Result<Self, NvjpegError> {
        let (library, raw) = (&*codec.library, codec.raw);
        // SAFETY: `codec` is live.
        let decoder = unsafe { result::decoder_create(library, raw, sys::BACKEND_HYBRID) }?;
        let decoder = Owned::new(codec, decoder, result::decoder_destroy);
        // SAFETY: both are live.
        let state = unsafe { result::decoder_state_create(library, raw, decoder.raw) }?;
        let state = Owned::new(codec, state, result::state_destroy);
        // SAFETY: `codec` is live.
        let params = unsafe { result::params_create(library, raw) }?;
        let params = Owned::new(codec, params, result::params_destroy);
        // SAFETY: `params` is live.
        unsafe { result::params_set_rgbi(library, params.raw) }?;
        let pinned = || {
            // SAFETY: `codec` is live.
            let buffer = unsafe { result::pinned_create(library, raw) }?;
            Ok(Owned::new(codec, buffer, result::pinned_destroy))
        };
        let pinned = [pinned()?, pinned()?];
        // SAFETY: `codec` is live.
        let device = unsafe { result::device_create(library, raw) }?;
        let device = Owned::new(codec, device, result::device_destroy);
        // SAFETY: both are live and new.
        unsafe { result::attach_device(library, state.raw, device.raw) }?;
        let pictures = [Picture::new(codec)?, Picture::new(codec)?];
        let codec = codec.clone();
        Ok(Self { state, pinned, _device: device, params, pictures, decoder, codec, turn: 0 })
    }

    fn phases(&self) -> result::Phases {
        result::Phases {
            codec: self.codec.raw,
            decoder: self.decoder.raw,
            state: self.state.raw,
            params: self.params.raw,
            picture: self.pictures[self.turn].raw(),
        }
    }

    /// Parses `encoded`, of `size`, and decodes its entropy-coded data on this thread: the CPU's share. `false` if nvJPEG says
    /// that it does not support this picture.
    ///
    /// **Errors:** any status, of which those that blame the picture leave the lane as it was.
    ///
    /// # Safety
    ///
    /// The picture before the last one is copied to the device. `encoded` stays readable until
    /// [`finish`](Self::finish) returns.
    pub(crate) unsafe fn begin(&mut self, encoded: &[u8], size: (u32, u32)) -> Result<bool, NvjpegError> {
        let (library, phases) = (&*self.codec.library, self.phases());
        // SAFETY: all are live and no one else's; the caller promises that this JPEG stream, of the picture before
        // the last one, is done with, and that `encoded` stays for as long as it is used.
        unsafe { result::stream_parse(library, phases.codec, encoded, phases.picture) }?;
        // SAFETY: the JPEG stream is live, and the picture was just parsed.
        unsafe { result::check_size(library, phases.picture, size) }?;
        // SAFETY: all are live, and the picture was just parsed.
        let supported =
            unsafe { result::decoder_supported(library, phases.decoder, phases.picture, phases.params) }?;
        if !supported {
            return Ok(false);
        }
        // SAFETY: both are live; the caller promises that the copy out of this buffer, of the picture before the
        // last one, is done.
        unsafe { result::attach_pinned(library, phases.state, self.pinned[self.turn].raw) }?;
        // SAFETY: all are live, made from one codec, and parsed and attached above.
        unsafe { result::decode_host(library, phases) }?;
        Ok(true)
    }

    /// Enqueues the copy to the device and the rest of the decoding, of the picture that
    /// [`begin`](Self::begin) was called with; returns before they are done.
    ///
    /// **Errors:** any status; work may have been enqueued all the same.
    ///
    /// # Safety
    ///
    /// The last call was `begin`, and gave `true`. The device is done with the picture before. `target` is for the picture's size and is
    /// device memory of the codec's GPU, which stays, as does `self`, until `stream` has
    /// passed this work.
    pub(crate) unsafe fn finish(&mut self, target: Target, stream: sys::CUstream) -> Result<(), NvjpegError> {
        let (library, phases) = (&*self.codec.library, self.phases());
        // The pair is taken, whatever comes of it: a copy may have begun.
        self.turn = 1 - self.turn;
        // SAFETY: the host phase has succeeded; the buffers stay with `self`.
        unsafe { result::decode_transfer(library, phases, stream) }?;
        // SAFETY: the transfer has succeeded on this stream; the caller promises the memory.
        unsafe { result::decode_device(library, phases, target.raw(), stream) }
    }
}
