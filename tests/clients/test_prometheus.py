"""The real Prometheus, with the rules of docker/prometheus, on daemons under load: every query has data, and is right.

Queries are read out of the rules, the dashboards and the pages, so that none of them can rot. GPU metrics come from the host
device of tests/fake.
"""

import math
import re
import subprocess
import time

import pytest
import requests

from daemon import ROOT
from monitored import (
    DOCKER, GOLDEN_DIFFERENCE, GRPC, LATE, OIP, ON_GPU, PADDLE, PATIENCE, PLAIN, RULES, SHADOW_COSINE, SHARES, UNREADABLE, monitored,
    need_tools,
)
from test_dashboards import DASHBOARDS, alerts, load, panels, rules

pytestmark = pytest.mark.toolchain

# `$__rate_interval` and `$__range`, seconds: all that the tests have done lies within.
WINDOW = 60
# Of a rate of a few seconds' samples: Prometheus extrapolates to the ends of the window.
EXTRAPOLATED = 0.35
# Quotients of two such rates.
QUOTIENT = 0.2
# Requests of clients that reached a model while Prometheus looked, and how many rows they had.
ALL = PLAIN + PADDLE + GRPC + OIP + ON_GPU + LATE + UNREADABLE
PICTURES = PLAIN + PLAIN // 2 + PADDLE + GRPC
GIB = 2 ** 30


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    need_tools()
    with monitored(tmp_path_factory.mktemp("monitored")) as running:
        yield running


def substituted(expression, model=".*"):
    """As Grafana does it, with all of every variable."""
    expression = expression.replace("$__rate_interval", f"{WINDOW}s").replace("$__range", f"{WINDOW}s").replace("$model", model)
    return re.sub(r"\$\w+", ".*", expression)


def by(answer, *labels):
    """Label (or labels) -> number."""
    made = {}
    for metric, value in answer:
        key = tuple(metric.get(label) for label in labels)
        assert key not in made, f"{labels} do not tell {answer} apart"
        made[key[0] if len(labels) == 1 else key] = value
    return made


def about(count):
    """Per second over the window, as near as rates are."""
    return pytest.approx(count / WINDOW, rel=EXTRAPOLATED)


def quotient(value):
    return pytest.approx(value, rel=QUOTIENT)


