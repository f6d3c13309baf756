use super::*;
use crate::server::mutations;
use crate::tensor::{Datatype, Tensor};

const MAX: usize = 4;

fn strings(texts: &[request::Text<'_>]) -> Vec<String> {
    texts.iter().map(|t| t.to_string()).collect()
}

#[test]
fn reads_what_jsonpb_reads() {
    type Row = (&'static str, &'static [&'static str], &'static [&'static str], i64, usize);
    let rows: &[Row] = &[
        ("", &[], &[], 0, 0),
        (" \r\n", &[], &[], 0, 0),
        ("{}", &[], &[], 0, 0),
        ("null", &[], &[], 0, 0),
        (r#"{"key":["image"],"value":["YQ=="]}"#, &["image"], &["YQ=="], 0, 0),
        (r#"{"value":["YQ=="],"key":["image"],"logid":7,"x":{"y":[1,{}]}}"#, &["image"], &["YQ=="], 7, 0),
        (r#"{"key":["a\/\u0062"],"value":["+\/+\/"]}"#, &["a/b"], &["+/+/"], 0, 0),
        (r#"{"logid":"-9223372036854775808"}"#, &[], &[], i64::MIN, 0),
        (r#"{"logid":" 12 "}"#, &[], &[], 12, 0),
        (r#"{"logid":null,"key":null,"value":null,"tensors":null,"name":null}"#, &[], &[], 0, 0),
        (r#"{"key":["a"],"key":["b","c"]}"#, &["b", "c"], &[], 0, 0),
        (r#"{"key":["a"],"key":null,"logid":1,"logid":null}"#, &[], &[], 0, 0),
        (r#"{"key":[null],"value":[null,"x"]}"#, &[""], &["", "x"], 0, 0),
        (r#"{"\u006bey":["a"]}"#, &["a"], &[], 0, 0),
        // no name of the field: neither the original nor the camelCase one
        (r#"{"log_id":5,"logId":5,"Key":["a"]}"#, &[], &[], 0, 0),
        (r#"{"tensors":[{"elem_type":1,"shape":[1]},{}]}"#, &[], &[], 0, 2),
        (r#"{"key":["a"]} trailing"#, &["a"], &[], 0, 0),
    ];
    for &(body, key, value, logid, tensors) in rows {
        let request = parse(body.as_bytes(), MAX).unwrap_or_else(|e| panic!("{body}: {e}"));
        assert_eq!(strings(&request.key), key, "{body}");
        assert_eq!(strings(&request.value), value, "{body}");
        assert_eq!((request.logid, request.tensors), (logid, tensors), "{body}");
    }
    let request = parse(br#"{"clientip":"10.0.0.1","name":"ArcFace","method":"prediction"}"#, MAX).unwrap();
    assert_eq!((&*request.clientip, &*request.name, &*request.method), ("10.0.0.1", "ArcFace", "prediction"));
}

#[test]
fn says_where_json_fails() {
    let deep = format!(r#"{{"key":{}"#, "[".repeat(100_000));
    let deep_unknown = format!(r#"{{"x":{}"#, "[".repeat(100_000));
    for (body, message) in [
        ("{", "EOF while parsing an object at line 1 column 1"),
        ("{\n  \"key\": oops}", "expected value at line 2 column 10"),
        ("[]", "invalid type: sequence, expected an object at line 1 column 0"),
        (r#""text""#, "invalid type: string \"text\", expected an object at line 1 column 6"),
        (
            r#"{"key":"image"}"#,
            "invalid type: string \"image\", expected an array in key at line 1 column 14",
        ),
        (r#"{"key":[1]}"#, "invalid type: integer `1`, expected a string at line 1 column 9"),
        (r#"{"key":["a","b","c","d","e"]}"#, "key: more than 4 elements at line 1 column 28"),
        (r#"{"value":["","","","",""]}"#, "value: more than 4 elements at line 1 column 25"),
        (r#"{"tensors":[{},{},{},{},{}]}"#, "tensors: more than 4 elements at line 1 column 27"),
        (
            r#"{"logid":1.5}"#,
            "invalid type: floating point `1.5`, expected a 64-bit integer, as a number or a string at line 1 column 12",
        ),
        (
            r#"{"logid":"+5"}"#,
            "invalid value: string \"+5\", expected a 64-bit integer, as a number or a string at line 1 column 13",
        ),
        (
            r#"{"logid":9223372036854775808}"#,
            "invalid value: integer `9223372036854775808`, expected a 64-bit integer, as a number or a string at \
             line 1 column 28",
        ),
        (&deep, "invalid type: sequence, expected a string at line 1 column 9"),
        (&deep_unknown, "EOF while parsing a list at line 1 column 100005"),
    ] {
        let error = parse(body.as_bytes(), MAX).unwrap_err();
        let start = &body[..body.len().min(60)];
        assert_eq!(error.message, format!("request body: {message}"), "{start}");
        assert_eq!((error.http, error.code), (400, 3), "{start}");
    }
    assert!(parse(b"{\"key\":[\"\xff\"]}", MAX).is_err());
}

#[test]
fn borrows_the_images_from_the_body() {
    let body = format!(r#"{{"key":["image"],"value":["{}"]}}"#, "QUJD".repeat(1000));
    let request = parse(body.as_bytes(), MAX).unwrap();
    let images = Images::of(&request).unwrap();
    let (key, text) = images.iter().next().unwrap();
    assert!(body.as_bytes().as_ptr_range().contains(&text.as_ptr()));
    assert!(body.as_bytes().as_ptr_range().contains(&key.as_ptr()));
    assert_eq!(images.decode(0).unwrap(), b"ABC".repeat(1000));
}

#[test]
fn every_key_is_an_image() {
    type Row = (&'static str, Result<&'static [(&'static str, &'static str)], (ErrorKind, &'static str)>);
    let rows: &[Row] = &[
        (r#"{"key":["image"],"value":["YQ=="]}"#, Ok(&[("image", "a")])),
        (r#"{"key":["i0","i1"],"value":["YQ==","Yg=="]}"#, Ok(&[("i0", "a"), ("i1", "b")])),
        (r#"{"key":["i0","i1","i0"],"value":["YQ==","Yg==","Yw=="]}"#, Ok(&[("i0", "c"), ("i1", "b")])),
        (r#"{"key":["i0"],"value":["YQ==","Yg=="]}"#, Ok(&[("i0", "a")])),
        (
            r#"{"key":["user","image","image_1"],"value":["7","YQ==","Yg=="]}"#,
            Ok(&[("image", "a"), ("image_1", "b")]),
        ),
        (r#"{"key":["pipeline.profile","i"],"value":["1","YQ=="]}"#, Ok(&[("i", "a")])),
        ("{}", Err((ErrorKind::InvalidArgument, "'image'"))),
        (r#"{"value":["YQ=="]}"#, Err((ErrorKind::InvalidArgument, "'image'"))),
        (
            r#"{"key":["a","b"],"value":["YQ=="]}"#,
            Err((ErrorKind::MalformedJson, "rpc package error: list index out of range")),
        ),
        (
            r#"{"tensors":[{}]}"#,
            Err((ErrorKind::InvalidArgument, "tensors: 1 given; send images as base64 in value")),
        ),
        (
            r#"{"key":["x"],"value":["array([[1., 2.]], dtype=float32)"]}"#,
            Err((ErrorKind::InvalidArgument, "x: numpy text given; send the image file as base64")),
        ),
        (
            r#"{"key":["x"],"value":["YW!="]}"#,
            Err((ErrorKind::BadBase64, "x: base64: '!' at byte 2 is not in the standard alphabet")),
        ),
    ];
    for (body, expected) in rows {
        let request = parse(body.as_bytes(), MAX).unwrap();
        let got = Images::of(&request).and_then(|images| {
            assert!(!images.is_empty());
            let decode = |(i, (key, _)): (usize, (&str, &str))| {
                Ok((key.to_owned(), String::from_utf8(images.decode(i)?).unwrap()))
            };
            images.iter().enumerate().map(decode).collect::<Result<Vec<_>, _>>()
        });
        match (got, expected) {
            (Ok(got), Ok(expected)) => {
                let got = got.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect::<Vec<_>>();
                assert_eq!(got, *expected, "{body}");
            }
            (Err(got), Err(expected)) => assert_eq!((got.kind, got.message.as_str()), *expected, "{body}"),
            (got, expected) => panic!("{body}: {got:?}, expected {expected:?}"),
        }
    }
}

fn answer(version: PaddleVersion) -> Answer<'static> {
    Answer { version, service: "ArcFace", logid: 7, data_id: 3 }
}

fn floats(shape: &[usize], values: &[f32]) -> Tensor {
    let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Tensor { datatype: Datatype::Fp32, shape: shape.to_vec(), data: data.into() }
}

#[test]
fn writes_outputs() {
    let one = floats(&[1, 3], &[0.5, -1.25, 2.0]);
    let two = floats(&[2, 2], &[1.0, 2.0, 3.0, 4.5]);
    type Row<'a> = (PaddleVersion, &'a [(&'a str, &'a Tensor)], usize, &'a str);
    let rows: &[Row<'_>] = &[
        (
            PaddleVersion::V08,
            &[("out", &one)],
            1,
            r#"{"err_no":0,"err_msg":"","key":["out"],"value":["array([[ 0.5 , -1.25,  2.  ]], dtype=float32)"],"tensors":[]}"#,
        ),
        (
            PaddleVersion::V06,
            &[("out", &one)],
            1,
            r#"{"err_no":0,"err_msg":"","key":["out"],"value":["array([[ 0.5 , -1.25,  2.  ]], dtype=float32)"]}"#,
        ),
        (
            PaddleVersion::V08,
            &[("a<b", &two), ("out", &two)],
            1,
            r#"{"err_no":0,"err_msg":"","key":["a\u003cb","out"],"value":["array([[1. , 2. ],\n       [3. , 4.5]], dtype=float32)","array([[1. , 2. ],\n       [3. , 4.5]], dtype=float32)"],"tensors":[]}"#,
        ),
        (
            PaddleVersion::V08,
            &[("out", &two)],
            2,
            r#"{"err_no":0,"err_msg":"","key":["out"],"value":["[array([1., 2.], dtype=float32), array([3. , 4.5], dtype=float32)]"],"tensors":[]}"#,
        ),
    ];
    for (version, outputs, images, expected) in rows {
        let mut out = Vec::new();
        answer(*version).write_outputs(outputs, *images, &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), *expected);
    }
    let mut out = b"before".to_vec();
    let bf16 = Tensor { datatype: Datatype::Bf16, shape: vec![1], data: vec![0, 0].into() };
    answer(PaddleVersion::V08).write_outputs(&[("out", &one), ("b", &bf16)], 1, &mut out).unwrap_err();
    assert_eq!(out, b"before");
}

#[test]
fn writes_errors() {
    let image = InferError::new(ErrorKind::InvalidArgument, "'image'");
    let full = InferError::new(ErrorKind::QueueFull, "the queue is full");
    let late = InferError::new(ErrorKind::DeadlineExceeded, "late");
    let package = InferError::new(ErrorKind::MalformedJson, "rpc package error: list index out of range");
    let name = no_service();
    for (version, stage, error, err_no, err_msg) in [
        (
            PaddleVersion::V08,
            Stage::Preprocess,
            &image,
            10000,
            r"Log_id: 7  Raise_msg: image  ClassName: Op._run_preprocess.\u003clocals\u003e.preprocess_help  FunctionName: preprocess_help",
        ),
        (
            PaddleVersion::V06,
            Stage::Preprocess,
            &image,
            8,
            "(data_id=3 log_id=7) [ArcFace|0] Failed to preprocess: 'image'",
        ),
        (
            PaddleVersion::V06,
            Stage::Postprocess,
            &image,
            8,
            "(data_id=3 log_id=7) [ArcFace|0] Failed to postprocess: 'image'",
        ),
        (PaddleVersion::V08, Stage::Service, &name, 3002, "Failed to inference: Service name error."),
        (PaddleVersion::V06, Stage::Service, &name, 7, "Failed to inference: Service name error."),
        (PaddleVersion::V08, Stage::Service, &package, 8000, "rpc package error: list index out of range"),
        (PaddleVersion::V06, Stage::Service, &package, 4, "rpc package error: list index out of range"),
        (
            PaddleVersion::V06,
            Stage::Inference,
            &full,
            5,
            "(log_id=7) ArcFace failed to predict. the queue is full",
        ),
        (
            PaddleVersion::V08,
            Stage::Inference,
            &late,
            6000,
            "[ArcFace] failed to predict. (data_id=3 log_id=7) [ArcFace|0] Failed to process(batch: [3]): late",
        ),
        (PaddleVersion::V06, Stage::Inference, &late, 5, "(log_id=7) ArcFace failed to predict. late"),
    ] {
        let mut out = Vec::new();
        answer(version).write_error(stage, error, &mut out);
        let tensors = if version == PaddleVersion::V08 { r#","tensors":[]"# } else { "" };
        let expected = format!(r#"{{"err_no":{err_no},"err_msg":"{err_msg}","key":[],"value":[]{tensors}}}"#);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}

#[test]
fn writes_gateway_errors() {
    let error = parse(b"{\n", MAX).unwrap_err();
    let mut out = Vec::new();
    write_gateway_error(&error, &mut out);
    let text = "request body: EOF while parsing an object at line 2 column 0";
    let expected = format!(r#"{{"error":"{text}","code":3,"message":"{text}","details":[]}}"#);
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn escapes_as_go_does() {
    let mut out = Vec::new();
    write_json_string("a\"b\\c\n\r\t\u{8}\u{c}\0\u{1f}\u{7f}<>&'/é日\u{2028}\u{2029}😀", &mut out);
    let expected = concat!(
        r#""a\"b\\c\n\r\t\u0008\u000c\u0000\u001f"#,
        "\u{7f}",
        r"\u003c\u003e\u0026'/é日\u2028\u2029😀",
        "\""
    );
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn survives_mutations() {
    let valid = r#"{"key":["image","i\u0031"],"value":["YWJj","YW Jj\n"],"logid":"12","clientip":"é","tensors":[{"shape":[1]}],"x":null}"#;
    mutations(valid.as_bytes(), 50_000, |body| match parse(body, MAX) {
        Ok(request) => {
            if let Ok(images) = Images::of(&request) {
                assert!(images.len() <= MAX);
                for i in 0..images.len() {
                    let _ = images.decode(i);
                }
            }
        }
        Err(error) => {
            let mut out = Vec::new();
            write_gateway_error(&error, &mut out);
            serde_json::from_slice::<serde_json::Value>(&out).unwrap();
        }
    });
}

#[test]
fn a_key_that_says_who_asks_is_no_image() {
    let rows: [(&str, &[&str], Option<&str>); 6] = [
        (r#"{"key":["user_id","i0"],"value":["alice","YQ=="]}"#, &["i0"], Some("alice")),
        (r#"{"key":["image","user_id"],"value":["YQ==","7"]}"#, &["image"], Some("7")),
        (r#"{"key":["user_id","i0","user_id"],"value":["a","YQ==","b"]}"#, &["i0"], Some("b")),
        (r#"{"key":["i0","user_id"],"value":["YQ==",null]}"#, &["i0"], Some("")),
        (r#"{"key":["i0","user"],"value":["YQ==","Yg=="]}"#, &["i0", "user"], None),
        (r#"{"key":["user_id"],"value":["alice"]}"#, &[], Some("alice")),
    ];
    for (body, images, user) in rows {
        let request = parse(body.as_bytes(), MAX).unwrap();
        assert_eq!(request.get("user_id"), user, "{body}");
        match Images::besides(&request, Some("user_id")) {
            Ok(found) => assert_eq!(found.iter().map(|(k, _)| k).collect::<Vec<_>>(), images, "{body}"),
            Err(e) => assert!(images.is_empty() && e.message == "'image'", "{body}: {e}"),
        }
    }
}
