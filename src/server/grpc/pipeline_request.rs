//! PaddleServing's `Request` off the wire, in either of the two numberings that its clients have.
//!
//! | | 3 | 4 | 5 | 6 | 7 |
//! |---|---|---|---|---|---|
//! | 0.6 | name | method | logid, a number | clientip, text | |
//! | from 0.7 on | tensors | name | method, text | logid, a number | clientip, text |
//!
//! What is a number and what is text tells them apart. A client that sends none of the last three fields cannot be
//! told; the stock clients always send their address.
//!
//! Source: `python/pipeline/proto` of PaddlePaddle/Serving, v0.6.3 and v0.9.0.

use bytes::Bytes;

use super::codec::{FromMessage, malformed};
use super::contents::{self, Field, Wire};
use crate::error::{ErrorKind, InferError, shorten};
use crate::server::oip::checks;
use crate::server::oip::{InferInput, InputData};
use crate::server::paddle::{PaddleRequest, PaddleVersion, Text};
use crate::server::state::Reservation;
use crate::tensor::Datatype;
use crate::wire::{Fields, Value, WireError, varint};

/// Keys, values and tensors of one message: each is kept as a 32-byte handle, and takes two bytes on the wire.
/// `--max-images-per-request` is held against them later.
const MAX_ELEMENTS: usize = 65_536;

/// Number of the tensors' shape.
const SHAPE: u32 = 21;

/// The fields of `Tensor` that hold elements.
const ELEMENTS: [Field; 10] = [
    Field::new(1, "int64_data", Wire::Varint),
    Field::new(2, "float_data", Wire::Fixed32),
    Field::new(3, "int_data", Wire::Varint),
    Field::new(4, "float64_data", Wire::Fixed64),
    Field::new(5, "uint32_data", Wire::Varint),
    Field::new(6, "bool_data", Wire::Varint),
    Field::new(7, "complex64_data", Wire::Fixed32),
    Field::new(8, "complex128_data", Wire::Fixed64),
    Field::new(9, "str_data", Wire::Length),
    Field::new(10, "byte_data", Wire::Length),
];

/// What every `.npy` file begins with.
const NUMPY_MAGIC: &[u8] = b"\x93NUMPY";

/// One request, as it was sent. Which field means what is said by [`read`](Self::read).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Request {
    key: Vec<Bytes>,
    value: Vec<Bytes>,
    third: Vec<Bytes>,
    fourth: Bytes,
    fifth: Last,
    sixth: Last,
    seventh: Bytes,
    version: Option<PaddleVersion>,
}

/// The last occurrence of a field whose type tells the version.
#[derive(Debug, Clone, Default, PartialEq)]
struct Last {
    number: i64,
    text: Bytes,
}

/// A request whose fields have their meaning.
#[derive(Debug, PartialEq)]
pub struct Read<'r> {
    /// Which of the two it is.
    pub version: PaddleVersion,
    /// Its fields; its tensors are counted there and lie beside.
    pub request: PaddleRequest<'r>,
    /// Its tensors, as messages.
    pub tensors: &'r [Bytes],
}

impl FromMessage for Request {
    fn from_message(message: Bytes) -> Result<Self, InferError> {
        let mut request = Self::default();
        for field in Fields::new(&message) {
            let field = field.map_err(malformed)?;
            let bytes = || field.borrowed().map(|b| message.slice_ref(b)).map_err(malformed);
            match (field.number, &field.value) {
                (1, _) => push(&mut request.key, bytes()?, "key")?,
                (2, _) => push(&mut request.value, bytes()?, "value")?,
                (3, _) => push(&mut request.third, bytes()?, "tensors")?,
                (4, _) => request.fourth = bytes()?,
                (5, Value::Varint(number)) => {
                    request.fifth.number = number.cast_signed();
                    request.tell(PaddleVersion::V06)?;
                }
                (5, _) => {
                    request.fifth.text = bytes()?;
                    request.tell(PaddleVersion::V08)?;
                }
                (6, Value::Varint(number)) => {
                    request.sixth.number = number.cast_signed();
                    request.tell(PaddleVersion::V08)?;
                }
                (6, _) => {
                    request.sixth.text = bytes()?;
                    request.tell(PaddleVersion::V06)?;
                }
                (7, _) => {
                    request.seventh = bytes()?;
                    request.tell(PaddleVersion::V08)?;
                }
                _ => {}
            }
        }
        Ok(request)
    }
}

