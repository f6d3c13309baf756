//! What turns a network into a plan, as far as the cache needs to know.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::model::tensorrt::HardwareCompatibility;

/// Which of TensorRT's products builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Flavor {
    /// TensorRT 10.
    #[serde(rename = "tensorrt-10")]
    TensorRt10,
    /// TensorRT 11.
    #[serde(rename = "tensorrt-11")]
    TensorRt11,
    /// TensorRT-RTX.
    #[serde(rename = "tensorrt-rtx")]
    TensorRtRtx,
}

impl Flavor {
    /// The word in notes and file names.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TensorRt10 => "tensorrt-10",
            Self::TensorRt11 => "tensorrt-11",
            Self::TensorRtRtx => "tensorrt-rtx",
        }
    }

    /// Whether the network's own types decide: there is no FP16 flag then, and the graph itself has to change.
    #[must_use]
    pub const fn strongly_typed(self) -> bool {
        match self {
            Self::TensorRt10 => false,
            Self::TensorRt11 | Self::TensorRtRtx => true,
        }
    }

    /// Whether it measures kernels, so that a timing cache saves it time. TensorRT-RTX leaves that to the GPU that
    /// runs the plan: its timing caches are empty, and it refuses them (seen with 1.7.1).
    #[must_use]
    pub const fn measures_kernels(self) -> bool {
        match self {
            Self::TensorRt10 | Self::TensorRt11 => true,
            Self::TensorRtRtx => false,
        }
    }

    /// Whether it builds for GPUs that are not there, by compute capability alone.
    #[must_use]
    pub const fn builds_without_gpu(self) -> bool {
        match self {
            Self::TensorRt10 | Self::TensorRt11 => false,
            Self::TensorRtRtx => true,
        }
    }
}

/// What builds: a plan loads with the version that built it, and with no other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The product.
    pub flavor: Flavor,
    /// Its whole version, as in `10.4.0.26`.
    pub version: String,
    /// Where its libraries were found, for the command that a plan's note gives; not part of a key.
    pub dir: Option<PathBuf>,
}

/// Shapes of one dynamic input, the batch dimension in front where there is one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProfileInput {
    /// Name in the ONNX graph.
    pub name: String,
    /// Smallest.
    pub min: Vec<i64>,
    /// The one to be fast at.
    pub opt: Vec<i64>,
    /// Largest.
    pub max: Vec<i64>,
}

/// An optimization profile: the shapes that a plan accepts, and those that it is fast at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Profile {
    /// Every input with an open dimension.
    pub inputs: Vec<ProfileInput>,
}

/// What TensorRT is told besides the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Options {
    /// FP16 kernels by the builder's choice; only where the product is not strongly typed.
    pub fp16: bool,
    /// TF32 products.
    pub tf32: bool,
    /// INT8 kernels for a network with Q/DQ operators; only where the product is not strongly typed.
    pub int8: bool,
    /// Scratch memory, bytes; `None` is the GPU's whole memory.
    pub workspace_bytes: Option<u64>,
    /// 0 to 5; `None` is TensorRT's default.
    pub optimization_level: Option<u8>,
    /// Which other GPUs may run the plan.
    pub hardware_compatibility: HardwareCompatibility,
    /// Profiles, in the order in which the plan numbers them; none where every shape is fixed.
    pub profiles: Vec<Profile>,
    /// Compute capabilities to build for; none builds for the present GPU.
    pub compute_capabilities: Vec<(u32, u32)>,
}

/// What a builder says while it works. Phases nest; a phase inside another advances it by one step when done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// A phase begins.
    Start {
        /// Its name.
        phase: &'a str,
        /// The phase that it is a part of.
        parent: Option<&'a str>,
        /// Steps that it will take.
        steps: u32,
    },
    /// A step is done.
    Step {
        /// Name of the phase.
        phase: &'a str,
        /// Number of the step, from 0.
        step: u32,
    },
    /// A phase ends.
    Finish {
        /// Its name.
        phase: &'a str,
    },
}

/// What a build yields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// The serialized engine.
    pub plan: Vec<u8>,
    /// Measured kernel times for the next build; empty where the product keeps none.
    pub timing_cache: Vec<u8>,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuilderError {
    /// TensorRT refused; its words, and what to do about them.
    #[error("{0}")]
    Failed(String),
    /// The monitor asked to stop.
    #[error("the build was stopped")]
    Cancelled,
}

/// Builds plans with one version of one product.
pub trait Builder {
    /// What builds.
    fn identity(&self) -> Identity;

    /// Builds a plan; blocking, from a second to many minutes. `path` is where the network was read from: its
    /// external data lies beside it. `timing_cache` is an earlier build's, or empty.
    ///
    /// # Errors
    /// [`BuilderError::Cancelled`] where `monitor` breaks; otherwise TensorRT's reason.
    fn build(
        &self,
        onnx: &[u8],
        path: &Path,
        options: &Options,
        timing_cache: &[u8],
        monitor: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Built, BuilderError>;
}
