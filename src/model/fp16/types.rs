//! The values of a graph and their element types.

use super::Fp16Error;
use super::graph::{Attribute, Graph, Node, ValueInfo};
use super::operators::{self, Class, Output};
use super::scope::{Constant, Origin, Scopes, Value};
use super::tensor::{Tensor, elem};
use crate::wire::Message;

/// Puts all values of `graph` into the innermost scope. Inputs that do not say their type have that of `feeds`,
/// the inputs of the node around the graph.
///
/// # Errors
/// [`Fp16Error`] for values that are made twice or not at all, whose type is not known, or that cannot be
/// rewritten.
pub fn define<'a>(
    scopes: &mut Scopes<'a>,
    graph: &Graph<'a>,
    feeds: &[i32],
    opset: i64,
) -> Result<(), Fp16Error> {
    let twice = |name: &str| Fp16Error::Damaged(format!("the value \"{name}\" is made twice"));
    for (i, tensor) in graph.weights.iter().enumerate() {
        let mut value = Value::new(tensor.name, tensor.elem, Origin::Weight(i));
        value.constant = value.is_float().then(|| Constant::Tensor(tensor.clone()));
        scopes.top_mut().define(value).map_err(twice)?;
    }
    for (tensor, _) in &graph.sparse {
        scopes.top_mut().define(Value::new(tensor.name, tensor.elem, Origin::Input)).map_err(twice)?;
    }
    for (i, info) in graph.inputs.iter().enumerate() {
        if scopes.top().find(info.name).is_some() {
            continue;
        }
        let elem = info
            .elem
            .or(feeds.get(i).copied())
            .ok_or_else(|| Fp16Error::Damaged(format!("the input \"{}\" has no element type", info.name)))?;
        scopes.top_mut().define(Value::new(info.name, elem, Origin::Input)).map_err(twice)?;
    }
    for (i, node) in graph.nodes.iter().enumerate() {
        if let Some(name) = node.inputs.iter().find(|n| !n.is_empty() && scopes.find(n).is_none()) {
            return Err(Fp16Error::operator(
                node,
                format!("reads \"{name}\", which nothing makes before it"),
            ));
        }
        let row = operators::find(node.op).filter(|_| node.domain.is_empty());
        if row.is_some_and(|row| row.class == Class::Refused) {
            return Err(Fp16Error::operator(node, "works on sequences, which have no FP16 form".into()));
        }
        // PyTorch writes equal weights once, and an Identity for each further use.
        let constant = match (node.op, node.inputs.first()) {
            ("Constant", _) if node.domain.is_empty() => Constant::of(node).transpose(),
            ("Identity", Some(input)) if node.domain.is_empty() => {
                Ok(scopes.value(input).and_then(|v| v.constant.clone()))
            }
            _ => Ok(None),
        };
        let constant = constant.map_err(|e| Fp16Error::weights(node.name, e))?;
        for (o, name) in node.outputs.iter().enumerate().filter(|(_, n)| !n.is_empty()) {
            let mut value = Value::new(name, output_elem(scopes, graph, node, o, opset)?, Origin::Node(i));
            value.constant.clone_from(&constant);
            scopes.top_mut().define(value).map_err(twice)?;
        }
    }
    Ok(())
}

/// Element type of an output of a node whose inputs are defined.
fn output_elem<'a>(
    scopes: &Scopes<'a>,
    graph: &Graph<'a>,
    node: &Node<'a>,
    output: usize,
    opset: i64,
) -> Result<i32, Fp16Error> {
    let like = |i: usize| {
        let name = node.inputs.get(i).filter(|n| !n.is_empty());
        name.and_then(|n| scopes.value(n))
            .map(|v| v.elem)
            .ok_or_else(|| Fp16Error::operator(node, format!("has no input {i}")))
    };
    let int = |name: &str| node.attribute(name).and_then(Attribute::int).and_then(|v| i32::try_from(v).ok());
    let rule = match operators::find(node.op).filter(|_| node.domain.is_empty()) {
        Some(row) => row.output(output),
        None => Output::Declared,
    };
    Ok(match (node.op, rule) {
        ("Constant", _) => constant_elem(node),
        ("ConstantOfShape", _) => match node.attribute("value").and_then(Attribute::tensor) {
            Some(tensor) => tensor.map_err(|e| Fp16Error::weights(node.name, e))?.elem,
            None => elem::FLOAT,
        },
        ("Dropout", _) if opset < 10 => like(0)?,
        ("DequantizeLinear", _) => match int("output_dtype") {
            Some(t) if t != 0 => t,
            _ => like(1)?,
        },
        (_, Output::Like(i)) => like(i)?,
        (_, Output::Float) => elem::FLOAT,
        (_, Output::Other) => 0,
        (op, Output::Attribute(name)) => match (int(name), op) {
            (Some(t), _) => t,
            (None, "Cast" | "BitCast") => {
                return Err(Fp16Error::operator(node, format!("has no attribute \"{name}\"")));
            }
            (None, "EyeLike" | "RandomNormalLike" | "RandomUniformLike" | "Bernoulli") => like(0)?,
            (None, _) => elem::FLOAT,
        },
        (op, Output::Declared) => {
            let body = node.attributes.iter().flat_map(Attribute::graphs).next();
            let elems = body.and_then(|bytes| Graph::output_elems(bytes.ok()?).ok()).unwrap_or_default();
            let index = if op == "Loop" { output + 1 } else { output };
            let named = |v: &&ValueInfo| v.name == node.outputs[output];
            let declared = graph.value_info.iter().chain(&graph.outputs).find(named).and_then(|v| v.elem);
            elems.get(index).copied().flatten().or(declared).ok_or_else(|| {
                let name = node.outputs[output];
                Fp16Error::operator(
                    node,
                    format!("makes \"{name}\" of unknown type; run onnx.shape_inference on the model"),
                )
            })?
        }
    })
}

/// Element type of what a `Constant` node makes.
fn constant_elem(node: &Node<'_>) -> i32 {
    let tensor = node.attribute("value").and_then(Attribute::tensor).and_then(Result::ok);
    // Sparse values are looked at for their type alone: the node stays as it is and a cast follows it.
    let sparse = || {
        let field = node.attribute("sparse_value")?.message.last(22)?.borrowed().ok()?;
        let values = Message::parse(field).ok()?;
        Tensor::parse(values.last(1)?.borrowed().ok()?).ok().map(|t| t.elem)
    };
    match tensor.map(|t| t.elem).or_else(sparse) {
        Some(elem) => elem,
        None if node.attribute("value_float").is_some() || node.attribute("value_floats").is_some() => {
            elem::FLOAT
        }
        None => 0,
    }
}
