//! The registry behind `/metrics`, and the handles that a model version records through.
//!
//! Handles are registered once, when a version loads; recording on the request path is an atomic add. The
//! statistics that `/v2/models/<m>/stats` answers are kept by the same calls, so that both tell the same story.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::logging;
use super::meter::{BusyClock, Meter};
use super::names::{self, Kind};
#[cfg(feature = "tensorrt")]
use super::nvml::GpuWatch;
use crate::error::ErrorKind;

static METADATA: Metadata<'static> = Metadata::new("visord", Level::INFO, Some("visord"));

/// How a request came in; the `protocol` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// `POST /v1/models/{model}/infer`.
    Http,
    /// Open Inference Protocol over HTTP.
    Oip,
    /// PaddleServing's pipeline gateway.
    Paddle,
    /// Open Inference Protocol over gRPC.
    OipGrpc,
    /// PaddleServing's pipeline over gRPC.
    PaddleGrpc,
    /// No client: the copy of a request that another version has answered.
    Shadow,
}

impl Protocol {
    /// Every protocol, for metrics that must exist at zero.
    pub const ALL: [Protocol; 6] =
        [Self::Http, Self::Oip, Self::Paddle, Self::OipGrpc, Self::PaddleGrpc, Self::Shadow];

    /// The label's value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Oip => "oip_http",
            Self::Paddle => "paddle_http",
            Self::OipGrpc => "oip_grpc",
            Self::PaddleGrpc => "paddle_grpc",
            Self::Shadow => "shadow",
        }
    }
}

/// The metrics of one server. Cheap to clone.
#[derive(Clone)]
pub struct Telemetry {
    recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
    process: Arc<metrics_process::Collector>,
    #[cfg(feature = "tensorrt")]
    gpus: Arc<std::sync::OnceLock<GpuWatch>>,
    triton: bool,
    summary: bool,
    log_dropped: Counter,
    /// Open HTTP connections.
    pub connections: Gauge,
    /// Registered regions of shared memory.
    pub regions: Gauge,
    /// Open gRPC connections.
    pub grpc_connections: Gauge,
    /// Bytes of request bodies held in memory.
    pub inflight_bytes: Gauge,
    /// 1 when the server is ready.
    pub ready: Gauge,
    /// 1 where there is a GPU and a model is served without it.
    pub gpu_unused: Gauge,
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Telemetry").field("triton", &self.triton).finish_non_exhaustive()
    }
}

