//! Which node computes where, and what stands between them.

use super::*;

#[test]
fn each_rule_gives_the_graph_that_it_says() {
    let cases: Vec<(&str, u64, Build, &str)> = vec![
        (
            "weights and values become FP16, edges are cast",
            17,
            x_to_y().weights("w", &[1.0]).node("Conv", "x w", "a").node("Relu", "a", "y"),
            "x_fp16 = Cast16(x); a = Conv(x_fp16 w); y_fp16 = Relu(a); y = Cast32(y_fp16); w: 10",
        ),
        (
            "one cast a value, however many read it",
            17,
            x_to_y()
                .node("Relu", "x", "a")
                .node("Tanh", "x", "b")
                .node("Exp", "a", "c")
                .node("Exp", "a", "d")
                .node("MatMul", "c d", "e")
                .node("MatMul", "e b", "y"),
            "x_fp16 = Cast16(x); a = Relu(x_fp16); a_fp32 = Cast32(a); b = Tanh(x_fp16); c = Exp(a_fp32); \
             c_fp16 = Cast16(c); d = Exp(a_fp32); d_fp16 = Cast16(d); e = MatMul(c_fp16 d_fp16); \
             y_fp16 = MatMul(e b); y = Cast32(y_fp16)",
        ),
        (
            "a value that is an output and is read on",
            17,
            x_to_y().output("a", FLOAT).node("Relu", "x", "a").node("Relu", "a", "y"),
            "x_fp16 = Cast16(x); a_fp16 = Relu(x_fp16); a = Cast32(a_fp16); y_fp16 = Relu(a_fp16); \
             y = Cast32(y_fp16)",
        ),
        (
            "a taken name is not taken again",
            17,
            x_to_y().node("Relu", "x", "x_fp16").node("Relu", "x_fp16", "y"),
            "x_fp16_2 = Cast16(x); x_fp16 = Relu(x_fp16_2); y_fp16 = Relu(x_fp16); y = Cast32(y_fp16)",
        ),
        (
            "a weight that both precisions read is there twice",
            17,
            x_to_y().weights("w", &[0.5]).node("Conv", "x w", "a").node("Pow", "a w", "y"),
            "x_fp16 = Cast16(x); a = Conv(x_fp16 w_fp16); a_fp32 = Cast32(a); y = Pow(a_fp32 w); w: 1; w_fp16: 10",
        ),
        (
            "a Constant node too",
            17,
            x_to_y().constant("w", &[0.5]).node("Conv", "x w", "a").node("Pow", "a w", "y"),
            "x_fp16 = Cast16(x); w = Constant(): 1; w_fp16 = Constant(): 10; a = Conv(x_fp16 w_fp16); \
             a_fp32 = Cast32(a); y = Pow(a_fp32 w)",
        ),
        (
            "a sparse Constant is cast",
            17,
            x_to_y().node_with("Constant", "", "w", sparse()).node("Conv", "x w", "y"),
            "x_fp16 = Cast16(x); w = Constant(); w_fp16 = Cast16(w); y_fp16 = Conv(x_fp16 w_fp16); \
             y = Cast32(y_fp16)",
        ),
        (
            "light operators between FP32 operators stay there",
            17,
            x_to_y()
                .weights("eps", &[1e-5])
                .node("Relu", "x", "a")
                .node("ReduceMean", "a", "b")
                .node("Add", "b eps", "c")
                .node("Sqrt", "c", "d")
                .node("Relu", "d", "y"),
            "x_fp16 = Cast16(x); a = Relu(x_fp16); a_fp32 = Cast32(a); b = ReduceMean(a_fp32); c = Add(b eps); \
             d = Sqrt(c); d_fp16 = Cast16(d); y_fp16 = Relu(d_fp16); y = Cast32(y_fp16); eps: 1",
        ),
        (
            "light operators beside FP16 operators do not",
            17,
            x_to_y().node("Exp", "x", "a").node("Add", "a a", "b").node("Relu", "b", "y"),
            "a = Exp(x); a_fp16 = Cast16(a); b = Add(a_fp16 a_fp16); y_fp16 = Relu(b); y = Cast32(y_fp16)",
        ),
        (
            "a division by what FP32 computed is in FP32, also over an Expand",
            17,
            x_to_y()
                .input("s", INT64)
                .node("Relu", "x", "a")
                .node("ReduceL2", "a", "b")
                .node("Expand", "b s", "c")
                .node("Div", "a c", "y"),
            "x_fp16 = Cast16(x); a = Relu(x_fp16); a_fp32 = Cast32(a); b = ReduceL2(a_fp32); c = Expand(b s); \
             y = Div(a_fp32 c)",
        ),
        (
            "a division by a weight is not",
            17,
            x_to_y().weights("w", &[8.0]).node("Relu", "x", "a").node("Div", "a w", "y"),
            "x_fp16 = Cast16(x); a = Relu(x_fp16); y_fp16 = Div(a w); y = Cast32(y_fp16); w: 10",
        ),
        (
            "a constant that would become zero keeps its reader in FP32",
            17,
            x_to_y()
                .weights("e", &[1e-12])
                .node("Relu", "x", "a")
                .node("Max", "a e", "b")
                .node("Relu", "b", "y"),
            "x_fp16 = Cast16(x); a = Relu(x_fp16); a_fp32 = Cast32(a); b = Max(a_fp32 e); b_fp16 = Cast16(b); \
             y_fp16 = Relu(b_fp16); y = Cast32(y_fp16); e: 1",
        ),
        (
            "arithmetic on shapes stays in FP32, and Resize takes its scales so",
            17,
            x_to_y()
                .weights("two", &[2.0, 2.0])
                .node("Relu", "x", "a")
                .node("Shape", "a", "s")
                .node_with("Cast", "s", "f", to(FLOAT))
                .node("Mul", "f two", "scales")
                .node("Resize", "a - scales", "y"),
            "x_fp16 = Cast16(x); a = Relu(x_fp16); s = Shape(a); f = Cast32(s); scales = Mul(f two); \
             y_fp16 = Resize(a  scales); y = Cast32(y_fp16); two: 1",
        ),
        (
            "a Cast from integers goes to FP16 at once",
            17,
            Build::default()
                .input("i", INT64)
                .output("y", FLOAT)
                .node_with("Cast", "i", "x", to(FLOAT))
                .node("Relu", "x", "y"),
            "x = Cast16(i); y_fp16 = Relu(x); y = Cast32(y_fp16)",
        ),
        (
            "unless an FP32 operator reads it",
            17,
            Build::default()
                .input("i", INT64)
                .output("y", FLOAT)
                .node_with("Cast", "i", "x", to(FLOAT))
                .node("Relu", "x", "a")
                .node("Sin", "x", "b")
                .node("MatMul", "a b", "y"),
            "x = Cast32(i); x_fp16 = Cast16(x); a = Relu(x_fp16); b = Sin(x); b_fp16 = Cast16(b); \
             y_fp16 = MatMul(a b_fp16); y = Cast32(y_fp16)",
        ),
        (
            "pairs of casts in the model go away",
            17,
            x_to_y()
                .node_with("Cast", "x", "h", to(FLOAT16))
                .node("Relu", "h", "a")
                .node_with("Cast", "a", "b", to(FLOAT))
                .node("Relu", "b", "c")
                .node_with("Cast", "c", "d", to(FLOAT16))
                .node("Relu", "d", "e")
                .node_with("Cast", "e", "y", to(FLOAT)),
            "x_fp16 = Cast16(x); a = Relu(x_fp16); c = Relu(a); e = Relu(c); y = Cast32(e)",
        ),
        (
            "a Cast to integers takes what is there",
            17,
            Build::default().input("x", FLOAT).output("y", INT64).node("Relu", "x", "a").node_with(
                "Cast",
                "a",
                "y",
                to(INT64),
            ),
            "x_fp16 = Cast16(x); a = Relu(x_fp16); y = Cast(a)",
        ),
        (
            "ConstantOfShape makes FP16, with and without a value",
            17,
            x_to_y()
                .input("s", INT64)
                .node("ConstantOfShape", "s", "a")
                .node_with(
                    "ConstantOfShape",
                    "s",
                    "b",
                    vec![Attribute::with_tensor("value", tensor("", &[3.0]))],
                )
                .node("Conv", "x a", "c")
                .node("Conv", "c b", "y"),
            "x_fp16 = Cast16(x); a = ConstantOfShape(s): 10; b = ConstantOfShape(s): 10; c = Conv(x_fp16 a); \
             y_fp16 = Conv(c b); y = Cast32(y_fp16)",
        ),
        (
            "operators of other domains stay in FP32",
            17,
            x_to_y().value_info("a", FLOAT).node("my.domain:Relu", "x", "a").node("Relu", "a", "y"),
            "a = Relu(x); a_fp16 = Cast16(a); y_fp16 = Relu(a_fp16); y = Cast32(y_fp16)",
        ),
        (
            "quantisation before opset 19 is in FP32",
            13,
            quantised(0.05),
            "x_fp16 = Cast16(x); a = Relu(x_fp16); a_fp32 = Cast32(a); q = QuantizeLinear(a_fp32 s); \
             d = DequantizeLinear(q s); d_fp16 = Cast16(d); y_fp16 = Relu(d_fp16); y = Cast32(y_fp16); s: 1",
        ),
        (
            "from opset 19 on it is in FP16",
            19,
            quantised(0.05),
            "x_fp16 = Cast16(x); a = Relu(x_fp16); q = QuantizeLinear(a s); d = DequantizeLinear(q s); \
             y_fp16 = Relu(d); y = Cast32(y_fp16); s: 10",
        ),
        (
            "unless the scale is not a normal number of FP16",
            19,
            quantised(3e-5),
            "x_fp16 = Cast16(x); a = Relu(x_fp16); a_fp32 = Cast32(a); q = QuantizeLinear(a_fp32 s); \
             d = DequantizeLinear(q s); d_fp16 = Cast16(d); y_fp16 = Relu(d_fp16); y = Cast32(y_fp16); s: 1",
        ),
        (
            "IsInf has an FP16 form from opset 20 on",
            19,
            Build::default()
                .input("x", FLOAT)
                .output("y", BOOL)
                .node("Relu", "x", "a")
                .node("IsInf", "a", "y"),
            "x_fp16 = Cast16(x); a = Relu(x_fp16); a_fp32 = Cast32(a); y = IsInf(a_fp32)",
        ),
        (
            "BatchNormalization keeps two of four parameters",
            17,
            batch_norm(&[1.0]),
            "x_fp16 = Cast16(x); y_fp16 = BatchNormalization(x_fp16 y_scale y_bias y_mean y_variance); \
             y = Cast32(y_fp16); y_scale: 10; y_bias: 10; y_mean: 10; y_variance: 10",
        ),
        (
            "and stays in FP32 where the two do not fit",
            17,
            batch_norm(&[1e9]).node("Relu", "x", "z"),
            "x_fp16 = Cast16(x); y = BatchNormalization(x s b m v); z = Relu(x_fp16); s: 1; b: 1; m: 1; v: 1",
        ),
        (
            "its parameters may come through an Identity",
            17,
            x_to_y().weights("s", &[1.0]).node("Identity", "s", "v").node(
                "BatchNormalization",
                "x s s s v",
                "y",
            ),
            "x_fp16 = Cast16(x); v = Identity(s); \
             y_fp16 = BatchNormalization(x_fp16 y_scale y_bias y_mean y_variance); y = Cast32(y_fp16); s: 10; \
             y_scale: 10; y_bias: 10; y_mean: 10; y_variance: 10",
        ),
        (
            "bodies are rewritten and read what is around them",
            17,
            with_if(),
            "x_fp16 = Cast16(x); a = Relu(x_fp16); b = Exp(x); b_fp16 = Cast16(b); \
             i = If(c) {t_fp16 = Conv(a w_fp16); t = Cast32(t_fp16)} {f_fp16 = Conv(b_fp16 k); f = Cast32(f_fp16); k: 10}; \
             i_fp16 = Cast16(i); y_fp16 = Relu(i_fp16); y = Cast32(y_fp16); p = Pow(x w); w: 1; w_fp16: 10",
        ),
    ];
    for (name, opset, build, want) in cases {
        let out = convert(&build.model(opset)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(text(&parse(&out)), want, "{name}");
    }
}

/// The attribute `sparse_value` with one FLOAT number.
fn sparse() -> Vec<Field<'static>> {
    let value = Message(vec![Field::bytes(1, tensor("", &[1.0])), Field::varint(3, 4)]).encode();
    let attribute = vec![Field::text(1, "sparse_value"), Field::bytes(22, value), Field::varint(20, 11)];
    vec![Field::bytes(node_field::ATTRIBUTE, Message(attribute).encode())]
}
