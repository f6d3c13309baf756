"""HAProxy and nginx with the configurations of deploy/, before daemons, and clients that keep them busy."""

import contextlib
import csv
import io
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import threading
import time

import numpy as np
import pytest
import requests
import tritonclient.grpc as triton

from daemon import ROOT, Daemon, free_ports, wait_for
from networks import Net

NAME = "small"
VALUES = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 64)
# What the shipped configurations name, to be replaced: (host of server a, of server b).
HOSTS = ("10.0.0.1", "10.0.0.2")


def need(program):
    """The program's path. Where it is missing CI fails, and elsewhere it is told."""
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if not found and os.environ.get("CI"):
        pytest.fail(f"{program} is not installed, and in CI it must be: .ci/run")
    if not found:
        pytest.skip(f"NOT TESTED: this machine has no {program}")
    return found


def repository(folder):
    """A model repository with one network of two layers."""
    net = Net()
    hidden = net("Relu", net("MatMul", net.input("x", [64]), net.normal(64, 64)))
    net("Gemm", hidden, net.normal(8, 64), net.normal(8), transB=1, to="y")
    net.output("y", [8])
    path = pathlib.Path(folder) / NAME / "1"
    path.mkdir(parents=True)
    (path / "model.onnx").write_bytes(net.model().SerializeToString())
    return pathlib.Path(folder)


def start_again(daemon):
    """Another process on the same ports, as the one before has ended."""
    daemon.signalled = False
    daemon.spawn()
    daemon.await_ready()


def served(daemon):
    """Requests that the daemon's process has answered, by both protocols together; 0 while it does not answer."""
    try:
        text = requests.get(daemon.url("/metrics"), timeout=5).text
    except requests.RequestException:
        return 0
    found = re.findall(rf'^visord_inference_requests_total\{{model="{NAME}".*outcome="success"\}} (\d+)$', text, re.M)
    return sum(int(count) for count in found)


def replaced(text, pairs):
    """The text with each shipped word replaced: every one of them has to be there."""
    for pattern, into in pairs:
        text, count = re.subn(pattern, into, text)
        assert count, f"the configuration has nothing like {pattern}"
    return text


class Balancer:
    """One balancer process before two daemons. `with` starts it, and ends it with SIGTERM."""

    def __init__(self, folder, daemons):
        self.folder = pathlib.Path(folder)
        self.daemons = daemons
        self.http_port, self.grpc_port = free_ports(2)
        self.output = self.folder / "output"

    def servers(self):
        """The shipped servers' addresses, and the daemons' in their place."""
        for host, daemon in zip(HOSTS, self.daemons):
            address = re.escape(host)
            yield rf"{address}:8001( proto h2 check port) 8000", rf"127.0.0.1:{daemon.grpc_port}\1 {daemon.http_port}"
            yield rf"{address}:8000", f"127.0.0.1:{daemon.http_port}"
            yield rf"{address}:8001", f"127.0.0.1:{daemon.grpc_port}"

    def __enter__(self):
        command = self.command()
        with self.output.open("w") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            wait_for("the balancer answers", self.answers)
        except BaseException:
            self.stop()
            raise
        return self

    def answers(self):
        assert self.process.poll() is None, f"the balancer ended:\n{self.output.read_text()}"
        with contextlib.suppress(requests.RequestException):
            return requests.get(f"http://127.0.0.1:{self.http_port}/v2/health/ready", timeout=5).status_code == 200

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __exit__(self, kind, *_):
        self.stop()
        if kind is not None:
            print(self.output.read_text()[-4000:])


class HAProxy(Balancer):
    """deploy/haproxy/haproxy.cfg."""

    shipped = ROOT / "deploy" / "haproxy" / "haproxy.cfg"

    def command(self):
        # A socket's path may have 107 bytes, and pytest's folders are long.
        self.socket = pathlib.Path(f"/tmp/visord-{os.getpid()}-{self.http_port}.sock")
        changes = [*self.servers(),
                   ("/run/haproxy/visord.sock", str(self.socket)),
                   ("bind :8000", f"bind 127.0.0.1:{self.http_port}"),
                   ("bind :8001", f"bind 127.0.0.1:{self.grpc_port}")]
        path = self.folder / "haproxy.cfg"
        path.write_text(replaced(self.shipped.read_text(), changes))
        return [need("haproxy"), "-db", "-f", str(path)]

    def stop(self):
        super().stop()
        self.socket.unlink(missing_ok=True)

    def states(self, daemon):
        """UP or DOWN of the daemon in both backends, with how often requests were tried again."""
        name = "ab"[self.daemons.index(daemon)]
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.socket))
            connection.sendall(b"show stat\n")
            answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
        rows = csv.DictReader(io.StringIO(answer.removeprefix("# ")))
        own = [row for row in rows if row["svname"] == name]
        return {row["pxname"]: (row["status"].split(" ")[0], int(row["wretr"]) + int(row["wredis"])) for row in own}

    def removed(self, daemon):
        """Whether its health check has taken the daemon out."""
        return all(status == "DOWN" for status, _ in self.states(daemon).values())

    def tries(self, daemon):
        """How often requests that were sent to the daemon were tried again, there or elsewhere."""
        return sum(retried for _, retried in self.states(daemon).values())

    def tries_allowed(self, _seconds):
        """Of a daemon that is out."""
        return 0


