"""Request ids in every protocol, the access log, the summary line, and the log's level while the server runs."""

import concurrent.futures
import http.client
import re
import select
import socket
import subprocess
import time

import pytest
import requests
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from daemon import BIN, MODEL, Daemon, face, free_ports
from telemetry import (
    INFER, INFERENCES, INPUT, PATIENCE, PIPELINE, field, infer_request, lines, over_grpc, over_http, repository, stream,
    until,
)

GENERATED = re.compile("[0-9a-f]{32}")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return repository(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def daemon(models):
    """With an access log in JSON."""
    with Daemon("--access-log", "--log-format", "json", backend="rten", repository=models) as running:
        yield running


def access(daemon, request_id):
    """The one line of a request."""
    found = until(f"a line of {request_id}", lambda: lines(daemon, lambda e: e.get("request_id") == request_id))
    assert len(found) == 1, found
    assert found[0]["target"] == "visord::access" and found[0]["message"] == "answered"
    return found[0]


#: What answers without an inference that works.
OTHERS = {
    "server": over_http("/v2", method="GET"),
    "live": over_http("/v2/health/live", method="GET"),
    "ready": over_http("/v2/health/ready", method="GET"),
    "metrics": over_http("/metrics", method="GET"),
    "head": over_http("/v2", method="HEAD"),
    "unknown path": over_http("/nothing", method="GET"),
    "wrong verb": over_http("/v2", method="DELETE"),
    "unknown model": over_http("/v1/models/nothing/infer", data=b"x"),
    "no image": over_http(f"/v1/models/{MODEL}/infer", data=b"x"),
    "bad type": over_http(f"/v1/models/{MODEL}/infer", data=b"x", content_type="text/html"),
    "bad json": over_http("/v2/models/twice/infer", data=b"{"),
    "unknown service path": over_http(f"/{MODEL}/a/b", method="POST"),
    "unknown service": over_http("/nobody/prediction", {"key": [], "value": []}),
    "gateway error": over_http(f"/{MODEL}/prediction", data=b"{"),
    "wrong verb of a service": over_http(f"/{MODEL}/prediction", method="GET"),
    "application error": over_http(f"/{MODEL}/prediction", {"key": ["image"], "value": ["!"]}),
    "gRPC, live": over_grpc("/inference.GRPCInferenceService/ServerLive", b""),
    "gRPC, health": over_grpc("/grpc.health.v1.Health/Check", b""),
    "gRPC, unknown method": over_grpc("/inference.GRPCInferenceService/Nothing", b""),
    "gRPC, unknown service": over_grpc("/nothing.Nothing/Nothing", b""),
    "gRPC, no protobuf": over_grpc(INFER, b"\xff"),
    "gRPC, unknown model": over_grpc(INFER, infer_request("nothing").SerializeToString()),
    "gRPC, paddle": over_grpc(PIPELINE, field(1, "image") + field(2, "!") + field(4, MODEL)),
}


@pytest.mark.parametrize("what", [*INFERENCES, *OTHERS])
def test_every_answer_has_the_id_of_its_request(daemon, what):
    ask = (INFERENCES | OTHERS)[what]
    answer = ask(daemon, **{"x-request-id": f"my {what}"})
    assert answer.headers.get("x-request-id") == f"my {what}", answer
    if what in INFERENCES:
        assert answer.ok, answer
    own = [ask(daemon).headers["x-request-id"] for _ in range(2)]
    assert own[0] != own[1] and all(GENERATED.fullmatch(i) for i in own), own


@pytest.mark.parametrize("given", [b"x" * 129, b"a\tb", b"\xc3\xa4", b"\xff", b""])
def test_an_id_that_cannot_be_taken_over_is_replaced(daemon, given):
    answer = INFERENCES["oip_http"](daemon, **{"x-request-id": given})
    assert answer.ok and GENERATED.fullmatch(answer.headers["x-request-id"]), answer
    longest = "x" * 128
    assert INFERENCES["oip_http"](daemon, **{"x-request-id": longest}).headers["x-request-id"] == longest


def test_a_request_to_the_wrong_port_has_an_id_too(daemon):
    for headers in ({}, {"x-request-id": "wrong port"}):
        connection = http.client.HTTPConnection("127.0.0.1", daemon.grpc_port, timeout=PATIENCE)
        connection.request("GET", "/", headers=headers)
        answer = connection.getresponse()
        assert answer.status == 400
        found = answer.getheader("x-request-id")
        assert found == headers["x-request-id"] if headers else GENERATED.fullmatch(found)


def test_requests_of_a_stream(daemon):
    asked = [infer_request(), infer_request("nothing"), infer_request()]
    asked[2].parameters["x-request-id"].string_param = "mine"
    for i, request in enumerate(asked):
        request.id = str(i)
    answers, head = stream(daemon, asked, [("x-request-id", "the stream")])
    assert head["x-request-id"] == "the stream"
    found = {a.infer_response.id: a.infer_response.parameters["x-request-id"].string_param for a in answers}
    assert found == {"0": "the stream/1", "1": "the stream/2", "2": "mine"}
    for request_id, outcome, status in [("the stream/1", "success", 0), ("the stream/2", "unknown_model", 5), ("mine", "success", 0)]:
        line = access(daemon, request_id)
        assert (line["outcome"], line["status"], line["path"]) == (
            outcome, status, "/inference.GRPCInferenceService/ModelStreamInfer")
    # An id of its own, or one that is longer with its number than an id may be.
    answers, head = stream(daemon, asked[:1])
    assert GENERATED.fullmatch(head["x-request-id"])
    assert answers[0].infer_response.parameters["x-request-id"].string_param == head["x-request-id"] + "/1"


@pytest.mark.parametrize("protocol", INFERENCES)
def test_a_line_of_an_inference(daemon, protocol):
    trace = "0af7651916cd43dd8448eb211c80319c"
    request_id = f"line of {protocol}"
    headers = {"x-request-id": request_id, "traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    answer = INFERENCES[protocol](daemon, **headers)
    assert answer.ok
    line = access(daemon, request_id)
    model = "twice" if "oip" in protocol else MODEL
    path = {"http": "/v1/models/ArcFace/infer", "oip_http": "/v2/models/twice/infer",
            "paddle_http": "/ArcFace/prediction", "oip_grpc": INFER}[protocol]
    wanted = {"level": "INFO", "protocol": protocol, "method": "POST", "path": path, "peer": "127.0.0.1", "model": model,
              "version": "1", "rows": 1, "batch_size": 1, "status": 0 if protocol == "oip_grpc" else 200,
              "outcome": "success", "trace_id": trace}
    assert wanted.items() <= line.items(), line
    stages = [line[f"{s}_ms"] for s in ("queue", "input", "compute", "postprocess")]
    assert all(s >= 0 for s in stages) and 0 < sum(stages) <= line["total_ms"] < PATIENCE * 1e3, line
    assert line["bytes_out"] == len(answer.body.encode() if isinstance(answer.body, str) else answer.body)
    if protocol == "http":
        assert line["bytes_in"] == len(face())
    else:
        assert line["bytes_in"] > 0


def test_lines_of_other_requests(daemon):
    for what, outcome, status in [
        ("server", "success", 200), ("unknown path", "unknown_path", 404), ("wrong verb", "method_not_allowed", 405),
        ("unknown model", "unknown_model", 404), ("no image", "not_an_image", 400),
        ("application error", "bad_base64", 200), ("gateway error", "malformed_json", 400),
        ("gRPC, unknown method", "unknown_path", 12), ("gRPC, no protobuf", "malformed_protobuf", 3),
        ("gRPC, paddle", "bad_base64", 0),
    ]:
        OTHERS[what](daemon, **{"x-request-id": f"other: {what}"})
        line = access(daemon, f"other: {what}")
        assert (line["outcome"], line["status"]) == (outcome, status), line
        assert "trace_id" not in line
    # Rows that share a batch.
    pair = over_http("/v2/models/pair/infer", {"inputs": [INPUT]})
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda i: pair(daemon, **{"x-request-id": i}), ["pair a", "pair b"]))
    for request_id in ("pair a", "pair b"):
        line = access(daemon, request_id)
        assert (line["rows"], line["batch_size"]) == (1, 2), line
    # Probes are many, and say nothing.
    for what in ("live", "ready", "gRPC, live", "gRPC, health"):
        OTHERS[what](daemon, **{"x-request-id": f"probe: {what}"})
    OTHERS["server"](daemon, **{"x-request-id": "after the probes"})
    access(daemon, "after the probes")
    assert not lines(daemon, lambda e: str(e.get("request_id", "")).startswith("probe"))


