//! The network that a plan is built from: the ONNX file's bytes, and the files with its weights.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use rten_onnx::onnx::{DataLocation, GraphProto, TensorProto};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::model::onnx::OnnxInfo;

/// Largest ONNX file, bytes: a protobuf message ends there, and larger models keep their weights in other files.
const MAX_ONNX_BYTES: u64 = 1 << 31;

/// A file with weights, beside the ONNX file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExternalFile {
    /// Path from the ONNX file's folder, as the ONNX file has it.
    pub location: String,
    /// SHA-256 of its bytes, in hexadecimal.
    pub sha256: String,
}

/// An ONNX file, read once.
#[derive(Debug, Clone)]
pub struct Network {
    /// Where it is.
    pub path: PathBuf,
    /// Its bytes.
    pub onnx: Vec<u8>,
    /// SHA-256 of the bytes, in hexadecimal.
    pub sha256: String,
    /// Files that it refers to, in name order.
    pub external: Vec<ExternalFile>,
    /// Inputs and outputs.
    pub signature: OnnxInfo,
    /// Whether it is quantised: has QuantizeLinear or DequantizeLinear operators.
    pub quantized: bool,
}

impl Network {
    /// Reads and hashes an ONNX file and all files that it refers to.
    ///
    /// # Errors
    /// A sentence that names the file: it cannot be read, is over 2 GiB, is no ONNX, or refers to a file that is
    /// not there or outside its folder.
    pub fn read(path: &Path) -> Result<Self, String> {
        let of_file = |e: String| format!("{} {e}", path.display());
        let onnx = read_bounded(path).map_err(of_file)?;
        let model = crate::model::wire::parse_bytes(&onnx).map_err(of_file)?;
        let signature = OnnxInfo::of(&model).map_err(of_file)?;
        let mut found = Found::default();
        if let Some(graph) = &model.graph {
            found.graph(graph).map_err(of_file)?;
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut external = Vec::with_capacity(found.locations.len());
        for location in found.locations {
            let file = inside(folder, &location).map_err(of_file)?;
            let sha256 = hash_file(&file).map_err(|e| {
                of_file(format!("has weights in {}, which cannot be read: {e}", file.display()))
            })?;
            external.push(ExternalFile { location, sha256 });
        }
        let sha256 = hex(&Sha256::digest(&onnx));
        Ok(Self { path: path.to_owned(), onnx, sha256, external, signature, quantized: found.quantized })
    }
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |e: std::io::Error| format!("cannot be read: {e}");
    let file = std::fs::File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    if size > MAX_ONNX_BYTES {
        return Err(format!(
            "has {size} bytes, over the {MAX_ONNX_BYTES} of a protobuf message; save it with external data"
        ));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    file.take(MAX_ONNX_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// What a walk through the graph comes across.
#[derive(Default)]
struct Found {
    locations: BTreeSet<String>,
    quantized: bool,
}

impl Found {
    /// Subgraphs are walked too; protobuf's own limit on nesting bounds the depth.
    fn graph(&mut self, graph: &GraphProto) -> Result<(), String> {
        for tensor in &graph.initializer {
            self.tensor(tensor)?;
        }
        for node in &graph.node {
            self.quantized |=
                node.op_type.as_deref().is_some_and(|op| matches!(op, "QuantizeLinear" | "DequantizeLinear"));
            for attribute in &node.attribute {
                if let Some(tensor) = &attribute.t {
                    self.tensor(tensor)?;
                }
                if let Some(graph) = &attribute.g {
                    self.graph(graph)?;
                }
            }
        }
        Ok(())
    }

    fn tensor(&mut self, tensor: &TensorProto) -> Result<(), String> {
        if tensor.data_location != Some(DataLocation::EXTERNAL) {
            return Ok(());
        }
        let location = tensor.external_data.iter().find(|e| e.key.as_deref() == Some("location"));
        let name = tensor.name.as_deref().unwrap_or_default();
        let location = location
            .and_then(|e| e.value.clone())
            .ok_or_else(|| format!("does not say where the weights of \"{name}\" are"))?;
        self.locations.insert(location);
        Ok(())
    }
}

/// The path of an external file: below `folder`, whatever the ONNX file says.
fn inside(folder: &Path, location: &str) -> Result<PathBuf, String> {
    let path = Path::new(location);
    let plain = path.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    if location.is_empty() || location.contains('\0') || !plain {
        return Err(format!("has weights in \"{location}\"; they must be in the model's own folder"));
    }
    Ok(folder.join(path))
}

fn hash_file(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is no file"));
    }
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
