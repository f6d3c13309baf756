//! Good requests and what becomes of them; bad ones and what is said of them.

use std::time::Duration;

use super::*;
use crate::error::ErrorKind as E;
use crate::server::oip::{InputData, NoSharedMemory, RawRequest, RequestedOutput, parse_keyed, resolve};

fn one_input(datatype: &str, shape: &str, data: &str) -> String {
    format!(r#"{{"inputs":[{{"name":"x","datatype":"{datatype}","shape":{shape},"data":{data}}}]}}"#)
}

#[test]
fn json_numbers_become_little_endian_bytes() {
    let cases: &[(&str, &str, &str, &[u8])] = &[
        ("BOOL", "[2]", "[true, false]", &[1, 0]),
        ("UINT8", "[3]", "[0,255,7]", &[0, 255, 7]),
        ("INT8", "[2]", "[-128,127]", &[128, 127]),
        ("UINT16", "[1]", "[65535]", &[255, 255]),
        ("INT16", "[1]", "[-32768]", &[0, 128]),
        ("UINT32", "[1]", "[4294967295]", &[255; 4]),
        ("INT32", "[1]", "[-2]", &[254, 255, 255, 255]),
        ("UINT64", "[1]", "[18446744073709551615]", &[255; 8]),
        ("INT64", "[1]", "[-9223372036854775808]", &[0, 0, 0, 0, 0, 0, 0, 128]),
        ("INT64", "[1]", "[9007199254740993]", &[1, 0, 0, 0, 0, 0, 32, 0]),
        ("FP16", "[2]", "[65504, -1]", &[0xff, 0x7b, 0x00, 0xbc]),
        ("BF16", "[1]", "[1.0]", &[0x80, 0x3f]),
        ("FP32", "[2]", "[1, -0.0]", &[0, 0, 128, 63, 0, 0, 0, 128]),
        // Through FP64 this would round to the even neighbour below.
        ("FP32", "[1]", "[1.00000005960464477540]", &[1, 0, 128, 63]),
        ("FP64", "[1]", "[1e0]", &[0, 0, 0, 0, 0, 0, 240, 63]),
        ("FP32", "[0]", "[]", &[]),
        ("FP32", "[2,0,3]", "[[],[]]", &[]),
        ("UINT8", "[]", "[9]", &[9]),
        ("UINT8", "[2,2,1]", " [ [[1],[2]],\n[[3] , [4]]\t] ", &[1, 2, 3, 4]),
        ("UINT8", "[2,2]", "[1,[2,[3]],4]", &[1, 2, 3, 4]),
    ];
    for (datatype, shape, data, expected) in cases {
        let request = parse_split(&one_input(datatype, shape, data), None)
            .unwrap_or_else(|e| panic!("{datatype} {shape} {data}: {e}"));
        let InputData::Dense(got) = &request.inputs[0].data else { panic!("{datatype} {data}: not dense") };
        assert_eq!(&got[..], *expected, "{datatype} {shape} {data}");
        assert_eq!(request.inputs[0].datatype.name(), *datatype);
    }
}

#[test]
fn json_strings_stay_in_the_body() {
    let json = one_input("BYTES", "[2,2]", r#"[["aGVsbG8=", ""],["a\"\\", "\u00fc\\\""]]"#);
    let body = Bytes::from(json);
    let Ok(Parsed::Infer(request)) = parse(&body, None) else { panic!("not parsed") };
    let InputData::Text(items) = &request.inputs[0].data else { panic!("not text") };
    assert_eq!(items[..], ["aGVsbG8=", "", "a\"\\", "ü\\\""].map(Bytes::from));
    assert!(body.as_ptr_range().contains(&items[0].as_ptr()), "copied");
}

#[test]
fn binary_tensors_stay_in_the_body() {
    let json = r#"{"inputs":[
        {"name":"a","datatype":"FP32","shape":[1,2],"parameters":{"binary_data_size":8}},
        {"name":"b","datatype":"UINT8","shape":[1],"data":[5]},
        {"name":"c","datatype":"BYTES","shape":[3],"parameters":{"binary_data_size":15}},
        {"name":"d","datatype":"FP64","shape":[0],"parameters":{"binary_data_size":0}}]}"#;
    let tail = [&le(&[1.5, -2.0])[..], b"\x02\0\0\0hi\0\0\0\0\x01\0\0\0!"].concat();
    let body = Bytes::from([json.as_bytes(), &tail].concat());
    let Ok(Parsed::Infer(request)) = parse(&body, Some(&json.len().to_string())) else {
        panic!("not parsed")
    };
    let data: Vec<&InputData> = request.inputs.iter().map(|i| &i.data).collect();
    assert_eq!(data[0], &InputData::Dense(Bytes::from(le(&[1.5, -2.0]))));
    assert_eq!(data[1], &InputData::Dense(Bytes::from_static(&[5])));
    assert_eq!(data[2], &InputData::Binary(["hi", "", "!"].map(Bytes::from).to_vec()));
    assert_eq!(data[3], &InputData::Dense(Bytes::new()));
    let InputData::Dense(a) = data[0] else { panic!("not dense") };
    assert!(body.as_ptr_range().contains(&a.as_ptr()), "copied");
}

