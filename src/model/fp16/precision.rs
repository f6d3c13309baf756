//! Which nodes compute in FP16.
//!
//! Operators of [`Class::Half`] do, those of [`Class::Single`] do not. On top of the table:
//!
//! - A light operator (a sum, a reshape) stays in FP32 where all that it reads is there in FP32 and all that
//!   reads it wants FP32: two casts less, and the variance of a spelled-out layer normalisation never has to fit
//!   into FP16 on its way from `ReduceMean` over `Add` to `Sqrt`.
//! - A light operator with a constant that FP16 makes zero (`1e-12` against division by zero) stays in FP32, and
//!   so does a division by what an FP32 operator computed: its small values would become zero.
//! - Arithmetic on shapes stays in FP32.
//! - `BatchNormalization` computes in FP16 where its parameters are constant, see [`Affine`]. `QuantizeLinear`
//!   and `DequantizeLinear` do where their scale loses nothing that matters: they have FP16 forms from opset 19
//!   on, and the scale must be a normal FP16 number.

use std::collections::HashSet;
use std::path::Path;

use super::Fp16Error;
use super::batch_norm::Affine;
use super::graph::Node;
use super::operators::{self, Class, Output, carries_shape};
use super::scope::{Origin, Precision, Scopes};
use super::tensor::{elem, is_normal, vanishes};

/// Where a node computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// In that precision.
    In(Precision),
    /// It reads its inputs as they are and gives no floats.
    Free,
    /// It makes floats of none, in that precision.
    Source(Precision),
}

/// What a decision depends on beside the graph.
pub struct Rules<'o> {
    /// Version of the default domain.
    pub opset: i64,
    /// Operators that stay in FP32 by the caller's wish.
    pub fp32: HashSet<&'o str>,
    /// Where external data lies.
    pub folder: &'o Path,
}

/// Whether the node reads that input in FP32 also when it computes in FP16.
fn is_float_input(node: &Node<'_>, slot: usize) -> bool {
    node.domain.is_empty() && operators::find(node.op).is_some_and(|row| row.float_inputs.contains(&slot))
}

/// The precision in which a node reads an input; `None` where it takes any.
pub fn wanted(node: &Node<'_>, decision: Decision, slot: usize) -> Option<Precision> {
    match decision {
        Decision::In(Precision::Half) if is_float_input(node, slot) => Some(Precision::Single),
        Decision::In(precision) => Some(precision),
        Decision::Free | Decision::Source(_) => None,
    }
}

/// Whether the node is a `BatchNormalization` whose parameters are folded, so that it reads its first input only.
pub fn is_folded(node: &Node<'_>, decision: Decision) -> bool {
    node.is("BatchNormalization") && decision == Decision::In(Precision::Half)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Half,
    Single,
    Light,
    Free,
    Source,
}

/// Decides for all nodes of the innermost graph, and sets the precision of its values.
///
/// # Errors
/// [`Fp16Error::Weights`] where a constant that has to be looked at cannot be read.
pub fn decide<'a>(
    nodes: &[Node<'a>],
    scopes: &mut Scopes<'a>,
    rules: &Rules<'_>,
) -> Result<Vec<Decision>, Fp16Error> {
    let mut graph = Analysis::new(nodes, scopes, rules)?;
    graph.keep_light_between_single();
    let Analysis { states, consumers, shape_like, .. } = graph;
    let settled = |i: usize, outputs_single: bool| match states[i] {
        State::Half => Decision::In(Precision::Half),
        State::Single | State::Light => Decision::In(Precision::Single),
        State::Free => Decision::Free,
        State::Source if outputs_single => Decision::Source(Precision::Single),
        State::Source => Decision::Source(Precision::Half),
    };
    let mut natives = Vec::new();
    for (v, value) in scopes.top().values.iter().enumerate() {
        // What can be had in either precision is made in FP32 as soon as one reader wants that: a cast can
        // follow it, but cannot bring back what was lost.
        let wants_single = || {
            let reader = |&(i, slot): &(usize, usize)| {
                let decision = settled(i, false);
                !(is_folded(&nodes[i], decision) && slot > 0)
                    && wanted(&nodes[i], decision, slot) == Some(Precision::Single)
            };
            value.output || shape_like[v] || consumers[v].iter().any(reader)
        };
        let either = |single: bool| if single { Precision::Single } else { Precision::Half };
        natives.push(match value.origin {
            Origin::Input => Precision::Single,
            Origin::Weight(_) => either(wants_single()),
            Origin::Node(i) => match states[i] {
                State::Source => either(wants_single()),
                State::Half if !always_float(&nodes[i], value.name) => Precision::Half,
                State::Half | State::Single | State::Light | State::Free => Precision::Single,
            },
        });
    }
    let mut source_single = vec![false; nodes.len()];
    for (value, native) in scopes.top_mut().values.iter_mut().zip(natives) {
        if value.is_float() {
            value.native = native;
            if let Origin::Node(i) = value.origin {
                source_single[i] |= native == Precision::Single;
            }
        }
    }
    Ok((0..nodes.len()).map(|i| settled(i, source_single[i])).collect())
}

