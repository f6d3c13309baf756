"""Clients that are slow, vanish, flood or talk nonsense: they get an answer or a closed door, nobody else notices."""

import http.client
import json
import os
import random
import struct
import threading
import time

import requests

from daemon import MODEL, Daemon, assert_face, b64, face, pictures, preprocess, v1_array
from raw import connect, head, read_response

V1 = f"/v1/models/{MODEL}/infer"
V2 = f"/v2/models/{MODEL}/infer"


def test_slow_body_gets_408():
    with Daemon("--request-read-timeout-secs", "1") as daemon, connect(daemon) as slow:
        slow.sendall(head(V1, len(face())) + face()[:1000])
        start = time.monotonic()
        status, headers, body = read_response(slow) or (None, None, b"")
        took = time.monotonic() - start
        assert status == 408, f"{status} {body!r}"
        assert 0.5 < took < 5, f"after {took:.1f} s"
        assert "1" in json.loads(body)["error"], body
        assert_face(v1_array(requests.post(daemon.url(V1), data=face(), headers={"Content-Type": "image/jpeg"}).json()))


def test_slow_head_is_let_go():
    with Daemon("--header-read-timeout-secs", "1") as daemon, connect(daemon) as slow:
        slow.sendall(b"POST /v2 HTTP/1.1\r\nHost: te")
        start = time.monotonic()
        answer = read_response(slow)
        took = time.monotonic() - start
        assert answer is None or answer[0] == 408, answer
        assert took < 10, f"after {took:.1f} s"


def test_dribbled_body_does_not_hold_a_place_for_ever():
    with Daemon("--request-read-timeout-secs", "1") as daemon, connect(daemon) as slow:
        slow.sendall(head(V1, len(face())))
        start = time.monotonic()
        try:
            for byte in face()[:200]:
                slow.sendall(bytes([byte]))
                time.sleep(0.05)
        except ConnectionError:
            pass
        answer = read_response(slow)
        took = time.monotonic() - start
        assert answer is None or answer[0] == 408, answer
        assert took < 15, f"one byte at a time held the connection for {took:.1f} s"


def test_header_flood_gets_431(alive):
    with connect(alive) as flood:
        try:
            flood.sendall(b"GET /v2 HTTP/1.1\r\nHost: test\r\n")
            for i in range(5000):
                flood.sendall(f"X-Flood-{i}: {'x' * 100}\r\n".encode())
            flood.sendall(b"\r\n")
        except ConnectionError:
            pass
        answer = read_response(flood)
        # The answer is lost when the server closes while the client still writes.
        assert answer is None or answer[0] == 431, answer


def test_one_header_over_the_limit_gets_431(alive):
    with connect(alive) as flood:
        flood.sendall(b"GET /v2 HTTP/1.1\r\nHost: test\r\nX-Long: " + b"x" * 100_000 + b"\r\n\r\n")
        answer = read_response(flood)
        assert answer is not None and answer[0] == 431, answer


def test_endless_request_line(alive):
    with connect(alive) as flood:
        try:
            flood.sendall(b"GET /" + b"a" * 2_000_000)
        except ConnectionError:
            return
        answer = read_response(flood)
        assert answer is None or answer[0] in (400, 414, 431), answer


def pending(daemon):
    lines = requests.get(daemon.url("/metrics")).text.splitlines()
    values = [float(line.rsplit(" ", 1)[1]) for line in lines
              if "pending" in line.split("{")[0] and line.startswith("visord_")]
    assert values, "no gauge of pending requests in /metrics"
    return sum(values)


def await_nothing_pending(daemon):
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if pending(daemon) == 0:
            return
        time.sleep(0.05)
    raise AssertionError(f"{pending(daemon)} requests are still pending 10 s after their clients left")


def test_hang_up_after_the_request_frees_its_place(alive):
    for _ in range(20):
        gone = [connect(alive) for _ in range(20)]
        for connection in gone:
            connection.sendall(head(V1, len(face())) + face())
        for connection in gone:
            # An abortive close: the peer sees a reset, not an end of stream.
            connection.setsockopt(1, 13, struct.pack("ii", 1, 0))
            connection.close()
    await_nothing_pending(alive)


def test_hang_up_within_the_body_frees_its_place(alive):
    for _ in range(50):
        with connect(alive) as connection:
            connection.sendall(head(V1, len(face())) + face()[:500])
    await_nothing_pending(alive)


def test_pipelined_requests_are_answered_in_order(alive):
    with connect(alive) as connection:
        connection.sendall((head(V1, len(face())) + face()) * 3 + head("/v2", 0, method="GET"))
        connection.settimeout(30)
        # One buffered reader: answers may arrive together.
        reader = connection.makefile("rb")

        class Same:
            def makefile(self, *_args, **_kwargs):
                return Unclosed(reader)

        statuses = []
        for _ in range(4):
            response = http.client.HTTPResponse(Same())
            response.begin()
            statuses.append((response.status, json.loads(response.read())))
    assert [status for status, _ in statuses] == [200] * 4
    for _, reply in statuses[:3]:
        assert_face(v1_array(reply))
    assert statuses[3][1]["name"] == "visord"


class Unclosed:
    """A reader that several responses share: closing one response must not close it."""

    def __init__(self, reader):
        self.reader = reader

    def __getattr__(self, name):
        return getattr(self.reader, name)

    def close(self):
        pass


