//! What was typed, resolved: everything that the server needs to know, checked and immutable.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use crate::cli::{ControlMode, PaddleErrNo, ServeArgs, SocketArgs};
use crate::image::Limits;
use crate::model::repository::{self, RepositoryModel};
use crate::problems::Problems;
use crate::server::paddle::PaddleVersion;
use crate::server::state::HttpLimits;
use crate::server::tls::{Credentials, TlsFiles};

/// Everything that was asked for.
#[derive(Debug, Clone)]
pub struct Config {
    /// The flags, for what is used as it is.
    pub args: ServeArgs,
    /// Address of HTTP.
    pub http: SocketAddr,
    /// Address of gRPC.
    pub grpc: SocketAddr,
    /// Address of `/metrics`.
    pub metrics: SocketAddr,
    /// What TLS serves with; `None` without TLS.
    pub tls: Option<Credentials>,
    /// Bounds on what clients send.
    pub limits: HttpLimits,
    /// Bounds on images.
    pub image: Limits,
    /// PaddleServing generation.
    pub paddle: PaddleVersion,
    /// Threads of the network runtime.
    pub http_threads: usize,
    /// From SIGTERM to closed admission.
    pub exit_delay: Duration,
    /// From closed admission to the end.
    pub exit_timeout: Duration,
    /// Models to serve with `--model-control-mode none`; in the other modes the loader reads them when it loads them.
    pub models: Vec<RepositoryModel>,
}

impl Config {
    /// As [`resolve`](Self::resolve), with the models of the whole repository in every mode.
    pub fn resolve_all(args: ServeArgs, problems: &mut Problems) -> Self {
        let mut config = Self::resolve(args, problems);
        if config.args.model_control_mode != ControlMode::None {
            config.models = repository::read_all(&config.args.model_repository, problems);
        }
        config
    }

    /// Resolves flags and reads the model repository; every mistake lands in `problems`.
    pub fn resolve(args: ServeArgs, problems: &mut Problems) -> Self {
        let host = host(&args.host, problems);
        let size = |v: u64| usize::try_from(v).unwrap_or(usize::MAX);
        if args.max_inflight_bytes < args.max_body_bytes {
            let allowed = format!("must be at least --max-body-bytes, {}", args.max_body_bytes);
            problems.add("command line", "--max-inflight-bytes", args.max_inflight_bytes, allowed);
        }
        let (http, grpc, metrics) = (args.http_port, args.grpc_port, args.metrics_port);
        for (flag, port, other, taken) in [
            ("--grpc-port", grpc, "--http-port", http),
            ("--metrics-port", metrics, "--http-port", http),
            ("--metrics-port", metrics, "--grpc-port", grpc),
        ] {
            if port != 0 && port == taken {
                problems.add("command line", flag, port, format!("must differ from {other}"));
            }
        }
        args.telemetry.check(problems);
        check_control(&args, problems);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let seconds = Duration::from_secs;
        Self {
            http: SocketAddr::new(host, args.http_port),
            grpc: SocketAddr::new(host, args.grpc_port),
            metrics: SocketAddr::new(host, args.metrics_port),
            tls: tls(&args.sockets, problems),
            limits: HttpLimits {
                max_body_bytes: size(args.max_body_bytes),
                max_inflight_bytes: size(args.max_inflight_bytes),
                max_header_bytes: size(args.max_header_bytes),
                max_connections: size(args.max_connections),
                max_images: size(args.max_images_per_request),
                header_read_timeout: seconds(args.header_read_timeout_secs),
                request_read_timeout: seconds(args.request_read_timeout_secs),
                keepalive: seconds(args.sockets.http2_keepalive_secs),
                shared_memory: args.sockets.shared_memory,
                console: args.sockets.console,
                keepalive_timeout: seconds(args.sockets.http2_keepalive_timeout_secs),
            },
            image: Limits { max_image_pixels: args.max_image_pixels },
            paddle: match args.paddle_err_no {
                PaddleErrNo::V06 => PaddleVersion::V06,
                PaddleErrNo::V08 => PaddleVersion::V08,
            },
            http_threads: args.http_threads.map_or(cores.min(4), size),
            exit_delay: seconds(args.exit_delay_secs),
            exit_timeout: seconds(args.exit_timeout_secs),
            models: match args.model_control_mode {
                ControlMode::None => repository::read(&args.model_repository, problems),
                ControlMode::Poll | ControlMode::Explicit => Vec::new(),
            },
            args,
        }
    }
}

/// The certificate and its key, which come together or not at all, and the client CA, which needs both.
fn tls(args: &SocketArgs, problems: &mut Problems) -> Option<Credentials> {
    let (cert, key) = match (&args.tls_cert, &args.tls_key, &args.tls_client_ca) {
        (Some(cert), Some(key), _) => (cert, key),
        (Some(cert), None, _) => {
            problems.add(
                "command line",
                "--tls-cert",
                cert.display(),
                "needs --tls-key, the file with its key",
            );
            return None;
        }
        (None, Some(key), _) => {
            problems.add(
                "command line",
                "--tls-key",
                key.display(),
                "needs --tls-cert, the file with its certificate",
            );
            return None;
        }
        (None, None, Some(ca)) => {
            problems.add("command line", "--tls-client-ca", ca.display(), "needs --tls-cert and --tls-key");
            return None;
        }
        (None, None, None) => return None,
    };
    let files = TlsFiles { cert: cert.clone(), key: key.clone(), client_ca: args.tls_client_ca.clone() };
    match files.load() {
        Ok(credentials) => Some(credentials),
        Err(faults) => {
            for (flag, file, why) in faults {
                problems.add("command line", flag, file.display(), why);
            }
            None
        }
    }
}

/// Mistakes in how models are to come and go.
fn check_control(args: &ServeArgs, problems: &mut Problems) {
    let source = "command line";
    if args.model_control_mode != ControlMode::Explicit && !args.load_model.is_empty() {
        let names = args.load_model.join(",");
        problems.add(source, "--load-model", names, "needs --model-control-mode explicit");
    }
    for name in args.load_model.iter().filter(|n| *n != "*" && !repository::is_model_name(n)) {
        problems.add(source, "--load-model", name, format!("{}; or *", repository::NAME_RULE));
    }
    if args.model_control_mode != ControlMode::None
        && let Err(e) = repository::folder_names(&args.model_repository)
    {
        let text = format!("{} cannot be read: {e}", args.model_repository.display());
        problems.add("--model-repository", "", "", text);
    }
}

/// An address, or a name that resolves to one.
fn host(text: &str, problems: &mut Problems) -> IpAddr {
    if let Ok(ip) = text.parse() {
        return ip;
    }
    match (text, 0).to_socket_addrs().map(|mut found| found.next()) {
        Ok(Some(address)) => address.ip(),
        _ => {
            problems.add(
                "command line",
                "--host",
                text,
                "must be an IP address or a name that resolves to one",
            );
            IpAddr::from([127, 0, 0, 1])
        }
    }
}
