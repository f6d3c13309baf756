//! Running: a plan becomes an engine, and an engine's contexts are enqueued on streams.

use std::ffi::{CStr, CString, c_int};
use std::ptr::NonNull;
use std::sync::Arc;

use cudarc::driver::sys::CUstream;

use super::library::Library;
use super::result::{Message, check};
use super::{TensorRtError, sys};
use crate::tensor::Datatype;

/// An input or output of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IoTensor {
    /// Its name in the ONNX graph; always UTF-8.
    pub(crate) name: CString,
    /// Whether it is an input.
    pub(crate) is_input: bool,
    /// Element type.
    pub(crate) datatype: Datatype,
    /// Full shape, batch dimension first where the model has one; -1 marks a dimension that varies.
    pub(crate) shape: Vec<i64>,
}

/// A plan on the GPU: weights and kernels, shared by its contexts.
#[derive(Debug)]
pub(crate) struct Engine {
    handle: NonNull<sys::Engine>,
    /// Closed after the engine is freed.
    library: Arc<Library>,
    io_tensors: Vec<IoTensor>,
    profile_count: usize,
}

// SAFETY: after `deserialize` only constant functions of nvinfer1::ICudaEngine are called and contexts are created,
// which TensorRT allows from several threads ("Thread Safety" in its developer guide). The engine's error recorder
// has a lock.
unsafe impl Send for Engine {}
// SAFETY: as above.
unsafe impl Sync for Engine {}

impl Library {
    /// Loads a plan onto the GPU that is current on this thread.
    ///
    /// **Errors:** `NoDriver`; `Call` for a plan that is damaged, of another TensorRT or for another GPU;
    /// `Unsupported` for a plan with inputs or outputs that we cannot bind.
    pub(crate) fn deserialize(self: &Arc<Self>, plan: &[u8]) -> Result<Arc<Engine>, TensorRtError> {
        let mut handle = std::ptr::null_mut();
        let mut message = Message::default();
        // SAFETY: the library is open as long as `self`; the shim reads `plan` and writes `handle` and `message`
        // before it returns.
        let status = unsafe {
            (self.api().deserialize)(
                self.handle(),
                plan.as_ptr().cast(),
                plan.len(),
                &raw mut handle,
                message.text(),
            )
        };
        check(status, message)?;
        let handle = NonNull::new(handle).ok_or_else(|| TensorRtError::Call {
            call: "deserializeCudaEngine",
            message: "no engine".to_owned(),
        })?;
        // From here on dropping `engine` frees it.
        let mut engine = Engine { handle, library: self.clone(), io_tensors: Vec::new(), profile_count: 0 };
        // SAFETY: the engine is live until `engine` is dropped.
        let count = unsafe { (self.api().engine_io_count)(handle.as_ptr()) };
        engine.io_tensors = (0..count).map(|i| engine.io_tensor(i)).collect::<Result<_, _>>()?;
        // SAFETY: as above.
        let profiles = unsafe { (self.api().engine_profile_count)(handle.as_ptr()) };
        engine.profile_count = usize::try_from(profiles).unwrap_or(0);
        Ok(Arc::new(engine))
    }
}

impl Engine {
    fn io_tensor(&self, index: c_int) -> Result<IoTensor, TensorRtError> {
        let mut tensor = sys::IoTensor {
            name: std::ptr::null(),
            is_input: 0,
            is_host: 0,
            datatype: -1,
            shape: sys::Dims::default(),
        };
        let mut message = Message::default();
        // SAFETY: the engine is live as long as `self`; `tensor` and `message` are written before this returns.
        let status = unsafe {
            (self.library.api().engine_io)(self.handle.as_ptr(), index, &raw mut tensor, message.text())
        };
        check(status, message)?;
        if tensor.name.is_null() {
            return Err(TensorRtError::Interface(format!("input or output {index} of the plan has no name")));
        }
        // SAFETY: not null; TensorRT's own text, which lives as long as the engine.
        let name = unsafe { CStr::from_ptr(tensor.name) }.to_owned();
        let shown = name.to_string_lossy();
        if name.to_str().is_err() {
            return Err(TensorRtError::Interface(format!(
                "the plan's tensor {shown:?} has a name that is not UTF-8"
            )));
        }
        if tensor.is_host != 0 {
            return Err(TensorRtError::Unsupported(format!(
                "tensor \"{shown}\" is a shape that TensorRT wants in host memory; export the model with it fixed"
            )));
        }
        let datatype = datatype(tensor.datatype).ok_or_else(|| {
            TensorRtError::Unsupported(format!(
                "tensor \"{shown}\" has an element type that visord does not speak (FP8, INT4 or FP4); put a Cast \
                 to FP32 or FP16 at the model's edge"
            ))
        })?;
        Ok(IoTensor { is_input: tensor.is_input != 0, datatype, shape: shape(&tensor.shape), name })
    }

