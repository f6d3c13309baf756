"""Two daemons behind the balancers of deploy/: restarted one after another under load, and one killed.

`-s` shows how many requests there were and how many failed.
"""

import contextlib
import queue
import signal
import time

import numpy as np
import pytest
import requests
import tritonclient.grpc as triton

from balancers import (NAME, HAProxy, Load, Nginx, by_grpc, by_http, daemons, repository, served, start_again, tensor,
                       wait_for)

pytestmark = pytest.mark.toolchain

# More than the balancers need to see that readiness is off: in haproxy.cfg, inter · fall is 1 s.
EXIT_DELAY_SECONDS = 2


@pytest.fixture(scope="module", params=[HAProxy, Nginx], ids=["haproxy", "nginx"])
def running(request, tmp_path_factory):
    """A balancer with two daemons behind it; a test leaves all of them running."""
    models = repository(tmp_path_factory.mktemp("models"))
    with contextlib.ExitStack() as stack:
        pair = [stack.enter_context(daemon) for daemon in daemons(models, EXIT_DELAY_SECONDS)]
        yield stack.enter_context(request.param(tmp_path_factory.mktemp("balancer"), pair))
        # Both at once, as each takes the exit delay.
        [daemon.sigterm() for daemon in pair]


def has_work(load, daemon):
    """Waits until the daemon's process answers requests that came through the balancer."""
    before = served(daemon)
    wait_for("the daemon gets requests", lambda: served(daemon) > before)


def test_large_bodies_and_streams_pass(running):
    """Larger than the balancer's buffers; and a stream whose client waits for each answer before it sends on."""
    with triton.InferenceServerClient(f"127.0.0.1:{running.grpc_port}") as client:
        right = by_http(running, requests.Session())
        for padding in (0, 100_000, 1_000_000):
            np.testing.assert_allclose(by_http(running, requests.Session(), padding), right, rtol=1e-5)
            np.testing.assert_allclose(by_grpc(client, padding), right, rtol=1e-5)
        answers = queue.Queue()
        client.start_stream(lambda result, error: answers.put((result, error)))
        for at in range(3):
            client.async_stream_infer(NAME, [tensor()], request_id=str(at))
            result, error = answers.get(timeout=30)
            assert error is None and result.get_response().id == str(at), error
            np.testing.assert_allclose(result.as_numpy("y").ravel(), right, rtol=1e-5)
        client.stop_stream()


def test_a_rolling_restart_fails_no_request(running):
    with Load(running) as load:
        for daemon in running.daemons:
            has_work(load, daemon)
            # As a pod is replaced: SIGTERM, and when it has ended another one comes.
            assert daemon.terminate() == 0, daemon.log
            load.await_more()
            start_again(daemon)
            has_work(load, daemon)
        load.await_more()
    print(f"\n{type(running).__name__}: answered {load.answered()}, failed {len(load.failed)}")
    assert not load.failed, f"{len(load.failed)} of {load.answered()} failed: {load.failed[:5]}"


def test_a_killed_daemon_costs_at_most_what_was_in_flight(running):
    victim = running.daemons[1]
    with Load(running) as load:
        has_work(load, victim)
        # Stopped first, so that it surely has requests of both protocols in hand when it is killed.
        victim.process.send_signal(signal.SIGSTOP)
        wait_for("requests wait for the stopped daemon", lambda: {"http", "grpc"} <= set(load.stuck()))
        victim.process.kill()
        killed, in_hand = time.monotonic(), load.stuck(0)
        victim.process.wait()
        wait_for("the killed daemon is taken out", lambda: running.removed(victim), seconds=15)
        seconds_to_removal = time.monotonic() - killed

        # Out is out: requests are not sent there first, to be sent elsewhere then. Those that were, may still be.
        load.await_earlier()
        tries, start = running.tries(victim), time.monotonic()
        load.await_more(100)
        tries, seconds = running.tries(victim) - tries, time.monotonic() - start
        allowed = running.tries_allowed(seconds)
        assert tries <= allowed, f"{tries} requests tried the dead daemon within {seconds:.1f} s, over {allowed}"

        start_again(victim)
        has_work(load, victim)
        load.await_more()
    print(f"\n{type(running).__name__}: answered {load.answered()}, in flight when killed {in_hand}, failed "
          f"{[(kind, why) for kind, _, why in load.failed]}, out after {seconds_to_removal:.1f} s")
    late = [failure for failure in load.failed if failure[1] > killed]
    assert not late, f"requests that began after the kill failed: {late[:5]}"
    assert len(load.failed) <= len(in_hand), f"{load.failed} failed, in flight were {in_hand}"
    # By HTTP a request that has no answer yet is sent to the other daemon.
    assert not [failure for failure in load.failed if failure[0] == "http"], load.failed
