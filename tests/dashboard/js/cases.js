/* The cases that Python's tests share, and how their arguments are read. */
import { readFileSync } from "node:fs";
import * as display from "../../../dashboard/assets/js/display.js";

export const CASES = JSON.parse(
  readFileSync(new URL("../display_cases.json", import.meta.url), "utf8"),
);

const NONFINITE = new Set(["NaN", "Infinity", "-Infinity"]);

/** The function that Python calls by this name. */
export function shown(name) {
  const functions = { ...display };
  return functions[name.replace(/_(\w)/g, (_, letter) => letter.toUpperCase())];
}

/** What JSON cannot write travels as a string. */
export function argument(value) {
  if (Array.isArray(value)) return value.map(argument);
  return NONFINITE.has(value) ? Number(value) : value;
}