    /// Inputs and outputs, in the plan's order.
    pub(crate) fn io_tensors(&self) -> &[IoTensor] {
        &self.io_tensors
    }

    /// Optimisation profiles; each can be used by one context at a time.
    pub(crate) fn profile_count(&self) -> usize {
        self.profile_count
    }

    /// The smallest, the optimal and the largest shape of an input in a profile.
    ///
    /// **Errors:** `Call` if there is no such input or profile.
    pub(crate) fn profile_shape(&self, name: &CStr, profile: usize) -> Result<[Vec<i64>; 3], TensorRtError> {
        let mut shapes = [sys::Dims::default(); 3];
        let mut message = Message::default();
        // SAFETY: the engine is live as long as `self`; `name` is NUL-terminated, and the three shapes are written
        // before this returns.
        let status = unsafe {
            (self.library.api().engine_profile_shape)(
                self.handle.as_ptr(),
                name.as_ptr(),
                i32::try_from(profile).unwrap_or(i32::MAX),
                shapes.as_mut_ptr(),
                message.text(),
            )
        };
        check(status, message)?;
        Ok([shape(&shapes[0]), shape(&shapes[1]), shape(&shapes[2])])
    }

    /// GPU memory that one context takes for activations, at the largest shapes of all profiles; bytes.
    pub(crate) fn device_memory_bytes(&self) -> u64 {
        // SAFETY: the engine is live as long as `self`.
        let bytes = unsafe { (self.library.api().engine_device_memory_bytes)(self.handle.as_ptr()) };
        u64::try_from(bytes).unwrap_or(0)
    }

    /// A context, with its activations' memory on the GPU; profile 0 is selected.
    ///
    /// **Errors:** `Call`, among others when the GPU has too little memory.
    pub(crate) fn create_context(self: &Arc<Self>) -> Result<ExecutionContext, TensorRtError> {
        let mut handle = std::ptr::null_mut();
        let mut message = Message::default();
        // SAFETY: the engine is live as long as `self`; `handle` and `message` are written before this returns.
        let status = unsafe {
            (self.library.api().context_create)(self.handle.as_ptr(), &raw mut handle, message.text())
        };
        check(status, message)?;
        let handle = NonNull::new(handle).ok_or_else(|| TensorRtError::Call {
            call: "createExecutionContext",
            message: "no context".to_owned(),
        })?;
        Ok(ExecutionContext { handle, engine: self.clone() })
    }

    /// Never frees the engine: after a sticky CUDA error every call into CUDA fails, and TensorRT's destructors
    /// make such calls.
    pub(crate) fn abandon(self: Arc<Self>) {
        std::mem::forget(self);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // SAFETY: the handle is live, and contexts hold an `Arc` of `self`.
        unsafe { (self.library.api().engine_free)(self.handle.as_ptr()) }
    }
}

fn datatype(code: i32) -> Option<Datatype> {
    Some(match code {
        sys::FP32 => Datatype::Fp32,
        sys::FP16 => Datatype::Fp16,
        sys::BF16 => Datatype::Bf16,
        sys::INT8 => Datatype::Int8,
        sys::INT32 => Datatype::Int32,
        sys::INT64 => Datatype::Int64,
        sys::UINT8 => Datatype::Uint8,
        sys::BOOL => Datatype::Bool,
        _ => return None,
    })
}

fn shape(dims: &sys::Dims) -> Vec<i64> {
    let rank = usize::try_from(dims.rank).unwrap_or(0).min(sys::MAX_DIMS);
    dims.d[..rank].to_vec()
}

/// What runs an engine: shapes, addresses, scratch memory. One thread at a time, one batch at a time.
#[derive(Debug)]
pub(crate) struct ExecutionContext {
    handle: NonNull<sys::Context>,
    /// Freed after the context.
    engine: Arc<Engine>,
}

// SAFETY: TensorRT ties a context to no thread ("Thread Safety" in its developer guide): it may be used from any,
// by one at a time, which `&mut self` ensures. It is not `Sync`.
unsafe impl Send for ExecutionContext {}

