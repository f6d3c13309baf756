"""Start, stop under load, second signal, and mistakes in the configuration."""

import re
import signal
import subprocess
import threading
import time

import pytest
import requests

from daemon import BIN, ENGINES, MODEL, Daemon, assert_face, backends, copy_repository, face, free_ports, v1_array

V1 = f"/v1/models/{MODEL}/infer"
JPEG_TYPE = {"Content-Type": "image/jpeg"}


@pytest.mark.parametrize("backend", backends())
def test_ready_means_that_the_first_request_is_answered(backend):
    with Daemon(backend=backend, wait=False) as daemon:
        start, seen = time.monotonic(), []
        while time.monotonic() < start + 60:
            status = daemon.status()
            if not seen or seen[-1] != status:
                seen.append(status)
            if status == 200:
                break
            time.sleep(0.005)
        answer = requests.post(daemon.url(V1), data=face(), headers=JPEG_TYPE)
        assert answer.status_code == 200, answer.text
        assert_face(v1_array(answer.json()))
        assert seen[-1] == 200, f"never ready: {seen}\n{daemon.log}"
        assert set(seen[:-1]) <= {None, 503}, seen
        assert daemon.status() == 200


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_signal_under_load(sign):
    with Daemon() as daemon:
        signalled, results = threading.Event(), []
        files = [("image", face())] * 16

        def load():
            while not signalled.is_set():
                started = time.monotonic()
                try:
                    status = requests.post(daemon.url(V1), files=files, timeout=40).status_code
                except requests.RequestException as error:
                    status = repr(error)
                results.append((started, status))

        clients = [threading.Thread(target=load) for _ in range(4)]
        [client.start() for client in clients]
        time.sleep(1)
        assert daemon.status() == 200
        signalled.set()
        at = time.monotonic()
        daemon.process.send_signal(sign)
        time.sleep(0.1)
        # The listener may be closed already; what it must not do is to say that it is ready.
        assert daemon.status() in (503, None), "ready 0.1 s after the signal"
        [client.join() for client in clients]
        assert daemon.process.wait(40) == 0, daemon.log
    # One that began in the signal's last instants may have found the door closed.
    statuses = {status for started, status in results if started < at - 0.05}
    assert statuses <= {200, 429}, f"a request in flight was dropped or failed: {statuses}"
    assert 200 in statuses


def test_readiness_is_503_while_draining():
    """On a connection that was open before, readiness is seen to go away while work is in flight."""
    with Daemon(backend="rten") as daemon, requests.Session() as session:
        assert session.get(daemon.url("/v2/health/ready")).status_code == 200
        files, statuses = [("image", face())] * 64, []

        def load():
            try:
                statuses.append(requests.post(daemon.url(V1), files=files, timeout=40).status_code)
            except requests.RequestException as error:
                statuses.append(repr(error))

        busy = [threading.Thread(target=load) for _ in range(4)]
        [thread.start() for thread in busy]
        time.sleep(0.3)
        daemon.sigterm()
        time.sleep(0.05)
        try:
            status = session.get(daemon.url("/v2/health/ready"), timeout=5).status_code
        except requests.RequestException:
            status = None
        [thread.join() for thread in busy]
        assert status in (503, None), status
        assert set(statuses) <= {200, 429}, f"in flight at the signal: {statuses}"


def test_second_signal_exits_at_once():
    with Daemon(backend="rten") as daemon:
        files = [("image", face())] * 64

        def load():
            try:
                requests.post(daemon.url(V1), files=files, timeout=40)
            except requests.RequestException:
                pass

        clients = [threading.Thread(target=load) for _ in range(8)]
        [client.start() for client in clients]
        time.sleep(0.5)
        daemon.process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        daemon.process.send_signal(signal.SIGTERM)
        start = time.monotonic()
        daemon.process.wait(40)
        took = time.monotonic() - start
        [client.join() for client in clients]
        assert took < 1, f"{took:.1f} s after the second signal"
        daemon.terminate = lambda: 0


def test_exit_timeout_bounds_the_drain():
    """A client that never finishes its body does not keep the daemon."""
    from raw import connect, head

    with Daemon("--exit-timeout-secs", "1", "--request-read-timeout-secs", "60") as daemon, connect(daemon) as slow:
        slow.sendall(head(V1, 100_000) + face()[:100])
        time.sleep(0.2)
        start = time.monotonic()
        returncode = daemon.terminate(15)
        took = time.monotonic() - start
        assert took < 8, f"{took:.1f} s with --exit-timeout-secs 1"
        assert returncode == 0, f"exit status {returncode}\n{daemon.log}"


def test_idle_connections_do_not_delay_the_exit():
    from raw import connect

    with Daemon() as daemon:
        idle = [connect(daemon) for _ in range(20)]
        start = time.monotonic()
        assert daemon.terminate() == 0
        took = time.monotonic() - start
        [connection.close() for connection in idle]
        assert took < 10, f"{took:.1f} s"


def run(*arguments):
    return subprocess.run([str(BIN), *arguments], capture_output=True, text=True, timeout=60)


def test_version():
    done = run("--version")
    assert done.returncode == 0
    assert re.match(r"visord \d+\.\d+\.\d+", done.stdout), done.stdout


def test_help_names_unit_default_and_environment():
    done = run("serve", "--help")
    assert done.returncode == 0
    for word in ("--model-repository", "--max-body-bytes", "--exit-timeout-secs", "--backend", "VISORD_HTTP_PORT"):
        assert word in done.stdout, word


def test_check_says_what_would_be_served():
    done = run("check", "--model-repository", str(ENGINES), "--backend", "rten")
    assert done.returncode == 0, done.stderr
    for word in (MODEL, "rten"):
        assert word in done.stdout + done.stderr, word


def test_mistakes_are_reported_together(tmp_path):
    repository = copy_repository(tmp_path, max_batch_size=-3, resize="sideways")
    done = run("serve", "--model-repository", str(repository), "--http-port", "0")
    assert done.returncode == 64, f"{done.returncode}: {done.stdout}{done.stderr}"
    text = done.stdout + done.stderr
    for word in ("model.toml", "max_batch_size", "-3"):
        assert word in text, f"{word!r} is not in:\n{text}"


def test_port_in_use_is_an_error_that_names_it():
    with Daemon() as first:
        grpc, metrics = free_ports(2)
        done = run("serve", "--model-repository", str(ENGINES), "--http-port", str(first.http_port),
                   "--grpc-port", str(grpc), "--metrics-port", str(metrics))
        assert done.returncode not in (0, None)
        assert str(first.http_port) in done.stdout + done.stderr


def test_a_backend_that_is_not_there_is_an_error():
    grpc, metrics, http = free_ports(3)
    done = run("serve", "--model-repository", str(ENGINES), "--backend", "tensorrt", "--http-port", str(http),
               "--grpc-port", str(grpc), "--metrics-port", str(metrics))
    assert done.returncode not in (0, None)
    assert "tensorrt" in (done.stdout + done.stderr).lower()
