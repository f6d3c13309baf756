//! PaddleServing's `config.yml` becomes files that `check` takes and `serve` serves, with a line for every key.

use std::path::{Path, PathBuf};
use std::process::Output;

use crate::common::daemon::Daemon;
use crate::common::onnx::{self, BIAS, Graph, Kind, Pixels, WEIGHTS, int};
use crate::common::{base64, png, text, visord};
use serde_json::{Value, json};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/migrate").join(name)
}

/// A folder with an ONNX file, to migrate into.
struct Place(tempfile::TempDir);

impl Place {
    fn new(onnx: &[u8]) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        std::fs::write(place.path("model.onnx"), onnx).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn migrate(&self, config: &Path, flags: &[&str]) -> Output {
        let mut command = visord();
        command.args(["migrate", "--output"]).arg(self.path("out")).arg("--paddle").arg(config);
        command.args(flags).current_dir(self.0.path()).output().unwrap()
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    fn toml(&self, name: &str) -> toml::Table {
        self.read(name).parse().unwrap()
    }

    fn check(&self, flags: &[&str]) -> Output {
        let mut command = visord();
        command.args(["check", "--config"]).arg(self.path("out/visord.toml"));
        command.args(["--backend", "rten"]).args(flags).output().unwrap()
    }
}

/// The line of the report for `key`: its value, what became of it, and the rest.
#[track_caller]
fn row<'a>(report: &'a str, key: &str) -> &'a str {
    let rows: Vec<&str> = report.lines().take_while(|l| !l.is_empty()).collect();
    let found = rows.iter().find(|l| l.get(6..).is_some_and(|l| l.split("  ").next() == Some(key)));
    found.unwrap_or_else(|| panic!("no line for {key} in\n{report}"))
}

/// A network with the signature of MobileFaceNet_128 as paddle2onnx 2.1 writes it, which renames the output.
fn mobile_face_net(output: &str) -> Vec<u8> {
    let weights: Vec<f32> = (0..3 * 128).map(|i| ((i * 7 % 31) as f32 - 15.0) / 16.0).collect();
    Graph::default()
        .input("x", Kind::FLOAT, &[-1, 3, 112, 112])
        .output(output, Kind::FLOAT, &[-1, 128])
        .node("GlobalAveragePool", &["x"], "pooled")
        .node_with("Flatten", &["pooled"], "channels", vec![int("axis", 1)])
        .weights("weights", &[3, 128], &weights)
        .node("MatMul", &["channels", "weights"], output)
        .model()
}

/// The facts of the example's web_service.py.
const ARCFACE: [&str; 16] = [
    "--onnx",
    "model.onnx",
    "--resize",
    "112x112",
    "--mean",
    "127.5",
    "--scale",
    "0.00784313725",
    "--color-order",
    "RGB",
    "--layout",
    "NCHW",
    "--feed-name",
    "x",
    "--fetch-name",
    "save_infer_model/scale_0.tmp_1=out",
];

/// Floats of the text that numpy prints.
fn floats(text: &str) -> Vec<f64> {
    let inner = text.trim_start_matches("array([[").split(']').next().unwrap();
    inner.split(',').map(|v| v.trim().parse().unwrap_or_else(|e| panic!("{v}: {e} in {text}"))).collect()
}

/// Asks as PaddleServing's HTTP client does: no content type, one key.
fn ask(daemon: &Daemon, path: &str, picture: &[u8]) -> Value {
    let body = json!({"key": ["image"], "value": [base64(picture)]}).to_string();
    daemon.client().send("POST", path, &[], body.as_bytes()).json()
}

