//! Flags of `visord migrate`.

use std::path::PathBuf;

use clap::Args;

use crate::cli::PaddleErrNo;

/// Flags of `migrate`: the file, and what stands in `web_service.py` beside it.
#[derive(Debug, Clone, Args)]
pub struct MigrateArgs {
    /// PaddleServing's config.yml
    #[arg(long, value_name = "FILE")]
    pub paddle: PathBuf,

    /// The model as ONNX; it is copied, with its weights in other files [default: the report has the command of paddle2onnx]
    #[arg(long, value_name = "FILE")]
    pub onnx: Option<PathBuf>,

    /// Folder to write: visord.toml, and models/ for --model-repository
    #[arg(long, value_name = "DIR", default_value = "migrated")]
    pub output: PathBuf,

    /// Replace files that are there
    #[arg(long)]
    pub force: bool,

    /// The operator to migrate, where there are several
    #[arg(long, value_name = "NAME")]
    pub op: Option<String>,

    /// Name of the model and its folder [default: the operator's name]
    #[arg(long, value_name = "NAME")]
    pub model_name: Option<String>,

    /// Name of the service, WebService(name=…): the first part of the path in HTTP [default: the operator's name]
    #[arg(long, value_name = "NAME")]
    pub service_name: Option<String>,

    /// Name of the input that preprocess() fills, e.g. x [default: the ONNX file's one input]
    #[arg(long, value_name = "NAME")]
    pub feed_name: Option<String>,

    /// An output and the key under which postprocess() returns it, e.g. save_infer_model/scale_0.tmp_1=out; NAME alone
    /// where there is no postprocess(); again for each further one
    #[arg(long, value_name = "NAME[=KEY]")]
    pub fetch_name: Vec<String>,

    /// Size that preprocess() resizes to, e.g. 112x112 [default: the ONNX file's]
    #[arg(long, value_name = "WIDTHxHEIGHT", value_parser = size)]
    pub resize: Option<(u32, u32)>,

    /// How it keeps the shape, or not
    #[arg(long, value_name = "RULE", value_parser = ["stretch", "letterbox", "center_crop"], default_value = "stretch")]
    pub resize_rule: String,

    /// Length of the shorter side before the crop, pixels
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(1..=16384))]
    pub resize_shorter_side: Option<u32>,

    /// What is subtracted from levels of 0 to 255: one number, or three, in the order of --color-order; e.g. 127.5
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', allow_hyphen_values = true)]
    pub mean: Vec<f64>,

    /// What the difference is multiplied by, e.g. 0.00784313725; 1/255/std for a std of 0 to 1
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', allow_hyphen_values = true)]
    pub scale: Vec<f64>,

    /// Order of the channels that the model is fed with; OpenCV reads BGR, [:, :, ::-1] makes it RGB
    #[arg(long, value_name = "ORDER", value_parser = ["RGB", "BGR"], ignore_case = true)]
    pub color_order: Option<String>,

    /// Order of the dimensions; transpose((2, 0, 1)) makes it NCHW [default: the ONNX file's]
    #[arg(long, value_name = "LAYOUT", value_parser = ["NCHW", "NHWC"], ignore_case = true)]
    pub layout: Option<String>,

    /// PaddleServing generation that the clients know: 0.6 where postprocess() has three arguments besides self
    #[arg(long, value_enum)]
    pub paddle_err_no: Option<PaddleErrNo>,
}

/// `112x112`.
fn size(text: &str) -> Result<(u32, u32), String> {
    let side = |s: &str| s.parse().ok().filter(|v| (1..=16384).contains(v));
    let sides = text.split_once(['x', 'X']).and_then(|(w, h)| Some((side(w)?, side(h)?)));
    sides.ok_or_else(|| "must be WIDTHxHEIGHT, as 112x112, each from 1 to 16384".to_owned())
}
