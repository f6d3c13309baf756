//! One operator of a `config.yml`: what becomes of its batching, its processes, its device, its precision.
//!
//! Meanings and defaults: `ServerYamlConfChecker` (pipeline_server.py), `Op.init_from_dict` (operator.py),
//! `LocalServiceHandler` (local_service_handler.py) and `LocalPredictor.load_model_config` (local_predict.py) of
//! PaddlePaddle/Serving, develop, b0af55d.

use super::keys::{Keys, Wrong};
use super::report::{Fate, Report};
use super::server::DagFacts;
use super::yaml::Node;
use crate::model::config::MAX_BATCH_SIZE;

/// Where an operator ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// On the CPU.
    Cpu {
        /// Instances.
        count: i64,
        /// Threads of each.
        threads: i64,
    },
    /// On these GPUs.
    Gpu {
        /// CUDA ordinals, ascending.
        gpus: Vec<u8>,
        /// Processes on each GPU, the most.
        slots: i64,
    },
}

/// What an operator says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpFacts {
    /// Its name.
    pub name: String,
    /// Folder of the Paddle model, as written; `None` for an operator that only computes in Python.
    pub model_dir: Option<String>,
    /// Rows that a batch was to reach; 1 means that there was no batching.
    pub batch_size: i64,
    /// `max_queue_delay_microseconds`.
    pub queue_delay_us: i64,
    /// `default_timeout_microseconds`; 0 means none.
    pub timeout_us: i64,
    /// Where it ran.
    pub device: Device,
    /// The word for `precision`.
    pub precision: &'static str,
    /// Where `fetch_list` stands and what it lists; empty where every output was fetched.
    pub fetch_list: (Option<usize>, Vec<String>),
}

/// Reads `op.<name>`.
pub fn read(name: &str, op: &[(String, Node)], dag: &DagFacts, report: &mut Report) -> OpFacts {
    let prefix = format!("op.{name}.");
    let mut k = Keys::new(&prefix, op, report);
    let (batch_size, queue_delay_us) = read_batching(&mut k, dag);
    let timeout_us = read_timeout(&mut k);
    if k.integer("retry", 1, i64::MAX).is_ok() {
        k.say_if_there("retry", Fate::Dropped, "PaddleServing never applies it to an operator");
    }
    let concurrency = k.integer("concurrency", 1, i64::MAX);
    let slots = concurrency.ok().flatten().unwrap_or(1).saturating_mul(dag.dags);
    let remote = k.texts("server_endpoints").ok().flatten().is_some_and(|e| !e.is_empty());
    if remote {
        k.say("server_endpoints", "", Fate::Decide, "the model runs in another server, which visord does not call: migrate the configuration of that one");
    } else {
        k.say_if_there("server_endpoints", Fate::Dropped, "empty: the model is local");
    }
    let _ = k.texts("fetch_list");
    if remote {
        k.say_if_there("fetch_list", Fate::Dropped, "of the other server");
    } else {
        k.say_if_there(
            "fetch_list",
            Fate::Warning,
            "counts for server_endpoints only; the one of local_service_conf holds",
        );
    }
    for key in ["client_config", "client_type"] {
        k.say_if_there(key, Fate::Dropped, "for calls to another server");
    }
    let encrypted = k.boolean("use_encryption_model").ok().flatten().unwrap_or(false);
    if encrypted {
        k.say(
            "use_encryption_model",
            "",
            Fate::Decide,
            "visord reads no encrypted models: convert the model as it was before encryption",
        );
    } else {
        k.say_if_there("use_encryption_model", Fate::Dropped, "the model is not encrypted");
    }
    k.say_if_there("encryption_key", Fate::Dropped, "it is written nowhere");
    let local = k.table("local_service_conf");
    // Which device it is decides what concurrency means; its row belongs here all the same.
    let at = k.report.rows().len();
    k.finish();
    let mut l = Keys::new(&format!("{prefix}local_service_conf."), local, report);
    let model_dir = l.text("model_config").ok().flatten().map(str::to_owned);
    read_client(&mut l, model_dir.is_some());
    let device = read_device(&mut l, slots);
    let precision = read_precision(&mut l);
    let fetch_list = {
        let line = l.take("fetch_list").map(|n| n.line);
        let names = l.texts("fetch_list").ok().flatten().unwrap_or_default();
        (line, names.into_iter().map(str::to_owned).collect())
    };
    read_rest(&mut l);
    l.finish();
    if concurrency.is_ok() {
        let mut k = Keys::new(&prefix, op, report);
        let (fate, text) = concurrency_row(&device, slots);
        k.say("concurrency", "1", fate, text);
        report.move_last_to(at);
    }
    OpFacts {
        name: name.to_owned(),
        model_dir,
        batch_size,
        queue_delay_us,
        timeout_us,
        device,
        precision,
        fetch_list,
    }
}

