//! What the flags of `bench` mean, checked before anything is sent.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};

use super::args::{BenchArgs, HttpVersion, Protocol};
use super::exchange::Reading;
use super::images;
use super::load::{Load, Server};
use super::request::{Prepared, Shape};
use super::target::Target;
use crate::problems::Problems;

/// Longest run, seconds: a week.
const MAX_SECONDS: f64 = 604_800.0;
/// Largest rate: what no machine sends.
const MAX_RATE: f64 = 1e6;
/// Measured where neither a time nor a number is given.
const DURATION: Duration = Duration::from_secs(10);

/// What is to be done.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The servers: one, or two that are compared.
    pub servers: Vec<Server>,
    /// How they are loaded.
    pub load: Load,
    /// Numbers of connections to go through; empty for none but `load`'s.
    pub sweep: Vec<u32>,
    /// Rounds of a comparison.
    pub rounds: u32,
    /// Images in a request.
    pub batch: u32,
    /// Share of requests that may fail.
    pub max_error_ratio: f64,
    /// visord's page of metrics.
    pub metrics: Option<Target>,
    /// Where the document goes.
    pub json: Option<PathBuf>,
    /// Where single requests go.
    pub log: Option<PathBuf>,
    /// Where the report goes, and what it is.
    pub report: Option<(PathBuf, ReportKind)>,
    /// Whether no progress is shown.
    pub quiet: bool,
}

/// What a report is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportKind {
    /// A page.
    Html,
    /// A picture.
    Svg,
}

impl Plan {
    /// Checks the flags, reads the images and looks hosts up; blocking. `None` where `problems` has gained some.
    pub fn resolve(args: &BenchArgs, problems: &mut Problems) -> Option<Self> {
        let before = problems.0.len();
        let mut wrong =
            |flag: &str, value: String, allowed: String| problems.add("command line", flag, value, allowed);
        let mut seconds = |flag: &str, value: f64, least: f64| {
            if value.is_finite() && (least..=MAX_SECONDS).contains(&value) {
                Duration::from_secs_f64(value)
            } else {
                wrong(flag, value.to_string(), format!("must be {least} to {MAX_SECONDS} seconds"));
                Duration::ZERO
            }
        };
        let warmup = seconds("--warmup", args.warmup, 0.0);
        let timeout = seconds("--timeout", args.timeout, 0.001);
        let duration = args.duration.map(|d| seconds("--duration", d, 0.001));
        let duration = duration.or_else(|| args.requests.is_none().then_some(DURATION));
        if !(0.0..=1.0).contains(&args.max_error_ratio) {
            wrong(
                "--max-error-ratio",
                args.max_error_ratio.to_string(),
                "must be a share, 0 to 1".to_owned(),
            );
        }
        if let Some(rate) = args.rate
            && !(rate > 0.0 && rate <= MAX_RATE)
        {
            wrong(
                "--rate",
                rate.to_string(),
                format!("must be over 0 and at most {MAX_RATE} requests a second"),
            );
        }
        let report = args.report.as_ref().map(|path| {
            let kind = match path.extension().and_then(|e| e.to_str()) {
                Some("html") => ReportKind::Html,
                Some("svg") => ReportKind::Svg,
                _ => {
                    wrong("--report", path.display().to_string(), "must end in .html or .svg".to_owned());
                    ReportKind::Html
                }
            };
            (path.clone(), kind)
        });
        // A run of an hour must not end with a file that cannot be written.
        for (flag, path) in [("--json", &args.json), ("--report", &args.report), ("--log", &args.log)] {
            if let Some(path) = path
                && let Err(e) = writable(path)
            {
                wrong(flag, path.display().to_string(), format!("cannot be written: {e}"));
            }
        }
        let mut content = None;
        match Content::read(args) {
            Ok(read) => content = Some(read),
            Err(e) => wrong("", String::new(), e),
        }
        let headers =
            headers(&args.header).map_err(|(value, why)| wrong("--header", value, why)).unwrap_or_default();
        let mut servers = Vec::new();
        let of = |url: &str, protocol: Protocol, model: Option<&String>| {
            let reading =
                Reading { protocol, max_bytes: args.max_answer_bytes, timeout, verify: args.verify };
            server(args, url, model, reading, &headers, content.as_ref()?).transpose()
        };
        let mut add = |made: Option<Result<Server, String>>| match made {
            Some(Ok(server)) => servers.push(server),
            Some(Err(e)) => problems.add("command line", "", "", e),
            None => {}
        };
        add(of(&args.url, args.protocol, args.model.as_ref()));
        if let Some(url) = &args.compare {
            let model = args.compare_model.as_ref().or(args.model.as_ref());
            add(of(url, args.compare_protocol.unwrap_or(args.protocol), model));
        }
        let metrics = args.server_metrics.as_ref().and_then(|url| {
            let target = Target::new(url, HttpVersion::V1, args);
            target.map_err(|e| problems.add("command line", "--server-metrics", url, e)).ok()
        });
        if let [first, second] = &mut servers[..]
            && first.name == second.name
        {
            first.name = format!("{} ({})", first.name, first.reading.protocol.name());
            second.name = format!("{} ({}, second)", second.name, second.reading.protocol.name());
        }
        let load = Load {
            connections: args.connections as usize,
            streams: args.streams as usize,
            threads: args.threads as usize,
            rate: args.rate,
            arrivals: args.arrivals,
            backlog: args.max_backlog as usize,
            duration,
            requests: args.requests,
            warmup,
            order: args.order,
            seed: args.seed,
            log: args.log.is_some(),
        };
        (problems.0.len() == before).then_some(Self {
            servers,
            load,
            sweep: args.sweep.clone(),
            rounds: if args.compare.is_some() { args.rounds } else { 1 },
            batch: args.batch,
            max_error_ratio: args.max_error_ratio,
            metrics,
            json: args.json.clone(),
            log: args.log.clone(),
            report,
            quiet: args.quiet,
        })
    }
}

