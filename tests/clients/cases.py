"""The requests that visord and the real Triton are both sent, and how their answers are written down to be compared.

A case is a name and a function of a `Server`; it returns a tree of dicts, lists and leaves. Texts of errors are not in
it: each server has its own. Arrays are leaves too.
"""

import gzip
import json
import os
import time
import zlib
from typing import Callable, NamedTuple

import grpc
import numpy as np
import requests
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException, shared_memory

from daemon import MODEL, b64, face, golden, preprocess

SECONDS = 60


class Server:
    """Where one of the two servers listens, with a client for each protocol."""

    def __init__(self, http, grpc_address):
        self.address = http
        self.http = Http(over_http.InferenceServerClient(http, network_timeout=SECONDS))
        self.grpc = Grpc(over_grpc.InferenceServerClient(grpc_address))
        self.channel = grpc.insecure_channel(grpc_address)
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    def url(self, path):
        return f"http://{self.address}{path}"


class Transport:
    """What both protocols of tritonclient have, with answers in one form."""

    def __init__(self, client):
        self.client = client

    def tensor(self, values, name="input", datatype="FP32", shape=None, **options):
        tensor = self.triton.InferInput(name, list(shape or values.shape), datatype)
        return tensor.set_data_from_numpy(values, **options)

    def images(self, *encoded, **options):
        return self.tensor(np.array([[e] for e in encoded], dtype=object), "image", "BYTES", **options)

    def infer(self, *inputs, model=MODEL, **options):
        return self.call(lambda: self.written(self.client.infer(model, list(inputs), **options)))

    def call(self, function):
        """`function`'s answer, as a dict with the status that it came with."""
        try:
            answer = function()
        except InferenceServerException as error:
            if error.status() is None:
                raise
            return {"status": error.status().removeprefix("StatusCode.")}
        return {"status": self.good, **(answer if isinstance(answer, dict) else {"answer": answer})}


class Http(Transport):
    triton, good = over_http, "200"

    def written(self, result):
        response = result.get_response()
        for output in response["outputs"]:
            output["binary"] = "data" not in output
            output["values"] = result.as_numpy(output["name"])
            output.pop("data", None)
            output.pop("parameters", None)
        return response

    def json(self, name, *arguments, **options):
        return self.call(lambda: plain(getattr(self.client, name)(*arguments, **options)))


class Grpc(Transport):
    triton, good = over_grpc, "OK"

    def written(self, result):
        return written_message(result.get_response(), result.as_numpy)

    def json(self, name, *arguments, **options):
        return self.call(lambda: plain(getattr(self.client, name)(*arguments, as_json=True, **options)))


def written_message(response, values):
    outputs = [
        {"name": o.name, "datatype": o.datatype, "shape": list(o.shape), "values": values(o.name)}
        for o in response.outputs
    ]
    answer = {"model_name": response.model_name, "model_version": response.model_version, "outputs": outputs}
    return {**answer, "id": response.id} if response.id else answer


def plain(value):
    """Without the fields that hold a default, which one JSON printer leaves out and another does not; numbers as
    numbers, which protobuf's printer writes as text when they have 64 bits."""
    if isinstance(value, dict):
        value = {key: plain(item) for key, item in value.items()}
        return {key: item for key, item in value.items() if item not in ({}, [], "", 0, False, None)}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, str) and value.removeprefix("-").isdigit():
        return int(value)
    return value


class Case(NamedTuple):
    name: str
    run: Callable[[Server], dict]


CASES: list[Case] = []


def case(name):
    def add(function):
        CASES.append(Case(name, function))
        return function
    return add


def both(name):
    """A case for each protocol: the function is given its `Transport`."""
    def add(function):
        CASES.append(Case(f"http {name}", lambda server: function(server.http)))
        CASES.append(Case(f"grpc {name}", lambda server: function(server.grpc)))
        return function
    return add


def pixels(rows=1):
    names = ("face.jpg", "astronaut.jpg", "jpeg_420.jpg")
    return np.stack([preprocess(golden(names[i % 3])) for i in range(rows)])


# -- What the server says of itself and of its models --------------------------------------------------------------

