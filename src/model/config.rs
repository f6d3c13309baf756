//! `model.toml`: what a model's folder says of how it is to be served, in Triton's words.
//!
//! [`ModelConfig`] is the file, checked key by key; [`ModelSpec`] is the file together with one version's ONNX
//! signature, checked against each other, with every default filled in.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::onnx::{BatchDimension, OnnxInfo};
use crate::image::{ColorOrder, Layout, Preprocess, PreprocessConfig, PreprocessError, ResizeRule};
use crate::problems::{Problems, Section};
use crate::tensor::{Datatype, TensorSpec};

/// Which backend is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum BackendChoice {
    /// The best that works here: tensorrt, openvino, rten, in that order.
    Auto,
    /// NVIDIA TensorRT, on a GPU.
    #[value(name = "tensorrt")]
    TensorRt,
    /// Intel OpenVINO, on the CPU, loaded at run time.
    #[value(name = "openvino")]
    OpenVino,
    /// rten, on the CPU, compiled in.
    Rten,
}

impl BackendChoice {
    /// The word in files and flags.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::TensorRt => "tensorrt",
            Self::OpenVino => "openvino",
            Self::Rten => "rten",
        }
    }
}

/// The arithmetic that the engine may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// 32-bit floats throughout.
    Fp32,
    /// bfloat16 products, where the CPU has them (AVX512_BF16 or AMX).
    Bf16,
}

impl Precision {
    /// The word in files and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Bf16 => "bf16",
        }
    }
}

/// `[dynamic_batching]`: how requests wait and how they form batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DynamicBatching {
    /// Batch sizes worth stopping at, ascending; empty means any size.
    pub preferred_batch_size: Vec<usize>,
    /// How long the oldest row may wait for company while an instance is idle.
    pub max_queue_delay: Duration,
    /// Rows that may wait; one more is refused.
    pub max_queue_size: usize,
    /// Deadline of a request that names none; `None` is no deadline.
    pub default_timeout: Option<Duration>,
    /// Whether a request's `timeout` counts. It can only shorten `default_timeout`.
    pub allow_timeout_override: bool,
    /// Priority levels, 1 the most urgent; 0 means that priorities are ignored.
    pub priority_levels: u32,
    /// Level of a request that names none.
    pub default_priority_level: u32,
}

/// One `[[instance_group]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceGroup {
    /// Instances in the group; `None` leaves the number to the backend (one for each core on a CPU).
    pub count: Option<usize>,
    /// Threads of each instance, on a CPU.
    pub threads: usize,
}

/// `[model_warmup]`: what runs before a version counts as ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelWarmup {
    /// Runs of each batch size, in every instance.
    pub count: usize,
    /// Batch sizes to run; empty means 1 and the largest.
    pub batch_size: Vec<usize>,
}

/// `[version_policy]`: which of the numbered folders are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VersionPolicy {
    /// The highest `num_versions`.
    Latest(usize),
    /// Every one.
    All,
    /// These.
    Specific(Vec<u64>),
}

/// What is done to an output before it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Normalize {
    /// Nothing.
    None,
    /// Each row divided by its Euclidean norm.
    L2,
}

/// One `[[output]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputConfig {
    /// Name in the ONNX graph.
    pub name: String,
    /// File beside `model.toml` with one label a line, for the classification extension.
    pub label_filename: Option<String>,
    /// Whether softmax is applied along the last dimension.
    pub softmax: bool,
    /// Normalisation of each row.
    pub normalize: Normalize,
}

/// `[image]`, as far as the file says.
#[derive(Debug, Clone, Default)]
struct ImageSection {
    enabled: Option<bool>,
    input: Option<String>,
    name: Option<String>,
    width: Option<u32>,
    height: Option<u32>,
    layout: Option<Layout>,
    color_order: Option<ColorOrder>,
    mean: Option<[f32; 3]>,
    scale: Option<[f32; 3]>,
    resize: Option<ResizeRule>,
}

/// `model.toml`, checked by itself.
#[derive(Debug, Clone)]
pub struct ModelConfig {
    /// Folder name, and the name that requests use.
    pub name: String,
    /// The model's folder.
    pub dir: PathBuf,
    /// The backend that this model asks for; the server's flag decides where this is `auto`.
    pub backend: BackendChoice,
    /// Arithmetic.
    pub precision: Precision,
    max_batch_size: Option<usize>,
    image: ImageSection,
    /// `[[output]]` tables.
    pub outputs: Vec<OutputConfig>,
    /// Queueing and batching.
    pub dynamic_batching: DynamicBatching,
    /// Instances.
    pub instance_group: Vec<InstanceGroup>,
    /// Warm-up.
    pub model_warmup: ModelWarmup,
    /// Versions to serve.
    pub version_policy: VersionPolicy,
    /// Service name in PaddleServing's path; the model's name where not set.
    pub paddle_service: String,
    /// PaddleServing's key for each output that has another name there.
    pub paddle_keys: Vec<(String, String)>,
}

