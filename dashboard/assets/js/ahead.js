/* One block ahead on a page of runs: innovations as they arrive, departures, the heatmap's choice. */

import { query, setQuery } from "./address.js";
import { Departures } from "./departures.js";
import { all } from "./dom.js";
import { InnovationProfile } from "./innovation-profile.js";
import { Innovations, NO_CURVE } from "./innovations.js";
import { oneBlockAhead, predictionOf } from "./references.js";
import { throttled } from "./timing.js";

/** @import { AheadCurve, Chart, Departure, QuantityName } from "./types" */
/** @import { Heatmaps } from "./heatmaps.js" */
/** @import { RunPage } from "./run-page.js" */

const PAUSE_MS = 500; // between two requests for the step on show

export class Ahead {
  /** @param {RunPage} page */
  constructor(page) {
    this.page = page;
    this.loaded = false;
    this.innovations = this.empty();
    this.against = query("against") === "ahead" ? "ahead" : "";
    /** @type {InnovationProfile | null} */
    this.profile = null;
    this.complete = throttled(() => this.completeStep(), PAUSE_MS);
    const isRun = page.data.page === "run";
    this.departures = isRun
      ? new Departures(
          page.data.runs[0].id,
          () => ({ stack: page.histories.list[0].stack, step: page.player.step }),
          (departure) => this.goTo(departure),
          (departure) => this.explain(departure),
          () => page.heatmaps?.draw(),
        )
      : null;
  }

  empty() {
    return this.page.histories.list.map(({ run, stack }) => new Innovations(run, stack));
  }

  /** Reads the innovations of the histories now on show; the page stands meanwhile. */
  async load() {
    this.loaded = false;
    const innovations = this.empty();
    this.innovations = innovations;
    await Promise.all(innovations.map((each) => each.load()));
    if (this.page.closed || this.innovations !== innovations) return;
    this.loaded = true;
    this.page.redraw();
  }

  /** Asks for what the step on show lacks, and draws it. */
  async completeStep() {
    const { innovations, page } = this;
    const { step } = page.player;
    if (page.closed || !this.loaded || step === null) return;
    const shown = page.histories.list.map((history) => history.steps[history.indexOf(step)]);
    const changed = await Promise.all(
      innovations.map((each, i) => (shown[i] === undefined ? false : each.complete(shown[i]))),
    ).catch(() => []); // the next step asks again
    if (page.closed || this.innovations !== innovations || !changed.some(Boolean)) return;
    if (page.player.step !== null) page.show(page.player.step);
    page.drawTimelineSoon();
  }

  /**
   * The curves of each run at its position.
   * @param {QuantityName} name
   * @param {number[]} places
   * @returns {AheadCurve[]}
   */
  curves(name, places) {
    return this.page.histories.list.map((history, i) => {
      const place = places[i];
      if (place < 0 || !this.innovations[i]) return NO_CURVE;
      return this.innovations[i].at(name, history.steps[place], history.row(name, place));
    });
  }

  /** @param {Chart} chart */
  drawProfileOn(chart) {
    this.profile = new InnovationProfile(chart);
  }

  /** The innovations of the heatmap's quantity at the step on show. */
  drawProfile() {
    const { heatmaps, histories, player } = this.page;
    const [history] = histories.list;
    if (!this.profile || !heatmaps || player.step === null) return;
    const step = history.steps[history.indexOf(player.step)];
    this.profile.show(this.innovations[0].rows[heatmaps.maps[0].name].get(step) || null);
  }

  /** Another step is on show. */
  moved() {
    this.complete();
    this.drawProfile();
    this.departures?.read();
  }

  /** @param {Heatmaps} heatmaps */
  follow(heatmaps) {
    for (const button of all("[data-against]")) {
      button.onclick = () => this.compareWith(button.dataset.against || "");
    }
    for (const map of heatmaps.maps) {
      map.onDrawn = () => {
        this.departures?.mark(map, this.against === "ahead");
        this.drawProfile();
      };
    }
    this.compareWith(this.against);
  }

  /** @param {string} against "ahead", or "" for the prediction at initialisation */
  compareWith(against) {
    const { heatmaps } = this.page;
    if (!heatmaps || !this.departures) return;
    this.against = against;
    setQuery("against", against);
    for (const button of all("[data-against]")) {
      button.setAttribute("aria-pressed", String(button.dataset.against === against));
    }
    heatmaps.maps[0].reference = against ? oneBlockAhead(this.page) : predictionOf(this.page);
    heatmaps.draw();
  }

  /** @param {Departure} departure */
  goTo({ step, quantity }) {
    this.page.heatmaps?.choose(quantity);
    this.compareWith("ahead");
    this.page.player.pickStep(step);
  }

  /** @param {Departure} departure */
  explain(departure) {
    this.goTo(departure);
    if (departure.block !== null) this.page.onBlock?.(departure.block);
  }

  close() {
    this.departures?.close();
  }
}
