//! What was typed: flags, their environment twins, and defaults out of a configuration file.
//!
//! A flag goes before its `VISORD_…` variable, that before the file, that before the default.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use toml::Value;

use crate::model::config::BackendChoice;
use crate::problems::{Problems, read_table};
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
    Check(Box<ServeArgs>),
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

/// Flags of `serve` and `check`.
#[derive(Debug, Clone, Args)]
#[allow(rustdoc::invalid_html_tags, reason = "clap shows these texts on a terminal")]
pub struct ServeArgs {
    /// TOML file with defaults for these flags, e.g. `http_port = 80` [default: none]
    #[arg(long, env = "VISORD_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Folder with one folder for each model: <MODEL>/model.toml, <MODEL>/<VERSION>/model.onnx
    #[arg(long, env = "VISORD_MODEL_REPOSITORY", value_name = "DIR", default_value = "engines")]
    pub model_repository: PathBuf,

    /// Address to listen on; 0.0.0.0 for every interface
    #[arg(long, env = "VISORD_HOST", value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub host: String,

    /// Port of HTTP; 0 takes a free one and logs it
    #[arg(long, env = "VISORD_HTTP_PORT", value_name = "PORT", default_value_t = 8000)]
    pub http_port: u16,

    /// Port of gRPC; reserved, this version does not serve gRPC
    #[arg(long, env = "VISORD_GRPC_PORT", value_name = "PORT", default_value_t = 8001)]
    pub grpc_port: u16,

    /// Port of /metrics and health alone, for scrapers that must not reach inference; 0 takes a free one
    #[arg(long, env = "VISORD_METRICS_PORT", value_name = "PORT", default_value_t = 8002)]
    pub metrics_port: u16,

    /// Engine for models that do not name one; `auto` takes the best that works here and warns about better ones
    #[arg(long, env = "VISORD_BACKEND", value_enum, default_value_t = BackendChoice::Auto)]
    pub backend: BackendChoice,

    /// Folder with libopenvino_c.so [default: OpenVINO's usual places]
    #[arg(long, env = "VISORD_OPENVINO_DIR", value_name = "DIR")]
    pub openvino_dir: Option<PathBuf>,

    /// Form of log lines, on standard error
    #[arg(long, env = "VISORD_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// Log level, or a filter such as visord=debug,hyper=warn
    #[arg(long, env = "VISORD_LOG_LEVEL", value_name = "FILTER", default_value = "info")]
    pub log_level: String,

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

    /// PaddleServing generation whose err_no numbers and fields are spoken
    #[arg(long, env = "VISORD_PADDLE_ERR_NO", value_enum, default_value = "0.8")]
    pub paddle_err_no: PaddleErrNo,

    /// Also give metrics under Triton's names (nv_inference_*), for dashboards that exist
    #[arg(long, env = "VISORD_TRITON_METRICS", default_value_t = false, num_args = 0..=1,
          default_missing_value = "true", action = clap::ArgAction::Set, value_name = "BOOL")]
    pub triton_metrics: bool,
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
    let (Command::Serve(args) | Command::Check(args)) = &cli.command;
    let Some(file) = &args.config else { return Ok(cli) };
    let defaults = file_defaults(file, problems);
    let mut command = Cli::command();
    for name in ["serve", "check"] {
        command = command.mut_subcommand(name, |mut sub| {
            for (flag, value) in &defaults {
                sub = sub.mut_arg(flag, |arg| arg.default_value(value.clone()));
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
            Value::Integer(_) | Value::Boolean(_) => Some(value.to_string()),
            Value::Float(_) | Value::Datetime(_) | Value::Array(_) | Value::Table(_) => None,
        };
        let Some(text) = text else {
            problems.add(file.display(), key, "", "must be a string, an integer, true or false");
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
    fn every_flag_has_an_environment_twin_and_help() {
        Cli::command().debug_assert();
        let command = Cli::command();
        for arg in command.find_subcommand("serve").unwrap().get_arguments() {
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
