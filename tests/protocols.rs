//! One image, every protocol and form of answer: the same floats, to the last bit.

use crate::common::onnx::{self, Pixels};
use crate::common::{Answer, Client, Repository, Server, backends, base64, form, output, png};
use serde_json::{Value, json};
use visord::server::numpy;
use visord::tensor::{Datatype, Tensor};

const JPEG: (&str, &str) = ("Content-Type", "image/jpeg");

fn face() -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/images/face.jpg");
    std::fs::read(path).unwrap()
}

/// Three pictures that the model tells apart.
fn pictures() -> [Vec<u8>; 3] {
    let face = face();
    let stripes = png(150, 90, |x, y, c| ((x * 3 + y * 5 + c as u32 * 60) % 256) as u8);
    let grey = png(1, 1, |_, _, _| 77);
    [face, stripes, grey]
}

/// The shipped model, or the small classifier where that has not been fetched.
fn serve(backend: &str) -> (Server, &'static str, &'static str) {
    let engines = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("engines");
    if engines.join("ArcFace/1/model.onnx").is_file() {
        return (Server::start(&engines, backend, &[]), "ArcFace", "embedding");
    }
    eprintln!("engines/ArcFace/1/model.onnx is not there: a small classifier stands in");
    let repository = Repository::new().model("small", "", &onnx::classifier(Pixels::Nchw, 1.0));
    (repository.serve(backend), "small", "logits")
}

fn floats(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Bits of the FP32 values of a JSON answer: the shortest decimal that reads back as the same value.
fn bits(answer: &Value, name: &str) -> Vec<u32> {
    output(answer, name).1.iter().map(|v| (*v as f32).to_bits()).collect()
}

/// Bits and JSON part of an answer with one binary output.
fn binary(answer: &Answer) -> (Value, Vec<u32>) {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let length: usize = answer.header("inference-header-content-length").unwrap().parse().unwrap();
    (serde_json::from_slice(&answer.body[..length]).unwrap(), floats(&answer.body[length..]))
}

#[test]
fn every_protocol_gives_the_same_bits() {
    for backend in backends() {
        let (server, model, name) = serve(backend);
        let (v1, v2) = (format!("/v1/models/{model}/infer"), format!("/v2/models/{model}/infer"));
        for picture in pictures() {
            let reference = server.post(&v1, &[JPEG, ("Accept", "application/octet-stream")], &picture);
            assert_eq!(reference.status, 200, "{}", reference.text());
            let want = floats(&reference.body);
            let json = server.post(&v1, &[JPEG], &picture).json();
            assert_eq!(bits(&json, name), want, "{backend}: plain JSON");

            let npy = server.post(&v1, &[JPEG, ("Accept", "application/x-npy")], &picture);
            let header = 10 + usize::from(npy.body[8]) + 256 * usize::from(npy.body[9]);
            assert_eq!(
                (&npy.body[..6], floats(&npy.body[header..])),
                (&b"\x93NUMPY"[..], want.clone()),
                "{backend}: npy"
            );

            let (content_type, body) = form(&[&picture]);
            let json = server.post(&v1, &[("Content-Type", &content_type)], &body).json();
            assert_eq!(bits(&json, name), want, "{backend}: form");

            let input =
                json!({"name": "image", "datatype": "BYTES", "shape": [1, 1], "data": [base64(&picture)]});
            let json = server.post_json(&v2, &json!({"inputs": [input]})).json();
            assert_eq!(bits(&json, name), want, "{backend}: v2 JSON");
            let outputs = json!([{"name": name, "parameters": {"binary_data": true}}]);
            let answer = server.post_json(&v2, &json!({"inputs": [input], "outputs": outputs}));
            assert_eq!(binary(&answer).1, want, "{backend}: v2 with a binary output");

            let size = picture.len() + 4;
            let input = json!({"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": size}});
            let head = json!({"inputs": [input], "parameters": {"binary_data_output": true}}).to_string();
            let element = [&(picture.len() as u32).to_le_bytes(), picture.as_slice()].concat();
            let length = head.len().to_string();
            let headers = [("Inference-Header-Content-Length", length.as_str())];
            let answer = server.post(&v2, &headers, &[head.as_bytes(), &element].concat());
            assert_eq!(binary(&answer).1, want, "{backend}: v2 binary");
            let raw = server.post(&v2, &[("Inference-Header-Content-Length", "0")], &element);
            assert_eq!(binary(&raw).1, want, "{backend}: v2 raw");

            let request = json!({"key": ["image"], "value": [base64(&picture)]});
            let paddle =
                server.post(&format!("/{model}/prediction"), &[], request.to_string().as_bytes()).json();
            let tensor = Tensor {
                datatype: Datatype::Fp32,
                shape: vec![1, want.len()],
                data: reference.body.clone().into(),
            };
            let mut text = Vec::new();
            numpy::write_repr(&tensor, &mut text).unwrap();
            assert_eq!(paddle["err_no"], 0, "{paddle}");
            assert_eq!(
                paddle["value"],
                json!([String::from_utf8(text).unwrap()]),
                "{backend}: PaddleServing"
            );
        }
    }
}

