//! Every metric name, with its unit and help text: the one place where a name is spelled.
//!
//! Base units (`_seconds`, `_bytes`), counters end in `_total`, gauges do not. Triton's words where Triton
//! has one.

/// Requests answered, by `model`, `version`, `protocol` and `outcome` (`success` or an error's reason).
pub const REQUESTS: &str = "visord_inference_requests_total";
/// Answers that are errors, whether a model was known or not, by `protocol` and `reason`.
pub const REQUEST_ERRORS: &str = "visord_request_errors_total";
/// Rows (images or batch rows of tensors) that an engine answered, by `model` and `version`.
pub const INFERENCES: &str = "visord_inference_rows_total";
/// Batches run, by `model` and `version`.
pub const EXECUTIONS: &str = "visord_inference_executions_total";
/// From the request's arrival to its answer where it succeeded, by `model` and `version`.
pub const REQUEST_SECONDS: &str = "visord_inference_request_duration_seconds";
/// Time that a row waited for an instance.
pub const QUEUE_SECONDS: &str = "visord_inference_queue_duration_seconds";
/// Decoding one image.
pub const DECODE_SECONDS: &str = "visord_inference_decode_duration_seconds";
/// Resizing and normalising one image into the engine's input.
pub const PREPROCESS_SECONDS: &str = "visord_inference_preprocess_duration_seconds";
/// Running one batch through the engine.
pub const COMPUTE_SECONDS: &str = "visord_inference_compute_duration_seconds";
/// Softmax, normalisation and handing out one batch's outputs.
pub const POSTPROCESS_SECONDS: &str = "visord_inference_postprocess_duration_seconds";
/// Rows per batch.
pub const BATCH_SIZE: &str = "visord_inference_batch_size";
/// Rows that wait in the model's queue.
pub const PENDING: &str = "visord_pending_rows";
/// Rows that the model's queue can hold.
pub const QUEUE_CAPACITY: &str = "visord_queue_capacity_rows";
/// Instances that can take work.
pub const READY_INSTANCES: &str = "visord_ready_instances";
/// Panics of instances, each followed by a rebuild.
pub const INSTANCE_RESTARTS: &str = "visord_instance_restarts_total";
/// Always 1; labels name the backend, its version, device and precision of a served model version.
pub const BACKEND_INFO: &str = "visord_backend_info";
/// Always 1; labels name the build.
pub const BUILD_INFO: &str = "visord_build_info";
/// Time to load a model version, warm-up included.
pub const LOAD_SECONDS: &str = "visord_model_load_duration_seconds";
/// Attempts to load a model, by `model` and `outcome`: `success`, `failure`, or `unchanged` where it served already.
pub const MODEL_LOADS: &str = "visord_model_loads_total";
/// Models taken out of service by request, or because their folder went.
pub const MODEL_UNLOADS: &str = "visord_model_unloads_total";
/// Versions out of service whose requests are still being answered, or whose memory is not free yet.
pub const DRAINING: &str = "visord_draining_versions";
/// Least cosine between an output of `golden.json` and the served version's, by `model`, `version` and `output`.
pub const GOLDEN_COSINE: &str = "visord_golden_worst_cosine";
/// Largest difference between a value of `golden.json` and the served version's, likewise.
pub const GOLDEN_DIFFERENCE: &str = "visord_golden_worst_difference";
/// 1 where a reduced precision drifted and FP32 serves instead.
pub const DRIFT_FALLBACK: &str = "visord_drift_fallback";
/// 1 when every model is ready and the server admits requests.
pub const READY: &str = "visord_ready";
/// Open HTTP connections.
pub const CONNECTIONS: &str = "visord_http_connections";
/// Open gRPC connections.
pub const GRPC_CONNECTIONS: &str = "visord_grpc_connections";
/// TLS handshakes that failed, by `reason`.
pub const TLS_FAILURES: &str = "visord_tls_handshake_failures_total";
/// Times that the TLS files changed, by `outcome`.
pub const TLS_RELOADS: &str = "visord_tls_reloads_total";
/// When the certificate in use ends.
pub const TLS_EXPIRY: &str = "visord_tls_certificate_expiry_timestamp_seconds";
/// Registered regions of shared memory.
pub const REGIONS: &str = "visord_shared_memory_regions";
/// Request bodies held in memory.
pub const INFLIGHT_BYTES: &str = "visord_request_inflight_bytes";
/// Lines of the log that nobody read in time.
pub const LOG_LINES_DROPPED: &str = "visord_log_lines_dropped_total";
/// Spans that the collector took.
pub const TRACE_SPANS_EXPORTED: &str = "visord_trace_spans_exported_total";
/// Spans that were lost, by `reason`.
pub const TRACE_SPANS_DROPPED: &str = "visord_trace_spans_dropped_total";
/// Plans that were asked of the plan cache, by `outcome`.
pub const PLAN_CACHE: &str = "visord_plan_cache_total";
/// How long the latest build of a plan took, by `model` and `version`.
pub const BUILD_SECONDS: &str = "visord_engine_build_duration_seconds";
/// How far the build of a plan is, 0 to 1, by `model` and `version`.
pub const BUILD_PROGRESS: &str = "visord_engine_build_progress_ratio";