impl Telemetry {
    /// A registry of its own, so that several servers can live in one process. `triton` adds the
    /// `nv_inference_*` counters.
    #[must_use]
    pub fn new(triton: bool) -> Self {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &names::DURATION_BUCKETS)
            .and_then(|b| {
                b.set_buckets_for_metric(Matcher::Full(names::BATCH_SIZE.into()), &names::BATCH_BUCKETS)
            })
            .and_then(|b| {
                b.set_buckets_for_metric(Matcher::Full(names::SHADOW_COSINE.into()), &names::COSINE_BUCKETS)
            })
            .expect("bucket lists are not empty")
            .build_recorder();
        for &(name, kind, help) in names::ALL.iter().chain(&names::triton::ALL) {
            let unit = if name.ends_with("_seconds") { Some(Unit::Seconds) } else { None };
            match kind {
                Kind::Counter => recorder.describe_counter(name.into(), unit, help.into()),
                Kind::Gauge => recorder.describe_gauge(name.into(), unit, help.into()),
                Kind::Histogram => recorder.describe_histogram(name.into(), unit, help.into()),
            }
        }
        let gauge = |name: &'static str| recorder.register_gauge(&Key::from_name(name), &METADATA);
        let (connections, inflight_bytes, ready) =
            (gauge(names::CONNECTIONS), gauge(names::INFLIGHT_BYTES), gauge(names::READY));
        let regions = gauge(names::REGIONS);
        let grpc_connections = gauge(names::GRPC_CONNECTIONS);
        let gpu_unused = gauge(names::GPU_UNUSED);
        let log_dropped = recorder.register_counter(&Key::from_name(names::LOG_LINES_DROPPED), &METADATA);
        recorder
            .register_gauge(
                &Key::from_parts(
                    names::BUILD_INFO,
                    vec![
                        Label::new("version", env!("CARGO_PKG_VERSION")),
                        Label::new("commit", crate::COMMIT),
                    ],
                ),
                &METADATA,
            )
            .set(1.0);
        let process = metrics_process::Collector::default();
        metrics::with_local_recorder(&recorder, || process.describe());
        let handle = recorder.handle();
        Self {
            recorder: Arc::new(recorder),
            handle,
            process: Arc::new(process),
            #[cfg(feature = "tensorrt")]
            gpus: Arc::default(),
            triton,
            summary: false,
            log_dropped,
            connections,
            regions,
            grpc_connections,
            inflight_bytes,
            ready,
            gpu_unused,
        }
    }

    /// The same, where `on` with what the summary line needs besides.
    #[must_use]
    pub fn summarizing(mut self, on: bool) -> Self {
        self.summary = on;
        self
    }

    /// The Prometheus text exposition.
    #[must_use]
    pub fn render(&self) -> String {
        metrics::with_local_recorder(&*self.recorder, || self.process.collect());
        if let Some(logging) = logging::logging() {
            logging.count_dropped(&self.log_dropped);
        }
        #[allow(unused_mut, reason = "without the GPU path nothing is added")]
        let mut text = self.handle.render();
        #[cfg(feature = "tensorrt")]
        if let Some(gpus) = self.gpus.get() {
            gpus.render(&mut text);
        }
        text
    }

    /// Shows NVML's numbers of `gpus` from now on.
    #[cfg(feature = "tensorrt")]
    pub fn watch_gpus(&self, gpus: &[crate::gpu::probe::GpuInfo]) {
        self.gpus.get_or_init(|| GpuWatch::start(gpus.to_vec()));
    }

    /// To be called before [`Self::render`] answers a scrape; waits half a second at most, and for nothing without a GPU.
    pub async fn refresh(&self) {
        #[cfg(feature = "tensorrt")]
        if let Some(gpus) = self.gpus.get() {
            gpus.refresh().await;
        }
    }

    /// Folds recorded histogram samples into their buckets; to be called every few seconds, since samples
    /// otherwise pile up until the next scrape.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    /// Counts an answer that is an error; `None` where hyper answered before there was a protocol.
    pub fn count_error(&self, protocol: Option<Protocol>, kind: ErrorKind) {
        let labels = vec![
            Label::new("protocol", protocol.map_or("none", Protocol::name)),
            Label::new("reason", kind.status().reason),
        ];
        self.counter(names::REQUEST_ERRORS, labels).increment(1);
    }

    pub(super) fn counter(&self, name: &'static str, labels: Vec<Label>) -> Counter {
        self.recorder.register_counter(&Key::from_parts(name, labels), &METADATA)
    }

    pub(super) fn gauge(&self, name: &'static str, labels: Vec<Label>) -> Gauge {
        self.recorder.register_gauge(&Key::from_parts(name, labels), &METADATA)
    }

    pub(super) fn histogram(&self, name: &'static str, labels: Vec<Label>) -> Histogram {
        self.recorder.register_histogram(&Key::from_parts(name, labels), &METADATA)
    }

    /// Registers the handles of one model version.
    #[must_use]
    pub fn model(&self, model: &str, version: u64) -> ModelMetrics {
        let labels =
            || vec![Label::new("model", model.to_owned()), Label::new("version", version.to_string())];
        let triton = self.triton.then(|| TritonCounters {
            success: self.counter(names::triton::SUCCESS, labels()),
            count: self.counter(names::triton::COUNT, labels()),
            exec_count: self.counter(names::triton::EXEC_COUNT, labels()),
            request: self.counter(names::triton::REQUEST_US, labels()),
            queue: self.counter(names::triton::QUEUE_US, labels()),
            input: self.counter(names::triton::INPUT_US, labels()),
            infer: self.counter(names::triton::INFER_US, labels()),
            output: self.counter(names::triton::OUTPUT_US, labels()),
            pending: self.gauge(names::triton::PENDING, labels()),
        });
        let success = Protocol::ALL.map(|p| {
            let mut labels = labels();
            labels.push(Label::new("protocol", p.name()));
            labels.push(Label::new("outcome", "success"));
            self.counter(names::REQUESTS, labels)
        });
        ModelMetrics {
            telemetry: self.clone(),
            labels: labels(),
            success,
            inferences: self.counter(names::INFERENCES, labels()),
            executions: self.counter(names::EXECUTIONS, labels()),
            request: self.histogram(names::REQUEST_SECONDS, labels()),
            queue: self.histogram(names::QUEUE_SECONDS, labels()),
            decode: self.histogram(names::DECODE_SECONDS, labels()),
            preprocess: self.histogram(names::PREPROCESS_SECONDS, labels()),
            compute: self.histogram(names::COMPUTE_SECONDS, labels()),
            postprocess: self.histogram(names::POSTPROCESS_SECONDS, labels()),
            batch_size: self.histogram(names::BATCH_SIZE, labels()),
            pending: self.gauge(names::PENDING, labels()),
            waiting: AtomicUsize::new(0),
            ready_instances: self.gauge(names::READY_INSTANCES, labels()),
            restarts: self.counter(names::INSTANCE_RESTARTS, labels()),
            triton,
            statistics: Statistics::default(),
            meter: self.summary.then(Meter::default),
            instances: OnceLock::new(),
            since: OnceLock::new(),
        }
    }
}

