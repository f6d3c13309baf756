"""scripts/gpu-check on the host device of tests/fake: every step runs there as on a GPU, and what is wrong fails."""

import importlib
import json
import os
import subprocess
import sys

import pytest

from daemon import ROOT

TARGET = os.environ.get("CARGO_TARGET_DIR", str(ROOT / "target"))
BUNDLE = os.path.join(TARGET, "gpu-bundle-test")
STEPS = ["machine", "nvidia-smi", "kernels and decoders", "end to end", "load", "visord bench", "overlap by time", "CUDA graphs",
         "out of memory", "compute-sanitizer", "nsys", "TensorRT-RTX"]
SECONDS = 240

# Stand-ins for NVIDIA's tools: they start what they are given, and print what the real ones print.
TOOLS = {
    "nvidia-smi": "echo 'Fake H100, 580.1, P0, 345, 2619, 1980, 2619, 81559 MiB, 70.1 W, 700.00 W, 31, Enabled, Disabled, 9.0'",
    "compute-sanitizer": """
while [ "${1#--}" != "$1" ]; do shift 1; case $1 in memcheck|no|all|9) shift;; esac; done
"$@"; status=$?
echo "========= ERROR SUMMARY: ${SANITIZER_ERRORS:-0} errors"
[ -z "$SANITIZER_ERRORS" ] || status=9
exit $status""",
    "nsys": """
if [ "$1" = stats ]; then
    echo 'Processing...'
    echo 'Start (ns),Duration (ns),CorrId,Name'
    echo '100,100,1,preprocess_f32'
    echo '150,100,2,[CUDA memcpy Host-to-Device]'
    exit 0
fi
shift; while [ "${1#--output}" = "$1" ]; do shift; done; shift 2
"$@" """,
}


@pytest.fixture(scope="module")
def gpu_bundle():
    subprocess.run([ROOT / "scripts/gpu-bundle", "--profile", "dev", "--fakes", "--no-archive", BUNDLE], check=True,
                   env=dict(os.environ, CARGO_TARGET_DIR=TARGET))
    return BUNDLE


@pytest.fixture
def tools(tmp_path):
    folder = tmp_path / "tools"
    folder.mkdir()
    for name, text in TOOLS.items():
        (folder / name).write_text("#!/bin/sh\n" + text + "\n")
        (folder / name).chmod(0o755)
    return folder


