"""Two daemons under a known load, watched by the real Prometheus and Alertmanager with the files of docker/.

`host` serves on the CPU: a model divided among versions, with a shadow and golden.json, a picture model, one that is
unloaded and one that cannot be loaded. `gpu` serves on the host device of tests/fake, with TLS.
"""

import concurrent.futures
import contextlib
import copy
import json
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time

import numpy as np
import onnx
import pytest
import requests
import tritonclient.grpc as triton_grpc
import yaml

from daemon import BIN, ROOT, Daemon, b64, face, free_ports
from networks import Net
from test_tls import TlsDaemon, authority, identity

DOCKER = ROOT / "docker"
RULES = DOCKER / "prometheus" / "rules" / "visord.yml"
TOOLS = ("prometheus", "promtool", "prometheus-alertmanager", "amtool")
# Longest wait for a state that is sure to come; only a failing test sees it.
PATIENCE = 60
# As short as makes rates over a few seconds; the file says 15s.
INTERVAL = "500ms"

# Of every protocol, in the load proper.
PLAIN, PADDLE, GRPC, OIP = 60, 40, 40, 160
# Pictures, over TLS, to the daemon on the host device.
ON_GPU = 10
# Requests whose deadline has passed when they come, and pictures that are none.
LATE, UNREADABLE = 20, 20
SHARES = {"1": 0.75, "2": 0.25}
# Of the outputs of versions 1 and 3, whatever the input.
SHADOW_COSINE = 0.6
# Of golden.json and what version 1 answers.
GOLDEN_DIFFERENCE = 0.02


def need_tools():
    """Skips, loudly, where Debian's packages `prometheus` and `prometheus-alertmanager` are missing; fails in CI."""
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing and os.environ.get("CI"):
        pytest.fail(f"{', '.join(missing)} are not installed: apt-get install prometheus prometheus-alertmanager")
    if missing:
        pytest.skip(f"NOT TESTED: this machine has no {', '.join(missing)}")


def side(cosine, offset, extra=False):
    """A network of one number x: `y` is x times (cosine, sine), `c` is (x, offset) for a softmax, `z` is x."""
    net = Net()
    x = net.input("x", [1])
    net("MatMul", x, net.weight([[cosine, np.sqrt(1 - cosine * cosine)]]), to="y")
    net("Add", net("MatMul", x, net.weight([[1.0, 0.0]])), net.weight([0.0, offset]), to="c")
    net.output("y", [2])
    net.output("c", [2])
    if extra:
        net("Identity", x, to="z")
        net.output("z", [1])
    return net.model()


def colour():
    """The mean colour of a picture."""
    net = Net()
    net("Flatten", net("GlobalAveragePool", net.input("x", [3, 16, 16])), to="y")
    net.output("y", [3])
    return net.model()


def flat():
    """A picture, flattened: the fake TensorRT gives means of it, whatever the network."""
    net = Net()
    net("Flatten", net.input("x", [3, 20, 24]), to="y")
    net.output("y", [7])
    return net.model()


def put(repository, model, toml, versions):
    for version, network in versions.items():
        folder = repository / model / version
        folder.mkdir(parents=True)
        if isinstance(network, bytes):
            (folder / "model.onnx").write_bytes(network)
        else:
            onnx.save(network, folder / "model.onnx")
    (repository / model / "model.toml").write_text(toml)


def write_models(repository):
    put(repository, "ab", """
[traffic]
"1" = 75
"2" = 25
[shadow]
version = "3"
fraction = 1.0
[[output]]
name = "c"
softmax = true
""", {"1": side(1.0, 0.0, extra=True), "2": side(1.0, 0.0, extra=True), "3": side(SHADOW_COSINE, 0.5)})
    golden = {"format": 1, "cases": [{"inputs": {"x": {"datatype": "FP32", "shape": [1, 1], "data": [2]}},
                                      "outputs": {"y": [2, GOLDEN_DIFFERENCE]}}]}
    (repository / "ab" / "1" / "golden.json").write_text(json.dumps(golden))
    put(repository, "pictures", "max_batch_size = 4\n", {"1": colour()})
    put(repository, "gone", "", {"1": side(1.0, 0.0)})
    put(repository, "broken", "", {"1": b"no network"})


class GpuDaemon(TlsDaemon):
    """On the host device: one of two GPUs is shown to it."""

    def __init__(self, *flags, libraries, **options):
        super().__init__(*flags, backend="tensorrt", **options)
        self.env = {**os.environ, "LD_LIBRARY_PATH": str(libraries), "VISORD_FAKE_CUDA_DEVICES": "2",
                    "CUDA_VISIBLE_DEVICES": "1"}

    def spawn(self):
        self.process = subprocess.Popen(self.command, stdout=self.log_file, stderr=subprocess.STDOUT, env=self.env)


