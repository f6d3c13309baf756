//! The body of `POST /v2/models/{model}/infer`, as JSON, as JSON with binary tensors behind it, or raw.
//!
//! Tensors are slices of the body: binary ones always, strings in JSON unless they have escapes. Numbers in
//! JSON become little-endian bytes once. What is allocated is bounded by the body's length: lists of tensors and
//! dimensions are short, and shapes are multiplied and compared before anything is built from them.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::binary::{size_error, split_elements};
use super::checks::{self, BytesElements, MAX_DIMENSIONS, MAX_TENSORS};
use super::json::{self, AtMost, Object, clip};
use super::parameters::Parameters;
use super::place::{NoSharedMemory, Place, SharedMemory};
use super::raw::RawRequest;
use super::tensor_json::{read_numbers, read_strings};
use crate::error::{ErrorKind, InferError};
use crate::tensor::Datatype;

/// What a body turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// A request that names its tensors.
    Infer(InferRequest),
    /// One input's bytes and nothing else: [`RawRequest::resolve`] needs the model.
    Raw(RawRequest),
}

/// An inference request, consistent in itself and not yet held against a model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InferRequest {
    /// The client's name for the request, repeated in the answer.
    pub id: Option<String>,
    /// Inputs in the order sent; the names differ.
    pub inputs: Vec<InferInput>,
    /// Outputs in the order asked for; the names differ. Empty asks for all.
    pub outputs: Vec<RequestedOutput>,
    /// Whether outputs are binary where they do not say.
    pub binary_data_output: bool,
    /// Queue priority: 0 is the model's default, 1 the most urgent.
    pub priority: u64,
    /// Deadline, counted from the request's arrival.
    pub timeout: Option<Duration>,
}

/// One input tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InferInput {
    /// Name in the model.
    pub name: String,
    /// Element type, as the client says.
    pub datatype: Datatype,
    /// Full shape, batch dimension included.
    pub shape: Vec<usize>,
    /// Exactly `shape` elements of `datatype`.
    pub data: InputData,
}

/// The elements of an input, as far as they can be read without knowing what they mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InputData {
    /// Row-major little-endian elements of a datatype with a fixed size.
    Dense(Bytes),
    /// `BYTES` elements as sent after the JSON.
    Binary(Vec<Bytes>),
    /// `BYTES` elements as sent in the JSON: UTF-8 text, in base64 ([`crate::server::base64`]) if it is an image.
    Text(Vec<Bytes>),
}

/// One output that the client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestedOutput {
    /// Name in the model.
    pub name: String,
    /// Binary or JSON; the request's `binary_data_output` decides where it is `None`.
    pub binary: Option<bool>,
    /// How many classes to answer instead of the values; 0 asks for the values.
    pub classification: usize,
    /// Where to put it, if not into the answer.
    pub place: Option<Place>,
}

#[derive(Deserialize)]
struct RequestDocument<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    parameters: Option<Object<Parameters<'a>>>,
    #[serde(borrow)]
    inputs: AtMost<Object<InputDocument<'a>>, MAX_TENSORS>,
    #[serde(borrow)]
    outputs: Option<AtMost<Object<OutputDocument<'a>>, MAX_TENSORS>>,
}

#[derive(Deserialize)]
struct InputDocument<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    datatype: Cow<'a, str>,
    shape: AtMost<i64, MAX_DIMENSIONS>,
    #[serde(borrow)]
    parameters: Option<Object<Parameters<'a>>>,
    /// Kept as text: it may come before `datatype` and `shape`, which say how to read it.
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct OutputDocument<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    parameters: Option<Object<Parameters<'a>>>,
}

/// Reads a request body; `inference_header_content_length` is the value of that HTTP header, if sent.
///
/// Without the header the whole body is JSON. With it, that many bytes are, and binary tensors follow in the
/// order of the inputs. A value of 0 makes the body the one input's bytes.
///
/// **Errors:** `MalformedJson` with line and column, `InvalidArgument`, `WrongDatatype`, `WrongShape`,
/// `BinarySize`; each names the input or the parameter, what was expected and what was sent.
pub fn parse(body: &Bytes, inference_header_content_length: Option<&str>) -> Result<Parsed, InferError> {
    let memory = &mut NoSharedMemory;
    parse_keyed(body, inference_header_content_length, None, memory).map(|(parsed, _)| parsed)
}