#[test]
fn the_example_of_insightface_is_served_as_its_clients_know_it() {
    for output in ["save_infer_model/scale_0.tmp_1", "fetch_name_0"] {
        let place = Place::new(&mobile_face_net(output));
        let done =
            place.migrate(&fixture("arcface.yml"), &[&ARCFACE[..], &["--paddle-err-no", "0.6"]].concat());
        let report = text(&done);
        assert_eq!(done.status.code(), Some(0), "{report}");
        assert!(!report.contains("DECIDE"), "{report}");
        for (key, words) in [
            ("rpc_port", "18091  "),
            ("http_port", "taken    visord.toml: http_port = 9998"),
            ("worker_num", "dropped"),
            ("dag.is_thread_op", "dropped"),
            ("dag.retry", "504"),
            ("dag.use_profile", "/metrics"),
            ("dag.channel_size", "(0)"),
            ("dag.tracer.interval_s", "dropped"),
            ("op.ArcFace.concurrency", "changed  a process for each slot"),
            ("op.ArcFace.batch_size", "(1)"),
            ("op.ArcFace.local_service_conf.client_type", "dropped"),
            ("op.ArcFace.local_service_conf.model_config", "models/ArcFace/1/model.onnx"),
            ("op.ArcFace.local_service_conf.fetch_list", "key"),
            ("op.ArcFace.local_service_conf.devices", "gpus = [0]"),
            ("op.ArcFace.local_service_conf.ir_optim", "dropped"),
        ] {
            assert!(row(&report, key).contains(words), "{key}: {words} in\n{report}");
        }
        let flags = place.toml("out/visord.toml");
        let wanted: toml::Table = format!(
            "model_repository = {:?}\nhost = \"0.0.0.0\"\nhttp_port = 9998\ngrpc_port = 18091\nmetrics_port = 8002\n\
             require_gpu = true\npaddle_err_no = \"0.6\"\n",
            place.path("out/models").to_str().unwrap()
        )
        .parse()
        .unwrap();
        assert_eq!(flags, wanted);
        let model = place.toml("out/models/ArcFace/model.toml");
        let wanted: toml::Table = format!(
            "precision = \"fp32\"\n[image]\ninput = \"x\"\nwidth = 112\nheight = 112\nresize = \"stretch\"\n\
             layout = \"NCHW\"\ncolor_order = \"RGB\"\nmean = 127.5\nscale = 0.00784313725\n\
             [dynamic_batching]\nmax_queue_delay_microseconds = 0\nmax_queue_size = 1024\n\
             default_timeout_microseconds = 0\n[[instance_group]]\nkind = \"auto\"\ngpus = [0]\n\
             [paddle_serving]\nservice = \"ArcFace\"\nfetch = {{ {output:?} = \"out\" }}\n"
        )
        .parse()
        .unwrap();
        assert_eq!(model, wanted);
        // The same again changes nothing, and so nothing is in the way.
        let again =
            place.migrate(&fixture("arcface.yml"), &[&ARCFACE[..], &["--paddle-err-no", "0.6"]].concat());
        assert_eq!(again.status.code(), Some(0), "{}", text(&again));

        let check = place.check(&["--require-gpu", "false"]);
        assert_eq!(check.status.code(), Some(0), "{}", text(&check));
        assert!(text(&check).contains("RGB NCHW, mean [127.5"), "{}", text(&check));

        // Nobody says that a GPU is missing unless it is asked for.
        let config = place.path("out/visord.toml");
        let served = ["--config", config.to_str().unwrap(), "--require-gpu", "false", "--backend", "rten"];
        let mut daemon = Daemon::launch(&place.path("out/models"), &served, &[]);
        assert!(daemon.ready(), "{}", daemon.log());
        let picture = png(112, 112, |_, _, c| [200, 100, 50][c]);
        let answer = ask(&daemon, "/ArcFace/prediction", &picture);
        assert_eq!((&answer["err_no"], &answer["key"]), (&json!(0), &json!(["out"])), "{answer}");
        assert!(answer.get("tensors").is_none(), "{answer}");
        let got = floats(answer["value"][0].as_str().unwrap());
        let channels = [200.0, 100.0, 50.0].map(|level| (level - 127.5) * 0.00784313725);
        let want = |i: usize| {
            let weight = |c: usize| (((c * 128 + i) * 7 % 31) as f64 - 15.0) / 16.0;
            (0..3).map(|c| channels[c] * weight(c)).sum::<f64>()
        };
        assert_eq!(got.len(), 128);
        for (i, value) in got.iter().enumerate() {
            assert!((value - want(i)).abs() < 1e-4, "{i}: {value} is not {}", want(i));
        }
    }
}

