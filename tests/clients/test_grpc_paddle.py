"""PaddleServing's pipeline over gRPC, in both numberings of its messages, as its clients send them."""

import grpc
import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from daemon import DIMENSIONS, MODEL, Daemon, assert_face, b64, cosine, face, pictures, preprocess

METHOD = "/baidu.paddle_serving.pipeline_serving.PipelineService/inference"
Field = descriptor_pb2.FieldDescriptorProto
TEXT, INT32, INT64, FLOAT, BYTES, MESSAGE = (
    Field.TYPE_STRING, Field.TYPE_INT32, Field.TYPE_INT64, Field.TYPE_FLOAT, Field.TYPE_BYTES, Field.TYPE_MESSAGE,
)

# Field numbers of python/pipeline/proto of PaddlePaddle/Serving: v0.6.3, and v0.9.0.
REQUEST = {
    "0.6": [("key", 1, TEXT, True), ("value", 2, TEXT, True), ("name", 3, TEXT, False), ("method", 4, TEXT, False),
            ("logid", 5, INT64, False), ("clientip", 6, TEXT, False)],
    "0.9": [("key", 1, TEXT, True), ("value", 2, TEXT, True), ("tensors", 3, MESSAGE, True), ("name", 4, TEXT, False),
            ("method", 5, TEXT, False), ("logid", 6, INT64, False), ("clientip", 7, TEXT, False)],
}
RESPONSE = [("err_no", 1, INT32, False), ("err_msg", 2, TEXT, False), ("key", 3, TEXT, True), ("value", 4, TEXT, True)]
TENSOR = [("float_data", 2, FLOAT, True), ("str_data", 9, TEXT, True), ("byte_data", 10, BYTES, False),
          ("elem_type", 20, INT32, False), ("shape", 21, INT32, True), ("name", 23, TEXT, False)]


