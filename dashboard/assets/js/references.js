/* What a run's values are compared with: its prediction, or the first run of a comparison. */

import { formatCount } from "./display.js";

/** @import { Reference } from "./heatmap.js" */
/** @import { Ahead } from "./ahead.js" */
/** @import { LiveHistories } from "./live-histories.js" */
/** @import { Predictions } from "./types" */

/**
 * @typedef {object} Page
 * @property {LiveHistories} histories
 * @property {Predictions[] | null} predictions
 * @property {Ahead} ahead
 */

/**
 * Measured values against the prediction at initialisation.
 * @param {Page} page
 * @returns {Reference}
 */
export function predictionOf(page) {
  return {
    label: "predicted",
    history: () => page.histories.list[0],
    row: (_, name) => page.predictions?.[0][name].predicted ?? null,
    why: (name) => {
      const curves = page.predictions?.[0][name];
      return curves && !curves.predicted.length ? curves.missing : "";
    },
  };
}

/**
 * Measured values against one block ahead: the blocks' innovations.
 * @param {Page} page
 * @returns {Reference}
 */
export function oneBlockAhead(page) {
  const history = () => page.histories.list[0];
  return {
    label: "ahead",
    history,
    row: (at, name) =>
      page.ahead.innovations[0].reference(name, history().steps[at], history().row(name, at)),
    why: (name) => {
      if (page.ahead.innovations[0].steps[name].length) return "";
      return page.ahead.loaded
        ? "this run has no measurements that innovations follow from"
        : "innovations are being computed";
    },
  };
}

/**
 * The values of the run at `index` against the first run's, at the same step.
 * @param {Page} page
 * @param {number} index
 * @returns {Reference}
 */
export function firstRunOf(page, index) {
  const reference = () => page.histories.list[0];
  const history = () => page.histories.list[index];
  return {
    label: "first run",
    history,
    row: (at, name) => {
      const step = history().steps[at];
      return step > reference().last ? null : reference().row(name, reference().indexOf(step));
    },
    why: () => {
      const differ = reference().length > 0 && reference().width !== history().width;
      return differ ? "runs of different depth" : "";
    },
  };
}

/**
 * Which step a run shows while the player is at `step`.
 * @param {number} step
 * @param {number | null} shown
 * @param {number} last
 * @param {boolean} running
 */
export function describeStep(step, shown, last, running) {
  if (shown === null) return "has no step yet here";
  const text = formatCount(shown);
  if (shown === step) return `step ${text}`;
  if (shown === last) return `${running ? "at" : "ends at"} step ${text}`;
  return `no step ${formatCount(step)}; shows ${text}`;
}
