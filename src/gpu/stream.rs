//! Streams, events on them, and copies between host and device.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{result, sys};

use super::device::Device;
use super::error::CudaError;
use super::memory::{DeviceBuffer, PinnedBuffer};

/// What a stream calls on the host; it makes no CUDA call.
pub struct HostCall(pub Box<dyn Fn() + Send + Sync>);

impl std::fmt::Debug for HostCall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HostCall")
    }
}

/// A stream that does not wait for the null stream. Its calls are made within a section of the device.
#[derive(Debug)]
pub struct Stream {
    device: Arc<Device>,
    raw: sys::CUstream,
}

// SAFETY: a stream handle may be used from any thread whose current context is the stream's.
unsafe impl Send for Stream {}
// SAFETY: as above; the driver locks.
unsafe impl Sync for Stream {}

impl Stream {
    /// Makes a stream. Within a section.
    ///
    /// # Errors
    /// That of `cuStreamCreate`.
    pub fn new(device: &Arc<Device>) -> Result<Self, CudaError> {
        let raw = device
            .check("cuStreamCreate", result::stream::create(result::stream::StreamKind::NonBlocking))?;
        Ok(Self { device: Arc::clone(device), raw })
    }

    /// The handle, for libraries that enqueue work of their own.
    pub(crate) fn raw(&self) -> sys::CUstream {
        self.raw
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Enqueues a copy of `range` of `from` to `to`, at the same place; returns before it is done.
    ///
    /// # Errors
    /// That of `cuMemcpyHtoDAsync`.
    ///
    /// # Panics
    /// Where the range lies outside of either buffer.
    ///
    /// # Safety
    /// Neither buffer is freed, and the host does not write the range, until the stream has passed this.
    pub unsafe fn copy_to_device(
        &self,
        from: &PinnedBuffer,
        to: &DeviceBuffer,
        range: std::ops::Range<usize>,
    ) -> Result<(), CudaError> {
        let bytes = &from.as_slice()[range.clone()];
        assert!(range.end <= to.len(), "the copy fits the device buffer");
        let address = to.address() + range.start as u64;
        // SAFETY: both ranges lie within their buffers, which the caller keeps.
        let copied = unsafe { result::memcpy_htod_async(address, bytes, self.raw) };
        self.device.check("cuMemcpyHtoDAsync", copied)
    }

    /// Enqueues a copy of the first `len` bytes of `from` to `to`; returns before it is done.
    ///
    /// # Errors
    /// That of `cuMemcpyDtoHAsync`.
    ///
    /// # Panics
    /// Where `len` is more than either buffer.
    ///
    /// # Safety
    /// Neither buffer is freed, and the host does not read `to`, until the stream has passed this.
    pub unsafe fn copy_to_host(
        &self,
        from: &DeviceBuffer,
        to: &mut PinnedBuffer,
        len: usize,
    ) -> Result<(), CudaError> {
        assert!(len <= from.len(), "the copy lies within the device buffer");
        let bytes = &mut to.as_mut_slice()[..len];
        // SAFETY: both ranges lie within their buffers, which the caller keeps.
        let copied = unsafe { result::memcpy_dtoh_async(bytes, from.address(), self.raw) };
        self.device.check("cuMemcpyDtoHAsync", copied)
    }

    /// What is enqueued from now on waits for `event`, on the device.
    ///
    /// # Errors
    /// That of `cuStreamWaitEvent`.
    pub fn wait(&self, event: &Event) -> Result<(), CudaError> {
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: both handles live, and belong to one device (`Instance` makes them together).
        let waits = unsafe { result::stream::wait_event(self.raw, event.raw, flags) };
        self.device.check("cuStreamWaitEvent", waits)
    }

    /// Calls `call` on a thread of the driver when everything before has run. It is never called where the context
    /// fails first.
    ///
    /// # Errors
    /// That of `cuLaunchHostFunc`.
    pub fn call_host(&self, call: &Arc<HostCall>) -> Result<(), CudaError> {
        unsafe extern "C" fn trampoline(data: *mut c_void) {
            // SAFETY: `data` came from `Arc::into_raw` below, and is taken back once.
            let call = unsafe { Arc::from_raw(data.cast::<HostCall>().cast_const()) };
            // A panic must not leave through the driver.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (call.0)()));
        }
        let data = Arc::into_raw(Arc::clone(call)).cast_mut().cast::<c_void>();
        // SAFETY: `trampoline` takes what `data` points to, which is kept alive by the reference it was made of.
        let launched = unsafe { result::stream::launch_host_function(self.raw, trampoline, data) };
        self.device.check("cuLaunchHostFunc", launched)
    }

    /// Blocks until everything enqueued has run.
    ///
    /// # Errors
    /// The first error of what was enqueued.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        // SAFETY: the handle lives.
        self.device.check("cuStreamSynchronize", unsafe { result::stream::synchronize(self.raw) })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let raw = self.raw;
        // SAFETY: made in `new`, destroyed here only.
        self.device.free("cuStreamDestroy", || unsafe { result::stream::destroy(raw) });
    }
}

