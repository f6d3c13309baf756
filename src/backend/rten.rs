//! rten: pure Rust, compiled in, always there. Slower than OpenVINO, needs nothing.

use std::sync::Arc;

use rten::{Model, ModelOptions, NodeId, RunOptions, ThreadPool, Value, ValueOrView, ValueView};
use rten_tensor::Layout;

use super::host::{HostEngine, HostInstance};
use super::{Backend, BackendError, Instance, InstancePlan, LoadedModel, OutputBuffer, Wake};
use crate::error::{ErrorKind, InferError};
use crate::image::Limits;
use crate::model::config::Precision;
use crate::model::spec::ModelSpec;
use crate::tensor::Datatype;

const NAME: &str = "rten";

/// The rten backend.
#[derive(Debug, Default)]
pub struct Rten;

impl Backend for Rten {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> String {
        "0.27".to_owned()
    }

    fn device(&self) -> String {
        "CPU".to_owned()
    }

    fn check(&self, spec: &ModelSpec) -> Result<(), BackendError> {
        for tensor in spec.inputs.iter().chain(spec.outputs.iter().map(|o| &o.tensor)) {
            if element(tensor.datatype).is_none() {
                let why = format!("\"{}\" is {}, which rten does not have", tensor.name, tensor.datatype);
                return Err(refuse(spec, why));
            }
        }
        if spec.precision != Precision::Fp32 {
            let needs = if spec.precision == Precision::Bf16 { "OpenVINO" } else { "TensorRT on a GPU" };
            let why =
                format!("precision = \"{}\" needs {needs}; rten computes in fp32", spec.precision.name());
            return Err(refuse(spec, why));
        }
        Ok(())
    }

    fn load(
        &self,
        spec: &ModelSpec,
        plan: &InstancePlan,
        limits: Limits,
    ) -> Result<Arc<dyn LoadedModel>, BackendError> {
        self.check(spec)?;
        let model =
            ModelOptions::with_all_ops().load_file(&spec.path).map_err(|e| refuse(spec, e.to_string()))?;
        let id = |name: &str| model.node_id(name).map_err(|e| refuse(spec, e.to_string()));
        let inputs = spec.inputs.iter().map(|t| id(&t.name)).collect::<Result<Vec<_>, _>>()?;
        let outputs = spec.outputs.iter().map(|o| id(&o.tensor.name)).collect::<Result<Vec<_>, _>>()?;
        Ok(Arc::new(RtenModel {
            model: Arc::new(model),
            inputs,
            outputs,
            spec: spec.clone(),
            threads: plan.threads,
            limits,
        }))
    }
}

fn refuse(spec: &ModelSpec, why: String) -> BackendError {
    BackendError::Load { backend: NAME, model: spec.path.display().to_string(), why }
}

/// The element type in which rten holds a datatype.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Element {
    F32,
    I32,
    I8,
    U8,
}

fn element(datatype: Datatype) -> Option<Element> {
    match datatype {
        Datatype::Fp32 => Some(Element::F32),
        // rten turns INT64 and BOOL into 32-bit integers when it loads a model.
        Datatype::Int32 | Datatype::Int64 | Datatype::Bool => Some(Element::I32),
        Datatype::Int8 => Some(Element::I8),
        Datatype::Uint8 => Some(Element::U8),
        Datatype::Uint16
        | Datatype::Uint32
        | Datatype::Uint64
        | Datatype::Int16
        | Datatype::Fp16
        | Datatype::Bf16
        | Datatype::Fp64
        | Datatype::Bytes => None,
    }
}

struct RtenModel {
    model: Arc<Model>,
    inputs: Vec<NodeId>,
    outputs: Vec<NodeId>,
    spec: ModelSpec,
    threads: usize,
    limits: Limits,
}

impl LoadedModel for RtenModel {
    fn precision(&self) -> Precision {
        Precision::Fp32
    }

    fn batch_limit(&self) -> Option<usize> {
        super::select::CPU_BATCH_LIMIT
    }

    fn instance(&self, _: usize, _: Wake) -> Result<Box<dyn Instance>, BackendError> {
        let pool = Arc::new(ThreadPool::with_num_threads(self.threads));
        let buffers = self
            .spec
            .inputs
            .iter()
            .map(|t| Buffer { datatype: t.datatype, shape: Vec::new(), words: Vec::new(), bytes: 0 })
            .collect();
        let engine = RtenEngine {
            model: Arc::clone(&self.model),
            inputs: self.inputs.clone(),
            outputs: self.outputs.clone(),
            datatypes: self.spec.outputs.iter().map(|o| o.tensor.datatype).collect(),
            options: RunOptions::default().with_thread_pool(Some(pool)),
            buffers,
        };
        Ok(Box::new(HostInstance::new(engine, &self.spec, self.limits)?))
    }
}