/// [`parse`] where tensors may lie in shared memory, and the value of the request's parameter `key`, a string or an
/// integer, where there is one.
///
/// **Errors:** as there, and what `memory` gives.
pub fn parse_keyed<'b>(
    body: &'b Bytes,
    inference_header_content_length: Option<&str>,
    key: Option<&str>,
    memory: &mut dyn SharedMemory,
) -> Result<(Parsed, Option<Cow<'b, str>>), InferError> {
    let json_len = match inference_header_content_length {
        Some(value) => Some(json_length(value, body.len())?),
        None => None,
    };
    if json_len == Some(0) {
        return Ok((Parsed::Raw(RawRequest(body.clone())), None));
    }
    let json = &body[..json_len.unwrap_or(body.len())];
    let Object(document) = serde_json::from_slice::<Object<RequestDocument<'_>>>(json)
        .map_err(|e| json::error("request JSON", &e))?;
    let mut tail = BinaryTail {
        body,
        at: json.len(),
        split: json_len.is_some(),
        bytes_elements: BytesElements::default(),
    };
    let value = key.and_then(|key| document.parameters.as_ref()?.0.other(key));
    Ok((Parsed::Infer(build(document, &mut tail, memory)?), value))
}

fn json_length(value: &str, body_len: usize) -> Result<usize, InferError> {
    let digits = value.trim_ascii();
    let number = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<usize>());
    let Some(Ok(length)) = number else {
        return Err(InferError::new(
            ErrorKind::InvalidArgument,
            format!(
                "header Inference-Header-Content-Length: expected a number of bytes, got `{}`",
                clip(value)
            ),
        ));
    };
    if length > body_len {
        return Err(size_error(format!(
            "header Inference-Header-Content-Length is {length}, the body has {body_len} bytes"
        )));
    }
    Ok(length)
}

fn build(
    document: RequestDocument<'_>,
    tail: &mut BinaryTail<'_>,
    memory: &mut dyn SharedMemory,
) -> Result<InferRequest, InferError> {
    let Object(parameters) = document.parameters.unwrap_or_default();
    let mut request = InferRequest {
        id: document.id.map(read_id).transpose()?,
        binary_data_output: parameters.binary_data_output()?.unwrap_or(false),
        priority: parameters.priority()?.unwrap_or(0),
        timeout: parameters.timeout()?.filter(|&us| us > 0).map(Duration::from_micros),
        ..InferRequest::default()
    };
    if document.inputs.0.is_empty() {
        return Err(InferError::new(ErrorKind::InvalidArgument, "`inputs` is empty"));
    }
    checks::distinct("input", document.inputs.0.iter().map(|Object(i)| &*i.name))?;
    for Object(input) in document.inputs.0 {
        let name = input.name.clone();
        let input = read_input(input, tail, memory)
            .map_err(|e| e.context(format_args!("input `{}`", clip(&name))))?;
        request.inputs.push(input);
    }
    tail.finish()?;
    let outputs = document.outputs.unwrap_or_default().0;
    checks::distinct("output", outputs.iter().map(|Object(o)| &*o.name))?;
    for Object(output) in outputs {
        let name = output.name.clone();
        let output =
            read_output(output, memory).map_err(|e| e.context(format_args!("output `{}`", clip(&name))))?;
        request.outputs.push(output);
    }
    Ok(request)
}

/// Triton takes an `id` that is a string or an integer.
fn read_id(id: &RawValue) -> Result<String, InferError> {
    if id.get().starts_with('"') {
        return serde_json::from_str(id.get()).map_err(|e| json::error("`id`", &e));
    }
    id.get().parse::<u64>().map(|number| number.to_string()).map_err(|_| {
        let message = format!("`id`: expected a string, got {}", clip(id.get()));
        InferError::new(ErrorKind::InvalidArgument, message)
    })
}