/// Most rows that a batch may be configured to hold.
pub const MAX_BATCH_SIZE: u64 = 4096;
/// Rows that a queue holds where `max_queue_size` is not set: 4 s of work for a model that does 250 rows/s,
/// 0.1 s for one that does 10,000.
pub const DEFAULT_QUEUE_SIZE: usize = 1024;
/// `max_batch_size` where the file is silent and the ONNX batch dimension is dynamic.
pub const DEFAULT_BATCH_SIZE: usize = 8;

impl ModelConfig {
    /// Reads a model's folder; what is wrong lands in `problems` and a default takes its place.
    pub fn read(dir: &Path, name: &str, problems: &mut Problems) -> Self {
        let path = dir.join("model.toml");
        let table = crate::problems::read_table(&path, true, problems);
        let mut s = Section::new(&path, &table, problems);
        if let Some(written) = s.string("name")
            && written != name
        {
            s.problem(
                "name",
                format!("\"{written}\""),
                format!("must be the folder's name, \"{name}\", or left out"),
            );
        }
        let backend = s.choice("backend", &BACKENDS).unwrap_or(BackendChoice::Auto);
        let precision = s
            .choice("precision", &[("fp32", Precision::Fp32), ("bf16", Precision::Bf16)])
            .unwrap_or(Precision::Fp32);
        let max_batch_size = s.integer("max_batch_size", 0..=MAX_BATCH_SIZE).map(|v| v as usize);
        let image = s.section("image", read_image);
        let outputs = s.sections("output", read_output);
        let dynamic_batching = s.section("dynamic_batching", read_batching);
        let instance_group = s.sections("instance_group", |g| {
            g.choice("kind", &[("auto", ()), ("cpu", ())]);
            InstanceGroup {
                count: g.integer("count", 1..=1024).map(|v| v as usize),
                threads: g.integer("threads", 1..=1024).map_or(1, |v| v as usize),
            }
        });
        let model_warmup = s.section("model_warmup", |w| ModelWarmup {
            count: w.integer("count", 0..=1000).map_or(1, |v| v as usize),
            batch_size: usizes(w.integers("batch_size", 1..=MAX_BATCH_SIZE)),
        });
        let version_policy = s.section("version_policy", read_policy);
        let (paddle_service, paddle_keys) = s.section("paddle_serving", |p| {
            (p.string("service").unwrap_or(name).to_owned(), p.string_map("fetch"))
        });
        s.finish();
        Self {
            name: name.to_owned(),
            dir: dir.to_owned(),
            backend,
            precision,
            max_batch_size,
            image,
            outputs,
            dynamic_batching,
            instance_group,
            model_warmup,
            version_policy,
            paddle_service,
            paddle_keys,
        }
    }
}

const BACKENDS: [(&str, BackendChoice); 4] = [
    ("auto", BackendChoice::Auto),
    ("tensorrt", BackendChoice::TensorRt),
    ("openvino", BackendChoice::OpenVino),
    ("rten", BackendChoice::Rten),
];

fn usizes(list: Option<Vec<u64>>) -> Vec<usize> {
    let mut list: Vec<usize> = list.unwrap_or_default().into_iter().map(|v| v as usize).collect();
    list.sort_unstable();
    list.dedup();
    list
}

fn read_image(s: &mut Section<'_>) -> ImageSection {
    let fill = s.triple("letterbox_fill").unwrap_or([0.0; 3]);
    if fill.iter().any(|v| !(0.0..=255.0).contains(v)) {
        s.problem("letterbox_fill", format!("{fill:?}"), "must be levels from 0 to 255");
    }
    let crop = s.integer("crop_resize_shorter_side", 1..=16384).map(|v| v as u32);
    ImageSection {
        enabled: s.boolean("enabled"),
        input: s.string("input").map(str::to_owned),
        name: s.string("name").map(str::to_owned),
        width: s.integer("width", 1..=16384).map(|v| v as u32),
        height: s.integer("height", 1..=16384).map(|v| v as u32),
        layout: s.choice("layout", &[("NCHW", Layout::Nchw), ("NHWC", Layout::Nhwc)]),
        color_order: s.choice("color_order", &[("RGB", ColorOrder::Rgb), ("BGR", ColorOrder::Bgr)]),
        mean: s.triple("mean"),
        scale: s.triple("scale"),
        resize: s.choice(
            "resize",
            &[
                ("stretch", ResizeRule::Stretch),
                ("letterbox", ResizeRule::Letterbox { fill: fill.map(|v| v as u8) }),
                ("center_crop", ResizeRule::CenterCrop { resize_shorter_side: crop }),
            ],
        ),
    }
}

