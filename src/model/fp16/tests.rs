//! Small graphs, one for each rule. What comes out is read with rten-onnx and written as text: one line of
//! `outputs = Operator(inputs)`, where `Cast16` and `Cast32` say what they cast to.

mod hostile;
mod rules;
mod weights;

use std::path::Path;

use rten_onnx::onnx::{GraphProto, ModelProto};

use super::graph::{Attribute, attribute_field, graph_field, node_field};
use super::*;
use crate::wire::{Field, Message, Value};

const FLOAT: i32 = 1;
const INT64: i32 = 7;
const BOOL: i32 = 9;
const FLOAT16: i32 = 10;

/// A graph being put together.
#[derive(Default, Clone)]
struct Build(Vec<Field<'static>>);

impl Build {
    fn info(mut self, field: u32, name: &str, elem: i32) -> Self {
        let dim = Message(vec![Field::bytes(1, Message(vec![Field::varint(1, 4)]).encode())]);
        let tensor = Message(vec![Field::varint(1, elem as u64), Field::bytes(2, dim.encode())]);
        let kind = Message(vec![Field::bytes(1, tensor.encode())]);
        self.0.push(Field::bytes(
            field,
            Message(vec![Field::text(1, name), Field::bytes(2, kind.encode())]).encode(),
        ));
        self
    }

    fn input(self, name: &str, elem: i32) -> Self {
        self.info(graph_field::INPUT, name, elem)
    }

    fn output(self, name: &str, elem: i32) -> Self {
        self.info(graph_field::OUTPUT, name, elem)
    }

    fn value_info(self, name: &str, elem: i32) -> Self {
        self.info(graph_field::VALUE_INFO, name, elem)
    }

    /// FLOAT, `[values]`.
    fn weights(mut self, name: &str, values: &[f32]) -> Self {
        self.0.push(Field::bytes(graph_field::INITIALIZER, tensor(name, values)));
        self
    }

    /// A node; names are parted by spaces, `-` is an absent input.
    fn node(self, op: &str, inputs: &str, outputs: &str) -> Self {
        self.node_with(op, inputs, outputs, vec![])
    }

    fn node_with(mut self, op: &str, inputs: &str, outputs: &str, attributes: Vec<Field<'static>>) -> Self {
        let (domain, op) = op.split_once(':').unwrap_or(("", op));
        let mut fields = vec![Field::text(node_field::OP_TYPE, op), Field::text(node_field::DOMAIN, domain)];
        let name = |n: &str| if n == "-" { String::new() } else { n.to_owned() };
        fields.extend(inputs.split_whitespace().map(|n| Field::text(node_field::INPUT, &name(n))));
        fields.extend(outputs.split_whitespace().map(|n| Field::text(node_field::OUTPUT, n)));
        fields.extend(attributes);
        self.0.push(Field::bytes(graph_field::NODE, Message(fields).encode()));
        self
    }

    fn constant(self, name: &str, values: &[f32]) -> Self {
        self.node_with("Constant", "", name, vec![Attribute::with_tensor("value", tensor("", values))])
    }

    fn encode(&self) -> Vec<u8> {
        Message(self.0.clone()).encode()
    }

    fn model(&self, opset: u64) -> Vec<u8> {
        let import = Message(vec![Field::text(1, ""), Field::varint(2, opset)]);
        Message(vec![
            Field::varint(field::IR_VERSION, 8),
            Field::bytes(field::OPSET_IMPORT, import.encode()),
            Field::bytes(field::GRAPH, self.encode()),
        ])
        .encode()
    }
}

fn tensor(name: &str, values: &[f32]) -> Vec<u8> {
    let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Message(vec![
        Field::varint(1, values.len() as u64),
        Field::varint(2, 1),
        Field::text(8, name),
        Field::bytes(9, raw),
    ])
    .encode()
}

fn to(elem: i32) -> Vec<Field<'static>> {
    vec![Attribute::with_int("to", elem)]
}

fn body(name: &str, graph: &Build) -> Field<'static> {
    let message = Message(vec![
        Field::text(attribute_field::NAME, name),
        Field::bytes(attribute_field::G, graph.encode()),
        Field::varint(attribute_field::TYPE, 5),
    ]);
    Field::bytes(node_field::ATTRIBUTE, message.encode())
}

fn convert(model: &[u8]) -> Result<Vec<u8>, Fp16Error> {
    to_fp16(model, Path::new("model.onnx"), &Fp16Options::default())
}

fn parse(model: &[u8]) -> GraphProto {
    ModelProto::parse_buf(model).expect("rten-onnx reads it").graph.expect("a graph")
}

