//! One model instance: a thread that takes batches, runs them, and hands the rows back.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::guard::{self, GoldenReport, Refusal};
use super::postprocess;
use super::queue::{Queue, Taken};
use super::request::Row;
use crate::backend::{BackendError, Executed, Execution, Instance, LoadedModel, RowInput};
use crate::error::{ErrorKind, InferError};
use crate::model::config::ModelWarmup;
use crate::model::golden::Golden;
use crate::model::spec::ModelSpec;
use crate::telemetry::meter::BusyClock;
use crate::telemetry::metrics::{ModelMetrics, StageTimes};
use crate::telemetry::spans::{BatchRun, Runner, TracedBatch};
use crate::tensor::Tensor;

/// Attempts to rebuild an instance before it is given up.
const REBUILD_ATTEMPTS: u32 = 3;
/// Request ids in one line of the log.
const MAX_IDS: usize = 16;
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
    /// Instances that live, working or being rebuilt.
    pub alive: AtomicUsize,
    /// Instances that can take work.
    pub ready: AtomicUsize,
    /// The device error that instances are being rebuilt after.
    pub last_loss: Mutex<Option<String>>,
    /// Set when an instance that lost its device could not be rebuilt: the process cannot use it any more.
    pub lost: OnceLock<String>,
}

impl std::fmt::Debug for Crew {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Crew")
            .field("model", &self.model)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// A batch that an instance has enqueued.
struct InHand {
    rows: Vec<Row>,
    taken: Instant,
}

/// An instance, and the batches that it has in hand, oldest first.
struct Hands {
    ordinal: usize,
    /// `None` only while it is rebuilt.
    instance: Option<Box<dyn Instance>>,
    batches: VecDeque<InHand>,
    /// `None` from a fault on until it is built again.
    up: Option<Up>,
}

/// How a call on an instance ended that did not end well.
enum Fault {
    Error(BackendError),
    Panic(String),
}

impl Hands {
    fn usable(&self) -> bool {
        self.instance.as_ref().is_some_and(|i| i.usable())
    }