fn read_input(
    input: InputDocument<'_>,
    tail: &mut BinaryTail<'_>,
    memory: &mut dyn SharedMemory,
) -> Result<InferInput, InferError> {
    let datatype = checks::datatype(&input.datatype)?;
    let (shape, elements) = checks::shape(&input.shape.0)?;
    if datatype == Datatype::Bytes {
        tail.bytes_elements.add(elements)?;
    }
    let Object(parameters) = input.parameters.unwrap_or_default();
    let binary_size = parameters.binary_data_size()?;
    if let Some(place) = parameters.place()? {
        if input.data.is_some() || binary_size.is_some() {
            let message =
                "both `shared_memory_region` and `data` or `binary_data_size` are given, expected one";
            return Err(InferError::new(ErrorKind::InvalidArgument, message));
        }
        let data = shared(&place, datatype, &shape, elements, memory)?;
        return Ok(InferInput { name: input.name.into_owned(), datatype, shape, data });
    }
    let data = match (input.data, binary_size) {
        (Some(_), Some(_)) => {
            let message = "both `data` and `binary_data_size` are given, expected one";
            return Err(InferError::new(ErrorKind::InvalidArgument, message));
        }
        (None, None) => {
            let message = "neither `data` nor `binary_data_size` is given";
            return Err(InferError::new(ErrorKind::InvalidArgument, message));
        }
        (Some(json), None) if datatype == Datatype::Bytes => {
            InputData::Text(read_strings(tail.body, json.get(), elements)?)
        }
        (Some(json), None) => InputData::Dense(read_numbers(json.get(), datatype, elements)?),
        (None, Some(size)) => {
            let data = tail.take(size)?;
            if datatype == Datatype::Bytes {
                InputData::Binary(split_elements(&data, elements)?)
            } else {
                checks::dense_size(datatype, &shape, elements, data.len(), "`binary_data_size`")?;
                InputData::Dense(data)
            }
        }
    };
    Ok(InferInput { name: input.name.into_owned(), datatype, shape, data })
}

/// An input that lies in shared memory. Its size is compared before anything is read.
///
/// **Errors:** `BinarySize`, and what `memory` gives.
pub fn shared(
    place: &Place,
    datatype: Datatype,
    shape: &[usize],
    elements: usize,
    memory: &mut dyn SharedMemory,
) -> Result<InputData, InferError> {
    if datatype == Datatype::Bytes {
        return Ok(InputData::Binary(split_elements(&memory.read(place)?, elements)?));
    }
    let bytes = usize::try_from(place.byte_size).unwrap_or(usize::MAX);
    checks::dense_size(datatype, shape, elements, bytes, "`shared_memory_byte_size`")?;
    memory.read(place).map(InputData::Dense)
}

fn read_output(
    output: OutputDocument<'_>,
    memory: &mut dyn SharedMemory,
) -> Result<RequestedOutput, InferError> {
    let Object(parameters) = output.parameters.unwrap_or_default();
    let place = parameters.place()?;
    if let Some(place) = &place {
        memory.check(place)?;
    }
    let classes = parameters.classification()?.unwrap_or(0);
    Ok(RequestedOutput {
        name: output.name.into_owned(),
        binary: parameters.binary_data()?,
        classification: usize::try_from(classes).unwrap_or(usize::MAX),
        place,
    })
}

/// The bytes after the JSON, handed out in order.
struct BinaryTail<'a> {
    body: &'a Bytes,
    at: usize,
    /// Whether the header was sent that marks where the JSON ends.
    split: bool,
    /// `BYTES` elements of the inputs so far.
    bytes_elements: BytesElements,
}

impl BinaryTail<'_> {
    fn take(&mut self, size: u64) -> Result<Bytes, InferError> {
        let rest = self.body.len() - self.at;
        match usize::try_from(size).ok().filter(|&size| size <= rest) {
            Some(size) => {
                self.at += size;
                Ok(self.body.slice(self.at - size..self.at))
            }
            None if self.split => Err(size_error(format!(
                "`binary_data_size` is {size}, {rest} bytes are left after the JSON and the tensors before"
            ))),
            None => Err(size_error(format!(
                "`binary_data_size` is {size}, but there is no Inference-Header-Content-Length header to say \
                 where the JSON ends"
            ))),
        }
    }

    fn finish(&self) -> Result<(), InferError> {
        match self.body.len() - self.at {
            0 => Ok(()),
            rest => Err(size_error(format!(
                "{rest} bytes are left after the JSON and all tensors, the `binary_data_size`s are too small"
            ))),
        }
    }
}