struct TritonCounters {
    success: Counter,
    count: Counter,
    exec_count: Counter,
    request: Counter,
    queue: Counter,
    input: Counter,
    infer: Counter,
    output: Counter,
    pending: Gauge,
}

/// Where the time of one answered request went. A stage that a batch shares counts in full for each request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StageTimes {
    /// Longest wait of one of its rows.
    pub queue: Duration,
    /// Decode and preprocess of the batch.
    pub input: Duration,
    /// Engine.
    pub infer: Duration,
    /// Post-processing.
    pub output: Duration,
}

/// One duration statistic in Triton's form.
#[derive(Debug, Default)]
pub struct DurationStat {
    count: AtomicU64,
    ns: AtomicU64,
}

impl DurationStat {
    pub(super) fn add(&self, d: Duration) {
        self.count.fetch_add(1, Relaxed);
        self.ns.fetch_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// `(count, ns)`.
    pub fn get(&self) -> (u64, u64) {
        (self.count.load(Relaxed), self.ns.load(Relaxed))
    }
}

/// One row of `batch_stats`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BatchStat {
    /// Rows in these batches.
    pub batch_size: usize,
    /// Batches of that size.
    pub count: u64,
    /// Nanoseconds of decode and preprocessing.
    pub input_ns: u64,
    /// Nanoseconds in the engine.
    pub infer_ns: u64,
    /// Nanoseconds of post-processing.
    pub output_ns: u64,
}

/// What `/v2/models/<m>/stats` answers.
#[derive(Debug, Default)]
pub struct Statistics {
    /// Milliseconds since the epoch of the last answer.
    pub last_inference_ms: AtomicU64,
    /// Rows inferred.
    pub inference_count: AtomicU64,
    /// Batches run.
    pub execution_count: AtomicU64,
    /// Requests that succeeded, arrival to answer.
    pub success: DurationStat,
    /// Requests that failed, arrival to answer.
    pub fail: DurationStat,
    /// Queue time of requests that succeeded.
    pub queue: DurationStat,
    /// Decode and preprocess time of requests that succeeded.
    pub compute_input: DurationStat,
    /// Engine time of requests that succeeded.
    pub compute_infer: DurationStat,
    /// Post-processing time of requests that succeeded.
    pub compute_output: DurationStat,
    batches: Mutex<Vec<BatchStat>>,
}

impl Statistics {
    /// Batches by size, smallest first.
    pub fn batches(&self) -> Vec<BatchStat> {
        self.batches.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

/// The recording side of one model version.
pub struct ModelMetrics {
    telemetry: Telemetry,
    labels: Vec<Label>,
    success: [Counter; Protocol::ALL.len()],
    inferences: Counter,
    executions: Counter,
    request: Histogram,
    queue: Histogram,
    decode: Histogram,
    preprocess: Histogram,
    compute: Histogram,
    postprocess: Histogram,
    batch_size: Histogram,
    pending: Gauge,
    /// What this load's queue has put into `pending`.
    waiting: AtomicUsize,
    /// Instances that can take work.
    pub ready_instances: Gauge,
    /// Instances rebuilt.
    pub restarts: Counter,
    triton: Option<TritonCounters>,
    /// The same numbers for the statistics endpoint.
    pub statistics: Statistics,
    /// What the summary line needs besides.
    pub(super) meter: Option<Meter>,
    instances: OnceLock<Box<[BusyClock]>>,
    since: OnceLock<Instant>,
}

impl std::fmt::Debug for ModelMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelMetrics").field("labels", &self.labels).finish_non_exhaustive()
    }
}

impl ModelMetrics {
    /// Where this is recorded.
    #[must_use]
    pub fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    /// Says how many instances run the version, once.
    pub fn set_instances(&self, count: usize) {
        self.instances.get_or_init(|| (0..count).map(|_| BusyClock::default()).collect());
    }

