/* The run page and the compare page: one player over one or several histories. */
(function (ek) {
  "use strict";

  class RunPage {
    constructor(data) {
      this.data = data;
      this.stack = data.stack;
      this.undo = [];
      this.held = [];
      this.extent = null;
      this.lastFrame = data.runs[0].last_seen;
      const asked = new URLSearchParams(location.search).get("step");
      this.asked = asked !== null && /^\d+$/.test(asked) ? Number(asked) : null;
      this.player = new ek.Player(document.getElementById("player"), ek.onceAFrame((step) => this.show(step)), {
        step: this.asked, live: this.isLive(),
      });
      this.describeCharts = ek.throttled(() => !this.over && this.charts.forEach((chart) => chart.describe(this.player.step)), 1000);
      this.rewind = ek.throttled(() => this.reread().catch(() => {}), 5000);
      this.drawTimeline = ek.throttled(() => this.timeline(), 250);
      this.writeAddress = ek.rationed(() => this.address(), 60, 15000);
      this.histories = data.runs.map((run) => new ek.History(run.id, this.stackOf(run)));
      this.undo.push(() => this.player.remove());
      this.start().catch((error) => this.fail(error));
    }

    isRunning(run) { return run.status === "running" || run.status === "lost_contact"; }

    isLive() { return this.data.runs.some((run) => this.isRunning(run)); }

    stackOf(run) { return this.stack && run.stacks[this.stack] ? this.stack : run.stack; }

    async start() {
      ek.connect(this.data.runs.map((run) => run.id));
      this.undo.push(ek.listen((message) => this.hear(message)));
      const loading = Promise.all([...this.histories.map((one) => one.load(ek.FIRST_STEPS)), this.predict(false)]);
      loading.catch(() => {});
      const [variance, correlation, gradient, scalars] = await Promise.all(
        [...ek.NAMES.map((name) => this.data.charts[name]), this.data.scalars].map(ek.drawn));
      if (this.over) return;
      this.charts = [variance, correlation, gradient].map((chart, i) => new ek.DepthChart(chart, ek.NAMES[i], this.data.runs.length));
      this.scalars = new ek.Scalars(scalars);
      this.heads = [new ek.Playhead(scalars, (step) => this.player.pickStep(step))];
      this.undo.push(() => this.heads.forEach((one) => one.remove()));
      await this.startHeatmaps();
      await loading;
      if (this.over) return;
      this.refit();
      this.loaded = true;
      await this.backfill();
      document.body.dataset.charts = "drawn";
      performance.mark("evenkeel-charts-drawn");
      // A failure leaves the thinned picture, and the next reconnect fills it up.
      await this.refine().catch(() => {});
      if (!this.over) document.body.dataset.history = "whole";
    }

    /** Swaps in every step of histories that were first fetched thinned; the position stays. */
    async refine() {
      const full = await Promise.all(this.histories.map((one) => one.refined()));
      if (this.over || !full.some(Boolean)) return;
      this.histories = this.histories.map((one, i) => full[i] || one);
      this.player.refine(this.allSteps(), this.asked);
      this.charts.forEach((chart) => chart.fit(this.histories));
      this.timeline();
      await this.backfill();
    }

    async startHeatmaps() {
      const charts = await Promise.all(this.data.heatmaps.map(ek.drawn));
      const maps = charts.map((chart, i) => (this.data.page === "run" ? ek.againstPrediction(chart, this) : ek.againstFirst(chart, this, i + 1)));
      const asked = new URLSearchParams(location.search).get("heat");
      this.heats = new ek.Heatmaps(maps, asked, (name) => ek.setQuery("heat", name));
      charts.forEach((chart) => this.heads.push(new ek.Playhead(chart, (step) => this.player.pickStep(step))));
      const retheme = () => { this.heats.retheme(); this.heats.draw(); };
      addEventListener("evenkeel-theme", retheme);
      this.undo.push(() => removeEventListener("evenkeel-theme", retheme));
    }

    /** Fetches the predictions; draws them where the charts already stand. */
    async predict(redraw = true) {
      this.predictions = await Promise.all(this.data.runs.map((run) => ek.predictions(run.id, this.stackOf(run))));
      if (redraw && this.charts) this.refit();
    }

    newPrediction() {
      this.predict().catch(() => {});
      if (this.data.page === "run") window.dash_clientside.set_props("run-describe", { children: "Describe again" });
    }

    /** Draws everything anew: after loading, on new predictions, on another stack. */
    refit() {
      this.charts.forEach((chart) => {
        this.predictions.forEach((one, column) => chart.predict(column, one[chart.name]));
        chart.fit(this.histories);
      });
      this.extent = null;
      this.timeline();
      this.player.extend(this.allSteps());
      if (this.player.step !== null) this.show(this.player.step);
    }

    allSteps() {
      if (this.histories.length === 1) return this.histories[0].steps.subarray(0, this.histories[0].length);
      const pooled = new Set();
      for (const one of this.histories) for (let i = 0; i < one.length; i++) pooled.add(one.steps[i]);
      return Float64Array.from(pooled).sort();
    }

    timeline() {
      if (!this.scalars || this.over) return;
      const before = this.extent;
      this.extent = ek.extent(this.histories, this.isLive(), before);
      this.scalars.show(this.histories, this.extent);
      if (this.heats) {
        this.heats.maps.forEach((map) => map.follow());
        if (this.extent !== before) this.heats.stretch(this.extent);
        this.heats.draw();
      }
      this.heads.forEach((one) => one.move(this.player.step || 0));
    }

    show(step) {
      if (!this.charts || step === null || this.over) return;
      const rows = this.histories.map((one) => one.indexOf(step));
      this.charts.forEach((chart) => chart.show(rows.map((index, i) => this.histories[i].row(chart.name, index))));
      this.heads.forEach((one) => one.move(step));
      document.querySelectorAll(".plot .waiting").forEach((one) => { one.hidden = true; });
      if (this.histories.length > 1) this.sayAbsent(step, rows);
      this.player.bar.dataset.step = String(step);
      this.describeCharts();
      this.writeAddress();
      if (this.onShow) this.onShow(step);
    }

    /** Under each run's name: the step it shows, or that it lacks the one on show. */
    sayAbsent(step, rows) {
      this.histories.forEach((history, i) => {
        const place = document.querySelector(`[data-run-step="${history.run}"] .at-step`);
        if (!place) return;
        const own = rows[i] < 0 ? null : history.steps[rows[i]];
        place.classList.toggle("absent", own !== step && !(own === history.last && this.isRunning(this.data.runs[i])));
        if (own === null) place.textContent = "has no step yet here";
        else if (own === step) place.textContent = `step ${ek.count(step)}`;
        else if (own === history.last) place.textContent = `${this.isRunning(this.data.runs[i]) ? "at" : "ends at"} step ${ek.count(own)}`;
        else place.textContent = `no step ${ek.count(step)}; shows ${ek.count(own)}`;
      });
    }

    /** The address keeps the step, so that it can be passed on. */
    address() {
      if (this.over) return;
      ek.setQuery("step", this.player.following ? null : this.player.step);
    }

    hear(message) {
      const at = this.data.runs.findIndex((run) => run.id === (message.run && message.run.id ? message.run.id : message.run));
      if (message.type === "hello") this.backfill();
      else if (message.type === "frame" && at >= 0) this.frame(at, message);
      else if (message.type === "prediction" && at >= 0) this.newPrediction();
      else if (message.type === "run" && at >= 0) this.runChanged(at, message.run);
      else if (message.type === "alert" && this.data.page === "run") this.markAlerts();
    }

    frame(at, message, replayed = false) {
      this.lastFrame = Date.now() / 1000;
      // What lies before this frame is still on its way, and a history only grows at its end.
      if (!this.loaded || this.catching) { this.held.push([at, message]); return; }
      const history = this.histories[at];
      if (!replayed && message.step <= history.last) { this.rewind(); return; }
      if (message.skipped) { this.backfill(); return; }
      if (!history.addFrame(message)) return;
      this.reading();
      this.player.extend(this.allSteps());
      this.drawTimeline();
      performance.mark("evenkeel-frame-drawn");
    }

    /** The latest step and loss at the head of the run page. */
    reading() {
      const { length, steps, loss } = this.histories[0].scalars;
      if (this.data.page !== "run" || !length) return;
      window.dash_clientside.set_props("run-last-step", { children: ek.count(steps[length - 1]) });
      window.dash_clientside.set_props("run-last-loss", { children: ek.loss(loss[length - 1]) });
    }

    runChanged(at, summary) {
      const known = this.data.runs[at];
      if (known.status === summary.status) return;
      known.status = summary.status;
      this.player.setLive(this.isLive());
      if (this.data.page === "run") window.dash_clientside.set_props("run-describe", { hidden: summary.status !== "running" });
      if (this.data.page === "run") ek.announce("health");
      else this.chip(summary);
    }

    chip(summary) {
      const chip = document.querySelector(`[data-run-status="${summary.id}"]`);
      chip.className = `status status-${summary.status}`;
      chip.querySelector(".status-word").textContent = summary.status.replace("_", " ");
      if (this.player.step !== null) this.show(this.player.step);
    }

    /** Fetches what lies past the last steps held, then takes what arrived meanwhile. */
    async backfill() {
      if (!this.loaded) return;
      if (this.catching) { this.again = true; return; }
      this.catching = true;
      try {
        await Promise.all(this.histories.map((one) => one.load()));
        if (!this.over) { this.reading(); this.player.extend(this.allSteps()); this.drawTimeline(); }
      } catch (error) { /* the connection's own banner says it; the next hello tries again */ }
      this.catching = false;
      if (this.over) return;
      const held = this.held;
      this.held = [];
      held.forEach(([at, message]) => this.frame(at, message, true));
      if (this.again) { this.again = false; await this.backfill(); }
    }

    /** A job that went on from an earlier checkpoint measures steps anew: its history is read again. */
    async reread() {
      if (this.catching || !this.loaded) return;
      const histories = this.histories.map((one) => new ek.History(one.run, one.stack)), before = this.histories;
      await Promise.all(histories.map((one) => one.load()));
      if (this.over || this.histories !== before || !histories.some((one, i) => one.last < before[i].last)) return;
      this.histories = histories;
      this.refit();
    }

    /** Another stack of the same runs; a slower answer for a stack left meanwhile is dropped. */
    async changeStack(stack) {
      this.stack = stack;
      this.loaded = false;
      const histories = this.data.runs.map((run) => new ek.History(run.id, this.stackOf(run)));
      const predictions = await Promise.all(this.data.runs.map((run) => ek.predictions(run.id, this.stackOf(run))));
      await Promise.all(histories.map((one) => one.load()));
      if (this.over || this.stack !== stack) return;
      Object.assign(this, { histories, predictions, loaded: true });
      this.refit();
      await this.backfill();
    }

    async markAlerts() {
      try { this.scalars.mark((await ek.get(ek.paths.alerts(this.data.runs[0].id))).alerts); } catch (error) { /* as above */ }
    }

    fail(error) {
      const banner = document.getElementById("banner");
      banner.textContent = `This page could not be drawn: ${error.message}`;
      banner.hidden = false;
    }

    stop() {
      this.over = true;
      this.undo.forEach((one) => one());
      delete document.body.dataset.charts;
      delete document.body.dataset.history;
    }
  }

  ek.RunPage = RunPage;
})(window.evenkeel);
