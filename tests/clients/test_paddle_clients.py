"""PaddleServing's own PipelineClient over gRPC, from its packages: 0.9.0, and 0.6.3, which numbers the fields of a
request otherwise. Each lives in an environment of its own (`make paddle-clients`), imported through paddle/run.py."""

import json
import pathlib
import subprocess

import numpy as np
import pytest

from daemon import DIMENSIONS, IMAGES, ROOT, assert_face, face, preprocess

HERE = pathlib.Path(__file__).parent / "paddle"
VERSIONS = ["0.9.0", "0.6.3"]


def python_of(version):
    python = ROOT / "target" / f"paddle-{version}" / "bin" / "python"
    assert python.exists(), f"{python} is not there: run make paddle-clients"
    return python


@pytest.fixture(scope="module", params=VERSIONS)
def answers(request, plain, tmp_path_factory):
    """The version, and what its client was answered, by label."""
    folder = tmp_path_factory.mktemp("paddle")
    more = []
    if request.param != "0.6.3":
        more = [folder / "face.npy"]
        np.save(more[0], preprocess(face())[None])
    command = [python_of(request.param), HERE / "run.py", HERE / "calls.py", f"127.0.0.1:{plain.grpc_port}", IMAGES]
    # The package writes logs where it is imported.
    ran = subprocess.run([str(part) for part in (*command, *more)], cwd=folder, timeout=120,
                         capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
    lines = [line.removeprefix("ANSWER ") for line in ran.stdout.splitlines() if line.startswith("ANSWER ")]
    return request.param, {answer["label"]: answer for answer in map(json.loads, lines)}


def rows(answer):
    assert (answer["err_no"], answer["err_msg"]) == (0, ""), answer
    assert answer["key"] == ["out"], answer
    return eval(answer["value"][0], {"__builtins__": {}}, {"array": np.array, "float32": np.float32})


@pytest.mark.parametrize("label, names", [
    ("one image", ["face.jpg"]),
    ("log id", ["face.jpg"]),
    ("client address", ["face.jpg"]),
    ("profile", ["face.jpg"]),
    ("asynchronous, face.jpg", ["face.jpg"]),
    ("asynchronous, astronaut.jpg", ["astronaut.jpg"]),
    ("two images", ["face.jpg", "astronaut.jpg"]),
    ("text as tensor", ["face.jpg"]),
    ("ready-made tensor", ["face.jpg"]),
])
def test_right_answers(answers, label, names):
    version, told = answers
    if "tensor" in label and version == "0.6.3":
        assert label not in told, f"{version} has no tensors"
        return
    embeddings = rows(told[label])
    assert len(embeddings) == len(names), f"{version}: {label}"
    for embedding, name in zip(embeddings, names):
        assert np.size(embedding) == DIMENSIONS
        assert_face(embedding, name)


@pytest.mark.parametrize("label, err_no", [
    ("not an image", {"0.9.0": 10000, "0.6.3": 8}),
    ("no base64", {"0.9.0": 10000, "0.6.3": 8}),
    ("nothing", {"0.9.0": 10000, "0.6.3": 8}),
    ("numpy text", {"0.9.0": 10000, "0.6.3": 8}),
    ("tensor in place of an image", {"0.9.0": 7000}),
    ("pickled", {"0.9.0": 10000}),
])
def test_errors_have_the_numbers_of_the_version_that_asks(answers, label, err_no):
    version, told = answers
    if version not in err_no:
        assert label not in told, f"{version} cannot send this"
        return
    answer = told[label]
    assert answer["err_no"] == err_no[version], answer
    assert answer["err_msg"] and not answer["key"] and not answer["value"], answer
