//! `ModelInferRequest` off the wire: every list bounded before it grows, tensors left where they lie.
//!
//! Generated code would do neither: an empty input takes two bytes on the wire and two hundred in memory, and typed
//! contents would be copied into lists of numbers first.

use bytes::Bytes;
use smallvec::SmallVec;

use super::codec::{FromMessage, malformed};
use super::contents::{self, CONTENTS, contents_field};
use crate::error::{ErrorKind, InferError, shorten};
use crate::server::oip::checks::{self, BytesElements, MAX_DIMENSIONS, MAX_TENSORS};
use crate::server::oip::{self, InferInput, InputData, Place, RequestedOutput, SharedMemory, split_elements};
use crate::server::state::Reservation;
use crate::tensor::Datatype;
use crate::wire::{Field, Fields, Value, WireError, varint};

/// Parameters of a request, those of its inputs and outputs included.
const MAX_PARAMETERS: usize = 1_000;
/// Parts that the contents of one input may come in. Writers make one.
const MAX_PIECES: usize = 16;
/// The parameter that says that a tensor lies in shared memory.
const REGION: &str = "shared_memory_region";

/// One request, as it was sent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModelInferRequest {
    /// Name of the model.
    pub model_name: String,
    /// Its version; empty where none is named.
    pub model_version: String,
    /// The client's name for the request; empty where it has none.
    pub id: String,
    /// Its parameters.
    pub parameters: Parameters,
    inputs: Vec<Input>,
    outputs: Vec<Output>,
    raw_input_contents: Vec<Bytes>,
}

/// Parameters by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parameters(Vec<(String, Parameter)>);

/// The value of a parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum Parameter {
    /// `bool_param`
    Bool(bool),
    /// `int64_param`
    Int(i64),
    /// `string_param`
    Text(String),
    /// `double_param`
    Double(f64),
    /// `uint64_param`
    Uint(u64),
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Input {
    name: String,
    datatype: String,
    shape: Vec<i64>,
    parameters: Parameters,
    /// `InferTensorContents`, in the parts that it came in.
    contents: SmallVec<[Bytes; 1]>,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Output {
    name: String,
    parameters: Parameters,
}

impl std::fmt::Display for Parameter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Int(value) => value.fmt(f),
            Self::Text(value) => f.write_str(value),
            Self::Double(value) => value.fmt(f),
            Self::Uint(value) => value.fmt(f),
        }
    }
}

impl Parameters {
    /// The parameter of that name; the last, where it is given twice.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Parameter> {
        self.0.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value)
    }

    /// Whether a parameter is true.
    #[must_use]
    pub fn is_true(&self, name: &str) -> bool {
        self.get(name) == Some(&Parameter::Bool(true))
    }

    fn integer(&self, name: &str, least: u64) -> Result<Option<u64>, InferError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let number = match value {
            Parameter::Int(number) => u64::try_from(*number).ok(),
            Parameter::Uint(number) => Some(*number),
            Parameter::Bool(_) | Parameter::Text(_) | Parameter::Double(_) => None,
        };
        number.filter(|n| *n >= least).map(Some).ok_or_else(|| {
            checks::wrong_parameter(name, &format!("an integer of at least {least}"), &value.to_string())
        })
    }

    /// Adds an entry of `map<string, InferParameter>`.
    fn add(&mut self, entry: &[u8], count: &mut usize) -> Result<(), InferError> {
        *count += 1;
        at_most(*count, MAX_PARAMETERS, "parameters")?;
        let (mut name, mut value) = (String::new(), None);
        for field in Fields::new(entry) {
            let field = field.map_err(malformed)?;
            match field.number {
                1 => name = text(&field)?,
                2 => value = parameter(field.borrowed().map_err(malformed)?)?,
                _ => {}
            }
        }
        // One without a value says nothing.
        self.0.extend(value.map(|value| (name, value)));
        Ok(())
    }
}

impl FromMessage for ModelInferRequest {
    fn from_message(message: Bytes) -> Result<Self, InferError> {
        let mut request = Self::default();
        let mut parameters = 0;
        for field in Fields::new(&message) {
            let field = field.map_err(malformed)?;
            match field.number {
                1 => request.model_name = text(&field)?,
                2 => request.model_version = text(&field)?,
                3 => request.id = text(&field)?,
                4 => request.parameters.add(bytes(&field)?, &mut parameters)?,
                5 => {
                    at_most(request.inputs.len() + 1, MAX_TENSORS, "inputs")?;
                    let input = Input::read(&message, bytes(&field)?, &mut parameters)?;
                    request.inputs.push(input);
                }
                6 => {
                    at_most(request.outputs.len() + 1, MAX_TENSORS, "outputs")?;
                    request.outputs.push(Output::read(bytes(&field)?, &mut parameters)?);
                }
                7 => {
                    at_most(request.raw_input_contents.len() + 1, MAX_TENSORS, "raw_input_contents")?;
                    request.raw_input_contents.push(message.slice_ref(bytes(&field)?));
                }
                _ => {}
            }
        }
        Ok(request)
    }
}

