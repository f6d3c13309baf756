use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::record::record;
use super::*;
use crate::backend::{Backend, BackendError, Executed, Execution, InstancePlan, LoadedModel, Wake};
use crate::error::{ErrorKind, InferError};
use crate::image::Limits;
use crate::model::config::{ModelConfig, Normalize};
use crate::model::golden::{Bound, Case, Expected, Golden};
use crate::model::repository::RepositoryVersion;
use crate::model::spec::OutputSpec;
use crate::model::tensorrt::TensorRtConfig;
use crate::problems::Problems;
use crate::scheduler::served::{LoadError, ServedModel};
use crate::telemetry::metrics::Telemetry;
use crate::tensor::{Datatype, Tensor, TensorSpec};

/// Answers `y = x` with the second of its two values off by `error(precision)`; a row that starts at -1 is bad,
/// one that starts at -2 panics, and in one that starts at -3 NaN is found, as by a backend that looks for it.
#[derive(Clone)]
struct Drifting {
    error: fn(Precision) -> f32,
    precision: Precision,
    /// First values of every batch that ran.
    ran: Arc<Mutex<Vec<Vec<f32>>>>,
    loads: Arc<AtomicUsize>,
    /// Goes away with every instance.
    alive: Arc<()>,
}

impl Drifting {
    fn new(error: fn(Precision) -> f32) -> Self {
        let (ran, loads) = (Arc::default(), Arc::default());
        Self { error, precision: Precision::Fp32, ran, loads, alive: Arc::new(()) }
    }
}

impl Backend for Drifting {
    fn name(&self) -> &'static str {
        "drifting"
    }

    fn version(&self) -> String {
        "7".into()
    }

    fn device(&self) -> String {
        String::new()
    }

    fn check(&self, _: &ModelSpec) -> Result<(), BackendError> {
        Ok(())
    }

    fn load(
        &self,
        spec: &ModelSpec,
        _: &InstancePlan,
        _: Limits,
    ) -> Result<Arc<dyn LoadedModel>, BackendError> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        Ok(Arc::new(Self { precision: spec.precision, ..self.clone() }))
    }
}

impl LoadedModel for Drifting {
    fn precision(&self) -> Precision {
        self.precision
    }

    fn batch_limit(&self) -> Option<usize> {
        Some(2)
    }

    fn instance(&self, _: usize, _: Wake) -> Result<Box<dyn Instance>, BackendError> {
        Ok(Box::new(self.clone()))
    }
}

