"""The daemons that tests share: one for each backend, started when first asked for, stopped at the end."""

import pytest
import requests

from daemon import Daemon, assert_face, backends, face, v1_array


@pytest.fixture(scope="session", params=backends())
def daemon(request):
    """Each backend in turn: for what must hold whatever computes."""
    with Daemon(backend=request.param) as running:
        yield running


@pytest.fixture(scope="session")
def plain():
    """The preferred backend alone: for what the backend has no part in."""
    with Daemon() as running:
        yield running


@pytest.fixture
def alive(plain):
    """Checks after a hostile test that the daemon still answers rightly."""
    yield plain
    assert plain.process.poll() is None, f"the daemon died:\n{plain.log}"
    answer = requests.post(plain.url("/v1/models/ArcFace/infer"), data=face(), headers={"Content-Type": "image/jpeg"})
    assert answer.status_code == 200, answer.text
    assert_face(v1_array(answer.json()))
    assert "panicked" not in plain.log, plain.log
