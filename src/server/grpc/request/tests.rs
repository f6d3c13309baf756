use super::*;
use crate::server::mutations;
use crate::server::oip::NoSharedMemory;
use crate::wire::Message;

type F = Field<'static>;

fn message(fields: Vec<F>) -> Vec<u8> {
    Message(fields).encode()
}

fn nested(number: u32, fields: Vec<F>) -> F {
    Field::bytes(number, message(fields))
}

/// An entry of `parameters`.
fn parameter_field(number: u32, name: &str, value: F) -> F {
    nested(number, vec![Field::text(1, name), nested(2, vec![value])])
}

fn input(name: &str, datatype: &str, shape: &[i64], more: Vec<F>) -> F {
    let shape = shape.iter().map(|d| Field::varint(3, d.cast_unsigned()));
    nested(5, [Field::text(1, name), Field::text(2, datatype)].into_iter().chain(shape).chain(more).collect())
}

fn fp32(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn contents(values: &[f32]) -> F {
    nested(5, vec![Field::bytes(6, fp32(values))])
}

fn resolve(fields: Vec<F>) -> Result<oip::InferRequest, InferError> {
    ModelInferRequest::from_message(message(fields).into())?.resolve(None, &mut NoSharedMemory)
}

#[test]
fn typed_and_raw_tensors_are_the_same_request() {
    let head = || {
        vec![
            Field::text(1, "m"),
            Field::text(2, "7"),
            Field::text(3, "id"),
            parameter_field(4, "priority", Field::varint(5, 2)),
            parameter_field(4, "timeout", Field::varint(2, 1500)),
            parameter_field(4, "mine", Field::text(3, "anything")),
            nested(6, vec![Field::text(1, "y"), parameter_field(2, "classification", Field::varint(2, 3))]),
        ]
    };
    let typed = [head(), vec![input("x", "FP32", &[1, 2], vec![contents(&[1.0, 2.0])])]].concat();
    let raw = [
        head(),
        vec![input("x", "FP32", &[1, 2], vec![nested(5, vec![])]), Field::bytes(7, fp32(&[1.0, 2.0]))],
    ]
    .concat();
    let want = oip::InferRequest {
        id: Some("id".into()),
        inputs: vec![InferInput {
            name: "x".into(),
            datatype: Datatype::Fp32,
            shape: vec![1, 2],
            data: InputData::Dense(fp32(&[1.0, 2.0]).into()),
        }],
        outputs: vec![RequestedOutput { name: "y".into(), binary: None, classification: 3, place: None }],
        binary_data_output: true,
        priority: 2,
        timeout: Some(std::time::Duration::from_micros(1500)),
    };
    for (name, fields) in [("typed", typed), ("raw", raw)] {
        let request = ModelInferRequest::from_message(message(fields).into()).unwrap();
        assert_eq!((request.model_name.as_str(), request.version()), ("m", Some("7")), "{name}");
        assert_eq!(request.parameters.get("mine"), Some(&Parameter::Text("anything".into())), "{name}");
        assert_eq!(request.resolve(None, &mut NoSharedMemory).unwrap(), want, "{name}");
    }
}

#[test]
fn raw_tensors_lie_where_they_were_read() {
    let image = vec![7; 1000];
    let element = [&1000_u32.to_le_bytes()[..], &image].concat();
    let message = Bytes::from(message(vec![input("x", "BYTES", &[1], vec![]), Field::bytes(7, element)]));
    let request =
        ModelInferRequest::from_message(message.clone()).unwrap().resolve(None, &mut NoSharedMemory).unwrap();
    let InputData::Binary(elements) = &request.inputs[0].data else { panic!("{request:?}") };
    assert_eq!(elements[..], [Bytes::from(image)]);
    assert!(message.as_ptr_range().contains(&elements[0].as_ptr()));
}

#[test]
fn parameters_of_every_type() {
    let cases = [
        (Field::varint(1, 1), Parameter::Bool(true)),
        (Field::varint(2, u64::MAX), Parameter::Int(-1)),
        (Field::text(3, "ä"), Parameter::Text("ä".into())),
        (Field { number: 4, value: Value::Fixed64(1.5f64.to_le_bytes()) }, Parameter::Double(1.5)),
        (Field::varint(5, u64::MAX), Parameter::Uint(u64::MAX)),
    ];
    for (field, want) in cases {
        let whole = message(vec![
            parameter_field(4, "p", Field::varint(1, 0)),
            parameter_field(4, "p", field),
            nested(4, vec![Field::text(1, "empty")]),
        ]);
        let request = ModelInferRequest::from_message(whole.into()).unwrap();
        assert_eq!(request.parameters.get("p"), Some(&want));
        assert_eq!(request.parameters.get("empty"), None);
    }
}

#[test]
fn what_is_wrong_is_named() {
    use ErrorKind as E;
    let x = |shape: &[i64], more| input("x", "FP32", shape, more);
    let raw = |bytes: usize| Field::bytes(7, vec![0; bytes]);
    let many = |number: u32, n: usize| vec![Field::bytes(number, vec![]); n];
    let shared = || parameter_field(4, "shared_memory_region", Field::text(3, "r"));
    let cases: Vec<(&str, Vec<F>, E, &str)> = vec![
        ("no input", vec![Field::text(1, "m")], E::InvalidArgument, "`inputs` is empty"),
        ("twice", vec![x(&[0], vec![]), x(&[0], vec![])], E::InvalidArgument, "input `x` is given twice"),
        (
            "datatype",
            vec![input("x", "FLOAT", &[1], vec![])],
            E::WrongDatatype,
            "input `x`: unknown datatype `FLOAT`",
        ),
        ("negative", vec![x(&[-1], vec![])], E::WrongShape, "input `x`: shape [-1] has a negative dimension"),
        (
            "overflow",
            vec![x(&[i64::MAX, i64::MAX], vec![])],
            E::WrongShape,
            "more elements than can be counted",
        ),
        ("dimensions", vec![x(&[1; 33], vec![])], E::InvalidArgument, "more than 32 dimensions"),
        (
            "typed count",
            vec![x(&[3], vec![contents(&[1.0])])],
            E::WrongShape,
            "the shape holds 3 elements, `fp32_contents` has 1",
        ),
        ("huge shape", vec![x(&[1 << 40], vec![contents(&[1.0])])], E::WrongShape, "`fp32_contents` has 1"),
        ("FP16", vec![input("x", "FP16", &[1], vec![])], E::WrongDatatype, "`raw_input_contents`"),
        (
            "raw size",
            vec![x(&[2], vec![]), raw(7)],
            E::BinarySize,
            "`raw_input_contents` is 7, FP32 [2] takes 8 bytes",
        ),
        ("raw overflow", vec![x(&[1 << 62, 2], vec![]), raw(8)], E::BinarySize, "36893488147419103232 bytes"),
        (
            "both",
            vec![x(&[1], vec![contents(&[1.0])]), raw(4)],
            E::InvalidArgument,
            "both `contents` and `raw_input_contents`",
        ),
        (
            "raw missing",
            vec![x(&[1], vec![]), input("y", "FP32", &[1], vec![]), raw(4)],
            E::BinarySize,
            "has 1 elements for 2 inputs",
        ),
        ("raw over", vec![x(&[1], vec![]), raw(4), raw(4)], E::BinarySize, "has 2 elements for 1 inputs"),
        (
            "bytes length",
            vec![input("x", "BYTES", &[1], vec![]), Field::bytes(7, vec![9, 0, 0, 0, 1])],
            E::BinarySize,
            "declares 9 bytes",
        ),
        (
            "bytes rest",
            vec![input("x", "BYTES", &[1], vec![]), Field::bytes(7, vec![1, 0, 0, 0, 1, 2])],
            E::BinarySize,
            "declare 5 bytes, 6 are present",
        ),
        (
            "bytes count",
            vec![input("x", "BYTES", &[65_537], vec![]), raw(4)],
            E::WrongShape,
            "65537 BYTES elements",
        ),
        ("inputs", many(5, 1_001), E::InvalidArgument, "more than 1000 inputs"),
        ("outputs", many(6, 1_001), E::InvalidArgument, "more than 1000 outputs"),
        ("raws", many(7, 1_001), E::InvalidArgument, "more than 1000 raw_input_contents"),
        ("parameters", many(4, 1_001), E::InvalidArgument, "more than 1000 parameters"),
        (
            "inputs' parameters",
            vec![nested(5, many(4, 600)), nested(5, many(4, 600))],
            E::InvalidArgument,
            "more than 1000 parameters",
        ),
        ("parts", vec![nested(5, many(5, 17))], E::InvalidArgument, "more than 16 parts"),
        (
            "output twice",
            vec![x(&[0], vec![]), nested(6, vec![Field::text(1, "y")]), nested(6, vec![Field::text(1, "y")])],
            E::InvalidArgument,
            "output `y` is given twice",
        ),
        (
            "classes",
            vec![
                x(&[0], vec![]),
                nested(
                    6,
                    vec![Field::text(1, "y"), parameter_field(2, "classification", Field::varint(2, 0))],
                ),
            ],
            E::InvalidArgument,
            "output `y`: parameter `classification`: expected an integer of at least 1, got 0",
        ),
        (
            "priority",
            vec![x(&[0], vec![]), parameter_field(4, "priority", Field::text(3, "high"))],
            E::InvalidArgument,
            "parameter `priority`: expected an integer of at least 0, got high",
        ),
        (
            "timeout",
            vec![x(&[0], vec![]), parameter_field(4, "timeout", Field::varint(2, u64::MAX))],
            E::InvalidArgument,
            "got -1",
        ),
        (
            "shared memory",
            vec![x(&[0], vec![shared()])],
            E::InvalidArgument,
            "input `x`: parameter `shared_memory_byte_size`: expected an integer",
        ),
        (
            "name",
            vec![nested(5, vec![Field::bytes(1, vec![0xff])])],
            E::MalformedProtobuf,
            "field 1 is not UTF-8",
        ),
        ("type", vec![Field::varint(5, 1)], E::MalformedProtobuf, "field 5 has the wrong wire type"),
        (
            "shape's type",
            vec![nested(5, vec![Field { number: 3, value: Value::Fixed32([0; 4]) }])],
            E::MalformedProtobuf,
            "field 3",
        ),
        (
            "parameter's type",
            vec![parameter_field(4, "p", Field::text(2, "1"))],
            E::MalformedProtobuf,
            "field 2",
        ),
    ];
    for (name, fields, kind, words) in cases {
        let error = resolve(fields).expect_err(name);
        assert!(error.kind == kind && error.message.contains(words), "{name}: {error:?}");
    }
}

#[test]
fn damaged_messages_end_in_an_answer() {
    let valid = message(vec![
        Field::text(1, "model"),
        Field::text(3, "id"),
        parameter_field(4, "timeout", Field::varint(2, 1500)),
        input("x", "FP32", &[1, 2], vec![contents(&[1.0, 2.0])]),
        input("n", "INT64", &[2], vec![nested(5, vec![Field::bytes(3, vec![1, 0xac, 0x02])])]),
        input("b", "BYTES", &[1], vec![nested(5, vec![Field::bytes(8, vec![1, 2, 3])])]),
        nested(6, vec![Field::text(1, "y"), parameter_field(2, "classification", Field::varint(2, 3))]),
    ]);
    let mut read = 0;
    mutations(&valid, 20_000, |bytes| {
        let bytes = Bytes::copy_from_slice(bytes);
        if let Ok(request) =
            ModelInferRequest::from_message(bytes).and_then(|r| r.resolve(None, &mut NoSharedMemory))
        {
            read += 1;
            for input in &request.inputs {
                let elements: usize = input.shape.iter().product();
                match (&input.data, input.datatype.size_bytes()) {
                    (InputData::Dense(data), Some(each)) => assert_eq!(data.len(), elements * each),
                    (InputData::Binary(list), None) => assert_eq!(list.len(), elements),
                    _ => panic!("{input:?}"),
                }
            }
        }
    });
    assert!(read > 0, "some mutations leave a request");
}
