//! Lines on GPU, driver and the engines' libraries.

use serde::Serialize;
use serde_json::json;

use super::args::{ContainerArgs, Part};
use super::child::Caller;
use super::finding::{Fault, Id, Level};
use super::look::{GpuLook, NvjpegLook, NvmlLook, OpenVinoLook, TensorRtLook};
use super::machine::Root;
use super::report::Report;
use super::{Asked, Looked, size};

/// GPUs with a JPEG engine, by a part of their names. **Source:** nvJPEG's documentation, "Hardware Acceleration", and
/// NVIDIA's Hopper and Blackwell datasheets.
const WITH_JPEG_ENGINE: [&str; 8] = ["A100", "A30", "A800", "H100", "H200", "H800", "B100", "B200"];
/// The last TensorRT for Volta, and the first compute capability that later ones support. **Source:** TensorRT's
/// release notes and support matrix, 10.5.
const LAST_FOR_VOLTA: (u32, u32) = (10, 4);
const TURING: (u32, u32) = (7, 5);
/// Less free memory than this on a GPU hardly holds a context and a small engine, bytes.
const LITTLE_GPU_MEMORY: u64 = 1 << 30;

/// What the children have seen.
#[derive(Debug)]
pub(super) struct Libraries {
    gpu: Looked<GpuLook>,
    nvml: Looked<NvmlLook>,
    tensorrt: Looked<TensorRtLook>,
    nvjpeg: Option<Looked<NvjpegLook>>,
    pub(super) openvino: Looked<OpenVinoLook>,
    /// What `serve` would load and what brings its process down, or never comes back.
    pub(super) deadly: Option<&'static str>,
}

#[cfg(feature = "tensorrt")]
const BUILT_IN: bool = true;
#[cfg(not(feature = "tensorrt"))]
const BUILT_IN: bool = false;

/// Asks the children, those that do not depend on one another at once.
pub(super) fn look(caller: &Caller, asked: &Asked) -> Libraries {
    let none = || Err(Fault::new(Id::BuiltWithoutTensorRt, "", ""));
    let (gpu, nvml, tensorrt, openvino) = std::thread::scope(|scope| {
        let openvino = scope.spawn(|| caller.ask(Part::OpenVino));
        if !BUILT_IN {
            return (
                none(),
                Err(Fault::new(Id::BuiltWithoutTensorRt, "", "")),
                no_tensorrt(),
                joined(openvino),
            );
        }
        let gpu = scope.spawn(|| caller.ask(Part::Gpu));
        let nvml = scope.spawn(|| caller.ask(Part::Nvml));
        let tensorrt = scope.spawn(|| caller.ask(Part::TensorRt));
        (joined(gpu), joined(nvml), joined(tensorrt), joined(openvino))
    });
    let usable = gpu.as_ref().is_ok_and(|g: &GpuLook| !g.devices.is_empty());
    let nvjpeg = usable.then(|| caller.ask(Part::Nvjpeg));
    let dead =
        |fault: Option<&Fault>| fault.is_some_and(|f| matches!(f.id, Id::ProbeCrashed | Id::ProbeHung));
    let gpu_dead = dead(gpu.as_ref().err());
    let candidates = [
        ("the driver", asked.gpu_wanted && gpu_dead),
        ("TensorRT", asked.gpu_wanted && usable && dead(tensorrt.as_ref().err())),
        ("nvJPEG", asked.gpu_wanted && dead(nvjpeg.as_ref().and_then(|n| n.as_ref().err()))),
        ("OpenVINO", asked.openvino_wanted && dead(openvino.as_ref().err())),
    ];
    let deadly = candidates.iter().find(|(_, dead)| *dead).map(|(name, _)| *name);
    Libraries { gpu, nvml, tensorrt, nvjpeg, openvino, deadly }
}

fn no_tensorrt() -> Looked<TensorRtLook> {
    Err(Fault::new(Id::BuiltWithoutTensorRt, "", ""))
}

fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, Looked<T>>) -> Looked<T> {
    let died =
        || Fault::new(Id::ProbeFailed, "a thread of the doctor died", "report it, with the command line");
    thread.join().unwrap_or_else(|_| Err(died()))
}

/// How bad it is that a look at a library came to nothing: what brings this child down, or holds it up, would do the
/// same to `serve`, where that opens the library too.
fn broken(fault: &Fault, wanted: bool) -> Level {
    match (fault.id == Id::ProbeFailed, wanted) {
        (false, true) => Level::Fail,
        (true, true) => Level::Warn,
        (_, false) => Level::Note,
    }
}

/// An answer as a fact.
fn fact<T: Serialize>(report: &mut Report, name: &str, looked: &Looked<T>) {
    match looked {
        Ok(value) => report.fact(name, value),
        Err(fault) => report.fact(name, json!({ "probe": fault })),
    }
}

impl Libraries {
    /// Whether there is a GPU that can be used.
    pub(super) fn gpu_usable(&self) -> bool {
        self.gpu.as_ref().is_ok_and(|g| !g.devices.is_empty())
    }

    pub(super) fn report(
        &self,
        report: &mut Report,
        machine: &Root,
        asked: &Asked,
        container: &ContainerArgs,
    ) {
        fact(report, "gpu", &self.gpu);
        fact(report, "nvml", &self.nvml);
        fact(report, "tensorrt", &self.tensorrt);
        if let Some(nvjpeg) = &self.nvjpeg {
            fact(report, "nvjpeg", nvjpeg);
        }
        fact(report, "openvino", &self.openvino);
        self.container(report, machine, asked, container);
        if BUILT_IN {
            self.gpus(report, asked, container);
            self.driver(report, machine, asked);
            self.tensorrt(report, asked);
            self.nvjpeg(report, asked);
        } else {
            let present = ["dev/nvidiactl", "proc/driver/nvidia/gpus"];
            let present = present.iter().any(|p| std::path::Path::new("/").join(p).exists());
            let fault = Fault::new(
                Id::BuiltWithoutTensorRt,
                "this visord was built without the feature `tensorrt`: no GPU is used",
                "build it with the default features",
            );
            report.found(asked.gpu(present), "gpu", fault);
        }
        self.openvino(report, asked);
        report.ok("rten", "compiled in: runs every model that it can read, on the CPU, slower than OpenVINO");
    }

    fn container(&self, report: &mut Report, machine: &Root, asked: &Asked, args: &ContainerArgs) {
        let kind = machine.container();
        let read_only = crate::ffi::disk::space(std::path::Path::new("/")).is_ok_and(|s| s.read_only);
        report.fact(
            "container",
            json!({
                "kind": kind,
                "read_only_root": read_only,
                "nvidia_driver_capabilities": args.nvidia_driver_capabilities,
                "nvidia_visible_devices": args.nvidia_visible_devices,
                "cuda_visible_devices": args.cuda_visible_devices,
            }),
        );
        if let Some(kind) = kind {
            let root = if read_only { ", root file system read-only" } else { "" };
            report.ok("container", format!("{kind}{root}"));
        }
        if let Some(devices) = args.nvidia_visible_devices.as_deref()
            && matches!(devices.trim(), "" | "none" | "void")
        {
            let fault = Fault::new(
                Id::VisibleDevices,
                format!("NVIDIA_VISIBLE_DEVICES is \"{}\": the container is given no GPU", devices.trim()),
                "set it to `all` or to GPU numbers where a GPU is to be used, and start with `--gpus`",
            );
            report.found(if asked.gpu_required { Level::Fail } else { Level::Note }, "container", fault);
        }
        let Some(capabilities) = args.nvidia_driver_capabilities.as_deref() else { return };
        let has = |word: &str| capabilities.split(',').any(|c| matches!(c.trim(), "all") || c.trim() == word);
        let text = |word: &str| format!("NVIDIA_DRIVER_CAPABILITIES is \"{capabilities}\", without `{word}`");
        let fix = "start the container with NVIDIA_DRIVER_CAPABILITIES=compute,utility,video";
        if !has("compute") {
            report.found(
                asked.gpu(true),
                "container",
                Fault::new(Id::CapabilityCompute, format!("{}: no CUDA in it", text("compute")), fix),
            );
        }
        if !has("video") && self.gpu_usable() {
            let fault = Fault::new(
                Id::CapabilityVideo,
                format!("{}: the JPEG engine is not to be seen in it", text("video")),
                fix,
            );
            report.found(Level::Warn, "container", fault);
        }
    }