/// A point in a stream. Waiting for it puts the thread to sleep.
#[derive(Debug)]
pub struct Event {
    device: Arc<Device>,
    raw: sys::CUevent,
}

// SAFETY: an event handle may be used from any thread whose current context is the event's.
unsafe impl Send for Event {}
// SAFETY: as above; the driver locks.
unsafe impl Sync for Event {}

impl Event {
    /// An event that only orders; cheaper than one with a time.
    ///
    /// # Errors
    /// That of `cuEventCreate`.
    pub fn new(device: &Arc<Device>) -> Result<Self, CudaError> {
        let ordering = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING;
        let raw = device.check("cuEventCreate", result::event::create(ordering))?;
        Ok(Self { device: Arc::clone(device), raw })
    }

    /// An event that knows when it was reached, and that a thread sleeps for instead of spinning.
    ///
    /// # Errors
    /// That of `cuEventCreate`.
    pub fn timed(device: &Arc<Device>) -> Result<Self, CudaError> {
        let blocking = sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC;
        let raw = device.check("cuEventCreate", result::event::create(blocking))?;
        Ok(Self { device: Arc::clone(device), raw })
    }

    /// Places the event behind everything in the stream.
    ///
    /// # Errors
    /// That of `cuEventRecord`.
    pub fn record(&self, stream: &Stream) -> Result<(), CudaError> {
        // SAFETY: both handles live.
        self.device.check("cuEventRecord", unsafe { result::event::record(self.raw, stream.raw) })
    }

    /// Whether it was reached; an error counts as reached, and is told by [`synchronize`](Self::synchronize).
    #[must_use]
    pub fn reached(&self) -> bool {
        // SAFETY: the handle lives.
        !matches!(unsafe { result::event::query(self.raw) }, Err(e) if e.0 == sys::CUresult::CUDA_ERROR_NOT_READY)
    }

    /// Blocks until it is reached.
    ///
    /// # Errors
    /// The first error of what was enqueued before it.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        // SAFETY: the handle lives.
        self.device.check("cuEventSynchronize", unsafe { result::event::synchronize(self.raw) })
    }

    /// Time from `start` to this, both [`timed`](Self::timed) and reached; zero where the driver does not know.
    #[must_use]
    pub fn since(&self, start: &Event) -> std::time::Duration {
        // SAFETY: both handles live.
        let milliseconds = unsafe { result::event::elapsed(start.raw, self.raw) }.unwrap_or(0.0);
        std::time::Duration::try_from_secs_f32(milliseconds / 1000.0).unwrap_or_default()
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let raw = self.raw;
        // SAFETY: made in `new` or `timed`, destroyed here only; the driver keeps it until it is reached.
        self.device.free("cuEventDestroy", || unsafe { result::event::destroy(raw) });
    }
}
