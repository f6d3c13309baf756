//! An ONNX graph in FP32, rewritten to compute in FP16.
//!
//! TensorRT 10 has a builder flag for this. TensorRT 11 and TensorRT-RTX build strongly typed networks only,
//! which compute in the types that the graph has, so the graph itself has to be in FP16. What becomes of it:
//!
//! - Inputs and outputs keep name, type and shape; a `Cast` stands at each edge.
//! - Weights, `Constant` nodes and the values between FP16 operators become FP16. Weights beyond ±65504 become
//!   ±65504 (infinities stay), those of 2^-25 and less become zero; the log says how many.
//! - Operators that FP16 is too narrow or too coarse for stay in FP32, see `operators` and `precision`, and
//!   so do those of other domains. Each value is cast once, however many read it; a weight that is read in both
//!   precisions is there twice.
//! - The bodies of `If`, `Loop` and `Scan` are rewritten in the same way; what goes in and out of them is FP32.
//! - FP16, BF16, double and quantised tensors stay, and so do the opset and the IR version. A model in which
//!   nothing computes in FP32 is returned byte by byte.
//! - Functions of the model's own, sequences of tensors, and operators whose result has no known type are
//!   refused by name.
//!
//! The protobuf is rewritten field by field (`crate::wire`). rten-onnx, which reads models elsewhere in this crate,
//! declares only what its engine uses: reading and writing with it loses the names of graphs, `doc_string`,
//! `functions`, `metadata_props` of nodes, sparse weights, quantisation annotations, attributes that list tensors
//! or graphs, and whatever later versions of ONNX add, and refuses attributes that are bytes and not text. Here,
//! what is not looked at is written as it was read.

mod batch_norm;
mod graph;
mod operators;
mod precision;
mod rewrite;
mod scope;
mod tensor;
#[cfg(test)]
mod tests;
mod types;

use std::collections::HashSet;
use std::path::Path;

use crate::wire::{self, Field, Message};
use graph::{Graph, Node};
use precision::Rules;
use rewrite::Rewriter;
use scope::{Names, Scopes};
use tensor::TensorError;

/// Graphs that may lie in each other.
const MAX_DEPTH: usize = 16;

/// Bytes that a protobuf message may have (<https://protobuf.dev/programming-guides/proto-limits/>).
const MAX_BYTES: usize = i32::MAX as usize;

/// Field numbers of `ModelProto`.
mod field {
    pub const IR_VERSION: u32 = 1;
    pub const GRAPH: u32 = 7;
    pub const OPSET_IMPORT: u32 = 8;
    pub const FUNCTIONS: u32 = 25;
}

/// What the rewriting can be told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fp16Options {
    /// Operators (`op_type`, such as `Softmax`) that stay in FP32 beside those that do anyway.
    pub fp32_operators: Vec<String>,
}

/// What the rewriting did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Finite weights beyond ±65504, which became ±65504.
    pub clamped: u64,
    /// Weights other than zero that became zero.
    pub flushed: u64,
    /// `Cast` nodes that were added.
    pub casts: u64,
    /// Nodes that computed in FP32 and now do in FP16.
    pub half_nodes: u64,
    /// Nodes that stay in FP32.
    pub single_nodes: u64,
}

/// Why a model cannot be rewritten.
#[derive(Debug, thiserror::Error)]
pub enum Fp16Error {
    /// The bytes are no ONNX model.
    #[error("the model is damaged: {0}")]
    Damaged(String),
    /// Graphs lie too deep in each other.
    #[error("the model has graphs more than {MAX_DEPTH} deep in each other")]
    Depth,
    /// The model, or what would become of it, is longer than protobuf allows.
    #[error("the model takes {0} bytes in FP16 without external data, more than the {MAX_BYTES} of protobuf")]
    Size(usize),
    /// The model has functions of its own.
    #[error(
        "the model has functions of its own (\"{0}\"); write it again with onnx.inliner.inline_local_functions"
    )]
    Functions(String),
    /// A node cannot be rewritten.
    #[error("node \"{node}\" (operator {operator}) {why}")]
    Operator {
        /// Its name, or that of its first output.
        node: String,
        /// Its operator.
        operator: String,
        /// What is wrong with it.
        why: String,
    },
    /// A weight cannot be read.
    #[error("the weight \"{name}\" {why}")]
    Weights {
        /// Its name.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// An operator that is to stay in FP32 does not exist.
    #[error(
        "fp32_operators has \"{0}\", which is neither an operator of ONNX nor of the model; check the spelling"
    )]
    UnknownOperator(String),
}

