//! Decode and preprocess on the CPU, straight into an engine's input buffer: what every CPU engine shares.

use std::time::Instant;

use smallvec::SmallVec;

use super::{BackendError, Executed, Execution, Instance, OutputBuffer, RowInput};
use crate::error::{ErrorKind, InferError};
use crate::image::{Decoder, Limits, Preprocess};
use crate::model::spec::ModelSpec;
use crate::tensor::{Tensor, TensorSpec};

/// An engine that reads its inputs from host memory.
pub trait HostEngine {
    /// The buffer of input `index` at `shape` (rows first where the model is batched), as bytes aligned for
    /// its datatype. What was written stays until the next call with another shape for the same input.
    ///
    /// # Errors
    /// [`BackendError::Execute`] where the engine has no memory for it.
    fn input(&mut self, index: usize, shape: &[usize]) -> Result<&mut [u8], BackendError>;

    /// Whether the engine can hold these values of input `index`; most can hold whatever the datatype can.
    ///
    /// # Errors
    /// `InvalidArgument` with the value: the row's own mistake, which its batch must not suffer from.
    fn check(&self, index: usize, data: &[u8]) -> Result<(), InferError> {
        let _ = (index, data);
        Ok(())
    }

    /// Runs the engine on the inputs last asked for.
    ///
    /// # Errors
    /// [`BackendError::Execute`] with the engine's words.
    fn run(&mut self) -> Result<Vec<OutputBuffer>, BackendError>;
}

/// An [`Instance`] made of a [`HostEngine`].
pub struct HostInstance<E> {
    engine: E,
    inputs: Vec<TensorSpec>,
    batched: bool,
    images: Option<ImagePath>,
    shape: Vec<usize>,
}

struct ImagePath {
    decoder: Decoder,
    preprocess: Preprocess,
    limits: Limits,
}

impl<E: HostEngine> HostInstance<E> {
    /// Puts an engine behind the CPU's image path.
    ///
    /// # Errors
    /// [`BackendError::Load`] where the image settings contradict each other.
    pub fn new(engine: E, spec: &ModelSpec, limits: Limits) -> Result<Self, BackendError> {
        let images = match &spec.image {
            None => None,
            Some(image) => Some(ImagePath {
                decoder: Decoder::new(),
                preprocess: Preprocess::new(image.preprocess.clone()).map_err(|e| BackendError::Load {
                    backend: "image preprocessing",
                    model: spec.path.display().to_string(),
                    why: e.to_string(),
                })?,
                limits,
            }),
        };
        Ok(Self { engine, inputs: spec.inputs.clone(), batched: spec.batched(), images, shape: Vec::new() })
    }

    /// Sets `self.shape` to what input `index` has for `rows` rows shaped like `row`.
    fn shape_for(&mut self, rows: usize, row: &[usize]) {
        self.shape.clear();
        if self.batched {
            self.shape.push(rows);
        }
        self.shape.extend_from_slice(row);
    }

    /// Writes the rows that can be used into the engine's inputs, packed; `done.rows` tells their places.
    fn stage(
        &mut self,
        rows: &[&RowInput],
        wanted: &dyn Fn(usize) -> Result<(), InferError>,
        done: &mut Executed,
    ) -> Result<(), BackendError> {
        let mut filled = 0;
        for (i, row) in rows.iter().enumerate() {
            let outcome = match wanted(i) {
                Err(e) => Err(e),
                Ok(()) => match row {
                    RowInput::Image(encoded) => self.stage_image(encoded, rows.len(), filled, done)?,
                    RowInput::Tensors(tensors) => self.stage_tensors(tensors, rows.len(), filled)?,
                },
            };
            done.rows.push(outcome.map(|()| {
                filled += 1;
                filled - 1
            }));
        }
        Ok(())
    }

