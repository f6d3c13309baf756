//! An ONNX file and the files with its weights, put into a version's folder.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use rten_onnx::onnx::{DataLocation, GraphProto, ModelProto, TensorProto};

use super::onnx::OnnxInfo;

/// Largest ONNX file, bytes: a protobuf message ends there, and larger models keep their weights in other files.
pub(crate) const MAX_ONNX_BYTES: u64 = 1 << 31;

/// An ONNX file, read once.
pub struct OnnxFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its size, bytes.
    pub bytes: u64,
    /// Inputs and outputs.
    pub info: OnnxInfo,
    /// Paths of its other files, from its folder.
    pub external: BTreeSet<PathBuf>,
    /// The whole.
    pub model: ModelProto,
}

impl OnnxFile {
    /// Reads an ONNX file, and looks for the files that it refers to.
    ///
    /// # Errors
    /// A sentence that begins with the path: it cannot be read, is over 2 GiB, is no ONNX, or refers to a file that is
    /// not there or outside its folder.
    pub fn read(path: &Path) -> Result<Self, String> {
        Self::try_read(path).map_err(|e| format!("{} {e}", path.display()))
    }

    fn try_read(path: &Path) -> Result<Self, String> {
        let failed = |e: std::io::Error| format!("cannot be read: {e}");
        let file = std::fs::File::open(path).map_err(failed)?;
        let data = file.metadata().map_err(failed)?;
        if !data.is_file() {
            return Err("is no file".into());
        }
        check_size(data.len())?;
        let model = super::wire::parse_file(file)?;
        let info = OnnxInfo::of(&model)?;
        let external = external_files(&model)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for location in &external {
            let file = folder.join(location);
            if !file.is_file() {
                return Err(format!("has weights in {}, which is not there", file.display()));
            }
        }
        Ok(Self { path: path.to_owned(), bytes: data.len(), info, external, model })
    }

    /// What to copy where in a version's folder, the ONNX file first.
    #[must_use]
    pub fn copies(&self, version: &Path) -> Vec<(PathBuf, PathBuf)> {
        let folder = self.path.parent().unwrap_or(Path::new(""));
        let own = (self.path.clone(), version.join(super::repository::MODEL_FILE));
        let others = self.external.iter().map(|e| (folder.join(e), version.join(e)));
        std::iter::once(own).chain(others).collect()
    }
}

/// Whether an ONNX file of that many bytes can be one.
///
/// # Errors
/// A sentence: it is over [`MAX_ONNX_BYTES`].
pub(crate) fn check_size(bytes: u64) -> Result<(), String> {
    if bytes <= MAX_ONNX_BYTES {
        return Ok(());
    }
    Err(format!(
        "has {bytes} bytes, over the {MAX_ONNX_BYTES} of a protobuf message; save it with external data"
    ))
}

/// Paths of the files that a network's weights are in, from its own folder and below it.
///
/// # Errors
/// A sentence: a tensor does not say where its weights are, or says that they are outside the folder.
pub(crate) fn external_files(model: &ModelProto) -> Result<BTreeSet<PathBuf>, String> {
    let mut found = BTreeSet::new();
    if let Some(graph) = &model.graph {
        find_external(graph, &mut found)?;
    }
    Ok(found)
}

/// Subgraphs are walked too; the reader bounds their depth.
fn find_external(graph: &GraphProto, found: &mut BTreeSet<PathBuf>) -> Result<(), String> {
    for tensor in &graph.initializer {
        found.extend(external(tensor)?);
    }
    for attribute in graph.node.iter().flat_map(|n| &n.attribute) {
        if let Some(tensor) = &attribute.t {
            found.extend(external(tensor)?);
        }
        if let Some(graph) = &attribute.g {
            find_external(graph, found)?;
        }
    }
    Ok(())
}

/// The file that a tensor's values are in, where they are in one: below the ONNX file's folder, whatever it says.
fn external(tensor: &TensorProto) -> Result<Option<PathBuf>, String> {
    if tensor.data_location != Some(DataLocation::EXTERNAL) {
        return Ok(None);
    }
    let location = tensor.external_data.iter().find(|e| e.key.as_deref() == Some("location"));
    let name = tensor.name.as_deref().unwrap_or_default();
    let location = location
        .and_then(|e| e.value.as_deref())
        .ok_or_else(|| format!("does not say where the weights of \"{name}\" are"))?;
    let path = Path::new(location);
    let plain = path.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    if location.is_empty() || location.contains('\0') || !plain {
        return Err(format!("has weights in \"{location}\"; they must be in the model's own folder"));
    }
    Ok(Some(path.to_owned()))
}
