// grpc.mjs IMAGE [HOST:PORT]: @grpc/grpc-js, with the service read from proto/ at run time.
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const [path, address = "127.0.0.1:8001"] = process.argv.slice(2);
const image = await readFile(path);

const proto = fileURLToPath(new URL("../../proto", import.meta.url));
const definition = await loader.load("inference.proto", { includeDirs: [proto], keepCase: true });
const { GRPCInferenceService } = grpc.loadPackageDefinition(definition).inference;
const client = new GRPCInferenceService(address, grpc.credentials.createInsecure());
const infer = promisify(client.ModelInfer.bind(client));

const answer = await infer({
  model_name: "ArcFace",
  inputs: [{ name: "image", datatype: "BYTES", shape: [1, 1], contents: { bytes_contents: [image] } }],
}, { deadline: Date.now() + 10_000 });
client.close();
const raw = answer.raw_output_contents[0]; // little-endian floats
const embedding = Array.from({ length: raw.length / 4 }, (_, i) => raw.readFloatLE(4 * i));

console.log(`${embedding.length} values, norm ${Math.hypot(...embedding).toFixed(6)}`);
console.log(embedding.slice(0, 5).map((value) => value.toFixed(6)).join(" "));
