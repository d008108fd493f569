/* Written by `python -m dashboard.display` from the Python modules there; edit those. */

/** @import { Revision, Quantities, Values } from "./types" */

/** @type {Quantities} */
export const QUANTITIES = {
  "variance": {
    "series": "stream/variance",
    "site": "stream",
    "moment": "variance",
    "log": true,
    "relative": false
  },
  "correlation": {
    "series": "stream/correlation",
    "site": "stream",
    "moment": "correlation",
    "log": false,
    "relative": false
  },
  "gradient": {
    "series": "stream_gradient/variance",
    "site": "stream_gradient",
    "moment": "variance",
    "log": true,
    "relative": true
  }
};
export const ALARM_COLOUR = "#dc3545";
export const WARNING_COLOUR = "#c98a14";
const MINUTE = 60;
const HOUR = 3600;
const DAY = 86400;
const SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹";

/**
 * An exponent in superscript digits.
 * @param {number} power
 * @returns {string}
 */
export function superscript(power) {
  let text;
  text = (power < 0) ? "⁻" : "";
  for (const digit of String(Math.abs(power))) {
    text += SUPERSCRIPTS[Number(digit)];
  }
  return text;
}

/**
 * A number with about `digits` digits; NaN and infinities by name, None as a dash.
 * @param {number | null} value
 * @param {number} [digits]
 * @returns {string}
 */
export function formatNumber(value, digits = 4) {
  let mantissa, power;
  if (value == null) {
    return "–";
  }
  if (!Number.isFinite(value)) {
    return Number.isNaN(value) ? "NaN" : ((value > 0) ? "+Inf" : "−Inf");
  }
  if (value === 0) {
    return "0";
  }
  const size = Math.abs(value);
  if ((size < 0.001) || (size >= 100000.0)) {
    [mantissa, power] = `${value.toExponential(digits - 2)}`.split("e");
    return `${mantissa} × 10${superscript(Number(power))}`;
  }
  return (size >= (10.0 ** (digits - 1))) ? `${value.toFixed(0)}` : `${Number(value.toPrecision(digits))}`;
}

/**
 * A loss with three decimals: a width that does not change while the loss does.
 * @param {number | null} value
 * @returns {string}
 */
export function formatLoss(value) {
  if ((value == null) || (!Number.isFinite(value)) || (Math.abs(value) < 0.01) || (Math.abs(value) >= 1000)) {
    return formatNumber(value);
  }
  return `${value.toFixed(3)}`;
}

/**
 * A count with a thousands' separator, None as a dash.
 * @param {number | null} value
 * @returns {string}
 */
export function formatCount(value) {
  return (value == null) ? "–" : `${value.toLocaleString("en")}`;
}

/**
 * How long ago, both in seconds since the epoch, in the largest fitting unit.
 * @param {number | null} then
 * @param {number} now
 * @returns {string}
 */
export function formatAge(then, now) {
  if ((then == null) || (then === 0)) {
    return "never";
  }
  const passed = Math.max(0, now - then);
  if (passed < MINUTE) {
    return `${passed.toFixed(0)} s ago`;
  }
  if (passed < HOUR) {
    return `${(passed / MINUTE).toFixed(0)} min ago`;
  }
  return (passed < DAY) ? `${(passed / HOUR).toFixed(0)} h ago` : `${(passed / DAY).toFixed(0)} d ago`;
}
const MIN_DECADES = 1;
const AIR = 0.08;
const MARKER_DEPTH = 0.05;
const TICKS = 5;

/**
 * Whether an axis can show the value: NaN and Inf it cannot, nor zero or less when `log`.
 * @param {number} value
 * @param {boolean} log
 * @returns {boolean}
 */
export function hasPlace(value, log) {
  return Number.isFinite(value) && ((value > 0) || (!log));
}

/**
 * Limits with air around every value that has a place, in decades when `log`.
 *
 * A log axis spans at least one decade, so that noise does not look like growth; a linear one
 * at least 0 to 1, the range of a correlation.
 * @param {Iterable<Values>} curves
 * @param {boolean} log
 * @returns {[number, number]}
 */