def build(version):
    """The messages of a version, as its own generated code has them."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{version}.proto", package="paddle", syntax="proto3")
    for name, fields in [("Tensor", TENSOR), ("Request", REQUEST[version]), ("Response", RESPONSE)]:
        message = file.message_type.add(name=name)
        for field, number, kind, repeated in fields:
            message.field.add(
                name=field, number=number, type=kind, type_name=".paddle.Tensor" if kind == MESSAGE else None,
                label=Field.LABEL_REPEATED if repeated else Field.LABEL_OPTIONAL,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = ("Request", "Response", "Tensor")
    return [message_factory.GetMessageClass(pool.FindMessageTypeByName(f"paddle.{name}")) for name in names]


class Client:
    """What the stock client does: it names no service, and always sends its address."""

    def __init__(self, daemon, version):
        self.Request, self.Response, self.Tensor = build(version)
        self.version = version
        self.channel = grpc.insecure_channel(f"127.0.0.1:{daemon.grpc_port}")
        self.call = self.channel.unary_unary(
            METHOD, request_serializer=lambda r: r.SerializeToString(), response_deserializer=self.Response.FromString
        )

    def send(self, timeout=60, **fields):
        return self.call(self.Request(**{"clientip": "127.0.0.1", **fields}), timeout=timeout)

    def image(self, *encoded, **fields):
        keys = ["image"] if len(encoded) == 1 else [f"image_{i}" for i in range(len(encoded))]
        return self.send(key=keys, value=[b64(e) for e in encoded], **fields)


def arrays(response, key="out"):
    """What the clients do with a value."""
    assert (response.err_no, response.err_msg) == (0, ""), response
    assert list(response.key) == [key]
    return eval(response.value[0], {"array": np.array, "float32": np.float32})


@pytest.fixture(scope="module", params=["0.6", "0.9"])
def client(request, plain):
    client = Client(plain, request.param)
    yield client
    client.channel.close()


def test_one_image(client):
    values = arrays(client.image(face()))
    assert values.shape == (1, DIMENSIONS) and values.dtype == np.float32
    assert_face(values)


def test_the_answer_is_that_of_http(client, plain):
    import requests

    over_http = requests.post(plain.url(f"/{MODEL}/prediction"), json={"key": ["image"], "value": [b64(face())]}).json()
    assert list(client.image(face()).value) == over_http["value"]


def test_several_images(client):
    values = arrays(client.image(*pictures()))
    assert isinstance(values, list) and len(values) == len(pictures())
    for row, picture in zip(values, pictures(), strict=True):
        assert cosine(row, arrays(client.image(picture))) >= 0.99999


def test_a_service_may_be_named(client):
    assert_face(arrays(client.image(face(), name=MODEL, method="prediction", logid=7)))


def test_errors_have_the_numbers_of_the_version_that_asked(client):
    old = client.version == "0.6"
    cases = [
        ("unknown service", dict(key=["image"], value=["YQ=="], name="nothing"), (7, 3002), "Service name error"),
        ("no image", {}, (8, 10000), "image"),
        ("no value", dict(key=["image"]), (4, 8000), "rpc package error"),
        ("not base64", dict(key=["image"], value=["-"]), (8, 10000), "base64"),
        ("not an image", dict(key=["image"], value=["YWJj"]), (8, 10000), "image"),
        ("numpy text", dict(key=["image"], value=["array([1.])"]), (8, 10000), "numpy text"),
    ]
    for name, fields, numbers, word in cases:
        response = client.send(logid=42, **fields)
        assert response.err_no == numbers[0 if old else 1], f"{name}: {response}"
        assert word in response.err_msg, f"{name}: {response}"
        assert not response.key and not response.value, name
    text = client.send(key=["image"], value=["-"], logid=42).err_msg
    assert ("log_id=42" if old else "Log_id: 42") in text and "Failed to preprocess" in text or not old, text


@pytest.mark.parametrize("generation, number", [("0.6", 7), ("0.8", 3002)])
def test_a_client_that_cannot_be_told_gets_the_flags_numbers(generation, number):
    with Daemon("--paddle-err-no", generation, backend="rten") as daemon:
        # Nothing but a name, in the field of that generation.
        client = Client(daemon, "0.6" if generation == "0.6" else "0.9")
        response = client.call(client.Request(name="nothing"), timeout=60)
        assert response.err_no == number, response
        client.channel.close()


@pytest.fixture(scope="module")
def tensors(plain):
    client = Client(plain, "0.9")
    yield client
    client.channel.close()


FP32, STRING, BYTES_TYPE = 1, 12, 13


def test_images_in_tensors(tensors):
    as_bytes = tensors.Tensor(name="image", elem_type=BYTES_TYPE, byte_data=face())
    assert_face(arrays(tensors.send(tensors=[as_bytes])))
    as_text = tensors.Tensor(name="image", elem_type=STRING, str_data=[b64(face())], shape=[1])
    assert_face(arrays(tensors.send(tensors=[as_text])))
    both = arrays(tensors.send(tensors=[as_bytes, as_text]))
    assert len(both) == 2
    for row in both:
        assert_face(row)


def test_numbers_in_tensors(tensors):
    values = np.stack([preprocess(face()), preprocess(pictures()[1])])
    tensor = tensors.Tensor(name="input", elem_type=FP32, float_data=values.ravel().tolist(), shape=values.shape)
    answered = arrays(tensors.send(tensors=[tensor]))
    assert answered.shape == (2, DIMENSIONS)
    assert_face(answered[0])


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


def test_a_pickle_is_refused(tensors, alive):
    import io

    file = io.BytesIO()
    np.save(file, np.array([Bomb()], dtype=object), allow_pickle=True)
    response = tensors.send(tensors=[tensors.Tensor(name="image", elem_type=BYTES_TYPE, byte_data=file.getvalue())])
    assert response.err_no == 10000 and "numpy.save" in response.err_msg, response


def test_bad_tensors(tensors):
    cases = [
        ([tensors.Tensor(name="input", elem_type=FP32, float_data=[1.0], shape=[2])], 5000, "`float_data` has 1"),
        ([tensors.Tensor(name="input", elem_type=FP32, float_data=[1.0], shape=[-1])], 5000, "negative"),
        ([tensors.Tensor(name="input", elem_type=5)], 7000, "FP16"),
        ([tensors.Tensor(name="nothing", elem_type=FP32, float_data=[1.0], shape=[1, 1])], 10000, "input"),
    ]
    for given, number, word in cases:
        response = tensors.send(tensors=given)
        assert response.err_no == number and word in response.err_msg, (word, response)


def test_a_message_that_is_neither_version_is_an_error_of_the_call(plain):
    """Fields 6 and 7 both text: 0.6 has one, later versions the other."""
    with grpc.insecure_channel(f"127.0.0.1:{plain.grpc_port}") as channel:
        call = channel.unary_unary(METHOD)
        with pytest.raises(grpc.RpcError) as error:
            call(b"\x32\x01a\x3a\x01b", timeout=60)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "0.6" in error.value.details()
