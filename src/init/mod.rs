//! `visord init`: a first model folder of an ONNX file.

use std::path::PathBuf;

use clap::Args;

/// Flags of `init`.
#[derive(Debug, Clone, Args)]
pub struct InitArgs {
    /// The model
    #[arg(value_name = "MODEL.onnx")]
    pub onnx: PathBuf,

    /// Model repository to write to
    #[arg(long, value_name = "DIR", default_value = "models")]
    pub output: PathBuf,

    /// Name of the model and its folder [default: the file's name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
}

/// Writes it.
///
/// # Errors
/// x
pub fn run(args: &InitArgs) -> Result<String, Vec<String>> {
    Ok(args.onnx.display().to_string())
}
