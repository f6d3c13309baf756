"""The manifests of deploy/kubernetes, as `kubectl kustomize` renders them: schemas, and what has to agree with what.

No cluster is asked. Built-in kinds are held against Kubernetes' own schemas, strictly; the kinds of operators (KEDA,
Prometheus operator) against the fields that `manifests.py` lists.
"""

import re
import shutil
import subprocess
import sys

import pytest
import yaml

from balancers import need, repository
from daemon import ROOT
from manifests import (CUSTOM, KUBERNETES, check_custom, check_schema, flags, installed, metric_names, of_kind, paths,
                       render, seconds_of, select, serving, size)

OVERLAYS = ["cpu", "gpu", "v100"]
# Component, and the overlay that it is tried on.
COMPONENTS = {"autoscaling-keda": "gpu", "autoscaling-hpa": "cpu", "monitoring": "cpu", "model-image": "gpu",
              "plan-cache-host": "gpu"}
# The version from which on the manifests are good for a cluster, and those that need a newer one.
OLDEST = "1.27"
NEEDS = {"model-image": "1.35"}
PAGE = ROOT / "docs" / "kubernetes.md"
ADAPTER = ROOT / "deploy" / "kubernetes" / "components" / "autoscaling-hpa" / "adapter-rules.yaml"

every_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


def rendered(what):
    """An overlay, by its name, or the overlay of a component with the component."""
    if what in COMPONENTS:
        return render(f"overlays/{COMPONENTS[what]}", f"components/{what}")
    return render(f"overlays/{what}")


def deployment(resources):
    (found,) = of_kind(resources, "Deployment")
    return found


def container(resources):
    (found,) = deployment(resources)["spec"]["template"]["spec"]["containers"]
    return found


def settings(resources):
    """The variables that the container gets from its ConfigMap."""
    (source,) = container(resources)["envFrom"]
    (found,) = [c for c in of_kind(resources, "ConfigMap") if c["metadata"]["name"] == source["configMapRef"]["name"]]
    return found["data"]


def ports(resources):
    return {port["name"]: port["containerPort"] for port in container(resources)["ports"]}


@pytest.mark.parametrize("what", [*OVERLAYS, *COMPONENTS])
def test_schemas(what):
    oldest = NEEDS.get(what, OLDEST)
    for resource in rendered(what):
        if resource["apiVersion"].split("/")[0] in CUSTOM:
            check_custom(resource)
        else:
            for version in (oldest, KUBERNETES):
                check_schema(resource, version)


def test_a_component_needs_the_version_that_it_says():
    for what, version in NEEDS.items():
        before = f"1.{int(version.split('.')[1]) - 8}"
        with pytest.raises(AssertionError):
            for resource in rendered(what):
                check_schema(resource, before)


@every_overlay
def test_overlays_have_only_what_every_cluster_has(overlay):
    for resource in rendered(overlay):
        assert resource["apiVersion"].split("/")[0] in ("v1", "apps", "policy", "networking.k8s.io"), resource
        assert resource["kind"] == "Namespace" or resource["metadata"]["namespace"] == "visord", resource["metadata"]


@every_overlay
def test_variables_and_arguments_are_flags_with_values_that_are_taken(overlay, tmp_path):
    known, resources = flags(), rendered(overlay)
    given = settings(resources)
    for name in given:
        assert name in known.values(), f"{name} is no variable of visord serve"
    assert container(resources)["args"] == ["serve"]
    # The values: visord itself reads them. A GPU is not here, and that it is wanted is its own message.
    values = {**given, "VISORD_MODEL_REPOSITORY": str(repository(tmp_path)), "VISORD_BACKEND": "rten"}
    wants_gpu = values.pop("VISORD_REQUIRE_GPU", "false")
    assert wants_gpu == ("false" if overlay == "cpu" else "true")
    done = installed("check", variables=values)
    assert done.returncode == 0, done.stdout + done.stderr


