//! A model on its GPUs: its plan, taken from the cache or built; an engine on each GPU; how its pictures are decoded.

use std::ffi::CString;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::decoder;
use super::gpu::{Gpu, GpuLife};
use super::instance::TensorRtInstance;
use super::workers::Workers;
use super::{NAME, TensorRt};
use crate::backend::{BackendError, Instance, InstancePlan, LoadedModel, Wake};
use crate::ffi::tensorrt::Library;
use crate::gpu::engine::{EngineError, LoadedEngine};
use crate::gpu::jpeg::{Capabilities, DecoderChoice, Policy, Thresholds};
use crate::gpu::pipeline::{Pipeline, PipelineConfig, PipelineTensor};
use crate::gpu::slot::picture_bytes;
use crate::image::{Limits, PreprocessConfig};
use crate::model::config::{Normalize, Precision};
use crate::model::spec::ModelSpec;
use crate::plan::cache::{Plan, PlanCache};
use crate::plan::progress;
use crate::plan::request::{PlanRequest, Target};
use crate::plan::tensorrt::TensorRtBuilder;
use crate::telemetry::gpu::GpuMetrics;
use crate::telemetry::plans::PlanMetrics;
use crate::tensor::{Datatype, TensorSpec};

/// Room for decoded pictures at first, for each row of a batch: a VGA picture. Larger ones make it grow, once.
const FIRST_PICTURE: (u32, u32) = (640, 480);

/// How a model's pictures reach its input.
pub(super) struct ImagePath {
    pub workers: Workers,
    pub limits: Limits,
    pub config: PreprocessConfig,
    /// What any of the model's GPUs has.
    pub capabilities: Capabilities,
    pub choice: DecoderChoice,
    /// What `auto` goes by, measured once.
    pub thresholds: OnceLock<Thresholds>,
}

impl ImagePath {
    pub fn policy(&self) -> Policy {
        let thresholds = self.thresholds.get().copied().unwrap_or(Thresholds::NEVER);
        Policy { choice: self.choice, thresholds }
    }
}

/// A plan's engine on one GPU, anew for each life of its context.
struct OnGpu {
    gpu: Arc<Gpu>,
    engine: Mutex<Option<Arc<LoadedEngine>>>,
}

/// What loading again after a lost GPU takes.
struct Source {
    library: Arc<Library>,
    plans: Arc<PlanCache>,
    plan_metrics: PlanMetrics,
    stop: Arc<AtomicBool>,
    model: String,
    version: u64,
}

/// See the module.
pub(super) struct TensorRtModel {
    spec: ModelSpec,
    source: Source,
    gpus: Vec<OnGpu>,
    /// GPU of each instance, as an index of `gpus`.
    instances: Vec<usize>,
    images: Option<Arc<ImagePath>>,
    pub(super) metrics: GpuMetrics,
}

impl TensorRtModel {
    /// Has a plan for every GPU, built where the cache has none, and loads it.
    pub fn load(
        backend: &TensorRt,
        spec: &ModelSpec,
        plan: &InstancePlan,
        limits: Limits,
    ) -> Result<Self, BackendError> {
        let mut ordinals = plan.gpus.clone();
        ordinals.sort_unstable();
        ordinals.dedup();
        let gpus: Vec<OnGpu> = backend
            .gpus
            .iter()
            .filter(|g| ordinals.contains(&g.info().ordinal))
            .map(|gpu| OnGpu { gpu: Arc::clone(gpu), engine: Mutex::new(None) })
            .collect();
        let instances: Vec<usize> =
            plan.gpus.iter().filter_map(|o| gpus.iter().position(|g| g.gpu.info().ordinal == *o)).collect();
        let (model, version) = identity(&spec.path);
        let source = Source {
            library: Arc::clone(&backend.library),
            plans: Arc::clone(&backend.plans),
            plan_metrics: PlanMetrics::new(&backend.telemetry),
            stop: Arc::clone(&backend.stop),
            model: model.clone(),
            version,
        };
        let mut new = Self {
            spec: spec.clone(),
            source,
            gpus,
            instances,
            images: None,
            metrics: GpuMetrics::new(&backend.telemetry, &model, version),
        };
        let mut capabilities = Capabilities { hardware: false, hybrid: false };
        for on in &new.gpus {
            let life = on.gpu.life().map_err(|e| new.refuse(&e))?;
            if let Ok(nvjpeg) = &life.nvjpeg {
                let has = nvjpeg.capabilities();
                capabilities.hardware |= has.hardware;
                capabilities.hybrid |= has.hybrid;
            }
            new.engine(on, &life)?;
        }
        if let Some(image) = &spec.image {
            let workers = Workers::new(&backend.pool, new.instances.len(), &image.preprocess);
            new.images = Some(Arc::new(ImagePath {
                workers: workers.map_err(|e| new.refuse(&e))?,
                limits,
                config: image.preprocess.clone(),
                capabilities,
                choice: image.decoder,
                thresholds: OnceLock::new(),
            }));
            if let Some(on) = new.gpus.first() {
                let life = on.gpu.life().map_err(|e| new.refuse(&e))?;
                new.choose_decoder(&life);
            }
        }
        Ok(new)
    }

