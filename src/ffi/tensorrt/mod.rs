//! TensorRT and its ONNX parser, opened at run time, through a C++ shim. `plan` builds with it, `gpu` and the
//! backend run what was built.
//!
//! TensorRT's C++ classes are laid out anew with each major version, so `build.rs` compiles `shim.cpp` once for
//! each set of headers: TensorRT 10, TensorRT 11, TensorRT-RTX. [`Library::find`] takes the set that fits the
//! library it finds. Layers: `sys` declares what the shim exports, `result` turns its codes into
//! [`TensorRtError`], the others own the handles.

mod builder;
mod engine;
mod library;
mod result;
mod sys;
#[cfg(test)]
mod tests;

pub(crate) use builder::{
    BuildOptions, BuildProgress, HardwareCompatibility, Network, Profile, ProfileInput,
};
pub(crate) use engine::{Engine, ExecutionContext, IoTensor};
pub(crate) use library::{Finding, Library, NO_HEADERS};
pub(crate) use result::TensorRtError;

/// Which TensorRT a library is; plans of one do not load in another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Flavor {
    /// 10.0 to 10.16; the last major for a V100 (up to 10.4).
    TensorRt10,
    /// 11: networks are strongly typed.
    TensorRt11,
    /// TensorRT-RTX 1.5 or later: consumer GPUs from Turing on; builds without a GPU, for one or several
    /// compute capabilities.
    TensorRtRtx,
}

impl Flavor {
    /// In the order in which they are looked for.
    pub(crate) const ALL: [Self; 3] = [Self::TensorRt10, Self::TensorRt11, Self::TensorRtRtx];

    /// As an operator knows it, e.g. `TensorRT 10`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::TensorRt10 => "TensorRT 10",
            Self::TensorRt11 => "TensorRT 11",
            Self::TensorRtRtx => "TensorRT-RTX",
        }
    }

    /// The name before a full version.
    const fn product(self) -> &'static str {
        match self {
            Self::TensorRt10 | Self::TensorRt11 => "TensorRT",
            Self::TensorRtRtx => "TensorRT-RTX",
        }
    }

    /// The runtime library and its ONNX parser, as the loader knows them.
    const fn sonames(self) -> (&'static str, &'static str) {
        match self {
            Self::TensorRt10 => ("libnvinfer.so.10", "libnvonnxparser.so.10"),
            Self::TensorRt11 => ("libnvinfer.so.11", "libnvonnxparser.so.11"),
            Self::TensorRtRtx => ("libtensorrt_rtx.so.1", "libtensorrt_onnxparser_rtx.so.1"),
        }
    }

    /// The shim's functions for it, where its headers are compiled in.
    fn api(self) -> Option<&'static sys::Api> {
        match self {
            #[cfg(tensorrt_headers_10)]
            Self::TensorRt10 => Some(result::table(sys::visord_trt_api_10)),
            #[cfg(not(tensorrt_headers_10))]
            Self::TensorRt10 => None,
            #[cfg(tensorrt_headers_11)]
            Self::TensorRt11 => Some(result::table(sys::visord_trt_api_11)),
            #[cfg(not(tensorrt_headers_11))]
            Self::TensorRt11 => None,
            #[cfg(tensorrt_headers_rtx)]
            Self::TensorRtRtx => Some(result::table(sys::visord_trt_api_rtx)),
            #[cfg(not(tensorrt_headers_rtx))]
            Self::TensorRtRtx => None,
        }
    }
}

/// What a library says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the names are TensorRT's own")]
pub(crate) struct Version {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) patch: u32,
    pub(crate) build: u32,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}.{}", self.major, self.minor, self.patch, self.build)
    }
}
