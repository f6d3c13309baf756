"""Triton's own Python client over HTTP."""

import gzip
import json
import struct

import numpy as np
import pytest
import requests
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from daemon import DIMENSIONS, MODEL, assert_face, b64, cosine, embeddings, face, golden, pictures, preprocess


@pytest.fixture(scope="module")
def client(daemon):
    with triton.InferenceServerClient(daemon.address, concurrency=8, network_timeout=30) as client:
        yield client


def images(*encoded, shape=None, binary=True):
    """The BYTES input `image`."""
    shape = shape or [len(encoded)]
    tensor = triton.InferInput("image", shape, "BYTES")
    values = encoded if binary else [b64(e).encode() for e in encoded]
    tensor.set_data_from_numpy(np.array(values, dtype=object).reshape(shape), binary_data=binary)
    return tensor


def tensors(*encoded, binary=True):
    """The FP32 input `input`, preprocessed by OpenCV."""
    values = np.stack([preprocess(e) for e in encoded])
    tensor = triton.InferInput("input", list(values.shape), "FP32")
    tensor.set_data_from_numpy(values, binary_data=binary)
    return tensor


def embedding(result):
    values = result.as_numpy("embedding")
    assert values.dtype == np.float32 and values.shape[1:] == (DIMENSIONS,), (values.dtype, values.shape)
    return values


def test_live_and_ready(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, "1")
    assert not client.is_model_ready("nothing")
    assert not client.is_model_ready(MODEL, "999")


def test_server_metadata(client):
    metadata = client.get_server_metadata()
    assert metadata["name"] == "visord"
    assert metadata["version"]
    for extension in ("binary_tensor_data", "classification", "statistics", "model_configuration", "schedule_policy"):
        assert extension in metadata["extensions"], metadata["extensions"]


def test_model_metadata(client):
    metadata = client.get_model_metadata(MODEL)
    assert metadata["name"] == MODEL
    assert metadata["versions"] == ["1"]
    inputs = {tensor["name"]: tensor for tensor in metadata["inputs"]}
    assert inputs["input"]["datatype"] == "FP32"
    assert [int(side) for side in inputs["input"]["shape"]] == [-1, 3, 112, 112]
    assert inputs["image"]["datatype"] == "BYTES"
    (output,) = metadata["outputs"]
    assert (output["name"], output["datatype"]) == ("embedding", "FP32")
    assert [int(side) for side in output["shape"]] == [-1, DIMENSIONS]


def test_model_config(client, daemon):
    config = client.get_model_config(MODEL)
    assert config["name"] == MODEL
    assert config["max_batch_size"] >= 1
    assert daemon.backend in json.dumps(config), "the configuration names the backend"


def test_statistics_count_requests_and_images(client):
    def read():
        (statistics,) = client.get_inference_statistics(MODEL)["model_stats"]
        return statistics

    before = read()
    client.infer(MODEL, [images(*pictures())])
    after = read()
    assert (after["name"], after["version"]) == (MODEL, "1")
    assert after["inference_count"] - before["inference_count"] == len(pictures())
    assert 1 <= after["execution_count"] - before["execution_count"] <= len(pictures())
    success = after["inference_stats"]["success"]
    assert success["count"] - before["inference_stats"]["success"]["count"] == 1
    assert success["ns"] > before["inference_stats"]["success"]["ns"]
    for stage in ("queue", "compute_input", "compute_infer", "compute_output"):
        assert after["inference_stats"][stage]["ns"] >= before["inference_stats"][stage]["ns"], stage
    assert client.get_inference_statistics()["model_stats"]


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("shape", [[1], [1, 1]], ids=["n", "n1"])
def test_encoded_image(client, binary, shape):
    assert_face(embedding(client.infer(MODEL, [images(face(), shape=shape, binary=binary)])))


def test_every_golden_image(client):
    for name in embeddings():
        assert_face(embedding(client.infer(MODEL, [images(golden(name))])), name)


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_ready_made_tensor(client, binary):
    assert_face(embedding(client.infer(MODEL, [tensors(face(), binary=binary)])))


def test_a_tensor_gives_what_its_image_gives(client):
    for picture in pictures():
        from_image = embedding(client.infer(MODEL, [images(picture)]))
        from_tensor = embedding(client.infer(MODEL, [tensors(picture)]))
        assert cosine(from_image, from_tensor) >= 0.9995


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_requested_output(client, binary):
    result = client.infer(MODEL, [images(face())], outputs=[triton.InferRequestedOutput("embedding", binary_data=binary)])
    assert_face(embedding(result))
    assert ("data" in result.get_output("embedding")) == (not binary)


def test_classification(client):
    values = embedding(client.infer(MODEL, [images(face())]))[0]
    result = client.infer(MODEL, [images(face())], outputs=[triton.InferRequestedOutput("embedding", class_count=3)])
    top = result.as_numpy("embedding")
    assert top.shape == (1, 3), top
    indices = [int(text.decode().split(":")[1]) for text in top[0]]
    assert indices == list(np.argsort(-values)[:3]), top


def test_request_id_version_and_model_name_are_echoed(client):
    response = client.infer(MODEL, [images(face())], request_id="request-42", model_version="1").get_response()
    assert response["id"] == "request-42"
    assert response["model_name"] == MODEL
    assert response["model_version"] == "1"


def test_a_batch_equals_one_by_one(client):
    together = embedding(client.infer(MODEL, [images(*pictures())]))
    assert len(together) == len(pictures())
    for row, picture in zip(together, pictures()):
        alone = embedding(client.infer(MODEL, [images(picture)]))[0]
        np.testing.assert_allclose(row, alone, atol=2e-2, err_msg="a row of the batch is another picture's or off")
        assert cosine(row, alone) >= 0.99999


