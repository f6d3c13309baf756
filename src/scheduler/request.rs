//! A request in flight: the state that its rows share while they wait, run and come back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;
use tokio::sync::oneshot;

use crate::backend::RowInput;
use crate::error::{ErrorKind, InferError};
use crate::telemetry::context::Context;
use crate::telemetry::metrics::StageTimes;
use crate::tensor::Tensor;

/// What a protocol asks of the scheduler.
#[derive(Debug)]
pub struct InferRequest {
    /// The rows of the batch, or the whole input of a model without a batch dimension.
    pub rows: Vec<RowInput>,
    /// 1 is the most urgent; 0 takes the model's default.
    pub priority: u64,
    /// How long the client wants to wait, from `arrival`.
    pub timeout: Option<Duration>,
    /// When the request came in.
    pub arrival: Instant,
    /// What follows it: its id, and what is told of it.
    pub context: Context,
}

/// The answer: every output as one tensor over all rows.
#[derive(Debug, Clone)]
pub struct InferResponse {
    /// In the model's output order.
    pub outputs: Vec<Tensor>,
    /// Where the time went.
    pub stages: StageTimes,
}

/// Outputs of a batch, shared by the rows that ran in it.
pub(super) type BatchOutputs = Arc<Vec<Tensor>>;

/// A row's place in a batch's outputs.
#[derive(Debug, Clone)]
struct RowOutput {
    outputs: BatchOutputs,
    row: usize,
}

#[derive(Debug)]
struct Reply {
    rows: SmallVec<[Option<RowOutput>; 1]>,
    missing: usize,
    stages: StageTimes,
    sender: Option<oneshot::Sender<Result<InferResponse, InferError>>>,
}

/// The part of a request that its rows share.
#[derive(Debug)]
pub(super) struct Shared {
    pub deadline: Option<Instant>,
    arrival: Instant,
    /// Whether the model's tensors have a batch dimension.
    batched: bool,
    /// Rows of equal key can share a batch.
    pub shape_key: u64,
    pub context: Context,
    cancelled: AtomicBool,
    reply: Mutex<Reply>,
}

impl Shared {
    pub fn new(
        rows: usize,
        arrival: Instant,
        deadline: Option<Instant>,
        batched: bool,
        shape_key: u64,
        context: Context,
    ) -> (Arc<Self>, oneshot::Receiver<Result<InferResponse, InferError>>) {
        let (sender, receiver) = oneshot::channel();
        let reply = Reply {
            rows: smallvec::smallvec![None; rows],
            missing: rows,
            stages: StageTimes::default(),
            sender: Some(sender),
        };
        let shared = Self {
            deadline,
            arrival,
            batched,
            shape_key,
            context,
            cancelled: AtomicBool::new(false),
            reply: Mutex::new(reply),
        };
        (Arc::new(shared), receiver)
    }

    /// Marks the request as not worth working on: its client left, or one of its rows failed.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
    }

    /// Whether a row of this request is still worth working on at `now`.
    pub fn wanted(&self, now: Instant) -> Result<(), InferError> {
        if self.cancelled.load(Ordering::Acquire) {
            return Err(InferError::new(ErrorKind::Cancelled, "the request was cancelled"));
        }
        match self.deadline {
            Some(deadline) if now >= deadline => Err(self.expired()),
            _ => Ok(()),
        }
    }

    /// The error of a request whose deadline has passed.
    pub fn expired(&self) -> InferError {
        let limit = self.deadline.map_or(Duration::ZERO, |d| d.saturating_duration_since(self.arrival));
        InferError::new(
            ErrorKind::DeadlineExceeded,
            format!("timeout: not answered within {} microseconds of arrival", limit.as_micros()),
        )
    }

    /// Hands in one row; the last one completes the request.
    pub fn complete_row(&self, index: usize, outputs: &BatchOutputs, row: usize, stages: StageTimes) {
        let mut guard = self.reply.lock().unwrap_or_else(PoisonError::into_inner);
        let reply = &mut *guard;
        if reply.rows[index].replace(RowOutput { outputs: Arc::clone(outputs), row }).is_none() {
            reply.missing -= 1;
        }
        reply.stages.queue = reply.stages.queue.max(stages.queue);
        reply.stages.input = reply.stages.input.max(stages.input);
        reply.stages.infer = reply.stages.infer.max(stages.infer);
        reply.stages.output = reply.stages.output.max(stages.output);
        if reply.missing > 0 {
            return;
        }
        let Some(sender) = reply.sender.take() else { return };
        let (rows, stages) = (std::mem::take(&mut reply.rows), reply.stages);
        drop(guard);
        // The receiver is gone when the client left: then nobody wants the answer.
        let _ = sender.send(Ok(InferResponse { outputs: join(&rows, self.batched), stages }));
    }

    /// Fails the whole request; its other rows are not worked on any more.
    pub fn fail(&self, index: usize, error: InferError) {
        self.cancel();
        let (sender, rows) = {
            let mut reply = self.reply.lock().unwrap_or_else(PoisonError::into_inner);
            (reply.sender.take(), reply.rows.len())
        };
        if let Some(sender) = sender {
            let error = if rows > 1 { error.context(format_args!("row {index} of {rows}")) } else { error };
            let _ = sender.send(Err(error));
        }
    }
}

/// One row that waits for, or is in, a batch.
#[derive(Debug)]
pub(super) struct Row {
    pub input: RowInput,
    pub request: Arc<Shared>,
    /// Its place in the request.
    pub index: usize,
    pub enqueued: Instant,
}

/// Puts the rows of a request together again: without a copy where they lie behind one another in one batch.
fn join(rows: &[Option<RowOutput>], batched: bool) -> Vec<Tensor> {
    let placed: SmallVec<[&RowOutput; 1]> = rows.iter().flatten().collect();
    let Some(first) = placed.first() else { return Vec::new() };
    if !batched {
        return first.outputs.as_ref().clone();
    }
    let contiguous = placed
        .iter()
        .enumerate()
        .all(|(i, r)| Arc::ptr_eq(&r.outputs, &first.outputs) && r.row == first.row + i);
    (0..first.outputs.len())
        .map(|output| {
            let tensor = &first.outputs[output];
            let mut shape = tensor.shape.clone();
            shape[0] = placed.len();
            let data = if contiguous {
                let row_bytes = row_bytes(tensor);
                tensor.data.slice(first.row * row_bytes..(first.row + placed.len()) * row_bytes)
            } else {
                let mut data = BytesMut::new();
                for r in &placed {
                    data.extend_from_slice(&row_slice(&r.outputs[output], r.row));
                }
                data.freeze()
            };
            Tensor { datatype: tensor.datatype, shape, data }
        })
        .collect()
}

fn row_bytes(tensor: &Tensor) -> usize {
    tensor.data.len().checked_div(tensor.shape[0]).unwrap_or(0)
}

fn row_slice(tensor: &Tensor, row: usize) -> Bytes {
    let bytes = row_bytes(tensor);
    tensor.data.slice(row * bytes..(row + 1) * bytes)
}
