// What two minutes of scrapes say: rates, percentiles, batch sizes, queue. The pictures and their tables.

import { Band, Heatmap, LineChart, Spark, WINDOW } from "./charts.js";
import { byId, bytes, duration, fixed, h, percent, setText, short } from "./dom.js";
import { apart, between, Catalog, observations, quantile } from "./metrics.js";

const REQUESTS = "visord_inference_requests_total";
const ERRORS = "visord_request_errors_total";
const BATCH = "visord_inference_batch_size";

/** Seconds over which rates and percentiles are taken: one second has too few requests for a p99. */
export const SPAN = 10;

/** Where a request's time goes, in its order. The first is the whole. */
export const STAGES = [
  ["request", "Whole request", "each request, from its head to its result"],
  ["queue", "Queue", "each row, until an instance took it"],
  ["decode", "Decode", "each image"],
  ["preprocess", "Preprocess", "each image: turn, resize, normalise"],
  ["compute", "Compute", "each batch: the engine"],
  ["postprocess", "Postprocess", "each batch: softmax, normalisation"],
];

const seconds = (stage) => `visord_inference_${stage}_duration_seconds`;

/** The scrapes of the last two minutes, and what can be read out of them. */
export class History {
  constructor() {
    this.catalog = new Catalog();
    this.scrapes = [];
    this.epoch = 0;
  }

  /** Adds a scrape. Where the daemon began again, or was not there for a while, nothing is counted across. */
  add(text, time) {
    const scrape = this.catalog.parse(text, time);
    const last = this.scrapes.at(-1);
    const start = (of) => this.catalog.sum(of, "process_start_time_seconds");
    let restarted = false;
    if (last) {
      restarted = start(scrape) !== start(last) || this.sum(scrape, REQUESTS) < this.sum(last, REQUESTS);
      if (restarted || time - last.time > SPAN * 1000) this.epoch += 1;
    }
    scrape.epoch = this.epoch;
    this.scrapes.push(scrape);
    // One span more than is shown, for the first points' deltas.
    const oldest = time - (WINDOW + SPAN + 2) * 1000;
    while (this.scrapes[0].time < oldest) this.scrapes.shift();
    return { scrape, restarted };
  }

  get last() {
    return this.scrapes.at(-1);
  }

  sum(scrape, name, passes) {
    return this.catalog.sum(scrape, name, passes);
  }

  /** The scrape from which a span that ends at place `at` counts: `span` seconds before, of the same run. */
  from(at, span) {
    const end = this.scrapes[at];
    let begin = at;
    while (begin > 0 && this.scrapes[begin - 1].epoch === end.epoch && end.time - this.scrapes[begin].time < span * 1000 - 500) {
      begin -= 1;
    }
    return this.scrapes[begin];
  }

  /** How a counter grew between two scrapes; a series that was not there began at zero. */
  growth(name, before, now, passes) {
    const delta = (this.sum(now, name, passes) || 0) - (this.sum(before, name, passes) || 0);
    return Math.max(0, delta);
  }

  /** Requests that succeeded and failed between two scrapes, of one version or of all. */
  outcomes(before, now, chosen) {
    const real = (l) => l.protocol !== "shadow" && chosen(l);
    const success = this.growth(REQUESTS, before, now, (l) => l.outcome === "success" && real(l));
    const failed = chosen.all
      ? this.growth(ERRORS, before, now, (l) => l.protocol !== "none" && l.protocol !== "shadow")
      : this.growth(REQUESTS, before, now, (l) => l.outcome !== "success" && real(l));
    return { success, failed };
  }

  percentiles(stage, before, now, chosen) {
    const of = (scrape) => this.catalog.histogram(scrape, seconds(stage), chosen);
    const delta = between(of(now), of(before));
    return { p50: quantile(0.5, delta), p95: quantile(0.95, delta), p99: quantile(0.99, delta), count: observations(delta) };
  }

  batches(before, now, chosen) {
    const of = (scrape) => this.catalog.histogram(scrape, BATCH, chosen);
    const delta = between(of(now), of(before));
    return { bounds: delta.bounds, counts: apart(delta) };
  }