def test_more_images_than_one_batch_holds(client):
    count = 2 * client.get_model_config(MODEL)["max_batch_size"] + 1
    if count > 300:
        pytest.skip("max_batch_size is too large for this test")
    picked = [pictures()[i % 4] for i in range(count)]
    rows = embedding(client.infer(MODEL, [images(*picked)]))
    alone = [embedding(client.infer(MODEL, [images(picture)]))[0] for picture in pictures()]
    for i, row in enumerate(rows):
        assert cosine(row, alone[i % 4]) >= 0.99999, f"row {i} of {count}"


@pytest.mark.parametrize("out", [None, "gzip", "deflate"])
@pytest.mark.parametrize("into", [None, "gzip", "deflate"])
def test_compression(client, into, out):
    result = client.infer(
        MODEL, [images(face())], request_compression_algorithm=into, response_compression_algorithm=out
    )
    assert_face(embedding(result))


def test_compressed_answer_says_so(daemon):
    body = json.dumps({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [b64(face())]}]})
    answer = requests.post(
        daemon.url(f"/v2/models/{MODEL}/infer"), data=body, headers={"Accept-Encoding": "gzip"}, stream=True
    )
    assert answer.headers["Content-Encoding"] == "gzip"
    raw = answer.raw.read(decode_content=False)
    assert_face(json.loads(gzip.decompress(raw))["outputs"][0]["data"])


def test_raw_binary_request(daemon):
    body = struct.pack("<I", len(face())) + face()
    headers = {"Inference-Header-Content-Length": "0", "Content-Type": "application/octet-stream"}
    answer = requests.post(daemon.url(f"/v2/models/{MODEL}/infer"), data=body, headers=headers)
    if answer.status_code == 400:
        # The model's own input is the tensor: then the raw body is that.
        answer = requests.post(
            daemon.url(f"/v2/models/{MODEL}/infer"), data=preprocess(face()).tobytes(), headers=headers
        )
    assert answer.status_code == 200, answer.text
    head_bytes = int(answer.headers["Inference-Header-Content-Length"])
    head = json.loads(answer.content[:head_bytes])
    assert head["outputs"][0]["parameters"]["binary_data_size"] == 4 * DIMENSIONS
    assert_face(np.frombuffer(answer.content[head_bytes:], "<f4"))


def test_priority_and_generous_timeout(client):
    assert_face(embedding(client.infer(MODEL, [images(face())], priority=1, timeout=30_000_000)))


def test_a_timeout_of_one_microsecond_is_too_short(client):
    with pytest.raises(InferenceServerException) as error:
        client.infer(MODEL, [images(face())], timeout=1)
    assert error.value.status() == "504", str(error.value)


def test_concurrent_requests(client):
    pending = [client.async_infer(MODEL, [images(pictures()[i % 4])]) for i in range(48)]
    rows = [embedding(request.get_result())[0] for request in pending]
    for i, row in enumerate(rows):
        assert cosine(row, rows[i % 4]) >= 0.99999, f"request {i}"
    assert_face(rows[0])


def wrong_inputs():
    def tensor(name, shape, datatype, values):
        built = triton.InferInput(name, shape, datatype)
        built.set_data_from_numpy(values)
        return built

    zeros = np.zeros
    return [
        ("shape", tensor("input", [1, 3, 100, 100], "FP32", zeros((1, 3, 100, 100), np.float32)), "112"),
        ("rank", tensor("input", [3, 112, 112], "FP32", zeros((3, 112, 112), np.float32)), "112"),
        ("datatype", tensor("input", [1, 3, 112, 112], "FP64", zeros((1, 3, 112, 112))), "FP32"),
        ("name", tensor("inputs", [1, 3, 112, 112], "FP32", zeros((1, 3, 112, 112), np.float32)), "inputs"),
        ("image datatype", tensor("image", [4], "UINT8", zeros(4, np.uint8)), "BYTES"),
        ("not an image", images(b"certainly not a picture"), "image"),
    ]


@pytest.mark.parametrize("label, tensor, word", wrong_inputs(), ids=[case[0] for case in wrong_inputs()])
def test_wrong_input(client, label, tensor, word):
    with pytest.raises(InferenceServerException) as error:
        client.infer(MODEL, [tensor])
    assert error.value.status() == "400", str(error.value)
    assert word in error.value.message(), f"{label}: the text does not mention {word!r}: {error.value.message()}"


def test_unknown_model_version_and_output(client):
    cases = [
        ("404", "ArcFace", lambda: client.infer("nothing", [images(face())])),
        ("404", "1", lambda: client.infer(MODEL, [images(face())], model_version="999")),
        ("400", "embedding", lambda: client.infer(
            MODEL, [images(face())], outputs=[triton.InferRequestedOutput("nothing")])),
        ("404", "ArcFace", lambda: client.get_model_metadata("nothing")),
        ("404", "ArcFace", lambda: client.get_model_config("nothing")),
        ("404", "ArcFace", lambda: client.get_inference_statistics("nothing")),
    ]
    for status, word, call in cases:
        with pytest.raises(InferenceServerException) as error:
            call()
        assert error.value.status() == status, str(error.value)
        assert word in error.value.message(), f"the text does not say what exists: {error.value.message()}"


def test_one_bad_image_fails_the_request_and_names_itself(client):
    with pytest.raises(InferenceServerException) as error:
        client.infer(MODEL, [images(face(), b"no picture", face())])
    assert error.value.status() == "400"
    assert "1" in error.value.message() or "2" in error.value.message(), error.value.message()