impl Request {
    /// A field says which version this is.
    fn tell(&mut self, version: PaddleVersion) -> Result<(), InferError> {
        if *self.version.get_or_insert(version) == version {
            return Ok(());
        }
        Err(malformed("its fields 5 to 7 are numbered neither as in PaddleServing 0.6 nor as from 0.7 on"))
    }

    /// Bytes of all values and tensors, to tell a large request from a small one.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.value.iter().chain(&self.third).map(Bytes::len).sum()
    }

    /// Gives the fields their meaning: that of the version that they show, or else of `otherwise`. `max` bounds keys,
    /// values and tensors, each.
    ///
    /// # Errors
    /// `MalformedProtobuf` for text that is no UTF-8, `InvalidArgument` for more than `max`.
    pub fn read(&self, otherwise: PaddleVersion, max: usize) -> Result<Read<'_>, InferError> {
        let version = self.version.unwrap_or(otherwise);
        let (tensors, name, method, logid, clientip) = match version {
            PaddleVersion::V06 => {
                let name = self.third.last().unwrap_or(&self.fifth.text);
                (&[][..], name, &self.fourth, self.fifth.number, &self.sixth.text)
            }
            PaddleVersion::V08 => {
                (&self.third[..], &self.fourth, &self.fifth.text, self.sixth.number, &self.seventh)
            }
        };
        for (field, count) in
            [("key", self.key.len()), ("value", self.value.len()), ("tensors", tensors.len())]
        {
            at_most(count, max, field)?;
        }
        let request = PaddleRequest {
            key: self.key.iter().map(text).collect::<Result<_, _>>()?,
            value: self.value.iter().map(text).collect::<Result<_, _>>()?,
            tensors: 0,
            logid,
            clientip: text(clientip)?,
            name: text(name)?,
            method: text(method)?,
        };
        Ok(Read { version, request, tensors })
    }
}

/// What a tensor holds.
#[derive(Debug, Clone, PartialEq)]
pub enum TensorData {
    /// Encoded images: files as they are.
    Files(Vec<Bytes>),
    /// Images in base64.
    Base64(Vec<Bytes>),
    /// Numbers for an input of the model.
    Numbers(InferInput),
}

/// Reads a `Tensor`. What its numbers take is reserved.
///
/// PaddleServing sends `BYTES` as a file of `numpy.save` and unpickles what it holds: that runs whatever the sender
/// wrote, so no such file is read here.
///
/// # Errors
/// `WrongDatatype`, `WrongShape`, `InvalidArgument`, `MalformedProtobuf`, `Overloaded`.
pub fn tensor(message: &Bytes, reservation: Option<&mut Reservation>) -> Result<TensorData, InferError> {
    let (mut elem_type, mut name, mut shape, mut strings) = (0, String::new(), Vec::new(), 0_usize);
    for field in Fields::new(message) {
        let field = field.map_err(malformed)?;
        match field.number {
            9 | 10 => {
                strings += 1;
                at_most(strings, MAX_ELEMENTS, "elements of one tensor")?;
            }
            20 => elem_type = field.as_i32().map_err(malformed)?,
            SHAPE => dimensions(&field.value, &mut shape)?,
            23 => field.as_text().map_err(malformed)?.clone_into(&mut name),
            _ => {}
        }
    }
    let context = |e: InferError| e.context(format_args!("tensor `{}`", shorten(&name)));
    read_tensor(message, elem_type, &name, &shape, strings, reservation).map_err(context)
}

