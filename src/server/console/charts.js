// Moving pictures, as SVG: their colours are the style sheet's, so a change of theme costs nothing. Each picture has a
// sentence for those who do not see it; the numbers are in tables of the page.

import { s, setText } from "./dom.js";

/** Seconds that the pictures show. */
export const WINDOW = 120;

const LEFT = 54;
const RIGHT = 62;
const TOP = 10;
const BOTTOM = 20;

/** The smallest of a few round numbers, times a power of ten, that is not below `value`. */
function nice(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 3, 4, 5, 6, 8, 10].map((step) => step * power).find((step) => step >= value * 0.999999);
}

/** What all pictures share: a size that follows the page, a sentence, a place in the tab's drawing order. */
class Picture {
  constructor(host, height) {
    this.height = height;
    this.width = 0;
    this.svg = s("svg", { role: "img", height, width: "100%", focusable: "false" });
    host.append(this.svg);
    new ResizeObserver(([entry]) => {
      const width = Math.round(entry.contentRect.width);
      if (width === this.width || width === 0) return;
      this.width = width;
      this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      if (this.last) this.draw(...this.last);
    }).observe(host);
  }

  draw(...what) {
    this.last = what;
    if (this.width === 0) return;
    this.svg.setAttribute("aria-label", this.describe(...what));
    this.svg.replaceChildren(...this.paint(...what));
  }
}

/** Path of a line through points; a point without a value, or of another run of the daemon, begins a new piece. */
function line(points, x, y) {
  let path = "";
  let open = false;
  let epoch = NaN;
  for (const point of points) {
    const value = y(point);
    const known = Number.isFinite(value);
    if (known) path += `${open && point.epoch === epoch ? "L" : "M"}${x(point).toFixed(1)} ${value.toFixed(1)}`;
    open = known;
    epoch = point.epoch;
  }
  return path;
}

/** Areas under the same pieces, down to `floor` or to another line. */
function area(points, x, y, floor) {
  const pieces = [];
  let epoch = NaN;
  for (const point of points) {
    const known = Number.isFinite(y(point)) && Number.isFinite(floor(point));
    if (known && point.epoch === epoch) pieces.at(-1).push(point);
    else if (known) pieces.push([point]);
    epoch = known ? point.epoch : NaN;
  }
  return pieces
    .filter((piece) => piece.length > 1)
    .map((piece) => {
      const there = piece.map((p) => `${x(p).toFixed(1)} ${y(p).toFixed(1)}`);
      const back = piece.toReversed().map((p) => `${x(p).toFixed(1)} ${floor(p).toFixed(1)}`);
      return `M${there.join("L")}L${back.join("L")}Z`;
    })
    .join("");
}

/** Lines over time, each named at its end. `series` are `{ key, name, fill }`; their colours go by place. `least` keeps
    the scale from jumping where there is next to nothing. */
export class LineChart extends Picture {
  constructor(host, { title, series, format, least = 0, height = 172 }) {
    super(host, height);
    Object.assign(this, { title, series, format, least });
  }

  describe(points) {
    const last = points.at(-1);
    const now = this.series.map(({ key, name }) => `${name} ${this.format(last ? last[key] : NaN)}`).join(", ");
    return `${this.title}, the last ${WINDOW} seconds. Now: ${now}.`;
  }

  paint(points, now) {
    const right = this.width - RIGHT;
    const bottom = this.height - BOTTOM;
    const values = points.flatMap((p) => this.series.map(({ key }) => p[key])).filter(Number.isFinite);
    const largest = nice(Math.max(this.least, ...values));
    const x = (p) => right - ((now - p.time) / 1000 / WINDOW) * (right - LEFT);
    const scale = (value) => bottom - (value / largest) * (bottom - TOP);
    const parts = this.axes(largest, scale, right, bottom);
    this.series.forEach(({ key, fill }, i) => {
      const y = (p) => scale(p[key]);
      if (fill) parts.push(s("path", { class: `area c${i}`, d: area(points, x, y, () => bottom) }));
      parts.push(s("path", { class: `line c${i}`, d: line(points, x, y) }));
    });
    return [...parts, ...this.names(points.at(-1), scale, right)];
  }

  axes(largest, scale, right, bottom) {
    const parts = [];
    for (const part of [0, 0.5, 1]) {
      const at = Math.round(scale(largest * part)) + 0.5;
      parts.push(s("line", { class: part === 0 ? "base" : "grid", x1: LEFT, x2: right, y1: at, y2: at }));
      const text = s("text", { class: "tick", x: LEFT - 8, y: at + 4, "text-anchor": "end" });
      text.textContent = this.format(largest * part).replace(/(\.\d*?)0+(?= |$)/, "$1").replace(/\.(?= |$)/, "");
      parts.push(text);
    }
    for (const [seconds, label, anchor] of [[WINDOW, `${WINDOW} s ago`, "start"], [WINDOW / 2, `${WINDOW / 2} s`, "middle"], [0, "now", "end"]]) {
      const at = right - (seconds / WINDOW) * (right - LEFT);
      const text = s("text", { class: "tick", x: at, y: bottom + 15, "text-anchor": anchor });
      text.textContent = label;
      parts.push(text);
    }
    return parts;
  }

