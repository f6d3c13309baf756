//! nvJPEG, opened at run time: JPEG decoding on the GPU, by its JPEG engine in batches ([`BatchState`]) or with
//! the CPU's help picture by picture ([`Lane`]). `gpu::jpeg` is the only caller.
//!
//! Which object may be shared: nvJPEG's guide (section "Thread safety") asks for a JPEG stream, a state and buffers
//! of its own for each thread, and for nothing of the handle. So [`Codec`] is `Sync`, and the others are owned,
//! take `&mut self` and may move between threads.

mod batch;
mod lane;
mod library;
mod result;
mod sys;

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

pub(crate) use batch::BatchState;
pub(crate) use lane::Lane;
pub use library::{Library, LoadError, NvjpegError, Version};

/// How a [`Codec`] decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    /// As the library sees fit; what lanes are made from.
    Default,
    /// By the JPEG engine.
    Hardware,
}

/// Device memory for one picture in interleaved RGB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target {
    /// Device address of the first row.
    pub(crate) address: u64,
    /// Bytes from one row to the next: at least `3 * width`.
    pub(crate) pitch_bytes: usize,
}

impl Target {
    fn raw(self) -> sys::Image {
        let mut image = sys::Image {
            channel: [std::ptr::null_mut(); sys::MAX_COMPONENTS],
            pitch: [0; sys::MAX_COMPONENTS],
        };
        image.channel[0] = std::ptr::with_exposed_provenance_mut(self.address as usize);
        image.pitch[0] = self.pitch_bytes;
        image
    }
}

/// nvJPEG's handle for the GPU whose context was current when it was made.
pub(crate) struct Codec {
    library: Arc<Library>,
    raw: NonNull<sys::Codec>,
}

// SAFETY: nvJPEG's guide, "Thread safety", lists what each thread needs for itself, and the handle is not on it.
unsafe impl Send for Codec {}
// SAFETY: as above: calls with one handle from several threads are what the guide describes.
unsafe impl Sync for Codec {}

impl fmt::Debug for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Codec").field("library", &self.library).finish_non_exhaustive()
    }
}

impl Codec {
    /// A handle for the current context's GPU. Chroma is interpolated where the library can, as libjpeg-turbo
    /// does on the CPU.
    ///
    /// **Errors:** `ARCH_MISMATCH` for `Backend::Hardware` where the GPU has no JPEG engine;
    /// `EXECUTION_FAILED` without a usable GPU.
    pub(crate) fn new(library: &Arc<Library>, backend: Backend) -> Result<Arc<Self>, NvjpegError> {
        let backend = match backend {
            Backend::Default => sys::BACKEND_DEFAULT,
            Backend::Hardware => sys::BACKEND_HARDWARE,
        };
        let flags = if library.interpolates_chroma() { sys::FLAGS_UPSAMPLING_WITH_INTERPOLATION } else { 0 };
        // SAFETY: without a current context the call fails, as its contract says.
        let raw = unsafe { result::create(library, backend, flags) }?;
        Ok(Arc::new(Self { library: library.clone(), raw }))
    }

    /// JPEG engines, and cores of each; `None` where the library cannot say.
    pub(crate) fn hardware_info(&self) -> Result<Option<(u32, u32)>, NvjpegError> {
        // SAFETY: `raw` lives as long as `self`.
        unsafe { result::hardware_info(&self.library, self.raw) }
    }
}

impl Drop for Codec {
    fn drop(&mut self) {
        // SAFETY: everything made from `raw` holds an `Arc` of `self`, so all of it is gone.
        report(unsafe { result::destroy(&self.library, self.raw) });
    }
}

/// An object made from a codec: keeps that alive, and is destroyed when dropped.
struct Owned<T> {
    codec: Arc<Codec>,
    raw: NonNull<T>,
    destroy: unsafe fn(&Library, NonNull<T>) -> Result<(), NvjpegError>,
}

// SAFETY: nvJPEG's guide asks for one object of each kind a thread, that is, for no use by two at once, and ties none
// to the thread that made it; those with an `Owned` use it through `&mut self` only.
unsafe impl<T> Send for Owned<T> {}

impl<T> Owned<T> {
    fn new(
        codec: &Arc<Codec>,
        raw: NonNull<T>,
        destroy: unsafe fn(&Library, NonNull<T>) -> Result<(), NvjpegError>,
    ) -> Self {
        Self { codec: codec.clone(), raw, destroy }
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: `raw` is live and goes with `self`; that no work with it is still running is the promise of
        // those who gave it work (`BatchState::decode`, `Lane::finish`).
        report(unsafe { (self.destroy)(&self.codec.library, self.raw) });
    }
}

/// Where one picture's bytes are parsed to.
pub(crate) struct Picture(Owned<sys::Stream>);

impl Picture {
    pub(crate) fn new(codec: &Arc<Codec>) -> Result<Self, NvjpegError> {
        // SAFETY: `codec` is live.
        let raw = unsafe { result::stream_create(&codec.library, codec.raw) }?;
        Ok(Self(Owned::new(codec, raw, result::stream_destroy)))
    }

    fn raw(&self) -> NonNull<sys::Stream> {
        self.0.raw
    }

    /// Whether batches of this codec may hold `encoded`, of `size`, by its header. `true` where the library cannot
    /// say.
    ///
    /// **Errors:** the header does not parse, or to another size.
    pub(crate) fn supported_in_batch(
        &mut self,
        encoded: &[u8],
        size: (u32, u32),
    ) -> Result<bool, NvjpegError> {
        let (codec, raw) = (&*self.0.codec, self.0.raw);
        // SAFETY: both are live; the stream refers to `encoded` only up to the next call, which is in this scope,
        // and every other use of it parses first.
        unsafe { result::stream_parse_header(&codec.library, codec.raw, encoded, raw) }?;
        // SAFETY: the stream is live, and the header was just read.
        unsafe { result::check_size(&codec.library, raw, size) }?;
        // SAFETY: both are live, and the header was just read.
        let supported = unsafe { result::batched_supported(&codec.library, codec.raw, raw) }?;
        Ok(supported.unwrap_or(true))
    }
}

/// A `Drop` has nobody to tell but the log.
fn report(result: Result<(), NvjpegError>) {
    if let Err(error) = result {
        tracing::warn!(%error, "nvJPEG object was not released");
    }
}

#[cfg(test)]
mod tests;
