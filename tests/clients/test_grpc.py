"""Triton's own Python client over gRPC, and the health service."""

import queue
import threading
import time

import grpc
import numpy as np
import pytest
import requests
import tritonclient.grpc as triton
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from daemon import (
    DIMENSIONS, MODEL, Daemon, assert_face, cosine, embeddings, face, golden, pictures, preprocess,
)

SECONDS = 60


@pytest.fixture(scope="module")
def client(daemon):
    with triton.InferenceServerClient(f"127.0.0.1:{daemon.grpc_port}") as client:
        yield client


@pytest.fixture(scope="module")
def stub(plain):
    """Methods as tritonclient's generated code calls them, for what its client does not send."""
    from tritonclient.grpc import service_pb2_grpc

    with grpc.insecure_channel(f"127.0.0.1:{plain.grpc_port}") as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def images(*encoded, shape=None):
    """The BYTES input `image`."""
    shape = shape or [len(encoded)]
    tensor = triton.InferInput("image", shape, "BYTES")
    tensor.set_data_from_numpy(np.array(encoded, dtype=object).reshape(shape))
    return tensor


def tensors(*encoded):
    """The FP32 input `input`, preprocessed by OpenCV."""
    values = np.stack([preprocess(e) for e in encoded])
    tensor = triton.InferInput("input", list(values.shape), "FP32")
    tensor.set_data_from_numpy(values)
    return tensor


def embedding(result):
    values = result.as_numpy("embedding")
    assert values.dtype == np.float32 and values.shape[1:] == (DIMENSIONS,), (values.dtype, values.shape)
    return values


def fails(code, word, call):
    with pytest.raises(InferenceServerException) as error:
        call()
    assert error.value.status() == f"StatusCode.{code}", str(error.value)
    assert word in error.value.message(), error.value.message()


def test_live_and_ready(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, "1")
    assert not client.is_model_ready("nothing")
    assert not client.is_model_ready(MODEL, "999")


def test_documents_are_those_of_http(client, daemon):
    """Every field that the JSON documents have is in the messages, with its value."""
    def get(path):
        answer = requests.get(daemon.url(path))
        assert answer.status_code == 200, answer.text
        return answer.json()

    def same(json, message, where):
        if isinstance(json, dict):
            assert isinstance(message, dict), where
            for key, value in json.items():
                # JSON of protobuf leaves out what is zero or empty.
                if key in message or value not in (0, "0", "", "REJECT", [], {}, False):
                    same(value, message.get(key), f"{where}.{key}")
        elif isinstance(json, list):
            assert isinstance(message, list) and len(json) == len(message), (where, json, message)
            for i, (a, b) in enumerate(zip(json, message)):
                same(a, b, f"{where}[{i}]")
        else:
            assert str(json) == str(message if message is not None else 0), (where, json, message)

    same(get("/v2"), client.get_server_metadata(as_json=True), "server")
    same(get(f"/v2/models/{MODEL}"), client.get_model_metadata(MODEL, as_json=True), "metadata")
    same(get(f"/v2/models/{MODEL}/config"), client.get_model_config(MODEL, as_json=True)["config"], "config")
    client.infer(MODEL, [images(*pictures())])
    statistics = client.get_inference_statistics(MODEL, as_json=True)
    same(get(f"/v2/models/{MODEL}/stats"), statistics, "statistics")
    assert client.get_inference_statistics(as_json=True) == statistics, "one model, one version: no name is all"


def test_statistics_count_requests_and_images(client):
    def read():
        (statistics,) = client.get_inference_statistics(MODEL).model_stats
        return statistics

    before = read()
    client.infer(MODEL, [images(*pictures())])
    after = read()
    assert after.inference_count - before.inference_count == len(pictures())
    assert after.inference_stats.success.count - before.inference_stats.success.count == 1
    assert after.inference_stats.success.ns > before.inference_stats.success.ns


@pytest.mark.parametrize("shape", [[1], [1, 1]], ids=["n", "n1"])
def test_encoded_image(client, shape):
    assert_face(embedding(client.infer(MODEL, [images(face(), shape=shape)])))


def test_every_golden_image(client):
    for name in embeddings():
        assert_face(embedding(client.infer(MODEL, [images(golden(name))])), name)


def test_a_tensor_gives_what_its_image_gives(client):
    for picture in pictures():
        from_image = embedding(client.infer(MODEL, [images(picture)]))
        from_tensor = embedding(client.infer(MODEL, [tensors(picture)]))
        assert cosine(from_image, from_tensor) >= 0.9995


def test_gives_the_bits_that_http_gives(client, daemon):
    answer = requests.post(
        daemon.url(f"/v1/models/{MODEL}/infer"), data=face(),
        headers={"Content-Type": "image/jpeg", "Accept": "application/octet-stream"},
    )
    assert embedding(client.infer(MODEL, [images(face())])).tobytes() == answer.content


