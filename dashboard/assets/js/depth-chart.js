/* Depth profiles: moves the traces of a figure drawn by dashboard/figures/depth.py. */

import { apartText } from "./apart.js";
import { CURVES } from "./curves.js";
import {
  axisRange,
  formatCount,
  formatNumber,
  logTicks,
  markerHeight,
  markers,
  QUANTITIES,
} from "./display.js";
import { first } from "./dom.js";
import { NO_CURVE } from "./innovations.js";
import { curveAt } from "./predictions.js";

/** @import { AheadCurve, Chart, PredictedCurves, QuantityName, Values } from "./types" */
/** @import { RunHistory } from "./history.js" */

const PATIENCE_MS = 30000;
const CHOSEN = Object.values(CURVES).flat();
const LINEAR_REACH = 0.2; // of the difference panel before any difference is larger
const ROLES = /** @type {const} */ (["low", "high", "predicted"]);

/**
 * Resolves once Dash has drawn the chart of that id.
 * @param {string} id
 * @returns {Promise<Chart>}
 */
export function drawn(id) {
  return new Promise((resolve, reject) => {
    const deadline = performance.now() + PATIENCE_MS;
    (function look() {
      const chart = /** @type {Chart | null} */ (document.querySelector(`#${id} .js-plotly-plot`));
      if (chart?._fullLayout?._size && chart.data) resolve(chart);
      else if (performance.now() > deadline) reject(new Error(`the chart ${id} was not drawn`));
      else requestAnimationFrame(look);
    })();
  });
}

/** @param {number} length */
const layers = (length) => Array.from({ length }, (_, layer) => layer);

/**
 * The first and the last value, for a screen reader.
 * @param {Float32Array} values
 */
function ends(values) {
  const top = values.length - 1;
  const [bottomValue, topValue] = [values[0], values[top]].map((value) => formatNumber(value, 3));
  return `${bottomValue} at layer 0, ${topValue} at layer ${top}`;
}

/** The depth chart of one quantity, with a column for each run. */
export class DepthChart {
  /**
   * @param {Chart} chart
   * @param {QuantityName} name
   * @param {number} columns
   */
  constructor(chart, name, columns) {
    this.chart = chart;
    this.name = name;
    this.log = QUANTITIES[name].log;
    this.columns = columns;
    this.index = new Map(chart.data.map((trace, i) => [trace.meta, i]));
    /** @type {[number, number] | null} */
    this.range = null;
    this.depth = 1;
    this.reach = this.log ? 1 : LINEAR_REACH;
    /** @type {PredictedCurves[]} */
    this.curves = [];
    /** @type {Float32Array[]} */
    this.rows = [];
    this.plot = /** @type {HTMLElement} */ (chart.closest(".plot"));
    this.title = this.plot.getAttribute("aria-label") || "";
    /** @type {Map<number, { x: Values, y: Values, text: string[] | null }>} */
    this.changedTraces = new Map();
    /** @type {Record<string, unknown>} */
    this.changedLayout = {};
    /** The predicted traces on show. @type {Set<string>} */
    this.roles = new Set();
    /** The curves now drawn from later weights, and one block ahead. @type {Float32Array[]} */
    this.todays = [];
    /** @type {Float32Array[]} */
    this.aheads = [];
    this.hasDifference = this.index.has(`difference1:${columns}`);
  }

  /**
   * Curves of one column, drawn by the next `show`.
   * @param {number} column
   * @param {PredictedCurves} curves
   */
  predict(column, curves) {
    this.curves[column] = curves;
    for (const role of ROLES) {
      this.change(`${role}:${column}`, layers(curves[role].length), curves[role]);
    }
    const { missing } = curves;
    const reason = first(document, `[data-why="${this.name}:${column}"]`);
    Object.assign(reason, { textContent: missing, title: missing, hidden: !missing });
  }

