"""Traces: W3C context in and out, spans as a collector gets them, batches, sampling, and collectors that fail."""

import concurrent.futures
import re
import socket
import time

import grpc
import pytest
import requests

from daemon import MODEL, Daemon, face
from telemetry import (
    INFER, INFERENCES, INPUT, PATIENCE, PIPELINE, Collector, attributes, field, infer_request, over_grpc, over_http,
    repository, stream, until, write_model,
)
from test_tls import authority, identity

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"
TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-01")

TWICE = INFERENCES["oip_http"]


@pytest.fixture(scope="module")
def collector():
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def daemon(collector, tmp_path_factory):
    models = repository(tmp_path_factory.mktemp("models"))
    write_model(models, "copied", "max_batch_size = 4\n[traffic]\n1 = 1\n[shadow]\nversion = \"2\"\nfraction = 1.0\n", 2.0, 3.0)
    flags = ["--otlp-endpoint", collector.endpoint, "--otlp-service-name", "faces"]
    with Daemon(*flags, backend="rten", repository=models) as running:
        yield running


def out(answer):
    """Trace and span of the answer's traceparent."""
    found = TRACEPARENT.fullmatch(answer.headers.get("traceparent", ""))
    assert found, answer
    return found.groups()


@pytest.mark.parametrize("protocol", INFERENCES)
def test_a_request_is_a_span_of_its_caller_s_trace(daemon, collector, protocol):
    before = time.time_ns()
    answer = INFERENCES[protocol](daemon, traceparent=SAMPLED, tracestate="rojo=1,congo=2", **{"x-request-id": protocol})
    assert answer.ok, answer
    span, below = collector.request(protocol)
    assert out(answer) == (TRACE, span.span_id.hex())
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, SPAN)
    assert (span.trace_state, span.kind) == ("rojo=1,congo=2", 2)
    model = "twice" if "oip" in protocol else MODEL
    assert span.name == f"infer {model}"
    wanted = {"visord.protocol": protocol, "visord.model.name": model, "visord.model.version": "1", "visord.rows": 1,
              "client.address": "127.0.0.1"}
    if protocol == "oip_grpc":
        wanted |= {"rpc.system": "grpc", "rpc.service": "inference.GRPCInferenceService", "rpc.method": "ModelInfer",
                   "rpc.grpc.status_code": 0, "network.protocol.version": "2"}
    else:
        path = {"http": "/v1/models/ArcFace/infer", "oip_http": "/v2/models/twice/infer", "paddle_http": "/ArcFace/prediction"}
        wanted |= {"http.request.method": "POST", "url.path": path[protocol], "http.response.status_code": 200,
                   "network.protocol.version": "1.1"}
    found = attributes(span)
    assert wanted.items() <= found.items(), found
    assert "error.type" not in found and span.status.code == 0

    stages = ["queue", *(["decode"] if model == MODEL else []), "preprocess", "compute", "postprocess"]
    assert list(sorted(below, key=lambda n: below[n].start_time_unix_nano)) == stages
    edge = span.start_time_unix_nano
    assert before <= edge
    for name in stages:
        stage = below[name]
        assert stage.trace_id == span.trace_id
        assert edge <= stage.start_time_unix_nano <= stage.end_time_unix_nano, f"{name} begins before its time"
        edge = stage.end_time_unix_nano
    assert edge <= span.end_time_unix_nano <= time.time_ns()
    assert all(below[n].end_time_unix_nano > below[n].start_time_unix_nano for n in stages if n != "postprocess")

    [link] = below["compute"].links
    batch = collector.await_span("batch", lambda s: s.span_id == link.span_id)
    assert (batch.name, batch.trace_id, batch.parent_span_id) == ("batch", link.trace_id, b"")
    assert batch.trace_id != span.trace_id
    assert [(l.trace_id, l.span_id) for l in batch.links] == [(span.trace_id, span.span_id)]
    wanted = {"visord.batch.size": 1, "visord.model.name": model, "visord.model.version": "1", "visord.backend": "rten"}
    assert wanted.items() <= attributes(batch).items() and "visord.instance" in attributes(batch)


