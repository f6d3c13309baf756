//! What was typed: flags, their environment twins, and defaults out of a configuration file.
//!
//! A flag goes before its `VISORD_…` variable, that before the file, that before the default.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use toml::Value;

use crate::bench::args::BenchArgs;
use crate::doctor::args::DoctorArgs;
use crate::init::InitArgs;
use crate::migrate::args::MigrateArgs;
use crate::model::config::BackendChoice;
use crate::problems::{Problems, read_table};
use crate::telemetry::args::TelemetryArgs;
use crate::telemetry::logging::LogFormat;

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "visord", version = VERSION, about, long_about = None, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

#[cfg(feature = "tensorrt")]
const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (",
    env!("VISORD_COMMIT"),
    ")\nTensorRT headers: ",
    env!("VISORD_TENSORRT_HEADERS")
);
#[cfg(not(feature = "tensorrt"))]
const VERSION: &str =
    concat!(env!("CARGO_PKG_VERSION"), " (", env!("VISORD_COMMIT"), ")\nbuilt without TensorRT");

/// What visord can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the models of a repository until SIGTERM or SIGINT
    Serve(Box<ServeArgs>),
    /// Check repository and configuration, and say what would be served, where, with which backend
    Check(Box<CheckArgs>),
    /// Say what was found here: CPU, GPU, libraries, ports, limits, and what to do about each problem
    Doctor(Box<DoctorArgs>),
    /// Build TensorRT plans into the plan cache, so that `serve` finds them there
    Build(Box<BuildArgs>),
    /// Make a model folder and the server's flags of a PaddleServing config.yml, with a line for every key
    Migrate(Box<MigrateArgs>),
    /// Make a first model folder of an ONNX file, with a comment for each guess
    Init(InitArgs),
    /// Load a server over any of its protocols, and say what it answered, how fast and how late
    Bench(Box<BenchArgs>),
}

/// Which generation of PaddleServing's error numbers is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PaddleErrNo {
    /// 0 to 9, as up to 0.6.3; answers have no `tensors` field.
    #[value(name = "0.6")]
    V06,
    /// 3000 to 10000, as from 0.8 on.
    #[value(name = "0.8")]
    V08,
}

/// How models come and go while the server runs, in Triton's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ControlMode {
    /// Every model is loaded at start, and stays.
    None,
    /// The repository is watched: what changes in it is loaded, replaced or unloaded.
    Poll,
    /// Models are loaded and unloaded by request.
    Explicit,
}

/// Flags of `check`: those of `serve`, and what it may write.
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    /// The flags of `serve`.
    #[command(flatten)]
    pub serve: ServeArgs,

    /// Write golden.json beside each version's model.onnx: what its backend answers in fp32 now
    #[arg(long)]
    pub golden: bool,

    /// Image for --golden, again for each further one [default: made-up pictures]
    #[arg(long, value_name = "FILE", requires = "golden")]
    pub golden_image: Vec<PathBuf>,

    /// Let --golden replace files that are there
    #[arg(long, requires = "golden")]
    pub force: bool,
}

/// Flags of `serve`, `check` and `doctor`.
#[derive(Debug, Clone, Args)]
#[allow(rustdoc::invalid_html_tags, reason = "clap shows these texts on a terminal")]
pub struct ServeArgs {
    /// TOML file with defaults for these flags, e.g. `http_port = 80` [default: none]
    #[arg(long, env = "VISORD_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Folder with one folder for each model: <MODEL>/model.toml, <MODEL>/<VERSION>/model.onnx
    #[arg(long, env = "VISORD_MODEL_REPOSITORY", value_name = "DIR", default_value = "engines")]
    pub model_repository: PathBuf,

