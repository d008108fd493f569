/* The run page and the compare page: one player over one or several histories. */

import { query, setQuery } from "./address.js";
import { Ahead } from "./ahead.js";
import { getAlerts, NAMES } from "./api.js";
import { followCurves } from "./curves.js";
import { announce, setProps } from "./dash.js";
import { DepthChart, drawn } from "./depth-chart.js";
import { formatCount, formatLoss } from "./display.js";
import { all, byId, first } from "./dom.js";
import { Heatmap } from "./heatmap.js";
import { Heatmaps } from "./heatmaps.js";
import { markLayers } from "./layer-marks.js";
import { connect, listen } from "./live.js";
import { LiveHistories, stackOf } from "./live-histories.js";
import { Player } from "./player.js";
import { getPredictions } from "./predictions.js";
import { describeStep, firstRunOf, predictionOf } from "./references.js";
import { extentOf, Playhead, ScalarChart } from "./timeline.js";
import { onceAFrame, rationed, throttled } from "./timing.js";
import { followLayers } from "./why.js";

/** @import { Chart, LiveMessage, PageData, Predictions, RunData, RunSummary } from "./types" */

/** @param {RunData} run */
const isRunning = (run) => run.status === "running" || run.status === "lost_contact";

/** The step that the address asks for. */
function requestedStep() {
  const step = query("step");
  return step !== null && /^\d+$/.test(step) ? Number(step) : null;
}

export class RunPage {
  /** @param {PageData} data */
  constructor(data) {
    this.data = data;
    this.stack = data.stack || "";
    this.closed = false;
    this.lastFrame = data.runs[0].last_seen;
    this.requestedStep = requestedStep();
    /** What undoes the page's traces outside of it. @type {(() => void)[]} */
    this.undo = [];
    /** @type {DepthChart[]} */
    this.charts = [];
    /** @type {ScalarChart | null} */
    this.scalars = null;
    /** @type {Playhead[]} */
    this.playheads = [];
    /** @type {Heatmaps | null} */
    this.heatmaps = null;
    /** @type {Predictions[] | null} */
    this.predictions = null;
    /** @type {[number, number] | null} */
    this.extent = null;
    /** Called with each step on show. @type {((step: number) => void) | null} */
    this.onShow = null;
    /** Called with a block that somebody asks about. @type {((block: number) => void) | null} */
    this.onBlock = null;
    this.describeCharts = throttled(() => {
      if (!this.closed) for (const chart of this.charts) chart.describe(this.player.step);
    }, 1000);
    this.drawTimelineSoon = throttled(() => this.drawTimeline(), 250);
    this.writeAddress = rationed(() => this.setAddress(), 60, 15000);
    this.histories = new LiveHistories(data.runs, this.stack, {
      grown: () => this.grown(),
      replaced: () => {
        this.redraw();
        this.ahead.load().catch(() => {});
      },
    });
    this.ahead = new Ahead(this);
    this.undo.push(() => this.ahead.close());
    const show = onceAFrame((/** @type {number} */ step) => this.show(step));
    const opening = { step: this.requestedStep, live: this.isLive() };
    this.player = new Player(byId("player"), show, opening);
    this.undo.push(() => this.player.remove());
    this.start().catch((error) => this.fail(error));
  }

  isLive() {
    return this.data.runs.some(isRunning);
  }

  async start() {
    connect(this.data.runs.map((run) => run.id));
    this.undo.push(listen((message) => this.receive(message)));
    const loading = Promise.all([this.histories.load(), this.predict()]);
    loading.catch(() => {}); // awaited below, once the charts are there
    await this.startCharts();
    await loading;
    if (this.closed) return;
    this.redraw();
    await this.histories.open();
    document.body.dataset.charts = "drawn";
    performance.mark("evenkeel-charts-drawn");
    // A failure leaves the thinned picture, and the next reconnect fills it up.
    await this.refine().catch(() => {});
    await this.ahead.load().catch(() => {});
    if (!this.closed) document.body.dataset.history = "complete";
  }

