"""A running daemon and its metrics."""

import collections
import contextlib
import http.client
import os
import pathlib
import signal
import subprocess
import time

from .tools import Failed, limited, tail


def children(pid):
    """Processes below `pid`."""
    parents = collections.defaultdict(list)
    for entry in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = entry.read_text().rpartition(")")[2].split()
            parents[int(fields[1])].append(int(entry.parent.name))
    found, waiting = [], [pid]
    while waiting:
        below = parents[waiting.pop()]
        found += below
        waiting += below
    return found


class Daemon:
    """A running `visord serve`; `with` waits until it is ready and ends it."""

    def __init__(self, check, name, repository, flags=(), env=None, wrapper=(), ready_seconds=60):
        self.log_path = check.logs / (name + ".log")
        self.ready_seconds = limited(ready_seconds)
        self.command = [str(c) for c in (
            *wrapper, check.visord, "serve", "--model-repository", repository, "--backend", "tensorrt", "--http-port", "0",
            "--grpc-port", "0", "--metrics-port", "0", *flags)]
        for flag, value in (("--tensorrt-dir", check.lib), ("--plan-cache", check.scratch / "plans")):
            if flag not in flags:
                self.command += [flag, str(value)]
        self.env = dict(os.environ, **(env or {}))
        self.wrapped = bool(wrapper)
        self.process = self.port = self.ready_after = None

    @property
    def log(self):
        return self.log_path.read_text(errors="replace")

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        begin = time.monotonic()
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, env=self.env)
        try:
            while time.monotonic() - begin < self.ready_seconds:
                if self.process.poll() is not None:
                    raise Failed("the daemon ended with {}:\n{}".format(self.process.returncode, tail(self.log)))
                if self.is_ready():
                    self.ready_after = time.monotonic() - begin
                    return
                time.sleep(0.02)
            raise Failed("the daemon was not ready within {:.0f} s:\n{}".format(self.ready_seconds, tail(self.log)))
        except BaseException:
            self.stop()
            raise

    def is_ready(self):
        if self.port is None:
            line = next((l for l in self.log.splitlines() if " http=" in l), None)
            if line is None:
                return False
            self.port = int(line.split(" http=")[1].split()[0].rpartition(":")[2])
        try:
            return self.get("/v2/health/ready")[0] == 200
        except OSError:
            return False

    def get(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def server_pid(self):
        """The daemon's own process, below a profiler's."""
        if not self.wrapped:
            return self.process.pid
        for pid in children(self.process.pid):
            with contextlib.suppress(OSError):
                if os.path.basename(os.readlink("/proc/{}/exe".format(pid))) == pathlib.Path(self.command[0]).name:
                    continue
                if b"serve" in pathlib.Path("/proc/{}/cmdline".format(pid)).read_bytes().split(b"\0")[1:2]:
                    return pid
        return self.process.pid

    def stop(self, seconds=30):
        """SIGTERM and the exit status, None if it had to be killed."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.server_pid(), signal.SIGTERM)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                for pid in [*children(self.process.pid), self.process.pid]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                self.process.wait()
                return None
        return self.process.returncode

    def metrics(self):
        """Lines of /metrics: name with labels -> value."""
        found = {}
        for line in self.get("/metrics")[1].splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                found[name] = float(value)
        return found

    def cpu_seconds(self):
        fields = pathlib.Path("/proc/{}/stat".format(self.server_pid())).read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def metric(lines, name, **labels):
    """The sum of a metric's lines that have these labels."""
    words = ['{}="{}"'.format(k, v) for k, v in labels.items()]
    return sum(v for k, v in lines.items() if k.split("{")[0] == name and all(w in k for w in words))
