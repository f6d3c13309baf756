//! CUDA behind safe, owned handles: probing, device, streams, events, buffers, kernels, JPEG decoding on the GPU.

pub mod descriptor;
pub mod jpeg;
pub mod kernels;
