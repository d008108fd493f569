/* The heatmaps of a page: one quantity and one colour scale for all of them. */
(function (ek) {
  "use strict";
  // What counts as one unit of departure: a factor of two, or a tenth in correlation.
  const UNIT = { variance: 1, correlation: 0.1, gradient: 1 };
  const LIMITS = { correlation: [0.05, 0.1, 0.2, 0.5, 1], log: [1, 2, 4, 8, 12, 16, 24, 32] };
  const STAYS = 2; // another quantity has to depart this many times further to be shown instead

  class Heatmaps {
    /** `chosen` is the quantity that the address asks for, or null: then the one that departs most. */
    constructor(maps, chosen, onChoose) {
      this.maps = maps;
      this.chosen = ek.NAMES.includes(chosen) ? chosen : null;
      this.scale = document.querySelector(".heat-scale");
      this.buttons = [...document.querySelectorAll("[data-heat]")];
      for (const button of this.buttons) {
        button.onclick = () => { this.chosen = button.dataset.heat; this.draw(); onChoose(this.chosen); };
      }
      this.retheme();
      this.pick(this.chosen || ek.NAMES[0]);
    }

    retheme() {
      this.scale.querySelector(".scale").style.background = ek.heatGradient();
      this.maps.forEach((map) => map.retheme());
    }

    pick(name) {
      this.name = name;
      this.maps.forEach((map) => { map.name = name; });
      this.buttons.forEach((one) => one.setAttribute("aria-pressed", String(one.dataset.heat === name)));
    }

    /** The 98th of a hundred sizes: a few wild cells do not set the scale. */
    reach(name) {
      return Math.max(0, ...this.maps.map((map) => {
        const sizes = map.history && map.history.length ? map.sizes(name) : [];
        return sizes.length ? sizes[Math.floor(0.98 * (sizes.length - 1))] : 0;
      }));
    }

    /** The quantity that departs most; the one on show unless another departs far more. */
    most() {
      const far = (name) => this.reach(name) / UNIT[name];
      return ek.NAMES.reduce((best, name) => (name !== best && far(name) > STAYS * far(best) ? name : best), this.name);
    }

    fit() {
      this.pick(this.chosen || this.most());
      const correlation = this.name === "correlation", steps = correlation ? LIMITS.correlation : LIMITS.log;
      const reach = this.reach(this.name);
      const limit = steps.find((one) => one >= reach) || steps[steps.length - 1];
      this.maps.forEach((map) => { map.limit = limit; });
      const factor = limit > 8 ? `2${ek.superscript(limit)}` : ek.format(2 ** limit, 2);
      this.scale.querySelector(".low").textContent = correlation ? `−${limit}` : `÷${factor}`;
      this.scale.querySelector(".high").textContent = correlation ? `+${limit}` : `×${factor}`;
    }

    draw() {
      this.fit();
      this.maps.forEach((map) => map.draw(map.history && map.history.length ? map.why(this.name) : ""));
    }

    /** The axes over `extent`, the canvases under them. */
    stretch(extent) {
      for (const { chart, history } of this.maps) {
        Plotly.update(chart, {}, { "xaxis.range": extent, "yaxis.range": [-0.5, Math.max(history.width, 2) - 0.5] });
      }
    }
  }

  /** Measured values against the prediction at initialisation. */
  ek.againstPrediction = function (chart, page) {
    const row = (name) => page.predictions && page.predictions[0][name].predicted;
    const map = new ek.Heatmap(chart, (index, name) => row(name));
    map.against = "predicted";
    map.why = (name) => (!page.predictions || row(name).length ? "" : page.predictions[0][name].missing);
    map.follow = () => { map.history = page.histories[0]; };
    return map;
  };

  /** A run's values against the first run's at the same step. */
  ek.againstFirst = function (chart, page, at) {
    const map = new ek.Heatmap(chart, (index, name) => {
      const first = page.histories[0], step = map.history.steps[index];
      return step > first.last ? null : first.row(name, first.indexOf(step));
    });
    map.against = "first run";
    map.why = () => (page.histories[0].length && page.histories[0].width !== page.histories[at].width ? "runs of different depth" : "");
    map.follow = () => { map.history = page.histories[at]; };
    return map;
  };

  ek.Heatmaps = Heatmaps;
})(window.evenkeel);