    fn gpus(&self, report: &mut Report, asked: &Asked, container: &ContainerArgs) {
        let look = match &self.gpu {
            Ok(look) => look,
            Err(fault) => return report.found(broken(fault, asked.gpu_wanted), "gpu", fault.clone()),
        };
        if let Some(fault) = &look.fault {
            let mut fault = fault.clone();
            if fault.id == Id::GpuHidden
                && let Some(devices) = &container.cuda_visible_devices
            {
                fault.text = format!("{}; CUDA_VISIBLE_DEVICES is \"{devices}\"", fault.text);
            }
            report.found(asked.gpu(look.present), "gpu", fault);
        }
        for unusable in &look.unusable {
            let fault = Fault::new(
                Id::GpuTooOld,
                unusable,
                "leave it out with CUDA_VISIBLE_DEVICES, or look at `nvidia-smi`",
            );
            report.found(Level::Note, "gpu", fault);
        }
        for device in &look.devices {
            let on = match &self.nvjpeg {
                Some(Ok(nvjpeg)) => nvjpeg.gpus.iter().find(|g| g.ordinal == device.ordinal),
                Some(Err(_)) | None => None,
            };
            let (major, minor) = device.compute_capability;
            let mut text = format!(
                "GPU {}: {}, compute capability {major}.{minor}, {}",
                device.ordinal,
                device.name,
                size(device.total_bytes as u64)
            );
            if let Some(free) = on.and_then(|g| g.free_bytes) {
                text += &format!(", {} free", size(free));
            }
            if device.mig {
                text += ", an instance of MIG";
            }
            if let Some(on) = on {
                text += match (on.jpeg_engine, on.engines) {
                    (true, Some((engines, cores))) => {
                        format!(", {engines} JPEG engine(s) of {cores} core(s)")
                    }
                    (true, None) => ", with a JPEG engine".to_owned(),
                    (false, _) => ", no JPEG engine".to_owned(),
                }
                .as_str();
            }
            text += if look.video { ", video library here" } else { ", no video library" };
            report.ok("gpu", text);
            let Some(on) = on else { continue };
            let gpu = format!("GPU {}", device.ordinal);
            if let Some(why) = &on.context_fault {
                let fault = Fault::new(
                    Id::GpuContext,
                    format!("{gpu}: no context, or no kernels in it: {why}"),
                    "look at `nvidia-smi`: memory, compute mode, processes",
                );
                report.found(asked.gpu(true), "gpu", fault);
            }
            if let Some(free) = on.free_bytes.filter(|free| *free < LITTLE_GPU_MEMORY) {
                let fault = Fault::new(
                    Id::GpuMemoryLow,
                    format!("{gpu}: {} are free", size(free)),
                    "stop what else uses it: `nvidia-smi` lists the processes",
                );
                report.found(Level::Warn, "gpu", fault);
            }
            if !on.jpeg_engine && on.nvjpeg_fault.is_none() && on.context_fault.is_none() {
                let why = on.engine_fault.as_deref().unwrap_or("no reason was given");
                let expected = WITH_JPEG_ENGINE.iter().any(|name| device.name.contains(name));
                let (level, id, fix) = if expected {
                    (
                        Level::Warn,
                        Id::JpegEngineHidden,
                        "start the container with `video` in NVIDIA_DRIVER_CAPABILITIES",
                    )
                } else {
                    (
                        Level::Note,
                        Id::JpegEngineNone,
                        "nothing: nvJPEG decodes with the CPU's help; A100, A30 and H100 have an engine",
                    )
                };
                report.found(
                    level,
                    "gpu",
                    Fault::new(id, format!("{gpu}: no JPEG engine to be seen: {why}"), fix),
                );
            }
        }
    }

