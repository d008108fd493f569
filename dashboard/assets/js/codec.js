/* Values as the API sends them. */

/** @import { ApiNumber } from "./types" */

/**
 * A field whose name ends in _f32; NaN and Inf arrive unchanged.
 * @param {string | undefined} text
 */
export function decode(text) {
  const raw = atob(text || "");
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return new Float32Array(bytes.buffer);
}

/** The NaN that stands where a step has no value, as `wire/absent.py` defines it. */
const ABSENT_BITS = 0x7fc0ab5e;

/**
 * Which values of a decoded field a step has: a NaN that was measured is one.
 * @param {Float32Array} values
 */
export function present(values) {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  return Array.from(bits, (value) => value !== ABSENT_BITS);
}

/**
 * A JSON number, where those that are not finite are strings and none is null.
 * @param {ApiNumber} value
 */
export function number(value) {
  return value === null || value === undefined ? Number.NaN : Number(value);
}
