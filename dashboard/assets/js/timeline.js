/* Charts over steps: loss and learning rate, their extent, and the line that marks the step. */

import { ALARM_COLOUR, WARNING_COLOUR } from "./display.js";

/** @import { Alert, Chart } from "./types" */
/** @import { RunHistory } from "./history.js" */

const ROOM = 1.12; // of a live run's axis, over its last step: the axes rest while it fills

/** A vertical line at the current step, moved without a redraw. */
export class Playhead {
  /**
   * @param {Chart} chart
   * @param {(step: number) => void} onPick
   */
  constructor(chart, onPick) {
    this.chart = chart;
    this.plot = /** @type {HTMLElement} */ (chart.closest(".plot"));
    this.line = document.createElement("div");
    this.line.className = "playhead";
    this.plot.append(this.line);
    this.step = 0;
    this.pick = (/** @type {MouseEvent} */ event) => onPick(this.stepAt(event));
    chart.on("plotly_afterplot", () => this.move(this.step));
    this.plot.addEventListener("click", this.pick);
  }

  /** @param {MouseEvent} event */
  stepAt(event) {
    const { l, w } = this.chart._fullLayout._size;
    const [first, last] = this.chart.layout.xaxis.range;
    const x = event.clientX - this.plot.getBoundingClientRect().left;
    return first + ((x - l) / w) * (last - first);
  }

  /** @param {number} step */
  move(step) {
    this.step = step;
    const { l, t, w, h } = this.chart._fullLayout._size;
    const [first, last] = this.chart.layout.xaxis.range;
    const share = Math.max(0, Math.min(1, (step - first) / (last - first)));
    const transform = `translateX(${l + share * w}px)`;
    Object.assign(this.line.style, { transform, left: "0", top: `${t}px`, height: `${h}px` });
  }

  remove() {
    this.line.remove();
    this.plot.removeEventListener("click", this.pick);
  }
}

/** The chart of loss and learning rate, drawn by dashboard/figures/scalars.py. */
export class ScalarChart {
  /** @param {Chart} chart */
  constructor(chart) {
    this.chart = chart;
    this.index = new Map(chart.data.map((trace, i) => [trace.meta, i]));
  }

  /** @param {string} meta */
  trace(meta) {
    const index = this.index.get(meta);
    if (index === undefined) throw new Error(`the chart has no trace ${meta}`);
    return index;
  }

  /**
   * @param {RunHistory[]} histories
   * @param {[number, number]} extent
   */
  show(histories, extent) {
    /** @type {ArrayLike<number>[]} */
    const x = [];
    /** @type {ArrayLike<number>[]} */
    const y = [];
    /** @type {number[]} */
    const traces = [];
    histories.forEach(({ scalars }, i) => {
      const steps = scalars.steps.slice(0, scalars.length);
      const losses = scalars.losses();
      const height = losses.values
        .filter(Number.isFinite)
        .reduce((top, value) => Math.max(top, value), -Infinity);
      const broken = losses.steps.filter((_, at) => !Number.isFinite(losses.values[at]));
      x.push(losses.steps, broken, steps);
      y.push(
        losses.values,
        broken.map(() => (Number.isFinite(height) ? height : 1)),
        scalars.learningRate.slice(0, scalars.length),
      );
      traces.push(...["loss", "marks", "learning_rate"].map((role) => this.trace(`${role}:${i}`)));
    });
    Plotly.update(this.chart, { x, y }, { "xaxis.range": extent }, traces);
  }

  /**
   * Marks alerts at their steps.
   * @param {Alert[]} alerts
   */
  mark(alerts) {
    const colours = alerts.map(({ severity }) =>
      severity === "critical" ? ALARM_COLOUR : WARNING_COLOUR,
    );
    const data = {
      x: [alerts.map((alert) => alert.step)],
      y: [alerts.map(() => 0)],
      text: [alerts.map((alert) => alert.title)],
      "marker.color": [colours],
    };
    Plotly.update(this.chart, data, {}, [this.trace("alerts:0")]);
  }
}

/**
 * First and last step on show; `before` stays in force while a live run fills its room.
 * @param {RunHistory[]} histories
 * @param {boolean} live
 * @param {[number, number] | null} before
 * @returns {[number, number]}
 */
export function extentOf(histories, live, before) {
  const firsts = histories.map((history) => (history.length ? history.steps[0] : Infinity));
  const first = Math.min(...firsts);
  const start = Number.isFinite(first) ? first : 0;
  const lasts = histories.map(({ last, scalars }) => Math.max(last, scalars.last));
  const last = Math.max(1, ...lasts);
  if (live && before && before[0] === start && last <= before[1]) return before;
  const span = Math.max(last - start, 1);
  if (live) return [start, Math.ceil(start + span * ROOM)];
  // The last step is as wide as the others, so that its column of the heatmap shows.
  return [start, last + Math.max(span / Math.max(histories[0].length, 1), 0.5)];
}
