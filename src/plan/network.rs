//! The network that a plan is built from: the ONNX file's bytes, and the files with its weights.

use std::io::Read;
use std::path::{Path, PathBuf};

use rten_onnx::onnx::GraphProto;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::model::files::{MAX_ONNX_BYTES, check_size, external_files};
use crate::model::onnx::OnnxInfo;

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
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut external = Vec::new();
        for location in external_files(&model).map_err(of_file)? {
            let file = folder.join(&location);
            let sha256 = hash_file(&file).map_err(|e| {
                of_file(format!("has weights in {}, which cannot be read: {e}", file.display()))
            })?;
            external.push(ExternalFile { location: location.to_string_lossy().into_owned(), sha256 });
        }
        let quantized = model.graph.as_ref().is_some_and(is_quantized);
        let sha256 = hex(&Sha256::digest(&onnx));
        Ok(Self { path: path.to_owned(), onnx, sha256, external, signature, quantized })
    }
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |e: std::io::Error| format!("cannot be read: {e}");
    let file = std::fs::File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    check_size(size)?;
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    file.take(MAX_ONNX_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// Whether there is an operator of a quantised network, in subgraphs too; the reader bounds their depth.
fn is_quantized(graph: &GraphProto) -> bool {
    graph.node.iter().any(|node| {
        matches!(node.op_type.as_deref(), Some("QuantizeLinear" | "DequantizeLinear"))
            || node.attribute.iter().filter_map(|a| a.g.as_ref()).any(is_quantized)
    })
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
