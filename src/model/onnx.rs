//! What an ONNX file says of its inputs and outputs, read without an engine.

use std::path::Path;

use rten_onnx::onnx::{DataType, ModelProto, ValueInfoProto};

use crate::tensor::{Datatype, TensorSpec};

/// The first dimension of a model's tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchDimension {
    /// Any number of rows.
    Dynamic,
    /// Always that many rows.
    Fixed(u64),
}

/// Inputs and outputs of an ONNX graph; shapes keep their first dimension, -1 marks one that varies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnnxInfo {
    /// Graph inputs that are not weights.
    pub inputs: Vec<TensorSpec>,
    /// Graph outputs.
    pub outputs: Vec<TensorSpec>,
}

impl OnnxInfo {
    /// Reads the graph's signature.
    ///
    /// # Errors
    /// A sentence: the file cannot be read, is no ONNX, has no graph, no inputs or outputs, or a tensor of a
    /// type that no protocol of ours carries.
    pub fn read(path: &Path) -> Result<Self, String> {
        let file = std::fs::File::open(path).map_err(|e| format!("cannot be opened: {e}"))?;
        Self::of(&super::wire::parse_file(file)?)
    }

    /// The same of a model that is parsed already.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(crate) fn of(model: &ModelProto) -> Result<Self, String> {
        let graph = model.graph.as_ref().ok_or("is not an ONNX model: it holds no graph")?;
        let weights: std::collections::HashSet<&str> =
            graph.initializer.iter().filter_map(|t| t.name.as_deref()).collect();
        let inputs = graph
            .input
            .iter()
            .filter(|v| !v.name.as_deref().is_some_and(|n| weights.contains(n)))
            .map(spec)
            .collect::<Result<Vec<_>, _>>()?;
        let outputs = graph.output.iter().map(spec).collect::<Result<Vec<_>, _>>()?;
        if inputs.is_empty() || outputs.is_empty() {
            return Err(format!("has {} inputs and {} outputs; both need one", inputs.len(), outputs.len()));
        }
        Ok(Self { inputs, outputs })
    }

    /// The dimension that all inputs share as their first; `None` where one has no dimensions or they differ.
    #[must_use]
    pub fn batch_dimension(&self) -> Option<BatchDimension> {
        let mut first = self.inputs.iter().map(|i| i.shape.first().copied());
        let dimension = first.next()??;
        first.all(|d| d == Some(dimension)).then(|| match u64::try_from(dimension) {
            Ok(n) => BatchDimension::Fixed(n),
            Err(_) => BatchDimension::Dynamic,
        })
    }
}

fn spec(value: &ValueInfoProto) -> Result<TensorSpec, String> {
    let name = value.name.clone().unwrap_or_default();
    let tensor = value
        .r#type
        .as_ref()
        .and_then(|t| t.tensor_type.as_ref())
        .ok_or_else(|| format!("\"{name}\" is not a tensor; sequences and maps are not served"))?;
    let elem = tensor.elem_type.unwrap_or(DataType(0));
    let datatype = datatype(elem)
        .ok_or_else(|| format!("\"{name}\" has the element type {elem}, which is not served"))?;
    let shape = tensor
        .shape
        .as_ref()
        .map(|s| s.dim.iter().map(|d| d.dim_value.filter(|v| *v > 0).unwrap_or(-1)).collect())
        .ok_or_else(|| format!("\"{name}\" has no shape; give it one with onnx.shape_inference"))?;
    Ok(TensorSpec { name, datatype, shape })
}

fn datatype(elem: DataType) -> Option<Datatype> {
    Some(match elem {
        DataType::FLOAT => Datatype::Fp32,
        DataType::UINT8 => Datatype::Uint8,
        DataType::INT8 => Datatype::Int8,
        DataType::UINT16 => Datatype::Uint16,
        DataType::INT16 => Datatype::Int16,
        DataType::INT32 => Datatype::Int32,
        DataType::INT64 => Datatype::Int64,
        DataType::BOOL => Datatype::Bool,
        DataType::FLOAT16 => Datatype::Fp16,
        DataType::DOUBLE => Datatype::Fp64,
        DataType::UINT32 => Datatype::Uint32,
        DataType::UINT64 => Datatype::Uint64,
        DataType::BFLOAT16 => Datatype::Bf16,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_model_says_what_its_card_says() {
        let info = OnnxInfo::read(Path::new("engines/ArcFace/1/model.onnx")).unwrap();
        let spec = |name: &str, shape: &[i64]| TensorSpec {
            name: name.into(),
            datatype: Datatype::Fp32,
            shape: shape.to_vec(),
        };
        assert_eq!(info.inputs, [spec("input", &[-1, 3, 112, 112])]);
        assert_eq!(info.outputs, [spec("embedding", &[-1, 192])]);
        assert_eq!(info.batch_dimension(), Some(BatchDimension::Dynamic));
    }

    #[test]
    fn a_file_that_is_no_model_is_named_as_such() {
        let dir = tempfile::tempdir().unwrap();
        for (bytes, want) in [(&b""[..], "no graph"), (&b"\xff\xff\xff\xff"[..], "not an ONNX model")] {
            let path = dir.path().join("model.onnx");
            std::fs::write(&path, bytes).unwrap();
            let error = OnnxInfo::read(&path).unwrap_err();
            assert!(error.contains(want), "{bytes:?}: {error}");
        }
    }
}
