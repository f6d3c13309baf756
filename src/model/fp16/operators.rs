//! What is known of each ONNX operator: the types of its outputs, and whether it may compute in FP16.
//!
//! Sources: types and the opset that first takes FP16, <https://onnx.ai/onnx/operators/>. Which operators stay
//! in FP32 follows what PyTorch's autocast keeps there for CUDA
//! (<https://pytorch.org/docs/stable/amp.html#cuda-ops-that-can-autocast-to-float32>), with three differences.
//! `Softmax` and `LogSoftmax` compute in FP16: they subtract the maximum first, so nothing leaves the range, and
//! casts around them would stand in the way of TensorRT's attention kernels. Layer, RMS, group and instance
//! normalisation take FP16 tensors: ONNX has `stash_type`, and TensorRT's `INormalizationLayer` a compute
//! precision, both FP32 unless said otherwise. `Sin`, `Cos` and what takes coordinates are added: FP16 cannot
//! tell pixel 2049 from 2048.

/// Why an operator computes in FP32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A sum, product, power or exponential leaves FP16's range (65504, 6e-8) for ordinary inputs.
    Range,
    /// Eleven bits are too few: the result depends on differences that FP16 rounds away.
    Precision,
    /// An input holds coordinates or positions.
    Coordinates,
    /// Random numbers are to be the same in both precisions.
    Random,
    /// ONNX has no FP16 form of it.
    Type,
}

/// Where an operator computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// In FP16.
    Half,
    /// In FP16, but in FP32 between operators that are in FP32 themselves: it is cheap, and casts are not.
    Light,
    /// In FP32.
    Single(Reason),
    /// Takes its input as it is and gives no floats.
    Free,
    /// Makes a tensor from no floats, in whichever type its readers want.
    Source,
    /// Handled by name: `Cast`, `BatchNormalization`, `QuantizeLinear`, `DequantizeLinear`.
    Special,
    /// Works on sequences or optionals, which `Cast` cannot convert.
    Refused,
}