    /// How models change while the server runs: not at all, as the repository changes, or by request
    #[arg(long, env = "VISORD_MODEL_CONTROL_MODE", value_enum, default_value_t = ControlMode::None,
          value_name = "MODE")]
    pub model_control_mode: ControlMode,

    /// Model to load at start with --model-control-mode explicit; may be given several times, * for every model
    /// [default: none is loaded]
    #[arg(long, env = "VISORD_LOAD_MODEL", value_name = "MODEL", value_delimiter = ',')]
    pub load_model: Vec<String>,

    /// Longest time between two looks at the repository with --model-control-mode poll, seconds; changes that the
    /// kernel tells of are seen at once
    #[arg(long, env = "VISORD_REPOSITORY_POLL_SECS", value_name = "SECONDS", default_value_t = 15,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub repository_poll_secs: u64,

    /// With --model-control-mode poll, how long nothing in a model's folder must change before it is loaded,
    /// milliseconds: longer than your copies pause
    #[arg(long, env = "VISORD_REPOSITORY_SETTLE_MILLIS", value_name = "MILLISECONDS", default_value_t = 3_000,
          value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    pub repository_settle_millis: u64,

    /// Address to listen on; 0.0.0.0 for every interface
    #[arg(long, env = "VISORD_HOST", value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub host: String,

    /// Port of HTTP; 0 takes a free one and logs it
    #[arg(long, env = "VISORD_HTTP_PORT", value_name = "PORT", default_value_t = 8000)]
    pub http_port: u16,

    /// Port of gRPC; 0 takes a free one and logs it
    #[arg(long, env = "VISORD_GRPC_PORT", value_name = "PORT", default_value_t = 8001)]
    pub grpc_port: u16,

    /// Port of /metrics and health alone, for scrapers that must not reach inference; 0 takes a free one
    #[arg(long, env = "VISORD_METRICS_PORT", value_name = "PORT", default_value_t = 8002)]
    pub metrics_port: u16,

    /// Engine for models that do not name one; `auto` takes the best that works here and warns about better ones
    #[arg(long, env = "VISORD_BACKEND", value_enum, default_value_t = BackendChoice::Auto)]
    pub backend: BackendChoice,

    /// Refuse to serve a model without a GPU, instead of warning and setting visord_gpu_unused
    #[arg(long, env = "VISORD_REQUIRE_GPU", default_value_t = false, num_args = 0..=1,
          default_missing_value = "true", action = clap::ArgAction::Set, value_name = "BOOL")]
    pub require_gpu: bool,

    /// Folder with libopenvino_c.so [default: OpenVINO's usual places]
    #[arg(long, env = "VISORD_OPENVINO_DIR", value_name = "DIR")]
    pub openvino_dir: Option<PathBuf>,

    #[allow(missing_docs, reason = "clap would show them")]
    #[command(flatten)]
    pub plans: PlanArgs,

    #[allow(missing_docs, reason = "clap would show them")]
    #[command(flatten)]
    pub telemetry: TelemetryArgs,

    /// Largest request body, bytes, as sent and after inflation
    #[arg(long, env = "VISORD_MAX_BODY_BYTES", value_name = "BYTES", default_value_t = 67_108_864,
          value_parser = clap::value_parser!(u64).range(1..=1 << 40))]
    pub max_body_bytes: u64,

    /// All request bodies in memory together, bytes; more is answered 503
    #[arg(long, env = "VISORD_MAX_INFLIGHT_BYTES", value_name = "BYTES", default_value_t = 1_073_741_824,
          value_parser = clap::value_parser!(u64).range(1..=1 << 44))]
    pub max_inflight_bytes: u64,

    /// Largest image, pixels, read from its header before memory is taken: each instance may need 3 bytes a pixel
    #[arg(long, env = "VISORD_MAX_IMAGE_PIXELS", value_name = "PIXELS", default_value_t = 50_000_000,
          value_parser = clap::value_parser!(u64).range(1..=1 << 32))]
    pub max_image_pixels: u64,

    /// Parts of one multipart request, and keys of one PaddleServing request
    #[arg(long, env = "VISORD_MAX_IMAGES_PER_REQUEST", value_name = "COUNT", default_value_t = 1024,
          value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pub max_images_per_request: u64,

    /// Largest request head, bytes
    #[arg(long, env = "VISORD_MAX_HEADER_BYTES", value_name = "BYTES", default_value_t = 65_536,
          value_parser = clap::value_parser!(u64).range(8_192..=16_777_216))]
    pub max_header_bytes: u64,

    /// Connections open at once on each port; more wait in the kernel
    #[arg(long, env = "VISORD_MAX_CONNECTIONS", value_name = "COUNT", default_value_t = 4096,
          value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub max_connections: u64,

    /// Time for a request's head, seconds, which is also how long an idle connection is kept
    #[arg(long, env = "VISORD_HEADER_READ_TIMEOUT_SECS", value_name = "SECONDS", default_value_t = 75,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub header_read_timeout_secs: u64,

    /// Time for a request's body, seconds
    #[arg(long, env = "VISORD_REQUEST_READ_TIMEOUT_SECS", value_name = "SECONDS", default_value_t = 30,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub request_read_timeout_secs: u64,

    /// Threads for the network, JSON and base64; more where /metrics shows answers slower than their stages
    /// [default: one for each core, at most 4]
    #[arg(long, env = "VISORD_HTTP_THREADS", value_name = "COUNT",
          value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub http_threads: Option<u64>,

    /// After SIGTERM, how long requests are still admitted while readiness is already off, seconds: set it to
    /// what your load balancer needs to notice
    #[arg(long, env = "VISORD_EXIT_DELAY_SECS", value_name = "SECONDS", default_value_t = 0,
          value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub exit_delay_secs: u64,

    /// After that, how long requests in flight may take to finish, seconds
    #[arg(long, env = "VISORD_EXIT_TIMEOUT_SECS", value_name = "SECONDS", default_value_t = 30,
          value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub exit_timeout_secs: u64,

    #[allow(missing_docs, reason = "clap would show them")]
    #[command(flatten)]
    pub sockets: SocketArgs,

    /// PaddleServing generation whose err_no numbers and fields are spoken
    #[arg(long, env = "VISORD_PADDLE_ERR_NO", value_enum, default_value = "0.8")]
    pub paddle_err_no: PaddleErrNo,

    /// Also give metrics under Triton's names (nv_inference_*), for dashboards that exist
    #[arg(long, env = "VISORD_TRITON_METRICS", default_value_t = false, num_args = 0..=1,
          default_missing_value = "true", action = clap::ArgAction::Set, value_name = "BOOL")]
    pub triton_metrics: bool,
}

