//! Two batches in flight on one GPU: while one computes, the next is decoded, copied and preprocessed.
//!
//! One stream brings inputs, one computes and takes outputs back; events order them, and no call on the way of a
//! batch waits for the device. The pipeline owns all memory that the device touches, and waits for its streams
//! before any of it goes.

use std::collections::VecDeque;
use std::ffi::CString;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;

use super::descriptor::{DeviceImage, ImageDescriptor, PreprocessParameters};
use super::device::{Device, OnDevice};
use super::engine::{EngineContext, EngineError, LoadedEngine};
use super::error::CudaError;
use super::graph::Graph;
use super::jpeg::{DecodeError, Nvjpeg};
use super::kernel::Kernels;
use super::memory::DeviceBuffer;
use super::slot::{ArenaImage, Layout, Slot, SlotSizes};
use super::stream::{Event, Stream};
use crate::image::Orientation;
use crate::tensor::Datatype;

/// Batches in flight: one computes, one is on its way to the device.
pub const DEPTH: usize = 2;
/// Runs of a batch size before its work is captured into a graph: rare sizes are not worth the memory.
const RUNS_BEFORE_CAPTURE: u32 = 3;
/// Graphs of a slot: the sizes that come most are few.
const MAX_GRAPHS: usize = 8;
/// Of the GPU's memory, the part that one slot's decoded pictures may grow to.
const PICTURE_SHARE: usize = 16;

/// What a pipeline is made for.
#[derive(Debug, Clone)]
pub struct PipelineConfig {
    /// Rows that a batch can hold; at least 1.
    pub rows: usize,
    /// Whether the first dimension of every tensor is the batch.
    pub batched: bool,
    /// Datatype and largest shape of each input, batch included.
    pub inputs: Vec<PipelineTensor>,
    /// Likewise of each output.
    pub outputs: Vec<PipelineTensor>,
    /// Outputs, by index, that are L2-normalised along their last dimension on the device.
    pub normalize: Vec<usize>,
    /// Whether every dimension but the batch is fixed.
    pub fixed_shapes: bool,
    /// Whether work of batch sizes that come often is captured into CUDA graphs.
    pub graphs: bool,
    /// Room for decoded pictures at first, bytes a slot; 0 where none are decoded on the GPU.
    pub pictures: usize,
    /// Whether the GPU's JPEG engine decodes, where there is one.
    pub hardware_decoder: bool,
}

/// An input or output of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineTensor {
    /// Its name.
    pub name: CString,
    /// Its element type.
    pub datatype: Datatype,
    /// Its largest shape.
    pub max_shape: Vec<i64>,
}

impl PipelineTensor {
    fn bytes(&self, shape: &[i64]) -> usize {
        let elements = shape.iter().map(|d| usize::try_from(*d).unwrap_or(0)).product::<usize>();
        elements * self.datatype.size_bytes().unwrap_or(0)
    }
}

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
    layout: Layout,
    shapes: Vec<Vec<i64>>,
}

/// Work of one batch size in one slot, captured.
struct CapturedSize {
    rows: usize,
    runs: u32,
    /// Its own: a context whose shapes change would change the captured work.
    context: Option<OnDevice<EngineContext>>,
    graph: Option<Graph>,
    /// The capture failed; the size runs without.
    failed: bool,
}

/// An execution context for one optimization profile.
struct ProfileContext {
    context: OnDevice<EngineContext>,
    /// Rows that the profile is fastest at.
    opt: usize,
    profile: usize,
    /// Shapes that are set.
    current: Vec<Vec<i64>>,
}