/// Whether an output of the node is FLOAT whatever the precision of its inputs.
fn always_float(node: &Node<'_>, output: &str) -> bool {
    let row = operators::find(node.op).filter(|_| node.domain.is_empty());
    let index = node.outputs.iter().position(|o| *o == output);
    row.zip(index).is_some_and(|(row, index)| row.output(index) == Output::Float)
}

/// The innermost graph with what is known of its nodes (`states`) and values (the rest).
struct Analysis<'g, 'a> {
    nodes: &'g [Node<'a>],
    scopes: &'g Scopes<'a>,
    states: Vec<State>,
    /// Readers of each value of the graph: node and input.
    consumers: Vec<Vec<(usize, usize)>>,
    shape_like: Vec<bool>,
}

impl<'g, 'a> Analysis<'g, 'a> {
    fn new(nodes: &'g [Node<'a>], scopes: &'g Scopes<'a>, rules: &Rules<'_>) -> Result<Self, Fp16Error> {
        let count = scopes.top().values.len();
        let mut consumers = vec![Vec::new(); count];
        for (i, node) in nodes.iter().enumerate() {
            for (slot, name) in node.inputs.iter().enumerate() {
                if let Some(v) = scopes.top().find(name) {
                    consumers[v].push((i, slot));
                }
            }
        }
        let mut this = Self { nodes, scopes, states: Vec::new(), consumers, shape_like: vec![false; count] };
        // Computed by FP32 operators, possibly moved about or scaled since.
        let mut from_single = vec![false; count];
        for node in nodes {
            let shape = this.is_shape_arithmetic(node);
            let mut state = this.first_state(node, rules)?;
            if shape && matches!(state, State::Light | State::Half) {
                state = State::Single;
            }
            let read = |name: &&str| scopes.top().find(name).is_some_and(|v| from_single[v]);
            if node.is("Div") && state == State::Light && node.inputs.get(1).is_some_and(read) {
                state = State::Single;
            }
            let mut moved = node.inputs.iter().filter(|n| this.is_varying_float(n)).peekable();
            let single = state == State::Single
                || (state == State::Light && moved.peek().is_some() && moved.all(read));
            for v in node.outputs.iter().filter_map(|n| scopes.top().find(n)) {
                from_single[v] = single;
                this.shape_like[v] = shape || node.is("Shape") || node.is("Size");
            }
            this.states.push(state);
        }
        Ok(this)
    }

    fn is_varying_float(&self, name: &str) -> bool {
        self.scopes.value(name).is_some_and(|v| v.is_float() && v.constant.is_none() && !is_weight(v.origin))
    }

    /// Whether a node computes part of a shape: of shapes and constants alone.
    fn is_shape_arithmetic(&self, node: &Node<'a>) -> bool {
        let mut shapes = 0;
        let rest = node.inputs.iter().filter(|n| !n.is_empty()).all(|name| {
            if self.scopes.top().find(name).is_some_and(|v| self.shape_like[v]) {
                shapes += 1;
                return true;
            }
            self.scopes.find(name).is_some_and(|at| {
                let value = self.scopes.at(at);
                let constant_node =
                    |i: usize| at.0 + 1 == self.scopes.0.len() && self.nodes[i].is("Constant");
                is_weight(value.origin) || matches!(value.origin, Origin::Node(i) if constant_node(i))
            })
        });
        rest && shapes > 0 && node.domain.is_empty() && carries_shape(node.op)
    }

    fn elem(&self, name: &str) -> i32 {
        self.scopes.value(name).map_or(0, |v| v.elem)
    }

    fn first_state(&self, node: &Node<'a>, rules: &Rules<'_>) -> Result<State, Fp16Error> {
        let input = |i: usize| node.inputs.get(i).map_or(0, |n| self.elem(n));
        let floats_in = node.inputs.iter().any(|n| self.elem(n) == elem::FLOAT);
        let floats_out = node.outputs.iter().any(|n| self.elem(n) == elem::FLOAT);
        if !floats_in && !floats_out {
            return Ok(State::Free);
        }
        let Some(row) = operators::find(node.op).filter(|_| node.domain.is_empty()) else {
            return Ok(State::Single);
        };
        let single = rules.fp32.contains(node.op) || rules.opset < row.since;
        let half = |condition: bool| if condition { State::Half } else { State::Single };
        Ok(match row.class {
            Class::Half => half(!single),
            Class::Light if single || self.has_vanishing_constant(node, rules)? => State::Single,
            Class::Light => State::Light,
            Class::Single(_) | Class::Refused => State::Single,
            Class::Free => State::Free,
            Class::Source if !floats_out => State::Free,
            // A sparse one stays as it is; FP16 readers get it through a cast.
            Class::Source if node.op == "Constant" && !self.is_known(node) => State::Single,
            Class::Source => State::Source,
            Class::Special => match node.op {
                "Cast" if !floats_out => State::Free,
                "Cast" if !floats_in => State::Source,
                "Cast" => State::Light,
                "BatchNormalization" => half(!single && Affine::of(node, self.scopes, rules)?.is_some()),
                // The scale's type decides the other one's from opset 23 on, `output_dtype` where it is given.
                _ => {
                    let floats = if node.op == "QuantizeLinear" { input(0) } else { input(1) };
                    let explicit =
                        node.attribute("output_dtype").and_then(|a| a.int()).is_some_and(|t| t != 0)
                            && node.op == "DequantizeLinear";
                    half(
                        !single
                            && !explicit
                            && floats == elem::FLOAT
                            && self.has_normal_scale(node, rules)?,
                    )
                }
            },
        })
    }

    fn is_known(&self, constant: &Node<'a>) -> bool {
        constant.outputs.iter().all(|n| self.scopes.value(n).is_some_and(|v| v.constant.is_some()))
    }

    fn has_vanishing_constant(&self, node: &Node<'a>, rules: &Rules<'_>) -> Result<bool, Fp16Error> {
        for name in &node.inputs {
            let constant = self.scopes.value(name).and_then(|v| v.constant.as_ref());
            if let Some(constant) = constant.filter(|c| c.len() == Some(1)) {
                let values = constant.floats(rules.folder).map_err(|e| Fp16Error::weights(name, e))?;
                if values.iter().any(|v| vanishes(*v)) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn has_normal_scale(&self, node: &Node<'a>, rules: &Rules<'_>) -> Result<bool, Fp16Error> {
        let Some(name) = node.inputs.get(1) else { return Ok(false) };
        let Some(constant) = self.scopes.value(name).and_then(|v| v.constant.as_ref()) else {
            return Ok(false);
        };
        let values = constant.floats(rules.folder).map_err(|e| Fp16Error::weights(name, e))?;
        Ok(values.iter().all(|v| is_normal(*v)))
    }

    /// Leaves those light nodes light that can be in FP32 without a cast; the others become FP16.
    fn keep_light_between_single(&mut self) {
        let mut suspects: Vec<usize> =
            (0..self.nodes.len()).filter(|i| self.states[*i] == State::Light).collect();
        while let Some(i) = suspects.pop() {
            if self.states[i] != State::Light || self.can_be_single(i) {
                continue;
            }
            self.states[i] = State::Half;
            for name in self.nodes[i].inputs.iter().chain(&self.nodes[i].outputs) {
                let Some(v) = self.scopes.top().find(name) else { continue };
                suspects.extend(self.consumers[v].iter().map(|c| c.0));
                if let Origin::Node(j) = self.scopes.top().values[v].origin {
                    suspects.push(j);
                }
            }
        }
    }

    fn can_be_single(&self, i: usize) -> bool {
        let node = &self.nodes[i];
        let top = self.scopes.0.len() - 1;
        let reads = node.inputs.iter().all(|name| {
            let Some(at) = self.scopes.find(name) else { return true };
            let value = self.scopes.at(at);
            if !value.is_float() {
                return true;
            }
            match value.origin {
                Origin::Input | Origin::Weight(_) => true,
                Origin::Node(_) if at.0 < top => {
                    value.native == Precision::Single || value.constant.is_some()
                }
                Origin::Node(j) => self.states[j] != State::Half,
            }
        });
        reads
            && node.outputs.iter().filter_map(|n| self.scopes.top().find(n)).all(|v| {
                !self.scopes.top().values[v].is_float()
                    || self.consumers[v].iter().all(|&(j, slot)| {
                        self.states[j] != State::Half || is_float_input(&self.nodes[j], slot)
                    })
            })
    }
}

fn is_weight(origin: Origin) -> bool {
    matches!(origin, Origin::Weight(_))
}
