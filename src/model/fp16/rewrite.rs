//! Writes a graph anew after [`precision`](super::precision) has decided.

use super::batch_norm::Affine;
use super::graph::{Attribute, Graph, Node, attribute_field, graph_field, node_field};
use super::precision::{Decision, Rules, decide, is_folded, wanted};
use super::scope::{Constant, Names, Origin, Precision, Scope, Scopes, Value};
use super::tensor::{Tensor, array, elem, vector};
use super::types::define;
use super::{Fp16Error, Report};
use crate::wire::{Field, Message};

/// What is the same for all graphs of a model.
pub struct Rewriter<'o> {
    /// How to decide.
    pub rules: Rules<'o>,
    /// IR version; below 4, weights are listed as inputs too.
    pub ir_version: i64,
    /// Names that are taken.
    pub names: Names,
    /// What was done so far.
    pub report: Report,
}

/// New weights of a graph, encoded, and their entries among the inputs where those are due.
#[derive(Default)]
struct Weights {
    tensors: Vec<Vec<u8>>,
    inputs: Vec<Vec<u8>>,
}

impl<'a> Rewriter<'_> {
    /// The graph in FP16. `feeds` are the element types of the inputs of the node around it, which those inputs
    /// of the graph have that do not say theirs.
    ///
    /// # Errors
    /// [`Fp16Error`].
    pub fn graph(
        &mut self,
        scopes: &mut Scopes<'a>,
        bytes: &'a [u8],
        feeds: &[i32],
    ) -> Result<Vec<u8>, Fp16Error> {
        let graph = Graph::parse(bytes).map_err(|e| Fp16Error::Damaged(e.to_string()))?;
        scopes.0.push(Scope::default());
        define(scopes, &graph, feeds, self.rules.opset)?;
        for info in &graph.outputs {
            let at = scopes.top().find(info.name).ok_or_else(|| {
                Fp16Error::Damaged(format!("the output \"{}\" is not made in its graph", info.name))
            })?;
            scopes.top_mut().values[at].output = true;
        }
        let decisions = decide(&graph.nodes, scopes, &self.rules)?;
        for value in &mut scopes.top_mut().values {
            if value.output {
                value.used = true;
                if value.is_float() && value.native == Precision::Half {
                    let name = self.names.unique(value.name, "fp16");
                    value.rename(Precision::Half, name);
                    value.both = true;
                }
            }
        }
        let mut weights = Weights::default();
        let mut nodes = Vec::with_capacity(graph.nodes.len());
        for (node, decision) in graph.nodes.iter().zip(decisions) {
            nodes.push(self.node(scopes, node, decision, &mut weights)?);
        }
        let scope = scopes.0.pop().unwrap_or_default();
        self.assemble(&scope, &graph, nodes, weights)
    }

    /// The node anew; nothing where its result is there under another name, or is made later.
    fn node(
        &mut self,
        scopes: &mut Scopes<'a>,
        node: &Node<'a>,
        decision: Decision,
        weights: &mut Weights,
    ) -> Result<Option<Vec<u8>>, Fp16Error> {
        let output = node.outputs.first().and_then(|n| scopes.top().find(n));
        let is_float = |scopes: &Scopes, v: usize| scopes.top().values[v].is_float();
        let touches = |names: &[&str]| names.iter().any(|n| scopes.value(n).is_some_and(Value::is_float));
        if decision == Decision::In(Precision::Half)
            && !node.is("Cast")
            && (touches(&node.inputs) || touches(&node.outputs))
        {
            self.report.half_nodes += 1;
        } else if matches!(decision, Decision::In(Precision::Single)) {
            self.report.single_nodes += 1;
        }
        if let Some(v) = output {
            if node.is("Cast") {
                if self.is_spare_cast(scopes, node, v) {
                    return Ok(None);
                }
            } else if node.is("Constant") && is_float(scopes, v) && scopes.top().values[v].constant.is_some()
            {
                return Ok(None);
            }
        }
        let mut inputs = Vec::with_capacity(node.inputs.len());
        let folded = is_folded(node, decision);
        for (slot, name) in node.inputs.iter().enumerate() {
            if folded && slot > 0 {
                if let Some(at) = scopes.find(name) {
                    scopes.at_mut(at).folded = true;
                }
                continue;
            }
            let mut want = wanted(node, decision, slot);
            if node.is("Cast") && output.is_some_and(|v| is_float(scopes, v)) {
                want = output.map(|v| scopes.top().values[v].native);
            }
            inputs.push(scopes.read(name, want, &mut self.names).unwrap_or_default());
        }
        let feeds: Vec<i32> = node.inputs.iter().map(|n| scopes.value(n).map_or(0, |v| v.elem)).collect();
        let mut attributes = Vec::with_capacity(node.attributes.len());
        for attribute in &node.attributes {
            attributes.push(self.attribute(scopes, attribute, &feeds)?);
        }
        if folded {
            self.fold_into(scopes, node, &mut inputs, &mut attributes, weights)?;
        }
        if let Some(v) = output.filter(|v| is_float(scopes, *v)) {
            let native = scopes.top().values[v].native;
            match node.op {
                "Cast" if node.domain.is_empty() => {
                    set_attribute(&mut attributes, node, "to", Attribute::with_int("to", native.elem()));
                }
                "EyeLike" if node.domain.is_empty() => {
                    set_attribute(
                        &mut attributes,
                        node,
                        "dtype",
                        Attribute::with_int("dtype", native.elem()),
                    );
                }
                "ConstantOfShape" if node.domain.is_empty() && native == Precision::Half => {
                    let value = match node.attribute("value").and_then(Attribute::tensor) {
                        Some(tensor) => tensor
                            .and_then(|t| t.to_fp16(t.name, self.rules.folder, &mut self.report))
                            .map_err(|e| Fp16Error::weights(node.name, e))?,
                        None => array("value", Some(1), &[0.0], &mut self.report),
                    };
                    set_attribute(&mut attributes, node, "value", Attribute::with_tensor("value", value));
                }
                _ => {}
            }
        }
        let outputs: Vec<String> = node
            .outputs
            .iter()
            .map(|n| scopes.top().find(n).map_or("", |v| scopes.top().values[v].native_name()).to_owned())
            .collect();
        Ok(Some(node.with(&inputs, &outputs, attributes)))
    }