/// Nodes and weights as text, bodies in braces.
fn text(graph: &GraphProto) -> String {
    let mut lines = Vec::new();
    for node in &graph.node {
        let op = node.op_type.as_deref().unwrap_or_default();
        let to = node.attribute.iter().find(|a| a.name.as_deref() == Some("to")).and_then(|a| a.i);
        let op = match (op, to) {
            ("Cast", Some(1)) => "Cast32",
            ("Cast", Some(10)) => "Cast16",
            _ => op,
        };
        let bodies: String =
            node.attribute.iter().filter_map(|a| a.g.as_ref()).map(|g| format!(" {{{}}}", text(g))).collect();
        let constant = node.attribute.iter().find_map(|a| a.t.as_ref()).and_then(|t| t.data_type);
        let constant = constant.map(|t| format!(": {}", t.0)).unwrap_or_default();
        lines.push(format!("{} = {op}({}){constant}{bodies}", node.output.join(" "), node.input.join(" ")));
    }
    for tensor in &graph.initializer {
        let kind = tensor.data_type.map_or(0, |t| t.0);
        lines.push(format!("{}: {kind}", tensor.name.as_deref().unwrap_or_default()));
    }
    lines.join("; ")
}

fn x_to_y() -> Build {
    Build::default().input("x", FLOAT).output("y", FLOAT)
}

fn quantised(scale: f32) -> Build {
    x_to_y()
        .weights("s", &[scale])
        .node("Relu", "x", "a")
        .node("QuantizeLinear", "a s", "q")
        .node("DequantizeLinear", "q s", "d")
        .node("Relu", "d", "y")
}

fn batch_norm(scale: &[f32]) -> Build {
    x_to_y().weights("s", scale).weights("b", &[2.0]).weights("m", &[4.0]).weights("v", &[1e-9]).node_with(
        "BatchNormalization",
        "x s b m v",
        "y",
        vec![Attribute::with_float("epsilon", 3e-9)],
    )
}

fn with_if() -> Build {
    let then = Build::default().output("t", FLOAT).node("Conv", "a w", "t");
    let otherwise = Build::default().output("f", FLOAT).weights("k", &[1.0]).node("Conv", "b k", "f");
    x_to_y()
        .input("c", BOOL)
        .output("p", FLOAT)
        .weights("w", &[0.5])
        .node("Relu", "x", "a")
        .node("Exp", "x", "b")
        .node_with("If", "c", "i", vec![body("then_branch", &then), body("else_branch", &otherwise)])
        .node("Relu", "i", "y")
        .node("Pow", "x w", "p")
}

#[test]
fn operators_can_be_kept_in_fp32() {
    let model = x_to_y().node("Relu", "x", "a").node("Softmax", "a", "b").node("Relu", "b", "y").model(17);
    let options = Fp16Options { fp32_operators: vec!["Softmax".into()] };
    let out = to_fp16(&model, Path::new("model.onnx"), &options).unwrap();
    let want = "x_fp16 = Cast16(x); a = Relu(x_fp16); a_fp32 = Cast32(a); b = Softmax(a_fp32); \
                b_fp16 = Cast16(b); y_fp16 = Relu(b_fp16); y = Cast32(y_fp16)";
    assert_eq!(text(&parse(&out)), want);
}

#[test]
fn what_has_nothing_to_rewrite_comes_back_as_it_was() {
    let cases = [
        ("integers", Build::default().input("x", INT64).output("y", INT64).node("Add", "x x", "y")),
        (
            "FP16 all through",
            Build::default().input("x", FLOAT16).output("y", FLOAT16).node("Relu", "x", "y"),
        ),
        (
            "FP16 with FP32 edges",
            x_to_y().node_with("Cast", "x", "a", to(FLOAT16)).node("Relu", "a", "b").node_with(
                "Cast",
                "b",
                "y",
                to(FLOAT),
            ),
        ),
        ("double", Build::default().input("x", 11).output("y", 11).node("Exp", "x", "y")),
        ("BF16", Build::default().input("x", 16).output("y", 16).node("Relu", "x", "y")),
        ("operators of FP32 alone", x_to_y().node("Exp", "x", "a").node("Add", "a x", "y")),
    ];
    for (name, build) in cases {
        let model = build.model(17);
        assert!(convert(&model).unwrap() == model, "{name}: {}", text(&parse(&convert(&model).unwrap())));
    }
}

