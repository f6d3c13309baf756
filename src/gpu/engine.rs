//! A TensorRT engine on a device, and its execution contexts.

use std::ffi::{CStr, CString};
use std::ops::Range;
use std::sync::Arc;

use super::device::{Abandon, Device, OnDevice};
use super::error::CudaError;
use super::jpeg::DecodeError;
use super::memory::DeviceBuffer;
use super::pipeline::PipelineTensor;
use super::stream::Stream;
use crate::ffi::tensorrt::{Engine, ExecutionContext, IoTensor, Library, TensorRtError};

/// What fails with an engine on a device.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A CUDA call.
    #[error(transparent)]
    Cuda(#[from] CudaError),
    /// A TensorRT call.
    #[error("{0}")]
    TensorRt(String),
    /// A decoder could not be made.
    #[error(transparent)]
    Decoder(#[from] DecodeError),
    /// The engine is not what it should be.
    #[error("{0}")]
    Interface(String),
}

impl EngineError {
    /// The device ran out of memory.
    #[must_use]
    pub fn out_of_memory(&self) -> bool {
        match self {
            Self::Cuda(e) => e.out_of_memory(),
            Self::TensorRt(text) => text.contains("OutOfMemory") || text.contains("out of memory"),
            Self::Decoder(DecodeError::Cuda { code, .. }) => *code == 2,
            Self::Decoder(DecodeError::Device(e)) => e.name() == "ALLOCATOR_FAILURE",
            Self::Decoder(DecodeError::Rejected { .. } | DecodeError::Memory { .. }) | Self::Interface(_) => {
                false
            }
        }
    }
}

impl From<TensorRtError> for EngineError {
    fn from(error: TensorRtError) -> Self {
        Self::TensorRt(error.to_string())
    }
}

impl Abandon for Arc<Engine> {
    fn abandon(self) {
        Engine::abandon(self);
    }
}

/// An execution context, whose scratch memory its owner lends it.
pub(crate) struct EngineContext {
    context: ExecutionContext,
}

impl Abandon for EngineContext {
    fn abandon(self) {
        self.context.abandon();
    }
}

/// An engine, deserialised on one device.
pub struct LoadedEngine {
    engine: OnDevice<Arc<Engine>>,
    /// Rows that each optimization profile is fastest at; one entry where shapes are fixed.
    profiles: Vec<usize>,
}

impl std::fmt::Debug for LoadedEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadedEngine").field("profiles", &self.profiles).finish_non_exhaustive()
    }
}

