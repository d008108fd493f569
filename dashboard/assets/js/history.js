/* A run's history, stored as typed arrays: fetched once, then extended by what arrives. */

import {
  ApiError,
  FIRST_STEPS,
  getHistory,
  getScalars,
  LEARNING_RATE,
  LOSS,
  MAX_STEPS,
  NAMES,
} from "./api.js";
import { decode, number, present } from "./codec.js";
import { QUANTITIES } from "./display.js";

/** @import { FrameMessage, QuantityName, ScalarHistory, SeriesHistory } from "./types" */

const CAPACITY = 2 * MAX_STEPS;

/**
 * Position of the last of the ascending `steps` that is ≤ `step`; −1 when there is none.
 * @param {ArrayLike<number>} steps
 * @param {number} step
 */
export function floorIndex(steps, step, length = steps.length) {
  let low = 0;
  let high = length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle] <= step) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

/**
 * An array of at least `length` values that begins with those of `array`.
 * @template {Float32Array | Float64Array | Uint8Array} Numbers
 * @param {Numbers} array
 * @param {number} length
 * @returns {Numbers}
 */
function grown(array, length) {
  if (length <= array.length) return array;
  const Type = /** @type {new (length: number) => Numbers} */ (array.constructor);
  const larger = new Type(Math.max(length, 2 * array.length, 64));
  larger.set(array);
  return larger;
}

/**
 * Drops every second row of `width` values, in place.
 * @param {Float32Array | Float64Array | Uint8Array} array
 * @param {number} rows
 * @param {number} width
 */
function dropEverySecond(array, rows, width) {
  for (let i = 0; i < rows >> 1; i++) {
    array.copyWithin(i * width, (2 * i + 1) * width, (2 * i + 2) * width);
  }
}

/**
 * Gradient variances over the last one's, as the predictions are.
 * @param {Float32Array} row
 */
function relativeToTop(row) {
  const top = row[row.length - 1];
  return row.map((value) => value / top);
}

/**
 * A series that the run does not have is null; every other failure stays one.
 * @param {unknown} error
 * @returns {null}
 */
function unmeasured(error) {
  if (error instanceof ApiError && (error.status === 404 || error.status === 422)) return null;
  throw error;
}

/** Loss and learning rate over steps; `hasLoss` is 0 at the steps that were given no loss. */
class ScalarSteps {
  length = 0;
  steps = new Float64Array(0);
  loss = new Float32Array(0);
  hasLoss = new Uint8Array(0);
  learningRate = new Float32Array(0);

  get last() {
    return this.length ? this.steps[this.length - 1] : -1;
  }

  /** The steps that have a loss, and their losses. */
  losses() {
    const at = Array.from({ length: this.length }, (_, i) => i).filter((i) => this.hasLoss[i]);
    return { steps: at.map((i) => this.steps[i]), values: at.map((i) => this.loss[i]) };
  }

  /**
   * Adds a step, or replaces it: those between two samples may come after the second sample.
   * @param {number} step
   * @param {number | null} loss
   * @param {number} learningRate
   */
  add(step, loss, learningRate) {
    const before = floorIndex(this.steps, step, this.length);
    const isNew = before < 0 || this.steps[before] !== step;
    const at = isNew ? before + 1 : before;
    if (isNew) this.makeRoom(at);
    this.steps[at] = step;
    this.loss[at] = loss ?? Number.NaN;
    this.hasLoss[at] = loss === null ? 0 : 1;
    this.learningRate[at] = learningRate;
    if (this.length > CAPACITY) this.thin();
  }

  /** @param {number} at */
  makeRoom(at) {
    const length = this.length + 1;
    this.steps = grown(this.steps, length);
    this.loss = grown(this.loss, length);
    this.hasLoss = grown(this.hasLoss, length);
    this.learningRate = grown(this.learningRate, length);
    for (const array of [this.steps, this.loss, this.hasLoss, this.learningRate]) {
      array.copyWithin(at + 1, at, this.length);
    }
    this.length = length;
  }

  thin() {
    for (const array of [this.steps, this.loss, this.hasLoss, this.learningRate]) {
      dropEverySecond(array, this.length, 1);
    }
    this.length >>= 1;
  }
}

/** One stack of one run: a row of each quantity for each step, and the scalars. */
export class RunHistory {
  /**
   * @param {string} run
   * @param {string} stack
   */
  constructor(run, stack) {
    this.run = run;
    this.stack = stack;
    this.length = 0;
    this.width = 0;
    this.steps = new Float64Array(0);
    /** @type {Record<QuantityName, Float32Array>} */
    this.rows = {
      variance: new Float32Array(0),
      correlation: new Float32Array(0),
      gradient: new Float32Array(0),
    };
    this.scalars = new ScalarSteps();
  }

