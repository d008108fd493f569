/* Charts over steps: loss and learning rate, a shared extent, and the line that marks the step. */
(function (ek) {
  "use strict";

  /** A vertical line at the current step, moved without a redraw. */
  class Playhead {
    constructor(chart, onPick) {
      this.chart = chart;
      this.plot = chart.closest(".plot");
      this.line = document.createElement("div");
      this.line.className = "playhead";
      this.plot.append(this.line);
      this.pick = (event) => onPick(this.stepAt(event));
      this.at = 0;
      chart.on("plotly_afterplot", () => this.move(this.at));
      this.plot.addEventListener("click", this.pick);
    }

    stepAt(event) {
      const size = this.chart._fullLayout._size, box = this.plot.getBoundingClientRect();
      const [first, last] = this.chart.layout.xaxis.range;
      return first + ((event.clientX - box.left - size.l) / size.w) * (last - first);
    }

    move(step) {
      this.at = step;
      const size = this.chart._fullLayout._size;
      const [first, last] = this.chart.layout.xaxis.range;
      const share = Math.max(0, Math.min(1, (step - first) / (last - first)));
      Object.assign(this.line.style, { transform: `translateX(${size.l + share * size.w}px)`, left: "0", top: `${size.t}px`, height: `${size.h}px` });
    }

    remove() { this.line.remove(); this.plot.removeEventListener("click", this.pick); }
  }

  class Scalars {
    constructor(chart) {
      this.chart = chart;
      this.at = new Map(chart.data.map((trace, i) => [trace.meta, i]));
    }

    show(histories, extent) {
      const x = [], y = [], traces = [];
      histories.forEach((history, i) => {
        const { length, steps, loss, learning_rate } = history.scalars;
        const across = steps.slice(0, length), down = loss.slice(0, length);
        const bad = [];
        let top = -Infinity;
        for (let k = 0; k < length; k++) if (Number.isFinite(down[k])) top = Math.max(top, down[k]); else bad.push(across[k]);
        x.push(across, bad, across);
        y.push(down, bad.map(() => (Number.isFinite(top) ? top : 1)), learning_rate.slice(0, length));
        traces.push(this.at.get(`loss:${i}`), this.at.get(`marks:${i}`), this.at.get(`learning_rate:${i}`));
      });
      Plotly.update(this.chart, { x, y }, { "xaxis.range": extent }, traces);
    }

    mark(alerts) {
      const trace = this.at.get("alerts:0");
      const colours = alerts.map((one) => (one.severity === "critical" ? "#dc3545" : "#c98a14"));
      Plotly.update(this.chart, {
        x: [alerts.map((one) => one.step)], y: [alerts.map(() => 0)],
        text: [alerts.map((one) => one.title)], "marker.color": [colours],
      }, {}, [trace]);
    }
  }

  /** First and last step shown; while a run is live, with room to grow so that axes rest. */
  ek.extent = function (histories, live, before) {
    const first = Math.min(...histories.map((one) => (one.length ? one.steps[0] : Infinity)));
    const last = Math.max(1, ...histories.map((one) => one.last));
    const start = Number.isFinite(first) ? first : 0;
    if (before && before[0] === start && last <= before[1] && live) return before;
    const span = Math.max(last - start, 1);
    return [start, live ? Math.ceil(start + span * 1.12) : last + Math.max(span / Math.max(histories[0].length, 1), 0.5)];
  };

  ek.Playhead = Playhead;
  ek.Scalars = Scalars;
})(window.evenkeel);
