"""deploy/kserve: schemas, and daemons started with a runtime's own arguments on models laid out as KServe does it."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
import yaml

from balancers import NAME, VALUES, repository
from manifests import DEPLOY, check_custom, flags, installed, paths, render, serving

KSERVE = DEPLOY / "kserve"
# KServe's: where the storage initializer puts models, and the ports that it takes where a runtime names none, or by
# convention for gRPC. Source: pkg/constants/constants.go and config/runtimes of kserve/kserve, August 2026.
MODELS = "/mnt/models"
HTTP, GRPC = 8080, 9000
# Seconds that Kubernetes gives a pod to end; a runtime cannot say otherwise, an InferenceService can.
GRACE = 30
RUNTIMES = ["visord-cpu", "visord-gpu"]
EXAMPLES = sorted(path.name for path in (KSERVE / "examples").glob("*.yaml"))


def example(name):
    return yaml.safe_load((KSERVE / "examples" / name).read_text())


def container(runtime, service="faces"):
    """The runtime's container as KServe starts it for an InferenceService: `{{.Name}}` is the service's."""
    (found,) = [r for r in render(".", root=KSERVE) if r["metadata"]["name"] == runtime]
    (own,) = found["spec"]["containers"]
    assert own["name"] == "kserve-container", "KServe's name for the container that serves"
    filled = json.dumps(own).replace("{{.Name}}", service)
    assert "{{" not in filled, "a placeholder that this test does not know"
    return json.loads(filled)


def options(own):
    """Flag -> value, of a container's arguments."""
    assert own["args"][0] == "serve"
    return dict(argument.split("=", 1) for argument in own["args"][1:])


def test_schemas():
    runtimes = render(".", root=KSERVE)
    assert [runtime["metadata"]["name"] for runtime in runtimes] == RUNTIMES
    for resource in runtimes:
        check_custom(resource)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_ask_for_what_a_runtime_has(name):
    service = example(name)
    check_custom(service)
    predictor = service["spec"]["predictor"]
    model = predictor["model"]
    (runtime,) = [r for r in render(".", root=KSERVE) if r["metadata"]["name"] == model["runtime"]]
    formats = runtime["spec"]["supportedModelFormats"]
    assert model["modelFormat"] in [{key: known[key] for key in ("name", "version")} for known in formats]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    # One or the other, says KServe.
    assert ("storageUri" in model) != ("storageUris" in predictor)
    assert all(storage["mountPath"].startswith(f"{MODELS}/") for storage in predictor.get("storageUris", []))
    for port in model.get("ports", []):
        assert (port["name"], port["containerPort"]) in [("http1", HTTP), ("h2c", GRPC)], port
    assert ("ports" in model) == (model["protocolVersion"] == "grpc-v2"), "without ports, KServe takes HTTP alone"
    assert predictor["minReplicas"] <= predictor["maxReplicas"]
    # A volume by the name of one of the runtime takes its place.
    known = [volume["name"] for volume in runtime["spec"]["volumes"]]
    assert all(volume["name"] in known for volume in predictor.get("volumes", []))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_runtime_follows_kserve_s_conventions(runtime):
    own = container(runtime)
    given = options(own)
    assert set(given) <= set(flags()), f"no flags: {set(given) - set(flags())}"
    assert (given["--model-repository"], given["--http-port"], given["--grpc-port"]) == (MODELS, str(HTTP), str(GRPC))
    assert given["--host"] == "0.0.0.0" and "ports" not in own
    for probe, route in [("startupProbe", "Ready"), ("readinessProbe", "Ready"), ("livenessProbe", "Live")]:
        asked = own[probe]["httpGet"]
        assert (paths()[asked["path"]], asked["port"]) == (route, HTTP), f"{probe}: {asked}"
    assert int(given["--exit-delay-secs"]) + int(given["--exit-timeout-secs"]) + 5 <= GRACE
    security = own["securityContext"]
    assert security["runAsNonRoot"] and security["readOnlyRootFilesystem"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    # /mnt/models is mounted read-only: a cache has to be elsewhere.
    mounts = [mount["mountPath"] for mount in own["volumeMounts"]]
    assert runtime == "visord-cpu" or given["--plan-cache"] in mounts
    (found,) = [r for r in render(".", root=KSERVE) if r["metadata"]["name"] == runtime]
    annotations = found["spec"]["annotations"]
    assert annotations["prometheus.kserve.io/port"] == given["--metrics-port"]
    assert paths()[annotations["prometheus.kserve.io/path"]] == "Metrics"


def mounted(service, storage, root):
    """What the storage initializer makes of an InferenceService's URIs below `root`, out of a folder for each URI."""
    predictor = service["spec"]["predictor"]
    uris = predictor.get("storageUris") or [{"uri": predictor["model"]["storageUri"], "mountPath": MODELS}]
    for entry in uris:
        into = root / pathlib.PurePosixPath(entry["mountPath"]).relative_to("/")
        shutil.copytree(storage[entry["uri"]], into, dirs_exist_ok=True)
    # As the volume is mounted; the administrator, whom CI may be, writes all the same.
    for path in (root / MODELS.lstrip("/")).rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)


@pytest.mark.parametrize("name, model", [("cpu.yaml", NAME), ("grpc.yaml", "faces")])
def test_a_daemon_serves_what_kserve_mounts(name, model, tmp_path):
    """`model` is what clients call it: the folder's name in the repository, or the last part of mountPath."""
    stored, root = repository(tmp_path / "storage"), tmp_path / "root"
    service = example(name)
    mounted(service, {"s3://models/repository": stored, "s3://models/faces": stored / NAME}, root)
    own = container(service["spec"]["predictor"]["model"]["runtime"], service["metadata"]["name"])
    # But for the folder, and 5 s at the end that nobody waits for here.
    changes = {f"--model-repository={MODELS}": f"--model-repository={root}{MODELS}",
               "--exit-delay-secs=5": "--exit-delay-secs=0"}
    assert set(changes) <= set(own["args"])
    with serving([changes.get(a, a) for a in own["args"]], {"VISORD_BACKEND": "rten"}) as daemon:
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert daemon.status(own[probe]["httpGet"]["path"]) == 200, probe
        answers = []
        grpc = f"127.0.0.1:{daemon.grpc_port}"
        for library, address in [(tritonclient.http, daemon.address), (tritonclient.grpc, grpc)]:
            tensor = library.InferInput("x", list(VALUES.shape), "FP32")
            tensor.set_data_from_numpy(VALUES)
            with library.InferenceServerClient(address) as client:
                assert client.is_model_ready(model)
                answers.append(client.infer(model, [tensor]).as_numpy("y"))
        np.testing.assert_array_equal(*answers)


def test_the_arguments_of_the_gpu_runtime_are_taken(tmp_path):
    """They are read and checked; what is missed with --require-gpu is the GPU, where there is none."""
    stored = repository(tmp_path)
    arguments = [argument.replace(MODELS, str(stored)) for argument in container("visord-gpu")["args"][1:]]
    without = [argument for argument in arguments if not argument.startswith("--require-gpu")]
    assert len(without) == len(arguments) - 1
    done = installed("check", *without, variables={"VISORD_BACKEND": "rten"})
    assert done.returncode == 0, done.stdout + done.stderr
    done = installed("check", *arguments)
    assert done.returncode == 0 or "tensorrt cannot be used" in done.stdout, done.stdout + done.stderr