#[test]
fn every_key_has_a_line_and_the_files_serve() {
    let place = Place::new(&onnx::classifier(Pixels::Nchw, 1.0));
    let config = fixture("every_key.yml");
    let facts = [
        "--onnx",
        "model.onnx",
        "--mean",
        "100,110,120",
        "--scale",
        "0.01,0.02,0.03",
        "--color-order",
        "BGR",
        "--fetch-name",
        "logits",
        "--service-name",
        "animals",
        "--model-name",
        "cats",
    ];
    let done = place.migrate(&config, &facts);
    let report = text(&done);
    assert_eq!(done.status.code(), Some(0), "{report}");
    assert!(!report.contains("do not print this"), "{report}");
    // Each key of the file, whatever became of it, and under its line.
    let mut path: Vec<(usize, String)> = Vec::new();
    let mut keys = 0;
    for (number, line) in std::fs::read_to_string(&config).unwrap().lines().enumerate() {
        let Some((key, rest)) = line.split_once(':').filter(|(k, _)| !k.starts_with('#')) else { continue };
        let indent = key.len() - key.trim_start().len();
        path.retain(|(i, _)| *i < indent);
        path.push((indent, key.trim().to_owned()));
        if rest.is_empty() {
            continue;
        }
        let name = path.iter().map(|(_, k)| k.as_str()).collect::<Vec<_>>().join(".");
        let found = row(&report, &name);
        assert_eq!(found[..4].trim(), (number + 1).to_string(), "{name}: {found}");
        keys += 1;
    }
    assert_eq!(keys, 42, "{report}");
    let flags = place.toml("out/visord.toml");
    for (key, port) in [("grpc_port", 18080), ("http_port", 18081), ("metrics_port", 19393)] {
        assert_eq!(flags[key].as_integer(), Some(port), "{key}");
    }
    assert!(!flags.contains_key("require_gpu"), "{flags}");
    let model = place.toml("out/models/cats/model.toml");
    let wanted: toml::Table = "max_batch_size = 4\nprecision = \"fp32\"\n[image]\ninput = \"pixels\"\nwidth = 8\n\
        height = 8\nresize = \"stretch\"\nlayout = \"NCHW\"\ncolor_order = \"BGR\"\nmean = [100.0, 110.0, 120.0]\n\
        scale = [0.01, 0.02, 0.03]\n[dynamic_batching]\nmax_queue_delay_microseconds = 20000\nmax_queue_size = 64\n\
        default_timeout_microseconds = 1500000\n[[instance_group]]\nkind = \"cpu\"\ncount = 3\nthreads = 1\n\
        [paddle_serving]\nservice = \"animals\"\nfetch = { logits = \"logits\" }\n"
        .parse()
        .unwrap();
    assert_eq!(model, wanted);
    let check = place.check(&[]);
    assert_eq!(check.status.code(), Some(0), "{}", text(&check));

    let config = place.path("out/visord.toml");
    let served = ["--config", config.to_str().unwrap(), "--backend", "rten"];
    let mut daemon = Daemon::launch(&place.path("out/models"), &served, &[]);
    assert!(daemon.ready(), "{}", daemon.log());
    let answer = ask(&daemon, "/animals/prediction", &png(8, 8, |_, _, c| [30, 60, 90][c]));
    assert_eq!((&answer["err_no"], &answer["key"]), (&json!(0), &json!(["logits"])), "{answer}");
    assert_eq!(answer["tensors"], json!([]), "{answer}");
    // Blue is the first channel.
    let channels = [(90.0 - 100.0) * 0.01, (60.0 - 110.0) * 0.02, (30.0 - 120.0) * 0.03];
    let got = floats(answer["value"][0].as_str().unwrap());
    for (class, value) in got.iter().enumerate() {
        let sum: f64 = (0..3).map(|c| channels[c] * f64::from(WEIGHTS[c][class])).sum();
        assert!((value - sum - f64::from(BIAS[class])).abs() < 1e-4, "{class}: {got:?}");
    }
}

