//! TensorRT on NVIDIA's GPUs: pictures are decoded, preprocessed and inferred without leaving the device.
//!
//! [`TensorRt`] is what was found on this machine, `model` a model's plan on each of its GPUs, `instance` one
//! instance: it decides where each row is decoded, and hands its batches to a [`crate::gpu::pipeline::Pipeline`].

mod decoder;
pub mod examine;
mod gpu;
mod instance;
mod model;
mod stage;
mod workers;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use self::gpu::Gpu;
use self::model::TensorRtModel;
use super::{Backend, BackendError, InstancePlan, LoadedModel, Prepared, PreparedState};
use crate::ffi::tensorrt::Library;
use crate::gpu::jpeg::Library as NvjpegLibrary;
use crate::gpu::probe::{GpuInfo, probe};
use crate::image::Limits;
use crate::model::config::{InstanceGroup, InstanceKind, Precision};
use crate::model::spec::ModelSpec;
use crate::plan::cache::{Look, PlanCache};
use crate::plan::request::{PlanRequest, Target};
use crate::plan::tensorrt::TensorRtBuilder;
use crate::telemetry::metrics::Telemetry;
use crate::telemetry::plans::PlanMetrics;

pub(super) const NAME: &str = "tensorrt";

/// Where to look, and where to keep plans.
#[derive(Debug, Clone)]
pub struct TensorRtOptions {
    /// Folder with NVIDIA's libraries; `None` leaves it to the loader.
    pub dir: Option<PathBuf>,
    /// Folder of the plan cache.
    pub plan_cache: PathBuf,
    /// Most bytes in it.
    pub plan_cache_bytes: u64,
    /// Set when the server is asked to stop: a build does not go on then.
    pub stop: Arc<AtomicBool>,
}

/// TensorRT, the GPUs that can be used, and what they share.
pub struct TensorRt {
    library: Arc<Library>,
    gpus: Vec<Arc<Gpu>>,
    device: String,
    plans: Arc<PlanCache>,
    pool: Arc<rayon::ThreadPool>,
    stop: Arc<AtomicBool>,
    telemetry: Telemetry,
}

/// What a probe found that did not end in a usable backend.
#[derive(Debug)]
pub struct Unusable {
    /// Whether there is a GPU in this machine, as far as can be told.
    pub gpu_present: bool,
    /// What is missing, and what to do.
    pub error: BackendError,
}

impl TensorRt {
    /// Looks for the driver, GPUs, TensorRT and nvJPEG, in that order.
    ///
    /// # Errors
    /// [`Unusable`], with every finding.
    pub fn probe(options: &TensorRtOptions, telemetry: &Telemetry) -> Result<Self, Unusable> {
        let refuse = |gpu_present: bool, why: String, fix: &str| Unusable {
            gpu_present,
            error: BackendError::Unavailable { backend: NAME, why, fix: fix.to_owned() },
        };
        let found = probe().map_err(|e| {
            refuse(e.gpu_present(), e.to_string(), "or use --backend openvino or --backend rten")
        })?;
        for gpu in &found.devices {
            tracing::info!(driver_cuda_version = found.driver_version, "found {gpu}");
        }
        for gpu in &found.unusable {
            tracing::warn!("not used: {gpu}");
        }
        telemetry.watch_gpus(&found.devices);
        let (library, findings) = Library::find(options.dir.as_deref());
        let Some(library) = library else {
            let findings: Vec<String> = findings
                .iter()
                .map(|f| match &f.outcome {
                    Ok(text) | Err(text) => format!("{}: {text}", f.library),
                })
                .collect();
            let fix =
                "install TensorRT (10.4 is the last for a V100), or name its folder with --tensorrt-dir";
            return Err(refuse(
                true,
                format!("no TensorRT library can be opened: {}", findings.join("; ")),
                fix,
            ));
        };
        tracing::info!(
            library = library.flavor().name(),
            version = %library.version(),
            path = %library.path().display(),
            "found TensorRT"
        );
        let nvjpeg = NvjpegLibrary::open(options.dir.as_deref()).map_err(|e| e.to_string());
        match &nvjpeg {
            Ok(nvjpeg) => tracing::info!(version = %nvjpeg.version(), "found nvJPEG"),
            Err(why) => tracing::warn!(why, "pictures will be decoded on the CPU: nvJPEG cannot be opened"),
        }
        let plans =
            PlanCache::open(&options.plan_cache, options.plan_cache_bytes, Some(PlanMetrics::new(telemetry)));
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("decode-{i}"))
            .build()
            .map_err(|e| {
                refuse(
                    true,
                    format!("the decode threads cannot be started: {e}"),
                    "raise the limit on threads",
                )
            })?;
        let device = found.devices.iter().map(GpuInfo::to_string).collect::<Vec<_>>().join(", ");
        let gpus = found.devices.into_iter().map(|info| Arc::new(Gpu::new(info, nvjpeg.clone()))).collect();
        Ok(Self {
            library,
            gpus,
            device,
            plans: Arc::new(plans),
            pool: Arc::new(pool),
            stop: Arc::clone(&options.stop),
            telemetry: telemetry.clone(),
        })
    }

    fn refuse(spec: &ModelSpec, why: impl ToString) -> BackendError {
        BackendError::Load { backend: NAME, model: spec.path.display().to_string(), why: why.to_string() }
    }
}

