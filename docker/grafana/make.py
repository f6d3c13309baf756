#!/usr/bin/env python3
"""Writes dashboards/*.json; with --check, says which of them are not what this would write, and changes nothing.

Dashboards are changed here: JSON that a program wrote is read by nobody. A panel's title is the question that it
answers. tests/clients/test_prometheus.py asks every query of a real Prometheus.
"""

import json
import pathlib
import sys

from panels import (
    GREEN, RED, YELLOW, dashboard, graph, heatmap, query, row, stat, steps, table, variable,
)

FOLDER = pathlib.Path(__file__).resolve().parent / "dashboards"

# Selectors: of a host, and of what a model version records there.
HOST = 'instance=~"$instance"'
MODEL = f'{HOST},model=~"$model",version=~"$version"'
# Of a model whose versions lie side by side.
SIDES = f'{HOST},model="$model"'
# Copies that a shadow version runs are no requests of clients.
CLIENTS = 'protocol!="shadow"'
# Reasons of docs/errors.md that are visord's or its size's, not the client's; as in prometheus/rules/visord.yml.
OURS = 'outcome=~"queue_full|overloaded|not_ready|draining|deadline_exceeded|nan_output|backend|internal"'
REFUSED = 'reason=~"queue_full|overloaded|not_ready|draining|deadline_exceeded"'
STAGES = ("queue", "decode", "preprocess", "compute", "postprocess")

instance = variable("instance", "host", "label_values(visord_ready, instance)")
model = variable("model", "model", f"label_values(visord_inference_requests_total{{{HOST}}}, model)")
version = variable("version", "version", f'label_values(visord_inference_requests_total{{{HOST},model=~"$model"}}, version)')
one_model = variable("model", "model", f"label_values(visord_inference_requests_total{{{HOST}}}, model)", multi=False)


def rate(metric, selector):
    return f"rate({metric}{{{selector}}}[$__rate_interval])"


def quantile(q, metric, selector, by=""):
    by = f"{by}, le" if by else "le"
    return f"histogram_quantile({q}, sum by ({by}) ({rate(metric + '_bucket', selector)}))"


def stage_graph(title, q, about):
    """One quantile of the whole request and of each stage."""
    names = ("request", *STAGES)
    queries = [query(quantile(q, f"visord_inference_{name}_duration_seconds", MODEL), name) for name in names]
    return graph(title, *queries, unit="s", width=8, about=about, min=0)


def failed(selector, by):
    """Share of requests that failed through no fault of the client; 0 where there were some and none failed."""
    requests = f"sum{by} ({rate('visord_inference_requests_total', selector)})"
    errors = f"sum{by} ({rate('visord_inference_requests_total', f'{selector},{OURS}')})"
    return f"({errors} or 0 * {requests}) / ({requests} > 0)"