  /** All that is drawn for one second. The first scrape of a run has nothing before it: no rates. */
  point(at, chosen) {
    const now = this.scrapes[at];
    const before = this.from(at, SPAN);
    const second = this.from(at, 1);
    const elapsed = (now.time - before.time) / 1000;
    const { success, failed } = this.outcomes(before, now, chosen);
    const instant = this.outcomes(second, now, chosen);
    const passed = (now.time - second.time) / 1000;
    const point = { time: now.time, epoch: now.epoch, batches: this.batches(second, now, chosen).counts };
    for (const [stage] of STAGES) point[stage] = this.percentiles(stage, before, now, chosen);
    const rows = this.growth("visord_inference_rows_total", before, now, chosen);
    const executions = this.growth("visord_inference_executions_total", before, now, chosen);
    return Object.assign(point, {
      success: passed > 0 ? instant.success / passed : NaN,
      failed: passed > 0 ? instant.failed / passed : NaN,
      rate: elapsed > 0 ? success / elapsed : NaN,
      ratio: success + failed > 0 ? success / (success + failed) : NaN,
      ...{ p50: point.request.p50, p95: point.request.p95, p99: point.request.p99 },
      rows: executions > 0 ? rows / executions : NaN,
      pending: this.sum(now, "visord_pending_rows", chosen),
      capacity: this.sum(now, "visord_queue_capacity_rows", chosen),
    });
  }

  /** Rate and p99 of one version now, for the table of models. */
  version(model, version) {
    const at = this.scrapes.length - 1;
    if (at < 0) return { rate: NaN, p99: NaN };
    const chosen = (l) => l.model === model && l.version === version;
    const before = this.from(at, SPAN);
    const elapsed = (this.last.time - before.time) / 1000;
    const { success } = this.outcomes(before, this.last, chosen);
    return { rate: elapsed > 0 ? success / elapsed : NaN, p99: this.percentiles("request", before, this.last, chosen).p99 };
  }

  /** Errors of the whole window by reason, most first. */
  reasons(chosen) {
    const before = this.from(this.scrapes.length - 1, WINDOW);
    const [name, label] = chosen.all ? [ERRORS, "reason"] : [REQUESTS, "outcome"];
    const counts = new Map();
    for (const { labels } of this.catalog.of(this.last, name)) {
      const reason = labels[label];
      if (reason === "success" || counts.has(reason)) continue;
      const mine = (l) => l[label] === reason && l.protocol !== "shadow" && l.protocol !== "none" && chosen(l);
      const count = this.growth(name, before, this.last, mine);
      if (count > 0) counts.set(reason, count);
    }
    return [...counts].sort((a, b) => b[1] - a[1]);
  }

  /** Gauges of GPUs, whatever their names: those that begin with `visord_gpu_`, but for the one that is a warning. */
  gpus() {
    return this.catalog
      .names("visord_gpu_")
      .filter((name) => !/_(unused|total|bucket|sum|count|info)$/.test(name))
      .flatMap((name) => this.catalog.of(this.last, name).map((series) => ({ name, ...series })));
  }
}

/** A gauge's name and value in words, by the unit that its name ends in. */
export function gauge(name, value) {
  const words = name.replace(/^visord_gpu_/, "");
  const units = [
    [/_ratio$/, percent],
    [/_bytes$/, bytes],
    [/_celsius$/, (v) => `${short(v)} °C`],
    [/_watts$/, (v) => `${short(v)} W`],
    [/_joules$/, (v) => `${short(v)} J`],
    [/_hertz$/, (v) => (v >= 1e9 ? `${fixed(v / 1e9, 2)} GHz` : `${short(v / 1e6)} MHz`)],
    [/_seconds$/, duration],
  ];
  const [unit, write] = units.find(([end]) => end.test(words)) ?? [null, short];
  const said = (unit ? words.replace(unit, "") : words).replaceAll("_", " ");
  return { said: said.charAt(0).toUpperCase() + said.slice(1), value: write(value) };
}

