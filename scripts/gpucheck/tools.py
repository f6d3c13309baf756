"""How a step ends, and commands with a time."""

import glob
import pathlib
import shutil
import subprocess
import sys
import time

# Nothing is waited for beyond this: machines are lent for ten minutes.
DEADLINE = time.monotonic() + 520


class Skipped(Exception):
    """A step that needs what is not here."""


class Failed(Exception):
    """A step that found something wrong; `figures` is what it had measured."""

    def __init__(self, why, figures=None):
        super().__init__(why)
        self.figures = figures or {}


def say(text):
    print(text, file=sys.stderr, flush=True)


def limited(seconds):
    """`seconds`, or what is left of the time for everything."""
    return max(1.0, min(seconds, DEADLINE - time.monotonic()))


def run(command, seconds, env=None, **keywords):
    """A finished process; a time-out is a failure that says so."""
    seconds = limited(seconds)
    try:
        return subprocess.run([str(c) for c in command], timeout=seconds, env=env, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, universal_newlines=True, **keywords)
    except subprocess.TimeoutExpired:
        raise Failed("{} did not end within {:.0f} s".format(pathlib.Path(command[0]).name, seconds))


def tail(text, lines=8):
    return "\n".join(text.strip().splitlines()[-lines:])


def tool(name):
    """A CUDA tool, from the path or from where toolkits are installed."""
    places = ["/usr/local/cuda*/bin", "/opt/nvidia/nsight-systems*/*/bin", "/opt/nvidia/nsight-systems*/*/target-linux-x64"]
    found = shutil.which(name) or next((p for place in places for p in sorted(glob.glob(place + "/" + name))), None)
    if not found:
        raise Skipped(name + " is not here")
    return found