both("server live")(lambda t: t.call(t.client.is_server_live))
both("server ready")(lambda t: t.call(t.client.is_server_ready))
both("server metadata")(lambda t: t.json("get_server_metadata"))
both("model ready")(lambda t: t.call(lambda: t.client.is_model_ready(MODEL)))
both("model ready, version 1")(lambda t: t.call(lambda: t.client.is_model_ready(MODEL, "1")))
both("model ready, unknown version")(lambda t: t.call(lambda: t.client.is_model_ready(MODEL, "9")))
both("model ready, unknown model")(lambda t: t.call(lambda: t.client.is_model_ready("nothing")))
both("model metadata")(lambda t: t.json("get_model_metadata", MODEL))
both("model metadata, version 1")(lambda t: t.json("get_model_metadata", MODEL, "1"))
both("model metadata, unknown version")(lambda t: t.json("get_model_metadata", MODEL, "9"))
both("model metadata, unknown model")(lambda t: t.json("get_model_metadata", "nothing"))
both("model config")(lambda t: t.json("get_model_config", MODEL))
both("model config, unknown model")(lambda t: t.json("get_model_config", "nothing"))
both("statistics, unknown model")(lambda t: t.json("get_inference_statistics", "nothing"))
both("statistics, unknown version")(lambda t: t.json("get_inference_statistics", MODEL, "9"))
both("trace settings")(lambda t: {"status": t.json("get_trace_settings")["status"]})
both("log settings")(lambda t: {"status": t.json("get_log_settings")["status"]})
both("system shared memory, no region")(lambda t: t.json("get_system_shared_memory_status"))
both("CUDA shared memory")(lambda t: {"status": t.json("get_cuda_shared_memory_status")["status"]})


@both("statistics")
def statistics(t):
    def read():
        (model,) = t.json("get_inference_statistics", MODEL)["model_stats"]
        return model

    def counts(model):
        stages = {name: stage.get("count", 0) for name, stage in model.get("inference_stats", {}).items()}
        return {"inference_count": 0, "execution_count": 0, **model, **stages}

    before = counts(read())
    t.infer(t.tensor(pixels()))
    t.infer(t.tensor(pixels(2)))
    t.infer(t.tensor(np.zeros((1, 3, 9, 9), np.float32)))
    end = time.monotonic() + SECONDS
    # Triton counts a request after it has answered it.
    while (after := counts(read()))["inference_count"] - before["inference_count"] < 3 and time.monotonic() < end:
        time.sleep(0.02)
    grew = {
        name: after[name] - before.get(name, 0)
        for name in ("inference_count", "success", "queue", "compute_input", "compute_infer", "compute_output")
    }
    # How a request's rows are shared out over batches is the server's own affair.
    executions = after["execution_count"] - before["execution_count"]
    takes_time = all(after["inference_stats"][s]["ns"] > 0 for s in ("success", "queue", "compute_infer"))
    sizes = {entry["batch_size"] for entry in after["batch_stats"]}
    return {"status": t.good, "name": after["name"], "version": after["version"], "grew": grew,
            "executions": 2 <= executions <= 3, "takes_time": takes_time,
            "dates": after["last_inference"] > 1_600_000_000_000, "batch_sizes": 1 in sizes}


# -- Good requests -------------------------------------------------------------------------------------------------

both("tensor")(lambda t: t.infer(t.tensor(pixels())))
both("batch of 3")(lambda t: t.infer(t.tensor(pixels(3))))
both("image")(lambda t: t.infer(t.images(face())))
both("batch of 2 images")(lambda t: t.infer(t.images(face(), golden("astronaut.jpg"))))
both("id")(lambda t: t.infer(t.tensor(pixels()), request_id="request 42 ü"))
both("version 1")(lambda t: t.infer(t.tensor(pixels()), model_version="1"))
both("requested output")(
    lambda t: t.infer(t.tensor(pixels()), outputs=[t.triton.InferRequestedOutput("embedding")]))
both("classification, 3 classes")(
    lambda t: t.infer(t.tensor(pixels(2)), outputs=[t.triton.InferRequestedOutput("embedding", class_count=3)]))