impl Instance for Drifting {
    fn execute(
        &mut self,
        rows: &[&RowInput],
        _: &dyn Fn(usize) -> Result<(), InferError>,
    ) -> Result<Execution, BackendError> {
        let rows: Vec<Vec<f32>> = rows
            .iter()
            .map(|row| {
                let RowInput::Tensors(tensors) = row else { panic!("tensors") };
                tensors[0].data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
            })
            .collect();
        self.ran.lock().unwrap().push(rows.iter().map(|r| r[0]).collect());
        let mut done = Executed::default();
        let mut data = Vec::new();
        for row in &rows {
            assert!(row[0] != -2.0, "a row of -2");
            let y = row[1] + (self.error)(self.precision);
            done.rows.push(if row[0] == -1.0 {
                Err(InferError::new(ErrorKind::NotAnImage, "bad row"))
            } else if row[0] == -3.0 && y.is_nan() {
                Err(InferError::new(ErrorKind::NanOutput, "not a number"))
            } else {
                data.extend([row[0], y]);
                Ok(data.len() / 2 - 1)
            });
        }
        let bytes = data.iter().flat_map(|v| v.to_le_bytes()).collect();
        let shape = vec![data.len() / 2, 2];
        done.outputs = vec![OutputBuffer { datatype: Datatype::Fp32, shape, data: bytes }];
        done.ran = data.len() / 2;
        Ok(Execution::Done(done))
    }
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn spec(precision: Precision, normalize: Normalize) -> ModelSpec {
    let tensor = |name: &str| TensorSpec { name: name.into(), datatype: Datatype::Fp32, shape: vec![2] };
    ModelSpec {
        path: "folder/model.onnx".into(),
        max_batch_size: 4,
        inputs: vec![tensor("x")],
        outputs: vec![OutputSpec { tensor: tensor("y"), softmax: false, normalize, labels: vec![] }],
        image: None,
        precision,
        preferred_batch_size: Vec::new(),
        tensorrt: TensorRtConfig::default(),
    }
}

/// Cases that are right where the backend has no error: `y` is `x`, or `x` by its length.
fn golden(inputs: &[[f32; 2]], bound: Option<Bound>, normalize: Normalize) -> Golden {
    let case = |x: &[f32; 2]| {
        let length = if normalize == Normalize::L2 { x[0].hypot(x[1]) } else { 1.0 };
        let tensor = Tensor { datatype: Datatype::Fp32, shape: vec![2], data: Bytes::from(bytes(x)) };
        let outputs = vec![Expected { output: 0, data: bytes(&x.map(|v| v / length)) }];
        Case { name: String::new(), input: CaseInput::Tensors(vec![tensor]), outputs }
    };
    let cases = inputs.iter().map(case).collect();
    Golden { path: "folder/golden.json".into(), made_by: None, bound, cases }
}

struct Loaded {
    served: Result<ServedModel, LoadError>,
    telemetry: Telemetry,
}

impl Loaded {
    fn new(
        backend: &Drifting,
        toml: &str,
        precision: Precision,
        normalize: Normalize,
        golden: Golden,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let rest = "[model_warmup]\ncount = 0\n[[instance_group]]\ncount = 3\n";
        std::fs::write(dir.path().join("model.toml"), format!("{toml}\n{rest}")).unwrap();
        let mut problems = Problems::default();
        let config = Arc::new(ModelConfig::read(dir.path(), "m", &mut problems));
        assert!(problems.0.is_empty(), "{problems:?}");
        let spec = spec(precision, normalize);
        let version = RepositoryVersion { version: 1, spec, golden: Some(Arc::new(golden)) };
        let telemetry = Telemetry::new(false);
        let served = ServedModel::load(&config, &version, backend, Limits::default(), &telemetry);
        Self { served, telemetry }
    }

    #[track_caller]
    fn refused(self, words: &[&str]) {
        let error = self.served.expect_err("a refusal");
        for word in words {
            assert!(error.to_string().contains(word), "\"{word}\" is not in {error}");
        }
    }

    #[track_caller]
    fn metric(&self, line: &str) -> f64 {
        let text = self.telemetry.render();
        let found = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("no {line} in\n{text}")).parse().unwrap()
    }
}

const FIVE: [[f32; 2]; 5] = [[1.0, 2.0], [2.0, 2.0], [3.0, 2.0], [4.0, 2.0], [5.0, 2.0]];
const FALLBACK: &str = "[golden]\non_drift = \"fallback\"\n";