    /// Says who decodes; under `auto`, after measuring.
    fn choose_decoder(&self, life: &GpuLife) {
        let Some(images) = &self.images else { return };
        let lacking = match images.choice {
            DecoderChoice::Hardware => !images.capabilities.hardware,
            DecoderChoice::Hybrid => !images.capabilities.hybrid,
            DecoderChoice::Auto | DecoderChoice::Cpu => false,
        };
        if lacking {
            tracing::warn!(
                model = self.source.model,
                decoder = images.choice.name(),
                "the decoder that model.toml asks for is not there; pictures go to the next best"
            );
        }
        if images.choice == DecoderChoice::Auto && images.capabilities.hybrid {
            let thresholds = decoder::measure(&self.source.model, images, life, self.spec.rows_per_batch());
            let _ = images.thresholds.set(thresholds);
        }
    }

    fn refuse(&self, why: &impl ToString) -> BackendError {
        TensorRt::refuse(&self.spec, why.to_string())
    }

    /// The engine in the present life of its GPU: the one in use, or loaded anew.
    fn engine(&self, on: &OnGpu, life: &GpuLife) -> Result<Arc<LoadedEngine>, BackendError> {
        let mut engine = on.engine.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = engine.as_ref()
            && Arc::ptr_eq(engine.device(), &life.device)
        {
            return Ok(Arc::clone(engine));
        }
        *engine = None;
        let plan = self.plan(on, false)?;
        let loaded = match LoadedEngine::new(&self.source.library, &life.device, &plan.bytes) {
            Ok(loaded) => loaded,
            Err(why) => {
                if let Some(failure) = life.device.failure() {
                    return Err(self.refuse(failure));
                }
                tracing::warn!(path = %plan.path.display(), error = %why, "a plan does not load; it is built again");
                self.source.plans.reject(&plan, &why.to_string());
                let plan = self.plan(on, true)?;
                LoadedEngine::new(&self.source.library, &life.device, &plan.bytes)
                    .map_err(|e| self.refuse(&e))?
            }
        };
        check(&self.spec, &loaded).map_err(|why| self.refuse(&why))?;
        let loaded = Arc::new(loaded);
        *engine = Some(Arc::clone(&loaded));
        Ok(loaded)
    }

    fn plan(&self, on: &OnGpu, force: bool) -> Result<Plan, BackendError> {
        let Source { library, plans, plan_metrics, stop, model, version } = &self.source;
        let builder = TensorRtBuilder::new(Arc::clone(library)).map_err(|e| self.refuse(&e))?;
        let info = on.gpu.info();
        let target =
            Target { compute_capability: info.compute_capability, name: info.name.clone(), present: true };
        let request = PlanRequest { model, version: *version, spec: &self.spec, target: &target, force };
        let gauge = plan_metrics.build_progress(model, *version);
        let mut tell = progress::daemon(model, *version, gauge);
        let plan = plans.obtain(&request, &builder, &mut |progress| {
            let flow = tell(progress);
            if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { flow }
        });
        let plan = plan.map_err(|e| self.refuse(&e))?;
        tracing::info!(model, version, gpu = info.ordinal, source = ?plan.source, path = %plan.path.display(), "plan");
        Ok(plan)
    }

    /// What its pipelines are made for.
    fn pipeline(&self, engine: &LoadedEngine) -> Result<PipelineConfig, EngineError> {
        let rows = self.spec.rows_per_batch();
        let tensor = |spec: &TensorSpec, max_shape: Vec<i64>| {
            let name = CString::new(spec.name.as_str()).unwrap_or_default();
            PipelineTensor { name, datatype: spec.datatype, max_shape }
        };
        let inputs = self
            .spec
            .inputs
            .iter()
            .map(|spec| {
                let name = CString::new(spec.name.as_str()).unwrap_or_default();
                let open =
                    engine.io_tensors().iter().any(|t| t.name == name && t.shape.iter().any(|d| *d < 0));
                let shape = if open { engine.max_input_shape(&name)? } else { self.full_shape(spec, rows) };
                Ok(tensor(spec, shape))
            })
            .collect::<Result<Vec<_>, EngineError>>()?;
        let shapes = engine.max_output_shapes(&inputs)?;
        let outputs = self.spec.outputs.iter().map(|output| {
            let found = shapes.iter().find(|(name, _)| name.to_bytes() == output.tensor.name.as_bytes());
            tensor(&output.tensor, found.map(|(_, shape)| shape.clone()).unwrap_or_default())
        });
        let normalize = self.spec.outputs.iter().enumerate();
        let normalize =
            normalize.filter(|(_, o)| o.normalize == Normalize::L2 && o.tensor.datatype == Datatype::Fp32);
        let (width, height) = FIRST_PICTURE;
        let gpu_decodes =
            self.images.as_ref().is_some_and(|i| i.capabilities.hybrid && i.choice != DecoderChoice::Cpu);
        Ok(PipelineConfig {
            rows,
            batched: self.spec.batched(),
            outputs: outputs.collect(),
            normalize: normalize.map(|(i, _)| i).collect(),
            fixed_shapes: self.spec.inputs.iter().all(|i| i.shape.iter().all(|d| *d >= 0)),
            graphs: true,
            pictures: if gpu_decodes { rows * picture_bytes(width, height) } else { 0 },
            hardware_decoder: self.images.as_ref().is_some_and(|i| {
                matches!(i.choice, DecoderChoice::Auto | DecoderChoice::Hardware) && i.capabilities.hardware
            }),
            inputs,
        })
    }

