//! Running the engine: execution contexts that share scratch memory, on one stream, and CUDA graphs for the batch
//! sizes that come often.

use std::sync::Arc;

use super::config::PipelineConfig;
use super::{Batch, DEPTH};
use crate::gpu::device::OnDevice;
use crate::gpu::engine::{EngineContext, EngineError, LoadedEngine};
use crate::gpu::graph::Graph;
use crate::gpu::kernel::Kernels;
use crate::gpu::memory::DeviceBuffer;
use crate::gpu::slot::{Layout, Slot};
use crate::gpu::stream::Stream;

/// Runs of a batch size before its work is captured into a graph: rare sizes are not worth the memory.
const RUNS_BEFORE_CAPTURE: u32 = 3;
/// Graphs of a slot: the sizes that come most are few.
const MAX_GRAPHS: usize = 8;
/// Where a batch's outputs lie in their block, and their shapes.
#[derive(Debug)]
pub(super) struct Outputs {
    pub layout: Layout,
    pub shapes: Vec<Vec<i64>>,
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
    current: ShapesSet,
}

/// The input shapes that a context has.
#[derive(PartialEq)]
enum ShapesSet {
    Unknown,
    /// The fixed ones, with that many rows.
    Rows(usize),
    Shapes(Vec<Vec<i64>>),
}

/// See the module. Its owner waits for the stream before it goes.
pub(super) struct Compute {
    // Dropped in this order.
    captured: [Vec<CapturedSize>; DEPTH],
    contexts: Vec<ProfileContext>,
    /// Scratch memory of the engine, shared by the contexts: they run one after another on one stream.
    scratch: DeviceBuffer,
    pub stream: Stream,
    kernels: Arc<Kernels>,
    engine: Arc<LoadedEngine>,
    config: Arc<PipelineConfig>,
}

impl Compute {
    /// Makes a context for each profile. Within a section.
    pub fn new(
        engine: &Arc<LoadedEngine>,
        kernels: &Arc<Kernels>,
        config: &Arc<PipelineConfig>,
    ) -> Result<Self, EngineError> {
        let stream = Stream::new(engine.device())?;
        let scratch = DeviceBuffer::new(engine.device(), engine.scratch_bytes())?;
        let mut contexts = Vec::with_capacity(engine.profiles().len());
        for (profile, opt) in engine.profiles().iter().enumerate() {
            let mut context = engine.create_context(&scratch)?;
            context.set_profile(profile, &stream)?;
            contexts.push(ProfileContext { context, opt: *opt, current: ShapesSet::Unknown });
        }
        // The profiles are set.
        stream.synchronize()?;
        Ok(Self {
            captured: [Vec::new(), Vec::new()],
            contexts,
            scratch,
            stream,
            kernels: Arc::clone(kernels),
            engine: Arc::clone(engine),
            config: Arc::clone(config),
        })
    }

    /// Enqueues the engine's work on a batch whose inputs are, or will be by the stream's order, in slot `number`.
    pub fn run(
        &mut self,
        number: usize,
        slot: &mut Slot,
        batch: &Batch<'_>,
        input: &Layout,
    ) -> Result<Outputs, EngineError> {
        if self.config.fixed_shapes && self.config.graphs {
            self.run_size(number, slot, batch.rows, input)
        } else {
            self.run_direct(slot, batch.rows, batch.shapes, input)
        }
    }

    /// Runs a batch on the context of the profile that suits it best; `shapes` as in [`Batch`].
    fn run_direct(
        &mut self,
        slot: &mut Slot,
        rows: usize,
        shapes: &[Vec<i64>],
        input: &Layout,
    ) -> Result<Outputs, EngineError> {
        let at = best_profile(self.contexts.iter().map(|c| c.opt), rows);
        let ProfileContext { context, current, .. } = &mut self.contexts[at];
        let unchanged = match shapes {
            [] => *current == ShapesSet::Rows(rows),
            shapes => matches!(current, ShapesSet::Shapes(set) if set == shapes),
        };
        if !unchanged {
            *current = ShapesSet::Unknown;
            set_input_shapes(&self.config, context, rows, shapes)?;
            *current = match shapes {
                [] => ShapesSet::Rows(rows),
                shapes => ShapesSet::Shapes(shapes.to_vec()),
            };
        }
        let shapes = output_shapes(&self.config, context)?;
        let outputs = Outputs { layout: self.config.output_layout(&shapes), shapes };
        let work = Work {
            config: &self.config,
            kernels: &self.kernels,
            stream: &self.stream,
            input,
            outputs: &outputs,
        };
        work.enqueue(slot, context)?;
        Ok(outputs)
    }

