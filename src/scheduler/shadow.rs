//! Copies of requests on a second version: they run after the answer has gone out, and what they answer is only
//! compared.
//!
//! A copy holds its rows by reference until the answer is there, and as bytes of its own after that, so that no body
//! is kept. It is given up at the first sign of load: when as many copies or bytes are in hand as the model allows,
//! or when a row waits in either version's queue.

use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;

use super::guard::compare::{compare, numbers};
use super::request::{InferRequest, InferResponse};
use super::served::ServedModel;
use super::traffic::{GOLDEN_STEP, Kept};
use crate::backend::RowInput;
use crate::error::ErrorKind;
use crate::model::spec::OutputSpec;
use crate::model::traffic::ShadowConfig;
use crate::telemetry::context::{Answered, Context};
use crate::telemetry::metrics::Protocol;
use crate::telemetry::traffic::{ShadowMetrics, Shed, Side};
use crate::tensor::Tensor;

/// Longest that a copy may take: nobody waits for it, and its place is wanted.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The version that runs copies.
#[derive(Debug)]
pub(super) struct Shadow {
    served: Arc<ServedModel>,
    /// Draws below this are copied; `None` copies every request.
    threshold: Option<u64>,
    max_requests: usize,
    max_bytes: usize,
    kept: Arc<Kept>,
    metrics: ShadowMetrics,
}

impl Shadow {
    /// The shadow of the versions in `answering`.
    pub fn new(
        config: &ShadowConfig,
        served: Arc<ServedModel>,
        kept: &Arc<Kept>,
        answering: impl Iterator<Item = u64>,
    ) -> Self {
        let metrics = ShadowMetrics::new(served.metrics.telemetry(), &served.config.name, served.version);
        answering.for_each(|version| metrics.register(version));
        Self {
            // 2^64 as f64 is exact, and a fraction below 1 is at most 1 - 2^-53.
            threshold: (config.fraction < 1.0).then_some((config.fraction * 2f64.powi(64)) as u64),
            max_requests: config.max_requests,
            max_bytes: config.max_bytes,
            kept: Arc::clone(kept),
            metrics,
            served,
        }
    }

    pub fn version(&self) -> u64 {
        self.served.version
    }

    /// A copy of a request that `primary` is about to answer, if this one's turn has come and there is room for it.
    pub fn copy(self: &Arc<Self>, primary: &Arc<ServedModel>, request: &InferRequest) -> Option<Copy> {
        let draw = self.kept.sampled.fetch_add(1, Relaxed).wrapping_mul(GOLDEN_STEP);
        if self.threshold.is_some_and(|t| draw >= t) {
            return None;
        }
        let shed = |why| {
            self.metrics.shed(primary.version, why);
            None
        };
        if !self.served.ready() {
            return shed(Shed::NotReady);
        }
        let (a, b) = (&primary.spec, &self.served.spec);
        if a.inputs != b.inputs || a.batched() != b.batched() || a.image.is_some() != b.image.is_some() {
            return shed(Shed::Inputs);
        }
        let bytes = request.rows.iter().map(row_bytes).sum();
        match Room::take(self, bytes) {
            Ok(room) => {
                let (rows, context) = (request.rows.clone(), request.context.clone());
                Some(Copy { room, primary: Arc::clone(primary), rows, context })
            }
            Err(why) => shed(why),
        }
    }
}

fn row_bytes(row: &RowInput) -> usize {
    match row {
        RowInput::Image(data) => data.len(),
        RowInput::Tensors(tensors) => tensors.iter().map(|t| t.data.len()).sum(),
    }
}

/// A copy's place among those in hand, and its bytes.
#[derive(Debug)]
struct Room {
    shadow: Arc<Shadow>,
    bytes: usize,
}

impl Room {
    fn take(shadow: &Arc<Shadow>, bytes: usize) -> Result<Self, Shed> {
        let one_more = |n: usize| (n < shadow.max_requests).then_some(n + 1);
        shadow.kept.copies.fetch_update(AcqRel, Acquire, one_more).map_err(|_| Shed::Requests)?;
        // From here on, dropping it gives back what it has.
        let mut room = Self { shadow: Arc::clone(shadow), bytes: 0 };
        room.grow(bytes)?;
        Ok(room)
    }

    fn grow(&mut self, bytes: usize) -> Result<(), Shed> {
        let Shadow { kept, max_bytes, .. } = &*self.shadow;
        let more = |n: usize| n.checked_add(bytes).filter(|sum| sum <= max_bytes);
        kept.copied_bytes.fetch_update(AcqRel, Acquire, more).map_err(|_| Shed::Bytes)?;
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shadow.kept.copied_bytes.fetch_sub(self.bytes, AcqRel);
        self.shadow.kept.copies.fetch_sub(1, AcqRel);
    }
}

/// A request that is being answered, to be asked again.
#[derive(Debug)]
pub(super) struct Copy {
    room: Room,
    primary: Arc<ServedModel>,
    rows: Vec<RowInput>,
    context: Context,
}

