//! One instance on a GPU: rows in, staged and enqueued; outputs out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::NAME;
use super::gpu::GpuLife;
use super::model::ImagePath;
use super::stage::{Staged, StagedRows, stage};
use crate::backend::{BackendError, Executed, Execution, Instance, OutputBuffer, RowInput};
use crate::error::{ErrorKind, InferError};
use crate::gpu::descriptor::{ImageDescriptor, PreprocessParameters};
use crate::gpu::device::Device;
use crate::gpu::engine::EngineError;
use crate::gpu::pipeline::{Batch, DEPTH, Pipeline};
use crate::gpu::stream::Event;
use crate::model::spec::ModelSpec;
use crate::telemetry::gpu::GpuMetrics;
use crate::tensor::Datatype;

/// A batch on the device, and what is known of it already.
struct Flight {
    done: Executed,
    enqueued: Instant,
}

/// See the module.
pub(super) struct TensorRtInstance {
    pipeline: Pipeline,
    life: Arc<GpuLife>,
    images: Option<Arc<ImagePath>>,
    outputs: Vec<Datatype>,
    batched: bool,
    ordinal: usize,
    metrics: GpuMetrics,
    flights: VecDeque<Flight>,
}

/// What a failed call means: a context that has failed is lost, with everything on it.
pub(super) fn fault(device: &Device, call: &'static str, why: String) -> BackendError {
    match device.failure() {
        Some(failure) => BackendError::Lost {
            backend: NAME,
            device: format!("GPU {} ({})", device.info().ordinal, device.info().name),
            why: failure.to_string(),
        },
        None => BackendError::Execute { backend: NAME, call, why },
    }
}

impl TensorRtInstance {
    pub fn new(
        pipeline: Pipeline,
        life: Arc<GpuLife>,
        images: Option<Arc<ImagePath>>,
        spec: &ModelSpec,
        ordinal: usize,
        metrics: GpuMetrics,
    ) -> Self {
        Self {
            pipeline,
            life,
            images,
            outputs: spec.outputs.iter().map(|o| o.tensor.datatype).collect(),
            batched: spec.batched(),
            ordinal,
            metrics,
            flights: VecDeque::with_capacity(DEPTH),
        }
    }

    fn fault(&self, call: &'static str, error: &EngineError) -> BackendError {
        fault(self.pipeline.device(), call, error.to_string())
    }

    /// Rows of pictures, or of a model's only input: `true` where a batch is on its way.
    fn start_images(
        &mut self,
        rows: &[&RowInput],
        wanted: &dyn Fn(usize) -> Result<(), InferError>,
        path: &Arc<ImagePath>,
        done: &mut Executed,
    ) -> Result<bool, BackendError> {
        let StagedRows { rows: staged, host_rows, decoded } =
            stage(&mut self.pipeline, path, &self.life, self.ordinal, rows, wanted, done)?;
        self.metrics.decoded(decoded);
        let mut descriptors: SmallVec<[ImageDescriptor; 32]> = SmallVec::new();
        let mut decoded: SmallVec<[Arc<Event>; 32]> = SmallVec::new();
        // Rows that the host has written and nobody wants any more stay where they are, and run.
        let mut places = host_rows;
        for (i, row) in staged.into_iter().enumerate() {
            let outcome = match row {
                Err(error) => Err(error),
                Ok(staged) => {
                    if let Staged::Device { event: Some(event), .. } = &staged
                        && !decoded.iter().any(|e| Arc::ptr_eq(e, event))
                    {
                        decoded.push(Arc::clone(event));
                    }
                    // A deadline covers decoding.
                    wanted(i).and_then(|()| match staged {
                        Staged::Host(place) => Ok(place),
                        Staged::Device { image, .. } => {
                            let row = u32::try_from(places).unwrap_or(u32::MAX);
                            let descriptor = ImageDescriptor::new(&path.config, &image.image, row)
                                .map_err(|e| InferError::new(ErrorKind::Internal, e.to_string()))?;
                            descriptors.push(descriptor);
                            places += 1;
                            Ok(places - 1)
                        }
                    })
                }
            };
            done.rows.push(outcome);
        }
        if done.rows.iter().all(Result::is_err) {
            self.pipeline.cancel(&decoded);
            return Ok(false);
        }
        let images = u32::try_from(descriptors.len()).unwrap_or(u32::MAX);
        let parameters =
            PreprocessParameters::new(&path.config, images, u32::try_from(places).unwrap_or(u32::MAX));
        let parameters = match parameters {
            Ok(parameters) => parameters,
            Err(e) => {
                self.pipeline.cancel(&decoded);
                return Err(fault(self.pipeline.device(), "preprocess", e.to_string()));
            }
        };
        let bytes: &[u8] = bytemuck::cast_slice(&descriptors);
        self.pipeline.host_input()[..bytes.len()].copy_from_slice(bytes);
        done.ran = places;
        let batch = Batch {
            rows: places,
            shapes: &[],
            host_rows,
            images: (images > 0).then_some((&descriptors[..], parameters)),
            decoded: &decoded,
        };
        self.pipeline.submit(&batch).map_err(|e| self.fault("enqueue", &e))?;
        Ok(true)
    }