    fn stage_tensors(
        &mut self,
        tensors: &[Tensor],
        rows: usize,
        at: usize,
    ) -> Result<Result<(), InferError>, BackendError> {
        for (index, tensor) in tensors.iter().enumerate() {
            if let Err(e) = self.engine.check(index, &tensor.data) {
                return Ok(Err(e.context(format_args!("input `{}`", self.inputs[index].name))));
            }
        }
        for (index, tensor) in tensors.iter().enumerate() {
            self.shape_for(rows, &tensor.shape);
            slot(self.engine.input(index, &self.shape)?, rows, at, self.batched)
                .copy_from_slice(&tensor.data);
        }
        Ok(Ok(()))
    }

    fn stage_image(
        &mut self,
        encoded: &[u8],
        rows: usize,
        at: usize,
        done: &mut Executed,
    ) -> Result<Result<(), InferError>, BackendError> {
        let row = row_shape(&self.inputs[0]);
        self.shape_for(rows, &row);
        let Some(images) = &mut self.images else {
            return Ok(Err(InferError::new(
                ErrorKind::InvalidArgument,
                "this model takes tensors, not images",
            )));
        };
        let start = Instant::now();
        let view = match images.decoder.decode(encoded, &images.limits) {
            Ok(view) => view,
            Err(e) => return Ok(Err(e)),
        };
        let decoded = Instant::now();
        done.decode.push(decoded - start);
        let slot = slot(self.engine.input(0, &self.shape)?, rows, at, true);
        images.preprocess.run_as(self.inputs[0].datatype, &view, slot);
        done.preprocess.push(decoded.elapsed());
        Ok(Ok(()))
    }

    /// Moves the rows at `places` (ascending) of a batch of `staged` into a batch of just those.
    fn pack(&mut self, like: &RowInput, staged: usize, places: &[usize]) -> Result<(), BackendError> {
        for index in 0..self.inputs.len() {
            let row = match like {
                RowInput::Image(_) => row_shape(&self.inputs[index]),
                RowInput::Tensors(tensors) => tensors[index].shape.clone(),
            };
            self.shape_for(staged, &row);
            let shape = self.shape.clone();
            let bytes = self.engine.input(index, &shape)?;
            let kept: Vec<u8> =
                places.iter().flat_map(|p| slot(&mut *bytes, staged, *p, true).to_vec()).collect();
            self.shape_for(places.len(), &row);
            let shape = self.shape.clone();
            self.engine.input(index, &shape)?.copy_from_slice(&kept);
        }
        Ok(())
    }
}

/// Shape of one row of an input whose dimensions are all fixed (an image input, checked at load).
fn row_shape(input: &TensorSpec) -> Vec<usize> {
    input.shape.iter().map(|d| usize::try_from(*d).unwrap_or(0)).collect()
}

/// The part of a batch's buffer that row `at` of `rows` fills.
fn slot(buffer: &mut [u8], rows: usize, at: usize, batched: bool) -> &mut [u8] {
    let row = if batched { buffer.len() / rows } else { buffer.len() };
    &mut buffer[at * row..][..row]
}

impl<E: HostEngine> Instance for HostInstance<E> {
    fn execute(
        &mut self,
        rows: &[&RowInput],
        wanted: &dyn Fn(usize) -> Result<(), InferError>,
    ) -> Result<Execution, BackendError> {
        let start = Instant::now();
        let mut done = Executed { rows: Vec::with_capacity(rows.len()), ..Executed::default() };
        self.stage(rows, wanted, &mut done)?;
        // A deadline covers decoding: what expired meanwhile never reaches the engine.
        let mut places = SmallVec::<[usize; 32]>::new();
        for (i, row) in done.rows.iter_mut().enumerate() {
            if let Ok(place) = *row {
                *row = wanted(i).map(|()| {
                    places.push(place);
                    places.len() - 1
                });
            }
        }
        if places.is_empty() {
            done.input = start.elapsed();
            return Ok(Execution::Done(done));
        }
        if places.len() < rows.len() {
            self.pack(rows[0], rows.len(), &places)?;
        }
        done.ran = places.len();
        let staged = Instant::now();
        done.input = staged - start;
        done.outputs = self.engine.run()?;
        done.infer = staged.elapsed();
        Ok(Execution::Done(done))
    }
}