impl ModelInferRequest {
    /// The version, where one is named.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        Some(self.model_version.as_str()).filter(|v| !v.is_empty())
    }

    /// Bytes of all tensors, to tell a large request from a small one.
    #[must_use]
    pub fn tensor_bytes(&self) -> usize {
        let contents = self.inputs.iter().flat_map(|i| &i.contents);
        contents.chain(&self.raw_input_contents).map(Bytes::len).sum()
    }

    /// The request that all protocols share. Numbers in typed contents take memory of their own, which is reserved.
    ///
    /// # Errors
    /// `InvalidArgument`, `WrongDatatype`, `WrongShape`, `BinarySize`, each naming the input or the parameter;
    /// `Overloaded`, `MalformedProtobuf`.
    pub fn resolve(
        self,
        mut reservation: Option<&mut Reservation>,
        memory: &mut dyn SharedMemory,
    ) -> Result<oip::InferRequest, InferError> {
        let mut request = oip::InferRequest {
            id: Some(self.id).filter(|id| !id.is_empty()),
            priority: self.parameters.integer("priority", 0)?.unwrap_or(0),
            timeout: self
                .parameters
                .integer("timeout", 0)?
                .filter(|us| *us > 0)
                .map(std::time::Duration::from_micros),
            // There is no other form of answer.
            binary_data_output: true,
            ..oip::InferRequest::default()
        };
        if self.inputs.is_empty() {
            return Err(InferError::new(ErrorKind::InvalidArgument, "`inputs` is empty"));
        }
        checks::distinct("input", self.inputs.iter().map(|i| i.name.as_str()))?;
        // Those that do not lie in shared memory.
        let sent = self.inputs.iter().filter(|i| i.parameters.get(REGION).is_none()).count();
        let raw = (!self.raw_input_contents.is_empty()).then_some(&self.raw_input_contents);
        if let Some(raw) = raw
            && raw.len() != sent
        {
            let text = format!(
                "`raw_input_contents` has {} elements for {sent} inputs; one is needed for each, in their order",
                raw.len()
            );
            return Err(InferError::new(ErrorKind::BinarySize, text));
        }
        let mut bytes_elements = BytesElements::default();
        let mut raw = raw.map(|raw| raw.iter());
        for input in self.inputs {
            let name = shorten(&input.name).to_owned();
            let input = match input.parameters.place() {
                Ok(None) => {
                    let raw = raw.as_mut().and_then(|raw| raw.next().cloned());
                    input.resolve(raw, &mut bytes_elements, reservation.as_deref_mut())
                }
                Ok(Some(place)) => input.fetch(&place, &mut bytes_elements, memory),
                Err(e) => Err(e),
            };
            request.inputs.push(input.map_err(|e| e.context(format_args!("input `{name}`")))?);
        }
        checks::distinct("output", self.outputs.iter().map(|o| o.name.as_str()))?;
        for output in self.outputs {
            let context = |e: InferError| e.context(format_args!("output `{}`", shorten(&output.name)));
            let place = output.parameters.place().map_err(context)?;
            if let Some(place) = &place {
                memory.check(place).map_err(context)?;
            }
            let classes = output.parameters.integer("classification", 1).map_err(context)?.unwrap_or(0);
            request.outputs.push(RequestedOutput {
                name: output.name,
                binary: None,
                classification: usize::try_from(classes).unwrap_or(usize::MAX),
                place,
            });
        }
        Ok(request)
    }
}

impl Parameters {
    /// Where a tensor lies, if that is in shared memory.
    fn place(&self) -> Result<Option<Place>, InferError> {
        const SIZE: &str = "shared_memory_byte_size";
        let Some(region) = self.get(REGION) else { return Ok(None) };
        let Parameter::Text(region) = region else {
            return Err(checks::wrong_parameter(REGION, "the name of a region", &region.to_string()));
        };
        let offset = self.integer("shared_memory_offset", 0)?.unwrap_or(0);
        let byte_size = self.integer(SIZE, 0)?.ok_or_else(|| {
            checks::wrong_parameter(SIZE, "an integer beside `shared_memory_region`", "none")
        })?;
        Ok(Some(Place { region: region.clone(), offset, byte_size }))
    }
}

impl Input {
    fn read(whole: &Bytes, message: &[u8], parameters: &mut usize) -> Result<Self, InferError> {
        let mut input = Self::default();
        for field in Fields::new(message) {
            let field = field.map_err(malformed)?;
            match field.number {
                1 => input.name = text(&field)?,
                2 => input.datatype = text(&field)?,
                3 => input.add_dimensions(&field)?,
                4 => input.parameters.add(bytes(&field)?, parameters)?,
                5 => {
                    at_most(input.contents.len() + 1, MAX_PIECES, "parts of one input's contents")?;
                    input.contents.push(whole.slice_ref(bytes(&field)?));
                }
                _ => {}
            }
        }
        Ok(input)
    }

