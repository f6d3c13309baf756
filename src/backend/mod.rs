//! What runs a network: one trait for the kind of engine, one for a loaded model, one for an instance of it.
//!
//! Above this module nothing knows which engine runs; below it nothing knows who asked. An instance takes rows
//! as clients sent them (encoded images or ready-made tensors), so that an engine on a GPU can decode and
//! preprocess there; engines on the CPU share [`host`] for that.

pub mod host;
pub mod openvino;
pub mod rten;
pub mod select;
#[cfg(feature = "tensorrt")]
pub mod tensorrt;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::error::InferError;
use crate::image::Limits;
use crate::model::config::{InstanceGroup, InstanceKind, Precision};
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
    /// A device is in a state that no further call on it can leave: the instance must be built again.
    #[error("{backend}: {device} is lost: {why}")]
    Lost {
        /// The backend's name.
        backend: &'static str,
        /// The device, in words.
        device: String,
        /// The first failing call, and its error.
        why: String,
    },
}

/// Which instances will run, so that a backend can divide the machine among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstancePlan {
    /// Instances, each on a thread of its own.
    pub count: usize,
    /// Threads of each instance.
    pub threads: usize,
    /// CUDA ordinal of the GPU of each instance; empty on a CPU.
    pub gpus: Vec<usize>,
}

impl InstancePlan {
    /// The plan of a CPU engine: one instance of one thread on each core, which measured best for throughput
    /// (docs/benchmarks.md), unless `[[instance_group]]` says otherwise.
    ///
    /// # Errors
    /// A sentence, where a group asks for a GPU: it was asked for, so a CPU does not take its place.
    pub fn cpu(groups: &[InstanceGroup]) -> Result<Self, String> {
        if groups.iter().any(|g| g.kind == InstanceKind::Gpu) {
            return Err(
                "instance_group.kind = \"gpu\" needs backend tensorrt; use \"cpu\" or \"auto\"".to_owned()
            );
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let Some(first) = groups.first() else {
            return Ok(Self { count: cores, threads: 1, gpus: Vec::new() });
        };
        let count = |g: &InstanceGroup| g.count.unwrap_or((cores / g.threads).max(1));
        Ok(Self { count: groups.iter().map(count).sum(), threads: first.threads, gpus: Vec::new() })
    }
}

/// Something that a load needs and that takes long to make: a TensorRT plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// CUDA ordinal of the GPU that it is for.
    pub gpu: usize,
    /// Where it is, or will be.
    pub file: PathBuf,
    /// Whether it is there.
    pub state: PreparedState,
}

/// Whether a load finds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PreparedState {
    /// It is there and whole.
    Ready {
        /// Its size.
        bytes: u64,
    },
    /// It must be made.
    Missing,
    /// It is there, cannot be used, and must be made again.
    Corrupt {
        /// Why.
        why: String,
    },
}

/// Wakes the thread of an instance: its oldest batch is done. Callable from any thread, at any time.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

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

    /// Which instances run where.
    ///
    /// # Errors
    /// [`BackendError::Load`] where a group asks for what this machine does not have.
    fn plan(&self, spec: &ModelSpec, groups: &[InstanceGroup]) -> Result<InstancePlan, BackendError> {
        let (backend, model) = (self.name(), spec.path.display().to_string());
        InstancePlan::cpu(groups).map_err(|why| BackendError::Load { backend, model, why })
    }

    /// What a load of that version would take from a cache or make first; nothing is made, and nothing kept. Reads
    /// the network and the cache's files.
    ///
    /// # Errors
    /// [`BackendError::Load`] where it could be neither taken nor made.
    fn prepared(
        &self,
        model: &str,
        version: u64,
        spec: &ModelSpec,
        plan: &InstancePlan,
    ) -> Result<Vec<Prepared>, BackendError> {
        let _ = (model, version, spec, plan);
        Ok(Vec::new())
    }

    /// Loads and compiles a model; blocking, seconds for a large one, minutes where a TensorRT plan is built.
    ///
    /// # Errors
    /// [`BackendError::Load`] with the engine's words.
    fn load(
        &self,
        spec: &ModelSpec,
        plan: &InstancePlan,
        limits: Limits,
    ) -> Result<Arc<dyn LoadedModel>, BackendError>;
}