#[test]
fn what_must_be_decided_is_named_and_the_status_says_so() {
    let place = Place::new(&mobile_face_net("fetch_name_0"));
    let bare = place.migrate(&fixture("arcface.yml"), &[]);
    let report = text(&bare);
    assert_eq!(bare.status.code(), Some(1), "{report}");
    let decisions: Vec<&str> =
        report.lines().filter_map(|l| l.strip_prefix("decide    ")?.split(": ").next()).collect();
    let prefix = "op.ArcFace.local_service_conf.";
    let wanted = [
        "--color-order".to_owned(),
        "--mean".to_owned(),
        "--scale".to_owned(),
        format!("{prefix}fetch_list"),
        format!("{prefix}model_config"),
    ];
    assert_eq!(decisions, wanted, "{report}");
    for step in [
        "/MobileFaceNet_128_serving/__model__ paddle/inference.pdmodel",
        "next      paddle2onnx --model_dir paddle",
        "--save_file model.onnx",
    ] {
        assert!(report.contains(step), "{step} in\n{report}");
    }
    assert!(!place.path("out/models/ArcFace/1").exists());
    // What is there stays, unless it is told otherwise.
    let before = place.read("out/models/ArcFace/model.toml");
    let refused = place.migrate(&fixture("arcface.yml"), &ARCFACE);
    assert_eq!(refused.status.code(), Some(64), "{}", text(&refused));
    assert!(text(&refused).contains("model.toml is there; --force replaces it"), "{}", text(&refused));
    assert!(text(&refused).contains("nothing was written"), "{}", text(&refused));
    assert_eq!(place.read("out/models/ArcFace/model.toml"), before);
    assert!(!place.path("out/models/ArcFace/1").exists());
    let forced = place.migrate(&fixture("arcface.yml"), &[&ARCFACE[..], &["--force"]].concat());
    assert_eq!(forced.status.code(), Some(0), "{}", text(&forced));
    assert_ne!(place.read("out/models/ArcFace/model.toml"), before);
}

#[test]
fn mistakes_become_decisions_and_strangers_texts_stay_harmless() {
    let place = Place::new(&onnx::classifier(Pixels::Nchw, 1.0));
    let facts = [
        "--onnx",
        "model.onnx",
        "--mean",
        "0",
        "--scale",
        "-1",
        "--color-order",
        "rgb",
        "--fetch-name",
        "logits=out",
    ];
    let done = place.migrate(&fixture("mistakes.yml"), &facts);
    let report = text(&done);
    assert_eq!(done.status.code(), Some(1), "{report}");
    let op = |key: &str| format!("op.rec / x.{key}");
    for (key, words) in [
        ("rpc_port".to_owned(), "DECIDE   must be an integer from 1024 to 65535"),
        ("http_port".to_owned(), "DECIDE   must be an integer from 1024 to 65535"),
        ("worker_num".to_owned(), "DECIDE   must be an integer from 1 on"),
        ("build_dag_each_worker".to_owned(), "DECIDE   must be True or False"),
        ("worker_nums".to_owned(), "unknown"),
        ("dag.is_thread_op".to_owned(), "DECIDE   must be True or False"),
        ("dag.client_type".to_owned(), "DECIDE   must be brpc or grpc"),
        ("dag.use_profile".to_owned(), "null"),
        ("dag.channel_size".to_owned(), "DECIDE   must be an integer from 0 on"),
        ("dag.channel_recv_frist_arrive".to_owned(), "DECIDE   takes the first answer"),
        ("dag.prometheus_port".to_owned(), "dropped"),
        ("dag.tracer".to_owned(), "DECIDE   must be a table"),
        (op("concurrency"), "DECIDE   must be an integer"),
        (op("batchsize"), "unknown"),
        (op("batch_size"), "16"),
        (op("auto_batching_timeout"), "warning  with batch_size above 1, PaddleServing waits until"),
        (op("server_endpoints"), "DECIDE   the model runs in another server"),
        (op("use_encryption_model"), "DECIDE   visord reads no encrypted"),
        (op("encryption_key"), "(not shown)"),
        (op("local_service_conf.model_config"), "DECIDE   must be a text"),
        (op("local_service_conf.device_type"), "DECIDE   Kunlun"),
        (op("local_service_conf.devices"), "DECIDE   must be a text"),
        (op("local_service_conf.precision"), "warning  PaddleServing does not know it"),
        (op("local_service_conf.use_calib"), "DECIDE   visord does not calibrate"),
        (op("local_service_conf.use_\\u{202e}tpr"), "\"\\u{1b}[31m\""),
        ("--service-name".to_owned(), "DECIDE   cannot be a path here"),
    ] {
        if key == "dag.use_profile" {
            // Says nothing, so PaddleServing's default holds, and that needs no line.
            assert!(!report.contains("use_profile"), "{report}");
            continue;
        }
        assert!(row(&report, &key).contains(words), "{key}: {words} in\n{report}");
    }
    for file in ["out/visord.toml", "out/models/rec---x/model.toml"] {
        let written = place.read(file);
        assert!(!written.contains("\"secret\"") && !written.contains('\u{1b}'), "{written}");
        written.parse::<toml::Table>().unwrap();
    }
    assert!(!report.contains("\"secret\"") && !report.contains(['\u{1b}', '\u{202e}']), "{report}");
    // Wrong as it was, what was written can be served.
    let check = place.check(&[]);
    assert_eq!(check.status.code(), Some(0), "{}", text(&check));
}

