//! What is wrong is said at once, before anything listens; what would be served is said on request.

use std::net::TcpListener;
use std::process::Output;

use crate::common::onnx::{self, Kind, Pixels};
use crate::common::{Repository, backends, text, visord};

const USAGE: Option<i32> = Some(64);

#[track_caller]
fn says(output: &Output, code: Option<i32>, words: &[&str]) {
    let text = text(output);
    assert_eq!(output.status.code(), code, "{text}");
    for word in words {
        assert!(text.contains(word), "\"{word}\" is not in\n{text}");
    }
}

#[test]
fn all_mistakes_are_reported_together() {
    let repository = Repository::new()
        .model(
            "a",
            "max_batch_size = 5000\nbackend = \"cuda\"\nsurprise = 1\n[image]\nwidth = 9\nmean = [1, 2]\n\
             [dynamic_batching]\nmax_queue_size = 0\npreferred_batch_size = \"four\"\n[[instance_group]]\ncount = -1\n",
            &onnx::classifier(Pixels::Nchw, 1.0),
        )
        .model("b", "max_batch_size = 4\n[[output]]\nname = \"nothing\"\n", &onnx::doubled(&[2, 3]))
        .model("c", "name = \"d\"\n[version_policy.specific]\nversions = [7]\n", &onnx::doubled(&[-1, 3]))
        .model("e", "max_batch_size = = 4\n", b"this is no network")
        .model("levels", "[image]\nscale = 0.5\n", &onnx::classifier(Pixels::Uint8, 1.0))
        .model(
            "crop",
            "[image]\nresize = \"center_crop\"\nresize_shorter_side = 4\n",
            &onnx::classifier(Pixels::Nchw, 1.0),
        )
        .model("v2", "", &onnx::doubled(&[-1, 3]))
        .file("empty/model.toml", b"");
    // A port that the daemon would have to fail on if it tried to listen before it complains.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let flags =
        ["--http-port", &port, "--metrics-port", &port, "--max-inflight-bytes", "10", "--log-level", "a=b=c"];
    for command in ["serve", "check"] {
        let output = repository.run(command, &flags);
        says(
            &output,
            USAGE,
            &[
                "a/model.toml: max_batch_size = 5000: must be an integer from 0 to 4096",
                "a/model.toml: backend = \"cuda\": must be one of \"auto\", \"tensorrt\", \"openvino\", \"rten\"",
                "a/model.toml: surprise = 1: unknown key; the keys here are: backend, ",
                "a/model.toml: image.width = 9: must be 8",
                "a/model.toml: image.mean = [1, 2]: must be a number or a list of 3 numbers",
                "a/model.toml: dynamic_batching.max_queue_size = 0: must be an integer from 1 to 1000000",
                "a/model.toml: dynamic_batching.preferred_batch_size = \"four\": must be a list of integers from 1 to 4096",
                "a/model.toml: instance_group[0].count = -1: must be an integer from 1 to 1024",
                "b/model.toml: max_batch_size = 4: must be 0 (no batching) or left out: the first dimension of",
                "b/model.toml: output.name = \"nothing\": must be one of the outputs",
                "c/model.toml: name = \"d\": must be the folder's name, \"c\"",
                "c/model.toml: version_policy.specific.versions = 7: has no folder",
                "e/model.toml: not valid TOML",
                "e/1/model.onnx: is not an ONNX model",
                "levels/model.toml: image.mean: mean and scale are for FP32 inputs",
                "crop/model.toml: image: resize_shorter_side 4 is less than the larger side of the 8x8 input",
                "v2: the folder's name must be made of",
                "empty: holds no version; add 1/model.onnx",
                "command line: --max-inflight-bytes = 10: must be at least --max-body-bytes",
                "command line: --metrics-port = ",
                "command line: --log-level = a=b=c",
                "nothing was started",
            ],
        );
    }
}

#[test]
fn mistakes_on_the_command_line_name_flag_value_and_range() {
    let repository = Repository::new().model("m", "", &onnx::doubled(&[-1, 3]));
    let cases: [(&[&str], &[&str]); 6] = [
        (&["--max-header-bytes", "100"], &["--max-header-bytes", "100", "8192..=16777216"]),
        (&["--http-port", "70000"], &["--http-port", "70000"]),
        (&["--backend", "cuda"], &["--backend", "cuda", "auto, tensorrt, openvino, rten"]),
        (&["--host", "no such name"], &["--host", "no such name"]),
        (&["--nonsense"], &["--nonsense"]),
        (&["--config", "/nonexistent.toml"], &["/nonexistent.toml", "cannot be read"]),
    ];
    for (flags, words) in cases {
        says(&repository.run("check", flags), USAGE, words);
    }
    says(&visord().output().unwrap(), USAGE, &["Usage"]);
    let missing = visord().args(["serve", "--model-repository", "/nonexistent"]).output().unwrap();
    says(&missing, USAGE, &["--model-repository", "/nonexistent cannot be read"]);
    says(&Repository::new().run("serve", &[]), USAGE, &["--model-repository", "holds no model"]);
}