/// Flags of connections: TLS, and what HTTP/2 brings.
#[derive(Debug, Clone, Args)]
#[allow(rustdoc::invalid_html_tags, reason = "clap shows these texts on a terminal")]
pub struct SocketArgs {
    /// PEM file with the certificate of the HTTP and gRPC ports, then its intermediates; read again when it changes
    /// [default: no TLS]
    #[arg(long, env = "VISORD_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// PEM file with the private key of --tls-cert
    #[arg(long, env = "VISORD_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// PEM file with the roots of the certificates that clients must then show [default: none is asked for]
    #[arg(long, env = "VISORD_TLS_CLIENT_CA", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,

    /// How often clients of HTTP/2 and gRPC are pinged, seconds, so that dead ones are noticed
    #[arg(long, env = "VISORD_HTTP2_KEEPALIVE_SECS", value_name = "SECONDS", default_value_t = 60,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub http2_keepalive_secs: u64,

    /// Let clients that connect over loopback leave tensors in POSIX shared memory (Triton's system shared memory).
    /// Whoever can do so can read and change every object that this process can open
    #[arg(long, env = "VISORD_SHARED_MEMORY", default_value_t = false, num_args = 0..=1,
          default_missing_value = "true", action = clap::ArgAction::Set, value_name = "BOOL")]
    pub shared_memory: bool,

    /// Show browsers that open the HTTP port a page with models, live figures and a place to try images. It can do
    /// what the API can, and no more; turn it off where people should not look
    #[arg(long, env = "VISORD_CONSOLE", default_value_t = true, num_args = 0..=1,
          default_missing_value = "true", action = clap::ArgAction::Set, value_name = "BOOL")]
    pub console: bool,

    /// How long such a client may take to answer, seconds, before its connection is closed
    #[arg(long, env = "VISORD_HTTP2_KEEPALIVE_TIMEOUT_SECS", value_name = "SECONDS", default_value_t = 20,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub http2_keepalive_timeout_secs: u64,
}

