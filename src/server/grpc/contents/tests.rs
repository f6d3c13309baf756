use prost::Message;

use super::super::pb::inference::InferTensorContents;
use super::*;
use crate::wire::{Field as WireField, Message as WireMessage};

fn encoded(contents: InferTensorContents) -> Bytes {
    contents.encode_to_vec().into()
}

fn read_one(message: Bytes, datatype: Datatype, elements: usize) -> Result<InputData, InferError> {
    let field = contents_field(datatype).expect("a datatype with a field");
    read(&[message], &CONTENTS, field, datatype, elements, None)
}

fn dense(bytes: &[u8]) -> InputData {
    InputData::Dense(Bytes::copy_from_slice(bytes))
}

#[test]
fn every_datatype_becomes_little_endian_elements() {
    type C = InferTensorContents;
    let ints = |v: &[i32]| C { int_contents: v.to_vec(), ..C::default() };
    let uints = |v: &[u32]| C { uint_contents: v.to_vec(), ..C::default() };
    let cases = [
        (Datatype::Bool, C { bool_contents: vec![true, false], ..C::default() }, vec![1, 0]),
        (Datatype::Int8, ints(&[-128, 127]), vec![0x80, 0x7f]),
        (Datatype::Int16, ints(&[-2, 300]), [(-2i16).to_le_bytes(), 300i16.to_le_bytes()].concat()),
        (Datatype::Int32, ints(&[i32::MIN, 7]), [i32::MIN.to_le_bytes(), 7i32.to_le_bytes()].concat()),
        (
            Datatype::Int64,
            C { int64_contents: vec![i64::MIN, -1], ..C::default() },
            [i64::MIN.to_le_bytes(), (-1i64).to_le_bytes()].concat(),
        ),
        (Datatype::Uint8, uints(&[0, 255]), vec![0, 255]),
        (Datatype::Uint16, uints(&[65535, 1]), [65535u16.to_le_bytes(), 1u16.to_le_bytes()].concat()),
        (Datatype::Uint32, uints(&[u32::MAX, 1]), [u32::MAX.to_le_bytes(), 1u32.to_le_bytes()].concat()),
        (
            Datatype::Uint64,
            C { uint64_contents: vec![u64::MAX, 3], ..C::default() },
            [u64::MAX.to_le_bytes(), 3u64.to_le_bytes()].concat(),
        ),
        (
            Datatype::Fp32,
            C { fp32_contents: vec![1.5, f32::NAN], ..C::default() },
            [1.5f32.to_le_bytes(), f32::NAN.to_le_bytes()].concat(),
        ),
        (
            Datatype::Fp64,
            C { fp64_contents: vec![-0.0, 1e300], ..C::default() },
            [(-0.0f64).to_le_bytes(), 1e300f64.to_le_bytes()].concat(),
        ),
    ];
    for (datatype, contents, want) in cases {
        assert_eq!(read_one(encoded(contents), datatype, 2).unwrap(), dense(&want), "{datatype}");
    }
    let texts = [Bytes::from_static(b"a\0b"), Bytes::new()];
    let contents = C { bytes_contents: texts.to_vec(), ..C::default() };
    let read = read_one(encoded(contents), Datatype::Bytes, 2).unwrap();
    assert_eq!(read, InputData::Binary(texts.to_vec()));
    assert_eq!(read_one(Bytes::new(), Datatype::Int64, 0).unwrap(), dense(b""), "no element at all");
}