def test_garbage_after_a_good_request(alive):
    with connect(alive) as connection:
        connection.sendall(head(V1, len(face())) + face() + b"\x00\xff garbage \r\n\r\n" * 10)
        first = read_response(connection)
        assert first is not None and first[0] == 200, first
        connection.settimeout(10)
        try:
            while connection.recv(65536):
                pass
        except ConnectionError:
            pass


def test_what_is_not_http_is_closed(alive):
    for garbage in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), b"\r\n\r\n\r\n\r\nHELO\r\n\r\n",
                    b"GET / HTTP/9.9\r\n\r\n", b"POST /v2 HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
                    b"POST /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
                    b"POST /v2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nnot hex\r\n"):
        with connect(alive) as connection:
            connection.sendall(garbage)
            answer = read_response(connection)
            assert answer is None or 400 <= answer[0] < 500, (garbage[:20], answer)


def test_many_idle_connections_do_not_starve_others(alive):
    idle = [connect(alive) for _ in range(300)]
    try:
        start = time.monotonic()
        answer = requests.post(alive.url(V1), data=face(), headers={"Content-Type": "image/jpeg"}, timeout=10)
        assert answer.status_code == 200
        assert time.monotonic() - start < 5
    finally:
        for connection in idle:
            connection.close()


def mutated(random_source, data):
    data = bytearray(data)
    for _ in range(random_source.choice((1, 1, 2, 5, 30))):
        action, at = random_source.randrange(5), random_source.randrange(len(data) or 1)
        if action == 0 and data:
            data[at % len(data)] = random_source.randrange(256)
        elif action == 1 and data:
            data[at % len(data)] ^= 1 << random_source.randrange(8)
        elif action == 2:
            del data[at:at + random_source.randrange(1, 200)]
        elif action == 3:
            data[at:at] = random_source.randbytes(random_source.randrange(1, 50))
        else:
            data[at:at] = data[random_source.randrange(len(data) or 1):][:random_source.randrange(1, 100)]
    return bytes(data)


def requests_to_spoil():
    """(path, headers, body) of good requests in every protocol."""
    encoded = b64(face())
    image = {"name": "image", "datatype": "BYTES", "shape": [1]}
    text = json.dumps({"inputs": [{**image, "data": [encoded]}], "outputs": [{"name": "embedding"}]}).encode()
    element = struct.pack("<I", len(face())) + face()
    head_text = json.dumps({"inputs": [{**image, "parameters": {"binary_data_size": len(element)}}]}).encode()
    values = preprocess(face()).tobytes()
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, 3, 112, 112]}
    tensor_text = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": len(values)}}]}).encode()
    part = b"--b\r\nContent-Disposition: form-data; name=\"f\"; filename=\"f.jpg\"\r\n\r\n"
    yield from ((V1, {"Content-Type": "image/jpeg"}, picture) for picture in pictures())
    yield V1, {"Content-Type": "multipart/form-data; boundary=b"}, part + face() + b"\r\n--b--\r\n"
    yield V2, {}, text
    yield V2, {"Inference-Header-Content-Length": str(len(head_text))}, head_text + element
    yield V2, {"Inference-Header-Content-Length": str(len(tensor_text))}, tensor_text + values
    yield "/ArcFace/prediction", {}, json.dumps({"key": ["image"], "value": [encoded]}).encode()


def test_thousands_of_spoilt_requests(alive):
    seed, count = int(os.environ.get("VISORD_TEST_SEED", "20240229")), int(os.environ.get("VISORD_TEST_SPOILT", "3000"))
    good = list(requests_to_spoil())
    for path, headers, body in good:
        answer = requests.post(alive.url(path), data=body, headers=headers)
        assert answer.status_code == 200, (path, answer.text)
    before, failures, lock = alive.rss_bytes(), [], threading.Lock()

    def attack(worker):
        source = random.Random(seed + worker)
        connection = http.client.HTTPConnection("127.0.0.1", alive.http_port, timeout=30)
        for number in range(count // 4):
            path, headers, body = source.choice(good)
            spoilt = mutated(source, body) if source.random() < 0.95 else source.randbytes(source.randrange(3000))
            if "Inference-Header-Content-Length" in headers and source.random() < 0.2:
                headers = {"Inference-Header-Content-Length": str(source.randrange(len(spoilt) + 50))}
            try:
                connection.request("POST", path, spoilt, headers)
                response = connection.getresponse()
                reply = response.read()
                if response.status >= 500 and response.status not in (503, 504):
                    raise AssertionError(f"{response.status} {reply[:300]!r}")
                if response.status != 200:
                    json.loads(reply)
            except Exception as error:
                with lock:
                    failures.append(f"worker {worker}, request {number}, seed {seed}, {path}: {error!r}")
                connection.close()
                if len(failures) > 10:
                    return

    workers = [threading.Thread(target=attack, args=(worker,)) for worker in range(4)]
    [worker.start() for worker in workers]
    [worker.join() for worker in workers]
    assert not failures, "\n".join(failures)
    await_nothing_pending(alive)
    grown = alive.rss_bytes() - before
    # The allocator may keep some; a leak of one decoded image a request would be far more.
    assert grown < 150_000_000, f"resident memory grew by {grown} bytes over {count} requests, from {before}"
