//! The keys of a `config.yml` outside `op`: ports, processes, the DAG. They become the server's flags, and what all
//! operators share.
//!
//! Meanings and defaults: `ServerYamlConfChecker` and `PipelineServer` of PaddlePaddle/Serving, develop, b0af55d
//! (python/pipeline/pipeline_server.py), `DAGExecutor` (dag.py).

use super::keys::{Keys, Wrong};
use super::report::{Fate, Report};
use super::yaml::Node;
use crate::model::config::DEFAULT_QUEUE_SIZE;

/// Most rows that `max_queue_size` may be.
const MAX_QUEUE_SIZE: i64 = 1_000_000;

/// What becomes flags of `serve`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFacts {
    /// Port of HTTP.
    pub http_port: u16,
    /// Port of gRPC.
    pub grpc_port: u16,
    /// Port of `/metrics`.
    pub metrics_port: u16,
}

/// What the operators need to know of the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DagFacts {
    /// Whole DAGs, each a process with all operators.
    pub dags: i64,
    /// Whether each worker has a DAG of its own, which turns batching off.
    pub dag_each_worker: bool,
    /// Rows that may wait.
    pub max_queue_size: i64,
}

/// Reads everything but `op`, whose entries come back as they are.
pub fn read<'a>(
    top: &'a [(String, Node)],
    report: &mut Report,
) -> (ServerFacts, DagFacts, &'a [(String, Node)]) {
    let mut k = Keys::new("", top, report);
    let rpc = k.integer("rpc_port", 1024, 65535);
    let http = k.integer("http_port", 1024, 65535);
    if rpc == Ok(None) && http == Ok(None) {
        k.report.absent(
            "rpc_port, http_port",
            "",
            Fate::Warning,
            "PaddleServing does not start without one of them; visord's own ports hold",
        );
    }
    let grpc_port = port(rpc, 8001, &[http]);
    match rpc {
        Ok(Some(_)) => k.say("rpc_port", "", Fate::Taken, format!("visord.toml: grpc_port = {grpc_port}")),
        Ok(None) => k.say(
            "rpc_port",
            "a free port from 12000 on",
            Fate::Assumed,
            format!("visord.toml: grpc_port = {grpc_port}; no client can have known the other"),
        ),
        Err(Wrong) => {}
    }
    let http_port = port(http, 8000, &[rpc]);
    match http {
        Ok(Some(p)) if rpc == Ok(Some(p)) => k.say(
            "http_port",
            "",
            Fate::Decide,
            format!("is rpc_port too, with which PaddleServing does not start; visord.toml has http_port = {http_port}"),
        ),
        Ok(Some(_)) => k.say("http_port", "", Fate::Taken, format!("visord.toml: http_port = {http_port}")),
        Ok(None) => k.say(
            "http_port",
            "no HTTP",
            Fate::Assumed,
            format!("visord.toml: http_port = {http_port}; visord always serves HTTP, health is there"),
        ),
        Err(Wrong) => {}
    }
    k.report.absent(
        "listens on",
        "every interface",
        Fate::Taken,
        "visord.toml: host = \"0.0.0.0\"; visord's own default is 127.0.0.1",
    );
    let dag_each_worker = k.boolean("build_dag_each_worker").ok().flatten().unwrap_or(false);
    let workers = k.integer("worker_num", 1, i64::MAX).map(|n| n.unwrap_or(1));
    let dags = if dag_each_worker { workers.unwrap_or(1) } else { 1 };
    if workers.is_ok() {
        let (fate, text) = if dag_each_worker {
            (Fate::Changed, "one process serves; each operator's concurrency is multiplied by this")
        } else {
            (
                Fate::Dropped,
                "sized a pool of gRPC threads; here a waiting request needs none, and max_queue_size bounds them",
            )
        };
        k.say("worker_num", "1", fate, text);
    }
    if let Ok(Some(each)) = k.boolean("build_dag_each_worker") {
        let text = if each {
            "no processes; PaddleServing turned batching off with this and heard gRPC on localhost only, visord does neither"
        } else {
            "as it is here: one set of queues"
        };
        k.say("build_dag_each_worker", "", if each { Fate::Changed } else { Fate::Dropped }, text);
    }
    if k.integer("grpc_gateway_port", i64::MIN, i64::MAX).is_ok() {
        k.say_if_there(
            "grpc_gateway_port",
            Fate::Dropped,
            "PaddleServing checks its type and does not use it",
        );
    }
    let dag = k.table("dag");
    let ops = k.table("op");
    k.finish();
    let (max_queue_size, metrics) = read_dag(dag, report);
    let taken = [http_port, grpc_port];
    let metrics_port = match metrics {
        Some(p) if !taken.contains(&p) => p,
        _ => (8002..).find(|p| !taken.contains(p)).unwrap_or(8002),
    };
    let facts = ServerFacts { http_port, grpc_port, metrics_port };
    (facts, DagFacts { dags, dag_each_worker, max_queue_size }, ops)
}

