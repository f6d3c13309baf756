"""Two daemons behind the balancers of deploy/: restarted one after another under load, and one killed.

`-s` shows how many requests there were and how many failed.
"""

import contextlib
import signal
import time

import pytest

from balancers import HAProxy, Load, Nginx, daemons, repository, served, start_again, wait_for

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


def has_work(load, daemon):
    """Waits until the daemon's process answers requests that came through the balancer."""
    before = served(daemon)
    wait_for("the daemon gets requests", lambda: served(daemon) > before)


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

        # Out is out: requests are not sent there first, to be sent elsewhere then.
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
