// http.mjs IMAGE [URL]: fetch and the binary tensor extension; no packages.
import { readFile } from "node:fs/promises";

const [path, url = "http://127.0.0.1:8000"] = process.argv.slice(2);
const image = await readFile(path);

// A BYTES element is its length in four bytes, then itself.
const length = Buffer.alloc(4);
length.writeUInt32LE(image.length);
const head = Buffer.from(JSON.stringify({
  inputs: [{
    name: "image", datatype: "BYTES", shape: [1, 1],
    parameters: { binary_data_size: 4 + image.length },
  }],
  parameters: { binary_data_output: true },
}));
const answer = await fetch(`${url}/v2/models/ArcFace/infer`, {
  method: "POST",
  headers: { "Inference-Header-Content-Length": String(head.length) },
  body: Buffer.concat([head, length, image]),
  signal: AbortSignal.timeout(10_000),
});
if (!answer.ok) throw new Error(`${answer.status}: ${(await answer.json()).error}`);
const body = await answer.arrayBuffer();
const values = body.slice(Number(answer.headers.get("Inference-Header-Content-Length")));
const embedding = new Float32Array(values); // little-endian, as this machine's

console.log(`${embedding.length} values, norm ${Math.hypot(...embedding).toFixed(6)}`);
console.log([...embedding.slice(0, 5)].map((value) => value.toFixed(6)).join(" "));
