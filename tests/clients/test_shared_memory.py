"""Triton's system shared memory, with tritonclient over HTTP and over gRPC."""

import contextlib
import os

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

from daemon import DIMENSIONS, MODEL, Daemon, assert_face, face, preprocess

ROW_BYTES = 4 * DIMENSIONS


@pytest.fixture(scope="module")
def sharing():
    with Daemon("--shared-memory") as daemon:
        yield daemon


@contextlib.contextmanager
def connected(protocol, daemon):
    """The module of a protocol and its client."""
    module, port = (triton_http, daemon.http_port) if protocol == "http" else (triton_grpc, daemon.grpc_port)
    with module.InferenceServerClient(f"127.0.0.1:{port}") as client:
        yield module, client
        client.unregister_system_shared_memory()


@pytest.fixture(params=["http", "grpc"])
def client(request, sharing):
    with connected(request.param, sharing) as both:
        yield both


@contextlib.contextmanager
def region(client, name, byte_size):
    """A registered region over a new shared memory object."""
    handle = shm.create_shared_memory_region(name, f"/visord-{os.getpid()}-{name}", byte_size)
    try:
        client.register_system_shared_memory(name, f"/visord-{os.getpid()}-{name}", byte_size)
        yield handle
    finally:
        shm.destroy_shared_memory_region(handle)


def as_list(status):
    """[(name, key, byte_size)] of either protocol's status, in order: gRPC's map has none."""
    regions = status if isinstance(status, list) else [
        {"name": r.name, "key": r.key, "byte_size": r.byte_size} for r in status.regions.values()]
    return sorted((r["name"], r["key"], int(r["byte_size"])) for r in regions)


def test_register_status_unregister(client):
    _, client = client
    assert as_list(client.get_system_shared_memory_status()) == []
    with region(client, "a", 64), region(client, "b", 128):
        key = f"/visord-{os.getpid()}-"
        assert as_list(client.get_system_shared_memory_status()) == [("a", key + "a", 64), ("b", key + "b", 128)]
        assert as_list(client.get_system_shared_memory_status("b")) == [("b", key + "b", 128)]
        with pytest.raises(InferenceServerException, match="registered already"):
            client.register_system_shared_memory("a", key + "a", 64)
        client.unregister_system_shared_memory("a")
        assert as_list(client.get_system_shared_memory_status()) == [("b", key + "b", 128)]
        with pytest.raises(InferenceServerException, match="`a` is not registered"):
            client.get_system_shared_memory_status("a")


def test_tensors(client):
    module, client = client
    values = np.stack([preprocess(face()), preprocess(face())])
    with region(client, "in", values.nbytes) as given, region(client, "out", 3 * ROW_BYTES) as taken:
        shm.set_shared_memory_region(given, [values])
        tensor = module.InferInput("input", list(values.shape), "FP32")
        tensor.set_shared_memory("in", values.nbytes)
        wanted = module.InferRequestedOutput("embedding")
        wanted.set_shared_memory("out", 2 * ROW_BYTES, offset=ROW_BYTES)
        output = client.infer(MODEL, [tensor], outputs=[wanted]).get_output("embedding")
        shape = output["shape"] if isinstance(output, dict) else output.shape
        assert list(shape) == [2, DIMENSIONS]
        rows = shm.get_contents_as_numpy(taken, np.float32, [3, DIMENSIONS])
        assert not rows[0].any()
        for row in rows[1:]:
            assert_face(row)


def test_an_image_in_and_its_embedding_in_the_answer(client):
    module, client = client
    element = serialize_byte_tensor(np.array([face()], dtype=object)).item()
    with region(client, "image", len(element) + 7) as given:
        shm.set_shared_memory_region(given, [np.frombuffer(element, np.uint8)], offset=7)
        tensor = module.InferInput("image", [1], "BYTES")
        tensor.set_shared_memory("image", len(element), offset=7)
        assert_face(client.infer(MODEL, [tensor]).as_numpy("embedding"))


def test_what_is_wrong_is_said(client):
    module, client = client
    values = preprocess(face())[None]

    def ask(name, byte_size, offset=0, out=None):
        tensor = module.InferInput("input", list(values.shape), "FP32")
        tensor.set_shared_memory(name, byte_size, offset=offset)
        outputs = None
        if out:
            outputs = [module.InferRequestedOutput("embedding")]
            outputs[0].set_shared_memory(*out)
        return client.infer(MODEL, [tensor], outputs=outputs)

    with region(client, "in", values.nbytes) as given, region(client, "out", ROW_BYTES):
        shm.set_shared_memory_region(given, [values])
        cases = [
            (("nowhere", values.nbytes), {}, "`nowhere` is not registered"),
            (("in", values.nbytes, 1), {}, "go beyond the"),
            (("in", values.nbytes - 4), {}, "takes 150528 bytes"),
            (("in", values.nbytes), {"out": ("out", ROW_BYTES, 4)}, "go beyond the"),
            (("in", values.nbytes), {"out": ("out", ROW_BYTES - 4)}, f"takes {ROW_BYTES} bytes"),
            (("in", values.nbytes), {"out": ("nowhere", ROW_BYTES)}, "`nowhere` is not registered"),
        ]
        for arguments, keywords, message in cases:
            with pytest.raises(InferenceServerException, match=message):
                ask(*arguments, **keywords)
        ask("in", values.nbytes, out=("out", ROW_BYTES))
        os.truncate(f"/dev/shm/visord-{os.getpid()}-in", 100)
        with pytest.raises(InferenceServerException, match="`in` has become shorter"):
            ask("in", values.nbytes)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_off_by_default(protocol, plain):
    module, port = (triton_http, plain.http_port) if protocol == "http" else (triton_grpc, plain.grpc_port)
    with module.InferenceServerClient(f"127.0.0.1:{port}") as client:
        for attempt in (client.get_system_shared_memory_status, client.unregister_system_shared_memory,
                        lambda: client.register_system_shared_memory("r", "/k", 1)):
            with pytest.raises(InferenceServerException, match="--shared-memory"):
                attempt()