    /// Whether a `Cast` has nothing to do any more, as its input is there in the type that it makes; its output
    /// then is that input under another name.
    fn is_spare_cast(&mut self, scopes: &mut Scopes<'a>, node: &Node<'a>, output: usize) -> bool {
        let Some(input) = node.inputs.first().and_then(|n| scopes.value(n)) else { return false };
        let (from_float, from_half) = (input.is_float(), input.elem == elem::FLOAT16);
        let value = &scopes.top().values[output];
        if value.output {
            return false;
        }
        let (native, to_float, to_half) = (value.native, value.is_float(), value.elem == elem::FLOAT16);
        let (precision, slot) = match (from_float, to_float) {
            (true, true) => (native, native),
            (true, false) if to_half => (Precision::Half, Precision::Single),
            (false, true) if from_half && native == Precision::Half => (Precision::Half, Precision::Half),
            _ => return false,
        };
        let Some(name) = scopes.read(node.inputs[0], Some(precision), &mut self.names) else { return false };
        scopes.top_mut().values[output].rename(slot, name);
        true
    }

    fn attribute(
        &mut self,
        scopes: &mut Scopes<'a>,
        attribute: &Attribute<'a>,
        feeds: &[i32],
    ) -> Result<Field<'a>, Fp16Error> {
        let mut message = attribute.message.clone();
        for field in &mut message.0 {
            if matches!(field.number, attribute_field::G | attribute_field::GRAPHS) {
                let bytes = field.borrowed().map_err(|e| Fp16Error::Damaged(e.to_string()))?;
                *field = Field::bytes(field.number, self.graph(scopes, bytes, feeds)?);
            }
        }
        Ok(Field::bytes(node_field::ATTRIBUTE, message.encode()))
    }

    fn fold_into(
        &mut self,
        scopes: &Scopes<'a>,
        node: &Node<'a>,
        inputs: &mut Vec<String>,
        attributes: &mut Vec<Field<'a>>,
        weights: &mut Weights,
    ) -> Result<(), Fp16Error> {
        let Affine { scale, bias } = Affine::of(node, scopes, &self.rules)?
            .ok_or_else(|| Fp16Error::operator(node, "cannot be folded any more".into()))?;
        let (mean, variance) = (vec![0.0; scale.len()], vec![1.0; scale.len()]);
        for (suffix, values) in [("scale", scale), ("bias", bias), ("mean", mean), ("variance", variance)] {
            let name = self.names.unique(node.outputs.first().copied().unwrap_or_default(), suffix);
            let tensor = vector(&name, &values, &mut self.report);
            if self.ir_version < 4 {
                let parsed = Tensor::parse(&tensor).map_err(|e| Fp16Error::weights(&name, e))?;
                weights.inputs.push(parsed.as_input(&name, elem::FLOAT16));
            }
            weights.tensors.push(tensor);
            inputs.push(name);
        }
        set_attribute(attributes, node, "epsilon", Attribute::with_float("epsilon", 0.0));
        Ok(())
    }

    fn assemble(
        &mut self,
        scope: &Scope<'a>,
        graph: &Graph<'a>,
        nodes: Vec<Option<Vec<u8>>>,
        mut weights: Weights,
    ) -> Result<Vec<u8>, Fp16Error> {
        let value_of = |name: &str| scope.find(name).map(|v| &scope.values[v]);
        let is_dropped = |v: &Value| v.folded && !v.used;
        let mut out: Vec<Field> = Vec::new();
        let node = |bytes: Vec<u8>| Field::bytes(graph_field::NODE, bytes);
        for value in scope.values.iter().filter(|v| v.origin == Origin::Input) {
            out.extend(self.cast(value).map(node));
        }
        for (original, rewritten) in graph.nodes.iter().zip(nodes) {
            let constant = rewritten.is_none() && original.is("Constant");
            out.extend(rewritten.map(node));
            for value in original.outputs.iter().filter_map(|n| value_of(n)) {
                if constant {
                    if is_dropped(value) {
                        continue;
                    }
                    for precision in [value.native, value.native.other()] {
                        if precision == value.native || value.both {
                            out.push(node(self.constant(original, value, precision)?));
                        }
                    }
                } else {
                    out.extend(self.cast(value).map(node));
                }
            }
        }
        for tensor in &graph.weights {
            let Some(value) = value_of(tensor.name).filter(|v| !is_dropped(v)) else { continue };
            for precision in [value.native, value.native.other()] {
                if precision != value.native && !value.both {
                    continue;
                }
                let name = value.name_in(precision);
                let encoded = match precision {
                    Precision::Half if value.is_float() => {
                        tensor.to_fp16(name, self.rules.folder, &mut self.report)
                    }
                    Precision::Half | Precision::Single => tensor.renamed(name),
                };
                out.push(Field::bytes(
                    graph_field::INITIALIZER,
                    encoded.map_err(|e| Fp16Error::weights(tensor.name, e))?,
                ));
                if self.ir_version < 4 && name != tensor.name {
                    weights.inputs.push(tensor.as_input(name, precision.elem()));
                }
            }
        }
        out.extend(weights.tensors.into_iter().map(|t| Field::bytes(graph_field::INITIALIZER, t)));
        let sparse = graph.sparse.iter();
        out.extend(sparse.map(|(_, bytes)| Field::bytes(graph_field::SPARSE_INITIALIZER, *bytes)));
        let damaged = |e: crate::wire::WireError| Fp16Error::Damaged(e.to_string());
        for info in &graph.inputs {
            let weight = value_of(info.name).filter(|v| matches!(v.origin, Origin::Weight(_)));
            out.push(match weight {
                Some(value) if is_dropped(value) => continue,
                Some(value) if value.is_float() => {
                    Field::bytes(graph_field::INPUT, info.with_elem(value.native.elem()).map_err(damaged)?)
                }
                Some(_) | None => Field::bytes(graph_field::INPUT, info.bytes),
            });
        }
        out.extend(weights.inputs.into_iter().map(|i| Field::bytes(graph_field::INPUT, i)));
        out.extend(graph.outputs.iter().map(|o| Field::bytes(graph_field::OUTPUT, o.bytes)));
        for info in &graph.value_info {
            let Some(value) = value_of(info.name).filter(|v| v.is_float() || v.native_name() != v.name)
            else {
                out.push(Field::bytes(graph_field::VALUE_INFO, info.bytes));
                continue;
            };
            if value.native_name() == value.name {
                let info = info.with_elem(value.native.elem()).map_err(damaged)?;
                out.push(Field::bytes(graph_field::VALUE_INFO, info));
            } else if value.output {
                out.push(Field::bytes(graph_field::VALUE_INFO, info.bytes));
            }
        }
        out.extend(graph.rest.iter().cloned());
        Ok(Message(out).encode())
    }

    /// The `Cast` that makes the other precision of a value, where that is wanted.
    fn cast(&mut self, value: &Value<'a>) -> Option<Vec<u8>> {
        let other = value.native.other();
        let wanted = value.both && value.is_float();
        wanted.then(|| {
            self.report.casts += 1;
            Node::cast(value.native_name(), value.name_in(other), other.elem())
        })
    }

    fn constant(
        &mut self,
        node: &Node<'a>,
        value: &Value<'a>,
        precision: Precision,
    ) -> Result<Vec<u8>, Fp16Error> {
        let mut attributes: Vec<Field> = Vec::new();
        for attribute in &node.attributes {
            attributes.push(Field::bytes(node_field::ATTRIBUTE, attribute.message.encode()));
        }
        if let (Precision::Half, Some(constant)) = (precision, &value.constant) {
            let tensor = match constant {
                Constant::Tensor(t) => t.to_fp16(t.name, self.rules.folder, &mut self.report),
                Constant::Float(v) => Ok(array("", None, &[*v], &mut self.report)),
                Constant::Floats(v) => Ok(vector("", v, &mut self.report)),
            };
            let tensor = tensor.map_err(|e| Fp16Error::weights(value.name, e))?;
            attributes = vec![Attribute::with_tensor("value", tensor)];
        }
        Ok(node.with(&[], &[value.name_in(precision).to_owned()], attributes))
    }
}

/// Puts an attribute in the place of the one of the same name, or at the end.
fn set_attribute<'a>(fields: &mut Vec<Field<'a>>, node: &Node<'a>, name: &str, field: Field<'a>) {
    match node.attributes.iter().position(|a| a.name == name) {
        Some(at) => fields[at] = field,
        None => fields.push(field),
    }
}