def test_typed_contents(stub):
    """Images and numbers in the fields of their datatype, which tritonclient never uses."""
    request = service_pb2.ModelInferRequest(model_name=MODEL, id="typed")
    image = request.inputs.add(name="image", datatype="BYTES", shape=[2])
    image.contents.bytes_contents.extend([face(), pictures()[1]])
    from_images = stub.ModelInfer(request)
    assert from_images.id == "typed" and len(from_images.raw_output_contents) == 1
    request = service_pb2.ModelInferRequest(model_name=MODEL)
    values = np.stack([preprocess(face()), preprocess(pictures()[1])])
    tensor = request.inputs.add(name="input", datatype="FP32", shape=values.shape)
    tensor.contents.fp32_contents.extend(values.ravel().tolist())
    from_numbers = stub.ModelInfer(request)
    a, b = (np.frombuffer(r.raw_output_contents[0], "<f4").reshape(2, -1) for r in (from_images, from_numbers))
    assert_face(a[0])
    assert cosine(a[0], b[0]) >= 0.9995 and cosine(a[1], b[1]) >= 0.9995


def test_requested_output_and_classification(client):
    values = embedding(client.infer(MODEL, [images(face())], outputs=[triton.InferRequestedOutput("embedding")]))[0]
    result = client.infer(MODEL, [images(face())], outputs=[triton.InferRequestedOutput("embedding", class_count=3)])
    top = result.as_numpy("embedding")
    assert top.shape == (1, 3), top
    assert [int(text.decode().split(":")[1]) for text in top[0]] == list(np.argsort(-values)[:3]), top


def test_request_id_version_and_model_name_are_echoed(client):
    response = client.infer(MODEL, [images(face())], request_id="request-42", model_version="1").get_response()
    assert (response.id, response.model_name, response.model_version) == ("request-42", MODEL, "1")
    assert client.infer(MODEL, [images(face())]).get_response().model_version == "1"


def test_a_batch_equals_one_by_one(client):
    together = embedding(client.infer(MODEL, [images(*pictures())]))
    for row, picture in zip(together, pictures(), strict=True):
        assert cosine(row, embedding(client.infer(MODEL, [images(picture)]))[0]) >= 0.99999


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests(client, algorithm):
    assert_face(embedding(client.infer(MODEL, [images(face())], compression_algorithm=algorithm)))


def test_priority_and_generous_timeout(client):
    assert_face(embedding(client.infer(MODEL, [images(face())], priority=1, timeout=30_000_000)))


def test_a_timeout_of_one_microsecond_is_too_short(client):
    fails("DEADLINE_EXCEEDED", "1 microseconds", lambda: client.infer(MODEL, [images(face())], timeout=1))


def test_a_client_deadline_that_is_long_enough(client):
    assert_face(embedding(client.infer(MODEL, [images(face())], client_timeout=SECONDS)))


def test_concurrent_requests(client):
    answers = queue.Queue()
    for i in range(48):
        client.async_infer(
            MODEL, [images(pictures()[i % 4])], callback=lambda result, error, i=i: answers.put((i, result, error))
        )
    rows = {}
    for _ in range(48):
        i, result, error = answers.get(timeout=SECONDS)
        assert error is None, error
        rows[i] = embedding(result)[0]
    for i, row in rows.items():
        assert cosine(row, rows[i % 4]) >= 0.99999, f"request {i}"
    assert_face(rows[0])


def test_a_stream_answers_every_request_by_its_id(client):
    answers = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    try:
        expected = {}
        for i in range(40):
            client.async_stream_infer(MODEL, [images(pictures()[i % 4])], request_id=str(i))
            expected[str(i)] = pictures()[i % 4]
        rows = {}
        for _ in range(40):
            result, error = answers.get(timeout=SECONDS)
            assert error is None, error
            rows[result.get_response().id] = embedding(result)[0]
        assert rows.keys() == expected.keys()
        for i in expected:
            assert cosine(rows[i], rows[str(int(i) % 4)]) >= 0.99999, i
        assert_face(rows["0"])
        # An error has its text and ends nothing.
        client.async_stream_infer(MODEL, [images(b"no picture")], request_id="bad")
        result, error = answers.get(timeout=SECONDS)
        assert "image" in error.message(), error
        client.async_stream_infer("nothing", [images(face())], request_id="unknown")
        result, error = answers.get(timeout=SECONDS)
        assert "unknown model" in error.message(), error
        client.async_stream_infer(MODEL, [images(face())], request_id="good", enable_empty_final_response=True)
        result, error = answers.get(timeout=SECONDS)
        assert error is None, error
        assert result.get_response().parameters["triton_final_response"].bool_param
        assert_face(embedding(result))
    finally:
        client.stop_stream()