def service():
    clients = f"{MODEL},{CLIENTS}"
    seconds = "visord_inference_request_duration_seconds"
    return dashboard("visord-service", "visord: service", "What clients see: rate, errors, time, queues.", [instance, model, version], [
        stat("Is every host ready?", query(f"visord_ready{{{HOST}}}", "{{instance}}"), unit="none",
             words={"0": ("not ready", RED), "1": ("ready", GREEN)}),
        stat("How many requests a second?", query(f"sum({rate('visord_inference_requests_total', clients)})", "requests"), unit="reqps"),
        stat("What share fails?", query(failed(clients, ""), "failed"), unit="percentunit",
             thresholds=steps((GREEN, None), (YELLOW, 0.005), (RED, 0.02)),
             about="Through no fault of the client: refusals, deadlines, faults. The alert is at 2 %."),
        stat("How long do the slowest take?", query(quantile(0.99, seconds, MODEL), "p99"), unit="s",
             thresholds=steps((GREEN, None), (RED, 0.25)), about="p99 of requests that succeeded. The target is 0.25 s."),
        table("What is wrong right now?", 'ALERTS{alertname=~"Visord.+",alertstate="firing"}',
              ["alertname", "severity", "instance", "model", "version"], height=5, about="docs/runbook.md has a paragraph for each."),

        row("Time"),
        stage_graph("Where does the time of a usual request go? (p50)", 0.5, "Half of the requests are quicker."),
        stage_graph("Where does the time of a slow request go? (p95)", 0.95, "One in twenty is slower."),
        stage_graph("Are requests slow, and where? (p99)", 0.99,
                    "One in a hundred is slower. Queue is of a row, decode and preprocess of an image, compute and postprocess "
                    "of a batch: quantiles do not add up."),
        graph("Which model is slow?", query(quantile(0.99, seconds, MODEL, "model"), "{{model}}"),
              query("visord:request_duration_seconds:target", "target"), unit="s", min=0, about="p99 of each model, and the target of the alert."),
        heatmap("How are request times spread?", f"sum by (le) ({rate(seconds + '_bucket', MODEL)})", "s"),

        row("Requests and errors"),
        graph("Who asks for what?", query(f"sum by (model, protocol) ({rate('visord_inference_requests_total', clients)})",
                                          "{{model}} {{protocol}}"), unit="reqps", stack=True, min=0),
        graph("What share of each model's requests fails?", query(failed(clients, " by (model)"), "{{model}}"), unit="percentunit",
              thresholds=steps((GREEN, None), (RED, 0.02)), min=0, about="Through no fault of the client."),
        graph("What is turned away, and why?",
              query(f"sum by (reason) ({rate('visord_request_errors_total', f'{HOST},{REFUSED}')})", "{{reason}}"),
              unit="reqps", stack=True, min=0, about="Whatever protocol; also where no model was known yet. docs/errors.md says what each means."),
        graph("What else fails, and why?",
              query(f"sum by (protocol, reason) ({rate('visord_request_errors_total', f'{HOST},' + REFUSED.replace('=~', '!~'))})",
                    "{{reason}} {{protocol}}"), unit="reqps", stack=True, min=0, about="Mostly what clients send wrongly."),

        row("Queue and batches"),
        graph("Are the queues full?", query(f"visord_pending_rows{{{MODEL}}} / (visord_queue_capacity_rows{{{MODEL}}} > 0)",
                                            "{{instance}} {{model}} {{version}}"), unit="percentunit",
              thresholds=steps((GREEN, None), (RED, 0.8)), min=0, max=1, about="At 100 % clients get 429."),
        heatmap("How large are the batches?", f"sum by (le) ({rate('visord_inference_batch_size_bucket', MODEL)})", "none",
                about="Batches a second, by rows. All at 1 under load: nothing to batch, or no time for it."),
        graph("How many rows has an average batch?",
              query(f"sum by (model) ({rate('visord_inference_rows_total', MODEL)}) / (sum by (model) ({rate('visord_inference_executions_total', MODEL)}) > 0)",
                    "{{model}}"), unit="none", min=0),
        graph("How many rows a second does the engine run?",
              query(f"sum by (model, version) ({rate('visord_inference_rows_total', MODEL)})", "{{model}} {{version}}"), unit="ops", min=0),

        row("Process"),
        graph("Is the CPU busy?", query(rate("process_cpu_seconds_total", f'job="visord",{HOST}'), "{{instance}}"), unit="none", width=8, min=0,
              about="Cores in use."),
        graph("Does memory grow?", query(f'process_resident_memory_bytes{{job="visord",{HOST}}}', "{{instance}} resident"),
              query(f"visord_request_inflight_bytes{{{HOST}}}", "{{instance}} request bodies"), unit="bytes", width=8, min=0),
        graph("Who is connected?", query(f"visord_http_connections{{{HOST}}}", "{{instance}} HTTP"),
              query(f"visord_grpc_connections{{{HOST}}}", "{{instance}} gRPC"), unit="none", width=8, min=0),
        stat("How long is the certificate good?", query(f"visord_tls_certificate_expiry_timestamp_seconds{{{HOST}}} - time()", "{{instance}}"),
             unit="s", width=8, thresholds=steps((RED, None), (YELLOW, 2 * 86400), (GREEN, 14 * 86400)), about="Only with --tls-cert."),
        graph("Do TLS handshakes fail, and why?", query(f"sum by (reason) ({rate('visord_tls_handshake_failures_total', HOST)})", "{{reason}}"),
              unit="ops", width=8, height=5, min=0, about="Only with --tls-cert."),
        stat("Since when do they run?", query(f'time() - process_start_time_seconds{{job="visord",{HOST}}}', "{{instance}}"), unit="s", width=8),
    ])


