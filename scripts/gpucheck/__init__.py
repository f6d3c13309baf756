"""The parts of scripts/gpu-check: tools, daemon, client, steps, trace, report. Python's standard library alone."""
