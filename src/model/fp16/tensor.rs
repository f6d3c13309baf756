//! Weights: where their values lie, what they are, and their FP16 form.

use std::path::{Component, Path};

use half::f16;

use super::Report;
use crate::wire::{Field, Fields, Message, Value, WireError, varint};

/// Element type codes of `TensorProto.DataType`.
pub mod elem {
    /// FP32.
    pub const FLOAT: i32 = 1;
    /// FP16.
    pub const FLOAT16: i32 = 10;
}

/// Field numbers of `TensorProto`.
mod field {
    pub const DIMS: u32 = 1;
    pub const DATA_TYPE: u32 = 2;
    pub const SEGMENT: u32 = 3;
    pub const FLOAT_DATA: u32 = 4;
    pub const NAME: u32 = 8;
    pub const RAW_DATA: u32 = 9;
    pub const EXTERNAL_DATA: u32 = 13;
    pub const DATA_LOCATION: u32 = 14;
}

/// Why a tensor cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TensorError {
    /// Its message is damaged.
    #[error("is damaged: {0}")]
    Wire(#[from] WireError),
    /// Dimensions and data disagree.
    #[error("has the shape {dims:?} and {held} bytes of data")]
    Size {
        /// Its `dims`.
        dims: Vec<i64>,
        /// Bytes of data that are there.
        held: u64,
    },
    /// A tensor in segments, which ONNX itself says is not supported.
    #[error("is stored in segments; save the model again with onnx.save")]
    Segment,
    /// `external_data` that cannot be followed.
    #[error("has its data in \"{location}\", which {why}")]
    External {
        /// Its `location`.
        location: String,
        /// What is wrong with it.
        why: String,
    },
}

/// A `TensorProto` of which the values are still where they were.
#[derive(Debug, Clone, Default)]
pub struct Tensor<'a> {
    /// The whole message.
    bytes: &'a [u8],
    /// Its name; empty in attributes.
    pub name: &'a str,
    /// Element type.
    pub elem: i32,
    dims: Vec<i64>,
    raw: Option<&'a [u8]>,
    external: bool,
    segment: bool,
}