  /**
   * Shows these predicted traces of every column, and no others.
   * @param {Set<string>} roles
   */
  choose(roles) {
    this.roles = roles;
    const traces = this.chart.data.map((trace, i) => ({ i, role: trace.meta.split(":")[0] }));
    const chosen = traces.filter(({ role }) => CHOSEN.includes(role));
    this.chart.removeAllListeners("plotly_restyle");
    Plotly.restyle(
      this.chart,
      { visible: chosen.map(({ role }) => roles.has(role)) },
      chosen.map(({ i }) => i),
    );
  }

  /**
   * Tells a screen reader what the chart shows.
   * @param {number | null} step
   */
  describe(step) {
    if (step === null) return;
    const columns = this.rows.map((row, column) => {
      const { predicted } = this.curves[column];
      if (!row.length) return "not measured";
      return `measured ${ends(row)}${predicted.length ? `; predicted ${ends(predicted)}` : ""}`;
    });
    const text = `${this.title}, step ${formatCount(step)}. ${columns.join(". ")}.`;
    this.plot.setAttribute("aria-label", text);
  }

  /**
   * @param {string} meta
   * @param {Values} x
   * @param {Values} y
   * @param {string[] | null} [text]
   */
  change(meta, x, y, text = null) {
    const index = this.index.get(meta);
    if (index === undefined) throw new Error(`the chart has no trace ${meta}`);
    this.changedTraces.set(index, { x, y, text });
  }

  /** Draws everything that has changed, in one call. */
  flush() {
    const traces = [...this.changedTraces.values()];
    const data = {
      x: traces.map((trace) => trace.x),
      y: traces.map((trace) => trace.y),
      text: traces.map((trace) => trace.text),
    };
    const indices = [...this.changedTraces.keys()];
    if (Object.keys(this.changedLayout).length) {
      Plotly.update(this.chart, data, this.changedLayout, indices);
    } else {
      // On a restyle Dash would draw the server's figure anew, over what has arrived since.
      this.chart.removeAllListeners("plotly_restyle");
      Plotly.restyle(this.chart, data, indices);
    }
    this.changedTraces = new Map();
    this.changedLayout = {};
  }

  /**
   * Sets a y range that holds every step of every run, so that scrubbing moves no axis.
   * @param {RunHistory[]} histories
   */
  fit(histories) {
    const measured = histories.map((history) =>
      history.rows[this.name].subarray(0, history.length * history.width),
    );
    const predicted = this.curves.flatMap((curves) =>
      ROLES.filter((role) => this.roles.has(role)).map((role) => curves[role]),
    );
    const today = this.roles.has("today")
      ? this.curves.flatMap((curves) => curves.today.map((dated) => dated.curve))
      : [];
    this.range = axisRange([...measured, ...predicted, ...today], this.log);
    const depths = [
      ...histories.map((history) => history.width),
      ...predicted.map((c) => c.length),
    ];
    this.depth = Math.max(...depths);
    Object.assign(this.changedLayout, this.axes());
  }

  /**
   * The range, widened where a row lies outside of it.
   * @param {[number, number] | null} range
   * @param {Float32Array} row
   */
  widened(range, row) {
    if (!range) return axisRange([row], this.log);
    const [low, high] = range;
    const outside = row.some((value) => {
      const place = this.log ? Math.log10(value) : value;
      return Number.isFinite(place) && (place < low || place > high);
    });
    if (!outside) return range;
    const edges = this.log ? [10 ** low, 10 ** high] : [low, high];
    return axisRange([row, edges], this.log);
  }

  /**
   * Draws measured rows, one for each column; an empty one for a run that lacks the step.
   * @param {Float32Array[]} rows
   * @param {number} step
   * @param {AheadCurve[]} aheads one block ahead of the rows
   */
  show(rows, step, aheads) {
    this.rows = rows;
    const [low, high] = rows.reduce((range, row) => this.widened(range, row), this.range) || [0, 1];
    this.range = [low, high];
    rows.forEach((row, column) => {
      const positive = this.log ? row.map((value) => (value > 0 ? value : Number.NaN)) : row;
      this.change(`measured:${column}`, layers(row.length), positive);
      this.showToday(column, step);
      this.showAhead(column, positive, aheads[column] || NO_CURVE);
      this.mark(column, row, markerHeight(low, high, this.log));
      this.tellApart(column, row);
      if (column && this.hasDifference) this.compare(column, row, rows[0]);
    });
    const range = this.chart.layout.yaxis.range;
    if (range[0] !== low || range[1] !== high) Object.assign(this.changedLayout, this.axes());
    this.flush();
  }