fn read_batching(k: &mut Keys<'_, '_>, dag: &DagFacts) -> (i64, i64) {
    let size = k.integer("batch_size", 1, i64::MAX);
    let timeout = k.integer("auto_batching_timeout", i64::MIN, i64::MAX);
    let asked = size.ok().flatten().unwrap_or(1);
    let window_ms = timeout.ok().flatten().unwrap_or(-1);
    let most = i64::try_from(MAX_BATCH_SIZE).unwrap_or(i64::MAX);
    let batch = if dag.dag_each_worker { 1 } else { asked.min(most) };
    match size {
        Ok(_) if dag.dag_each_worker && asked > 1 => {
            k.say("batch_size", "", Fate::Warning, "build_dag_each_worker turned batching off; here rows of different requests share batches all the same");
        }
        Ok(_) if batch == 1 => k.say(
            "batch_size",
            "1",
            Fate::Changed,
            "no batching there; here rows that wait together share a batch, with equal results. max_batch_size = 1 in model.toml forbids it",
        ),
        Ok(_) => k.say("batch_size", "", Fate::Taken, format!("model.toml: max_batch_size = {batch}")),
        Err(Wrong) => {}
    }
    let delay = if batch > 1 && window_ms > 0 { window_ms.saturating_mul(1000).min(10_000_000) } else { 0 };
    let key = "auto_batching_timeout";
    match timeout {
        Ok(_) if batch > 1 && window_ms <= 0 => k.say(
            key,
            "-1",
            Fate::Warning,
            "with batch_size above 1, PaddleServing waits until a batch is full, however long; model.toml: max_queue_delay_microseconds = 0, nobody waits while an instance is idle",
        ),
        Ok(_) if delay > 0 => k.say(
            key,
            "",
            Fate::Taken,
            format!("model.toml: max_queue_delay_microseconds = {delay}; 0 is often better, since batches form by themselves while an instance works"),
        ),
        Ok(_) => k.say_if_there(key, Fate::Dropped, "no effect without batch_size above 1"),
        Err(Wrong) => {}
    }
    (batch, delay)
}

fn read_timeout(k: &mut Keys<'_, '_>) -> i64 {
    let Ok(timeout) = k.integer("timeout", i64::MIN, i64::MAX) else { return 0 };
    match timeout.filter(|ms| *ms > 0) {
        None => {
            k.say_if_there("timeout", Fate::Taken, "none; model.toml: default_timeout_microseconds = 0");
            0
        }
        Some(ms) => {
            let us = ms.saturating_mul(1000).min(3_600_000_000);
            let text = format!(
                "model.toml: default_timeout_microseconds = {us}; there it covered process() alone, here everything from the request's arrival, so consider more"
            );
            k.say("timeout", "", Fate::Changed, text);
            us
        }
    }
}

fn concurrency_row(device: &Device, slots: i64) -> (Fate, String) {
    match device {
        Device::Cpu { count, threads } => {
            let text = format!(
                "model.toml: instance_group.count = {count}, of {threads} thread(s) each, in one process that holds the model once. Without the group: one instance of one thread for each core"
            );
            (if *count == slots { Fate::Taken } else { Fate::Changed }, text)
        }
        Device::Gpu { slots: 1, .. } => (Fate::Taken, "one instance on each GPU".into()),
        Device::Gpu { slots, .. } => {
            let text = format!(
                "a process for each slot, with a CUDA context, a copy of the model and its own decoding; here one instance on each GPU has two batches in flight and a pool decodes. instance_group.count = {slots} stands in model.toml as a comment"
            );
            (Fate::Changed, text)
        }
    }
}

