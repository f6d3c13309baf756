//! A loaded model version: what protocols call to get an answer.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::batcher::BatchPolicy;
use super::guard::{Drift, GoldenReport, Refusal};
use super::instance::Crew;
use super::queue::Queue;
use super::request::{InferRequest, InferResponse, Row, Shared};
use crate::backend::{Backend, BackendError, RowInput};
use crate::error::{ErrorKind, InferError};
use crate::image::Limits;
use crate::model::config::{DynamicBatching, ModelConfig, OnDrift, Precision};
use crate::model::repository::RepositoryVersion;
use crate::model::spec::ModelSpec;
use crate::telemetry::metrics::{ModelMetrics, Protocol, Telemetry};

/// A model version that answers requests.
pub struct ServedModel {
    /// The model's configuration.
    pub config: Arc<ModelConfig>,
    /// Its version.
    pub version: u64,
    /// `name/version`, as answers name the version that gave them.
    pub label: Bytes,
    /// Its signature and settings.
    pub spec: ModelSpec,
    /// What runs it.
    pub backend: BackendInfo,
    /// Its metrics and statistics.
    pub metrics: Arc<ModelMetrics>,
    /// How it did on its golden cases, where it has any.
    pub golden: Option<GoldenReport>,
    /// Set where a reduced precision drifted and FP32 serves instead.
    pub drift: Option<Box<Drift>>,
    crew: Arc<Crew>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Why a version cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The engine, or an instance, failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// It runs, and its answers are off by more than `golden.json` allows.
    #[error("{0}; {fix}", fix = .0.fix)]
    Drift(#[from] Box<Drift>),
}

/// Names of what runs a model, as shown in the log, the configuration endpoint and a metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendInfo {
    /// `tensorrt`, `openvino` or `rten`.
    pub name: &'static str,
    /// Version of the library.
    pub version: String,
    /// Device, in words.
    pub device: String,
    /// Arithmetic.
    pub precision: Precision,
    /// Instances.
    pub instances: usize,
    /// Largest batch that is formed: `max_batch_size`, or less where the engine gains nothing from more.
    pub max_batch_size: usize,
}

impl BackendInfo {
    fn labels(&self) -> [(&'static str, String); 4] {
        [
            ("backend", self.name.to_owned()),
            ("backend_version", self.version.clone()),
            ("device", self.device.clone()),
            ("precision", self.precision.name().to_owned()),
        ]
    }
}

impl std::fmt::Debug for ServedModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServedModel")
            .field("name", &self.config.name)
            .field("version", &self.version)
            .field("backend", &self.backend)
            .finish_non_exhaustive()
    }
}

impl ServedModel {
    /// Compiles, starts and warms up a version, and holds it against its golden cases; blocking, until every
    /// instance is ready. Where a reduced precision drifts and the model allows it, FP32 is loaded instead.
    ///
    /// # Errors
    /// [`LoadError::Backend`] with what the engine or an instance said, [`LoadError::Drift`].
    pub fn load(
        config: &Arc<ModelConfig>,
        version: &RepositoryVersion,
        backend: &dyn Backend,
        limits: Limits,
        telemetry: &Telemetry,
    ) -> Result<Self, LoadError> {
        let start = Instant::now();
        let load = |spec: &ModelSpec| Self::load_as(config, version, spec, backend, limits, telemetry, start);
        let reduced = version.spec.precision != Precision::Fp32;
        let served = match load(&version.spec) {
            Err(LoadError::Drift(drift)) if reduced && config.on_drift == OnDrift::Fallback => {
                tracing::warn!(
                    model = config.name,
                    version = version.version,
                    "served in fp32 instead: {drift}"
                );
                let mut served = load(&ModelSpec { precision: Precision::Fp32, ..version.spec.clone() })?;
                served.drift = Some(drift);
                served
            }
            outcome => outcome?,
        };
        served.announce();
        Ok(served)
    }

