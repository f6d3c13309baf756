//! What a network's signature and its first operators say of how it wants to be fed. Every line of the `model.toml` that
//! comes of it says whether it is a fact of the file or a guess.

use std::fmt::Write as _;

use rten_onnx::onnx::{DataType, GraphProto, TensorProto};

use crate::image::Layout;
use crate::migrate::model::{picture, quoted};
use crate::migrate::report::one_line;
use crate::model::files::OnnxFile;
use crate::model::onnx::{BatchDimension, OnnxInfo};
use crate::tensor::{Datatype, TensorSpec};

/// A `model.toml` and what in it somebody should look at.
#[derive(Debug)]
pub struct Guess {
    /// The file's text.
    pub toml: String,
    /// A line for each guess.
    pub notes: Vec<String>,
}

/// What the network gives, by its one output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Scores of ImageNet's 1000 classes, or 1001 with one for nothing.
    ImageNet,
    /// Scores of so many classes: it ends in Softmax.
    Classes(i64),
    /// A row of so many numbers, of the lengths that embeddings have.
    Embedding(i64),
    /// Nothing that is recognised.
    Other,
}

/// What the network does to its input before anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum First {
    /// Nothing with a constant: it wants what training fed it with.
    Nothing,
    /// It normalises levels of 0 to 255 by itself.
    Levels,
    /// It normalises 0 to 1 by itself.
    Unit,
}

/// Rows of a batch where the file leaves them open: a GPU is not busy with fewer, a CPU stops at 4 whatever it says.
const MAX_BATCH_SIZE: usize = 32;

/// Guesses what the file does not say.
#[must_use]
pub fn guess(onnx: &OnnxFile) -> Guess {
    let info = &onnx.info;
    let file = onnx.path.file_name().unwrap_or_default().to_string_lossy();
    let mut toml = format!(
        "# Written by `visord init` from {}. GUESS marks what the file does not say: look at those lines.\n\
         # docs/configuration.md explains each key.\n#\n# The file has:\n",
        one_line(&file)
    );
    for (what, tensors) in [("input ", &info.inputs), ("output", &info.outputs)] {
        for t in tensors {
            let _ = writeln!(toml, "#   {what} {} {} {:?}", quoted(&t.name), t.datatype, t.shape);
        }
    }
    let mut notes = Vec::new();
    toml.push_str(&batches(info));
    let kind = kind(onnx);
    let batched = matches!(info.batch_dimension(), Some(BatchDimension::Dynamic | BatchDimension::Fixed(1)));
    match picture(info).filter(|_| batched) {
        Some((input, layout, height, width)) => {
            let first = onnx.model.graph.as_ref().map_or(First::Nothing, |g| first(g, &input.name));
            image(&mut toml, &mut notes, input, layout, (width, height), kind, first);
        }
        None => {
            toml.push_str(
                "\n# From the file: its inputs are no pictures of three channels behind a batch dimension, so clients send\n\
                 # tensors.\n",
            );
            if info.inputs.iter().any(|i| matches!(i.shape.as_slice(), [_, 1, _, _] | [_, _, _, 1])) {
                toml.push_str("# Pictures of one channel are not decoded by visord.\n");
            }
        }
    }
    outputs(&mut toml, info, kind, onnx);
    toml.push_str(
        "\n# GUESS: 32 bits, which lose nothing. With TensorRT, \"fp16\" computes in 16; `visord check --golden` first keeps\n\
         # today's answers, so that a model that drifts is noticed.\n# precision = \"fp16\"\n",
    );
    Guess { toml, notes }
}

fn batches(info: &OnnxInfo) -> String {
    match info.batch_dimension() {
        Some(BatchDimension::Dynamic) => format!(
            "\n# From the file: the first dimension is open, so rows of different requests share batches. GUESS: {MAX_BATCH_SIZE} is a\n\
             # start for a GPU; on a CPU batches stop at 4 rows whatever stands here.\nmax_batch_size = {MAX_BATCH_SIZE}\n"
        ),
        Some(BatchDimension::Fixed(1)) => "\n# From the file: the first dimension is fixed at 1, so each row runs alone. Exported with that dimension open\n\
             # (dynamic_axes or dynamic_shapes in PyTorch), rows of different requests would share batches.\n\
             max_batch_size = 1\n"
            .to_owned(),
        Some(BatchDimension::Fixed(n)) => format!(
            "\n# From the file: the first dimension is fixed at {n}, so a request brings whole tensors and runs alone.\nmax_batch_size = 0\n"
        ),
        None => "\n# From the file: the inputs have no common first dimension, so a request brings whole tensors and runs alone.\n\
             max_batch_size = 0\n"
            .to_owned(),
    }
}

