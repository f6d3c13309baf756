"""Reads, renders and checks the manifests of deploy/, and starts daemons as they say."""

import functools
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request

import kubernetes_validate
import pytest
import yaml

from daemon import BIN, ROOT, Daemon

DEPLOY = ROOT / "deploy"
# The newest schemas that the package has.
KUBERNETES = kubernetes_validate.latest_version()

# The kinds of operators. Their schemas belong to the operators; here stand the fields that the manifests may use, as
# the custom resource definitions of 2026 have them: nested, with the type of each leaf, `[...]` for a list, and ANY for
# what is checked elsewhere. A field that is not here fails.
ANY = object()
SCALING = {"stabilizationWindowSeconds": int, "policies": [{"type": str, "value": int, "periodSeconds": int}]}
BEHAVIOR = {"scaleUp": SCALING, "scaleDown": SCALING}
CUSTOM = {
    "keda.sh": {"ScaledObject": {
        "scaleTargetRef": {"name": str}, "minReplicaCount": int, "maxReplicaCount": int, "pollingInterval": int,
        "fallback": {"failureThreshold": int, "replicas": int, "behavior": str},
        "advanced": {"horizontalPodAutoscalerConfig": {"behavior": BEHAVIOR}},
        # Of the metadata every value is a string.
        "triggers": [{"type": str, "name": str, "metricType": str,
                      "metadata": {"serverAddress": str, "query": str, "threshold": str}}],
    }},
    "monitoring.coreos.com": {
        "ServiceMonitor": {
            "selector": {"matchLabels": {"app.kubernetes.io/name": str}},
            "endpoints": [{"port": str, "path": str, "interval": str, "scrapeTimeout": str}],
        },
        # The rules themselves are promtool's to check.
        "PrometheusRule": {"groups": [{"name": str, "interval": str, "rules": [
            {"alert": str, "record": str, "expr": str, "for": str, "keep_firing_for": str, "labels": ANY,
             "annotations": ANY}]}]},
    },
    "serving.kserve.io": {
        "ClusterServingRuntime": {
            "annotations": ANY,
            "supportedModelFormats": [{"name": str, "version": str, "autoSelect": bool, "priority": int}],
            "protocolVersions": [str], "containers": ANY, "volumes": ANY,
        },
        "InferenceService": {"predictor": {
            "minReplicas": int, "maxReplicas": int, "scaleMetric": str, "scaleTarget": int,
            "autoScaling": {"metrics": [{"type": str, "external": {
                "metric": {"backend": str, "serverAddress": str, "query": str},
                "target": {"type": str, "value": str}}}]},
            "storageUris": [{"uri": str, "mountPath": str}],
            "model": {"modelFormat": {"name": str, "version": str}, "runtime": str, "protocolVersion": str,
                      "storageUri": str, "ports": ANY},
            "serviceAccountName": ANY, "terminationGracePeriodSeconds": ANY, "tolerations": ANY, "volumes": ANY,
        }},
    },
}


@functools.cache
def kubectl():
    """A kubectl that renders. Where there is none CI fails, and elsewhere it is told."""
    done = subprocess.run([sys.executable, ROOT / "scripts" / "kubectl"], capture_output=True, text=True, cwd=ROOT)
    if done.returncode != 0 and os.environ.get("CI"):
        pytest.fail(f"no kubectl, and in CI there must be one: {done.stderr}")
    if done.returncode != 0:
        pytest.skip(f"NOT TESTED: {done.stderr}")
    return done.stdout.strip()


@functools.cache
def render(folder, *components, root=DEPLOY / "kubernetes"):
    """The resources of a kustomization below `root`, with components below it besides."""
    with tempfile.TemporaryDirectory() as scratch:
        path = root / folder
        if components:
            # Kustomize wants relative paths, and both ends of one with their links followed.
            path = pathlib.Path(scratch).resolve()
            reach = lambda to: os.path.relpath((root / to).resolve(), path)  # noqa: E731
            own = {"resources": [reach(folder)], "components": [reach(component) for component in components]}
            (path / "kustomization.yaml").write_text(yaml.safe_dump(own))
        done = subprocess.run([kubectl(), "kustomize", path], capture_output=True, text=True)
    assert done.returncode == 0, f"{folder} {components}: {done.stderr}"
    # Kustomize tells what it will not read any longer.
    assert "deprecated" not in done.stderr.lower(), done.stderr
    return [resource for resource in yaml.safe_load_all(done.stdout) if resource]


def of_kind(resources, kind):
    return [resource for resource in resources if resource["kind"] == kind]


def select(resources, selector):
    """Those whose labels a selector by matchLabels takes."""
    wanted = selector["matchLabels"].items()
    return [r for r in resources if wanted <= r["metadata"].get("labels", {}).items()]


