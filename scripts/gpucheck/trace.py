"""What a profiler's trace says."""

import csv
import io


def overlapped(text):
    """Of nsys's cuda_gpu_trace as CSV: seconds of copies, of compute, and of copies beside compute."""
    start = text.find("Start (ns)")
    copies, compute = [], []
    for row in csv.DictReader(io.StringIO(text[start:])) if start >= 0 else ():
        try:
            begin = int(row["Start (ns)"])
            end = begin + int(row["Duration (ns)"])
        except (KeyError, TypeError, ValueError):
            continue
        name = row.get("Name") or ""
        host = "Host-to-Device" in name or "Device-to-Host" in name or "HtoD" in name or "DtoH" in name
        (copies if host else compute).append((begin, end))
    merged = []
    for begin, end in sorted(compute):
        if merged and begin <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([begin, end])
    beside = sum(max(0, min(end, e) - max(begin, b)) for begin, end in copies for b, e in merged)
    copy_ns = sum(end - begin for begin, end in copies)
    return {"copy_seconds": copy_ns / 1e9, "compute_seconds": sum(e - b for b, e in merged) / 1e9,
            "copy_seconds_beside_compute": beside / 1e9, "share": beside / copy_ns if copy_ns else 0.0}
