"""Two versions of a model at once, seen by clients: shares, keys that stay, the version's name, shadow metrics."""

import hashlib
import time

import numpy as np
import requests
import tritonclient.http as triton

from daemon import MODEL, Daemon, b64, face
from networks import Net
from versions import KEYS, WEIGHTS, divided, version_of  # noqa: F401 (a fixture)


def answered_by(answer):
    assert answer.status_code == 200, answer.text
    model, version = answer.headers["visord-model-version"].split("/")
    assert model == MODEL
    return int(version)


def plain(daemon, query="", **headers):
    headers = {"Content-Type": "image/jpeg", **headers}
    return requests.post(daemon.url(f"/v1/models/{MODEL}/infer{query}"), data=face(), headers=headers, timeout=30)


def test_the_documented_function_is_this_one():
    for key, wanted in (("alice", 0x2BD806C97F0E00AF), ("ä", 0x33E6D73FEE82904C)):
        assert int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") == wanted
    assert version_of("alice", {1: 95, 2: 5}) == 1
    assert {version_of(key, WEIGHTS) for key in KEYS} == {1, 2}
    assert all(version_of(key, {3: 1}) == 3 for key in KEYS)


def test_a_user_stays_with_a_version_in_every_protocol(divided):
    tensor = triton.InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([face()], dtype=object))
    with triton.InferenceServerClient(divided.address, network_timeout=30) as client:
        for key in KEYS:
            wanted = version_of(key, WEIGHTS)
            paddle = {"key": ["user_id", "image"], "value": [key, b64(face())]}
            seen = {
                "plain, header": answered_by(plain(divided, **{"X-User-Id": key})),
                "plain, query": answered_by(requests.post(
                    divided.url(f"/v1/models/{MODEL}/infer"), params={"user_id": key}, data=face(),
                    headers={"Content-Type": "image/jpeg"}, timeout=30)),
                "triton, header": int(client.infer(MODEL, [tensor], headers={"x-user-id": key})
                                      .get_response()["model_version"]),
                "triton, parameter": int(client.infer(MODEL, [tensor], parameters={"user_id": key})
                                         .get_response()["model_version"]),
                "paddle, key": answered_by(requests.post(divided.url(f"/{MODEL}/prediction"), json=paddle, timeout=30)),
            }
            assert set(seen.values()) == {wanted}, f"{key}: {seen}"


def test_keys_that_need_escapes(divided):
    for key in ("a b+c&d=e%", "ä€😀", "x" * 1000, "\\\"'"):
        answer = requests.post(divided.url(f"/v1/models/{MODEL}/infer"), params={"user_id": key}, data=face(),
                               headers={"Content-Type": "image/jpeg"}, timeout=30)
        assert answered_by(answer) == version_of(key, WEIGHTS), key
        answer = requests.post(divided.url(f"/{MODEL}/prediction"), timeout=30,
                               json={"key": ["user_id", "image"], "value": [key, b64(face())]})
        assert answered_by(answer) == version_of(key, WEIGHTS), key
        assert answer.json()["err_no"] == 0, answer.text


def test_without_a_key_each_version_has_its_share(divided):
    with requests.Session() as session:
        url, headers = divided.url(f"/v1/models/{MODEL}/infer"), {"Content-Type": "image/jpeg"}
        seen = [answered_by(session.post(url, data=face(), headers=headers, timeout=30)) for _ in range(100)]
    # Other tests have left the sequence anywhere: within 4 of the share before, and within 4 after.
    assert abs(seen.count(2) - 30) <= 8, seen.count(2)


def scale(factor):
    """`y = relu(x · M) · factor + 0.25`, for some M."""
    net = Net(seed=7)
    x = net.input("x", [16])
    a = net("Mul", net("Relu", net("MatMul", x, net.normal(16, 16))), net.weight(np.float32(factor)))
    net("Add", a, net.weight(np.float32(0.25)), to="y")
    net.output("y", [16])
    return net.model()


def test_a_shadow_s_cosine_is_the_one_that_numpy_finds(tmp_path):
    for version, factor in ((1, 1.0), (2, 0.5)):
        folder = tmp_path / "m" / str(version)
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(scale(factor).SerializeToString())
    (tmp_path / "m" / "model.toml").write_text('[traffic]\n"1" = 1\n[shadow]\nversion = "2"\nfraction = 1.0\n')
    random = np.random.default_rng(0)

    def ask(daemon, values, version=""):
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": values}]}
        answer = requests.post(daemon.url(f"/v2/models/m{version}/infer"), json=body, timeout=30).json()
        return answer["model_version"], np.array(answer["outputs"][0]["data"])

    def metrics(daemon):
        lines = requests.get(daemon.url("/metrics"), timeout=30).text.splitlines()
        return dict(line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))

    def shed(found):
        return sum(float(v) for k, v in found.items() if k.startswith("visord_shadow_shed_total"))

    labels = '{model="m",version="1",shadow="2",output="y"}'
    with Daemon(repository=tmp_path) as daemon:
        asked, cosines = 0, []
        while len(cosines) < 5:
            values = random.standard_normal(16).tolist()
            _, second = ask(daemon, values, "/versions/2")
            version, first = ask(daemon, values)
            assert version == "1"
            asked += 1
            end = time.monotonic() + 60
            while True:
                found = metrics(daemon)
                count = int(found.get(f"visord_shadow_cosine_count{labels}", 0))
                if count + shed(found) >= asked:
                    break
                assert time.monotonic() < end, found
                time.sleep(0.02)
            if count > len(cosines):
                cosines.append(float(first @ second / np.linalg.norm(first) / np.linalg.norm(second)))
            assert asked < 200, "next to every copy was shed by a server that has nothing else to do"
        total = float(found[f"visord_shadow_cosine_sum{labels}"])
        assert abs(total - sum(cosines)) < 1e-4, (total, cosines)
        below = sum(c <= 0.99 for c in cosines)
        assert int(found[f"visord_shadow_cosine_bucket{labels[:-1]},le=\"0.99\"}}"]) == below, (found, cosines)
