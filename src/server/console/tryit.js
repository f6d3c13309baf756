// One or two images, a model, and what it makes of them.

import * as client from "./client.js";
import { commands, show as showCommands } from "./commands.js";
import * as compare from "./compare.js";
import { byId, bytes, fixed, h, percent, setText } from "./dom.js";

const TOP = 5;
const FIRST = 8;
/** Classes whose labels are asked for; beyond, an index is all that is shown. */
const MOST_LABELS = 200000;

/** A place for an image: dropped, pasted or picked. */
class Slot {
  constructor(name, changed) {
    this.name = name;
    this.changed = changed;
    this.file = null;
    this.url = "";
    this.root = byId(`slot-${name}`);
    this.input = byId(`file-${name}`);
    this.picture = byId(`picture-${name}`);
    this.clearer = byId(`clear-${name}`);
    this.input.addEventListener("change", () => {
      if (this.input.files.length > 0) this.changed(this, [...this.input.files]);
    });
    // Browsers open the choice of files by Space alone; it looks like a button, which Enter works too.
    this.input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault();
      this.input.click();
    });
    this.clearer.addEventListener("click", () => {
      this.put(null);
      this.changed(this, []);
      this.input.focus();
    });
    this.picture.addEventListener("error", () => this.root.classList.add("unseen"));
    this.root.addEventListener("dragover", (event) => {
      event.preventDefault();
      event.dataTransfer.dropEffect = "copy";
      this.root.classList.add("over");
    });
    this.root.addEventListener("dragleave", () => this.root.classList.remove("over"));
    this.root.addEventListener("drop", (event) => {
      event.preventDefault();
      this.root.classList.remove("over");
      if (event.dataTransfer.files.length > 0) this.changed(this, [...event.dataTransfer.files]);
    });
  }

  put(file) {
    if (this.url) URL.revokeObjectURL(this.url);
    this.file = file;
    this.url = file ? URL.createObjectURL(file) : "";
    this.root.classList.remove("unseen");
    this.root.classList.toggle("filled", file !== null);
    if (file) this.picture.src = this.url;
    else this.picture.removeAttribute("src");
    this.picture.alt = file ? `Image ${this.name.toUpperCase()}: ${file.name}` : "";
    setText(byId(`name-${this.name}`), file ? `${file.name}, ${bytes(file.size)}` : "");
    this.clearer.hidden = file === null;
    if (!file) this.input.value = "";
  }
}

/** The section "Try it". */
export class TryIt {
  constructor() {
    this.labels = new Map();
    this.known = [];
    this.services = new Map();
    this.run = 0;
    this.answers = null;
    this.slots = ["a", "b"].map((name) => new Slot(name, (slot, files) => this.given(slot, files)));
    this.select = byId("try-model");
    this.select.addEventListener("change", () => this.chosen());
    byId("try-as").addEventListener("change", () => this.show());
    byId("try-run").addEventListener("click", () => this.infer());
    document.addEventListener("paste", (event) => {
      const files = [...(event.clipboardData?.files ?? [])];
      if (files.length > 0) {
        event.preventDefault();
        this.given(this.slots.find((slot) => !slot.file) ?? this.slots[1], files);
      }
    });
    // A file that misses its place would replace the page.
    for (const type of ["dragover", "drop"]) window.addEventListener(type, (event) => event.preventDefault());
  }

  /** Takes the index: which models and versions can be chosen. */
  models(entries, services) {
    this.services = services;
    this.labels.clear();
    const ready = entries.filter((entry) => entry.state === "READY");
    const names = [...new Set(ready.map((entry) => entry.name))];
    const options = names.flatMap((name) => {
      const versions = ready.filter((entry) => entry.name === name).map((entry) => entry.version);
      const any = { value: JSON.stringify([name, ""]), text: versions.length > 1 ? `${name}, as traffic goes` : name };
      const each = versions.length > 1 ? versions : [];
      return [any, ...each.map((v) => ({ value: JSON.stringify([name, v]), text: `${name}, version ${v}` }))];
    });
    const before = this.select.value;
    this.select.replaceChildren(...options.map(({ value, text }) => h("option", { value }, text)));
    if (options.length === 0) this.select.append(h("option", { value: "" }, "No model is ready"));
    if (options.some(({ value }) => value === before)) this.select.value = before;
    this.chosen(this.select.value !== before);
  }

  async chosen(another = true) {
    const value = this.select.value;
    if (value === "") {
      this.model = null;
      return;
    }
    const [model, version] = JSON.parse(value);
    try {
      const described = await client.metadata(model, version);
      if (this.select.value !== value) return;
      this.model = { model, version, inputs: described.inputs, input: described.inputs.find((i) => i.datatype === "BYTES")?.name ?? null };
      setText(byId("try-hint"), this.model.input ? "" : "This model takes tensors, not images. The lines below show how to send them.");
      this.lines();
      this.enable();
      if (another) {
        this.answers = null;
        this.show();
        if (this.model.input) this.infer();
      }
    } catch (error) {
      this.model = null;
      setText(byId("try-hint"), error.message);
    }
  }

