//! ONNX graphs taken apart far enough to be rewritten; every field that is not named here stays as it is.
//!
//! Field numbers: <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>.

use std::collections::HashSet;

use super::tensor::{Tensor, TensorError};
use crate::wire::{Field, Fields, Message, Value, WireError};

/// Field numbers of `GraphProto`.
pub mod graph_field {
    pub const NODE: u32 = 1;
    pub const INITIALIZER: u32 = 5;
    pub const INPUT: u32 = 11;
    pub const OUTPUT: u32 = 12;
    pub const VALUE_INFO: u32 = 13;
    pub const SPARSE_INITIALIZER: u32 = 15;
}

/// Field numbers of `NodeProto`.
pub mod node_field {
    pub const INPUT: u32 = 1;
    pub const OUTPUT: u32 = 2;
    pub const NAME: u32 = 3;
    pub const OP_TYPE: u32 = 4;
    pub const ATTRIBUTE: u32 = 5;
    pub const DOMAIN: u32 = 7;
}

/// Field numbers of `AttributeProto`, and its types.
pub mod attribute_field {
    pub const NAME: u32 = 1;
    pub const F: u32 = 2;
    pub const I: u32 = 3;
    pub const T: u32 = 5;
    pub const G: u32 = 6;
    pub const FLOATS: u32 = 7;
    pub const GRAPHS: u32 = 11;
    pub const TYPE: u32 = 20;
    pub const TYPE_FLOAT: u64 = 1;
    pub const TYPE_INT: u64 = 2;
    pub const TYPE_TENSOR: u64 = 4;
}

/// An attribute of a node.
#[derive(Debug, Clone)]
pub struct Attribute<'a> {
    /// Its name.
    pub name: &'a str,
    /// All of it.
    pub message: Message<'a>,
}

impl<'a> Attribute<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        let message = Message::parse(bytes)?;
        let name = message.last(attribute_field::NAME).map(Field::as_text).transpose()?.unwrap_or_default();
        Ok(Self { name, message })
    }

    /// `i`.
    pub fn int(&self) -> Option<i64> {
        self.message.last(attribute_field::I)?.as_i64().ok()
    }

    /// `f`.
    pub fn float(&self) -> Option<f32> {
        match self.message.last(attribute_field::F)?.value {
            Value::Fixed32(b) => Some(f32::from_le_bytes(b)),
            Value::Varint(_) | Value::Fixed64(_) | Value::Bytes(_) => None,
        }
    }

    /// `floats`, packed or not.
    pub fn floats(&self) -> Vec<f32> {
        let mut out = Vec::new();
        for field in self.message.all(attribute_field::FLOATS) {
            match &field.value {
                Value::Fixed32(b) => out.push(f32::from_le_bytes(*b)),
                Value::Bytes(b) => out.extend(b.as_chunks().0.iter().map(|c| f32::from_le_bytes(*c))),
                Value::Varint(_) | Value::Fixed64(_) => {}
            }
        }
        out
    }

    /// `t`.
    pub fn tensor(&self) -> Option<Result<Tensor<'a>, TensorError>> {
        let field = self.message.last(attribute_field::T)?;
        Some(field.borrowed().map_err(TensorError::from).and_then(Tensor::parse))
    }

    /// The encoded graphs in it.
    pub fn graphs(&self) -> impl Iterator<Item = Result<&'a [u8], WireError>> {
        let is_graph = |f: &&Field| matches!(f.number, attribute_field::G | attribute_field::GRAPHS);
        self.message.0.iter().filter(is_graph).map(Field::borrowed)
    }

    /// A new attribute that holds a number.
    pub fn with_int(name: &str, value: i32) -> Field<'static> {
        Self::made(
            name,
            attribute_field::TYPE_INT,
            Field::varint(attribute_field::I, i64::from(value).cast_unsigned()),
        )
    }

    /// A new attribute that holds a float.
    pub fn with_float(name: &str, value: f32) -> Field<'static> {
        let value = Field { number: attribute_field::F, value: Value::Fixed32(value.to_le_bytes()) };
        Self::made(name, attribute_field::TYPE_FLOAT, value)
    }

    /// A new attribute that holds a tensor.
    pub fn with_tensor(name: &str, tensor: Vec<u8>) -> Field<'static> {
        Self::made(name, attribute_field::TYPE_TENSOR, Field::bytes(attribute_field::T, tensor))
    }

    fn made(name: &str, kind: u64, value: Field<'static>) -> Field<'static> {
        let message = Message(vec![
            Field::text(attribute_field::NAME, name),
            value,
            Field::varint(attribute_field::TYPE, kind),
        ]);
        Field::bytes(node_field::ATTRIBUTE, message.encode())
    }
}

