// What two answers say of two images: numbers out of tensors, cosine, distance, classes. No page in here.

const READERS = {
  FP64: [8, (view, at) => view.getFloat64(at, true)],
  FP32: [4, (view, at) => view.getFloat32(at, true)],
  FP16: [2, (view, at) => half(view.getUint16(at, true))],
  BF16: [2, (view, at) => bfloat(view.getUint16(at, true))],
  INT64: [8, (view, at) => Number(view.getBigInt64(at, true))],
  INT32: [4, (view, at) => view.getInt32(at, true)],
  INT16: [2, (view, at) => view.getInt16(at, true)],
  INT8: [1, (view, at) => view.getInt8(at)],
  UINT64: [8, (view, at) => Number(view.getBigUint64(at, true))],
  UINT32: [4, (view, at) => view.getUint32(at, true)],
  UINT16: [2, (view, at) => view.getUint16(at, true)],
  UINT8: [1, (view, at) => view.getUint8(at)],
  BOOL: [1, (view, at) => view.getUint8(at)],
};

function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

function bfloat(bits) {
  const view = new DataView(new ArrayBuffer(4));
  view.setUint32(0, bits << 16);
  return view.getFloat32(0);
}

/** The values of an output with binary data, as doubles, in their order. */
export function values(output) {
  const [size, read] = READERS[output.datatype] ?? [];
  if (!size) return new Float64Array(0);
  const view = new DataView(output.buffer);
  return Float64Array.from({ length: view.byteLength / size }, (_, i) => read(view, i * size));
}

/** The strings of a BYTES output with binary data. */
export function strings(output) {
  const view = new DataView(output.buffer);
  const found = [];
  for (let at = 0; at + 4 <= view.byteLength; ) {
    const length = view.getUint32(at, true);
    found.push(new TextDecoder().decode(new Uint8Array(output.buffer, at + 4, length)));
    at += 4 + length;
  }
  return found;
}

/** `value:index:label`, as the classification extension writes it; a label may hold colons. */
export function labels(elements) {
  const found = new Map();
  for (const element of elements) {
    const [, index, label] = /^[^:]*:(\d+)(?::([\s\S]*))?$/.exec(element) ?? [];
    if (label !== undefined) found.set(Number(index), label);
  }
  return found;
}

/** Whether an output is one row of numbers, which can be an embedding or classes. */
export function isRow(output) {
  const size = output.shape.slice(1).reduce((a, b) => a * b, 1);
  const flat = output.shape.slice(2).every((side) => side === 1);
  return output.shape.length >= 2 && output.shape[0] === 1 && flat && size >= 2 && /^(FP|BF)/.test(output.datatype);
}

/** Whether a row is probabilities already: none below zero, one together. */
export function isProbabilities(row) {
  let sum = 0;
  for (const value of row) {
    if (!(value >= 0)) return false;
    sum += value;
  }
  return Math.abs(sum - 1) < 1e-2;
}

/** Cosine of the angle between two vectors; NaN for one of length zero. */
export function cosine(a, b) {
  let product = 0;
  let aa = 0;
  let bb = 0;
  for (let i = 0; i < a.length; i += 1) {
    product += a[i] * b[i];
    aa += a[i] * a[i];
    bb += b[i] * b[i];
  }
  const norm = Math.sqrt(aa) * Math.sqrt(bb);
  return norm > 0 ? Math.max(-1, Math.min(1, product / norm)) : NaN;
}

/** Euclidean distance of the vectors as they are. */
export function distance(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i += 1) sum += (a[i] - b[i]) ** 2;
  return Math.sqrt(sum);
}

/** Euclidean length. */
export function norm(a) {
  return distance(a, new Float64Array(a.length));
}

/** Softmax, with the largest value taken off first so that nothing overflows. */
export function softmax(row) {
  const largest = row.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = row.map((value) => Math.exp(value - largest));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / sum);
}

/** The `count` largest values, largest first, the lower index first of equals: index, value, share of the whole. */
export function top(row, count) {
  const shares = isProbabilities(row) ? row : softmax(row);
  const order = Array.from(row.keys()).sort((a, b) => row[b] - row[a] || a - b);
  return order.slice(0, count).map((index) => ({ index, value: row[index], share: shares[index] }));
}
