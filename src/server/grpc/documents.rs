//! The documents that describe the server and its models, as protobuf: what `server::documents` says, field by field.

use std::sync::Arc;

use super::pb::inference as pb;
use super::pb::inference::model_config::SchedulingChoice;
use super::pb::inference::model_version_policy::{All, Latest, PolicyChoice, Specific};
use crate::error::InferError;
use crate::scheduler::registry::Registry;
use crate::scheduler::served::ServedModel;
use crate::server::documents;
use crate::server::oip::{
    BatchStatistics, DurationStatistics, DynamicBatching, InstanceGroup, ModelStatistics, TensorConfig,
    TensorMetadata, VersionPolicy,
};
use crate::server::state::ServerState;

pub(super) fn server(state: &ServerState) -> pb::ServerMetadataResponse {
    let document = documents::server(state);
    pb::ServerMetadataResponse {
        name: document.name.to_owned(),
        version: document.version.to_owned(),
        extensions: document.extensions.iter().map(|&e| e.to_owned()).collect(),
    }
}

pub(super) fn metadata(served: &Arc<ServedModel>, registry: &Registry) -> pb::ModelMetadataResponse {
    let document = documents::metadata(served, registry);
    let tensors = |tensors: Vec<TensorMetadata>| {
        let tensors = tensors.into_iter().map(|t| pb::model_metadata_response::TensorMetadata {
            name: t.name,
            datatype: t.datatype.name().to_owned(),
            shape: t.shape,
        });
        tensors.collect()
    };
    pb::ModelMetadataResponse {
        name: document.name.to_owned(),
        versions: document.versions,
        platform: document.platform.to_owned(),
        inputs: tensors(document.inputs),
        outputs: tensors(document.outputs),
    }
}

pub(super) fn config(served: &ServedModel) -> pb::ModelConfig {
    let document = documents::model_config(served);
    let parameters = document.parameters.into_iter();
    pb::ModelConfig {
        name: document.name,
        platform: document.platform,
        version_policy: Some(pb::ModelVersionPolicy { policy_choice: Some(policy(document.version_policy)) }),
        max_batch_size: int(document.max_batch_size),
        input: document.input.into_iter().map(input).collect(),
        output: document.output.into_iter().map(output).collect(),
        instance_group: document.instance_group.into_iter().map(group).collect(),
        default_model_filename: document.default_model_filename,
        parameters: parameters
            .map(|(key, p)| (key.to_owned(), pb::ModelParameter { string_value: p.string_value }))
            .collect(),
        backend: document.backend,
        scheduling_choice: document.dynamic_batching.map(|b| SchedulingChoice::DynamicBatching(batching(b))),
    }
}

fn policy(policy: VersionPolicy) -> PolicyChoice {
    match policy {
        VersionPolicy::Latest(latest) => {
            PolicyChoice::Latest(Latest { num_versions: latest.num_versions.try_into().unwrap_or(u32::MAX) })
        }
        VersionPolicy::All {} => PolicyChoice::All(All {}),
        VersionPolicy::Specific { versions } => {
            let versions = versions.into_iter().map(|v| i64::try_from(v).unwrap_or(i64::MAX)).collect();
            PolicyChoice::Specific(Specific { versions })
        }
    }
}

fn input(config: TensorConfig) -> pb::ModelInput {
    pb::ModelInput {
        name: config.name,
        data_type: data_type(config.data_type),
        dims: config.dims,
        optional: config.optional,
    }
}

fn output(config: TensorConfig) -> pb::ModelOutput {
    pb::ModelOutput { name: config.name, data_type: data_type(config.data_type), dims: config.dims }
}

/// The enum's value of a name that both protocols have.
fn data_type(name: &str) -> i32 {
    pb::DataType::from_str_name(name).unwrap_or_default() as i32
}

fn group(group: InstanceGroup) -> pb::ModelInstanceGroup {
    let kind = pb::model_instance_group::Kind::from_str_name(group.kind).unwrap_or_default();
    pb::ModelInstanceGroup {
        name: group.name,
        count: int(group.count),
        gpus: group.gpus.into_iter().map(|gpu| i32::try_from(gpu).unwrap_or(i32::MAX)).collect(),
        kind: kind as i32,
    }
}

fn batching(batching: DynamicBatching) -> pb::ModelDynamicBatching {
    let policy = batching.default_queue_policy;
    let action = pb::model_queue_policy::TimeoutAction::from_str_name(policy.timeout_action);
    pb::ModelDynamicBatching {
        preferred_batch_size: batching.preferred_batch_size.into_iter().map(int).collect(),
        max_queue_delay_microseconds: batching.max_queue_delay_microseconds,
        preserve_ordering: batching.preserve_ordering,
        priority_levels: batching.priority_levels,
        default_priority_level: batching.default_priority_level,
        default_queue_policy: Some(pb::ModelQueuePolicy {
            timeout_action: action.unwrap_or_default() as i32,
            default_timeout_microseconds: policy.default_timeout_microseconds,
            allow_timeout_override: policy.allow_timeout_override,
            max_queue_size: u32::try_from(policy.max_queue_size).unwrap_or(u32::MAX),
        }),
    }
}

fn int(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

pub(super) fn statistics(
    registry: &Registry,
    model: Option<&str>,
    version: Option<&str>,
) -> Result<pb::ModelStatisticsResponse, InferError> {
    let document = documents::statistics(registry, model, version)?;
    Ok(pb::ModelStatisticsResponse {
        model_stats: document.model_stats.into_iter().map(version_of).collect(),
    })
}

fn version_of(document: ModelStatistics) -> pb::ModelStatistics {
    let stats = &document.inference_stats;
    pb::ModelStatistics {
        name: document.name,
        version: document.version,
        last_inference: document.last_inference,
        inference_count: document.inference_count,
        execution_count: document.execution_count,
        inference_stats: Some(pb::InferStatistics {
            success: duration(stats.success),
            fail: duration(stats.fail),
            queue: duration(stats.queue),
            compute_input: duration(stats.compute_input),
            compute_infer: duration(stats.compute_infer),
            compute_output: duration(stats.compute_output),
            cache_hit: duration(stats.cache_hit),
            cache_miss: duration(stats.cache_miss),
        }),
        batch_stats: document.batch_stats.into_iter().map(batch).collect(),
        memory_usage: document
            .memory_usage
            .into_iter()
            .map(|m| pb::MemoryUsage {
                r#type: m.kind.to_owned(),
                id: i64::try_from(m.id).unwrap_or(i64::MAX),
                byte_size: m.byte_size,
            })
            .collect(),
        // Only of models that answer a request more than once.
        response_stats: std::collections::HashMap::new(),
    }
}

fn batch(batch: BatchStatistics) -> pb::InferBatchStatistics {
    pb::InferBatchStatistics {
        batch_size: batch.batch_size,
        compute_input: duration(batch.compute_input),
        compute_infer: duration(batch.compute_infer),
        compute_output: duration(batch.compute_output),
    }
}

fn duration(duration: DurationStatistics) -> Option<pb::StatisticDuration> {
    Some(pb::StatisticDuration { count: duration.count, ns: duration.ns })
}