def check_schema(resource, version=KUBERNETES):
    """Holds a built-in kind against Kubernetes' schema; fields that it does not know fail."""
    try:
        kubernetes_validate.validate(resource, version, strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        where = ".".join(str(part) for part in getattr(error, "path", ()))
        raise AssertionError(f"{resource['kind']} for Kubernetes {version}: {where}: {error.message}") from None


def check_fields(value, wanted, where):
    if wanted is ANY:
        return
    if isinstance(wanted, dict):
        assert isinstance(value, dict), f"{where}: {value!r} has no fields"
        for name, inner in value.items():
            assert name in wanted, f"{where}.{name} is no field; there are {', '.join(wanted)}"
            check_fields(inner, wanted[name], f"{where}.{name}")
    elif isinstance(wanted, list):
        assert isinstance(value, list) and value, f"{where}: {value!r} is no list with something in it"
        for at, inner in enumerate(value):
            check_fields(inner, wanted[0], f"{where}[{at}]")
    else:
        assert type(value) is wanted, f"{where}: {value!r} is no {wanted.__name__}"


def pod_of(resource):
    """The part of a resource of KServe that is a pod's, to be held against Kubernetes' schema; None for other kinds."""
    if resource["kind"] == "ClusterServingRuntime":
        return {key: resource["spec"][key] for key in ("containers", "volumes") if key in resource["spec"]}
    if resource["kind"] == "InferenceService":
        predictor = resource["spec"]["predictor"]
        own = ("serviceAccountName", "terminationGracePeriodSeconds", "tolerations", "volumes")
        ports = predictor["model"].get("ports", [])
        return {"containers": [{"name": "kserve-container", "ports": ports}],
                **{key: predictor[key] for key in own if key in predictor}}
    return None


def check_custom(resource):
    """Holds a kind of an operator against `CUSTOM`, and what of it is a pod's against Kubernetes' schema."""
    group, _, version = resource["apiVersion"].partition("/")
    where = f"{resource['kind']} {resource['metadata']['name']}"
    assert version == {"keda.sh": "v1alpha1", "monitoring.coreos.com": "v1", "serving.kserve.io": version}[group], where
    assert set(resource) == {"apiVersion", "kind", "metadata", "spec"}, where
    check_fields(resource["spec"], CUSTOM[group][resource["kind"]], f"{where}: spec")
    if pod := pod_of(resource):
        check_schema({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod})


@functools.cache
def flags():
    """Flag -> variable, of `visord serve`."""
    text = installed("serve", "--help").stdout
    found = dict(re.findall(r"(--[a-z0-9-]+)(?: <\S+>|\[=<\S+>\]| \[<\S+>\])?\n.*?\[env: (VISORD_\w+)=", text, re.S))
    assert len(found) > 30 and found["--http-port"] == "VISORD_HTTP_PORT", found
    return found


@functools.cache
def paths():
    """Fixed path -> the route's name, of src/server/route.rs."""
    text = (ROOT / "src" / "server" / "route.rs").read_text()
    table = re.search(r"pub const FIXED_PATHS.*?\];", text, re.S)[0]
    found = dict(re.findall(r'\("(/\S*)", Route::(\w+)', table))
    assert "/v2" in found
    return found


def metric_names(texts):
    """The metrics that texts name, histograms by their own name."""
    names = {name for text in texts for name in re.findall(r"visord_\w+", text)}
    return {re.sub(r"_duration_seconds_(sum|count|bucket)$", "_duration_seconds", name) for name in names}


def size(quantity):
    """Bytes of a Kubernetes quantity."""
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)?", quantity).groups()
    return int(number) * {None: 1, "Mi": 1 << 20, "Gi": 1 << 30}[unit]


def seconds_of(text, pattern):
    """The time that a pattern finds in HAProxy's configuration, seconds."""
    number, unit = re.fullmatch(r"(\d+)(ms|s)", re.search(pattern, text)[1]).groups()
    return int(number) / (1000 if unit == "ms" else 1)


def environment(variables):
    """This process' variables without any that is a flag, but for where libraries lie; and `variables`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("VISORD_") or k == "VISORD_OPENVINO_DIR"}
    return {**kept, **(variables or {})}


def installed(*arguments, variables=None):
    return subprocess.run([BIN, *arguments], capture_output=True, text=True, timeout=60, env=environment(variables))


class Manifested(Daemon):
    """A daemon with a container's arguments and variables; its ports are free ones in place of theirs."""

    def __init__(self, arguments, variables):
        super().__init__(backend="rten")
        ports = {"http": self.http_port, "grpc": self.grpc_port, "metrics": self.metrics_port}
        ours = [f"--{kind}-port={port}" for kind, port in ports.items()]
        kept = [a for a in arguments if a.split("=")[0] not in ("--http-port", "--grpc-port", "--metrics-port")]
        self.command = [str(BIN), *kept, *ours]
        self.environment = environment(variables)

    def spawn(self):
        self.process = subprocess.Popen(self.command, stdout=self.log_file, stderr=subprocess.STDOUT,
                                        env=self.environment)

    def status(self, path="/v2/health/ready", port=None):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port or self.http_port}{path}", timeout=5) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None


def serving(arguments, variables=None):
    """A daemon started with a manifest's arguments and variables."""
    return Manifested(arguments, variables)