impl<'a> Tensor<'a> {
    /// Reads everything but the values.
    ///
    /// # Errors
    /// [`TensorError::Wire`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, TensorError> {
        let mut tensor = Self { bytes, ..Self::default() };
        for item in Fields::new(bytes) {
            let item = item?;
            match item.number {
                field::DIMS => integers(&item, &mut tensor.dims)?,
                field::DATA_TYPE => tensor.elem = item.as_i32()?,
                field::SEGMENT => tensor.segment = true,
                field::NAME => tensor.name = item.as_text()?,
                field::RAW_DATA => tensor.raw = Some(item.borrowed()?),
                field::DATA_LOCATION => tensor.external = item.as_i32()? == 1,
                _ => {}
            }
        }
        Ok(tensor)
    }

    /// Number of elements by its `dims`.
    pub fn len(&self) -> Option<usize> {
        self.dims.iter().try_fold(1usize, |n, d| n.checked_mul(usize::try_from(*d).ok()?))
    }

    /// The dimensions as an encoded list of fields.
    fn dims_fields(&self) -> impl Iterator<Item = Field<'a>> {
        self.dims.iter().map(|d| Field::varint(field::DIMS, d.cast_unsigned()))
    }

    /// The values of a FLOAT tensor; `folder` holds the files of external data.
    ///
    /// # Errors
    /// [`TensorError`].
    pub fn floats(&self, folder: &Path) -> Result<Vec<f32>, TensorError> {
        if self.segment {
            return Err(TensorError::Segment);
        }
        let wrong = |held: usize| TensorError::Size { dims: self.dims.clone(), held: held as u64 };
        let from_raw = |raw: &[u8]| {
            let (chunks, rest) = raw.as_chunks::<4>();
            if !rest.is_empty() || self.len() != Some(chunks.len()) {
                return Err(wrong(raw.len()));
            }
            Ok(chunks.iter().map(|b| f32::from_le_bytes(*b)).collect())
        };
        if self.external {
            let length = self.len().and_then(|n| n.checked_mul(4)).ok_or_else(|| wrong(0))?;
            return from_raw(&read_external(self.bytes, length as u64, folder)?);
        }
        if let Some(raw) = self.raw {
            return from_raw(raw);
        }
        let mut values = Vec::new();
        for item in Fields::new(self.bytes) {
            let item = item?;
            if item.number != field::FLOAT_DATA {
                continue;
            }
            match &item.value {
                Value::Fixed32(b) => values.push(f32::from_le_bytes(*b)),
                Value::Bytes(b) => {
                    let (chunks, rest) = b.as_chunks::<4>();
                    if !rest.is_empty() {
                        return Err(wrong(b.len()));
                    }
                    values.extend(chunks.iter().map(|b| f32::from_le_bytes(*b)));
                }
                Value::Varint(_) | Value::Fixed64(_) => return Err(WireError::Type(item.number).into()),
            }
        }
        if self.len() != Some(values.len()) {
            return Err(wrong(values.len().saturating_mul(4)));
        }
        Ok(values)
    }

    /// The same tensor in FP16 under `name`, values inline.
    ///
    /// # Errors
    /// As [`Tensor::floats`].
    pub fn to_fp16(&self, name: &str, folder: &Path, report: &mut Report) -> Result<Vec<u8>, TensorError> {
        let halves = to_halves(&self.floats(folder)?, report);
        let mut out = Vec::new();
        for item in Fields::new(self.bytes) {
            let item = item?;
            if !matches!(
                item.number,
                field::DIMS
                    | field::DATA_TYPE
                    | field::FLOAT_DATA
                    | field::NAME
                    | field::RAW_DATA
                    | field::EXTERNAL_DATA
                    | field::DATA_LOCATION
            ) {
                out.push(item);
            }
        }
        out.extend(self.dims_fields());
        out.push(Field::varint(field::DATA_TYPE, elem::FLOAT16 as u64));
        if !name.is_empty() {
            out.push(Field::text(field::NAME, name));
        }
        out.push(Field::bytes(field::RAW_DATA, halves));
        Ok(Message(out).encode())
    }

    /// The same tensor under another name.
    ///
    /// # Errors
    /// [`TensorError::Wire`].
    pub fn renamed(&self, name: &str) -> Result<Vec<u8>, TensorError> {
        let mut out = Message::parse(self.bytes)?;
        out.set(Field::text(field::NAME, name));
        Ok(out.encode())
    }

    /// An entry for `graph.input` of this shape (`ValueInfoProto`), which IR versions below 4 want of weights.
    pub fn as_input(&self, name: &str, elem: i32) -> Vec<u8> {
        let dim = |d: &i64| Field::bytes(1, Message(vec![Field::varint(1, d.cast_unsigned())]).encode());
        let shape = Message(self.dims.iter().map(dim).collect());
        let tensor =
            Message(vec![Field::varint(1, elem.cast_unsigned().into()), Field::bytes(2, shape.encode())]);
        let kind = Message(vec![Field::bytes(1, tensor.encode())]);
        Message(vec![Field::text(1, name), Field::bytes(2, kind.encode())]).encode()
    }
}

/// A one-dimensional FP16 tensor.
pub fn vector(name: &str, values: &[f32], report: &mut Report) -> Vec<u8> {
    array(name, Some(values.len()), values, report)
}

/// An FP16 tensor of no or one dimension.
pub fn array(name: &str, dim: Option<usize>, values: &[f32], report: &mut Report) -> Vec<u8> {
    let mut out: Vec<Field> = dim.map(|d| Field::varint(field::DIMS, d as u64)).into_iter().collect();
    out.push(Field::varint(field::DATA_TYPE, elem::FLOAT16 as u64));
    if !name.is_empty() {
        out.push(Field::text(field::NAME, name));
    }
    out.push(Field::bytes(field::RAW_DATA, to_halves(values, report)));
    Message(out).encode()
}

