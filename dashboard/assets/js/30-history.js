/* A run's history, held as typed arrays: fetched once, then extended by what arrives. */
(function (ek) {
  "use strict";
  const NAMES = ["variance", "correlation", "gradient"];
  const KEEP = 2 * ek.MAX_STEPS;

  function grown(array, length) {
    if (length <= array.length) return array;
    const larger = new array.constructor(Math.max(length, 2 * array.length, 64));
    larger.set(array);
    return larger;
  }

  /** Gradient variances over the last one's, as the predictions are. */
  function relative(row) {
    const top = row[row.length - 1];
    return row.map((value) => value / top);
  }

  /** A series that the run does not have is null; every other failure stays one. */
  function unmeasured(error) {
    if (error.status === 404 || error.status === 422) return null;
    throw error;
  }

  class History {
    constructor(run, stack) {
      this.run = run;
      this.stack = stack;
      this.empty();
    }

    empty() {
      this.length = 0;
      this.width = 0;
      this.steps = new Float64Array(0);
      this.rows = {};
      for (const name of NAMES) this.rows[name] = new Float32Array(0);
      this.scalars = { length: 0, steps: new Float64Array(0), loss: new Float32Array(0), learning_rate: new Float32Array(0) };
    }

    get last() { return this.length ? this.steps[this.length - 1] : -1; }

    /** Everything so far, or what lies past the last step held; `most` steps, evenly thinned. */
    async load(most = ek.MAX_STEPS) {
      const from = this.length ? this.last + 1 : 0;
      const lastScalar = this.scalars.length ? this.scalars.steps[this.scalars.length - 1] : -1;
      const [scalars, ...found] = await Promise.all([
        ek.get(ek.paths.scalars(this.run, lastScalar)),
        ...NAMES.map((name) => ek.get(ek.paths.history(this.run, this.stack, name, from, most)).catch(unmeasured)),
      ]);
      this.takeScalars(scalars);
      this.takeRows(found);
    }

    /** The same run in full where only a thinned first picture is held; null when this is all. */
    async refined() {
      if (this.length < ek.FIRST_STEPS) return null;
      const full = new History(this.run, this.stack);
      await full.load();
      return full;
    }

    takeScalars(answer) {
      const loss = ek.decode(answer.values_f32["/loss/value"]);
      const rate = ek.decode(answer.values_f32["/learning_rate/value"]);
      answer.steps.forEach((step, i) => this.addScalars(step, loss[i], i < rate.length ? rate[i] : NaN));
    }

    addScalars(step, loss, rate) {
      const own = this.scalars, at = own.length;
      if (at && step <= own.steps[at - 1]) return;
      own.steps = grown(own.steps, at + 1);
      own.loss = grown(own.loss, at + 1);
      own.learning_rate = grown(own.learning_rate, at + 1);
      own.steps[at] = step; own.loss[at] = loss; own.learning_rate[at] = rate;
      own.length = at + 1;
      if (own.length > KEEP) this.thin(own, ["loss", "learning_rate"], 1);
    }

    /** The three histories may end at different steps while frames arrive: what all hold is taken. */
    takeRows(found) {
      const present = found.filter((one) => one && one.steps.length);
      if (!present.length) return;
      const width = present[0].n_layers_plus_one;
      const decoded = found.map((one) => one && {
        at: new Map(one.steps.map((step, i) => [step, i])),
        values: ek.decode(one.values_f32),
        some: one.steps.length > 0,
      });
      for (const step of present[0].steps) {
        if (decoded.some((one) => one && one.some && !one.at.has(step))) continue;
        this.add(step, decoded.map((one) => one && one.some
          ? one.values.subarray(one.at.get(step) * width, (one.at.get(step) + 1) * width) : null), width);
      }
    }

    /** One step: (variance, correlation, gradient), each of `width` values or null if unmeasured. */
    add(step, vectors, width) {
      if (step <= this.last) return false;
      if (!this.width) this.width = width;
      if (width !== this.width) return false;
      const at = this.length;
      this.steps = grown(this.steps, at + 1);
      this.steps[at] = step;
      NAMES.forEach((name, i) => {
        this.rows[name] = grown(this.rows[name], (at + 1) * width);
        const row = vectors[i] && (name === "gradient" ? relative(vectors[i]) : vectors[i]);
        if (row) this.rows[name].set(row, at * width); else this.rows[name].fill(NaN, at * width, (at + 1) * width);
      });
      this.length = at + 1;
      if (this.length > KEEP) this.thin(this, null, width);
      return true;
    }

    /** A live message. */
    addFrame(message) {
      const vectors = NAMES.map((name) => {
        const packed = message.series_f32[`${this.stack}/${ek.SERIES[name]}`];
        return packed === undefined ? null : ek.decode(packed);
      });
      const width = (vectors.find(Boolean) || []).length;
      this.addScalars(message.step, ek.number(message.scalars.loss), ek.number(message.scalars.learning_rate));
      return width > 0 && this.add(message.step, vectors, width);
    }

    /** Every second step goes, so that a page open for days stays within its memory. */
    thin(holder, fields, width) {
      const half = holder.length >> 1;
      const every = (array, size) => { for (let i = 0; i < half; i++) array.copyWithin(i * size, (2 * i + 1) * size, (2 * i + 2) * size); };
      every(holder.steps, 1);
      if (fields) for (const name of fields) every(holder[name], width);
      else for (const name of NAMES) every(this.rows[name], width);
      holder.length = half;
    }

    indexOf(step) { return ek.floorIndex(this.steps, step, this.length); }

    row(name, index) {
      return index < 0 ? new Float32Array(0) : this.rows[name].subarray(index * this.width, (index + 1) * this.width);
    }
  }

  ek.History = History;
  ek.NAMES = NAMES;
})(window.evenkeel);
