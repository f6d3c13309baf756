"""Starts the real daemon for a test, and what the tests know about the shipped model and its golden files."""

import base64
import contextlib
import functools
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

import cv2
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
ENGINES = ROOT / "engines"
GOLDEN = ROOT / "tests" / "golden"
IMAGES = GOLDEN / "images"
BIN = pathlib.Path(os.environ.get("VISORD_BIN", ROOT / "target" / "debug" / "visord"))

MODEL = "ArcFace"
DIMENSIONS = 192
MIN_COSINE = 0.9995


def backends():
    """The backends that this machine has; `auto`'s preference first."""
    return ["openvino", "rten"] if openvino_dir() else ["rten"]


@functools.cache
def openvino_dir():
    folder = os.environ.get("VISORD_OPENVINO_DIR")
    return folder if folder and list(pathlib.Path(folder).glob("libopenvino_c.so*")) else None


def free_ports(count):
    """Ports that were free a moment ago, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


def wait_for(what, condition, seconds=30):
    """Waits until `condition()` holds, and returns what it gave."""
    end = time.monotonic() + seconds
    while not (seen := condition()):
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.02)
    return seen


class Daemon:
    """One `visord serve` process. `with Daemon(...) as daemon:` waits for readiness and ends it with SIGTERM."""

    def __init__(self, *flags, backend=None, repository=ENGINES, wait=True):
        self.http_port, self.grpc_port, self.metrics_port = free_ports(3)
        self.backend = backend or backends()[0]
        self.wait = wait
        self.log_file = tempfile.NamedTemporaryFile(prefix="visord-", suffix=".log")
        self.command = [
            str(BIN), "serve", "--model-repository", str(repository), "--host", "127.0.0.1",
            "--http-port", str(self.http_port), "--grpc-port", str(self.grpc_port),
            "--metrics-port", str(self.metrics_port), "--backend", self.backend, *flags,
        ]
        self.process = None
        self.signalled = False

    @property
    def address(self):
        return f"127.0.0.1:{self.http_port}"

    def url(self, path):
        return f"http://{self.address}{path}"

    @property
    def log(self):
        return pathlib.Path(self.log_file.name).read_text(errors="replace")

    def spawn(self):
        self.process = subprocess.Popen(self.command, stdout=self.log_file, stderr=subprocess.STDOUT)

    def status(self, path="/v2/health/ready"):
        """The status that a GET answers, or None when nothing listens."""
        try:
            with urllib.request.urlopen(self.url(path), timeout=5) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    def await_ready(self, seconds=60):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise AssertionError(f"the daemon ended with {self.process.returncode}:\n{self.log}")
            if self.status() == 200:
                return
            time.sleep(0.02)
        raise AssertionError(f"the daemon was not ready within {seconds} s:\n{self.log}")

    def sigterm(self):
        """One SIGTERM, however often it is asked for: a second one means "exit at once" to the daemon."""
        if not self.signalled and self.process.poll() is None:
            self.signalled = True
            self.process.send_signal(signal.SIGTERM)

    def terminate(self, seconds=40):
        """SIGTERM, unless it was sent before, and the exit status."""
        self.sigterm()
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the daemon did not end within {seconds} s of SIGTERM:\n{self.log}") from None

    def rss_bytes(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))

    def __enter__(self):
        if not BIN.exists():
            raise AssertionError(f"no daemon at {BIN}: build it, or set VISORD_BIN")
        self.spawn()
        try:
            if self.wait:
                self.await_ready()
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        return self

    def __exit__(self, kind, *_):
        try:
            returncode = self.terminate()
        finally:
            if kind is not None:
                print(self.log)
        if kind is None:
            assert returncode == 0, f"exit status {returncode} after SIGTERM:\n{self.log}"


def golden(name):
    return (IMAGES / name).read_bytes()


def face():
    return golden("face.jpg")


@functools.cache
def embeddings():
    """File name -> the embedding that OpenCV and ONNX Runtime give."""
    rows = json.loads((GOLDEN / "embeddings.json").read_text())["rows"]
    return {row["image"]: np.array(row["embedding"], np.float32) for row in rows}


def preprocess(encoded):
    """What PaddleServing's ArcFace example does with OpenCV, at this model's normalisation. FP32 [3, 112, 112]."""
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    image = cv2.cvtColor(cv2.resize(image, (112, 112)), cv2.COLOR_BGR2RGB)
    return ((image.astype(np.float32) - 127.5) / 128).transpose(2, 0, 1).copy()


@functools.cache
def pictures():
    """Four different pictures, as JPEG, PNG and BMP files made from the golden face."""
    face_pixels = cv2.imdecode(np.frombuffer(face(), np.uint8), cv2.IMREAD_COLOR)
    height, width = face_pixels.shape[:2]
    return (
        face(),
        cv2.imencode(".png", face_pixels[:, ::-1])[1].tobytes(),
        cv2.imencode(".jpg", face_pixels[height // 8:, width // 8:])[1].tobytes(),
        cv2.imencode(".bmp", cv2.resize(face_pixels, (97, 131)))[1].tobytes(),
    )


def b64(data):
    return base64.b64encode(data).decode()


def cosine(a, b):
    a, b = np.ravel(a).astype(np.float64), np.ravel(b).astype(np.float64)
    assert a.shape == b.shape, f"{a.shape} against {b.shape}"
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def assert_face(embedding, name="face.jpg"):
    reached = cosine(embedding, embeddings()[name])
    assert reached >= MIN_COSINE, f"{name}: cosine {reached:.6f} is below {MIN_COSINE}"


def v1_array(answer):
    """The first output of a plain-HTTP JSON answer."""
    output = answer["outputs"][0]
    return np.array(output["data"], np.float32).reshape(output["shape"])


def copy_repository(into, **keys):
    """A copy of engines/ with top-level `key = value` lines of ArcFace's model.toml set."""
    repository = pathlib.Path(into) / "engines"
    shutil.copytree(ENGINES, repository)
    path = repository / MODEL / "model.toml"
    lines = path.read_text().splitlines() if path.exists() else []
    lines = [line for line in lines if line.split("=")[0].strip() not in keys]
    path.write_text("\n".join([f"{key} = {json.dumps(value)}" for key, value in keys.items()] + lines) + "\n")
    return repository