def test_a_client_that_leaves_has_a_line(daemon):
    with pytest.raises(requests.exceptions.ReadTimeout):
        requests.post(daemon.url("/v2/models/pair/infer"), json={"inputs": [INPUT]}, headers={"x-request-id": "left"},
                      timeout=0.2)
    line = access(daemon, "left")
    assert (line["outcome"], line["status"]) == ("cancelled", 499) and "bytes_out" not in line


def test_text_probes_and_hostile_ids(models):
    """As text; with the level of the access log named, probes have lines too. An id breaks no line."""
    flags = ["--access-log", "--log-level", "warn,visord::access=debug"]
    with Daemon(*flags, backend="rten", repository=models) as daemon:
        hostile = 'x" outcome="success"'
        answer = over_http("/nothing", method="GET")(daemon, **{"x-request-id": hostile})
        assert answer.headers["x-request-id"] == hostile
        assert OTHERS["live"](daemon, **{"x-request-id": "probe"}).ok
        until("lines", lambda: 'request_id="probe"' in daemon.log)
        [line] = [l for l in daemon.log.splitlines() if "/nothing" in l]
        assert 'request_id="x\\" outcome=\\"success\\""' in line, line
        for part in ("INFO", "answered", 'protocol="http"', 'method="GET"', "peer=127.0.0.1", "status=404",
                     'outcome="unknown_path"', "total_ms="):
            assert part in line, f"{part} is not in {line}"
        [line] = [l for l in daemon.log.splitlines() if 'request_id="probe"' in l]
        assert "DEBUG" in line
        assert "listening" not in daemon.log, "the level of everything else is warn"