class Nginx(Balancer):
    """deploy/nginx/visord.conf, in the smallest nginx.conf that can hold it."""

    shipped = ROOT / "deploy" / "nginx" / "visord.conf"

    def command(self):
        self.log = self.folder / "access.log"
        changes = [*((p, i) for p, i in self.servers() if "proto" not in p),
                   ("listen 8000", f"listen 127.0.0.1:{self.http_port}"),
                   ("listen 8001", f"listen 127.0.0.1:{self.grpc_port}"),
                   ("/var/log/nginx/visord.log", str(self.log))]
        (self.folder / "visord.conf").write_text(replaced(self.shipped.read_text(), changes))
        user = "user root;" if os.getuid() == 0 else ""
        temporary = "".join(f"{kind}_temp_path {self.folder}/{kind};" for kind in
                            ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        path = self.folder / "nginx.conf"
        # Two workers, so that what they have to share is shared.
        path.write_text(f"{user} daemon off; worker_processes 2; pid {self.folder}/pid; error_log stderr warn;\n"
                        f"events {{}}\nhttp {{ {temporary} include {self.folder}/visord.conf; }}\n")
        return [need("nginx"), "-c", str(path), "-p", str(self.folder), "-e", "stderr"]

    def tries(self, daemon):
        """Requests of the access log that met the daemon and had to go elsewhere."""
        ports = rf"(?:{daemon.http_port}|{daemon.grpc_port})"
        return len(re.findall(rf"upstream=[^=]*127\.0\.0\.1:{ports},", self.log.read_text()))

    def removed(self, daemon):
        """nginx has no health check: a failed request takes a server out, of each of the two upstreams."""
        log, ports = self.log.read_text(), (daemon.http_port, daemon.grpc_port)
        return all(re.search(rf"upstream=[^=]*127\.0\.0\.1:{port},", log) for port in ports)

    def tries_allowed(self, seconds):
        """One each fail_timeout, which is 2 s, in each upstream; and one more each, at the edges."""
        return 2 * (int(seconds / 2) + 1)


def by_http(balancer, session, padding=0):
    """The network's output, by HTTP; `padding` makes the body so many bytes larger."""
    body = {"inputs": [{"name": "x", "shape": [1, 64], "datatype": "FP32", "data": VALUES.ravel().tolist()}]}
    url = f"http://127.0.0.1:{balancer.http_port}/v2/models/{NAME}/infer"
    headers = {"Content-Type": "application/json"}
    answer = session.post(url, json.dumps(body) + " " * padding, headers=headers, timeout=60)
    assert answer.status_code == 200, f"{answer.status_code} {answer.text[:200]}"
    return np.array(answer.json()["outputs"][0]["data"], np.float32)


def tensor():
    made = triton.InferInput("x", [1, 64], "FP32")
    made.set_data_from_numpy(VALUES)
    return made


def by_grpc(client, padding=0):
    """The network's output, by gRPC; `padding` makes the message so many bytes larger."""
    parameters = {"padding": "x" * padding} if padding else None
    return client.infer(NAME, [tensor()], client_timeout=60, parameters=parameters).as_numpy("y").ravel()


class Load:
    """Clients that send one request after another through a balancer, until the end of `with`."""

    HTTP, GRPC = 3, 2

    def __init__(self, balancer):
        self.balancer = balancer
        self.over = threading.Event()
        self.lock = threading.Lock()
        # How many were answered, by protocol; what failed, as (protocol, start, why); since when each client waits.
        self.done = {"http": 0, "grpc": 0}
        self.failed = []
        self.waits = {}

    def __enter__(self):
        # What is right, by the first answer: all daemons run the same network on the same machine.
        self.right = None
        self.right = by_http(self.balancer, requests.Session())
        kinds = ["http"] * self.HTTP + ["grpc"] * self.GRPC
        self.threads = [threading.Thread(target=self.run, args=(kind, at)) for at, kind in enumerate(kinds)]
        [thread.start() for thread in self.threads]
        return self

    def __exit__(self, *_):
        self.over.set()
        [thread.join() for thread in self.threads]

    def run(self, kind, at):
        if kind == "http":
            session = requests.Session()
            call = lambda: by_http(self.balancer, session)  # noqa: E731
        else:
            client = triton.InferenceServerClient(f"127.0.0.1:{self.balancer.grpc_port}")
            call = lambda: by_grpc(client)  # noqa: E731
        while not self.over.is_set():
            started = time.monotonic()
            with self.lock:
                self.waits[at] = (kind, started)
            try:
                np.testing.assert_allclose(call(), self.right, rtol=1e-5)
                why = None
            except Exception as error:  # Whatever a client can be told, it is a failure.
                why = f"{type(error).__name__}: {error}"
            with self.lock:
                del self.waits[at]
                if why is None:
                    self.done[kind] += 1
                else:
                    self.failed.append((kind, started, why))
            # The machine has two cores, and they are for the servers.
            time.sleep(0.01)

    def answered(self):
        with self.lock:
            return dict(self.done)

    def stuck(self, seconds=0.5):
        """The protocols of the clients that have waited for so long."""
        now = time.monotonic()
        with self.lock:
            return [kind for kind, started in self.waits.values() if now - started > seconds]

    def await_earlier(self):
        """Waits until every request that was sent before now has its answer."""
        now = time.monotonic()

        def answered():
            with self.lock:
                return all(started > now for _, started in self.waits.values())

        wait_for("answers to what was sent before", answered)

    def await_more(self, count=50):
        """Waits until so many more were answered, in each protocol."""
        before = self.answered()
        wait_for(f"{count} more answers", lambda: all(n >= before[k] + count for k, n in self.answered().items()))


def daemons(models, exit_delay_seconds):
    """Two, not started."""
    flags = ("--exit-delay-secs", str(exit_delay_seconds), "--exit-timeout-secs", "20")
    return [Daemon(*flags, repository=models, backend="rten") for _ in range(2)]