  /** Names at the lines' ends, moved apart where they would touch. */
  names(last, scale, right) {
    if (!last) return [];
    const wanted = this.series
      .map(({ key, name }, i) => ({ name, i, y: Number.isFinite(last[key]) ? scale(last[key]) : NaN }))
      .filter(({ y }) => Number.isFinite(y))
      .sort((a, b) => b.y - a.y);
    let floor = this.height - BOTTOM + 1;
    return wanted.map(({ name, i, y }) => {
      const at = Math.min(y, floor);
      floor = at - 13;
      const text = s("text", { class: `name c${i}`, x: right + 8, y: at + 4 });
      text.textContent = name;
      return text;
    });
  }
}

/** A line without axes, for a place where the number stands beside it. */
export class Spark extends Picture {
  constructor(host, { title, key, format, height = 30 }) {
    super(host, height);
    Object.assign(this, { title, key, format });
  }

  describe(points) {
    return `${this.title}, the last ${WINDOW} seconds. Now: ${this.format(points.at(-1)?.[this.key])}.`;
  }

  paint(points, now) {
    const values = points.map((p) => p[this.key]).filter(Number.isFinite);
    const largest = Math.max(...values, 0) || 1;
    const x = (p) => this.width - 2 - ((now - p.time) / 1000 / WINDOW) * (this.width - 2);
    const y = (p) => this.height - 2 - (p[this.key] / largest) * (this.height - 4);
    return [
      s("path", { class: "area c0", d: area(points, x, y, () => this.height - 2) }),
      s("path", { class: "line c0", d: line(points, x, y) }),
    ];
  }
}

/** p50 as a line in a band from p50 to p99, p95 thin between them. `key` names `{ p50, p95, p99 }` of a point. */
export class Band extends Picture {
  constructor(host, { title, key, format, height = 34 }) {
    super(host, height);
    Object.assign(this, { title, key, format });
  }

  describe(points) {
    const last = points.at(-1)?.[this.key] ?? {};
    const now = ["p50", "p95", "p99"].map((q) => `${q} ${this.format(last[q])}`).join(", ");
    return `${this.title}, the last ${WINDOW} seconds. Now: ${now}.`;
  }

  paint(points, now) {
    const largest = Math.max(0, ...points.map((p) => p[this.key].p99).filter(Number.isFinite)) || 1;
    const x = (p) => this.width - 2 - ((now - p.time) / 1000 / WINDOW) * (this.width - 2);
    const y = (q) => (p) => this.height - 2 - (p[this.key][q] / largest) * (this.height - 4);
    return [
      s("path", { class: "area c0", d: area(points, x, y("p99"), y("p50")) }),
      s("path", { class: "line thin c0", d: line(points, x, y("p95")) }),
      s("path", { class: "line c0", d: line(points, x, y("p50")) }),
    ];
  }
}

const SHADES = 5;
const ROW = 34;

/** Batch sizes: a column for each second, a row for each bucket, stronger where more batches were; shares at the right. */
export class Heatmap extends Picture {
  constructor(host, { title, height = 172 }) {
    super(host, height);
    this.title = title;
  }

  describe(points, now, rows) {
    const all = rows.reduce((sum, row) => sum + row.count, 0);
    if (all === 0) return `${this.title}, the last ${WINDOW} seconds: no batch ran.`;
    const said = rows.filter((row) => row.count > 0).map((row) => `${row.name}: ${Math.round((row.count / all) * 100)} %`);
    return `${this.title}, the last ${WINDOW} seconds, in rows: ${said.join(", ")} of batches.`;
  }

  paint(points, now, rows) {
    const right = this.width - RIGHT;
    const bottom = this.height - BOTTOM;
    const tall = Math.min(ROW, (bottom - TOP) / Math.max(rows.length, 1));
    const wide = (right - LEFT) / WINDOW;
    const all = rows.reduce((sum, row) => sum + row.count, 0);
    const most = Math.max(1, ...points.flatMap((p) => p.batches.filter(Number.isFinite)));
    const shades = Array.from({ length: SHADES }, () => "");
    const parts = [];
    rows.forEach((row, i) => {
      const y = bottom - (i + 1) * tall;
      for (const point of points) {
        const count = point.batches[row.place] ?? 0;
        const x = right - ((now - point.time) / 1000 / WINDOW) * (right - LEFT);
        if (!(count > 0) || x < LEFT) continue;
        const shade = Math.min(SHADES - 1, Math.floor(Math.sqrt(count / most) * SHADES));
        shades[shade] += `M${Math.max(LEFT, x - wide).toFixed(1)} ${(y + 1).toFixed(1)}h${(wide + 0.3).toFixed(1)}v${(tall - 2).toFixed(1)}h${(-wide - 0.3).toFixed(1)}z`;
      }
      const name = s("text", { class: "tick", x: LEFT - 8, y: y + tall / 2 + 4, "text-anchor": "end" });
      name.textContent = row.name;
      const share = s("text", { class: "name c0", x: right + 8, y: y + tall / 2 + 4 });
      share.textContent = row.count > 0 ? `${Math.max(1, Math.round((row.count / all) * 100))} %` : "";
      parts.push(s("line", { class: "grid", x1: LEFT, x2: right, y1: y + tall - 0.5, y2: y + tall - 0.5 }), name, share);
    });
    shades.forEach((d, i) => parts.push(s("path", { class: `heat h${i}`, d })));
    for (const [x, text, anchor] of [[LEFT, `${WINDOW} s ago`, "start"], [right, "now", "end"]]) {
      const label = s("text", { class: "tick", x, y: bottom + 15, "text-anchor": anchor });
      setText(label, text);
      parts.push(label);
    }
    return parts;
  }
}
