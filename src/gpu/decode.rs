//! A lane of the decode pool on one GPU: a picture's entropy decoding on this thread, the rest on a stream of its own.

use std::sync::Arc;

use super::device::{Abandon, Device, OnDevice};
use super::engine::EngineError;
use super::jpeg::{DecodeError, HardwareDecoder, HybridLane, Nvjpeg};
use super::memory::DeviceBuffer;
use super::slot::{ArenaImage, picture_bytes};
use super::stream::{Event, Stream};
use crate::image::Orientation;

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
        let decoded = unsafe { self.lane.decode(encoded, &image.image, self.stream.raw()) };
        if let Err(error) = &decoded {
            device.note_decode(error);
            // How far it came is unknown, so it is waited for; rare, and never the way of a good picture.
            self.stream.synchronize().map_err(cuda)?;
        }
        self.last = Some(Arc::clone(&image.memory));
        decoded?;
        self.done.record(&self.stream).map_err(cuda)?;
        Ok(Arc::clone(&self.done))
    }
}

/// Device memory and an engine to time decoding with, before there is a pipeline.
pub struct DecodeBench {
    // Dropped from top to bottom: the decoder waits for its own work.
    hardware: Option<OnDevice<HardwareDecoder>>,
    images: Vec<ArenaImage>,
    stream: Stream,
}

impl DecodeBench {
    /// Room for `batch` pictures of one size.
    ///
    /// # Errors
    /// Out of memory, or the device's.
    pub fn new(
        device: &Arc<Device>,
        nvjpeg: &Nvjpeg,
        width: u32,
        height: u32,
        batch: usize,
    ) -> Result<Self, EngineError> {
        let _section = device.enter()?;
        let bytes = picture_bytes(width, height);
        let memory = Arc::new(DeviceBuffer::new(device, bytes * batch)?);
        let images = (0..batch)
            .map(|i| ArenaImage::new(&memory, i * bytes, width, height, Orientation::Upright))
            .collect();
        let hardware = if nvjpeg.capabilities().hardware {
            Some(OnDevice::new(device, nvjpeg.hardware_decoder(batch)?))
        } else {
            None
        };
        Ok(Self { hardware, images, stream: Stream::new(device)? })
    }

    /// The places to decode to.
    #[must_use]
    pub fn images(&self) -> &[ArenaImage] {
        &self.images
    }

    /// Blocks until everything on the device is done.
    ///
    /// # Errors
    /// The first error of what was enqueued.
    pub fn synchronize(&self) -> Result<(), EngineError> {
        let device = self.stream.device();
        let _section = device.enter()?;
        Ok(device.synchronize()?)
    }

    /// Decodes one picture to every place on the JPEG engine; blocks until it is done.
    ///
    /// # Errors
    /// As [`HardwareDecoder::decode`].
    pub fn decode_batch(&mut self, encoded: &[u8]) -> Result<(), EngineError> {
        let device = Arc::clone(self.stream.device());
        let _section = device.enter()?;
        let Some(hardware) = &mut self.hardware else {
            return Err(EngineError::Interface("there is no JPEG engine".to_owned()));
        };
        let pictures: Vec<_> = self.images.iter().map(|image| (encoded, image.image)).collect();
        // SAFETY: bytes and memory stay until the stream is synchronised, below; `hardware` waits when it is
        // dropped.
        let decoded = unsafe { hardware.decode(&pictures, self.stream.raw()) };
        self.stream.synchronize()?;
        Ok(decoded?)
    }
}