/// Images decoded for an engine on a GPU, by `decoder`: `hardware`, `hybrid` or `cpu`.
pub const IMAGE_DECODES: &str = "visord_image_decodes_total";
/// 1 where there is a GPU and a model is served without it.
pub const GPU_UNUSED: &str = "visord_gpu_unused";

/// 1 while NVML answers for a GPU that visord sees; this and what follows by `gpu`, `uuid` and `name`.
pub const GPU_UP: &str = "visord_gpu_up";
/// Share of the time in which a kernel ran.
pub const GPU_UTILIZATION: &str = "visord_gpu_utilization_ratio";
/// Share of the time in which the video decoder was busy.
pub const GPU_DECODER_UTILIZATION: &str = "visord_gpu_decoder_utilization_ratio";
/// Share of the time in which the JPEG decoder was busy.
pub const GPU_JPEG_UTILIZATION: &str = "visord_gpu_jpeg_utilization_ratio";
/// Memory in use, of all processes.
pub const GPU_MEMORY_USED: &str = "visord_gpu_memory_used_bytes";
/// Memory that there is.
pub const GPU_MEMORY_TOTAL: &str = "visord_gpu_memory_total_bytes";
/// Temperature of the chip.
pub const GPU_TEMPERATURE: &str = "visord_gpu_temperature_celsius";
/// Power drawn.
pub const GPU_POWER: &str = "visord_gpu_power_watts";
/// Power at which the driver lowers the clocks.
pub const GPU_POWER_LIMIT: &str = "visord_gpu_power_limit_watts";
/// Energy used since the driver was loaded.
pub const GPU_ENERGY: &str = "visord_gpu_energy_joules_total";
/// Clocks now, by `clock`: `sm` or `memory`.
pub const GPU_CLOCK: &str = "visord_gpu_clock_hertz";
/// The highest that they can be, likewise.
pub const GPU_CLOCK_MAX: &str = "visord_gpu_clock_max_hertz";
/// Errors of the memory, by `type`: `corrected` or `uncorrected`.
pub const GPU_ECC_ERRORS: &str = "visord_gpu_ecc_errors_total";
/// 1 where the clocks are held down, by `reason`.
pub const GPU_THROTTLED: &str = "visord_gpu_throttled";

/// What comes from NVML.
pub const NVML: [&str; 14] = [
    GPU_UP,
    GPU_UTILIZATION,
    GPU_DECODER_UTILIZATION,
    GPU_JPEG_UTILIZATION,
    GPU_MEMORY_USED,
    GPU_MEMORY_TOTAL,
    GPU_TEMPERATURE,
    GPU_POWER,
    GPU_POWER_LIMIT,
    GPU_ENERGY,
    GPU_CLOCK,
    GPU_CLOCK_MAX,
    GPU_ECC_ERRORS,
    GPU_THROTTLED,
];

/// Requests whose version, by `[traffic]`, was not ready, so that another answered, by `model` and `version`.
pub const TRAFFIC_FALLBACKS: &str = "visord_traffic_fallbacks_total";
/// Share of requests that `[traffic]` gives to a version, by `model` and `version`.
pub const TRAFFIC_SHARE: &str = "visord_traffic_share_ratio";
/// Cosine between a row of an output and the same row on the shadow version, by `model`, `version` (which
/// answered), `shadow` (which ran the copy) and `output`.
pub const SHADOW_COSINE: &str = "visord_shadow_cosine";
/// Rows by whether both versions say the same, likewise and by `agree`.
pub const SHADOW_AGREEMENT: &str = "visord_shadow_agreement_total";
/// From the queue to the result of requests that ran on both versions, by `model`, `version`, `shadow` and `side`.
pub const SHADOW_SECONDS: &str = "visord_shadow_duration_seconds";
/// Copies given up before they ran, by `model`, `version`, `shadow` and `reason`.
pub const SHADOW_SHED: &str = "visord_shadow_shed_total";
/// Copies that failed and outputs that cannot be compared, likewise.
pub const SHADOW_ERRORS: &str = "visord_shadow_errors_total";