both("classification, more classes than values")(
    lambda t: t.infer(t.tensor(pixels()), outputs=[t.triton.InferRequestedOutput("embedding", class_count=500)]))
both("priority 1")(lambda t: t.infer(t.tensor(pixels()), priority=1))
both("timeout of 30 s")(lambda t: t.infer(t.tensor(pixels()), timeout=30_000_000))
both("a parameter of the client's own")(lambda t: t.infer(t.tensor(pixels()), parameters={"tenant": "a", "n": 3}))
both("sequence id")(lambda t: t.infer(t.tensor(pixels()), sequence_id=7, sequence_start=True, sequence_end=True))
case("http tensor as JSON")(lambda s: s.http.infer(s.http.tensor(pixels(), binary_data=False)))
case("http output as JSON")(lambda s: s.http.infer(
    s.http.tensor(pixels()), outputs=[over_http.InferRequestedOutput("embedding", binary_data=False)]))
case("http image as JSON")(lambda s: s.http.infer(s.http.images(b64(face()).encode(), binary_data=False)))
for algorithm in ("gzip", "deflate"):
    case(f"http {algorithm} both ways")(lambda s, algorithm=algorithm: s.http.infer(
        s.http.tensor(pixels()), request_compression_algorithm=algorithm, response_compression_algorithm=algorithm))
case("grpc gzip")(lambda s: s.grpc.infer(s.grpc.tensor(pixels()), compression_algorithm="gzip"))

# -- Bad requests --------------------------------------------------------------------------------------------------


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


both("timeout of 1 microsecond")(lambda t: t.infer(t.tensor(pixels()), timeout=1))
both("unknown model")(lambda t: t.infer(t.tensor(pixels()), model="nothing"))
both("unknown version")(lambda t: t.infer(t.tensor(pixels()), model_version="9"))
both("version that is no number")(lambda t: t.infer(t.tensor(pixels()), model_version="latest"))
both("no input")(lambda t: t.infer())
both("unknown input")(lambda t: t.infer(t.tensor(pixels(), name="pixels")))
both("both inputs of which one is wanted")(lambda t: t.infer(t.tensor(pixels()), t.images(face())))
both("the same input twice")(lambda t: t.infer(t.tensor(pixels()), t.tensor(pixels())))
both("unknown output")(lambda t: t.infer(t.tensor(pixels()), outputs=[t.triton.InferRequestedOutput("nothing")]))
both("the same output twice")(lambda t: t.infer(
    t.tensor(pixels()), outputs=[t.triton.InferRequestedOutput("embedding")] * 2))
both("wrong datatype")(lambda t: t.infer(t.tensor(zeros(1, 3, 112, 112, dtype=np.float64), datatype="FP64")))
both("wrong sides")(lambda t: t.infer(t.tensor(zeros(1, 3, 100, 100))))
both("wrong rank")(lambda t: t.infer(t.tensor(zeros(3, 112, 112))))
both("empty batch")(lambda t: t.infer(t.tensor(zeros(0, 3, 112, 112))))
both("more rows than max_batch_size")(lambda t: t.infer(t.tensor(pixels(33))))
both("not an image")(lambda t: t.infer(t.images(b"no image at all")))
both("one of two is not an image")(lambda t: t.infer(t.images(face(), b"no image at all")))


