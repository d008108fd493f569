/* Steps × layers on a canvas under Plotly's axes: log2(measured / predicted at initialisation). */
(function (ek) {
  "use strict";
  // Blue to orange-red through the surface's own tone: told apart with any colour vision.
  const STOPS = {
    light: [[11, 74, 140], [78, 146, 206], [188, 216, 238], [246, 247, 248], [250, 214, 184], [226, 132, 72], [166, 54, 8]],
    dark: [[150, 205, 255], [72, 142, 208], [34, 72, 110], [24, 31, 39], [104, 58, 28], [206, 116, 56], [255, 190, 130]],
  };
  const NONFINITE = [220, 38, 90];
  const UNKNOWN = 511, ALARM = 510, CENTRE = 254, SIZE = 509;

  function palette(theme) {
    const stops = STOPS[theme] || STOPS.light;
    const table = new Uint32Array(512);
    for (let i = 0; i < SIZE; i++) {
      const place = (i / (SIZE - 1)) * (stops.length - 1);
      const left = Math.min(Math.floor(place), stops.length - 2), share = place - left;
      const [r, g, b] = stops[left].map((value, k) => Math.round(value + share * (stops[left + 1][k] - value)));
      table[i] = (255 << 24) | (b << 16) | (g << 8) | r;
    }
    table[ALARM] = (255 << 24) | (NONFINITE[2] << 16) | (NONFINITE[1] << 8) | NONFINITE[0];
    table[UNKNOWN] = 0;
    return table;
  }

  class Heatmap {
    constructor(plot, canvas, chart, scale) {
      Object.assign(this, { plot, canvas, chart, scale, name: "variance", history: null, predictions: null });
      this.cells = document.createElement("canvas");
      this.message = document.createElement("div");
      this.message.className = "chart-message";
      plot.append(this.message);
      this.retheme();
    }

    retheme() {
      const theme = document.documentElement.dataset.theme;
      this.table = palette(theme);
      const stops = STOPS[theme] || STOPS.light;
      this.scale.querySelector(".scale").style.background = `linear-gradient(90deg, ${stops.map((c) => `rgb(${c})`).join(",")})`;
    }

    /** log2(measured / predicted), or their difference for a correlation; NaN where unknown. */
    deviation(measured, predicted) {
      return this.name === "correlation" ? measured - predicted : Math.log2(measured / predicted);
    }

    /** A scale that only grows, so that colours mean the same from one step to the next. */
    fit() {
      const predicted = this.predictions[this.name].predicted;
      const { width, length } = this.history, values = this.history.rows[this.name];
      const found = [];
      const stride = Math.max(1, Math.floor((length * width) / 4000));
      for (let i = 0; i < length * width; i += stride) {
        const size = Math.abs(this.deviation(values[i], predicted[i % width]));
        if (Number.isFinite(size)) found.push(size);
      }
      found.sort((a, b) => a - b);
      const reach = found.length ? found[Math.floor(0.98 * (found.length - 1))] : 0;
      const steps = this.name === "correlation" ? [0.05, 0.1, 0.2, 0.5, 1] : [1, 2, 4, 8, 16, 32];
      this.limit = steps.find((one) => one >= reach) || steps[steps.length - 1];
      const factor = this.limit > 8 ? `2${ek.superscript(this.limit)}` : ek.format(2 ** this.limit, 2);
      const correlation = this.name === "correlation";
      this.scale.querySelector(".low").textContent = correlation ? `−${this.limit}` : `÷${factor}`;
      this.scale.querySelector(".high").textContent = correlation ? `+${this.limit}` : `×${factor}`;
    }

    colourAt(value, deviation) {
      if (!Number.isFinite(value)) return ALARM;
      if (Number.isNaN(deviation)) return UNKNOWN;
      const place = Math.round(CENTRE + (deviation / this.limit) * CENTRE);
      return Math.max(0, Math.min(SIZE - 1, place));
    }

    /** Lays the canvas under the axes; needed after a resize. */
    place() {
      const size = this.chart._fullLayout._size;
      Object.assign(this.canvas.style, { left: `${size.l}px`, top: `${size.t}px`, width: `${size.w}px`, height: `${size.h}px` });
      this.columns = Math.max(1, Math.min(1600, Math.round(size.w)));
    }

    draw() {
      const history = this.history;
      const known = this.predictions && this.predictions[this.name].predicted.length > 0;
      this.message.textContent = history && history.length ? (known ? "" : (this.predictions ? this.predictions[this.name].missing.replace(/<br>/g, " · ") : "")) : "no steps yet";
      if (!history || !history.length || !known) { this.canvas.width = this.canvas.width; return; }
      this.place();
      const [first, last] = this.chart.layout.xaxis.range;
      const { width, length } = history, values = history.rows[this.name];
      const predicted = this.predictions[this.name].predicted;
      const picture = new ImageData(this.columns, width);
      const pixels = new Uint32Array(picture.data.buffer);
      const end = history.last + (length > 1 ? history.last - history.steps[length - 2] : 1);
      for (let column = 0; column < this.columns; column++) {
        const step = first + ((column + 0.5) / this.columns) * (last - first);
        const at = step < end ? history.indexOf(step) : -1;
        if (at < 0) continue;
        for (let layer = 0; layer < width; layer++) {
          const value = values[at * width + layer];
          pixels[(width - 1 - layer) * this.columns + column] =
            this.table[this.colourAt(value, this.deviation(value, layer < predicted.length ? predicted[layer] : NaN))];
        }
      }
      this.canvas.width = this.columns;
      this.canvas.height = width;
      this.canvas.getContext("2d").putImageData(picture, 0, 0);
    }

    /** What lies under the pointer. */
    at(event) {
      const box = this.canvas.getBoundingClientRect();
      const [first, last] = this.chart.layout.xaxis.range;
      const step = first + ((event.clientX - box.left) / box.width) * (last - first);
      const layer = this.history.width - 1 - Math.floor(((event.clientY - box.top) / box.height) * this.history.width);
      return { step, layer: Math.max(0, Math.min(this.history.width - 1, layer)) };
    }

    describe(event) {
      const { step, layer } = this.at(event);
      const index = this.history.indexOf(step);
      if (index < 0) return "";
      const value = this.history.row(this.name, index)[layer];
      const predicted = this.predictions ? this.predictions[this.name].predicted[layer] : NaN;
      const off = this.deviation(value, predicted === undefined ? NaN : predicted);
      const said = !Number.isFinite(off) ? "" : this.name === "correlation" ? `difference  ${off >= 0 ? "+" : "−"}${Math.abs(off).toFixed(3)}` : `ratio       ×${ek.format(2 ** off, 3)}`;
      return [`step ${ek.count(this.history.steps[index])}, layer ${layer}`, `measured    ${ek.format(value, 3)}`,
        Number.isFinite(predicted) ? `predicted   ${ek.format(predicted, 3)}` : "no prediction", said].filter(Boolean).join("\n");
    }
  }

  ek.Heatmap = Heatmap;
})(window.evenkeel);
