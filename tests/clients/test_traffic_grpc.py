"""Sticky keys over gRPC, and the version's name in its answers."""

import grpc
import numpy as np
import tritonclient.grpc as triton

from daemon import MODEL, b64, face
from versions import KEYS, WEIGHTS, divided, version_of  # noqa: F401 (a fixture)


def test_a_user_stays_with_a_version(divided):
    tensor = triton.InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([face()], dtype=object))
    with triton.InferenceServerClient(f"127.0.0.1:{divided.grpc_port}") as client:
        for key in KEYS:
            wanted = str(version_of(key, WEIGHTS))
            by_header = client.infer(MODEL, [tensor], headers={"x-user-id": key}, client_timeout=30)
            by_parameter = client.infer(MODEL, [tensor], parameters={"user_id": key}, client_timeout=30)
            seen = [answer.get_response().model_version for answer in (by_header, by_parameter)]
            assert seen == [wanted, wanted], f"{key}: {seen}"
        for version in ("1", "2"):
            named = client.infer(MODEL, [tensor], version, headers={"x-user-id": KEYS[0]}, client_timeout=30)
            assert named.get_response().model_version == version


def field(number, payload):
    """A length-delimited field of a protobuf message."""
    size, length = len(payload), b""
    while size >= 0x80:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + payload


def pipeline(**pairs):
    """PaddleServing's `Request`, as 0.7 and later number its fields."""
    keys = b"".join(field(1, key.encode()) for key in pairs)
    return keys + b"".join(field(2, value.encode()) for value in pairs.values()) + field(4, MODEL.encode())


def test_paddleserving_s_key_and_metadata(divided):
    path = "/baidu.paddle_serving.pipeline_serving.PipelineService/inference"
    with grpc.insecure_channel(f"127.0.0.1:{divided.grpc_port}") as channel:
        call = channel.unary_unary(path)
        for key in KEYS:
            wanted = f"{MODEL}/{version_of(key, WEIGHTS)}"
            requests = (
                (pipeline(image=b64(face())), [("x-user-id", key)]),
                (pipeline(user_id=key, image=b64(face())), []),
                # No key is called `image`: each one is an image then, but for the one that says who asks.
                (pipeline(user_id=key, i0=b64(face())), []),
            )
            for request, metadata in requests:
                answer, state = call.with_call(request, metadata=metadata, timeout=30)
                # err_no 0 is not on the wire: the first field is a key.
                assert answer[0] == 3 << 3 | 2, answer[:200]
                assert dict(state.initial_metadata())["visord-model-version"] == wanted, key
