//! `model.toml`: what a model's folder says of how it is to be served, in Triton's words, checked key by key.
//! [`super::spec`] holds it against the ONNX file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::tensorrt::{self, TensorRtConfig};
use super::traffic::{self, TrafficConfig};
use crate::image::{ColorOrder, Layout, ResizeRule};
use crate::problems::{Problems, Section};

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
    /// 32-bit floats, with TF32 products where the GPU has them (Ampere and later).
    Tf32,
    /// 16-bit floats inside the network, 32-bit at its edges; on a GPU.
    Fp16,
    /// bfloat16 products, where the CPU has them (AVX512_BF16 or AMX).
    Bf16,
}

impl Precision {
    /// Every precision.
    pub const ALL: [Precision; 4] = [Self::Fp32, Self::Tf32, Self::Fp16, Self::Bf16];

    /// The word in files and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Tf32 => "tf32",
            Self::Fp16 => "fp16",
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

/// Where the instances of a group run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstanceKind {
    /// On a GPU where the backend uses one, else on the CPU.
    Auto,
    /// On the CPU.
    Cpu,
    /// On a GPU.
    Gpu,
}

/// One `[[instance_group]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceGroup {
    /// Where they run.
    pub kind: InstanceKind,
    /// Instances, on a GPU for each of `gpus`; `None` leaves the number to the backend: one for each core on a
    /// CPU, one on each GPU.
    pub count: Option<usize>,
    /// Threads of each instance, on a CPU.
    pub threads: usize,
    /// CUDA ordinals of the GPUs, after `CUDA_VISIBLE_DEVICES`; empty means every GPU that can be used.
    pub gpus: Vec<usize>,
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

/// Who decodes JPEGs where a GPU can; on a CPU backend, the CPU does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DecoderChoice {
    /// The fastest for the picture's size, as measured when the model is loaded.
    #[default]
    Auto,
    /// The JPEG engine for every picture that it takes.
    Hardware,
    /// CPU and GPU together for every picture that they take.
    Hybrid,
    /// The CPU for every picture.
    Cpu,
}

impl DecoderChoice {
    /// Every choice.
    pub const ALL: [DecoderChoice; 4] = [Self::Auto, Self::Hardware, Self::Hybrid, Self::Cpu];

    /// The word in files and flags.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Hardware => "hardware",
            Self::Hybrid => "hybrid",
            Self::Cpu => "cpu",
        }
    }
}

/// What is done to an output before it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Normalize {
    /// Nothing.
    None,
    /// Each row divided by its Euclidean norm.
    L2,
}

/// `golden.on_drift`: what becomes of a version whose outputs are off by more than `golden.json` allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDrift {
    /// It is not served.
    Refuse,
    /// If its precision is a reduced one, it is served in FP32 instead.
    Fallback,
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
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct ImageSection {
    /// The file has the table with something in it, and does not switch images off.
    pub asked: bool,
    pub enabled: Option<bool>,
    pub input: Option<String>,
    pub name: Option<String>,
    pub width: Option<u32>,
    pub height: Option<u32>,
    pub layout: Option<Layout>,
    pub color_order: Option<ColorOrder>,
    pub mean: Option<[f32; 3]>,
    pub scale: Option<[f32; 3]>,
    pub resize: Option<ResizeRule>,
    pub decoder: Option<DecoderChoice>,
}

