//! Optimization profiles: the shapes that a plan is built for, out of the batching and the shapes of a model.

use super::builder::{Profile, ProfileInput};
use crate::model::onnx::OnnxInfo;
use crate::model::spec::ModelSpec;

/// One profile for each preferred batch size, or one for `max_batch_size`; none where every shape is fixed.
///
/// Each takes 1 to `max_batch_size` rows, so that an instance of any profile can run any batch.
///
/// # Errors
/// A sentence: an input leaves a dimension open that nothing bounds.
pub(super) fn profiles(spec: &ModelSpec, onnx: &OnnxInfo) -> Result<Vec<Profile>, String> {
    let sizes = match spec.preferred_batch_size.as_slice() {
        [] => vec![spec.rows_per_batch()],
        // Sizes mean nothing without a batch dimension.
        _ if !spec.batched() => vec![1],
        sizes => sizes.to_vec(),
    };
    let mut profiles = Vec::with_capacity(sizes.len());
    for size in sizes {
        let inputs = onnx.inputs.iter().enumerate().filter(|(_, i)| i.shape.iter().any(|d| *d < 0));
        let inputs =
            inputs.map(|(index, _)| input(spec, onnx, index, size)).collect::<Result<Vec<_>, _>>()?;
        if inputs.is_empty() {
            return Ok(Vec::new());
        }
        profiles.push(Profile { inputs });
    }
    Ok(profiles)
}

fn input(spec: &ModelSpec, onnx: &OnnxInfo, index: usize, size: usize) -> Result<ProfileInput, String> {
    let name = &onnx.inputs[index].name;
    // The row's shape has the picture's sides filled in.
    let row = &spec.inputs[index].shape;
    let range = spec.tensorrt.shapes.iter().find(|s| s.input == *name);
    let [mut min, mut opt, mut max] = match range {
        Some(range) => [&range.min, &range.opt, &range.max]
            .map(|shape| shape.iter().map(|d| i64::try_from(*d).unwrap_or(i64::MAX)).collect::<Vec<_>>()),
        None if row.iter().all(|d| *d >= 0) => [row.clone(), row.clone(), row.clone()],
        None => {
            return Err(format!(
                "input \"{name}\" is {row:?}: TensorRT must know how large it may get; add to model.toml \
                 [[tensorrt.shape]] with input = \"{name}\" and its min, opt and max{}",
                if spec.batched() { ", without the batch" } else { "" }
            ));
        }
    };
    if spec.batched() {
        let rows = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let batch = match onnx.inputs[index].shape[0] {
            fixed if fixed > 0 => [fixed; 3],
            _ => [1, rows(size), rows(spec.max_batch_size)],
        };
        for (shape, rows) in [&mut min, &mut opt, &mut max].into_iter().zip(batch) {
            shape.insert(0, rows);
        }
    }
    Ok(ProfileInput { name: name.clone(), min, opt, max })
}