def fake_libraries():
    """As the Rust tests build them, in the same place."""
    folder = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "tmp" / "fake"
    ran = subprocess.run([ROOT / "tests" / "fake" / "build", folder], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder


class Tool:
    """A program of a Debian package, until the end of the `with`."""

    def __init__(self, folder, *command):
        self.log = tempfile.NamedTemporaryFile(dir=folder, suffix=".log")
        self.process = subprocess.Popen([str(c) for c in command], stdout=self.log, stderr=subprocess.STDOUT, cwd=folder)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.process.terminate()
        self.process.wait(PATIENCE)
        if kind:
            print(pathlib.Path(self.log.name).read_text(errors="replace")[-5000:])


class Prometheus(Tool):
    """With the repository's configuration; only targets and intervals are others."""

    def __init__(self, folder, targets, alertmanager_port):
        [self.port] = free_ports(1)
        config = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())
        self.original = copy.deepcopy(config)
        config["global"] = {key: INTERVAL for key in config["global"]}
        config["rule_files"] = [str(DOCKER / "prometheus" / pattern) for pattern in config["rule_files"]]
        places = {"visord": targets, "prometheus": [f"127.0.0.1:{self.port}"]}
        for job in config["scrape_configs"]:
            [static] = job["static_configs"]
            static["targets"] = places[job["job_name"]]
        [manager] = config["alerting"]["alertmanagers"]
        manager["static_configs"] = [{"targets": [f"127.0.0.1:{alertmanager_port}"]}]
        path = folder / "prometheus.yml"
        path.write_text(yaml.safe_dump(config))
        super().__init__(folder, "prometheus", f"--config.file={path}", f"--storage.tsdb.path={folder / 'tsdb'}",
                         f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn")

    def get(self, path, **parameters):
        answer = requests.post if path.startswith("query") else requests.get
        answer = answer(f"http://127.0.0.1:{self.port}/api/v1/{path}", **{
            "data" if path.startswith("query") else "params": parameters}, timeout=PATIENCE)
        body = answer.json()
        assert body["status"] == "success", f"{path} {parameters}: {body}"
        return body["data"]

    def ask(self, query):
        """The answer now: a list of labels and number."""
        found = self.get("query", query=query)["result"]
        return [(sample["metric"], float(sample["value"][1])) for sample in found]

    def one(self, query):
        """The only number, or None."""
        found = self.ask(query)
        assert len(found) <= 1, f"{query}: {found}"
        return found[0][1] if found else None

    def wait(self, query, wanted):
        """Waits until the query's only number is `wanted`."""
        end = time.monotonic() + PATIENCE
        while (got := self.one(query)) != wanted:
            assert time.monotonic() < end, f"{query} is {got}, not {wanted}"
            assert self.process.poll() is None, pathlib.Path(self.log.name).read_text()[-5000:]
            time.sleep(0.1)


def await_url(url, process):
    end = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(OSError):
            if requests.get(url, timeout=5).status_code == 200:
                return
        assert process.poll() is None, f"{url}: the process ended with {process.returncode}"
        assert time.monotonic() < end, f"{url} is not there"
        time.sleep(0.05)


def plain(host):
    """Every second one has two pictures."""
    answers = [requests.post(host.url("/v1/models/pictures/infer"), files=[("image", face())] * (1 + i % 2)) for i in range(PLAIN)]
    assert {a.status_code for a in answers} == {200}, answers[0].text


def paddle(host):
    body = json.dumps({"key": ["image"], "value": [b64(face())]})
    answers = [requests.post(host.url("/pictures/prediction"), data=body) for _ in range(PADDLE)]
    assert all(a.json()["err_no"] == 0 for a in answers), answers[0].text


def grpc(host):
    image = triton_grpc.InferInput("image", [1], "BYTES")
    image.set_data_from_numpy(np.array([face()], dtype=object))
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{host.grpc_port}") as client:
        for _ in range(GRPC):
            client.infer("pictures", [image])


def tensors(host):
    """Inputs of which every second one has another class on top on version 3 than on 1 and 2."""
    with requests.Session() as session:
        for i in range(OIP):
            x = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [(0.25, 2.0)[i % 2]]}
            answer = session.post(host.url("/v2/models/ab/infer"), json={"inputs": [x]})
            assert answer.status_code == 200, answer.text
            # A copy that finds a row waiting is given up.
            time.sleep(0.005)


