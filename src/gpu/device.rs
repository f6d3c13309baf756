//! A GPU: its primary context, which TensorRT and nvJPEG share with us, and how it is left and taken up again
//! after an error that no call can recover from.
//!
//! After such an error nothing that belongs to the context may be freed any more: its handles are dead, and their
//! numbers come again. So a [`Device`] is one life of the context; what belongs to it asks it before it is freed,
//! and is given up where it has failed. [`GpuSlot`] then resets the context and starts the next life, once nobody
//! is inside a call.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use cudarc::driver::{DriverError, result, sys};

use super::error::CudaError;
use super::jpeg::DecodeError;
use super::probe::GpuInfo;

/// How long a reset waits for other threads to come out of their calls, which fail at once after such an error.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);

/// One life of a GPU's primary context.
#[derive(Debug)]
pub struct Device {
    info: GpuInfo,
    handle: sys::CUdevice,
    context: sys::CUcontext,
    /// The first error that corrupted the context.
    failure: OnceLock<CudaError>,
    /// Threads that are inside of a [`Section`].
    inside: AtomicUsize,
}

// SAFETY: a context handle may be made current to any number of threads ("CUDA Driver API, Context Management"),
// and everything else here is atomic.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

/// A stretch of calls on a device, on one thread: the context is current, and is not reset meanwhile.
#[derive(Debug)]
pub struct Section<'d> {
    device: &'d Device,
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        self.device.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Device {
    fn open(info: GpuInfo) -> Result<Arc<Self>, CudaError> {
        result::init().map_err(|e| CudaError::new("cuInit", e))?;
        let ordinal = i32::try_from(info.ordinal).unwrap_or(i32::MAX);
        let handle = result::device::get(ordinal).map_err(|e| CudaError::new("cuDeviceGet", e))?;
        // SAFETY: `handle` is a device of an initialised driver; released in `Drop`.
        let context = unsafe { result::primary_ctx::retain(handle) };
        let context = context.map_err(|e| CudaError::new("cuDevicePrimaryCtxRetain", e))?;
        Ok(Arc::new(Self { info, handle, context, failure: OnceLock::new(), inside: AtomicUsize::new(0) }))
    }

    /// What the probe said of it.
    #[must_use]
    pub fn info(&self) -> &GpuInfo {
        &self.info
    }

    /// The error that ended this life of the context, if it has ended.
    #[must_use]
    pub fn failure(&self) -> Option<&CudaError> {
        self.failure.get()
    }

    /// Makes the context current to this thread, and keeps it from being reset until the section is dropped.
    ///
    /// # Errors
    /// The error that the context has failed with, or that of `cuCtxSetCurrent`.
    pub fn enter(&self) -> Result<Section<'_>, CudaError> {
        self.inside.fetch_add(1, Ordering::SeqCst);
        // Counted first: whoever sees no failure after that is waited for.
        let section = Section { device: self };
        if let Some(failure) = self.failure.get() {
            return Err(failure.clone());
        }
        // SAFETY: `self.context` is retained until `self` is dropped or has failed.
        self.check("cuCtxSetCurrent", unsafe { result::ctx::set_current(self.context) })?;
        Ok(section)
    }

    /// Names the call of a failed result, and remembers an error that corrupts the context.
    pub(crate) fn check<T>(
        &self,
        call: &'static str,
        result: Result<T, DriverError>,
    ) -> Result<T, CudaError> {
        result.map_err(|e| self.note(CudaError::new(call, e)))
    }

    /// Remembers an error that corrupts the context.
    pub(crate) fn note(&self, error: CudaError) -> CudaError {
        if error.sticky() && self.failure.set(error.clone()).is_ok() {
            tracing::error!(gpu = self.info.ordinal, error = %error, "the GPU's context is corrupt and is given up");
        }
        error
    }

    /// Asks the context whether it still works, after a library has failed without a CUDA error of its own.
    pub(crate) fn probe_context(&self) {
        // SAFETY: the null stream of the current context; a query changes nothing.
        let queried = unsafe { sys::cuStreamQuery(std::ptr::null_mut()) }.result();
        match queried {
            Err(e) if e.0 != sys::CUresult::CUDA_ERROR_NOT_READY => {
                self.note(CudaError::new("cuStreamQuery", e));
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// Looks whether a decoder's error has corrupted the context: it comes under a code of nvJPEG's or of a call
    /// that had nothing to do with it.
    pub(crate) fn note_decode(&self, error: &DecodeError) {
        match error {
            DecodeError::Cuda { .. } | DecodeError::Device(_) => self.probe_context(),
            DecodeError::Rejected { .. } | DecodeError::Memory { .. } => {}
        }
    }

    /// Frees something that belongs to the context, unless the context has failed: then it is given up, and goes
    /// with the reset. A failing free is logged.
    pub(crate) fn free(&self, call: &'static str, free: impl FnOnce() -> Result<(), DriverError>) {
        let Ok(_section) = self.enter() else { return };
        if let Err(e) = self.check(call, free()) {
            tracing::warn!(gpu = self.info.ordinal, error = %e, "a GPU resource was not freed");
        }
    }

    /// Blocks until everything on the device, from all streams, has run; within a section.
    ///
    /// # Errors
    /// The first error of what was enqueued.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        self.check("cuCtxSynchronize", result::ctx::synchronize())
    }

    /// Memory that is free and that there is, bytes; within a section.
    ///
    /// # Errors
    /// That of `cuMemGetInfo`.
    pub fn memory_info(&self) -> Result<(usize, usize), CudaError> {
        self.check("cuMemGetInfo", result::mem_get_info())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if self.failure.get().is_some() {
            return;
        }
        // SAFETY: retained in `open`, once; a failed context was released by `GpuSlot::restart`.
        if let Err(e) = unsafe { result::primary_ctx::release(self.handle) } {
            tracing::warn!(error = %CudaError::new("cuDevicePrimaryCtxRelease", e), "a GPU was not released");
        }
    }
}

/// A library's object that lives on a device.
pub(crate) trait Abandon {
    /// Gives it up without freeing it: its device has failed.
    fn abandon(self);
}

/// An object of a library that is freed with its device's context current, or given up where that has failed.
pub(crate) struct OnDevice<T: Abandon> {
    device: Arc<Device>,
    /// `None` only in `Drop`.
    inner: Option<T>,
}

impl<T: Abandon> OnDevice<T> {
    /// Puts `inner`, made with `device`'s context current, in its care.
    pub(crate) fn new(device: &Arc<Device>, inner: T) -> Self {
        Self { device: Arc::clone(device), inner: Some(inner) }
    }

    /// The device.
    pub(crate) fn device(&self) -> &Arc<Device> {
        &self.device
    }
}

impl<T: Abandon> std::ops::Deref for OnDevice<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.inner.as_ref().expect("there until dropped")
    }
}

