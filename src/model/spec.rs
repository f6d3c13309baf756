//! A model version with every question answered: `model.toml` and the ONNX signature, checked against each other,
//! defaults filled in.

use std::path::{Path, PathBuf};

use super::config::{DEFAULT_BATCH_SIZE, DecoderChoice, ImageSection, ModelConfig, Normalize, Precision};
use super::onnx::{BatchDimension, OnnxInfo};
use super::tensorrt::TensorRtConfig;
use crate::image::{ColorOrder, Layout, Preprocess, PreprocessConfig, ResizeRule};
use crate::problems::Problems;
use crate::tensor::{Datatype, TensorSpec};

/// How encoded images become the model's input.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageInput {
    /// The BYTES input under which the Open Inference Protocol takes images.
    pub name: String,
    /// Size, layout and arithmetic.
    pub preprocess: PreprocessConfig,
    /// Who decodes JPEGs where a GPU can.
    pub decoder: DecoderChoice,
}

/// An output as it leaves: the ONNX signature and what is done to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputSpec {
    /// Name, datatype and shape without the batch dimension.
    pub tensor: TensorSpec,
    /// Softmax along the last dimension.
    pub softmax: bool,
    /// Normalisation of each row.
    pub normalize: Normalize,
    /// Labels for the classification extension, by index.
    pub labels: Vec<String>,
}

/// One version of a model, with every question answered.
#[derive(Debug, Clone)]
pub struct ModelSpec {
    /// Its `model.onnx`.
    pub path: PathBuf,
    /// Rows a batch may hold; 0 means that the model has no batch dimension and each request runs alone.
    pub max_batch_size: usize,
    /// Inputs; shapes without the batch dimension where there is one.
    pub inputs: Vec<TensorSpec>,
    /// Outputs; likewise.
    pub outputs: Vec<OutputSpec>,
    /// Set where the model takes images.
    pub image: Option<ImageInput>,
    /// Arithmetic.
    pub precision: Precision,
    /// Batch sizes that plans are made to be fast at, ascending; empty means `max_batch_size`.
    pub preferred_batch_size: Vec<usize>,
    /// How TensorRT builds the plan.
    pub tensorrt: TensorRtConfig,
}

impl ModelSpec {
    /// Whether requests have a batch dimension.
    #[must_use]
    pub fn batched(&self) -> bool {
        self.max_batch_size > 0
    }

    /// Rows that one execution may hold.
    #[must_use]
    pub fn rows_per_batch(&self) -> usize {
        self.max_batch_size.max(1)
    }

    /// Checks a configuration against an ONNX signature and fills in what the file leaves open.
    pub fn resolve(config: &ModelConfig, path: &Path, onnx: &OnnxInfo, problems: &mut Problems) -> Self {
        let source = config.dir.join("model.toml").display().to_string();
        let batch = onnx.batch_dimension();
        let max_batch_size = match (config.max_batch_size, batch) {
            (Some(0), _) | (None, None) => 0,
            (None, Some(BatchDimension::Dynamic)) => {
                config.dynamic_batching.preferred_batch_size.last().copied().unwrap_or(DEFAULT_BATCH_SIZE)
            }
            (None, Some(BatchDimension::Fixed(n))) => usize::from(n == 1),
            (Some(n), Some(BatchDimension::Dynamic)) => n,
            (Some(1), Some(BatchDimension::Fixed(1))) => 1,
            (Some(n), other) => {
                let why = match other {
                    Some(BatchDimension::Fixed(f)) => {
                        format!("the first dimension of {} is fixed at {f}", path.display())
                    }
                    _ => format!("the inputs of {} have no common first dimension", path.display()),
                };
                problems.add(
                    &source,
                    "max_batch_size",
                    n,
                    format!("must be 0 (no batching) or left out: {why}"),
                );
                0
            }
        };
        if let Some(over) =
            config.dynamic_batching.preferred_batch_size.iter().find(|p| **p > max_batch_size.max(1))
        {
            problems.add(
                &source,
                "dynamic_batching.preferred_batch_size",
                over,
                format!("must not exceed max_batch_size, {max_batch_size}"),
            );
        }
        let row = |spec: &TensorSpec| TensorSpec {
            shape: if max_batch_size > 0 {
                spec.shape.get(1..).unwrap_or_default().to_vec()
            } else {
                spec.shape.clone()
            },
            ..spec.clone()
        };
        let mut inputs: Vec<TensorSpec> = onnx.inputs.iter().map(row).collect();
        let image = resolve_image(&config.image, &inputs, max_batch_size > 0, &source, problems);
        if let Some(ImageInput { preprocess: p, .. }) = &image {
            // Sides that the network leaves open are what `[image]` says, for tensors too.
            let (h, w) = (p.height.into(), p.width.into());
            inputs[0].shape = match p.layout {
                Layout::Nchw => vec![3, h, w],
                Layout::Nhwc => vec![h, w, 3],
            };
        }
        let outputs =
            onnx.outputs.iter().map(|o| resolve_output(config, row(o), problems)).collect::<Vec<_>>();
        for wanted in &config.outputs {
            if !onnx.outputs.iter().any(|o| o.name == wanted.name) {
                let names = onnx.outputs.iter().map(|o| o.name.as_str()).collect::<Vec<_>>().join(", ");
                problems.add(
                    &source,
                    "output.name",
                    format!("\"{}\"", wanted.name),
                    format!("must be one of the outputs of {}: {names}", path.display()),
                );
            }
        }
        for (from, _) in &config.paddle_keys {
            if !onnx.outputs.iter().any(|o| o.name == *from) {
                let names = onnx.outputs.iter().map(|o| o.name.as_str()).collect::<Vec<_>>().join(", ");
                let allowed = format!("must be one of the outputs of {}: {names}", path.display());
                problems.add(&source, "paddle_serving.fetch", format!("\"{from}\""), allowed);
            }
        }
        config.tensorrt.check(&source, &inputs, problems);
        Self {
            path: path.to_owned(),
            max_batch_size,
            inputs,
            outputs,
            image,
            precision: config.precision,
            preferred_batch_size: config.dynamic_batching.preferred_batch_size.clone(),
            tensorrt: config.tensorrt.clone(),
        }
    }
}