/// A node of a graph.
#[derive(Debug, Clone, Default)]
pub struct Node<'a> {
    /// Operator.
    pub op: &'a str,
    /// Its domain; empty for ONNX's own.
    pub domain: &'a str,
    /// Its name, which may be empty.
    pub name: &'a str,
    /// Values that it reads; empty names stand for absent ones.
    pub inputs: Vec<&'a str>,
    /// Values that it makes.
    pub outputs: Vec<&'a str>,
    /// Its attributes.
    pub attributes: Vec<Attribute<'a>>,
    rest: Vec<Field<'a>>,
}

impl<'a> Node<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut node = Self::default();
        for field in Message::parse(bytes)?.0 {
            match field.number {
                node_field::INPUT => node.inputs.push(field.as_text()?),
                node_field::OUTPUT => node.outputs.push(field.as_text()?),
                node_field::ATTRIBUTE => node.attributes.push(Attribute::parse(field.borrowed()?)?),
                node_field::NAME => {
                    node.name = field.as_text()?;
                    node.rest.push(field);
                }
                node_field::OP_TYPE => {
                    node.op = field.as_text()?;
                    node.rest.push(field);
                }
                node_field::DOMAIN => {
                    node.domain = field.as_text()?;
                    node.rest.push(field);
                }
                _ => node.rest.push(field),
            }
        }
        if node.domain == "ai.onnx" {
            node.domain = "";
        }
        Ok(node)
    }

    /// The operator, if it is one of ONNX's default domain.
    pub fn is(&self, op: &str) -> bool {
        self.domain.is_empty() && self.op == op
    }

    /// The attribute of that name.
    pub fn attribute(&self, name: &str) -> Option<&Attribute<'a>> {
        self.attributes.iter().find(|a| a.name == name)
    }

    /// The node with other inputs, outputs and attributes.
    pub fn with(&self, inputs: &[String], outputs: &[String], attributes: Vec<Field<'a>>) -> Vec<u8> {
        let mut out: Vec<Field> = inputs.iter().map(|n| Field::text(node_field::INPUT, n)).collect();
        out.extend(outputs.iter().map(|n| Field::text(node_field::OUTPUT, n)));
        out.extend(self.rest.iter().cloned());
        out.extend(attributes);
        Message(out).encode()
    }

    /// A `Cast` of `from` to the element type `to`, named after the value that it makes.
    pub fn cast(from: &str, into: &str, to: i32) -> Vec<u8> {
        let fields = vec![
            Field::text(node_field::INPUT, from),
            Field::text(node_field::OUTPUT, into),
            Field::text(node_field::NAME, &format!("Cast_{into}")),
            Field::text(node_field::OP_TYPE, "Cast"),
            Attribute::with_int("to", to),
        ];
        Message(fields).encode()
    }
}

/// Name and type of a value (`ValueInfoProto`).
#[derive(Debug, Clone)]
pub struct ValueInfo<'a> {
    /// The value.
    pub name: &'a str,
    /// Its element type; `None` where it is not said, 0 where it is no tensor.
    pub elem: Option<i32>,
    /// All of it.
    pub bytes: &'a [u8],
}

impl<'a> ValueInfo<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut info = Self { name: "", elem: None, bytes };
        for field in Fields::new(bytes) {
            let field = field?;
            match field.number {
                1 => info.name = field.as_text()?,
                2 => info.elem = elem_of(field.borrowed()?)?,
                _ => {}
            }
        }
        Ok(info)
    }

    /// The same with another element type.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn with_elem(&self, elem: i32) -> Result<Vec<u8>, WireError> {
        let mut info = Message::parse(self.bytes)?;
        if let Some(kind) = info.last(2) {
            let mut kind = Message::parse(kind.borrowed()?)?;
            if let Some(tensor) = kind.last(1) {
                let mut tensor = Message::parse(tensor.borrowed()?)?;
                tensor.set(Field::varint(1, i64::from(elem).cast_unsigned()));
                kind.set(Field::bytes(1, tensor.encode()));
            }
            let kind = kind.encode();
            info.set(Field::bytes(2, kind));
        }
        Ok(info.encode())
    }
}

