//! Models that come and go while the server runs: by request, and as the repository changes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::onnx::{Graph, Kind};
use common::{Answer, Client, Repository, Server, output};
use serde_json::{Value, json};

/// Longest wait for a state that is sure to come; only a failing test sees it.
const PATIENCE: Duration = Duration::from_secs(60);

const EXPLICIT: [&str; 2] = ["--model-control-mode", "explicit"];
const POLL: [&str; 4] = ["--model-control-mode", "poll", "--repository-settle-millis", "50"];

/// `y = x * factor`.
fn times(factor: f32) -> Vec<u8> {
    Graph::default()
        .input("x", Kind::FLOAT, &[-1, 1])
        .output("y", Kind::FLOAT, &[-1, 1])
        .weights("factor", &[1], &[factor])
        .node("Mul", &["x", "factor"], "y")
        .model()
}

/// Writes a file of the repository, as a copy would.
fn write(repository: &Repository, path: &str, bytes: &[u8]) {
    let path = repository.path().join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// What `model` makes of 1, over one connection; or the answer that it gives instead.
fn ask(server: &Server, model: &str) -> Result<f64, Answer> {
    let input = json!({"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.0]});
    let answer = server.post_json(&format!("/v2/models/{model}/infer"), &json!({"inputs": [input]}));
    if answer.status == 200 { Ok(output(&answer.json(), "y").1[0]) } else { Err(answer) }
}

#[track_caller]
fn factor(server: &Server, model: &str) -> f64 {
    ask(server, model).unwrap_or_else(|a| panic!("{model}: {} {}", a.status, a.text()))
}

fn change(server: &Server, model: &str, what: &str) -> Answer {
    server.post(&format!("/v2/repository/models/{model}/{what}"), &[], b"{}")
}

#[track_caller]
fn load(server: &Server, model: &str) {
    let answer = change(server, model, "load");
    assert_eq!((answer.status, answer.text().as_str()), (200, ""), "load {model}");
}

#[track_caller]
fn unload(server: &Server, model: &str) {
    let answer = change(server, model, "unload");
    assert_eq!((answer.status, answer.text().as_str()), (200, ""), "unload {model}");
}

/// The index, a line each: name, version, state, reason.
fn index(server: &Server) -> Vec<[String; 4]> {
    let lines = server.post("/v2/repository/index", &[], b"").json();
    let text = |line: &Value, key: &str| line.get(key).map_or("", |v| v.as_str().unwrap()).to_owned();
    let lines = lines.as_array().unwrap().iter();
    lines.map(|l| ["name", "version", "state", "reason"].map(|key| text(l, key))).collect()
}

fn lines(lines: &[[&str; 4]]) -> Vec<[String; 4]> {
    lines.iter().map(|l| l.map(str::to_owned)).collect()
}

/// Waits for what is sure to come.
#[track_caller]
fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let start = Instant::now();
    while !reached() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn ready(server: &Server) -> u16 {
    server.get("/v2/health/ready").status
}

fn loads(server: &Server, model: &str, outcome: &str) -> f64 {
    server.metric(&format!("visord_model_loads_total{{model=\"{model}\",outcome=\"{outcome}\"}}"))
}

#[test]
fn models_are_loaded_replaced_and_unloaded_by_request() {
    for backend in common::backends() {
        let repository = Repository::new().model("a", "", &times(2.0)).model("b", "", &times(3.0));
        let server = repository.serve_with(backend, &[&EXPLICIT[..], &["--load-model", "b"]].concat());
        assert_eq!(ready(&server), 200);
        assert_eq!(index(&server), lines(&[["a", "", "", ""], ["b", "1", "READY", ""]]), "{backend}");
        ask(&server, "a").unwrap_err().refused(404, &["unknown model \"a\"", "the models here are: b"]);
        load(&server, "a");
        assert_eq!((factor(&server, "a"), factor(&server, "b")), (2.0, 3.0), "{backend}");

        // Loaded again without a change, it is what it was.
        let count = r#"visord_inference_rows_total{model="a",version="1"}"#;
        load(&server, "a");
        assert_eq!((loads(&server, "a", "unchanged"), loads(&server, "a", "success")), (1.0, 1.0));
        let statistics = server.get("/v2/models/a/stats").json()["model_stats"][0]["inference_count"].clone();
        assert_eq!((statistics, server.metric(count)), (json!(1), 1.0), "{backend}");

        // Replaced: another network of the same version.
        write(&repository, "a/1/model.onnx", &times(5.0));
        load(&server, "a");
        assert_eq!(factor(&server, "a"), 5.0, "{backend}");
        // A newer version takes over from the older.
        write(&repository, "a/2/model.onnx", &times(7.0));
        load(&server, "a");
        assert_eq!(factor(&server, "a"), 7.0, "{backend}");
        until("version 1 is gone", || {
            index(&server)
                == lines(&[
                    ["a", "1", "UNAVAILABLE", "unloaded"],
                    ["a", "2", "READY", ""],
                    ["b", "1", "READY", ""],
                ])
        });
        let old = server.get("/v2/models/a/versions/1/ready");
        old.refused(503, &["it was unloaded"]);
        assert_eq!(server.get("/v2/models/a").json()["versions"], json!(["2"]));

        unload(&server, "a");
        ask(&server, "a").unwrap_err().refused(503, &["model \"a\" is not ready", "it was unloaded"]);
        assert_eq!(ready(&server), 200, "{backend}: an unloaded model is not waited for");
        // The older version is forgotten with its folder's turn.
        let now = index(&server);
        assert!(now.contains(&["a", "2", "UNAVAILABLE", "unloaded"].map(str::to_owned)), "{now:?}");
        for (name, value) in [
            ("visord_ready_instances", 0.0),
            ("visord_pending_rows", 0.0),
            ("visord_queue_capacity_rows", 0.0),
        ] {
            assert_eq!(server.metric(&format!("{name}{{model=\"a\",version=\"2\"}}")), value, "{name}");
        }
        assert_eq!(server.metric("visord_draining_versions"), 0.0);
        assert_eq!(server.metric(r#"visord_model_unloads_total{model="a"}"#), 1.0);
        unload(&server, "a");
        load(&server, "a");
        assert_eq!((factor(&server, "a"), factor(&server, "b")), (7.0, 3.0), "{backend}");
    }
}