def test_the_resource_says_who_we_are(daemon, collector):
    assert TWICE(daemon, **{"x-request-id": "resource"}).ok
    collector.request("resource")
    [version] = {r["service.version"] for r in collector.resources}
    assert {r["service.name"] for r in collector.resources} == {"faces"} and version
    assert {r["host.name"] for r in collector.resources} == {socket.gethostname()}
    assert set(collector.scopes) == {"visord"}


def test_two_requests_share_a_batch(daemon, collector):
    ask = over_http("/v2/models/pair/infer", {"inputs": [INPUT]})
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        ids = ["pair 1", "pair 2"]
        answers = list(pool.map(lambda i: ask(daemon, **{"x-request-id": i}), ids))
    assert all(a.ok for a in answers), answers
    spans, below = zip(*[collector.request(i) for i in ids])
    assert spans[0].trace_id != spans[1].trace_id
    links = [[(l.trace_id, l.span_id) for l in b["compute"].links] for b in below]
    assert links[0] == links[1] and len(links[0]) == 1
    batch = collector.await_span("their batch", lambda s: (s.trace_id, s.span_id) == links[0][0])
    assert {(l.trace_id, l.span_id) for l in batch.links} == {(s.trace_id, s.span_id) for s in spans}
    assert attributes(batch)["visord.batch.size"] == 2
    assert {attributes(b["compute"])["visord.batch.size"] for b in below} == {2}
    for span, stages in zip(spans, below):
        assert span.start_time_unix_nano <= stages["queue"].start_time_unix_nano
        # The clocks of two looks may differ by what setting them right takes.
        assert abs(stages["queue"].end_time_unix_nano - batch.start_time_unix_nano) < 10**9


def test_rows_of_one_request_are_one_link(daemon, collector):
    two = {"name": "x", "datatype": "FP32", "shape": [2, 1], "data": [1, 2]}
    answer = over_http("/v2/models/pair/infer", {"inputs": [two]})(daemon, **{"x-request-id": "two rows"})
    assert answer.ok, answer
    span, below = collector.request("two rows")
    batch = collector.await_span("its batch", lambda s: s.span_id == below["compute"].links[0].span_id)
    assert [l.span_id for l in batch.links] == [span.span_id]
    assert (attributes(span)["visord.rows"], attributes(batch)["visord.batch.size"]) == (2, 2)


HOSTILE = [
    "", "x", SAMPLED.upper(), SAMPLED[:-1], SAMPLED + "-more", SAMPLED + "0" * 4000, f"ff-{TRACE}-{SPAN}-01",
    f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE}-{SPAN}-0g", f"00-{TRACE[:-1]}é-{SPAN}-01",
    f"00_{TRACE}_{SPAN}_01", f"00-{TRACE}-{SPAN}-01, 00-{TRACE}-{SPAN}-01",
]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_a_hostile_traceparent_begins_a_new_trace(daemon, collector, number):
    request_id = f"hostile {number}"
    answer = TWICE(daemon, traceparent=HOSTILE[number].encode(), tracestate="rojo=1", **{"x-request-id": request_id})
    assert answer.ok, answer
    span, _ = collector.request(request_id)
    assert out(answer) == (span.trace_id.hex(), span.span_id.hex())
    assert span.trace_id.hex() != TRACE and span.parent_span_id == b"" and span.trace_state == ""


def test_who_decides_whether_to_record(daemon, collector, tmp_path):
    models = repository(tmp_path, arcface=False)
    answer = TWICE(daemon, traceparent=UNSAMPLED, **{"x-request-id": "unsampled parent"})
    assert answer.ok and "traceparent" not in answer.headers, answer
    flags = ["--otlp-endpoint", collector.endpoint, "--otlp-sample-ratio", "0"]
    with Daemon(*flags, backend="rten", repository=models) as never:
        for request_id, headers in [("root", {}), ("bad", {"traceparent": "x"}), ("unsampled", {"traceparent": UNSAMPLED})]:
            answer = TWICE(never, **{"x-request-id": f"ratio 0, {request_id}"}, **headers)
            assert answer.ok and "traceparent" not in answer.headers, answer
        assert out(TWICE(never, traceparent=SAMPLED, **{"x-request-id": "ratio 0, sampled"}))[0] == TRACE
    # It has sent what it had when it ended.
    collector.request("ratio 0, sampled")
    ids = [attributes(s).get("visord.request_id", "") for s in collector.find(lambda _: True)]
    assert [i for i in ids if i.startswith("ratio 0")] == ["ratio 0, sampled"]
    assert "unsampled parent" not in ids


