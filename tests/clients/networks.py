"""Small networks with a seed each, for what `precision = "fp16"` has to get right. `NETWORKS` is the table."""

import dataclasses
from typing import Callable

import numpy as np
from onnx import TensorProto, helper, numpy_helper

F, I, B = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


class Net:
    """A graph being put together; values are named by the node that makes them."""

    def __init__(self, opset=17, seed=0, prefix=""):
        self.opset, self.random, self.prefix = opset, np.random.default_rng(seed), prefix
        self.nodes, self.weights, self.inputs, self.outputs = [], [], [], []

    def input(self, name, shape, elem=F):
        self.inputs.append(helper.make_tensor_value_info(name, elem, ["batch", *shape]))
        return name

    def output(self, name, shape, elem=F):
        self.outputs.append(helper.make_tensor_value_info(name, elem, ["batch", *shape]))

    def weight(self, values, dtype=np.float32):
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def normal(self, *shape, scale=None):
        return self.weight(self.random.standard_normal(shape) * (scale or 1 / np.sqrt(np.prod(shape[1:]))))

    def __call__(self, op, *inputs, to=None, outputs=1, **attributes):
        made = f"{self.prefix}{op}{len(self.nodes)}"
        names = [to or made] if outputs == 1 else [f"{made}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, f"n{len(self.nodes)}", **attributes))
        return names[0] if outputs == 1 else names

    def model(self):
        graph = helper.make_graph(self.nodes, "net", self.inputs, self.outputs, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)

    def graph(self, name):
        """The same as the body of a control-flow node: no inputs, and outputs without a batch."""
        outputs = [helper.make_tensor_value_info(o.name, F, None) for o in self.outputs]
        return helper.make_graph(self.nodes, name, [], outputs, self.weights)


def convolutions():
    """Convolution, a batch normalisation with variances that FP16 has not, pooling, a head with softmax."""
    net = Net()
    x = net.input("x", [3, 16, 16])
    a = net("Conv", x, net.normal(8, 3, 3, 3), pads=[1, 1, 1, 1])
    variance = net.weight(10.0 ** net.random.uniform(-9, -3, 8))
    scale = net.weight(10.0 ** net.random.uniform(-5, -3, 8))
    a = net("BatchNormalization", a, scale, net.normal(8), net.normal(8, scale=0.1), variance, epsilon=1e-10)
    a = net("MaxPool", net("PRelu", a, net.normal(8, 1, 1)), kernel_shape=[2, 2], strides=[2, 2])
    a = net("Relu", net("Conv", a, net.normal(16, 8, 3, 3), net.normal(16)))
    a = net("Flatten", net("GlobalAveragePool", a))
    a = net("Gemm", a, net.normal(10, 16), net.normal(10), transB=1)
    net("Softmax", a, to="y", axis=-1)
    net.output("y", [10])
    return net.model()


def layer_norm():
    """`LayerNormalization`, and the same spelled out, over values with a variance of 10^6."""
    net = Net()
    x = net.input("x", [6, 32])
    a = net("MatMul", x, net.normal(32, 32, scale=1000 / np.sqrt(32)))
    scale, bias = net.normal(32, scale=1), net.normal(32, scale=1)
    b = net("LayerNormalization", a, scale, bias, axis=-1)
    centred = net("Sub", a, net("ReduceMean", a, axes=[-1]))
    variance = net("ReduceMean", net("Pow", centred, net.weight(2.0)), axes=[-1])
    deviation = net("Sqrt", net("Add", variance, net.weight(1e-12)))
    c = net("Add", net("Mul", net("Div", centred, deviation), scale), bias)
    net("Add", b, c, to="y")
    net.output("y", [6, 32])
    return net.model()


def attention():
    """Self-attention with a mask of -10^9, then GELU by `Erf`."""
    net = Net()
    x, mask = net.input("x", [7, 32]), net.input("mask", [7])
    heads = []
    for _ in range(3):
        a = net("Add", net("MatMul", x, net.normal(32, 32)), net.normal(32))
        a = net("Reshape", a, net.weight([0, 0, 4, 8], np.int64))
        heads.append(net("Transpose", a, perm=[0, 2, 1, 3]))
    scores = net("MatMul", heads[0], net("Transpose", heads[1], perm=[0, 1, 3, 2]))
    scores = net("Div", scores, net.weight(np.sqrt(8.0)))
    away = net("Mul", net("Sub", net.weight(1.0), net("Unsqueeze", mask, net.weight([1, 2], np.int64))), net.weight(-1e9))
    a = net("MatMul", net("Softmax", net("Add", scores, away), axis=-1), heads[2])
    a = net("Reshape", net("Transpose", a, perm=[0, 2, 1, 3]), net.weight([0, 0, 32], np.int64))
    erf = net("Erf", net("Div", a, net.weight(np.sqrt(2.0))))
    net("Mul", net("Mul", a, net("Add", erf, net.weight(1.0))), net.weight(0.5), to="y")
    net.output("y", [7, 32])
    return net.model()


def shapes():
    """`Resize` to a size that is computed in floats, then `Slice`, `Split`, `Concat`, `Pad`, `Gather`, `Tile`."""
    net = Net()
    x = net.input("x", [2, 5, 7])
    a = net("Conv", x, net.normal(4, 2, 1, 1))
    sides = net("Slice", net("Shape", a), net.weight([2], np.int64), net.weight([4], np.int64))
    # 5 · 409.9 = 2049.5: FP16 would make it 2048.
    wide = net("Floor", net("Mul", cast(net, sides, F), net.weight([409.9, 2.0])))
    size = net("Concat", net("Slice", net("Shape", a), net.weight([0], np.int64), net.weight([2], np.int64)), cast(net, wide, I), axis=0)
    a = net("Resize", a, "", "", size, mode="linear")
    a = net("Slice", a, net.weight([0, 1], np.int64), net.weight([2049, 9], np.int64), net.weight([2, 3], np.int64))
    left, right = net("Split", a, net.weight([1, 3], np.int64), axis=1, outputs=2)
    a = net("Concat", right, left, net("Gather", a, net.weight([2, 0], np.int64), axis=1), axis=1)
    a = net("Pad", a, net.weight([0, 0, 0, 1, 0, 0, 0, 1], np.int64), net.weight(0.25), mode="constant")
    net("Tile", a, net.weight([1, 1, 1, 2], np.int64), to="y")
    net.output("y", [6, 2049, 20])
    return net.model()


def cast(net, value, elem):
    name = f"Cast{len(net.nodes)}"
    net.nodes.append(helper.make_node("Cast", [value], [name], f"n{len(net.nodes)}", to=elem))
    return name


def selections():
    """`Where`, comparisons, casts from and to integers and booleans, `Clip` with FLT_MAX, TopK, ArgMax."""
    net = Net()
    x, n = net.input("x", [12]), net.input("n", [12], I)
    a = net("MatMul", x, net.normal(12, 12))
    a = net("Add", a, net("Mul", cast(net, n, F), net.weight(0.125)))
    positive = net("Greater", a, net.weight(0.0))
    a = net("Where", positive, a, net("Mul", a, net.weight(0.1)))
    a = net("Add", a, cast(net, positive, F))
    a = net("Clip", a, net.weight(-1.5), net.weight(3.4028234e38))
    a = net("Max", a, net("ConstantOfShape", net("Shape", a), value=helper.make_tensor("value", F, [1], [-1.0])))
    top, _ = net("TopK", a, net.weight([5], np.int64), axis=-1, outputs=2)
    net("HardSigmoid", net("Concat", a, top, axis=-1), to="y")
    net("ArgMax", a, to="best", axis=-1, keepdims=1)
    net.output("y", [17])
    net.output("best", [1], I)
    return net.model()


def quantised(opset):
    """Activations and weights through `QuantizeLinear` and `DequantizeLinear`."""
    net = Net(opset)
    x = net.input("x", [4, 8, 8])
    zero, scale = net.weight(0, np.int8), net.weight(1 / 32)
    w = net.weight(net.random.integers(-127, 128, (8, 4, 3, 3)), np.int8)
    w = net("DequantizeLinear", w, net.weight(0.004), net.weight(0, np.int8))
    # The rounded inputs are multiples of the scale already, so that FP16 cannot turn one into its neighbour.
    a = net("DequantizeLinear", net("QuantizeLinear", x, scale, zero), scale, zero)
    a = net("Relu", net("Conv", a, w, net.normal(8)))
    net("Flatten", net("GlobalAveragePool", a), to="y")
    net.output("y", [8])
    return net.model()


def branches():
    """An `If` whose branches read values and weights around them, inside of a network."""
    net = Net()
    x = net.input("x", [8])
    w = net.normal(8, 8)
    a = net("Relu", net("MatMul", x, w))
    total = net("ReduceSum", a, keepdims=0)
    then, other = Net(seed=1, prefix="then_"), Net(seed=2, prefix="other_")
    then("MatMul", a, w, to="then_out")
    then.weights = []
    other_w = helper.make_tensor("other_w", F, [8, 8], other.random.standard_normal(64).tolist())
    other("Tanh", other("MatMul", a, "other_w"), to="other_out")
    other.weights = [other_w]
    then.output("then_out", [8])
    other.output("other_out", [8])
    chosen = net(
        "If", net("Greater", total, net.weight(1.0)), then_branch=then.graph("then"), else_branch=other.graph("other")
    )
    net("MatMul", net("Exp", net("Mul", chosen, net.weight(0.1))), w, to="y")
    net.output("y", [8])
    return net.model()


def normalised():
    """Rows to length 1, guarded by `1e-12`; the last row is zero and has to stay zero."""
    net = Net()
    x = net.input("x", [16])
    a = net("MatMul", x, net.normal(16, 16, scale=60))
    length = net("ReduceL2", a, axes=[-1])
    guarded = net("Clip", length, net.weight(1e-12))
    net("Div", a, net("Expand", guarded, net("Shape", a)), to="y")
    net.output("y", [16])
    return net.model()


def positions():
    """Sines of positions up to 4000, where FP16 counts by twos."""
    net = Net()
    x = net.input("x", [4])
    counted = net("Range", net.weight(0.0), net.weight(4000.0), net.weight(1.0))
    angles = net("Mul", net("Unsqueeze", counted, net.weight([1], np.int64)), net.weight([1.0, 0.1, 0.01, 0.001]))
    table = net("Gather", net("Sin", angles), net.weight([3999, 2049, 7, 1], np.int64))
    net("Softmax", net("MatMul", x, net("Add", table, net("Cos", table))), to="y")
    net.output("y", [4])
    return net.model()


def loop():
    """A `Loop` that multiplies its carried value by a weight outside of it, three times."""
    net = Net()
    x = net.input("x", [6])
    w = net.normal(6, 6)
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["carried", w], ["product"]),
            helper.make_node("Tanh", ["product"], ["next"]),
            helper.make_node("Identity", ["going"], ["still"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", I, []),
            helper.make_tensor_value_info("going", B, []),
            helper.make_tensor_value_info("carried", F, None),
        ],
        [helper.make_tensor_value_info("still", B, []), helper.make_tensor_value_info("next", F, None)],
    )
    a = net("Relu", net("MatMul", x, w))
    a = net("Loop", net.weight(3, np.int64), net.weight(True, np.bool_), a, body=body)
    net("MatMul", a, w, to="y")
    net.output("y", [6])
    return net.model()


@dataclasses.dataclass
class Network:
    """A network, how far FP16 may take its outputs from those of FP32, and the casts that it may cost."""

    model: Callable
    #: Largest difference, over the largest value of the output.
    tolerance: float
    #: `Cast` nodes more than before, in all graphs.
    casts: int
    #: Scale of its random inputs.
    scale: float = 1.0


NETWORKS = {
    "convolutions": Network(convolutions, 1e-3, 2),
    "layer_norm": Network(layer_norm, 1e-3, 6),
    "attention": Network(attention, 1e-3, 3),
    "shapes": Network(shapes, 1e-3, 2),
    "selections": Network(selections, 1e-3, 2),
    "quantised_13": Network(lambda: quantised(13), 1e-3, 3),
    "quantised_21": Network(lambda: quantised(21), 1e-3, 2),
    "branches": Network(branches, 1e-3, 6),
    "normalised": Network(normalised, 1e-3, 2),
    "positions": Network(positions, 1e-3, 5),
    "loop": Network(loop, 3e-3, 6),
}
