//! OpenVINO: the fastest engine on a CPU, loaded at run time from wherever its libraries are.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use openvino::{CompiledModel, Core, DeviceType, ElementType, InferRequest, RwPropertyKey, Shape, Tensor};

use super::host::{HostEngine, HostInstance};
use super::{Backend, BackendError, Instance, InstancePlan, LoadedModel, OutputBuffer, Wake};
use crate::image::Limits;
use crate::model::config::Precision;
use crate::model::spec::ModelSpec;
use crate::tensor::Datatype;

const NAME: &str = "openvino";
const FIX: &str = "install OpenVINO 2025.1 or newer (`make openvino` in a checkout, or its package) and name the folder with \
                   libopenvino_c.so in --openvino-dir or VISORD_OPENVINO_DIR";
/// Most threads for one batch of a lone client. Not measured: two cores were all there was.
const WIDE_THREADS: usize = 8;
/// Runs in a row without company before a batch gets every core. Without it, gaps between a few concurrent
/// clients would do: measured at 4 connections on two cores, p99 was a quarter higher.
const ALONE_STREAK: usize = 4;
/// Input tensors that an instance keeps, one for each shape it has seen lately.
const KEPT_SHAPES: usize = 64;

/// The OpenVINO backend: its core, once the libraries were found.
pub struct OpenVino {
    core: Mutex<Core>,
    device: String,
}

impl OpenVino {
    /// Loads the libraries from `dir`, or from where OpenVINO is usually installed.
    ///
    /// # Errors
    /// [`BackendError::Unavailable`] with what was looked for.
    pub fn probe(dir: Option<&Path>) -> Result<Self, BackendError> {
        let unavailable = |why: String| BackendError::Unavailable { backend: NAME, why, fix: FIX.to_owned() };
        match dir {
            Some(dir) => {
                let library = find_library(dir)
                    .ok_or_else(|| unavailable(format!("{} holds no libopenvino_c.so", dir.display())))?;
                openvino_sys::library::load_from(library).map_err(unavailable)?;
            }
            None => openvino_sys::library::load().map_err(unavailable)?,
        }
        let core = Core::new().map_err(|e| unavailable(e.to_string()))?;
        let device = core
            .get_property(&DeviceType::CPU, &openvino::PropertyKey::DeviceFullName)
            .map_err(|e| unavailable(format!("its CPU plugin does not load: {e}")))?;
        Ok(Self { core: Mutex::new(core), device: device.trim().to_owned() })
    }

    /// The devices that its plugins find; visord uses CPU alone.
    #[must_use]
    pub fn devices(&self) -> Vec<String> {
        let core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        let devices = core.available_devices().unwrap_or_default();
        devices.iter().map(ToString::to_string).collect()
    }

    fn compile(
        &self,
        spec: &ModelSpec,
        streams: usize,
        threads: usize,
    ) -> Result<CompiledModel, openvino::InferenceError> {
        let mut core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        let (streams, threads) = (streams.to_string(), threads.to_string());
        // `check` has refused what a CPU does not have.
        let precision = match spec.precision {
            Precision::Fp32 | Precision::Tf32 | Precision::Fp16 => "f32",
            Precision::Bf16 => "bf16",
        };
        core.set_properties(
            &DeviceType::CPU,
            [
                (RwPropertyKey::NumStreams, streams.as_str()),
                (RwPropertyKey::InferenceNumThreads, threads.as_str()),
                // The network threads want the same cores: a pinned engine thread waits behind them.
                (RwPropertyKey::HintEnableCpuPinning, "NO"),
                (RwPropertyKey::HintInferencePrecision, precision),
            ],
        )?;
        let model = core.read_model_from_file(&spec.path.to_string_lossy(), "")?;
        core.compile_model(&model, DeviceType::CPU)
    }
}

