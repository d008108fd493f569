/* Innovations of the step on show over blocks, drawn by dashboard/figures/innovations.py. */

/** @import { Chart } from "./types" */
/** @import { Innovation } from "./innovations.js" */

export class InnovationProfile {
  /** @param {Chart} chart */
  constructor(chart) {
    this.chart = chart;
    /** @type {Innovation | null} */
    this.drawn = null;
  }

  /**
   * Draws one step's innovations; none where the step has not been answered yet.
   * @param {Innovation | null} step
   */
  show(step) {
    if (step === this.drawn) return;
    this.drawn = step;
    const innovation = Array.from(step?.innovation || []);
    const reach = Array.from(step?.reach || []);
    const x = innovation.map((_, block) => block);
    // On a restyle Dash would draw the server's figure anew, over what has arrived since.
    this.chart.removeAllListeners("plotly_restyle");
    Plotly.restyle(
      this.chart,
      { x: [x, x, x], y: [innovation, reach.map((width) => -width), reach] },
      [0, 1, 2],
    );
  }
}