def gpu_check(bundle, folder, *flags, device=True, path=None, **env):
    """Exit status, report, and steps by name."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("VISORD_") and k != "CUDA_VISIBLE_DEVICES"}
    if device:
        environment.update(LD_LIBRARY_PATH=os.path.join(TARGET, "gpu-stub"), VISORD_FAKE_CUDA_STRICT="1",
                           VISORD_FAKE_CUDA_COMPUTE_CAPABILITY="9.0")
    if path:
        environment["PATH"] = "{}:{}".format(path, environment["PATH"])
    done = subprocess.run([sys.executable, os.path.join(bundle, "gpu-check"), "--quick", *flags], cwd=folder, timeout=SECONDS,
                          env=dict(environment, **env), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout)
    report = json.loads((folder / "gpu-check.json").read_text())
    return done.returncode, report, {step["name"]: step for step in report["steps"]}


def test_every_step_passes_on_the_host_device(gpu_bundle, tools, tmp_path):
    # STUB: the engine runs on the driver's own calls, as on a real driver.
    status, report, steps = gpu_check(gpu_bundle, tmp_path, path=tools, VISORD_FAKE_NVINFER_STUB="1")
    assert list(steps) == STEPS
    outcomes = {name: (step["outcome"], step["summary"]) for name, step in steps.items()}
    assert status == 0 and not report["failed"], outcomes
    for name, (outcome, _) in outcomes.items():
        allowed = {"TensorRT-RTX": ("skipped",)}.get(name, ("ok",))
        assert outcome in allowed, outcomes

    assert "STUB" in report["engine"] and report["quick"]
    assert report["facts"]["device"]["compute_capability"] == "9.0"
    assert report["facts"]["nvidia_smi"][0]["driver_version"] == "580.1"
    pieces = steps["kernels and decoders"]["figures"]
    assert pieces["failed"] == 0 and all(check["ok"] for check in pieces["checks"])
    names = [check["name"] for check in pieces["checks"]]
    for part in ("PTX loads", "preprocess, letterbox: equal to the CPU", "l2_normalize: within 1 ulp of the CPU",
                 "decoder hardware: pictures like the CPU's", "decoder hybrid: pictures like the CPU's"):
        assert part in names
    assert {rate["decoder"] for rate in pieces["decode_rates"]} == {"hardware", "hybrid", "cpu"}
    assert all(rate["images_per_second"] > 0 for rate in pieces["decode_rates"])
    assert all(time["microseconds"] > 0 for time in pieces["kernel_times"])

    images = len(os.listdir(os.path.join(gpu_bundle, "images")))
    compared = steps["end to end"]["figures"]
    assert list(compared) == ["auto", "hardware", "hybrid", "cpu"]
    for decoder, figures in compared.items():
        # The fake nvJPEG decodes with the CPU decoder.
        assert figures["equal"] == images and figures["near"] == 0, (decoder, figures)
        assert sum(figures["decodes"].values()) >= images
    assert compared["hardware"]["decodes"]["hardware"] > 0 and compared["hybrid"]["decodes"]["hybrid"] > 0
    assert compared["cpu"]["decodes"] == {"hardware": 0, "hybrid": 0, "cpu": images}
    for run in steps["load"]["figures"]["runs"]:
        assert run["requests"] > 0 and run["errors"] == 0 and run["p99_ms"] >= run["p50_ms"] > 0, run
    assert steps["nsys"]["figures"]["share"] == 0.5
    assert "max_batch_size" in steps["out of memory"]["figures"]["message"]

    section = (tmp_path / "gpu-check.md").read_text()
    assert section.startswith("### ") and "STUB ENGINE" in section and "no measurement" in section
    assert "580.1" in section and "| auto | 1920x1080 | 16 |" in section


def test_the_fixed_function_copies_where_it_is_asked_to(gpu_bundle, tmp_path):
    status, _, steps = gpu_check(gpu_bundle, tmp_path, "--only", "end to end", VISORD_FAKE_NVINFER_FUNCTION="copy")
    assert status == 0, steps


@pytest.mark.parametrize("step, env, text", [
    # Means instead of copies: no value is right.
    ("end to end", {}, "not the CPU path's values"),
    ("kernels and decoders", {"VISORD_FAKE_CUDA_FAIL_COPY_EVERY": "7"}, "preprocess"),
    ("compute-sanitizer", {"SANITIZER_ERRORS": "3", "VISORD_FAKE_NVINFER_STUB": "1"}, "ERROR SUMMARY: 3 errors"),
])
def test_what_is_wrong_fails(gpu_bundle, tools, tmp_path, step, env, text):
    status, report, steps = gpu_check(gpu_bundle, tmp_path, "--only", step, path=tools, **env)
    assert status == 1 and report["failed"] == [step]
    assert text in steps[step]["summary"]


def test_without_a_driver_it_says_so_and_ends(gpu_bundle, tmp_path):
    status, report, steps = gpu_check(gpu_bundle, tmp_path, device=False)
    assert status == 1
    assert set(report["failed"]) >= {"kernels and decoders", "end to end", "load"}
    for name in ("kernels and decoders", "load"):
        assert "libcuda.so.1 cannot be opened" in steps[name]["summary"], steps[name]


@pytest.mark.parametrize("trace, share", [
    ("", 0.0),
    ("Start (ns),Duration (ns),Name\n0,10,k\n5,10,[CUDA memcpy Device-to-Host]\n", 0.5),
    # Kernels that overlap each other count once; copies on the device are compute.
    ("Start (ns),Duration (ns),Name\n0,10,k\n5,5,[CUDA memset]\n0,10,[CUDA memcpy HtoD]\n20,10,[CUDA memcpy HtoD]\n", 0.5),
    ("Start (ns),Duration (ns),Name\n0,10,[CUDA memcpy Device-to-Device]\n0,10,[CUDA memcpy Host-to-Device]\n", 1.0),
])
def test_overlap_is_read_from_a_trace(monkeypatch, trace, share):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    module = importlib.import_module("gpucheck.trace")
    assert module.overlapped("header\n" + trace)["share"] == share