impl<T: Abandon> std::ops::DerefMut for OnDevice<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.inner.as_mut().expect("there until dropped")
    }
}

impl<T: Abandon> Drop for OnDevice<T> {
    fn drop(&mut self) {
        let Some(inner) = self.inner.take() else { return };
        match self.device.enter() {
            Ok(_section) => drop(inner),
            Err(_) => inner.abandon(),
        }
    }
}

/// The place of one GPU in this process, over all lives of its context.
#[derive(Debug)]
pub struct GpuSlot {
    info: GpuInfo,
    current: Mutex<Option<Arc<Device>>>,
}

impl GpuSlot {
    /// A GPU that nothing has touched yet.
    #[must_use]
    pub fn new(info: GpuInfo) -> Self {
        Self { info, current: Mutex::new(None) }
    }

    /// What the probe said of it.
    #[must_use]
    pub fn info(&self) -> &GpuInfo {
        &self.info
    }

    /// The GPU with a context that works: the one in use, or after a failure a new one. Blocks while others come
    /// out of their calls on the failed one.
    ///
    /// # Errors
    /// That of the call that failed; resetting does not heal every GPU.
    pub fn device(&self) -> Result<Arc<Device>, CudaError> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(device) = current.as_ref() {
            if device.failure().is_none() {
                return Ok(Arc::clone(device));
            }
            restart(device)?;
            *current = None;
        }
        let device = Device::open(self.info.clone())?;
        *current = Some(Arc::clone(&device));
        Ok(device)
    }
}

/// Resets the context of a failed device, when nobody is inside of a call on it any more.
fn restart(failed: &Device) -> Result<(), CudaError> {
    let start = Instant::now();
    while failed.inside.load(Ordering::SeqCst) > 0 {
        if start.elapsed() > LEAVE_TIMEOUT {
            let why = CudaError {
                call: "cuDevicePrimaryCtxReset",
                code: 0,
                name: "another thread hangs in a call".into(),
            };
            return Err(failed.failure().cloned().unwrap_or(why));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    tracing::warn!(gpu = failed.info.ordinal, "resetting the GPU's context");
    // SAFETY: nobody is inside a call, and nobody enters a failed device; what belongs to the context is never
    // freed after this (`Device::free`).
    let reset = unsafe { sys::cuDevicePrimaryCtxReset_v2(failed.handle) }.result();
    reset.map_err(|e| CudaError::new("cuDevicePrimaryCtxReset", e))?;
    // SAFETY: retained once by `open`; `Drop` leaves a failed device alone, and its slot forgets it now.
    if let Err(e) = unsafe { result::primary_ctx::release(failed.handle) } {
        tracing::debug!(error = %CudaError::new("cuDevicePrimaryCtxRelease", e), "after a reset");
    }
    Ok(())
}