@every_overlay
def test_ports_agree(overlay):
    resources = rendered(overlay)
    given, named = settings(resources), ports(resources)
    assert named == {kind: int(given[f"VISORD_{kind.upper()}_PORT"]) for kind in ("http", "grpc", "metrics")}
    for service in of_kind(resources, "Service"):
        for port in service["spec"]["ports"]:
            assert port["targetPort"] == port["name"] and port["port"] == named[port["name"]], service
    (policy,) = of_kind(resources, "NetworkPolicy")
    for rule in policy["spec"]["ingress"]:
        assert {port["port"] for port in rule["ports"]} <= set(named), rule
    monitored = of_kind(rendered("monitoring"), "ServiceMonitor")[0]["spec"]
    offering = [s for s in select(of_kind(resources, "Service"), monitored["selector"])
                if "metrics" in [port["name"] for port in s["spec"]["ports"]]]
    # One, or each pod would be scraped twice; and its name is the `job` of the alerts.
    assert [s["metadata"]["name"] for s in offering] == ["visord"]
    assert [endpoint["port"] for endpoint in monitored["endpoints"]] == ["metrics"]
    assert paths()[monitored["endpoints"][0]["path"]] == "Metrics"


@every_overlay
def test_probes_ask_for_what_they_mean(overlay):
    pod = container(rendered(overlay))
    for probe, route in [("startupProbe", "Ready"), ("readinessProbe", "Ready"), ("livenessProbe", "Live")]:
        asked = pod[probe]["httpGet"]
        assert paths()[asked["path"]] == route, f"{probe}: {asked}"
        assert asked["port"] == "metrics", f"{probe}: the metrics port never has TLS"
        assert pod[probe]["timeoutSeconds"] <= pod[probe]["periodSeconds"], probe
    assert "lifecycle" not in pod, "the drain is VISORD_EXIT_DELAY_SECS"


@every_overlay
def test_times_fit_into_one_another(overlay):
    resources = rendered(overlay)
    spec, given = deployment(resources)["spec"], settings(resources)
    delay, timeout = (int(given[f"VISORD_EXIT_{name}_SECS"]) for name in ("DELAY", "TIMEOUT"))
    # 5 s: threads are joined, which src/app.rs gives a second, and memory is freed.
    assert delay + timeout + 5 <= spec["template"]["spec"]["terminationGracePeriodSeconds"]
    start = container(resources)["startupProbe"]
    budget = start["periodSeconds"] * start["failureThreshold"] + start["timeoutSeconds"]
    assert budget < spec["progressDeadlineSeconds"]
    assert budget >= (120 if overlay == "cpu" else 1800), "a plan takes many minutes to build"
    # The balancers that ship see that readiness is off before the ports close.
    config = (ROOT / "deploy" / "haproxy" / "haproxy.cfg").read_text()
    seen = seconds_of(config, r"check inter (\w+)") * int(re.search(r"fall (\d+)", config)[1])
    assert seen + seconds_of(config, r"timeout check (\w+)") < delay


@every_overlay
def test_selectors_find_the_pods(overlay):
    resources = rendered(overlay)
    spec = deployment(resources)["spec"]
    pods = [{"metadata": spec["template"]["metadata"]}]
    selectors = {"Deployment": spec["selector"]}
    for service in of_kind(resources, "Service"):
        selectors[f"Service {service['metadata']['name']}"] = {"matchLabels": service["spec"]["selector"]}
    selectors["PodDisruptionBudget"] = of_kind(resources, "PodDisruptionBudget")[0]["spec"]["selector"]
    selectors["NetworkPolicy"] = of_kind(resources, "NetworkPolicy")[0]["spec"]["podSelector"]
    for at, constraint in enumerate(spec["template"]["spec"]["topologySpreadConstraints"]):
        selectors[f"topologySpreadConstraints {at}"] = constraint["labelSelector"]
    for who, selector in selectors.items():
        assert selector.get("matchLabels"), f"{who} selects everything or nothing: {selector}"
        assert select(pods, selector) == pods, f"{who}: {selector}"


