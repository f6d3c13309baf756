//! What operators see of the daemon: metric names, the registry behind `/metrics`, logs, traces.

mod access;
pub mod args;
pub mod context;
#[cfg(feature = "tensorrt")]
pub mod gpu;
pub mod loads;
pub mod logging;
pub mod meter;
pub mod metrics;
pub mod names;
#[cfg(feature = "tensorrt")]
pub mod nvml;
pub mod plans;
pub mod spans;
pub mod summary;
pub mod tls;
pub mod trace;
pub mod traffic;
pub mod w3c;
