"""visord against what the real Triton answered when it was recorded: tests/golden/triton, `make differential`."""

import re

import pytest

from cases import CASES, Server
from daemon import ROOT, Daemon
from differences import DIFFERENCES
from differential import RECORD, VISORD, Report, recorded


@pytest.fixture(scope="module")
def server():
    with Daemon(*VISORD) as daemon:
        yield Server(daemon.address, f"127.0.0.1:{daemon.grpc_port}")


@pytest.fixture(scope="module")
def report():
    return Report()


@pytest.fixture(scope="module")
def triton():
    return recorded()


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_answers_agree_or_the_difference_is_known(case, server, triton, report):
    unknown = report.compare(case.name, triton[case.name], case.run(server))
    assert not unknown, "\n".join(unknown)


def test_every_known_difference_was_seen(report):
    """Runs last: a difference that is gone comes off the list, and out of the page."""
    if len(report.rows) < len(CASES):
        pytest.skip("only some cases were run")
    assert not report.unmet()


def test_nothing_else_is_recorded(triton):
    assert triton.keys() == {case.name for case in CASES}, f"run make differential ARGS=--record, for {RECORD.name}"


# On the page, and shown by tests of their own: they need a load, a model that fails, or a daemon that may be changed.
ELSEWHERE = {"A full queue", "A model that is not ready", "Log settings"}


def test_the_page_lists_the_differences():
    page = (ROOT / "docs" / "compatibility.md").read_text()
    section = page.split("### Held against the real Triton")[1].split("\n##")[0]
    rows = [row.split(" | ")[0] for row in re.findall(r"^\| (.*) \|$", section, re.MULTILINE)]
    assert rows[0] == "What"
    assert set(rows[1:]) == {difference.key for difference in DIFFERENCES} | ELSEWHERE
