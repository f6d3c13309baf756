//! Responses as text, byte for byte, and the documents.

use std::collections::BTreeMap;

use super::*;
use crate::error::ErrorKind as E;
use crate::server::oip::*;
use crate::tensor::Tensor;

pub(super) fn tensor(datatype: Datatype, shape: &[usize], data: impl Into<Vec<u8>>) -> Tensor {
    Tensor { datatype, shape: shape.to_vec(), data: Bytes::from(data.into()) }
}

fn output(name: &str, tensor: Tensor) -> OutputTensor<'_> {
    OutputTensor { name, tensor, labels: &[] }
}

fn response(outputs: Vec<OutputTensor<'_>>) -> InferResponse<'_> {
    InferResponse { model_name: "m", model_version: "1", id: None, outputs }
}

fn wanted(name: &str, binary: Option<bool>, classification: usize) -> RequestedOutput {
    RequestedOutput { name: name.into(), binary, classification, place: None }
}

/// The `data` array of the only output, written as JSON.
fn data_json(tensor: Tensor) -> Result<String, InferError> {
    let encoded = write(&response(vec![output("y", tensor)]), &[], false)?;
    assert_eq!(encoded.json_len, None);
    let text = String::from_utf8(encoded.body.to_vec()).unwrap();
    serde_json::from_str::<serde::de::IgnoredAny>(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
    let data = text.split_once("\"data\":").unwrap().1;
    Ok(data.strip_suffix("}]}").unwrap().to_owned())
}

#[test]
fn json_values_are_exact() {
    use Datatype as D;
    let cases: Vec<(Tensor, &str)> = vec![
        (tensor(D::Bool, &[3], [1, 0, 2]), "[true,false,true]"),
        (tensor(D::Uint8, &[2], [0, 255]), "[0,255]"),
        (tensor(D::Int8, &[2], [128, 127]), "[-128,127]"),
        (tensor(D::Uint16, &[1], u16::MAX.to_le_bytes()), "[65535]"),
        (tensor(D::Int16, &[1], i16::MIN.to_le_bytes()), "[-32768]"),
        (tensor(D::Uint32, &[1], u32::MAX.to_le_bytes()), "[4294967295]"),
        (tensor(D::Int32, &[1], i32::MIN.to_le_bytes()), "[-2147483648]"),
        (tensor(D::Uint64, &[1], u64::MAX.to_le_bytes()), "[18446744073709551615]"),
        (tensor(D::Int64, &[1], i64::MIN.to_le_bytes()), "[-9223372036854775808]"),
        (tensor(D::Fp16, &[1], half::f16::from_f32(0.1).to_le_bytes()), "[0.099975586]"),
        (tensor(D::Bf16, &[1], half::bf16::from_f32(1.5).to_le_bytes()), "[1.5]"),
        (
            tensor(D::Fp32, &[1, 5], le(&[0.1, -0.0, 1e-45, f32::MAX, 3.0])),
            "[0.1,-0.0,1e-45,3.4028235e38,3.0]",
        ),
        (tensor(D::Fp64, &[1], 0.1f64.to_le_bytes()), "[0.1]"),
        (tensor(D::Fp32, &[0, 4], []), "[]"),
        (tensor(D::Bytes, &[2], b"\x03\0\0\0a\"\n\0\0\0\0".to_vec()), r#"["a\"\n",""]"#),
    ];
    for (tensor, want) in cases {
        let row = format!("{tensor:?}");
        assert_eq!(data_json(tensor).expect(&row), want, "{row}");
    }
}

#[test]
fn what_json_cannot_hold_is_an_error() {
    let nan16 = half::f16::NAN.to_le_bytes();
    let cases = [
        (tensor(Datatype::Fp32, &[2], le(&[1.0, f32::NAN])), "output `y`: element 1 is NaN or infinite"),
        (
            tensor(Datatype::Fp64, &[1], f64::INFINITY.to_le_bytes()),
            "ask for binary output: `binary_data`, or Accept",
        ),
        (tensor(Datatype::Fp16, &[1], nan16), "element 0 is NaN"),
        (tensor(Datatype::Bytes, &[1], b"\x01\0\0\0\xff".to_vec()), "element 0 is no UTF-8 text"),
        (tensor(Datatype::Bytes, &[2], b"\x01\0\0\0a".to_vec()), "2 BYTES elements need"),
        (tensor(Datatype::Fp32, &[2], le(&[1.0])), "FP32 [2] came with 4 bytes"),
    ];
    for (tensor, words) in cases {
        let row = format!("{tensor:?}");
        let error = data_json(tensor).expect_err(&row);
        assert!(error.kind == E::Backend && error.message.contains(words), "{row}: {error:?}");
    }
    let nan = tensor(Datatype::Fp32, &[1], le(&[f32::NAN]));
    assert!(write(&response(vec![output("y", nan)]), &[], true).is_ok(), "binary holds NaN");
}

#[test]
fn every_finite_float_reads_back() {
    let mut random = hostile::Random(7);
    let values: Vec<f32> =
        (0..20_000).map(|_| f32::from_bits(random.next() as u32)).filter(|v| v.is_finite()).collect();
    let shape = values.len();
    let text = data_json(tensor(Datatype::Fp32, &[shape], le(&values))).unwrap();
    let json = format!(r#"{{"inputs":[{{"name":"x","datatype":"FP32","shape":[{shape}],"data":{text}}}]}}"#);
    let request = parse_split(&json, None).unwrap();
    assert_eq!(request.inputs[0].data, InputData::Dense(Bytes::from(le(&values))));
}

#[test]
fn requested_outputs_keep_their_order_and_form() {
    let a = output("a", tensor(Datatype::Fp32, &[1, 2], le(&[1.0, 2.0])));
    let b = output("b", tensor(Datatype::Int8, &[1], [7]));
    let response = InferResponse { id: Some("r\"1"), ..response(vec![a, b]) };
    let head = r#"{"id":"r\"1","model_name":"m","model_version":"1","outputs":["#;
    let a_json = r#"{"name":"a","datatype":"FP32","shape":[1,2],"data":[1.0,2.0]}"#;
    let b_json = r#"{"name":"b","datatype":"INT8","shape":[1],"data":[7]}"#;
    let a_binary = r#"{"name":"a","datatype":"FP32","shape":[1,2],"parameters":{"binary_data_size":8}}"#;
    let b_binary = r#"{"name":"b","datatype":"INT8","shape":[1],"parameters":{"binary_data_size":1}}"#;
    let a_bytes = le(&[1.0, 2.0]);
    let cases: Vec<(Vec<RequestedOutput>, bool, String, Vec<u8>)> = vec![
        (vec![], false, format!("{a_json},{b_json}"), vec![]),
        (vec![], true, format!("{a_binary},{b_binary}"), [&a_bytes[..], &[7]].concat()),
        (vec![wanted("b", None, 0)], false, b_json.into(), vec![]),
        (
            vec![wanted("b", None, 0), wanted("a", Some(true), 0)],
            false,
            format!("{b_json},{a_binary}"),
            a_bytes.clone(),
        ),
        (
            vec![wanted("b", None, 0), wanted("a", Some(false), 0)],
            true,
            format!("{b_binary},{a_json}"),
            vec![7],
        ),
    ];
    for (requested, binary_data_output, json, tail) in cases {
        let encoded = write(&response, &requested, binary_data_output).unwrap();
        let text = format!("{head}{json}]}}");
        let want = [text.as_bytes(), &tail].concat();
        assert_eq!(encoded.body, want, "{requested:?} {binary_data_output}");
        assert_eq!(encoded.json_len, (!tail.is_empty()).then_some(text.len()), "{requested:?}");
    }
    let error = write(&response, &[wanted("c", None, 0)], false).unwrap_err();
    assert_eq!((error.kind, error.message.as_str()), (E::InvalidArgument, "the model has no output `c`"));
}

#[test]
fn classes_are_the_largest_values() {
    let labels = ["cat", "", "owl"].map(str::to_owned);
    let f = |shape: &[usize], values: &[f32]| tensor(Datatype::Fp32, shape, le(values));
    let nan = f32::NAN;
    let cases: Vec<(Tensor, usize, Vec<usize>, Vec<&str>)> = vec![
        (f(&[1, 3], &[0.1, 0.7, 0.2]), 2, vec![1, 2], vec!["0.700000:1", "0.200000:2:owl"]),
        (f(&[2, 2], &[1.0, 2.0, 4.0, 3.0]), 1, vec![2, 1], vec!["2.000000:1", "4.000000:0:cat"]),
        (f(&[1, 2], &[1.0, 2.0]), 9, vec![1, 2], vec!["2.000000:1", "1.000000:0:cat"]),
        (f(&[1, 4], &[5.0, 5.0, 5.0, 5.0]), 2, vec![1, 2], vec!["5.000000:0:cat", "5.000000:1"]),
        (
            f(&[3], &[-1e-7, 1e9, nan]),
            3,
            vec![3],
            vec!["1000000000.000000:1", "-0.000000:0:cat", "nan:2:owl"],
        ),
        (f(&[1, 2], &[f32::NEG_INFINITY, nan]), 2, vec![1, 2], vec!["-inf:0:cat", "nan:1"]),
        (f(&[1, 2, 2], &[1.0, 2.0, 3.0, 4.0]), 1, vec![1, 1], vec!["4.000000:3"]),
        (f(&[2, 0], &[]), 1, vec![2, 0], vec![]),
        (f(&[0, 2], &[]), 1, vec![0, 1], vec![]),
        (tensor(Datatype::Uint8, &[1, 2], [9, 200]), 1, vec![1, 1], vec!["200:1"]),
        (
            tensor(Datatype::Int64, &[1, 2], [i64::MAX - 1, i64::MAX].map(i64::to_le_bytes).concat()),
            1,
            vec![1, 1],
            vec!["9223372036854775807:1"],
        ),
    ];
    for (tensor, count, shape, elements) in cases {
        let row = format!("{tensor:?} {count}");
        let got = classify(&tensor, count, &labels).expect(&row);
        let elements: Vec<String> = elements.into_iter().map(str::to_owned).collect();
        assert_eq!(got, Classes { shape, elements }, "{row}");
    }
    let error = classify(&tensor(Datatype::Bool, &[1], [1]), 1, &[]).unwrap_err();
    assert!(error.kind == E::InvalidArgument && error.message.contains("BOOL"), "{error:?}");
}

#[test]
fn classes_are_a_bytes_tensor() {
    let labels = ["cat", "dog"].map(str::to_owned);
    let value = tensor(Datatype::Fp32, &[1, 2], le(&[0.5, 1.5]));
    let response = response(vec![OutputTensor { name: "y", tensor: value, labels: &labels }]);
    let json = write(&response, &[wanted("y", None, 1)], false).unwrap();
    let end = r#"{"name":"y","datatype":"BYTES","shape":[1,1],"data":["1.500000:1:dog"]}]}"#;
    assert!(json.body.ends_with(end.as_bytes()), "{:?}", json.body);
    let binary = write(&response, &[wanted("y", Some(true), 1)], false).unwrap();
    assert_eq!(&binary.body[binary.json_len.unwrap()..], b"\x0e\0\0\x001.500000:1:dog");
}

#[test]
fn documents_have_tritons_fields() {
    let spec = spec("x", Datatype::Bytes, &[-1, 3]);
    let metadata = TensorMetadata::new(&spec, true);
    let version = DurationStatistics { count: 1, ns: 2 };
    let statistics = Statistics {
        model_stats: vec![ModelStatistics {
            name: "m".into(),
            version: "1".into(),
            inference_stats: InferStatistics { success: version, ..InferStatistics::default() },
            response_stats: BTreeMap::new(),
            batch_stats: vec![BatchStatistics { batch_size: 8, ..BatchStatistics::default() }],
            memory_usage: vec![MemoryUsage { kind: "GPU", id: 0, byte_size: 5 }],
            ..ModelStatistics::default()
        }],
    };
    let config = ModelConfig {
        name: "m".into(),
        platform: "onnx_rten".into(),
        backend: "rten".into(),
        version_policy: VersionPolicy::Latest(LatestVersions { num_versions: 1 }),
        max_batch_size: 8,
        input: vec![TensorConfig::from(&spec)],
        output: vec![],
        instance_group: vec![InstanceGroup { name: "g".into(), kind: "KIND_CPU", count: 2, gpus: vec![] }],
        dynamic_batching: None,
        default_model_filename: "model.onnx".into(),
        parameters: BTreeMap::from([("device", Parameter { string_value: "CPU".into() })]),
    };
    let zero = r#"{"count":0,"ns":0}"#;
    let server = ServerMetadata { name: "visord", version: "0", extensions: EXTENSIONS[..1].to_vec() };
    let cases = [
        (serde_json::to_string(&server), r#"{"name":"visord","version":"0","extensions":["classification"]}"#.to_owned()),
        (serde_json::to_string(&metadata), r#"{"name":"x","datatype":"BYTES","shape":[-1,-1,3]}"#.to_owned()),
        (serde_json::to_string(&config), concat!(
            r#"{"name":"m","platform":"onnx_rten","backend":"rten","version_policy":{"latest":{"num_versions":1}},"#,
            r#""max_batch_size":8,"input":[{"name":"x","data_type":"TYPE_STRING","dims":[-1,3]}],"output":[],"#,
            r#""instance_group":[{"name":"g","kind":"KIND_CPU","count":2,"gpus":[]}],"default_model_filename":"model.onnx","parameters":{"device":{"string_value":"CPU"}}}"#,
        ).to_owned()),
        (serde_json::to_string(&statistics), format!(concat!(
            r#"{{"model_stats":[{{"name":"m","version":"1","last_inference":0,"inference_count":0,"execution_count":0,"#,
            r#""inference_stats":{{"success":{{"count":1,"ns":2}},"fail":{0},"queue":{0},"compute_input":{0},"#,
            r#""compute_infer":{0},"compute_output":{0},"cache_hit":{0},"cache_miss":{0}}},"response_stats":{{}},"#,
            r#""batch_stats":[{{"batch_size":8,"compute_input":{0},"compute_infer":{0},"compute_output":{0}}}],"#,
            r#""memory_usage":[{{"type":"GPU","id":0,"byte_size":5}}]}}]}}"#,
        ), zero)),
    ];
    for (got, want) in cases {
        assert_eq!(got.unwrap(), want);
    }
    let error = InferError::new(E::NotReady, "model `m\"` is not ready");
    assert_eq!(error_body(&error), r#"{"error":"model `m\"` is not ready"}"#);
}
