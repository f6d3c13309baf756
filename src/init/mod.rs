//! `visord init`: a first model folder of an ONNX file, with a comment for each guess. [`guess`] looks at the network;
//! what it writes is held against the same rules as any `model.toml` before it is put in its place.

pub mod guess;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::migrate::files::{self, Content, Output};
use crate::migrate::model::{folder_name, is_folder_name};
use crate::model::config::ModelConfig;
use crate::model::files::OnnxFile;
use crate::model::repository::{MODEL_FILE, NAME_RULE, version};
use crate::model::spec::ModelSpec;
use crate::problems::Problems;
use crate::tensor::{Datatype, TensorSpec};

/// Flags of `init`.
#[derive(Debug, Clone, Args)]
pub struct InitArgs {
    /// The network; it is copied, with its weights in other files
    #[arg(value_name = "MODEL.onnx")]
    pub onnx: PathBuf,

    /// Model repository to add the folder to; it may be there already
    #[arg(long, value_name = "DIR", default_value = "models")]
    pub output: PathBuf,

    /// Name of the model and its folder [default: the file's name, or its folder's where that is model.onnx]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
}

/// Writes the folder; says what was guessed, and what to run next.
///
/// # Errors
/// Sentences: the file is no ONNX that can be served, the name cannot be one, or the folder is there. Nothing is left
/// behind then.
pub fn run(args: &InitArgs) -> Result<String, Vec<String>> {
    let onnx = OnnxFile::read(&args.onnx).map_err(|e| vec![e])?;
    let name = name(args)?;
    let folder = args.output.join(&name);
    if folder.symlink_metadata().is_ok() {
        return Err(vec![format!("{} is there; --name or --output makes another folder", folder.display())]);
    }
    let guess = guess::guess(&onnx);
    // Written whole under a name that nothing serves, then renamed.
    let part = args.output.join(format!(".{name}.{}.part", std::process::id()));
    let toml = Output { path: part.join("model.toml"), content: Content::Text(guess.toml.clone()) };
    let copies = onnx.copies(&part.join("1")).into_iter();
    let copies = copies.map(|(from, path)| Output { path, content: Content::CopyOf(from) });
    let outputs: Vec<Output> = std::iter::once(toml).chain(copies).collect();
    let spec = files::write_all(&outputs, false).and_then(|()| check(&part, &name, &onnx));
    let spec = spec.and_then(|spec| {
        let renamed = std::fs::rename(&part, &folder);
        renamed.map(|()| spec).map_err(|e| vec![format!("{} cannot be written: {e}", folder.display())])
    });
    let spec = spec.inspect_err(|_| {
        let _ = std::fs::remove_dir_all(&part);
    })?;
    let written = outputs.iter().filter_map(|o| o.path.strip_prefix(&part).ok()).map(|p| folder.join(p));
    Ok(summary(args, &name, &written.collect::<Vec<_>>(), &guess.notes, &spec))
}

/// What `visord check` would say; the guesses must leave it nothing to say.
fn check(part: &Path, name: &str, onnx: &OnnxFile) -> Result<ModelSpec, Vec<String>> {
    let mut problems = Problems::default();
    let config = ModelConfig::read(part, name, &mut problems);
    let spec = ModelSpec::resolve(&config, &part.join("1").join(MODEL_FILE), &onnx.info, &mut problems);
    if problems.0.is_empty() { Ok(spec) } else { Err(problems.0.iter().map(ToString::to_string).collect()) }
}

/// The file's name; where that says nothing, the name of the folder that it is in.
fn name(args: &InitArgs) -> Result<String, Vec<String>> {
    if let Some(name) = &args.name {
        let error = || vec![format!("--name {name:?}: {NAME_RULE}; a folder's name does not begin with '.'")];
        return is_folder_name(name).then(|| name.clone()).ok_or_else(error);
    }
    let path = std::path::absolute(&args.onnx).unwrap_or_else(|_| args.onnx.clone());
    let text = |p: Option<&std::ffi::OsStr>| p.map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let stem = text(path.file_stem());
    let folders = path.ancestors().skip(1).map(|p| text(p.file_name()));
    let folder = folders.take(2).find(|n| version(n).is_none()).filter(|n| !n.is_empty());
    let says_nothing = matches!(stem.as_str(), "model" | "inference");
    Ok(folder_name(&folder.filter(|_| says_nothing).unwrap_or(stem)))
}

fn summary(args: &InitArgs, name: &str, written: &[PathBuf], notes: &[String], spec: &ModelSpec) -> String {
    let mut out = String::new();
    for path in written {
        let _ = writeln!(out, "written   {}", path.display());
    }
    for note in notes {
        let _ = writeln!(out, "guessed   {note}");
    }
    let repository = crate::migrate::quote(&args.output.to_string_lossy());
    let _ = writeln!(out, "next      visord check --model-repository {repository}");
    let _ = writeln!(out, "next      visord serve --model-repository {repository}");
    let url = "http://127.0.0.1:8000";
    if spec.image.is_some() {
        let _ = writeln!(
            out,
            "next      curl --data-binary @picture.jpg -H 'Content-Type: image/jpeg' {url}/v1/models/{name}/infer"
        );
    } else if let Some(body) = zeros(spec) {
        let _ = writeln!(out, "next      curl -d '{body}' {url}/v2/models/{name}/infer");
    } else if let [input] = spec.inputs.as_slice() {
        let bytes = elements(input) * input.datatype.size_bytes().unwrap_or(1);
        let _ = writeln!(
            out,
            "next      head -c {bytes} /dev/zero | curl --data-binary @- -H 'Inference-Header-Content-Length: 0' {url}/v2/models/{name}/infer"
        );
    }
    out
}

/// Elements of one row, with 1 for every open dimension.
fn elements(input: &TensorSpec) -> usize {
    let sides = input.shape.iter().map(|d| usize::try_from(*d).unwrap_or(1));
    sides.fold(1_usize, usize::saturating_mul)
}

/// A request of zeros, where it fits a line.
fn zeros(spec: &ModelSpec) -> Option<String> {
    if spec.inputs.iter().map(elements).fold(0_usize, usize::saturating_add) > 64 {
        return None;
    }
    let tensors = spec.inputs.iter().map(|input| {
        let batch = spec.batched().then_some(1);
        let shape: Vec<i64> = batch.into_iter().chain(input.shape.iter().map(|d| (*d).max(1))).collect();
        let zero =
            if input.datatype == Datatype::Bool { serde_json::json!(false) } else { serde_json::json!(0) };
        serde_json::json!({
            "name": input.name, "datatype": input.datatype.to_string(), "shape": shape,
            "data": vec![zero; elements(input)],
        })
    });
    let body = serde_json::json!({ "inputs": tensors.collect::<Vec<_>>() }).to_string();
    // It is for a shell, between quotes.
    Some(body.replace('\'', "\\u0027"))
}