#[test]
fn cases_run_once_in_batches_and_what_they_reach_is_told() {
    let backend = Drifting::new(|_| 0.01);
    let loaded =
        Loaded::new(&backend, "", Precision::Fp32, Normalize::None, golden(&FIVE, None, Normalize::None));
    let report = loaded.served.as_ref().unwrap().golden.clone().unwrap();
    assert_eq!((report.cases, report.bound.as_str()), (5, "bound cosine 0.9995, the default in fp32"));
    // The engine's limit is 2 rows; three instances, and one of them ran the cases.
    assert_eq!(*backend.ran.lock().unwrap(), [vec![1.0, 2.0], vec![3.0, 4.0], vec![5.0]]);
    // [2, 2] against [2, 2.01] is the worst.
    let cosine = 8.02 / (8.0f64 * 8.0401).sqrt();
    assert!((report.worst_cosine().unwrap() - cosine).abs() < 1e-7, "{report:?}");
    assert!((report.worst_difference() - 0.01).abs() < 1e-6, "{report:?}");
    let labels = r#"{model="m",version="1",output="y"}"#;
    assert_eq!(loaded.metric(&format!("visord_golden_worst_cosine{labels}")), report.worst_cosine().unwrap());
    assert_eq!(loaded.metric(&format!("visord_golden_worst_difference{labels}")), report.worst_difference());
    assert_eq!(loaded.metric(r#"visord_drift_fallback{model="m",version="1"}"#), 0.0);
    assert_eq!(loaded.metric(r#"visord_ready_instances{model="m",version="1"}"#), 3.0);
}

#[test]
fn drift_is_refused_with_what_it_reached() {
    let absolute = Some(Bound { cosine: None, absolute: Some(0.25) });
    type Row = (fn(Precision) -> f32, Precision, Option<Bound>, &'static [&'static str]);
    let table: [Row; 5] = [
        // [2, 2] against [2, 3] is the worst of five: cosine 10 / sqrt(8 * 13).
        (
            |_| 1.0,
            Precision::Fp32,
            None,
            &[
                "folder/golden.json: fp32 on drifting drifts: output \"y\" of case 2 has cosine 0.980580 to what it must be \
               (bound cosine 0.9995, the default in fp32); 5 of 5 case(s) are off",
                "check --golden --force",
            ],
        ),
        (
            |_| 0.5,
            Precision::Bf16,
            None,
            &[
                "bf16",
                "bound cosine 0.995, the default in bf16",
                "case 1 is 1.2042 times as long",
                "3 of 5 case(s)",
                "golden.on_drift = \"fallback\"",
            ],
        ),
        (|_| f32::NAN, Precision::Fp32, None, &["holds NaN or infinity"]),
        (|_| f32::INFINITY, Precision::Fp32, absolute, &["holds NaN or infinity"]),
        (
            |_| 0.5,
            Precision::Fp32,
            absolute,
            &["differs by 0.5 from what it must be (bound absolute 0.25)", "5 of 5"],
        ),
    ];
    for (error, precision, bound, words) in table {
        let backend = Drifting::new(error);
        let golden = golden(&FIVE, bound, Normalize::None);
        Loaded::new(&backend, "", precision, Normalize::None, golden).refused(words);
        assert_eq!(backend.loads.load(Ordering::SeqCst), 1);
        assert_eq!(Arc::strong_count(&backend.alive), 1, "an instance of what was refused is still there");
    }
}

#[test]
fn a_reduced_precision_falls_back_where_the_model_allows_it() {
    let backend = Drifting::new(|p| if p == Precision::Fp32 { 0.0 } else { 1.0 });
    let cases = || golden(&FIVE, None, Normalize::None);
    for precision in [Precision::Bf16, Precision::Fp16, Precision::Tf32] {
        let loaded = Loaded::new(&backend, FALLBACK, precision, Normalize::None, cases());
        let served = loaded.served.as_ref().unwrap();
        assert_eq!((served.backend.precision, served.spec.precision), (Precision::Fp32, Precision::Fp32));
        let drift = served.drift.as_ref().unwrap();
        assert_eq!((drift.precision, drift.off), (precision.name(), 5));
        assert_eq!(served.golden.as_ref().unwrap().worst_cosine(), Some(1.0));
        assert_eq!(loaded.metric(r#"visord_drift_fallback{model="m",version="1"}"#), 1.0);
        assert_eq!(loaded.metric(r#"visord_ready_instances{model="m",version="1"}"#), 3.0);
        // The model and its three instances; nothing is left of what was refused.
        assert_eq!(Arc::strong_count(&backend.alive), 1 + 4);
        served.stop();
        drop(loaded);
        Loaded::new(&backend, "", precision, Normalize::None, cases()).refused(&[precision.name()]);
    }
    assert_eq!(backend.loads.swap(0, Ordering::SeqCst), 3 * 3);
    // NaN that the backend itself refuses is drift too.
    let overflow = Drifting::new(|p| if p == Precision::Fp32 { 0.0 } else { f32::NAN });
    let cases_of_nan = || golden(&[[-3.0, 1.0], [1.0, 1.0]], None, Normalize::None);
    let nan = "output \"y\" of case 1 holds NaN or infinity";
    Loaded::new(&overflow, "", Precision::Fp16, Normalize::None, cases_of_nan())
        .refused(&[nan, "2 of 2 case(s)"]);
    let loaded = Loaded::new(&overflow, FALLBACK, Precision::Fp16, Normalize::None, cases_of_nan());
    assert!(loaded.served.is_ok_and(|s| s.drift.as_ref().is_some_and(|d| d.to_string().contains(nan))));
    // What FP32 gets wrong has nothing to fall back on.
    let wrong = Drifting::new(|_| 1.0);
    for (precision, loads) in [(Precision::Fp32, 1), (Precision::Fp16, 2)] {
        Loaded::new(&wrong, FALLBACK, precision, Normalize::None, cases())
            .refused(&["fp32 on drifting drifts"]);
        assert_eq!(wrong.loads.swap(0, Ordering::SeqCst), loads);
    }
}

#[test]
fn a_case_that_cannot_run_is_no_drift() {
    let backend = Drifting::new(|_| 0.0);
    for (row, words) in [
        ([-1.0, 0.0], ["drifting cannot load", "folder/golden.json: case 2: bad row"]),
        ([-2.0, 0.0], ["drifting cannot load", "folder/golden.json: panicked: a row of -2"]),
    ] {
        let cases = golden(&[[1.0, 1.0], row], None, Normalize::None);
        Loaded::new(&backend, FALLBACK, Precision::Fp16, Normalize::None, cases).refused(&words);
        assert_eq!(backend.loads.swap(0, Ordering::SeqCst), 1, "{words:?}");
    }
}

#[test]
fn outputs_are_compared_as_clients_see_them() {
    let exact = Some(Bound { cosine: None, absolute: Some(1e-6) });
    let backend = Drifting::new(|_| 0.0);
    let cases = golden(&[[3.0, 4.0], [6.0, 8.0]], exact, Normalize::L2);
    let loaded = Loaded::new(&backend, "", Precision::Fp32, Normalize::L2, cases.clone());
    assert!(loaded.served.is_ok_and(|s| s.golden.as_ref().is_some_and(|g| g.worst_difference() < 1e-6)));
    Loaded::new(&backend, "", Precision::Fp32, Normalize::None, cases).refused(&["differs by 7.2"]);
}

#[test]
fn what_is_recorded_is_what_fp32_answers() {
    let backend = Drifting::new(|p| if p == Precision::Fp32 { 0.25 } else { 9.0 });
    let dir = tempfile::tempdir().unwrap();
    let spec = ModelSpec { path: dir.path().join("model.onnx"), ..spec(Precision::Fp16, Normalize::None) };
    let (text, cases) = record(&spec, &backend, Limits::default(), &[]).unwrap();
    assert_eq!((cases, &text), (3, &record(&spec, &backend, Limits::default(), &[]).unwrap().0));
    std::fs::write(Golden::path(&spec), text).unwrap();
    let mut problems = Problems::default();
    let golden = Golden::read(&spec, &mut problems).unwrap_or_else(|| panic!("{problems:?}"));
    assert_eq!(
        golden.made_by.as_deref(),
        Some(concat!("visord ", env!("CARGO_PKG_VERSION"), ", drifting 7 in fp32"))
    );
    let mut seen = std::collections::HashSet::new();
    for case in &golden.cases {
        let CaseInput::Tensors(tensors) = &case.input else { panic!("tensors") };
        let floats =
            |data: &[u8]| data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect::<Vec<_>>();
        let (x, y) = (floats(&tensors[0].data), floats(&case.outputs[0].data));
        assert_eq!((y[0], y[1]), (x[0], x[1] + 0.25));
        assert!(x.iter().all(|v| v.abs() <= 1.0) && seen.insert(tensors[0].data.clone()), "{x:?}");
    }
    let broken = Drifting::new(|_| f32::NAN);
    let error = record(&spec, &broken, Limits::default(), &[]).unwrap_err();
    assert_eq!(error, "value 1 of output \"y\" of case 1 is NaN or infinite");
}