  /**
   * @param {number} column
   * @param {number} step
   */
  showToday(column, step) {
    const curve = curveAt(this.curves[column]?.today || [], step);
    if (curve === this.todays[column]) return;
    this.todays[column] = curve;
    this.change(`today:${column}`, layers(curve.length), curve);
  }

  /**
   * How far the run is from where it began, beside the chart's heading; a comparison has no place.
   * @param {number} column
   * @param {Float32Array} row
   */
  tellApart(column, row) {
    const place = document.querySelector(`[data-apart="${this.name}:${column}"]`);
    if (!place) return;
    const { predicted } = this.curves[column];
    place.textContent = apartText(row, predicted, this.log);
  }

  /**
   * One block ahead, and in the hover what was measured over it.
   * @param {number} column
   * @param {Float32Array} row
   * @param {AheadCurve} curve
   */
  showAhead(column, row, { ahead, low, high }) {
    if (!ahead.length && !this.aheads[column]?.length) return;
    this.aheads[column] = ahead;
    const x = layers(ahead.length);
    const text = Array.from(ahead, (value, layer) => this.comparison(row[layer], value));
    this.change(`ahead_low:${column}`, x, low);
    this.change(`ahead_high:${column}`, x, high);
    this.change(`ahead:${column}`, x, ahead, text);
  }

  /**
   * @param {number} measured
   * @param {number} predicted
   */
  comparison(measured, predicted) {
    if (this.log) return `×${formatNumber(measured / predicted, 3)}`;
    const distance = measured - predicted;
    return `${distance < 0 ? "−" : "+"}${formatNumber(Math.abs(distance), 2)}`;
  }

  /**
   * Marks what the axis cannot show. Where nothing is or was marked, the trace is left alone.
   * @param {number} column
   * @param {Float32Array} row
   * @param {number} height
   */
  mark(column, row, height) {
    const meta = `marks:${column}`;
    const [marked, labels] = markers(row, this.log);
    const before = this.chart.data[/** @type {number} */ (this.index.get(meta))];
    if (!marked.length && !before.x.length) return;
    this.change(
      meta,
      marked,
      marked.map(() => height),
      labels,
    );
  }

  /** Settings of the axes for the range and depth now in force. */
  axes() {
    /** @type {Record<string, unknown>} */
    const settings = { "yaxis.range": this.range };
    if (this.log && this.range) {
      const [values, labels] = logTicks(...this.range);
      settings["yaxis.tickvals"] = values;
      settings["yaxis.ticktext"] = labels;
    }
    const panels = this.columns + (this.hasDifference ? 1 : 0);
    for (let panel = 0; panel < panels; panel++) {
      settings[`xaxis${panel ? panel + 1 : ""}.range`] = [-0.5, Math.max(this.depth, 1) - 0.5];
    }
    return settings;
  }

  /**
   * The last panel: how a run differs from the first one; its symmetric range only grows.
   * @param {number} column
   * @param {Float32Array} row
   * @param {Float32Array} reference
   */
  compare(column, row, reference) {
    const comparable = row.length === reference.length ? row : new Float32Array(0);
    const difference = comparable.map((value, layer) =>
      this.log ? Math.log2(value / reference[layer]) : value - reference[layer],
    );
    this.change(`difference${column}:${this.columns}`, layers(difference.length), difference);
    const sizes = difference.map(Math.abs).filter(Number.isFinite);
    const reach = sizes.reduce((most, size) => Math.max(most, 1.1 * size), this.reach);
    if (reach === this.reach) return;
    this.reach = reach;
    this.changedLayout[`yaxis${this.columns + 1}.range`] = [-reach, reach];
  }
}