  /** Files for a place: two at once fill both. */
  given(slot, files) {
    if (files.length > 1) this.slots.forEach((each, i) => each.put(files[i]));
    else if (files.length === 1) slot.put(files[0]);
    this.answers = null;
    this.lines();
    this.enable();
    if (this.slots.some((each) => each.file)) this.infer();
    else this.show();
  }

  lines() {
    if (!this.model) return;
    const { model, version, input, inputs } = this.model;
    const { file } = this.slots.find((slot) => slot.file) ?? {};
    const type = file?.type.startsWith("image/") ? file.type : "";
    const { origin, host, hostname } = window.location;
    const name = hostname.includes(":") ? hostname : host.split(":")[0];
    showCommands(
      byId("commands"),
      byId("copied"),
      commands({ origin, host: name, model, version, input, inputs, service: this.services.get(model), file: file?.name, type }),
    );
  }

  async infer() {
    const { model } = this;
    const filled = this.slots.filter((slot) => slot.file);
    this.enable();
    if (!model?.input || filled.length === 0) return;
    const run = (this.run += 1);
    byId("results").setAttribute("aria-busy", "true");
    // Two images are asked of one version, whichever traffic picks for the first: others' vectors do not compare.
    const answers = [];
    for (const slot of filled) {
      const version = model.version || answers.find((answer) => !answer.error)?.version;
      answers.push(await this.one(slot, { ...model, version }));
      // Another image or model came meanwhile, and its answers go before these.
      if (run !== this.run) return;
    }
    byId("results").removeAttribute("aria-busy");
    this.answers = answers;
    this.show();
  }

  enable() {
    byId("try-run").disabled = !this.model?.input || this.slots.every((slot) => !slot.file);
  }

  async one(slot, model) {
    const asked = { ...model, file: slot.file };
    try {
      const answer = await client.infer(asked);
      const outputs = answer.outputs.map((output) => ({ ...output, values: compare.values(output), row: compare.isRow(output) }));
      await this.learn(asked, answer.version, outputs.filter((output) => output.row));
      const labelled = outputs.map((output) => ({ ...output, labels: this.labels.get(this.key(model, answer.version, output)) ?? new Map() }));
      return { slot, ...answer, outputs: labelled };
    } catch (error) {
      return { slot, error };
    }
  }

  key({ model }, version, output) {
    return JSON.stringify([model, version, output.name]);
  }

  /** Asks for the words of classes, once for each version: the classification extension is the one that tells them. */
  async learn(asked, version, rows) {
    const unknown = rows.filter((output) => !this.labels.has(this.key(asked, version, output)));
    if (unknown.length === 0) return;
    const classes = Object.fromEntries(unknown.map((output) => [output.name, Math.min(output.values.length, MOST_LABELS)]));
    const { outputs } = await client.infer({ ...asked, version, classes });
    for (const output of outputs) this.labels.set(this.key(asked, version, output), compare.labels(compare.strings(output)));
  }

  /** How an output is read: as asked for, or as what it looks like. */
  reading(output) {
    const asked = byId("try-as").value;
    if (!output.row) return "numbers";
    if (asked !== "auto") return asked;
    return output.labels.size > 0 || compare.isProbabilities(output.values) ? "classes" : "embedding";
  }

  show() {
    const results = byId("results");
    const said = byId("result-status");
    if (!this.answers) {
      results.replaceChildren();
      setText(said, "");
      setText(byId("result-error"), "");
      return;
    }
    const failed = this.answers.filter((answer) => answer.error);
    const good = this.answers.filter((answer) => !answer.error);
    byId("result-error").replaceChildren(...failed.map(problem));
    const sections = (good[0]?.outputs ?? []).map((output, at) => this.output(output, at, good));
    replace(results, sections);
    const times = good.map(({ slot, took }) => `${slot.name.toUpperCase()} ${fixed(took, 1)} ms`).join(", ");
    const version = good.length > 0 ? `version ${[...new Set(good.map((answer) => answer.version))].join(" and ")}` : "";
    setText(byId("result-times"), good.length > 0 ? `There and back: ${times}; ${version}` : "");
    setText(said, [...results.querySelectorAll("[data-said]")].map((node) => node.dataset.said).join(" "));
  }

  output(output, at, good) {
    const rows = good.map((answer) => answer.outputs[at]).filter((other) => other?.name === output.name);
    const kind = this.reading(output);
    const head = h("h3", {}, output.name, h("span", { class: "detail" }, ` ${output.datatype} [${output.shape.join(", ")}]`));
    const bodies = { classes, embedding, numbers }[kind](rows, good);
    return h("section", { class: `result ${kind}`, "aria-label": `Output ${output.name}` }, head, ...bodies);
  }
}

/** Puts new results in the place of the old; what was unfolded stays so, and the keyboard's place is kept. */
function replace(results, sections) {
  const before = [...results.querySelectorAll("details")];
  const open = before.map((details) => details.open);
  const focused = before.findIndex((details) => details.contains(document.activeElement));
  results.replaceChildren(...sections);
  const now = [...results.querySelectorAll("details")];
  now.forEach((details, i) => (details.open ||= open[i] ?? false));
  now[focused]?.querySelector("summary").focus();
}

