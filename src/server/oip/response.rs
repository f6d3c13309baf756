//! The answer to an inference request, as JSON or as JSON with binary tensors behind it.

use bytes::Bytes;
use serde::Serialize;

use super::binary::{push_element, split_elements};
use super::classification::classify;
use super::place::Place;
use super::request::RequestedOutput;
use super::tensor_json::{element_chars, write_numbers};
use crate::error::{ErrorKind, InferError};
use crate::tensor::{Datatype, Tensor};

/// What the model answered.
#[derive(Debug, Clone)]
pub struct InferResponse<'a> {
    /// Name of the model.
    pub model_name: &'a str,
    /// Version that answered.
    pub model_version: &'a str,
    /// The request's id; left out where it had none or an empty one.
    pub id: Option<&'a str>,
    /// Every output of the model, in the model's order.
    pub outputs: Vec<OutputTensor<'a>>,
}

/// One output of a response.
#[derive(Debug, Clone)]
pub struct OutputTensor<'a> {
    /// Name in the model.
    pub name: &'a str,
    /// Its value, batch dimension first.
    pub tensor: Tensor,
    /// The words of its classes by index, for the classification extension; empty where there are none.
    pub labels: &'a [String],
}

/// A response body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// JSON, then the binary tensors in the order of the outputs.
    pub body: Bytes,
    /// Value of `Inference-Header-Content-Length`, to be sent where it is `Some`: bytes of JSON. The content type
    /// is then `application/octet-stream`, else `application/json`.
    pub json_len: Option<usize>,
}

/// Writes the `requested` outputs in their order, or all of them where none are; `binary_data_output` decides
/// for those that do not say.
///
/// **Errors:** `InvalidArgument` for an output that the response lacks and for a `classification` of something
/// without order. `Backend` for values that JSON cannot hold, NaN, infinities and `BYTES` that are no UTF-8: a
/// `null` or a word of another dialect would fail in the client, far from the cause. Binary output holds them.
pub fn write(
    response: &InferResponse<'_>,
    requested: &[RequestedOutput],
    binary_data_output: bool,
) -> Result<Encoded, InferError> {
    encode(response, &answered(response, requested, binary_data_output)?)
}

/// Writes what [`answered`] gave.
///
/// **Errors:** `Backend`, as [`write()`].
pub fn encode(response: &InferResponse<'_>, parts: &[Answered<'_>]) -> Result<Encoded, InferError> {
    let mut out = Vec::with_capacity(256 + parts.iter().map(Answered::bytes_estimate).sum::<usize>());
    out.push(b'{');
    if let Some(id) = response.id.filter(|id| !id.is_empty()) {
        out.extend_from_slice(b"\"id\":");
        push_json(&mut out, id);
        out.push(b',');
    }
    out.extend_from_slice(b"\"model_name\":");
    push_json(&mut out, response.model_name);
    out.extend_from_slice(b",\"model_version\":");
    push_json(&mut out, response.model_version);
    out.extend_from_slice(b",\"outputs\":[");
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        part.push_json(&mut out).map_err(|e| e.context(format_args!("output `{}`", part.name)))?;
    }
    out.extend_from_slice(b"]}");

    let json_len = parts.iter().any(|part| part.binary).then_some(out.len());
    for part in parts.iter().filter(|part| part.binary) {
        out.extend_from_slice(&part.data);
    }
    Ok(Encoded { body: Bytes::from(out), json_len })
}

/// The body of an error: `{"error":"…"}`.
#[must_use]
pub fn error_body(error: &InferError) -> Bytes {
    #[derive(Serialize)]
    struct ErrorDocument<'a> {
        error: &'a str,
    }
    let mut out = Vec::with_capacity(16 + error.message.len());
    push_json(&mut out, &ErrorDocument { error: &error.message });
    Bytes::from(out)
}

/// One output as the client asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered<'a> {
    /// Name in the model.
    pub name: &'a str,
    /// The model's, or `BYTES` for classes.
    pub datatype: Datatype,
    /// Batch dimension first.
    pub shape: Vec<usize>,
    /// Whether it was asked for as a binary tensor.
    pub binary: bool,
    /// Its elements as the protocol's binary tensors have them; empty once it lies in its place.
    pub data: Bytes,
    /// Where it lies, if not here.
    pub place: Option<Place>,
}

