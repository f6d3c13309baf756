"""Every kind of bad request: its status, and a text that names the field or the limit."""

import gzip
import json
import struct
import zlib

import pytest
import requests

from daemon import MODEL, Daemon, b64, face

V1 = f"/v1/models/{MODEL}/infer"
V2 = f"/v2/models/{MODEL}/infer"


def png_header(width, height):
    """A PNG that claims these sides and has almost no data."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    ihdr = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def v2(**changes):
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [b64(face())], **changes}
    return json.dumps({"inputs": [{key: value for key, value in tensor.items() if value is not None}]})


def v2_binary(declared, body, header_bytes=None):
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": declared}}
    text = json.dumps({"inputs": [tensor]}).encode()
    return text + body, {"Inference-Header-Content-Length": str(header_bytes if header_bytes is not None else len(text))}


HEIC = struct.pack(">I", 24) + b"ftypheic" + bytes(4) + b"mif1heic" + bytes(64)
AVIF = struct.pack(">I", 24) + b"ftypavif" + bytes(4) + b"mif1avif" + bytes(64)

JPEG_TYPE = {"Content-Type": "image/jpeg"}
ELEMENT = struct.pack("<I", len(face())) + face()

# label, path, body, headers, status, words of which the text has one (in lower case)
TABLE = [
    ("not an image", V1, b"hello, this is text", JPEG_TYPE, 400, ["image"]),
    ("empty body", V1, b"", JPEG_TYPE, 400, ["empty", "0 bytes", "image"]),
    ("truncated JPEG", V1, face()[: len(face()) // 2], JPEG_TYPE, 400, ["truncat", "ends", "incomplete"]),
    ("JPEG cut in its header", V1, face()[:40], JPEG_TYPE, 400, ["truncat", "ends", "incomplete", "header"]),
    ("zero width", V1, png_header(0, 10), JPEG_TYPE, 400, ["0", "zero", "width"]),
    ("huge dimensions", V1, png_header(100_000, 100_000), JPEG_TYPE, 400, ["max_image_pixels", "50000000", "pixels"]),
    ("HEIC", V1, HEIC, JPEG_TYPE, 400, ["heic", "heif"]),
    ("AVIF", V1, AVIF, JPEG_TYPE, 400, ["avif"]),
    ("PDF", V1, b"%PDF-1.7\n" + bytes(100), JPEG_TYPE, 400, ["pdf", "image"]),
    ("content type", V1, face(), {"Content-Type": "text/html"}, 415, ["text/html", "content-type"]),
    ("content encoding", V1, face(), {**JPEG_TYPE, "Content-Encoding": "br"}, 415, ["br", "content-encoding"]),
    ("corrupt gzip", V1, b"\x1f\x8b" + bytes(30), {**JPEG_TYPE, "Content-Encoding": "gzip"}, 400, ["gzip"]),
    ("truncated gzip", V1, gzip.compress(face())[:500], {**JPEG_TYPE, "Content-Encoding": "gzip"}, 400, ["gzip"]),
    ("multipart without boundary", V1, face(), {"Content-Type": "multipart/form-data"}, 400, ["boundary"]),
    ("multipart with nothing", V1, b"--b--\r\n", {"Content-Type": "multipart/form-data; boundary=b"}, 400,
     ["no ", "empty", "file", "multipart"]),
    ("broken multipart", V1, b"--b\r\nContent-Disp", {"Content-Type": "multipart/form-data; boundary=b"}, 400,
     ["multipart"]),
    ("unknown model", "/v1/models/nothing/infer", face(), JPEG_TYPE, 404, ["arcface"]),
    ("unknown model, v2", "/v2/models/nothing/infer", v2(), {}, 404, ["arcface"]),
    ("unknown version", f"/v2/models/{MODEL}/versions/999/infer", v2(), {}, 404, ["1"]),
    ("unknown path", "/v2/nothing", b"{}", {}, 404, ["/v2/nothing", "path", "not found"]),
    ("malformed JSON", V2, '{"inputs": [\n  {"name": }\n]}', {}, 400, ["line 2"]),
    ("JSON that ends early", V2, '{"inputs": [', {}, 400, ["line 1"]),
    ("JSON of another kind", V2, "[1, 2]", {}, 400, ["line", "object", "inputs", "map"]),
    ("no inputs", V2, "{}", {}, 400, ["inputs"]),
    ("empty inputs", V2, '{"inputs": []}', {}, 400, ["inputs", "input"]),
    ("no shape", V2, v2(shape=None), {}, 400, ["shape"]),
    ("no data", V2, v2(data=None), {}, 400, ["data"]),
    ("bad base64", V2, v2(data=[b64(face())[:100] + "*" + b64(face())[101:]]), {}, 400, ["100", "101"]),
    ("more data than shape", V2, v2(data=[b64(face())] * 2), {}, 400, ["shape", "2"]),
    ("less data than shape", V2, v2(shape=[2]), {}, 400, ["shape", "2"]),
    ("negative shape", V2, v2(shape=[-1]), {}, 400, ["shape", "-1"]),
    ("overflowing shape", V2, v2(shape=[2**62, 2**62]), {}, 400, ["shape"]),
    ("wrong datatype", V2, v2(datatype="FP32"), {}, 400, ["number"]),
    ("no such datatype", V2, v2(datatype="FLOAT"), {}, 400, ["float", "datatype"]),
    ("unknown input", V2, v2(name="picture"), {}, 400, ["picture"]),
    ("tensor shape", V2, v2(name="input", datatype="FP32", shape=[1, 3, 2, 2], data=[0.0] * 12), {}, 400, ["112"]),
    ("deep JSON", V2, '{"inputs": ' + "[" * 100_000, {}, 400, ["line", "recursion", "depth"]),
    ("binary size over the body", V2, *v2_binary(len(ELEMENT) + 1000, ELEMENT), 400, ["binary", "size", "bytes"]),
    ("binary size under the body", V2, *v2_binary(len(ELEMENT) - 7, ELEMENT), 400, ["binary", "size", "bytes"]),
    ("element length over the tensor", V2, *v2_binary(8, struct.pack("<I", 2**31) + b"abcd"), 400, ["bytes", "length"]),
    ("JSON length over the body", V2, *v2_binary(len(ELEMENT), ELEMENT, 10**9), 400, ["inference-header-content-length"]),
    ("JSON length no number", V2, *v2_binary(len(ELEMENT), ELEMENT, "x"), 400, ["inference-header-content-length"]),
    ("JSON length negative", V2, *v2_binary(len(ELEMENT), ELEMENT, -1), 400, ["inference-header-content-length"]),
]


@pytest.mark.parametrize("label, path, body, headers, status, words", TABLE, ids=[row[0] for row in TABLE])
def test_table(alive, label, path, body, headers, status, words):
    answer = requests.post(alive.url(path), data=body, headers=headers, timeout=30)
    assert answer.status_code == status, f"{label}: {answer.status_code} {answer.text}"
    assert answer.headers["Content-Type"].startswith("application/json"), answer.headers
    reply = answer.json()
    assert list(reply) == ["error"] and isinstance(reply["error"], str), reply
    text = reply["error"].lower()
    assert any(word in text for word in words), f"{label}: none of {words} in: {reply['error']}"


@pytest.mark.parametrize("method, path, allow", [
    ("GET", V1, "POST"), ("DELETE", V1, "POST"), ("GET", V2, "POST"), ("PUT", V2, "POST"),
    ("POST", "/v2", "GET"), ("POST", "/v2/health/ready", "GET"), ("DELETE", "/metrics", "GET"),
    ("POST", f"/v2/models/{MODEL}/config", "GET"), ("POST", "/openapi.json", "GET"),
])
def test_wrong_verb(plain, method, path, allow):
    answer = requests.request(method, plain.url(path))
    assert answer.status_code == 405, f"{answer.status_code} {answer.text}"
    assert allow in [verb.strip() for verb in answer.headers["Allow"].split(",")]
    assert answer.json()["error"]


def test_head_answers_without_a_body(plain):
    answer = requests.head(plain.url("/v2/health/ready"))
    assert answer.status_code == 200 and answer.content == b""


@pytest.fixture(scope="module")
def tight():
    """A daemon that takes bodies of at most 100000 bytes."""
    with Daemon("--max-body-bytes", "100000") as running:
        yield running


def chunks(total):
    for start in range(0, total, 10_000):
        yield bytes(min(10_000, total - start))


TOO_LARGE = [
    ("content-length", lambda: bytes(100_001), {}),
    ("chunked", lambda: chunks(150_000), {}),
    ("gzip bomb", lambda: gzip.compress(bytes(20_000_000)), {"Content-Encoding": "gzip"}),
    ("deflate bomb", lambda: zlib.compress(bytes(20_000_000)), {"Content-Encoding": "deflate"}),
]


@pytest.mark.parametrize("path", [V1, V2], ids=["v1", "v2"])
@pytest.mark.parametrize("label, body, headers", TOO_LARGE, ids=[row[0] for row in TOO_LARGE])
def test_body_over_the_limit(tight, path, label, body, headers):
    answer = requests.post(tight.url(path), data=body(), headers={**JPEG_TYPE, **headers}, timeout=30)
    assert answer.status_code == 413, f"{label}: {answer.status_code} {answer.text}"
    assert "100000" in answer.json()["error"], answer.text


def test_body_at_the_limit_is_read(tight):
    answer = requests.post(tight.url(V1), data=face() + bytes(100_000 - len(face())), headers=JPEG_TYPE)
    assert answer.status_code == 200, answer.text


def test_bombs_cost_no_memory(tight):
    before = tight.rss_bytes()
    bomb = gzip.compress(bytes(90_000_000))[:100_000]
    for _ in range(30):
        requests.post(tight.url(V1), data=bomb, headers={**JPEG_TYPE, "Content-Encoding": "gzip"}, timeout=30)
    assert tight.rss_bytes() - before < 50_000_000, f"{before} -> {tight.rss_bytes()} bytes resident"


def test_errors_are_counted_by_reason(plain):
    def counted():
        text = requests.get(plain.url("/metrics")).text
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if 'reason="not_an_image"' in line)

    before = counted()
    requests.post(plain.url(V1), data=b"hello, this is text", headers=JPEG_TYPE)
    assert counted() == before + 1