@pytest.mark.parametrize("what", [*OVERLAYS, *(c for c in COMPONENTS if c != "plan-cache-host")])
def test_pods_are_as_the_restricted_profile_wants_them(what):
    resources = rendered(what)
    (namespace,) = of_kind(resources, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    spec = deployment(resources)["spec"]["template"]["spec"]
    user, own = spec["securityContext"], container(resources)["securityContext"]
    assert user["runAsNonRoot"] is True and user["runAsUser"] > 0
    assert user["seccompProfile"] == {"type": "RuntimeDefault"}
    assert own == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(spec)
    kinds = {kind for volume in spec["volumes"] for kind in volume if kind != "name"}
    assert kinds <= {"persistentVolumeClaim", "emptyDir", "image", "configMap", "secret"}, kinds
    assert spec["automountServiceAccountToken"] is False
    # Links of a Service named visord-http would be VISORD_HTTP_PORT=tcp://…, and visord would not start.
    assert spec["enableServiceLinks"] is False


@pytest.mark.parametrize("what", [*OVERLAYS, *COMPONENTS])
def test_volumes_are_there_and_writable_where_something_writes(what):
    resources = rendered(what)
    spec, given = deployment(resources)["spec"]["template"]["spec"], settings(resources)
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in container(resources)["volumeMounts"]}
    assert {mount["name"] for mount in mounts.values()} == set(volumes)
    claimed = {v["persistentVolumeClaim"]["claimName"] for v in volumes.values() if "persistentVolumeClaim" in v}
    assert claimed == {claim["metadata"]["name"] for claim in of_kind(resources, "PersistentVolumeClaim")}
    assert all(len(volume) == 2 for volume in volumes.values()), f"a volume of two kinds: {volumes}"
    assert mounts[given["VISORD_MODEL_REPOSITORY"]].get("readOnly") is True
    writable = [path for path, mount in mounts.items() if not mount.get("readOnly")]
    assert writable == ([] if "VISORD_PLAN_CACHE" not in given else [given["VISORD_PLAN_CACHE"]]) + ["/tmp"]


@every_overlay
def test_images_and_resources(overlay):
    pod = container(rendered(overlay))
    assert pod["image"] == f"visord:{overlay}"
    limits, requests = pod["resources"]["limits"], pod["resources"]["requests"]
    assert int(settings(rendered(overlay))["VISORD_MAX_INFLIGHT_BYTES"]) <= size(requests["memory"]) / 2
    assert size(requests["memory"]) <= size(limits["memory"])
    assert ("nvidia.com/gpu" in limits) == (overlay != "cpu")
    assert overlay != "cpu" or limits == requests, "threads are as many as the CPU limit allows"


@every_overlay
def test_the_image_is_what_the_pod_expects(overlay):
    text = (ROOT / "docker" / "Dockerfile").read_text()
    (stage,) = re.findall(rf"^FROM \S+ AS {overlay}\n(.*?)(?=^FROM |\Z)", text, re.M | re.S)
    spec = deployment(rendered(overlay))["spec"]["template"]["spec"]
    assert 'ENTRYPOINT ["visord"]' in stage and "command" not in container(rendered(overlay))
    user = spec["securityContext"]
    assert f"USER {user['runAsUser']}:{user['runAsGroup']}" in stage
    assert re.search(r"^EXPOSE (.*)", stage, re.M)[1].split() == [str(p) for p in ports(rendered(overlay)).values()]


