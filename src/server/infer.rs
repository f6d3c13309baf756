//! One inference of the Open Inference Protocol, whatever carried it: a request held against the version that was
//! picked, and what that version answered.

use super::{oip, rows};
use crate::backend::RowInput;
use crate::error::InferError;
use crate::scheduler::served::ServedModel;
use crate::tensor::Tensor;

/// Takes the rows out of a request.
///
/// # Errors
/// `InvalidArgument`, `WrongDatatype`, `WrongShape`, `BadBase64`, each naming the input or output.
pub fn rows(served: &ServedModel, asked: &mut oip::InferRequest) -> Result<Vec<RowInput>, InferError> {
    oip::resolve::check_outputs(&asked.outputs, served.spec.outputs.iter().map(|o| &o.tensor))?;
    rows::from_oip(&served.spec, std::mem::take(&mut asked.inputs))
}

/// The answer: `version` is the one that answered, as text.
#[must_use]
pub fn response<'a>(
    served: &'a ServedModel,
    version: &'a str,
    asked: &'a oip::InferRequest,
    outputs: Vec<Tensor>,
) -> oip::InferResponse<'a> {
    let outputs = served.spec.outputs.iter().zip(outputs).map(|(spec, tensor)| oip::OutputTensor {
        name: &spec.tensor.name,
        tensor,
        labels: &spec.labels,
    });
    oip::InferResponse {
        model_name: &served.config.name,
        model_version: version,
        id: asked.id.as_deref(),
        outputs: outputs.collect(),
    }
}