impl LoadedEngine {
    /// Deserialises a plan on `device`; blocking. The batch is the first dimension of the first input.
    ///
    /// # Errors
    /// TensorRT's reason: another version, another GPU, a corrupt file.
    pub(crate) fn new(
        library: &Arc<Library>,
        device: &Arc<Device>,
        plan: &[u8],
    ) -> Result<Self, EngineError> {
        let _section = device.enter()?;
        let engine = library.deserialize(plan);
        if engine.is_err() {
            device.probe_context();
        }
        let engine = OnDevice::new(device, engine?);
        let input = engine.io_tensors().iter().find(|t| t.is_input).map(|t| t.name.clone());
        let input = input.ok_or_else(|| EngineError::Interface("the plan has no input".to_owned()))?;
        let profiles = (0..engine.profile_count().max(1))
            .map(|profile| {
                let shape = engine.profile_shape(&input, profile).map(|[_, opt, _]| opt);
                Ok(shape?.first().and_then(|d| usize::try_from(*d).ok()).unwrap_or(1))
            })
            .collect::<Result<Vec<_>, EngineError>>()?;
        Ok(Self { engine, profiles })
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &Arc<Device> {
        self.engine.device()
    }

    /// Rows that each profile is fastest at.
    #[must_use]
    pub fn profiles(&self) -> &[usize] {
        &self.profiles
    }

    /// Inputs and outputs, -1 for dimensions that vary.
    pub(crate) fn io_tensors(&self) -> &[IoTensor] {
        self.engine.io_tensors()
    }

    /// The largest shape of an input over all profiles, as the first profile has it: they differ in `opt` only.
    ///
    /// # Errors
    /// TensorRT's.
    pub(crate) fn max_input_shape(&self, name: &CStr) -> Result<Vec<i64>, EngineError> {
        let [_, _, max] = self.engine.profile_shape(name, 0)?;
        Ok(max)
    }

    /// Names and shapes of the outputs for these inputs, as large as they get.
    ///
    /// # Errors
    /// TensorRT's, or an output whose size depends on values.
    pub(crate) fn max_output_shapes(
        &self,
        inputs: &[PipelineTensor],
    ) -> Result<Vec<(CString, Vec<i64>)>, EngineError> {
        let device = self.device();
        let _section = device.enter()?;
        let stream = Stream::new(device)?;
        let mut context = OnDevice::new(device, EngineContext { context: self.engine.create_context()? });
        context.set_profile(0, &stream)?;
        stream.synchronize()?;
        for tensor in inputs {
            context.set_input_shape(&tensor.name, &tensor.max_shape)?;
        }
        let outputs = self.engine.io_tensors().iter().filter(|t| !t.is_input);
        outputs
            .map(|tensor| {
                let shape = context.tensor_shape(&tensor.name)?;
                if shape.iter().any(|d| *d < 0) {
                    let name = tensor.name.to_string_lossy();
                    let why = format!(
                        "output \"{name}\" is {shape:?}: its size depends on values; visord serves outputs whose size \
                         follows from the inputs'"
                    );
                    return Err(EngineError::Interface(why));
                }
                Ok((tensor.name.clone(), shape))
            })
            .collect()
    }

    /// Scratch memory that a context needs, bytes; at least 1.
    #[must_use]
    pub fn scratch_bytes(&self) -> usize {
        usize::try_from(self.engine.device_memory_bytes()).unwrap_or(usize::MAX).max(1)
    }

    /// Makes a context that works in `scratch`, which outlives it and serves one context at a time. Within a section.
    pub(crate) fn create_context(
        &self,
        scratch: &DeviceBuffer,
    ) -> Result<OnDevice<EngineContext>, EngineError> {
        let context = self.engine.create_context()?;
        let mut context = OnDevice::new(self.device(), EngineContext { context });
        // SAFETY: `Pipeline` keeps the scratch memory longer than its contexts, and runs them on one stream.
        unsafe { context.context.set_device_memory(scratch.address(), scratch.len()) }?;
        Ok(context)
    }
}

impl EngineContext {
    pub(super) fn set_profile(&mut self, profile: usize, stream: &Stream) -> Result<(), EngineError> {
        // SAFETY: a stream of the engine's device, which outlives this call.
        Ok(unsafe { self.context.set_profile(profile, stream.raw()) }?)
    }

    pub(super) fn set_input_shape(&mut self, name: &CStr, shape: &[i64]) -> Result<(), EngineError> {
        Ok(self.context.set_input_shape(name, shape)?)
    }

    pub(crate) fn tensor_shape(&self, name: &CStr) -> Result<Vec<i64>, EngineError> {
        Ok(self.context.tensor_shape(name)?)
    }

    /// Has the tensor read or written at `range` of `buffer`.
    pub(super) fn bind(
        &mut self,
        name: &CStr,
        buffer: &DeviceBuffer,
        range: Range<usize>,
    ) -> Result<(), EngineError> {
        assert!(range.end <= buffer.len(), "the tensor lies within its buffer");
        // SAFETY: followed only by `enqueue`, whose caller keeps the buffer.
        unsafe { self.context.set_tensor_address(name, buffer.address() + range.start as u64) }?;
        Ok(())
    }

    /// Enqueues the engine's work on `stream`.
    ///
    /// # Safety
    /// What was bound last stays until the stream has passed this, and no other context with the same scratch
    /// memory runs meanwhile.
    pub(super) unsafe fn enqueue(&mut self, stream: &Stream) -> Result<(), EngineError> {
        // SAFETY: the caller's promise.
        let enqueued = unsafe { self.context.enqueue(stream.raw()) };
        if enqueued.is_err() {
            stream.device().probe_context();
        }
        Ok(enqueued?)
    }
}
