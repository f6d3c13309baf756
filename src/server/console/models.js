// The table of models: what the repository's index, the metrics and the shadow's comparisons say of each version.

import { byId, duration, fixed, h, percent, short } from "./dom.js";

const STATES = {
  READY: ["good", "Ready"],
  LOADING: ["busy", "Loading"],
  UNLOADING: ["busy", "Unloading"],
  UNAVAILABLE: ["bad", "Unavailable"],
};

/** One row for each version, from the index's entries and a scrape. A model without a version is a row too. */
export function rows(entries, catalog, scrape, live) {
  const found = entries.map((entry) => {
    const mine = ({ model, version }) => model === entry.name && version === entry.version;
    const one = (name) => catalog.sum(scrape, name, mine);
    const info = catalog.of(scrape, "visord_backend_info").find(({ labels, value }) => value === 1 && mine(labels));
    const shadows = catalog
      .of(scrape, "visord_shadow_duration_seconds_count")
      .filter(({ labels }) => labels.model === entry.name && labels.shadow === entry.version && labels.side === "shadow")
      .map(({ labels, value }) => ({ of: labels.version, copies: value }));
    const compared = ({ model, shadow }) => model === entry.name && shadow === entry.version;
    const cosines = catalog.sum(scrape, "visord_shadow_cosine_sum", compared);
    const rowsCompared = catalog.sum(scrape, "visord_shadow_cosine_count", compared);
    return {
      model: entry.name,
      version: entry.version ?? "",
      state: entry.state ?? "",
      reason: entry.reason ?? "",
      info: info?.labels,
      instances: one("visord_ready_instances"),
      share: one("visord_traffic_share_ratio"),
      load: one("visord_model_load_duration_seconds"),
      build: one("visord_engine_build_progress_ratio"),
      drifted: one("visord_drift_fallback") === 1,
      shadows,
      cosine: rowsCompared > 0 ? cosines / rowsCompared : NaN,
      ...live(entry.name, entry.version),
    };
  });
  return found;
}

const COLUMNS = ["Model", "Version", "State", "Backend", "Device", "Precision", "Instances", "Traffic", "Requests/s", "p99"];

/** What stands beside a state. */
function details(row) {
  const said = [];
  if (row.reason) said.push(row.reason);
  if (row.state === "LOADING" && row.build > 0 && row.build < 1) said.push(`building a plan, ${percent(row.build)}`);
  if (row.drifted) said.push("serves in FP32: what it was asked for drifted");
  for (const { of, copies } of row.shadows) {
    const near = Number.isFinite(row.cosine) ? `, mean cosine ${fixed(row.cosine, 4)}` : "";
    said.push(`shadow of version ${of}: ${short(copies)} copies${near}`);
  }
  return said;
}

/** Writes the table; only what changed, so that a selection or a reader's place in it survives. */
export function show(table) {
  const body = byId("models-body");
  byId("models-none").hidden = table.length > 0;
  while (body.rows.length > table.length) body.lastElementChild.remove();
  table.forEach((row, i) => {
    const [tone, word] = STATES[row.state] ?? ["idle", row.state ? row.state.toLowerCase() : "Not loaded"];
    // Behind a version's numbers, builds write whatever they like.
    const backend = row.info ? `${row.info.backend} ${row.info.backend_version.split(/[-+ ]/, 1)[0]}` : "";
    const cells = [
      row.model,
      row.version,
      word,
      backend,
      row.info?.device ?? "",
      row.info?.precision?.toUpperCase() ?? "",
      fixed(row.instances, 0),
      Number.isFinite(row.share) ? percent(row.share) : "",
      row.state === "READY" ? short(row.rate) : "",
      row.state === "READY" ? duration(row.p99) : "",
    ];
    const notes = details(row);
    const key = JSON.stringify([cells, notes]);
    const existing = body.rows[i];
    if (existing?.dataset.key === key) return;
    const tr = h(
      "tr",
      { role: "row", "data-key": key },
      ...cells.map((text, c) => {
        const kind = c === 0 ? "th" : "td";
        const role = c === 0 ? { role: "rowheader", scope: "row" } : { role: "cell" };
        const content = c === 2 ? state(tone, text, notes) : [text === "" ? "–" : text];
        return h(kind, { ...role, "data-label": COLUMNS[c], class: c > 5 ? "number" : null }, ...content);
      }),
    );
    if (existing) existing.replaceWith(tr);
    else body.append(tr);
  });
}

function state(tone, word, notes) {
  return [h("span", { class: `state ${tone}` }, word), ...notes.map((note) => h("span", { class: "detail" }, note))];
}