def gpu():
    gpus = variable("gpu", "GPU", f"label_values(visord_gpu_memory_total_bytes{{{HOST}}}, gpu)")
    of = f'{HOST},gpu=~"$gpu"'
    name = "{{instance}} {{gpu}} {{name}}"

    def lines(title, *metrics, unit, **more):
        return graph(title, *(query(f"{metric}{{{of}}}", f"{name} {suffix}".strip()) for metric, suffix in metrics), unit=unit, **more)

    return dashboard("visord-gpu", "visord: GPU", "The GPUs that visord sees, by NVML. Empty where there is none.", [instance, gpus], [
        stat("Is a GPU there and not used?", query(f"visord_gpu_unused{{{HOST}}}", "{{instance}}"), unit="none", width=8,
             words={"0": ("no", GREEN), "1": ("yes: see the log", RED)}),
        stat("Does every GPU answer?", query(f"visord_gpu_up{{{of}}}", name), unit="none", width=8,
             words={"0": ("lost", RED), "1": ("yes", GREEN)}),
        stat("How much energy have they used?", query(f"increase(visord_gpu_energy_joules_total{{{of}}}[$__range])", name), unit="joule", width=8,
             about="In the time that the dashboard shows."),
        table("What runs where?", f"visord_backend_info{{{HOST}}} == 1",
              ["instance", "model", "version", "backend", "backend_version", "device", "precision"], height=5),
        lines("Are the GPUs at work?", ("visord_gpu_utilization_ratio", ""), unit="percentunit", min=0, max=1,
              about="Share of time in which a kernel ran, of any process."),
        lines("Is there memory left?", ("visord_gpu_memory_used_bytes", "used"), ("visord_gpu_memory_total_bytes", "total"), unit="bytes", min=0),
        lines("Are they hot?", ("visord_gpu_temperature_celsius", ""), unit="celsius"),
        lines("How much power do they draw?", ("visord_gpu_power_watts", ""), ("visord_gpu_power_limit_watts", "limit"), unit="watt", min=0),
        graph("Do they run at full clock?", query(f"visord_gpu_clock_hertz{{{of}}} / (visord_gpu_clock_max_hertz{{{of}}} > 0)", name + " {{clock}}"),
              unit="percentunit", min=0, max=1, about="Clocks of the multiprocessors (sm) and the memory, of the highest that they can be."),
        graph("What slows them down?", query(f"visord_gpu_throttled{{{of}}} == 1", name + " {{reason}}"), unit="none", min=0, max=1,
              about="idle, applications_clocks and sw_power_cap are everyday; thermal and brake are not."),
        lines("Are the decoding engines at work?", ("visord_gpu_jpeg_utilization_ratio", "JPEG"),
              ("visord_gpu_decoder_utilization_ratio", "video"), unit="percentunit", min=0, max=1, about="GPUs without a JPEG engine have no such line."),
        graph("Who decodes the images?", query(f"sum by (decoder) ({rate('visord_image_decodes_total', HOST)})", "{{decoder}}"), unit="ops",
              stack=True, min=0, about="hardware: the JPEG engine; hybrid: nvJPEG with the CPU's help; cpu: what nvJPEG does not take."),
        graph("Does the memory fail?", query(f"increase(visord_gpu_ecc_errors_total{{{of}}}[$__rate_interval])", name + " {{type}}"), unit="none", min=0,
              about="Corrected errors are counted, uncorrected ones have lost data."),
    ])