def test_the_access_log_is_off_by_default_and_has_its_own_switch(models):
    with Daemon(backend="rten", repository=models) as daemon:
        assert INFERENCES["oip_http"](daemon).ok
        assert daemon.terminate() == 0
        assert "answered" not in daemon.log
    with Daemon("--access-log", "--log-level", "error", backend="rten", repository=models) as daemon:
        assert INFERENCES["oip_http"](daemon, **{"x-request-id": "at error"}).ok
        assert daemon.terminate() == 0
        assert 'request_id="at error"' in daemon.log, "lines in hand are written at the end"


def test_a_reader_of_the_log_that_stalls_stops_no_request(models):
    """Standard error is a pipe that nobody reads: answers come, lines are dropped and counted."""
    port, grpc_port, metrics_port = free_ports(3)
    command = [str(BIN), "serve", "--model-repository", str(models), "--backend", "rten", "--access-log",
               "--http-port", str(port), "--grpc-port", str(grpc_port), "--metrics-port", str(metrics_port)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        def status():
            try:
                return requests.get(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5).status_code
            except OSError:
                return None
        until("it is ready", lambda: status() == 200)
        head = b"GET /v2 HTTP/1.1\r\nHost: test\r\n\r\n"
        # More than the pipe, the queue in front of it and what is in hand take together.
        count, batch = 16_000, 500
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
            for _ in range(count // batch):
                client.sendall(head * batch)
                seen, rest = 0, b""
                while seen < batch:
                    data = client.recv(1 << 20)
                    assert data, "the server closed"
                    whole = rest + data
                    seen += whole.count(b"HTTP/1.1 200 ")
                    rest = whole[-12:] if not whole.endswith(b"HTTP/1.1 200 ") else b""
        text = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE).text
        dropped = next(float(l.split()[-1]) for l in text.splitlines() if l.startswith("visord_log_lines_dropped_total "))
        assert 0 < dropped < count, dropped
        process.terminate()
        assert process.wait(PATIENCE) == 0
        assert select.select([process.stderr], [], [], 0)[0], "the pipe was never full"
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


DEFAULTS = {"log_file": "", "log_info": True, "log_warning": True, "log_error": True, "log_verbose_level": 0,
            "log_format": "ISO8601", "log_level": "info"}


def test_settings_can_be_read_and_not_changed_without_the_flag(daemon):
    answer = requests.get(daemon.url("/v2/logging"), timeout=PATIENCE)
    assert (answer.status_code, answer.json()) == (200, DEFAULTS)
    answer = requests.post(daemon.url("/v2/logging"), json={"log_level": "trace"}, timeout=PATIENCE)
    assert answer.status_code == 403 and "--log-control" in answer.json()["error"], answer.text
    assert requests.get(daemon.url("/v2/logging"), timeout=PATIENCE).json() == DEFAULTS
    # Nothing is asked for: nothing is forbidden over gRPC, where that is how one reads.
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{daemon.grpc_port}") as client:
        assert client.get_log_settings(as_json=True)["settings"]["log_info"] == {"bool_param": True}
        with pytest.raises(triton_grpc.InferenceServerException) as error:
            client.update_log_settings({"log_verbose_level": 1})
        assert error.value.status() == "StatusCode.PERMISSION_DENIED" and "--log-control" in error.value.message()


def test_the_level_changes_while_the_server_runs(models):
    with Daemon("--log-control", backend="rten", repository=models) as daemon:
        def debug_line_of(what):
            """A connection that says nothing is told at the level debug."""
            before = daemon.log.count("connection ended before")
            with socket.create_connection(("127.0.0.1", daemon.http_port)):
                pass
            assert requests.get(daemon.url("/v2"), timeout=PATIENCE).ok
            return lambda: daemon.log.count("connection ended before") > before

        def change(settings, status=200):
            answer = requests.post(daemon.url("/v2/logging"), json=settings, timeout=PATIENCE)
            assert answer.status_code == status, answer.text
            return answer.json()

        assert not debug_line_of("info")()
        found = change({"log_level": "visord=debug,hyper=warn"})
        assert found == DEFAULTS | {"log_verbose_level": 1, "log_level": "visord=debug,hyper=warn"}
        until("a line at debug", debug_line_of("debug"))
        assert change({"log_verbose_level": 0})["log_level"] == "info"
        for bad, word in [({"log_level": "visord=loud"}, "log_level"), ({"log_info": 1}, "log_info"),
                          ({"nothing": 1}, "nothing"), ([1], "JSON object")]:
            assert word in change(bad, 400)["error"], bad
        assert "standard error" in change({"log_file": "/tmp/x"}, 501)["error"]
        assert requests.get(daemon.url("/v2/logging"), timeout=PATIENCE).json() == DEFAULTS

        # As Triton's own clients do it.
        with triton_http.InferenceServerClient(daemon.address) as client:
            assert client.get_log_settings() == DEFAULTS
            assert client.update_log_settings({"log_verbose_level": 1})["log_level"] == "debug"
        with triton_grpc.InferenceServerClient(f"127.0.0.1:{daemon.grpc_port}") as client:
            found = client.update_log_settings({"log_verbose_level": 2, "log_info": True}, as_json=True)["settings"]
            assert found["log_verbose_level"] == {"uint32_param": 2} and found["log_level"] == {"string_param": "trace"}
            client.update_log_settings({"log_verbose_level": 0, "log_info": False})
        assert requests.get(daemon.url("/v2/logging"), timeout=PATIENCE).json() == DEFAULTS | {
            "log_info": False, "log_level": "warn"}
        assert "logging" in requests.get(daemon.url("/v2"), timeout=PATIENCE).json()["extensions"]


def test_the_summary_line_says_what_was_sent(models):
    flags = ["--summary-interval-secs", "1", "--log-format", "json"]
    with Daemon(*flags, backend="rten", repository=models) as daemon:
        def summaries(model):
            return lines(daemon, lambda e: e.get("target") == "visord::summary" and e["model"] == model)

        def total(model, key):
            return sum(line[key] for line in summaries(model))

        ask = INFERENCES["oip_http"]
        start = time.monotonic()
        good, bad = 30, 10
        assert all(ask(daemon).ok for _ in range(good))
        late = over_http("/v2/models/twice/infer", {"inputs": [INPUT], "parameters": {"timeout": 1}})
        for _ in range(bad):
            assert not late(daemon).ok
        pair = over_http("/v2/models/pair/infer", {"inputs": [{**INPUT, "shape": [2, 1], "data": [1, 2]}]})
        for _ in range(5):
            assert pair(daemon).ok
        assert INFERENCES["http"](daemon).ok
        took = time.monotonic() - start
        until("everything is told", lambda: (total("twice", "requests"), total("pair", "requests"),
                                             total(MODEL, "requests")) == (good + bad, 5, 1))
        assert total("twice", "failed") == bad
        told = [l for l in summaries("twice") if l["requests"]]
        for line in told:
            assert line["success_ratio"] == pytest.approx(1 - line["failed"] / line["requests"], abs=1e-3)
            assert line["rate"] == pytest.approx(line["requests"] / line["seconds"], rel=1e-2)
            if line["requests"] > line["failed"]:
                assert 0 < line["p50_ms"] <= line["p90_ms"] <= line["p95_ms"] <= line["p99_ms"] <= took * 1e3 * 1.01
                assert line["queue_ms"] + line["compute_ms"] <= line["mean_ms"] * 1.01
                assert line["mean_batch"] == 1
        assert {l["mean_batch"] for l in summaries("pair") if l["requests"]} == {2}
        [face_line] = [l for l in summaries(MODEL) if l["requests"]]
        stages = [face_line[f"{s}_ms"] for s in ("queue", "decode", "preprocess", "compute", "postprocess")]
        assert 0 < sum(stages) <= face_line["mean_ms"] * 1.01, face_line
        # One request: every percentile is it, to the width of a step.
        assert face_line["p50_ms"] == face_line["p99_ms"] == pytest.approx(face_line["mean_ms"], rel=0.01)
        assert 0 < face_line["idle_ratio"] < 1
        # Nothing was asked since: nobody was busy.
        quiet = until("a quiet second", lambda: [l for l in summaries("twice")[len(told) + 1:] if not l["requests"]])
        assert quiet[-1]["idle_ratio"] == 1.0 and "p50_ms" not in quiet[-1], quiet
        assert "model" in face_line and face_line["message"] == "summary"


def test_a_failed_batch_names_its_requests(models, tmp_path):
    """An engine that fails says whose requests it failed."""
    import onnx
    from onnx import TensorProto, helper

    folder = tmp_path / "engines" / "picky" / "1"
    folder.mkdir(parents=True)
    # rten finds out at run time that an index is out of range.
    nodes = [helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64),
             helper.make_node("Gather", ["table", "i"], ["y"], axis=0)]
    value = helper.make_tensor_value_info
    table = helper.make_tensor("table", TensorProto.FLOAT, [2], [1.0, 2.0])
    graph = helper.make_graph(nodes, "g", [value("x", 1, ["batch", 1])], [value("y", 1, ["batch", 1])], [table])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "model.onnx")
    with Daemon(backend="rten", repository=tmp_path / "engines") as daemon:
        ask = over_http("/v2/models/picky/infer", {"inputs": [{**INPUT, "data": [7]}]})
        answer = ask(daemon, **{"x-request-id": "the one with 7"})
        assert not answer.ok, answer
        until("a line", lambda: 'request_ids="the one with 7"' in daemon.log)
