/* The heatmaps of a page: one quantity and one colour scale for all of them. */

import { NAMES } from "./api.js";
import { formatNumber, QUANTITIES, superscript } from "./display.js";
import { all, first } from "./dom.js";
import { gradientOfScale } from "./heatmap.js";

/** @import { Heatmap } from "./heatmap.js" */
/** @import { QuantityName } from "./types" */

// What counts as one unit of departure: a factor of two, or a tenth in correlation.
const UNIT = { log: 1, linear: 0.1 };
const LIMITS = { log: [1, 2, 4, 8, 12, 16, 24, 32], linear: [0.05, 0.1, 0.2, 0.5, 1] };
const HYSTERESIS = 2; // another quantity is shown once it departs this many times further
const PERCENTILE = 0.98; // a few wild cells do not set the scale

/** @param {QuantityName} name */
const scaleOf = (name) => (QUANTITIES[name].log ? "log" : "linear");

export class Heatmaps {
  /**
   * @param {Heatmap[]} maps
   * @param {string | null} requested the quantity in the address; else the one that departs most
   * @param {(name: QuantityName) => void} onChoose
   */
  constructor(maps, requested, onChoose) {
    this.maps = maps;
    this.onChoose = onChoose;
    this.chosen = NAMES.find((name) => name === requested) || null;
    this.name = this.chosen || NAMES[0];
    this.scale = first(document, ".heat-scale");
    this.buttons = all("[data-heat]");
    for (const button of this.buttons) {
      const name = /** @type {QuantityName} */ (button.dataset.heat);
      button.onclick = () => this.choose(name);
    }
    this.retheme();
    this.pick(this.name);
  }

  /**
   * Shows a quantity from now on; a name that is none of the charts' changes nothing.
   * @param {string} requested
   */
  choose(requested) {
    const name = NAMES.find((each) => each === requested);
    if (!name) return;
    this.chosen = name;
    this.draw();
    this.onChoose(name);
  }

  retheme() {
    first(this.scale, ".scale").style.background = gradientOfScale();
    for (const map of this.maps) map.retheme();
  }

  /** @param {QuantityName} name */
  pick(name) {
    this.name = name;
    for (const map of this.maps) map.name = name;
    for (const button of this.buttons) {
      button.setAttribute("aria-pressed", String(button.dataset.heat === name));
    }
  }

  /**
   * How far a quantity departs, in all maps.
   * @param {QuantityName} name
   */
  reach(name) {
    const reaches = this.maps.map((map) => {
      const sizes = map.history.length ? map.sizes(name) : [];
      return sizes.length ? sizes[Math.floor(PERCENTILE * (sizes.length - 1))] : 0;
    });
    return Math.max(0, ...reaches);
  }

  /** The quantity that departs most; the current one unless another departs far more. */
  most() {
    const units = (/** @type {QuantityName} */ name) => this.reach(name) / UNIT[scaleOf(name)];
    return NAMES.reduce((best, name) => {
      return name !== best && units(name) > HYSTERESIS * units(best) ? name : best;
    }, this.name);
  }

  fit() {
    this.pick(this.chosen || this.most());
    const { log } = QUANTITIES[this.name];
    const limits = LIMITS[scaleOf(this.name)];
    const reach = this.reach(this.name);
    const limit = limits.find((candidate) => candidate >= reach) || limits[limits.length - 1];
    for (const map of this.maps) map.limit = limit;
    const factor = limit > 8 ? `2${superscript(limit)}` : formatNumber(2 ** limit, 2);
    first(this.scale, ".low").textContent = log ? `÷${factor}` : `−${limit}`;
    first(this.scale, ".high").textContent = log ? `×${factor}` : `+${limit}`;
  }

  draw() {
    this.fit();
    for (const map of this.maps) map.draw();
  }

  /**
   * Lays the axes over these first and last steps.
   * @param {[number, number]} extent
   */
  stretch(extent) {
    for (const { chart, history } of this.maps) {
      const layers = [-0.5, Math.max(history.width, 2) - 0.5];
      Plotly.update(chart, {}, { "xaxis.range": extent, "yaxis.range": layers });
    }
  }
}