/// Flags that say where TensorRT and its plans are.
#[derive(Debug, Clone, Args)]
#[allow(rustdoc::invalid_html_tags, reason = "clap shows these texts on a terminal")]
pub struct PlanArgs {
    /// Folder with TensorRT's libraries, where the loader does not find them by itself [default: the loader's path]
    #[arg(long, env = "VISORD_TENSORRT_DIR", value_name = "DIR")]
    pub tensorrt_dir: Option<PathBuf>,

    /// Folder that keeps TensorRT's plans; several processes may share it [default: <MODEL_REPOSITORY>/.plans]
    #[arg(long, env = "VISORD_PLAN_CACHE", value_name = "DIR")]
    pub plan_cache: Option<PathBuf>,

    /// Most that the plan cache may hold, bytes; beyond, the plans that were not used for longest go
    #[arg(long, env = "VISORD_PLAN_CACHE_BYTES", value_name = "BYTES", default_value_t = 10_737_418_240,
          value_parser = clap::value_parser!(u64).range(1..=1 << 50))]
    pub plan_cache_bytes: u64,
}

impl PlanArgs {
    /// The plan cache's folder.
    #[must_use]
    pub fn cache_dir(&self, model_repository: &Path) -> PathBuf {
        self.plan_cache.clone().unwrap_or_else(|| model_repository.join(".plans"))
    }
}

/// The arithmetic that a plan may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PlanPrecision {
    /// 32-bit floats throughout.
    Fp32,
    /// 32-bit floats, TF32 products on Ampere and later.
    Tf32,
    /// 16-bit floats inside the network.
    Fp16,
}

/// Flags of `build`.
#[derive(Debug, Clone, Args)]
#[allow(rustdoc::invalid_html_tags, reason = "clap shows these texts on a terminal")]
pub struct BuildArgs {
    /// TOML file with defaults for these flags; the one of `serve` will do [default: none]
    #[arg(long, env = "VISORD_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Folder with one folder for each model: <MODEL>/model.toml, <MODEL>/<VERSION>/model.onnx
    #[arg(long, env = "VISORD_MODEL_REPOSITORY", value_name = "DIR", default_value = "engines")]
    pub model_repository: PathBuf,

    /// Model to build for; may be given several times [default: every model]
    #[arg(long, env = "VISORD_MODEL", value_name = "MODEL", value_delimiter = ',')]
    pub model: Vec<String>,

    /// Arithmetic, where it shall not be the one of model.toml; `serve` looks for that one
    #[arg(long, env = "VISORD_PRECISION", value_enum)]
    pub precision: Option<PlanPrecision>,

    /// Compute capability of the GPU to build for, e.g. 8.6; may be given several times. Another GPU's than this
    /// machine's needs TensorRT-RTX [default: the GPU that is here]
    #[arg(long, env = "VISORD_COMPUTE_CAPABILITY", value_name = "MAJOR.MINOR", value_delimiter = ',',
          value_parser = compute_capability)]
    pub compute_capability: Vec<(u32, u32)>,

    #[allow(missing_docs, reason = "clap would show them")]
    #[command(flatten)]
    pub plans: PlanArgs,

    /// Build also where the cache has the plan
    #[arg(long, env = "VISORD_FORCE", default_value_t = false, num_args = 0..=1, default_missing_value = "true",
          action = clap::ArgAction::Set, value_name = "BOOL")]
    pub force: bool,

    /// Write the network as the builder would be given it, after the FP16 rewrite, and stop; needs no TensorRT and
    /// exactly one model version
    #[arg(long, env = "VISORD_WRITE_ONNX", value_name = "FILE")]
    pub write_onnx: Option<PathBuf>,

    /// Form of log lines, on standard error
    #[arg(long, env = "VISORD_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// Log level, or a filter such as visord=debug
    #[arg(long, env = "VISORD_LOG_LEVEL", value_name = "FILTER", default_value = "warn")]
    pub log_level: String,
}