# (dashboard, title) -> what its queries must answer, as a pair to compare.
KNOWN = {
    ("service", "Is every host ready?"): lambda a, s: (by(a[0], "instance"), {i: 1 for i in s.instances.values()}),
    ("service", "How many requests a second?"): lambda a, s: (a[0][0][1], about(ALL)),
    ("service", "What share fails?"): lambda a, s: (a[0][0][1], quotient(LATE / ALL)),
    ("service", "Which model is slow?"): lambda a, s: (by(a[1], "model"), {None: 0.25}),
    ("service", "Who asks for what?"): lambda a, s: (
        {key: value for key, value in by(a[0], "model", "protocol").items() if value},
        {("pictures", "http"): about(PLAIN + UNREADABLE), ("pictures", "paddle_http"): about(PADDLE),
         ("pictures", "oip_grpc"): about(GRPC), ("pictures", "oip_http"): about(LATE), ("ab", "oip_http"): about(OIP),
         ("m", "http"): about(ON_GPU)}),
    ("service", "What share of each model's requests fails?"): lambda a, s: (
        by(a[0], "model"), {"ab": 0, "m": 0, "pictures": quotient(LATE / (PLAIN + PADDLE + GRPC + LATE + UNREADABLE))}),
    ("service", "What is turned away, and why?"): lambda a, s: (by(a[0], "reason"), {"deadline_exceeded": about(LATE)}),
    ("service", "What else fails, and why?"): lambda a, s: (
        {key: value for key, value in by(a[0], "reason").items() if value}, {"not_an_image": about(UNREADABLE)}),
    ("service", "How many rows a second does the engine run?"): lambda a, s: (
        by(a[0], "model", "version")["pictures", "1"], about(PICTURES)),
    ("service", "How long is the certificate good?"): lambda a, s: (
        by(a[0], "instance"), {s.instances["gpu"]: pytest.approx(3650 * 86400, rel=1e-4)}),
    ("ab", "Who should get how much?"): lambda a, s: (by(a[0], "version"), SHARES),
    ("ab", "Who gets how much?"): lambda a, s: (
        by(a[0], "version"), {"3": 0, **{version: quotient(share) for version, share in SHARES.items()}}),
    ("ab", "Did a version have to stand in?"): lambda a, s: (by(a[0], "version"), {"1": 0, "2": 0}),
    ("ab", "Does one version fail more?"): lambda a, s: (by(a[0], "version"), {"1": 0, "2": 0}),
    ("ab", "How near are the answers of the shadow?"): lambda a, s: (
        {key: value for key, value in by(a[0], "version", "output").items() if key[1] == "y"},
        {(version, "y"): pytest.approx(SHADOW_COSINE, abs=1e-3) for version in SHARES}),
    ("ab", "How many answers differ?"): lambda a, s: (
        {key: value for key, value in by(a[0], "version", "output").items() if key[1] == "y"},
        {(version, "y"): 1 for version in SHARES}),
    # Copies may be given up: which of the two inputs they had is not known to the last one.
    ("ab", "Do both name the same class?"): lambda a, s: (
        by(a[0], "version", "output"), {(version, "c"): pytest.approx(0.5, abs=0.25) for version in SHARES}),
    ("gpu", "Is a GPU there and not used?"): lambda a, s: (by(a[0], "instance"), {i: 0 for i in s.instances.values()}),
    # Of two GPUs the daemon is shown the second.
    ("gpu", "Does every GPU answer?"): lambda a, s: (by(a[0], "instance", "gpu"), {(s.instances["gpu"], "1"): 1}),
    ("gpu", "Are the GPUs at work?"): lambda a, s: (by(a[0], "gpu"), {"1": 0.61}),
    ("gpu", "Is there memory left?"): lambda a, s: ([by(x, "gpu") for x in a], [{"1": 2 * GIB}, {"1": 80 * GIB}]),
    ("gpu", "Are they hot?"): lambda a, s: (by(a[0], "gpu"), {"1": 51}),
    ("gpu", "How much power do they draw?"): lambda a, s: ([by(x, "gpu") for x in a], [{"1": 301.5}, {"1": 700}]),
    ("gpu", "Do they run at full clock?"): lambda a, s: (
        by(a[0], "clock"), {"sm": pytest.approx(1411 / 1980), "memory": pytest.approx(2601 / 2619)}),
    ("gpu", "What slows them down?"): lambda a, s: (by(a[0], "reason"), {"hw_thermal": 1, "sw_power_cap": 1}),
    ("gpu", "Are the decoding engines at work?"): lambda a, s: ([by(x, "gpu") for x in a], [{"1": 0.21}, {"1": 0.11}]),
    ("gpu", "Who decodes the images?"): lambda a, s: (
        by(a[0], "decoder"), {"hardware": 0, "cpu": 0, "hybrid": about(ON_GPU)}),
    ("gpu", "Does the memory fail?"): lambda a, s: (by(a[0], "type"), {"corrected": 0, "uncorrected": 0}),
    ("models", "What is served, by what?"): lambda a, s: (
        {key: value for key, value in by(a[0], "model", "version", "backend").items()},
        {**{("ab", version, "rten"): 1 for version in "123"}, ("pictures", "1", "rten"): 1, ("m", "1", "tensorrt"): 1}),
    ("models", "Do loads succeed?"): lambda a, s: (
        {key: value for key, value in by(a[0], "model", "outcome").items() if value},
        {**{(model, "success"): 1 for model in ("ab", "pictures", "gone", "m")}, ("broken", "failure"): 2}),
    ("models", "Do old versions go away?"): lambda a, s: (by(a[1], "model"), {"gone": 1}),
    ("models", "Do plans come out of the cache?"): lambda a, s: (
        {outcome: value for outcome, value in by(a[0], "outcome").items() if value}, {"miss": 1}),
    ("models", "How far is the build?"): lambda a, s: (by(a[0], "model"), {"m": 1}),
    ("models", "How near is each version to golden.json?"): lambda a, s: (
        by(a[0], "model", "version", "output"),
        {("ab", "1", "y"): pytest.approx(2 / math.hypot(2, GOLDEN_DIFFERENCE), abs=1e-6)}),
    ("models", "How far off is the worst value?"): lambda a, s: (
        by(a[0], "model", "version", "output"), {("ab", "1", "y"): pytest.approx(GOLDEN_DIFFERENCE, rel=1e-4)}),
    ("models", "Does FP32 serve where less was asked for?"): lambda a, s: (by(a[0], "model", "version"), {("ab", "1"): 0}),
}