/// Whether the file can be made, without harm to one that is there.
fn writable(path: &Path) -> std::io::Result<()> {
    File::options().append(true).create(true).open(path).map(|_| ())
}

fn headers(texts: &[String]) -> Result<HeaderMap, (String, String)> {
    let mut headers = HeaderMap::new();
    for text in texts {
        let parsed = text.split_once(':').and_then(|(name, value)| {
            let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
            Some((name, HeaderValue::from_str(value.trim()).ok()?))
        });
        let (name, value) = parsed.ok_or_else(|| (text.clone(), "must be NAME: VALUE".to_owned()))?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// What bodies are made of.
enum Content {
    Images(Vec<Bytes>),
    Body(Bytes),
    Nothing,
}

impl Content {
    fn read(args: &BenchArgs) -> Result<Self, String> {
        let limit = args.max_images_bytes;
        if let Some(file) = &args.body {
            let read = images::load(std::slice::from_ref(file), limit).map_err(|e| format!("--body {e}"))?;
            let [(_, body)] = &read[..] else { return Err(format!("--body {}: is no file", file.display())) };
            return Ok(Self::Body(body.clone()));
        }
        if args.images.is_empty() {
            return Ok(Self::Nothing);
        }
        let read = images::load(&args.images, limit).map_err(|e| format!("--images {e}"))?;
        Ok(Self::Images(read.into_iter().map(|(_, bytes)| bytes).collect()))
    }
}

/// `None` where a problem has been told already.
fn server(
    args: &BenchArgs,
    url: &str,
    model: Option<&String>,
    reading: Reading,
    headers: &HeaderMap,
    content: &Content,
) -> Result<Option<Server>, String> {
    let protocol = reading.protocol;
    let http = match (args.http_version, protocol.is_grpc()) {
        (Some(HttpVersion::V1), true) => return Err("--http-version 1.1: gRPC takes HTTP/2".to_owned()),
        (None, true) => HttpVersion::V2,
        (version, _) => version.unwrap_or(HttpVersion::V1),
    };
    if http == HttpVersion::V1 && args.streams > 1 {
        return Err(format!(
            "--streams {}: HTTP/1.1 has one request at a time; --http-version 2",
            args.streams
        ));
    }
    let target = Target::new(url, http, args)?;
    let path = args.path.clone().or_else(|| target.path.clone());
    if path.as_deref().is_some_and(|p| !p.starts_with('/')) {
        return Err(format!("--path {}: must begin with /", path.unwrap_or_default()));
    }
    if model.is_none()
        && (path.is_none() || protocol == Protocol::OipGrpc)
        && !matches!(content, Content::Body(_))
    {
        return Err("--model NAME or --path PATH is needed".to_owned());
    }
    if model.is_none() && path.is_none() && !protocol.is_grpc() {
        return Err("--model NAME or --path PATH is needed".to_owned());
    }
    let batch = args.batch as usize;
    if batch > 1 && protocol == Protocol::Http {
        return Err(format!("--batch {batch}: --protocol http has one image a request"));
    }
    let shape = Shape {
        protocol,
        http,
        scheme: target.scheme,
        authority: &target.authority,
        path: path.as_deref(),
        model: model.map_or("", String::as_str),
        version: args.model_version.as_deref(),
        input: &args.input,
        content_type: args.content_type.as_deref(),
        headers,
    };
    let requests = match content {
        Content::Images(images) => prepared(&shape, images, batch, args.max_images_bytes)?,
        Content::Body(body) => vec![shape.of_body(Some(body.clone()))?],
        Content::Nothing if matches!(protocol, Protocol::Http) => vec![shape.of_body(None)?],
        Content::Nothing => {
            return Err(format!("--images or --body is needed with --protocol {}", protocol.name()));
        }
    };
    Ok(Some(Server { name: url.to_owned(), target: Arc::new(target), requests: requests.into(), reading }))
}

/// A request for each `batch` images; the last is filled up with the first ones.
fn prepared(
    shape: &Shape<'_>,
    images: &[Bytes],
    batch: usize,
    max_bytes: u64,
) -> Result<Vec<Prepared>, String> {
    let mut requests = Vec::new();
    let mut bytes = 0;
    for first in (0..images.len()).step_by(batch) {
        let of_it: Vec<Bytes> = (first..first + batch).map(|i| images[i % images.len()].clone()).collect();
        let request = shape.of_images(&of_it)?;
        bytes += request.body.len() as u64;
        // Base64 adds a third, and a batch of one image repeats it.
        if bytes > max_bytes.saturating_mul(2) {
            return Err(format!(
                "the bodies take more than twice --max-images-bytes {max_bytes}; lower --batch"
            ));
        }
        requests.push(request);
    }
    Ok(requests)
}