impl Backend for TensorRt {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> String {
        format!("{} {}", self.library.flavor().name(), self.library.version())
    }

    fn device(&self) -> String {
        self.device.clone()
    }

    fn check(&self, spec: &ModelSpec) -> Result<(), BackendError> {
        if spec.precision == Precision::Bf16 {
            return Err(Self::refuse(
                spec,
                "precision = \"bf16\" is not built by TensorRT here; use fp32, tf32 or fp16",
            ));
        }
        Ok(())
    }

    /// One instance on each GPU, unless `[[instance_group]]` says otherwise: an instance has two batches in flight,
    /// which is enough to keep a GPU busy with one model.
    fn plan(&self, spec: &ModelSpec, groups: &[InstanceGroup]) -> Result<InstancePlan, BackendError> {
        let all: Vec<usize> = self.gpus.iter().map(|g| g.info().ordinal).collect();
        let mut gpus = Vec::new();
        for group in groups {
            if group.kind == InstanceKind::Cpu {
                let why =
                    "instance_group.kind = \"cpu\" needs backend openvino or rten; use \"gpu\" or \"auto\"";
                return Err(Self::refuse(spec, why));
            }
            if let Some(unknown) = group.gpus.iter().find(|g| !all.contains(g)) {
                let why =
                    format!("instance_group.gpus names GPU {unknown}; those that can be used are {all:?}");
                return Err(Self::refuse(spec, why));
            }
            let on = if group.gpus.is_empty() { &all } else { &group.gpus };
            for _ in 0..group.count.unwrap_or(1) {
                gpus.extend_from_slice(on);
            }
        }
        if groups.is_empty() {
            gpus = all;
        }
        Ok(InstancePlan { count: gpus.len(), threads: 1, gpus })
    }

    fn prepared(
        &self,
        model: &str,
        version: u64,
        spec: &ModelSpec,
        plan: &InstancePlan,
    ) -> Result<Vec<Prepared>, BackendError> {
        let refuse = |e: String| Self::refuse(spec, e);
        let builder = TensorRtBuilder::new(Arc::clone(&self.library)).map_err(refuse)?;
        let gpus = self.gpus.iter().map(|gpu| gpu.info()).filter(|gpu| plan.gpus.contains(&gpu.ordinal));
        gpus.map(|gpu| {
            let target =
                Target { compute_capability: gpu.compute_capability, name: gpu.name.clone(), present: true };
            let request = PlanRequest { model, version, spec, target: &target, force: false };
            let (file, look) = self.plans.look(&request, &builder).map_err(|e| refuse(e.to_string()))?;
            let state = match look {
                Look::Ready(bytes) => PreparedState::Ready { bytes },
                Look::Missing => PreparedState::Missing,
                Look::Corrupt(why) => PreparedState::Corrupt { why },
            };
            Ok(Prepared { gpu: gpu.ordinal, file, state })
        })
        .collect()
    }

    fn load(
        &self,
        spec: &ModelSpec,
        plan: &InstancePlan,
        limits: Limits,
    ) -> Result<Arc<dyn LoadedModel>, BackendError> {
        self.check(spec)?;
        Ok(Arc::new(TensorRtModel::load(self, spec, plan, limits)?))
    }
}