/// A model that is compiled and can run in several instances at once.
pub trait LoadedModel: Send + Sync {
    /// The arithmetic that was chosen.
    fn precision(&self) -> Precision;

    /// Rows beyond which a larger batch gains nothing on this engine; `None` leaves it to `max_batch_size`.
    fn batch_limit(&self) -> Option<usize>;

    /// Whether outputs come normalised where `model.toml` says `normalize`, so that nobody does it again.
    fn normalizes(&self) -> bool {
        false
    }

    /// Makes instance `ordinal` of the plan, on the thread that will use it.
    ///
    /// # Errors
    /// [`BackendError::Load`] with the engine's words.
    fn instance(&self, ordinal: usize, wake: Wake) -> Result<Box<dyn Instance>, BackendError>;
}

/// What an instance made of a batch that it was handed.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "it is moved once a batch, and a box would be an allocation")]
pub enum Execution {
    /// It has run.
    Done(Executed),
    /// It is on its way; [`Instance::collect`] gives its outcome, in the order of the batches.
    Enqueued,
}

/// One instance: a thread's own execution state.
pub trait Instance {
    /// Decodes, preprocesses and runs a batch, or enqueues it: the rows are not needed any more when this
    /// returns.
    ///
    /// `wanted(i)` says whether row `i` is still worth working on; it is asked before the row is decoded and
    /// again before the engine runs. A row that is bad or no longer wanted takes no place in the batch.
    ///
    /// # Errors
    /// [`BackendError::Execute`]: the whole batch failed. [`BackendError::Lost`]: so did every batch in hand.
    fn execute(
        &mut self,
        rows: &[&RowInput],
        wanted: &dyn Fn(usize) -> Result<(), InferError>,
    ) -> Result<Execution, BackendError>;

    /// Batches that it takes before the first must be collected. Above 1, the next is decoded and copied while
    /// the last computes.
    fn depth(&self) -> usize {
        1
    }

    /// Whether the oldest enqueued batch is done, or has failed. With `look`, the device itself is asked; without,
    /// only what it has told.
    fn finished(&mut self, look: bool) -> bool {
        let _ = look;
        true
    }

    /// The outcome of the oldest enqueued batch; blocks until it is done.
    ///
    /// # Errors
    /// As [`execute`](Self::execute); also where nothing was enqueued.
    fn collect(&mut self) -> Result<Executed, BackendError> {
        Err(BackendError::Execute {
            backend: "visord",
            call: "collect",
            why: "nothing is enqueued".to_owned(),
        })
    }

    /// Whether it can take a batch. A device that another instance has lost is lost for this one too.
    fn usable(&self) -> bool {
        true
    }
}

impl dyn Backend + '_ {
    /// Name, version and device, as operators read them.
    #[must_use]
    pub fn describe(&self) -> String {
        format!("{} {} on {}", self.name(), self.version(), self.device())
    }
}

impl dyn Instance + '_ {
    /// Runs one batch to its end, while none is in hand; blocking.
    ///
    /// # Errors
    /// As [`Instance::execute`].
    pub fn run(&mut self, rows: &[&RowInput]) -> Result<Executed, BackendError> {
        match self.execute(rows, &|_| Ok(()))? {
            Execution::Done(executed) => Ok(executed),
            Execution::Enqueued => self.collect(),
        }
    }
}

/// What an instance made of a batch.
#[derive(Debug, Default)]
pub struct Executed {
    /// For each row of the batch: its place in `outputs`, or why it has none.
    pub rows: Vec<Result<usize, InferError>>,
    /// Rows that the engine ran: at least those that have a place.
    pub ran: usize,
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
