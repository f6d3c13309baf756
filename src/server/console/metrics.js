// Prometheus' text format, read once a second, and what histograms say of the time between two readings.

const LABEL = /([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"/g;

/**
 * Remembers series, so that a line that was seen before costs a look-up. A scrape holds one number for each series,
 * at the series' place, NaN where it is missing: two minutes of scrapes stay small.
 */
export class Catalog {
  constructor() {
    this.series = [];
    this.places = new Map();
    this.named = new Map();
  }

  /** Reads a scrape that came at `time`, milliseconds. */
  parse(text, time) {
    const values = [];
    for (const line of text.split("\n")) {
      if (line === "" || line.charCodeAt(0) === 35) continue;
      const end = line.lastIndexOf("}") + 1 || line.search(/\s/);
      if (end <= 0) continue;
      const place = this.place(line.slice(0, end));
      values[place] = number(line.slice(end).trim().split(/\s+/, 1)[0]);
    }
    return { time, values, epoch: 0 };
  }

  place(key) {
    let place = this.places.get(key);
    if (place === undefined) {
      place = this.series.length;
      this.places.set(key, place);
      const brace = key.indexOf("{");
      const name = brace < 0 ? key : key.slice(0, brace);
      const labels = {};
      if (brace >= 0) {
        for (const [, label, value] of key.slice(brace).matchAll(LABEL)) labels[label] = unescape(value);
      }
      this.series.push({ name, labels });
      if (!this.named.has(name)) this.named.set(name, []);
      this.named.get(name).push(place);
    }
    return place;
  }

  /** Labels and value of each series of that name in a scrape. */
  of(scrape, name) {
    const found = [];
    for (const place of this.named.get(name) ?? []) {
      const value = scrape.values[place];
      if (value !== undefined) found.push({ labels: this.series[place].labels, value });
    }
    return found;
  }

  /** Names that begin with `prefix`. */
  names(prefix) {
    return [...this.named.keys()].filter((name) => name.startsWith(prefix)).sort();
  }

  /** The sum over the series whose labels pass; NaN where there are none. */
  sum(scrape, name, passes = () => true) {
    let sum = NaN;
    for (const { labels, value } of this.of(scrape, name)) {
      if (passes(labels)) sum = (Number.isNaN(sum) ? 0 : sum) + value;
    }
    return sum;
  }

  /** A histogram, summed over the series whose labels pass: cumulative counts by upper bound, the last one infinite. */
  histogram(scrape, name, passes = () => true) {
    const counts = new Map();
    for (const { labels, value } of this.of(scrape, `${name}_bucket`)) {
      if (!passes(labels)) continue;
      const bound = number(labels.le);
      counts.set(bound, (counts.get(bound) ?? 0) + value);
    }
    const bounds = [...counts.keys()].sort((a, b) => a - b);
    return { bounds, counts: bounds.map((bound) => counts.get(bound)) };
  }
}

function number(text) {
  if (text === "+Inf") return Infinity;
  if (text === "-Inf") return -Infinity;
  return Number(text === "" ? NaN : text);
}

function unescape(text) {
  return text.replace(/\\(.)/g, (_, c) => (c === "n" ? "\n" : c));
}

/** What came between two states of a histogram; a series that was not there before began at zero. */
export function between(now, before) {
  const earlier = new Map(before.bounds.map((bound, i) => [bound, before.counts[i]]));
  return { bounds: now.bounds, counts: now.counts.map((count, i) => count - (earlier.get(now.bounds[i]) ?? 0)) };
}

/** Observations in a histogram. */
export function observations(histogram) {
  return histogram.counts.at(-1) ?? 0;
}

/**
 * A quantile, by linear interpolation within its bucket as PromQL's `histogram_quantile` does it. Infinity where it
 * lies above the last finite bound, NaN where nothing was observed.
 */
export function quantile(q, { bounds, counts }) {
  const total = counts.at(-1) ?? 0;
  if (!(total > 0)) return NaN;
  const rank = q * total;
  const at = counts.findIndex((count) => count >= rank);
  if (bounds[at] === Infinity) return Infinity;
  const lower = at === 0 ? 0 : bounds[at - 1];
  const below = at === 0 ? 0 : counts[at - 1];
  const inside = counts[at] - below;
  return inside > 0 ? lower + ((bounds[at] - lower) * (rank - below)) / inside : bounds[at];
}

/** Counts of each bucket by itself. */
export function apart({ counts }) {
  return counts.map((count, i) => count - (i === 0 ? 0 : counts[i - 1]));
}
