// Lines for a terminal, one for each protocol, for the model that is chosen.

import { modelPath } from "./client.js";
import { h, setText } from "./dom.js";

/** A word as a POSIX shell takes it literally. */
export function quote(word) {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

/**
 * The lines. `input` is the BYTES input that takes images, or null for a model of tensors, whose `inputs` are then
 * shown with their shapes; `service` is PaddleServing's name of the model.
 */
export function commands({ origin, host, model, version, input, inputs, service, file, type }) {
  const image = quote(file || "image.jpg");
  const plain = origin + modelPath("/v1", model, version, "/infer");
  const v2 = origin + modelPath("/v2", model, version, "/infer");
  const json = (body) => `-H 'Content-Type: application/json' -d ${body}`;
  const named = version ? `,"model_version":${JSON.stringify(version)}` : "";
  const grpc = (inputs) =>
    `grpcurl ${origin.startsWith("https") ? "" : "-plaintext "}-d '{"model_name":${JSON.stringify(model)}${named},"inputs":[${inputs}]}' ` +
    `${host}:8001 inference.GRPCInferenceService/ModelInfer`;
  if (!input) {
    const tensors = inputs.map(({ name, datatype, shape }) => {
      const one = shape.map((side) => (side < 0 ? 1 : side));
      return `{"name":${JSON.stringify(name)},"datatype":"${datatype}","shape":[${one}],"data":[…]}`;
    });
    return [
      { name: "Inference protocol v2", line: `curl ${json(`'{"inputs":[${tensors.join(",")}]}'`)} ${v2}`, note: "This model takes tensors: put the values in place of …, in row-major order." },
      { name: "Metadata", line: `curl ${origin + modelPath("/v2", model, version)}`, note: "Inputs and outputs with their shapes." },
    ];
  }
  // base64 without -w0, which is GNU's alone.
  const encoded = `"$(base64 < ${image} | tr -d '\\n')"`;
  const lines = [
    { name: "Plain HTTP", line: `curl -H 'Content-Type: ${type || "image/jpeg"}' --data-binary @${image} ${plain}`, note: "The file is the body; JSON comes back." },
    {
      name: "Inference protocol v2",
      line: `curl ${json(`'{"inputs":[{"name":${JSON.stringify(input)},"datatype":"BYTES","shape":[1],"data":["'${encoded}'"]}]}'`)} ${v2}`,
      note: "Triton's and KServe's protocol. Clients in a hurry send binary tensors in place of base64.",
    },
  ];
  if (service) {
    lines.push({
      name: "PaddleServing",
      line: `curl ${json(`'{"key":["image"],"value":["'${encoded}'"]}'`)} ${origin}/${service}/prediction`,
      note: "Its pipeline protocol; outputs come as numpy text.",
    });
  }
  lines.push({
    name: "gRPC",
    line: grpc(`{"name":${JSON.stringify(input)},"datatype":"BYTES","shape":[1],"contents":{"bytes_contents":["'${encoded}'"]}}`),
    note: "8001 is --grpc-port's default; this page cannot see what it was set to.",
  });
  return lines;
}

/** Puts text where pasting finds it; pages without TLS on another host than this have only the old way. */
async function copy(text) {
  if (navigator.clipboard && window.isSecureContext) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const field = h("textarea", { readonly: true, class: "offscreen", "aria-hidden": "true" });
  field.value = text;
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  if (!done) throw new Error("the browser does not let this page copy");
}

/** Shows the lines in `host`; says in `status` what was copied. */
export function show(host, status, lines) {
  const same = host.dataset.lines === JSON.stringify(lines);
  if (same) return;
  host.dataset.lines = JSON.stringify(lines);
  host.replaceChildren(
    ...lines.map(({ name, line, note }, i) => {
      const button = h("button", {
        type: "button",
        class: "quiet",
        "aria-label": `Copy the line for ${name}`,
        click: async () => {
          try {
            await copy(line);
            setText(status, `Copied the line for ${name}.`);
            button.textContent = "Copied";
            setTimeout(() => (button.textContent = "Copy"), 2000);
          } catch {
            setText(status, "This browser does not let the page copy. The line can be selected and copied by hand.");
          }
        },
      }, "Copy");
      const label = `command-${i}`;
      return h(
        "div",
        { class: "command" },
        h("div", { class: "command-head" }, h("h3", { id: label }, name), button),
        h("pre", { tabindex: "0", "aria-labelledby": label, role: "region" }, h("code", {}, line)),
        h("p", { class: "note" }, note),
      );
    }),
  );
}