/// The C library in `dir`: the plain name or the one with a version behind it.
fn find_library(dir: &Path) -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir)
        .ok()?
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("libopenvino_c.so")))
        .collect();
    found.sort();
    found.into_iter().next()
}

impl Backend for OpenVino {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> String {
        openvino::version().build_number
    }

    fn device(&self) -> String {
        self.device.clone()
    }

    fn check(&self, spec: &ModelSpec) -> Result<(), BackendError> {
        match spec.precision {
            Precision::Bf16 if !cpu_has_bf16() => Err(refuse(
                spec,
                "precision = \"bf16\" needs a CPU with AVX512_BF16, AMX or Arm's BF16; use fp32",
            )),
            Precision::Tf32 | Precision::Fp16 => Err(refuse(
                spec,
                format!(
                    "precision = \"{}\" needs TensorRT on a GPU; use fp32 or bf16",
                    spec.precision.name()
                ),
            )),
            Precision::Fp32 | Precision::Bf16 => Ok(()),
        }
    }

    fn load(
        &self,
        spec: &ModelSpec,
        plan: &InstancePlan,
        limits: Limits,
    ) -> Result<Arc<dyn LoadedModel>, BackendError> {
        self.check(spec)?;
        let refuse = |e: openvino::InferenceError| refuse(spec, e);
        let threads = plan.count * plan.threads;
        let mut compiled = self.compile(spec, plan.count, threads).map_err(refuse)?;
        // One instance has all threads anyway.
        let wide = if plan.count > 1 {
            let mut compiled = self.compile(spec, 1, threads.min(WIDE_THREADS)).map_err(refuse)?;
            let request = compiled.create_infer_request().map_err(refuse)?;
            Some(Wide {
                running: AtomicUsize::new(0),
                streak: AtomicUsize::new(0),
                request: Mutex::new(request),
                _compiled: Mutex::new(compiled),
            })
        } else {
            None
        };
        let request = compiled.create_infer_request().map_err(refuse)?;
        let inputs = places(&request, spec.inputs.iter().map(|t| t.name.as_str()));
        let outputs = places(&request, spec.outputs.iter().map(|o| o.tensor.name.as_str()));
        drop(request);
        Ok(Arc::new(OpenVinoModel {
            compiled: Mutex::new(compiled),
            wide: wide.map(Arc::new),
            inputs,
            outputs,
            spec: spec.clone(),
            limits,
        }))
    }
}

fn refuse(spec: &ModelSpec, why: impl ToString) -> BackendError {
    BackendError::Load { backend: NAME, model: spec.path.display().to_string(), why: why.to_string() }
}

/// How a tensor is found in a request.
#[derive(Debug, Clone)]
enum Place {
    /// By its number.
    Index(usize),
    /// By its name.
    Name(String),
}

/// Where each of our tensors is: the only one of its kind at 0, else by its name. A tensor that OpenVINO knows under
/// another name (an alias of the same value) keeps its number, since OpenVINO keeps the order of the ONNX graph.
///
/// The engine's ports are not asked for their names: the crate never frees a port (0.11.1), and each holds 5 kB.
fn places<'a>(request: &InferRequest, names: impl ExactSizeIterator<Item = &'a str>) -> Vec<Place> {
    let single = names.len() == 1;
    let known = |name: &str| !name.contains('\0') && request.get_tensor(name).is_ok();
    names
        .enumerate()
        .map(|(i, n)| if !single && known(n) { Place::Name(n.to_owned()) } else { Place::Index(i) })
        .collect()
}

/// Whether the kernel lists bfloat16 among the CPU's features: AVX512_BF16, AMX, or Arm's BF16.
pub(crate) fn cpu_has_bf16() -> bool {
    std::fs::read_to_string("/proc/cpuinfo")
        .is_ok_and(|text| text.split_whitespace().any(|w| matches!(w, "avx512_bf16" | "amx_bf16" | "bf16")))
}

