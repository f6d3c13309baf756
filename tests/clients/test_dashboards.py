"""docker/prometheus, docker/alertmanager and docker/grafana as files: alerts and their runbook, dashboards and their source.

test_prometheus.py asks a real Prometheus.
"""

import json
import re
import subprocess
import sys

import pytest
import yaml

from daemon import ROOT

PROMETHEUS = ROOT / "docker" / "prometheus"
GRAFANA = ROOT / "docker" / "grafana"
RUNBOOK = ROOT / "docs" / "runbook.md"
DASHBOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))


def rules():
    return [rule for path in sorted((PROMETHEUS / "rules").glob("*.yml"))
            for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def alerts():
    return [rule for rule in rules() if "alert" in rule]


def load(path):
    return json.loads(path.read_text())


def panels(dashboard):
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def test_every_alert_has_a_runbook_paragraph_and_every_paragraph_an_alert():
    names = [alert["alert"] for alert in alerts()]
    headings = re.findall(r"^## (.+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert names and headings == names, set(headings) ^ set(names)
    for section in re.split(r"^## ", RUNBOOK.read_text(), flags=re.MULTILINE)[1:]:
        for word in ("- **Look at** ", "- **Do**"):
            assert word in section, f"{section.splitlines()[0]} has no {word!r}"


def test_every_alert_says_what_where_and_how_bad():
    for alert in alerts():
        name, notes = alert["alert"], alert["annotations"]
        assert set(alert["labels"]) == {"severity"} and alert["labels"]["severity"] in ("critical", "warning"), name
        assert set(notes) == {"summary", "description", "runbook_url"}, name
        assert "{{ $value" in notes["description"], f"{name}: the description has no number"
        assert "{{" in notes["summary"], f"{name}: the summary does not say where"
        assert notes["runbook_url"] == f"docs/runbook.md#{name.lower()}", name


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not():
    page = yaml.safe_load((ROOT / "tests/clients/prometheus/alerts.yml").read_text())
    cases = [case for test in page["tests"] for case in test.get("alert_rule_test", [])]
    series = {name: [s["series"] for t in page["tests"] for s in t["input_series"]
                     if any(c["alertname"] == name for c in t["alert_rule_test"])] for name in {c["alertname"] for c in cases}}
    for alert in alerts():
        name = alert["alert"]
        of = [case for case in cases if case["alertname"] == name]
        fired = [len(case.get("exp_alerts", [])) for case in of]
        assert any(fired), f"{name} never fires in tests/clients/prometheus/alerts.yml"
        # At another time, or for other series of the same moment.
        assert 0 in fired or len(series[name]) > max(fired), f"{name} always fires in tests/clients/prometheus/alerts.yml"


def test_dashboards_are_what_their_source_writes():
    ran = subprocess.run([sys.executable, GRAFANA / "make.py", "--check"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert {path.stem for path in DASHBOARDS} == {"service", "gpu", "ab", "models"}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_ask_a_question_of_the_data_source_that_is_there(path):
    [source] = yaml.safe_load((GRAFANA / "provisioning/datasources/visord.yml").read_text())["datasources"]
    dashboard, taken = load(path), set()
    for panel in dashboard["panels"]:
        grid, title = panel["gridPos"], panel["title"]
        cells = {(x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])}
        assert not cells & taken and grid["x"] + grid["w"] <= 24, f"{title} lies on another panel, or beyond the edge"
        taken |= cells
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    for panel in panels(dashboard):
        title = panel["title"]
        assert re.fullmatch(r"[A-Z][^?]*\?( \(p\d\d\))?", title), f"{title!r} is no question"
        assert panel["fieldConfig"]["defaults"]["unit"], title
        assert panel["targets"], title
        for of in [panel, *panel["targets"]]:
            assert of["datasource"] == {"type": "prometheus", "uid": source["uid"]}, title
    titles = [panel["title"] for panel in panels(dashboard)]
    assert len(titles) == len(set(titles)), titles


def test_the_runbook_names_panels_that_are_there():
    titles = {panel["title"] for path in DASHBOARDS for panel in panels(load(path))}
    text = RUNBOOK.read_text().replace("\n  ", " ").replace("\n", " ")
    named = re.findall(r'"([^"]+\?(?: \(p\d\d\))?)"', text)
    assert named
    for title in named:
        assert title in titles, f"docs/runbook.md sends to {title!r}, which no dashboard has"