def test_autoscalers_ask_for_metrics_that_there_are():
    (scaled,) = of_kind(rendered("autoscaling-keda"), "ScaledObject")
    queries = [trigger["metadata"]["query"] for trigger in scaled["spec"]["triggers"]]
    for query in queries:
        assert 'namespace="visord"' in query, query
    rules = yaml.safe_load(ADAPTER.read_text())["rules"]
    (scaler,) = of_kind(rendered("autoscaling-hpa"), "HorizontalPodAutoscaler")
    asked = [metric["pods"]["metric"]["name"] for metric in scaler["spec"]["metrics"]]
    assert asked == [rule["name"]["as"] for rule in rules]
    series = [rule["seriesQuery"] for rule in rules]
    assert "visord_pending_rows" in metric_names(queries) & metric_names(series), "neither asks for the queue"
    for name in metric_names(queries + series):
        assert f"`{name}`" in (ROOT / "docs" / "metrics.md").read_text(), f"{name} is not in docs/metrics.md"
    # The two scale alike.
    spec, behavior = scaler["spec"], scaled["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert spec["behavior"] == behavior
    bounds = (scaled["spec"]["minReplicaCount"], scaled["spec"]["maxReplicaCount"])
    assert (spec["minReplicas"], spec["maxReplicas"]) == bounds
    thresholds = [trigger["metadata"]["threshold"] for trigger in scaled["spec"]["triggers"]]
    assert thresholds == [metric["pods"]["target"]["averageValue"] for metric in spec["metrics"]]
    for what in ("autoscaling-keda", "autoscaling-hpa"):
        assert "replicas" not in deployment(rendered(what))["spec"], "applied again, it would undo the autoscaler"
        (target,) = [r["spec"]["scaleTargetRef"] for r in rendered(what) if "scaleTargetRef" in r.get("spec", {})]
        assert target["name"] == deployment(rendered(what))["metadata"]["name"]


@pytest.mark.toolchain
def test_queries_are_promql(tmp_path):
    (scaled,) = of_kind(rendered("autoscaling-keda"), "ScaledObject")
    queries = [trigger["metadata"]["query"] for trigger in scaled["spec"]["triggers"]]
    rules = yaml.safe_load(ADAPTER.read_text())["rules"]
    for rule in rules:
        name, labels = rule["seriesQuery"].rstrip("}").split("{")
        filled = {"<<.Series>>": name, "<<.LabelMatchers>>": labels, "<<.GroupBy>>": "pod"}
        query = rule["metricsQuery"]
        for placeholder, value in filled.items():
            query = query.replace(placeholder, value)
        queries.append(query)
    path = tmp_path / "queries.yml"
    records = [{"record": f"query{at}", "expr": query} for at, query in enumerate(queries)]
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": records}]}))
    done = subprocess.run([need("promtool"), "check", "rules", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_alerts_are_those_of_compose():
    script = ROOT / "scripts" / "prometheus-rule"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    files = sorted((ROOT / "docker" / "prometheus" / "rules").glob("*.yml"))
    groups = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    (rule,) = of_kind(rendered("monitoring"), "PrometheusRule")
    assert rule["spec"]["groups"] == groups


def test_the_kustomization_of_the_documentation(tmp_path):
    """It lies beside the overlays, as the page says."""
    block = r"```yaml\n(# deploy/kubernetes/overlays/mine/kustomization.yaml\n.*?)```"
    (text,) = re.findall(block, PAGE.read_text(), re.S)
    copy = tmp_path / "kubernetes"
    shutil.copytree(ROOT / "deploy" / "kubernetes", copy)
    (copy / "overlays" / "mine").mkdir()
    (copy / "overlays" / "mine" / "kustomization.yaml").write_text(text)
    resources = render("overlays/mine", root=copy)
    assert container(resources)["image"] == "registry.example.com/visord:gpu"
    assert of_kind(resources, "ScaledObject") and of_kind(resources, "PrometheusRule")
    for resource in resources:
        (check_custom if resource["apiVersion"].split("/")[0] in CUSTOM else check_schema)(resource)
    for name in settings(resources):
        assert name in flags().values(), name


def test_a_pod_s_daemon_answers_its_probes(tmp_path):
    """The variables of the ConfigMap and nothing else, but for ports and folders; probes where they are sent."""
    resources = rendered("cpu")
    variables = {**settings(resources), "VISORD_MODEL_REPOSITORY": str(repository(tmp_path)), "VISORD_BACKEND": "rten",
                 "VISORD_EXIT_DELAY_SECS": "0"}
    with serving(container(resources)["args"], variables) as daemon:
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = container(resources)[probe]["httpGet"]
            port = {"metrics": daemon.metrics_port}[asked["port"]]
            assert daemon.status(asked["path"], port) == 200, probe