#[test]
fn what_cannot_be_rewritten_is_named() {
    let deep = (0..MAX_DEPTH).fold(x_to_y().node("Relu", "x", "y"), |inner, _| {
        Build::default().output("i", FLOAT).node_with("If", "c", "i", vec![body("then_branch", &inner)])
    });
    let function = Message(vec![Field::text(1, "Mine")]).encode();
    let with_function = [
        x_to_y().node("Relu", "x", "y").model(17),
        Message(vec![Field::bytes(field::FUNCTIONS, function)]).encode(),
    ]
    .concat();
    let cases = [
        ("functions", with_function, "functions of its own (\"Mine\")"),
        ("depth", deep.model(17), "graphs more than 16 deep"),
        ("no graph", vec![8, 8], "holds no graph"),
        ("no model", vec![0xff; 12], "more than 64 bits"),
        (
            "sequence",
            x_to_y().node("SequenceConstruct", "x", "y").model(17),
            "(operator SequenceConstruct) works on",
        ),
        (
            "unknown type",
            x_to_y().node("a.b:C", "x", "d").node("Relu", "d", "y").model(17),
            "makes \"d\" of unknown",
        ),
        ("undefined", x_to_y().node("Relu", "z", "y").model(17), "reads \"z\", which nothing makes"),
        ("twice", x_to_y().node("Relu", "x", "y").node("Relu", "x", "y").model(17), "\"y\" is made twice"),
        ("no output", x_to_y().node("Relu", "x", "z").model(17), "the output \"y\" is not made"),
        ("no cast type", x_to_y().node("Cast", "x", "y").model(17), "has no attribute \"to\""),
        ("no input", x_to_y().node("Relu", "", "y").model(17), "has no input 0"),
    ];
    for (name, model, want) in cases {
        let error = convert(&model).expect_err(name).to_string();
        assert!(error.contains(want), "{name}: {error}");
    }
    let options = Fp16Options { fp32_operators: vec!["Softmaxx".into()] };
    let model = x_to_y().node("Relu", "x", "y").model(17);
    let error = to_fp16(&model, Path::new("m"), &options).unwrap_err().to_string();
    assert!(error.contains("\"Softmaxx\""), "{error}");
}

#[test]
fn fields_that_nothing_here_knows_survive() {
    let mark = || Field { number: 9999, value: Value::Fixed32([1, 2, 3, 4]) };
    let doc = || Field::text(6, "documentation");
    let attribute = Message(vec![Field::text(1, "alpha"), mark(), Field::varint(20, 0)]).encode();
    let encoded = tensor("w", &[1.0]);
    let mut weights = Message::parse(&encoded).unwrap().0;
    weights.push(mark());
    let node = vec![
        Field::text(1, "x"),
        Field::text(1, "w"),
        Field::text(2, "y"),
        Field::text(4, "PRelu"),
        doc(),
        mark(),
        Field::bytes(5, attribute.clone()),
    ];
    let mut graph = x_to_y();
    graph.0.push(Field::bytes(graph_field::NODE, Message(node).encode()));
    graph.0.push(Field::bytes(graph_field::INITIALIZER, Message(weights).encode()));
    graph.0.push(mark());
    let mut model = graph.model(17);
    model.extend(Message(vec![mark(), Field::bytes(20, b"training".to_vec())]).encode());

    let out = convert(&model).unwrap();
    let model = Message::parse(&out).unwrap();
    assert!(model.0.contains(&mark()) && model.last(20).is_some());
    let graph = Message::parse(model.last(field::GRAPH).unwrap().borrowed().unwrap()).unwrap();
    assert!(graph.0.contains(&mark()));
    let weights = Message::parse(graph.last(graph_field::INITIALIZER).unwrap().borrowed().unwrap()).unwrap();
    assert!(weights.0.contains(&mark()), "{weights:?}");
    let nodes: Vec<Message> =
        graph.all(graph_field::NODE).map(|n| Message::parse(n.borrowed().unwrap()).unwrap()).collect();
    assert!(nodes[1].0.contains(&mark()) && nodes[1].0.contains(&doc()), "{nodes:?}");
    assert_eq!(nodes[1].last(5), Some(&Field::bytes(5, attribute)));
}

#[test]
fn types_of_inner_values_follow() {
    let build = x_to_y()
        .value_info("a", FLOAT)
        .value_info("b", FLOAT)
        .value_info("n", INT64)
        .node("Relu", "x", "a")
        .node("Exp", "a", "b")
        .node("Shape", "b", "n")
        .node("Relu", "b", "y");
    let graph = parse(&convert(&build.model(17)).unwrap());
    let types = |list: &[rten_onnx::onnx::ValueInfoProto]| -> Vec<(String, i32)> {
        list.iter()
            .map(|v| {
                let kind = v.r#type.as_ref().unwrap().tensor_type.as_ref().unwrap();
                assert_eq!(kind.shape.as_ref().unwrap().dim[0].dim_value, Some(4));
                (v.name.clone().unwrap(), kind.elem_type.unwrap().0)
            })
            .collect()
    };
    assert_eq!(types(&graph.value_info), [("a".into(), FLOAT16), ("b".into(), FLOAT), ("n".into(), INT64)]);
    assert_eq!(types(&graph.input), [("x".into(), FLOAT)]);
    assert_eq!(types(&graph.output), [("y".into(), FLOAT)]);
}

#[test]
fn the_shipped_model_shrinks_to_half_with_two_casts() {
    let path = Path::new("engines/ArcFace/1/model.onnx");
    let model = std::fs::read(path).unwrap();
    let (out, report) = rewrite(&model, path, &Fp16Options::default()).unwrap();
    assert_eq!((report.casts, report.single_nodes, report.clamped), (2, 0, 0), "{report:?}");
    let share = out.len() as f64 / model.len() as f64;
    assert!((0.49..0.52).contains(&share), "{share}");
    let (old, new) = (parse(&model), parse(&out));
    for (old, new) in old.input.iter().chain(&old.output).zip(new.input.iter().chain(&new.output)) {
        assert_eq!(format!("{old:?}"), format!("{new:?}"));
    }
}
