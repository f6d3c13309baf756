// Puts the page together: asks once a second, as long as somebody looks, and goes on when the daemon comes back.

import * as client from "./client.js";
import { age, byId, h, setText } from "./dom.js";
import { everything, History, Live } from "./live.js";
import * as models from "./models.js";
import { TryIt } from "./tryit.js";

const EVERY_MS = 1000;
/** The index reads a folder: less often. */
const INDEX_EVERY_MS = 3000;
/** Longest pause between attempts to reach a daemon that is gone. */
const RETRY_MS = 4000;

const history = new History();
const live = new Live(history);
const tryIt = new TryIt();

let paused = false;
let entries = [];
let indexed = -Infinity;
let services = new Map();
let signature = "";
let connected = null;
let restarts = 0;
let failures = 0;
let why = "";
let samples = 0;
let timer = 0;
let busy = false;

async function tick() {
  clearTimeout(timer);
  if (busy || paused || document.hidden) return;
  busy = true;
  const began = performance.now();
  try {
    const { text, clock } = await client.metrics();
    const { scrape, restarted } = history.add(text, performance.now());
    live.add();
    if (restarted) restarts += 1;
    if (restarted || connected === false || performance.now() - indexed >= INDEX_EVERY_MS) await refresh();
    await state(scrape, clock);
    failures = 0;
  } catch (error) {
    if (!(error instanceof client.ApiError)) console.error(error);
    failures += 1;
    lost(error);
  }
  busy = false;
  const pause = failures === 0 ? EVERY_MS : Math.min(RETRY_MS, EVERY_MS * failures);
  timer = setTimeout(tick, Math.max(50, pause - (performance.now() - began)));
}

/** The index, and what is derived from it. */
async function refresh() {
  entries = await client.index();
  indexed = performance.now();
  const now = JSON.stringify(entries);
  if (now === signature) return;
  signature = now;
  services = new Map();
  for (const [path, verbs] of Object.entries((await client.openapi()).paths)) {
    const model = verbs.post?.["x-visord-model"];
    if (model) services.set(model, path.split("/")[1]);
  }
  options();
  tryIt.models(entries, services);
}

/** The versions that can be shown live. */
function options() {
  const select = byId("live-model");
  const before = select.value;
  const known = entries.filter((e) => e.version);
  select.replaceChildren(
    h("option", { value: "" }, "All models"),
    ...known.map((e) => h("option", { value: JSON.stringify([e.name, e.version]) }, `${e.name}, version ${e.version}`)),
  );
  select.value = [...select.options].some((o) => o.value === before) ? before : "";
  if (select.value !== before) chosen();
}

function chosen() {
  const value = byId("live-model").value;
  if (value === "") return live.choose(everything);
  const [model, version] = JSON.parse(value);
  return live.choose((labels) => labels.model === model && labels.version === version);
}

async function state(scrape, clock) {
  const ready = history.sum(scrape, "visord_ready") === 1;
  const build = history.catalog.of(scrape, "visord_build_info").find(({ value }) => value === 1)?.labels;
  if (build) setText(byId("build"), `${build.version} (${build.commit})`);
  const up = clock / 1000 - history.sum(scrape, "process_start_time_seconds");
  setText(byId("uptime"), Number.isFinite(up) ? `up ${age(Math.max(0, up))}` : "");
  models.show(models.rows(entries, history.catalog, scrape, (model, version) => history.version(model, version)));
  say(ready ? "good" : "busy", ready ? "Ready" : "Not ready");
  // Browsers log every 503: it is not asked for each second.
  if (ready) why = "";
  else if (why === "" || samples % 3 === 0) why = await client.whyNotReady();
  samples += 1;
  setText(byId("why"), why);
  if (connected === false) announce(restarts > 0 ? "Connected again: the daemon was restarted, and counts from zero." : "Connected again.");
  else if (restarts > 0 && connected) announce("The daemon was restarted, and counts from zero.");
  restarts = 0;
  connected = true;
  document.body.classList.remove("stale");
}

function lost(error) {
  const answered = error.status > 0 ? `it answers ${error.status}: ${error.message}` : error.message;
  say("bad", "No connection");
  setText(byId("why"), `The daemon cannot be reached (${answered ?? error}). Trying again; the numbers below are old.`);
  document.body.classList.add("stale");
  connected = false;
}

function say(tone, word) {
  const pill = byId("state");
  pill.className = `state ${tone}`;
  setText(pill, word);
}

let quiet = 0;
function announce(text) {
  setText(byId("notice"), text);
  clearTimeout(quiet);
  quiet = setTimeout(() => setText(byId("notice"), ""), 12000);
}

byId("live-model").addEventListener("change", chosen);

byId("pause").addEventListener("click", () => {
  paused = !paused;
  setText(byId("pause"), paused ? "Resume" : "Pause");
  document.body.classList.toggle("paused", paused);
  announce(paused ? "Paused: the pictures stand still." : "");
  if (!paused) tick();
});

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) tick();
});

for (const radio of document.querySelectorAll("input[name=theme]")) {
  radio.checked = radio.value === (document.documentElement.dataset.theme ?? "system");
  radio.addEventListener("change", () => {
    const root = document.documentElement;
    if (radio.value === "system") delete root.dataset.theme;
    else root.dataset.theme = radio.value;
    try {
      if (radio.value === "system") localStorage.removeItem("visord-theme");
      else localStorage.setItem("visord-theme", radio.value);
    } catch {
      // Not kept, then.
    }
  });
}

tick();
