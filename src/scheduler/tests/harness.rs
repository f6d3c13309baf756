//! A backend that runs a batch when the test says so, and a served model on it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::backend::{
    Backend, BackendError, Executed, Execution, Instance, InstancePlan, LoadedModel, OutputBuffer, RowInput,
    Wake,
};
use crate::error::{ErrorKind, InferError};
use crate::image::Limits;
use crate::model::config::{ModelConfig, Normalize, Precision};
use crate::model::repository::RepositoryVersion;
use crate::model::spec::{ModelSpec, OutputSpec};
use crate::model::tensorrt::TensorRtConfig;
use crate::problems::Problems;
use crate::scheduler::request::{InferRequest, InferResponse};
use crate::scheduler::served::ServedModel;
use crate::telemetry::context::Context as Unobserved;
use crate::telemetry::metrics::{Protocol, Telemetry};
use crate::tensor::{Datatype, Tensor, TensorSpec};

/// Longest wait for something that is sure to come: only a failing test sees it.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A batch that an instance holds until it hears what becomes of it.
pub struct Held {
    /// First value of each row that was worth working on.
    pub rows: Vec<i32>,
    pub verdict: SyncSender<Verdict>,
}

pub enum Verdict {
    Run,
    Fail(&'static str),
    Panic(&'static str),
}

impl Held {
    pub fn run(self) {
        self.verdict.send(Verdict::Run).unwrap();
    }
}

/// Answers ten times each row's sum, as INT32 `[rows, 1]`; a row that starts below 0 is bad.
#[derive(Clone)]
pub struct TestBackend {
    pub held: SyncSender<Held>,
    pub broken: Arc<AtomicBool>,
    pub built: Arc<AtomicUsize>,
}

impl Backend for TestBackend {
    fn name(&self) -> &'static str {
        "test"
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

impl LoadedModel for TestBackend {
    fn precision(&self) -> Precision {
        Precision::Fp32
    }

    fn batch_limit(&self) -> Option<usize> {
        None
    }

    fn instance(&self, _: usize, _: Wake) -> Result<Box<dyn Instance>, BackendError> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(BackendError::Load { backend: "test", model: "m".into(), why: "broken".into() });
        }
        self.built.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(self.clone()))
    }
}

impl Instance for TestBackend {
    fn execute(
        &mut self,
        rows: &[&RowInput],
        wanted: &dyn Fn(usize) -> Result<(), InferError>,
    ) -> Result<Execution, BackendError> {
        let values: Vec<Vec<i32>> = rows.iter().map(|r| values(r)).collect();
        let first: Vec<_> = (0..rows.len()).map(wanted).collect();
        let (verdict, answer) = sync_channel(1);
        let rows = first.iter().zip(&values).filter(|(w, _)| w.is_ok()).map(|(_, v)| v[0]).collect();
        // With nobody at the other end, the test is over: run, so that the thread can be joined.
        let _ = self.held.send(Held { rows, verdict });
        match answer.recv().unwrap_or(Verdict::Run) {
            Verdict::Run => {}
            Verdict::Fail(why) => {
                return Err(BackendError::Execute { backend: "test", call: "run", why: why.into() });
            }
            Verdict::Panic(why) => std::panic::panic_any(why),
        }
        let mut done = Executed::default();
        let mut data = Vec::new();
        for (i, (entry, row)) in first.into_iter().zip(&values).enumerate() {
            let bad = || InferError::new(ErrorKind::NotAnImage, "bad row");
            let usable =
                entry.and_then(|()| wanted(i)).and_then(|()| if row[0] < 0 { Err(bad()) } else { Ok(()) });
            done.rows.push(usable.map(|()| {
                data.extend((row.iter().sum::<i32>() * 10).to_le_bytes());
                data.len() / 4 - 1
            }));
        }
        done.ran = data.len() / 4;
        if !data.is_empty() {
            done.outputs =
                vec![OutputBuffer { datatype: Datatype::Int32, shape: vec![data.len() / 4, 1], data }];
        }
        Ok(Execution::Done(done))
    }
}

pub fn row(values: &[i32]) -> RowInput {
    let data = values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    RowInput::Tensors(vec![Tensor {
        datatype: Datatype::Int32,
        shape: vec![values.len()],
        data: data.into(),
    }])
}

pub fn values(row: &RowInput) -> Vec<i32> {
    let RowInput::Tensors(tensors) = row else { panic!("images are not sent here") };
    ints(&tensors[0])
}

