//! `GET /v2/models/{model}/config`: a model's configuration in Triton's words.
//!
//! The fields are those of Triton's `ModelConfig` that say something here; the rest is left out, which its
//! clients read as the default.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::tensor::{Datatype, TensorSpec};

/// The answer to `GET /v2/models/{model}/config`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelConfig {
    /// Name of the model.
    pub name: String,
    /// What runs the model, as in the metadata.
    pub platform: String,
    /// Triton's name for the backend, e.g. `tensorrt`.
    pub backend: String,
    /// Which versions are loaded.
    pub version_policy: VersionPolicy,
    /// Rows of a batch; 0 for a model without a batch dimension.
    pub max_batch_size: usize,
    /// Inputs, in the model's order.
    pub input: Vec<TensorConfig>,
    /// Outputs, in the model's order.
    pub output: Vec<TensorConfig>,
    /// Where the model runs, and how often.
    pub instance_group: Vec<InstanceGroup>,
    /// The batcher; left out where requests are not joined.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dynamic_batching: Option<DynamicBatching>,
    /// File name of the model in its version's directory.
    pub default_model_filename: String,
    /// What Triton has no field for: backend version, device, precision.
    pub parameters: BTreeMap<&'static str, Parameter>,
}

/// One free parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Parameter {
    /// Its value.
    pub string_value: String,
}

/// Which versions are loaded, e.g. `{"latest":{"num_versions":1}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum VersionPolicy {
    /// The newest.
    Latest(LatestVersions),
    /// Every one.
    All {},
    /// These.
    Specific {
        /// Their numbers.
        versions: Vec<u64>,
    },
}

/// How many versions are loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LatestVersions {
    /// Versions, the newest first.
    pub num_versions: usize,
}

/// One input or output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TensorConfig {
    /// Name in the model.
    pub name: String,
    /// `TYPE_FP32` and the like.
    pub data_type: &'static str,
    /// Shape without the batch dimension; -1 marks a dimension that varies.
    pub dims: Vec<i64>,
    /// Whether a request may leave it out: a model that takes images takes either those or tensors.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
}

impl From<&TensorSpec> for TensorConfig {
    fn from(spec: &TensorSpec) -> Self {
        Self {
            name: spec.name.clone(),
            data_type: data_type(spec.datatype),
            dims: spec.shape.clone(),
            optional: false,
        }
    }
}

/// Instances of the model on one kind of device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InstanceGroup {
    /// Name of the group.
    pub name: String,
    /// `KIND_GPU` or `KIND_CPU`.
    pub kind: &'static str,
    /// Instances on each device.
    pub count: usize,
    /// Devices; empty on the CPU.
    pub gpus: Vec<u32>,
}

/// How requests are joined to batches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DynamicBatching {
    /// Sizes worth waiting for.
    pub preferred_batch_size: Vec<usize>,
    /// Longest wait for a fuller batch.
    pub max_queue_delay_microseconds: u64,
    /// Whether answers leave in the order of their requests.
    pub preserve_ordering: bool,
    /// Priorities that requests may have; 0 for none.
    pub priority_levels: u64,
    /// Priority of a request that names none.
    pub default_priority_level: u64,
    /// Limits of the queue.
    pub default_queue_policy: QueuePolicy,
}

/// Limits of a queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueuePolicy {
    /// What happens to a request that waited too long: `REJECT`.
    pub timeout_action: &'static str,
    /// Longest wait; 0 for none.
    pub default_timeout_microseconds: u64,
    /// Whether a request may set a shorter one.
    pub allow_timeout_override: bool,
    /// Rows that may wait.
    pub max_queue_size: usize,
}

/// The model configuration's name of a datatype.
#[must_use]
pub const fn data_type(datatype: Datatype) -> &'static str {
    match datatype {
        Datatype::Bool => "TYPE_BOOL",
        Datatype::Uint8 => "TYPE_UINT8",
        Datatype::Uint16 => "TYPE_UINT16",
        Datatype::Uint32 => "TYPE_UINT32",
        Datatype::Uint64 => "TYPE_UINT64",
        Datatype::Int8 => "TYPE_INT8",
        Datatype::Int16 => "TYPE_INT16",
        Datatype::Int32 => "TYPE_INT32",
        Datatype::Int64 => "TYPE_INT64",
        Datatype::Fp16 => "TYPE_FP16",
        Datatype::Bf16 => "TYPE_BF16",
        Datatype::Fp32 => "TYPE_FP32",
        Datatype::Fp64 => "TYPE_FP64",
        Datatype::Bytes => "TYPE_STRING",
    }
}
