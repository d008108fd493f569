/* Steps × layers on a canvas under Plotly's axes: log2 of measured over a reference row. */

import { formatCount, formatNumber, QUANTITIES } from "./display.js";
import { first } from "./dom.js";

/** @import { Chart, QuantityName } from "./types" */
/** @import { RunHistory } from "./history.js" */

/** @typedef {[number, number, number]} Colour red, green and blue, 0 to 255 */

/**
 * Blue to orange-red through the surface's own tone: told apart with any colour vision.
 * @type {Record<string, Colour[]>}
 */
const STOPS = {
  light: [
    [11, 74, 140],
    [78, 146, 206],
    [188, 216, 238],
    [246, 247, 248],
    [250, 214, 184],
    [226, 132, 72],
    [166, 54, 8],
  ],
  dark: [
    [150, 205, 255],
    [72, 142, 208],
    [34, 72, 110],
    [24, 31, 39],
    [104, 58, 28],
    [206, 116, 56],
    [255, 190, 130],
  ],
};
/** @type {Colour} */
const NONFINITE = [220, 38, 90];
// Places in the palette: 0 to 508 are the scale, from far below the reference to far above it.
const SCALE_SIZE = 509;
const CENTRE = 254;
const ALARM = 510;
const UNKNOWN = 511;
const MAX_COLUMNS = 1600;
const SAMPLE = 4000; // cells that are enough to choose a colour scale
const TIP_WIDTH = 190;
const TIP_HEIGHT = 80;

function stops() {
  return STOPS[document.documentElement.dataset.theme || "light"] || STOPS.light;
}

/** The colour scale as a background. */
export function gradientOfScale() {
  return `linear-gradient(90deg, ${stops()
    .map((colour) => `rgb(${colour})`)
    .join(",")})`;
}

/**
 * A colour as a canvas stores it: opaque, little-endian.
 * @param {Colour} colour
 */
function pixel([red, green, blue]) {
  return (255 << 24) | (blue << 16) | (green << 8) | red;
}

/** @param {Colour[]} colours */
function palette(colours) {
  const pixels = new Uint32Array(UNKNOWN + 1);
  for (let i = 0; i < SCALE_SIZE; i++) {
    const place = (i / (SCALE_SIZE - 1)) * (colours.length - 1);
    const left = Math.min(Math.floor(place), colours.length - 2);
    const share = place - left;
    const mixed = colours[left].map((value, channel) =>
      Math.round(value + share * (colours[left + 1][channel] - value)),
    );
    pixels[i] = pixel(/** @type {Colour} */ (mixed));
  }
  pixels[ALARM] = pixel(NONFINITE);
  pixels[UNKNOWN] = 0;
  return pixels;
}

/**
 * How far a value is from its reference: log2 of their ratio, or the difference of correlations;
 * NaN where one is unknown.
 * @param {number} measured
 * @param {number} reference
 * @param {QuantityName} name
 */
export function deviation(measured, reference, name) {
  return QUANTITIES[name].log ? Math.log2(measured / reference) : measured - reference;
}

/**
 * What a heatmap's values are compared with.
 * @typedef {object} Reference
 * @property {string} label what the tooltip calls it
 * @property {() => RunHistory} history the values to compare
 * @property {(index: number, name: QuantityName) => Float32Array | null} row the row for a step
 * @property {(name: QuantityName) => string} why the reason for there being none, or ""
 */

/** One run's heatmap. */
export class Heatmap {
  /**
   * @param {Chart} chart
   * @param {Reference} reference
   */
  constructor(chart, reference) {
    this.chart = chart;
    this.reference = reference;
    /** @type {QuantityName} */
    this.name = "variance";
    this.limit = 1;
    this.missing = "";
    /** Called whenever the cells have been painted. @type {() => void} */
    this.onDrawn = () => {};
    this.paintedSize = "";
    this.columns = 1;
    this.plot = /** @type {HTMLElement} */ (chart.closest(".plot"));
    this.canvas = /** @type {HTMLCanvasElement} */ (first(this.plot, "canvas"));
    this.tip = first(this.plot, ".heat-tip");
    this.message = document.createElement("div");
    this.message.className = "chart-message";
    this.plot.append(this.message);
    this.plot.onmousemove = (event) => this.showTip(event);
    this.plot.onmouseleave = () => {
      this.tip.hidden = true;
    };
    chart.on("plotly_afterplot", () => {
      if (this.paintedSize !== this.size()) this.draw();
    });
    this.palette = palette(stops());
  }

  get history() {
    return this.reference.history();
  }

  size() {
    const { w, h } = this.chart._fullLayout._size;
    return `${w}×${h}`;
  }

  retheme() {
    this.palette = palette(stops());
  }

