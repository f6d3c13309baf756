"""`precision = "fp16"` for strongly typed TensorRT: the rewritten network against the one it was made of.

ONNX Runtime on the CPU runs both. It has FP16 kernels for few operators and computes the others in FP32 between
casts, so it shows the types, the weights and every rounding between nodes, not the rounding inside them.
"""

import os
import shutil
import subprocess

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from daemon import BIN, ENGINES, GOLDEN, IMAGES, MIN_COSINE, MODEL, cosine, embeddings
from networks import NETWORKS, Net

EDGES = 2


def repository(folder, model, settings="", **save):
    """A model repository with this one network, as `net`."""
    version = folder / "models" / "net" / "1"
    version.mkdir(parents=True)
    onnx.save(model, version / "model.onnx", **save)
    (version.parent / "model.toml").write_text(f"max_batch_size = 4\n{settings}")
    return folder / "models"


def build(models, name, out):
    """Runs `visord build --write-onnx`."""
    return subprocess.run(
        [str(BIN), "build", "--model-repository", str(models), "--model", name, "--precision", "fp16",
         "--write-onnx", str(out)],
        capture_output=True, text=True, timeout=120,
    )


def rewritten(models, name, out):
    """The network as a strongly typed builder is given it; checked for being valid ONNX."""
    done = build(models, name, out)
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}{done.stderr}"
    onnx.checker.check_model(str(out), full_check=True)
    model = onnx.load(out)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    return model


def session(model):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def graphs(graph):
    """A graph and all that are inside of it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from graphs(attribute.g)


def count(model, op):
    return sum(node.op_type == op for graph in graphs(model.graph) for node in graph.node)


def random_inputs(model, scale, batch=3):
    random = np.random.default_rng(5)
    feed = {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        shape = [batch] + [d.dim_value for d in kind.shape.dim[1:]]
        if value.name == "mask":
            feed[value.name] = (random.random(shape) < 0.7).astype(np.float32)
        elif kind.elem_type == TensorProto.INT64:
            feed[value.name] = random.integers(-20, 20, shape)
        else:
            # On a grid of 1/32, which is exact in FP16 and is what the quantised networks round to.
            feed[value.name] = (np.round(random.standard_normal(shape) * scale * 32) / 32).astype(np.float32)
            feed[value.name][-1] = 0
    return feed


@pytest.fixture(scope="module")
def arcface(tmp_path_factory):
    path = tmp_path_factory.mktemp("fp16") / "model.onnx"
    return onnx.load(ENGINES / MODEL / "1" / "model.onnx"), rewritten(ENGINES, MODEL, path), path


def test_the_shipped_model_finds_the_same_faces(arcface):
    before, after = map(session, arcface[:2])
    lowest, seen = 1.0, 0
    for path in sorted(IMAGES.iterdir()):
        picture = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
        pixels = cv2.resize(picture[..., ::-1], (112, 112)).astype(np.float32)
        tensor = ((pixels - 127.5) / 128).transpose(2, 0, 1)[None]
        reached = cosine(*(s.run(["embedding"], {"input": tensor})[0][0] for s in (before, after)))
        assert reached >= MIN_COSINE, f"{path.name}: cosine {reached:.6f}"
        lowest, seen = min(lowest, reached), seen + 1
        if path.name in embeddings():
            golden = cosine(after.run(["embedding"], {"input": tensor})[0][0], embeddings()[path.name])
            assert golden >= MIN_COSINE, f"{path.name}: cosine {golden:.6f} to {GOLDEN / 'embeddings.json'}"
    assert seen >= 50
    print(f"{seen} pictures, lowest cosine {lowest:.7f}")


def test_the_shipped_model_is_half_as_large_with_a_cast_at_each_edge(arcface):
    before, after, path = arcface
    share = os.path.getsize(path) / os.path.getsize(ENGINES / MODEL / "1" / "model.onnx")
    assert 0.49 < share < 0.52, share
    assert count(after, "Cast") - count(before, "Cast") == EDGES
    assert {w.data_type for w in after.graph.initializer} == {TensorProto.FLOAT16}
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)
    assert after.opset_import == before.opset_import and after.ir_version == before.ir_version


@pytest.mark.parametrize("name", NETWORKS)
def test_small_networks_stay_within_their_tolerance(name, tmp_path):
    network = NETWORKS[name]
    before = network.model()
    onnx.checker.check_model(before, full_check=True)
    after = rewritten(repository(tmp_path, before), "net", tmp_path / "fp16.onnx")
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)
    assert count(after, "Cast") - count(before, "Cast") == network.casts

    feed = random_inputs(before, network.scale)
    wanted, got = session(before).run(None, feed), session(after).run(None, feed)
    for value, a, b in zip(before.graph.output, wanted, got):
        assert a.dtype == b.dtype and a.shape == b.shape, value.name
        assert np.isfinite(b).all(), f"{value.name}: {b}"
        off = np.abs(a.astype(np.float64) - b).max() / max(np.abs(a).max(), 1e-9)
        print(f"{name}.{value.name}: {off:.1e}")
        assert off <= network.tolerance, f"{value.name} is off by {off:.2e}"
    # FP16 is what made a difference, or nothing was rewritten.
    assert any(not np.array_equal(a, b) for a, b in zip(wanted, got))


def test_external_data_comes_inline(tmp_path):
    model = NETWORKS["convolutions"].model()
    wanted = rewritten(repository(tmp_path / "a", model), "net", tmp_path / "a.onnx")
    models = repository(
        tmp_path / "b", NETWORKS["convolutions"].model(), save_as_external_data=True, location="weights.bin",
        size_threshold=0,
    )
    assert (models / "net" / "1" / "weights.bin").stat().st_size > 0
    got = rewritten(models, "net", tmp_path / "b.onnx")
    assert not any(w.external_data for w in got.graph.initializer if w.data_type == TensorProto.FLOAT16)
    shutil.rmtree(models)
    feed = random_inputs(model, 1.0)
    assert np.array_equal(session(wanted).run(None, feed)[0], session(got).run(None, feed)[0])


def test_the_file_can_keep_operators_in_fp32(tmp_path):
    settings = '[tensorrt]\nfp32_operators = ["Gemm", "Softmax"]\n'
    models = repository(tmp_path, NETWORKS["convolutions"].model(), settings)
    model = rewritten(models, "net", tmp_path / "fp16.onnx")
    assert [n.op_type for n in model.graph.node][-3:] == ["Cast", "Gemm", "Softmax"]


def test_what_cannot_be_rewritten_is_named(tmp_path):
    net = Net()
    net("SequenceAt", net("SequenceConstruct", net.input("x", [4])), net.weight(0, np.int64), to="y")
    net.output("y", [4])
    done = build(repository(tmp_path, net.model()), "net", tmp_path / "fp16.onnx")
    assert done.returncode != 0 and "SequenceConstruct" in done.stderr, done.stdout + done.stderr
    assert "panicked" not in done.stderr and not (tmp_path / "fp16.onnx").exists()