/// `8.6`, as NVIDIA writes it.
fn compute_capability(text: &str) -> Result<(u32, u32), String> {
    let number =
        |s: &str| s.parse::<u32>().ok().filter(|_| s.len() <= 2 && s.bytes().all(|b| b.is_ascii_digit()));
    text.split_once('.')
        .and_then(|(major, minor)| Some((number(major)?, number(minor)?)))
        .filter(|(major, _)| *major > 0)
        .ok_or_else(|| {
            "must be MAJOR.MINOR, as in 8.6; https://developer.nvidia.com/cuda-gpus lists them".to_owned()
        })
}

/// Reads the command line, with the defaults of the file that it names.
///
/// # Errors
/// What clap has to say: help and version too, which are no failures.
pub fn parse(
    arguments: impl IntoIterator<Item = OsString> + Clone,
    problems: &mut Problems,
) -> Result<Cli, clap::Error> {
    let cli = Cli::try_parse_from(arguments.clone())?;
    let file = match &cli.command {
        Command::Serve(args) => &args.config,
        Command::Check(args) => &args.serve.config,
        Command::Doctor(args) if args.health.is_some() => &None,
        Command::Doctor(args) => &args.serve.config,
        Command::Build(args) => &args.config,
        Command::Migrate(_) | Command::Init(_) | Command::Bench(_) => &None,
    };
    let Some(file) = file else { return Ok(cli) };
    let defaults = file_defaults(file, problems);
    let mut command = Cli::command();
    for name in ["serve", "check", "doctor", "build"] {
        command = command.mut_subcommand(name, |mut sub| {
            for (flag, value) in &defaults {
                if sub.get_arguments().any(|arg| arg.get_id() == flag.as_str()) {
                    sub = sub.mut_arg(flag, |arg| arg.default_value(value.clone()));
                }
            }
            sub
        });
    }
    Cli::from_arg_matches(&command.try_get_matches_from(arguments)?)
}

