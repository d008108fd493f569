/* Depth profiles: moves the traces of a figure drawn by dashboard/figures/depth.py. */
(function (ek) {
  "use strict";
  const LOG = { variance: true, gradient: true, correlation: false };

  /** Resolves once Dash has drawn the chart of that id. */
  ek.drawn = function (id) {
    return new Promise((done, fail) => {
      const until = performance.now() + 30000;
      (function look() {
        const chart = document.querySelector(`#${id} .js-plotly-plot`);
        if (chart && chart._fullLayout && chart._fullLayout._size && chart.data) return done(chart);
        if (performance.now() > until) return fail(new Error(`the chart ${id} was not drawn`));
        requestAnimationFrame(look);
      })();
    });
  };

  const range = (n) => Array.from({ length: n }, (_, i) => i);

  /** Limits over arrays of values, in the axis's own units; as dashboard/figures/ranges.py. */
  function limits(arrays, log) {
    let low = Infinity, high = -Infinity;
    for (const values of arrays) {
      for (let i = 0; i < values.length; i++) {
        const value = values[i];
        if (!Number.isFinite(value) || (log && value <= 0)) continue;
        if (value < low) low = value;
        if (value > high) high = value;
      }
    }
    if (log) {
      [low, high] = low <= high ? [Math.log10(low), Math.log10(high)] : [-1, 1];
      const spare = Math.max(0, 1 - (high - low)) / 2;
      low -= spare; high += spare;
    } else {
      [low, high] = [Math.min(0, low), Math.max(1, high)];
    }
    const air = 0.08 * (high - low);
    return [low - air, high + air];
  }

  /** Ticks of a log axis; as dashboard/figures/ranges.py. */
  function logTicks(low, high) {
    const first = Math.ceil(low), last = Math.floor(high), few = high - low < 2;
    const stride = Math.max(1, Math.ceil((last - first + 1) / 5)), values = [];
    for (let power = few ? first - 1 : first; power <= last; power += stride) {
      for (const factor of few ? [1, 2, 5] : [1]) values.push(factor * 10 ** power);
    }
    const inside = values.filter((one) => Math.log10(one) >= low && Math.log10(one) <= high);
    return { tickvals: inside, ticktext: inside.map(label) };
  }

  function label(value) {
    const power = Math.floor(Math.log10(value) + 1e-9), mantissa = Math.round(value / 10 ** power);
    if (power > -3 && power < 4) return String(Number(value.toPrecision(3)));
    const ten = `10${ek.superscript(power)}`;
    return mantissa === 1 ? ten : `${mantissa}·${ten}`;
  }

  function word(value) {
    if (Number.isNaN(value)) return "NaN";
    if (!Number.isFinite(value)) return value > 0 ? "+Inf" : "−Inf";
    return value === 0 ? "0" : "< 0";
  }

  /** Layers whose value has no place on the axis, and what to write there. */
  function marks(row, log) {
    const layers = [], words = [];
    row.forEach((value, layer) => {
      if (Number.isFinite(value) && !(log && value <= 0)) return;
      const previous = layers[layers.length - 1] === layer - 1 && word(row[layer - 1]) === word(value);
      layers.push(layer);
      words.push(previous ? "" : word(value));
    });
    return { layers, words };
  }

  class DepthChart {
    constructor(chart, name, columns) {
      this.chart = chart;
      this.name = name;
      this.log = LOG[name];
      this.columns = columns;
      this.at = new Map(chart.data.map((trace, i) => [trace.meta, i]));
      this.range = null;
      this.depth = 1;
      this.reach = this.log ? 1 : 0.2;
      this.curves = [];
      this.shown = [];
      this.traces = new Map();
      this.layout = {};
      this.panels = columns + (this.at.has(`difference1:${columns}`) ? 1 : 0);
    }

    /** Curves of one column, drawn by the next `show`; `curves` is what ek.predictions found. */
    predict(column, curves) {
      this.curves[column] = curves;
      for (const role of ["low", "high", "predicted", "today"]) this.put(`${role}:${column}`, range(curves[role].length), curves[role]);
      const why = document.querySelector(`[data-why="${this.name}:${column}"]`);
      Object.assign(why, { textContent: curves.missing, title: curves.missing, hidden: !curves.missing });
    }

    /** Says to a screen reader what the chart shows. */
    describe(step) {
      if (step === null) return;
      const said = range(this.columns).map((column) => {
        const row = this.shown[column] || [], predicted = this.curves[column].predicted;
        if (!row.length) return "not measured";
        const ends = (values) => `${ek.format(values[0], 3)} at layer 0, ${ek.format(values[values.length - 1], 3)} at layer ${values.length - 1}`;
        return `measured ${ends(row)}${predicted.length ? `; predicted ${ends(predicted)}` : ""}`;
      });
      const plot = this.chart.closest(".plot");
      this.title = this.title || plot.getAttribute("aria-label");
      plot.setAttribute("aria-label", `${this.title}, step ${ek.count(step)}. ${said.join(". ")}.`);
    }

    put(meta, x, y, text = null) { this.traces.set(this.at.get(meta), { x, y, text }); }

    /** One call for everything that has changed. On a restyle Dash would draw the server's figure
        anew, over what has arrived since, so it is not to hear of it. */
    flush() {
      const changed = [...this.traces.values()];
      const data = { x: changed.map((one) => one.x), y: changed.map((one) => one.y), text: changed.map((one) => one.text) };
      if (Object.keys(this.layout).length) Plotly.update(this.chart, data, this.layout, [...this.traces.keys()]);
      else {
        this.chart.removeAllListeners("plotly_restyle");
        Plotly.restyle(this.chart, data, [...this.traces.keys()]);
      }
      this.traces = new Map();
      this.layout = {};
    }

    /** One y range that holds every step of every run, so that scrubbing moves no axis. */
    fit(histories) {
      const measured = histories.map((one) => one.rows[this.name].subarray(0, one.length * one.width));
      const predicted = this.curves.flatMap((one) => [one.predicted, one.low, one.high, one.today]);
      this.range = limits([...measured, ...predicted], this.log);
      this.depth = Math.max(...histories.map((one) => one.width), ...predicted.map((one) => one.length));
      Object.assign(this.layout, this.axes());
    }

    widen(row) {
      if (!this.range) { this.range = limits([row], this.log); return; }
      const [low, high] = this.range;
      const outside = row.some((value) => {
        const place = this.log ? Math.log10(value) : value;
        return Number.isFinite(place) && (place < low || place > high);
      });
      if (!outside) return;
      const edges = Float32Array.from(this.log ? [10 ** low, 10 ** high] : [low, high]);
      this.range = limits([row, edges], this.log);
    }

    /** Measured rows, one a column; an empty one for a run that lacks the step. */
    show(rows) {
      rows.forEach((row) => this.widen(row));
      this.shown = rows;
      const [low, high] = this.range;
      const height = high - 0.05 * (high - low);
      const last = `difference1:${this.columns}`;
      rows.forEach((row, column) => {
        const found = marks(row, this.log);
        this.put(`measured:${column}`, range(row.length), this.log ? row.map((v) => (v > 0 ? v : NaN)) : row);
        if (found.layers.length || this.chart.data[this.at.get(`marks:${column}`)].x.length) this.put(`marks:${column}`, found.layers, found.layers.map(() => (this.log ? 10 ** height : height)), found.words);
        if (column && this.at.has(last)) this.compare(column, row, rows[0]);
      });
      const shown = this.chart.layout.yaxis.range;
      if (shown[0] !== low || shown[1] !== high) Object.assign(this.layout, this.axes());
      this.flush();
    }

    /** Settings of the axes for the range and depth now in force. */
    axes() {
      const settings = { "yaxis.range": this.range };
      const ticks = this.log ? logTicks(...this.range) : {};
      for (const name in ticks) settings[`yaxis.${name}`] = ticks[name];
      for (let column = 0; column < this.panels; column++) {
        settings[`xaxis${column ? column + 1 : ""}.range`] = [-0.5, Math.max(this.depth, 1) - 0.5];
      }
      return settings;
    }

    /** The last panel: how a run differs from the first one; its symmetric range only grows. */
    compare(column, row, first) {
      const alike = row.length === first.length ? row : new Float32Array(0);
      const difference = alike.map((value, i) => (this.log ? Math.log2(value / first[i]) : value - first[i]));
      this.put(`difference${column}:${this.columns}`, range(difference.length), difference);
      const reach = difference.reduce((most, value) => (Number.isFinite(value) ? Math.max(most, 1.1 * Math.abs(value)) : most), this.reach);
      if (reach === this.reach) return;
      this.reach = reach;
      this.layout[`yaxis${this.columns + 1}.range`] = [-reach, reach];
    }
  }

  ek.DepthChart = DepthChart;
})(window.evenkeel);
