//! CUDA behind safe, owned handles: probing, device, streams, events, buffers, kernels, JPEG decoding on the GPU.
//!
//! Calls are made within a [`device::Section`], which makes the device's context current to the thread.

pub mod decode;
pub mod descriptor;
pub mod device;
pub mod engine;
pub mod error;
pub mod graph;
pub mod jpeg;
pub mod kernel;
pub mod kernels;
pub mod memory;
pub mod nvml;
pub mod pipeline;
pub mod probe;
pub mod slot;
pub mod stream;
