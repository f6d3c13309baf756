//! What a plan depends on, and the hash of it that names the plan's files.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::builder::{Flavor, Identity, Options};
use super::network::{ExternalFile, Network, hex};
use super::profile::profiles;
use super::request::{PlanError, PlanRequest};
use crate::model::config::Precision;
use crate::model::fp16::{Fp16Options, to_fp16};
use crate::model::spec::ModelSpec;

/// Goes up when the same ingredients make other plans than before, as when the FP16 rewrite changes.
const FORMAT: u32 = 1;

/// Digits of the key in file names: enough to tell plans apart; notes have the whole.
pub(super) const SHORT_KEY: usize = 16;

/// Longest part of a model's name in file names, bytes: file systems allow 255 in all.
const MAX_NAME: usize = 100;

#[derive(Serialize)]
struct BuiltFrom<'a> {
    format: u32,
    model_sha256: &'a str,
    external_data: &'a [ExternalFile],
    tensorrt: Flavor,
    tensorrt_version: &'a str,
    compute_capability: String,
    device: &'a str,
    precision: &'static str,
    /// Set where the graph is rewritten to 16-bit floats first.
    fp32_operators: Option<&'a [String]>,
    options: &'a Options,
}

/// A request with everything read that its plan depends on.
#[derive(Debug)]
pub(super) struct Entry {
    pub network: Network,
    pub options: Options,
    /// The ingredients in the clear.
    pub built_from: Value,
    /// SHA-256 over them, in hexadecimal.
    pub key: String,
    /// `<model>-<version>-<key>`, the key shortened.
    pub stem: String,
    /// File of the timing cache, where there is one.
    pub timing: Option<String>,
    rewrite: bool,
}

impl Entry {
    /// Reads the network and settles the builder's options.
    ///
    /// # Errors
    /// All of [`PlanError`] but for what building itself brings.
    pub(super) fn new(request: &PlanRequest<'_>, identity: &Identity) -> Result<Self, PlanError> {
        let (spec, target, flavor) = (request.spec, request.target, identity.flavor);
        let (major, minor) = target.compute_capability;
        if !target.present && !flavor.builds_without_gpu() {
            return Err(PlanError::Absent { flavor: flavor.name(), major, minor });
        }
        let network = Network::read(&spec.path).map_err(PlanError::Network)?;
        let options = options(spec, &network, flavor, target.compute_capability)?;
        let rewrite = spec.precision == Precision::Fp16 && flavor.strongly_typed();
        let compute_capability = format!("{major}.{minor}");
        let built_from = BuiltFrom {
            format: FORMAT,
            model_sha256: &network.sha256,
            external_data: &network.external,
            tensorrt: flavor,
            tensorrt_version: &identity.version,
            compute_capability,
            device: target.device(flavor),
            precision: spec.precision.name(),
            fp32_operators: rewrite.then_some(&spec.tensorrt.fp32_operators),
            options: &options,
        };
        let unfit = |e: serde_json::Error| PlanError::Network(e.to_string());
        let key = hex(&Sha256::digest(serde_json::to_vec(&built_from).map_err(unfit)?));
        let built_from = serde_json::to_value(&built_from).map_err(unfit)?;
        // A model's name is ASCII (`model::repository::is_name`).
        let name = request.model.get(..MAX_NAME).unwrap_or(request.model);
        let stem = format!("{name}-{}-{}", request.version, &key[..SHORT_KEY]);
        let device = target.device(flavor).replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let device = device.get(..MAX_NAME).unwrap_or(&device);
        let version = identity.version.replace(|c: char| !c.is_ascii_alphanumeric() && c != '.', "-");
        let timing = spec.tensorrt.timing_cache && flavor.measures_kernels();
        let timing =
            timing.then(|| format!("timing-{}-{version}-{device}-sm{major}{minor}.cache", flavor.name()));
        Ok(Self { network, options, built_from, key, stem, timing, rewrite })
    }

    /// The network as the builder is given it.
    ///
    /// # Errors
    /// [`PlanError::Fp16`].
    pub(super) fn onnx(&self, spec: &ModelSpec) -> Result<Cow<'_, [u8]>, PlanError> {
        if self.rewrite {
            rewritten(&self.network, spec).map(Cow::Owned)
        } else {
            Ok(Cow::Borrowed(&self.network.onnx))
        }
    }

    /// The key in names of locks and temporary files.
    pub(super) fn short_key(&self) -> &str {
        &self.key[..SHORT_KEY]
    }
}

/// The network in 16-bit floats, as a strongly typed product takes it for `precision = "fp16"`.
///
/// # Errors
/// [`PlanError::Fp16`].
pub(super) fn rewritten(network: &Network, spec: &ModelSpec) -> Result<Vec<u8>, PlanError> {
    let options = Fp16Options { fp32_operators: spec.tensorrt.fp32_operators.clone() };
    to_fp16(&network.onnx, &network.path, &options)
        .map_err(|source| PlanError::Fp16 { path: network.path.display().to_string(), source })
}

fn options(
    spec: &ModelSpec,
    network: &Network,
    flavor: Flavor,
    compute_capability: (u32, u32),
) -> Result<Options, PlanError> {
    let of_file = |e: String| format!("{}: {e}", spec.path.display());
    let weak = !flavor.strongly_typed();
    let (fp16, tf32) = match spec.precision {
        Precision::Fp32 => (false, false),
        Precision::Tf32 => (false, true),
        Precision::Fp16 => (weak, false),
        Precision::Bf16 => return Err(PlanError::Precision(spec.precision)),
    };
    Ok(Options {
        fp16,
        tf32,
        int8: weak && network.quantized,
        workspace_bytes: spec.tensorrt.workspace_bytes,
        optimization_level: spec.tensorrt.optimization_level,
        hardware_compatibility: spec.tensorrt.hardware_compatibility,
        profiles: profiles(spec, &network.signature).map_err(of_file).map_err(PlanError::Shape)?,
        compute_capabilities: if flavor.builds_without_gpu() { vec![compute_capability] } else { Vec::new() },
    })
}
