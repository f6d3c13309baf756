"""The programs of docs/clients.md, each run against the real daemon.

Those marked `toolchain` need a compiler or packages that few machines have; `make test-languages` builds and runs them.
What this machine lacks is skipped as NOT TESTED; what it has must work.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from daemon import DIMENSIONS, ROOT, embeddings
from test_paddle_clients import HERE as PADDLE
from test_paddle_clients import VERSIONS, python_of

CLIENTS = ROOT / "clients"
PAGE = ROOT / "docs" / "clients.md"
BUILT = ROOT / "target" / "clients"
IMAGE = ROOT / "tests" / "golden" / "images" / "face.jpg"
# Where the versions of pom.xml come from Debian 12's packages; elsewhere Maven fetches them.
DEBIAN_MAVEN = pathlib.Path("/usr/share/maven-repo/io/grpc/grpc-netty/1.41.3")

# The first values are about 1, the norm is 61.6. OpenCV's JPEG decoder, and another engine in FP32, move the last
# digits of a value; with a cosine of 0.9995 to the reference, the smallest allowed anywhere, they would move by 1.
VALUE_TOLERANCE = 0.02
NORM_TOLERANCE = 0.05


def run(command, **options):
    ran = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=550, **options)
    assert ran.returncode == 0, f"{command}: {ran.returncode}\n{ran.stdout[-3000:]}\n{ran.stderr[-3000:]}"
    return ran.stdout


def check(text):
    """The two lines that every program prints last."""
    summary, values = text.strip().splitlines()[-2:]
    size, norm = re.fullmatch(r"(\d+) values, norm (\d+\.\d{6})", summary).groups()
    expected = embeddings()[IMAGE.name]
    assert int(size) == DIMENSIONS
    assert abs(float(norm) - np.linalg.norm(expected)) <= NORM_TOLERANCE, text
    first = [float(value) for value in values.split(" ")]
    np.testing.assert_allclose(first, expected[:5], rtol=0, atol=VALUE_TOLERANCE, err_msg=text)


def need(*tools, packages=()):
    """Skips, loudly, where a tool is missing."""
    missing = [tool for tool in tools if not shutil.which(tool)]
    missing += [p for p in packages if subprocess.run(["pkg-config", "--exists", p]).returncode]
    if missing:
        pytest.skip(f"NOT TESTED: this machine has no {', '.join(missing)}")


@pytest.mark.parametrize("program, url", [
    ("triton_http.py", "{http}"),
    ("triton_grpc.py", "{grpc}"),
    ("plain_http.py", "http://{http}"),
])
def test_python(plain, program, url):
    where = url.format(http=plain.address, grpc=f"127.0.0.1:{plain.grpc_port}")
    check(run([sys.executable, CLIENTS / "python" / program, IMAGE, where]))


@pytest.mark.parametrize("version", VERSIONS)
def test_paddle(plain, version, tmp_path):
    program = CLIENTS / "python" / "paddle_pipeline.py"
    check(run([python_of(version), PADDLE / "run.py", program, IMAGE, f"127.0.0.1:{plain.grpc_port}"], cwd=tmp_path))


def test_curl(plain):
    need("curl", "awk", "sed")
    check(run([CLIENTS / "curl" / "infer.sh", IMAGE, plain.url("")]))


def test_curl_shows_the_error(plain):
    need("curl")
    ran = subprocess.run([CLIENTS / "curl" / "infer.sh", __file__, plain.url("")], capture_output=True, text=True)
    assert ran.returncode == 1 and '"error"' in ran.stderr and not ran.stdout, (ran.returncode, ran.stdout, ran.stderr)


def test_node_http(plain):
    need("node")
    check(run(["node", CLIENTS / "node" / "http.mjs", IMAGE, plain.url("")]))


@pytest.mark.toolchain
def test_node_grpc(plain):
    need("node", "npm")
    app = BUILT / "clients" / "node"  # as deep as in the repository: the program looks for ../../proto
    app.mkdir(parents=True, exist_ok=True)
    for file in ("grpc.mjs", "package.json", "package-lock.json", ".npmrc"):
        shutil.copy(CLIENTS / "node" / file, app)
    shutil.copytree(ROOT / "proto", BUILT / "proto", dirs_exist_ok=True)
    run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=app)
    check(run(["node", "grpc.mjs", IMAGE, f"127.0.0.1:{plain.grpc_port}"], cwd=app))


@pytest.mark.toolchain
def test_cpp(plain):
    need("g++", "make", "pkg-config", "protoc", "grpc_cpp_plugin")
    need(packages=["grpc++", "protobuf"])
    out = BUILT / "cpp"
    run(["make", "-C", CLIENTS / "cpp", f"OUT={out}", "CXXFLAGS=-O0 -Wall -Wextra -Werror -Wno-unused-parameter"])
    check(run([out / "client", IMAGE, f"127.0.0.1:{plain.grpc_port}"]))
    nobody = subprocess.run([out / "client", IMAGE, "127.0.0.1:1"], capture_output=True, text=True, timeout=60)
    assert nobody.returncode == 1 and "status 14" in nobody.stderr, nobody


@pytest.mark.toolchain
def test_java(plain):
    need("mvn", "javac", "protoc", "grpc_java_plugin")
    command = ["mvn", "--batch-mode", "--quiet", f"-Dbuild.dir={BUILT / 'java'}"]
    if DEBIAN_MAVEN.is_dir():
        command += ["--offline", "-Dmaven.repo.local=/usr/share/maven-repo", "-Djsr250.version=debian"]
    command += ["compile", "exec:java", f"-Dexec.args={IMAGE} 127.0.0.1:{plain.grpc_port}"]
    text = run(command, cwd=CLIENTS / "java", env={**os.environ, "MAVEN_OPTS": "-Xshare:auto"})
    check(re.sub(r"\x1b\[[0-9;]*m", "", text))


def test_the_page_shows_the_programs_as_they_are():
    page = PAGE.read_text()
    blocks = re.findall(r"\[`([^`]+)`\]\(\.\./clients/[^)]+\):?\n\n```\w*\n(.*?)```\n", page, re.DOTALL)
    assert blocks
    for name, text in blocks:
        assert text == (ROOT / name).read_text(), f"docs/clients.md shows another {name}: copy the file into the page"
    for path in CLIENTS.rglob("*"):
        if path.suffix in (".py", ".mjs", ".cpp", ".java", ".sh"):
            assert f"](../{path.relative_to(ROOT)})" in page, f"docs/clients.md does not mention {path.name}"