/// Unit of a metric, for its description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only goes up.
    Counter,
    /// Goes both ways.
    Gauge,
    /// Observations in [`DURATION_BUCKETS`], [`BATCH_BUCKETS`] or [`COSINE_BUCKETS`].
    Histogram,
}

/// Name, kind and help of every metric of visord's own.
pub const ALL: &[(&str, Kind, &str)] = &[
    (REQUESTS, Kind::Counter, "Inference requests answered, by protocol and outcome."),
    (REQUEST_ERRORS, Kind::Counter, "Answers that are errors, by reason; also where no model was known yet."),
    (INFERENCES, Kind::Counter, "Rows (images or batch rows) that the engine answered."),
    (EXECUTIONS, Kind::Counter, "Batches run by the engine."),
    (
        REQUEST_SECONDS,
        Kind::Histogram,
        "From a request's arrival to its answer, where it succeeded: refusals would flatter an overload.",
    ),
    (QUEUE_SECONDS, Kind::Histogram, "Time a row waited for an instance."),
    (DECODE_SECONDS, Kind::Histogram, "Decoding one image."),
    (PREPROCESS_SECONDS, Kind::Histogram, "Resizing and normalising one image."),
    (COMPUTE_SECONDS, Kind::Histogram, "Running one batch through the engine."),
    (POSTPROCESS_SECONDS, Kind::Histogram, "Post-processing and handing out one batch."),
    (BATCH_SIZE, Kind::Histogram, "Rows per batch."),
    (PENDING, Kind::Gauge, "Rows waiting in the model's queue."),
    (QUEUE_CAPACITY, Kind::Gauge, "Rows that the model's queue can hold."),
    (READY_INSTANCES, Kind::Gauge, "Instances that can take work."),
    (INSTANCE_RESTARTS, Kind::Counter, "Panics of instances, each followed by a rebuild."),
    (BACKEND_INFO, Kind::Gauge, "The backend, device and precision that serve a model version."),
    (BUILD_INFO, Kind::Gauge, "Version of this build."),
    (LOAD_SECONDS, Kind::Gauge, "Time to load a model version, warm-up included."),
    (MODEL_LOADS, Kind::Counter, "Attempts to load a model, by outcome."),
    (MODEL_UNLOADS, Kind::Counter, "Models taken out of service."),
    (DRAINING, Kind::Gauge, "Versions out of service that still answer requests or hold memory."),
    (GOLDEN_COSINE, Kind::Gauge, "Least cosine between an output and what golden.json says, at load."),
    (GOLDEN_DIFFERENCE, Kind::Gauge, "Largest difference of a value from what golden.json says, at load."),
    (DRIFT_FALLBACK, Kind::Gauge, "1 where a reduced precision drifted and FP32 serves instead."),
    (READY, Kind::Gauge, "1 when every model is ready and requests are admitted."),
    (CONNECTIONS, Kind::Gauge, "Open HTTP connections."),
    (GRPC_CONNECTIONS, Kind::Gauge, "Open gRPC connections."),
    (TLS_FAILURES, Kind::Counter, "TLS handshakes that failed, by reason."),
    (TLS_RELOADS, Kind::Counter, "Times that the TLS files changed, by whether they could be used."),
    (TLS_EXPIRY, Kind::Gauge, "When the certificate in use ends, seconds since 1970."),
    (REGIONS, Kind::Gauge, "Regions of shared memory that clients have registered."),
    (INFLIGHT_BYTES, Kind::Gauge, "Bytes of request bodies held in memory."),
    (LOG_LINES_DROPPED, Kind::Counter, "Lines of the log that were dropped because nobody read them."),
    (TRACE_SPANS_EXPORTED, Kind::Counter, "Spans of traces that the collector took."),
    (TRACE_SPANS_DROPPED, Kind::Counter, "Spans of traces that were dropped, by reason."),
    (PLAN_CACHE, Kind::Counter, "TensorRT plans asked of the plan cache, by outcome."),
    (BUILD_SECONDS, Kind::Gauge, "How long the latest build of a TensorRT plan took."),
    (BUILD_PROGRESS, Kind::Gauge, "How far the build of a TensorRT plan is, 0 to 1."),
    (IMAGE_DECODES, Kind::Counter, "Images decoded for an engine on a GPU, by who decoded."),
    (GPU_UNUSED, Kind::Gauge, "1 where there is a GPU and a model is served without it."),
    (GPU_UP, Kind::Gauge, "1 while NVML answers for a GPU that visord sees."),
    (GPU_UTILIZATION, Kind::Gauge, "Share of the time in which a kernel ran, 0 to 1."),
    (GPU_DECODER_UTILIZATION, Kind::Gauge, "Share of the time in which the video decoder was busy, 0 to 1."),
    (GPU_JPEG_UTILIZATION, Kind::Gauge, "Share of the time in which the JPEG decoder was busy, 0 to 1."),
    (GPU_MEMORY_USED, Kind::Gauge, "Memory of a GPU in use by all processes."),
    (GPU_MEMORY_TOTAL, Kind::Gauge, "Memory of a GPU."),
    (GPU_TEMPERATURE, Kind::Gauge, "Temperature of a GPU."),
    (GPU_POWER, Kind::Gauge, "Power that a GPU draws."),
    (GPU_POWER_LIMIT, Kind::Gauge, "Power at which the driver lowers a GPU's clocks."),
    (GPU_ENERGY, Kind::Counter, "Energy that a GPU has used since its driver was loaded."),
    (GPU_CLOCK, Kind::Gauge, "Clocks of a GPU."),
    (GPU_CLOCK_MAX, Kind::Gauge, "The highest that a GPU's clocks can be."),
    (
        GPU_ECC_ERRORS,
        Kind::Counter,
        "Errors of a GPU's memory since its driver was loaded, by whether ECC corrected them.",
    ),
    (GPU_THROTTLED, Kind::Gauge, "1 where a GPU's clocks are held down, by reason."),
    (TRAFFIC_FALLBACKS, Kind::Counter, "Requests whose version was not ready, so that another answered."),
    (TRAFFIC_SHARE, Kind::Gauge, "Share of the requests that [traffic] gives to a version."),
    (
        SHADOW_COSINE,
        Kind::Histogram,
        "Cosine between outputs of the version that answered and of the shadow.",
    ),
    (SHADOW_AGREEMENT, Kind::Counter, "Rows by whether both versions name the same class or numbers."),
    (SHADOW_SECONDS, Kind::Histogram, "From queue to result of requests that ran on both versions, by side."),
    (SHADOW_SHED, Kind::Counter, "Copies of requests given up before they ran, by reason."),
    (SHADOW_ERRORS, Kind::Counter, "Copies that failed and outputs that cannot be compared, by reason."),
];