fn resolve_output(config: &ModelConfig, tensor: TensorSpec, problems: &mut Problems) -> OutputSpec {
    let source = config.dir.join("model.toml").display().to_string();
    let Some(wanted) = config.outputs.iter().find(|o| o.name == tensor.name) else {
        return OutputSpec { tensor, softmax: false, normalize: Normalize::None, labels: Vec::new() };
    };
    if (wanted.softmax || wanted.normalize != Normalize::None) && tensor.datatype != Datatype::Fp32 {
        problems.add(
            &source,
            "output.softmax",
            "",
            format!("softmax and normalize need FP32; \"{}\" is {}", tensor.name, tensor.datatype),
        );
    }
    let labels = wanted.label_filename.as_ref().map_or_else(Vec::new, |file| {
        let path = config.dir.join(file);
        match std::fs::read_to_string(&path) {
            Ok(text) => text.lines().map(|l| l.trim_end().to_owned()).collect(),
            Err(e) => {
                problems.add(
                    &source,
                    "output.label_filename",
                    file,
                    format!("{} cannot be read: {e}", path.display()),
                );
                Vec::new()
            }
        }
    });
    OutputSpec { tensor, softmax: wanted.softmax, normalize: wanted.normalize, labels }
}

/// What shape says of an image input: `(layout, height, width)`, -1 where it varies.
pub(crate) fn image_shape(shape: &[i64]) -> Option<(Layout, i64, i64)> {
    match *shape {
        [3, h, w] => Some((Layout::Nchw, h, w)),
        [h, w, 3] => Some((Layout::Nhwc, h, w)),
        _ => None,
    }
}

fn resolve_image(
    section: &ImageSection,
    inputs: &[TensorSpec],
    batched: bool,
    source: &str,
    problems: &mut Problems,
) -> Option<ImageInput> {
    let asked = section.asked;
    if section.enabled == Some(false) {
        return None;
    }
    let mut refuse = |key: &str, value: &str, allowed: String| {
        if asked {
            problems.add(source, key, value, allowed);
        }
        None
    };
    if !batched {
        return refuse(
            "image",
            "",
            "needs a model with a batch dimension (max_batch_size at least 1)".into(),
        );
    }
    let [input] = inputs else {
        return refuse(
            "image",
            "",
            format!("needs a model with exactly one input; this one has {}", inputs.len()),
        );
    };
    if let Some(name) = &section.input
        && *name != input.name
    {
        return refuse("image.input", name, format!("must be the model's input, \"{}\"", input.name));
    }
    if !matches!(input.datatype, Datatype::Fp32 | Datatype::Fp16 | Datatype::Uint8) {
        return refuse(
            "image",
            "",
            format!("needs an FP32, FP16 or UINT8 input; \"{}\" is {}", input.name, input.datatype),
        );
    }
    let Some((found, h, w)) = image_shape(&input.shape) else {
        return refuse(
            "image",
            "",
            format!(
                "needs an input of shape [3, H, W] or [H, W, 3]; \"{}\" is {:?}",
                input.name, input.shape
            ),
        );
    };
    if let Some(layout) = section.layout
        && layout != found
    {
        return refuse(
            "image.layout",
            "",
            format!("contradicts the shape of \"{}\", {:?}", input.name, input.shape),
        );
    }
    let mut side = |key: &str, asked_for: Option<u32>, fixed: i64| match (asked_for, u32::try_from(fixed)) {
        (Some(a), Ok(f)) if a != f => {
            problems.add(
                source,
                key,
                a,
                format!("must be {f}, or left out: \"{}\" is {:?}", input.name, input.shape),
            );
            None
        }
        (Some(a), _) => Some(a),
        (None, Ok(f)) => Some(f),
        (None, Err(_)) if asked => {
            problems.add(
                source,
                key,
                "",
                format!("must be set: \"{}\" leaves it open, {:?}", input.name, input.shape),
            );
            None
        }
        (None, Err(_)) => None,
    };
    let height = side("image.height", section.height, h);
    let width = side("image.width", section.width, w);
    let (height, width) = (height?, width?);
    if input.datatype == Datatype::Uint8 && (section.mean.is_some() || section.scale.is_some()) {
        problems.add(
            source,
            "image.mean",
            "",
            "mean and scale are for FP32 inputs; a UINT8 input takes the levels as they are",
        );
    }
    let image = ImageInput {
        name: section.name.clone().unwrap_or_else(|| "image".into()),
        preprocess: PreprocessConfig {
            width,
            height,
            layout: found,
            color_order: section.color_order.unwrap_or(ColorOrder::Rgb),
            mean: section.mean.unwrap_or([0.0; 3]),
            scale: section.scale.unwrap_or([1.0 / 255.0; 3]),
            resize: section.resize.unwrap_or(ResizeRule::Stretch),
        },
        decoder: section.decoder.unwrap_or_default(),
    };
    if let Err(e) = Preprocess::new(image.preprocess.clone()) {
        problems.add(source, "image", "", e);
    }
    Some(image)
}