/// Element type of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// That of the input with this index.
    Like(usize),
    /// That of the attribute, a `TensorProto.DataType`; of the first input without it, or FLOAT.
    Attribute(&'static str),
    /// Never FLOAT.
    Other,
    /// FLOAT.
    Float,
    /// As the graph in an attribute, or `value_info`, says.
    Declared,
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Operator {
    /// `op_type` in the default domain.
    pub name: &'static str,
    /// Where it computes.
    pub class: Class,
    /// First opset in which its float inputs may be FP16.
    pub since: i64,
    /// Types of its outputs; the last one stands for all that follow.
    pub outputs: &'static [Output],
    /// Inputs that are FLOAT whatever the others are.
    pub float_inputs: &'static [usize],
}

impl Operator {
    const fn new(name: &'static str, class: Class) -> Self {
        Self { name, class, since: 1, outputs: &[Output::Like(0)], float_inputs: &[] }
    }

    const fn since(mut self, opset: i64) -> Self {
        self.since = opset;
        self
    }

    const fn outputs(mut self, outputs: &'static [Output]) -> Self {
        self.outputs = outputs;
        self
    }

    const fn float_inputs(mut self, inputs: &'static [usize]) -> Self {
        self.float_inputs = inputs;
        self
    }

    /// The type of an output.
    pub fn output(&self, index: usize) -> Output {
        self.outputs.get(index).or(self.outputs.last()).copied().unwrap_or(Output::Other)
    }
}

const fn half(name: &'static str) -> Operator {
    Operator::new(name, Class::Half)
}
const fn light(name: &'static str) -> Operator {
    Operator::new(name, Class::Light)
}
const fn single(name: &'static str, reason: Reason) -> Operator {
    Operator::new(name, Class::Single(reason))
}
const fn free(name: &'static str) -> Operator {
    Operator::new(name, Class::Free).outputs(OTHER)
}
const fn refused(name: &'static str) -> Operator {
    Operator::new(name, Class::Refused)
}

const OTHER: &[Output] = &[Output::Other];
const DTYPE: &[Output] = &[Output::Attribute("dtype")];
const WINDOW: &[Output] = &[Output::Attribute("output_datatype")];
const WITH_INDICES: &[Output] = &[Output::Like(0), Output::Other];

use Reason::{Coordinates, Precision, Random, Range, Type};

/// Operators of the default domain up to opset 28, by name.
#[rustfmt::skip]
const TABLE: &[Operator] = &[
    light("Abs"), single("Acos", Precision), single("Acosh", Precision), light("Add"),
    single("AffineGrid", Coordinates), free("And"), light("ArgMax").outputs(OTHER),
    light("ArgMin").outputs(OTHER), single("Asin", Precision), single("Asinh", Precision),
    single("Atan", Precision), single("Atanh", Precision),
    half("Attention").outputs(&[Output::Like(0), Output::Like(1), Output::Like(2), Output::Like(0)]),
    half("AveragePool"),
    Operator::new("BatchNormalization", Class::Special),
    single("Bernoulli", Random).outputs(DTYPE),
    single("BitCast", Type).outputs(&[Output::Attribute("to")]),
    free("BitShift"), free("BitwiseAnd"), free("BitwiseNot"), free("BitwiseOr"), free("BitwiseXor"),
    single("BlackmanWindow", Precision).outputs(WINDOW),
    Operator::new("Cast", Class::Special).outputs(&[Output::Attribute("to")]),
    light("CastLike").outputs(&[Output::Like(1)]),
    half("CausalConvWithState"), light("Ceil"), single("Celu", Type), light("CenterCropPad"), light("Clip"),
    half("Col2Im"), light("Compress"), light("Concat"), refused("ConcatFromSequence"),
    Operator::new("Constant", Class::Source), Operator::new("ConstantOfShape", Class::Source),
    half("Conv"), free("ConvInteger"), half("ConvTranspose"), single("Cos", Precision),
    single("Cosh", Range), single("CumProd", Range), single("CumSum", Range), single("DFT", Precision),
    single("DeformConv", Coordinates), light("DepthToSpace"),
    Operator::new("DequantizeLinear", Class::Special).outputs(&[Output::Like(1)]).since(19),
    single("Det", Range), light("Div"), light("Dropout").outputs(WITH_INDICES).float_inputs(&[1]),
    single("DynamicQuantizeLinear", Type).outputs(&[Output::Other, Output::Float, Output::Other]),
    half("Einsum"), half("Elu"), light("Equal").outputs(OTHER), half("Erf"), single("Exp", Range),
    light("Expand"), Operator::new("EyeLike", Class::Source).outputs(DTYPE), light("Flatten"),
    light("Floor"), half("GRU"), light("Gather"), light("GatherElements"), light("GatherND"), half("Gelu"),
    half("Gemm"), half("GlobalAveragePool"), single("GlobalLpPool", Range), half("GlobalMaxPool"),
    light("Greater").outputs(OTHER), light("GreaterOrEqual").outputs(OTHER),
    single("GridSample", Coordinates), half("GroupNormalization"),
    single("HammingWindow", Precision).outputs(WINDOW), single("HannWindow", Precision).outputs(WINDOW),
    half("HardSigmoid"), half("HardSwish"), half("Hardmax"), light("Identity"),
    single("If", Type).outputs(&[Output::Declared]), free("ImageDecoder"), half("InstanceNormalization"),
    light("IsInf").outputs(OTHER).since(20), light("IsNaN").outputs(OTHER), single("LRN", Range),
    half("LSTM"), half("LayerNormalization").outputs(&[Output::Like(0), Output::Float]), half("LeakyRelu"),
    light("Less").outputs(OTHER), light("LessOrEqual").outputs(OTHER),
    single("LinearAttention", Range), single("Log", Range),
    half("LogSoftmax"), single("Loop", Type).outputs(&[Output::Declared]), single("LpNormalization", Range),
    single("LpPool", Range), half("MatMul"), free("MatMulInteger"), light("Max"),
    half("MaxPool").outputs(WITH_INDICES), single("MaxRoiPool", Coordinates), half("MaxUnpool"),
    single("Mean", Range), single("MeanVarianceNormalization", Range),
    single("MelWeightMatrix", Precision).outputs(WINDOW), light("Min"), half("Mish"),
    single("Mod", Precision), light("Mul"), single("Multinomial", Random).outputs(OTHER), light("Neg"),
    single("NegativeLogLikelihoodLoss", Range), single("NonMaxSuppression", Type).outputs(OTHER),
    light("NonZero").outputs(OTHER), free("Not"), light("OneHot").outputs(&[Output::Like(2)]),
    refused("Optional"), refused("OptionalGetElement"), refused("OptionalHasElement"), free("Or"),
    half("PRelu"), light("Pad"), single("Pow", Range), single("QLinearConv", Type).outputs(OTHER),
    single("QLinearMatMul", Type).outputs(OTHER),
    Operator::new("QuantizeLinear", Class::Special).outputs(OTHER).since(19),
    half("RMSNormalization").outputs(&[Output::Like(1)]), half("RNN"),
    single("RandomNormal", Random).outputs(DTYPE), single("RandomNormalLike", Random).outputs(DTYPE),
    single("RandomUniform", Random).outputs(DTYPE), single("RandomUniformLike", Random).outputs(DTYPE),
    single("Range", Type), single("Reciprocal", Range), single("ReduceL1", Range), single("ReduceL2", Range),
    single("ReduceLogSum", Range), single("ReduceLogSumExp", Range), light("ReduceMax"),
    single("ReduceMean", Range), light("ReduceMin"), single("ReduceProd", Range), single("ReduceSum", Range),
    single("ReduceSumSquare", Range), free("RegexFullMatch"), half("Relu"), light("Reshape"),
    half("Resize").float_inputs(&[1, 2]), light("ReverseSequence"), single("RoiAlign", Coordinates),
    half("RotaryEmbedding"), light("Round"), single("STFT", Precision),
    single("Scan", Type).outputs(&[Output::Declared]), light("Scatter"), light("ScatterElements"),
    light("ScatterND"), half("Selu"), refused("SequenceAt"), refused("SequenceConstruct"),
    refused("SequenceEmpty"), refused("SequenceErase"), refused("SequenceInsert"), refused("SequenceLength"),
    refused("SequenceMap"), free("Shape"), half("Shrink"), half("Sigmoid"), light("Sign"),
    single("Sin", Precision), single("Sinh", Range), free("Size"), light("Slice"), half("Softmax"),
    single("SoftmaxCrossEntropyLoss", Range), single("Softplus", Range), half("Softsign"),
    light("SpaceToDepth"), light("Split"), refused("SplitToSequence"), single("Sqrt", Range),
    light("Squeeze"), free("StringConcat"), free("StringNormalizer"), free("StringSplit"), light("Sub"),
    light("Sum"), half("SwiGLU"), half("Swish"), single("Tan", Range), half("Tanh"), light("TensorScatter"),
    single("TfIdfVectorizer", Type).outputs(&[Output::Float]), half("ThresholdedRelu"), light("Tile"),
    light("TopK").outputs(WITH_INDICES), light("Transpose"), light("Trilu"), light("Unique").outputs(WITH_INDICES),
    light("Unsqueeze"), half("Upsample").float_inputs(&[1]), light("Where").outputs(&[Output::Like(1)]),
    free("Xor"),
];

/// The row of an operator of the default domain.
pub fn find(name: &str) -> Option<&'static Operator> {
    TABLE.binary_search_by(|row| row.name.cmp(name)).ok().map(|at| &TABLE[at])
}

