"""Models loaded and unloaded while the daemon runs: through Triton's own client, and again and again."""

import pathlib
import shutil
import time

import pytest
import requests
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from daemon import ENGINES, MODEL, Daemon, assert_face, backends, copy_repository, face, v1_array
from networks import attention

EXPLICIT = ("--model-control-mode", "explicit")
# Cycles before the first look: thread pools, allocators and caches reach their size.
WARM_UP = 60
CYCLES = 200


def embed(daemon):
    answer = requests.post(daemon.url(f"/v1/models/{MODEL}/infer"), data=face(), headers={"Content-Type": "image/jpeg"})
    assert answer.status_code == 200, answer.text
    assert_face(v1_array(answer.json()))


def test_tritonclient_loads_lists_and_unloads(tmp_path):
    repository = copy_repository(tmp_path)
    with Daemon(*EXPLICIT, repository=repository) as daemon:
        with triton.InferenceServerClient(daemon.address, network_timeout=60) as client:
            assert client.is_server_ready()
            assert client.get_model_repository_index() == [{"name": MODEL}]
            assert not client.is_model_ready(MODEL)
            client.load_model(MODEL)
            assert client.is_model_ready(MODEL)
            assert client.get_model_repository_index() == [{"name": MODEL, "version": "1", "state": "READY"}]
            embed(daemon)
            client.unload_model(MODEL, unload_dependents=True)
            assert not client.is_model_ready(MODEL)
            unloaded = {"name": MODEL, "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}
            assert client.get_model_repository_index() == [unloaded]
            client.load_model(MODEL)
            embed(daemon)
            for call, status in [
                (lambda: client.load_model("nothing"), "404"),
                (lambda: client.unload_model("nothing"), "404"),
                (lambda: client.load_model(MODEL, config="{}"), "501"),
                (lambda: client.load_model(MODEL, config="{}", files={"file:1/model.onnx": b"x"}), "501"),
            ]:
                with pytest.raises(InferenceServerException) as raised:
                    call()
                assert raised.value.status() == status, raised.value
            (repository / MODEL / "1" / "model.onnx").write_bytes(b"no network")
            with pytest.raises(InferenceServerException) as raised:
                client.load_model(MODEL)
            assert raised.value.status() == "400" and "not an ONNX model" in raised.value.message()
            ready = client.get_model_repository_index()[0]
            assert ready["state"] == "READY" and "not an ONNX model" in ready["reason"]
            embed(daemon)


def test_the_default_mode_says_how_to_get_another(plain):
    with triton.InferenceServerClient(plain.address) as client:
        for call in (client.load_model, client.unload_model):
            with pytest.raises(InferenceServerException) as raised:
                call(MODEL)
            assert raised.value.status() == "503" and "--model-control-mode explicit" in raised.value.message()


def test_a_copied_model_is_served_by_itself(tmp_path):
    repository = tmp_path / "models"
    repository.mkdir()
    with Daemon("--model-control-mode", "poll", "--repository-settle-millis", "200", repository=repository) as daemon:
        shutil.copytree(ENGINES / MODEL, repository / MODEL)
        end = time.monotonic() + 60
        while daemon.status(f"/v2/models/{MODEL}/ready") != 200:
            assert time.monotonic() < end, daemon.log
            time.sleep(0.02)
        embed(daemon)


def small(repository):
    """A network of a few layers, quick to load."""
    folder = pathlib.Path(repository) / "small" / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(attention().SerializeToString())
    return "small"


@pytest.mark.parametrize("backend", backends())
def test_memory_is_where_it_was_after_many_loads(backend, tmp_path):
    model = small(tmp_path)
    with Daemon(*EXPLICIT, repository=tmp_path, backend=backend) as daemon, requests.Session() as session:

        def most(count):
            """Goes through `count` cycles; the most that was resident in the last 50 of them, bytes."""
            seen = []
            for _ in range(count):
                for what in ("load", "unload"):
                    answer = session.post(daemon.url(f"/v2/repository/models/{model}/{what}"))
                    assert answer.status_code == 200, answer.text
                seen.append(daemon.rss_bytes())
            return max(seen[-50:])

        before = most(WARM_UP)
        after = most(CYCLES)
        metrics = session.get(daemon.url("/metrics")).text
        assert "\nvisord_draining_versions 0\n" in metrics
        assert f'visord_model_loads_total{{model="{model}",outcome="success"}} {WARM_UP + CYCLES}\n' in metrics
        assert after <= 1.05 * before, f"{backend}: {before} bytes before, {after} after {CYCLES} cycles"
