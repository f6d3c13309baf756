//! What runs a network: one trait for the kind of engine, one for a loaded model, one for an instance of it.
//!
//! Above this module nothing knows which engine runs; below it nothing knows who asked. An instance takes rows
//! as clients sent them (encoded images or ready-made tensors), so that an engine on a GPU can decode and
//! preprocess there; engines on the CPU share [`host`] for that.

pub mod host;
pub mod openvino;
pub mod rten;
pub mod select;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::error::InferError;
use crate::image::Limits;
use crate::model::config::Precision;
use crate::model::spec::ModelSpec;
use crate::tensor::{Datatype, Tensor};

/// One row of a batch, as a client sent it.
#[derive(Debug, Clone)]
pub enum RowInput {
    /// An encoded image of any kind that [`crate::image`] reads.
    Image(Bytes),
    /// One tensor for each of the model's inputs, in the model's order, without the batch dimension.
    Tensors(Vec<Tensor>),
}

/// Why an engine could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The backend cannot be had here.
    #[error("{backend} cannot be used: {why}; {fix}")]
    Unavailable {
        /// The backend's name.
        backend: &'static str,
        /// What was found.
        why: String,
        /// What to do about it.
        fix: String,
    },
    /// The model does not load.
    #[error("{backend} cannot load {model}: {why}")]
    Load {
        /// The backend's name.
        backend: &'static str,
        /// Path of the model.
        model: String,
        /// The engine's words.
        why: String,
    },
    /// A batch failed.
    #[error("{backend}: {call} failed: {why}")]
    Execute {
        /// The backend's name.
        backend: &'static str,
        /// The engine's call.
        call: &'static str,
        /// The engine's words.
        why: String,
    },
}

/// How many instances will run, so that a backend can divide the machine's cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstancePlan {
    /// Instances, each on a thread of its own.
    pub count: usize,
    /// Threads of each instance.
    pub threads: usize,
}

/// A kind of engine that was found to work on this machine.
pub trait Backend: Send + Sync {
    /// `tensorrt`, `openvino` or `rten`.
    fn name(&self) -> &'static str;

    /// Version of the library.
    fn version(&self) -> String;

    /// The device that it runs on, in words.
    fn device(&self) -> String;

    /// Whether the model asks for something that this engine does not have; cheap, and the first step of
    /// [`load`](Self::load).
    ///
    /// # Errors
    /// [`BackendError::Load`] with what it lacks.
    fn check(&self, spec: &ModelSpec) -> Result<(), BackendError>;

    /// Loads and compiles a model; blocking, seconds for a large one.
    ///
    /// # Errors
    /// [`BackendError::Load`] with the engine's words.
    fn load(
        &self,
        spec: &ModelSpec,
        plan: InstancePlan,
        limits: Limits,
    ) -> Result<Arc<dyn LoadedModel>, BackendError>;
}

/// A model that is compiled and can run in several instances at once.
pub trait LoadedModel: Send + Sync {
    /// The arithmetic that was chosen.
    fn precision(&self) -> Precision;

    /// Rows beyond which a larger batch gains nothing on this engine; `None` leaves it to `max_batch_size`.
    fn batch_limit(&self) -> Option<usize>;

    /// Makes an instance, on the thread that will use it.
    ///
    /// # Errors
    /// [`BackendError::Load`] with the engine's words.
    fn instance(&self) -> Result<Box<dyn Instance>, BackendError>;
}

/// One instance: a thread's own execution state.
pub trait Instance {
    /// Decodes, preprocesses and runs a batch; blocking.
    ///
    /// `wanted(i)` says whether row `i` is still worth working on; it is asked before the row is decoded and
    /// again before the engine runs. A row that is bad or no longer wanted takes no place in the batch.
    ///
    /// # Errors
    /// [`BackendError::Execute`]: the whole batch failed.
    fn execute(
        &mut self,
        rows: &[&RowInput],
        wanted: &dyn Fn(usize) -> Result<(), InferError>,
    ) -> Result<Executed, BackendError>;
}

/// What an instance made of a batch.
#[derive(Debug, Default)]
pub struct Executed {
    /// For each row of the batch: its place in `outputs`, or why it has none.
    pub rows: Vec<Result<usize, InferError>>,
    /// One for each output of the model, in the model's order.
    pub outputs: Vec<OutputBuffer>,
    /// Time of decoding each image that was decoded.
    pub decode: SmallVec<[Duration; 8]>,
    /// Time of preprocessing each image.
    pub preprocess: SmallVec<[Duration; 8]>,
    /// Time of all of the above, and of copying ready-made tensors.
    pub input: Duration,
    /// Time in the engine.
    pub infer: Duration,
}

/// An output that is still ours to change.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputBuffer {
    /// Element type.
    pub datatype: Datatype,
    /// Full shape, rows first where the model is batched.
    pub shape: Vec<usize>,
    /// Row-major, little-endian.
    pub data: Vec<u8>,
}
