//! JPEG decoding on the GPU.
