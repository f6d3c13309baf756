//! `GET /v2` and `GET /v2/models/{model}`: what the server and its models are.

use serde::Serialize;

use crate::tensor::{Datatype, TensorSpec};

/// The protocol extensions that are served. `system_shared_memory` is where it is on; Triton's others are not:
/// `sequence`, `cuda_shared_memory`, `trace`, `logging`.
pub const EXTENSIONS: [&str; 9] = [
    "classification",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "logging",
];

/// The answer to `GET /v2`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerMetadata<'a> {
    /// Name of the server.
    pub name: &'a str,
    /// Its version.
    pub version: &'a str,
    /// [`EXTENSIONS`], and `system_shared_memory` where that is on.
    pub extensions: Vec<&'a str>,
}

/// The answer to `GET /v2/models/{model}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelMetadata<'a> {
    /// Name of the model.
    pub name: &'a str,
    /// Versions that are loaded.
    pub versions: Vec<String>,
    /// What runs the model, in Triton's words, e.g. `tensorrt_plan` or `onnx_rten`.
    pub platform: &'a str,
    /// Inputs, in the model's order.
    pub inputs: Vec<TensorMetadata>,
    /// Outputs, in the model's order.
    pub outputs: Vec<TensorMetadata>,
}

/// One input or output as clients see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TensorMetadata {
    /// Name in the model.
    pub name: String,
    /// Element type.
    pub datatype: Datatype,
    /// Full shape; -1 marks a dimension that varies, among them the batch.
    pub shape: Vec<i64>,
}

impl TensorMetadata {
    /// `spec` with its batch dimension in front, where the model has one.
    #[must_use]
    pub fn new(spec: &TensorSpec, batched: bool) -> Self {
        let shape = batched.then_some(-1).into_iter().chain(spec.shape.iter().copied()).collect();
        Self { name: spec.name.clone(), datatype: spec.datatype, shape }
    }
}