/// Element type in a `TypeProto`.
fn elem_of(kind: &[u8]) -> Result<Option<i32>, WireError> {
    let mut elem = None;
    for field in Fields::new(kind) {
        let field = field?;
        match field.number {
            1 => {
                for part in Fields::new(field.borrowed()?) {
                    let part = part?;
                    if part.number == 1 {
                        elem = Some(part.as_i32()?).filter(|e| *e != 0);
                    }
                }
            }
            // sequence_type, map_type, sparse_tensor_type, optional_type
            4 | 5 | 8 | 9 => elem = Some(0),
            _ => {}
        }
    }
    Ok(elem)
}

/// A graph.
#[derive(Debug, Clone, Default)]
pub struct Graph<'a> {
    /// Nodes, each behind those it reads from.
    pub nodes: Vec<Node<'a>>,
    /// Weights.
    pub weights: Vec<Tensor<'a>>,
    /// Sparse weights: the tensor of their values, and all of it.
    pub sparse: Vec<(Tensor<'a>, &'a [u8])>,
    /// Inputs; in old models the weights too.
    pub inputs: Vec<ValueInfo<'a>>,
    /// Outputs.
    pub outputs: Vec<ValueInfo<'a>>,
    /// Types of values in between.
    pub value_info: Vec<ValueInfo<'a>>,
    /// Everything else.
    pub rest: Vec<Field<'a>>,
}

impl<'a> Graph<'a> {
    /// Takes an encoded `GraphProto` apart.
    ///
    /// # Errors
    /// [`TensorError::Wire`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, TensorError> {
        let mut graph = Self::default();
        for field in Message::parse(bytes)?.0 {
            match field.number {
                graph_field::NODE => graph.nodes.push(Node::parse(field.borrowed()?)?),
                graph_field::INITIALIZER => graph.weights.push(Tensor::parse(field.borrowed()?)?),
                graph_field::SPARSE_INITIALIZER => {
                    let bytes = field.borrowed()?;
                    let mut values = Tensor::default();
                    for part in Fields::new(bytes) {
                        let part = part?;
                        if part.number == 1 {
                            values = Tensor::parse(part.borrowed()?)?;
                        }
                    }
                    graph.sparse.push((values, bytes));
                }
                graph_field::INPUT => graph.inputs.push(ValueInfo::parse(field.borrowed()?)?),
                graph_field::OUTPUT => graph.outputs.push(ValueInfo::parse(field.borrowed()?)?),
                graph_field::VALUE_INFO => graph.value_info.push(ValueInfo::parse(field.borrowed()?)?),
                _ => graph.rest.push(field),
            }
        }
        Ok(graph)
    }

    /// The element types of a graph's outputs, in order; nothing else of it is read.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn output_elems(bytes: &'a [u8]) -> Result<Vec<Option<i32>>, WireError> {
        let mut elems = Vec::new();
        for field in Fields::new(bytes) {
            let field = field?;
            if field.number == graph_field::OUTPUT {
                elems.push(ValueInfo::parse(field.borrowed()?)?.elem);
            }
        }
        Ok(elems)
    }

    /// Puts every name of a value, here and in the graphs inside, into `names`, and every operator into `ops`.
    ///
    /// # Errors
    /// `None` where graphs lie deeper than `depth` in each other.
    pub fn collect(
        &self,
        depth: usize,
        names: &mut HashSet<String>,
        ops: &mut HashSet<&'a str>,
    ) -> Result<Option<()>, TensorError> {
        let Some(depth) = depth.checked_sub(1) else { return Ok(None) };
        let infos = self.inputs.iter().chain(&self.outputs).chain(&self.value_info).map(|v| v.name);
        let weights = self.weights.iter().chain(self.sparse.iter().map(|s| &s.0)).map(|t| t.name);
        names.extend(infos.chain(weights).map(str::to_owned));
        for node in &self.nodes {
            ops.insert(node.op);
            names.extend(node.inputs.iter().chain(&node.outputs).map(|n| (*n).to_owned()));
            for bytes in node.attributes.iter().flat_map(Attribute::graphs) {
                if Self::parse(bytes?)?.collect(depth, names, ops)?.is_none() {
                    return Ok(None);
                }
            }
        }
        Ok(Some(()))
    }
}
