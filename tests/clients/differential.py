#!/usr/bin/env python3
"""Sends visord and the real Triton the same requests and holds their answers against each other.

    differential.py --visord HTTP GRPC --triton HTTP GRPC    each HOST:PORT; prints a table
    differential.py --visord HTTP GRPC                       against what Triton answered when it was recorded
    differential.py --triton HTTP GRPC --record              writes what Triton answers, for the tests
    differential.py --start VENV [--record]                  starts both (`make differential`)

Both serve engines/ArcFace/1/model.onnx under `--model-control-mode explicit`, Triton as `tests/triton/start` starts it,
visord with `--shared-memory`. Answers agree when statuses and fields are equal, floats have a cosine of at least
MIN_COSINE row by row, and classes are the same with values within VALUE_TOLERANCE. Whatever else differs must be in
`differences.DIFFERENCES`, and what that list says must still differ: otherwise the exit status is 1.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import time
import urllib.request

import numpy as np

from cases import CASES, Server
from daemon import GOLDEN, MODEL, ROOT, Daemon, free_ports
from differences import DIFFERENCES

RECORD = GOLDEN / "triton" / "answers.json"
MIN_COSINE = 0.9999
VALUE_TOLERANCE = 0.02


def flat(tree, path=""):
    """Path -> leaf. Lists of text are leaves as sets: `extensions` has no order."""
    if isinstance(tree, dict):
        return {key: leaf for name, item in tree.items()
                for key, leaf in flat(item, f"{path}.{name}" if path else name).items()}
    if isinstance(tree, list) and tree and isinstance(tree[0], dict):
        return {key: leaf for i, item in enumerate(tree) for key, leaf in flat(item, f"{path}[{i}]").items()}
    return {path: tree}


def equal(a, b):
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        if a.dtype == object:
            return all(classes_equal(x, y) for x, y in zip(a.ravel(), b.ravel()))
        rows = [(x.ravel().astype(np.float64), y.ravel().astype(np.float64)) for x, y in zip(a, b)]
        return all(x @ y >= MIN_COSINE * np.linalg.norm(x) * np.linalg.norm(y) for x, y in rows)
    if isinstance(a, list) and isinstance(b, list) and all(isinstance(x, str) for x in a + b):
        return sorted(a) == sorted(b)
    return type(a) is type(b) and a == b


def classes_equal(a, b):
    """Of `value:index`: the same class, with nearly the same value."""
    (a_value, *a_class), (b_value, *b_class) = a.split(b":"), b.split(b":")
    return a_class == b_class and abs(float(a_value) - float(b_value)) <= VALUE_TOLERANCE


def differing(triton, visord):
    """Path -> (Triton's leaf, visord's leaf), where they are not equal. `None` for a leaf that is not there."""
    triton, visord = flat(triton), flat(visord)
    unequal = {path: (triton.get(path), visord.get(path)) for path in triton | visord
               if not equal(triton.get(path), visord.get(path))}
    # Where one failed, only that is told: fields that it then lacks say nothing more.
    failed = [path.removesuffix("status") for path in unequal if path.split(".")[-1] == "status"]
    return {path: leaves for path, leaves in unequal.items()
            if path.endswith("status") or not any(path.startswith(prefix) for prefix in failed)}


class Report:
    """What became of the cases, and which differences were met."""

    def __init__(self):
        self.rows, self.met = [], set()

    def compare(self, name, triton, visord):
        """The differences that are not on the list, as lines."""
        unknown, known = [], []
        for path, (theirs, ours) in differing(triton, visord).items():
            entry = next((d for d in DIFFERENCES if d.covers(name, path, theirs, ours)), None)
            if entry:
                self.met.add(entry)
                known.append(entry)
            else:
                unknown.append(f"{path}: Triton {shown(theirs)}, visord {shown(ours)}")
        self.rows.append((name, triton.get("status"), visord.get("status"), known, unknown))
        return unknown

    def unmet(self):
        return [d for d in DIFFERENCES if d not in self.met]

    def print(self):
        width = max(len(name) for name, *_ in self.rows)
        for name, theirs, ours, known, unknown in self.rows:
            verdict = "DIFFERS" if unknown else "; ".join(sorted({d.key for d in known})) or "equal"
            print(f"{name:{width}}  {theirs!s:17} {ours!s:19} {verdict}")
            for line in unknown:
                print(f"{'':{width}}  {line}")
        for entry in self.unmet():
            print(f"on the list, but not seen: {entry.key}")
        equal_rows = sum(not known and not unknown for *_, known, unknown in self.rows)
        failed = sum(bool(unknown) for *_, unknown in self.rows)
        print(f"{len(self.rows)} requests: {equal_rows} answered alike, {len(self.rows) - equal_rows - failed} differ "
              f"as listed, {failed} differ otherwise")


def shown(leaf):
    text = "nothing" if leaf is None else f"{leaf.dtype}{list(leaf.shape)}" if isinstance(leaf, np.ndarray) else repr(leaf)
    return text if len(text) < 200 else text[:200] + "…"


# -- What Triton answered, in a file ------------------------------------------------------------------------------


def record(answers):
    """Arrays are stored once, however many answers hold the same; floats as they print with 6 digits."""
    tensors = []

    def stored(value):
        if isinstance(value, np.ndarray):
            values = value.ravel()
            written = {"shape": list(value.shape), "values": [
                item.decode() if isinstance(item, bytes) else float(f"{item:.6g}") for item in values]}
            for i, other in enumerate(tensors):
                if other["shape"] == written["shape"] and equal(restored(other), restored(written)):
                    return {"tensor": i}
            tensors.append(written)
            return {"tensor": len(tensors) - 1}
        if isinstance(value, dict):
            return {key: stored(item) for key, item in value.items()}
        return [stored(item) for item in value] if isinstance(value, list) else value

    return {"answers": {name: stored(answer) for name, answer in answers.items()}, "tensors": tensors}


def restored(written):
    texts = any(isinstance(value, str) for value in written["values"])
    values = [value.encode() for value in written["values"]] if texts else written["values"]
    return np.array(values, dtype=object if texts else np.float32).reshape(written["shape"])


def recorded():
    """Case name -> what Triton answered when the file was written."""
    file = json.loads(RECORD.read_text())
    tensors = [restored(written) for written in file["tensors"]]

    def loaded(value):
        if isinstance(value, dict):
            return tensors[value["tensor"]] if value.keys() == {"tensor"} else {k: loaded(v) for k, v in value.items()}
        return [loaded(item) for item in value] if isinstance(value, list) else value

    return {name: loaded(answer) for name, answer in file["answers"].items()}


EXPLICIT = ("--model-control-mode", "explicit", "--load-model", MODEL)
# Triton has shared memory always.
VISORD = (*EXPLICIT, "--shared-memory")


@contextlib.contextmanager
def running_triton(venv):
    """The addresses of a Triton that is ready."""
    http, grpc, metrics = map(str, free_ports(3))
    start = [str(ROOT / "tests" / "triton" / "start"), venv, http, grpc, metrics, *EXPLICIT]
    process = subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{http}/v2/health/ready", timeout=5).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"Triton does not start; see what it says: {' '.join(start)}") from None
                time.sleep(0.1)
        yield f"127.0.0.1:{http}", f"127.0.0.1:{grpc}"
    finally:
        process.terminate()
        process.wait(60)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--visord", nargs=2, metavar=("HTTP", "GRPC"))
    arguments.add_argument("--triton", nargs=2, metavar=("HTTP", "GRPC"), help="else what was recorded is used")
    arguments.add_argument("--record", action="store_true", help=f"write {RECORD.relative_to(ROOT)}")
    arguments.add_argument("--start", metavar="VENV", help="start both; VENV is made from tests/triton/requirements.txt")
    options = arguments.parse_args()
    if not options.start and not options.visord and not (options.triton and options.record):
        arguments.error("--visord or --start is needed, or --triton with --record")
    with contextlib.ExitStack() as stack:
        if options.start:
            options.triton = stack.enter_context(running_triton(options.start))
            daemon = stack.enter_context(Daemon(*VISORD))
            options.visord = daemon.address, f"127.0.0.1:{daemon.grpc_port}"
        return compare(options)


def compare(options):
    if options.triton:
        triton = Server(*options.triton)
        theirs = {case.name: case.run(triton) for case in CASES}
    else:
        theirs = recorded()
    if options.record:
        RECORD.parent.mkdir(exist_ok=True)
        RECORD.write_text(written_lines(record(theirs)))
        print(f"{len(theirs)} answers in {RECORD}")
    if not options.visord:
        return 0
    visord, report = Server(*options.visord), Report()
    for case in CASES:
        report.compare(case.name, theirs[case.name], case.run(visord))
    report.print()
    return 1 if report.unmet() or any(unknown for *_, unknown in report.rows) else 0


def written_lines(file):
    """JSON with one answer, and one tensor, a line: so that a change shows what changed."""
    answers = ",\n".join(f"{json.dumps(name)}: {json.dumps(answer)}" for name, answer in file["answers"].items())
    tensors = ",\n".join(json.dumps(tensor) for tensor in file["tensors"])
    return f'{{"answers": {{\n{answers}\n}}, "tensors": [\n{tensors}\n]}}\n'


if __name__ == "__main__":
    sys.exit(main())