def ab():
    clients = f"{SIDES},{CLIENTS}"
    seconds = "visord_inference_request_duration_seconds"
    by_pair = "version, shadow, output"
    return dashboard("visord-ab", "visord: versions side by side", "One model's versions: docs/ab-testing.md.", [instance, one_model], [
        graph("Who should get how much?", query(f"max by (version) (visord_traffic_share_ratio{{{SIDES}}})", "{{version}}"),
              unit="percentunit", width=8, stack=True, min=0, about="[traffic] in model.toml, as it is in force."),
        graph("Who gets how much?",
              query(f"sum by (version) ({rate('visord_inference_requests_total', clients)}) / on() group_left() "
                    f"(sum({rate('visord_inference_requests_total', clients)}) > 0)", "{{version}}"), unit="percentunit", width=8, stack=True, min=0),
        graph("Did a version have to stand in?", query(f"sum by (version) ({rate('visord_traffic_fallbacks_total', SIDES)})", "in place of {{version}}"),
              unit="reqps", width=8, min=0),
        graph("Does one version fail more?", query(failed(clients, " by (version)"), "{{version}}"), unit="percentunit", width=8, min=0),
        graph("Is one version slower?", query(quantile(0.5, seconds, SIDES, "version"), "{{version}} p50"),
              query(quantile(0.99, seconds, SIDES, "version"), "{{version}} p99"), unit="s", width=8, min=0),
        graph("Which version costs more?",
              query(f"sum by (version) ({rate('visord_inference_compute_duration_seconds_sum', SIDES)}) / "
                    f"(sum by (version) ({rate('visord_inference_rows_total', SIDES)}) > 0)", "{{version}}"), unit="s", width=8, min=0,
              about="Engine time for each row; copies are in it."),

        row("Shadow"),
        graph("How near are the answers of the shadow?",
              query(f"sum by ({by_pair}) ({rate('visord_shadow_cosine_sum', SIDES)}) / (sum by ({by_pair}) ({rate('visord_shadow_cosine_count', SIDES)}) > 0)",
                    "{{version}} and {{shadow}}: {{output}}"), unit="none", width=8, about="Mean cosine of the same row on both."),
        graph("How many answers differ?",
              query(f"sum by ({by_pair}) ({rate('visord_shadow_cosine_bucket', SIDES + ',le=' + chr(34) + '0.999' + chr(34))}) / "
                    f"(sum by ({by_pair}) ({rate('visord_shadow_cosine_count', SIDES)}) > 0)", "{{version}} and {{shadow}}: {{output}}"),
              unit="percentunit", width=8, min=0, max=1, about="Share of rows whose cosine is at most 0.999."),
        graph("Do both name the same class?",
              query(f"sum by ({by_pair}) ({rate('visord_shadow_agreement_total', SIDES + ',agree=' + chr(34) + 'true' + chr(34))}) / "
                    f"(sum by ({by_pair}) ({rate('visord_shadow_agreement_total', SIDES)}) > 0)", "{{version}} and {{shadow}}: {{output}}"),
              unit="percentunit", width=8, min=0, max=1, about="Only for outputs with softmax or labels, and whole numbers."),
        heatmap("How are the cosines spread?", f"sum by (le) ({rate('visord_shadow_cosine_bucket', SIDES)})", "none", width=8),
        graph("Is the shadow slower on the same requests?", query(quantile(0.5, "visord_shadow_duration_seconds", SIDES, "side"), "{{side}} p50"),
              query(quantile(0.99, "visord_shadow_duration_seconds", SIDES, "side"), "{{side}} p99"), unit="s", width=8, min=0,
              about="From the queue to the result."),
        graph("What becomes of the copies?",
              query(f'sum by (outcome) ({rate("visord_inference_requests_total", SIDES + ",protocol=" + chr(34) + "shadow" + chr(34))})', "ran: {{outcome}}"),
              query(f"sum by (reason) ({rate('visord_shadow_shed_total', SIDES)})", "given up: {{reason}}"),
              query(f"sum by (reason) ({rate('visord_shadow_errors_total', SIDES)})", "failed: {{reason}}"), unit="ops", width=8, min=0),
    ])


