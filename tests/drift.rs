//! `golden.json`: a version whose answers are not what they must be is not served, on any backend.

use std::path::Path;
use std::process::Output;

use crate::common::onnx::{self, Graph, Kind, Pixels};
use crate::common::{Repository, Server, backends, base64, openvino_dir, png, text};
use serde_json::{Value, json};

/// `serve` or `check` as a process, on free ports, until it ends by itself.
fn run(repository: &Repository, command: &str, backend: &str, flags: &[&str]) -> Output {
    let dir = openvino_dir();
    let mut all = vec!["--backend", backend, "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"];
    if let Some(dir) = &dir {
        all.extend(["--openvino-dir", dir.to_str().unwrap()]);
    }
    all.extend(flags);
    repository.run(command, &all)
}

#[track_caller]
fn says(output: &Output, code: i32, words: &[&str]) {
    let text = text(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for word in words {
        assert!(text.contains(word), "\"{word}\" is not in\n{text}");
    }
}

/// `y = x * factor`, FP32 `[batch, 2]`.
fn times(factor: f32) -> Vec<u8> {
    Graph::default()
        .input("x", Kind::FLOAT, &[-1, 2])
        .output("y", Kind::FLOAT, &[-1, 2])
        .weights("factor", &[1], &[factor])
        .node("Mul", &["x", "factor"], "y")
        .model()
}

fn file(bound: Option<Value>, cases: &[Value]) -> Vec<u8> {
    let mut document = json!({"format": 1, "cases": cases});
    if let Some(bound) = bound {
        document["bound"] = bound;
    }
    document.to_string().into_bytes()
}

fn case(x: [f32; 2], y: [f64; 2]) -> Value {
    json!({"inputs": {"x": {"datatype": "FP32", "shape": [1, 2], "data": x}}, "outputs": {"y": y}})
}

#[test]
fn right_numbers_serve_and_wrong_ones_end_the_process_with_the_reason() {
    let (good, bad) = (case([1.0, 2.0], [3.0, 6.0]), case([2.0, 1.0], [6.0, 4.0]));
    let cosine = |c: f64| Some(json!({ "cosine": c }));
    let absolute = |a: f64| Some(json!({ "absolute": a }));
    let repository = |bound, cases: &[Value]| {
        Repository::new().model("m", "", &times(3.0)).file("m/1/golden.json", &file(bound, cases))
    };
    for backend in backends() {
        for bound in [None, cosine(1.0), absolute(1e-6)] {
            let server = repository(bound, &[good.clone(), good.clone()]).serve(backend);
            let labels = r#"{model="m",version="1",output="y"}"#;
            assert!(server.metric(&format!("visord_golden_worst_cosine{labels}")) > 0.999_999, "{backend}");
            assert!(server.metric(&format!("visord_golden_worst_difference{labels}")) < 1e-6, "{backend}");
            let parameters = &server.get("/v2/models/m/config").json()["parameters"];
            assert_eq!(parameters["golden_cases"]["string_value"], "2", "{parameters}");
        }
        // [6, 3] against [6, 4]: cosine 48 / sqrt(45 * 52) = 0.99228, and the longest difference is 1.
        let server = repository(cosine(0.992), &[good.clone(), bad.clone()]).serve(backend);
        drop(server);
        for (bound, words) in [
            (
                None,
                ["output \"y\" of case 2 has cosine 0.992277", "(bound cosine 0.9995, the default in fp32)"],
            ),
            (cosine(0.993), ["output \"y\" of case 2 has cosine 0.992277", "(bound cosine 0.993)"]),
            (absolute(0.5), ["output \"y\" of case 2 differs by 1", "(bound absolute 0.5)"]),
        ] {
            let output = run(&repository(bound, &[good.clone(), bad.clone()]), "serve", backend, &[]);
            let rest =
                ["model \"m\" version 1 cannot be served", "m/1/golden.json: fp32 on", "1 of 2 case(s)"];
            says(&output, 1, &[&words[..], &rest].concat());
        }
        // A picture that cannot be read is no drift, and says so.
        let broken = json!({"image_base64": base64(b"no picture"), "outputs": {"logits": [0, 0, 0, 0]}});
        let repository = Repository::new()
            .model("c", "", &onnx::classifier(Pixels::Nchw, 1.0))
            .file("c/1/golden.json", &file(None, &[broken]));
        says(&run(&repository, "serve", backend, &[]), 1, &["c/1/golden.json: case 1: "]);
    }
}

#[test]
fn outputs_are_compared_after_softmax() {
    let toml = "[[output]]\nname = \"logits\"\nsoftmax = true\n";
    let bias: Vec<f64> = onnx::BIAS.iter().map(|b| f64::from(*b).exp()).collect();
    let sum: f64 = bias.iter().sum();
    let black = base64(&png(8, 8, |_, _, _| 0));
    let soft: Vec<f64> = bias.iter().map(|b| b / sum).collect();
    let case = json!({"image_base64": black, "outputs": {"logits": soft}});
    let golden = file(Some(json!({"absolute": 1e-6})), &[case]);
    let onnx = onnx::classifier(Pixels::Nchw, 1.0);
    for backend in backends() {
        Repository::new().model("c", toml, &onnx).file("c/1/golden.json", &golden).serve(backend);
        let raw = Repository::new().model("c", "", &onnx).file("c/1/golden.json", &golden);
        says(&run(&raw, "serve", backend, &[]), 1, &["output \"logits\" of case 1 differs by"]);
    }
}

#[test]
fn a_hostile_file_is_a_mistake_in_the_configuration() {
    let one = |outputs: &str| {
        format!("{{\"format\":1,\"cases\":[{{\"image\":\"../../secret\",\"outputs\":{outputs}}}]}}")
    };
    let table: [(Vec<u8>, &[&str]); 6] = [
        (vec![b' '; (16 << 20) + 1], &["m/1/golden.json: has 16777217 bytes; at most 16777216 are read"]),
        (
            format!("{{\"format\":1,\"cases\":{}", "[".repeat(4 << 20)).into_bytes(),
            &["golden.json: not valid JSON"],
        ),
        (b"{\"format\":1,\"cases\":[{\"inputs\":{\"x\":NaN}}]}".to_vec(), &["golden.json: not valid JSON"]),
        (one("{\"y\":[1,2]}").into_bytes(), &["cases[0].image: this model takes tensors"]),
        (
            file(None, &[case([1.0, 2.0], [1.0, 1e300])]),
            &["cases[0].outputs.y = [1.0,1e+300]: value 1 is beyond the range of FP32"],
        ),
        (
            file(
                None,
                &[
                    json!({"inputs": {"x": {"datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]}}, "outputs": {"z": [1]}}),
                ],
            ),
            &[
                "cases[0].inputs.x.shape = [2,2]: must be [1, 2]",
                "cases[0].outputs.z = [1]: unknown key; the keys here are: y",
                "2 mistake(s); nothing was started",
            ],
        ),
    ];
    for (golden, words) in table {
        let repository = Repository::new().model("m", "", &times(1.0)).file("m/1/golden.json", &golden);
        for command in ["serve", "check"] {
            says(&run(&repository, command, "rten", &[]), 64, words);
        }
    }
    // A file beyond the folder is not read, whichever way it is named.
    let onnx = onnx::classifier(Pixels::Nchw, 1.0);
    let repository = Repository::new()
        .file("c/secret.png", b"secret")
        .file(
            "c/1/golden.json",
            one("{\"logits\":[1,2,3,4]}").replace("../../secret", "../secret.png").as_bytes(),
        )
        .model("c", "", &onnx);
    let inside = "must name a file in the version's folder";
    says(&run(&repository, "serve", "rten", &[]), 64, &["cases[0].image = \"../secret.png\": ", inside]);
    std::os::unix::fs::symlink("../secret.png", repository.path().join("c/1/link.png")).unwrap();
    let repository = repository.file(
        "c/1/golden.json",
        one("{\"logits\":[1,2,3,4]}").replace("../../secret", "link.png").as_bytes(),
    );
    says(&run(&repository, "serve", "rten", &[]), 64, &["cases[0].image = link.png: leads to", inside]);
}

#[test]
fn check_writes_what_serve_then_holds_the_version_against() {
    let picture = |seed: u32| png(9, 7, |x, y, c| (x * 29 + y * 31 * seed + c as u32 * 50) as u8);
    for backend in backends() {
        let add = onnx::two_inputs(Kind::INT32, &[-1, 3]);
        let repository = Repository::new()
            .model("add", "", &add)
            .model("whole", "max_batch_size = 0\n", &onnx::doubled(&[2, 3]))
            .model("pictures", "", &onnx::classifier(Pixels::Nchw, 1.0))
            .file("a.png", &picture(1))
            .file("b.png", &picture(2));
        says(
            &run(&repository, "check", backend, &[]),
            0,
            &["golden none; `visord check --golden` writes golden.json"],
        );
        let written = run(&repository, "check", backend, &["--golden"]);
        let by = format!("written: 3 case(s) by {backend} in fp32");
        says(&written, 0, &["add/1/golden.json", "whole/1/golden.json", "pictures/1/golden.json", &by]);
        let made_by = format!(
            "golden 3 case(s), bound cosine 0.9995, the default in fp32, made by visord {}",
            env!("CARGO_PKG_VERSION")
        );
        says(&run(&repository, "check", backend, &[]), 0, &[&made_by]);
        for other in backends() {
            repository.serve(other);
        }

        let path = repository.path().join("pictures/1/golden.json");
        let before = std::fs::read(&path).unwrap();
        let images = ["a.png", "b.png"].map(|n| repository.path().join(n).display().to_string());
        let flags = ["--golden", "--golden-image", &images[0], "--golden-image", &images[1]];
        says(
            &run(&repository, "check", backend, &flags),
            1,
            &["NOT WRITTEN", "pictures/1/golden.json is there; --force replaces it"],
        );
        assert_eq!(std::fs::read(&path).unwrap(), before);
        // What is to be replaced may be broken.
        std::fs::write(&path, "{").unwrap();
        says(&run(&repository, "check", backend, &flags), 64, &["pictures/1/golden.json: not valid JSON"]);
        let forced = [&flags[..], &["--force"]].concat();
        says(&run(&repository, "check", backend, &forced), 0, &["pictures/1/golden.json written: 2 case(s)"]);
        let golden: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(
            (&golden["cases"][0]["name"], &golden["cases"][1]["name"]),
            (&json!("a.png"), &json!("b.png"))
        );
        repository.serve(backend);
        let left = files(&repository.path().join("pictures/1"));
        assert_eq!(left, ["golden.json", "model.onnx"], "nothing else is left behind");

        // Another network in the same place is noticed.
        let repository = repository.file("pictures/1/model.onnx", &onnx::classifier(Pixels::Nchw, 1.1));
        says(
            &run(&repository, "serve", backend, &[]),
            1,
            &["model \"pictures\"", "golden.json: fp32 on", "check --golden --force"],
        );
    }
    let lone = Repository::new().model("m", "", &times(1.0));
    for flags in [&["--force"][..], &["--golden-image", "x"]] {
        says(&run(&lone, "check", "rten", flags), 64, &["--golden"]);
    }
    let missing = Repository::new().model("c", "", &onnx::classifier(Pixels::Nchw, 1.0));
    let output = run(&missing, "check", "rten", &["--golden", "--golden-image", "/nonexistent.jpg"]);
    says(&output, 1, &["golden NOT WRITTEN: /nonexistent.jpg: "]);
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The numbers that ship are ONNX Runtime's, behind OpenCV.
#[test]
fn the_shipped_model_agrees_with_another_engine_on_every_backend() {
    let engines = Path::new(env!("CARGO_MANIFEST_DIR")).join("engines");
    for backend in backends() {
        let server = Server::start(&engines, backend, &[]);
        let labels = r#"{model="ArcFace",version="1",output="embedding"}"#;
        let cosine = server.metric(&format!("visord_golden_worst_cosine{labels}"));
        assert!(cosine > 0.999_999, "{backend}: {cosine}");
    }
}