  /**
   * Sizes of a quantity's deviations, ascending; a sample where there are many.
   * @param {QuantityName} name
   */
  sizes(name) {
    const { width, length } = this.history;
    const values = this.history.rows[name];
    const sizes = [];
    const stride = Math.max(1, Math.floor((length * width) / SAMPLE));
    for (let i = 0; i < length * width; i += stride) {
      const row = this.reference.row(Math.floor(i / width), name);
      const size = row ? Math.abs(deviation(values[i], row[i % width], name)) : Number.NaN;
      if (Number.isFinite(size)) sizes.push(size);
    }
    return sizes.sort((a, b) => a - b);
  }

  /**
   * A cell's place in the palette.
   * @param {number} value
   * @param {number} reference
   */
  colourAt(value, reference) {
    if (!Number.isFinite(value)) return ALARM;
    const distance = deviation(value, reference, this.name);
    if (Number.isNaN(distance)) return UNKNOWN;
    const place = Math.round(CENTRE + (distance / this.limit) * CENTRE);
    return Math.max(0, Math.min(SCALE_SIZE - 1, place));
  }

  /** Lays the canvas under the axes; needed after a resize. */
  place() {
    const { l, t, w, h } = this.chart._fullLayout._size;
    this.paintedSize = this.size();
    const box = { left: `${l}px`, top: `${t}px`, width: `${w}px`, height: `${h}px` };
    Object.assign(this.canvas.style, box);
    this.columns = Math.max(1, Math.min(MAX_COLUMNS, Math.round(w)));
  }

  /** Paints every cell, or says why there is nothing to compare with. */
  draw() {
    const { length, width } = this.history;
    this.missing = length ? this.reference.why(this.name) : "";
    this.place();
    this.message.textContent = length ? this.missing : "no steps yet";
    this.canvas.width = this.columns;
    this.canvas.height = Math.max(1, length ? width : 1);
    if (length && !this.missing) {
      this.canvas.getContext("2d")?.putImageData(this.picture(), 0, 0);
    }
    this.onDrawn();
  }

  picture() {
    const { width, length, steps, last } = this.history;
    const values = this.history.rows[this.name];
    const [firstStep, lastStep] = this.chart.layout.xaxis.range;
    const picture = new ImageData(this.columns, width);
    const pixels = new Uint32Array(picture.data.buffer);
    const end = last + (length > 1 ? last - steps[length - 2] : 1);
    for (let column = 0; column < this.columns; column++) {
      const step = firstStep + ((column + 0.5) / this.columns) * (lastStep - firstStep);
      const index = step < end ? this.history.indexOf(step) : -1;
      if (index < 0) continue;
      const reference = this.reference.row(index, this.name) || [];
      for (let layer = 0; layer < width; layer++) {
        const expected = layer < reference.length ? reference[layer] : Number.NaN;
        const colour = this.palette[this.colourAt(values[index * width + layer], expected)];
        pixels[(width - 1 - layer) * this.columns + column] = colour;
      }
    }
    return picture;
  }

  /**
   * The step and layer under the pointer.
   * @param {MouseEvent} event
   */
  cellAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const [firstStep, lastStep] = this.chart.layout.xaxis.range;
    const { width } = this.history;
    const step = firstStep + ((event.clientX - box.left) / box.width) * (lastStep - firstStep);
    const layer = width - 1 - Math.floor(((event.clientY - box.top) / box.height) * width);
    return { step, layer: Math.max(0, Math.min(width - 1, layer)) };
  }

  /** @param {MouseEvent} event */
  showTip(event) {
    const box = this.plot.getBoundingClientRect();
    const onChart = event.target instanceof Element && event.target.closest(".js-plotly-plot");
    const text = onChart && this.history.length && !this.missing ? this.describe(event) : "";
    this.tip.hidden = !text;
    this.tip.textContent = text;
    const x = event.clientX - box.left;
    const y = event.clientY - box.top;
    const left = x > box.width - TIP_WIDTH ? x - TIP_WIDTH + 15 : x + 14;
    this.tip.style.transform = `translate(${left}px, ${Math.min(y + 8, box.height - TIP_HEIGHT)}px)`;
  }

  /** @param {MouseEvent} event */
  describe(event) {
    const { step, layer } = this.cellAt(event);
    const index = this.history.indexOf(step);
    if (index < 0) return "";
    const value = this.history.row(this.name, index)[layer];
    const reference = this.reference.row(index, this.name)?.[layer] ?? Number.NaN;
    const { label } = this.reference;
    const lines = [
      `step ${formatCount(this.history.steps[index])}, layer ${layer}`,
      `measured    ${formatNumber(value, 3)}`,
      Number.isFinite(reference)
        ? `${label.padEnd(12)}${formatNumber(reference, 3)}`
        : `no ${label}`,
      this.describeDeviation(deviation(value, reference, this.name)),
    ];
    return lines.filter(Boolean).join("\n");
  }

  /** @param {number} distance */
  describeDeviation(distance) {
    if (!Number.isFinite(distance)) return "";
    if (QUANTITIES[this.name].log) return `ratio       ×${formatNumber(2 ** distance, 3)}`;
    return `difference  ${distance >= 0 ? "+" : "−"}${Math.abs(distance).toFixed(3)}`;
  }
}
