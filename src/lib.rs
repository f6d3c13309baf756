//! visord: an inference daemon for images. Modules in the order in which a request meets them.

pub mod problems;
pub mod error;
pub mod server;
pub mod tensor;

pub mod scheduler;
pub mod model;
pub mod backend;
pub mod image;
pub mod telemetry;

/// The commit that this was built from, or `unknown`.
pub const COMMIT: &str = "unknown";