/// One key at a time, as `op.m.…`: which line comes, and what `model.toml` or `visord.toml` has.
#[test]
fn each_setting_by_itself() {
    let cases: [(&str, &str, &str, &str); 21] = [
        (
            "local_service_conf: {device_type: 2, devices: '0', precision: FP16}",
            "local_service_conf.precision",
            "taken",
            "precision = \"fp16\"",
        ),
        (
            "local_service_conf: {device_type: 1, devices: '0', precision: fp16}",
            "local_service_conf.precision",
            "warning",
            "precision = \"fp32\"",
        ),
        (
            "local_service_conf: {device_type: 2, devices: '0', precision: int8}",
            "local_service_conf.precision",
            "DECIDE",
            "precision = \"fp32\"",
        ),
        (
            "local_service_conf: {precision: bf16}",
            "local_service_conf.precision",
            "taken",
            "precision = \"bf16\"",
        ),
        ("local_service_conf: {devices: '1, 0'}", "local_service_conf.devices", "taken", "gpus = [0, 1]"),
        ("local_service_conf: {devices: '0,0'}", "local_service_conf.devices", "changed", "gpus = [0]"),
        ("local_service_conf: {devices: 'gpu0'}", "local_service_conf.devices", "DECIDE", "gpus = [0]"),
        ("local_service_conf: {device_type: 1}", "local_service_conf.device_type", "taken", "gpus = [0]"),
        (
            "local_service_conf: {device_type: 0, devices: '0'}",
            "local_service_conf.devices",
            "warning",
            "kind = \"cpu\"",
        ),
        (
            "local_service_conf: {device_type: 3}",
            "local_service_conf.device_type",
            "changed",
            "kind = \"cpu\"",
        ),
        (
            "local_service_conf: {device_type: 6}",
            "local_service_conf.device_type",
            "DECIDE",
            "kind = \"cpu\"",
        ),
        (
            "local_service_conf: {device_type: 7}",
            "local_service_conf.device_type",
            "DECIDE",
            "kind = \"cpu\"",
        ),
        ("local_service_conf: {thread_num: 5}", "local_service_conf.thread_num", "taken", "threads = 5"),
        ("concurrency: 100000", "concurrency", "changed", "count = 1024"),
        ("concurrency: 4", "concurrency", "taken", "count = 4"),
        ("{concurrency: 5, local_service_conf: {devices: '0,1'}}", "concurrency", "changed", "# count = 3 "),
        ("timeout: 3000", "timeout", "changed", "default_timeout_microseconds = 3000000"),
        ("timeout: 99999999999", "timeout", "changed", "default_timeout_microseconds = 3600000000"),
        ("batch_size: 100000", "batch_size", "taken", "max_batch_size = 4096"),
        (
            "{batch_size: 8, auto_batching_timeout: 99999}",
            "auto_batching_timeout",
            "taken",
            "max_queue_delay_microseconds = 10000000",
        ),
        ("auto_batching_timeout: 5", "auto_batching_timeout", "dropped", "max_queue_delay_microseconds = 0"),
    ];
    let place = Place::new(b"");
    let config = place.path("config.yml");
    for (op, key, fate, written) in cases {
        let op = if op.starts_with('{') { op.to_owned() } else { format!("{{{op}}}") };
        std::fs::write(&config, format!("http_port: 9000\nop:\n  m: {op}\n")).unwrap();
        let report = text(&place.migrate(&config, &["--force"]));
        let line = row(&report, &format!("op.m.{key}"));
        assert!(line.contains(&format!("  {fate}")), "{op}: {fate} in {line}");
        let model = place.read("out/models/m/model.toml");
        assert!(model.contains(written), "{op}: {written} in\n{model}");
        model.parse::<toml::Table>().unwrap_or_else(|e| panic!("{op}: {e}"));
    }
    // Settings of the server, and ports that meet.
    for (top, key, want) in [
        ("http_port: 8001", "grpc_port", 8003),
        ("http_port: 8002", "metrics_port", 8003),
        ("rpc_port: 8000", "http_port", 8002),
        ("{rpc_port: 9000, http_port: 9000}", "grpc_port", 9000),
        ("{http_port: 9000, dag: {enable_prometheus: True, prometheus_port: 9000}}", "metrics_port", 8002),
        ("{http_port: 9000, dag: {prometheus_port: 9001}}", "metrics_port", 8002),
    ] {
        let top = top.trim_matches(['{', '}']).to_owned() + if top.contains("dag") { "}" } else { "" };
        std::fs::write(&config, format!("{{{top}, op: {{m: {{concurrency: 1}}}}}}\n")).unwrap();
        let report = text(&place.migrate(&config, &["--force"]));
        let flags = place.toml("out/visord.toml");
        assert_eq!(flags[key].as_integer(), Some(want), "{top}: {flags}\n{report}");
        let mut ports: Vec<i64> = ["http_port", "grpc_port", "metrics_port"]
            .iter()
            .map(|p| flags[*p].as_integer().unwrap())
            .collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 3, "{top}: {flags}");
    }
    // Workers with a DAG each multiply the slots and turn batching off.
    std::fs::write(&config, "{worker_num: 3, build_dag_each_worker: True, http_port: 9000, op: {m: {concurrency: 2, batch_size: 8}}}").unwrap();
    let report = text(&place.migrate(&config, &["--force"]));
    assert!(row(&report, "op.m.batch_size").contains("warning"), "{report}");
    let model = place.toml("out/models/m/model.toml");
    assert_eq!(model["instance_group"][0]["count"].as_integer(), Some(6), "{model}");
    assert!(!model.contains_key("max_batch_size"), "{model}");
}

