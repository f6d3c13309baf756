//! Flags of `visord doctor`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::cli::ServeArgs;

/// Flags of `doctor`: those of `serve`, whose configuration it speaks of, and how it reports.
#[derive(Debug, Clone, Args)]
#[allow(rustdoc::invalid_html_tags, reason = "clap shows these texts on a terminal")]
pub struct DoctorArgs {
    #[allow(missing_docs, reason = "clap would show them")]
    #[command(flatten)]
    pub serve: ServeArgs,

    /// Report as one JSON document, for machines
    #[arg(long)]
    pub json: bool,

    /// Exit with 1 for warnings too, not only for what would keep `serve` from serving
    #[arg(long)]
    pub strict: bool,

    /// Longest time for a look at each library, seconds; longer where they lie on a slow disk
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub probe_timeout_secs: u64,

    /// Only GET this http:// or https:// URL: exit with 0 where the answer is 200, else with 1 and one line. For the
    /// HEALTHCHECK of a container and exec probes, e.g. http://127.0.0.1:8002/v2/health/ready
    #[arg(long, value_name = "URL", conflicts_with_all = ["json", "strict"])]
    pub health: Option<String>,

    /// With --health, time for the whole of it, seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 2, requires = "health",
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout_secs: u64,

    /// With --health, PEM file with the roots of an https:// server's certificate
    #[arg(long, value_name = "FILE", requires = "health")]
    pub tls_ca: Option<PathBuf>,

    /// The doctor's own children: looks at one thing, and answers in JSON
    #[arg(long, hide = true, value_enum)]
    pub probe: Option<Part>,

    #[allow(missing_docs, reason = "not for the command line")]
    #[command(flatten)]
    pub container: ContainerArgs,
}

/// What the NVIDIA container runtime was told, through the environment that it shares with the container.
#[derive(Debug, Clone, Args)]
#[allow(rustdoc::invalid_html_tags, reason = "as all flags")]
pub struct ContainerArgs {
    /// The driver's libraries that the container is given: `all`, or a list of `compute`, `video`, `utility`, …
    #[arg(long, hide = true, env = "NVIDIA_DRIVER_CAPABILITIES")]
    pub nvidia_driver_capabilities: Option<String>,

    /// The GPUs that the container is given: `all`, `none`, `void`, or a list
    #[arg(long, hide = true, env = "NVIDIA_VISIBLE_DEVICES")]
    pub nvidia_visible_devices: Option<String>,

    /// The GPUs that CUDA shows to this process
    #[arg(long, hide = true, env = "CUDA_VISIBLE_DEVICES")]
    pub cuda_visible_devices: Option<String>,
}

/// What a child looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// libcuda, and the GPUs that it lists.
    Gpu,
    /// NVML.
    Nvml,
    /// TensorRT and its ONNX parser.
    #[value(name = "tensorrt")]
    TensorRt,
    /// nvJPEG, in a context on each GPU.
    Nvjpeg,
    /// OpenVINO and its devices.
    #[value(name = "openvino")]
    OpenVino,
    /// The backend of every model, as `serve` chooses it.
    Models,
}

impl Part {
    /// Its word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gpu => "gpu",
            Self::Nvml => "nvml",
            Self::TensorRt => "tensorrt",
            Self::Nvjpeg => "nvjpeg",
            Self::OpenVino => "openvino",
            Self::Models => "models",
        }
    }
}