    fn driver(&self, report: &mut Report, machine: &Root, asked: &Asked) {
        let Ok(look) = &self.gpu else { return };
        let nvml = self.nvml.as_ref().ok();
        let version = nvml.and_then(|n| n.driver_version.clone()).or_else(|| machine.driver_version());
        report.fact("driver_version", &version);
        if version.is_none() && look.driver_cuda.is_none() {
            return;
        }
        let mut words = vec![version.unwrap_or_else(|| "version not to be seen".to_owned())];
        if let Some(cuda) = look.driver_cuda {
            words.push(format!("for CUDA up to {}.{}", cuda / 1000, cuda % 1000 / 10));
        }
        words.extend(look.path.clone());
        report.ok("driver", words.join(", "));
        self.nvml(report, asked);
    }

    fn nvml(&self, report: &mut Report, asked: &Asked) {
        const SUBJECT: &str = "nvml";
        const FIX: &str =
            "give the container `utility` in NVIDIA_DRIVER_CAPABILITIES: without it there are no GPU metrics";
        if !self.gpu_usable() {
            return;
        }
        match &self.nvml {
            Ok(NvmlLook { fault: Some(why), .. }) => {
                let text = format!("cannot be used: {why}");
                report.found(Level::Note, SUBJECT, Fault::new(Id::NvmlUnusable, text, FIX));
            }
            Ok(NvmlLook { devices, unknown, .. }) => {
                report.ok(SUBJECT, format!("knows {devices} GPU(s), for /metrics"));
                for why in unknown {
                    report.found(Level::Note, SUBJECT, Fault::new(Id::NvmlUnusable, why, FIX));
                }
            }
            // A thread of its own asks NVML in `serve`, and nobody waits for it.
            Err(fault) if fault.id == Id::ProbeHung => report.found(Level::Warn, SUBJECT, fault.clone()),
            Err(fault) => report.found(broken(fault, asked.gpu_wanted), SUBJECT, fault.clone()),
        }
    }

    fn tensorrt(&self, report: &mut Report, asked: &Asked) {
        const SUBJECT: &str = "tensorrt";
        let usable = self.gpu_usable();
        let level = asked.gpu(usable);
        let look = match &self.tensorrt {
            Ok(look) => look,
            Err(fault) => {
                return report.found(broken(fault, asked.gpu_wanted && usable), SUBJECT, fault.clone());
            }
        };
        let Some(library) = &look.library else {
            let tried: Vec<String> = look.tried.iter().map(|(name, why)| format!("{name}: {why}")).collect();
            let tried = tried.join("; ");
            return if look.headers_missing {
                let fix = "build visord with TENSORRT_INCLUDE_DIR_10 set, or use the image or package for this TensorRT";
                report.found(level, SUBJECT, Fault::new(Id::TensorRtHeaders, tried, fix));
            } else if usable || asked.gpu_required {
                let fix =
                    "install TensorRT (10.4 is the last for a V100), or name its folder with --tensorrt-dir";
                report.found(
                    level,
                    SUBJECT,
                    Fault::new(Id::TensorRtMissing, format!("none can be opened: {tried}"), fix),
                );
            } else {
                report.ok(SUBJECT, "none here; it is for GPUs only");
            };
        };
        report.ok(SUBJECT, format!("{} {}, {}", library.flavor, library.version, library.path));
        if !library.can_build {
            let fix =
                "install TensorRT with its builder and its ONNX parser (libnvonnxparser), in the same folder";
            report.found(level, SUBJECT, Fault::new(Id::TensorRtCannotBuild, library.says.clone(), fix));
        }
        if library.resources == Some(false) {
            let text = "no libnvinfer_builder_resource beside it: the builder needs it to build plans";
            let fix = "install the whole of TensorRT: the builder's resources come with libnvinfer";
            let level = if usable { Level::Warn } else { Level::Note };
            report.found(level, SUBJECT, Fault::new(Id::TensorRtResources, text, fix));
        }
        let devices = self.gpu.as_ref().map(|g| g.devices.as_slice()).unwrap_or_default();
        for device in devices.iter().filter(|d| d.compute_capability < TURING) {
            if library.rtx || library.numbers > LAST_FOR_VOLTA {
                let (major, minor) = device.compute_capability;
                let text = format!(
                    "{} {} is too new for GPU {}, {}: compute capability {major}.{minor} is supported up to TensorRT 10.4",
                    library.flavor, library.version, device.ordinal, device.name
                );
                let fix =
                    "install TensorRT 10.4, or name its folder with --tensorrt-dir; the image `v100` has it";
                report.found(level, SUBJECT, Fault::new(Id::TensorRtTooNew, text, fix));
            }
        }
    }

