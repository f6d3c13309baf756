//! The `parameters` objects of a request, of its inputs and of its outputs.
//!
//! Read: `priority`, `timeout`, `binary_data_output` (request), `binary_data_size` (input), `binary_data` and
//! `classification` (output). `shared_memory_*` (input and output) says where a tensor lies. Everything else
//! is accepted and ignored: a client's own parameters, `sequence_id`, `sequence_start`, `sequence_end` (our
//! models keep no state between requests), `headers`, and the reserved `triton_` prefix.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::checks::wrong_parameter;
use super::place::Place;
use crate::error::InferError;

/// The parameters that mean something here, unread: each is checked where it applies, so that one in the
/// wrong place is ignored like any unknown one. `null` counts as absent.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Parameters<'a> {
    #[serde(borrow)]
    priority: Option<&'a RawValue>,
    #[serde(borrow)]
    timeout: Option<&'a RawValue>,
    #[serde(borrow)]
    binary_data_output: Option<&'a RawValue>,
    #[serde(borrow)]
    binary_data_size: Option<&'a RawValue>,
    #[serde(borrow)]
    binary_data: Option<&'a RawValue>,
    #[serde(borrow)]
    classification: Option<&'a RawValue>,
    #[serde(borrow)]
    shared_memory_region: Option<&'a RawValue>,
    #[serde(borrow)]
    shared_memory_offset: Option<&'a RawValue>,
    #[serde(borrow)]
    shared_memory_byte_size: Option<&'a RawValue>,
}

impl Parameters<'_> {
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
