//! The documents that describe the server and its models, filled from what is served.

use std::sync::atomic::Ordering::Relaxed;

use super::oip::{
    BatchStatistics, DurationStatistics, DynamicBatching, EXTENSIONS, InferStatistics, InstanceGroup,
    LatestVersions, MemoryUsage, ModelConfig, ModelMetadata, ModelStatistics, QueuePolicy, ServerMetadata,
    Statistics, TensorConfig, TensorMetadata, VersionPolicy,
};
use super::rows::image_spec;
use super::state::ServerState;
use crate::error::InferError;
use crate::model::config;
use crate::scheduler::registry::{Registry, VersionState};
use crate::scheduler::served::ServedModel;
use crate::telemetry::metrics::DurationStat;
use crate::tensor::TensorSpec;

/// `GET /v2`.
#[must_use]
pub fn server(state: &ServerState) -> ServerMetadata<'static> {
    let shared = state.shared_memory.on().then_some("system_shared_memory");
    let extensions = EXTENSIONS.into_iter().chain(shared).collect();
    ServerMetadata { name: "visord", version: env!("CARGO_PKG_VERSION"), extensions }
}

/// Inputs as clients see them: the encoded image's, where there is one, before the network's own.
fn inputs(served: &ServedModel) -> Vec<TensorSpec> {
    served.spec.image.iter().map(image_spec).chain(served.spec.inputs.iter().cloned()).collect()
}

/// `GET /v2/models/{model}`.
#[must_use]
pub fn metadata<'a>(served: &'a ServedModel, registry: &Registry) -> ModelMetadata<'a> {
    let models = registry.models();
    let versions = models.get(&served.config.name).map(|m| {
        let ready = m.versions.iter().filter(|(_, state)| matches!(state, VersionState::Ready(_)));
        ready.map(|(v, _)| v.to_string()).collect()
    });
    let batched = served.spec.batched();
    ModelMetadata {
        name: &served.config.name,
        versions: versions.unwrap_or_default(),
        platform: platform(served),
        inputs: inputs(served).iter().map(|s| TensorMetadata::new(s, batched)).collect(),
        outputs: served.spec.outputs.iter().map(|o| TensorMetadata::new(&o.tensor, batched)).collect(),
    }
}

fn platform(served: &ServedModel) -> &'static str {
    match served.backend.name {
        "tensorrt" => "tensorrt_plan",
        "openvino" => "onnx_openvino",
        _ => "onnx_rten",
    }
}

/// `GET /v2/models/{model}/config`.
#[must_use]
pub fn model_config(served: &ServedModel) -> ModelConfig {
    let config = &served.config;
    let batching = &config.dynamic_batching;
    let policy = match &config.version_policy {
        config::VersionPolicy::Latest(n) => VersionPolicy::Latest(LatestVersions { num_versions: *n }),
        config::VersionPolicy::All => VersionPolicy::All {},
        config::VersionPolicy::Specific(versions) => VersionPolicy::Specific { versions: versions.clone() },
    };
    ModelConfig {
        name: config.name.clone(),
        platform: platform(served).to_owned(),
        backend: served.backend.name.to_owned(),
        version_policy: policy,
        max_batch_size: served.spec.max_batch_size,
        input: inputs(served)
            .iter()
            .map(|s| TensorConfig { optional: served.spec.image.is_some(), ..TensorConfig::from(s) })
            .collect(),
        output: served.spec.outputs.iter().map(|o| TensorConfig::from(&o.tensor)).collect(),
        instance_group: vec![InstanceGroup {
            name: format!("{}_0", config.name),
            kind: "KIND_CPU",
            count: served.backend.instances,
            gpus: Vec::new(),
        }],
        dynamic_batching: served.spec.batched().then(|| DynamicBatching {
            preferred_batch_size: batching.preferred_batch_size.clone(),
            max_queue_delay_microseconds: micros(batching.max_queue_delay),
            preserve_ordering: false,
            priority_levels: batching.priority_levels.into(),
            default_priority_level: if batching.priority_levels == 0 {
                0
            } else {
                batching.default_priority_level.into()
            },
            default_queue_policy: QueuePolicy {
                timeout_action: "REJECT",
                default_timeout_microseconds: batching.default_timeout.map_or(0, micros),
                allow_timeout_override: batching.allow_timeout_override,
                max_queue_size: batching.max_queue_size,
            },
        }),
        default_model_filename: crate::model::repository::MODEL_FILE.to_owned(),
        parameters: [
            ("backend_version", served.backend.version.clone()),
            ("device", served.backend.device.clone()),
            ("precision", served.backend.precision.name().to_owned()),
            ("largest_batch_formed", served.backend.max_batch_size.to_string()),
        ]
        .into_iter()
        .chain(golden(served))
        .map(|(key, value)| (key, super::oip::Parameter { string_value: value }))
        .collect(),
    }
}

/// How the version did on its golden cases, and whether that is why it serves in FP32.
fn golden(served: &ServedModel) -> Vec<(&'static str, String)> {
    let report = served.golden.as_ref();
    let values = [
        ("golden_cases", report.map(|r| r.cases.to_string())),
        ("golden_worst_cosine", report.and_then(|r| r.worst_cosine()).map(|c| c.to_string())),
        ("golden_worst_difference", report.map(|r| r.worst_difference().to_string())),
        ("drifted_precision", served.drift.as_ref().map(|d| d.precision.to_owned())),
    ];
    values.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}

fn micros(d: std::time::Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}

/// `GET /v2/models/stats` and `/v2/models/{model}/stats`: one version, every version that serves of one model, or all.
///
/// # Errors
/// As [`Registry::find`].
pub fn statistics(
    registry: &Registry,
    model: Option<&str>,
    version: Option<&str>,
) -> Result<Statistics, InferError> {
    let mut served = match (model, version) {
        (Some(model), Some(version)) => vec![registry.find(model, Some(version))?],
        (Some(model), None) => {
            registry.find(model, None)?;
            registry.served()
        }
        (None, _) => registry.served(),
    };
    served.retain(|s| model.is_none_or(|m| s.config.name == m));
    Ok(Statistics { model_stats: served.iter().map(|s| version_statistics(s)).collect() })
}

fn version_statistics(served: &ServedModel) -> ModelStatistics {
    let s = &served.metrics.statistics;
    let stat = |d: &DurationStat| {
        let (count, ns) = d.get();
        DurationStatistics { count, ns }
    };
    ModelStatistics {
        name: served.config.name.clone(),
        version: served.version.to_string(),
        last_inference: s.last_inference_ms.load(Relaxed),
        inference_count: s.inference_count.load(Relaxed),
        execution_count: s.execution_count.load(Relaxed),
        inference_stats: InferStatistics {
            success: stat(&s.success),
            fail: stat(&s.fail),
            queue: stat(&s.queue),
            compute_input: stat(&s.compute_input),
            compute_infer: stat(&s.compute_infer),
            compute_output: stat(&s.compute_output),
            ..InferStatistics::default()
        },
        batch_stats: s
            .batches()
            .into_iter()
            .map(|b| {
                let stat = |ns| DurationStatistics { count: b.count, ns };
                BatchStatistics {
                    batch_size: b.batch_size as u64,
                    compute_input: stat(b.input_ns),
                    compute_infer: stat(b.infer_ns),
                    compute_output: stat(b.output_ns),
                }
            })
            .collect(),
        memory_usage: Vec::<MemoryUsage>::new(),
        ..ModelStatistics::default()
    }
}