    fn nvjpeg(&self, report: &mut Report, asked: &Asked) {
        const SUBJECT: &str = "nvjpeg";
        let look = match &self.nvjpeg {
            None => return,
            Some(Ok(look)) => look,
            Some(Err(fault)) => return report.found(broken(fault, asked.gpu_wanted), SUBJECT, fault.clone()),
        };
        if let Some(why) = &look.fault {
            let fix =
                "install CUDA's nvJPEG 12 (libnvjpeg.so.12): without it pictures are decoded on the CPU";
            return report.found(Level::Warn, SUBJECT, Fault::new(Id::NvjpegUnusable, why, fix));
        }
        let version = look.version.as_deref().unwrap_or("of no known version");
        let path = look.path.as_deref().unwrap_or("libnvjpeg.so");
        report.ok(SUBJECT, format!("{version}, {path}"));
        let driver =
            self.gpu.as_ref().ok().and_then(|g| g.driver_cuda).and_then(|v| u32::try_from(v / 1000).ok());
        if let (Some(cuda), Some(driver)) = (look.cuda_major, driver)
            && cuda > driver
        {
            let text = format!("{version} is of CUDA {cuda}, and the driver speaks up to CUDA {driver}");
            let fix = "install nvJPEG 12, or a newer driver";
            report.found(Level::Warn, SUBJECT, Fault::new(Id::NvjpegDriver, text, fix));
        }
        if !look.interpolates_chroma {
            let text = format!("{version} cannot interpolate chroma: pixels differ more from the CPU's");
            report.found(
                Level::Note,
                SUBJECT,
                Fault::new(Id::NvjpegChroma, text, "install nvJPEG 12.1 or newer"),
            );
        }
        for gpu in &look.gpus {
            if let Some(why) = &gpu.nvjpeg_fault {
                let text = format!("GPU {}: {why}: pictures are decoded on the CPU", gpu.ordinal);
                let fix = "install nvJPEG 12, which runs on every driver and GPU that visord uses";
                report.found(Level::Warn, SUBJECT, Fault::new(Id::NvjpegUnusable, text, fix));
            }
        }
    }

    fn openvino(&self, report: &mut Report, asked: &Asked) {
        const SUBJECT: &str = "openvino";
        let level = asked.openvino(self.gpu_usable());
        match &self.openvino {
            Err(fault) => report.found(broken(fault, asked.openvino_wanted), SUBJECT, fault.clone()),
            Ok(OpenVinoLook { fault: Some((why, fix)), .. }) => {
                report.found(
                    level,
                    SUBJECT,
                    Fault::new(Id::OpenVinoUnusable, format!("cannot be used: {why}"), fix),
                );
            }
            Ok(look) => {
                let mut words = vec![look.version.clone().unwrap_or_default()];
                words.extend(look.path.clone());
                words.push(format!("devices {}", look.devices.join(", ")));
                report.ok(SUBJECT, words.join(", "));
            }
        }
    }
}
