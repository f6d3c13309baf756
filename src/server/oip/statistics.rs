//! `GET /v2/models/{model}/stats` and `GET /v2/models/stats`: counts and nanoseconds since the start.

use std::collections::BTreeMap;

use serde::Serialize;

/// The answer to both paths.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Statistics {
    /// One entry for each version of each model asked for.
    pub model_stats: Vec<ModelStatistics>,
}

/// What one version of a model did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ModelStatistics {
    /// Name of the model.
    pub name: String,
    /// Its version.
    pub version: String,
    /// When the last request ran, in milliseconds since 1970; 0 before the first.
    pub last_inference: u64,
    /// Rows that were inferred: a request of batch 8 counts 8.
    pub inference_count: u64,
    /// Batches that were executed.
    pub execution_count: u64,
    /// Where requests spent their time.
    pub inference_stats: InferStatistics,
    /// Only of models that answer a request more than once; ours do not, so it stays empty.
    pub response_stats: BTreeMap<String, ResponseStatistics>,
    /// One entry for each batch size that was executed.
    pub batch_stats: Vec<BatchStatistics>,
    /// Memory that the model holds.
    pub memory_usage: Vec<MemoryUsage>,
}

/// How many, and how long together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct DurationStatistics {
    /// Requests, or batches.
    pub count: u64,
    /// Nanoseconds, summed.
    pub ns: u64,
}

/// Where requests spent their time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct InferStatistics {
    /// Requests that succeeded, from arrival to answer.
    pub success: DurationStatistics,
    /// Requests that failed.
    pub fail: DurationStatistics,
    /// In the queue.
    pub queue: DurationStatistics,
    /// Making the batch.
    pub compute_input: DurationStatistics,
    /// Running it.
    pub compute_infer: DurationStatistics,
    /// Taking it apart.
    pub compute_output: DurationStatistics,
    /// Answers from a cache; there is none, so it stays at zero.
    pub cache_hit: DurationStatistics,
    /// Answers that were not in the cache; likewise.
    pub cache_miss: DurationStatistics,
}

/// Nothing: visord has no such responses, and the type keeps the field's place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ResponseStatistics {}

/// Executions of one batch size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct BatchStatistics {
    /// Rows of the batch.
    pub batch_size: u64,
    /// Making the batch.
    pub compute_input: DurationStatistics,
    /// Running it.
    pub compute_infer: DurationStatistics,
    /// Taking it apart.
    pub compute_output: DurationStatistics,
}

/// Memory of one kind on one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemoryUsage {
    /// `CPU`, `CPU_PINNED` or `GPU`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Device ordinal.
    pub id: u64,
    /// Bytes held.
    pub byte_size: u64,
}
