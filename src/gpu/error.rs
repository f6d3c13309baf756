//! A CUDA call that failed.

use cudarc::driver::DriverError;

/// A CUDA call, and its error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{call} failed: {name} ({code})")]
pub struct CudaError {
    /// The driver's function.
    pub call: &'static str,
    /// Its `CUresult`.
    pub code: u32,
    /// The code's name.
    pub name: String,
}

impl CudaError {
    pub(super) fn new(call: &'static str, error: DriverError) -> Self {
        let name =
            error.error_name().map_or_else(|_| "unknown error".into(), |n| n.to_string_lossy().into_owned());
        Self { call, code: error.0 as u32, name }
    }

    /// The device ran out of memory.
    #[must_use]
    pub fn out_of_memory(&self) -> bool {
        self.code == 2
    }

    /// The context is corrupt: from now on every call on it fails, whatever it is.
    ///
    /// **Source:** CUDA driver API, `CUresult`: those that leave the process in an inconsistent state.
    #[must_use]
    pub fn sticky(&self) -> bool {
        matches!(
            self.code,
            4 | 46 | 201 | 214 | 220 | 226 | 227 | 700 | 702 | 709 | 710 | 714..=719 | 721 | 999
        )
    }
}