/// The model compiled once more, with all threads for one batch: what an instance runs on while the others have
/// nothing to do. A lone client then gets its answer from every core instead of one; under load each instance
/// keeps to its own thread, which costs less together (docs/benchmarks.md).
struct Wide {
    /// Instances in the engine.
    running: AtomicUsize,
    /// Runs in a row that began while no other was going on.
    streak: AtomicUsize,
    request: Mutex<InferRequest>,
    /// The request lives in it.
    _compiled: Mutex<CompiledModel>,
}

struct OpenVinoModel {
    compiled: Mutex<CompiledModel>,
    wide: Option<Arc<Wide>>,
    inputs: Vec<Place>,
    outputs: Vec<Place>,
    spec: ModelSpec,
    limits: Limits,
}

impl LoadedModel for OpenVinoModel {
    fn precision(&self) -> Precision {
        self.spec.precision
    }

    fn batch_limit(&self) -> Option<usize> {
        super::select::CPU_BATCH_LIMIT
    }

    fn instance(&self, _: usize, _: Wake) -> Result<Box<dyn Instance>, BackendError> {
        let request = self
            .compiled
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .create_infer_request()
            .map_err(|e| failed("create_infer_request", e))?;
        let engine = OpenVinoEngine {
            request,
            wide: self.wide.clone(),
            inputs: self
                .inputs
                .iter()
                .zip(&self.spec.inputs)
                .map(|(place, t)| Input {
                    place: place.clone(),
                    datatype: t.datatype,
                    tensors: Vec::new(),
                    selected: 0,
                    bound: None,
                })
                .collect(),
            outputs: self.outputs.clone(),
            datatypes: self.spec.outputs.iter().map(|o| o.tensor.datatype).collect(),
        };
        Ok(Box::new(HostInstance::new(engine, &self.spec, self.limits)?))
    }
}

struct Input {
    place: Place,
    datatype: Datatype,
    /// Tensors by shape: a batch size that comes again finds its memory, and OpenVINO its compiled shape.
    tensors: Vec<(Vec<usize>, Tensor)>,
    /// The one that was filled last.
    selected: usize,
    /// The one that the instance's own request has.
    bound: Option<usize>,
}

struct OpenVinoEngine {
    request: InferRequest,
    wide: Option<Arc<Wide>>,
    inputs: Vec<Input>,
    outputs: Vec<Place>,
    datatypes: Vec<Datatype>,
}

fn failed(call: &'static str, why: impl ToString) -> BackendError {
    BackendError::Execute { backend: NAME, call, why: why.to_string() }
}

fn element_type(datatype: Datatype) -> Option<ElementType> {
    Some(match datatype {
        Datatype::Bool => ElementType::Boolean,
        Datatype::Uint8 => ElementType::U8,
        Datatype::Uint16 => ElementType::U16,
        Datatype::Uint32 => ElementType::U32,
        Datatype::Uint64 => ElementType::U64,
        Datatype::Int8 => ElementType::I8,
        Datatype::Int16 => ElementType::I16,
        Datatype::Int32 => ElementType::I32,
        Datatype::Int64 => ElementType::I64,
        Datatype::Fp16 => ElementType::F16,
        Datatype::Bf16 => ElementType::Bf16,
        Datatype::Fp32 => ElementType::F32,
        Datatype::Fp64 => ElementType::F64,
        Datatype::Bytes => return None,
    })
}

impl Input {
    fn select(&mut self, shape: &[usize]) -> Result<usize, BackendError> {
        if let Some(at) = self.tensors.iter().position(|(s, _)| s == shape) {
            return Ok(at);
        }
        let kind = element_type(self.datatype)
            .ok_or_else(|| failed("ov_tensor_create", "BYTES is no engine input"))?;
        let dims: Vec<i64> = shape.iter().map(|d| i64::try_from(*d).unwrap_or(i64::MAX)).collect();
        let dims = Shape::new(&dims).map_err(|e| failed("ov_shape_create", e))?;
        let tensor = Tensor::new(kind, &dims).map_err(|e| failed("ov_tensor_create", e))?;
        if self.tensors.len() == KEPT_SHAPES {
            self.tensors.remove(0);
            self.bound = None;
        }
        self.tensors.push((shape.to_vec(), tensor));
        Ok(self.tensors.len() - 1)
    }
}

