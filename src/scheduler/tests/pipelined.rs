//! A backend whose instances have two batches in hand, each done when the test says so.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::harness::{Server, values};
use crate::backend::{
    Backend, BackendError, Executed, Execution, Instance, InstancePlan, LoadedModel, OutputBuffer, RowInput,
    Wake,
};
use crate::error::InferError;
use crate::image::Limits;
use crate::model::config::Precision;
use crate::model::spec::ModelSpec;
use crate::tensor::Datatype;

/// A batch that an instance has in hand.
pub struct InHand {
    /// The instance.
    pub ordinal: usize,
    /// First value of each row.
    pub rows: Vec<i32>,
    outcome: SyncSender<bool>,
    wake: Wake,
}

impl InHand {
    /// It is done, and says so.
    pub fn run(self) {
        self.outcome.send(true).unwrap();
        (self.wake)();
    }

    /// It is done, and says nothing.
    pub fn run_silently(self) {
        self.outcome.send(true).unwrap();
    }

    /// Its device is lost, and says nothing.
    pub fn lose(self) {
        self.outcome.send(false).unwrap();
    }
}

/// Answers ten times each row's value, as INT32 `[rows, 1]`.
#[derive(Clone)]
pub struct PipelinedBackend {
    held: SyncSender<InHand>,
    /// Instances cannot be built.
    pub broken: Arc<AtomicBool>,
    /// Instances that were built.
    pub built: Arc<AtomicUsize>,
}

impl PipelinedBackend {
    pub fn new() -> (Self, Receiver<InHand>) {
        let (held, receiver) = sync_channel(1024);
        (Self { held, broken: Arc::default(), built: Arc::default() }, receiver)
    }

    /// A model on it.
    pub fn serve(&self, toml: &str, max_batch_size: usize) -> Server {
        Server::on(self, toml, max_batch_size, &[1])
    }
}

impl Backend for PipelinedBackend {
    fn name(&self) -> &'static str {
        "pipelined"
    }

    fn version(&self) -> String {
        String::new()
    }

    fn device(&self) -> String {
        String::new()
    }

    fn check(&self, _: &ModelSpec) -> Result<(), BackendError> {
        Ok(())
    }

    fn load(&self, _: &ModelSpec, _: &InstancePlan, _: Limits) -> Result<Arc<dyn LoadedModel>, BackendError> {
        Ok(Arc::new(self.clone()))
    }
}

impl LoadedModel for PipelinedBackend {
    fn precision(&self) -> Precision {
        Precision::Fp32
    }

    fn batch_limit(&self) -> Option<usize> {
        None
    }

    fn instance(&self, ordinal: usize, wake: Wake) -> Result<Box<dyn Instance>, BackendError> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(BackendError::Load { backend: "pipelined", model: "m".into(), why: "broken".into() });
        }
        self.built.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(Pipelined { held: self.held.clone(), ordinal, wake, flights: VecDeque::new() }))
    }
}

struct Flight {
    rows: Vec<i32>,
    outcome: Receiver<bool>,
    heard: Option<bool>,
}

struct Pipelined {
    held: SyncSender<InHand>,
    ordinal: usize,
    wake: Wake,
    flights: VecDeque<Flight>,
}

impl Instance for Pipelined {
    fn execute(
        &mut self,
        rows: &[&RowInput],
        _: &dyn Fn(usize) -> Result<(), InferError>,
    ) -> Result<Execution, BackendError> {
        assert!(self.flights.len() < self.depth(), "a third batch was handed over");
        let rows: Vec<i32> = rows.iter().map(|r| values(r)[0]).collect();
        let (outcome, receiver) = sync_channel(1);
        let in_hand =
            InHand { ordinal: self.ordinal, rows: rows.clone(), outcome, wake: Arc::clone(&self.wake) };
        self.flights.push_back(Flight { rows, outcome: receiver, heard: None });
        // With nobody at the other end, the test is over.
        let _ = self.held.send(in_hand);
        Ok(Execution::Enqueued)
    }

    fn depth(&self) -> usize {
        2
    }

    fn finished(&mut self, _: bool) -> bool {
        let Some(oldest) = self.flights.front_mut() else { return true };
        if oldest.heard.is_none() {
            oldest.heard = oldest.outcome.try_recv().ok();
        }
        oldest.heard.is_some()
    }

    fn collect(&mut self) -> Result<Executed, BackendError> {
        let Flight { rows, outcome, heard } = self.flights.pop_front().expect("a batch is in hand");
        let well = heard.unwrap_or_else(|| outcome.recv().unwrap_or(true));
        if !well {
            let (device, why) = ("GPU 0".to_owned(), "CUDA_ERROR_ILLEGAL_ADDRESS".to_owned());
            return Err(BackendError::Lost { backend: "pipelined", device, why });
        }
        let data: Vec<u8> = rows.iter().flat_map(|v| (v * 10).to_le_bytes()).collect();
        Ok(Executed {
            rows: (0..rows.len()).map(Ok).collect(),
            ran: rows.len(),
            outputs: vec![OutputBuffer { datatype: Datatype::Int32, shape: vec![rows.len(), 1], data }],
            ..Executed::default()
        })
    }
}
