//! One model instance: a thread that takes batches, runs them, and hands the rows back.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::guard::{self, GoldenReport, Refusal};
use super::postprocess;
use super::queue::Queue;
use super::request::Row;
use crate::backend::{BackendError, Executed, Instance, LoadedModel, RowInput};
use crate::error::{ErrorKind, InferError};
use crate::model::config::ModelWarmup;
use crate::model::golden::Golden;
use crate::model::spec::ModelSpec;
use crate::telemetry::metrics::{ModelMetrics, StageTimes};
use crate::tensor::Tensor;

/// Attempts to rebuild an instance before it is given up.
const REBUILD_ATTEMPTS: u32 = 3;
/// Pause before the second attempt; doubled for each further one.
const REBUILD_PAUSE: Duration = Duration::from_millis(100);

/// What the instances of a model version share.
pub(super) struct Crew {
    pub model: String,
    pub version: u64,
    pub queue: Queue,
    pub loaded: Arc<dyn LoadedModel>,
    pub spec: ModelSpec,
    pub warmup: ModelWarmup,
    /// What the first instance must answer before it is ready.
    pub golden: Option<Arc<Golden>>,
    /// The backend's name, for messages.
    pub backend: &'static str,
    /// Largest batch that will be asked for.
    pub max_batch_size: usize,
    pub metrics: Arc<ModelMetrics>,
    /// Instances that can take work.
    pub alive: AtomicUsize,
}

impl Crew {
    /// Starts instance `ordinal`; `ready` hears once whether it could be built and warmed up, and from the first
    /// one how it did on the golden cases.
    pub fn start(
        self: &Arc<Self>,
        ordinal: usize,
        ready: std::sync::mpsc::SyncSender<Result<Option<GoldenReport>, Refusal>>,
    ) -> std::io::Result<JoinHandle<()>> {
        let crew = Arc::clone(self);
        std::thread::Builder::new().name(format!("{}-{}", self.model, ordinal)).spawn(move || {
            let golden = crew.golden.as_deref().filter(|_| ordinal == 0);
            match crew.build().map_err(Refusal::Failed).and_then(|i| crew.guard(i, golden)) {
                Ok((instance, report)) => {
                    let alive = Alive::new(&crew);
                    let _ = ready.send(Ok(report));
                    drop(ready);
                    crew.work(ordinal, instance);
                    drop(alive);
                }
                Err(e) => {
                    let _ = ready.send(Err(e));
                }
            }
        })
    }

    fn build(&self) -> Result<Box<dyn Instance>, String> {
        catch_unwind(AssertUnwindSafe(|| {
            let mut instance = self.loaded.instance().map_err(|e| e.to_string())?;
            self.warm_up(instance.as_mut()).map_err(|e| format!("warm-up: {e}"))?;
            Ok(instance)
        }))
        .unwrap_or_else(|panic| Err(format!("panicked: {}", panic_text(panic.as_ref()))))
    }

    /// Holds an instance against the golden cases, if there are any to run.
    fn guard(
        &self,
        mut instance: Box<dyn Instance>,
        golden: Option<&Golden>,
    ) -> Result<(Box<dyn Instance>, Option<GoldenReport>), Refusal> {
        let Some(golden) = golden else { return Ok((instance, None)) };
        let precision = self.loaded.precision();
        catch_unwind(AssertUnwindSafe(|| {
            let most = self.max_batch_size;
            let report = guard::run(golden, &self.spec, most, self.backend, precision, instance.as_mut())?;
            Ok((instance, Some(report)))
        }))
        .unwrap_or_else(|panic| {
            let file = golden.path.display();
            Err(Refusal::Failed(format!("{file}: panicked: {}", panic_text(panic.as_ref()))))
        })
    }

    /// Runs zeros through the engine, so that the first request meets compiled shapes and touched memory.
    fn warm_up(&self, instance: &mut dyn Instance) -> Result<(), BackendError> {
        let Some(row) = zero_row(&self.spec) else {
            tracing::debug!(model = self.model, "no warm-up: an input has a dimension that varies");
            return Ok(());
        };
        let mut sizes = self.warmup.batch_size.clone();
        if sizes.is_empty() {
            sizes = vec![1, self.max_batch_size];
        }
        sizes.retain(|s| *s <= self.max_batch_size);
        sizes.dedup();
        for rows in sizes {
            let rows = vec![&row; rows];
            for _ in 0..self.warmup.count {
                instance.execute(&rows, &|_| Ok(()))?;
            }
        }
        Ok(())
    }

    fn work(&self, ordinal: usize, mut instance: Box<dyn Instance>) {
        let mut batch: Vec<Row> = Vec::with_capacity(self.max_batch_size);
        while self.queue.take(&mut batch) {
            let panicked = self.run(instance.as_mut(), &mut batch);
            batch.clear();
            if panicked {
                match self.rebuild(ordinal) {
                    Some(new) => instance = new,
                    None => return,
                }
            }
        }
    }

