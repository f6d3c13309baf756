"""Prometheus's own parser on /metrics, counters that move by what was done, and an OpenAPI page that is true."""

import re

import numpy as np
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from daemon import MODEL, Daemon, face, pictures

V1 = f"/v1/models/{MODEL}/infer"


def scrape(daemon, port=None):
    answer = requests.get(f"http://127.0.0.1:{port or daemon.http_port}/metrics")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    return list(text_string_to_metric_families(answer.text))


def total(families, pattern, kind, suffix="", **labels):
    """The sum of the samples of the families that match, and how many families did."""
    picked = [f for f in families if re.fullmatch(pattern, f.name) and f.type == kind]
    samples = [s for f in picked for s in f.samples if s.name.endswith(suffix)
               and all(s.labels.get(key) == value for key, value in labels.items())]
    return sum(s.value for s in samples), len(picked)


def post(daemon, data=None):
    return requests.post(daemon.url(V1), data=data or face(), headers={"Content-Type": "image/jpeg"})


def test_both_ports_serve_the_same_families(plain):
    assert {f.name for f in scrape(plain)} == {f.name for f in scrape(plain, plain.metrics_port)}


def test_names_have_the_prefix_and_base_units(plain):
    post(plain)
    families = scrape(plain)
    assert families
    for family in families:
        assert re.match(r"(visord|process)_", family.name), family.name
        assert family.documentation, f"{family.name} has no help text"
        assert not re.search(r"_(ms|us|ns|milliseconds|microseconds|kb|mb|percent)(_|$)", family.name), family.name
        if family.type == "gauge":
            assert not family.name.endswith("_total"), family.name
        if family.type == "histogram":
            assert re.search(r"_(seconds|bytes|size|ratio)$", family.name), family.name


def test_no_label_comes_from_a_request(plain):
    requests.post(plain.url("/v1/models/invented-by-a-client/infer"), data=face(), headers={"X-Request-Id": "abc-123"})
    requests.get(plain.url("/some/invented/path"))
    text = requests.get(plain.url("/metrics")).text
    for word in ("invented", "abc-123"):
        assert word not in text, f"a client can add series: {word}"


def test_request_counter_moves_by_what_was_done(plain):
    def read():
        families = scrape(plain)
        count, found = 0.0, 0
        for family in families:
            if family.type != "counter" or "request" not in family.name or not family.name.startswith("visord_"):
                continue
            samples = [s for s in family.samples if {"model", "version", "protocol", "outcome"} <= set(s.labels)]
            if samples:
                found += 1
                count += sum(s.value for s in samples
                             if s.labels["model"] == MODEL and s.labels["outcome"] in ("success", "ok"))
        assert found == 1, "one counter of requests by model, version, protocol and outcome"
        return count

    post(plain)
    before = read()
    for _ in range(5):
        assert post(plain).status_code == 200
    assert read() == before + 5


@pytest.mark.parametrize("stage", ["request", "queue", "decode", "preprocess", "compute", "postprocess"])
def test_stage_histograms(plain, stage):
    def read(suffix):
        value, found = total(scrape(plain), rf"visord_.*{stage}.*_seconds", "histogram", suffix)
        assert found == 1, f"{found} histograms of {stage} seconds"
        return value

    post(plain)
    count, seconds = read("_count"), read("_sum")
    assert post(plain).status_code == 200
    assert read("_count") > count
    assert 0 <= read("_sum") - seconds < 5, "seconds, not milliseconds"


def test_buckets_reach_from_a_tenth_of_a_millisecond_to_ten_seconds(plain):
    post(plain)
    for family in scrape(plain):
        if family.type != "histogram" or not family.name.endswith("_seconds"):
            continue
        edges = sorted({float(s.labels["le"]) for s in family.samples if s.name.endswith("_bucket")} - {np.inf})
        assert edges[0] <= 0.0005 and edges[-1] >= 5, (family.name, edges)


def test_batch_sizes_add_up(plain):
    def images():
        value, found = total(scrape(plain), r"visord_.*batch_size", "histogram", "_sum")
        assert found == 1, f"{found} histograms of batch size"
        return value

    post(plain)
    before = images()
    files = [("image", picture) for picture in pictures()]
    assert requests.post(plain.url(V1), files=files).status_code == 200
    assert images() == before + len(pictures())


def test_gauges(plain):
    families = scrape(plain)
    text = requests.get(plain.url("/metrics")).text
    assert total(families, r"visord_.*pending.*", "gauge")[1] >= 1, "pending requests"
    ready, found = total(families, r"visord_.*ready.*", "gauge")
    assert found >= 1 and ready >= 1, "ready instances"
    assert total(families, r"visord_.*build_info", "gauge")[1] == 1, "build info"
    assert re.search(rf'visord_\w*backend\w*\{{[^}}]*"{plain.backend}"', text), "the backend is named in a metric"
    assert "process_resident_memory_bytes" in text


def test_tritons_names_are_off_by_default(plain):
    assert "nv_inference" not in requests.get(plain.url("/metrics")).text


def test_tritons_names_on_request():
    with Daemon("--triton-metrics") as daemon:
        for _ in range(3):
            assert post(daemon).status_code == 200
        assert post(daemon, b"no picture").status_code == 400
        families = {f.name: f for f in scrape(daemon)}

        def value(name):
            assert name in families, f"{name} is not there"
            samples = [s for s in families[name].samples if s.labels.get("model") == MODEL]
            assert samples and all(s.labels["version"] == "1" for s in samples), samples
            return sum(s.value for s in samples)

        assert value("nv_inference_request_success") == 3
        assert value("nv_inference_request_failure") == 1
        assert value("nv_inference_count") == 3
        assert 1 <= value("nv_inference_exec_count") <= 3
        for stage in ("request", "queue", "compute_input", "compute_infer", "compute_output"):
            assert value(f"nv_inference_{stage}_duration_us") >= 0
        assert value("nv_inference_request_duration_us") > 100, "microseconds"


HEALTH = ["/v2/health/live", "/v2/health/ready", "/health", "/healthz", "/readyz", "/livez"]


@pytest.mark.parametrize("path", HEALTH)
def test_health_paths(plain, path):
    assert plain.status(path) == 200


def test_openapi_is_true(plain):
    page = requests.get(plain.url("/openapi.json")).json()
    assert page["openapi"].startswith("3.")
    assert page["info"]["title"] == "visord"
    assert page["info"]["version"]
    assert len(page["paths"]) >= 10
    values = {"model": MODEL, "version": "1", "name": MODEL, "service": MODEL, "method": "prediction"}
    for template, operations in page["paths"].items():
        path = re.sub(r"\{(\w+)\}", lambda found: values.get(found.group(1), MODEL), template)
        for verb in operations:
            if verb not in ("get", "post", "put", "delete", "head"):
                continue
            # The page at / is for those who ask for what it is.
            kinds = operations[verb]["responses"].get("200", {}).get("content", {"*/*": {}})
            headers = {"Accept": ", ".join([*kinds, "*/*"])}
            answer = requests.request(verb, plain.url(path), data=b"" if verb == "post" else None, headers=headers)
            assert answer.status_code not in (404, 405, 501), f"{verb} {template}: {answer.status_code} {answer.text}"
            if verb == "get":
                assert answer.status_code == 200, f"get {template}: {answer.status_code}"
            documented = operations[verb]["responses"]
            assert str(answer.status_code) in documented or "default" in documented, (
                f"{verb} {template} answers {answer.status_code}, documented are {sorted(documented)}"
            )
