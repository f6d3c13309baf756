//! visord: an inference daemon for images. Modules in the order in which a request meets them.

pub mod app;
pub mod cli;
pub mod config;
pub mod error;
pub mod problems;
pub mod tensor;
pub mod wire;

pub mod server;

pub mod repository;

pub mod scheduler;

pub mod backend;
#[allow(unsafe_code, reason = "the only module that calls C libraries; every block says why it is sound")]
mod ffi;
pub use ffi::process;
#[cfg(feature = "tensorrt")]
#[allow(unsafe_code, reason = "owns CUDA's handles; every block says why it is sound")]
pub mod gpu;
pub mod image;
pub mod model;
#[cfg(feature = "tensorrt")]
pub mod plan;

pub mod bench;
pub mod doctor;
pub mod init;
pub mod migrate;

pub mod telemetry;

/// The small models of the integration tests, for unit tests too; once, as clippy wants it.
#[cfg(all(test, feature = "tensorrt"))]
#[allow(dead_code, reason = "the integration tests use the rest")]
#[path = "../tests/common/onnx.rs"]
mod onnx_models;

/// The commit that this was built from, or `unknown` outside a checkout.
pub const COMMIT: &str = env!("VISORD_COMMIT");