fn read_output(s: &mut Section<'_>) -> OutputConfig {
    let name = s.string("name").unwrap_or_default().to_owned();
    if name.is_empty() {
        s.problem("name", "", "must name an output of the ONNX graph");
    }
    let output = OutputConfig {
        name,
        label_filename: s.string("label_filename").map(str::to_owned),
        softmax: s.boolean("softmax").unwrap_or(false),
        normalize: s
            .choice("normalize", &[("none", Normalize::None), ("l2", Normalize::L2)])
            .unwrap_or(Normalize::None),
    };
    if output.softmax && output.normalize != Normalize::None {
        s.problem("normalize", "\"l2\"", "cannot be combined with softmax = true");
    }
    output
}

fn read_batching(s: &mut Section<'_>) -> DynamicBatching {
    let micros = |v: u64| Duration::from_micros(v);
    let priority_levels = s.integer("priority_levels", 0..=64).unwrap_or(0) as u32;
    let default = s.integer("default_priority_level", 1..=64).map(|v| v as u32);
    if let Some(level) = default
        && level > priority_levels
    {
        s.problem(
            "default_priority_level",
            level,
            format!("must be from 1 to priority_levels, {priority_levels}"),
        );
    }
    DynamicBatching {
        preferred_batch_size: usizes(s.integers("preferred_batch_size", 1..=MAX_BATCH_SIZE)),
        max_queue_delay: s
            .integer("max_queue_delay_microseconds", 0..=10_000_000)
            .map_or(Duration::ZERO, micros),
        max_queue_size: s.integer("max_queue_size", 1..=1_000_000).map_or(DEFAULT_QUEUE_SIZE, |v| v as usize),
        default_timeout: s
            .integer("default_timeout_microseconds", 0..=3_600_000_000)
            .filter(|v| *v > 0)
            .map(micros),
        allow_timeout_override: s.boolean("allow_timeout_override").unwrap_or(true),
        priority_levels,
        default_priority_level: default.unwrap_or_else(|| priority_levels.div_ceil(2).max(1)),
    }
}

fn read_policy(s: &mut Section<'_>) -> VersionPolicy {
    let given: Vec<&str> = ["latest", "all", "specific"].into_iter().filter(|k| s.has(k)).collect();
    if given.len() > 1 {
        s.problem("", given.join(", "), "must be only one of latest, all, specific");
    }
    let latest = s.section("latest", |l| l.integer("num_versions", 1..=1000).unwrap_or(1) as usize);
    s.section("all", |_| ());
    let specific = s.section("specific", |p| p.integers("versions", 1..=u64::MAX >> 1).unwrap_or_default());
    match given.first() {
        Some(&"all") => VersionPolicy::All,
        Some(&"specific") => {
            if specific.is_empty() {
                s.problem("specific.versions", "[]", "must list at least one version");
            }
            VersionPolicy::Specific(specific)
        }
        _ => VersionPolicy::Latest(latest),
    }
}

/// How encoded images become the model's input.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageInput {
    /// The BYTES input under which the Open Inference Protocol takes images.
    pub name: String,
    /// Size, layout and arithmetic.
    pub preprocess: PreprocessConfig,
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
                    &wanted.name,
                    format!("must be one of the outputs of {}: {names}", path.display()),
                );
            }
        }
        Self { path: path.to_owned(), max_batch_size, inputs, outputs, image, precision: config.precision }
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
fn image_shape(shape: &[i64]) -> Option<(Layout, i64, i64)> {
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
    let asked = section.enabled == Some(true)
        || section.width.is_some()
        || section.input.is_some()
        || section.mean.is_some();
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
    if !matches!(input.datatype, Datatype::Fp32 | Datatype::Uint8) {
        return refuse(
            "image",
            "",
            format!("needs an FP32 or UINT8 input; \"{}\" is {}", input.name, input.datatype),
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
    if input.datatype == Datatype::Uint8 && (section.mean.is_some() || section.scale.is_some()) {
        let allowed = format!("must be left out: \"{}\" is UINT8 and gets levels as they are", input.name);
        problems.add(source, if section.mean.is_some() { "image.mean" } else { "image.scale" }, "", allowed);
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
    let preprocess = PreprocessConfig {
        width,
        height,
        layout: found,
        color_order: section.color_order.unwrap_or(ColorOrder::Rgb),
        mean: section.mean.unwrap_or([0.0; 3]),
        scale: section.scale.unwrap_or([1.0 / 255.0; 3]),
        resize: section.resize.unwrap_or(ResizeRule::Stretch),
    };
    match Preprocess::new(preprocess.clone()) {
        Ok(_) => {}
        Err(PreprocessError::Crop { shorter, .. }) => {
            let allowed = format!("must be at least {}, the larger side of the input", width.max(height));
            problems.add(source, "image.crop_resize_shorter_side", shorter, allowed);
        }
        Err(e @ (PreprocessError::Side { .. } | PreprocessError::NotFinite { .. })) => {
            problems.add(source, "image", "", e);
        }
    }
    Some(ImageInput { name: section.name.clone().unwrap_or_else(|| "image".into()), preprocess })
}
