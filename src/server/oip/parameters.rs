//! The `parameters` objects of a request, of its inputs and of its outputs.
//!
//! Read: `priority`, `timeout`, `binary_data_output` (request), `binary_data_size` (input), `binary_data` and
//! `classification` (output), `shared_memory_region`, `shared_memory_offset` and `shared_memory_byte_size` (input and
//! output). Everything else is accepted, and ignored but for the one by which the model recognises its clients: a
//! client's own parameters, `sequence_id`, `sequence_start`, `sequence_end` (our
//! models keep no state between requests), `headers`, and the reserved `triton_` prefix.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::checks::wrong_parameter;
use super::place::Place;
use crate::error::InferError;

/// The parameters that mean something here, unread: each is checked where it applies, so that one in the
/// wrong place is ignored like any unknown one. `null` counts as absent.
#[derive(Debug, Default)]
pub(super) struct Parameters<'a> {
    priority: Option<&'a RawValue>,
    timeout: Option<&'a RawValue>,
    binary_data_output: Option<&'a RawValue>,
    binary_data_size: Option<&'a RawValue>,
    binary_data: Option<&'a RawValue>,
    classification: Option<&'a RawValue>,
    shared_memory_region: Option<&'a RawValue>,
    shared_memory_offset: Option<&'a RawValue>,
    shared_memory_byte_size: Option<&'a RawValue>,
    /// The first [`MAX_OTHERS`] of the rest, in the order sent.
    others: Vec<(Cow<'a, str>, &'a RawValue)>,
}

/// Parameters of a client's own that are looked at.
const MAX_OTHERS: usize = 32;

/// A name, borrowed unless it has escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Parameters<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ParametersVisitor;
        impl<'de> Visitor<'de> for ParametersVisitor {
            type Value = Parameters<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("struct Parameters")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut p = Parameters::default();
                let mut seen = [false; 9];
                while let Some(Name(name)) = map.next_key()? {
                    let (place, field, slot) = match &*name {
                        "priority" => (0, "priority", &mut p.priority),
                        "timeout" => (1, "timeout", &mut p.timeout),
                        "binary_data_output" => (2, "binary_data_output", &mut p.binary_data_output),
                        "binary_data_size" => (3, "binary_data_size", &mut p.binary_data_size),
                        "binary_data" => (4, "binary_data", &mut p.binary_data),
                        "classification" => (5, "classification", &mut p.classification),
                        "shared_memory_region" => (6, "shared_memory_region", &mut p.shared_memory_region),
                        "shared_memory_offset" => (7, "shared_memory_offset", &mut p.shared_memory_offset),
                        "shared_memory_byte_size" => {
                            (8, "shared_memory_byte_size", &mut p.shared_memory_byte_size)
                        }
                        _ => {
                            let value = map.next_value()?;
                            if p.others.len() < MAX_OTHERS {
                                p.others.push((name, value));
                            }
                            continue;
                        }
                    };
                    if std::mem::replace(&mut seen[place], true) {
                        return Err(A::Error::duplicate_field(field));
                    }
                    *slot = map.next_value()?;
                }
                Ok(p)
            }
        }
        deserializer.deserialize_map(ParametersVisitor)
    }
}

impl<'a> Parameters<'a> {
    /// The text of a client's own parameter, a string or an integer; of one that comes twice, the last.
    pub fn other(&self, name: &str) -> Option<Cow<'a, str>> {
        let (_, value) = self.others.iter().rev().find(|(n, _)| n == name)?;
        let text = value.get();
        if text.starts_with('"') {
            return serde_json::from_str::<Name<'a>>(text).ok().map(|Name(text)| text);
        }
        let unsigned = text.strip_prefix('-').unwrap_or(text);
        let whole = !unsigned.is_empty() && unsigned.bytes().all(|b| b.is_ascii_digit());
        whole.then_some(Cow::Borrowed(text))
    }

    /// Queue priority: 0 is the model's default, 1 the most urgent.
    pub fn priority(&self) -> Result<Option<u64>, InferError> {
        integer("priority", self.priority, 0)
    }

    /// Deadline in microseconds; 0 is none.
    pub fn timeout(&self) -> Result<Option<u64>, InferError> {
        integer("timeout", self.timeout, 0)
    }

    /// Whether outputs are binary where they do not say.
    pub fn binary_data_output(&self) -> Result<Option<bool>, InferError> {
        boolean("binary_data_output", self.binary_data_output)
    }

    /// Bytes of this input after the JSON.
    pub fn binary_data_size(&self) -> Result<Option<u64>, InferError> {
        integer("binary_data_size", self.binary_data_size, 0)
    }

    /// Whether this output is binary.
    pub fn binary_data(&self) -> Result<Option<bool>, InferError> {
        boolean("binary_data", self.binary_data)
    }

    /// How many classes to answer instead of the values.
    pub fn classification(&self) -> Result<Option<u64>, InferError> {
        integer("classification", self.classification, 1)
    }

    /// Where the tensor lies, if that is in shared memory.
    pub fn place(&self) -> Result<Option<Place>, InferError> {
        const REGION: &str = "shared_memory_region";
        const SIZE: &str = "shared_memory_byte_size";
        let Some(region) = self.shared_memory_region else { return Ok(None) };
        let region = serde_json::from_str(region.get())
            .map_err(|_| wrong_parameter(REGION, "the name of a region", region.get()))?;
        let offset = integer("shared_memory_offset", self.shared_memory_offset, 0)?.unwrap_or(0);
        let byte_size = integer(SIZE, self.shared_memory_byte_size, 0)?
            .ok_or_else(|| wrong_parameter(SIZE, "an integer beside `shared_memory_region`", "none"))?;
        Ok(Some(Place { region, offset, byte_size }))
    }
}

fn integer(name: &str, value: Option<&RawValue>, least: u64) -> Result<Option<u64>, InferError> {
    let Some(value) = value else { return Ok(None) };
    match value.get().parse::<u64>() {
        Ok(number) if number >= least => Ok(Some(number)),
        Ok(_) | Err(_) => Err(wrong_parameter(name, &format!("an integer of at least {least}"), value.get())),
    }
}

fn boolean(name: &str, value: Option<&RawValue>) -> Result<Option<bool>, InferError> {
    let Some(value) = value else { return Ok(None) };
    value.get().parse().map(Some).map_err(|_| wrong_parameter(name, "true or false", value.get()))
}