impl Fp16Error {
    fn operator(node: &Node<'_>, why: String) -> Self {
        let named = Some(node.name).filter(|n| !n.is_empty()).or(node.outputs.first().copied());
        Self::Operator { node: named.unwrap_or_default().to_owned(), operator: node.op.to_owned(), why }
    }

    fn weights(name: &str, source: TensorError) -> Self {
        Self::Weights { name: name.to_owned(), why: source.to_string() }
    }
}

impl From<TensorError> for Fp16Error {
    fn from(error: TensorError) -> Self {
        Self::Damaged(error.to_string())
    }
}

impl From<wire::WireError> for Fp16Error {
    fn from(error: wire::WireError) -> Self {
        Self::Damaged(error.to_string())
    }
}

/// Rewrites an encoded `ModelProto`; `path` is its file, beside which external data lies.
///
/// Weights that FP16 cannot hold are counted in the log as a warning.
///
/// # Errors
/// As [`rewrite()`].
pub fn to_fp16(model: &[u8], path: &Path, options: &Fp16Options) -> Result<Vec<u8>, Fp16Error> {
    let (out, report) = rewrite(model, path, options)?;
    let model = path.display();
    tracing::debug!(
        %model,
        fp16_nodes = report.half_nodes,
        fp32_nodes = report.single_nodes,
        casts = report.casts,
        "rewrote the graph to FP16"
    );
    if report.clamped > 0 {
        tracing::warn!(
            %model,
            weights = report.clamped,
            "weights beyond ±65504 became ±65504 in FP16; compare the results with those of precision \"fp32\""
        );
    }
    if report.flushed > 0 {
        tracing::debug!(%model, weights = report.flushed, "weights of 2^-25 and less became zero in FP16");
    }
    Ok(out)
}

/// Rewrites an encoded `ModelProto`, and says what it did.
///
/// # Errors
/// [`Fp16Error`].
pub fn rewrite(model: &[u8], path: &Path, options: &Fp16Options) -> Result<(Vec<u8>, Report), Fp16Error> {
    if model.len() > MAX_BYTES {
        return Err(Fp16Error::Size(model.len()));
    }
    let mut message = Message::parse(model)?;
    if let Some(function) = message.last(field::FUNCTIONS) {
        let function = Message::parse(function.borrowed()?)?;
        let name = function.last(1).map(Field::as_text).transpose()?.unwrap_or_default();
        return Err(Fp16Error::Functions(name.to_owned()));
    }
    let graph = message.last(field::GRAPH).ok_or_else(|| Fp16Error::Damaged("it holds no graph".into()))?;
    let graph = graph.borrowed()?;
    let (mut names, mut operators) = (HashSet::new(), HashSet::new());
    Graph::parse(graph)?.collect(MAX_DEPTH, &mut names, &mut operators)?.ok_or(Fp16Error::Depth)?;
    for name in &options.fp32_operators {
        if operators::find(name).is_none() && !operators.contains(name.as_str()) {
            return Err(Fp16Error::UnknownOperator(name.clone()));
        }
    }
    let rules = Rules {
        opset: opset(&message)?,
        fp32: options.fp32_operators.iter().map(String::as_str).collect(),
        folder: path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")),
    };
    let ir_version = message.last(field::IR_VERSION).map_or(Ok(0), Field::as_i64)?;
    let mut rewriter = Rewriter { rules, ir_version, names: Names(names), report: Report::default() };
    let graph = rewriter.graph(&mut Scopes::default(), graph, &[])?;
    let report = rewriter.report;
    if report.half_nodes == 0 {
        return Ok((model.to_vec(), Report { single_nodes: report.single_nodes, ..Report::default() }));
    }
    message.set(Field::bytes(field::GRAPH, graph));
    let out = message.encode();
    if out.len() > MAX_BYTES {
        return Err(Fp16Error::Size(out.len()));
    }
    Ok((out, report))
}

/// Version of ONNX's default domain.
fn opset(model: &Message<'_>) -> Result<i64, Fp16Error> {
    let mut newest = 1;
    for import in model.all(field::OPSET_IMPORT) {
        let import = Message::parse(import.borrowed()?)?;
        let domain = import.last(1).map(Field::as_text).transpose()?.unwrap_or_default();
        if matches!(domain, "" | "ai.onnx") {
            newest = import.last(2).map_or(Ok(1), Field::as_i64)?.max(newest);
        }
    }
    Ok(newest)
}
