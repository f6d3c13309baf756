//! `BatchNormalization` with two parameters in place of four.

use super::Fp16Error;
use super::graph::Node;
use super::precision::Rules;
use super::scope::Scopes;

/// What a `BatchNormalization` does to a channel: `scale · x + bias`; each list is `[channels]`, FP32 and inside
/// FP16's range.
///
/// `s · (x - mean) / sqrt(variance + epsilon) + b` is that with `scale = s / sqrt(variance + epsilon)` and
/// `bias = b - mean · scale`. The rewritten node takes these two, a mean of 0, a variance of 1 and an epsilon of
/// 0. So only two numbers are rounded to FP16; a variance of 1e-9 would have become 0. TensorRT multiplies the
/// four out in the same way before it merges them into the convolution.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Affine {
    /// Factors.
    pub scale: Vec<f32>,
    /// Summands.
    pub bias: Vec<f32>,
}

impl Affine {
    /// The two lists of a node. None where its parameters are not constant or leave FP16's range, where it is in
    /// training mode, and where it normalises each pixel on its own (`spatial` = 0 before opset 9).
    ///
    /// # Errors
    /// [`Fp16Error::Weights`] for parameters that cannot be read.
    pub fn of(node: &Node<'_>, scopes: &Scopes<'_>, rules: &Rules<'_>) -> Result<Option<Self>, Fp16Error> {
        let is = |name: &str, value: i64| node.attribute(name).and_then(|a| a.int()) == Some(value);
        let more_outputs = node.outputs.iter().skip(1).any(|o| !o.is_empty());
        let [_, names @ ..] = node.inputs.as_slice() else { return Ok(None) };
        if more_outputs || names.len() != 4 || is("training_mode", 1) || is("spatial", 0) || rules.opset < 7 {
            return Ok(None);
        }
        let mut parameters = Vec::with_capacity(4);
        for name in names {
            let constant = scopes.value(name).and_then(|v| v.constant.as_ref());
            let Some(constant) = constant else { return Ok(None) };
            parameters.push(constant.floats(rules.folder).map_err(|e| Fp16Error::weights(name, e))?);
        }
        let [scale, bias, mean, variance] = parameters.as_slice() else { return Ok(None) };
        if [bias, mean, variance].iter().any(|p| p.len() != scale.len()) {
            return Ok(None);
        }
        let epsilon = f64::from(node.attribute("epsilon").and_then(|a| a.float()).unwrap_or(1e-5));
        let limit = f64::from(half::f16::MAX);
        let mut out = Self::default();
        for (((scale, bias), mean), variance) in scale.iter().zip(bias).zip(mean).zip(variance) {
            let factor = f64::from(*scale) / (f64::from(*variance) + epsilon).sqrt();
            let offset = f64::from(*bias) - f64::from(*mean) * factor;
            if !(factor.abs() <= limit && offset.abs() <= limit) {
                return Ok(None);
            }
            out.scale.push(factor as f32);
            out.bias.push(offset as f32);
        }
        Ok(Some(out))
    }
}