/// `model.toml`, checked by itself.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Folder name, and the name that requests use.
    pub name: String,
    /// The model's folder.
    pub dir: PathBuf,
    /// The backend that this model asks for; the server's flag decides where this is `auto`.
    pub backend: BackendChoice,
    /// Arithmetic.
    pub precision: Precision,
    pub(super) max_batch_size: Option<usize>,
    pub(super) image: ImageSection,
    /// `[[output]]` tables.
    pub outputs: Vec<OutputConfig>,
    /// Queueing and batching.
    pub dynamic_batching: DynamicBatching,
    /// Instances.
    pub instance_group: Vec<InstanceGroup>,
    /// Warm-up.
    pub model_warmup: ModelWarmup,
    /// How TensorRT builds the plan.
    pub tensorrt: TensorRtConfig,
    /// Versions to serve.
    pub version_policy: VersionPolicy,
    /// Which of them answer, and which runs copies.
    pub traffic: TrafficConfig,
    /// What becomes of a version that drifts.
    pub on_drift: OnDrift,
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
        let precision =
            s.choice("precision", &Precision::ALL.map(|p| (p.name(), p))).unwrap_or(Precision::Fp32);
        let max_batch_size = s.integer("max_batch_size", 0..=MAX_BATCH_SIZE).map(|v| v as usize);
        let image = s.section("image", read_image);
        let outputs = s.sections("output", read_output);
        let dynamic_batching = s.section("dynamic_batching", read_batching);
        let instance_group = s.sections("instance_group", read_instance_group);
        if instance_group.windows(2).any(|g| g[0].threads != g[1].threads) {
            s.problem(
                "instance_group",
                "",
                "must have the same threads in every group: one engine divides the cores",
            );
        }
        let model_warmup = s.section("model_warmup", |w| ModelWarmup {
            count: w.integer("count", 0..=1000).map_or(1, |v| v as usize),
            batch_size: usizes(w.integers("batch_size", 1..=MAX_BATCH_SIZE)),
        });
        let tensorrt = s.section("tensorrt", tensorrt::read);
        let policy_written = s.has("version_policy");
        let version_policy = s.section("version_policy", read_policy);
        let traffic = traffic::read(&mut s);
        let version_policy = traffic.policy().filter(|_| !policy_written).unwrap_or(version_policy);
        let on_drift = s.section("golden", |g| {
            g.choice("on_drift", &[("refuse", OnDrift::Refuse), ("fallback", OnDrift::Fallback)])
                .unwrap_or(OnDrift::Refuse)
        });
        let (paddle_service, paddle_keys) = s.section("paddle_serving", |p| {
            let service = p.string("service").unwrap_or(name).to_owned();
            if !super::repository::is_name(&service) {
                p.problem("service", format!("\"{service}\""), super::repository::NAME_RULE);
            }
            (service, p.string_map("fetch"))
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
            tensorrt,
            version_policy,
            traffic,
            on_drift,
            paddle_service,
            paddle_keys,
        }
    }

    /// Whether a version that was loaded under `other` can go on under this one: whatever the two differ in only
    /// decides which versions are served and who answers.
    #[must_use]
    pub fn serves_like(&self, other: &Self) -> bool {
        let (version_policy, traffic) = (self.version_policy.clone(), self.traffic.clone());
        Self { version_policy, traffic, ..other.clone() } == *self
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
    let fill = s.triple("letterbox_fill");
    if fill.is_some_and(|f| f.iter().any(|v| !(0.0..=255.0).contains(v) || v.fract() != 0.0)) {
        s.problem(
            "letterbox_fill",
            format!("{:?}", fill.unwrap_or_default()),
            "must be whole levels from 0 to 255",
        );
    }
    let crop = s.integer("resize_shorter_side", 1..=16384).map(|v| v as u32);
    let enabled = s.boolean("enabled");
    let resize = s.choice(
        "resize",
        &[
            ("stretch", ResizeRule::Stretch),
            ("letterbox", ResizeRule::Letterbox { fill: fill.unwrap_or_default().map(|v| v as u8) }),
            ("center_crop", ResizeRule::CenterCrop { resize_shorter_side: crop }),
        ],
    );
    if fill.is_some() && !matches!(resize, Some(ResizeRule::Letterbox { .. })) {
        s.problem("letterbox_fill", "", "belongs to resize = \"letterbox\"");
    }
    if crop.is_some() && !matches!(resize, Some(ResizeRule::CenterCrop { .. })) {
        s.problem("resize_shorter_side", "", "belongs to resize = \"center_crop\"");
    }
    ImageSection {
        asked: !s.is_empty() && enabled != Some(false),
        enabled,
        input: s.string("input").map(str::to_owned),
        name: s.string("name").map(str::to_owned),
        width: s.integer("width", 1..=16384).map(|v| v as u32),
        height: s.integer("height", 1..=16384).map(|v| v as u32),
        layout: s.choice("layout", &[Layout::Nchw, Layout::Nhwc].map(|l| (l.name(), l))),
        color_order: s.choice("color_order", &[ColorOrder::Rgb, ColorOrder::Bgr].map(|c| (c.name(), c))),
        mean: s.triple("mean"),
        scale: s.triple("scale"),
        resize,
        decoder: s.choice("decoder", &DecoderChoice::ALL.map(|d| (d.name(), d))),
    }
}

fn read_instance_group(s: &mut Section<'_>) -> InstanceGroup {
    let kinds = [("auto", InstanceKind::Auto), ("cpu", InstanceKind::Cpu), ("gpu", InstanceKind::Gpu)];
    let kind = s.choice("kind", &kinds).unwrap_or(InstanceKind::Auto);
    let gpus = usizes(s.integers("gpus", 0..=255));
    if !gpus.is_empty() && kind == InstanceKind::Cpu {
        s.problem("gpus", format!("{gpus:?}"), "belongs to kind = \"gpu\"");
    }
    InstanceGroup {
        kind,
        count: s.integer("count", 1..=1024).map(|v| v as usize),
        threads: s.integer("threads", 1..=1024).map_or(1, |v| v as usize),
        gpus,
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