def test_every_number_that_is_asserted_is_of_a_panel():
    titles = {(path.stem, panel["title"]) for path in DASHBOARDS for panel in panels(load(path))}
    assert not set(KNOWN) - titles


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_query_of_a_dashboard_has_data_and_the_right_number(seen, path):
    dashboard, wrong = load(path), []
    for panel in panels(dashboard):
        title, unit = panel["title"], panel["fieldConfig"]["defaults"]["unit"]
        answers = []
        for target in panel["targets"]:
            expression = substituted(target["expr"], "ab" if path.stem == "ab" else ".*")
            answer = seen.prometheus.ask(expression)
            # A quantile of nothing is NaN: a model that had no requests.
            numbers = [value for _, value in answer if not math.isnan(value)]
            if not numbers:
                wrong.append(f"{title}: nothing for {expression}")
            # Some rounding where a counter is extrapolated to the whole.
            highest = 1.001 if unit == "percentunit" else math.inf
            if not all(0 <= value <= highest for value in numbers):
                wrong.append(f"{title}: {answer} in {unit} for {expression}")
            names = set(re.findall(r"\{\{\s*(\w+)\s*\}\}", target["legendFormat"]))
            if answer and not all(names <= set(metric) | {"version"} for metric, _ in answer):
                wrong.append(f"{title}: the legend {target['legendFormat']} has labels that {answer[0][0]} has not")
            answers.append(answer)
        if known := KNOWN.get((path.stem, title)):
            got, wanted = known(answers, seen)
            if got != wanted:
                wrong.append(f"{title}: {got}, wanted {wanted}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_variables_and_annotations_find_something(seen, path):
    dashboard = load(path)
    for variable in dashboard["templating"]["list"]:
        selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"]).groups()
        assert variable["query"]["query"] == variable["definition"]
        values = by(seen.prometheus.ask(f"group by ({label}) ({substituted(selector)})"), label)
        wanted = {
            "instance": set(seen.instances.values()), "model": {"ab", "pictures", "gone", "m"}, "version": {"1", "2", "3"}, "gpu": {"1"},
        }[variable["name"]]
        assert set(values) == wanted, variable["definition"]
    for note in dashboard["annotations"]["list"]:
        if "expr" in note:
            # A restart is what it shows, and there was none.
            assert seen.prometheus.ask(substituted(note["expr"])) == []
            assert len(seen.prometheus.ask(substituted(note["expr"]).replace("> 0", ">= 0"))) == 2


# Counters as they stand: `host` has had these, whatever rates make of them.
COUNTS = {
    'sum by (protocol) (visord_inference_requests_total{instance="%s",outcome="success"})': {
        "http": PLAIN, "paddle_http": PADDLE, "oip_grpc": GRPC, "oip_http": OIP, "paddle_grpc": 0},
    'sum by (outcome) (visord_inference_requests_total{instance="%s",protocol!="shadow",outcome!="success"})': {
        "deadline_exceeded": 1 + LATE, "not_an_image": 1 + UNREADABLE},
    'sum by (reason) (visord_request_errors_total{instance="%s"})': {
        "deadline_exceeded": 1 + LATE, "not_an_image": 1 + UNREADABLE, "unknown_model": 1, "load_failed": 2},
    'sum by (model) (visord_inference_request_duration_seconds_count{instance="%s"})': {
        "pictures": PLAIN + PADDLE + GRPC, "ab": OIP, "gone": 0},
    'sum by (model) (visord_inference_batch_size_sum{instance="%s",version!="3",model!="gone"})': {"pictures": PICTURES, "ab": OIP},
    'sum by (model) (visord_inference_rows_total{instance="%s",version!="3",model!="gone"})': {"pictures": PICTURES, "ab": OIP},
    'sum by (model) (visord_inference_executions_total{instance="%s",model="pictures"} '
    '- visord_inference_batch_size_count{instance="%s",model="pictures"})': {"pictures": 0},
}


@pytest.mark.parametrize("query", COUNTS)
def test_counters_are_what_was_sent(seen, query):
    label = re.match(r"sum by \((\w+)\)", query).group(1)
    answer = by(seen.prometheus.ask(query.replace("%s", seen.instances["host"])), label)
    assert {key: value for key, value in answer.items() if key != "shadow"} == COUNTS[query]


def test_every_copy_is_accounted_for(seen):
    """Those that were given up and those that ran are one for each request."""
    copies = ('sum(visord_inference_requests_total{protocol="shadow",outcome="success"}) '
              '+ sum(visord_shadow_shed_total)')
    seen.prometheus.wait(copies, OIP)
    agreed = seen.prometheus.one("sum(visord_shadow_agreement_total)")
    assert agreed == seen.prometheus.one('sum(visord_inference_requests_total{protocol="shadow",outcome="success"})')
    # `z` is an output that the shadow does not have.
    assert by(seen.prometheus.ask("sum by (reason) (visord_shadow_errors_total)"), "reason") == {"output_missing": agreed}


def selectors(expression):
    """The metrics that an expression reads, each with its selector."""
    found = re.findall(r"[a-zA-Z_:][\w:]*(?:\{[^}]*\})?", expression)
    return [s for s in found if re.match(r"(visord_|visord:|model:|process_|up\b)", s)]


def test_every_rule_is_evaluated_and_reads_what_is_there(seen):
    groups = seen.prometheus.get("rules")["groups"]
    evaluated = {rule["name"]: rule for group in groups for rule in group["rules"]}
    assert set(evaluated) == {rule.get("alert", rule.get("record")) for rule in rules()}
    for rule in rules():
        name = rule.get("alert", rule.get("record"))
        assert evaluated[name]["health"] == "ok", evaluated[name]
        read = selectors(rule["expr"])
        assert read or name == "visord:request_duration_seconds:target", name
        for selector in read:
            assert seen.prometheus.ask(selector), f"{name} reads {selector}, which is not there"
        if "record" in rule:
            assert seen.prometheus.ask(name), f"{name} has no data"


def test_recorded_numbers(seen):
    failing = seen.prometheus.one('model:visord_inference_request_errors:ratio_rate5m{model="pictures"}')
    assert failing == quotient(LATE / (PLAIN + PADDLE + GRPC + LATE + UNREADABLE))
    assert seen.prometheus.one('model:visord_inference_request_errors:ratio_rate5m{model="ab"}') == 0
    p99 = seen.prometheus.one('model:visord_inference_request_duration_seconds:p99_rate5m{model="ab"}')
    mean = seen.prometheus.one('sum(visord_inference_request_duration_seconds_sum{model="ab"}) '
                               '/ sum(visord_inference_request_duration_seconds_count{model="ab"})')
    assert 0 < mean <= p99 <= 10, (mean, p99)


def test_the_alerts_that_fire_are_those_that_should(seen):
    active = {(metric["alertname"], metric["alertstate"], metric.get("model") or metric.get("gpu"))
              for metric, _ in seen.prometheus.ask("ALERTS")}
    # A machine that is slow has requests that are.
    active = {alert for alert in active if alert[0] != "VisordLatencyHigh"}
    assert active == {
        ("VisordModelLoadFailed", "firing", "broken"),
        # The fake GPU is held down by its temperature, and not for five minutes yet.
        ("VisordGpuThrottled", "pending", "1"),
        ("VisordErrorRatio", "pending", "pictures"),
    }


def test_alertmanager_has_them_with_their_words(seen):
    end = time.monotonic() + PATIENCE
    while True:
        got = requests.get(f"http://127.0.0.1:{seen.alertmanager_port}/api/v2/alerts", timeout=PATIENCE).json()
        there = {alert["labels"]["alertname"]: alert for alert in got}
        if "VisordModelLoadFailed" in there:
            break
        assert time.monotonic() < end, got
        time.sleep(0.1)
    notes = there["VisordModelLoadFailed"]["annotations"]
    assert notes["summary"] == f"broken could not be loaded on {seen.instances['host']}"
    assert notes["description"].startswith("Attempts that failed in a quarter of an hour: 2.")
    assert notes["runbook_url"] == "docs/runbook.md#visordmodelloadfailed"


@pytest.mark.parametrize("page", ["metrics.md", "ab-testing.md"])
def test_every_query_of_a_page_is_answered(seen, page):
    queries = re.findall(r"```promql\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
    assert queries
    for query in queries:
        # Of a model that fails nothing, and a version that did not drift, there is nothing to show.
        quiet = 'outcome!="success"' in query and "version" in query or query.startswith("visord_drift_fallback == 1")
        answer = seen.prometheus.ask(query.replace('"Faces"', '"ab"'))
        assert bool(answer) != quiet, f"{query}: {answer}"


def run(*command, **options):
    ran = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=PATIENCE, **options)
    return ran.returncode, ran.stdout + ran.stderr


@pytest.mark.parametrize("command", [
    ("promtool", "check", "config", DOCKER / "prometheus" / "prometheus.yml"),
    ("promtool", "check", "rules", "--lint=all", "--lint-fatal", RULES),
    ("promtool", "test", "rules", ROOT / "tests" / "clients" / "prometheus" / "alerts.yml"),
    ("amtool", "check-config", DOCKER / "alertmanager" / "alertmanager.yml"),
], ids=lambda command: " ".join(map(str, command[:3])))
def test_files_are_what_the_tools_take(command):
    need_tools()
    status, text = run(*command)
    assert status == 0 and "FAILED" not in text, text


# What promtool has against Triton's names, which are what Triton's dashboards ask for.
TRITONS = re.compile(r'nv_inference_\w+ (counter metrics should have "_total" suffix|metric names should not contain abbreviated units'
                     r'|non-histogram and non-summary metrics should not have "_count" suffix)')


@pytest.mark.parametrize("which", ["host", "gpu"])
def test_promtool_has_nothing_against_the_metrics(seen, which):
    """`gpu` has NVML's metrics and --triton-metrics."""
    text = requests.get(f"http://{seen.instances[which]}/metrics", timeout=PATIENCE).text
    assert ("nv_inference" in text) == ("visord_gpu_up" in text) == (which == "gpu")
    _, said = run("promtool", "check", "metrics", input=text)
    complaints = [line for line in said.splitlines() if line and not TRITONS.fullmatch(line)]
    assert not complaints, complaints


def test_every_alert_reads_metrics_that_the_page_describes():
    page = (ROOT / "docs" / "metrics.md").read_text()
    for alert in alerts():
        for selector in selectors(alert["expr"]):
            name = selector.split("{")[0]
            assert f"`{name}`" in page or ":" in name or name == "up", f"{alert['alert']}: {name}"