/** The pictures and numbers of the section "Live". */
export class Live {
  constructor(history) {
    this.history = history;
    this.points = [];
    this.chosen = everything;
    this.rate = new LineChart(byId("chart-rate"), {
      title: "Requests a second",
      series: [{ key: "success", name: "success", fill: true }, { key: "failed", name: "errors" }],
      format: short,
      least: 4,
    });
    this.latency = new LineChart(byId("chart-latency"), {
      title: "Time of a request",
      series: [{ key: "p50", name: "p50" }, { key: "p95", name: "p95" }, { key: "p99", name: "p99" }],
      format: duration,
    });
    this.batch = new Heatmap(byId("chart-batch"), { title: "Batch sizes" });
    this.queue = new LineChart(byId("chart-queue"), {
      title: "Rows in the queue",
      series: [{ key: "pending", name: "waiting", fill: true }],
      format: short,
      least: 4,
    });
    this.sparks = [
      new Spark(byId("spark-rate"), { title: "Requests a second", key: "rate", format: short }),
      new Spark(byId("spark-p50"), { title: "Median time of a request", key: "p50", format: duration }),
      new Spark(byId("spark-p99"), { title: "99th percentile of a request", key: "p99", format: duration }),
      new Spark(byId("spark-rows"), { title: "Rows of a batch", key: "rows", format: short }),
    ];
    this.bands = STAGES.map(([stage, name, what]) => this.stage(stage, name, what));
    this.gpuTable = "";
  }

  stage(stage, name, what) {
    const picture = h("td", { class: "band", role: "cell" });
    const cells = ["p50", "p95", "p99"].map((q) => h("td", { class: "number", role: "cell", "data-label": q, "data-stat": `${stage}-${q}` }, "–"));
    const head = h("th", { scope: "row", role: "rowheader" }, name, h("span", { class: "detail" }, what));
    byId("stages-body").append(h("tr", { role: "row" }, head, picture, ...cells));
    return { stage, cells, band: new Band(picture, { title: name, key: stage, format: duration }) };
  }

  /** Shows one version, or everything. */
  choose(chosen) {
    this.chosen = chosen;
    this.points = this.history.scrapes.map((_, at) => this.history.point(at, chosen));
    this.show();
  }

  /** Takes in the history's last scrape. */
  add() {
    this.points.push(this.history.point(this.history.scrapes.length - 1, this.chosen));
    const oldest = this.points.at(-1).time - (WINDOW + 1) * 1000;
    while (this.points[0].time < oldest) this.points.shift();
    this.show();
  }

  show() {
    const last = this.points.at(-1);
    if (!last) return;
    const shown = this.points.filter((p) => last.time - p.time <= WINDOW * 1000);
    for (const chart of [this.rate, this.latency, this.queue, ...this.sparks]) chart.draw(shown, last.time);
    for (const { stage, cells, band } of this.bands) {
      band.draw(shown, last.time);
      ["p50", "p95", "p99"].forEach((q, i) => setText(cells[i], duration(last[stage][q])));
    }
    const sizes = this.sizes();
    this.batch.draw(shown, last.time, sizes);
    this.tiles(last);
    this.tables(sizes);
    this.gpu();
  }

  tiles(last) {
    const put = (name, text) => setText(byId(`tile-${name}`), text);
    put("rate", short(last.rate));
    put("success", percent(last.ratio));
    put("p50", duration(last.p50));
    put("p99", duration(last.p99));
    put("rows", short(last.rows));
    put("pending", fixed(last.pending, 0));
    const full = last.capacity > 0 ? last.pending / last.capacity : NaN;
    setText(byId("tile-capacity"), last.capacity > 0 ? `of ${fixed(last.capacity, 0)}, ${percent(full)}` : "no queue");
    byId("tile-full").firstElementChild.setAttribute("width", String(Math.min(100, (full || 0) * 100)));
    setText(byId("queue-capacity"), `of ${fixed(last.capacity, 0)} that may wait`);
    const reasons = this.history.reasons(this.chosen);
    setText(byId("tile-reasons"), reasons.length ? reasons.slice(0, 2).map(([r, n]) => `${fixed(n, 0)} ${r}`).join(", ") : "no error in 2 min");
    byId("tile-reasons").classList.toggle("bad", reasons.length > 0);
  }

