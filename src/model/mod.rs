//! Models on disk: the repository's folders, their configuration, and what their ONNX files say.

pub mod config;
pub mod onnx;
pub mod repository;
pub mod spec;