  async startCharts() {
    const { charts, scalars, heatmaps } = this.data;
    const [scalarChart, ...depthCharts] = await Promise.all([
      drawn(scalars),
      ...NAMES.map((name) => drawn(charts[name])),
    ]);
    const heatmapCharts = await Promise.all(heatmaps.map(drawn));
    const profileChart = this.data.page === "run" ? await drawn("run-innovations") : null;
    if (this.closed) return;
    const columns = this.data.runs.length;
    this.charts = depthCharts.map((chart, i) => new DepthChart(chart, NAMES[i], columns));
    if (this.data.page === "run") {
      for (const chart of this.charts) {
        this.undo.push(followLayers(chart, (block) => this.onBlock?.(block)));
        markLayers(chart.chart);
      }
      if (profileChart) this.ahead.drawProfileOn(profileChart);
    }
    this.scalars = new ScalarChart(scalarChart);
    followCurves((roles) => this.chooseCurves(roles));
    this.startHeatmaps(heatmapCharts);
    const pick = (/** @type {number} */ step) => this.player.pickStep(step);
    this.playheads = [scalarChart, ...heatmapCharts].map((chart) => new Playhead(chart, pick));
    this.undo.push(() => {
      for (const playhead of this.playheads) playhead.remove();
    });
  }

  /** @param {Chart[]} charts */
  startHeatmaps(charts) {
    const maps = charts.map((chart, i) => {
      const isRun = this.data.page === "run";
      return new Heatmap(chart, isRun ? predictionOf(this) : firstRunOf(this, i + 1));
    });
    const heatmaps = new Heatmaps(maps, query("heat"), (name) => setQuery("heat", name));
    const retheme = () => {
      heatmaps.retheme();
      heatmaps.draw();
    };
    addEventListener("evenkeel-theme", retheme);
    this.undo.push(() => removeEventListener("evenkeel-theme", retheme));
    this.heatmaps = heatmaps;
    this.ahead.follow(heatmaps);
  }

  /** @param {Set<string>} roles the predicted traces to show */
  chooseCurves(roles) {
    for (const chart of this.charts) {
      chart.choose(roles);
      chart.fit(this.histories.list);
    }
    if (this.player.step !== null) this.show(this.player.step);
  }

  /** Swaps in every step of histories that were first fetched thinned; the position stays. */
  async refine() {
    if (!(await this.histories.refine())) return;
    this.player.refine(this.histories.steps, this.requestedStep);
    for (const chart of this.charts) chart.fit(this.histories.list);
    this.drawTimeline();
    await this.histories.catchUp();
  }

  /** @param {string} stack */
  fetchPredictions(stack) {
    return Promise.all(this.data.runs.map((run) => getPredictions(run.id, stackOf(run, stack))));
  }

  async predict() {
    this.predictions = await this.fetchPredictions(this.stack);
  }

  async takeNewPrediction() {
    await this.predict();
    if (this.charts.length) this.redraw();
  }

  /** Draws everything anew: after loading, on new predictions, on another stack. */
  redraw() {
    for (const chart of this.charts) {
      this.predictions?.forEach((curves, column) => {
        chart.predict(column, curves[chart.name]);
      });
      chart.fit(this.histories.list);
    }
    this.extent = null;
    this.drawTimeline();
    this.player.extend(this.histories.steps);
    if (this.player.step !== null) this.show(this.player.step);
  }

  drawTimeline() {
    if (!this.scalars || this.closed) return;
    const before = this.extent;
    this.extent = extentOf(this.histories.list, this.isLive(), before);
    this.scalars.show(this.histories.list, this.extent);
    if (this.extent !== before) this.heatmaps?.stretch(this.extent);
    this.heatmaps?.draw();
    for (const playhead of this.playheads) playhead.move(this.player.step || 0);
  }

  /** @param {number} step */
  show(step) {
    if (!this.charts.length || this.closed) return;
    const { list } = this.histories;
    const places = list.map((history) => history.indexOf(step));
    for (const chart of this.charts) {
      const rows = list.map((history, i) => history.row(chart.name, places[i]));
      chart.show(rows, step, this.ahead.curves(chart.name, places));
    }
    for (const playhead of this.playheads) playhead.move(step);
    for (const waiting of all(".plot .waiting")) waiting.hidden = true;
    if (list.length > 1) this.nameSteps(step, places);
    this.player.bar.dataset.step = String(step);
    this.ahead.moved();
    this.describeCharts();
    this.writeAddress();
    this.onShow?.(step);
  }