def late(host, count=LATE):
    """A microsecond in the queue is too long."""
    x = {"name": "x", "datatype": "FP32", "shape": [1, 3, 16, 16], "data": [0] * 768}
    for _ in range(count):
        answer = requests.post(host.url("/v2/models/pictures/infer"), json={"inputs": [x], "parameters": {"timeout": 1}})
        assert answer.status_code == 504, answer.text


def unreadable(host, count=UNREADABLE):
    for _ in range(count):
        assert requests.post(host.url("/v1/models/pictures/infer"), data=b"no picture").status_code == 400


def one_of_each(host, gpu):
    """What makes series appear: a counter of errors is not there before the first error."""
    late(host, 1)
    unreadable(host, 1)
    assert requests.post(host.url("/v1/models/nothing/infer"), data=face()).status_code == 404
    for model, status in [("gone", 200), ("broken", 400), ("broken", 400)]:
        assert requests.post(host.url(f"/v2/repository/models/{model}/load")).status_code == status, model
    assert requests.post(host.url("/v2/repository/models/gone/unload")).status_code == 200
    # No TLS.
    with socket.create_connection(("127.0.0.1", gpu.http_port)) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
        raw.recv(100)


class Monitored:
    """What the tests look at."""

    def __init__(self, host, gpu, prometheus, alertmanager_port):
        self.host, self.gpu, self.prometheus, self.alertmanager_port = host, gpu, prometheus, alertmanager_port
        self.instances = {"host": f"127.0.0.1:{host.metrics_port}", "gpu": f"127.0.0.1:{gpu.metrics_port}"}

    def load(self, ca):
        host, gpu = self.host, self.gpu
        one_of_each(host, gpu)
        late_ones = f'visord_inference_requests_total{{instance="{self.instances["host"]}",outcome="deadline_exceeded"}}'
        self.prometheus.wait(late_ones, 1)
        # Two samples of what has begun, so that what follows is an increase.
        seen = self.prometheus.one(f"timestamp({late_ones})")
        self.prometheus.wait(f"timestamp({late_ones}) > bool {seen}", 1)
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            running = [pool.submit(one, host) for one in (plain, paddle, grpc, tensors, late, unreadable)]
            running += [pool.submit(pictures_over_tls, gpu, ca)]
            for one in running:
                one.result()
        self.prometheus.wait(late_ones, 1 + LATE)
        self.prometheus.wait(f'sum(visord_inference_requests_total{{instance="{self.instances["host"]}",outcome="success",protocol!="shadow"}})',
                             PLAIN + PADDLE + GRPC + OIP)


def pictures_over_tls(gpu, ca):
    with requests.Session() as session:
        for _ in range(ON_GPU):
            answer = session.post(gpu.url("/v1/models/m/infer"), data=face(), headers={"Content-Type": "image/jpeg"}, verify=str(ca))
            assert answer.status_code == 200, answer.text


@contextlib.contextmanager
def monitored(folder):
    """Everything, started, loaded and scraped."""
    assert BIN.exists(), f"no daemon at {BIN}: build it, or set VISORD_BIN"
    repository, on_gpu = folder / "models", folder / "gpu-models"
    write_models(repository)
    put(on_gpu, "m", "[image]\ndecoder = \"hybrid\"\n", {"1": flat()})
    ca = authority(folder, "root")
    certificate, key = identity(folder, "root", "server")
    host = Daemon("--model-control-mode", "explicit", "--load-model", "ab", "--load-model", "pictures",
                  backend="rten", repository=repository, wait=False)
    gpu = GpuDaemon("--plan-cache", str(folder / "plans"), "--tls-cert", str(certificate), "--tls-key", str(key), "--triton-metrics",
                    libraries=fake_libraries(), repository=on_gpu, wait=False)
    [alerts] = free_ports(1)
    with contextlib.ExitStack() as stack:
        targets = [f"127.0.0.1:{d.metrics_port}" for d in (host, gpu)]
        manager = stack.enter_context(Tool(
            folder, "prometheus-alertmanager", f"--config.file={DOCKER / 'alertmanager' / 'alertmanager.yml'}", "--cluster.listen-address=",
            f"--web.listen-address=127.0.0.1:{alerts}", f"--storage.path={folder / 'alertmanager'}"))
        prometheus = stack.enter_context(Prometheus(folder, targets, alerts))
        for daemon in (host, gpu):
            stack.enter_context(daemon)
        await_url(f"http://127.0.0.1:{prometheus.port}/-/ready", prometheus.process)
        await_url(f"http://127.0.0.1:{alerts}/-/ready", manager.process)
        for daemon in (host, gpu):
            daemon.await_ready()
        seen = Monitored(host, gpu, prometheus, alerts)
        seen.load(ca)
        yield seen
