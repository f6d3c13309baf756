"""What is checked and measured. A step gives a line for the table and figures, or raises Failed or Skipped."""

import csv
import io
import json
import os
import platform
import shutil
import struct
import time

from .client import MODEL, Connection, load, request_of
from .daemon import Daemon, metric
from .tools import Failed, Skipped, run, say, tail, tool
from .trace import overlapped

OUTPUTS = 192
DECODERS = ("auto", "hardware", "hybrid", "cpu")
# All steps together, seconds; a step that would begin later is left out.
TOTAL_SECONDS = 450
# Passes of the stub engine over 64 MiB of device memory, to take a network's time.
WORK = 10
# Mean difference in levels from which on a picture is not the CPU path's; CONTRIBUTING.md allows 0.5 between decoders.
WILD_MEAN_LEVELS = 1.5
STUB = "STUB ENGINE (copies values of its input, computes no network)"


class Check:
    def __init__(self, arguments, scratch):
        self.arguments, self.scratch = arguments, scratch
        self.files = arguments.files
        self.visord, self.bench = self.files / "visord", self.files / "visord-gpu-bench"
        self.lib, self.images, self.engines = (self.files / n for n in ("lib", "images", "engines"))
        self.logs = arguments.logs
        self.logs.mkdir(parents=True, exist_ok=True)
        self.quick = arguments.quick
        self.work = {"VISORD_FAKE_NVINFER_WORK": os.environ.get("VISORD_FAKE_NVINFER_WORK", str(0 if self.quick else WORK))}
        self.facts, self.begin = {}, time.monotonic()

    def repository(self, decoder):
        """The shipped model without its golden values, which a stub cannot give, and with `decoder`."""
        folder = self.scratch / ("engines-" + decoder)
        if not folder.exists():
            shutil.copytree(self.engines, folder, ignore=shutil.ignore_patterns("golden.json", "*.plan", ".plans"))
            path = folder / MODEL / "model.toml"
            text = path.read_text()
            path.write_text(text.replace("[image]\n", '[image]\ndecoder = "{}"\n'.format(decoder), 1))
        return folder

    def samples(self):
        """A small face and a video frame, as requests."""
        folder = self.scratch / "samples"
        if not folder.exists():
            done = run([self.bench, "--write-samples", folder], 60)
            if done.returncode:
                raise Failed("no sample JPEGs: " + tail(done.stderr))
        face = (self.images / "face.jpg").read_bytes()
        frame = (folder / "1920x1080.jpg").read_bytes()
        return {"face 200x200": request_of(face, "image/jpeg"), "1920x1080": request_of(frame, "image/jpeg")}

    # Every step gives a line for the table, and figures.

    def machine(self):
        cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "unknown")
        self.facts.update(
            cpu=cpu, cores=os.cpu_count(), kernel=platform.release(), libc=" ".join(platform.libc_ver()),
            python=platform.python_version(), visord=run([self.visord, "--version"], 20).stdout.strip().splitlines())
        return "{} x {}".format(os.cpu_count(), cpu), dict(self.facts)

    def nvidia_smi(self):
        keys = ("name,driver_version,pstate,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,memory.total,power.draw,"
                "power.limit,temperature.gpu,persistence_mode,mig.mode.current,compute_cap").split(",")
        command = [tool("nvidia-smi"), "--query-gpu=" + ",".join(keys), "--format=csv,noheader"]
        done = run(command, 30)
        if done.returncode:
            raise Failed(tail(done.stdout + done.stderr))
        rows = [dict(zip(keys, (v.strip() for v in row))) for row in csv.reader(io.StringIO(done.stdout)) if row]
        self.facts["nvidia_smi"] = rows
        return "{name}, driver {driver_version}, {pstate}".format(**rows[0]), {"gpus": rows}

    def pieces(self):
        """Kernels and decoders by themselves."""
        flags = ["--images", self.images, "--nvjpeg-dir", self.lib] + (["--quick"] if self.quick else [])
        # Without the driver's cache, so that the time of compiling the PTX shows.
        done = run([self.bench, *flags], 60 if self.quick else 180, env=dict(os.environ, CUDA_CACHE_DISABLE="1"))
        (self.logs / "bench.log").write_text(done.stderr)
        try:
            document = json.loads(done.stdout)
        except ValueError:
            raise Failed("the bench ended with {}: {}".format(done.returncode, tail(done.stderr)))
        self.facts.update(device=document["device"], nvjpeg=document["nvjpeg"])
        bad = [c["name"] for c in document["checks"] if not c["ok"]]
        if done.returncode or bad:
            raise Failed("; ".join(bad) or "exit status {}".format(done.returncode), document)
        return "{} checks".format(len(document["checks"])), document

    def end_to_end(self):
        """Every image through the daemon, with each decoder, against the CPU path's values."""
        done = run([self.bench, "--expect", OUTPUTS, "--images", self.images, "--model-repository", self.engines], 60)
        if done.returncode:
            raise Failed("no expected values: " + tail(done.stderr))
        expected = json.loads(done.stdout)
        level = expected["scale"][0]
        figures, wrong = {}, []
        for decoder in DECODERS:
            with Daemon(self, "end-to-end-" + decoder, self.repository(decoder), env=self.work) as daemon:
                figures[decoder] = self.compare(daemon, decoder, expected["values"], level, wrong)
                figures[decoder]["ready_after_seconds"] = round(daemon.ready_after, 3)
                status = daemon.stop()
                if status:
                    wrong.append("{}: exit status {} after SIGTERM".format(decoder, status))
                figures[decoder]["log"] = [l for l in daemon.log.splitlines() if any(w in l for w in ('decoder = "auto"', "JPEG engine", " found "))]
        if wrong:
            raise Failed("; ".join(wrong[:5]), figures)
        worst = max(f["worst_mean_levels"] for f in figures.values())
        return "{} images x {} decoders, worst mean {:.3f} levels".format(
            len(expected["values"]), len(figures), worst), figures

    def compare(self, daemon, decoder, expected, level, wrong):
        exact = near = 0
        worst_mean = worst_max = 0.0
        connection = Connection(daemon.port)

        def decodes():
            lines = daemon.metrics()
            return {d: metric(lines, "visord_image_decodes_total", decoder=d) for d in ("hardware", "hybrid", "cpu")}

        def on_device():
            return sum(n for d, n in decodes().items() if d != "cpu")

        before = decodes()
        for name, want in sorted(expected.items()):
            decoded_before = on_device()
            status, body = connection.send(request_of((self.images / name).read_bytes(), "application/octet-stream"))
            if status != 200:
                wrong.append("{} {}: {} {}".format(decoder, name, status, body[:200].decode(errors="replace")))
                continue
            got = json.loads(body)["outputs"][0]["data"]
            pack = struct.Struct("<{}f".format(len(want))).pack
            if len(got) != len(want):
                wrong.append("{} {}: {} values".format(decoder, name, len(got)))
            elif pack(*got) == pack(*want):
                exact += 1
            elif on_device() == decoded_before:
                wrong.append("{} {}: decoded on the CPU, and not the CPU path's values".format(decoder, name))
            else:
                apart = [abs(g - w) / level for g, w in zip(got, want)]
                near += 1
                mean = sum(apart) / len(apart)
                worst_mean, worst_max = max(worst_mean, mean), max(worst_max, max(apart))
                if mean > WILD_MEAN_LEVELS:
                    wrong.append("{} {}: {:.2f} levels off in the mean".format(decoder, name, mean))
        grown = {d: n - before[d] for d, n in decodes().items()}
        usable = (self.facts.get("nvjpeg") or {}).get("hardware", {}).get("usable")
        if (decoder == "hardware" and usable and not grown["hardware"]) or (decoder == "hybrid" and not grown["hybrid"]):
            wrong.append("{}: nothing was decoded that way: {}".format(decoder, grown))
        return {"equal": exact, "near": near, "worst_mean_levels": round(worst_mean, 4),
                "worst_max_levels": round(worst_max, 3), "decodes": grown}

    def throughput(self):
        """Load over HTTP, with each decoder."""
        seconds = 0.4 if self.quick else 1.5
        counts, decoders = ((1, 16), ("auto", "cpu")) if self.quick else ((1, 16, 64), DECODERS)
        figures, best, errors = [], 0.0, []
        for decoder in decoders:
            with Daemon(self, "load-" + decoder, self.repository(decoder), env=self.work) as daemon:
                for picture, request in self.samples().items():
                    load(daemon, request, 4, 0.2)
                    for connections in counts:
                        got = load(daemon, request, connections, seconds)
                        figures.append(dict(decoder=decoder, picture=picture, **got))
                        best = max(best, got["requests_per_second"])
                        say("  {} {} {} connections: {} requests/s, p50 {} ms, p99 {} ms, batch {}".format(
                            decoder, picture, connections, got["requests_per_second"], got["p50_ms"], got["p99_ms"],
                            got["mean_batch"]))
                        if got["errors"] or not got["requests"]:
                            errors.append("{} {} {}: {}".format(decoder, picture, connections, got["first_error"]))
        if errors:
            raise Failed("; ".join(errors[:3]), {"runs": figures})
        return "up to {} requests/s".format(best), {"engine": STUB, "runs": figures}

    def visord_bench(self):
        """The same with `visord bench`, which is lighter than the client of these steps: is that the limit?"""
        seconds, document = 1 if self.quick else 4, self.scratch / "visord-bench.json"
        with Daemon(self, "visord-bench", self.repository("auto"), env=self.work) as daemon:
            url = "http://127.0.0.1:{}".format(daemon.port)
            done = run([self.visord, "bench", url, "--model", MODEL, "--images", self.images / "face.jpg", "-c", 64,
                        "-d", seconds, "--warmup", 0.2, "--quiet", "--json", document], seconds + 30)
        if done.returncode:
            raise Failed(tail(done.stdout + done.stderr))
        measured = json.loads(document.read_text())["runs"][0]
        return "64 connections, {:.0f} requests/s, p99 {:.2f} ms".format(
            measured["requests_per_second"], measured["latency_ms"]["p99"]), {"output": done.stdout, "run": measured}

    def overlap(self):
        """Copies and decoding beside compute, by time: what the engine's own time adds to a batch's.

        `hidden` is 1 where the longer engine costs nothing beyond the longer of both stages, and 0 where the two
        stages follow each other."""
        seconds = 1.0 if self.quick else 3.0
        request = self.samples()["1920x1080"]
        runs = {}
        for name, work in (("short", "0"), ("long", "1" if self.quick else "100")):
            with Daemon(self, "overlap-" + name, self.repository("auto"), env={"VISORD_FAKE_NVINFER_WORK": work}) as daemon:
                load(daemon, request, 16, 0.3)
                runs[name] = load(daemon, request, 64, seconds)
        per_row = {n: r["wall_seconds"] / max(r["rows"], 1) for n, r in runs.items()}
        compute = {n: r["compute_share"] * per_row[n] for n, r in runs.items()}
        added = compute["long"] - compute["short"]
        serial = per_row["short"] + added
        hidden = (serial - per_row["long"]) / min(per_row["short"], added) if added > 0 else None
        figures = dict(runs, seconds_per_row=per_row, compute_seconds_per_row=compute, hidden=hidden)
        if not all(r["rows"] for r in runs.values()):
            raise Failed("no request was answered", figures)
        text = "unknown: the engine's time did not grow" if hidden is None else "{:.0%} of the shorter stage is hidden".format(hidden)
        return text, figures

    def graphs(self):
        """Whether repeated batches run from CUDA graphs."""
        flags = ("--log-level", "info,visord=debug")
        with Daemon(self, "graphs", self.repository("cpu"), flags, env=self.work) as daemon:
            connection, request = Connection(daemon.port), self.samples()["face 200x200"]
            for _ in range(12):
                status, body = connection.send(request)
                if status != 200:
                    raise Failed("{} {}".format(status, body[:200]))
            lines = [l for l in daemon.log.splitlines() if "CUDA graph" in l]
        captured = [l for l in lines if "captured into a CUDA graph" in l]
        if not captured:
            raise Failed("no batch was captured: " + "; ".join(lines[:2]))
        return "{} batch sizes captured".format(len(captured)), {"log": lines}

    def out_of_memory(self):
        """An engine that wants more memory than any GPU has: the daemon must say what is needed and what to lower.

        Its scratch memory is what is too large: that is asked for first, so no host memory is taken."""
        env = {"VISORD_FAKE_NVINFER_DEVICE_MEMORY_BYTES": str(1 << 42)}
        daemon = Daemon(self, "out-of-memory", self.repository("cpu"), env=env, ready_seconds=40)
        try:
            daemon.start()
        except Failed as ended:
            line = next((l for l in daemon.log.splitlines() if "too little memory" in l and "max_batch_size" in l), None)
            if line is None or daemon.process.returncode in (None, 0) or daemon.process.returncode < 0:
                raise Failed("not refused as it should be: {}".format(ended))
            return "refused, exit status {}".format(daemon.process.returncode), {"message": line}
        daemon.stop()
        raise Failed("it was served")

    def sanitizer(self):
        """compute-sanitizer's memcheck around a short run."""
        program = tool("compute-sanitizer")
        # Memory alone: libraries ask the driver for functions that it may not have, which are no errors.
        wrapper = (program, "--tool", "memcheck", "--report-api-errors", "no", "--target-processes", "all",
                   "--error-exitcode", "9")
        report = []
        with Daemon(self, "compute-sanitizer", self.repository("auto"), env={"VISORD_FAKE_NVINFER_WORK": "0"},
                    wrapper=wrapper, ready_seconds=100) as daemon:
            connection = Connection(daemon.port)
            connection.socket.settimeout(60)
            for name in [p.name for p in sorted(self.images.iterdir())][:30]:
                status, _ = connection.send(request_of((self.images / name).read_bytes(), "application/octet-stream"))
                if status != 200:
                    report.append("{}: {}".format(name, status))
            status = daemon.stop(60)
            lines = [l for l in daemon.log.splitlines() if l.startswith("=========")]
        figures = {"exit_status": status, "report": lines[-40:], "answers": report}
        if status != 0 or report or not any("ERROR SUMMARY: 0 errors" in l for l in lines):
            raise Failed("exit status {}; {}".format(status, lines[-1] if lines else "no report"), figures)
        return "0 errors", figures

    def profile(self):
        """Copies beside kernels and memsets, from nsys."""
        program, out = tool("nsys"), self.scratch / "profile"
        wrapper = (program, "profile", "--trace=cuda", "--sample=none", "--force-overwrite=true", "--output", out)
        with Daemon(self, "nsys", self.repository("auto"), env=self.work, wrapper=wrapper, ready_seconds=60) as daemon:
            load(daemon, self.samples()["face 200x200"], 32, 1.0)
            daemon.stop(60)
        done = run([program, "stats", "--report", "cuda_gpu_trace", "--format", "csv", str(out) + ".nsys-rep"], 60)
        figures = overlapped(done.stdout)
        if not figures["copy_seconds"]:
            raise Failed("the trace has no copies: " + tail(done.stdout + done.stderr), figures)
        return "{:.0%} of the copies' time beside compute".format(figures["share"]), figures

    def tensorrt_rtx(self):
        """A real engine: builds for GPUs, then the daemon with golden.json's guard."""
        if self.arguments.tensorrt_rtx is None:
            raise Skipped("--tensorrt-rtx was not given")
        folder = self.scratch / "tensorrt-rtx"
        folder.mkdir()
        for library in [*self.arguments.tensorrt_rtx.glob("lib*.so*"), *self.lib.glob("libnvjpeg*")]:
            (folder / library.name).symlink_to(library.resolve())
        common = ["--tensorrt-dir", folder, "--model-repository", self.engines, "--plan-cache", self.scratch / "plans-rtx"]
        figures = {"builds": {}}
        for target in (None, "8.6", "8.0"):
            flags = ["--compute-capability", target] if target else []
            begin = time.monotonic()
            done = run([self.visord, "build", "--model", MODEL, *common, *flags], 90)
            figures["builds"][target or "this GPU"] = {
                "exit_status": done.returncode, "seconds": round(time.monotonic() - begin, 2), "says": tail(done.stderr, 4)}
        crashed = [n for n, b in figures["builds"].items() if b["exit_status"] < 0]
        if crashed:
            raise Failed("visord build was killed by a signal for " + ", ".join(crashed), figures)
        try:
            flags = ["--tensorrt-dir", folder, "--plan-cache", self.scratch / "plans-rtx"]
            with Daemon(self, "tensorrt-rtx", self.engines, flags, ready_seconds=90) as daemon:
                lines = daemon.metrics()
                figures["golden"] = {k: v for k, v in lines.items() if k.startswith("visord_golden")}
                figures["ready_after_seconds"] = round(daemon.ready_after, 2)
                figures["runs"] = [load(daemon, self.samples()["face 200x200"], n, 2.0) for n in (1, 16, 64)]
        except Failed as refused:
            figures["serve"] = str(refused)
            says = figures["builds"]["this GPU"]["says"]
            if figures["builds"]["this GPU"]["exit_status"] == 0:
                raise Failed("built for this GPU, and not served: {}".format(refused), figures)
            return "not for this GPU: " + tail(says, 1)[:160], figures
        best = max(r["requests_per_second"] for r in figures["runs"])
        return "golden.json holds, up to {} requests/s".format(best), figures


STEPS = (
    ("machine", Check.machine), ("nvidia-smi", Check.nvidia_smi), ("kernels and decoders", Check.pieces),
    ("end to end", Check.end_to_end), ("load", Check.throughput), ("visord bench", Check.visord_bench), ("overlap by time", Check.overlap),
    ("CUDA graphs", Check.graphs), ("out of memory", Check.out_of_memory), ("compute-sanitizer", Check.sanitizer),
    ("nsys", Check.profile), ("TensorRT-RTX", Check.tensorrt_rtx),
)


def outcome_of(check, name, step):
    start, figures = time.monotonic(), {}
    try:
        if start - check.begin > TOTAL_SECONDS:
            raise Skipped("out of time")
        summary, figures = step(check)
        outcome = "ok"
    except Skipped as why:
        outcome, summary = "skipped", str(why)
    except Failed as why:
        outcome, summary, figures = "FAILED", str(why), why.figures
    except Exception as why:  # the next step may still tell something
        outcome, summary = "FAILED", "{}: {}".format(type(why).__name__, why)
    return {"name": name, "outcome": outcome, "seconds": round(time.monotonic() - start, 2), "summary": summary,
            "figures": figures}
