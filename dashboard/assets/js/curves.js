/* Which curves the depth charts show beside the measured one; the choice is kept in the address. */

import { query, setQuery } from "./address.js";
import { all } from "./dom.js";

/** The traces of each choice. @type {Record<string, string[]>} */
export const CURVES = {
  ahead: ["ahead_low", "ahead_high", "ahead"],
  predicted: ["predicted"],
  band: ["low", "high"],
  today: ["today"],
};
const DEFAULT = ["ahead", "predicted"];

/**
 * The choices that an address asks for; null asks for those on by default.
 * @param {string | null} text
 */
export function chosenCurves(text) {
  const requested = text === null ? DEFAULT : text.split(",");
  return new Set(requested.filter((name) => Object.hasOwn(CURVES, name)));
}

/** @param {Set<string>} curves */
export const rolesOf = (curves) => new Set([...curves].flatMap((name) => CURVES[name]));

/**
 * Follows the legend's switches.
 * @param {(roles: Set<string>) => void} onChange called with the traces to show, at first too
 */
export function followCurves(onChange) {
  const chosen = chosenCurves(query("curves"));
  const buttons = all("[data-curve]");
  const press = () => {
    for (const button of buttons) {
      button.setAttribute("aria-pressed", String(chosen.has(button.dataset.curve || "")));
    }
    onChange(rolesOf(chosen));
  };
  for (const button of buttons) {
    const name = button.dataset.curve || "";
    button.onclick = () => {
      if (!chosen.delete(name)) chosen.add(name);
      const usual = chosen.size === DEFAULT.length && DEFAULT.every((each) => chosen.has(each));
      setQuery("curves", usual ? null : [...chosen].join(",") || "none");
      press();
    };
  }
  press();
}