    fn add_dimensions(&mut self, field: &Field<'_>) -> Result<(), InferError> {
        let mut add = |value: u64| {
            at_most(self.shape.len() + 1, MAX_DIMENSIONS, "dimensions of one input")?;
            self.shape.push(value.cast_signed());
            Ok::<_, InferError>(())
        };
        match &field.value {
            Value::Bytes(packed) => {
                let mut rest = &packed[..];
                while !rest.is_empty() {
                    add(varint(&mut rest).map_err(malformed)?)?;
                }
                Ok(())
            }
            Value::Varint(value) => add(*value),
            Value::Fixed32(_) | Value::Fixed64(_) => Err(malformed(WireError::Type(field.number))),
        }
    }

    /// The input where it lies in shared memory.
    fn fetch(
        self,
        place: &Place,
        bytes_elements: &mut BytesElements,
        memory: &mut dyn SharedMemory,
    ) -> Result<InferInput, InferError> {
        let datatype = checks::datatype(&self.datatype)?;
        let (shape, elements) = checks::shape(&self.shape)?;
        if self.contents.iter().any(|piece| !piece.is_empty()) {
            let text = "both `contents` and `shared_memory_region` are given, expected one";
            return Err(InferError::new(ErrorKind::InvalidArgument, text));
        }
        if datatype == Datatype::Bytes {
            bytes_elements.add(elements)?;
        }
        let data = oip::shared(place, datatype, &shape, elements, memory)?;
        Ok(InferInput { name: self.name, datatype, shape, data })
    }

    fn resolve(
        self,
        raw: Option<Bytes>,
        bytes_elements: &mut BytesElements,
        reservation: Option<&mut Reservation>,
    ) -> Result<InferInput, InferError> {
        let datatype = checks::datatype(&self.datatype)?;
        let (shape, elements) = checks::shape(&self.shape)?;
        if datatype == Datatype::Bytes {
            bytes_elements.add(elements)?;
        }
        let data = match raw {
            Some(_) if self.contents.iter().any(|piece| !piece.is_empty()) => {
                let text = "both `contents` and `raw_input_contents` are given, expected one";
                return Err(InferError::new(ErrorKind::InvalidArgument, text));
            }
            Some(raw) if datatype == Datatype::Bytes => InputData::Binary(split_elements(&raw, elements)?),
            Some(raw) => {
                checks::dense_size(
                    datatype,
                    &shape,
                    elements,
                    raw.len(),
                    "the size of `raw_input_contents`",
                )?;
                InputData::Dense(raw)
            }
            None => {
                let Some(field) = contents_field(datatype) else {
                    let text =
                        format!("{datatype} has no field in `contents`; send it in `raw_input_contents`");
                    return Err(InferError::new(ErrorKind::WrongDatatype, text));
                };
                contents::read(&self.contents, &CONTENTS, field, datatype, elements, reservation)?
            }
        };
        Ok(InferInput { name: self.name, datatype, shape, data })
    }
}

impl Output {
    fn read(message: &[u8], parameters: &mut usize) -> Result<Self, InferError> {
        let mut output = Self::default();
        for field in Fields::new(message) {
            let field = field.map_err(malformed)?;
            match field.number {
                1 => output.name = text(&field)?,
                2 => output.parameters.add(bytes(&field)?, parameters)?,
                _ => {}
            }
        }
        Ok(output)
    }
}

/// The value of an `InferParameter`; of several, the last counts.
fn parameter(message: &[u8]) -> Result<Option<Parameter>, InferError> {
    let mut value = None;
    for field in Fields::new(message) {
        let field = field.map_err(malformed)?;
        value = match (field.number, &field.value) {
            (1, Value::Varint(v)) => Some(Parameter::Bool(*v != 0)),
            (2, Value::Varint(v)) => Some(Parameter::Int(v.cast_signed())),
            (3, _) => Some(Parameter::Text(text(&field)?)),
            (4, Value::Fixed64(v)) => Some(Parameter::Double(f64::from_le_bytes(*v))),
            (5, Value::Varint(v)) => Some(Parameter::Uint(*v)),
            (1 | 2 | 4 | 5, _) => return Err(malformed(WireError::Type(field.number))),
            _ => value,
        };
    }
    Ok(value)
}

fn bytes<'m>(field: &Field<'m>) -> Result<&'m [u8], InferError> {
    field.borrowed().map_err(malformed)
}

fn text(field: &Field<'_>) -> Result<String, InferError> {
    field.as_text().map(str::to_owned).map_err(malformed)
}

fn at_most(count: usize, limit: usize, what: &str) -> Result<(), InferError> {
    if count <= limit {
        return Ok(());
    }
    let text = format!("the request has more than {limit} {what}");
    Err(InferError::new(ErrorKind::InvalidArgument, text))
}

#[cfg(test)]
mod tests;
