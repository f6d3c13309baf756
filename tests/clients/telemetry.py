"""What the tests of traces and logs share: models, every way to ask them, a collector, and lines of the log."""

import concurrent.futures
import contextlib
import functools
import json
import threading

import grpc
import numpy as np
import onnx
import requests
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from daemon import b64, copy_repository, face, wait_for
from networks import Net

#: Longest wait for what is sure to come; only a failing test sees it.
PATIENCE = 60

#: A model answers at once; `pair` waits for a second row.
MODELS = {
    "twice": "[[instance_group]]\ncount = 1\n",
    "pair": "[dynamic_batching]\npreferred_batch_size = [2]\nmax_queue_delay_microseconds = 10000000\n"
            "[[instance_group]]\ncount = 1\n",
}

INPUT = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [3]}


def twice(factor=2.0):
    """`y = 2 x`, one number a row."""
    net = Net()
    net("Mul", net.input("x", [1]), net.weight(factor), to="y")
    net.output("y", [1])
    return net.model()


def write_model(repository, name, toml, *factors):
    folder = repository / name
    for version, factor in enumerate(factors or [2.0], 1):
        (folder / str(version)).mkdir(parents=True)
        onnx.save(twice(factor), folder / str(version) / "model.onnx")
    (folder / "model.toml").write_text(toml)


def repository(tmp_path, arcface=True):
    """The shipped model, if asked for, and those of MODELS."""
    if arcface:
        path = copy_repository(tmp_path)
    else:
        path = tmp_path / "engines"
        path.mkdir()
    for name, toml in MODELS.items():
        write_model(path, name, "max_batch_size = 4\n" + toml)
    return path


until = functools.partial(wait_for, seconds=PATIENCE)


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes spans by OTLP over gRPC. `with Collector() as collector:`; `collector.endpoint` is its address."""

    def __init__(self, credentials=None):
        self.lock = threading.Lock()
        self.spans, self.resources, self.scopes = [], [], []
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self.server)
        address = "127.0.0.1:0"
        if credentials is None:
            self.endpoint = f"http://127.0.0.1:{self.server.add_insecure_port(address)}"
        else:
            self.endpoint = f"https://127.0.0.1:{self.server.add_secure_port(address, credentials)}"

    def Export(self, request, context):
        with self.lock:
            for of_resource in request.resource_spans:
                self.resources.append(attributes(of_resource.resource))
                for of_scope in of_resource.scope_spans:
                    self.scopes.append(of_scope.scope.name)
                    self.spans.extend(of_scope.spans)
        return trace_service_pb2.ExportTraceServiceResponse()

    def __enter__(self):
        self.server.start()
        return self

    def __exit__(self, *_):
        self.server.stop(None)

    def find(self, wanted):
        with self.lock:
            return [span for span in self.spans if wanted(span)]

    def await_span(self, what, wanted):
        """The one span that is wanted."""
        found = until(what, lambda: self.find(wanted))
        assert len(found) == 1, f"{what}: {found}"
        return found[0]

    def request(self, request_id):
        """The span of the request with that id, and those below it by name. A request's spans come together."""
        span = self.await_span(request_id, lambda s: attributes(s).get("visord.request_id") == request_id)
        below = self.find(lambda s: s.parent_span_id == span.span_id)
        assert len({s.name for s in below}) == len(below), below
        return span, {s.name: s for s in below}


def attributes(of):
    """Attributes of a span or resource as a dict."""
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in of.attributes}


class Answer:
    """What came back, by whatever protocol: ok or not, and headers or metadata."""

    def __init__(self, ok, headers, body=""):
        self.ok, self.body = ok, body
        self.headers = {str(k).lower(): v for k, v in headers.items()}

    def __repr__(self):
        return f"Answer({self.ok}, {self.headers}, {self.body!r})"


def over_http(path, body=None, data=None, method="POST", content_type=None):
    def ask(daemon, **headers):
        if content_type:
            headers["Content-Type"] = content_type
        answer = requests.request(method, daemon.url(path), json=body, data=data, headers=headers, timeout=PATIENCE)
        good = answer.status_code == 200
        with contextlib.suppress(ValueError):
            good = good and not answer.json().get("err_no")
        return Answer(good, answer.headers, answer.text)
    return ask


def over_grpc(method, request, of=service_pb2):
    """Calls a method with the bytes of a message, so that no stub says what may be sent."""
    def ask(daemon, **headers):
        with grpc.insecure_channel(f"127.0.0.1:{daemon.grpc_port}") as channel:
            call = channel.unary_unary(method, request_serializer=bytes, response_deserializer=bytes)
            metadata = [(k.lower(), v) for k, v in headers.items()]
            try:
                answer, call = call.with_call(request, metadata=metadata, timeout=PATIENCE)
                found = dict(call.initial_metadata()) | dict(call.trailing_metadata())
                return Answer(True, found, answer)
            except grpc.RpcError as error:
                found = dict(error.initial_metadata() or ()) | dict(error.trailing_metadata() or ())
                return Answer(False, found, error.details())
    return ask


def infer_request(model="twice", value=3.0):
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="x", datatype="FP32", shape=[1, 1])
    request.raw_input_contents.append(np.float32(value).tobytes())
    return request


def field(number, text):
    """A string field of a protobuf message."""
    return bytes([number << 3 | 2, len(text)]) + text.encode()


INFER = "/inference.GRPCInferenceService/ModelInfer"
PIPELINE = "/baidu.paddle_serving.pipeline_serving.PipelineService/inference"

#: Ways to ask for an inference that works: the protocol's name in metrics, and how.
INFERENCES = {
    "http": over_http("/v1/models/ArcFace/infer", data=face(), content_type="image/jpeg"),
    "oip_http": over_http("/v2/models/twice/infer", {"inputs": [INPUT]}),
    "paddle_http": over_http("/ArcFace/prediction", {"key": ["image"], "value": [b64(face())]}),
    "oip_grpc": over_grpc(INFER, infer_request().SerializeToString()),
}


def lines(daemon, wanted=lambda _: True):
    """Lines of a JSON log."""
    found = []
    for line in daemon.log.splitlines():
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict) and wanted(entry):
                found.append(entry)
    return found


def stream(daemon, requests_, metadata=()):
    """Answers of ModelStreamInfer in the order of their coming."""
    with grpc.insecure_channel(f"127.0.0.1:{daemon.grpc_port}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        call = stub.ModelStreamInfer(iter(requests_), metadata=metadata, timeout=PATIENCE)
        answers = list(call)
        return answers, dict(call.initial_metadata())