impl Copy {
    /// Adds what was answered, and how long that took from the queue on; `None` where there is no room for it.
    pub fn answered(mut self, response: &InferResponse, took: Duration) -> Option<Copied> {
        let bytes = response.outputs.iter().map(|o| o.data.len()).sum();
        if let Err(why) = self.room.grow(bytes) {
            self.room.shadow.metrics.shed(self.primary.version, why);
            return None;
        }
        let runtime = Handle::try_current().ok()?;
        Some(Copied { copy: self, answer: response.outputs.clone(), took, runtime })
    }
}

/// A request with its answer, to be asked again.
#[derive(Debug)]
pub(super) struct Copied {
    copy: Copy,
    answer: Vec<Tensor>,
    took: Duration,
    runtime: Handle,
}

impl Copied {
    /// Runs it behind everything that this thread has in hand.
    pub fn start(self) {
        let runtime = self.runtime.clone();
        drop(runtime.spawn(self.run()));
    }

    async fn run(self) {
        let Self { copy: Copy { room, primary, rows, context }, answer, took, .. } = self;
        let shadow = Arc::clone(&room.shadow);
        let (served, version) = (&shadow.served, primary.version);
        if primary.pending() > 0 || served.pending() > 0 {
            shadow.metrics.shed(version, Shed::Queue);
            return;
        }
        // Slices would keep the whole body and the whole batch.
        let rows = rows.iter().map(own_row).collect();
        let answer: Vec<Tensor> = answer.iter().map(own).collect();
        let exchange = context.copied();
        let context = exchange.context().clone();
        context.inference(Protocol::Shadow);
        let arrival = context.arrival;
        let priority = served.config.dynamic_batching.priority_levels.into();
        let request = InferRequest { rows, priority, timeout: None, arrival, context };
        let error = match tokio::time::timeout(TIMEOUT, served.infer(request, Protocol::Shadow)).await {
            Ok(Ok(response)) => {
                exchange.finish(Answered::Unheard, None);
                shadow.metrics.took(version, Side::Primary, took);
                shadow.metrics.took(version, Side::Shadow, arrival.elapsed());
                // Arithmetic on whole outputs: not on a thread that answers others.
                let compared = tokio::task::spawn_blocking(move || {
                    shadow.compare(&primary, &answer, &response.outputs);
                    drop(room);
                });
                if let Err(e) = compared.await {
                    tracing::error!(error = %e, "answers of two versions could not be compared");
                }
                return;
            }
            Ok(Err(e)) => e.kind,
            Err(_) => ErrorKind::DeadlineExceeded,
        };
        exchange.context().failed(error);
        exchange.finish(Answered::Unheard, None);
        if error == ErrorKind::QueueFull {
            shadow.metrics.shed(version, Shed::Queue);
        } else {
            shadow.metrics.failed(version, error.status().reason);
        }
    }
}

fn own(tensor: &Tensor) -> Tensor {
    Tensor { data: Bytes::copy_from_slice(&tensor.data), shape: tensor.shape.clone(), ..*tensor }
}

fn own_row(row: &RowInput) -> RowInput {
    match row {
        RowInput::Image(data) => RowInput::Image(Bytes::copy_from_slice(data)),
        RowInput::Tensors(tensors) => RowInput::Tensors(tensors.iter().map(own).collect()),
    }
}

impl Shadow {
    /// Records how near the shadow's outputs came to the primary's, row by row.
    fn compare(&self, primary: &ServedModel, answer: &[Tensor], copy: &[Tensor]) {
        let version = primary.version;
        for (spec, a) in primary.spec.outputs.iter().zip(answer) {
            let name = &spec.tensor.name;
            let place = self.served.spec.outputs.iter().position(|o| o.tensor.name == *name);
            let Some(b) = place.and_then(|p| copy.get(p)) else {
                self.metrics.failed(version, "output_missing");
                continue;
            };
            if (a.datatype, &a.shape) != (b.datatype, &b.shape) {
                self.metrics.failed(version, "output_shape");
                continue;
            }
            let rows = if primary.spec.batched() { a.shape.first().copied().unwrap_or(1) } else { 1 };
            let Some(bytes) = a.data.len().checked_div(rows).filter(|b| *b > 0) else { continue };
            for (a_row, b_row) in a.data.chunks(bytes).zip(b.data.chunks(bytes)) {
                let agreement = compare(a.datatype, a_row, b_row);
                match agreement.cosine {
                    Some(cosine) if cosine.is_nan() => self.metrics.failed(version, "not_a_number"),
                    Some(cosine) => self.metrics.cosine(version, name, cosine),
                    // Whole numbers, as of a class: near is not good enough.
                    None => self.metrics.agrees(version, name, agreement.unequal == 0),
                }
                if agreement.cosine.is_some() && names_classes(spec) {
                    let top = |row| highest(&numbers(a.datatype, row));
                    self.metrics.agrees(version, name, top(a_row) == top(b_row));
                }
            }
        }
    }
}

/// Whether a row of this output is one score for each class.
fn names_classes(spec: &OutputSpec) -> bool {
    (spec.softmax || !spec.labels.is_empty()) && spec.tensor.shape.iter().filter(|d| **d != 1).count() == 1
}

/// Place of the largest value; the first of equals.
fn highest(values: &[f64]) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (i, v) in values.iter().enumerate() {
        if best.is_none_or(|(_, b)| *v > b) {
            best = Some((i, *v));
        }
    }
    best.map(|(i, _)| i)
}
