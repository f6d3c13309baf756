//! A request held against its model: names, datatypes and shapes.

use super::json::clip;
use super::request::{InferInput, RequestedOutput};
use crate::error::{ErrorKind, InferError};
use crate::tensor::TensorSpec;

/// Checks that the request brings every input of the model and no other, with its datatype and shape.
///
/// Returns the rows of the batch: the first dimension, which all inputs share, or 1 where the model has none.
/// **Errors:** `InvalidArgument` for a missing or unknown input, `WrongDatatype`, `WrongShape`.
pub fn check_inputs(inputs: &[InferInput], specs: &[TensorSpec], batched: bool) -> Result<usize, InferError> {
    if let Some(input) = inputs.iter().find(|i| specs.iter().all(|s| s.name != i.name)) {
        return Err(unknown("input", &input.name, specs.iter()));
    }
    let mut rows: Option<(usize, &str)> = None;
    for spec in specs {
        let input = inputs.iter().find(|i| i.name == spec.name).ok_or_else(|| {
            InferError::new(ErrorKind::InvalidArgument, format!("input `{}` is missing", spec.name))
        })?;
        check_input(input, spec, batched)?;
        let Some(&first) = input.shape.first().filter(|_| batched) else { continue };
        match rows {
            Some((others, other)) if others != first => {
                return Err(InferError::new(
                    ErrorKind::WrongShape,
                    format!("input `{}` has a batch of {first}, input `{other}` of {others}", spec.name),
                ));
            }
            Some(_) | None => rows = Some((first, &spec.name)),
        }
    }
    Ok(rows.map_or(1, |(rows, _)| rows))
}

/// Checks that the model has every requested output. **Errors:** `InvalidArgument` with the names that exist.
pub fn check_outputs<'s>(
    requested: &[RequestedOutput],
    specs: impl Iterator<Item = &'s TensorSpec> + Clone,
) -> Result<(), InferError> {
    match requested.iter().find(|r| specs.clone().all(|s| s.name != r.name)) {
        None => Ok(()),
        Some(output) => Err(unknown("output", &output.name, specs)),
    }
}

fn check_input(input: &InferInput, spec: &TensorSpec, batched: bool) -> Result<(), InferError> {
    if input.datatype != spec.datatype {
        return Err(InferError::new(
            ErrorKind::WrongDatatype,
            format!("input `{}`: expected {}, got {}", spec.name, spec.datatype, input.datatype),
        ));
    }
    let wanted: Vec<i64> = batched.then_some(-1).into_iter().chain(spec.shape.iter().copied()).collect();
    let fits = wanted.len() == input.shape.len()
        && wanted.iter().zip(&input.shape).all(|(&w, &g)| usize::try_from(w).map_or(true, |w| w == g));
    let row = if batched { input.shape.get(1..).unwrap_or_default() } else { &input.shape };
    if fits && row.contains(&0) {
        let text = format!(
            "input `{}`: every dimension of a row must be at least 1, got {:?}",
            spec.name, input.shape
        );
        return Err(InferError::new(ErrorKind::WrongShape, text));
    }
    if fits {
        return Ok(());
    }
    Err(InferError::new(
        ErrorKind::WrongShape,
        format!("input `{}`: expected shape {wanted:?}, got {:?}", spec.name, input.shape),
    ))
}

fn unknown<'s>(what: &str, name: &str, specs: impl Iterator<Item = &'s TensorSpec>) -> InferError {
    let known: Vec<&str> = specs.map(|s| s.name.as_str()).collect();
    InferError::new(
        ErrorKind::InvalidArgument,
        format!("the model has no {what} `{}`, it has {}", clip(name), known.join(", ")),
    )
}
