//! A lane of the decode pool on one GPU: a picture's entropy decoding on this thread, the rest on a stream of its own.

use std::sync::Arc;

use super::device::{Abandon, Device, OnDevice};
use super::engine::EngineError;
use super::jpeg::{DecodeError, DeviceImage, HardwareDecoder, HybridLane, Nvjpeg};
use super::memory::DeviceBuffer;
use super::slot::ArenaImage;
use super::stream::{Event, Stream};

impl Abandon for HardwareDecoder {
    fn abandon(self) {
        HardwareDecoder::abandon(self);
    }
}

impl Abandon for HybridLane {
    fn abandon(self) {
        HybridLane::abandon(self);
    }
}

impl Abandon for Nvjpeg {
    fn abandon(self) {
        Nvjpeg::abandon(self);
    }
}

impl ArenaImage {
    /// The place, as decoders take it.
    #[must_use]
    pub fn device_image(&self) -> DeviceImage {
        let Self { address, pitch_bytes, width, height, .. } = *self;
        DeviceImage { address, pitch_bytes, width, height }
    }
}

/// Decodes pictures one after the other, for one thread at a time.
pub struct DecodeLane {
    // Dropped from top to bottom: the decoder waits for its own work.
    lane: OnDevice<HybridLane>,
    /// Where the last picture was decoded to: it stays for as long as that may be running.
    last: Option<Arc<DeviceBuffer>>,
    done: Arc<Event>,
    stream: Stream,
}

impl DecodeLane {
    /// A lane on `device`, whose [`Nvjpeg`] this is.
    ///
    /// # Errors
    /// Out of memory, or the device's.
    pub fn new(device: &Arc<Device>, nvjpeg: &Nvjpeg) -> Result<Self, EngineError> {
        let _section = device.enter()?;
        Ok(Self {
            lane: OnDevice::new(device, nvjpeg.hybrid_lane()?),
            last: None,
            done: Arc::new(Event::new(device)?),
            stream: Stream::new(device)?,
        })
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &Arc<Device> {
        self.lane.device()
    }

    /// Decodes `encoded`, a JPEG of `image`'s size, to it. Blocks for the CPU's part; the returned event is reached
    /// when the GPU has done the rest.
    ///
    /// # Errors
    /// [`DecodeError::Rejected`] where nvJPEG does not take the picture.
    pub fn decode(&mut self, encoded: &[u8], image: &ArenaImage) -> Result<Arc<Event>, DecodeError> {
        let device = Arc::clone(self.device());
        let cuda = |e: super::error::CudaError| DecodeError::Cuda { call: e.call, code: e.code };
        let _section = device.enter().map_err(cuda)?;
        // SAFETY: the arena's memory is kept here until the next picture, before which the lane waits for this
        // one, and the lane waits when it is dropped; the stream lives as long. Whoever reads it waits for `done`.
        let decoded = unsafe { self.lane.decode(encoded, &image.device_image(), self.stream.raw()) };
        if decoded.is_err() {
            // How far it came is unknown, so it is waited for; rare, and never the way of a good picture.
            self.stream.synchronize().map_err(cuda)?;
        }
        self.last = Some(Arc::clone(&image.memory));
        decoded?;
        self.done.record(&self.stream).map_err(cuda)?;
        Ok(Arc::clone(&self.done))
    }
}