/// A batch's rows are what each image gives alone, but for the last bits: engines multiply one row and several with
/// different kernels.
#[test]
fn a_batch_equals_its_images() {
    for backend in backends() {
        let (server, model, name) = serve(backend);
        let path = format!("/v1/models/{model}/infer");
        let alone: Vec<Vec<f64>> =
            pictures().iter().map(|p| output(&server.post(&path, &[JPEG], p).json(), name).1).collect();
        let order = [0, 1, 2, 1, 0, 2, 2];
        let pictures = pictures();
        let (content_type, body) = form(&order.map(|i| pictures[i].as_slice()));
        let answer = server.post(&path, &[("Content-Type", &content_type)], &body).json();
        let (shape, values) = output(&answer, name);
        assert_eq!(shape, [order.len(), alone[0].len()]);
        for (row, which) in values.chunks(alone[0].len()).zip(order) {
            let worst = row.iter().zip(&alone[which]).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            let largest = row.iter().map(|v| v.abs()).fold(0.0, f64::max);
            assert!(worst <= 1e-5 * largest, "{backend}: picture {which} differs by {worst} of {largest}");
        }
    }
}

#[test]
fn one_bad_image_fails_its_form_and_no_neighbour() {
    let toml = "[dynamic_batching]\nmax_queue_delay_microseconds = 20000\npreferred_batch_size = [4]\n\
                [[instance_group]]\ncount = 1\n";
    let repository = Repository::new().model("small", toml, &onnx::classifier(Pixels::Nchw, 1.0));
    let server = repository.serve("rten");
    let path = "/v1/models/small/infer";
    let good = png(8, 8, |x, y, c| (x * 20 + y * 3) as u8 + c as u8);
    let want = output(&server.post(path, &[JPEG], &good).json(), "logits").1;
    let (content_type, body) = form(&[&good, &good[..60], &good]);
    let form_headers = [("Content-Type", content_type.as_str())];
    std::thread::scope(|scope| {
        for round in 0..10 {
            let neighbour = scope.spawn(|| server.post(path, &[JPEG], &good));
            server.post(path, &form_headers, &body).refused(400, &["row 1 of 3"]);
            let got = output(&neighbour.join().unwrap().json(), "logits").1;
            let near = got.iter().zip(&want).all(|(g, w)| (g - w).abs() < 1e-5);
            assert!(near, "round {round}: {got:?} is not {want:?}");
        }
    });
    let failed = r#"visord_inference_requests_total{model="small",version="1",protocol="http",outcome="truncated_image"}"#;
    assert_eq!(server.metric(failed), 10.0);
    let served =
        r#"visord_inference_requests_total{model="small",version="1",protocol="http",outcome="success"}"#;
    assert_eq!(server.metric(served), 11.0);
}

#[test]
fn requests_on_one_connection_are_answered_in_order() {
    let repository = Repository::new().model("small", "", &onnx::classifier(Pixels::Nchw, 1.0));
    let server = repository.serve("rten");
    let mut client = Client::connect(server.http);
    let level = |n: u8| png(2, 2, move |_, _, _| n);
    let alone: Vec<_> =
        [0, 100, 200].map(|n| client.send("POST", "/v1/models/small/infer", &[JPEG], &level(n)).body).into();
    assert!(alone[0] != alone[1] && alone[1] != alone[2]);
    let head = |length: usize| {
        format!("POST /v1/models/small/infer HTTP/1.1\r\nHost: t\r\nContent-Length: {length}\r\n\r\n")
    };
    let all: Vec<u8> =
        [0, 100, 200].iter().flat_map(|n| [head(level(*n).len()).into_bytes(), level(*n)].concat()).collect();
    client.raw(&all).unwrap();
    for want in alone {
        assert_eq!(client.answer().unwrap().body, want);
    }
}
