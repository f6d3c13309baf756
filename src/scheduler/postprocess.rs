//! What `model.toml` asks to be done to an output before it leaves: softmax, L2 normalisation.

use crate::backend::OutputBuffer;
use crate::model::config::Normalize;
use crate::model::spec::OutputSpec;

/// Applies an output's settings in place, row by row along the last dimension; FP32 only, as checked at load.
/// `normalized`: the engine has done `normalize` already.
pub fn apply(output: &mut OutputBuffer, spec: &OutputSpec, normalized: bool) {
    if !spec.softmax && (normalized || spec.normalize == Normalize::None) {
        return;
    }
    let width = output.shape.last().copied().unwrap_or(0).max(1) * 4;
    for row in output.data.chunks_exact_mut(width) {
        if spec.softmax {
            softmax(row);
        } else {
            l2(row);
        }
    }
}

fn value(bytes: &[u8]) -> f32 {
    f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn map(row: &mut [u8], f: impl Fn(f32) -> f32) {
    for bytes in row.chunks_exact_mut(4) {
        let v = f(value(bytes));
        bytes.copy_from_slice(&v.to_le_bytes());
    }
}

/// `exp(x - max) / sum`, the sum in double precision.
fn softmax(row: &mut [u8]) {
    let max = row.chunks_exact(4).map(value).fold(f32::NEG_INFINITY, f32::max);
    map(row, |v| (v - max).exp());
    let sum: f64 = row.chunks_exact(4).map(|b| f64::from(value(b))).sum();
    map(row, |v| (f64::from(v) / sum) as f32);
}

/// `x / sqrt(sum x²)`, the sum in double precision; a row of zeros stays as it is.
fn l2(row: &mut [u8]) {
    let sum: f64 = row.chunks_exact(4).map(|b| f64::from(value(b)).powi(2)).sum();
    if sum > 0.0 {
        let norm = sum.sqrt();
        map(row, |v| (f64::from(v) / norm) as f32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{Datatype, TensorSpec};

    fn run(values: &[f32], softmax: bool, normalize: Normalize) -> Vec<f32> {
        let mut output = OutputBuffer {
            datatype: Datatype::Fp32,
            shape: vec![values.len() / 2, 2],
            data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        };
        let tensor = TensorSpec { name: String::new(), datatype: Datatype::Fp32, shape: vec![2] };
        apply(&mut output, &OutputSpec { tensor, softmax, normalize, labels: vec![] }, false);
        output.data.chunks_exact(4).map(value).collect()
    }

    #[test]
    fn rows_are_treated_one_by_one() {
        let values = [0.0, 0.0, 1000.0, 998.0, 3.0, 4.0, 0.0, 0.0];
        assert_eq!(run(&values, false, Normalize::None), values);
        let soft = run(&values, true, Normalize::None);
        let want = [0.5, 0.5, 0.880_797, 0.119_203, 0.268_941, 0.731_059, 0.5, 0.5];
        for (got, want) in soft.iter().zip(want) {
            assert!((got - want).abs() < 1e-6, "{soft:?}");
        }
        let l2 = run(&values, false, Normalize::L2);
        assert_eq!((l2[4], l2[5], l2[6]), (0.6, 0.8, 0.0));
    }
}