fn read_client(l: &mut Keys<'_, '_>, model: bool) {
    if !model && l.take("model_config").is_none() {
        l.say(
            "model_config",
            "none",
            Fate::Decide,
            "without it the operator runs no model: there is nothing here to serve",
        );
    }
    match l.text("client_type") {
        Ok(Some("local_predictor" | "brpc" | "grpc")) => {
            l.say("client_type", "", Fate::Dropped, "the engine is in visord's process");
        }
        Ok(Some(_)) => l.say(
            "client_type",
            "",
            Fate::Warning,
            "not local_predictor, brpc or grpc: PaddleServing fails at the first request",
        ),
        Ok(None) if model => {
            l.say("client_type", "none", Fate::Warning, "PaddleServing fails at the first request without it")
        }
        Ok(None) | Err(Wrong) => {}
    }
    if l.text("workdir").is_ok() {
        l.say_if_there("workdir", Fate::Dropped, "of the brpc server that PaddleServing starts beside");
    }
}

/// `device_type` and `devices`, with `thread_num`, which only a CPU looks at.
fn read_device(l: &mut Keys<'_, '_>, slots: i64) -> Device {
    let kind = l.integer("device_type", i64::MIN, i64::MAX);
    let devices = l.text("devices");
    let listed = devices.ok().flatten().unwrap_or_default().trim();
    let on_gpu = match kind.ok().flatten().unwrap_or(-1) {
        -1 => !listed.is_empty(),
        1 | 2 => true,
        _ => false,
    };
    if let Ok(kind) = kind {
        let (fate, text) = match kind.unwrap_or(-1) {
            -1 => (Fate::Taken, if on_gpu { "devices names GPUs: see there" } else { "devices is empty: the CPU" }.to_owned()),
            0 => (Fate::Taken, "model.toml: instance_group.kind = \"cpu\"".to_owned()),
            1 => (Fate::Taken, "a GPU; visord.toml: require_gpu = true. Paddle ran without TensorRT, visord has TensorRT on GPUs".to_owned()),
            2 => (Fate::Taken, "TensorRT; visord.toml: require_gpu = true. PaddleServing has 1 MiB workspace, batches of 32 at most and builds engines again at each start, written into its code; visord keeps plans, and [tensorrt] has the settings".to_owned()),
            3 => (Fate::Changed, "Arm CPU with Paddle-Lite; model.toml: instance_group.kind = \"cpu\"".to_owned()),
            4 => (Fate::Decide, "Kunlun XPU: visord has no backend for it; the CPU is written".to_owned()),
            5 | 6 => (Fate::Decide, "Ascend: visord has no backend for it; the CPU is written".to_owned()),
            _ => (Fate::Decide, "PaddleServing knows -1 to 6 only; the CPU is written".to_owned()),
        };
        l.say("device_type", "-1", fate, text);
    }
    if !on_gpu {
        if !listed.is_empty() {
            l.say("devices", "", Fate::Warning, "not looked at: device_type says that no GPU is used");
        } else if devices.is_ok() {
            l.say_if_there("devices", Fate::Taken, "model.toml: instance_group.kind = \"cpu\"");
        }
        let threads = l.integer("thread_num", 1, i64::MAX).map(|t| t.unwrap_or(2));
        let (count, each) = (slots.min(1024), threads.unwrap_or(2).min(1024));
        if threads.is_ok() {
            l.say("thread_num", "2", Fate::Taken, format!("model.toml: instance_group.threads = {each}"));
        }
        return Device::Cpu { count, threads: each };
    }
    if l.integer("thread_num", 1, i64::MAX).is_ok() {
        l.say_if_there(
            "thread_num",
            Fate::Dropped,
            "threads of Paddle's CPU mathematics; the model runs on a GPU",
        );
    }
    let mut gpus: Vec<u8> = Vec::new();
    let mut bad = listed.is_empty();
    for part in listed.split(',') {
        match part.trim().parse() {
            Ok(gpu) => gpus.push(gpu),
            Err(_) => bad = true,
        }
    }
    gpus.sort_unstable();
    let named = gpus.len();
    gpus.dedup();
    if bad {
        gpus = vec![0];
        if devices.is_ok() {
            l.say(
                "devices",
                "",
                Fate::Decide,
                "must list GPU numbers, as \"0,1\"; PaddleServing would not start. GPU 0 is written",
            );
        }
    } else {
        let text = format!(
            "model.toml: instance_group.gpus = {gpus:?}; visord.toml: require_gpu = true, as nothing may fall back to the CPU unseen"
        );
        l.say("devices", "", if gpus.len() == named { Fate::Taken } else { Fate::Changed }, text);
    }
    let on_each = gpus.len() as i64;
    Device::Gpu { slots: (slots.saturating_add(on_each - 1) / on_each).clamp(1, 1024), gpus }
}