def raw_http(server, path, body=b"", method="POST", **headers):
    """The status, and whether the body is an error of the protocol's form."""
    answer = requests.request(
        method, server.url(path), data=body, timeout=SECONDS,
        headers={name.replace("_", "-"): value for name, value in headers.items()})
    if answer.ok:
        return {"status": str(answer.status_code)}
    try:
        told = bool(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        told = False
    return {"status": str(answer.status_code), "told": told}


INFER = f"/v2/models/{MODEL}/infer"


def body(inputs=None, **more):
    return json.dumps({"inputs": inputs if inputs is not None else [tensor()], **more}).encode()


def tensor(**fields):
    made = {"name": "input", "datatype": "FP32", "shape": [1, 3, 112, 112], "data": [0.5] * (3 * 112 * 112)}
    made.update(fields)
    return {name: value for name, value in made.items() if value is not None}


BODIES = {
    "valid JSON": body(),
    "empty body": b"",
    "no JSON": b"{",
    "JSON that is no object": b"[1, 2]",
    "no inputs field": b"{}",
    "inputs is no list": body("input"),
    "input without name": body([tensor(name=None)]),
    "input without shape": body([tensor(shape=None)]),
    "input without datatype": body([tensor(datatype=None)]),
    "input without data": body([tensor(data=None)]),
    "unknown datatype": body([tensor(datatype="FP31")]),
    "shape is text": body([tensor(shape="1,3,112,112")]),
    "negative dimension": body([tensor(shape=[-1, 3, 112, 112])]),
    "fewer values than the shape": body([tensor(data=[0.5] * 7)]),
    "more values than the shape": body([tensor(data=[0.5] * (3 * 112 * 112 + 1))]),
    "text in an FP32 tensor": body([tensor(data=["a"] * (3 * 112 * 112))]),
    "nested data": body([tensor(data=np.full((1, 3, 112, 112), 0.5).tolist())]),
    "id that is a number": body(id=7),
    "id that is a list": body(id=[7]),
    "parameters is a list": body(parameters=[1]),
    "priority below 0": body(parameters={"priority": -1}),
    "timeout is text": body(parameters={"timeout": "soon"}),
    "outputs is no list": body(outputs="embedding"),
    "output without name": body(outputs=[{}]),
    "classification of 0": body(outputs=[{"name": "embedding", "parameters": {"classification": 0}}]),
    "classification below 0": body(outputs=[{"name": "embedding", "parameters": {"classification": -2}}]),
    "unknown shared memory region": body(
        [tensor(data=None, parameters={"shared_memory_region": "nowhere", "shared_memory_byte_size": 150528})]),
    "binary size without the header": body([tensor(data=None, parameters={"binary_data_size": 150528})]),
}
for label, content in BODIES.items():
    case(f"http body: {label}")(lambda s, content=content: raw_http(s, INFER, content))

HEAD = body([tensor(data=None, parameters={"binary_data_size": 150528})])
SHORT = body([tensor(data=None, parameters={"binary_data_size": 8})])
DATA = bytes(150528)


def binary(content, length):
    return lambda s: raw_http(s, INFER, content, Inference_Header_Content_Length=str(length))


case("http binary: right")(binary(HEAD + DATA, len(HEAD)))
case("http binary: header length past the end")(binary(HEAD + DATA, len(HEAD + DATA) + 1))
case("http binary: header length below 0")(binary(HEAD + DATA, -1))
case("http binary: header length is text")(binary(HEAD + DATA, "long"))
case("http binary: bytes missing at the end")(binary(HEAD + DATA[:-4], len(HEAD)))
case("http binary: bytes left over at the end")(binary(HEAD + DATA + b"1234", len(HEAD)))
case("http binary: size and shape disagree")(binary(SHORT + DATA[:8], len(SHORT)))
case("http raw binary request, where there are two inputs")(binary(DATA, 0))
case("http unknown Content-Encoding")(lambda s: raw_http(s, INFER, body(), Content_Encoding="br"))
case("http corrupt gzip")(lambda s: raw_http(s, INFER, gzip.compress(body())[:-20], Content_Encoding="gzip"))
case("http deflate that is gzip")(lambda s: raw_http(s, INFER, b"\x00" + zlib.compress(body()), Content_Encoding="deflate"))
case("http GET where POST belongs")(lambda s: raw_http(s, INFER, method="GET"))
case("http POST where GET belongs")(lambda s: raw_http(s, "/v2/health/live"))
case("http status of model ready, unknown model")(lambda s: raw_http(s, "/v2/models/nothing/ready", method="GET"))
case("http status of model ready, unknown version")(
    lambda s: raw_http(s, f"/v2/models/{MODEL}/versions/9/ready", method="GET"))
case("http unknown path")(lambda s: raw_http(s, "/v2/nothing", method="GET"))
case("http unknown path under a model")(lambda s: raw_http(s, f"/v2/models/{MODEL}/nothing"))


# -- gRPC that tritonclient would not send -------------------------------------------------------------------------


def message(contents=None, raw=(), **fields):
    made = {"model_name": MODEL, "raw_input_contents": raw, **fields}
    if "inputs" not in made:
        made["inputs"] = [pb.ModelInferRequest.InferInputTensor(
            name="input", datatype="FP32", shape=[1, 3, 112, 112],
            contents=pb.InferTensorContents(**contents) if contents else None)]
    return pb.ModelInferRequest(**made)


def written_raw(response):
    return written_message(response, {
        o.name: np.frombuffer(raw, "<f4").reshape(list(o.shape))
        for o, raw in zip(response.outputs, response.raw_output_contents)
    }.get)


def rpc(request, method="ModelInfer", write=written_raw):
    def run(server):
        try:
            response = getattr(server.stub, method)(request, timeout=SECONDS)
        except grpc.RpcError as error:
            return {"status": error.code().name}
        return {"status": "OK", **write(response)}
    return run


FLAT = pixels().ravel().tolist()
case("grpc typed contents")(rpc(message({"fp32_contents": FLAT})))
case("grpc raw contents")(rpc(message(raw=[DATA])))
case("grpc typed and raw contents")(rpc(message({"fp32_contents": FLAT}, raw=[DATA])))
case("grpc typed contents of another datatype")(rpc(message({"fp64_contents": FLAT})))
case("grpc fewer typed values than the shape")(rpc(message({"fp32_contents": FLAT[:7]})))
case("grpc no contents")(rpc(message()))
case("grpc raw contents too short")(rpc(message(raw=[DATA[:-4]])))
case("grpc raw contents too long")(rpc(message(raw=[DATA + b"1234"])))
case("grpc more raw contents than inputs")(rpc(message(raw=[DATA, DATA])))
case("grpc empty request")(rpc(pb.ModelInferRequest()))
case("grpc negative dimension")(rpc(message(raw=[DATA], inputs=[
    pb.ModelInferRequest.InferInputTensor(name="input", datatype="FP32", shape=[-1, 3, 112, 112])])))
case("grpc unknown shared memory region")(rpc(message(inputs=[pb.ModelInferRequest.InferInputTensor(
    name="input", datatype="FP32", shape=[1, 3, 112, 112], parameters={
        "shared_memory_region": pb.InferParameter(string_param="nowhere"),
        "shared_memory_byte_size": pb.InferParameter(int64_param=150528)})])))
case("grpc priority is text")(rpc(message({"fp32_contents": FLAT}, parameters={
    "priority": pb.InferParameter(string_param="high")})))
case("grpc BYTES with a length past the end")(rpc(message(raw=[b"\xff\xff\xff\xff" + face()], inputs=[
    pb.ModelInferRequest.InferInputTensor(name="image", datatype="BYTES", shape=[1, 1])])))


@case("grpc stream of three, the second bad")
def stream(server):
    asked = [message(raw=[DATA], id="a"), message(raw=[DATA[:-4]], id="b"), message(raw=[DATA], id="c")]
    answers = list(server.stub.ModelStreamInfer(iter(asked), timeout=SECONDS))
    return {"status": "OK", "answers": {
        answer.infer_response.id: {"failed": True} if answer.error_message else written_raw(answer.infer_response)
        for answer in answers
    }}


# -- System shared memory: visord has it with `--shared-memory` ----------------------------------------------------

ROW = 4 * 3 * 112 * 112
ANSWER = 4 * 192


def statuses(t, key, **calls):
    """What each call answers, while a shared memory object with a row, and room for its answer, is there."""
    handle = shared_memory.create_shared_memory_region("object", key, ROW + ANSWER)
    try:
        shared_memory.set_shared_memory_region(handle, [pixels()])
        seen = {name: t.call(lambda call=call: call(handle)) for name, call in calls.items()}
        return {"status": t.good, **{name.replace("_", " "): answer for name, answer in seen.items()}}
    finally:
        shared_memory.destroy_shared_memory_region(handle)


@both("system shared memory, used")
def region(t):
    key = f"/visord_{os.getpid()}_{id(t)}"

    def infer(offset=0, size=ROW, name="rows", out=None):
        tensor = t.triton.InferInput("input", [1, 3, 112, 112], "FP32")
        tensor.set_shared_memory(name, size, offset)
        output = t.triton.InferRequestedOutput("embedding")
        if out is not None:
            output.set_shared_memory("rows", out, ROW)
        return t.client.infer(MODEL, [tensor], outputs=[output])

    def read(handle):
        t.call(lambda: {"result": infer(out=ANSWER)})
        return {"values": np.array(shared_memory.get_contents_as_numpy(handle, np.float32, [1, 192], offset=ROW))}

    def listed(_):
        answer = t.json("get_system_shared_memory_status")
        regions = answer.get("answer") or list(answer.get("regions", {}).values())
        return {"regions": [{**r, "key": r["key"] == key} for r in regions]}

    register, unregister = t.client.register_system_shared_memory, t.client.unregister_system_shared_memory
    unregister()
    return statuses(
        t, key,
        not_there=lambda _: register("rows", key + "_other", 64),
        larger_than_the_object=lambda _: register("more", key, ROW + ANSWER + 1),
        registered=lambda _: register("rows", key, ROW + ANSWER),
        registered_twice=lambda _: register("rows", key, ROW + ANSWER),
        listed=listed,
        infer=lambda _: t.written(infer()),
        output_in_the_region=read,
        output_too_small=lambda _: t.written(infer(out=8)),
        past_the_end=lambda _: t.written(infer(offset=ROW + ANSWER - 4)),
        size_and_shape_disagree=lambda _: t.written(infer(size=8)),
        unregistered=lambda _: unregister("rows"),
        unregistered_twice=lambda _: unregister("rows"),
        infer_after=lambda _: t.written(infer()),
        all_unregistered=lambda _: unregister(),
        none_listed=listed,
    )


def health(service):
    def run(server):
        method = server.channel.unary_unary("/grpc.health.v1.Health/Check")
        try:
            # HealthCheckRequest{service = 1}; HealthCheckResponse{status = 1}, of which 1 is SERVING.
            request = b"\x0a" + bytes([len(service)]) + service.encode() if service else b""
            return {"status": "OK", "serving": method(request, timeout=SECONDS) == b"\x08\x01"}
        except grpc.RpcError as error:
            return {"status": error.code().name}
    return run


case("grpc health")(health(""))
case("grpc health, unknown service")(health("nothing"))


# -- The repository, with `--model-control-mode explicit`; the last case leaves the model loaded ------------------


def index(t):
    """The entry of the model, if it is listed."""
    answer = t.json("get_model_repository_index")
    models = answer.get("models", answer.get("answer", []))
    return {"status": answer["status"], "models": [m for m in models if m["name"] == MODEL]}


both("index")(index)
both("load of an unknown model")(lambda t: t.call(lambda: t.client.load_model("nothing")))
both("unload of an unknown model")(lambda t: t.call(lambda: t.client.unload_model("nothing")))
both("load of a loaded model")(lambda t: t.call(lambda: t.client.load_model(MODEL)))


@both("unloaded and loaded again")
def unloaded(t):
    seen = {"unload": t.call(lambda: t.client.unload_model(MODEL))}
    end = time.monotonic() + SECONDS
    # Triton answers before the model has gone.
    while any(m.get("state") == "UNLOADING" for m in index(t)["models"]) and time.monotonic() < end:
        time.sleep(0.02)
    try:
        seen["index"] = index(t)
        seen["ready"] = t.call(lambda: t.client.is_model_ready(MODEL))
        seen["server ready"] = t.call(t.client.is_server_ready)
        seen["infer"] = t.infer(t.tensor(pixels()))
        seen["metadata"] = t.json("get_model_metadata", MODEL)
        seen["unload again"] = t.call(lambda: t.client.unload_model(MODEL))
    finally:
        seen["load"] = t.call(lambda: t.client.load_model(MODEL))
    seen["ready again"] = t.call(lambda: t.client.is_model_ready(MODEL))
    seen["infer again"] = t.infer(t.tensor(pixels()))
    return {"status": t.good, **seen}
