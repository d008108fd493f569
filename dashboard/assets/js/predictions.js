/* The curves a run is measured against: at initialisation, and from the latest weights described. */

import { getRevisions, NAMES } from "./api.js";
import { decode } from "./codec.js";
import { QUANTITIES, whyMissing } from "./display.js";

/** @import { PredictedCurves, Predictions, QuantityName, Revision } from "./types" */

const EMPTY = new Float32Array(0);

/**
 * @param {Revision | undefined} revision
 * @param {string} stack
 * @param {QuantityName} name
 */
function band(revision, stack, name) {
  const { site, moment } = QUANTITIES[name];
  const curve = revision?.state === "ready" ? revision.stacks[stack]?.[site] : undefined;
  if (!curve) return { middle: EMPTY, low: EMPTY, high: EMPTY };
  return {
    middle: decode(curve[`${moment}_f32`]),
    low: decode(curve[`${moment}_low_f32`]),
    high: decode(curve[`${moment}_high_f32`]),
  };
}

/**
 * The predictions of each quantity from a run's revisions, which ascend by step.
 * @param {Revision[]} revisions
 * @param {string} stack
 * @returns {Predictions}
 */
export function predictionsOf(revisions, stack) {
  const atInit = revisions[0];
  const latest = revisions.length > 1 ? revisions[revisions.length - 1] : undefined;
  /** @type {(name: QuantityName) => PredictedCurves} */
  const curves = (name) => {
    const { middle, low, high } = band(atInit, stack, name);
    const today = band(latest, stack, name).middle;
    return { predicted: middle, low, high, today, missing: whyMissing(atInit ?? null, middle) };
  };
  const [variance, correlation, gradient] = NAMES.map(curves);
  return { variance, correlation, gradient };
}

/**
 * Fetches the predictions of a run.
 * @param {string} run
 * @param {string} stack
 */
export async function getPredictions(run, stack) {
  return predictionsOf(await getRevisions(run), stack);
}