  get last() {
    return this.length ? this.steps[this.length - 1] : -1;
  }

  /** Fetches everything, or what lies past the last step; `most` steps, evenly thinned. */
  async load(most = MAX_STEPS) {
    const from = this.length ? this.last + 1 : 0;
    const [scalars, ...histories] = await Promise.all([
      getScalars(this.run, this.scalars.last),
      ...NAMES.map((name) => getHistory(this.run, this.stack, name, from, most).catch(unmeasured)),
    ]);
    this.addScalars(scalars);
    this.addHistories(histories);
  }

  /**
   * Fetches the scalars from a step on.
   * @param {number} first
   */
  async loadScalars(first) {
    this.addScalars(await getScalars(this.run, first - 1));
  }

  /** The same run in full where this is a thinned first picture; null when this is all. */
  async refined() {
    if (this.length < FIRST_STEPS) return null;
    const full = new RunHistory(this.run, this.stack);
    await full.load();
    return full;
  }

  /** @param {ScalarHistory} answer */
  addScalars(answer) {
    const loss = decode(answer.values_f32[LOSS]);
    const hasLoss = present(loss);
    const rate = decode(answer.values_f32[LEARNING_RATE]);
    answer.steps.forEach((step, i) => {
      this.scalars.add(step, hasLoss[i] ? loss[i] : null, i < rate.length ? rate[i] : Number.NaN);
    });
  }

  /**
   * Adds the steps that all of the histories have: they end differently while frames arrive.
   * @param {(SeriesHistory | null)[]} histories in the order of NAMES, null where unmeasured
   */
  addHistories(histories) {
    const measured = histories.flatMap((history) => (history?.steps.length ? [history] : []));
    if (!measured.length) return;
    const width = measured[0].n_layers_plus_one;
    const decoded = histories.map((history) =>
      history?.steps.length
        ? {
            at: new Map(history.steps.map((step, i) => [step, i])),
            values: decode(history.values_f32),
          }
        : null,
    );
    for (const step of measured[0].steps) {
      if (decoded.some((history) => history && !history.at.has(step))) continue;
      const rows = decoded.map((history) => {
        const at = history?.at.get(step);
        if (!history || at === undefined) return null;
        return history.values.subarray(at * width, (at + 1) * width);
      });
      this.add(step, rows, width);
    }
  }

  /**
   * Adds one step; false when it is not past the last one, or of another depth.
   * @param {number} step
   * @param {(Float32Array | null)[]} rows of `width` values in the order of NAMES
   * @param {number} width
   */
  add(step, rows, width) {
    if (step <= this.last) return false;
    if (!this.width) this.width = width;
    if (width !== this.width) return false;
    const at = this.length;
    this.steps = grown(this.steps, at + 1);
    this.steps[at] = step;
    NAMES.forEach((name, i) => {
      const values = grown(this.rows[name], (at + 1) * width);
      const row = rows[i];
      if (!row) values.fill(Number.NaN, at * width, (at + 1) * width);
      else values.set(QUANTITIES[name].relative ? relativeToTop(row) : row, at * width);
      this.rows[name] = values;
    });
    this.length = at + 1;
    if (this.length > CAPACITY) this.thin();
    return true;
  }

  /**
   * Adds what a live message brings; false when it is not past the last step.
   * @param {FrameMessage} message
   */
  addFrame(message) {
    const { loss, learning_rate } = message.scalars;
    const lossOrNone = loss === undefined || loss === null ? null : number(loss);
    this.scalars.add(message.step, lossOrNone, number(learning_rate));
    const rows = NAMES.map((name) => {
      const packed = message.series_f32[`${this.stack}/${QUANTITIES[name].series}`];
      return packed === undefined ? null : decode(packed);
    });
    const width = rows.find((row) => row !== null)?.length || 0;
    return width > 0 && this.add(message.step, rows, width);
  }

  /** Drops every second step, so that a page open for days stays within its memory. */
  thin() {
    dropEverySecond(this.steps, this.length, 1);
    for (const name of NAMES) dropEverySecond(this.rows[name], this.length, this.width);
    this.length >>= 1;
  }

  /** @param {number} step */
  indexOf(step) {
    return floorIndex(this.steps, step, this.length);
  }

  /**
   * A quantity's values at a position, empty below the first.
   * @param {QuantityName} name
   * @param {number} index
   */
  row(name, index) {
    if (index < 0) return new Float32Array(0);
    return this.rows[name].subarray(index * this.width, (index + 1) * this.width);
  }
}
