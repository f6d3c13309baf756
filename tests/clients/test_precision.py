"""`precision = "bf16"`: served within its bound where the CPU has BF16, refused with the reason where it has not."""

import pathlib
import shutil
import subprocess

import pytest
import requests

from daemon import BIN, ENGINES, IMAGES, MODEL, Daemon, backends, cosine, embeddings, v1_array

MIN_COSINE_BF16 = 0.995
FEATURES = {"avx512_bf16", "amx_bf16", "bf16"}


def cpu_has_bf16():
    return bool(FEATURES & set(pathlib.Path("/proc/cpuinfo").read_text().split()))


@pytest.fixture
def bf16_repository(tmp_path):
    shutil.copytree(ENGINES / MODEL, tmp_path / MODEL)
    settings = tmp_path / MODEL / "model.toml"
    settings.write_text('precision = "bf16"\n' + settings.read_text())
    return tmp_path


@pytest.mark.skipif("openvino" not in backends(), reason="OpenVINO is not here")
def test_bf16_is_within_its_bound_or_refused(bf16_repository):
    if not cpu_has_bf16():
        refused(bf16_repository, "openvino", "BF16")
        return
    with Daemon(backend="openvino", repository=bf16_repository) as daemon:
        config = requests.get(daemon.url(f"/v2/models/{MODEL}/config")).json()
        assert config["parameters"]["precision"]["string_value"] == "bf16"
        for name, expected in embeddings().items():
            answer = requests.post(
                daemon.url(f"/v1/models/{MODEL}/infer"), data=(IMAGES / name).read_bytes(),
                headers={"Content-Type": "application/octet-stream"},
            )
            reached = cosine(v1_array(answer.json()), expected)
            assert reached >= MIN_COSINE_BF16, f"{name}: cosine {reached:.6f}"


def test_bf16_is_refused_by_rten(bf16_repository):
    refused(bf16_repository, "rten", "OpenVINO")


def refused(repository, backend, reason):
    """`check` and `serve` both end with 1 and say why."""
    for command in ("check", "serve"):
        done = subprocess.run(
            [str(BIN), command, "--model-repository", str(repository), "--backend", backend,
             "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"],
            capture_output=True, text=True, timeout=60,
        )
        text = done.stdout + done.stderr
        assert done.returncode == 1, f"{command}: exit status {done.returncode}\n{text}"
        assert "bf16" in text and reason in text, f"{command}: {text}"
