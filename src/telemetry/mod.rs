//! What operators see of the daemon: metric names, the registry behind `/metrics`, logging.

#[cfg(feature = "tensorrt")]
pub mod gpu;
pub mod loads;
pub mod logging;
pub mod metrics;
pub mod names;
#[cfg(feature = "tensorrt")]
pub mod nvml;
pub mod plans;
pub mod tls;
pub mod traffic;