#[test]
fn several_operators_are_refused_unless_one_is_named() {
    let place = Place::new(&onnx::doubled(&[-1, 3]));
    let config = place.path("config.yml");
    let ops = "http_port: 9999\nop:\n  det:\n    concurrency: 4\n  rec:\n    concurrency: 2\n  combine: {}\n";
    std::fs::write(&config, ops).unwrap();
    let done = place.migrate(&config, &[]);
    let report = text(&done);
    assert_eq!(done.status.code(), Some(1), "{report}");
    for words in
        ["a DAG of several operators", "nothing is written", "--op det --output", "--op rec --output"]
    {
        assert!(report.contains(words), "{words} in\n{report}");
    }
    assert!(!place.path("out").exists());
    let one = place.migrate(&config, &["--op", "rec", "--onnx", "model.onnx"]);
    let report = text(&one);
    // This network takes no pictures, and its output's key is not known.
    assert_eq!(one.status.code(), Some(1), "{report}");
    assert!(row(&report, "ONNX inputs").contains("DECIDE"), "{report}");
    assert!(row(&report, "op.det").contains("not migrated"), "{report}");
    assert!(place.path("out/models/rec/1/model.onnx").is_file());
    assert!(!place.path("out/models/det").exists());
    let check = place.check(&[]);
    assert_eq!(check.status.code(), Some(0), "{}", text(&check));
    std::fs::write(&config, "http_port: 9999\n").unwrap();
    let none = place.migrate(&config, &["--force"]);
    assert_eq!(none.status.code(), Some(1), "{}", text(&none));
    assert!(text(&none).contains("no operator stands in the file"), "{}", text(&none));
}