/// `[image]`.
fn image(
    toml: &mut String,
    notes: &mut Vec<String>,
    input: &TensorSpec,
    layout: Layout,
    size: (i64, i64),
    kind: Kind,
    first: First,
) {
    let name = quoted(&input.name);
    let _ = write!(
        toml,
        "\n# From the file: one input of three channels, so it takes pictures.\n[image]\ninput = {name}\n"
    );
    let side = match kind {
        Kind::Embedding(_) => 112,
        Kind::ImageNet | Kind::Classes(_) | Kind::Other => 224,
    };
    let known = |v: i64| u32::try_from(v).ok();
    let (width, height) = (known(size.0).unwrap_or(side), known(size.1).unwrap_or(side));
    if known(size.0).is_none() || known(size.1).is_none() {
        let _ = writeln!(
            toml,
            "# GUESS: the file leaves the sides open; {width}x{height} is usual for such a network."
        );
        notes.push(format!("width and height, {width}x{height}: the file leaves them open"));
    }
    let _ = write!(toml, "width = {width}\nheight = {height}\nlayout = \"{}\"\n", layout.name());
    toml.push_str("# GUESS: most networks are trained on RGB; those that came from Caffe, and some from OpenCV, on BGR.\ncolor_order = \"RGB\"\n");
    notes.push("color_order, RGB: no file says it".to_owned());
    if input.datatype == Datatype::Uint8 {
        toml.push_str(
            "# From the file: the input is UINT8 and takes the levels as they are, without mean and scale.\n",
        );
    } else {
        normalisation(toml, notes, layout, width, kind, first);
    }
    if kind == Kind::ImageNet && layout == Layout::Nchw && width == height {
        // torchvision's transforms: 256 for 224.
        let shorter = (u64::from(width) * 256 + 112) / 224;
        let _ = write!(
            toml,
            "# GUESS: torchvision's transforms for ImageNet, 256 for a crop of 224.\nresize = \"center_crop\"\nresize_shorter_side = {shorter}\n"
        );
        notes.push(format!("resize, center_crop from {shorter}: as torchvision evaluates ImageNet networks"));
    } else {
        toml.push_str("# GUESS: the whole picture, its shape not kept, as cv2.resize does; \"letterbox\" and \"center_crop\" keep it.\nresize = \"stretch\"\n");
        notes.push("resize, stretch: as cv2.resize does".to_owned());
    }
}

/// `mean` and `scale`.
fn normalisation(
    toml: &mut String,
    notes: &mut Vec<String>,
    layout: Layout,
    side: u32,
    kind: Kind,
    first: First,
) {
    let (values, why) = match (first, kind) {
        (First::Levels, _) => (
            "mean = 0\nscale = 1\n",
            "the network begins by normalising levels of 0 to 255 itself, so it gets them as they are",
        ),
        (First::Unit, _) => (
            "mean = 0\nscale = 0.00392156862745098   # 1 / 255\n",
            "the network begins by normalising values of 0 to 1 itself, so it gets those",
        ),
        (First::Nothing, Kind::ImageNet) if layout == Layout::Nchw => (
            "mean = [123.675, 116.28, 103.53]\nscale = [0.01712475, 0.01750700, 0.01742919]   # 1 / 58.395, 1 / 57.12, 1 / 57.375\n",
            "torchvision's mean and std of ImageNet, times 255: 1000 classes, channels first",
        ),
        (First::Nothing, Kind::ImageNet) => (
            "mean = 127.5\nscale = 0.00784313725490196   # 1 / 127.5\n",
            "-1 to 1, as most networks of TensorFlow and Keras: 1000 classes, channels last",
        ),
        (First::Nothing, Kind::Embedding(_)) if matches!(side, 96 | 112 | 160) => (
            "mean = 127.5\nscale = 0.00784313725490196   # 1 / 127.5\n",
            "InsightFace's (x - 127.5) / 127.5, for an embedding of a face of this size; some face networks have 1 / 128",
        ),
        (First::Nothing, Kind::Classes(_) | Kind::Embedding(_) | Kind::Other) => (
            "mean = 0\nscale = 0.00392156862745098   # 1 / 255\n",
            "0 to 1, and nothing in the file speaks for it: take what training used",
        ),
    };
    let _ = write!(toml, "# GUESS: {why}. The input is (level - mean) * scale.\n{values}");
    let short: Vec<&str> = values.lines().map(|l| l.split('#').next().unwrap_or(l).trim()).collect();
    notes.push(format!("{}: {why}", short.join(", ")));
}