ERRORS = {
    "unknown model": (over_http("/v2/models/nothing/infer", {"inputs": [INPUT]}), "unknown_model"),
    "bad body": (over_http("/v2/models/twice/infer", data=b"{", content_type="application/json"), "malformed_json"),
    "bad image": (over_http(f"/v1/models/{MODEL}/infer", data=b"GIF89a"), "truncated_image"),
    "bad key": (over_http("/ArcFace/prediction", {"key": ["x"], "value": ["!"]}), "bad_base64"),
    "unknown model, gRPC": (over_grpc(INFER, infer_request("nothing").SerializeToString()), "unknown_model"),
    "bad shape, gRPC": (over_grpc(INFER, field(1, "twice")), "invalid_argument"),
    "bad key, paddle gRPC": (over_grpc(PIPELINE, field(1, "x") + field(2, "!") + field(4, MODEL)), "bad_base64"),
}


@pytest.mark.parametrize("what", ERRORS)
def test_a_request_that_fails_says_why(daemon, collector, what):
    ask, reason = ERRORS[what]
    answer = ask(daemon, traceparent=SAMPLED, **{"x-request-id": what})
    span, below = collector.request(what)
    found = attributes(span)
    assert found["error.type"] == reason, (found, answer)
    # What the client did wrong is no fault of the server.
    assert span.status.code == 0 and out(answer) == (TRACE, span.span_id.hex())
    assert ("queue" in below) == (what == "bad image"), below


def test_an_expired_request_was_in_the_queue(daemon, collector):
    body = {"inputs": [INPUT], "parameters": {"timeout": 50_000}}
    answer = over_http("/v2/models/pair/infer", body)(daemon, **{"x-request-id": "expired"})
    assert not answer.ok
    span, below = collector.request("expired")
    assert attributes(span)["error.type"] == "deadline_exceeded" and span.status.code == 2
    assert list(below) == ["queue"]
    assert below["queue"].end_time_unix_nano - below["queue"].start_time_unix_nano >= 40_000_000


def test_a_client_that_leaves(daemon, collector):
    with pytest.raises(requests.exceptions.ReadTimeout):
        requests.post(daemon.url("/v2/models/pair/infer"), json={"inputs": [INPUT]}, headers={"x-request-id": "left"},
                      timeout=0.2)
    span, _ = collector.request("left")
    assert attributes(span)["error.type"] == "cancelled" and "http.response.status_code" not in attributes(span)


def test_every_request_of_a_stream_is_a_span(daemon, collector):
    asked = [infer_request() for _ in range(3)]
    asked[1].model_name = "nothing"
    other = TRACE[::-1]
    asked[2].parameters["traceparent"].string_param = f"00-{other}-{SPAN}-01"
    asked[2].parameters["x-request-id"].string_param = "third"
    for i, request in enumerate(asked):
        request.id = str(i)
    answers, head = stream(daemon, asked, [("traceparent", SAMPLED), ("x-request-id", "stream")])
    assert head["x-request-id"] == "stream"
    answers = {a.infer_response.id: a for a in answers}
    for i, (request_id, trace) in enumerate([("stream/1", TRACE), ("stream/2", TRACE), ("third", other)]):
        span, below = collector.request(request_id)
        parameters = answers[str(i)].infer_response.parameters
        assert parameters["x-request-id"].string_param == request_id
        assert parameters["traceparent"].string_param == f"00-{trace}-{span.span_id.hex()}-01"
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (trace, SPAN)
        assert ("compute" in below) == (i != 1)
    assert answers["1"].error_message


