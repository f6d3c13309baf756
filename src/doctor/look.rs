//! What the children look at, and what they answer.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::args::{DoctorArgs, Part};
use super::child::answer;
use crate::backend::openvino::OpenVino;
use crate::backend::select::Backends;
use crate::backend::{Backend as _, BackendError, Prepared};
use crate::config::Config;
use crate::model::repository::{RepositoryModel, RepositoryVersion};
use crate::problems::Problems;
use crate::telemetry::metrics::Telemetry;

/// libcuda and the GPUs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GpuLook {
    /// The library's file.
    pub path: Option<String>,
    /// CUDA version of the driver's interface, as 1000 * major + 10 * minor.
    pub driver_cuda: Option<i32>,
    /// Those that can be used.
    pub devices: Vec<GpuDevice>,
    /// Those that cannot, and why.
    pub unusable: Vec<String>,
    /// Whether the driver's video library is here.
    pub video: bool,
    /// Whether there is a GPU, as far as can be seen.
    pub present: bool,
    /// Why none can be used.
    pub fault: Option<super::finding::Fault>,
}

/// A GPU that can be used.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GpuDevice {
    /// CUDA ordinal.
    pub ordinal: usize,
    /// The driver's name.
    pub name: String,
    /// Major and minor.
    pub compute_capability: (u32, u32),
    /// Its memory, bytes.
    pub total_bytes: usize,
    /// Whether it is an instance of a GPU that MIG divides.
    pub mig: bool,
}

/// NVML.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NvmlLook {
    /// The driver's version.
    pub driver_version: Option<String>,
    /// GPUs of CUDA that it knows.
    pub devices: usize,
    /// Those that it does not know, and why.
    pub unknown: Vec<String>,
    /// Why it cannot be used.
    pub fault: Option<String>,
}

/// TensorRT.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TensorRtLook {
    /// The one that is taken.
    pub library: Option<TensorRtLibrary>,
    /// Each that was looked for, and what came of it.
    pub tried: Vec<(String, String)>,
    /// One is here, and its headers are not compiled in.
    pub headers_missing: bool,
}

/// The TensorRT that is taken.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TensorRtLibrary {
    /// `TensorRT 10`, `TensorRT 11` or `TensorRT-RTX`.
    pub flavor: String,
    /// Its whole version.
    pub version: String,
    /// Major and minor.
    pub numbers: (u32, u32),
    /// The file.
    pub path: String,
    /// Whether it has a builder and its ONNX parser.
    pub can_build: bool,
    /// What the search says of it.
    pub says: String,
    /// Whether it is TensorRT-RTX.
    pub rtx: bool,
    /// Whether the builder's kernels lie beside it; `None` where that cannot be seen, or where they are inside.
    pub resources: Option<bool>,
}

/// nvJPEG, on every GPU.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NvjpegLook {
    /// Its version.
    pub version: Option<String>,
    /// Major version of the CUDA runtime in it.
    pub cuda_major: Option<u32>,
    /// The file.
    pub path: Option<String>,
    /// Why it cannot be opened.
    pub fault: Option<String>,
    /// Whether it interpolates chroma.
    pub interpolates_chroma: bool,
    /// One for each GPU.
    pub gpus: Vec<NvjpegGpu>,
}

/// nvJPEG on one GPU.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NvjpegGpu {
    /// CUDA ordinal.
    pub ordinal: usize,
    /// Memory that nobody uses, bytes.
    pub free_bytes: Option<u64>,
    /// Why the context or the kernels cannot be made.
    pub context_fault: Option<String>,
    /// Why nvJPEG cannot be used on it.
    pub nvjpeg_fault: Option<String>,
    /// Whether it has a JPEG engine that this process may use.
    pub jpeg_engine: bool,
    /// Engines, and cores of each, where nvJPEG says so.
    pub engines: Option<(u32, u32)>,
    /// Why there is no engine.
    pub engine_fault: Option<String>,
}

/// OpenVINO.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OpenVinoLook {
    /// Its version.
    pub version: Option<String>,
    /// The file.
    pub path: Option<String>,
    /// The CPU in its words.
    pub device: Option<String>,
    /// Its devices.
    pub devices: Vec<String>,
    /// Why it cannot be used, and what to do.
    pub fault: Option<(String, String)>,
}

/// A version of a model.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ModelLook {
    /// Name.
    pub model: String,
    /// Version.
    pub version: u64,
    /// The arithmetic that it asks for.
    pub precision: String,
    /// The backend that it gets, its version and device.
    pub backend: Option<String>,
    /// The backend's name.
    pub name: Option<String>,
    /// Instances.
    pub instances: Option<usize>,
    /// Better backends that cannot be had, or refuse the model, each with why.
    pub passed_over: Vec<String>,
    /// Why no backend can be had.
    pub fault: Option<String>,
    /// Its plans, one for each GPU.
    pub plans: Vec<Prepared>,
    /// Size of its network, bytes.
    pub model_bytes: u64,
}

