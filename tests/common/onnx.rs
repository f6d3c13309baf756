//! Writes the small ONNX models that the tests serve.

use std::cell::RefCell;

use rten_onnx::onnx::{
    AttributeProto, AttributeType, DataLocation, DataType, Dimension, GraphProto, ModelProto, NodeProto,
    OperatorSetIdProto, StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto, TypeProtoTensor,
    ValueInfoProto,
};

/// Element types by their ONNX names.
pub type Kind = DataType;

/// A graph being put together.
#[derive(Default)]
pub struct Graph(GraphProto);

impl Graph {
    pub fn input(mut self, name: &str, kind: DataType, shape: &[i64]) -> Self {
        self.0.input.push(value(name, kind, shape));
        self
    }

    pub fn output(mut self, name: &str, kind: DataType, shape: &[i64]) -> Self {
        self.0.output.push(value(name, kind, shape));
        self
    }

    pub fn weights(mut self, name: &str, dims: &[i64], values: &[f32]) -> Self {
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.0.initializer.push(TensorProto {
            dims: dims.to_vec(),
            data_type: Some(DataType::FLOAT),
            raw_data: Some(RefCell::new(data)),
            name: Some(name.into()),
            ..TensorProto::default()
        });
        self
    }

    /// FP32 weights in another file.
    pub fn external(mut self, name: &str, dims: &[i64], location: &str) -> Self {
        let entry = |key: &str, value: &str| StringStringEntryProto {
            key: Some(key.into()),
            value: Some(value.into()),
        };
        self.0.initializer.push(TensorProto {
            dims: dims.to_vec(),
            data_type: Some(DataType::FLOAT),
            name: Some(name.into()),
            external_data: vec![entry("location", location), entry("offset", "0")],
            data_location: Some(DataLocation::EXTERNAL),
            ..TensorProto::default()
        });
        self
    }

    pub fn node(self, op: &str, inputs: &[&str], output: &str) -> Self {
        self.node_with(op, inputs, output, vec![])
    }

    pub fn node_with(
        mut self,
        op: &str,
        inputs: &[&str],
        output: &str,
        attribute: Vec<AttributeProto>,
    ) -> Self {
        self.0.node.push(NodeProto {
            name: Some(format!("{op}_{output}")),
            input: inputs.iter().map(|s| (*s).into()).collect(),
            output: vec![output.into()],
            op_type: Some(op.into()),
            attribute,
            ..NodeProto::default()
        });
        self
    }

    /// The bytes of `model.onnx`.
    pub fn model(self) -> Vec<u8> {
        let model = ModelProto {
            ir_version: Some(8),
            graph: Some(self.0),
            opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(13) }],
            ..ModelProto::default()
        };
        model.write_buf().expect("models of the tests can be written")
    }
}

pub fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        i: Some(value),
        r#type: Some(AttributeType::INT),
        ..AttributeProto::default()
    }
}

pub fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        ints: values.to_vec(),
        r#type: Some(AttributeType::INTS),
        ..AttributeProto::default()
    }
}

fn value(name: &str, kind: DataType, shape: &[i64]) -> ValueInfoProto {
    let dim = |(i, d): (usize, &i64)| {
        let fixed = *d >= 0;
        Dimension { dim_value: fixed.then_some(*d), dim_param: (!fixed).then(|| format!("d{i}")) }
    };
    let shape = TensorShapeProto { dim: shape.iter().enumerate().map(dim).collect() };
    let tensor = TypeProtoTensor { elem_type: Some(kind), shape: Some(shape) };
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto { tensor_type: Some(tensor), sequence: None }),
    }
}

/// Weights of [`classifier`], `[3, 4]`, and its bias.
pub const WEIGHTS: [[f32; 4]; 3] = [[1.0, -2.0, 0.5, 0.25], [0.5, 1.5, -1.0, 0.75], [-0.25, 0.5, 2.0, -1.5]];
pub const BIAS: [f32; 4] = [0.1, 0.2, -0.3, 0.0];

/// How a classifier wants its images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pixels {
    /// FP32 `[batch, 3, 8, 8]`.
    Nchw,
    /// FP32 `[batch, 8, 8, 3]`.
    Nhwc,
    /// UINT8 `[batch, 3, 8, 8]`.
    Uint8,
    /// FP32 `[batch, 3, height, width]`.
    AnySize,
}

/// Mean of each channel times [`WEIGHTS`] times `factor`, plus [`BIAS`]: `logits`, FP32 `[batch, 4]`.
pub fn classifier(pixels: Pixels, factor: f32) -> Vec<u8> {
    let (kind, shape) = match pixels {
        Pixels::Nchw => (DataType::FLOAT, [-1, 3, 8, 8]),
        Pixels::Nhwc => (DataType::FLOAT, [-1, 8, 8, 3]),
        Pixels::Uint8 => (DataType::UINT8, [-1, 3, 8, 8]),
        Pixels::AnySize => (DataType::FLOAT, [-1, 3, -1, -1]),
    };
    let graph = Graph::default().input("pixels", kind, &shape).output("logits", DataType::FLOAT, &[-1, 4]);
    let graph = match pixels {
        Pixels::Nchw | Pixels::AnySize => graph.node("GlobalAveragePool", &["pixels"], "pooled"),
        Pixels::Nhwc => graph
            .node_with("Transpose", &["pixels"], "planes", vec![ints("perm", &[0, 3, 1, 2])])
            .node("GlobalAveragePool", &["planes"], "pooled"),
        Pixels::Uint8 => graph.node_with("Cast", &["pixels"], "levels", vec![int("to", 1)]).node(
            "GlobalAveragePool",
            &["levels"],
            "pooled",
        ),
    };
    let weights: Vec<f32> = WEIGHTS.iter().flatten().map(|w| w * factor).collect();
    graph
        .node_with("Flatten", &["pooled"], "channels", vec![int("axis", 1)])
        .weights("weights", &[3, 4], &weights)
        .weights("bias", &[4], &BIAS)
        .node("Gemm", &["channels", "weights", "bias"], "logits")
        .model()
}

/// `sum = a + b` (FP32) and `twice = b + b` (of `b`'s kind), both shaped like the inputs.
pub fn two_inputs(b: DataType, shape: &[i64]) -> Vec<u8> {
    Graph::default()
        .input("a", DataType::FLOAT, shape)
        .input("b", b, shape)
        .output("sum", DataType::FLOAT, shape)
        .output("twice", b, shape)
        .node_with("Cast", &["b"], "b_float", vec![int("to", 1)])
        .node("Add", &["a", "b_float"], "sum")
        .node("Add", &["b", "b"], "twice")
        .model()
}

/// `y = x + x`, FP32.
pub fn doubled(shape: &[i64]) -> Vec<u8> {
    Graph::default()
        .input("x", DataType::FLOAT, shape)
        .output("y", DataType::FLOAT, shape)
        .node("Add", &["x", "x"], "y")
        .model()
}