#[test]
fn the_order_of_fields_does_not_matter() {
    let json = r#"{"outputs":[{"parameters":{"classification":3,"binary_data":false},"name":"y"},{"name":"z"}],
        "inputs":[{"data":[[1,2]],"shape":[1,2],"parameters":null,"unknown":{"a":[1]},"datatype":"INT8","name":"x"}],
        "parameters":{"timeout":1500,"binary_data_output":true,"priority":2,"sequence_id":"s","sequence_start":true,
        "triton_anything":[{}],"mine":1.5,"classification":"ignored here","priority_":-1},"id":"i\u0064"}"#;
    let request = parse_split(json, None).unwrap();
    assert_eq!(request.id.as_deref(), Some("id"));
    assert_eq!(request.timeout, Some(Duration::from_micros(1500)));
    assert_eq!(request.priority, 2);
    assert!(request.binary_data_output);
    assert_eq!(request.inputs[0].shape, [1, 2]);
    let output = |name: &str, binary, classification| RequestedOutput {
        name: name.into(),
        binary,
        classification,
        place: None,
    };
    assert_eq!(request.outputs, [output("y", Some(false), 3), output("z", None, 0)]);
    let plain = parse_split(&json.replace("1500", "0").replace(r#""i\u0064""#, "17"), None).unwrap();
    assert_eq!((plain.timeout, plain.id.as_deref()), (None, Some("17")));
}

#[test]
fn bad_bodies_are_named() {
    let x = |fields: &str| format!(r#"{{"inputs":[{{"name":"x",{fields}}}]}}"#);
    let with = |rest: &str| {
        format!(r#"{{"inputs":[{{"name":"x","datatype":"INT8","shape":[1],"data":[1]}}],{rest}}}"#)
    };
    let cases: Vec<(String, E, &str)> = vec![
        ("".into(), E::MalformedJson, "line 1 column 0"),
        ("{\"inputs\":\n  [}".into(), E::MalformedJson, "line 2 column 4"),
        ("\u{7f}".into(), E::MalformedJson, "line 1 column 1"),
        (with("") + "x", E::MalformedJson, "line 1 column"),
        ("[]".into(), E::InvalidArgument, "expected a JSON object"),
        ("{}".into(), E::InvalidArgument, "missing field `inputs`"),
        (r#"{"inputs":{}}"#.into(), E::InvalidArgument, "array of at most 1000"),
        (r#"{"inputs":[]}"#.into(), E::InvalidArgument, "`inputs` is empty"),
        (r#"{"inputs":[["x","INT8",[1],null,[1]]]}"#.into(), E::InvalidArgument, "expected a JSON object"),
        (x(r#""shape":[1],"data":[1]"#), E::InvalidArgument, "missing field `datatype`"),
        (
            x(r#""datatype":"FP31","shape":[1],"data":[1]"#),
            E::WrongDatatype,
            "input `x`: unknown datatype `FP31`",
        ),
        (x(r#""datatype":"fp32","shape":[1],"data":[1]"#), E::WrongDatatype, "FP32"),
        (x(r#""datatype":"INT8","shape":[1]"#), E::InvalidArgument, "neither `data` nor"),
        (x(r#""datatype":"INT8","shape":[-1],"data":[1]"#), E::WrongShape, "[-1] has a negative"),
        (x(r#""datatype":"INT8","shape":[4294967296,4294967296],"data":[]"#), E::WrongShape, "counted"),
        (x(r#""datatype":"FP64","shape":[9223372036854775807],"data":[1]"#), E::WrongShape, "`data` has 1"),
        (x(r#""datatype":"INT8","shape":[1.5],"data":[1]"#), E::InvalidArgument, "line 1 column"),
        (x(r#""datatype":"INT8","shape":"1","data":[1]"#), E::InvalidArgument, "at most 32"),
        (
            x(&format!(r#""datatype":"INT8","shape":[{}1],"data":[1]"#, "1,".repeat(32))),
            E::InvalidArgument,
            "than 32",
        ),
        (
            one_input("INT8", "[2]", "[1]"),
            E::WrongShape,
            "input `x`: the shape holds 2 elements, `data` has 1",
        ),
        (one_input("INT8", "[2]", "[1,2,3,4]"), E::WrongShape, "`data` has 4"),
        (one_input("INT8", "[1]", "1"), E::InvalidArgument, "array, got 1"),
        (
            one_input("INT8", "[2]", "[1,128]"),
            E::WrongDatatype,
            "element 1: expected an integer in -128..=127, got 128",
        ),
        (one_input("UINT8", "[1]", "[-1]"), E::WrongDatatype, "0..=255, got -1"),
        (one_input("UINT64", "[1]", "[18446744073709551616]"), E::WrongDatatype, "18446744073709551616"),
        (one_input("INT32", "[1]", "[1.0]"), E::WrongDatatype, "got 1.0"),
        (one_input("INT32", "[1]", "[1e2]"), E::WrongDatatype, "got 1e2"),
        (one_input("FP16", "[1]", "[65520]"), E::WrongDatatype, "±65504"),
        (one_input("BF16", "[1]", "[3.4e38]"), E::WrongDatatype, "got 3.4e38"),
        (one_input("FP32", "[1]", "[-1e39]"), E::WrongDatatype, "got -1e39"),
        (one_input("FP64", "[1]", "[1e309]"), E::WrongDatatype, "got 1e309"),
        (one_input("FP32", "[1]", "[NaN]"), E::MalformedJson, "line 1 column"),
        (one_input("FP32", "[1]", "[\"nan\"]"), E::WrongDatatype, "got \"nan\""),
        (one_input("FP32", "[1]", "[null]"), E::WrongDatatype, "got null"),
        (one_input("FP32", "[1]", "[true]"), E::WrongDatatype, "got true"),
        (one_input("FP32", "[1]", "[{\"a\":1}]"), E::WrongDatatype, "got {\"a\":1}"),
        (one_input("BOOL", "[1]", "[1]"), E::WrongDatatype, "true or false, got 1"),
        (one_input("BYTES", "[1]", "[1]"), E::WrongDatatype, "a string, got 1"),
        (one_input("BYTES", "[2]", "[\"\"]"), E::WrongShape, "holds 2"),
        (one_input("BYTES", "[1]", "[\"\\ud800\"]"), E::MalformedJson, "input `x`: element 0"),
        (one_input("BYTES", "[65537]", "[\"\"]"), E::WrongShape, "limit of a request is 65536"),
        (
            x(r#""datatype":"INT8","shape":[1],"parameters":{"binary_data_size":1}"#),
            E::BinarySize,
            "no Inference-Header",
        ),
        (
            x(r#""datatype":"INT8","shape":[1],"parameters":{"binary_data_size":"1"}"#),
            E::InvalidArgument,
            "`binary_data_size`: expected an integer of at least 0, got \"1\"",
        ),
        (
            x(r#""datatype":"INT8","shape":[1],"data":[1],"parameters":{"binary_data_size":1}"#),
            E::InvalidArgument,
            "both `data`",
        ),
        (
            x(r#""datatype":"INT8","shape":[1],"parameters":{"shared_memory_region":"r"}"#),
            E::InvalidArgument,
            "`shared_memory_byte_size`: expected an integer",
        ),
        (
            x(
                r#""datatype":"INT8","shape":[2],"parameters":{"shared_memory_region":"r","shared_memory_byte_size":3}"#,
            ),
            E::BinarySize,
            "`shared_memory_byte_size` is 3, INT8 [2] takes 2 bytes",
        ),
        (
            x(
                r#""datatype":"INT8","shape":[1],"parameters":{"shared_memory_region":"r","shared_memory_byte_size":1}"#,
            ),
            E::InvalidArgument,
            "not served",
        ),
        (
            x(r#""datatype":"INT8","shape":[1],"data":[1],"name":"y""#),
            E::InvalidArgument,
            "duplicate field `name`",
        ),
        (
            one_input("INT8", "[1]", "[1]},{\"name\":\"x\",\"datatype\":\"INT8\",\"shape\":[0],\"data\":[]"),
            E::InvalidArgument,
            "input `x` is given twice",
        ),
        (with(r#""outputs":[{"name":"y"},{"name":"y"}]"#), E::InvalidArgument, "output `y` is given twice"),
        (
            with(r#""outputs":[{"name":"y","parameters":{"binary_data":1}}]"#),
            E::InvalidArgument,
            "output `y`: parameter `binary_data`: expected true or false, got 1",
        ),
        (
            with(r#""outputs":[{"name":"y","parameters":{"classification":0}}]"#),
            E::InvalidArgument,
            "of at least 1, got 0",
        ),
        (
            with(r#""outputs":[{"name":"y","parameters":{"classification":2.5}}]"#),
            E::InvalidArgument,
            "got 2.5",
        ),
        (
            with(r#""parameters":{"priority":-1}"#),
            E::InvalidArgument,
            "`priority`: expected an integer of at least 0, got -1",
        ),
        (with(r#""parameters":{"timeout":"soon"}"#), E::InvalidArgument, "`timeout`"),
        (with(r#""parameters":{"binary_data_output":"yes"}"#), E::InvalidArgument, "`binary_data_output`"),
        (with(r#""parameters":[]"#), E::InvalidArgument, "expected a JSON object"),
        (with(r#""id":{}"#), E::InvalidArgument, "`id`: expected a string"),
        (
            format!(r#"{{"inputs":[{}{{}}]}}"#, r#"{"name":"","datatype":"","shape":[]},"#.repeat(1000)),
            E::InvalidArgument,
            "missing field",
        ),
        (
            format!(r#"{{"inputs":[{}]}}"#, vec![r#"{"name":"","datatype":"","shape":[]}"#; 1001].join(",")),
            E::InvalidArgument,
            "more than 1000 items",
        ),
    ];
    for (json, kind, words) in cases {
        let head: String = json.chars().take(160).collect();
        let error = parse_split(&json, None).expect_err(&head);
        assert!(error.kind == kind && error.message.contains(words), "{head}\n{kind:?} {words}\n{error:?}");
        assert!(error.message.len() < 1000, "{head}: {} bytes of error", error.message.len());
    }
}

#[test]
fn binary_sizes_add_up_or_are_named() {
    let size = |datatype: &str, shape: &str, size: u64| {
        format!(
            r#"{{"inputs":[{{"name":"x","datatype":"{datatype}","shape":{shape},"parameters":{{"binary_data_size":{size}}}}}]}}"#
        )
    };
    let cases: &[(String, &[u8], &str)] = &[
        (size("FP32", "[1]", 4), &[0; 3], "input `x`: `binary_data_size` is 4, 3 bytes are left"),
        (size("FP32", "[1]", 4), &[0; 5], "1 bytes are left after the JSON and all tensors"),
        (size("FP32", "[1,2]", 4), &[0; 4], "`binary_data_size` is 4, FP32 [1, 2] takes 8 bytes"),
        (size("FP64", "[9223372036854775807]", 4), &[0; 4], "takes 73786976294838206456 bytes"),
        (size("FP32", "[1]", u64::MAX), &[0; 4], "18446744073709551615, 4 bytes are left"),
        (size("BYTES", "[1]", 0), &[], "at least 4 bytes for their lengths, 0 are present"),
        (
            size("BYTES", "[1]", 6),
            b"\x03\0\0\0hi",
            "element 0 of 1 declares 3 bytes at byte 0, 2 are present",
        ),
        (size("BYTES", "[1]", 7), b"\x02\0\0\0hi!", "1 elements declare 6 bytes, 7 are present"),
        (size("BYTES", "[2]", 8), b"\x01\0\0\0hi!!", "needs a 4-byte length at byte 5"),
        (size("BYTES", "[1]", 4), b"\xff\xff\xff\xff", "declares 4294967295 bytes"),
        (size("BYTES", "[60000]", 4), &[0; 4], "60000 BYTES elements need at least 240000 bytes"),
    ];
    for (json, tail, words) in cases {
        let error = parse_split(json, Some(tail)).expect_err(json);
        assert!(error.kind == E::BinarySize && error.message.contains(words), "{json}\n{words}\n{error:?}");
    }
}

#[test]
fn the_header_is_checked() {
    let body = Bytes::from(one_input("INT8", "[1]", "[1]"));
    let cases = [
        ("100000", E::BinarySize, "is 100000, the body has"),
        ("-1", E::InvalidArgument, "got `-1`"),
        ("+9", E::InvalidArgument, "got `+9`"),
        ("", E::InvalidArgument, "got ``"),
        ("ten", E::InvalidArgument, "got `ten`"),
        ("99999999999999999999999", E::InvalidArgument, "got `99999999999999999999999`"),
        ("10", E::MalformedJson, "line 1 column 10"),
    ];
    for (value, kind, words) in cases {
        let error = parse(&body, Some(value)).expect_err(value);
        assert!(error.kind == kind && error.message.contains(words), "{value}: {error:?}");
    }
    assert!(matches!(parse(&body, Some(&format!(" {} ", body.len()))), Ok(Parsed::Infer(_))));
    assert_eq!(parse(&body, Some("0")).unwrap(), Parsed::Raw(RawRequest(body)));
}

#[test]
fn raw_requests_take_the_shape_of_their_model() {
    use Datatype::{Bytes as B, Fp32, Uint8};
    type Want = Result<(&'static [usize], &'static [u8]), (E, &'static str)>;
    type Row = (Datatype, &'static [i64], bool, &'static [u8], Want);
    let cases: &[Row] = &[
        (Fp32, &[2], true, &[0; 8], Ok((&[1, 2], &[0; 8]))),
        (Fp32, &[2], false, &[0; 8], Ok((&[2], &[0; 8]))),
        (Uint8, &[2, -1, 3], true, &[7; 12], Ok((&[1, 2, 2, 3], &[7; 12]))),
        (Fp32, &[], true, &[0; 4], Ok((&[1], &[0; 4]))),
        (
            Fp32,
            &[2],
            true,
            &[0; 4],
            Err((E::BinarySize, "input `x`: FP32 [2] takes 8 bytes, the body has 4")),
        ),
        (Uint8, &[3, -1], true, &[0; 7], Err((E::BinarySize, "takes a multiple of 3 bytes, the body has 7"))),
        (Uint8, &[0, -1], true, &[0; 7], Err((E::BinarySize, "takes a multiple of 0 bytes"))),
        (Uint8, &[i64::MAX, 4], true, &[0; 7], Err((E::BinarySize, "takes uncountable bytes"))),
        (Uint8, &[-1, -1], true, &[0; 4], Err((E::InvalidArgument, "2 variable dimensions"))),
        (B, &[], true, b"\x02\0\0\0hi", Ok((&[1], b"hi"))),
        (B, &[1], true, b"\x02\0\0\0hi", Ok((&[1, 1], b"hi"))),
        (B, &[-1], false, b"\xff\xd8\xff\xe0 a bare jpeg", Ok((&[1], b"\xff\xd8\xff\xe0 a bare jpeg"))),
        (B, &[], true, b"\0\0\0\0", Ok((&[1], b""))),
        (B, &[], true, b"abc", Ok((&[1], b"abc"))),
        (B, &[], true, b"", Err((E::BinarySize, "is empty"))),
        (B, &[2], true, b"abc", Err((E::InvalidArgument, "one element"))),
    ];
    for (datatype, shape, batched, body, want) in cases {
        let got = RawRequest(Bytes::from_static(body)).resolve(&[spec("x", *datatype, shape)], *batched);
        let row = format!("{datatype} {shape:?} {batched} {body:?}");
        match (got, want) {
            (Ok(got), Ok((shape, data))) => {
                let data = Bytes::from_static(data);
                let data =
                    if *datatype == B { InputData::Binary(vec![data]) } else { InputData::Dense(data) };
                assert_eq!((&got.inputs[0].shape[..], &got.inputs[0].data), (*shape, &data), "{row}");
                assert!(got.binary_data_output, "{row}");
            }
            (Err(e), Err((kind, words))) => {
                assert!(e.kind == *kind && e.message.contains(words), "{row}: {e:?}");
            }
            (got, want) => panic!("{row}: {got:?}, expected {want:?}"),
        }
    }
    let two = [spec("x", B, &[]), spec("y", B, &[])];
    let error = RawRequest(Bytes::from_static(b"a")).resolve(&two, true).unwrap_err();
    assert!(error.message.contains("one input, this one has 2"), "{error}");
}

#[test]
fn requests_are_held_against_their_model() {
    let model = [spec("x", Datatype::Int8, &[-1, 2]), spec("y", Datatype::Bool, &[])];
    let y = r#"{"name":"y","datatype":"BOOL","shape":[2],"data":[true,true]}"#;
    let request = |x: &str| parse_split(&format!(r#"{{"inputs":[{x}]}}"#), None).unwrap();
    let x = |name: &str, datatype: &str, shape: &str| {
        format!(r#"{{"name":"{name}","datatype":"{datatype}","shape":{shape},"data":[0,0,0,0]}}"#)
    };
    let ok = request(&format!("{},{y}", x("x", "INT8", "[2,1,2]")));
    assert_eq!(resolve::check_inputs(&ok.inputs, &model, true).unwrap(), 2);
    let cases = [
        (x("x", "INT8", "[2,1,2]"), E::InvalidArgument, "input `y` is missing"),
        (format!("{},{y}", x("z", "INT8", "[2,1,2]")), E::InvalidArgument, "no input `z`, it has x, y"),
        (format!("{},{y}", x("x", "UINT8", "[2,1,2]")), E::WrongDatatype, "`x`: expected INT8, got UINT8"),
        (format!("{},{y}", x("x", "INT8", "[4,1]")), E::WrongShape, "expected shape [-1, -1, 2], got [4, 1]"),
        (format!("{},{y}", x("x", "INT8", "[2,2,1]")), E::WrongShape, "got [2, 2, 1]"),
        (format!("{},{y}", x("x", "INT8", "[1,2,2]")), E::WrongShape, "`y` has a batch of 2, input `x` of 1"),
    ];
    for (json, kind, words) in cases {
        let error = resolve::check_inputs(&request(&json).inputs, &model, true).expect_err(&json);
        assert!(error.kind == kind && error.message.contains(words), "{json}: {error:?}");
    }
    let y = RequestedOutput { name: "y".into(), binary: None, classification: 0, place: None };
    assert!(resolve::check_outputs(std::slice::from_ref(&y), model.iter()).is_ok());
    let error = resolve::check_outputs(
        &[y, RequestedOutput { name: "w".into(), binary: None, classification: 0, place: None }],
        model.iter(),
    );
    assert_eq!(error.unwrap_err().message, "the model has no output `w`, it has x, y");
}

#[test]
fn a_parameter_of_the_client_s_own() {
    let others = (0..40).map(|i| format!(r#""p{i}":{i},"#)).collect::<String>();
    let cases: [(&str, Option<&str>); 18] = [
        (r#"{"user_id":"alice"}"#, Some("alice")),
        (r#"{"priority":1,"user_id":"alice","timeout":5}"#, Some("alice")),
        (r#"{"user_id":"\u0061l\"ice"}"#, Some("al\"ice")),
        (r#"{"user\u005fid":"alice"}"#, Some("alice")),
        (r#"{"user_id":""}"#, Some("")),
        (r#"{"user_id":42}"#, Some("42")),
        (r#"{"user_id":-7}"#, Some("-7")),
        (r#"{"user_id":123456789012345678901234567890}"#, Some("123456789012345678901234567890")),
        (r#"{"user_id":"a","user_id":"b"}"#, Some("b")),
        (r#"{"user_id":1.5}"#, None),
        (r#"{"user_id":1e3}"#, None),
        (r#"{"user_id":true}"#, None),
        (r#"{"user_id":null}"#, None),
        (r#"{"user_id":{"a":[1]}}"#, None),
        (r#"{"User_id":"alice"}"#, None),
        ("{}", None),
        ("null", None),
        (&format!("{{{others}\"user_id\":\"alice\"}}"), None),
    ];
    for (parameters, want) in cases {
        let input =
            r#"{"name":"x","datatype":"INT8","shape":[1],"data":[1],"parameters":{"user_id":"not this"}}"#;
        let body = Bytes::from(format!(r#"{{"parameters":{parameters},"inputs":[{input}]}}"#));
        let (parsed, key) = parse_keyed(&body, None, Some("user_id"), &mut NoSharedMemory)
            .unwrap_or_else(|e| panic!("{parameters}: {e}"));
        assert!(matches!(parsed, Parsed::Infer(_)), "{parameters}");
        assert_eq!(key.as_deref(), want, "{parameters}");
        assert_eq!(parse_keyed(&body, None, None, &mut NoSharedMemory).unwrap().1, None, "{parameters}");
    }
    let twice = r#"{"parameters":{"priority":1,"priority":2},"inputs":[]}"#;
    let error = parse(&Bytes::from(twice), None).unwrap_err();
    assert!(error.message.contains("duplicate field `priority`"), "{error}");
}