#[test]
fn the_environment_and_a_file_are_other_ways_to_say_it() {
    let repository = Repository::new().model("m", "", &onnx::doubled(&[-1, 3]));
    let file = repository.path().join("visord.toml");
    std::fs::write(&file, "http_port = 8123\nmetrics_port = 8124\nbackend = \"rten\"\n").unwrap();
    let mut command = visord();
    command.args(["check", "--http-port", "8125"]).env("VISORD_CONFIG", &file);
    command.env("VISORD_MODEL_REPOSITORY", repository.path()).env("VISORD_METRICS_PORT", "8126");
    says(&command.output().unwrap(), Some(0), &["127.0.0.1:8125", "127.0.0.1:8126", "rten 0.27 on CPU"]);
    command.env("VISORD_MAX_IMAGE_PIXELS", "0");
    says(&command.output().unwrap(), USAGE, &["--max-image-pixels", "1..=4294967296"]);
}

#[test]
fn check_says_what_would_be_served_where_and_with_which_backend() {
    let toml = "max_batch_size = 6\n[image]\ncolor_order = \"BGR\"\n";
    let repository = Repository::new().model("animals", toml, &onnx::classifier(Pixels::Nhwc, 1.0)).model(
        "add",
        "max_batch_size = 0\n",
        &onnx::two_inputs(Kind::INT64, &[2, 3]),
    );
    let output = repository.run("check", &["--backend", "rten", "--host", "::1", "--http-port", "81"]);
    says(
        &output,
        Some(0),
        &[
            "[::1]:81",
            "[::1]:8002",
            "animals version 1: rten 0.27 on CPU",
            "precision fp32, max_batch_size 6",
            "input \"image\" BYTES: encoded images, Stretch to 8x8",
            "BGR NHWC, mean [0.0, 0.0, 0.0]",
            "input \"pixels\" FP32 [8, 8, 3]",
            "output \"logits\" FP32 [4]",
            "add version 1",
            "max_batch_size 0",
            "input \"b\" INT64 [2, 3]",
            "output \"twice\" INT64 [2, 3]",
        ],
    );
    assert!(output.stderr.is_empty(), "{}", text(&output));
}

#[test]
fn a_backend_that_is_asked_for_and_not_there_is_an_error() {
    let repository = Repository::new().model("m", "", &onnx::doubled(&[-1, 3]));
    let ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"];
    let none = repository.path().to_str().unwrap();
    let cases: [(&[&str], &[&str]); 2] = [
        (&["--backend", "tensorrt"], &["tensorrt cannot be used", "--backend openvino or --backend rten"]),
        (
            &["--backend", "openvino", "--openvino-dir", none],
            &["openvino cannot be used", "holds no libopenvino_c.so", "install OpenVINO", "--openvino-dir"],
        ),
    ];
    for (flags, words) in cases {
        let flags = [&ports, flags].concat();
        for command in ["check", "serve"] {
            says(&repository.run(command, &flags), Some(1), words);
        }
    }
    // A model's own wish counts as much as the flag's.
    let repository = Repository::new().model("m", "backend = \"tensorrt\"\n", &onnx::doubled(&[-1, 3]));
    let output = repository.run("serve", &[&ports[..], &["--backend", "rten"]].concat());
    says(&output, Some(1), &["model \"m\" version 1 cannot be served: tensorrt cannot be used"]);
}

/// `auto` without OpenVINO serves with rten and warns once, however many models there are. The daemon ends by
/// itself because one of the models cannot be loaded after the others were.
#[test]
fn auto_falls_back_with_one_warning() {
    let repository = Repository::new()
        .model("a", "", &onnx::doubled(&[-1, 3]))
        .model("b", "", &onnx::doubled(&[-1, 3]))
        .model("c", "backend = \"tensorrt\"\n", &onnx::doubled(&[-1, 3]));
    let none = repository.path().to_str().unwrap();
    let output = repository.run(
        "serve",
        &["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", "--openvino-dir", none],
    );
    says(&output, Some(1), &["a slower backend serves: openvino cannot be used", "install OpenVINO"]);
    let text = text(&output);
    assert_eq!(text.matches("WARN").count(), 1, "{text}");
    assert_eq!(text.matches("model loaded").count(), 2, "{text}");
    let check = repository.run("check", &["--openvino-dir", none]);
    says(
        &check,
        Some(1),
        &["note     openvino cannot be used", "c version 1: NOT SERVED: tensorrt cannot be used"],
    );
}

#[test]
fn a_port_that_is_taken_is_named() {
    let repository = Repository::new().model("m", "", &onnx::doubled(&[-1, 3]));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for (flags, name) in [
        (["--http-port", &port, "--grpc-port", "0", "--metrics-port", "0"], "--http-port"),
        (["--http-port", "0", "--grpc-port", &port, "--metrics-port", "0"], "--grpc-port"),
        (["--http-port", "0", "--grpc-port", "0", "--metrics-port", &port], "--metrics-port"),
    ] {
        says(&repository.run("serve", &flags), Some(1), &[&format!("127.0.0.1:{port} ({name})")]);
    }
}

#[test]
fn a_network_that_the_engine_refuses_is_named() {
    let broken = onnx::Graph::default()
        .input("x", Kind::FLOAT, &[-1, 3])
        .output("y", Kind::FLOAT, &[-1, 3])
        .node("NoSuchOperator", &["x"], "y")
        .model();
    let repository = Repository::new().model("m", "", &broken);
    for backend in backends() {
        let mut flags =
            vec!["--backend", backend, "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"];
        let dir = crate::common::openvino_dir();
        if let Some(dir) = &dir {
            flags.extend(["--openvino-dir", dir.to_str().unwrap()]);
        }
        let words = [&format!("model \"m\" version 1 cannot be served: {backend}"), "NoSuchOperator"];
        says(&repository.run("serve", &flags), Some(1), &words);
    }
}
