//! Raw requests: the body is the bytes of a model's only input, `Inference-Header-Content-Length` is 0.
//!
//! `curl --data-binary @face.jpg -H 'Inference-Header-Content-Length: 0' …/infer` is a whole client.

use bytes::Bytes;

use super::binary::size_error;
use super::request::{InferInput, InferRequest, InputData};
use crate::error::{ErrorKind, InferError};
use crate::tensor::{Datatype, TensorSpec};

/// A body without a description, until [`resolve`](Self::resolve) finds one in the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawRequest(pub Bytes);

impl RawRequest {
    /// The request that the body stands for: batch 1 (`batched` says whether the model has that dimension), all
    /// outputs, binary.
    ///
    /// A `BYTES` input takes one element: its 4-byte little-endian length and exactly that many bytes, as Triton
    /// wants it, or else the whole body as it is. No image format that we read starts with its own length, so
    /// nobody has to write the prefix. Another input may have one variable dimension, which follows from the
    /// body's length.
    ///
    /// **Errors:** `InvalidArgument` if the model has another number of inputs, or more variable dimensions
    /// than can be told; `BinarySize` if the body is no whole tensor.
    pub fn resolve(self, inputs: &[TensorSpec], batched: bool) -> Result<InferRequest, InferError> {
        let [spec] = inputs else {
            let message =
                format!("a raw request needs a model with one input, this one has {}", inputs.len());
            return Err(InferError::new(ErrorKind::InvalidArgument, message));
        };
        let resolved = match spec.datatype.size_bytes() {
            None => self.bytes_element(spec),
            Some(each) => self.dense(spec, each),
        };
        let (row, data) = resolved.map_err(|e| e.context(format_args!("input `{}`", spec.name)))?;
        let shape = batched.then_some(1).into_iter().chain(row).collect();
        let input = InferInput { name: spec.name.clone(), datatype: spec.datatype, shape, data };
        Ok(InferRequest { inputs: vec![input], binary_data_output: true, ..InferRequest::default() })
    }

    fn bytes_element(self, spec: &TensorSpec) -> Result<(Vec<usize>, InputData), InferError> {
        if !spec.shape.iter().all(|&d| d == 1 || d == -1) {
            return Err(InferError::new(
                ErrorKind::InvalidArgument,
                format!("a raw request is one element, {} {:?} has others", Datatype::Bytes, spec.shape),
            ));
        }
        let Self(body) = self;
        if body.is_empty() {
            return Err(size_error("the body of a raw request is empty"));
        }
        let element = match body.split_first_chunk::<4>() {
            Some((prefix, rest)) if u32::from_le_bytes(*prefix) as usize == rest.len() => body.slice(4..),
            Some(_) | None => body,
        };
        Ok((vec![1; spec.shape.len()], InputData::Binary(vec![element])))
    }

    fn dense(self, spec: &TensorSpec, each: usize) -> Result<(Vec<usize>, InputData), InferError> {
        let variable = spec.shape.iter().filter(|&&d| d < 0).count();
        if variable > 1 {
            return Err(InferError::new(
                ErrorKind::InvalidArgument,
                format!(
                    "shape {:?} has {variable} variable dimensions, a raw request can tell one",
                    spec.shape
                ),
            ));
        }
        let Self(body) = self;
        let fixed = spec.shape.iter().filter_map(|&d| usize::try_from(d).ok());
        let step = fixed.clone().try_fold(each, usize::checked_mul);
        let count = match step {
            Some(step) if variable == 1 && step > 0 && body.len() % step == 0 => Some(body.len() / step),
            Some(step) if variable == 0 && step == body.len() => Some(1),
            Some(_) | None => None,
        };
        let Some(count) = count else {
            return Err(size_error(format!(
                "{} {:?} takes {}{} bytes, the body has {}",
                spec.datatype,
                spec.shape,
                if variable == 1 { "a multiple of " } else { "" },
                step.map_or("uncountable".to_owned(), |s| s.to_string()),
                body.len()
            )));
        };
        let row = spec.shape.iter().map(|&d| usize::try_from(d).unwrap_or(count)).collect();
        Ok((row, InputData::Dense(body)))
    }
}