/// Bucket bounds of every duration, seconds: 0.1 ms to 10 s, four a decade where requests live.
pub const DURATION_BUCKETS: [f64; 18] = [
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0,
    2.5, 10.0,
];

/// Bucket bounds of batch sizes, rows.
pub const BATCH_BUCKETS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// Bucket bounds of cosines, fine where two versions of one network lie: `le` counts what is at most that near.
pub const COSINE_BUCKETS: [f64; 13] =
    [0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9995, 0.9999, 0.99999, 1.0];

/// Triton's own names and units (microseconds, no `_total`), for dashboards that exist, behind
/// `--triton-metrics`. Source: Triton's `docs/user_guide/metrics.md`.
pub mod triton {
    /// Requests that succeeded.
    pub const SUCCESS: &str = "nv_inference_request_success";
    /// Requests that failed, by `reason`.
    pub const FAILURE: &str = "nv_inference_request_failure";
    /// Rows inferred.
    pub const COUNT: &str = "nv_inference_count";
    /// Batches run.
    pub const EXEC_COUNT: &str = "nv_inference_exec_count";
    /// Microseconds from arrival to answer.
    pub const REQUEST_US: &str = "nv_inference_request_duration_us";
    /// Microseconds in the queue.
    pub const QUEUE_US: &str = "nv_inference_queue_duration_us";
    /// Microseconds of decode and preprocessing.
    pub const INPUT_US: &str = "nv_inference_compute_input_duration_us";
    /// Microseconds in the engine.
    pub const INFER_US: &str = "nv_inference_compute_infer_duration_us";
    /// Microseconds of post-processing.
    pub const OUTPUT_US: &str = "nv_inference_compute_output_duration_us";
    /// Rows waiting.
    pub const PENDING: &str = "nv_inference_pending_request_count";

    /// Kind and help of each.
    pub const ALL: [(&str, super::Kind, &str); 10] = {
        use super::Kind::{Counter, Gauge};
        [
            (SUCCESS, Counter, "Requests that succeeded."),
            (FAILURE, Counter, "Requests that failed, by reason."),
            (COUNT, Counter, "Rows inferred."),
            (EXEC_COUNT, Counter, "Batches run."),
            (REQUEST_US, Counter, "Microseconds from arrival to answer."),
            (QUEUE_US, Counter, "Microseconds in the queue."),
            (INPUT_US, Counter, "Microseconds of decode and preprocessing."),
            (INFER_US, Counter, "Microseconds in the engine."),
            (OUTPUT_US, Counter, "Microseconds of post-processing."),
            (PENDING, Gauge, "Rows waiting."),
        ]
    };
}