    fn full_shape(&self, spec: &TensorSpec, rows: usize) -> Vec<i64> {
        let rows = i64::try_from(rows).unwrap_or(i64::MAX);
        self.spec.batched().then_some(rows).into_iter().chain(spec.shape.iter().copied()).collect()
    }

    fn build(&self, ordinal: usize, wake: &Wake) -> Result<TensorRtInstance, BackendError> {
        let on = &self.gpus[self.instances[ordinal]];
        let life = on.gpu.life().map_err(|e| self.refuse(&e))?;
        let engine = self.engine(on, &life)?;
        let config = self.pipeline(&engine).map_err(|e| self.refuse(&e))?;
        let needed = Pipeline::device_bytes(&engine, &config);
        let nvjpeg = life.nvjpeg.as_ref().ok().map(|n| &**n);
        let pipeline = Pipeline::new(&engine, &life.kernels, nvjpeg, config, wake).map_err(|error| {
            if !error.out_of_memory() {
                return self.refuse(&error);
            }
            let free = life.device.enter().and_then(|_section| life.device.memory_info()).map_or(0, |(free, _)| free);
            self.refuse(&format!(
                "GPU {} has too little memory for instance {ordinal}: it needs {} MiB besides the engine's weights, and \
                 {} MiB are free; lower max_batch_size ({}), instance_group.count ({}) or tensorrt.workspace_bytes, or \
                 stop what else uses the GPU ({error})",
                life.device.info().ordinal,
                needed.div_ceil(1 << 20),
                free >> 20,
                self.spec.max_batch_size,
                self.instances.len(),
            ))
        })?;
        Ok(TensorRtInstance::new(
            pipeline,
            life,
            self.images.clone(),
            &self.spec,
            ordinal,
            self.metrics.clone(),
        ))
    }
}

impl LoadedModel for TensorRtModel {
    fn precision(&self) -> Precision {
        self.spec.precision
    }

    fn batch_limit(&self) -> Option<usize> {
        None
    }

    fn normalizes(&self) -> bool {
        true
    }

    fn instance(&self, ordinal: usize, wake: Wake) -> Result<Box<dyn Instance>, BackendError> {
        self.build(ordinal, &wake).map(|i| Box::new(i) as Box<dyn Instance>)
    }
}

/// Name and version of the model whose network this is: `<repository>/<model>/<version>/model.onnx`.
fn identity(path: &Path) -> (String, u64) {
    let name = |up: usize| {
        path.ancestors().nth(up).and_then(Path::file_name).map(|n| n.to_string_lossy().into_owned())
    };
    let version = name(1).and_then(|v| v.parse().ok()).unwrap_or(0);
    (name(2).unwrap_or_else(|| NAME.to_owned()), version)
}

/// Whether the engine has the inputs and outputs of the model.
fn check(spec: &ModelSpec, engine: &LoadedEngine) -> Result<(), String> {
    let tensors = engine.io_tensors();
    let wanted = spec.inputs.iter().map(|t| (true, t)).chain(spec.outputs.iter().map(|o| (false, &o.tensor)));
    for (is_input, want) in wanted {
        let found =
            tensors.iter().find(|t| t.is_input == is_input && t.name.to_bytes() == want.name.as_bytes());
        let kind = if is_input { "input" } else { "output" };
        let Some(found) = found else {
            return Err(format!("the plan has no {kind} \"{}\"; build it from this model.onnx", want.name));
        };
        if found.datatype != want.datatype {
            return Err(format!(
                "{kind} \"{}\" is {} in the plan and {} in model.onnx; a Cast at the model's edge helps",
                want.name, found.datatype, want.datatype
            ));
        }
    }
    Ok(())
}
