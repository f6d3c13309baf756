//! Memory on a device, and host memory that a device can copy from and to while the CPU goes on.

use std::ptr::NonNull;
use std::sync::Arc;

use cudarc::driver::{result, sys};

use super::device::Device;
use super::error::CudaError;

/// Bytes on a device, uninitialised; the address is aligned to 256 at least.
#[derive(Debug)]
pub struct DeviceBuffer {
    device: Arc<Device>,
    address: sys::CUdeviceptr,
    len: usize,
}

impl DeviceBuffer {
    /// Allocates `len` bytes; blocks, and may wait for the device. Within a section.
    ///
    /// # Errors
    /// [`CudaError::out_of_memory`], or that of the context.
    pub fn new(device: &Arc<Device>, len: usize) -> Result<Self, CudaError> {
        // SAFETY: the context is current; the memory is freed once, in `Drop`.
        let address = device.check("cuMemAlloc", unsafe { result::malloc_sync(len.max(1)) })?;
        Ok(Self { device: Arc::clone(device), address, len })
    }

    /// Address of the first byte, on the device.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Size in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        let address = self.address;
        // SAFETY: allocated in `new`, freed here only; its owner has waited for what used it (`Slot`, `Instance`).
        self.device.free("cuMemFree", || unsafe { result::free_sync(address) });
    }
}

/// Page-locked host memory, zeroed, which the device reads and writes by itself.
#[derive(Debug)]
pub struct PinnedBuffer {
    device: Arc<Device>,
    bytes: NonNull<u8>,
    len: usize,
}

// SAFETY: plain memory with one owner.
unsafe impl Send for PinnedBuffer {}

impl PinnedBuffer {
    /// Allocates `len` bytes of zeros; blocks. Within a section.
    ///
    /// # Errors
    /// Out of host memory that can be locked (`ulimit -l`), or that of the context.
    pub fn new(device: &Arc<Device>, len: usize) -> Result<Self, CudaError> {
        // SAFETY: the context is current; the memory is freed once, in `Drop`.
        let bytes = device.check("cuMemHostAlloc", unsafe { result::malloc_host(len.max(1), 0) })?;
        let bytes = NonNull::new(bytes.cast::<u8>()).ok_or_else(|| CudaError {
            call: "cuMemHostAlloc",
            code: 2,
            name: "null pointer".into(),
        })?;
        // SAFETY: `len` bytes were just allocated.
        unsafe { bytes.as_ptr().write_bytes(0, len) };
        Ok(Self { device: Arc::clone(device), bytes, len })
    }

    /// The bytes, for reading.
    ///
    /// The device may be writing them: whoever enqueued a copy to them waits for its event first.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: allocated and zeroed in `new`, for as long as `self` lives; the owner of the copy in flight keeps
        // the rule above (`Slot::collect`).
        unsafe { std::slice::from_raw_parts(self.bytes.as_ptr(), self.len) }
    }

    /// The bytes, for writing.
    ///
    /// The device may be reading them: whoever enqueued a copy from them waits for its event first.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.bytes.as_ptr(), self.len) }
    }
}

impl Drop for PinnedBuffer {
    fn drop(&mut self) {
        let bytes = self.bytes.as_ptr().cast();
        // SAFETY: allocated in `new`, freed here only; its owner has waited for the copies in flight.
        self.device.free("cuMemFreeHost", || unsafe { result::free_host(bytes) });
    }
}
