use super::*;
use crate::server::mutations;
use crate::wire::{Field as WireField, Message};

type F = WireField<'static>;

const MAX: usize = 4;

fn request(fields: Vec<F>) -> Result<Request, InferError> {
    Request::from_message(Message(fields).encode().into())
}

fn text_field(number: u32, text: &str) -> F {
    WireField::text(number, text)
}

#[test]
fn both_numberings_are_the_same_request() {
    use PaddleVersion::{V06, V08};
    let pair = || vec![text_field(1, "image"), text_field(2, "YQ==")];
    type Want = (PaddleVersion, &'static str, &'static str, i64, &'static str);
    let cases: [(&str, Vec<F>, PaddleVersion, Want); 9] = [
        (
            "0.6",
            vec![text_field(3, "A"), text_field(4, "m"), WireField::varint(5, 7), text_field(6, "ip")],
            V08,
            (V06, "A", "m", 7, "ip"),
        ),
        (
            "0.8",
            vec![text_field(4, "A"), text_field(5, "m"), WireField::varint(6, 7), text_field(7, "ip")],
            V06,
            (V08, "A", "m", 7, "ip"),
        ),
        ("0.6, address alone", vec![text_field(6, "ip")], V08, (V06, "", "", 0, "ip")),
        ("0.8, address alone", vec![text_field(7, "ip")], V06, (V08, "", "", 0, "ip")),
        ("0.6, number alone", vec![WireField::varint(5, u64::MAX)], V08, (V06, "", "", -1, "")),
        ("0.8, number alone", vec![WireField::varint(6, 3)], V06, (V08, "", "", 3, "")),
        ("0.8, method alone", vec![text_field(5, "m")], V06, (V08, "", "m", 0, "")),
        ("open, read as 0.6", vec![text_field(3, "A"), text_field(4, "m")], V06, (V06, "A", "m", 0, "")),
        ("open, read as 0.8", vec![text_field(4, "A")], V08, (V08, "A", "", 0, "")),
    ];
    for (case, fields, otherwise, (version, name, method, logid, clientip)) in cases {
        let request = request([pair(), fields].concat()).unwrap();
        let read = request.read(otherwise, MAX).unwrap();
        assert_eq!(read.version, version, "{case}");
        assert_eq!(&*read.request.key[0], "image", "{case}");
        assert_eq!(&*read.request.value[0], "YQ==", "{case}");
        assert!(read.tensors.is_empty(), "{case}");
        let got = (&*read.request.name, &*read.request.method, read.request.logid, &*read.request.clientip);
        assert_eq!(got, (name, method, logid, clientip), "{case}");
    }
}

#[test]
fn bad_requests_are_refused() {
    let many = |number: u32, n: usize| vec![text_field(number, ""); n];
    let cases = [
        (
            "both",
            vec![WireField::varint(5, 1), WireField::varint(6, 1)],
            ErrorKind::MalformedProtobuf,
            "neither as in PaddleServing 0.6",
        ),
        (
            "both texts",
            vec![text_field(6, "ip"), text_field(7, "ip")],
            ErrorKind::MalformedProtobuf,
            "neither",
        ),
        ("type of 1", vec![WireField::varint(1, 1)], ErrorKind::MalformedProtobuf, "field 1"),
        ("type of 7", vec![WireField::varint(7, 1)], ErrorKind::MalformedProtobuf, "field 7"),
        ("UTF-8", vec![WireField::bytes(2, vec![0xff])], ErrorKind::MalformedProtobuf, "utf-8"),
        ("keys", many(1, MAX + 1), ErrorKind::InvalidArgument, "key: more than 4"),
        ("values", many(2, MAX + 1), ErrorKind::InvalidArgument, "value: more than 4"),
        ("tensors", many(3, MAX + 1), ErrorKind::InvalidArgument, "tensors: more than 4"),
        ("endless", many(1, MAX_ELEMENTS + 1), ErrorKind::InvalidArgument, "key: more than 65536"),
    ];
    for (case, fields, kind, words) in cases {
        let error = match request(fields) {
            Ok(request) => request.read(PaddleVersion::V08, MAX).map(|_| ()).expect_err(case),
            Err(error) => error,
        };
        assert!(error.kind == kind && error.message.contains(words), "{case}: {error:?}");
    }
}

fn read_tensor(fields: Vec<F>) -> Result<TensorData, InferError> {
    tensor(&Message(fields).encode().into(), None)
}

#[test]
fn tensors() {
    let numbers = |datatype, shape: &[usize], data: Vec<u8>| {
        TensorData::Numbers(InferInput {
            name: "x".into(),
            datatype,
            shape: shape.to_vec(),
            data: InputData::Dense(data.into()),
        })
    };
    let head = |elem_type: u64, shape: &[u8]| {
        vec![WireField::varint(20, elem_type), WireField::bytes(21, shape.to_vec()), text_field(23, "x")]
    };
    let floats: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let cases = [
        (
            [head(1, &[1, 2]), vec![WireField::bytes(2, floats.clone())]].concat(),
            numbers(Datatype::Fp32, &[1, 2], floats),
        ),
        (
            [head(0, &[2]), vec![WireField::varint(1, 1), WireField::varint(1, 2)]].concat(),
            numbers(Datatype::Int64, &[2], [1i64.to_le_bytes(), 2i64.to_le_bytes()].concat()),
        ),
        (
            [head(8, &[1]), vec![WireField::varint(3, u64::MAX)]].concat(),
            numbers(Datatype::Int8, &[1], vec![0xff]),
        ),
        (
            [head(7, &[2]), vec![WireField::bytes(5, vec![1, 2])]].concat(),
            numbers(Datatype::Uint8, &[2], vec![1, 2]),
        ),
        (
            [head(9, &[1]), vec![WireField::bytes(6, vec![1])]].concat(),
            numbers(Datatype::Bool, &[1], vec![1]),
        ),
        (
            [head(12, &[2]), vec![text_field(9, "YQ=="), text_field(9, "Yg==")]].concat(),
            TensorData::Base64(vec!["YQ==".into(), "Yg==".into()]),
        ),
        (
            [head(13, &[]), vec![WireField::bytes(10, vec![1, 2])]].concat(),
            TensorData::Files(vec![Bytes::from_static(&[1, 2])]),
        ),
    ];
    for (fields, want) in cases {
        assert_eq!(read_tensor(fields.clone()).unwrap(), want, "{fields:?}");
    }
}

#[test]
fn bad_tensors_are_refused() {
    let typed = |elem_type: u64| vec![WireField::varint(20, elem_type), text_field(23, "x")];
    let with = |elem_type, more: Vec<F>| [typed(elem_type), more].concat();
    let pickle =
        b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (), }\x80\x04".to_vec();
    let cases = [
        (
            "a pickle",
            with(13, vec![WireField::bytes(10, pickle)]),
            ErrorKind::InvalidArgument,
            "tensor `x`: byte_data is a file of numpy.save",
        ),
        ("FP16", with(5, vec![]), ErrorKind::WrongDatatype, "elem_type 5, FP16"),
        ("complex", with(11, vec![]), ErrorKind::WrongDatatype, "COMPLEX128"),
        ("unknown", with(14, vec![]), ErrorKind::WrongDatatype, "elem_type 14 is none"),
        ("negative type", with(u64::MAX, vec![]), ErrorKind::WrongDatatype, "elem_type -1"),
        (
            "negative shape",
            with(1, vec![WireField::varint(21, u64::MAX)]),
            ErrorKind::WrongShape,
            "negative dimension",
        ),
        (
            "dimensions",
            with(1, vec![WireField::bytes(21, vec![1; 33])]),
            ErrorKind::InvalidArgument,
            "more than 32",
        ),
        ("count", with(1, vec![WireField::varint(21, 5)]), ErrorKind::WrongShape, "`float_data` has 0"),
        (
            "other field",
            with(1, vec![WireField::varint(21, 0), WireField::varint(1, 1)]),
            ErrorKind::InvalidArgument,
            "`int64_data`",
        ),
        ("text in bytes", with(13, vec![text_field(9, "a")]), ErrorKind::InvalidArgument, "`str_data`"),
    ];
    for (case, fields, kind, words) in cases {
        let error = read_tensor(fields).expect_err(case);
        assert!(error.kind == kind && error.message.contains(words), "{case}: {error:?}");
    }
}

#[test]
fn damaged_messages_end_in_an_answer() {
    let tensor_message = Message(vec![
        WireField::bytes(2, vec![0; 8]),
        WireField::varint(20, 1),
        WireField::bytes(21, vec![1, 2]),
        text_field(23, "x"),
    ]);
    let valid = Message(vec![
        text_field(1, "image"),
        text_field(2, "YQ=="),
        WireField::bytes(3, tensor_message.encode()),
        text_field(4, "ArcFace"),
        WireField::varint(6, 1),
        text_field(7, "10.0.0.1"),
    ])
    .encode();
    let mut whole = 0;
    mutations(&valid, 20_000, |bytes| {
        let Ok(request) = Request::from_message(Bytes::copy_from_slice(bytes)) else { return };
        let Ok(read) = request.read(PaddleVersion::V06, MAX) else { return };
        whole += usize::from(read.tensors.iter().all(|t| tensor(t, None).is_ok()));
    });
    assert!(whole > 0, "some mutations leave a request");
}
