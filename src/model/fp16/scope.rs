//! The values of a graph: their types, who makes them, and under which names they exist in which precision.

use std::collections::{HashMap, HashSet};

use super::graph::Node;
use super::tensor::{Tensor, TensorError, elem};

/// A precision that a FLOAT value of the model can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// FP16.
    Half,
    /// FP32.
    Single,
}

impl Precision {
    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::Half => Self::Single,
            Self::Single => Self::Half,
        }
    }

    /// Its `TensorProto.DataType`.
    pub fn elem(self) -> i32 {
        match self {
            Self::Half => elem::FLOAT16,
            Self::Single => elem::FLOAT,
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::Half => "fp16",
            Self::Single => "fp32",
        }
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// An input of the graph, or a sparse weight.
    Input,
    /// The weight with this index.
    Weight(usize),
    /// The node with this index.
    Node(usize),
}

/// The numbers of a value that is constant.
#[derive(Debug, Clone)]
pub enum Constant<'a> {
    /// A tensor.
    Tensor(Tensor<'a>),
    /// `value_float`.
    Float(f32),
    /// `value_floats`.
    Floats(Vec<f32>),
}

impl<'a> Constant<'a> {
    /// What a `Constant` node holds, if it is FLOAT and dense.
    pub fn of(node: &Node<'a>) -> Option<Result<Self, TensorError>> {
        if let Some(tensor) = node.attribute("value").and_then(|a| a.tensor()) {
            return match tensor {
                Ok(t) if t.elem == elem::FLOAT => Some(Ok(Self::Tensor(t))),
                Ok(_) => None,
                Err(e) => Some(Err(e)),
            };
        }
        if let Some(value) = node.attribute("value_float").and_then(|a| a.float()) {
            return Some(Ok(Self::Float(value)));
        }
        node.attribute("value_floats").map(|a| Ok(Self::Floats(a.floats())))
    }

    /// The values.
    ///
    /// # Errors
    /// [`TensorError`].
    pub fn floats(&self, folder: &std::path::Path) -> Result<Vec<f32>, TensorError> {
        match self {
            Self::Tensor(t) => t.floats(folder),
            Self::Float(v) => Ok(vec![*v]),
            Self::Floats(v) => Ok(v.clone()),
        }
    }

    /// Number of elements.
    pub fn len(&self) -> Option<usize> {
        match self {
            Self::Tensor(t) => t.len(),
            Self::Float(_) => Some(1),
            Self::Floats(v) => Some(v.len()),
        }
    }
}

/// A value of a graph.
#[derive(Debug)]
pub struct Value<'a> {
    /// Its name in the model.
    pub name: &'a str,
    /// Its element type in the model; 0 where it is no tensor.
    pub elem: i32,
    /// Who makes it.
    pub origin: Origin,
    /// Its numbers, if they are FLOAT and known.
    pub constant: Option<Constant<'a>>,
    /// The precision in which it is made, for FLOAT values.
    pub native: Precision,
    /// Whether it is needed in the other precision too.
    pub both: bool,
    /// Whether anything but a folded `BatchNormalization` reads it.
    pub used: bool,
    /// Whether a folded `BatchNormalization` read it.
    pub folded: bool,
    /// Whether it is an output of its graph, which keeps name and type.
    pub output: bool,
    /// Its names in the rewritten model, where they differ from `name`.
    names: [Option<String>; 2],
}

impl<'a> Value<'a> {
    /// A value that exists in FP32.
    pub fn new(name: &'a str, elem: i32, origin: Origin) -> Self {
        Self {
            name,
            elem,
            origin,
            constant: None,
            native: Precision::Single,
            both: false,
            used: false,
            folded: false,
            output: false,
            names: [None, None],
        }
    }

    /// Whether it is FLOAT in the model.
    pub fn is_float(&self) -> bool {
        self.elem == elem::FLOAT
    }

    /// Its name in that precision; for values that are not FLOAT in any.
    pub fn name_in(&self, precision: Precision) -> &str {
        self.names[precision as usize].as_deref().unwrap_or(self.name)
    }

    /// Its name in its native precision.
    pub fn native_name(&self) -> &str {
        self.name_in(self.native)
    }

    /// Gives it another name in that precision.
    pub fn rename(&mut self, precision: Precision, name: String) {
        self.names[precision as usize] = Some(name);
    }
}

/// Names that are taken, in all graphs of the model.
#[derive(Debug, Default)]
pub struct Names(pub HashSet<String>);

impl Names {
    /// A name that nothing has yet, made of `base` and `suffix`.
    pub fn unique(&mut self, base: &str, suffix: &str) -> String {
        let mut name = format!("{base}_{suffix}");
        let mut n = 1u64;
        while !self.0.insert(name.clone()) {
            n += 1;
            name = format!("{base}_{suffix}_{n}");
        }
        name
    }
}

/// The values of one graph.
#[derive(Debug, Default)]
pub struct Scope<'a> {
    /// In the order of their definition.
    pub values: Vec<Value<'a>>,
    index: HashMap<&'a str, usize>,
}

impl<'a> Scope<'a> {
    /// Adds a value; gives its name back if there is one of that name.
    pub fn define(&mut self, value: Value<'a>) -> Result<usize, &'a str> {
        let (name, at) = (value.name, self.values.len());
        if self.index.insert(name, at).is_some() {
            return Err(name);
        }
        self.values.push(value);
        Ok(at)
    }

    /// The value of that name.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }
}

/// The graphs that surround the one at work, which is the last.
#[derive(Debug, Default)]
pub struct Scopes<'a>(pub Vec<Scope<'a>>);

impl<'a> Scopes<'a> {
    /// Where the value that `name` stands for is defined: depth and index.
    pub fn find(&self, name: &str) -> Option<(usize, usize)> {
        self.0.iter().enumerate().rev().find_map(|(depth, scope)| Some((depth, scope.find(name)?)))
    }

    /// The value at a place that [`Scopes::find`] gave.
    pub fn at(&self, (depth, index): (usize, usize)) -> &Value<'a> {
        &self.0[depth].values[index]
    }

    /// Mutable form of [`Scopes::at`].
    pub fn at_mut(&mut self, (depth, index): (usize, usize)) -> &mut Value<'a> {
        &mut self.0[depth].values[index]
    }

    /// The value that `name` stands for.
    pub fn value(&self, name: &str) -> Option<&Value<'a>> {
        self.find(name).map(|at| self.at(at))
    }

    /// The graph at work.
    pub fn top(&self) -> &Scope<'a> {
        &self.0[self.0.len() - 1]
    }

    /// Mutable form of [`Scopes::top`].
    pub fn top_mut(&mut self) -> &mut Scope<'a> {
        let last = self.0.len() - 1;
        &mut self.0[last]
    }

    /// The name under which `name` can be read in that precision, or as it is made; notes what has to be made
    /// for it. Nothing for a value that is not defined.
    pub fn read(&mut self, name: &str, precision: Option<Precision>, names: &mut Names) -> Option<String> {
        let at = self.find(name)?;
        let value = self.at_mut(at);
        value.used = true;
        let precision = precision.filter(|_| value.is_float()).unwrap_or(value.native);
        if precision != value.native && !value.both {
            value.both = true;
            if value.names[precision as usize].is_none() {
                let unique = names.unique(value.name, precision.suffix());
                value.rename(precision, unique);
            }
        }
        Some(value.name_in(precision).to_owned())
    }
}
