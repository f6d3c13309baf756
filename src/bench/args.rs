//! Flags of `visord bench`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// What is spoken to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// The image is the body: `/v1/models/MODEL/infer`, or any other server's path.
    Http,
    /// Open Inference Protocol v2 over HTTP, binary tensors: visord, Triton, KServe.
    Oip,
    /// The same as JSON, images in base64.
    OipJson,
    /// The same over gRPC, `ModelInfer`.
    OipGrpc,
    /// PaddleServing's pipeline over HTTP: JSON, images in base64.
    Paddle,
    /// PaddleServing's pipeline over gRPC.
    PaddleGrpc,
}

impl Protocol {
    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Oip => "oip",
            Self::OipJson => "oip-json",
            Self::OipGrpc => "oip-grpc",
            Self::Paddle => "paddle",
            Self::PaddleGrpc => "paddle-grpc",
        }
    }

    /// Whether its messages are gRPC's, which takes HTTP/2.
    #[must_use]
    pub const fn is_grpc(self) -> bool {
        matches!(self, Self::OipGrpc | Self::PaddleGrpc)
    }
}

/// When requests are due in an open loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Arrivals {
    /// One every 1/R s.
    Constant,
    /// At random, as users come who do not know of each other: gaps are exponential with mean 1/R s.
    Poisson,
}

/// In which order images are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Order {
    /// By name, again and again.
    Cycle,
    /// Each once in random order, then in another.
    Shuffle,
}

/// Version of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HttpVersion {
    /// HTTP/1.1.
    #[value(name = "1.1")]
    V1,
    /// HTTP/2, by ALPN with https and by prior knowledge with http.
    #[value(name = "2")]
    V2,
}

/// Flags of `bench`.
#[derive(Debug, Clone, Args)]
#[allow(rustdoc::invalid_html_tags, reason = "clap shows these texts on a terminal")]
pub struct BenchArgs {
    /// Server, http:// or https://; a path in it is taken as --path
    #[arg(value_name = "URL", default_value = "http://127.0.0.1:8000")]
    pub url: String,

    /// What is spoken; gRPC has a port of its own, with visord 8001
    #[arg(long, value_enum, default_value_t = Protocol::Http)]
    pub protocol: Protocol,

    /// Model that is asked; not needed with a path of your own
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,

    /// Version of it [default: the server's choice]
    #[arg(long, value_name = "VERSION", requires = "model")]
    pub model_version: Option<String>,

    /// Name of the input that takes images, with the inference protocol and PaddleServing
    #[arg(long, value_name = "NAME", default_value = "image")]
    pub input: String,

    /// Image file, or folder of files; again for each further one. Without --images and --body, requests are GET
    #[arg(long, value_name = "PATH")]
    pub images: Vec<PathBuf>,

    /// Order in which images are sent
    #[arg(long, value_enum, default_value_t = Order::Cycle)]
    pub order: Order,

    /// Images in one request, with the inference protocol and PaddleServing
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub batch: u32,

    /// Most bytes of images, and of the bodies made of them, that are kept in memory
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 30, value_parser = clap::value_parser!(u64).range(1..=1 << 40))]
    pub max_images_bytes: u64,

    /// Seed of --order shuffle and of --arrivals poisson
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,

    /// Path instead of the protocol's, for other servers
    #[arg(long, value_name = "PATH")]
    pub path: Option<String>,

    /// File that is sent as the body, as it is; with gRPC, as the message
    #[arg(long, value_name = "FILE", conflicts_with = "images")]
    pub body: Option<PathBuf>,

    /// Content-Type [default: the protocol's; for images, by how they begin]
    #[arg(long, value_name = "TYPE")]
    pub content_type: Option<String>,

    /// Further header of each request; again for each further one
    #[arg(long, value_name = "NAME: VALUE")]
    pub header: Vec<String>,

    /// Version of HTTP [default: 2 with gRPC, else 1.1]
    #[arg(long, value_enum, value_name = "VERSION")]
    pub http_version: Option<HttpVersion>,

    /// PEM file with the roots that an https server is checked against [default: the system's]
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,

    /// PEM file with a certificate for the server to check, and those between it and its root
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// PEM file with its private key
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// Name that the server's certificate must have [default: the URL's]
    #[arg(long, value_name = "NAME")]
    pub tls_server_name: Option<String>,

    /// Connections; in a closed loop each sends its next request when it has the answer to the last
    #[arg(long, short, value_name = "COUNT", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub connections: u32,

    /// Requests at a time on each connection, with HTTP/2
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub streams: u32,

    /// Open loop: so many requests a second, whether or not those before are answered; latency counts from when a
    /// request was due [default: closed loop]
    #[arg(long, short, value_name = "PER SECOND")]
    pub rate: Option<f64>,

    /// When requests are due with --rate
    #[arg(long, value_enum, default_value_t = Arrivals::Constant)]
    pub arrivals: Arrivals,

    /// With --rate, requests that may wait for a connection; what is due beyond is not sent, and counts as failed
    #[arg(long, value_name = "COUNT", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_backlog: u32,

    /// How long is measured, seconds [default: 10, or until --requests are sent]
    #[arg(long, short, value_name = "SECONDS")]
    pub duration: Option<f64>,

    /// How many requests are measured [default: what --duration allows]
    #[arg(long, short = 'n', value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub requests: Option<u64>,

    /// Load before it that is not measured, seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    pub warmup: f64,

    /// Longest wait for an answer, seconds; with --rate, for a connection too
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    pub timeout: f64,

    /// Largest answer that is read, bytes
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20, value_parser = clap::value_parser!(u64).range(1..=1 << 40))]
    pub max_answer_bytes: u64,

    /// Fail each answer whose bytes are not those of the first answer to the same request
    #[arg(long)]
    pub verify: bool,

    /// Share of measured requests that may fail, 0 to 1, before the exit status is 1
    #[arg(long, value_name = "RATIO", default_value_t = 0.0)]
    pub max_error_ratio: f64,

    /// Threads that send; one does tens of thousands of requests a second
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub threads: u32,

    /// visord's page of metrics, http://HOST:PORT/metrics: the server's mean time in each stage is shown too
    #[arg(long, value_name = "URL")]
    pub server_metrics: Option<String>,

    /// Second server: both are loaded in turn, --rounds times each, and compared
    #[arg(long, value_name = "URL")]
    pub compare: Option<String>,

    /// What the second server speaks [default: --protocol]
    #[arg(long, value_enum, value_name = "PROTOCOL", requires = "compare")]
    pub compare_protocol: Option<Protocol>,

    /// Model of the second server [default: --model]
    #[arg(long, value_name = "NAME", requires = "compare")]
    pub compare_model: Option<String>,

    /// Rounds of --compare, each of --duration on each server
    #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,

    /// Runs with each of these numbers of connections, e.g. 1,2,4,8,16
    #[arg(long, value_name = "LIST", value_delimiter = ',', conflicts_with_all = ["compare", "rate"],
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub sweep: Vec<u32>,

    /// Write everything that was measured to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Write a latency report to this file, .html or .svg; it stands by itself
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,

    /// Write a line for each measured request to this file: when it was due, sent and done, in seconds since 1970
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,

    /// Show no progress
    #[arg(long, short)]
    pub quiet: bool,
}
