//! Any image-to-tensor or tensor-to-tensor ONNX model is served by adding a folder.

use crate::common::onnx::{self, BIAS, Kind, Pixels, WEIGHTS};
use crate::common::{Repository, backends, base64, form, output, png};
use serde_json::json;

const PNG: [(&str, &str); 1] = [("Content-Type", "image/png")];

/// A picture whose channels have different levels everywhere, and their means.
fn picture(seed: u32) -> (Vec<u8>, [f64; 3]) {
    let level = |x: u32, y: u32, c: usize| ((x * 31 + y * 17 + seed * 7) * (c as u32 + 2) % 256) as u8;
    let mean = [0, 1, 2].map(|c| {
        let pixels = (0..64).map(|i| f64::from(level(i % 8, i / 8, c)));
        pixels.sum::<f64>() / 64.0
    });
    (png(8, 8, level), mean)
}

/// What the classifier says of channels with these means, computed here.
fn logits(means: [f64; 3]) -> [f64; 4] {
    [0, 1, 2, 3].map(|class| {
        let sum: f64 = (0..3).map(|c| means[c] * f64::from(WEIGHTS[c][class])).sum();
        sum + f64::from(BIAS[class])
    })
}

fn softmax(logits: [f64; 4]) -> [f64; 4] {
    let exp = logits.map(f64::exp);
    exp.map(|e| e / exp.iter().sum::<f64>())
}

#[track_caller]
fn close(got: &[f64], want: &[f64], tolerance: f64) {
    let near = got.iter().zip(want).all(|(g, w)| (g - w).abs() <= tolerance);
    assert!(got.len() == want.len() && near, "{got:?} is not {want:?}");
}

#[test]
fn a_classifier_in_every_form_of_input() {
    let toml = |rest: &str| format!("max_batch_size = 4\n[image]\n{rest}");
    let normalised = "mean = [100, 110, 120]\nscale = [0.01, 0.02, 0.03]\n";
    let normalise = |m: [f64; 3]| [(m[0] - 100.0) * 0.01, (m[1] - 110.0) * 0.02, (m[2] - 120.0) * 0.03];
    let reversed = |m: [f64; 3]| [m[2], m[1], m[0]];
    for backend in backends() {
        let repository = Repository::new()
            .model("defaults", "", &onnx::classifier(Pixels::Nchw, 1.0))
            .model("rgb", &toml(normalised), &onnx::classifier(Pixels::Nchw, 1.0))
            .model(
                "bgr",
                &toml(&format!("color_order = \"BGR\"\n{normalised}")),
                &onnx::classifier(Pixels::Nchw, 1.0),
            )
            .model("nhwc", &toml(normalised), &onnx::classifier(Pixels::Nhwc, 1.0))
            .model("levels", "", &onnx::classifier(Pixels::Uint8, 0.01))
            .model(
                "any",
                &toml(&format!("width = 8\nheight = 8\n{normalised}")),
                &onnx::classifier(Pixels::AnySize, 1.0),
            );
        let server = repository.serve(backend);
        let pictures = [0, 1, 2].map(picture);
        for (model, means) in [
            ("defaults", &(|m: [f64; 3]| m.map(|v| v / 255.0)) as &dyn Fn([f64; 3]) -> [f64; 3]),
            ("rgb", &normalise),
            ("bgr", &|m| normalise(reversed(m))),
            ("nhwc", &normalise),
            ("levels", &|m| m.map(|v| v * 0.01)),
            ("any", &normalise),
        ] {
            let path = format!("/v1/models/{model}/infer");
            let want: Vec<f64> = pictures.iter().flat_map(|(_, m)| logits(means(*m))).collect();
            let (shape, one) = output(&server.post(&path, &PNG, &pictures[0].0).json(), "logits");
            assert_eq!(shape, [1, 4], "{backend} {model}");
            close(&one, &want[..4], 1e-4);
            let (content_type, body) = form(&pictures.each_ref().map(|(png, _)| png.as_slice()));
            let (shape, all) =
                output(&server.post(&path, &[("Content-Type", &content_type)], &body).json(), "logits");
            assert_eq!(shape, [3, 4], "{backend} {model}");
            close(&all, &want, 1e-4);
        }
    }
}