impl ExecutionContext {
    fn api(&self) -> &'static sys::Api {
        self.engine.library.api()
    }

    /// Selects an optimisation profile; enqueues on `stream` and returns before it is done. Input shapes are set
    /// anew after it.
    ///
    /// **Errors:** `Call`, if there is no such profile or another context of the engine has it.
    ///
    /// # Safety
    ///
    /// `stream` is a live stream of the engine's GPU.
    pub(crate) unsafe fn set_profile(
        &mut self,
        profile: usize,
        stream: CUstream,
    ) -> Result<(), TensorRtError> {
        let profile = i32::try_from(profile).unwrap_or(i32::MAX);
        let mut message = Message::default();
        // SAFETY: the context is live as long as `self`; the caller promises a live stream.
        let status = unsafe {
            (self.api().context_set_profile)(self.handle.as_ptr(), profile, stream.cast(), message.text())
        };
        check(status, message)
    }

    /// Sets the full shape of an input for the next batches. Allocates nothing unless it fails.
    ///
    /// **Errors:** `Call`, if there is no such input or the profile does not take the shape.
    pub(crate) fn set_input_shape(&mut self, name: &CStr, shape: &[i64]) -> Result<(), TensorRtError> {
        let rank = i32::try_from(shape.len()).unwrap_or(i32::MAX);
        let mut message = Message::default();
        // SAFETY: the context is live as long as `self`; `name` is NUL-terminated and `shape` has `rank` elements.
        let status = unsafe {
            (self.api().context_set_input_shape)(
                self.handle.as_ptr(),
                name.as_ptr(),
                shape.as_ptr(),
                rank,
                message.text(),
            )
        };
        check(status, message)
    }

    /// Lends the context the memory that it works in: `bytes` at `address`, at least the engine's
    /// [`Engine::device_memory_bytes`], aligned to 256.
    ///
    /// **Errors:** `Call`.
    ///
    /// # Safety
    ///
    /// The memory is on the engine's GPU and outlives the context, and nothing else uses it while the context's work
    /// runs.
    pub(crate) unsafe fn set_device_memory(
        &mut self,
        address: u64,
        bytes: usize,
    ) -> Result<(), TensorRtError> {
        let mut message = Message::default();
        let address = std::ptr::with_exposed_provenance_mut(usize::try_from(address).unwrap_or(0));
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        // SAFETY: the context is live as long as `self`; the caller promises the memory.
        let status = unsafe {
            (self.api().context_set_device_memory)(self.handle.as_ptr(), address, bytes, message.text())
        };
        check(status, message)
    }

    /// The full shape of a tensor for the input shapes that are set; -1 where they do not tell yet.
    ///
    /// **Errors:** `Call`, if there is no such tensor.
    pub(crate) fn tensor_shape(&self, name: &CStr) -> Result<Vec<i64>, TensorRtError> {
        let mut dims = sys::Dims::default();
        let mut message = Message::default();
        // SAFETY: the context is live as long as `self`; `name` is NUL-terminated and `dims` is written before this
        // returns.
        let status = unsafe {
            (self.api().context_tensor_shape)(
                self.handle.as_ptr(),
                name.as_ptr(),
                &raw mut dims,
                message.text(),
            )
        };
        check(status, message)?;
        Ok(shape(&dims))
    }

    /// Sets where an input is read or an output is written. Allocates nothing unless it fails.
    ///
    /// **Errors:** `Call`, if there is no such tensor or the address is not aligned to 256 bytes.
    ///
    /// # Safety
    ///
    /// `address` is memory of the engine's GPU with room for the tensor at the shapes that are enqueued. It stays
    /// allocated, and unused by others, until every batch that was enqueued with it is done.
    pub(crate) unsafe fn set_tensor_address(
        &mut self,
        name: &CStr,
        address: u64,
    ) -> Result<(), TensorRtError> {
        let mut message = Message::default();
        // SAFETY: the context is live as long as `self`, `name` is NUL-terminated, and the caller promises the
        // memory.
        let status = unsafe {
            (self.api().context_set_tensor_address)(
                self.handle.as_ptr(),
                name.as_ptr(),
                address as *mut std::ffi::c_void,
                message.text(),
            )
        };
        check(status, message)
    }

    /// Enqueues one batch on `stream` and returns before it is done. Allocates nothing on the host unless it fails,
    /// as far as it is ours.
    ///
    /// **Errors:** `Call`, among others when an input has no shape or a tensor no address.
    ///
    /// # Safety
    ///
    /// `stream` is a live stream of the engine's GPU. Until the batch is done, the memory of every address that is
    /// set stays as [`Self::set_tensor_address`] says, and `self` is neither enqueued on another stream nor dropped.
    pub(crate) unsafe fn enqueue(&mut self, stream: CUstream) -> Result<(), TensorRtError> {
        let mut message = Message::default();
        // SAFETY: the context is live as long as `self`; the caller promises stream and memory.
        let status =
            unsafe { (self.api().context_enqueue)(self.handle.as_ptr(), stream.cast(), message.text()) };
        check(status, message)
    }

    /// Never frees the context, nor its engine: see [`Engine::abandon`].
    pub(crate) fn abandon(self) {
        std::mem::forget(self);
    }
}

impl Drop for ExecutionContext {
    fn drop(&mut self) {
        // SAFETY: the handle is live, and nothing that was enqueued with it is still running, as `enqueue` asks.
        unsafe { (self.api().context_free)(self.handle.as_ptr()) }
    }
}
