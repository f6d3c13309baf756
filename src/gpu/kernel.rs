//! visord's own kernels on a device, and their launches: shapes and bounds are checked here, then it is enqueued.

use std::ffi::{CStr, c_void};
use std::sync::Arc;

use cudarc::driver::{result, sys};

use super::descriptor::{ImageDescriptor, L2NormalizeParameters, PreprocessParameters};
use super::device::Device;
use super::error::CudaError;
use super::kernels::{self, LaunchShape};
use super::memory::DeviceBuffer;
use super::stream::Stream;
use crate::tensor::Datatype;

/// The kernels, compiled by the driver for one device.
#[derive(Debug)]
pub struct Kernels {
    device: Arc<Device>,
    modules: [sys::CUmodule; 2],
    preprocess: [(Datatype, sys::CUfunction); 3],
    l2_normalize: sys::CUfunction,
}

// SAFETY: module and function handles may be used from any thread whose current context is theirs.
unsafe impl Send for Kernels {}
// SAFETY: as above; they are never changed.
unsafe impl Sync for Kernels {}

impl Kernels {
    /// Has the driver compile the PTX; a driver keeps the result in its cache. Within a section.
    ///
    /// # Errors
    /// That of the driver: a PTX that it does not know means that it is too old.
    pub fn load(device: &Arc<Device>) -> Result<Self, CudaError> {
        let preprocess_module = load(device, kernels::PREPROCESS_PTX)?;
        let l2_module = load(device, kernels::L2_NORMALIZE_PTX)?;
        let preprocess = |datatype: Datatype| {
            let entry = kernels::preprocess_entry(datatype).unwrap_or(c"preprocess_f32");
            Ok((datatype, function(device, preprocess_module, entry)?))
        };
        Ok(Self {
            device: Arc::clone(device),
            modules: [preprocess_module, l2_module],
            preprocess: [
                preprocess(Datatype::Fp32)?,
                preprocess(Datatype::Fp16)?,
                preprocess(Datatype::Uint8)?,
            ],
            l2_normalize: function(device, l2_module, kernels::L2_NORMALIZE_F32)?,
        })
    }

    /// Enqueues the preprocessing of images: `parameters.images` [`ImageDescriptor`]s at the start of `descriptors`,
    /// to the input of type `datatype` at byte `input_at` of `input`.
    ///
    /// # Errors
    /// That of `cuLaunchKernel`.
    ///
    /// # Panics
    /// Where the buffers are too small, or images are not fed to inputs of this type.
    ///
    /// # Safety
    /// What the descriptors point to and both buffers stay until the stream has passed this.
    pub unsafe fn preprocess(
        &self,
        stream: &Stream,
        datatype: Datatype,
        descriptors: &DeviceBuffer,
        (input, input_at): (&DeviceBuffer, usize),
        parameters: &PreprocessParameters,
    ) -> Result<(), CudaError> {
        let found = self.preprocess.iter().find(|(d, _)| *d == datatype);
        let function = found.expect("a spec's image input is FP32, FP16 or UINT8").1;
        let element_bytes = datatype.size_bytes().unwrap_or(0);
        assert!(
            parameters.images as usize * size_of::<ImageDescriptor>() <= descriptors.len(),
            "descriptors fit"
        );
        let input_bytes = parameters.rows as usize * parameters.row_elements() * element_bytes;
        assert!(input_at + input_bytes <= input.len(), "the rows fit the input");
        let mut descriptors = descriptors.address();
        let mut out = input.address() + input_at as u64;
        let mut parameters = *parameters;
        let shape = kernels::preprocess_shape(&parameters);
        let mut arguments = [argument(&mut descriptors), argument(&mut out), argument(&mut parameters)];
        // SAFETY: the arguments are those of the kernel, in its order; the caller keeps the memory.
        unsafe { self.launch(stream, function, shape, &mut arguments) }
    }

    /// Enqueues the L2 normalisation of an FP32 output `[rows, columns]` at byte `at` of `output`, in place.
    ///
    /// # Errors
    /// That of `cuLaunchKernel`.
    ///
    /// # Panics
    /// Where the output does not lie within the buffer.
    ///
    /// # Safety
    /// The buffer stays until the stream has passed this.
    pub unsafe fn l2_normalize(
        &self,
        stream: &Stream,
        (output, at): (&DeviceBuffer, usize),
        rows: u32,
        columns: u32,
    ) -> Result<(), CudaError> {
        assert!(at + rows as usize * columns as usize * 4 <= output.len(), "the rows lie within the output");
        let mut data = output.address() + at as u64;
        let mut parameters = L2NormalizeParameters { stride: columns.into(), rows, columns };
        let mut arguments = [argument(&mut data), argument(&mut parameters)];
        let shape = kernels::l2_normalize_shape(rows);
        // SAFETY: the arguments are those of the kernel, in its order; the caller keeps the memory.
        unsafe { self.launch(stream, self.l2_normalize, shape, &mut arguments) }
    }

    /// # Safety
    /// `arguments` point to what `function` takes; the driver copies them before it returns.
    unsafe fn launch(
        &self,
        stream: &Stream,
        function: sys::CUfunction,
        shape: LaunchShape,
        arguments: &mut [*mut c_void],
    ) -> Result<(), CudaError> {
        // SAFETY: the caller's promise; the module lives with `self`.
        let launched =
            unsafe { result::launch_kernel(function, shape.grid, shape.block, 0, stream.raw(), arguments) };
        self.device.check("cuLaunchKernel", launched)
    }
}

impl Drop for Kernels {
    fn drop(&mut self) {
        for module in self.modules {
            // SAFETY: loaded in `load`, unloaded here only; instances wait for their streams first.
            self.device.free("cuModuleUnload", || unsafe { result::module::unload(module) });
        }
    }
}

fn argument<T>(value: &mut T) -> *mut c_void {
    std::ptr::from_mut(value).cast()
}

fn load(device: &Device, ptx: &CStr) -> Result<sys::CUmodule, CudaError> {
    // SAFETY: PTX text with a NUL behind it.
    device.check("cuModuleLoadData", unsafe { result::module::load_data(ptx.as_ptr().cast()) })
}

fn function(device: &Device, module: sys::CUmodule, entry: &CStr) -> Result<sys::CUfunction, CudaError> {
    // SAFETY: the module was just loaded.
    device.check("cuModuleGetFunction", unsafe { result::module::get_function(module, entry.to_owned()) })
}