  /** Buckets of batch sizes with what the window has in each, down to the largest that is used. */
  sizes() {
    const before = this.history.from(this.history.scrapes.length - 1, WINDOW);
    const { bounds, counts } = this.history.batches(before, this.history.last, this.chosen);
    const used = Math.max(3, counts.findLastIndex((count) => count > 0));
    return bounds.slice(0, used + 1).map((bound, place) => {
      const lower = place === 0 ? 1 : bounds[place - 1] + 1;
      const name = bound === Infinity ? `> ${bounds.at(-2)}` : lower === bound ? `${bound}` : `${lower}\u2013${bound}`;
      return { name, place, count: counts[place] };
    });
  }

  /** The same as words and numbers: totals are the daemon's, as `/metrics` has them. */
  tables(sizes) {
    const { history, chosen } = this;
    const real = (l) => l.protocol !== "shadow" && chosen(l);
    const total = (name, passes) => history.sum(history.last, name, passes) || 0;
    const put = (name, value) => setText(byId(`total-${name}`), fixed(value, 0));
    put("success", total(REQUESTS, (l) => l.outcome === "success" && real(l)));
    put("failed", total(REQUESTS, (l) => l.outcome !== "success" && real(l)));
    put("rows", total("visord_inference_rows_total", chosen));
    put("batches", total("visord_inference_executions_total", chosen));
    const rows = sizes.map(({ name, count }) => h("tr", {}, h("th", { scope: "row" }, name), h("td", { class: "number" }, fixed(count, 0))));
    byId("sizes-body").replaceChildren(...rows);
    const reasons = history.reasons(chosen);
    byId("reasons-body").replaceChildren(
      ...(reasons.length ? reasons : [["none", 0]]).map(([reason, count]) =>
        h("tr", {}, h("th", { scope: "row" }, reason), h("td", { class: "number" }, fixed(count, 0))),
      ),
    );
  }

  gpu() {
    const gauges = this.history.gpus();
    byId("gpu").hidden = gauges.length === 0;
    byId("gpu-unused").hidden = !(this.history.sum(this.history.last, "visord_gpu_unused") > 0);
    if (gauges.length === 0) return;
    const devices = new Map();
    for (const { name, labels, value } of gauges) {
      const device = labels.gpu ?? labels.device ?? labels.index ?? labels.ordinal ?? "0";
      const kind = Object.entries(labels)
        .filter(([label]) => !["gpu", "device", "index", "ordinal", "uuid", "name"].includes(label))
        .map(([, v]) => v)
        .join(" ");
      if (!devices.has(device)) devices.set(device, { name: labels.name ?? "", rows: [] });
      // Of what is held down or gone only that it is.
      if (name.endsWith("_up")) {
        if (value === 0) devices.get(device).rows.push(["NVML", "does not answer"]);
        continue;
      }
      if (name.endsWith("_throttled") && value === 0) continue;
      const { said, value: written } = gauge(name, value);
      devices.get(device).rows.push([kind ? `${said}, ${kind.replaceAll("_", " ")}` : said, name.endsWith("_throttled") ? "yes" : written]);
    }
    const text = JSON.stringify([...devices]);
    if (text === this.gpuTable) return;
    this.gpuTable = text;
    byId("gpu-list").replaceChildren(
      ...[...devices].map(([device, { name, rows }]) =>
        h(
          "div",
          { class: "gpu-device" },
          h("h3", {}, `GPU ${device}${name ? `, ${name}` : ""}`),
          h("dl", {}, ...rows.map(([said, value]) => h("div", {}, h("dt", {}, said), h("dd", {}, value)))),
        ),
      ),
    );
  }
}

/** Every version of every model. */
export function everything() {
  return true;
}
everything.all = true;