/** An error as the daemon words it, with what can be done. */
function problem({ slot, error }) {
  const status = error.status > 0 ? `HTTP ${error.status}` : "No answer";
  return h(
    "div",
    { class: "problem" },
    h("strong", {}, `Image ${slot.name.toUpperCase()}: ${status}`),
    h("p", {}, error.message),
    error.hint ? h("p", { class: "note" }, error.hint) : null,
  );
}

function embedding(rows, good) {
  const parts = [];
  if (rows.length === 2 && rows[0].values.length === rows[1].values.length) {
    const [a, b] = rows.map((row) => row.values);
    const near = compare.cosine(a, b);
    const far = compare.distance(a, b);
    const bar = h("div", { class: "cosine-fill" });
    const from = Math.min(near, 0);
    bar.style.left = `${(from + 1) * 50}%`;
    bar.style.width = `${Math.abs(near) * 50}%`;
    const meter = { role: "meter", "aria-label": "Cosine", "aria-valuemin": "-1", "aria-valuemax": "1", "aria-valuenow": fixedPlain(near) };
    parts.push(
      h("p", { class: "cosine", "data-said": `Cosine ${fixed(near, 4)}, distance ${fixed(far, 4)}.` },
        h("span", { class: "cosine-name" }, "cosine"), h("output", { id: "cosine", "data-exact": String(near) }, fixed(near, 4))),
      h("div", { class: "cosine-bar", ...meter }, bar, h("div", { class: "cosine-zero" })),
      h("div", { class: "cosine-scale", "aria-hidden": "true" }, h("span", {}, "\u22121"), h("span", {}, "0"), h("span", {}, "1")),
      h("p", { class: "note" }, "1 is the same direction. Which cosine means the same is your model's and your threshold's to say."),
    );
    parts.push(h("dl", { class: "facts" }, fact("Distance (L2)", fixed(far, 4), "l2"), ...rows.map((row, i) => fact(`Length of ${good[i].slot.name.toUpperCase()}`, fixed(compare.norm(row.values), 4)))));
  } else {
    parts.push(h("dl", { class: "facts", "data-said": `${rows[0].values.length} values.` }, fact("Values", fixed(rows[0].values.length, 0)), fact("Length", fixed(compare.norm(rows[0].values), 4))));
    if (rows.length === 1) parts.push(h("p", { class: "note" }, "Give a second image to compare."));
  }
  return [...parts, firsts(rows, good)];
}

function fixedPlain(value) {
  return Number.isFinite(value) ? value.toFixed(4) : "0";
}

function fact(name, value, id) {
  return h("div", {}, h("dt", {}, name), h("dd", id ? { id } : {}, value));
}

function classes(rows, good) {
  return rows.map((row, i) => {
    const name = good[i].slot.name.toUpperCase();
    const best = compare.top(row.values, TOP);
    const given = compare.isProbabilities(row.values);
    const items = best.map(({ index, value, share }) => {
      const fill = h("div", { class: "bar-fill" });
      fill.style.width = `${share * 100}%`;
      const label = row.labels.get(index) || `class ${index}`;
      return h("li", { "data-index": String(index) },
        h("span", { class: "bar-label" }, label),
        h("span", { class: "bar-value" }, percent(share), given ? null : h("span", { class: "detail" }, ` ${fixed(value, 3)}`)),
        h("div", { class: "bar", "aria-hidden": "true" }, fill));
    });
    const first = row.labels.get(best[0].index) || `class ${best[0].index}`;
    return h("div", { class: "classes-of", "data-said": `Image ${name}: ${first}, ${percent(best[0].share)}.` },
      h("h4", {}, `Image ${name}`),
      h("ol", { class: "bars", "aria-label": `Largest classes of image ${name}` }, ...items),
      given ? null : h("p", { class: "note" }, "The model gives scores; shares are their softmax, the scores stand beside them."));
  });
}

function numbers(rows, good) {
  return [firsts(rows, good)];
}

/** The first numbers of each image's row. */
function firsts(rows, good) {
  const count = Math.min(FIRST, Math.max(...rows.map((row) => row.values.length)));
  const cell = (row, i) => (row.datatype.startsWith("FP") || row.datatype === "BF16" ? fixed(row.values[i], 4) : String(row.values[i] ?? "–"));
  const head = h("tr", {}, h("th", { scope: "col" }, "Place"), ...rows.map((_, r) => h("th", { scope: "col", class: "number" }, `Image ${good[r].slot.name.toUpperCase()}`)));
  const lines = Array.from({ length: count }, (_, i) =>
    h("tr", {}, h("th", { scope: "row" }, String(i)), ...rows.map((row) => h("td", { class: "number" }, cell(row, i)))));
  const first = rows[0];
  const caption = first.datatype === "BYTES" ? "Strings are not shown" : `The first ${count} of ${fixed(first.values.length, 0)} values`;
  return h("details", first.row ? {} : { open: true }, h("summary", {}, caption), h("table", { class: "firsts" }, h("thead", {}, head), h("tbody", {}, ...lines)));
}