    /// Rows of ready-made tensors.
    fn start_tensors(
        &mut self,
        rows: &[&RowInput],
        wanted: &dyn Fn(usize) -> Result<(), InferError>,
        done: &mut Executed,
    ) -> Result<bool, BackendError> {
        let mut taken: SmallVec<[&[crate::tensor::Tensor]; 32]> = SmallVec::new();
        for (i, row) in rows.iter().enumerate() {
            let outcome = wanted(i).and_then(|()| match row {
                RowInput::Tensors(tensors) => {
                    taken.push(tensors);
                    Ok(taken.len() - 1)
                }
                RowInput::Image(_) => {
                    Err(InferError::new(ErrorKind::InvalidArgument, "this model takes tensors, not images"))
                }
            });
            done.rows.push(outcome);
        }
        let Some(first) = taken.first() else { return Ok(false) };
        let count = taken.len();
        let shapes: Vec<Vec<i64>> = if self.pipeline.config().fixed_shapes {
            Vec::new()
        } else {
            first.iter().map(|t| self.shape(t, count)).collect()
        };
        let layout = self.pipeline.input_layout(count, &shapes);
        let block = self.pipeline.host_input();
        if layout.end() > block.len() {
            let why = "the rows are larger than the plan's largest shapes".to_owned();
            return Err(fault(self.pipeline.device(), "setInputShape", why));
        }
        for (index, range) in layout.tensors.iter().enumerate() {
            let part = &mut block[range.clone()];
            let row_bytes = part.len() / count;
            for (row, slot) in taken.iter().zip(part.chunks_exact_mut(row_bytes.max(1))) {
                slot.copy_from_slice(&row[index].data);
            }
        }
        done.ran = count;
        let batch = Batch { rows: count, shapes: &shapes, host_rows: count, images: None, decoded: &[] };
        self.pipeline.submit(&batch).map_err(|e| self.fault("enqueue", &e))?;
        Ok(true)
    }

    fn shape(&self, tensor: &crate::tensor::Tensor, rows: usize) -> Vec<i64> {
        let int = |d: usize| i64::try_from(d).unwrap_or(i64::MAX);
        self.batched.then_some(int(rows)).into_iter().chain(tensor.shape.iter().map(|d| int(*d))).collect()
    }
}

impl Instance for TensorRtInstance {
    fn execute(
        &mut self,
        rows: &[&RowInput],
        wanted: &dyn Fn(usize) -> Result<(), InferError>,
    ) -> Result<Execution, BackendError> {
        let start = Instant::now();
        self.pipeline.begin();
        let mut done = Executed { rows: Vec::with_capacity(rows.len()), ..Executed::default() };
        let enqueued = match self.images.clone() {
            Some(path) => self.start_images(rows, wanted, &path, &mut done)?,
            None => self.start_tensors(rows, wanted, &mut done)?,
        };
        done.input = start.elapsed();
        if !enqueued {
            return Ok(Execution::Done(done));
        }
        self.flights.push_back(Flight { done, enqueued: Instant::now() });
        Ok(Execution::Enqueued)
    }

    fn depth(&self) -> usize {
        DEPTH
    }

    fn finished(&mut self, look: bool) -> bool {
        self.pipeline.finished(look)
    }

    fn collect(&mut self) -> Result<Executed, BackendError> {
        let Some(Flight { mut done, enqueued }) = self.flights.pop_front() else {
            return Err(fault(self.pipeline.device(), "collect", "no batch is in flight".to_owned()));
        };
        let device = Arc::clone(self.pipeline.device());
        let collected =
            self.pipeline.collect().map_err(|e| fault(&device, "cuEventSynchronize", e.to_string()))?;
        done.outputs = collected
            .shapes
            .iter()
            .zip(&collected.layout.tensors)
            .zip(&self.outputs)
            .map(|((shape, range), datatype)| OutputBuffer {
                datatype: *datatype,
                shape: shape.iter().map(|d| usize::try_from(*d).unwrap_or(0)).collect(),
                data: collected.bytes[range.clone()].to_vec(),
            })
            .collect();
        // The driver's clock, or where it has none, the time since the batch was handed over.
        done.infer = if collected.infer > Duration::ZERO { collected.infer } else { enqueued.elapsed() };
        refuse_nan(&mut done, self.batched);
        Ok(done)
    }

    fn usable(&self) -> bool {
        self.pipeline.device().failure().is_none()
    }
}

/// Fails the rows that have a NaN in an output: 16-bit arithmetic that overflowed, or an image of NaN.
fn refuse_nan(done: &mut Executed, batched: bool) {
    let rows = if batched { done.ran.max(1) } else { 1 };
    for output in &done.outputs {
        let is_nan: fn(&[u8]) -> bool = if output.datatype == Datatype::Fp32 {
            |b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]).is_nan()
        } else if output.datatype == Datatype::Fp16 {
            |b| half::f16::from_le_bytes([b[0], b[1]]).is_nan()
        } else {
            continue;
        };
        let size = output.datatype.size_bytes().unwrap_or(4);
        let row_bytes = output.data.len() / rows;
        for row in &mut done.rows {
            let Ok(place) = *row else { continue };
            let place = if batched { place } else { 0 };
            let data = &output.data[place * row_bytes..][..row_bytes];
            if data.chunks_exact(size).any(is_nan) {
                let text = "an output of the model is not a number (NaN); with precision = \"fp16\", name the operator \
                            that overflows in tensorrt.fp32_operators";
                *row = Err(InferError::new(ErrorKind::NanOutput, text));
            }
        }
    }
}
