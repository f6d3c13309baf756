//! `[tensorrt]` of `model.toml`: how TensorRT builds a model's plan. [`crate::plan`] makes builder options of it.

use crate::problems::{Problems, Section};
use crate::tensor::TensorSpec;

/// Which GPUs, besides the one that it was built for, may run a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HardwareCompatibility {
    /// GPUs of the same model: the fastest plan.
    #[default]
    None,
    /// Every GPU from Ampere (8.0) on.
    AmperePlus,
    /// Every GPU of the same compute capability.
    SameComputeCapability,
}

impl HardwareCompatibility {
    /// Every level.
    pub const ALL: [HardwareCompatibility; 3] = [Self::None, Self::AmperePlus, Self::SameComputeCapability];

    /// The word in files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::AmperePlus => "ampere_plus",
            Self::SameComputeCapability => "same_compute_capability",
        }
    }
}

/// One `[[tensorrt.shape]]`: how large an input may get whose ONNX shape leaves it open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapeRange {
    /// Name in the ONNX graph.
    pub input: String,
    /// Smallest shape, without the batch dimension where there is one.
    pub min: Vec<u64>,
    /// The shape to be fast at.
    pub opt: Vec<u64>,
    /// Largest shape.
    pub max: Vec<u64>,
}

/// `[tensorrt]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorRtConfig {
    /// GPU memory that a layer may use for scratch space, bytes; `None` is the GPU's whole memory.
    pub workspace_bytes: Option<u64>,
    /// How long TensorRT searches, 0 to 5; `None` is its own default.
    pub optimization_level: Option<u8>,
    /// Which other GPUs may run the plan.
    pub hardware_compatibility: HardwareCompatibility,
    /// Whether measured kernel times are kept between builds.
    pub timing_cache: bool,
    /// Operators that `precision = "fp16"` leaves in 32 bits, besides those that always stay.
    pub fp32_operators: Vec<String>,
    /// Bounds of shapes that the ONNX file leaves open.
    pub shapes: Vec<ShapeRange>,
}

impl Default for TensorRtConfig {
    fn default() -> Self {
        Self {
            workspace_bytes: None,
            optimization_level: None,
            hardware_compatibility: HardwareCompatibility::None,
            timing_cache: true,
            fp32_operators: Vec::new(),
            shapes: Vec::new(),
        }
    }
}

/// Largest dimension that a shape may have: TensorRT refuses tensors of more elements (`Dims` of NvInferRuntimeBase.h).
const MAX_DIMENSION: u64 = 1 << 31;

pub(super) fn read(s: &mut Section<'_>) -> TensorRtConfig {
    let mut config = TensorRtConfig {
        workspace_bytes: s.integer("workspace_bytes", 1 << 20..=1 << 40),
        optimization_level: s.integer("optimization_level", 0..=5).map(|v| v as u8),
        hardware_compatibility: s
            .choice("hardware_compatibility", &HardwareCompatibility::ALL.map(|h| (h.name(), h)))
            .unwrap_or_default(),
        timing_cache: s.boolean("timing_cache").unwrap_or(true),
        fp32_operators: s.strings("fp32_operators").unwrap_or_default(),
        shapes: s.sections("shape", |shape| {
            let input = shape.string("input").unwrap_or_default().to_owned();
            if input.is_empty() {
                shape.problem("input", "", "must name an input of the ONNX graph");
            }
            let mut bound = |key| shape.integers(key, 1..=MAX_DIMENSION).unwrap_or_default();
            ShapeRange { input, min: bound("min"), opt: bound("opt"), max: bound("max") }
        }),
    };
    config.fp32_operators.sort_unstable();
    config.fp32_operators.dedup();
    config
}

impl TensorRtConfig {
    /// Holds the shapes against the model's inputs, whose shapes have no batch dimension where there is one.
    pub(super) fn check(&self, source: &str, inputs: &[TensorSpec], problems: &mut Problems) {
        for range in self.shapes.iter().filter(|r| !r.input.is_empty()) {
            let mut problem = |allowed: String| problems.add(source, "tensorrt.shape", &range.input, allowed);
            let Some(input) = inputs.iter().find(|i| i.name == range.input) else {
                let names = inputs.iter().map(|i| i.name.as_str()).collect::<Vec<_>>().join(", ");
                problem(format!("must be one of the inputs: {names}"));
                continue;
            };
            let rank = input.shape.len();
            if [&range.min, &range.opt, &range.max].iter().any(|b| b.len() != rank) {
                problem(format!(
                    "min, opt and max must be given, each with {rank} dimensions as the input: {:?}{}",
                    input.shape,
                    if rank == 0 { "" } else { ", without the batch" }
                ));
                continue;
            }
            for (axis, fixed) in input.shape.iter().enumerate() {
                let [min, opt, max] = [range.min[axis], range.opt[axis], range.max[axis]];
                if min > opt || opt > max {
                    problem(format!(
                        "must ascend from min to opt to max; dimension {axis} is {min}, {opt}, {max}"
                    ));
                } else if u64::try_from(*fixed).is_ok_and(|f| f != min || f != max) {
                    problem(format!("dimension {axis} is fixed at {fixed} in {:?}", input.shape));
                }
            }
        }
    }
}
