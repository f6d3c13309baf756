"""Images posted as they are: body, multipart, and the three forms of answer."""

import io
import json
import subprocess
import shutil

import numpy as np
import pytest
import requests

from daemon import DIMENSIONS, IMAGES, MODEL, assert_face, cosine, embeddings, face, golden, pictures, v1_array

PATH = f"/v1/models/{MODEL}/infer"


def post(daemon, data, content_type="image/jpeg", accept=None):
    headers = {"Content-Type": content_type, **({"Accept": accept} if accept else {})}
    return requests.post(daemon.url(PATH), data=data, headers=headers, timeout=30)


@pytest.mark.parametrize("content_type", ["image/jpeg", "image/png", "image/*", "application/octet-stream"])
def test_body_is_the_image(daemon, content_type):
    answer = post(daemon, face(), content_type)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"].startswith("application/json")
    reply = answer.json()
    assert (reply["model_name"], reply["model_version"]) == (MODEL, "1")
    (output,) = reply["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("embedding", "FP32", [1, DIMENSIONS])
    assert_face(v1_array(reply))


def test_every_golden_image(daemon):
    for name in embeddings():
        answer = post(daemon, golden(name), "application/octet-stream")
        assert answer.status_code == 200, f"{name}: {answer.text}"
        assert_face(v1_array(answer.json()), name)


def test_npy_answer(daemon):
    answer = post(daemon, face(), accept="application/x-npy")
    assert answer.headers["Content-Type"] == "application/x-npy"
    values = np.load(io.BytesIO(answer.content), allow_pickle=False)
    assert values.dtype == np.dtype("<f4") and values.shape == (1, DIMENSIONS)
    assert_face(values)


def test_raw_floats_answer(daemon):
    answer = post(daemon, face(), accept="application/octet-stream")
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert_face(np.frombuffer(answer.content, "<f4"))


def test_the_three_answers_are_the_same_numbers(plain):
    from_json = v1_array(post(plain, face()).json())
    from_npy = np.load(io.BytesIO(post(plain, face(), accept="application/x-npy").content))
    from_raw = np.frombuffer(post(plain, face(), accept="application/octet-stream").content, "<f4")
    np.testing.assert_allclose(from_json, from_npy, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(from_npy.ravel(), from_raw, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("accept", ["*/*", "application/*", "application/json;q=0.9, text/html;q=0.1"])
def test_accept_of_browsers_and_libraries_means_json(plain, accept):
    assert_face(v1_array(post(plain, face(), accept=accept).json()))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_multipart(daemon, count):
    files = [("image", (f"{i}.jpg", picture, "image/jpeg")) for i, picture in enumerate(pictures()[:count])]
    answer = requests.post(daemon.url(PATH), files=files, timeout=30)
    assert answer.status_code == 200, answer.text
    rows = v1_array(answer.json())
    assert rows.shape == (count, DIMENSIONS)
    for row, picture in zip(rows, pictures()):
        assert cosine(row, v1_array(post(daemon, picture).json())) >= 0.99999


def test_multipart_without_part_types(plain):
    answer = requests.post(plain.url(PATH), files=[("file", face()), ("file", face())], timeout=30)
    assert answer.status_code == 200, answer.text
    assert v1_array(answer.json()).shape == (2, DIMENSIONS)


def test_compressed_body(plain):
    import gzip

    answer = requests.post(
        plain.url(PATH), data=gzip.compress(face()), headers={"Content-Type": "image/jpeg", "Content-Encoding": "gzip"}
    )
    assert answer.status_code == 200, answer.text
    assert_face(v1_array(answer.json()))


def test_chunked_body(plain):
    answer = post(plain, (face()[i:i + 1000] for i in range(0, len(face()), 1000)))
    assert answer.status_code == 200, answer.text
    assert_face(v1_array(answer.json()))


def test_one_connection_serves_many_requests(plain):
    with requests.Session() as session:
        for _ in range(50):
            answer = session.post(plain.url(PATH), data=face(), headers={"Content-Type": "image/jpeg"})
            assert answer.status_code == 200, answer.text


@pytest.mark.skipif(not shutil.which("curl"), reason="no curl here")
def test_the_readme_curl_line(plain):
    done = subprocess.run(
        ["curl", "--silent", "--data-binary", "@face.jpg", "-H", "Content-Type: image/jpeg", plain.url(PATH)],
        cwd=IMAGES, capture_output=True, text=True, check=True,
    )
    assert_face(v1_array(json.loads(done.stdout)))


@pytest.mark.skipif(not shutil.which("curl"), reason="no curl here")
def test_curl_with_a_large_body_and_expect_100(plain):
    large = face() + bytes(2_000_000)
    done = subprocess.run(
        ["curl", "--silent", "--data-binary", "@-", "-H", "Content-Type: image/jpeg", "-H", "Expect: 100-continue",
         plain.url(PATH)], input=large, capture_output=True, check=True,
    )
    assert_face(v1_array(json.loads(done.stdout)))