/// The file behind a library that this process has loaded, by the beginning of its name.
fn mapped(library: &str) -> Option<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let path = maps.lines().filter_map(|l| Some(&l[l.find('/')?..]));
    let mut path = path.filter(|p| p.rsplit('/').next().is_some_and(|n| n.starts_with(library)));
    path.next().map(str::to_owned)
}

/// Looks at one part, answers, and ends the process.
pub fn child(part: Part, args: DoctorArgs) -> ! {
    match part {
        Part::OpenVino => answer(&openvino(&args)),
        Part::Models => answer(&models(args)),
        #[cfg(feature = "tensorrt")]
        Part::Gpu => answer(&nvidia::gpu()),
        #[cfg(feature = "tensorrt")]
        Part::Nvml => answer(&nvidia::nvml()),
        #[cfg(feature = "tensorrt")]
        Part::TensorRt => answer(&nvidia::tensorrt(&args)),
        #[cfg(feature = "tensorrt")]
        Part::Nvjpeg => answer(&nvidia::nvjpeg(&args)),
        #[cfg(not(feature = "tensorrt"))]
        Part::Gpu | Part::Nvml | Part::TensorRt | Part::Nvjpeg => answer(&()),
    }
}

fn openvino(args: &DoctorArgs) -> OpenVinoLook {
    match OpenVino::probe(args.serve.openvino_dir.as_deref()) {
        Ok(found) => OpenVinoLook {
            version: Some(found.version()),
            path: mapped("libopenvino_c.so"),
            device: Some(found.device()),
            devices: found.devices(),
            fault: None,
        },
        Err(e) => OpenVinoLook {
            version: None,
            path: None,
            device: None,
            devices: Vec::new(),
            fault: Some(match e {
                BackendError::Unavailable { why, fix, .. } => (why, fix),
                e
                @ (BackendError::Load { .. } | BackendError::Execute { .. } | BackendError::Lost { .. }) => {
                    (e.to_string(), String::new())
                }
            }),
        },
    }
}

/// Chooses as the loader does, and loads no model.
fn models(args: DoctorArgs) -> Vec<ModelLook> {
    let config = Config::resolve_all(args.serve, &mut Problems::default());
    let backends = Backends::new(&config.args, &Telemetry::new(false), &Arc::default());
    let versions = config.models.iter().flat_map(|m| m.versions.iter().map(move |v| (m, v)));
    versions.map(|(model, version)| model_look(&backends, model, version)).collect()
}

fn model_look(backends: &Backends, model: &RepositoryModel, version: &RepositoryVersion) -> ModelLook {
    let spec = &version.spec;
    let name = &model.config.name;
    let mut look = ModelLook {
        model: name.clone(),
        version: version.version,
        precision: spec.precision.name().to_owned(),
        backend: None,
        name: None,
        instances: None,
        passed_over: Vec::new(),
        fault: None,
        plans: Vec::new(),
        model_bytes: std::fs::metadata(&spec.path).map_or(0, |m| m.len()),
    };
    let chosen = match backends.choose(name, model.config.backend) {
        Ok(chosen) => chosen,
        Err(e) => {
            look.fault = Some(e.to_string());
            return look;
        }
    };
    look.passed_over = chosen.passed_over;
    let candidates = [Some(chosen.backend), chosen.otherwise];
    for backend in candidates.into_iter().flatten() {
        let usable = backend.check(spec).and_then(|()| {
            let plan = backend.plan(spec, &model.config.instance_group)?;
            Ok((backend.prepared(name, version.version, spec, &plan)?, plan))
        });
        match usable {
            Ok((plans, plan)) => {
                look.backend = Some(backend.describe());
                look.name = Some(backend.name().to_owned());
                look.instances = Some(plan.count);
                look.plans = plans;
                return look;
            }
            Err(e) => look.passed_over.push(e.to_string()),
        }
    }
    look.fault = look.passed_over.pop();
    look
}

#[cfg(feature = "tensorrt")]
mod nvidia {
    use std::path::Path;

    use super::{
        DoctorArgs, GpuDevice, GpuLook, NvjpegGpu, NvjpegLook, NvmlLook, TensorRtLibrary, TensorRtLook,
        mapped,
    };
    use crate::backend::tensorrt::examine::examine;
    use crate::doctor::finding::{Fault, Id};
    use crate::ffi::tensorrt::{Flavor, Library, NO_HEADERS};
    use crate::gpu::nvml::Monitor;
    use crate::gpu::probe::{ProbeError, probe, video};

