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
      this.drawTimeline = ek.throttled(() => this.timeline(), 250);
      this.writeAddress = ek.rationed(() => this.address(), 60, 15000);
      this.histories = data.runs.map((run) => new ek.History(run.id, this.stackOf(run)));
      this.undo.push(() => this.player.remove());
      this.start().catch((error) => this.fail(error));
    }

    isLive() { return this.data.runs.some((run) => run.status === "running" || run.status === "lost_contact"); }

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
      if (this.data.page === "run") await this.startHeatmap();
      await loading;
      if (this.over) return;
      this.watchSize(scalars);
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

    async startHeatmap() {
      const chart = await ek.drawn("run-heatmap");
      const plot = document.getElementById("run-heatmap-plot"), canvas = document.getElementById("run-heatmap-canvas");
      this.heatmap = new ek.Heatmap(plot, canvas, chart, document.getElementById("run-heatmap-scale"));
      this.heads.push(new ek.Playhead(chart, (step) => this.player.pickStep(step)));
      const tip = plot.querySelector(".heat-tip");
      plot.onmousemove = (event) => {
        const box = plot.getBoundingClientRect();
        const inside = event.target.closest(".plot") && this.histories[0].length;
        const text = inside ? this.heatmap.describe(event) : "";
        tip.hidden = !text;
        tip.textContent = text;
        const x = event.clientX - box.left, y = event.clientY - box.top;
        tip.style.transform = `translate(${x > box.width - 190 ? x - 175 : x + 14}px, ${Math.min(y + 8, box.height - 80)}px)`;
      };
      plot.onmouseleave = () => { tip.hidden = true; };
      for (const button of document.querySelectorAll("[data-heat]")) {
        button.onclick = () => {
          document.querySelectorAll("[data-heat]").forEach((one) => one.setAttribute("aria-pressed", String(one === button)));
          this.heatmap.name = button.dataset.heat;
          this.heat();
        };
      }
      const retheme = () => { this.heatmap.retheme(); this.heatmap.draw(); };
      addEventListener("evenkeel-theme", retheme);
      this.undo.push(() => removeEventListener("evenkeel-theme", retheme));
    }

    watchSize(chart) {
      const watcher = new ResizeObserver(ek.throttled(() => {
        if (this.heatmap) this.heatmap.draw();
        this.heads.forEach((one) => one.move(this.player.step || 0));
      }, 150));
      watcher.observe(chart);
      this.undo.push(() => watcher.disconnect());
    }

    /** Fetches the predictions; draws them where the charts already stand. */
    async predict(redraw = true) {
      this.predictions = await Promise.all(this.data.runs.map((run) => ek.predictions(run.id, this.stackOf(run))));
      if (redraw && this.charts) this.refit();
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
      if (this.heatmap) {
        if (this.extent !== before) Plotly.update(this.heatmap.chart, {}, { "xaxis.range": this.extent, "yaxis.range": [-0.5, this.histories[0].width - 0.5] });
        this.heat();
      }
      this.heads.forEach((one) => one.move(this.player.step || 0));
    }

    heat() {
      this.heatmap.history = this.histories[0];
      this.heatmap.predictions = this.predictions && this.predictions[0];
      if (this.predictions && this.histories[0].length) this.heatmap.fit();
      this.heatmap.draw();
    }

    show(step) {
      if (!this.charts || step === null || this.over) return;
      const rows = this.histories.map((one) => one.indexOf(step));
      this.charts.forEach((chart) => chart.show(rows.map((index, i) => this.histories[i].row(chart.name, index))));
      this.heads.forEach((one) => one.move(step));
      document.querySelectorAll(".plot .waiting").forEach((one) => { one.hidden = true; });
      if (this.histories.length > 1) this.sayAbsent(step, rows);
      this.player.bar.dataset.step = String(step);
      this.writeAddress();
      if (this.onShow) this.onShow(step);
    }

    /** Under each run's name: the step it shows, or that it lacks the one on show. */
    sayAbsent(step, rows) {
      this.histories.forEach((history, i) => {
        const place = document.querySelector(`[data-run-step="${history.run}"] .at-step`);
        if (!place) return;
        const own = rows[i] < 0 ? null : history.steps[rows[i]];
        place.classList.toggle("absent", own !== step);
        if (own === null) place.textContent = "has no step yet here";
        else if (own === step) place.textContent = `step ${ek.count(step)}`;
        else if (own === history.last) place.textContent = `ends at step ${ek.count(own)}`;
        else place.textContent = `no step ${ek.count(step)}; shows ${ek.count(own)}`;
      });
    }

    /** The address keeps the step, so that it can be passed on. */
    address() {
      if (this.over) return;
      const query = new URLSearchParams(location.search);
      if (this.player.following || this.player.step === null) query.delete("step"); else query.set("step", this.player.step);
      const text = query.toString().replace(/%2C/g, ",");
      history.replaceState(history.state, "", location.pathname + (text ? `?${text}` : ""));
    }

    hear(message) {
      const at = this.data.runs.findIndex((run) => run.id === (message.run && message.run.id ? message.run.id : message.run));
      if (message.type === "hello") this.backfill();
      else if (message.type === "frame" && at >= 0) this.frame(at, message);
      else if (message.type === "prediction" && at >= 0) this.predict().catch(() => {});
      else if (message.type === "run" && at >= 0) this.runChanged(at, message.run);
      else if (message.type === "alert" && this.data.page === "run") this.markAlerts();
    }

    frame(at, message) {
      this.lastFrame = Date.now() / 1000;
      // What lies before this frame is still on its way, and a history only grows at its end.
      if (!this.loaded || this.catching) { this.held.push([at, message]); return; }
      const history = this.histories[at];
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
      if (this.data.page === "run") ek.pulse("health");
      else this.chip(summary);
    }

    chip(summary) {
      const word = summary.status.replace("_", " ");
      const id = { type: "compare-status", run: summary.id };
      window.dash_clientside.set_props(id, { className: `status status-${summary.status}`, title: word });
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
      held.forEach(([at, message]) => this.frame(at, message));
      if (this.again) { this.again = false; await this.backfill(); }
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
