//! Typed contents: the elements of a tensor in the protobuf field of its datatype.
//!
//! The fields are counted on the wire and compared with the shape before anything is allocated, and then written once,
//! as the little-endian elements that engines read. FP32 and FP64 in one packed piece lie on the wire as that already,
//! and are used where they lie.

use bytes::Bytes;

use super::codec::malformed;
use crate::error::{ErrorKind, InferError};
use crate::server::oip::InputData;
use crate::server::oip::checks::{count_error, element_error, expected};
use crate::server::state::Reservation;
use crate::tensor::Datatype;
use crate::wire::{Fields, Value, varint};

/// How elements lie on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// `bool`, `int32`, `uint32`, `int64`, `uint64`.
    Varint,
    /// `float`.
    Fixed32,
    /// `double`.
    Fixed64,
    /// `bytes`, `string`: an element each.
    Length,
}

/// A field that holds elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Its number.
    pub number: u32,
    /// Its name, for errors.
    pub name: &'static str,
    /// How its elements lie there.
    pub wire: Wire,
}

impl Field {
    /// The field of that number.
    #[must_use]
    pub const fn new(number: u32, name: &'static str, wire: Wire) -> Self {
        Self { number, name, wire }
    }
}

/// The fields of `InferTensorContents`.
pub const CONTENTS: [Field; 8] = [
    Field::new(1, "bool_contents", Wire::Varint),
    Field::new(2, "int_contents", Wire::Varint),
    Field::new(3, "int64_contents", Wire::Varint),
    Field::new(4, "uint_contents", Wire::Varint),
    Field::new(5, "uint64_contents", Wire::Varint),
    Field::new(6, "fp32_contents", Wire::Fixed32),
    Field::new(7, "fp64_contents", Wire::Fixed64),
    Field::new(8, "bytes_contents", Wire::Length),
];

/// The field of `InferTensorContents` for a datatype; FP16 and BF16 have none.
#[must_use]
pub const fn contents_field(datatype: Datatype) -> Option<&'static Field> {
    let at = match datatype {
        Datatype::Bool => 0,
        Datatype::Int8 | Datatype::Int16 | Datatype::Int32 => 1,
        Datatype::Int64 => 2,
        Datatype::Uint8 | Datatype::Uint16 | Datatype::Uint32 => 3,
        Datatype::Uint64 => 4,
        Datatype::Fp32 => 5,
        Datatype::Fp64 => 6,
        Datatype::Bytes => 7,
        Datatype::Fp16 | Datatype::Bf16 => return None,
    };
    Some(&CONTENTS[at])
}

/// Reads `elements` elements of `datatype` out of `wanted`, which is one of `fields`; `pieces` are the message, as one
/// or in parts that follow one another. What the elements take is reserved.
///
/// # Errors
/// `InvalidArgument` where another of `fields` holds elements, `WrongShape` for another number of elements,
/// `WrongDatatype` for one out of range, `Overloaded`, `MalformedProtobuf`.
pub fn read(
    pieces: &[Bytes],
    fields: &[Field],
    wanted: &Field,
    datatype: Datatype,
    elements: usize,
    reservation: Option<&mut Reservation>,
) -> Result<InputData, InferError> {
    let count = count(pieces, fields, wanted, datatype)?;
    if count != elements {
        return Err(count_error(elements, count, wanted.name));
    }
    let Some(each) = datatype.size_bytes() else {
        return Ok(InputData::Binary(slices(pieces, wanted, elements)?));
    };
    if let Some(data) = in_place(pieces, wanted)? {
        return Ok(InputData::Dense(data));
    }
    let bytes = elements.saturating_mul(each);
    if let Some(reservation) = reservation {
        reservation.grow(bytes)?;
    }
    let mut out = Vec::with_capacity(bytes);
    for value in values(pieces, wanted) {
        let mut index = out.len() / each;
        match value? {
            Value::Bytes(packed) if wanted.wire == Wire::Varint => {
                let mut rest = &packed[..];
                while !rest.is_empty() {
                    push(&mut out, datatype, index, varint(&mut rest).map_err(malformed)?)?;
                    index += 1;
                }
            }
            Value::Bytes(packed) => out.extend_from_slice(&packed),
            Value::Varint(value) => push(&mut out, datatype, index, value)?,
            Value::Fixed32(bytes) => out.extend_from_slice(&bytes),
            Value::Fixed64(bytes) => out.extend_from_slice(&bytes),
        }
    }
    Ok(InputData::Dense(out.into()))
}

/// The values of the field `wanted`.
fn values<'p>(pieces: &'p [Bytes], wanted: &'p Field) -> impl Iterator<Item = Result<Value<'p>, InferError>> {
    pieces.iter().flat_map(|piece| Fields::new(piece)).filter_map(|field| match field {
        Ok(field) if field.number == wanted.number => Some(Ok(field.value)),
        Ok(_) => None,
        Err(e) => Some(Err(malformed(e))),
    })
}