    pub(super) fn gpu() -> GpuLook {
        let found = probe();
        let mut look = GpuLook {
            path: mapped("libcuda.so"),
            driver_cuda: None,
            devices: Vec::new(),
            unusable: Vec::new(),
            video: video(),
            present: true,
            fault: None,
        };
        match found {
            Ok(found) => {
                look.driver_cuda = Some(found.driver_version);
                look.unusable = found.unusable;
                let device = |g: crate::gpu::probe::GpuInfo| GpuDevice {
                    ordinal: g.ordinal,
                    mig: g.name.contains(" MIG "),
                    name: g.name,
                    compute_capability: g.compute_capability,
                    total_bytes: g.total_bytes,
                };
                look.devices = found.devices.into_iter().map(device).collect();
            }
            Err(e) => {
                look.present = e.gpu_present();
                look.fault = Some(fault(&e));
            }
        }
        look
    }

    /// The probe's own words, which end with what to do.
    fn fault(error: &ProbeError) -> Fault {
        let text = error.to_string();
        let (id, fix) = match error {
            ProbeError::NoDriver(_) if error.gpu_present() => (Id::DriverMissing, None),
            ProbeError::NoDriver(_) => (Id::GpuNone, None),
            ProbeError::NoSymbol(_) => (Id::DriverOld, None),
            ProbeError::OldDriver(_) => (Id::DriverOld, None),
            ProbeError::Call { .. } => (Id::CudaError, None),
            ProbeError::NoDevice => (Id::GpuHidden, None),
            ProbeError::Unusable(_) => {
                (Id::GpuTooOld, Some("use a GPU of Volta or later, or --backend openvino"))
            }
        };
        match fix {
            Some(fix) => Fault::new(id, text, fix),
            None => {
                let (text, fix) = text.split_once("; ").unwrap_or((&text, "look at `nvidia-smi`"));
                Fault::new(id, text, fix)
            }
        }
    }

    pub(super) fn nvml() -> NvmlLook {
        let gpus = probe().map(|found| found.devices).unwrap_or_default();
        match Monitor::open(&gpus) {
            Ok((monitor, unknown)) => NvmlLook {
                driver_version: monitor.driver_version(),
                devices: gpus.len() - unknown.len(),
                unknown,
                fault: None,
            },
            Err(e) => {
                NvmlLook { driver_version: None, devices: 0, unknown: Vec::new(), fault: Some(e.to_string()) }
            }
        }
    }

    pub(super) fn tensorrt(args: &DoctorArgs) -> TensorRtLook {
        let (library, findings) = Library::find(args.serve.plans.tensorrt_dir.as_deref());
        let tried: Vec<(String, String)> =
            findings.into_iter().map(|f| (f.library, f.outcome.unwrap_or_else(|why| why))).collect();
        let library = library.map(|library| {
            let (version, path) = (library.version(), library.path());
            let rtx = library.flavor() == Flavor::TensorRtRtx;
            TensorRtLibrary {
                flavor: library.flavor().name().to_owned(),
                version: version.to_string(),
                numbers: (version.major, version.minor),
                path: path.display().to_string(),
                can_build: library.can_build(),
                says: tried.last().map_or_else(String::new, |(_, says)| says.clone()),
                rtx,
                resources: resources(path).filter(|_| !rtx && library.can_build()),
            }
        });
        TensorRtLook {
            headers_missing: tried.iter().any(|(_, why)| why.contains(NO_HEADERS)),
            library,
            tried,
        }
    }

    /// Whether `libnvinfer_builder_resource…` lies beside the library: the builder opens it when it builds.
    fn resources(library: &Path) -> Option<bool> {
        let folder = library.parent().filter(|f| !f.as_os_str().is_empty())?;
        let mut names = std::fs::read_dir(folder).ok()?.flatten().map(|e| e.file_name());
        Some(names.any(|n| n.to_string_lossy().starts_with("libnvinfer_builder_resource")))
    }

    pub(super) fn nvjpeg(args: &DoctorArgs) -> NvjpegLook {
        let gpus = probe().map(|found| found.devices).unwrap_or_default();
        let examined = examine(gpus, args.serve.plans.tensorrt_dir.as_deref());
        let gpus = examined.gpus.into_iter().map(|gpu| NvjpegGpu {
            ordinal: gpu.ordinal,
            free_bytes: gpu.free_bytes.as_ref().ok().map(|b| *b as u64),
            context_fault: gpu.free_bytes.err(),
            nvjpeg_fault: gpu.nvjpeg_fault,
            jpeg_engine: gpu.jpeg_engine.is_ok(),
            engines: gpu.jpeg_engine.clone().ok().flatten(),
            engine_fault: gpu.jpeg_engine.err(),
        });
        NvjpegLook {
            gpus: gpus.collect(),
            version: examined.nvjpeg.as_ref().ok().map(|(v, _)| v.to_string()),
            cuda_major: examined.nvjpeg.as_ref().ok().map(|(_, cuda)| cuda.0),
            path: mapped("libnvjpeg.so"),
            fault: examined.nvjpeg.err(),
            interpolates_chroma: examined.interpolates_chroma,
        }
    }
}