fn outputs(toml: &mut String, info: &OnnxInfo, kind: Kind, onnx: &OnnxFile) {
    let [output] = info.outputs.as_slice() else { return };
    let name = quoted(&output.name);
    let softmax = ends_in_softmax(onnx, &output.name);
    match kind {
        Kind::ImageNet | Kind::Classes(_) => {
            let classes = output.shape.last().copied().unwrap_or_default();
            let _ = write!(
                toml,
                "\n# GUESS: scores of {classes} classes. With a file of as many lines in this folder, answers can name them.\n\
                 # [[output]]\n# name = {name}\n# label_filename = \"labels.txt\"\n"
            );
            toml.push_str(if softmax {
                "# The network ends in softmax already.\n"
            } else {
                "# softmax = true   # for probabilities: the network gives scores as they are\n"
            });
        }
        Kind::Embedding(n) => {
            let _ = write!(
                toml,
                "\n# GUESS: an embedding of {n} numbers. With this, a dot product of two is their cosine.\n\
                 # [[output]]\n# name = {name}\n# normalize = \"l2\"\n"
            );
        }
        Kind::Other => {}
    }
}

fn kind(onnx: &OnnxFile) -> Kind {
    let [output] = onnx.info.outputs.as_slice() else { return Kind::Other };
    match output.shape.as_slice() {
        [_, 1000 | 1001] => Kind::ImageNet,
        [_, n] if *n > 1 && ends_in_softmax(onnx, &output.name) => Kind::Classes(*n),
        [_, n @ (64 | 128 | 192 | 256 | 384 | 512 | 768 | 1024 | 2048)] => Kind::Embedding(*n),
        _ => Kind::Other,
    }
}

fn ends_in_softmax(onnx: &OnnxFile, output: &str) -> bool {
    let nodes = onnx.model.graph.as_ref().map(|g| g.node.as_slice()).unwrap_or_default();
    let last = nodes.iter().find(|n| n.output.iter().any(|o| o == output));
    last.is_some_and(|n| n.op_type.as_deref() == Some("Softmax"))
}

/// What the first operator with a constant says of the input's range. InsightFace's own rule is that Sub and Mul among
/// the first eight operators mean levels (python-package/insightface/model_zoo/arcface_onnx.py); here the constant's
/// size decides as well.
fn first(graph: &GraphProto, input: &str) -> First {
    let mut current = input.to_owned();
    for _ in 0..8 {
        let Some(node) = graph.node.iter().find(|n| n.input.contains(&current)) else {
            return First::Nothing;
        };
        match node.op_type.as_deref().unwrap_or_default() {
            "Cast" | "Transpose" | "Identity" => {}
            op @ ("Sub" | "Add" | "Mul" | "Div") => {
                let constant = node.input.iter().find(|i| **i != current).and_then(|i| constant(graph, i));
                let large = match (op, constant.map(f32::abs)) {
                    // 127.5, or ImageNet's 123.675; of 0 to 1, means are below 1.
                    ("Sub" | "Add", Some(c)) => c > 2.0,
                    // 1 / 255, 1 / 128; of 0 to 1, factors are about 2 to 5.
                    ("Mul", Some(c)) => c < 0.1,
                    ("Div", Some(c)) => c > 2.0,
                    _ => return First::Nothing,
                };
                return if large { First::Levels } else { First::Unit };
            }
            _ => return First::Nothing,
        }
        let Some(output) = node.output.first() else { return First::Nothing };
        current.clone_from(output);
    }
    First::Nothing
}

/// The first number of a constant of 32-bit floats.
fn constant(graph: &GraphProto, name: &str) -> Option<f32> {
    if let Some(tensor) = graph.initializer.iter().find(|t| t.name.as_deref() == Some(name)) {
        return number(tensor);
    }
    let node = graph.node.iter().find(|n| n.output.iter().any(|o| o == name))?;
    if node.op_type.as_deref() != Some("Constant") {
        return None;
    }
    node.attribute.iter().find_map(|a| a.t.as_ref().and_then(number).or(a.f))
}

fn number(tensor: &TensorProto) -> Option<f32> {
    if tensor.data_type != Some(DataType::FLOAT) {
        return None;
    }
    let raw = tensor.raw_data.as_ref().and_then(|r| Some(f32::from_le_bytes(*r.borrow().first_chunk()?)));
    raw.or_else(|| tensor.float_data.first().copied()).filter(|v| v.is_finite())
}