    /// Says how the golden cases went, in the log and in metrics.
    fn announce(&self) {
        let Some(report) = &self.golden else { return };
        tracing::info!(
            model = self.config.name,
            version = self.version,
            cases = report.cases,
            worst_cosine = report.worst_cosine(),
            worst_difference = report.worst_difference(),
            seconds = report.took.as_secs_f64(),
            "golden cases passed, {}",
            report.bound
        );
        for output in &report.outputs {
            self.metrics.golden(&output.name, output.cosine, output.difference);
        }
        self.metrics.drift_fallback(self.drift.is_some());
    }

    /// One attempt, with `spec` in place of the version's own.
    fn load_as(
        config: &Arc<ModelConfig>,
        version: &RepositoryVersion,
        spec: &ModelSpec,
        backend: &dyn Backend,
        limits: Limits,
        telemetry: &Telemetry,
        start: Instant,
    ) -> Result<Self, LoadError> {
        let plan = backend.plan(spec, &config.instance_group)?;
        let loaded = backend.load(spec, &plan, limits)?;
        let max_batch_size = loaded.batch_limit().unwrap_or(usize::MAX).min(spec.rows_per_batch());
        let batching = &config.dynamic_batching;
        let mut preferred = batching.preferred_batch_size.clone();
        preferred.retain(|p| *p <= max_batch_size);
        if preferred.len() < batching.preferred_batch_size.len() {
            tracing::warn!(
                model = config.name,
                backend = backend.name(),
                "preferred_batch_size above {max_batch_size} is not waited for: larger batches gain nothing here"
            );
        }
        let policy = BatchPolicy {
            max_batch_size,
            preferred_batch_size: preferred,
            max_queue_delay: batching.max_queue_delay,
        };
        let golden = version.golden.clone();
        let version = version.version;
        let metrics = Arc::new(telemetry.model(&config.name, version));
        metrics.set_instances(plan.count);
        let mixed = spec.inputs.iter().any(|i| i.row_elements().is_none());
        let lanes = batching.priority_levels.max(1) as usize;
        let backend = BackendInfo {
            name: backend.name(),
            version: backend.version(),
            device: backend.device(),
            precision: loaded.precision(),
            instances: plan.count,
            max_batch_size,
        };
        let crew = Arc::new(Crew {
            model: config.name.clone(),
            version,
            queue: Queue::new(policy, batching.max_queue_size, lanes, mixed, Arc::clone(&metrics)),
            loaded,
            spec: spec.clone(),
            warmup: config.model_warmup.clone(),
            golden,
            backend: backend.name,
            max_batch_size,
            metrics: Arc::clone(&metrics),
            alive: AtomicUsize::new(0),
            ready: AtomicUsize::new(0),
            last_loss: Mutex::new(None),
            lost: OnceLock::new(),
        });
        let mut served = Self {
            config: Arc::clone(config),
            version,
            label: format!("{}/{version}", config.name).into(),
            spec: spec.clone(),
            backend,
            metrics,
            golden: None,
            drift: None,
            crew,
            threads: Mutex::new(Vec::new()),
        };
        match served.start(plan.count) {
            Ok(report) => served.golden = report,
            Err(e) => {
                // What is loaded next may need the memory.
                served.stop();
                return Err(e);
            }
        }
        served.metrics.loaded(&served.backend.labels(), start.elapsed(), batching.max_queue_size);
        Ok(served)
    }

