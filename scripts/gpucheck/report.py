"""The report: JSON, a section for docs/gpu-evidence.md, a table."""

import datetime
import json
import time

from .steps import STUB


def table(rows):
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(str(c).ljust(w) for c, w in zip(row, widths)).rstrip() for row in rows)


def markdown(document):
    """A section for docs/gpu-evidence.md."""
    facts = document["facts"]
    device = facts.get("device") or {}
    smi = (facts.get("nvidia_smi") or [{}])[0]
    nvjpeg = facts.get("nvjpeg") or {}
    lines = ["### {}: {}".format(document["date"][:10], device.get("name", "no GPU")), "",
             "Driver {}, CUDA {}, compute capability {}, {} MiB; nvJPEG {} ({}); {} cores of {}; {}. Engine of the end-to-end "
             "steps: {}.".format(
                 smi.get("driver_version", "unknown"), device.get("driver_cuda_version", "unknown"),
                 device.get("compute_capability", "unknown"), (device.get("memory_bytes") or 0) >> 20,
                 nvjpeg.get("version", "absent"),
                 "JPEG engine" if (nvjpeg.get("hardware") or {}).get("usable") else "no JPEG engine", facts.get("cores"),
                 facts.get("cpu"), "; ".join(facts.get("visord") or ["unknown version"]), STUB), "",
             "| step | outcome | s | |", "|---|---|---:|---|"]
    if document["quick"]:
        lines.insert(2, "A `--quick` run: its figures are no measurement.\n")
    for step in document["steps"]:
        lines.append("| {} | {} | {:.1f} | {} |".format(
            step["name"], step["outcome"], step["seconds"], step["summary"].replace("|", "/").replace("\n", " ")[:300]))
    by_name = {step["name"]: step["figures"] for step in document["steps"]}
    runs = by_name.get("load", {}).get("runs") or []
    if runs:
        lines += ["", "| decoder | picture | connections | requests/s | p50 ms | p99 ms | mean batch | CPU cores |",
                  "|---|---|---:|---:|---:|---:|---:|---:|"]
        lines += ["| {decoder} | {picture} | {connections} | {requests_per_second} | {p50_ms} | {p99_ms} | {mean_batch} | "
                  "{cpu_cores} |".format(**r) for r in runs]
    pieces = by_name.get("kernels and decoders", {})
    rates = [r for r in pieces.get("decode_rates") or [] if "images_per_second" in r]
    if rates:
        lines += ["", "| decoder | picture | batch | threads | images/s | p50 ms a batch |", "|---|---|---:|---:|---:|---:|"]
        lines += ["| {decoder} | {width}x{height} | {batch} | {threads} | {images_per_second:.0f} | {p50_ms:.3f} |".format(**r)
                  for r in rates]
    times = pieces.get("kernel_times") or []
    if times:
        lines += ["", "| preprocess from | batch | µs | GB/s read |", "|---|---:|---:|---:|"]
        lines += ["| {width}x{height} | {batch} | {microseconds:.2f} | {gigabytes_per_second:.1f} |".format(**t) for t in times]
    return "\n".join(lines) + "\n"


def report(check, steps):
    """Writes both files, and gives the document."""
    document = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"), "quick": check.quick,
        "engine": STUB, "seconds": round(time.monotonic() - check.begin, 1), "facts": check.facts, "steps": steps,
        "failed": [s["name"] for s in steps if s["outcome"] == "FAILED"],
    }
    check.arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    check.arguments.markdown.write_text(markdown(document))
    return document
