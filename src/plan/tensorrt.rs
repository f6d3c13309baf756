//! TensorRT's own builder, behind [`Builder`].

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use super::builder::{self, Builder, BuilderError, Built, Event, Flavor, Identity, Options};
use crate::ffi::tensorrt as ffi;
use crate::model::tensorrt::HardwareCompatibility;

/// A TensorRT library with a builder and an ONNX parser.
#[derive(Debug, Clone)]
pub struct TensorRtBuilder {
    library: Arc<ffi::Library>,
}

impl TensorRtBuilder {
    /// Looks for TensorRT in `dir`, or where the loader looks.
    ///
    /// # Errors
    /// Everything that was looked for, with what came of it, and what to install.
    pub fn find(dir: Option<&Path>) -> Result<Self, String> {
        let (library, findings) = ffi::Library::find(dir);
        library.ok_or_else(|| not_found(&findings)).and_then(Self::new)
    }

    /// Builds with a library that is open already.
    ///
    /// # Errors
    /// It has no builder or no ONNX parser.
    pub(crate) fn new(library: Arc<ffi::Library>) -> Result<Self, String> {
        if library.can_build() {
            return Ok(Self { library });
        }
        Err(format!(
            "{}, {} {}, cannot build plans: it is a runtime alone, or its ONNX parser is not beside it; {INSTALL}",
            library.path().display(),
            library.flavor().name(),
            library.version()
        ))
    }
}

const INSTALL: &str = "install TensorRT 10 or 11 with its ONNX parser, or TensorRT-RTX 1.5 or newer, and name the folder \
                       with the libraries in --tensorrt-dir or VISORD_TENSORRT_DIR";

fn not_found(findings: &[ffi::Finding]) -> String {
    let mut text = "no TensorRT was found:".to_owned();
    for finding in findings {
        let outcome = match &finding.outcome {
            Ok(words) | Err(words) => words,
        };
        let _ = write!(text, "\n  {}: {outcome}", finding.library);
    }
    let _ = write!(text, "\n{INSTALL}");
    text
}

impl Builder for TensorRtBuilder {
    fn identity(&self) -> Identity {
        // A name that the loader resolved by itself has no folder: none has to be given again.
        let dir = self.library.path().parent().filter(|d| !d.as_os_str().is_empty());
        Identity {
            flavor: match self.library.flavor() {
                ffi::Flavor::TensorRt10 => Flavor::TensorRt10,
                ffi::Flavor::TensorRt11 => Flavor::TensorRt11,
                ffi::Flavor::TensorRtRtx => Flavor::TensorRtRtx,
            },
            version: self.library.version().to_string(),
            dir: dir.map(Path::to_owned),
        }
    }

    fn build(
        &self,
        onnx: &[u8],
        path: &Path,
        options: &Options,
        timing_cache: &[u8],
        monitor: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Built, BuilderError> {
        let options = build_options(options, timing_cache);
        let mut monitor = |progress: &ffi::BuildProgress<'_>| monitor(event(*progress));
        match self.library.build(&ffi::Network { onnx, path }, &options, &mut monitor) {
            Ok(built) => Ok(Built { plan: built.plan, timing_cache: built.timing_cache }),
            Err(ffi::TensorRtError::Cancelled) => Err(BuilderError::Cancelled),
            Err(
                e @ (ffi::TensorRtError::Open { .. }
                | ffi::TensorRtError::NoDriver { .. }
                | ffi::TensorRtError::Parse(_)
                | ffi::TensorRtError::Call { .. }
                | ffi::TensorRtError::Interface(_)
                | ffi::TensorRtError::Unsupported(_)),
            ) => Err(BuilderError::Failed(format!("{}: {e}", self.library.flavor().name()))),
        }
    }
}

fn event(progress: ffi::BuildProgress<'_>) -> Event<'_> {
    match progress {
        ffi::BuildProgress::Start { phase, parent, steps } => Event::Start { phase, parent, steps },
        ffi::BuildProgress::Step { phase, step } => Event::Step { phase, step },
        ffi::BuildProgress::Finish { phase } => Event::Finish { phase },
    }
}

fn build_options(options: &Options, timing_cache: &[u8]) -> ffi::BuildOptions {
    let input = |i: &builder::ProfileInput| ffi::ProfileInput {
        name: i.name.clone(),
        min: i.min.clone(),
        opt: i.opt.clone(),
        max: i.max.clone(),
    };
    ffi::BuildOptions {
        fp16: options.fp16,
        tf32: options.tf32,
        int8: options.int8,
        workspace_bytes: options.workspace_bytes,
        optimization_level: options.optimization_level,
        hardware_compatibility: match options.hardware_compatibility {
            HardwareCompatibility::None => ffi::HardwareCompatibility::None,
            HardwareCompatibility::AmperePlus => ffi::HardwareCompatibility::AmperePlus,
            HardwareCompatibility::SameComputeCapability => ffi::HardwareCompatibility::SameComputeCapability,
        },
        profiles: options
            .profiles
            .iter()
            .map(|p| ffi::Profile { inputs: p.inputs.iter().map(input).collect() })
            .collect(),
        compute_capabilities: options.compute_capabilities.clone(),
        timing_cache: timing_cache.to_vec(),
    }
}