    fn start(&self, count: usize) -> Result<Option<GoldenReport>, LoadError> {
        let refuse = |why: String| {
            let model = self.spec.path.display().to_string();
            LoadError::Backend(BackendError::Load { backend: self.backend.name, model, why })
        };
        let (sender, receiver) = std::sync::mpsc::sync_channel(count);
        for ordinal in 0..count {
            let thread =
                self.crew.start(ordinal, sender.clone()).map_err(|e| refuse(format!("no thread: {e}")))?;
            self.lock_threads().push(thread);
        }
        drop(sender);
        // A thread that dies without a word closes its end; then fewer answers come than were asked for.
        let answers: Vec<_> = receiver.iter().collect();
        let short = answers.len() < count;
        let mut golden = None;
        for answer in answers {
            match answer {
                Ok(report) => golden = golden.or(report),
                Err(Refusal::Failed(why)) => return Err(refuse(why)),
                Err(Refusal::Drift(drift)) => return Err(LoadError::Drift(drift)),
            }
        }
        if short { Err(refuse("an instance ended before it was ready".to_owned())) } else { Ok(golden) }
    }

    fn lock_threads(&self) -> std::sync::MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an instance can take work.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.crew.ready.load(Ordering::Acquire) > 0
    }

    /// The device error that an instance could not be rebuilt after: only a new process can use the device again.
    #[must_use]
    pub fn lost(&self) -> Option<&str> {
        self.crew.lost.get().map(String::as_str)
    }

    /// Rows that wait.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.crew.queue.len()
    }

    /// Queues a request and waits for its answer. Dropping the future takes the request out of the queue
    /// again, and work on it stops before it reaches the engine.
    ///
    /// # Errors
    /// Anything that [`ErrorKind`] names from the queue on: full, expired, drained, a bad image, the engine.
    pub async fn infer(
        &self,
        request: InferRequest,
        protocol: Protocol,
    ) -> Result<InferResponse, InferError> {
        let arrival = request.arrival;
        // Counts the request as cancelled if this future is dropped before it is done.
        let mut outcome = Outcome { metrics: &self.metrics, protocol, arrival, done: false };
        let context = request.context.clone();
        context.submitted(&self.label, request.rows.len());
        let result = self.submit(request).await;
        outcome.done = true;
        match &result {
            Ok(response) => {
                context.inferred(response.stages);
                self.metrics.request_succeeded(protocol, arrival.elapsed(), response.stages);
            }
            Err(error) => self.metrics.request_failed(protocol, arrival.elapsed(), error.kind),
        }
        result
    }

    async fn submit(&self, request: InferRequest) -> Result<InferResponse, InferError> {
        let batching = &self.config.dynamic_batching;
        let rows = request.rows.len();
        if rows == 0 || rows > batching.max_queue_size {
            let allowed = format!(
                "a request holds from 1 to max_queue_size {} rows, got {rows}",
                batching.max_queue_size
            );
            return Err(InferError::new(ErrorKind::InvalidArgument, allowed));
        }
        let deadline = timeout(batching, request.timeout).and_then(|t| request.arrival.checked_add(t));
        let key = request.rows.first().map_or(0, shape_key);
        let batched = self.spec.batched();
        let (shared, answer) = Shared::new(rows, request.arrival, deadline, batched, key, request.context);
        let now = Instant::now();
        shared.wanted(now)?;
        let rows = request.rows.into_iter().enumerate().map(|(index, input)| Row {
            input,
            request: Arc::clone(&shared),
            index,
            enqueued: now,
        });
        shared.context.queued(now);
        self.crew.queue.push(rows, lane(batching, request.priority))?;
        let mut withdraw = Withdraw { queue: &self.crew.queue, request: &shared, answered: false };
        let answer = match deadline {
            None => answer.await,
            Some(deadline) => match tokio::time::timeout_at(deadline.into(), answer).await {
                Ok(answer) => answer,
                Err(_) => return Err(shared.expired()),
            },
        };
        // An error may have come from one row while others still wait.
        withdraw.answered = matches!(answer, Ok(Ok(_)));
        answer.unwrap_or_else(|_| {
            Err(InferError::new(ErrorKind::Internal, "the request was lost by its instance"))
        })
    }

    /// Stops waiting for company: what is queued, and what still comes, runs at once.
    pub fn drain(&self) {
        self.crew.queue.drain();
    }

    /// Takes it out of service. Who holds it may go on to use it; when the last one lets go, its queue closes and its
    /// threads end. `successor` serves the same version from now on.
    #[must_use]
    pub fn retire(self: Arc<Self>, successor: Option<&Self>) -> Retired {
        // Nobody new comes: company is not worth waiting for.
        self.drain();
        if successor.is_none_or(|s| s.backend.labels() != self.backend.labels()) {
            self.metrics.replaced(&self.backend.labels());
        }
        if successor.is_none() {
            self.metrics.gone();
        }
        // A successor with golden cases has said how it did.
        if self.golden.is_some() && successor.is_none_or(|s| s.golden.is_none()) {
            self.metrics.drift_fallback(false);
        }
        // Its own share in the crew, so that it is this one's thread that frees the engine, not a network thread.
        Retired { threads: self.lock_threads().drain(..).collect(), crew: Arc::clone(&self.crew) }
    }

    /// Fails what still waits, and joins the threads; blocking until their batches in hand are done.
    pub fn stop(&self) {
        self.crew.queue.close(&shutting_down());
        for thread in self.lock_threads().drain(..) {
            if thread.join().is_err() {
                tracing::error!(model = self.config.name, "an instance thread panicked outside its batch");
            }
        }
    }
}