def test_a_copy_is_a_span_of_its_own(daemon, collector):
    answer = over_http("/v2/models/copied/infer", {"inputs": [INPUT]})(daemon, **{"x-request-id": "copied"})
    assert answer.ok, answer
    both = until("request and copy", lambda: (lambda s: s if len(s) == 2 else None)(
        collector.find(lambda s: attributes(s).get("visord.request_id") == "copied")))
    [request] = [s for s in both if s.kind == 2]
    [copy] = [s for s in both if s.kind == 1]
    assert out(answer) == (request.trace_id.hex(), request.span_id.hex())
    assert copy.trace_id != request.trace_id and copy.parent_span_id == b""
    assert [(l.trace_id, l.span_id) for l in copy.links] == [(request.trace_id, request.span_id)]
    found = attributes(copy)
    assert (found["visord.protocol"], found["visord.model.version"]) == ("shadow", "2")
    assert attributes(request)["visord.model.version"] == "1"


def test_only_inferences_are_traced(daemon, collector):
    for path in ("/v2", "/v2/health/ready", "/metrics", "/nothing"):
        answer = over_http(path, method="GET")(daemon, traceparent=SAMPLED, **{"x-request-id": path})
        assert answer.headers["x-request-id"] == path and "traceparent" not in answer.headers
    assert TWICE(daemon, **{"x-request-id": "after"}).ok
    collector.request("after")
    assert not collector.find(lambda s: attributes(s).get("url.path") in ("/v2", "/metrics"))


def metric(daemon, line):
    for found in requests.get(daemon.url("/metrics"), timeout=PATIENCE).text.splitlines():
        if found.startswith(line + " "):
            return float(found.rsplit(" ", 1)[1])
    return None


def test_what_was_sent_is_counted(daemon):
    assert TWICE(daemon).ok
    until("spans are counted", lambda: metric(daemon, "visord_trace_spans_exported_total") >= 6)
    assert metric(daemon, 'visord_trace_spans_dropped_total{reason="queue_full"}') == 0
    assert metric(daemon, 'visord_trace_spans_dropped_total{reason="export"}') == 0


@pytest.mark.parametrize("kind", ["refuses", "hangs"])
def test_a_dead_collector_costs_nothing_but_spans(tmp_path, kind):
    models = repository(tmp_path, arcface=False)
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        if kind == "hangs":
            # Connections are made by the kernel, and nobody ever reads them.
            port.listen(16)
        endpoint = f"http://127.0.0.1:{port.getsockname()[1]}"
        with Daemon("--otlp-endpoint", endpoint, "--exit-timeout-secs", "3", backend="rten", repository=models) as daemon:
            answers = [TWICE(daemon) for _ in range(50)]
            assert all(a.ok and out(a) for a in answers), answers
            if kind == "refuses":
                dropped = 'visord_trace_spans_dropped_total{reason="export"}'
                until("dropped spans are counted", lambda: metric(daemon, dropped) >= 6)
                until("the log says so", lambda: "did not take spans" in daemon.log)
            assert TWICE(daemon).ok
            start = time.monotonic()
            assert daemon.terminate() == 0
            # The exit timeout of 3 s, and room for a slow machine; without a bound it would be minutes.
            assert time.monotonic() - start < 20
        assert "stopped" in daemon.log


def test_spans_in_hand_are_sent_at_the_end(collector, tmp_path):
    models = repository(tmp_path, arcface=False)
    with Daemon("--otlp-endpoint", collector.endpoint, backend="rten", repository=models) as daemon:
        assert TWICE(daemon, **{"x-request-id": "the last"}).ok
        assert daemon.terminate() == 0
    assert collector.find(lambda s: attributes(s).get("visord.request_id") == "the last")


def test_a_collector_behind_tls(tmp_path, monkeypatch):
    models = repository(tmp_path, arcface=False)
    authority(tmp_path, "root")
    certificate, key = identity(tmp_path, "root", "collector")
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    # The system's roots, as rustls-native-certs looks for them.
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "root.crt"))
    with Collector(credentials) as collector:
        assert collector.endpoint.startswith("https:")
        with Daemon("--otlp-endpoint", collector.endpoint, backend="rten", repository=models) as daemon:
            assert TWICE(daemon, **{"x-request-id": "by TLS"}).ok
            collector.request("by TLS")


def test_without_an_endpoint_there_are_no_traces(plain):
    answer = over_http(f"/v1/models/{MODEL}/infer", data=face(), content_type="image/jpeg")(plain, traceparent=SAMPLED)
    assert answer.ok and "traceparent" not in answer.headers
    assert metric(plain, "visord_trace_spans_exported_total") is None