/// Paddle looks at `precision` for TensorRT, and for `bf16` on a CPU; elsewhere it computes in 32 bits.
fn read_precision(l: &mut Keys<'_, '_>) -> &'static str {
    let kind = l.integer("device_type", i64::MIN, i64::MAX).ok().flatten().unwrap_or(-1);
    let on_gpu = l.text("devices").ok().flatten().is_some_and(|d| !d.trim().is_empty());
    let cpu = kind == 0 || (kind == -1 && !on_gpu);
    let Ok(precision) = l.text("precision") else { return "fp32" };
    let word = precision.unwrap_or("fp32").to_lowercase();
    let (result, fate, text) = match (word.as_str(), kind) {
        ("fp32", _) => ("fp32", Fate::Taken, "model.toml: precision = \"fp32\""),
        ("fp16", 2) => (
            "fp16",
            Fate::Taken,
            "model.toml: precision = \"fp16\"; `visord check --golden` first shows what it costs",
        ),
        ("bf16", _) if cpu => (
            "bf16",
            Fate::Taken,
            "model.toml: precision = \"bf16\"; where the CPU has no BF16, PaddleServing went on in FP32, visord does not load the model: take the line out there",
        ),
        ("int8", 2) => (
            "fp32",
            Fate::Decide,
            "visord has no calibration: INT8 comes with an ONNX file that is quantised (QuantizeLinear), as paddle2onnx makes of a PaddleSlim model; others are served in fp32, or set fp16",
        ),
        ("fp16" | "int8" | "bf16", _) => (
            "fp32",
            Fate::Warning,
            "had no effect: Paddle ran in 32 bits, since it reads this for device_type 2 and, as bf16, for a CPU; model.toml: precision = \"fp32\"",
        ),
        _ => (
            "fp32",
            Fate::Warning,
            "PaddleServing does not know it and runs in 32 bits; model.toml: precision = \"fp32\"",
        ),
    };
    l.say("precision", "fp32", fate, text);
    result
}

fn read_rest(l: &mut Keys<'_, '_>) {
    for (key, text) in [
        ("mem_optim", "visord's engines plan their memory by themselves"),
        ("ir_optim", "visord's engines always optimise the graph"),
        ("use_mkldnn", "OpenVINO has oneDNN in it and is taken where it is there"),
    ] {
        if l.boolean(key).is_ok() {
            l.say_if_there(key, Fate::Dropped, text);
        }
    }
    if let Ok(Some(calib)) = l.boolean("use_calib") {
        let (fate, text) = if calib {
            (Fate::Decide, "visord does not calibrate: quantise the model before it is converted")
        } else {
            (Fate::Dropped, "no calibration, as here")
        };
        l.say("use_calib", "", fate, text);
    }
    if l.integer("mkldnn_cache_capacity", i64::MIN, i64::MAX).is_ok() {
        l.say_if_there("mkldnn_cache_capacity", Fate::Dropped, "OpenVINO sizes its cache by itself");
    }
    for key in ["mkldnn_op_list", "mkldnn_bf16_op_list"] {
        if l.texts(key).is_ok() {
            l.say_if_there(key, Fate::Dropped, "which operators run faster is the engine's choice");
        }
    }
    if l.integer("min_subgraph_size", i64::MIN, i64::MAX).is_ok() {
        l.say_if_there("min_subgraph_size", Fate::Dropped, "TensorRT takes the whole network or refuses it");
    }
    l.say_if_there(
        "use_trt",
        Fate::Warning,
        "no key of the pipeline: without device_type 2 PaddleServing ran without TensorRT",
    );
}
