//! What operators see of the daemon: metric names, the registry behind `/metrics`, logging.

pub mod logging;
pub mod metrics;
pub mod names;
pub mod plans;