    /// How long each instance was busy.
    #[must_use]
    pub fn instances(&self) -> &[BusyClock] {
        self.instances.get().map_or(&[], |clocks| clocks)
    }

    /// When it had loaded.
    #[must_use]
    pub fn since(&self) -> Option<Instant> {
        self.since.get().copied()
    }

    /// How long the instances together were busy until `now`.
    #[must_use]
    pub fn busy(&self, now: Instant) -> Duration {
        self.instances().iter().map(|clock| clock.busy(now)).sum()
    }

    /// Records how long decoding, and resizing and normalising, each image of a batch took.
    pub fn images(&self, decode: &[Duration], preprocess: &[Duration]) {
        decode.iter().for_each(|d| self.decode.record(*d));
        preprocess.iter().for_each(|d| self.preprocess.record(*d));
        if let Some(meter) = &self.meter {
            decode.iter().for_each(|d| meter.decode.add(*d));
            preprocess.iter().for_each(|d| meter.preprocess.add(*d));
        }
    }

    /// Counts an answered request. Copies are only counted: their latency is not what a client saw.
    pub fn request_succeeded(&self, protocol: Protocol, total: Duration, stages: StageTimes) {
        self.success[protocol as usize].increment(1);
        if protocol == Protocol::Shadow {
            return;
        }
        self.request.record(total);
        if let Some(meter) = &self.meter {
            meter.latencies.record(total);
        }
        let s = &self.statistics;
        s.success.add(total);
        s.queue.add(stages.queue);
        s.compute_input.add(stages.input);
        s.compute_infer.add(stages.infer);
        s.compute_output.add(stages.output);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        s.last_inference_ms.store(u64::try_from(now.as_millis()).unwrap_or(0), Relaxed);
        if let Some(t) = &self.triton {
            t.success.increment(1);
            t.request.increment(micros(total));
            t.queue.increment(micros(stages.queue));
            t.input.increment(micros(stages.input));
            t.infer.increment(micros(stages.infer));
            t.output.increment(micros(stages.output));
        }
    }

    /// Counts a request that failed after its model was known.
    pub fn request_failed(&self, protocol: Protocol, total: Duration, kind: ErrorKind) {
        let mut labels = self.labels.clone();
        labels.push(Label::new("protocol", protocol.name()));
        labels.push(Label::new("outcome", kind.status().reason));
        self.telemetry.counter(names::REQUESTS, labels).increment(1);
        if protocol == Protocol::Shadow {
            return;
        }
        self.statistics.fail.add(total);
        if self.triton.is_some() {
            let mut labels = self.labels.clone();
            labels.push(Label::new("reason", triton_reason(kind)));
            self.telemetry.counter(names::triton::FAILURE, labels).increment(1);
        }
    }

    /// Counts one batch.
    pub fn batch_done(&self, rows: usize, queued: impl Iterator<Item = Duration>, stages: StageTimes) {
        self.inferences.increment(rows as u64);
        self.executions.increment(1);
        self.batch_size.record(rows as f64);
        self.compute.record(stages.infer);
        self.postprocess.record(stages.output);
        for wait in queued {
            self.queue.record(wait);
        }
        let s = &self.statistics;
        s.inference_count.fetch_add(rows as u64, Relaxed);
        s.execution_count.fetch_add(1, Relaxed);
        {
            let mut batches = s.batches.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let at = match batches.binary_search_by_key(&rows, |b| b.batch_size) {
                Ok(at) => at,
                Err(at) => {
                    batches.insert(at, BatchStat { batch_size: rows, ..BatchStat::default() });
                    at
                }
            };
            let b = &mut batches[at];
            b.count += 1;
            b.input_ns += nanos(stages.input);
            b.infer_ns += nanos(stages.infer);
            b.output_ns += nanos(stages.output);
        }
        if let Some(t) = &self.triton {
            t.count.increment(rows as u64);
            t.exec_count.increment(1);
        }
    }

    /// Sets the number of waiting rows. While a version is replaced by a newer load of itself, the metric is the sum
    /// of both; to be called under the queue's lock.
    pub fn set_pending(&self, rows: usize) {
        let before = self.waiting.swap(rows, Relaxed);
        let step = rows as f64 - before as f64;
        self.pending.increment(step);
        if let Some(t) = &self.triton {
            t.pending.increment(step);
        }
    }