    /// Runs a batch of fixed shapes: from a graph where its size has come often enough.
    fn run_size(
        &mut self,
        number: usize,
        slot: &mut Slot,
        rows: usize,
        input: &Layout,
    ) -> Result<Outputs, EngineError> {
        let captured = &mut self.captured[number];
        let at = match captured.iter().position(|c| c.rows == rows) {
            Some(at) => at,
            None if captured.len() < 4 * MAX_GRAPHS => {
                captured.push(CapturedSize { rows, runs: 0, context: None, graph: None, failed: false });
                captured.len() - 1
            }
            None => return self.run_direct(slot, rows, &[], input),
        };
        let room = captured.iter().filter(|c| c.context.is_some()).count() < MAX_GRAPHS;
        let size = &mut captured[at];
        size.runs = size.runs.saturating_add(1);
        if size.failed || size.runs <= RUNS_BEFORE_CAPTURE || (size.context.is_none() && !room) {
            return self.run_direct(slot, rows, &[], input);
        }
        let shapes: Vec<Vec<i64>> = self
            .config
            .outputs
            .iter()
            .map(|t| self.config.with_rows(&t.max_shape, rows).into_vec())
            .collect();
        let outputs = Outputs { layout: self.config.output_layout(&shapes), shapes };
        if let Some(graph) = &size.graph {
            graph.launch(&self.stream)?;
            return Ok(outputs);
        }
        let fresh = size.context.is_none();
        if fresh {
            let profile = best_profile(self.contexts.iter().map(|c| c.opt), rows);
            let mut context = self.engine.create_context(&self.scratch)?;
            context.set_profile(profile, &self.stream)?;
            set_input_shapes(&self.config, &mut context, rows, &[])?;
            size.context = Some(context);
        }
        let Some(context) = &mut size.context else { return self.run_direct(slot, rows, &[], input) };
        let work = Work {
            config: &self.config,
            kernels: &self.kernels,
            stream: &self.stream,
            input,
            outputs: &outputs,
        };
        if fresh {
            // A context's first run does what later ones do not have to; it is not captured.
            work.enqueue(slot, context)?;
            return Ok(outputs);
        }
        match Graph::capture(&self.stream, || work.enqueue(slot, context)) {
            Ok(graph) => {
                graph.launch(&self.stream)?;
                size.graph = Some(graph);
                tracing::debug!(
                    gpu = self.stream.device().info().ordinal,
                    rows,
                    "captured into a CUDA graph"
                );
                Ok(outputs)
            }
            Err(error) if self.stream.device().failure().is_some() => Err(error),
            Err(error) => {
                tracing::info!(gpu = self.stream.device().info().ordinal, rows, %error, "runs without a CUDA graph");
                size.failed = true;
                size.context = None;
                self.run_direct(slot, rows, &[], input)
            }
        }
    }
}

/// What is enqueued for a batch once its inputs are on the device.
struct Work<'a> {
    config: &'a PipelineConfig,
    kernels: &'a Kernels,
    stream: &'a Stream,
    input: &'a Layout,
    outputs: &'a Outputs,
}

impl Work<'_> {
    /// Runs the engine, normalises, and copies the outputs to the host.
    fn enqueue(&self, slot: &mut Slot, context: &mut OnDevice<EngineContext>) -> Result<(), EngineError> {
        let Self { config, kernels, stream, input, outputs: Outputs { layout: output, shapes } } = self;
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

/// Tells a context the shapes of its inputs; `shapes` as in [`Batch`].
fn set_input_shapes(
    config: &PipelineConfig,
    context: &mut OnDevice<EngineContext>,
    rows: usize,
    shapes: &[Vec<i64>],
) -> Result<(), EngineError> {
    for (index, tensor) in config.inputs.iter().enumerate() {
        match shapes.get(index) {
            Some(shape) => context.set_input_shape(&tensor.name, shape)?,
            None => context.set_input_shape(&tensor.name, &config.with_rows(&tensor.max_shape, rows))?,
        }
    }
    Ok(())
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