    /// Runs one batch; whether the instance must be rebuilt.
    fn run(&self, instance: &mut dyn Instance, batch: &mut Vec<Row>) -> bool {
        let taken = Instant::now();
        let outcome = {
            let inputs: SmallVec<[&RowInput; 32]> = batch.iter().map(|r| &r.input).collect();
            let wanted = |i: usize| batch[i].request.wanted(Instant::now());
            catch_unwind(AssertUnwindSafe(|| instance.execute(&inputs, &wanted)))
        };
        match outcome {
            Ok(Ok(executed)) => {
                self.deliver(executed, batch, taken);
                false
            }
            Ok(Err(e)) => {
                tracing::error!(model = self.model, version = self.version, rows = batch.len(), error = %e, "batch failed");
                self.fail(batch, &InferError::new(ErrorKind::Backend, e.to_string()));
                false
            }
            Err(panic) => {
                let text = panic_text(panic.as_ref());
                tracing::error!(
                    model = self.model,
                    version = self.version,
                    rows = batch.len(),
                    panic = text,
                    "instance panicked"
                );
                self.metrics.restarts.increment(1);
                self.fail(
                    batch,
                    &InferError::new(ErrorKind::Internal, format!("the model instance failed: {text}")),
                );
                true
            }
        }
    }

    fn rebuild(&self, ordinal: usize) -> Option<Box<dyn Instance>> {
        let mut pause = REBUILD_PAUSE;
        for attempt in 1..=REBUILD_ATTEMPTS {
            match self.build() {
                Ok(instance) => {
                    tracing::info!(model = self.model, ordinal, attempt, "instance rebuilt");
                    return Some(instance);
                }
                Err(e) => tracing::error!(
                    model = self.model,
                    ordinal,
                    attempt,
                    error = e,
                    "instance cannot be rebuilt"
                ),
            }
            if attempt < REBUILD_ATTEMPTS {
                std::thread::sleep(pause);
                pause *= 2;
            }
        }
        None
    }

    fn fail(&self, batch: &mut Vec<Row>, error: &InferError) {
        for row in batch.drain(..) {
            row.request.fail(row.index, error.clone());
        }
    }

    fn deliver(&self, executed: Executed, batch: &mut Vec<Row>, taken: Instant) {
        let Executed { rows, mut outputs, decode, preprocess, input, infer } = executed;
        decode.iter().for_each(|d| self.metrics.decode.record(*d));
        preprocess.iter().for_each(|d| self.metrics.preprocess.record(*d));
        let ran = rows.iter().filter(|r| r.is_ok()).count();
        let start = Instant::now();
        if let Some(error) = check(&outputs, ran, &self.spec) {
            tracing::error!(
                model = self.model,
                version = self.version,
                error,
                "engine answered with wrong shapes"
            );
            self.fail(batch, &InferError::new(ErrorKind::Backend, error));
            return;
        }
        for (output, spec) in outputs.iter_mut().zip(&self.spec.outputs) {
            postprocess::apply(output, spec);
        }
        let outputs = Arc::new(
            outputs
                .into_iter()
                .map(|o| Tensor { datatype: o.datatype, shape: o.shape, data: o.data.into() })
                .collect::<Vec<_>>(),
        );
        let stages = StageTimes { queue: Duration::ZERO, input, infer, output: start.elapsed() };
        if ran > 0 {
            let waits = batch.iter().map(|row| taken.saturating_duration_since(row.enqueued));
            self.metrics.batch_done(ran, waits, stages);
            self.queue.drained(ran, start);
        }
        for (row, place) in batch.drain(..).zip(rows) {
            let queue = taken.saturating_duration_since(row.enqueued);
            match place {
                Ok(place) => {
                    row.request.complete_row(row.index, &outputs, place, StageTimes { queue, ..stages })
                }
                Err(error) => row.request.fail(row.index, error),
            }
        }
    }
}

/// What is wrong with an engine's outputs: rows cannot be handed out by places that do not exist.
pub(super) fn check(
    outputs: &[crate::backend::OutputBuffer],
    ran: usize,
    spec: &ModelSpec,
) -> Option<String> {
    if ran == 0 {
        return None;
    }
    if outputs.len() != spec.outputs.len() {
        return Some(format!("expected {} outputs, got {}", spec.outputs.len(), outputs.len()));
    }
    outputs.iter().zip(&spec.outputs).find_map(|(o, s)| {
        let wrong = spec.batched() && o.shape.first() != Some(&ran);
        wrong
            .then(|| format!("output \"{}\" has the shape {:?} for a batch of {ran}", s.tensor.name, o.shape))
    })
}

/// One row of zeros; `None` where a dimension varies.
fn zero_row(spec: &ModelSpec) -> Option<RowInput> {
    let tensors = spec.inputs.iter().map(|input| {
        let size = input.datatype.size_bytes()? * input.row_elements()?;
        let shape = input.shape.iter().map(|d| usize::try_from(*d).ok()).collect::<Option<_>>()?;
        Some(Tensor { datatype: input.datatype, shape, data: vec![0; size].into() })
    });
    Some(RowInput::Tensors(tensors.collect::<Option<_>>()?))
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// Counts an instance as alive for as long as it lives. With the last one, the queue closes: nobody would answer.
struct Alive<'a>(&'a Crew);

impl<'a> Alive<'a> {
    fn new(crew: &'a Crew) -> Self {
        crew.alive.fetch_add(1, Ordering::AcqRel);
        crew.metrics.ready_instances.increment(1.0);
        Self(crew)
    }
}

impl Drop for Alive<'_> {
    fn drop(&mut self) {
        let crew = self.0;
        crew.metrics.ready_instances.decrement(1.0);
        if crew.alive.fetch_sub(1, Ordering::AcqRel) == 1 {
            let text = format!("model \"{}\" has no working instance left", crew.model);
            crew.queue.close(&InferError::new(ErrorKind::NotReady, text));
        }
    }
}
