//! The buffers of one batch in flight: what it reads and writes, on the host and on the device, and the events
//! that say how far it is.
//!
//! An input block begins with the descriptors of the batch's images; its inputs follow, dense for the rows of the
//! batch. The host has the same block in pinned memory, so that one copy brings both.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use smallvec::SmallVec;

use super::descriptor::{DeviceImage, ImageDescriptor};
use super::device::{Device, OnDevice};
use super::error::CudaError;
use super::jpeg::HardwareDecoder;
use super::memory::{DeviceBuffer, PinnedBuffer};
use super::stream::{Event, HostCall};
use crate::image::Orientation;

/// Alignment of each tensor in a block, bytes. **Source:** TensorRT's API reference, `setTensorAddress`: 256.
const ALIGNMENT: usize = 256;
/// Bytes between the rows of a decoded picture are a multiple of this.
const PITCH_ALIGNMENT: usize = 64;

/// Where the tensors of a batch lie in a block.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Layout {
    /// Byte ranges, in the engine's order of inputs or outputs.
    pub tensors: SmallVec<[Range<usize>; 4]>,
}

impl Layout {
    /// Packs tensors of these sizes, in bytes, behind `start`.
    #[must_use]
    pub fn new(start: usize, sizes: impl IntoIterator<Item = usize>) -> Self {
        let mut end = start;
        let tensors = sizes
            .into_iter()
            .map(|size| {
                let begin = end.next_multiple_of(ALIGNMENT);
                end = begin.saturating_add(size);
                begin..end
            })
            .collect();
        Self { tensors }
    }

    /// The end of the last tensor, bytes.
    #[must_use]
    pub fn end(&self) -> usize {
        self.tensors.last().map_or(0, |t| t.end)
    }
}

/// Sizes of a slot's buffers, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotSizes {
    /// Rows that a batch can hold.
    pub rows: usize,
    /// The descriptors and inputs of the largest batch.
    pub input: usize,
    /// The outputs of the largest batch.
    pub output: usize,
    /// Room for decoded pictures at first; 0 where none are decoded on the GPU.
    pub pictures: usize,
}

impl SlotSizes {
    /// Bytes of the part of an input block that holds `rows` descriptors.
    #[must_use]
    pub fn descriptors(rows: usize) -> usize {
        (rows * size_of::<ImageDescriptor>()).next_multiple_of(ALIGNMENT)
    }
}

/// Room for decoded pictures on a device, filled from the front for each batch.
#[derive(Debug)]
struct Arena {
    buffer: Arc<DeviceBuffer>,
    used: usize,
    limit: usize,
}

/// A place in a slot's arena, for one decoded picture. Keeps the memory.
#[derive(Debug, Clone)]
pub struct ArenaImage {
    pub(super) memory: Arc<DeviceBuffer>,
    /// Where and how the picture lies.
    pub image: DeviceImage,
}

impl ArenaImage {
    /// The memory that the picture lies in, perhaps with others.
    #[must_use]
    pub fn memory(&self) -> &Arc<DeviceBuffer> {
        &self.memory
    }

    /// The place at byte `start` of `memory`, [`picture_bytes`] long.
    pub(super) fn new(
        memory: &Arc<DeviceBuffer>,
        start: usize,
        width: u32,
        height: u32,
        orientation: Orientation,
    ) -> Self {
        let bytes = picture_bytes(width, height);
        assert!(start + bytes <= memory.len(), "the picture lies within its memory");
        let address = memory.address() + start as u64;
        let image = DeviceImage { address, bytes, pitch: pitch_bytes(width), width, height, orientation };
        Self { memory: Arc::clone(memory), image }
    }
}

/// Buffers and events of one batch.
pub(super) struct Slot {
    pub host_input: PinnedBuffer,
    pub device_input: DeviceBuffer,
    pub host_output: PinnedBuffer,
    pub device_output: DeviceBuffer,
    arena: Option<Arena>,
    /// The inputs are on the device.
    pub staged: Event,
    /// The engine begins.
    pub started: Event,
    /// The outputs are on the host.
    pub done: Event,
    /// Set by the device's call on the host, when the batch is done.
    pub told: Arc<AtomicBool>,
    pub tell: Arc<HostCall>,
    /// Decodes on the GPU's JPEG engine, where it has one.
    pub hardware: Option<OnDevice<HardwareDecoder>>,
    /// Encoded pictures that a decoder on the device may still read.
    pub encoded: SmallVec<[Bytes; 32]>,
}