  /**
   * Writes under each run's name which step it shows, or that it lacks the one on show.
   * @param {number} step
   * @param {number[]} places each run's position of that step
   */
  nameSteps(step, places) {
    this.histories.list.forEach((history, i) => {
      const label = document.querySelector(`[data-run-step="${history.run}"] .at-step`);
      if (!label) return;
      const shown = places[i] < 0 ? null : history.steps[places[i]];
      const running = isRunning(this.data.runs[i]);
      const growing = running && shown === history.last;
      label.classList.toggle("absent", shown !== step && !growing);
      label.textContent = describeStep(step, shown, history.last, running);
    });
  }

  /** The address keeps the step, so that it can be passed on. */
  setAddress() {
    if (!this.closed) setQuery("step", this.player.following ? null : this.player.step);
  }

  /** @param {LiveMessage} message */
  receive(message) {
    if (message.type === "hello") this.histories.catchUp();
    else if (message.type === "frame") this.receiveFrame(message);
    else if (message.type === "scalars") this.receiveScalars(message);
    else if (message.type === "prediction") this.receivePrediction(message.run);
    else if (message.type === "run") this.receiveRun(message.run);
    else if (message.type === "alert" && this.data.page === "run") this.markAlerts();
  }

  /** @param {string} run */
  indexOf(run) {
    return this.data.runs.findIndex((shown) => shown.id === run);
  }

  /** @param {Extract<LiveMessage, { type: "frame" }>} message */
  receiveFrame(message) {
    const index = this.indexOf(message.run);
    if (index < 0) return;
    this.lastFrame = Date.now() / 1000;
    this.histories.addFrame(index, message);
  }

  /** @param {Extract<LiveMessage, { type: "scalars" }>} message */
  receiveScalars(message) {
    const index = this.indexOf(message.run);
    if (index >= 0) this.histories.announceScalars(index, message.first);
  }

  /** Steps were added at the end. */
  grown() {
    this.writeReadings();
    this.player.extend(this.histories.steps);
    this.drawTimelineSoon();
    performance.mark("evenkeel-frame-drawn");
  }

  /** The latest step and loss at the head of the run page. */
  writeReadings() {
    const { scalars } = this.histories.list[0];
    if (this.data.page !== "run" || !scalars.length) return;
    setProps("run-last-step", { children: formatCount(scalars.last) });
    const loss = scalars.losses().values.at(-1);
    if (loss !== undefined) setProps("run-last-loss", { children: formatLoss(loss) });
  }

  /** @param {string} run */
  receivePrediction(run) {
    if (this.indexOf(run) < 0) return;
    this.takeNewPrediction().catch(() => {}); // the former one stays on show
    if (this.data.page === "run") setProps("run-describe", { children: "Describe again" });
  }

  /** @param {RunSummary} summary */
  receiveRun(summary) {
    const run = this.data.runs[this.indexOf(summary.id)];
    if (!run || run.status === summary.status) return;
    run.status = summary.status;
    this.player.setLive(this.isLive());
    if (this.data.page === "run") {
      setProps("run-describe", { hidden: summary.status !== "running" });
      announce("health");
    } else this.drawStatus(summary);
  }

  /** @param {RunSummary} summary */
  drawStatus(summary) {
    const chip = first(document, `[data-run-status="${summary.id}"]`);
    chip.className = `status status-${summary.status}`;
    first(chip, ".status-word").textContent = summary.status.replace("_", " ");
    if (this.player.step !== null) this.show(this.player.step);
  }

  /**
   * Shows another stack of the same runs; a slower answer for a stack left meanwhile is dropped.
   * @param {string} stack
   */
  async changeStack(stack) {
    this.stack = stack;
    const [list, predictions] = await Promise.all([
      this.histories.read(stack),
      this.fetchPredictions(stack),
    ]);
    if (this.closed || this.stack !== stack) return;
    this.histories.list = list;
    this.predictions = predictions;
    this.redraw();
    await this.histories.open();
    await this.ahead.load().catch(() => {}); // the other curves stand without it
  }

  async markAlerts() {
    try {
      this.scalars?.mark(await getAlerts({ run: this.data.runs[0].id }));
    } catch {
      // The banner already says that the server is away.
    }
  }

  /** @param {Error} error */
  fail(error) {
    const banner = byId("banner");
    banner.textContent = `This page could not be drawn: ${error.message}`;
    banner.hidden = false;
  }

  close() {
    this.closed = true;
    this.histories.close();
    for (const undo of this.undo) undo();
    delete document.body.dataset.charts;
    delete document.body.dataset.history;
  }
}