/// The file's keys as flags' ids (which are its keys: `http_port` is `--http-port`) and values.
fn file_defaults(file: &Path, problems: &mut Problems) -> Vec<(String, String)> {
    let table = read_table(file, false, problems);
    let command = Cli::command();
    let Some(serve) = command.find_subcommand("serve") else { return Vec::new() };
    let mut defaults = Vec::new();
    for (key, value) in &table {
        let known = key != "config"
            && serve.get_arguments().any(|a| a.get_long().is_some() && a.get_id() == key.as_str());
        let text = match value {
            Value::String(s) => Some(s.clone()),
            Value::Integer(_) | Value::Float(_) | Value::Boolean(_) => Some(value.to_string()),
            Value::Datetime(_) | Value::Array(_) | Value::Table(_) => None,
        };
        let Some(text) = text else {
            problems.add(file.display(), key, "", "must be a string, a number, true or false");
            continue;
        };
        if !known {
            let allowed = "unknown key; `visord serve --help` lists the flags, with - for _";
            problems.add(file.display(), key, value, allowed);
            continue;
        }
        // Each value is tried by itself, so that all mistakes are found, and found in the file.
        let flag = format!("--{}={text}", key.replace('_', "-"));
        match Cli::try_parse_from(["visord", "serve", &flag]) {
            Ok(_) => defaults.push((key.clone(), text)),
            Err(e) => {
                let first = e.to_string().lines().next().unwrap_or_default().replace("error: ", "");
                problems.add(file.display(), key, value, first);
            }
        }
    }
    defaults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(arguments: &[&str]) -> (Result<Cli, clap::Error>, Problems) {
        let mut problems = Problems::default();
        let arguments: Vec<OsString> = ["visord"].iter().chain(arguments).map(OsString::from).collect();
        (parse(arguments, &mut problems), problems)
    }

    #[test]
    fn a_flag_goes_before_the_file_and_the_file_before_the_default() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("visord.toml");
        std::fs::write(
            &file,
            "http_port = 80\nmetrics_port = 81\nbackend = \"rten\"\ntriton_metrics = true\n",
        )
        .unwrap();
        let file = file.to_str().unwrap();
        let (cli, problems) = run(&["serve", "--config", file, "--http-port", "8080"]);
        assert!(problems.0.is_empty(), "{problems:?}");
        let Command::Serve(args) = cli.unwrap().command else { panic!("serve") };
        assert_eq!((args.http_port, args.metrics_port, args.grpc_port), (8080, 81, 8001));
        assert_eq!((args.backend, args.triton_metrics), (BackendChoice::Rten, true));
    }

    #[test]
    fn a_file_with_unknown_keys_is_a_problem_each() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("visord.toml");
        std::fs::write(&file, "port = 80\nhttp_port = [1]\nmetrics_port = 99999\nbackend = \"cuda\"\n")
            .unwrap();
        let (_, problems) = run(&["check", "--config", file.to_str().unwrap()]);
        let keys: Vec<&str> = problems.0.iter().map(|p| p.key.as_str()).collect();
        assert_eq!(keys, ["backend", "http_port", "metrics_port", "port"]);
    }

    #[test]
    fn build_takes_what_it_has_from_the_file_of_serve() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("visord.toml");
        std::fs::write(&file, "http_port = 80\ntensorrt_dir = \"/opt/trt\"\nplan_cache = \"/plans\"\n")
            .unwrap();
        let file = file.to_str().unwrap();
        let flags = ["build", "--config", file, "--plan-cache", "/p", "--compute-capability", "8.6,12.0"];
        let (cli, problems) = run(&flags);
        assert!(problems.0.is_empty(), "{problems:?}");
        let Command::Build(args) = cli.unwrap().command else { panic!("build") };
        assert_eq!(args.plans.tensorrt_dir.as_deref(), Some(Path::new("/opt/trt")));
        assert_eq!(args.plans.cache_dir(Path::new("models")), Path::new("/p"));
        assert_eq!(args.compute_capability, [(8, 6), (12, 0)]);
        let (cli, _) = run(&["build", "--model-repository", "models"]);
        let Command::Build(args) = cli.unwrap().command else { panic!("build") };
        assert_eq!(args.plans.cache_dir(&args.model_repository), Path::new("models/.plans"));
        for bad in ["86", "8.", ".6", "8.6.1", "0.1", "sm_86", "-8.6", "8.1000", "+8.6"] {
            let flag = format!("--compute-capability={bad}");
            let (cli, _) = run(&["build", &flag]);
            assert!(cli.is_err_and(|e| e.to_string().contains("MAJOR.MINOR, as in 8.6")), "{bad}");
        }
    }

    #[test]
    fn every_flag_has_an_environment_twin_and_help() {
        Cli::command().debug_assert();
        let command = Cli::command();
        let subcommands = ["serve", "build"].map(|name| command.find_subcommand(name).unwrap());
        for arg in subcommands.iter().flat_map(|sub| sub.get_arguments()) {
            let long = arg.get_long().unwrap();
            if matches!(long, "help" | "version") {
                continue;
            }
            let want = format!("VISORD_{}", long.replace('-', "_").to_uppercase());
            assert_eq!(arg.get_env().unwrap().to_str().unwrap(), want);
            assert!(arg.get_help().is_some_and(|h| h.to_string().len() > 10), "{long}");
        }
    }
}