def test_an_error_on_a_stream_carries_the_id(stub):
    def request(request_id, model):
        message = service_pb2.ModelInferRequest(model_name=model, id=request_id)
        message.inputs.add(name="image", datatype="BYTES", shape=[1]).contents.bytes_contents.append(face())
        return message

    answers = list(stub.ModelStreamInfer(iter([request("a", "nothing"), request("b", MODEL), request("c", "nothing")])))
    by_id = {answer.infer_response.id: answer.error_message for answer in answers}
    assert by_id.keys() == {"a", "b", "c"}
    assert by_id["b"] == "" and "nothing" in by_id["a"] and "nothing" in by_id["c"]


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
def test_wrong_input(client, daemon, label, tensor, word):
    """The text is HTTP's own."""
    fails("INVALID_ARGUMENT", word, lambda: client.infer(MODEL, [tensor]))
    import tritonclient.http as http

    twin = http.InferInput(tensor.name(), list(tensor.shape()), tensor.datatype())
    twin._raw_data = tensor._raw_content
    twin._parameters["binary_data_size"] = len(tensor._raw_content)
    with http.InferenceServerClient(daemon.address) as other, pytest.raises(InferenceServerException) as over_http:
        other.infer(MODEL, [twin])
    with pytest.raises(InferenceServerException) as over_grpc:
        client.infer(MODEL, [tensor])
    assert over_grpc.value.message() == over_http.value.message(), label


def test_unknown_model_version_and_output(client):
    fails("NOT_FOUND", MODEL, lambda: client.infer("nothing", [images(face())]))
    fails("NOT_FOUND", "1", lambda: client.infer(MODEL, [images(face())], model_version="999"))
    fails("INVALID_ARGUMENT", "embedding", lambda: client.infer(
        MODEL, [images(face())], outputs=[triton.InferRequestedOutput("nothing")]))
    for call in (client.get_model_metadata, client.get_model_config, client.get_inference_statistics):
        fails("NOT_FOUND", MODEL, lambda: call("nothing"))


def test_the_repository(client):
    (entry,) = client.get_model_repository_index().models
    assert (entry.name, entry.version, entry.state, entry.reason) == (MODEL, "1", "READY", "")
    fails("UNAVAILABLE", "--model-control-mode explicit", lambda: client.load_model(MODEL))
    fails("UNAVAILABLE", "--model-control-mode explicit", lambda: client.unload_model(MODEL))


def test_what_is_not_served_says_so(client):
    for call, word in [
        (client.get_cuda_shared_memory_status, "CUDA"),
        (lambda: client.register_cuda_shared_memory("r", b"", 0, 1), "CUDA"),
        (client.unregister_cuda_shared_memory, "CUDA"),
        (client.get_trace_settings, "traces"),
    ]:
        fails("UNIMPLEMENTED", word, call)


def test_errors_have_their_reason_in_the_trailers(stub):
    with pytest.raises(grpc.RpcError) as error:
        stub.ModelInfer(service_pb2.ModelInferRequest(model_name="nothing"))
    assert error.value.code() == grpc.StatusCode.NOT_FOUND
    assert dict(error.value.trailing_metadata())["visord-reason"] == "unknown_model"


@pytest.fixture(scope="module")
def health(plain):
    with grpc.insecure_channel(f"127.0.0.1:{plain.grpc_port}") as channel:
        yield health_pb2_grpc.HealthStub(channel)


SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


@pytest.mark.parametrize(
    "service", ["", "inference.GRPCInferenceService", "baidu.paddle_serving.pipeline_serving.PipelineService", MODEL]
)
def test_health(health, service):
    assert health.Check(health_pb2.HealthCheckRequest(service=service)).status == SERVING


def test_health_of_a_stranger(health):
    with pytest.raises(grpc.RpcError) as error:
        health.Check(health_pb2.HealthCheckRequest(service="nothing"))
    assert error.value.code() == grpc.StatusCode.NOT_FOUND
    watch = health.Watch(health_pb2.HealthCheckRequest(service="nothing"))
    assert next(watch).status == SERVICE_UNKNOWN
    watch.cancel()


def test_a_watch_tells_of_the_shutdown_and_does_not_hold_it_up():
    with Daemon("--exit-delay-secs", "2") as daemon:
        with grpc.insecure_channel(f"127.0.0.1:{daemon.grpc_port}") as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""))
            assert next(watch).status == SERVING
            # A stream that is open and idle: it is told, too.
            held = threading.Event()

            def requests():
                held.wait(SECONDS)
                yield from ()

            from tritonclient.grpc import service_pb2_grpc
            stream = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(requests())
            daemon.sigterm()
            assert next(watch).status == NOT_SERVING
            begin = time.monotonic()
            for ended in (watch, stream):
                with pytest.raises(grpc.RpcError) as error:
                    next(ended)
                assert error.value.code() == grpc.StatusCode.UNAVAILABLE, error.value
                assert "shutting down" in error.value.details(), error.value
            held.set()
        # Far below --exit-timeout-secs, 30: nothing waited for them.
        assert daemon.terminate(20) == 0
        assert time.monotonic() - begin < 20
