//! What every form of a request is held against before anything is made of it: names, datatypes, shapes, counts.

use std::collections::HashSet;

use super::json::clip;
use crate::error::{ErrorKind, InferError};
use crate::tensor::Datatype;

/// Inputs, and requested outputs, of one request.
pub const MAX_TENSORS: usize = 1_000;
/// Dimensions of one tensor; TensorRT knows 8.
pub const MAX_DIMENSIONS: usize = 32;
/// `BYTES` elements of one request. Each is kept as a 32-byte handle and three characters of body can ask for
/// one; as an element is an image, a request of more is no request.
pub const MAX_BYTES_ELEMENTS: usize = 65_536;

/// The datatype of that name. **Errors:** `WrongDatatype` with the names that exist.
pub fn datatype(name: &str) -> Result<Datatype, InferError> {
    Datatype::from_name(name).ok_or_else(|| {
        let known = Datatype::ALL.map(Datatype::name).join(", ");
        let message = format!("unknown datatype `{}`, known are {known}", clip(name));
        InferError::new(ErrorKind::WrongDatatype, message)
    })
}

/// A shape, and the number of its elements.
///
/// **Errors:** `WrongShape` for more than [`MAX_DIMENSIONS`], a negative one, or a product beyond `usize`.
pub fn shape(dimensions: &[i64]) -> Result<(Vec<usize>, usize), InferError> {
    if dimensions.len() > MAX_DIMENSIONS {
        let message = format!("shape has {} dimensions, the limit is {MAX_DIMENSIONS}", dimensions.len());
        return Err(InferError::new(ErrorKind::WrongShape, message));
    }
    let error =
        |what: &str| InferError::new(ErrorKind::WrongShape, format!("shape {dimensions:?} has {what}"));
    let shape: Vec<usize> = dimensions
        .iter()
        .map(|&d| usize::try_from(d))
        .collect::<Result<_, _>>()
        .map_err(|_| error("a negative dimension"))?;
    let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    Ok((shape, elements.ok_or_else(|| error("more elements than can be counted"))?))
}

/// The bytes of a dense tensor. **Errors:** `BinarySize` where `data` has another length than the shape's, which is
/// what `said` announces.
pub fn dense_size(
    datatype: Datatype,
    shape: &[usize],
    elements: usize,
    bytes: usize,
    said: &str,
) -> Result<(), InferError> {
    let each = datatype.size_bytes().unwrap_or(1);
    if elements.checked_mul(each) == Some(bytes) {
        return Ok(());
    }
    let expected = elements as u128 * each as u128;
    let message = format!("{said} is {bytes}, {datatype} {shape:?} takes {expected} bytes");
    Err(InferError::new(ErrorKind::BinarySize, message))
}

/// `BYTES` elements of the inputs so far.
#[derive(Debug, Default)]
pub struct BytesElements(usize);

impl BytesElements {
    /// Counts those of one more input. **Errors:** `WrongShape` beyond [`MAX_BYTES_ELEMENTS`].
    pub fn add(&mut self, elements: usize) -> Result<(), InferError> {
        self.0 = self.0.saturating_add(elements);
        if self.0 <= MAX_BYTES_ELEMENTS {
            return Ok(());
        }
        let message =
            format!("{} BYTES elements up to here, the limit of a request is {MAX_BYTES_ELEMENTS}", self.0);
        Err(InferError::new(ErrorKind::WrongShape, message))
    }
}

/// Checks that `names` differ; `what` they name is an `input` or an `output`.
///
/// **Errors:** `InvalidArgument` with the name.
pub fn distinct<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> Result<(), InferError> {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name) {
            let message = format!("{what} `{}` is given twice", clip(name));
            return Err(InferError::new(ErrorKind::InvalidArgument, message));
        }
    }
    Ok(())
}

/// A parameter that is not what it has to be. The kind is `InvalidArgument`.
#[must_use]
pub fn wrong_parameter(name: &str, expected: &str, got: &str) -> InferError {
    let got = clip(got);
    InferError::new(ErrorKind::InvalidArgument, format!("parameter `{name}`: expected {expected}, got {got}"))
}

/// A tensor said to be in shared memory. The kind is `InvalidArgument`.
#[must_use]
pub fn no_shared_memory() -> InferError {
    InferError::new(
        ErrorKind::InvalidArgument,
        "parameter `shared_memory_region`: shared memory is not served, send tensors in the body",
    )
}

/// What an element of a datatype has to be, in words.
#[must_use]
pub const fn expected(datatype: Datatype) -> &'static str {
    match datatype {
        Datatype::Bool => "true or false",
        Datatype::Uint8 => "an integer in 0..=255",
        Datatype::Uint16 => "an integer in 0..=65535",
        Datatype::Uint32 => "an integer in 0..=4294967295",
        Datatype::Uint64 => "an integer in 0..=18446744073709551615",
        Datatype::Int8 => "an integer in -128..=127",
        Datatype::Int16 => "an integer in -32768..=32767",
        Datatype::Int32 => "an integer in -2147483648..=2147483647",
        Datatype::Int64 => "an integer in -9223372036854775808..=9223372036854775807",
        Datatype::Fp16 => "a number within ±65504",
        Datatype::Bf16 => "a number within ±3.39e38",
        Datatype::Fp32 => "a number within ±3.4028235e38",
        Datatype::Fp64 => "a number within ±1.7976931348623157e308",
        Datatype::Bytes => "a string",
    }
}

/// An element that is no `expected`. The kind is `WrongDatatype`.
#[must_use]
pub fn element_error(index: usize, expected: &str, got: &str) -> InferError {
    let message = format!("element {index}: expected {expected}, got {}", clip(got));
    InferError::new(ErrorKind::WrongDatatype, message)
}

/// A list of `got` elements, in `field`, for a shape of `expected`. The kind is `WrongShape`.
#[must_use]
pub fn count_error(expected: usize, got: usize, field: &str) -> InferError {
    InferError::new(
        ErrorKind::WrongShape,
        format!("the shape holds {expected} elements, `{field}` has {got}"),
    )
}