    fn call<T>(&mut self, f: impl FnOnce(&mut dyn Instance) -> Result<T, BackendError>) -> Result<T, Fault> {
        let Some(instance) = &mut self.instance else {
            return Err(Fault::Panic("it is being rebuilt".to_owned()));
        };
        match catch_unwind(AssertUnwindSafe(|| f(instance.as_mut()))) {
            Ok(outcome) => outcome.map_err(Fault::Error),
            Err(panic) => Err(Fault::Panic(panic_text(panic.as_ref()).to_owned())),
        }
    }
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
            match crew.build(ordinal).map_err(Refusal::Failed).and_then(|i| crew.guard(i, golden)) {
                Ok((instance, report)) => {
                    let (alive, up) = (Alive::new(&crew), Up::new(&crew));
                    let _ = ready.send(Ok(report));
                    drop(ready);
                    crew.work(ordinal, instance, up);
                    drop(alive);
                }
                Err(e) => {
                    let _ = ready.send(Err(e));
                }
            }
        })
    }

    fn build(self: &Arc<Self>, ordinal: usize) -> Result<Box<dyn Instance>, String> {
        catch_unwind(AssertUnwindSafe(|| {
            let crew = Arc::downgrade(self);
            let wake = Arc::new(move || {
                if let Some(crew) = crew.upgrade() {
                    crew.queue.wake();
                }
            });
            let mut instance = self.loaded.instance(ordinal, wake).map_err(|e| e.to_string())?;
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
        catch_unwind(AssertUnwindSafe(|| {
            let most = self.max_batch_size;
            let (spec, loaded) = (&self.spec, &*self.loaded);
            let report = guard::run(golden, spec, most, self.backend, loaded, instance.as_mut())?;
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
            // Each of the batches that it can have in hand has buffers of its own.
            for _ in 0..self.warmup.count * instance.depth() {
                instance.run(&rows)?;
            }
        }
        Ok(())
    }

    fn work(self: &Arc<Self>, ordinal: usize, instance: Box<dyn Instance>, up: Up) {
        let depth = instance.depth();
        let batches = VecDeque::with_capacity(depth);
        let mut hands = Hands { ordinal, instance: Some(instance), batches, up: Some(up) };
        let clock = self.metrics.instances().get(ordinal);
        let mut spare: Vec<Vec<Row>> = (0..=depth).map(|_| Vec::with_capacity(self.max_batch_size)).collect();
        loop {
            let mut rows = spare.pop().unwrap_or_default();
            if let Some(clock) = clock.filter(|_| hands.batches.is_empty()) {
                clock.end(Instant::now());
            }
            let fault = match self.next(&mut hands, depth, &mut rows) {
                Taken::Closed if hands.batches.is_empty() => return,
                Taken::Closed | Taken::Collect => {
                    spare.push(rows);
                    self.collect(&mut hands, &mut spare)
                }
                Taken::Batch => {
                    if !hands.usable() && !self.rebuild(ordinal, &mut hands, &mut spare) {
                        self.fail(&mut rows, &self.gone());
                        return;
                    }
                    self.start_batch(&mut hands, rows, clock, &mut spare)
                }
            };
            if fault && !self.rebuild(ordinal, &mut hands, &mut spare) {
                return;
            }
        }
    }

    fn next(&self, hands: &mut Hands, depth: usize, rows: &mut Vec<Row>) -> Taken {
        let Hands { instance, batches, .. } = hands;
        match instance {
            Some(instance) if batches.len() < depth && !batches.is_empty() => {
                self.queue.take(rows, Some(&mut |look| instance.finished(look)))
            }
            Some(_) if batches.is_empty() => self.queue.take(rows, None),
            Some(_) | None => Taken::Collect,
        }
    }

    /// Hands a batch to the instance; whether the instance must be built again.
    fn start_batch(
        &self,
        hands: &mut Hands,
        mut rows: Vec<Row>,
        clock: Option<&BusyClock>,
        spare: &mut Vec<Vec<Row>>,
    ) -> bool {
        let taken = Instant::now();
        if let Some(clock) = clock {
            clock.begin(taken);
        }
        rows.iter().for_each(|row| row.request.context.taken(taken));
        let outcome = {
            let inputs: SmallVec<[&RowInput; 32]> = rows.iter().map(|r| &r.input).collect();
            let wanted = |i: usize| rows[i].request.wanted(Instant::now());
            hands.call(|instance| instance.execute(&inputs, &wanted))
        };
        let fault = match outcome {
            Ok(Execution::Enqueued) => {
                hands.batches.push_back(InHand { rows, taken });
                return false;
            }
            Ok(Execution::Done(executed)) => {
                self.deliver(executed, &mut rows, taken, hands.ordinal);
                false
            }
            Err(fault) => self.failed(fault, hands, &mut rows, taken),
        };
        spare.push(rows);
        fault
    }

    /// Takes the oldest batch back from the instance; whether the instance must be built again.
    fn collect(&self, hands: &mut Hands, spare: &mut Vec<Vec<Row>>) -> bool {
        let Some(InHand { mut rows, taken }) = hands.batches.pop_front() else { return false };
        let fault = match hands.call(|instance| instance.collect()) {
            Ok(executed) => {
                self.deliver(executed, &mut rows, taken, hands.ordinal);
                false
            }
            Err(fault) => self.failed(fault, hands, &mut rows, taken),
        };
        spare.push(rows);
        fault
    }

    /// Answers a batch that failed; whether the instance must be built again.
    fn failed(&self, fault: Fault, hands: &mut Hands, rows: &mut Vec<Row>, taken: Instant) -> bool {
        let (model, version, count) = (&self.model, self.version, rows.len());
        let request_ids = request_ids(rows);
        let (error, rebuild) = match fault {
            Fault::Error(e) => {
                tracing::error!(model, version, rows = count, request_ids, error = %e, "batch failed");
                let lost = matches!(e, BackendError::Lost { .. });
                if lost {
                    *self.lock_last_loss() = Some(e.to_string());
                }
                (InferError::new(ErrorKind::Backend, e.to_string()), lost)
            }
            Fault::Panic(text) => {
                tracing::error!(model, version, rows = count, request_ids, panic = text, "instance panicked");
                let text = format!("the model instance failed: {text}");
                (InferError::new(ErrorKind::Internal, text), true)
            }
        };
        if rebuild {
            // Before anybody hears of it: who asks then must not be told that all is well.
            hands.up = None;
        }
        let (taken, collected) = (taken, Instant::now());
        let run = BatchRun {
            rows: count,
            taken,
            input: Duration::ZERO,
            decode: Duration::ZERO,
            preprocess: Duration::ZERO,
            infer: collected.saturating_duration_since(taken),
            collected,
            output: Duration::ZERO,
            error: Some(error.message.clone()),
            span: None,
        };
        let told = self.tell(rows, run);
        self.fail(rows, &error);
        self.told(told, hands.ordinal);
        rebuild
    }

    /// Builds the instance again, after failing what it has in hand; not ready meanwhile. Whether it is there
    /// again.
    fn rebuild(self: &Arc<Self>, ordinal: usize, hands: &mut Hands, spare: &mut Vec<Vec<Row>>) -> bool {
        hands.up = None;
        self.metrics.restarts.increment(1);
        // First: what it holds of a device is wanted for the next.
        drop(hands.instance.take());
        for InHand { mut rows, .. } in hands.batches.drain(..) {
            self.fail(&mut rows, &self.gone());
            spare.push(rows);
        }
        let mut pause = REBUILD_PAUSE;
        for attempt in 1..=REBUILD_ATTEMPTS {
            match self.build(ordinal) {
                Ok(instance) => {
                    tracing::info!(model = self.model, ordinal, attempt, "instance rebuilt");
                    hands.instance = Some(instance);
                    hands.up = Some(Up::new(self));
                    *self.lock_last_loss() = None;
                    return true;
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
        if let Some(loss) = self.lock_last_loss().clone() {
            let _ = self.lost.set(loss);
        }
        false
    }

    fn gone(&self) -> InferError {
        let text =
            format!("the instance of model \"{}\" was lost while it had this batch in hand", self.model);
        InferError::new(ErrorKind::Backend, text)
    }

    fn lock_last_loss(&self) -> MutexGuard<'_, Option<String>> {
        self.last_loss.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, batch: &mut Vec<Row>, error: &InferError) {
        for row in batch.drain(..) {
            row.request.fail(row.index, error.clone());
        }
    }

    /// Tells the requests that are observed how their batch ran; before they are answered.
    fn tell(&self, batch: &[Row], mut run: BatchRun) -> Option<(Arc<BatchRun>, Option<TracedBatch>)> {
        batch.iter().find(|row| row.request.context.observed())?;
        let traced = TracedBatch::of(batch.iter().map(|row| &row.request.context));
        run.span = traced.as_ref().map(TracedBatch::span);
        let run = Arc::new(run);
        batch.iter().for_each(|row| row.request.context.ran(&run));
        Some((run, traced))
    }

    /// Ends the batch's span, if it has one; when its requests are answered, which do not wait for that.
    fn told(&self, told: Option<(Arc<BatchRun>, Option<TracedBatch>)>, instance: usize) {
        let Some((run, Some(traced))) = told else { return };
        let (model, version, backend) = (self.model.as_str(), self.version, self.backend);
        traced.end(&run, Runner { model, version, backend, instance });
    }

    fn deliver(&self, executed: Executed, batch: &mut Vec<Row>, taken: Instant, ordinal: usize) {
        let Executed { rows, ran, mut outputs, decode, preprocess, input, infer } = executed;
        self.metrics.images(&decode, &preprocess);
        let start = Instant::now();
        if let Some(error) = check(&outputs, ran, &self.spec) {
            tracing::error!(
                model = self.model,
                version = self.version,
                request_ids = request_ids(batch),
                error,
                "engine answered with wrong shapes"
            );
            self.fail(batch, &InferError::new(ErrorKind::Backend, error));
            return;
        }
        let normalized = self.loaded.normalizes();
        for (output, spec) in outputs.iter_mut().zip(&self.spec.outputs) {
            postprocess::apply(output, spec, normalized);
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
        let run = BatchRun {
            rows: ran,
            taken,
            input,
            decode: decode.iter().sum(),
            preprocess: preprocess.iter().sum(),
            infer,
            collected: start,
            output: stages.output,
            error: None,
            span: None,
        };
        let told = self.tell(batch, run);
        for (row, place) in batch.drain(..).zip(rows) {
            let queue = taken.saturating_duration_since(row.enqueued);
            match place {
                Ok(place) => {
                    row.request.complete_row(row.index, &outputs, place, StageTimes { queue, ..stages })
                }
                Err(error) => row.request.fail(row.index, error),
            }
        }
        self.told(told, ordinal);
    }
}

/// The ids of a batch's requests, for a line of the log about all of them; not more than fit there.
fn request_ids(batch: &[Row]) -> String {
    let mut ids: SmallVec<[&str; MAX_IDS]> = SmallVec::new();
    let mut more = "";
    for id in batch.iter().map(|row| row.request.context.id()) {
        if ids.contains(&id) {
            continue;
        }
        if ids.len() == MAX_IDS {
            more = ", …";
            break;
        }
        ids.push(id);
    }
    ids.join(", ") + more
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
        Self(crew)
    }
}

impl Drop for Alive<'_> {
    fn drop(&mut self) {
        let crew = self.0;
        if crew.alive.fetch_sub(1, Ordering::AcqRel) == 1 {
            let text = format!("model \"{}\" has no working instance left", crew.model);
            crew.queue.close(&InferError::new(ErrorKind::NotReady, text));
        }
    }
}

/// Counts an instance as one that can take work.
struct Up(Arc<Crew>);

impl Up {
    fn new(crew: &Arc<Crew>) -> Self {
        crew.ready.fetch_add(1, Ordering::AcqRel);
        crew.metrics.ready_instances.increment(1.0);
        Self(Arc::clone(crew))
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.0.ready.fetch_sub(1, Ordering::AcqRel);
        self.0.metrics.ready_instances.decrement(1.0);
    }
}