/// Rounds to the nearest FP16 number, little-endian. Finite values beyond ±65504 become ±65504, and non-zero
/// ones of 2^-25 and less become zero; both are counted. Subnormals stay: NVIDIA's GPUs compute with them.
fn to_halves(values: &[f32], report: &mut Report) -> Vec<u8> {
    let mut out = Vec::with_capacity(values.len() * 2);
    for &value in values {
        let mut half = f16::from_f32(value);
        if half.is_infinite() && value.is_finite() {
            half = if value > 0.0 { f16::MAX } else { f16::MIN };
            report.clamped += 1;
        } else if vanishes(value) {
            report.flushed += 1;
        }
        out.extend_from_slice(&half.to_le_bytes());
    }
    out
}

/// Whether a value is not zero but its FP16 form is.
pub fn vanishes(value: f32) -> bool {
    value != 0.0 && f16::from_f32(value).to_f32() == 0.0
}

/// Whether a value is a normal number in FP16, so that its relative error is at most 2^-11.
pub fn is_normal(value: f32) -> bool {
    f16::from_f32(value).is_normal()
}

fn integers(item: &Field<'_>, out: &mut Vec<i64>) -> Result<(), WireError> {
    match &item.value {
        Value::Varint(v) => out.push(v.cast_signed()),
        Value::Bytes(b) => {
            let mut rest: &[u8] = b;
            while !rest.is_empty() {
                out.push(varint(&mut rest)?.cast_signed());
            }
        }
        Value::Fixed64(_) | Value::Fixed32(_) => return Err(WireError::Type(item.number)),
    }
    Ok(())
}

/// Reads `length` bytes of a tensor from the file that its `external_data` names
/// (<https://onnx.ai/onnx/repo-docs/ExternalData.html>). The file must lie in the model's own folder.
fn read_external(tensor: &[u8], length: u64, folder: &Path) -> Result<Vec<u8>, TensorError> {
    let (mut location, mut offset, mut claimed) = ("", "", "");
    for item in Fields::new(tensor) {
        let item = item?;
        if item.number != field::EXTERNAL_DATA {
            continue;
        }
        let (mut key, mut value) = ("", "");
        for part in Fields::new(item.borrowed()?) {
            let part = part?;
            match part.number {
                1 => key = part.as_text()?,
                2 => value = part.as_text()?,
                _ => {}
            }
        }
        match key {
            "location" => location = value,
            "offset" => offset = value,
            "length" => claimed = value,
            _ => {}
        }
    }
    let fail = |why: String| TensorError::External { location: location.to_owned(), why };
    let number = |text: &str, default: u64| {
        if text.is_empty() {
            return Ok(default);
        }
        text.parse::<u64>().map_err(|_| fail(format!("has the offset or length \"{text}\"; a number is due")))
    };
    let relative = Path::new(location);
    let inside = relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    if location.is_empty() || !inside {
        return Err(fail("is not a path inside the model's folder; move the file there".into()));
    }
    let offset = number(offset, 0)?;
    if number(claimed, length)? != length {
        return Err(fail(format!(
            "holds {claimed} bytes of it by its own account, but its shape needs {length}"
        )));
    }
    let io = |e: std::io::Error| fail(format!("cannot be read: {e}"));
    // Symbolic links must not lead outside either.
    let root = folder.canonicalize().map_err(io)?;
    let path = folder.join(relative).canonicalize().map_err(io)?;
    if !path.starts_with(&root) {
        return Err(fail("leads outside the model's folder; move the file there".into()));
    }
    let held = path.metadata().map_err(io)?;
    if !held.is_file() {
        return Err(fail("is not a file".into()));
    }
    if offset.checked_add(length).is_none_or(|end| end > held.len()) {
        return Err(fail(format!("holds {} bytes, too few for {length} at {offset}", held.len())));
    }
    read_part(&path, offset, length).map_err(io)
}

fn read_part(path: &Path, offset: u64, length: u64) -> std::io::Result<Vec<u8>> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = std::fs::File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let length = usize::try_from(length).map_err(std::io::Error::other)?;
    let mut data = vec![0; length];
    file.read_exact(&mut data)?;
    Ok(data)
}
