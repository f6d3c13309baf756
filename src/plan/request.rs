//! What is asked of the cache: a plan of one model version for one kind of GPU.

use std::path::{Path, PathBuf};

use super::builder::{BuilderError, Flavor};
use crate::model::config::Precision;
use crate::model::fp16::Fp16Error;
use crate::model::spec::ModelSpec;

/// The GPU that a plan is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Major and minor.
    pub compute_capability: (u32, u32),
    /// Its name, in the driver's words.
    pub name: String,
    /// Whether it is the GPU that this process would run on.
    pub present: bool,
}

/// Name of the device in a plan's note where only its compute capability counts.
pub const ANY_DEVICE: &str = "any";

impl Target {
    /// A GPU that may not be there, by its compute capability.
    #[must_use]
    pub fn absent(compute_capability: (u32, u32)) -> Self {
        Self { compute_capability, name: ANY_DEVICE.to_owned(), present: false }
    }

    /// The device in keys and notes. TensorRT-RTX looks at the compute capability alone: its plan for one GPU is
    /// good for every other of the same, and was maybe built where there is none.
    #[must_use]
    pub fn device(&self, flavor: Flavor) -> &str {
        if flavor.builds_without_gpu() { ANY_DEVICE } else { &self.name }
    }
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct PlanRequest<'a> {
    /// The model's name.
    pub model: &'a str,
    /// Its version.
    pub version: u64,
    /// Network, precision, shapes and options.
    pub spec: &'a ModelSpec,
    /// The GPU.
    pub target: &'a Target,
    /// Build also where the cache has the plan.
    pub force: bool,
}

impl PlanRequest<'_> {
    /// The repository that the model is in: `<repository>/<model>/<version>/model.onnx`.
    pub(super) fn repository(&self) -> PathBuf {
        let folder = self.spec.path.ancestors().nth(3).unwrap_or(Path::new(""));
        if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder.to_owned() }
    }
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The ONNX file, or a file that it refers to, cannot be used.
    #[error("{0}")]
    Network(String),
    /// A shape is not bounded.
    #[error("{0}")]
    Shape(String),
    /// The precision is not one of TensorRT's here.
    #[error("precision = \"{}\" is not built by TensorRT: use fp32, tf32 or fp16", .0.name())]
    Precision(Precision),
    /// The network cannot be rewritten to 16-bit floats.
    #[error("{path} cannot be rewritten for precision = \"fp16\": {source}")]
    Fp16 {
        /// The ONNX file.
        path: String,
        /// The reason.
        source: Fp16Error,
    },
    /// The GPU is not the one that is here, and this product builds for no other.
    #[error(
        "{flavor} builds only for the GPU that it runs on; for compute capability {major}.{minor} run visord build \
         on such a GPU, or point --tensorrt-dir at TensorRT-RTX"
    )]
    Absent {
        /// The product.
        flavor: &'static str,
        /// The compute capability that was asked for.
        major: u32,
        /// Likewise.
        minor: u32,
    },
    /// TensorRT refused.
    #[error("{path}: {source}")]
    Build {
        /// The ONNX file.
        path: String,
        /// TensorRT's reason.
        source: BuilderError,
    },
    /// Somebody asked to stop.
    #[error("stopped")]
    Cancelled,
}