/// Whether an operator hands on the numbers of a shape, so that its result is still part of a shape.
///
/// TensorRT computes shapes in INT32, INT64 and FP32, not in FP16
/// (<https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-dynamic-shapes.html>), and
/// FP16 has no 2049.
pub fn carries_shape(name: &str) -> bool {
    matches!(
        name,
        "Abs"
            | "Add"
            | "Cast"
            | "Ceil"
            | "Clip"
            | "Concat"
            | "Div"
            | "Floor"
            | "Gather"
            | "Identity"
            | "Max"
            | "Min"
            | "Mod"
            | "Mul"
            | "Neg"
            | "Pow"
            | "ReduceMax"
            | "ReduceMin"
            | "ReduceProd"
            | "ReduceSum"
            | "Reshape"
            | "Round"
            | "Slice"
            | "Split"
            | "Sqrt"
            | "Squeeze"
            | "Sub"
            | "Sum"
            | "Unsqueeze"
            | "Where"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_can_be_searched() {
        for pair in TABLE.windows(2) {
            assert!(pair[0].name < pair[1].name, "{} stands before {}", pair[0].name, pair[1].name);
        }
        for row in TABLE {
            assert_eq!(find(row.name).map(|found| found.name), Some(row.name));
        }
        assert!(find("Convolution").is_none());
    }
}