#[test]
fn what_cannot_be_read_is_refused_before_anything_is_written() {
    let place = Place::new(b"no network");
    let config = place.path("config.yml");
    let arcface = std::fs::read(fixture("arcface.yml")).unwrap();
    let cases: [(&str, &[u8], &[&str], &str); 14] = [
        ("10 MB", &vec![b'#'; 10 << 20], &[], "more than 262144 bytes"),
        ("no file", b"", &["--paddle", "/nonexistent/config.yml"], "cannot be"),
        ("nested", &[&b"- ".repeat(100)[..], b"1"].concat(), &[], "nested deeper than 16 levels"),
        ("aliases", b"a: &a [*a]", &[], "alias"),
        ("bytes", b"a: \xff", &[], "is not UTF-8 from byte 3"),
        ("a list", b"- 1", &[], "is a list, not a table"),
        ("a text", b"hello", &[], "is a text, not a table"),
        ("empty", b"", &[], "is empty"),
        ("not YAML", b"a: [1", &[], "not YAML"),
        ("no such operator", &arcface, &["--op", "rec"], "--op rec: the operators are: ArcFace"),
        ("not ONNX", &arcface, &["--onnx", "model.onnx"], "model.onnx is not an ONNX model"),
        ("no ONNX", &arcface, &["--onnx", "none.onnx"], "none.onnx cannot be read"),
        ("two numbers", &arcface, &["--mean", "1,2"], "--mean [1.0, 2.0]: must be one number, or three"),
        ("a hidden folder", &arcface, &["--model-name", ".."], "--model-name \"..\""),
    ];
    for (name, bytes, flags, words) in cases {
        std::fs::write(&config, bytes).unwrap();
        let twice = flags.contains(&"--paddle");
        let done = if twice {
            visord().arg("migrate").args(flags).arg("--output").arg(place.path("out")).output().unwrap()
        } else {
            place.migrate(&config, flags)
        };
        let said = text(&done);
        assert_eq!(done.status.code(), Some(64), "{name}: {said}");
        assert!(said.contains(words), "{name}: {words} in\n{said}");
        assert!(said.len() < 2000, "{name}: {said}");
        assert!(!place.path("out").exists(), "{name}");
    }
}

#[test]
fn weights_in_other_files_come_along() {
    let network = |location: &str| {
        Graph::default()
            .input("x", Kind::FLOAT, &[-1, 3])
            .output("y", Kind::FLOAT, &[-1, 3])
            .external("w", &[3], location)
            .node("Add", &["x", "w"], "y")
            .model()
    };
    let place = Place::new(&network("data/weights.bin"));
    let missing = place.migrate(&fixture("arcface.yml"), &["--onnx", "model.onnx"]);
    assert_eq!(missing.status.code(), Some(64), "{}", text(&missing));
    assert!(text(&missing).contains("data/weights.bin, which is not there"), "{}", text(&missing));
    std::fs::create_dir(place.path("data")).unwrap();
    std::fs::write(place.path("data/weights.bin"), [0; 12]).unwrap();
    let done = place.migrate(&fixture("arcface.yml"), &["--onnx", "model.onnx"]);
    assert_eq!(done.status.code(), Some(1), "{}", text(&done));
    assert_eq!(std::fs::read(place.path("out/models/ArcFace/1/data/weights.bin")).unwrap(), [0; 12]);
    for bad in ["../weights.bin", "/etc/hostname", ""] {
        let place = Place::new(&network(bad));
        let done = place.migrate(&fixture("arcface.yml"), &["--onnx", "model.onnx"]);
        assert_eq!(done.status.code(), Some(64), "{bad}: {}", text(&done));
        assert!(text(&done).contains("must be in the model's own folder"), "{bad}: {}", text(&done));
    }
}

#[test]
fn every_flag_is_described() {
    use clap::CommandFactory;
    let page =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/migrating.md")).unwrap();
    let command = visord::cli::Cli::command();
    let (of_migrate, of_init) = page.split_once("## From an ONNX file").unwrap();
    for (name, section) in [("migrate", of_migrate), ("init", of_init)] {
        for arg in command.find_subcommand(name).unwrap().get_arguments() {
            let Some(long) = arg.get_long().filter(|l| !matches!(*l, "help" | "version")) else { continue };
            let row = section.lines().find(|l| l.starts_with(&format!("| `--{long}` |")));
            let row = row.unwrap_or_else(|| panic!("{name}: --{long} has no row"));
            for default in arg.get_default_values().iter().filter(|_| !matches!(long, "force")) {
                assert!(row.contains(default.to_str().unwrap()), "{name}: --{long}: {row}");
            }
            assert!(arg.get_help().is_some_and(|h| h.to_string().len() > 10), "{name}: {long}");
            // What they write says all; the environment of whoever runs them says nothing.
            assert!(arg.get_env().is_none(), "{name}: {long}");
        }
    }
}
