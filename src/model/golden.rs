//! `golden.json`, beside a version's `model.onnx`: inputs with the outputs that they must give, and how far off
//! a backend may be. [`crate::scheduler`] runs it before the version counts as ready.
//!
//! The file may be large and comes with a model from anywhere, so it is bounded before it is read, and its lists
//! of numbers are never made into a tree.

mod reader;
#[cfg(test)]
mod tests;
mod values;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;

use super::config::Precision;
use super::spec::ModelSpec;
use crate::problems::Problems;
use crate::tensor::Tensor;

/// The file's name, in the version's folder.
pub const GOLDEN_FILE: &str = "golden.json";
/// The one form of the file that there is.
pub const FORMAT: u64 = 1;
/// Largest `golden.json`, bytes: a dozen inputs of 3 x 224 x 224 numbers as text.
pub const MAX_FILE_BYTES: u64 = 16 << 20;
/// All images of one `golden.json` together, bytes.
pub const MAX_IMAGE_BYTES: u64 = 64 << 20;
/// Most cases: each one is run before the version is ready.
pub const MAX_CASES: usize = 64;

/// A version's golden cases, checked against its signature.
#[derive(Debug, Clone, PartialEq)]
pub struct Golden {
    /// Where they come from.
    pub path: PathBuf,
    /// Who computed the outputs, in the file's words.
    pub made_by: Option<String>,
    /// The file's bound; where it has none, [`Bound::default_for`] holds.
    pub bound: Option<Bound>,
    /// At least one.
    pub cases: Vec<Case>,
}

/// How far an output may be off. With both set, both must hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound {
    /// Least cosine between a row of a floating-point output and what it must be, -1 to 1.
    pub cosine: Option<f64>,
    /// Largest difference of a single value, in the output's own unit.
    pub absolute: Option<f64>,
}

impl Bound {
    /// The bound where `golden.json` has none.
    ///
    /// FP32 and BF16: the tolerances that `CONTRIBUTING.md` promises, 0.9995 and 0.995; they leave room for
    /// another JPEG decoder (with the shipped model, OpenVINO and rten reach 0.9999 and more against ONNX Runtime
    /// behind OpenCV: docs/configuration.md). FP16 and TF32, which both keep 10 bits after the point: 0.999.
    #[must_use]
    pub fn default_for(precision: Precision) -> Self {
        let cosine = match precision {
            Precision::Fp32 => 0.9995,
            Precision::Tf32 | Precision::Fp16 => 0.999,
            Precision::Bf16 => 0.995,
        };
        Self { cosine: Some(cosine), absolute: None }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let named = [("cosine", self.cosine), ("absolute", self.absolute)];
        let parts = named.iter().filter_map(|(name, v)| v.map(|v| format!("{name} {v}"))).collect::<Vec<_>>();
        f.write_str(&parts.join(", "))
    }
}

/// One row of input with its outputs; for a model without a batch dimension, one whole input.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// What messages call it: its `name`, or its image's file, or nothing.
    pub name: String,
    /// What goes in.
    pub input: CaseInput,
    /// What must come out, after softmax and normalisation: at least one.
    pub outputs: Vec<Expected>,
}

/// What goes into a case.
#[derive(Debug, Clone, PartialEq)]
pub enum CaseInput {
    /// An encoded image.
    Image(Bytes),
    /// A tensor for each of the model's inputs, in its order, without the batch dimension.
    Tensors(Vec<Tensor>),
}

/// What one output must be.
#[derive(Debug, Clone, PartialEq)]
pub struct Expected {
    /// Index in [`ModelSpec::outputs`].
    pub output: usize,
    /// Values of the output's datatype, little-endian, row-major.
    pub data: Vec<u8>,
}

impl Golden {
    /// Where a version's golden cases are, if it has any.
    #[must_use]
    pub fn path(spec: &ModelSpec) -> PathBuf {
        spec.path.with_file_name(GOLDEN_FILE)
    }

    /// Reads a version's golden cases; `None` where it has none, or where something is wrong with them, which
    /// lands in `problems` with file, key and value.
    pub fn read(spec: &ModelSpec, problems: &mut Problems) -> Option<Self> {
        reader::read(&Self::path(spec), spec, problems)
    }

    /// The text of a `golden.json` with these cases.
    ///
    /// # Errors
    /// A sentence about an output that holds NaN or infinity, or of a file that would be too large to be read.
    pub fn render(made_by: &str, spec: &ModelSpec, cases: &[Case]) -> Result<String, String> {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let mut out = format!("{{\n\"format\": {FORMAT},\n\"made_by\": {},\n\"cases\": [\n", quoted(made_by));
        for (index, case) in cases.iter().enumerate() {
            let separator = if index == 0 { "" } else { ",\n" };
            let _ = writeln!(out, "{separator}{{\"name\": {},", quoted(&case.name));
            match &case.input {
                CaseInput::Image(bytes) => {
                    let _ = write!(out, " \"image_base64\": \"{}\"", BASE64.encode(bytes));
                }
                CaseInput::Tensors(tensors) => {
                    out.push_str(" \"inputs\": {");
                    for (i, (tensor, wanted)) in tensors.iter().zip(&spec.inputs).enumerate() {
                        let batch = spec.batched().then_some(1);
                        let shape: Vec<usize> =
                            batch.into_iter().chain(tensor.shape.iter().copied()).collect();
                        let separator = if i == 0 { "" } else { ",\n  " };
                        let (name, datatype) = (quoted(&wanted.name), tensor.datatype);
                        let _ = write!(
                            out,
                            "{separator}{name}: {{\"datatype\": \"{datatype}\", \"shape\": {shape:?}, \"data\": "
                        );
                        values::write(&mut out, datatype, &tensor.data)
                            .map_err(|at| format!("value {at} of input {name} is no number"))?;
                        out.push('}');
                    }
                    out.push('}');
                }
            }
            out.push_str(",\n \"outputs\": {");
            for (i, expected) in case.outputs.iter().enumerate() {
                let tensor = &spec.outputs[expected.output].tensor;
                let _ = write!(out, "{}{}: ", if i == 0 { "" } else { ",\n  " }, quoted(&tensor.name));
                values::write(&mut out, tensor.datatype, &expected.data).map_err(|at| {
                    format!(
                        "value {at} of output \"{}\" of case {} is NaN or infinite",
                        tensor.name,
                        index + 1
                    )
                })?;
            }
            out.push_str("}}");
        }
        out.push_str("\n]}\n");
        if out.len() as u64 > MAX_FILE_BYTES {
            return Err(format!(
                "golden.json would have {} bytes, and {MAX_FILE_BYTES} are read; give it fewer or smaller inputs",
                out.len()
            ));
        }
        Ok(out)
    }

    /// The bound that holds in `precision`, and where it comes from.
    #[must_use]
    pub fn bound_in(&self, precision: Precision) -> (Bound, String) {
        match self.bound {
            Some(bound) => (bound, format!("bound {bound}")),
            None => {
                let bound = Bound::default_for(precision);
                (bound, format!("bound {bound}, the default in {}", precision.name()))
            }
        }
    }

    /// What messages call case `index`, counted from 1.
    #[must_use]
    pub fn case_name(&self, index: usize) -> String {
        match self.cases[index].name.as_str() {
            "" => format!("case {}", index + 1),
            name => format!("case {} ({name})", index + 1),
        }
    }
}

/// The folder whose files a golden case may name.
fn folder(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}