impl HostEngine for OpenVinoEngine {
    fn input(&mut self, index: usize, shape: &[usize]) -> Result<&mut [u8], BackendError> {
        let input = &mut self.inputs[index];
        input.selected = input.select(shape)?;
        input.tensors[input.selected].1.get_raw_data_mut().map_err(|e| failed("ov_tensor_data", e))
    }

    fn run(&mut self) -> Result<Vec<OutputBuffer>, BackendError> {
        let Some(wide) = self.wide.clone() else { return self.run_narrow() };
        let running = Running::new(&wide);
        // Taken by another instance that was alone until now: then nobody is alone.
        if running.alone
            && let Ok(mut request) = wide.request.try_lock()
        {
            for input in &self.inputs {
                bind(&mut request, input)?;
            }
            return infer(&mut request, &self.outputs, &self.datatypes);
        }
        self.run_narrow()
    }
}

impl OpenVinoEngine {
    fn run_narrow(&mut self) -> Result<Vec<OutputBuffer>, BackendError> {
        for input in &mut self.inputs {
            if input.bound != Some(input.selected) {
                bind(&mut self.request, input)?;
                input.bound = Some(input.selected);
            }
        }
        infer(&mut self.request, &self.outputs, &self.datatypes)
    }
}

/// Counts an instance as running while it lives.
struct Running<'a> {
    count: &'a AtomicUsize,
    /// No other is running, and none was for a while.
    alone: bool,
}

impl<'a> Running<'a> {
    fn new(wide: &'a Wide) -> Self {
        let alone = wide.running.fetch_add(1, Ordering::AcqRel) == 0;
        let streak = if alone {
            wide.streak.fetch_add(1, Ordering::Relaxed)
        } else {
            wide.streak.swap(0, Ordering::Relaxed)
        };
        Self { count: &wide.running, alone: alone && streak >= ALONE_STREAK }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::AcqRel);
    }
}

fn bind(request: &mut InferRequest, input: &Input) -> Result<(), BackendError> {
    let tensor = &input.tensors[input.selected].1;
    match &input.place {
        Place::Index(index) => request.set_input_tensor_by_index(*index, tensor),
        Place::Name(name) => request.set_tensor(name, tensor),
    }
    .map_err(|e| failed("ov_infer_request_set_tensor", e))
}

/// Runs a request whose inputs are bound; its outputs at `places`, copied.
fn infer(
    request: &mut InferRequest,
    places: &[Place],
    datatypes: &[Datatype],
) -> Result<Vec<OutputBuffer>, BackendError> {
    request.infer().map_err(|e| failed("ov_infer_request_infer", e))?;
    places
        .iter()
        .zip(datatypes)
        .map(|(place, datatype)| {
            let call = "ov_infer_request_get_tensor";
            let tensor = match place {
                Place::Index(index) => request.get_output_tensor_by_index(*index),
                Place::Name(name) => request.get_tensor(name),
            };
            let tensor = tensor.map_err(|e| failed(call, e))?;
            let shape = tensor.get_shape().map_err(|e| failed(call, e))?;
            let shape: Vec<usize> =
                shape.get_dimensions().iter().map(|d| usize::try_from(*d).unwrap_or(0)).collect();
            // An empty tensor has a null pointer, of which the crate would make a slice.
            let data = if shape.contains(&0) {
                Vec::new()
            } else {
                tensor.get_raw_data().map_err(|e| failed(call, e))?.to_vec()
            };
            Ok(OutputBuffer { datatype: *datatype, shape, data })
        })
        .collect()
}