    /// Sets how near an output came to `golden.json`; integers have no cosine.
    pub fn golden(&self, output: &str, cosine: Option<f64>, difference: f64) {
        let mut labels = self.labels.clone();
        labels.push(Label::new("output", output.to_owned()));
        if let Some(cosine) = cosine {
            self.telemetry.gauge(names::GOLDEN_COSINE, labels.clone()).set(cosine);
        }
        self.telemetry.gauge(names::GOLDEN_DIFFERENCE, labels).set(difference);
    }

    /// Sets whether FP32 serves because a reduced precision drifted.
    pub fn drift_fallback(&self, fell_back: bool) {
        let gauge = self.telemetry.gauge(names::DRIFT_FALLBACK, self.labels.clone());
        gauge.set(f64::from(u8::from(fell_back)));
    }

    /// Says that nothing with these labels serves the version any more.
    pub fn replaced(&self, info: &[(&'static str, String)]) {
        let mut labels = self.labels.clone();
        labels.extend(info.iter().map(|(k, v)| Label::new(*k, v.clone())));
        self.telemetry.gauge(names::BACKEND_INFO, labels).set(0.0);
    }

    /// Says that the version is not served any more. Counters stay, as Prometheus wants them.
    pub fn gone(&self) {
        self.telemetry.gauge(names::QUEUE_CAPACITY, self.labels.clone()).set(0.0);
    }

    /// Sets what is known once the version has loaded.
    pub fn loaded(&self, info: &[(&'static str, String)], took: Duration, queue_capacity: usize) {
        self.since.get_or_init(Instant::now);
        let mut labels = self.labels.clone();
        labels.extend(info.iter().map(|(k, v)| Label::new(*k, v.clone())));
        self.telemetry.gauge(names::BACKEND_INFO, labels).set(1.0);
        self.telemetry.gauge(names::LOAD_SECONDS, self.labels.clone()).set(took.as_secs_f64());
        self.telemetry.gauge(names::QUEUE_CAPACITY, self.labels.clone()).set(queue_capacity as f64);
    }
}

/// Triton's four failure reasons.
fn triton_reason(kind: ErrorKind) -> &'static str {
    match kind.status().http {
        429 | 503 | 504 => "REJECTED",
        499 => "CANCELED",
        500 => "BACKEND",
        _ => "OTHER",
    }
}

fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_call_moves_counters_histograms_and_statistics_together() {
        let telemetry = Telemetry::new(true);
        let m = telemetry.model("m", 3);
        let stages = StageTimes { infer: Duration::from_millis(2), ..StageTimes::default() };
        m.batch_done(4, [Duration::from_millis(1)].into_iter(), stages);
        m.request_succeeded(Protocol::Oip, Duration::from_millis(5), stages);
        m.request_failed(Protocol::Oip, Duration::ZERO, ErrorKind::QueueFull);
        telemetry.count_error(None, ErrorKind::UnknownPath);
        let text = telemetry.render();
        for line in [
            r#"visord_inference_requests_total{model="m",version="3",protocol="oip_http",outcome="success"} 1"#,
            r#"visord_inference_requests_total{model="m",version="3",protocol="oip_http",outcome="queue_full"} 1"#,
            r#"visord_inference_requests_total{model="m",version="3",protocol="http",outcome="success"} 0"#,
            r#"visord_inference_rows_total{model="m",version="3"} 4"#,
            r#"visord_inference_batch_size_bucket{model="m",version="3",le="4"} 1"#,
            r#"visord_inference_request_duration_seconds_bucket{model="m",version="3",le="0.005"} 1"#,
            r#"visord_request_errors_total{protocol="none",reason="unknown_path"} 1"#,
            r#"nv_inference_compute_infer_duration_us{model="m",version="3"} 2000"#,
            r#"nv_inference_request_failure{model="m",version="3",reason="REJECTED"} 1"#,
        ] {
            assert!(text.contains(line), "missing {line} in\n{text}");
        }
        assert!(text.contains("process_resident_memory_bytes"), "{text}");
        assert_eq!(m.statistics.success.get(), (1, 5_000_000));
        assert_eq!(
            m.statistics.batches(),
            [BatchStat { batch_size: 4, count: 1, infer_ns: 2_000_000, ..BatchStat::default() }]
        );
    }

    #[test]
    fn names_follow_the_rules() {
        for &(name, kind, help) in names::ALL {
            assert!(name.starts_with("visord_"), "{name}");
            assert_eq!(name.ends_with("_total"), kind == Kind::Counter, "{name}");
            assert!(help.ends_with('.'), "{name}: {help}");
        }
    }
}