/// A version that is out of service: its threads, and what they share.
#[derive(Debug)]
pub struct Retired {
    threads: Vec<JoinHandle<()>>,
    crew: Arc<Crew>,
}

impl Retired {
    /// Waits until the last request that chose this version is answered and its threads have ended, and frees its
    /// memory; blocking.
    pub fn join(self) {
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!(model = self.crew.model, "an instance thread panicked outside its batch");
            }
        }
    }
}

impl Drop for ServedModel {
    /// Closes the queue and waits for nobody: the threads end by themselves, and free the model with the last.
    fn drop(&mut self) {
        self.crew.queue.close(&shutting_down());
    }
}

fn shutting_down() -> InferError {
    InferError::new(ErrorKind::Draining, "the server is shutting down")
}

/// The deadline's distance: a request can only shorten what the model sets.
fn timeout(batching: &DynamicBatching, asked: Option<Duration>) -> Option<Duration> {
    let asked = asked.filter(|t| batching.allow_timeout_override && !t.is_zero());
    match (asked, batching.default_timeout) {
        (Some(asked), Some(default)) => Some(asked.min(default)),
        (asked, default) => asked.or(default),
    }
}

/// Lane of a request: level 1 is lane 0; 0 and levels that do not exist take the default.
fn lane(batching: &DynamicBatching, priority: u64) -> usize {
    let level = u32::try_from(priority)
        .ok()
        .filter(|p| (1..=batching.priority_levels).contains(p))
        .unwrap_or(batching.default_priority_level);
    level.saturating_sub(1) as usize
}

/// Rows can share a batch when their shapes are equal: a hash stands for them, and the engine checks.
pub(super) fn shape_key(row: &RowInput) -> u64 {
    use std::hash::{Hash, Hasher};
    match row {
        RowInput::Image(_) => 0,
        RowInput::Tensors(tensors) => {
            let mut hasher = std::hash::DefaultHasher::new();
            tensors.iter().for_each(|t| t.shape.hash(&mut hasher));
            hasher.finish() | 1
        }
    }
}

struct Outcome<'a> {
    metrics: &'a ModelMetrics,
    protocol: Protocol,
    arrival: Instant,
    done: bool,
}

impl Drop for Outcome<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.metrics.request_failed(self.protocol, self.arrival.elapsed(), ErrorKind::Cancelled);
        }
    }
}

/// Takes a request's rows out of the queue when nobody waits for them any more.
struct Withdraw<'a> {
    queue: &'a Queue,
    request: &'a Arc<Shared>,
    answered: bool,
}

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.queue.remove(self.request);
        }
    }
}