/// The `requested` outputs in their order, or all of them where none are; `binary` decides for those that do not say.
///
/// **Errors:** `InvalidArgument` for an output that the response lacks and for a `classification` of something
/// without order; `Backend` for a tensor that does not fill its shape.
pub fn answered<'a>(
    response: &InferResponse<'a>,
    requested: &[RequestedOutput],
    binary: bool,
) -> Result<Vec<Answered<'a>>, InferError> {
    if requested.is_empty() {
        return response.outputs.iter().map(|output| Answered::new(output, binary, 0)).collect();
    }
    let part = |wanted: &RequestedOutput| {
        let output = response.outputs.iter().find(|o| o.name == wanted.name).ok_or_else(|| {
            InferError::new(ErrorKind::InvalidArgument, format!("the model has no output `{}`", wanted.name))
        })?;
        let mut part = Answered::new(output, wanted.binary.unwrap_or(binary), wanted.classification)?;
        if wanted.place.is_some() {
            (part.binary, part.place) = (false, wanted.place.clone());
        }
        Ok(part)
    };
    requested.iter().map(part).collect()
}

impl<'a> Answered<'a> {
    fn new(output: &OutputTensor<'a>, binary: bool, classes: usize) -> Result<Self, InferError> {
        let OutputTensor { name, tensor, labels } = output;
        let Tensor { datatype, shape, data } = tensor;
        if let Some(each) = datatype.size_bytes()
            && shape.iter().try_fold(each, |n, &d| n.checked_mul(d)) != Some(data.len())
        {
            return Err(InferError::new(
                ErrorKind::Backend,
                format!("output `{name}`: {datatype} {shape:?} came with {} bytes", data.len()),
            ));
        }
        if classes == 0 {
            return Ok(Self {
                name,
                datatype: *datatype,
                shape: shape.clone(),
                binary,
                data: data.clone(),
                place: None,
            });
        }
        let context = |e: InferError| e.context(format_args!("output `{name}`"));
        let classes = classify(tensor, classes, labels).map_err(context)?;
        let mut data = Vec::with_capacity(classes.elements.iter().map(|e| e.len() + 4).sum());
        for element in &classes.elements {
            push_element(&mut data, element.as_bytes()).map_err(context)?;
        }
        Ok(Self {
            name,
            datatype: Datatype::Bytes,
            shape: classes.shape,
            binary,
            data: Bytes::from(data),
            place: None,
        })
    }

    fn bytes_estimate(&self) -> usize {
        let bytes = self.data.len();
        let value = match self.datatype.size_bytes() {
            Some(each) if !self.binary => bytes / each * element_chars(self.datatype),
            Some(_) | None => bytes,
        };
        128 + self.name.len() + value
    }

    fn push_json(&self, out: &mut Vec<u8>) -> Result<(), InferError> {
        out.extend_from_slice(b"{\"name\":");
        push_json(out, self.name);
        out.extend_from_slice(b",\"datatype\":");
        push_json(out, self.datatype.name());
        out.extend_from_slice(b",\"shape\":");
        push_json(out, &self.shape);
        let data = &self.data;
        if let Some(place) = &self.place {
            out.extend_from_slice(b",\"parameters\":{\"shared_memory_region\":");
            push_json(out, &place.region);
            out.extend_from_slice(b",\"shared_memory_offset\":");
            push_json(out, &place.offset);
            out.extend_from_slice(b",\"shared_memory_byte_size\":");
            push_json(out, &place.byte_size);
            out.extend_from_slice(b"}}");
            return Ok(());
        }
        if self.binary {
            out.extend_from_slice(b",\"parameters\":{\"binary_data_size\":");
            push_json(out, &data.len());
            out.extend_from_slice(b"}}");
            return Ok(());
        }
        out.extend_from_slice(b",\"data\":[");
        if self.datatype == Datatype::Bytes {
            push_strings(out, data, self.shape.iter().product())?;
        } else {
            write_numbers(out, self.datatype, data).map_err(|index| not_json(index, "is NaN or infinite"))?;
        }
        out.extend_from_slice(b"]}");
        Ok(())
    }
}

fn push_strings(out: &mut Vec<u8>, data: &Bytes, elements: usize) -> Result<(), InferError> {
    // A tensor of ours that does not add up is our fault, not the client's.
    let items = split_elements(data, elements).map_err(|e| InferError { kind: ErrorKind::Backend, ..e })?;
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        let text = std::str::from_utf8(item).map_err(|_| not_json(index, "is no UTF-8 text"))?;
        push_json(out, text);
    }
    Ok(())
}

fn not_json(index: usize, what: &str) -> InferError {
    InferError::new(
        ErrorKind::Backend,
        format!(
            "element {index} {what}, which JSON cannot hold; ask for binary output: `binary_data`, or Accept: application/octet-stream"
        ),
    )
}

/// Appends `value` as JSON.
fn push_json<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value).expect("strings, numbers and lists of them always serialise");
}
