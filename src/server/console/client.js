// The API, as any client calls it: same origin, no cookies, every wait bounded.

/** An answer that is an error, or none at all. `status` is 0 where nothing was answered. */
export class ApiError extends Error {
  constructor(status, message, hint = "") {
    super(message);
    this.status = status;
    this.hint = hint;
  }
}

/** Longest wait for what is polled. */
const POLL_MS = 5000;
/** Longest wait for an inference: behind a model that is slow to answer, not for ever. */
const INFER_MS = 120000;

const HINTS = {
  400: "The request has to change: the text says where.",
  404: "Choose another model or version; this one may have been unloaded.",
  408: "The upload was too slow for --request-read-timeout-secs.",
  413: "Send a smaller file, or raise --max-body-bytes (--max-inflight-bytes has to be as large).",
  415: "Pick an image file: JPEG, PNG, WebP, BMP, TIFF or GIF.",
  429: "The model's queue is full. Try again in a moment; if it stays so, see the queue above.",
  500: "The engine failed. The daemon's log says why.",
  503: "Not ready, shutting down, or out of memory for bodies. Try again in a moment.",
  504: "The answer would have come after its deadline: the queue is long, or the deadline short.",
};

async function call(path, options, patience) {
  let response;
  try {
    response = await fetch(path, {
      credentials: "same-origin",
      cache: "no-store",
      redirect: "error",
      signal: AbortSignal.timeout(patience),
      ...options,
    });
  } catch (cause) {
    const late = cause.name === "TimeoutError";
    throw new ApiError(0, late ? `no answer within ${patience / 1000} s` : "the connection was closed without an answer");
  }
  if (response.ok) return response;
  const text = await response.text().catch(() => "");
  let message = text.trim() || response.statusText;
  try {
    message = JSON.parse(text).error ?? message;
  } catch {
    // Not every answer on the way is the daemon's: a proxy's is shown as it is.
  }
  throw new ApiError(response.status, String(message).slice(0, 2000), HINTS[response.status] ?? "");
}

/** The text of `/metrics`, and the daemon's clock in milliseconds, if it tells. */
export async function metrics() {
  const response = await call("/metrics", {}, POLL_MS);
  const text = await response.text();
  return { text, clock: Date.parse(response.headers.get("date") ?? "") };
}

/** Models, versions, states, reasons. */
export async function index() {
  const response = await call("/v2/repository/index", { method: "POST", body: "{}" }, POLL_MS);
  return response.json();
}

/** Why the daemon is not ready; "" where it is. */
export async function whyNotReady() {
  try {
    await call("/v2/health/ready", {}, POLL_MS);
    return "";
  } catch (error) {
    if (error.status === 503) return error.message;
    throw error;
  }
}

/** A path below one model, or one version of it. */
export function modelPath(prefix, model, version, rest = "") {
  const middle = version ? `/versions/${encodeURIComponent(version)}` : "";
  return `${prefix}/models/${encodeURIComponent(model)}${middle}${rest}`;
}

/** Inputs and outputs. */
export async function metadata(model, version) {
  return (await call(modelPath("/v2", model, version), {}, POLL_MS)).json();
}

/** The paths that are served. */
export async function openapi() {
  return (await call("/openapi.json", {}, POLL_MS)).json();
}

/**
 * Runs one encoded image by the inference protocol with binary tensors, which hold every value exactly. `labels`
 * are the outputs whose classes are asked for in place of their values, with how many.
 *
 * Returns the outputs (`compare.js` reads their values), the version that answered, and the milliseconds until the
 * whole answer was here.
 */
export async function infer({ model, version, input, file, classes = {} }) {
  const names = Object.keys(classes);
  const header = {
    inputs: [{ name: input, datatype: "BYTES", shape: [1], parameters: { binary_data_size: file.size + 4 } }],
    parameters: { binary_data_output: true },
  };
  if (names.length > 0) {
    header.outputs = names.map((name) => ({
      name,
      parameters: { classification: classes[name], binary_data: true },
    }));
  }
  const json = new TextEncoder().encode(JSON.stringify(header));
  const length = new DataView(new ArrayBuffer(4));
  length.setUint32(0, file.size, true);
  const started = performance.now();
  const response = await call(
    modelPath("/v2", model, version, "/infer"),
    {
      method: "POST",
      headers: { "Content-Type": "application/octet-stream", "Inference-Header-Content-Length": String(json.length) },
      body: new Blob([json, length.buffer, file]),
    },
    INFER_MS,
  ).catch((error) => {
    if (error.status === 0) {
      error.hint = `${file.size.toLocaleString("en")} bytes were being sent: a body over --max-body-bytes can end like this. Else see whether the daemon still runs.`;
    }
    throw error;
  });
  const body = await response.arrayBuffer();
  const took = performance.now() - started;
  const jsonLength = Number(response.headers.get("inference-header-content-length") ?? body.byteLength);
  const answer = JSON.parse(new TextDecoder().decode(new Uint8Array(body, 0, jsonLength)));
  let at = jsonLength;
  for (const output of answer.outputs) {
    const size = output.parameters?.binary_data_size;
    if (size === undefined) continue;
    output.buffer = body.slice(at, at + size);
    at += size;
  }
  return { version: answer.model_version, outputs: answer.outputs, took };
}