impl Slot {
    /// Allocates everything for `sizes`; `wake` is called when a batch is done. Within a section.
    pub fn new(
        device: &Arc<Device>,
        sizes: SlotSizes,
        picture_limit: usize,
        wake: Arc<dyn Fn() + Send + Sync>,
    ) -> Result<Self, CudaError> {
        let told = Arc::new(AtomicBool::new(false));
        let tell = {
            let told = Arc::clone(&told);
            Arc::new(HostCall(Box::new(move || {
                told.store(true, Ordering::Release);
                wake();
            })))
        };
        let arena = match sizes.pictures {
            0 => None,
            bytes => {
                let buffer = Arc::new(DeviceBuffer::new(device, bytes)?);
                Some(Arena { buffer, used: 0, limit: picture_limit })
            }
        };
        Ok(Self {
            host_input: PinnedBuffer::new(device, sizes.input)?,
            device_input: DeviceBuffer::new(device, sizes.input)?,
            host_output: PinnedBuffer::new(device, sizes.output)?,
            device_output: DeviceBuffer::new(device, sizes.output)?,
            arena,
            staged: Event::new(device)?,
            started: Event::timed(device)?,
            done: Event::timed(device)?,
            told,
            tell,
            hardware: None,
            encoded: SmallVec::new(),
        })
    }

    /// Makes the slot ready for the next batch; nothing of the last is in flight any more.
    pub fn clear(&mut self) {
        self.told.store(false, Ordering::Release);
        self.encoded.clear();
        if let Some(arena) = &mut self.arena {
            arena.used = 0;
        }
    }

    /// Makes room for `bytes` of pictures, as far as the limit goes; whether there is that room. Only while the
    /// arena is empty, and within a section.
    pub fn reserve_pictures(&mut self, device: &Arc<Device>, bytes: usize) -> bool {
        let Some(arena) = &mut self.arena else { return false };
        if bytes <= arena.buffer.len() {
            return true;
        }
        if bytes > arena.limit || arena.used > 0 {
            return false;
        }
        // A little more than now, so that sizes that creep up do not allocate each time.
        let wanted = bytes.saturating_add(bytes / 4).min(arena.limit);
        match DeviceBuffer::new(device, wanted) {
            Ok(buffer) => {
                tracing::debug!(
                    gpu = device.info().ordinal,
                    bytes = wanted,
                    "more room for decoded pictures"
                );
                arena.buffer = Arc::new(buffer);
                true
            }
            Err(e) => {
                tracing::debug!(gpu = device.info().ordinal, bytes = wanted, error = %e, "no more room for decoded pictures");
                false
            }
        }
    }

    /// A place for one picture; `None` where no room is left.
    pub fn take_picture(&mut self, width: u32, height: u32, orientation: Orientation) -> Option<ArenaImage> {
        let arena = self.arena.as_mut()?;
        let bytes = picture_bytes(width, height);
        let start = arena.used;
        let end = start.checked_add(bytes).filter(|end| *end <= arena.buffer.len())?;
        arena.used = end;
        Some(ArenaImage::new(&arena.buffer, start, width, height, orientation))
    }
}

fn pitch_bytes(width: u32) -> usize {
    (width as usize * 3).next_multiple_of(PITCH_ALIGNMENT)
}

/// Bytes that a picture takes in the arena.
#[must_use]
pub fn picture_bytes(width: u32, height: u32) -> usize {
    pitch_bytes(width).saturating_mul(height as usize).next_multiple_of(ALIGNMENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_aligned_and_packed() {
        for (start, sizes, want) in [
            (0, &[10, 0][..], &[0..10, 256..256][..]),
            (2560, &[150_528, 8], &[2560..153_088, 153_088..153_096]),
            (80, &[1, 300, 1], &[256..257, 512..812, 1024..1025]),
            (0, &[], &[]),
        ] {
            let layout = Layout::new(start, sizes.iter().copied());
            assert_eq!(&layout.tensors[..], want, "{start}, {sizes:?}");
            assert_eq!(layout.end(), want.last().map_or(0, |t| t.end), "{start}, {sizes:?}");
        }
    }

    #[test]
    fn pictures_do_not_overlap() {
        for (width, height, bytes) in [(1, 1, 256), (21, 4, 256), (22, 3, 512), (640, 480, 921_600)] {
            assert_eq!(picture_bytes(width, height), bytes, "{width}x{height}");
            assert!(picture_bytes(width, height) >= width as usize * height as usize * 3);
        }
    }
}