def models():
    return dashboard("visord-models", "visord: models", "How models come, change and go.", [instance, model, version], [
        table("What is served, by what?", f"visord_backend_info{{{MODEL}}} == 1",
              ["instance", "model", "version", "backend", "backend_version", "device", "precision"]),
        graph("Do loads succeed?", query(f'sum by (model, outcome) (visord_model_loads_total{{{HOST},model=~"$model"}})', "{{model}} {{outcome}}"),
              unit="none", width=8, min=0, about="Since the start of each process: rare events, which rates would hide."),
        graph("How long does a load take?", query(f"visord_model_load_duration_seconds{{{MODEL}}}", "{{instance}} {{model}} {{version}}"),
              unit="s", width=8, min=0, about="The latest, warm-up included."),
        graph("Do old versions go away?", query(f"visord_draining_versions{{{HOST}}}", "{{instance}} draining"),
              query(f'sum by (model) (visord_model_unloads_total{{{HOST},model=~"$model"}})', "{{model}} unloaded"),
              unit="none", width=8, min=0, about="Draining versions hold memory until their last request is answered. Unloads are counted since the start."),
        graph("Can every version take work?", query(f"visord_ready_instances{{{MODEL}}}", "{{instance}} {{model}} {{version}}"), unit="none", width=8, min=0,
              about="Instances; 0 also for a version that is gone."),
        graph("Do instances panic?", query(f"sum by (model, version) (visord_instance_restarts_total{{{MODEL}}})", "{{model}} {{version}}"),
              unit="none", width=8, min=0, about="Since the start of each process. After each, the instance is built again."),

        row("Plans of TensorRT"),
        graph("Do plans come out of the cache?", query(f"sum by (outcome) (visord_plan_cache_total{{{HOST}}})", "{{outcome}}"),
              unit="none", width=8, min=0, about="Since the start of each process. A miss is a build. docs/metrics.md says what the other outcomes mean."),
        graph("How long does a build take?", query(f"visord_engine_build_duration_seconds{{{MODEL}}}", "{{instance}} {{model}} {{version}}"),
              unit="s", width=8, min=0),
        graph("How far is the build?", query(f"visord_engine_build_progress_ratio{{{MODEL}}}", "{{instance}} {{model}} {{version}}"),
              unit="percentunit", width=8, min=0, max=1),

        row("Drift"),
        graph("How near is each version to golden.json?", query(f"visord_golden_worst_cosine{{{MODEL}}}", "{{instance}} {{model}} {{version}} {{output}}"),
              unit="none", width=8, about="Least cosine at the latest load; only for versions with the file."),
        graph("How far off is the worst value?", query(f"visord_golden_worst_difference{{{MODEL}}}", "{{instance}} {{model}} {{version}} {{output}}"),
              unit="none", width=8, min=0),
        stat("Does FP32 serve where less was asked for?", query(f"visord_drift_fallback{{{MODEL}}}", "{{instance}} {{model}} {{version}}"), unit="none",
             width=8, height=8, words={"0": ("no", GREEN), "1": ("yes: it drifted", RED)}),
    ])


def main():
    check = sys.argv[1:] == ["--check"]
    if sys.argv[1:] and not check:
        sys.exit("make.py writes docker/grafana/dashboards; make.py --check compares")
    stale = []
    for made in (service(), gpu(), ab(), models()):
        path = FOLDER / f"{made['uid'].removeprefix('visord-')}.json"
        text = json.dumps(made, indent=1, ensure_ascii=False) + "\n"
        if not path.exists() or path.read_text() != text:
            stale.append(path.name)
            if not check:
                path.write_text(text)
    if check and stale:
        sys.exit(f"run docker/grafana/make.py: {', '.join(stale)} are not what it writes")


if __name__ == "__main__":
    main()
