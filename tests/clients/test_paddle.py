"""PaddleServing's pipeline HTTP, spoken as its example client does: JSON in `data=`, no content type."""

import json
import re

import numpy as np
import pytest
import requests

from daemon import DIMENSIONS, Daemon, assert_face, b64, cosine, face, pictures

FIELDS = ["err_no", "err_msg", "key", "value", "tensors"]


def predict(daemon, fields, path="/ArcFace/prediction", **options):
    body = fields if isinstance(fields, (str, bytes)) else json.dumps(fields)
    return requests.post(daemon.url(path), data=body, timeout=30, **options)


def one(data):
    return {"key": ["image"], "value": [b64(data)]}


def evaluated(text):
    """What a client's `eval(value)` after `from numpy import *` gives."""
    return eval(text, {"__builtins__": {}}, {"array": np.array, "float32": np.float32})


def succeeded(answer):
    assert answer.status_code == 200, answer.text
    reply = answer.json()
    assert (reply["err_no"], reply["err_msg"]) == (0, ""), reply
    assert reply["key"] == ["out"]
    assert len(reply["value"]) == 1
    return evaluated(reply["value"][0])


def failed(answer, err_no):
    assert answer.status_code == 200, f"{answer.status_code}: {answer.text}"
    reply = answer.json()
    assert reply["err_no"] == err_no, reply
    assert reply["err_msg"], "an error has a text"
    assert reply["key"] == [] and reply["value"] == [], reply
    return reply["err_msg"]


def test_one_image(daemon):
    answer = predict(daemon, one(face()))
    out = succeeded(answer)
    assert out.shape == (1, DIMENSIONS) and out.dtype == np.float32
    assert_face(out)
    assert answer.headers["Content-Type"].startswith("application/json")


def test_fields_are_all_there_in_order(plain):
    pairs = json.loads(predict(plain, one(face())).text, object_pairs_hook=list)
    assert [name for name, _ in pairs] == FIELDS
    assert dict(pairs)["tensors"] == []


def test_the_value_is_what_numpy_prints(plain):
    text = predict(plain, one(face())).json()["value"][0]
    assert re.match(r"array\(\[\[ ?-?\d", text), text[:40]
    assert text.rstrip().endswith("dtype=float32)"), text[-40:]
    with np.printoptions(threshold=10**9):
        assert repr(evaluated(text)) == text, "numpy prints the same numbers otherwise"


@pytest.mark.parametrize("content_type", [
    None, "application/json", "application/json; charset=utf-8", "application/x-www-form-urlencoded", "text/plain",
])
def test_content_type_is_not_looked_at(plain, content_type):
    headers = {"Content-Type": content_type} if content_type else {}
    assert_face(succeeded(predict(plain, one(face()), headers=headers)))


def test_unknown_fields_are_ignored(plain):
    fields = {**one(face()), "logid": "7", "clientip": "10.0.0.1", "name": "", "method": "", "more": {"a": [1]}}
    assert_face(succeeded(predict(plain, fields)))
    assert_face(succeeded(predict(plain, {**fields, "logid": 7, "tensors": []})))


def test_the_method_in_the_path_is_not_checked(plain):
    assert_face(succeeded(predict(plain, one(face()), path="/ArcFace/anything")))


def test_several_images(plain):
    fields = {"key": [f"image_{i}" for i in range(4)], "value": [b64(p) for p in pictures()]}
    rows = succeeded(predict(plain, fields))
    assert len(rows) == 4
    for row, picture in zip(rows, pictures()):
        assert cosine(row, succeeded(predict(plain, one(picture)))) >= 0.99999


APPLICATION_ERRORS = [
    ("wrong service", one(b""), "/Nothing/prediction", 3002),
    ("not an image", one(b"hello"), "/ArcFace/prediction", 10000),
    ("bad base64", {"key": ["image"], "value": ["!!!"]}, "/ArcFace/prediction", 10000),
    ("no image", {"key": [], "value": []}, "/ArcFace/prediction", 10000),
    ("fewer values than keys", {"key": ["image"], "value": []}, "/ArcFace/prediction", 8000),
    ("empty object", {}, "/ArcFace/prediction", 10000),
    ("empty body", "", "/ArcFace/prediction", 10000),
]


@pytest.mark.parametrize(
    "label, fields, path, err_no", APPLICATION_ERRORS, ids=[row[0] for row in APPLICATION_ERRORS]
)
def test_application_errors_are_http_200(plain, label, fields, path, err_no):
    text = failed(predict(plain, fields, path=path), err_no)
    if label == "wrong service":
        assert text == "Failed to inference: Service name error."


@pytest.mark.parametrize("body", ["{", "[]]", "{\"key\": 1}", "nonsense", "{\"key\":[\"image\"],\"value\":[1]}"])
def test_malformed_json_is_a_gateway_error(plain, body):
    answer = predict(plain, body)
    assert answer.status_code == 400, answer.text
    reply = answer.json()
    assert reply["code"] == 3, reply
    assert reply["error"] and reply["error"] == reply["message"]
    assert reply["details"] == []


@pytest.mark.parametrize("verb", ["GET", "PUT", "DELETE", "PATCH"])
def test_wrong_verb(plain, verb):
    answer = requests.request(verb, plain.url("/ArcFace/prediction"))
    assert answer.status_code == 405
    assert answer.text.strip() == "Method Not Allowed"


def test_wrong_path_shape(plain):
    answer = predict(plain, one(face()), path="/ArcFace/prediction/more")
    assert answer.status_code == 404
    assert answer.text.strip() == "Not Found"


def test_numbers_of_older_versions():
    with Daemon("--paddle-err-no", "0.6") as old:
        assert_face(succeeded(predict(old, one(face()))))
        failed(predict(old, one(face()), path="/Nothing/prediction"), 7)
        failed(predict(old, one(b"hello")), 8)
        failed(predict(old, {"key": ["image"], "value": []}), 4)
