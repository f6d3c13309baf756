//! Triton's system shared memory, as far as a request speaks of it: where a tensor lies, and who can get at it.

use bytes::Bytes;

use super::checks::no_shared_memory;
use crate::error::InferError;

/// Where a tensor lies: `shared_memory_region`, `shared_memory_offset`, `shared_memory_byte_size`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Name of the registered region.
    pub region: String,
    /// Bytes from the region's begin.
    pub offset: u64,
    /// Bytes of the tensor; of an output, the most that it may take.
    pub byte_size: u64,
}

/// Who reads and writes regions.
pub trait SharedMemory {
    /// The bytes of an input, copied.
    ///
    /// # Errors
    /// `UnknownRegion`, `InvalidArgument`, `BodyTooLarge`, `Overloaded`, `Unimplemented`.
    fn read(&mut self, place: &Place) -> Result<Bytes, InferError>;

    /// Whether an output can be put there, as far as can be said before it is known.
    ///
    /// # Errors
    /// `UnknownRegion`, `InvalidArgument`, `Unimplemented`.
    fn check(&mut self, place: &Place) -> Result<(), InferError>;
}

/// Where there is no shared memory.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoSharedMemory;

impl SharedMemory for NoSharedMemory {
    fn read(&mut self, _: &Place) -> Result<Bytes, InferError> {
        Err(no_shared_memory())
    }

    fn check(&mut self, _: &Place) -> Result<(), InferError> {
        Err(no_shared_memory())
    }
}