/// An input at rest: 8-byte words, so that any datatype is aligned in it.
struct Buffer {
    datatype: Datatype,
    shape: Vec<usize>,
    words: Vec<u64>,
    bytes: usize,
}

impl Buffer {
    fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.bytes]
    }

    /// The values as rten takes them; `None` where an INT64 does not fit in 32 bits.
    fn value(&self) -> Option<ValueOrView<'_>> {
        let shape = self.shape.as_slice();
        let view: ValueView<'_> = match element(self.datatype)? {
            Element::F32 => {
                ValueView::from_shape(shape, bytemuck::cast_slice::<u8, f32>(self.bytes())).ok()?
            }
            Element::I8 => ValueView::from_shape(shape, bytemuck::cast_slice::<u8, i8>(self.bytes())).ok()?,
            Element::U8 => ValueView::from_shape(shape, self.bytes()).ok()?,
            Element::I32 if self.datatype == Datatype::Int32 => {
                ValueView::from_shape(shape, bytemuck::cast_slice::<u8, i32>(self.bytes())).ok()?
            }
            Element::I32 => {
                let narrowed: Vec<i32> = if self.datatype == Datatype::Bool {
                    self.bytes().iter().map(|b| i32::from(*b != 0)).collect()
                } else {
                    let wide = bytemuck::cast_slice::<u8, i64>(self.bytes());
                    wide.iter().map(|v| i32::try_from(*v).ok()).collect::<Option<_>>()?
                };
                return Value::from_shape(shape, narrowed).ok().map(ValueOrView::Value);
            }
        };
        Some(view.into())
    }
}

struct RtenEngine {
    model: Arc<Model>,
    inputs: Vec<NodeId>,
    outputs: Vec<NodeId>,
    datatypes: Vec<Datatype>,
    options: RunOptions,
    buffers: Vec<Buffer>,
}

fn failed(call: &'static str, why: impl ToString) -> BackendError {
    BackendError::Execute { backend: NAME, call, why: why.to_string() }
}

impl HostEngine for RtenEngine {
    fn input(&mut self, index: usize, shape: &[usize]) -> Result<&mut [u8], BackendError> {
        let buffer = &mut self.buffers[index];
        if buffer.shape != shape {
            let size =
                buffer.datatype.size_bytes().ok_or_else(|| failed("input", "BYTES is no engine input"))?;
            buffer.bytes = shape.iter().product::<usize>() * size;
            buffer.words.resize(buffer.bytes.div_ceil(8), 0);
            buffer.shape.clear();
            buffer.shape.extend_from_slice(shape);
        }
        Ok(&mut bytemuck::cast_slice_mut(&mut buffer.words)[..buffer.bytes])
    }

    fn check(&self, index: usize, data: &[u8]) -> Result<(), InferError> {
        if self.buffers[index].datatype != Datatype::Int64 {
            return Ok(());
        }
        let values = data.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b));
        match values.into_iter().find(|v| i32::try_from(*v).is_err()) {
            None => Ok(()),
            Some(v) => {
                let text = format!("{v} does not fit in 32 bits, in which the backend rten holds INT64");
                Err(InferError::new(ErrorKind::InvalidArgument, text))
            }
        }
    }

    fn run(&mut self) -> Result<Vec<OutputBuffer>, BackendError> {
        let inputs = self
            .inputs
            .iter()
            .zip(&self.buffers)
            .map(|(id, b)| {
                Ok((*id, b.value().ok_or_else(|| failed("run", "an INT64 value does not fit in 32 bits"))?))
            })
            .collect::<Result<Vec<_>, BackendError>>()?;
        let values = self
            .model
            .run(inputs, &self.outputs, Some(self.options.clone()))
            .map_err(|e| failed("run", e))?;
        values.into_iter().zip(&self.datatypes).map(|(v, d)| output(v, *d)).collect()
    }
}

fn output(value: Value, datatype: Datatype) -> Result<OutputBuffer, BackendError> {
    let shape = value.shape().to_vec();
    let data: Vec<u8> = if let Value::FloatTensor(t) = value {
        bytemuck::cast_slice(&t.into_data()).to_vec()
    } else if let Value::UInt8Tensor(t) = value {
        t.into_data()
    } else if let Value::Int8Tensor(t) = value {
        bytemuck::cast_slice(&t.into_data()).to_vec()
    } else if let Value::Int32Tensor(t) = value {
        let data = t.into_data();
        if datatype == Datatype::Int64 {
            data.iter().flat_map(|v| i64::from(*v).to_le_bytes()).collect()
        } else if datatype == Datatype::Bool {
            data.iter().map(|v| u8::from(*v != 0)).collect()
        } else {
            bytemuck::cast_slice(&data).to_vec()
        }
    } else {
        return Err(failed("run", "an output is not a tensor"));
    };
    Ok(OutputBuffer { datatype, shape, data })
}