/// Elements may come one by one, in several packed pieces, and in a message that is given in parts.
#[test]
fn every_form_on_the_wire_is_the_same_tensor() {
    let value = |v: f32| v.to_le_bytes();
    let packed =
        |values: &[f32]| WireField::bytes(6, values.iter().flat_map(|v| value(*v)).collect::<Vec<_>>());
    let alone = |v: f32| WireField { number: 6, value: Value::Fixed32(value(v)) };
    let whole = |fields: Vec<WireField<'static>>| Bytes::from(WireMessage(fields).encode());
    let want = dense(&[value(1.0), value(2.0), value(3.0)].concat());
    let cases = [
        vec![whole(vec![packed(&[1.0, 2.0, 3.0])])],
        vec![whole(vec![alone(1.0), alone(2.0), alone(3.0)])],
        vec![whole(vec![packed(&[1.0]), alone(2.0), packed(&[3.0])])],
        vec![whole(vec![packed(&[1.0, 2.0])]), whole(vec![packed(&[3.0])])],
        vec![whole(vec![WireField::varint(99, 1), packed(&[1.0, 2.0, 3.0]), WireField::text(98, "new")])],
    ];
    let field = contents_field(Datatype::Fp32).unwrap();
    for pieces in cases {
        let read = read(&pieces, &CONTENTS, field, Datatype::Fp32, 3, None);
        assert_eq!(read.unwrap(), want, "{pieces:?}");
    }
    let ints = whole(vec![WireField::bytes(2, vec![1, 0xac, 0x02]), WireField::varint(2, 7)]);
    let want: Vec<u8> = [1i32, 300, 7].iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(read_one(ints, Datatype::Int32, 3).unwrap(), dense(&want));
}

#[test]
fn a_packed_fp32_tensor_is_not_copied() {
    let message = encoded(InferTensorContents { fp32_contents: vec![1.0; 1000], ..Default::default() });
    let InputData::Dense(data) = read_one(message.clone(), Datatype::Fp32, 1000).unwrap() else { panic!() };
    assert!(message.as_ptr_range().contains(&data.as_ptr()));
}

#[test]
fn what_does_not_fit_is_refused() {
    let raw = |fields: Vec<WireField<'static>>| Bytes::from(WireMessage(fields).encode());
    let cases = [
        (
            "count",
            raw(vec![WireField::bytes(2, vec![1, 2, 3])]),
            Datatype::Int32,
            ErrorKind::WrongShape,
            "`int_contents` has 3",
        ),
        ("none", Bytes::new(), Datatype::Fp32, ErrorKind::WrongShape, "`fp32_contents` has 0"),
        (
            "range",
            raw(vec![WireField::bytes(2, vec![1, 0x80, 0x01])]),
            Datatype::Int8,
            ErrorKind::WrongDatatype,
            "element 1: expected an integer in -128..=127, got 128",
        ),
        (
            "unsigned range",
            raw(vec![WireField::varint(4, 1), WireField::varint(4, 256)]),
            Datatype::Uint8,
            ErrorKind::WrongDatatype,
            "got 256",
        ),
        (
            "other field",
            raw(vec![WireField::bytes(3, vec![1, 1])]),
            Datatype::Int32,
            ErrorKind::InvalidArgument,
            "`int64_contents`",
        ),
        (
            "other too",
            raw(vec![WireField::bytes(2, vec![1, 1]), WireField::varint(1, 1)]),
            Datatype::Int32,
            ErrorKind::InvalidArgument,
            "`bool_contents`",
        ),
        (
            "half an element",
            raw(vec![WireField::bytes(6, vec![0; 7])]),
            Datatype::Fp32,
            ErrorKind::MalformedProtobuf,
            "within an element",
        ),
        (
            "endless number",
            raw(vec![WireField::bytes(3, [vec![0xff; 11], vec![1, 1]].concat())]),
            Datatype::Int64,
            ErrorKind::MalformedProtobuf,
            "64 bits",
        ),
        (
            "cut number",
            raw(vec![WireField::bytes(3, vec![1, 1, 0x80])]),
            Datatype::Int64,
            ErrorKind::MalformedProtobuf,
            "behind its message",
        ),
        (
            "wire type",
            raw(vec![WireField::varint(6, 1), WireField::varint(6, 1)]),
            Datatype::Fp32,
            ErrorKind::MalformedProtobuf,
            "wire type",
        ),
        (
            "truncated",
            Bytes::from_static(&[0x32, 0x7f, 0]),
            Datatype::Fp32,
            ErrorKind::MalformedProtobuf,
            "behind its message",
        ),
    ];
    for (name, message, datatype, kind, words) in cases {
        let error = read_one(message, datatype, 2).expect_err(name);
        assert!(error.kind == kind && error.message.contains(words), "{name}: {error:?}");
    }
}