/// Counts the elements of `wanted`, and sees to it that no other field has any.
fn count(
    pieces: &[Bytes],
    fields: &[Field],
    wanted: &Field,
    datatype: Datatype,
) -> Result<usize, InferError> {
    let mut count = 0;
    for field in pieces.iter().flat_map(|piece| Fields::new(piece)) {
        let field = field.map_err(malformed)?;
        let Some(known) = fields.iter().find(|f| f.number == field.number) else { continue };
        let elements = elements(known, &field.value)?;
        if known.number == wanted.number {
            count += elements;
        } else if elements > 0 {
            let text =
                format!("elements are in `{}`; those of {datatype} go into `{}`", known.name, wanted.name);
            return Err(InferError::new(ErrorKind::InvalidArgument, text));
        }
    }
    Ok(count)
}

/// Elements in one occurrence of `field`: packed, or one by itself.
fn elements(field: &Field, value: &Value<'_>) -> Result<usize, InferError> {
    let wrong = || malformed(format_args!("`{}` has the wrong wire type", field.name));
    let packed = |bytes: &[u8], each: usize| {
        if !bytes.len().is_multiple_of(each) {
            return Err(malformed(format_args!("`{}` ends within an element", field.name)));
        }
        Ok(bytes.len() / each)
    };
    match (field.wire, value) {
        (Wire::Length, Value::Bytes(_))
        | (Wire::Varint, Value::Varint(_))
        | (Wire::Fixed32, Value::Fixed32(_))
        | (Wire::Fixed64, Value::Fixed64(_)) => Ok(1),
        // Each ends in the one byte whose highest bit is not set.
        (Wire::Varint, Value::Bytes(bytes)) => Ok(bytes.iter().filter(|b| **b < 0x80).count()),
        (Wire::Fixed32, Value::Bytes(bytes)) => packed(bytes, 4),
        (Wire::Fixed64, Value::Bytes(bytes)) => packed(bytes, 8),
        (
            Wire::Length | Wire::Varint | Wire::Fixed32 | Wire::Fixed64,
            Value::Varint(_) | Value::Fixed32(_) | Value::Fixed64(_),
        ) => Err(wrong()),
    }
}

/// The elements where they lie, if they do in one piece and as engines read them.
fn in_place(pieces: &[Bytes], wanted: &Field) -> Result<Option<Bytes>, InferError> {
    if !matches!(wanted.wire, Wire::Fixed32 | Wire::Fixed64) {
        return Ok(None);
    }
    let mut found = None;
    for piece in pieces {
        for field in Fields::new(piece) {
            let field = field.map_err(malformed)?;
            if field.number != wanted.number {
                continue;
            }
            match (field.borrowed(), &found) {
                (Ok(bytes), None) => found = Some(piece.slice_ref(bytes)),
                (Ok(_) | Err(_), _) => return Ok(None),
            }
        }
    }
    Ok(found)
}

/// The elements of `bytes` or `string` fields, as slices.
fn slices(pieces: &[Bytes], wanted: &Field, elements: usize) -> Result<Vec<Bytes>, InferError> {
    let mut out = Vec::with_capacity(elements);
    for piece in pieces {
        for field in Fields::new(piece) {
            let field = field.map_err(malformed)?;
            if field.number == wanted.number {
                out.push(piece.slice_ref(field.borrowed().map_err(malformed)?));
            }
        }
    }
    Ok(out)
}

/// Appends one element that came as a number. Protobuf cuts it to the field's type, and the datatype may be narrower.
fn push(out: &mut Vec<u8>, datatype: Datatype, index: usize, value: u64) -> Result<(), InferError> {
    use Datatype as D;
    let signed = value as u32 as i32;
    let unsigned = value as u32;
    let range = |got: &dyn ToString| element_error(index, expected(datatype), &got.to_string());
    match datatype {
        D::Bool => out.push(u8::from(value != 0)),
        D::Int8 => out.extend(i8::try_from(signed).map_err(|_| range(&signed))?.to_le_bytes()),
        D::Int16 => out.extend(i16::try_from(signed).map_err(|_| range(&signed))?.to_le_bytes()),
        D::Int32 => out.extend(signed.to_le_bytes()),
        D::Uint8 => out.extend(u8::try_from(unsigned).map_err(|_| range(&unsigned))?.to_le_bytes()),
        D::Uint16 => out.extend(u16::try_from(unsigned).map_err(|_| range(&unsigned))?.to_le_bytes()),
        D::Uint32 => out.extend(unsigned.to_le_bytes()),
        D::Int64 | D::Uint64 => out.extend(value.to_le_bytes()),
        D::Fp16 | D::Bf16 | D::Fp32 | D::Fp64 | D::Bytes => {
            return Err(malformed("an element has the wrong wire type"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