/// See the module.
pub struct Pipeline {
    // Dropped in this order, after `Drop` has waited for both streams.
    captured: [Vec<CapturedSize>; DEPTH],
    contexts: Vec<ProfileContext>,
    slots: [Slot; DEPTH],
    /// Scratch memory of the engine, shared by the contexts: they run one after another on one stream.
    scratch: DeviceBuffer,
    copy: Stream,
    compute: Stream,
    kernels: Arc<Kernels>,
    engine: Arc<LoadedEngine>,
    config: PipelineConfig,
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
        let sizes = slot_sizes(config);
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
        let sizes = slot_sizes(&config);
        let limit = (device.info().total_bytes / PICTURE_SHARE).max(sizes.pictures);
        let slot = || Slot::new(&device, sizes, limit, Arc::clone(wake));
        let (compute, copy) = (Stream::new(&device)?, Stream::new(&device)?);
        let scratch = DeviceBuffer::new(&device, engine.scratch_bytes())?;
        let mut contexts = Vec::with_capacity(engine.profiles().len());
        for (profile, opt) in engine.profiles().iter().enumerate() {
            let mut context = engine.create_context(&scratch)?;
            context.set_profile(profile, &compute)?;
            contexts.push(ProfileContext { context, opt: *opt, profile, current: Vec::new() });
        }
        let mut slots = [slot()?, slot()?];
        if let Some(nvjpeg) = nvjpeg.filter(|n| config.hardware_decoder && n.capabilities().hardware) {
            for slot in &mut slots {
                let decoder = nvjpeg.hardware_decoder(config.rows)?;
                slot.hardware = Some(OnDevice::new(&device, decoder));
            }
        }
        // The profiles are set.
        compute.synchronize()?;
        drop(section);
        Ok(Self {
            captured: [Vec::new(), Vec::new()],
            contexts,
            slots,
            scratch,
            copy,
            compute,
            kernels: Arc::clone(kernels),
            engine: Arc::clone(engine),
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

    /// The stream that decoders put their work on.
    #[must_use]
    pub fn copy_stream(&self) -> &Stream {
        &self.copy
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
        unsafe { hardware.decode(&list, self.copy.raw()) }
    }

    /// Where the inputs of a batch of `rows` rows of these shapes lie in the host's block; `shapes` as in [`Batch`].
    #[must_use]
    pub fn input_layout(&self, rows: usize, shapes: &[Vec<i64>]) -> Layout {
        let start = SlotSizes::descriptors(self.config.rows);
        let sizes = self.config.inputs.iter().enumerate().map(|(i, tensor)| match shapes.get(i) {
            Some(shape) => tensor.bytes(shape),
            None => tensor.bytes(&self.with_rows(&tensor.max_shape, rows)),
        });
        Layout::new(start, sizes)
    }

    /// The host's input block of the batch that was begun.
    #[must_use]
    pub fn host_input(&mut self) -> &mut [u8] {
        self.slots[self.next].host_input.as_mut_slice()
    }

    fn with_rows(&self, max: &[i64], rows: usize) -> SmallVec<[i64; 8]> {
        let mut shape = SmallVec::from_slice(max);
        if self.config.batched
            && let Some(first) = shape.first_mut()
        {
            *first = i64::try_from(rows).unwrap_or(i64::MAX);
        }
        shape
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
            .chain([self.copy.synchronize(), self.compute.synchronize()])
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
        let slot = &self.slots[self.next];
        self.compute.wait(&slot.staged)?;
        slot.started.record(&self.compute)?;
        let flight = if self.config.fixed_shapes && self.config.graphs {
            self.run_size(batch.rows, input)?
        } else {
            self.run_direct(batch, input)?
        };
        let slot = &self.slots[self.next];
        slot.done.record(&self.compute)?;
        self.compute.call_host(&slot.tell)?;
        Ok(flight)
    }

    /// Runs a batch on the context of the profile that suits it best.
    fn run_direct(&mut self, batch: &Batch<'_>, input: &Layout) -> Result<Flight, EngineError> {
        let shapes: Vec<Vec<i64>> = match batch.shapes {
            [] => self
                .config
                .inputs
                .iter()
                .map(|t| self.with_rows(&t.max_shape, batch.rows).into_vec())
                .collect(),
            shapes => shapes.to_vec(),
        };
        let at = best_profile(self.contexts.iter().map(|c| c.opt), batch.rows);
        let profile = &mut self.contexts[at];
        if profile.current != shapes {
            profile.current.clear();
            for (tensor, shape) in self.config.inputs.iter().zip(&shapes) {
                profile.context.set_input_shape(&tensor.name, shape)?;
            }
            profile.current = shapes;
        }
        let outputs = output_shapes(&self.config, &mut profile.context)?;
        let layout = output_layout(&self.config, &outputs);
        let work = Work {
            config: &self.config,
            kernels: &self.kernels,
            slot: &mut self.slots[self.next],
            stream: &self.compute,
            input,
            output: &layout,
            shapes: &outputs,
        };
        work.enqueue(&mut self.contexts[at].context)?;
        Ok(Flight { slot: self.next, layout, shapes: outputs })
    }

    /// Runs a batch of fixed shapes: from a graph where its size has come often enough.
    fn run_size(&mut self, rows: usize, input: &Layout) -> Result<Flight, EngineError> {
        let shapes: Vec<Vec<i64>> =
            self.config.outputs.iter().map(|t| self.with_rows(&t.max_shape, rows).into_vec()).collect();
        let layout = output_layout(&self.config, &shapes);
        let captured = &mut self.captured[self.next];
        let at = match captured.iter().position(|c| c.rows == rows) {
            Some(at) => at,
            None if captured.len() < 4 * MAX_GRAPHS => {
                captured.push(CapturedSize { rows, runs: 0, context: None, graph: None, failed: false });
                captured.len() - 1
            }
            None => usize::MAX,
        };
        let room = captured.iter().filter(|c| c.context.is_some()).count() < MAX_GRAPHS;
        let Some(size) = captured.get_mut(at) else {
            return self.run_uncaptured(rows, input, layout, shapes);
        };
        if let Some(graph) = &size.graph {
            graph.launch(&self.compute)?;
            return Ok(Flight { slot: self.next, layout, shapes });
        }
        size.runs += 1;
        if size.failed || size.runs <= RUNS_BEFORE_CAPTURE || (size.context.is_none() && !room) {
            return self.run_uncaptured(rows, input, layout, shapes);
        }
        let fresh = size.context.is_none();
        if fresh {
            let opts: SmallVec<[usize; 8]> = self.contexts.iter().map(|c| c.opt).collect();
            let profile = self.contexts[best_profile(opts.iter().copied(), rows)].profile;
            let mut context = self.engine.create_context(&self.scratch)?;
            context.set_profile(profile, &self.compute)?;
            for tensor in &self.config.inputs {
                let mut shape: SmallVec<[i64; 8]> = SmallVec::from_slice(&tensor.max_shape);
                if self.config.batched
                    && let Some(first) = shape.first_mut()
                {
                    *first = i64::try_from(rows).unwrap_or(i64::MAX);
                }
                context.set_input_shape(&tensor.name, &shape)?;
            }
            size.context = Some(context);
        }
        let Some(context) = &mut size.context else {
            return self.run_uncaptured(rows, input, layout, shapes);
        };
        let work = Work {
            config: &self.config,
            kernels: &self.kernels,
            slot: &mut self.slots[self.next],
            stream: &self.compute,
            input,
            output: &layout,
            shapes: &shapes,
        };
        if fresh {
            // A context's first run does what later ones do not have to; it is not captured.
            work.enqueue(context)?;
            return Ok(Flight { slot: self.next, layout, shapes });
        }
        match Graph::capture(&self.compute, || work.enqueue(context)) {
            Ok(graph) => {
                graph.launch(&self.compute)?;
                size.graph = Some(graph);
                tracing::debug!(gpu = self.device.info().ordinal, rows, "captured into a CUDA graph");
            }
            Err(error) => {
                if self.device.failure().is_some() {
                    return Err(error);
                }
                tracing::info!(gpu = self.device.info().ordinal, rows, %error, "runs without a CUDA graph");
                size.failed = true;
                size.context = None;
                return self.run_uncaptured(rows, input, layout, shapes);
            }
        }
        Ok(Flight { slot: self.next, layout, shapes })
    }

    fn run_uncaptured(
        &mut self,
        rows: usize,
        input: &Layout,
        layout: Layout,
        shapes: Vec<Vec<i64>>,
    ) -> Result<Flight, EngineError> {
        let at = best_profile(self.contexts.iter().map(|c| c.opt), rows);
        let wanted = i64::try_from(rows).unwrap_or(i64::MAX);
        let set = self.contexts[at].current.first().and_then(|s| s.first()) == Some(&wanted);
        if !set || !self.config.batched && self.contexts[at].current.is_empty() {
            let shapes: Vec<Vec<i64>> =
                self.config.inputs.iter().map(|t| self.with_rows(&t.max_shape, rows).into_vec()).collect();
            let profile = &mut self.contexts[at];
            profile.current.clear();
            for (tensor, shape) in self.config.inputs.iter().zip(&shapes) {
                profile.context.set_input_shape(&tensor.name, shape)?;
            }
            profile.current = shapes;
        }
        let work = Work {
            config: &self.config,
            kernels: &self.kernels,
            slot: &mut self.slots[self.next],
            stream: &self.compute,
            input,
            output: &layout,
            shapes: &shapes,
        };
        work.enqueue(&mut self.contexts[at].context)?;
        Ok(Flight { slot: self.next, layout, shapes })
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
            layout: &flight.layout,
            shapes: &flight.shapes,
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

/// What is enqueued for a batch once its inputs are on the device.
struct Work<'a> {
    config: &'a PipelineConfig,
    kernels: &'a Kernels,
    slot: &'a mut Slot,
    stream: &'a Stream,
    input: &'a Layout,
    output: &'a Layout,
    shapes: &'a [Vec<i64>],
}

impl Work<'_> {
    /// Runs the engine, normalises, and copies the outputs to the host.
    fn enqueue(self, context: &mut OnDevice<EngineContext>) -> Result<(), EngineError> {
        let Self { config, kernels, slot, stream, input, output, shapes } = self;
        for (tensor, range) in config.inputs.iter().zip(&input.tensors) {
            context.bind(&tensor.name, &slot.device_input, range.clone())?;
        }
        for (tensor, range) in config.outputs.iter().zip(&output.tensors) {
            context.bind(&tensor.name, &slot.device_output, range.clone())?;
        }
        // SAFETY: the bound buffers are the slot's, and stay until its `done` event, which comes after this.
        unsafe { context.enqueue(stream) }?;
        for index in &config.normalize {
            let (range, shape) = (&output.tensors[*index], &shapes[*index]);
            let columns = shape.last().copied().and_then(|d| u32::try_from(d).ok()).unwrap_or(0);
            let elements = u32::try_from(range.len() / 4).unwrap_or(0);
            if let Some(rows) = elements.checked_div(columns).filter(|rows| *rows > 0) {
                // SAFETY: the buffer is the slot's, as above.
                unsafe { kernels.l2_normalize(stream, (&slot.device_output, range.start), rows, columns) }?;
            }
        }
        // SAFETY: both buffers are the slot's, and the host reads after `collect` has waited for `done`.
        unsafe { stream.copy_to_host(&slot.device_output, &mut slot.host_output, output.end()) }?;
        Ok(())
    }
}

fn slot_sizes(config: &PipelineConfig) -> SlotSizes {
    let start = SlotSizes::descriptors(config.rows);
    let bytes = |tensors: &[PipelineTensor], start| {
        Layout::new(start, tensors.iter().map(|t| t.bytes(&t.max_shape))).end()
    };
    SlotSizes {
        rows: config.rows,
        input: bytes(&config.inputs, start),
        output: bytes(&config.outputs, 0),
        pictures: config.pictures,
    }
}

fn output_layout(config: &PipelineConfig, shapes: &[Vec<i64>]) -> Layout {
    Layout::new(0, config.outputs.iter().zip(shapes).map(|(t, s)| t.bytes(s)))
}

fn output_shapes(
    config: &PipelineConfig,
    context: &mut OnDevice<EngineContext>,
) -> Result<Vec<Vec<i64>>, EngineError> {
    config
        .outputs
        .iter()
        .map(|tensor| {
            let shape = context.tensor_shape(&tensor.name)?;
            let fits = tensor.bytes(&shape) <= tensor.bytes(&tensor.max_shape);
            if shape.iter().any(|d| *d < 0) || !fits {
                let name = tensor.name.to_string_lossy();
                let why =
                    format!("output \"{name}\" is {shape:?}, at most {:?} was planned", tensor.max_shape);
                return Err(EngineError::Interface(why));
            }
            Ok(shape)
        })
        .collect()
}

/// The profile that is fastest for that many rows: the smallest that is made for as many, else the largest.
fn best_profile(opts: impl Iterator<Item = usize>, rows: usize) -> usize {
    let mut best: Option<(usize, usize)> = None;
    for (index, opt) in opts.enumerate() {
        let better = best.is_none_or(|(_, b)| if b >= rows { opt >= rows && opt < b } else { opt > b });
        if better {
            best = Some((index, opt));
        }
    }
    best.map_or(0, |(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_runs_on_the_smallest_profile_that_is_made_for_it() {
        for (opts, rows, want) in [
            (&[8][..], 1, 0),
            (&[1, 8, 32], 1, 0),
            (&[1, 8, 32], 2, 1),
            (&[1, 8, 32], 8, 1),
            (&[1, 8, 32], 9, 2),
            (&[1, 8, 32], 33, 2),
            (&[32, 8, 1], 1, 2),
            (&[32, 8, 1], 7, 1),
            (&[], 1, 0),
        ] {
            assert_eq!(best_profile(opts.iter().copied(), rows), want, "{opts:?}, {rows} rows");
        }
    }
}
