//! Two batches in flight on one GPU: while one computes, the next is decoded, copied and preprocessed.
//!
//! One stream brings inputs, one computes and takes outputs back; events order them, and no call on the way of a
//! batch waits for the device. The pipeline owns all memory that the device touches, and waits for its streams
//! before any of it goes.

mod compute;
mod config;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;

use super::descriptor::{DeviceImage, ImageDescriptor, PreprocessParameters};
use super::device::{Device, OnDevice};
use super::engine::{EngineError, LoadedEngine};
use super::error::CudaError;
use super::jpeg::{DecodeError, Nvjpeg};
use super::kernel::Kernels;
use super::slot::{ArenaImage, Layout, Slot};
use super::stream::{Event, Stream};
use crate::image::Orientation;
use compute::{Compute, Outputs};
pub use config::{PipelineConfig, PipelineTensor};

/// Batches in flight: one computes, one is on its way to the device.
pub const DEPTH: usize = 2;
/// Of the GPU's memory, the part that one slot's decoded pictures may grow to.
const PICTURE_SHARE: usize = 16;

/// A batch that is ready to go.
#[derive(Debug)]
pub struct Batch<'a> {
    /// Rows of the batch.
    pub rows: usize,
    /// Shapes of the inputs, batch included; empty where they are fixed, and follow from `rows`.
    pub shapes: &'a [Vec<i64>],
    /// Rows of the first input that the host has written; the images follow them. With several inputs, all of
    /// `rows`.
    pub host_rows: usize,
    /// What the preprocessing kernel is told of each image, and of all.
    pub images: Option<(&'a [ImageDescriptor], PreprocessParameters)>,
    /// Events of decoders on other streams.
    pub decoded: &'a [Arc<Event>],
}

/// The outcome of a batch.
#[derive(Debug)]
pub struct Collected<'a> {
    /// The output block, on the host.
    pub bytes: &'a [u8],
    /// Where each output lies in it.
    pub layout: &'a Layout,
    /// Shape of each output.
    pub shapes: &'a [Vec<i64>],
    /// Time that the engine took, its outputs' way to the host included.
    pub infer: Duration,
}

/// A batch in flight, in the slot of its number.
#[derive(Debug)]
struct Flight {
    slot: usize,
    outputs: Outputs,
}

/// See the module.
pub struct Pipeline {
    // Dropped in this order, after `Drop` has waited for both streams.
    compute: Compute,
    slots: [Slot; DEPTH],
    copy: Stream,
    kernels: Arc<Kernels>,
    config: Arc<PipelineConfig>,
    /// Oldest first.
    flights: VecDeque<Flight>,
    /// The batch that was collected last, whose outputs may still be read.
    collected: Option<Flight>,
    next: usize,
    device: Arc<Device>,
}

impl Pipeline {
    /// Bytes that [`new`](Self::new) will take on the device.
    #[must_use]
    pub fn device_bytes(engine: &LoadedEngine, config: &PipelineConfig) -> usize {
        let sizes = config.slot_sizes();
        engine.scratch_bytes() + DEPTH * (sizes.input + sizes.output + sizes.pictures)
    }