pub fn ints(tensor: &Tensor) -> Vec<i32> {
    tensor.data.chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// A served model on the test backend.
pub struct Harness {
    server: Server,
    pub backend: TestBackend,
    pub held: Receiver<Held>,
}

impl std::ops::Deref for Harness {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

/// A served model, and what asks it.
pub struct Server {
    pub served: Arc<ServedModel>,
    pub telemetry: Telemetry,
    runtime: Arc<tokio::runtime::Runtime>,
}

pub type Answer = Result<InferResponse, InferError>;

/// A request in flight.
pub struct InFlight {
    future: Pin<Box<dyn Future<Output = Answer>>>,
    done: Option<Answer>,
    runtime: Arc<tokio::runtime::Runtime>,
}

impl InFlight {
    pub fn response(self) -> Answer {
        let future = self.future;
        self.done.unwrap_or_else(|| {
            self.runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await.unwrap() })
        })
    }

    pub fn ints(self) -> Vec<i32> {
        let response = self.response().unwrap();
        assert_eq!(response.outputs[0].shape, [response.outputs[0].elements(), 1]);
        ints(&response.outputs[0])
    }

    #[track_caller]
    pub fn fails(self, kind: ErrorKind, text: &str) -> InferError {
        let error = self.response().err().unwrap_or_else(|| panic!("expected {kind:?}"));
        assert!(
            error.kind == kind && error.message.contains(text),
            "{error:?} is not {kind:?} with \"{text}\""
        );
        error
    }
}

impl Harness {
    /// Serves with that `model.toml`; one instance and batches of up to 4 unless it says otherwise.
    pub fn new(toml: &str) -> Self {
        Self::with(toml, 4, &[1])
    }

    pub fn with(toml: &str, max_batch_size: usize, shape: &[i64]) -> Self {
        let (sender, held) = sync_channel(1024);
        let backend = TestBackend { held: sender, broken: Arc::default(), built: Arc::default() };
        Self { server: Server::on(&backend, toml, max_batch_size, shape), backend, held }
    }

    /// The next batch that an instance has taken.
    pub fn take(&self) -> Held {
        self.held.recv_timeout(PATIENCE).expect("an instance takes a batch")
    }

    /// Expects these batches one after another and runs each.
    #[track_caller]
    pub fn runs(&self, batches: &[&[i32]]) {
        for want in batches {
            let held = self.take();
            assert_eq!(held.rows, *want);
            held.run();
        }
    }

    /// Keeps the instance busy: what is asked from now on waits until the batch is let go.
    pub fn busy(&self) -> (InFlight, Held) {
        let request = self.ask(&[0]);
        let held = self.take();
        assert_eq!((held.rows.as_slice(), self.served.pending()), (&[0][..], 0));
        (request, held)
    }
}

impl Server {
    pub fn on(backend: &dyn Backend, toml: &str, max_batch_size: usize, shape: &[i64]) -> Self {
        let telemetry = Telemetry::new(false);
        let served = load(backend, 1, toml, max_batch_size, shape, &telemetry);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        Self { served: Arc::new(served), telemetry, runtime: Arc::new(runtime) }
    }

    /// Queues a request of rows of one value each.
    pub fn ask(&self, values: &[i32]) -> InFlight {
        self.request(values.iter().map(|v| row(&[*v])).collect(), 0, None, Instant::now())
    }

    pub fn request(
        &self,
        rows: Vec<RowInput>,
        priority: u64,
        timeout: Option<Duration>,
        arrival: Instant,
    ) -> InFlight {
        let served = Arc::clone(&self.served);
        let request =
            InferRequest { rows, priority, timeout, arrival, context: Unobserved::unobserved(arrival) };
        let mut future: Pin<Box<dyn Future<Output = Answer>>> =
            Box::pin(async move { served.infer(request, Protocol::Http).await });
        let _entered = self.runtime.enter();
        let done = match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => None,
        };
        InFlight { future, done, runtime: Arc::clone(&self.runtime) }
    }

    /// The value of a metric's line.
    pub fn metric(&self, line: &str) -> u64 {
        let text = self.telemetry.render();
        let found = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("no {line} in\n{text}")).parse().unwrap()
    }
}

/// `model.toml` of a model `m`, with one instance and no warm-up unless it says otherwise.
pub fn config(toml: &str) -> ModelConfig {
    let mut text = toml.to_owned();
    if !toml.contains("[model_warmup]") {
        text.push_str("\n[model_warmup]\ncount = 0\n");
    }
    if !toml.contains("[[instance_group]]") {
        text.push_str("[[instance_group]]\ncount = 1\n");
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("model.toml"), text).unwrap();
    let mut problems = Problems::default();
    let config = ModelConfig::read(dir.path(), "m", &mut problems);
    assert!(problems.0.is_empty(), "{problems:?}");
    config
}

/// A version of the model `m`: INT32 `x` of that shape in, INT32 `[1]` out.
pub fn load(
    backend: &dyn Backend,
    version: u64,
    toml: &str,
    max_batch_size: usize,
    shape: &[i64],
    telemetry: &Telemetry,
) -> ServedModel {
    let tensor =
        |shape: &[i64]| TensorSpec { name: "x".into(), datatype: Datatype::Int32, shape: shape.to_vec() };
    let output =
        OutputSpec { tensor: tensor(&[1]), softmax: false, normalize: Normalize::None, labels: vec![] };
    let spec = ModelSpec {
        path: "m".into(),
        max_batch_size,
        inputs: vec![tensor(shape)],
        outputs: vec![output],
        image: None,
        precision: Precision::Fp32,
        preferred_batch_size: Vec::new(),
        tensorrt: TensorRtConfig::default(),
    };
    let limits = Limits { max_image_pixels: 1 };
    let version = RepositoryVersion { version, spec, golden: None };
    ServedModel::load(&Arc::new(config(toml)), &version, backend, limits, telemetry).unwrap()
}
