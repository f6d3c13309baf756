//! Models that come and go while the server runs: by request, and as the repository changes.

use std::time::{Duration, Instant};

use crate::common::onnx::{Graph, Kind};
use crate::common::{Answer, Client, Repository, Server, output};
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
    for backend in crate::common::backends() {
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

#[test]
fn what_fails_changes_nothing_and_says_why() {
    let service = "[paddle_serving]\nservice = \"faces\"\n";
    let golden = |y: f64| {
        let case = json!({"inputs": {"x": {"datatype": "FP32", "shape": [1, 1], "data": [1.0]}}, "outputs": {"y": [y]}});
        json!({"format": 1, "bound": {"absolute": 0.001}, "cases": [case]}).to_string().into_bytes()
    };
    for backend in crate::common::backends() {
        let repository = Repository::new().model("a", "", &times(2.0)).model("b", service, &times(3.0));
        let server = repository.serve_with(backend, &[&EXPLICIT[..], &["--load-model", "*"]].concat());
        // What is written; the words that the answer has; the version that the index blames.
        let cases: [(&str, Vec<u8>, &[&str], &str); 5] = [
            ("a/1/model.onnx", b"not a network".to_vec(), &["a/1/model.onnx", "not an ONNX model"], "1"),
            ("a/model.toml", b"max_batch_sizes = 3\n".to_vec(), &["model.toml", "max_batch_sizes"], "1"),
            ("a/model.toml", service.as_bytes().to_vec(), &["already the service of model \"b\""], "1"),
            ("a/2/golden.json", golden(8.0), &["version 2", "golden.json"], "2"),
            ("a/3/model.onnx", times(9.0)[..40].to_vec(), &["a/3/model.onnx"], "1"),
        ];
        for (failed, (path, bytes, words, blamed)) in (1u32..).zip(cases) {
            if path.starts_with("a/2") {
                write(&repository, "a/2/model.onnx", &times(7.0));
            }
            write(&repository, path, &bytes);
            change(&server, "a", "load")
                .refused(400, &[&["model \"a\"", "cannot be loaded"], words].concat());
            assert_eq!((factor(&server, "a"), factor(&server, "b")), (2.0, 3.0), "{path}");
            assert_eq!(ready(&server), 200, "{path}");
            assert_eq!(loads(&server, "a", "failure"), f64::from(failed), "{path}");
            let now = index(&server);
            let line = |version: &str| now.iter().find(|l| l[0] == "a" && l[1] == version).cloned().unwrap();
            assert_eq!(line("1")[2], "READY", "{now:?}");
            for word in words.iter().filter(|w| !w.starts_with("version")) {
                assert!(line("1")[3].contains(word) && line(blamed)[3].contains(word), "{word}: {now:?}");
            }
            let folder = repository.path().join("a");
            std::fs::write(folder.join("model.toml"), "").unwrap();
            std::fs::write(folder.join("1/model.onnx"), times(2.0)).unwrap();
            for version in ["2", "3"] {
                let _ = std::fs::remove_dir_all(folder.join(version));
            }
        }
        load(&server, "a");
        let clean = index(&server);
        assert!(clean.iter().all(|l| l[3].is_empty()), "{clean:?}");
        // A new model that is bad takes nothing from the others, and comes when it is mended.
        write(&repository, "c/1/model.onnx", b"not a network");
        change(&server, "c", "load").refused(400, &["not an ONNX model"]);
        ask(&server, "c").unwrap_err().refused(503, &["model \"c\" is not ready", "not an ONNX model"]);
        assert_eq!((ready(&server), factor(&server, "a")), (200, 2.0));
        write(&repository, "c/1/model.onnx", &times(4.0));
        load(&server, "c");
        assert_eq!(factor(&server, "c"), 4.0);
    }
}

#[test]
fn what_cannot_be_asked_for_is_refused() {
    let repository = Repository::new().model("a", "", &times(2.0));
    let server = repository.serve_with("rten", &EXPLICIT);
    for name in ["b", "..", ".", ".a", "a%2F1", "model.toml", "v2"] {
        change(&server, name, "load").refused(404, &["no folder", name]);
        change(&server, name, "unload").refused(404, &["no folder"]);
    }
    let post = |path: &str, body: &str| server.post(path, &[], body.as_bytes());
    let path = "/v2/repository/models/a/load";
    post(path, r#"{"parameters": {"config": "{}"}}"#).refused(501, &["config", "model.toml"]);
    post(path, r#"{"parameters": {"file:1/model.onnx": "AAAA"}}"#).refused(501, &["file:"]);
    post(path, "{").refused(400, &["load request"]);
    post("/v2/repository/index", "[]").refused(400, &["repository index", "object"]);
    post("/v2/repository/r/index", "").refused(501, &["one model repository"]);
    post("/v2/repository/r/models/a/load", "").refused(501, &["one model repository"]);
    assert_eq!(server.get("/v2/repository/index").header("allow"), Some("POST"));
    assert_eq!(Client::connect(server.metrics).send("POST", path, &[], b"").status, 404);
    assert_eq!(index(&server), lines(&[["a", "", "", ""]]));
    let extensions = server.get("/v2").json()["extensions"].to_string();
    assert!(extensions.contains("\"model_repository\""), "{extensions}");
    drop(server);
    for flags in [&[][..], &POLL] {
        let server = repository.serve_with("rten", flags);
        for what in ["load", "unload"] {
            change(&server, "a", what).refused(503, &[what, "--model-control-mode explicit"]);
        }
        until("it serves", || ready(&server) == 200);
        assert_eq!(index(&server), lines(&[["a", "1", "READY", ""]]));
        let only = server.post_json("/v2/repository/index", &json!({"ready": true})).json();
        assert_eq!(only, json!([{"name": "a", "version": "1", "state": "READY"}]));
    }
}

#[test]
fn mistakes_in_the_flags_are_reported() {
    let repository = Repository::new().model("a", "", &times(2.0));
    let cases: [(&[&str], &[&str]); 4] = [
        (&["--load-model", "a"], &["--load-model", "needs --model-control-mode explicit"]),
        (&["--model-control-mode", "explicit", "--load-model", "a/b"], &["--load-model", "a/b"]),
        (&["--model-control-mode", "always"], &["always", "explicit"]),
        (
            &["--model-control-mode", "poll", "--repository-settle-millis", "0"],
            &["--repository-settle-millis"],
        ),
    ];
    for (flags, words) in cases {
        let output = repository.run("serve", flags);
        let text = crate::common::text(&output);
        assert!(!output.status.success(), "{flags:?}: {text}");
        words.iter().for_each(|word| assert!(text.contains(word), "{flags:?}: {word} is not in {text}"));
    }
}

#[test]
fn a_bad_model_at_start_is_waited_for_until_it_serves_or_is_unloaded() {
    let repository = Repository::new()
        .model("a", "", &times(2.0))
        .file("b/1/model.onnx", &times(3.0))
        .file("b/2/model.onnx", b"not a network")
        .file("b/model.toml", b"[version_policy.all]\n")
        .file("c/model.toml", b"no = 1\n");
    let flags = ["--load-model", "a,b", "--load-model", "c", "--load-model", "d"];
    let server = repository.serve_with("rten", &[&EXPLICIT[..], &flags].concat());
    assert_eq!(factor(&server, "a"), 2.0);
    server.get("/v2/health/ready").refused(503, &["b", "not an ONNX model", "c: ", "d: ", "is no folder"]);
    write(&repository, "c/model.toml", b"");
    write(&repository, "c/1/model.onnx", &times(4.0));
    load(&server, "c");
    write(&repository, "b/2/model.onnx", &times(5.0));
    load(&server, "b");
    server.get("/v2/health/ready").refused(503, &["d: "]);
    unload(&server, "d");
    assert_eq!(ready(&server), 200);
    assert_eq!(["a", "b", "c"].map(|m| factor(&server, m)), [2.0, 5.0, 4.0]);
    let empty = Repository::new();
    for flags in [&EXPLICIT[..], &POLL] {
        let server = empty.serve_with("rten", flags);
        assert_eq!((ready(&server), index(&server)), (200, lines(&[])));
    }
}

#[test]
fn a_request_in_hand_is_answered_by_what_it_began_on() {
    for backend in crate::common::backends() {
        let repository = Repository::new().model("a", "", &times(2.0));
        let server = repository.serve_with(backend, &[&EXPLICIT[..], &["--load-model", "a"]].concat());
        let input = json!({"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.0]});
        let body = json!({"inputs": [input]}).to_string().into_bytes();
        // Its body is still on its way: it has chosen its version.
        let mut slow = Client::connect(server.http);
        let head =
            format!("POST /v2/models/a/infer HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n", body.len());
        slow.raw(&[head.as_bytes(), &body[..10]].concat()).unwrap();
        until("its body is waited for", || {
            server.metric("visord_request_inflight_bytes") == body.len() as f64
        });
        write(&repository, "a/1/model.onnx", &times(5.0));
        load(&server, "a");
        assert_eq!(factor(&server, "a"), 5.0, "{backend}");
        assert_eq!(server.metric("visord_draining_versions"), 1.0, "{backend}");
        slow.raw(&body[10..]).unwrap();
        assert_eq!(output(&slow.answer().unwrap().json(), "y").1, [2.0], "{backend}");
        until("the old one is gone", || server.metric("visord_draining_versions") == 0.0);
        let instances = server.metric(r#"visord_ready_instances{model="a",version="1"}"#);
        let config = server.get("/v2/models/a/config").json();
        assert_eq!(json!(instances as u64), config["instance_group"][0]["count"], "{backend}");
    }
}

#[test]
fn many_who_ask_at_once_get_one_load() {
    let repository = Repository::new().model("a", "", &times(2.0)).model("b", "", &times(3.0));
    let server = repository.serve_with("rten", &EXPLICIT);
    std::thread::scope(|scope| {
        for i in 0..24 {
            let server = &server;
            scope.spawn(move || load(server, if i % 2 == 0 { "a" } else { "b" }));
        }
    });
    for (model, value) in [("a", 2.0), ("b", 3.0)] {
        assert_eq!((factor(&server, model), loads(&server, model, "success")), (value, 1.0));
    }
}

#[test]
fn the_repository_is_followed() {
    let repository = Repository::new().model("a", "", &times(2.0)).model("b", "", &times(3.0));
    // Long enough between looks that the kernel's events must be what it follows.
    let server = repository.serve_with("rten", &[&POLL[..], &["--repository-poll-secs", "86400"]].concat());
    until("both serve", || ready(&server) == 200);
    let becomes = |model: &str, value: f64| {
        until("it follows", || ask(&server, model).is_ok_and(|v| v == value));
    };
    write(&repository, "c/1/model.onnx", &times(4.0));
    becomes("c", 4.0);
    write(&repository, "a/1/model.onnx", &times(5.0));
    becomes("a", 5.0);
    write(&repository, "a/2/model.onnx", &times(6.0));
    becomes("a", 6.0);
    // One that is bad is tried once, and what serves goes on.
    write(&repository, "a/3/model.onnx", b"not a network");
    until("it is tried", || index(&server).iter().any(|l| l[0] == "a" && l[3].contains("not an ONNX model")));
    let failures = loads(&server, "a", "failure");
    assert_eq!((factor(&server, "a"), ready(&server)), (6.0, 200));
    write(&repository, "d/1/model.onnx", &times(7.0));
    becomes("d", 7.0);
    assert_eq!((loads(&server, "a", "failure"), failures), (1.0, 1.0));
    std::fs::remove_dir_all(repository.path().join("a/3")).unwrap();
    until("the reason goes", || index(&server).iter().all(|l| l[0] != "a" || !l[3].contains("not an ONNX")));
    std::fs::remove_dir_all(repository.path().join("b")).unwrap();
    until("b is unloaded", || ask(&server, "b").is_err_and(|e| e.status == 503));
    assert_eq!(ready(&server), 200);
    // Renamed into place, as is quickest; and one that comes back.
    write(&repository, ".new/1/model.onnx", &times(8.0));
    std::fs::rename(repository.path().join(".new"), repository.path().join("b")).unwrap();
    becomes("b", 8.0);
}

#[test]
fn a_model_that_is_still_being_copied_is_left_alone() {
    const SETTLE: Duration = Duration::from_secs(1);
    let repository = Repository::new().model("a", "", &times(2.0));
    let flags = ["--model-control-mode", "poll", "--repository-settle-millis", "1000"];
    let server = repository.serve_with("rten", &flags);
    until("it serves", || ready(&server) == 200);
    let whole = times(5.0);
    let mut quick = false;
    for attempt in 0..20 {
        // A writer that is held up for as long as a copy may pause proves nothing: it begins again.
        let name = format!("m{attempt}");
        let path = repository.path().join(format!("{name}/1/model.onnx"));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let (start, mut last, mut longest) = (Instant::now(), Instant::now(), Duration::ZERO);
        let mut pieces = (0..whole.len()).cycle();
        while start.elapsed() < 2 * SETTLE {
            // In turn shorter and longer, so that each write changes it.
            let size = pieces.next().unwrap();
            std::fs::write(&path, &whole[..size]).unwrap();
            longest = longest.max(last.elapsed());
            last = Instant::now();
            std::thread::sleep(Duration::from_millis(20));
        }
        std::fs::write(&path, &whole).unwrap();
        longest = longest.max(last.elapsed());
        until("it serves", || ask(&server, &name).is_ok_and(|v| v == 5.0));
        if longest < SETTLE {
            assert_eq!(loads(&server, &name, "failure"), 0.0, "longest pause {longest:?}");
            assert_eq!(loads(&server, &name, "success"), 1.0, "longest pause {longest:?}");
            quick = true;
            break;
        }
    }
    assert!(quick, "this machine never wrote for {SETTLE:?} without a pause of as long");
}

#[test]
fn traffic_changes_without_loading_anything() {
    let weights = |one: u32, two: u32| format!("[traffic]\n\"1\" = {one}\n\"2\" = {two}\n").into_bytes();
    let repository = Repository::new()
        .file("a/1/model.onnx", &times(2.0))
        .file("a/2/model.onnx", &times(3.0))
        .file("a/model.toml", &weights(1, 0));
    let server = repository.serve_with("rten", &[&EXPLICIT[..], &["--load-model", "a"]].concat());
    let count = |version: &str| {
        let stats = server.get(&format!("/v2/models/a/versions/{version}/stats")).json();
        stats["model_stats"][0]["inference_count"].as_u64().unwrap()
    };
    assert_eq!(factor(&server, "a"), 2.0);
    write(&repository, "a/model.toml", &weights(0, 1));
    load(&server, "a");
    assert_eq!(factor(&server, "a"), 3.0);
    // Statistics are of a load: both versions were kept.
    assert_eq!((count("1"), count("2")), (1, 1));
    // Anything else in model.toml loads them again.
    let text = [&b"max_batch_size = 3\n"[..], &weights(0, 1)].concat();
    write(&repository, "a/model.toml", &text);
    load(&server, "a");
    assert_eq!((count("1"), count("2"), factor(&server, "a")), (0, 0, 3.0));
}

#[test]
fn no_request_fails_while_models_change() {
    let weights = |one: u32, two: u32| format!("[traffic]\n\"1\" = {one}\n\"2\" = {two}\n").into_bytes();
    for backend in crate::common::backends() {
        let repository = Repository::new()
            .file("a/1/model.onnx", &times(2.0))
            .file("a/2/model.onnx", &times(3.0))
            .file("a/model.toml", &weights(1, 1));
        let server = repository.serve_with(backend, &[&EXPLICIT[..], &["--load-model", "a"]].concat());
        let done = std::sync::atomic::AtomicBool::new(false);
        let input = json!({"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.0]});
        let body = json!({"inputs": [input]}).to_string().into_bytes();
        let answered: u32 = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let mut client = Client::connect(server.http);
                        let mut count = 0;
                        while !done.load(std::sync::atomic::Ordering::Relaxed) {
                            let answer = client.send("POST", "/v2/models/a/infer", &[], &body);
                            let value = output(&answer.json(), "y").1[0];
                            assert!([2.0, 3.0].contains(&value), "{value}");
                            count += 1;
                        }
                        count
                    })
                })
                .collect();
            let changes = || {
                for i in 0..12 {
                    match i % 3 {
                        // Both versions anew, one of them anew, weights alone.
                        0 => write(
                            &repository,
                            "a/model.toml",
                            &[&b"precision = \"fp32\"\n"[..], &weights(i, 2)].concat(),
                        ),
                        1 => write(&repository, "a/2/model.onnx", &times(3.0)),
                        _ => write(&repository, "a/model.toml", &weights(2, i)),
                    }
                    load(&server, "a");
                    write(&repository, "bad/1/model.onnx", b"not a network");
                    change(&server, "bad", "load").refused(400, &["not an ONNX model"]);
                    assert_eq!(ready(&server), 200);
                }
            };
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(changes));
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            let counts = clients.into_iter().map(|c| c.join().unwrap()).sum();
            outcome.unwrap_or_else(|e| std::panic::resume_unwind(e));
            counts
        });
        assert!(answered > 0);
        let metrics = server.get("/metrics").text();
        let failed = |l: &&str| l.starts_with("visord_inference_requests_total") && !l.contains("success");
        assert_eq!(metrics.lines().filter(failed).count(), 0, "{metrics}");
        until("the old ones are gone", || server.metric("visord_draining_versions") == 0.0);
    }
}

#[test]
fn a_load_that_waits_is_answered_when_the_server_stops() {
    let repository = Repository::new().model("a", "", &times(2.0));
    let mut server = repository.serve_with("rten", &[&EXPLICIT[..], &["--load-model", "a"]].concat());
    // Two old generations are held by requests whose bodies do not come: the next load waits for them.
    let mut held = Vec::new();
    for factor in [3.0, 4.0] {
        let mut slow = Client::connect(server.http);
        slow.raw(b"POST /v2/models/a/infer HTTP/1.1\r\nHost: t\r\nContent-Length: 1000\r\n\r\n{").unwrap();
        held.push(slow);
        let bytes = 1000.0 * held.len() as f64;
        until("its body is waited for", || server.metric("visord_request_inflight_bytes") == bytes);
        write(&repository, "a/1/model.onnx", &times(factor));
        load(&server, "a");
    }
    assert_eq!(server.metric("visord_draining_versions"), 2.0);
    write(&repository, "a/1/model.onnx", &times(5.0));
    let mut waiting = Client::connect(server.http);
    waiting
        .raw(b"POST /v2/repository/models/a/load HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n")
        .unwrap();
    // Nothing that can be seen tells that it waits; where it does not yet, its answer is the same.
    let down = server.shut_down();
    waiting.answer().unwrap().refused(503, &["shutting down"]);
    drop(held);
    assert!(server.runtime.block_on(down).unwrap(), "a thread was left behind");
}