    /// Allocates everything for the largest batch.
    ///
    /// # Errors
    /// Out of memory, or an engine that is not what the configuration says.
    pub fn new(
        engine: &Arc<LoadedEngine>,
        kernels: &Arc<Kernels>,
        nvjpeg: Option<&Nvjpeg>,
        config: PipelineConfig,
        wake: &Arc<dyn Fn() + Send + Sync>,
    ) -> Result<Self, EngineError> {
        let device = Arc::clone(engine.device());
        let section = device.enter()?;
        let sizes = config.slot_sizes();
        let limit = (device.info().total_bytes / PICTURE_SHARE).max(sizes.pictures);
        let slot = || Slot::new(&device, sizes, limit, Arc::clone(wake));
        let copy = Stream::new(&device)?;
        let config = Arc::new(config);
        let compute = Compute::new(engine, kernels, &config)?;
        let mut slots = [slot()?, slot()?];
        if let Some(nvjpeg) = nvjpeg.filter(|n| config.hardware_decoder && n.capabilities().hardware) {
            for slot in &mut slots {
                let decoder = nvjpeg.hardware_decoder(config.rows)?;
                slot.hardware = Some(OnDevice::new(&device, decoder));
            }
        }
        drop(section);
        Ok(Self {
            compute,
            slots,
            copy,
            kernels: Arc::clone(kernels),
            config,
            flights: VecDeque::with_capacity(DEPTH),
            collected: None,
            next: 0,
            device,
        })
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// What it was made for.
    #[must_use]
    pub fn config(&self) -> &PipelineConfig {
        &self.config
    }

    /// Begins a batch: its slot is free. At most [`DEPTH`] are in flight.
    ///
    /// # Panics
    /// Where [`DEPTH`] batches are in flight.
    pub fn begin(&mut self) {
        assert!(self.flights.len() < DEPTH, "an instance collects before it begins a third batch");
        self.collected = None;
        self.slots[self.next].clear();
    }

    /// Room for pictures of `bytes` together, in the batch that was begun; whether there is that room.
    pub fn reserve_pictures(&mut self, bytes: usize) -> bool {
        let device = Arc::clone(&self.device);
        // A device that has failed is told by the next call that can fail.
        let Ok(_section) = device.enter() else { return false };
        self.slots[self.next].reserve_pictures(&device, bytes)
    }

    /// Room for one decoded picture, in the batch that was begun.
    pub fn take_picture(&mut self, width: u32, height: u32, orientation: Orientation) -> Option<ArenaImage> {
        self.slots[self.next].take_picture(width, height, orientation)
    }

    /// Whether pictures can be decoded on the GPU's JPEG engine.
    #[must_use]
    pub fn has_hardware_decoder(&self) -> bool {
        self.slots[self.next].hardware.is_some()
    }

    /// Enqueues the decoding of pictures on the GPU's JPEG engine, in the batch that was begun; returns before it is
    /// done. The bytes are kept until the batch is collected. At most once a batch, unless it failed.
    ///
    /// # Errors
    /// [`DecodeError::Rejected`] with the pictures that are not decoded there.
    pub fn decode_batch(&mut self, pictures: &[(Bytes, ArenaImage)]) -> Result<(), DecodeError> {
        let device = Arc::clone(&self.device);
        let _section = device.enter().map_err(|e| DecodeError::Cuda { call: e.call, code: e.code })?;
        let slot = &mut self.slots[self.next];
        let Some(hardware) = &mut slot.hardware else {
            return Err(DecodeError::Cuda { call: "nvjpegDecodeBatched", code: 0 });
        };
        slot.encoded.extend(pictures.iter().map(|(encoded, _)| encoded.clone()));
        let list: SmallVec<[(&[u8], DeviceImage); 32]> =
            pictures.iter().map(|(encoded, image)| (&encoded[..], image.image)).collect();
        // SAFETY: the slot keeps the bytes and its arena until its `done` event, which comes after this in the
        // stream, or until `settle` has waited for the stream.
        let decoded = unsafe { hardware.decode(&list, self.copy.raw()) };
        decoded.inspect_err(|e| device.note_decode(e))
    }

    /// Where the inputs of a batch of `rows` rows of these shapes lie in the host's block; `shapes` as in [`Batch`].
    #[must_use]
    pub fn input_layout(&self, rows: usize, shapes: &[Vec<i64>]) -> Layout {
        self.config.input_layout(rows, shapes)
    }

    /// The host's input block of the batch that was begun.
    #[must_use]
    pub fn host_input(&mut self) -> &mut [u8] {
        self.slots[self.next].host_input.as_mut_slice()
    }

    /// Sends the batch that was begun on its way: copies what the host has written, preprocesses the images, runs
    /// the engine and copies the outputs back. Returns before any of that is done.
    ///
    /// # Errors
    /// Nothing of the batch is in flight then.
    pub fn submit(&mut self, batch: &Batch<'_>) -> Result<(), EngineError> {
        let device = Arc::clone(&self.device);
        let _section = device.enter()?;
        let submitted =
            self.stage(batch).map_err(EngineError::from).and_then(|input| self.run(batch, &input));
        match submitted {
            Ok(flight) => {
                self.flights.push_back(flight);
                self.next = (self.next + 1) % DEPTH;
                Ok(())
            }
            Err(error) => {
                self.settle(batch.decoded);
                Err(error)
            }
        }
    }

    /// Waits until nothing of a batch that could not be submitted runs any more.
    fn settle(&self, decoded: &[Arc<Event>]) {
        for result in decoded
            .iter()
            .map(|e| e.synchronize())
            .chain([self.copy.synchronize(), self.compute.stream.synchronize()])
        {
            if let Err(error) = result {
                tracing::debug!(%error, "after a batch that failed");
            }
        }
    }

    /// Gives up the batch that was begun, after work for it was put on streams.
    pub fn cancel(&self, decoded: &[Arc<Event>]) {
        if let Ok(_section) = self.device.enter() {
            self.settle(decoded);
        }
    }

    fn stage(&self, batch: &Batch<'_>) -> Result<Layout, CudaError> {
        let slot = &self.slots[self.next];
        let layout = self.input_layout(batch.rows, batch.shapes);
        let inputs_at = layout.tensors.first().map_or(0, |t| t.start);
        let images = batch.images.map_or(0, |(images, _)| images.len());
        let host_end = if self.config.inputs.len() == 1 && batch.rows > 0 {
            let first = layout.tensors.first().map_or(0, ExactSizeIterator::len);
            inputs_at + first / batch.rows * batch.host_rows
        } else {
            layout.end()
        };
        let range = match (images, batch.host_rows) {
            (0, _) => inputs_at..host_end,
            (_, 0) => 0..images * size_of::<ImageDescriptor>(),
            (_, _) => 0..host_end,
        };
        // SAFETY: the slot's buffers stay until its `done` event, which comes after this copy, and the host writes
        // them again only after `collect` has waited for that.
        unsafe { self.copy.copy_to_device(&slot.host_input, &slot.device_input, range) }?;
        for event in batch.decoded {
            self.copy.wait(event)?;
        }
        if let Some((_, parameters)) = &batch.images
            && parameters.images > 0
        {
            let datatype = self.config.inputs[0].datatype;
            // SAFETY: descriptors, pictures and inputs are the slot's, and stay until its `done` event.
            unsafe {
                self.kernels.preprocess(
                    &self.copy,
                    datatype,
                    &slot.device_input,
                    (&slot.device_input, inputs_at),
                    parameters,
                )
            }?;
        }
        slot.staged.record(&self.copy)?;
        Ok(layout)
    }

    fn run(&mut self, batch: &Batch<'_>, input: &Layout) -> Result<Flight, EngineError> {
        let slot = &mut self.slots[self.next];
        self.compute.stream.wait(&slot.staged)?;
        slot.started.record(&self.compute.stream)?;
        let outputs = self.compute.run(self.next, slot, batch, input)?;
        slot.done.record(&self.compute.stream)?;
        self.compute.stream.call_host(&slot.tell)?;
        Ok(Flight { slot: self.next, outputs })
    }

    /// Whether the oldest batch in flight is done, or has failed; `look` asks the device.
    #[must_use]
    pub fn finished(&self, look: bool) -> bool {
        let Some(flight) = self.flights.front() else { return true };
        let slot = &self.slots[flight.slot];
        if slot.told.load(Ordering::Acquire) {
            return true;
        }
        if !look {
            return false;
        }
        match self.device.enter() {
            Ok(_section) => slot.done.reached(),
            Err(_) => true,
        }
    }

    /// Waits for the oldest batch in flight.
    ///
    /// # Errors
    /// What failed on the device, for this batch or for any before.
    pub fn collect(&mut self) -> Result<Collected<'_>, EngineError> {
        let Some(flight) = self.flights.pop_front() else {
            return Err(EngineError::Interface("no batch is in flight".to_owned()));
        };
        let device = Arc::clone(&self.device);
        let section = device.enter()?;
        let slot = &self.slots[flight.slot];
        slot.done.synchronize()?;
        let infer = slot.done.since(&slot.started);
        drop(section);
        let flight = self.collected.insert(flight);
        Ok(Collected {
            bytes: self.slots[flight.slot].host_output.as_slice(),
            layout: &flight.outputs.layout,
            shapes: &flight.outputs.shapes,
            infer,
        })
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        // Nothing that the device still works with may go. A failed device works with nothing.
        if let Ok(_section) = self.device.enter() {
            self.settle(&[]);
        }
    }
}