fn read_tensor(
    message: &Bytes,
    elem_type: i32,
    name: &str,
    shape: &[i64],
    strings: usize,
    reservation: Option<&mut Reservation>,
) -> Result<TensorData, InferError> {
    let wrong = |text: String| Err(InferError::new(ErrorKind::WrongDatatype, text));
    let unread = |name: &str| {
        wrong(format!("elem_type {elem_type}, {name}, is not read; send FP32, or images in value"))
    };
    let (datatype, field) = match elem_type {
        0 => (Datatype::Int64, 0),
        1 => (Datatype::Fp32, 1),
        2 => (Datatype::Int32, 2),
        3 => (Datatype::Fp64, 3),
        4 => (Datatype::Int16, 2),
        7 => (Datatype::Uint8, 4),
        8 => (Datatype::Int8, 2),
        9 => (Datatype::Bool, 5),
        12 => (Datatype::Bytes, 8),
        13 => (Datatype::Bytes, 9),
        5 => return unread("FP16"),
        6 => return unread("BF16"),
        10 => return unread("COMPLEX64"),
        11 => return unread("COMPLEX128"),
        _ => return wrong(format!("elem_type {elem_type} is none of PaddleServing's, 0 to 13")),
    };
    let field = &ELEMENTS[field];
    let pieces = std::slice::from_ref(message);
    if datatype == Datatype::Bytes {
        let InputData::Binary(elements) =
            contents::read(pieces, &ELEMENTS, field, datatype, strings, reservation)?
        else {
            return wrong(format!("elem_type {elem_type} came without text or bytes"));
        };
        if field.number == 9 {
            return Ok(TensorData::Base64(elements));
        }
        if elements.iter().any(|e| e.starts_with(NUMPY_MAGIC)) {
            let text = "byte_data is a file of numpy.save, which is not read here: it may hold a pickle, and unpickling \
                        a stranger's bytes runs them; send the image file itself in byte_data, or its base64 in value";
            return Err(InferError::new(ErrorKind::InvalidArgument, text));
        }
        return Ok(TensorData::Files(elements));
    }
    let (shape, elements) = checks::shape(shape)?;
    let data = contents::read(pieces, &ELEMENTS, field, datatype, elements, reservation)?;
    Ok(TensorData::Numbers(InferInput { name: name.to_owned(), datatype, shape, data }))
}

/// Appends `repeated int32 shape`, packed or one by one.
fn dimensions(value: &Value<'_>, shape: &mut Vec<i64>) -> Result<(), InferError> {
    let mut add = |value: u64| {
        at_most(shape.len() + 1, checks::MAX_DIMENSIONS, "dimensions of one tensor")?;
        shape.push(i64::from(value as i32));
        Ok::<_, InferError>(())
    };
    match value {
        Value::Bytes(packed) => {
            let mut rest = &packed[..];
            while !rest.is_empty() {
                add(varint(&mut rest).map_err(malformed)?)?;
            }
            Ok(())
        }
        Value::Varint(value) => add(*value),
        Value::Fixed32(_) | Value::Fixed64(_) => Err(malformed(WireError::Type(SHAPE))),
    }
}

fn push(list: &mut Vec<Bytes>, bytes: Bytes, field: &str) -> Result<(), InferError> {
    at_most(list.len() + 1, MAX_ELEMENTS, field)?;
    list.push(bytes);
    Ok(())
}

fn at_most(count: usize, limit: usize, what: &str) -> Result<(), InferError> {
    if count <= limit {
        return Ok(());
    }
    Err(InferError::new(ErrorKind::InvalidArgument, format!("{what}: more than {limit} elements")))
}

fn text(bytes: &Bytes) -> Result<Text<'_>, InferError> {
    std::str::from_utf8(bytes).map(Text::from).map_err(malformed)
}

#[cfg(test)]
mod tests;