/// The port that was asked for, or the first from `default` on that no other has.
fn port(asked: Result<Option<i64>, Wrong>, default: u16, others: &[Result<Option<i64>, Wrong>]) -> u16 {
    let others: Vec<u16> = others.iter().filter_map(|o| u16::try_from(o.ok().flatten()?).ok()).collect();
    let asked = asked.ok().flatten().and_then(|p| u16::try_from(p).ok());
    match asked {
        // Of two that are the same, gRPC's stays.
        Some(p) if default == 8001 || !others.contains(&p) => p,
        _ => (default..).step_by(2).find(|p| !others.contains(p)).unwrap_or(default),
    }
}

/// `dag`: what its `max_queue_size` is, and the port of Prometheus where that is on.
fn read_dag(dag: &[(String, Node)], report: &mut Report) -> (i64, Option<u16>) {
    let mut k = Keys::new("dag.", dag, report);
    let default = DEFAULT_QUEUE_SIZE as i64;
    if k.boolean("is_thread_op").is_ok() {
        k.say(
            "is_thread_op",
            "True",
            Fate::Dropped,
            "threads or processes for Python; visord has threads that run in parallel",
        );
    }
    if let Ok(retry) = k.integer("retry", 1, i64::MAX) {
        let text = if retry.is_some_and(|r| r > 1) {
            "runs a request again that timed out, up to this often; here a late one is a 504, and its client decides"
        } else {
            "one try, as here"
        };
        k.say("retry", "1", Fate::Dropped, text);
    }
    match k.text("client_type") {
        Ok(Some(t)) if !matches!(t, "brpc" | "grpc") => {
            k.say(
                "client_type",
                "",
                Fate::Decide,
                "must be brpc or grpc; PaddleServing would not start. Take the line out",
            );
        }
        Ok(_) => k.say_if_there(
            "client_type",
            Fate::Dropped,
            "for operators that call other servers; visord calls none",
        ),
        Err(Wrong) => {}
    }
    if k.boolean("use_profile").is_ok() {
        k.say_if_there(
            "use_profile",
            Fate::Dropped,
            "a timeline on standard error; /metrics has the time of each stage",
        );
    }
    let size = k.integer("channel_size", 0, i64::MAX);
    let max_queue_size = match size {
        Ok(None | Some(0)) | Err(Wrong) => default,
        Ok(Some(n)) => n.min(MAX_QUEUE_SIZE),
    };
    match size {
        Ok(None | Some(0)) => k.say(
            "channel_size",
            "0",
            Fate::Warning,
            format!("without a bound, memory grows and everybody waits; model.toml: max_queue_size = {default} rows, beyond which the answer is 429"),
        ),
        Ok(Some(_)) => k.say(
            "channel_size",
            "",
            Fate::Changed,
            format!("model.toml: max_queue_size = {max_queue_size} rows; a full channel made its pusher wait, here the answer is 429 at once"),
        ),
        Err(Wrong) => {}
    }
    if let Ok(Some(first)) = k.boolean("channel_recv_frist_arrive") {
        let (fate, text) = if first {
            (
                Fate::Decide,
                "takes the first answer of several operators; visord runs one model for a request: choose which",
            )
        } else {
            (Fate::Dropped, "as here: one model answers a request")
        };
        k.say("channel_recv_frist_arrive", "", fate, text);
    }
    let tracer = k.table("tracer");
    // The checker does not look at these two, and 0.6 has neither.
    let enabled = k.boolean("enable_prometheus").ok().flatten().unwrap_or(false);
    let port = k.integer("prometheus_port", 1, 65535);
    let metrics = port.ok().flatten().filter(|_| enabled).and_then(|p| u16::try_from(p).ok());
    k.say_if_there(
        "enable_prometheus",
        Fate::Dropped,
        "metrics are always there, under other names: docs/metrics.md",
    );
    match (port, metrics) {
        (Ok(Some(_)), Some(p)) => {
            k.say(
                "prometheus_port",
                "",
                Fate::Taken,
                format!("visord.toml: metrics_port = {p}, unless HTTP or gRPC has it"),
            );
        }
        (Ok(Some(_)), None) => {
            k.say("prometheus_port", "", Fate::Dropped, "not used without enable_prometheus")
        }
        _ => {}
    }
    k.finish();
    let mut k = Keys::new("dag.tracer.", tracer, report);
    if k.integer("interval_s", i64::MIN, i64::MAX).is_ok() {
        k.say_if_there(
            "interval_s",
            Fate::Dropped,
            "wrote averages to pipeline.tracer; /metrics has histograms at any time",
        );
    }
    k.finish();
    (max_queue_size, metrics)
}
