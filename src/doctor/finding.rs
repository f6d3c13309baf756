//! What the doctor says: lines with a mark, findings with a name that `docs/troubleshooting.md` explains.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// `serve` works, and not as well as it could.
    Warn,
    /// `serve` would not start, or would not serve as asked.
    Fail,
}

impl Level {
    /// The mark in front of a line; it is enough where there are no colours.
    #[must_use]
    pub const fn mark(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

/// Writes the enum, its names and the list of all from one table.
macro_rules! findings {
    ($($(#[$doc:meta])+ $variant:ident = $name:literal,)+) => {
        /// Everything that the doctor may find. Names are stable: `docs/troubleshooting.md` has a row for each.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
        pub enum Id {
            $($(#[$doc])+ #[serde(rename = $name)] $variant,)+
        }

        impl Id {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name in reports and in the documentation.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
    };
}

findings! {
    /// A flag, variable or key of the configuration file.
    Configuration = "configuration",
    /// A mistake in the model repository.
    Repository = "repository",
    /// The repository holds no model yet.
    NoModels = "no-models",
    /// An x86 CPU without AVX2.
    CpuNoAvx2 = "cpu-no-avx2",
    /// A cgroup allows less time than one core has.
    CpuQuota = "cpu-quota",
    /// Less memory than the flags allow to be taken.
    MemoryLow = "memory-low",
    /// No GPU, as far as can be seen.
    GpuNone = "gpu-none",
    /// A GPU's device files are here, and no driver library.
    DriverMissing = "driver-missing",
    /// A driver that is too old, or a stub.
    DriverOld = "driver-old",
    /// A call to the driver failed.
    CudaError = "cuda-error",
    /// The driver works and sees no GPU.
    GpuHidden = "gpu-hidden",
    /// A GPU of a compute capability that the kernels are not compiled for.
    GpuTooOld = "gpu-too-old",
    /// The context or the kernels cannot be made on a GPU.
    GpuContext = "gpu-context",
    /// Other processes have taken the GPU's memory.
    GpuMemoryLow = "gpu-memory-low",
    /// This visord was built without the GPU path.
    BuiltWithoutTensorRt = "built-without-tensorrt",
    /// No JPEG engine on this kind of GPU.
    JpegEngineNone = "jpeg-engine-none",
    /// This kind of GPU has a JPEG engine, and it is not to be seen.
    JpegEngineHidden = "jpeg-engine-hidden",
    /// No TensorRT can be opened.
    TensorRtMissing = "tensorrt-missing",
    /// TensorRT is here, and its headers were not compiled in.
    TensorRtHeaders = "tensorrt-headers",
    /// TensorRT without a builder or without its ONNX parser.
    TensorRtCannotBuild = "tensorrt-cannot-build",
    /// The builder's kernels are not beside TensorRT.
    TensorRtResources = "tensorrt-resources",
    /// TensorRT no longer supports this GPU.
    TensorRtTooNew = "tensorrt-too-new",
    /// nvJPEG cannot be opened, or not be used on a GPU.
    NvjpegUnusable = "nvjpeg-unusable",
    /// nvJPEG is of a later CUDA than the driver.
    NvjpegDriver = "nvjpeg-driver",
    /// nvJPEG cannot interpolate chroma.
    NvjpegChroma = "nvjpeg-chroma",
    /// NVML cannot be used.
    NvmlUnusable = "nvml-unusable",
    /// OpenVINO cannot be used.
    OpenVinoUnusable = "openvino-unusable",
    /// A library brings its process down.
    ProbeCrashed = "probe-crashed",
    /// A look at a library does not end.
    ProbeHung = "probe-hung",
    /// A look at a library could not be made.
    ProbeFailed = "probe-failed",
    /// No backend for a model.
    ModelUnserved = "model-unserved",
    /// A model gets another backend than the best.
    ModelFallback = "model-fallback",
    /// A plan must be built at the first start.
    PlanMissing = "plan-missing",
    /// A plan is damaged.
    PlanCorrupt = "plan-corrupt",
    /// The plan cache cannot be written.
    PlanCacheReadOnly = "plan-cache-read-only",
    /// There is little room for plans.
    PlanCacheSpace = "plan-cache-space",
    /// Another process listens on a port.
    PortTaken = "port-taken",
    /// A visord listens on a port.
    PortServing = "port-serving",
    /// A port cannot be listened on for another reason.
    PortRefused = "port-refused",
    /// Fewer open files than connections.
    OpenFilesLow = "open-files-low",
    /// Little memory may be locked.
    LockedMemoryLow = "locked-memory-low",
    /// Too few threads.
    ThreadsLow = "threads-low",
    /// No POSIX shared memory.
    SharedMemoryMissing = "shared-memory-missing",
    /// Little POSIX shared memory.
    SharedMemorySmall = "shared-memory-small",
    /// The container is not given CUDA.
    CapabilityCompute = "capability-compute",
    /// The container is not given the JPEG engine.
    CapabilityVideo = "capability-video",
    /// The container is given no GPU.
    VisibleDevices = "visible-devices",
    /// A TLS file cannot be used.
    TlsFiles = "tls-files",
    /// The certificate has ended.
    TlsExpired = "tls-expired",
    /// The certificate ends soon.
    TlsExpires = "tls-expires",
    /// The clock is behind.
    Clock = "clock",
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// Something that was found, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Its name.
    pub id: Id,
    /// What was found.
    pub text: String,
    /// What to do, in one line.
    pub fix: String,
}

impl Fault {
    /// A fault.
    pub fn new(id: Id, text: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { id, text: text.into(), fix: fix.into() }
    }
}
