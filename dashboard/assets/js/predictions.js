/* The curves a run is measured against: at initialisation, and from the weights described since. */

import { getRevisions, NAMES } from "./api.js";
import { decode } from "./codec.js";
import { QUANTITIES, whyMissing } from "./display.js";
import { floorIndex } from "./history.js";

/** @import { DatedCurve, PredictedCurves, Predictions, QuantityName, Revision } from "./types" */

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
  const later = revisions.slice(1);
  /** @type {(name: QuantityName) => PredictedCurves} */
  const curves = (name) => {
    const { middle, low, high } = band(atInit, stack, name);
    const today = later.map((revision) => {
      return { step: revision.step, curve: band(revision, stack, name).middle };
    });
    return { predicted: middle, low, high, today, missing: whyMissing(atInit ?? null, middle) };
  };
  const [variance, correlation, gradient] = NAMES.map(curves);
  return { variance, correlation, gradient };
}

/**
 * The curve of the revision that held at a step; empty where that is the run's first.
 * @param {DatedCurve[]} today
 * @param {number} step
 */
export function curveAt(today, step) {
  const place = floorIndex(
    today.map((dated) => dated.step),
    step,
  );
  return place < 0 ? EMPTY : today[place].curve;
}

/**
 * Fetches the predictions of a run.
 * @param {string} run
 * @param {string} stack
 */
export async function getPredictions(run, stack) {
  return predictionsOf(await getRevisions(run), stack);
}
