"""TLS with clients that were not written here: requests, tritonclient over HTTP and gRPC, Python's own ssl module."""

import contextlib
import socket
import ssl
import subprocess
import threading
import time

import grpc
import numpy as np
import pytest
import requests
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from daemon import MODEL, Daemon, assert_face, face, v1_array


def openssl(folder, *arguments):
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def authority(folder, name):
    """`name`.crt and `name`.key of a certificate authority."""
    openssl(folder, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days",
            "3650", "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.crt")
    return folder / f"{name}.crt"


def identity(folder, ca, name):
    """`name`.crt and `name`.key, signed by `ca`, for this host."""
    openssl(folder, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj",
            f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
    extensions = folder / f"{name}.ext"
    extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-CA", f"{ca}.crt", "-CAkey", f"{ca}.key",
            "-CAcreateserial", "-days", "3650", "-extfile", extensions.name, "-out", f"{name}.crt")
    return folder / f"{name}.crt", folder / f"{name}.key"


class TlsDaemon(Daemon):
    """Asks the metrics port whether it is ready: that one needs no certificate."""

    def url(self, path):
        return f"https://{self.address}{path}"

    def status(self, path="/v2/health/ready"):
        with contextlib.suppress(OSError):
            return requests.get(f"http://127.0.0.1:{self.metrics_port}{path}", timeout=5).status_code
        return None

    def metric(self, line):
        text = requests.get(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5).text
        return next((float(row[len(line):]) for row in text.splitlines() if row.startswith(line + " ")), None)


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pki")
    for name in ("root", "clients", "stranger"):
        authority(folder, name)
    identity(folder, "root", "server")
    identity(folder, "clients", "client")
    identity(folder, "stranger", "intruder")
    return folder


@pytest.fixture(scope="module")
def tls(pki):
    with TlsDaemon("--tls-cert", str(pki / "server.crt"), "--tls-key", str(pki / "server.key")) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def mutual(pki):
    with TlsDaemon("--tls-cert", str(pki / "server.crt"), "--tls-key", str(pki / "server.key"),
                   "--tls-client-ca", str(pki / "clients.crt")) as daemon:
        yield daemon


def infer(daemon, **how):
    answer = requests.post(daemon.url(f"/v1/models/{MODEL}/infer"), data=face(),
                           headers={"Content-Type": "image/jpeg"}, timeout=30, **how)
    assert answer.status_code == 200, answer.text
    assert_face(v1_array(answer.json()))


def infer_grpc(daemon, **how):
    how = {key: str(value) for key, value in how.items()}
    with triton_grpc.InferenceServerClient(f"localhost:{daemon.grpc_port}", ssl=True, **how) as client:
        image = triton_grpc.InferInput("image", [1], "BYTES")
        image.set_data_from_numpy(np.array([face()], dtype=object))
        assert_face(client.infer(MODEL, [image], client_timeout=30).as_numpy("embedding"))


def test_requests(tls, pki):
    infer(tls, verify=str(pki / "root.crt"))
    with pytest.raises(requests.exceptions.SSLError):
        infer(tls, verify=str(pki / "stranger.crt"))
    with pytest.raises(requests.exceptions.ConnectionError):
        requests.get(f"http://{tls.address}/v2", timeout=30)


def test_tritonclient_http(tls, pki):
    def trusting(**_):
        return ssl.create_default_context(cafile=pki / "root.crt")

    with triton_http.InferenceServerClient(f"localhost:{tls.http_port}", ssl=True,
                                           ssl_context_factory=trusting) as client:
        assert client.is_server_ready()
        image = triton_http.InferInput("image", [1], "BYTES")
        image.set_data_from_numpy(np.array([face()], dtype=object))
        assert_face(client.infer(MODEL, [image]).as_numpy("embedding"))


def test_tritonclient_grpc(tls, pki):
    infer_grpc(tls, root_certificates=pki / "root.crt")
    with pytest.raises(InferenceServerException, match="UNAVAILABLE"):
        infer_grpc(tls, root_certificates=pki / "stranger.crt")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions_and_alpn(tls, pki, version):
    for port in (tls.http_port, tls.grpc_port):
        context = ssl.create_default_context(cafile=pki / "root.crt")
        context.minimum_version = context.maximum_version = version
        context.set_alpn_protocols(["h2", "http/1.1"])
        with socket.create_connection(("127.0.0.1", port), timeout=30) as plain:
            with context.wrap_socket(plain, server_hostname="localhost") as wrapped:
                assert wrapped.selected_alpn_protocol() == "h2"
                assert wrapped.version() == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]


def test_mutual(mutual, pki):
    root = str(pki / "root.crt")
    good = (str(pki / "client.crt"), str(pki / "client.key"))
    infer(mutual, verify=root, cert=good)
    infer_grpc(mutual, root_certificates=root, certificate_chain=good[0], private_key=good[1])
    for bad in (None, (str(pki / "intruder.crt"), str(pki / "intruder.key"))):
        with pytest.raises(requests.exceptions.ConnectionError):
            infer(mutual, verify=root, cert=bad)
        how = {"certificate_chain": bad[0], "private_key": bad[1]} if bad else {}
        with pytest.raises(InferenceServerException, match="UNAVAILABLE"):
            infer_grpc(mutual, root_certificates=root, **how)
    assert mutual.metric('visord_tls_handshake_failures_total{reason="client_certificate"}') >= 4


def put(folder, number, cert, key):
    """Swaps a link to a folder, as Kubernetes does for a secret."""
    data = folder / f"..{number}"
    data.mkdir()
    (data / "tls.crt").write_bytes(cert.read_bytes())
    (data / "tls.key").write_bytes(key.read_bytes())
    (folder / "..new").symlink_to(data.name)
    (folder / "..new").rename(folder / "..data")


def test_certificates_change_under_traffic(pki, tmp_path):
    put(tmp_path, 0, pki / "server.crt", pki / "server.key")
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    with TlsDaemon("--tls-cert", str(tmp_path / "tls.crt"), "--tls-key", str(tmp_path / "tls.key")) as daemon:
        failures, counts, stop = [], [0, 0], threading.Event()

        def over_http():
            while not stop.is_set():
                infer(daemon, verify=str(pki / "root.crt"))
                counts[0] += 1

        def over_grpc():
            roots = (pki / "root.crt").read_bytes()
            with grpc.secure_channel(f"localhost:{daemon.grpc_port}", grpc.ssl_channel_credentials(roots)) as channel:
                live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
                while not stop.is_set():
                    assert live(b"", timeout=30) == b"\x08\x01"
                    counts[1] += 1

        def watched(work):
            try:
                work()
            except Exception as error:
                failures.append(repr(error))

        threads = [threading.Thread(target=watched, args=(work,)) for work in (over_http, over_grpc)]
        [thread.start() for thread in threads]
        try:
            for number in (1, 2, 3):
                before = ssl.get_server_certificate(("127.0.0.1", daemon.http_port))
                put(tmp_path, number, *identity(pki, "root", f"server{number}"))
                end = time.monotonic() + 30
                while daemon.metric('visord_tls_reloads_total{outcome="success"}') < number:
                    assert time.monotonic() < end, daemon.log
                    time.sleep(0.05)
                after = ssl.get_server_certificate(("127.0.0.1", daemon.http_port))
                assert after != before
                assert after == ssl.get_server_certificate(("127.0.0.1", daemon.grpc_port))
        finally:
            stop.set()
            [thread.join() for thread in threads]
        assert not failures, failures
        assert min(counts) > 0, counts