#[test]
fn softmax_labels_and_the_classification_extension() {
    let toml = "[[output]]\nname = \"logits\"\nsoftmax = true\nlabel_filename = \"labels.txt\"\n";
    let repository = Repository::new()
        .model("animals", toml, &onnx::classifier(Pixels::Nchw, 1.0))
        .file("animals/labels.txt", b"cat\ndog\nbird\n");
    for backend in backends() {
        let server = repository.serve(backend);
        let pictures = [3, 4].map(picture);
        let want = pictures.each_ref().map(|(_, m)| softmax(logits(m.map(|v| v / 255.0))));
        let data = pictures.each_ref().map(|(png, _)| base64(png));
        let ask = |outputs| {
            let inputs = json!([{"name": "image", "datatype": "BYTES", "shape": [2], "data": data}]);
            server
                .post_json("/v2/models/animals/infer", &json!({"inputs": inputs, "outputs": outputs}))
                .json()
        };
        let (shape, values) = output(&ask(json!([{"name": "logits"}])), "logits");
        assert_eq!(shape, [2, 4]);
        close(&values, want.as_flattened(), 1e-5);

        let answer = ask(json!([{"name": "logits", "parameters": {"classification": 2}}]));
        let classes = &answer["outputs"][0];
        assert_eq!((&classes["datatype"], &classes["shape"]), (&json!("BYTES"), &json!([2, 2])));
        for (row, want) in want.iter().enumerate() {
            let mut order = [0, 1, 2, 3];
            order.sort_by(|a, b| want[*b].total_cmp(&want[*a]));
            for (place, index) in order[..2].iter().enumerate() {
                let text = classes["data"][row * 2 + place].as_str().unwrap();
                let (value, rest) = text.split_once(':').unwrap();
                close(&[value.parse().unwrap()], &[want[*index]], 2e-5);
                // There are three labels for four classes.
                let label = [":cat", ":dog", ":bird", ""][*index];
                assert_eq!(rest, format!("{index}{label}"), "{backend}: {classes}");
            }
        }
    }
}

fn fp32(name: &str, shape: &[usize], data: &[f32]) -> serde_json::Value {
    json!({"name": name, "datatype": "FP32", "shape": shape, "data": data})
}

#[test]
fn tensors_in_and_out() {
    for (kind, datatype) in [(Kind::INT64, "INT64"), (Kind::INT32, "INT32")] {
        let repository =
            Repository::new().model("add", "max_batch_size = 8\n", &onnx::two_inputs(kind, &[-1, 4]));
        for backend in backends() {
            let server = repository.serve(backend);
            let path = "/v2/models/add/infer";
            let a = fp32("a", &[2, 4], &[0.5, 1.0, 1.5, 2.0, -1.0, -2.0, -3.0, 1e6]);
            let b = json!({"name": "b", "datatype": datatype, "shape": [2, 4], "data": [1, 2, 3, 4, -5, -6, -7, 1 << 20]});
            let answer = server.post_json(path, &json!({"id": "x", "inputs": [b, a]})).json();
            assert_eq!((&answer["id"], &answer["outputs"][1]["datatype"]), (&json!("x"), &json!(datatype)));
            let want = [1.5, 3.0, 4.5, 6.0, -6.0, -8.0, -10.0, 2_048_576.0];
            assert_eq!(output(&answer, "sum"), (vec![2, 4], want.to_vec()), "{backend}");
            let want = [2.0, 4.0, 6.0, 8.0, -10.0, -12.0, -14.0, 2_097_152.0];
            assert_eq!(output(&answer, "twice"), (vec![2, 4], want.to_vec()), "{backend}");

            let only = json!({"inputs": [a, b], "outputs": [{"name": "twice"}]});
            assert_eq!(server.post_json(path, &only).json()["outputs"].as_array().unwrap().len(), 1);
            let refusals = [
                (json!([a]), "`b` is missing"),
                (json!([a, fp32("b", &[2, 4], &[0.0; 8])]), datatype),
                (
                    json!([a, {"name": "b", "datatype": datatype, "shape": [1, 4], "data": [1, 2, 3, 4]}]),
                    "batch",
                ),
                (json!([fp32("a", &[2, 3], &[0.0; 6]), b]), "[-1, 4], got [2, 3]"),
                (json!([fp32("c", &[1], &[0.0])]), "`c`"),
                (
                    json!([fp32("a", &[0, 4], &[]), {"name": "b", "datatype": datatype, "shape": [0, 4], "data": []}]),
                    "rows",
                ),
            ];
            for (inputs, word) in refusals {
                server.post_json(path, &json!({"inputs": inputs})).refused(400, &[word]);
            }
            server
                .post("/v1/models/add/infer", &PNG, &picture(0).0)
                .refused(400, &["takes tensors", "\"a\" FP32"]);
        }
    }
}

