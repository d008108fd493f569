/* Steps × layers on a canvas under Plotly's axes: log2 of measured over a reference row. */
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
    /** `reference(index)` is the row that a step's values are held against, or null. */
    constructor(chart, reference) {
      Object.assign(this, { chart, reference, name: "variance", history: null, limit: 1 });
      this.plot = chart.closest(".plot");
      this.canvas = this.plot.querySelector("canvas");
      this.tip = this.plot.querySelector(".heat-tip");
      this.message = document.createElement("div");
      this.message.className = "chart-message";
      this.plot.append(this.message);
      this.plot.onmousemove = (event) => this.point(event);
      this.plot.onmouseleave = () => { this.tip.hidden = true; };
      chart.on("plotly_afterplot", () => { if (this.sized !== this.sizeKey()) this.draw(); });
      this.retheme();
    }

    sizeKey() { const { w, h } = this.chart._fullLayout._size; return `${w}×${h}`; }

    retheme() { this.table = palette(document.documentElement.dataset.theme); }

    /** log2(measured / reference), or their difference for a correlation; NaN where unknown. */
    deviation(measured, reference, name = this.name) {
      return name === "correlation" ? measured - reference : Math.log2(measured / reference);
    }

    /** Sizes of the deviations of a quantity, ascending; a sample where there are many. */
    sizes(name = this.name) {
      const { width, length } = this.history, values = this.history.rows[name], found = [];
      const stride = Math.max(1, Math.floor((length * width) / 4000));
      for (let i = 0; i < length * width; i += stride) {
        const row = this.reference(Math.floor(i / width), name);
        const size = row ? Math.abs(this.deviation(values[i], row[i % width], name)) : NaN;
        if (Number.isFinite(size)) found.push(size);
      }
      return found.sort((a, b) => a - b);
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
      this.sized = this.sizeKey();
      Object.assign(this.canvas.style, { left: `${size.l}px`, top: `${size.t}px`, width: `${size.w}px`, height: `${size.h}px` });
      this.columns = Math.max(1, Math.min(1600, Math.round(size.w)));
    }

    /** Paints every cell; `missing` says why there is nothing to hold the values against. */
    draw(missing = this.missing || "") {
      const history = this.history;
      this.missing = missing;
      this.place();
      const empty = !history || !history.length;
      this.message.textContent = empty ? "no steps yet" : missing;
      this.canvas.width = this.columns;
      this.canvas.height = Math.max(1, empty ? 1 : history.width);
      if (!empty && !missing) this.canvas.getContext("2d").putImageData(this.picture(), 0, 0);
    }

    picture() {
      const { width, length, steps, last: final } = this.history, values = this.history.rows[this.name];
      const [first, last] = this.chart.layout.xaxis.range;
      const picture = new ImageData(this.columns, width), pixels = new Uint32Array(picture.data.buffer);
      const end = final + (length > 1 ? final - steps[length - 2] : 1);
      for (let column = 0; column < this.columns; column++) {
        const step = first + ((column + 0.5) / this.columns) * (last - first);
        const at = step < end ? this.history.indexOf(step) : -1;
        if (at < 0) continue;
        const reference = this.reference(at, this.name) || [];
        for (let layer = 0; layer < width; layer++) {
          const value = values[at * width + layer];
          pixels[(width - 1 - layer) * this.columns + column] =
            this.table[this.colourAt(value, this.deviation(value, layer < reference.length ? reference[layer] : NaN))];
        }
      }
      return picture;
    }

    /** What lies under the pointer. */
    at(event) {
      const box = this.canvas.getBoundingClientRect();
      const [first, last] = this.chart.layout.xaxis.range;
      const step = first + ((event.clientX - box.left) / box.width) * (last - first);
      const layer = this.history.width - 1 - Math.floor(((event.clientY - box.top) / box.height) * this.history.width);
      return { step, layer: Math.max(0, Math.min(this.history.width - 1, layer)) };
    }

    point(event) {
      const box = this.plot.getBoundingClientRect();
      const inside = this.history && this.history.length && !this.missing && event.target.closest(".js-plotly-plot");
      const text = inside ? this.describe(event) : "";
      this.tip.hidden = !text;
      this.tip.textContent = text;
      const x = event.clientX - box.left, y = event.clientY - box.top;
      this.tip.style.transform = `translate(${x > box.width - 190 ? x - 175 : x + 14}px, ${Math.min(y + 8, box.height - 80)}px)`;
    }

    describe(event) {
      const { step, layer } = this.at(event);
      const index = this.history.indexOf(step);
      if (index < 0) return "";
      const value = this.history.row(this.name, index)[layer];
      const found = (this.reference(index, this.name) || [])[layer];
      const reference = found === undefined ? NaN : found;
      const off = this.deviation(value, reference);
      const said = !Number.isFinite(off) ? "" : this.name === "correlation" ? `difference  ${off >= 0 ? "+" : "−"}${Math.abs(off).toFixed(3)}` : `ratio       ×${ek.format(2 ** off, 3)}`;
      return [`step ${ek.count(this.history.steps[index])}, layer ${layer}`, `measured    ${ek.format(value, 3)}`,
        Number.isFinite(reference) ? `${this.against.padEnd(12)}${ek.format(reference, 3)}` : `no ${this.against}`, said].filter(Boolean).join("\n");
    }
  }

  ek.Heatmap = Heatmap;
  ek.heatGradient = () => `linear-gradient(90deg, ${(STOPS[document.documentElement.dataset.theme] || STOPS.light).map((c) => `rgb(${c})`).join(",")})`;
})(window.evenkeel);