export function axisRange(curves, log) {
  let low, high, spare;
  low = Infinity;
  high = -Infinity;
  for (const curve of curves) {
    for (const value of curve) {
      if (hasPlace(value, log)) {
        low = Math.min(low, value);
        high = Math.max(high, value);
      }
    }
  }
  if (!log) {
    [low, high] = [Math.min(0, low), Math.max(1, high)];
  } else {
    if (low > high) {
      [low, high] = [-1, 1];
    } else {
      [low, high] = [Math.log10(low), Math.log10(high)];
      spare = Math.max(0, MIN_DECADES - (high - low)) / 2;
      [low, high] = [low - spare, high + spare];
    }
  }
  const air = AIR * (high - low);
  return [low - air, high + air];
}

/**
 * The value, just below the upper edge, at which values without a place are marked.
 * @param {number} low
 * @param {number} high
 * @param {boolean} log
 * @returns {number}
 */
export function markerHeight(low, high, log) {
  const height = high - (MARKER_DEPTH * (high - low));
  return log ? (10.0 ** height) : height;
}

/**
 * Tick values and labels of a log axis from 10^low to 10^high.
 *
 * Decades, about five of them; on a range of less than two decades also 2 and 5 between them.
 * @param {number} low
 * @param {number} high
 * @returns {[number[], string[]]}
 */
export function logTicks(low, high) {
  let value;
  const first = Math.ceil(low);
  const last = Math.floor(high);
  const narrow = (high - low) < 2;
  const stride = Math.max(1, Math.ceil(((last - first) + 1) / TICKS));
  const values = [];
  const labels = [];
  for (let power = narrow ? (first - 1) : first; power < last + 1; power += stride) {
    for (const factor of narrow ? [1, 2, 5] : [1]) {
      value = factor * (10.0 ** power);
      if (low <= Math.log10(value) && Math.log10(value) <= high) {
        values.push(value);
        labels.push(tickLabel(factor, power));
      }
    }
  }
  return [values, labels];
}

/**
 * @param {number} factor
 * @param {number} power
 * @returns {string}
 */
function tickLabel(factor, power) {
  if ((-3) < power && power < 4) {
    return `${Number((factor * (10.0 ** power)).toPrecision(6))}`;
  }
  return (factor === 1) ? `10${superscript(power)}` : `${factor}·10${superscript(power)}`;
}

/**
 * Layers whose value has no place on the axis, and why; once for neighbours alike.
 * @param {Values} values
 * @param {boolean} log
 * @returns {[number[], string[]]}
 */
export function markers(values, log) {
  let labelBelow, label;
  const layers = [];
  const labels = [];
  labelBelow = "";
  for (const [layer, value] of values.entries()) {
    label = hasPlace(value, log) ? "" : markerLabel(value);
    if (label !== "") {
      layers.push(layer);
      labels.push((label === labelBelow) ? "" : label);
    }
    labelBelow = label;
  }
  return [layers, labels];
}

/**
 * @param {number} value
 * @returns {string}
 */
function markerLabel(value) {
  if (!Number.isFinite(value)) {
    return Number.isNaN(value) ? "NaN" : ((value > 0) ? "+Inf" : "−Inf");
  }
  return (value === 0) ? "0" : "< 0";
}

/**
 * Why (part of) the curve at initialisation is absent; "" when it is complete.
 *
 * `revision` is the run's first; `predicted` its curve, of shape (layers + 1,) or empty.
 * @param {Revision | null} revision
 * @param {Values} predicted
 * @returns {string}
 */
export function whyMissing(revision, predicted) {
  let where;
  if (revision == null) {
    return "no prediction: the model is not described yet";
  }
  if (revision.state === "pending") {
    return "the prediction is being computed";
  }
  if (revision.state === "failed") {
    return `no prediction: ${revision.reason || "the theory could not be applied"}`;
  }
  const holes = [];
  for (const [layer, value] of predicted.entries()) {
    if (!Number.isFinite(value)) {
      holes.push(layer);
    }
  }
  if ((predicted.length > 0) && (holes.length === 0)) {
    return "";
  }
  where = "";
  if (holes.length < predicted.length) {
    where = (holes[0] > 0) ? ` from layer ${holes[0]} on` : ` up to layer ${holes[holes.length - 1]}`;
  }
  if (revision.missing.length === 0) {
    return `no prediction${where}`;
  }
  const part = revision.missing[0];
  return `no prediction${where}: ${part.what}: ${part.why}`;
}