/// rten computes with 32-bit integers: a larger one is its request's mistake, not its neighbours'.
#[test]
fn an_int64_that_the_engine_cannot_hold_fails_its_request_only() {
    let toml = "max_batch_size = 4\n[dynamic_batching]\nmax_queue_delay_microseconds = 300000\npreferred_batch_size = [3]\n\
                [[instance_group]]\ncount = 1\n";
    let repository = Repository::new().model("add", toml, &onnx::two_inputs(Kind::INT64, &[-1, 1]));
    let server = repository.serve("rten");
    let ask = |b: i64| {
        let b = json!({"name": "b", "datatype": "INT64", "shape": [1, 1], "data": [b]});
        server.post_json("/v2/models/add/infer", &json!({"inputs": [fp32("a", &[1, 1], &[1.0]), b]}))
    };
    std::thread::scope(|scope| {
        let good = [1, 2].map(|b| scope.spawn(move || ask(b)));
        ask(1 << 40).refused(400, &["`b`", "1099511627776", "32 bits"]);
        for (b, answer) in [1.0, 2.0].into_iter().zip(good) {
            assert_eq!(output(&answer.join().unwrap().json(), "sum"), (vec![1, 1], vec![b + 1.0]));
        }
    });
}

#[test]
fn a_model_without_a_batch_dimension() {
    let repository = Repository::new()
        .model("fixed", "max_batch_size = 0\n", &onnx::doubled(&[2, 3]))
        .model("vector", "", &onnx::doubled(&[4]))
        .model("open", "max_batch_size = 0\n", &onnx::doubled(&[-1]));
    for backend in backends() {
        let server = repository.serve(backend);
        let ask = |model: &str, shape: &[usize], data: &[f32]| {
            server
                .post_json(&format!("/v2/models/{model}/infer"), &json!({"inputs": [fp32("x", shape, data)]}))
        };
        let cases: [(&str, &[usize], &[f32]); 4] = [
            ("fixed", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
            ("vector", &[4], &[1.0, 2.0, 3.0, 4.0]),
            ("open", &[1], &[1.0]),
            ("open", &[3], &[1.0, 2.0, 3.0]),
        ];
        for (model, shape, data) in cases {
            let want: Vec<f64> = data.iter().map(|v| f64::from(v * 2.0)).collect();
            assert_eq!(
                output(&ask(model, shape, data).json(), "y"),
                (shape.to_vec(), want),
                "{backend} {model}"
            );
        }
        ask("fixed", &[1, 2, 3], &[0.0; 6]).refused(400, &["[2, 3]", "[1, 2, 3]"]);
        let config = server.get("/v2/models/fixed/config").json();
        assert_eq!((&config["max_batch_size"], &config["backend"]), (&json!(0), &json!(backend)));
    }
}

#[test]
fn rows_of_any_length_that_share_a_model() {
    let toml = "max_batch_size = 4\n[dynamic_batching]\nmax_queue_delay_microseconds = 5000\n";
    let repository = Repository::new().model("any", toml, &onnx::doubled(&[-1, -1]));
    for backend in backends() {
        let server = repository.serve(backend);
        let ask = |rows: usize, width: usize| {
            let data: Vec<f32> = (0..rows * width).map(|v| v as f32).collect();
            let answer = server
                .post_json("/v2/models/any/infer", &json!({"inputs": [fp32("x", &[rows, width], &data)]}));
            let want: Vec<f64> = data.iter().map(|v| f64::from(v * 2.0)).collect();
            assert_eq!(
                output(&answer.json(), "y"),
                (vec![rows, width], want),
                "{backend}: {rows} of {width}"
            );
        };
        std::thread::scope(|scope| {
            for client in 0..4 {
                scope.spawn(move || (0..10).for_each(|i| ask(1 + (i + client) % 3, 1 + (i * client) % 5)));
            }
        });
        assert_eq!(server.metric(r#"visord_instance_restarts_total{model="any",version="1"}"#), 0.0);
    }
}

#[test]
fn rows_without_elements_disturb_nobody() {
    let repository = Repository::new().model("any", "max_batch_size = 4\n", &onnx::doubled(&[-1, -1]));
    for backend in backends() {
        let server = repository.serve(backend);
        let ask = |shape: &[usize], data: &[f32]| {
            server.post_json("/v2/models/any/infer", &json!({"inputs": [fp32("x", shape, data)]}))
        };
        ask(&[2, 0], &[]).refused(400, &["`x`", "at least 1", "[2, 0]"]);
        assert_eq!(output(&ask(&[1, 2], &[1.0, 2.0]).json(), "y"), (vec![1, 2], vec![2.0, 4.0]));
        assert_eq!(
            server.metric(r#"visord_instance_restarts_total{model="any",version="1"}"#),
            0.0,
            "{backend}"
        );
    }
}
