//! C libraries behind safe, owned handles. Each has `sys` (declarations), `result` (status to `Result`,
//! still unsafe) and, here or in `gpu`, the owner that is safe to use.

pub(crate) mod disk;
#[cfg(feature = "tensorrt")]
pub(crate) mod nvjpeg;
pub mod process;
#[cfg(feature = "tensorrt")]
pub(crate) mod tensorrt;
pub(crate) mod turbojpeg;
