//! What `tritonclient` sends, and what it reads: files of `tests/golden/oip`, see `make.py` there.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::responses::tensor;
use super::*;
use crate::server::oip::{
    Encoded, InferInput, InferResponse, InputData, OutputTensor, RequestedOutput, write,
};
use crate::tensor::Tensor;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/oip").join(name)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn as_expected(input: &InferInput) -> Value {
    let data = match &input.data {
        InputData::Dense(data) => json!(hex(data)),
        InputData::Binary(items) | InputData::Text(items) => items.iter().map(|i| hex(i)).collect(),
    };
    json!({"name": input.name, "datatype": input.datatype.name(), "shape": input.shape, "data": data})
}

#[test]
fn golden_requests_of_tritonclient_are_read() {
    let cases: Value = serde_json::from_slice(&fs::read(golden("requests.json")).unwrap()).unwrap();
    let cases = cases["requests"].as_array().unwrap();
    assert!(cases.len() > 20);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let body = Bytes::from(fs::read(golden(&format!("{name}.req"))).unwrap());
        let request = match parse(&body, case["header"].as_str()) {
            Ok(Parsed::Infer(request)) => request,
            other => panic!("{name}: {other:?}"),
        };
        let inputs: Vec<Value> = request.inputs.iter().map(as_expected).collect();
        assert_eq!(Value::from(inputs), case["inputs"], "{name}");
        assert_eq!(request.binary_data_output, name != "options", "{name}");
        if name == "options" {
            let output = |name: &str, binary, classification| RequestedOutput {
                name: name.into(),
                binary: Some(binary),
                classification,
                place: None,
            };
            assert_eq!(
                request.outputs,
                [output("embedding", true, 0), output("norm", false, 0), output("scores", true, 3)]
            );
            assert_eq!(request.id.as_deref(), Some("request 7 ü"));
            assert_eq!((request.priority, request.timeout.unwrap().as_micros()), (2, 1500));
        }
    }
}

/// The responses that `make.py check` reads: every datatype in JSON and binary, classes, a mix of both.
fn responses() -> Vec<(&'static str, Encoded, Value)> {
    use Datatype as D;
    let values = [0.1, -1.5, f32::MAX, 1e-45, 1e-7, -0.0];
    let f16 = |v: &[f32]| v.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect::<Vec<u8>>();
    let outputs = [
        ("fp32", tensor(D::Fp32, &[2, 3], le(&values))),
        ("fp64", tensor(D::Fp64, &[2], [0.1f64, 5e-324].map(f64::to_le_bytes).concat())),
        ("fp16", tensor(D::Fp16, &[1, 3], f16(&[0.1, -65504.0, 6e-8]))),
        ("int64", tensor(D::Int64, &[2], [i64::MIN, i64::MAX].map(i64::to_le_bytes).concat())),
        ("uint64", tensor(D::Uint64, &[1], u64::MAX.to_le_bytes())),
        ("int8", tensor(D::Int8, &[2], [128, 127])),
        ("uint8", tensor(D::Uint8, &[1, 2, 2], [0, 1, 254, 255])),
        ("bool", tensor(D::Bool, &[3], [1, 0, 1])),
        ("bytes", tensor(D::Bytes, &[2], b"\x03\0\0\0\xc3\xbc\"\0\0\0\0".to_vec())),
        ("empty", tensor(D::Fp32, &[0, 3], [])),
    ];
    let expected = |name: &str, t: &Tensor| {
        let data =
            if t.datatype == D::Bytes { json!([hex("ü\"".as_bytes()), ""]) } else { json!(hex(&t.data)) };
        json!({"name": name, "datatype": t.datatype.name(), "shape": t.shape, "data": data})
    };
    let all: Value = outputs.iter().map(|(name, t)| expected(name, t)).collect();
    let labels = ["a", "b", "ü"].map(str::to_owned);
    let response = InferResponse {
        model_name: "face \"1\"",
        model_version: "1",
        id: Some("ü"),
        outputs: outputs
            .iter()
            .map(|(name, tensor)| OutputTensor { name, tensor: tensor.clone(), labels: &labels })
            .collect(),
    };
    let wanted = |name: &str, binary, classification| RequestedOutput {
        name: name.into(),
        binary,
        classification,
        place: None,
    };
    let classes =
        [wanted("fp32", Some(true), 2), wanted("bool", Some(false), 0), wanted("uint8", Some(false), 9)];
    let hexes = |items: &[&str]| items.iter().map(|i| hex(i.as_bytes())).collect::<Value>();
    let rows = [
        "340282346638528859811704183484516925440.000000:2:ü",
        "0.100000:0:a",
        "0.000000:1:b",
        "0.000000:0:a",
    ];
    let classified = json!([
        {"name": "fp32", "datatype": "BYTES", "shape": [2, 2], "data": hexes(&rows)},
        expected("bool", &outputs[7].1),
        {"name": "uint8", "datatype": "BYTES", "shape": [1, 4], "data": hexes(&["255:3", "254:2:ü", "1:1:b", "0:0:a"])},
    ]);
    vec![
        ("all_json", write(&response, &[], false).unwrap(), all.clone()),
        ("all_binary", write(&response, &[], true).unwrap(), all),
        ("classes", write(&response, &classes, false).unwrap(), classified),
    ]
}

#[test]
fn golden_responses_are_what_tritonclient_read() {
    let cases: Value = serde_json::from_slice(&fs::read(golden("responses.json")).unwrap()).unwrap();
    for (index, (name, encoded, outputs)) in responses().into_iter().enumerate() {
        assert_eq!(
            cases[index],
            json!({"name": name, "header": encoded.json_len, "outputs": outputs}),
            "{name}"
        );
        assert_eq!(fs::read(golden(&format!("{name}.rsp"))).unwrap(), encoded.body, "{name}");
    }
}

#[test]
#[ignore = "writes the golden responses; run `make.py check` after it"]
fn golden_bless() {
    let mut cases = Vec::new();
    for (name, encoded, outputs) in responses() {
        fs::write(golden(&format!("{name}.rsp")), &encoded.body).unwrap();
        cases.push(json!({"name": name, "header": encoded.json_len, "outputs": outputs}));
    }
    fs::write(golden("responses.json"), serde_json::to_vec_pretty(&cases).unwrap()).unwrap();
}
