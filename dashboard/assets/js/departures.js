/* Which block departs, since when: sentences under the heatmap, and a ring where each begins. */

import { getDepartures } from "./api.js";
import { byId } from "./dom.js";
import { throttled } from "./timing.js";

/** @import { Departure } from "./types" */
/** @import { Heatmap } from "./heatmap.js" */

const SHOWN = 3; // the newest of a stack; the API has all of them
const NONE = "No block departs from its band.";
const PAUSE_MS = 2000;

/**
 * @param {string} text
 * @param {() => void} onPress
 */
function pressable(text, onPress) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = text;
  button.onclick = onPress;
  return button;
}

export class Departures {
  /**
   * @param {string} run
   * @param {() => { stack: string, step: number | null }} onShow
   * @param {(departure: Departure) => void} onPick
   * @param {(departure: Departure) => void} onExplain
   * @param {() => void} onChange called when there are other departures than before
   */
  constructor(run, onShow, onPick, onExplain, onChange) {
    this.run = run;
    this.onShow = onShow;
    this.onPick = onPick;
    this.onExplain = onExplain;
    this.onChange = onChange;
    this.closed = false;
    /** @type {Departure[]} */
    this.list = [];
    this.note = "";
    this.place = byId("run-departures");
    this.read = throttled(() => this.fetch(), PAUSE_MS);
  }

  async fetch() {
    const { stack, step } = this.onShow();
    if (this.closed || step === null) return;
    try {
      const { departures, note } = await getDepartures(this.run, step);
      if (this.closed) return;
      this.list = departures.filter((departure) => departure.stack === stack);
      this.note = note || "";
      this.draw();
      this.onChange();
    } catch {
      // What stands is still true of the step before, and the banner says that the server is away.
    }
  }

  draw() {
    const shown = this.list.slice(0, SHOWN);
    const lines = shown.flatMap((departure) => {
      const there = pressable(departure.text, () => this.onPick(departure));
      there.title = "Go to that step, measured against one block ahead";
      if (departure.block === null) return [there];
      const why = pressable("Why?", () => this.onExplain(departure));
      why.className = "explain";
      why.setAttribute("aria-label", `Why: block ${departure.block} at step ${departure.step}`);
      return [there, why];
    });
    const more = this.list.length - shown.length;
    const tail = more > 0 ? `and ${more} more before` : "";
    this.place.replaceChildren(...lines, lines.length ? tail : this.note || NONE);
  }

  /**
   * Rings on a heatmap that compares with one block ahead; none on any other.
   * @param {Heatmap} heatmap
   * @param {boolean} visible
   */
  mark(heatmap, visible) {
    for (const ring of heatmap.plot.querySelectorAll(".departure-mark")) ring.remove();
    if (!visible || !heatmap.history.length || heatmap.missing) return;
    const { l, t, w, h } = heatmap.chart._fullLayout._size;
    const [from, to] = heatmap.chart.layout.xaxis.range;
    const { width } = heatmap.history;
    for (const { block, step, quantity } of this.list) {
      if (block === null || quantity !== heatmap.name) continue;
      const layer = quantity === "gradient" ? block : block + 1;
      const ring = document.createElement("i");
      ring.className = "departure-mark";
      ring.style.left = `${l + ((step - from) / (to - from)) * w}px`;
      ring.style.top = `${t + (1 - (layer + 0.5) / width) * h}px`;
      heatmap.plot.append(ring);
    }
  }

  close() {
    this.closed = true;
  }
}
