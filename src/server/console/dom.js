// Elements, and numbers as words. All text goes in as text: nothing here parses HTML.

const SVG = "http://www.w3.org/2000/svg";

/** The element with that id; a page that lacks it is broken. */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no #${id}`);
  return found;
}

/** An HTML element. Attributes that are null, undefined or false are left out; functions become listeners. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** An SVG element, likewise. */
export function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(name, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** Sets text, if it is another: a live region must speak only of what has changed. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const plain = new Map();

function formatter(digits) {
  if (!plain.has(digits)) {
    plain.set(digits, new Intl.NumberFormat("en", { maximumFractionDigits: digits, minimumFractionDigits: digits }));
  }
  return plain.get(digits);
}

/** No number. */
export const NONE = "–";

/** A number with so many digits behind the point. */
export function fixed(value, digits) {
  return Number.isFinite(value) ? formatter(digits).format(value).replace(/^-/, "\u2212") : NONE;
}

/** Three figures that count, e.g. 1,234, 123, 12.3, 1.23. */
export function short(value) {
  if (!Number.isFinite(value)) return NONE;
  const size = Math.abs(value);
  if (size === 0) return "0";
  return fixed(value, size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2);
}

/** Seconds, as µs, ms or s. */
export function duration(seconds) {
  if (seconds === Infinity) return "> 10 s";
  if (!Number.isFinite(seconds)) return NONE;
  if (seconds === 0) return "0 ms";
  if (seconds < 0.0009995) return `${short(seconds * 1e6)} µs`;
  if (seconds < 0.9995) return `${short(seconds * 1e3)} ms`;
  return `${short(seconds)} s`;
}

/** Seconds as days, hours and minutes. */
export function age(seconds) {
  if (!Number.isFinite(seconds) || seconds < 0) return NONE;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** Bytes, in powers of 1024. */
export function bytes(count) {
  if (!Number.isFinite(count)) return NONE;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (count >= 1023.5 && at < units.length - 1) {
    count /= 1024;
    at += 1;
  }
  return `${at === 0 ? fixed(count, 0) : short(count)} ${units[at]}`;
}

/** A part of one, in per cent; what is not all is not written as all. */
export function percent(ratio) {
  if (!Number.isFinite(ratio)) return NONE;
  if (ratio === 0 || ratio === 1) return `${ratio * 100} %`;
  const value = ratio * 100;
  if (value > 99.9) return `${fixed(Math.min(value, 99.99), 2)} %`;
  return value < 0.01 ? "< 0.01 %" : `${short(value)} %`;
}
