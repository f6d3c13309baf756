//! From what a protocol brought to the rows that the scheduler queues.

use bytes::Bytes;

use super::oip::resolve::check_inputs;
use super::oip::{InferInput, InputData};
use crate::backend::RowInput;
use crate::error::{ErrorKind, InferError};
use crate::model::spec::{ImageInput, ModelSpec};
use crate::tensor::{Datatype, Tensor, TensorSpec};

/// Rows of encoded images, one each.
///
/// # Errors
/// `InvalidArgument` for a model that takes no images, or for none.
pub fn images(spec: &ModelSpec, images: Vec<Bytes>) -> Result<Vec<RowInput>, InferError> {
    if spec.image.is_none() {
        let inputs = spec.inputs.iter().map(|i| format!("\"{}\" {}", i.name, i.datatype)).collect::<Vec<_>>();
        return Err(InferError::new(
            ErrorKind::InvalidArgument,
            format!("this model takes tensors, not images; send {} to /v2/models/…/infer", inputs.join(", ")),
        ));
    }
    if images.is_empty() {
        return Err(InferError::new(ErrorKind::InvalidArgument, "the request holds no image"));
    }
    Ok(images.into_iter().map(RowInput::Image).collect())
}

/// Rows of an Open Inference Protocol request: encoded images under the image input's name, or tensors under
/// the ONNX inputs' own.
///
/// # Errors
/// `InvalidArgument`, `WrongDatatype`, `WrongShape`, `BadBase64`, each naming the input.
pub fn from_oip(spec: &ModelSpec, inputs: Vec<InferInput>) -> Result<Vec<RowInput>, InferError> {
    match spec.image.as_ref().filter(|i| inputs.iter().any(|given| given.name == i.name)) {
        Some(image) => encoded_images(spec, image, inputs),
        None => tensors(spec, &inputs),
    }
}

/// The BYTES input through which a model takes encoded images: one element a row.
#[must_use]
pub fn image_spec(image: &ImageInput) -> TensorSpec {
    TensorSpec { name: image.name.clone(), datatype: Datatype::Bytes, shape: vec![1] }
}

fn encoded_images(
    spec: &ModelSpec,
    image: &ImageInput,
    inputs: Vec<InferInput>,
) -> Result<Vec<RowInput>, InferError> {
    let name = &image.name;
    if inputs.len() > 1 {
        let others = inputs.iter().filter(|i| i.name != *name).map(|i| i.name.as_str()).collect::<Vec<_>>();
        return Err(InferError::new(
            ErrorKind::InvalidArgument,
            format!("input `{name}` brings encoded images: send it alone, without {}", others.join(", ")),
        ));
    }
    let input = inputs
        .into_iter()
        .next()
        .ok_or_else(|| InferError::new(ErrorKind::InvalidArgument, format!("input `{name}` is missing")))?;
    if input.datatype != Datatype::Bytes {
        return Err(InferError::new(
            ErrorKind::WrongDatatype,
            format!("input `{name}`: expected BYTES, got {}", input.datatype),
        ));
    }
    if !matches!(input.shape[..], [_] | [_, 1]) {
        return Err(InferError::new(
            ErrorKind::WrongShape,
            format!("input `{name}`: expected shape [n] or [n, 1], got {:?}", input.shape),
        ));
    }
    let elements = match input.data {
        InputData::Binary(elements) => elements,
        InputData::Text(elements) => elements
            .iter()
            .enumerate()
            .map(|(i, text)| {
                // The elements are slices of JSON strings, so they are UTF-8.
                let decoded = super::base64::decode(std::str::from_utf8(text).unwrap_or_default());
                decoded.map(Bytes::from).map_err(|e| e.context(format_args!("input `{name}` element {i}")))
            })
            .collect::<Result<_, _>>()?,
        InputData::Dense(_) => Vec::new(),
    };
    images(spec, elements)
}

fn tensors(spec: &ModelSpec, given: &[InferInput]) -> Result<Vec<RowInput>, InferError> {
    let rows = check_inputs(given, &spec.inputs, spec.batched()).map_err(|mut e| {
        if let Some(image) = &spec.image {
            e.message.push_str(&format!("; encoded images go into the BYTES input `{}`", image.name));
        }
        e
    })?;
    let mut inputs = Vec::with_capacity(spec.inputs.len());
    for wanted in &spec.inputs {
        let found = given.iter().find(|i| i.name == wanted.name);
        let Some((given, InputData::Dense(data))) = found.map(|g| (g, &g.data)) else {
            let text = format!("input `{}`: expected {}, got BYTES", wanted.name, wanted.datatype);
            return Err(InferError::new(ErrorKind::WrongDatatype, text));
        };
        inputs.push((given.datatype, given.shape.clone(), data.clone()));
    }
    if !spec.batched() {
        let whole = inputs.into_iter().map(|(datatype, shape, data)| Tensor { datatype, shape, data });
        return Ok(vec![RowInput::Tensors(whole.collect())]);
    }
    let row = |at: usize| {
        let parts = inputs.iter().map(|(datatype, shape, data)| {
            let bytes = data.len() / rows;
            Tensor {
                datatype: *datatype,
                shape: shape[1..].to_vec(),
                data: data.slice(at * bytes..(at + 1) * bytes),
            }
        });
        RowInput::Tensors(parts.collect())
    };
    Ok((0..rows).map(row).collect())
}
