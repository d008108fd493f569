/* Innovations: what each block did beside what its last samples say, and the curve that implies. */

import { ApiError, getInnovations, MAX_STEPS, NAMES } from "./api.js";
import { decode } from "./codec.js";
import { QUANTITIES } from "./display.js";
import { floorIndex } from "./history.js";

/** @import { AheadCurve, QuantityName } from "./types" */

const EMPTY = new Float32Array(0);
const CAPACITY = 2 * MAX_STEPS;
/** @type {AheadCurve} */
export const NO_CURVE = { ahead: EMPTY, low: EMPTY, high: EMPTY };

/** @typedef {{ innovation: Float32Array, reach: Float32Array }} Innovation one step's, by block */

/**
 * The curve one block ahead of a measured row, from the innovations of its blocks.
 *
 * Forward the block below layer l + 1 is block l; backward the gradient in front of block l is at l.
 * @param {QuantityName} name
 * @param {Float32Array} measured of shape (blocks + 1,)
 * @param {Innovation} step
 * @returns {AheadCurve}
 */
export function aheadOf(name, measured, { innovation, reach }) {
  if (innovation.length !== measured.length - 1) return NO_CURVE;
  const { log, relative } = QUANTITIES[name];
  const ahead = measured.slice();
  const low = measured.slice();
  const high = measured.slice();
  innovation.forEach((distance, block) => {
    const layer = relative ? block : block + 1;
    const place = log ? measured[layer] / 2 ** distance : measured[layer] - distance;
    const width = reach[block];
    ahead[layer] = place;
    // No correlation lies beyond ±1, wherever a symmetric band would end.
    low[layer] = log ? place / 2 ** width : Math.max(-1, place - width);
    high[layer] = log ? place * 2 ** width : Math.min(1, place + width);
  });
  return { ahead, low, high };
}

/** The innovations of one stack of one run, by step. */
export class Innovations {
  /**
   * @param {string} run
   * @param {string} stack
   */
  constructor(run, stack) {
    this.run = run;
    this.stack = stack;
    /** @type {Record<QuantityName, Map<number, Innovation>>} */
    this.rows = { variance: new Map(), correlation: new Map(), gradient: new Map() };
    /** @type {Record<QuantityName, Float64Array>} */
    this.steps = {
      variance: new Float64Array(0),
      correlation: new Float64Array(0),
      gradient: new Float64Array(0),
    };
    this.last = -1;
    /** Steps asked for by themselves: a thinned history may lack them. @type {Set<number>} */
    this.asked = new Set();
    this.refused = false;
  }

  /** Fetches everything, or what lies past the last step. */
  load() {
    return this.read(this.last + 1, null);
  }

  /**
   * Fetches what the step on show lacks; false when there is nothing more to ask for.
   * @param {number} step
   */
  async complete(step) {
    if (this.refused || this.asked.has(step) || this.rows.variance.has(step)) return false;
    this.asked.add(step);
    try {
      await (step > this.last ? this.load() : this.read(step, step));
    } catch (error) {
      this.asked.delete(step);
      throw error;
    }
    return this.rows.variance.has(step);
  }

  /**
   * @param {number} from
   * @param {number | null} to
   */
  async read(from, to) {
    await Promise.all(
      NAMES.map(async (name) => {
        try {
          const range = { from, to, most: MAX_STEPS };
          this.add(name, await getInnovations(this.run, this.stack, name, range));
        } catch (error) {
          // A server or a run without the series leaves its curve out; other failures stay ones.
          if (!(error instanceof ApiError && [404, 422].includes(error.status))) throw error;
          if (name === "variance") this.refused = true;
        }
      }),
    );
  }

  /**
   * @param {QuantityName} name
   * @param {import("./types").InnovationHistory} history
   */
  add(name, { steps, values_f32, ratio_f32 }) {
    if (!steps.length) return;
    const values = decode(values_f32);
    const ratios = decode(ratio_f32);
    const width = values.length / steps.length;
    const rows = this.rows[name];
    steps.forEach((step, i) => {
      const innovation = values.subarray(i * width, (i + 1) * width);
      const ratio = ratios.subarray(i * width, (i + 1) * width);
      const reach = innovation.map((distance, block) => Math.abs(distance / ratio[block]));
      rows.set(step, { innovation, reach });
    });
    const ordered = Float64Array.from(rows.keys()).sort();
    if (rows.size > CAPACITY) {
      for (let i = 0; i < ordered.length; i += 2) rows.delete(ordered[i]);
      this.steps[name] = Float64Array.from(rows.keys()).sort();
    } else this.steps[name] = ordered;
    this.last = Math.max(this.last, ordered[ordered.length - 1]);
  }

  /**
   * The curve one block ahead at exactly that step; empty where its innovations are not there.
   * @param {QuantityName} name
   * @param {number} step
   * @param {Float32Array} measured
   */
  at(name, step, measured) {
    const row = this.rows[name].get(step);
    return row ? aheadOf(name, measured, row) : NO_CURVE;
  }

  /**
   * What the measured row is compared with in a heatmap; the layer that nothing precedes is NaN.
   * @param {QuantityName} name
   * @param {number} step
   * @param {Float32Array} measured
   */
  reference(name, step, measured) {
    const place = floorIndex(this.steps[name], step);
    if (place < 0) return null;
    const { ahead } = this.at(name, this.steps[name][place], measured);
    if (!ahead.length) return null;
    ahead[QUANTITIES[name].relative ? ahead.length - 1 : 0] = Number.NaN;
    return ahead;
  }
}
