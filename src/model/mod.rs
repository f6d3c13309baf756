//! Models on disk: the repository's folders, their configuration, and what their ONNX files say.

pub mod config;
pub mod files;
#[cfg(feature = "tensorrt")]
pub mod fp16;
pub mod golden;
pub mod onnx;
pub mod repository;
pub mod spec;
pub mod tensorrt;
pub mod traffic;
pub(crate) mod wire;
