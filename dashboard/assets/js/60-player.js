/* The scrubber: which step is on show, play, and following the live end. */
(function (ek) {
  "use strict";
  const SPEEDS = [[0.5, 4], [1, 8], [2, 16], [4, 32], [8, 64]]; // shown factor, sampled steps a second
  const PLAY = '<svg viewBox="0 0 16 16" width="14" height="14"><path d="M4 2.2v11.6L13.6 8z" fill="currentColor"/></svg>';
  const PAUSE = '<svg viewBox="0 0 16 16" width="14" height="14"><path d="M3.5 2.5h3.2v11H3.500zM9.300 2.500h3.200v11H9.300z" fill="currentColor"/></svg>';

  class Player {
    /** `onStep(step)` is called for each step to show. */
    constructor(bar, onStep, { step, live }) {
      this.bar = bar;
      this.onStep = onStep;
      this.steps = [];
      this.index = -1;
      this.speed = 1;
      this.wanted = step;
      this.following = step === null;
      this.live = live;
      this.build();
    }

    build() {
      this.bar.innerHTML = `
        <button id="player-play" type="button" title="Play or pause (space)" aria-label="Play">${PLAY}</button>
        <button id="player-speed" type="button" title="Speed" aria-label="Speed 1×">1×</button>
        <span id="player-step"></span>
        <input id="player-slider" type="range" min="0" max="0" value="0" step="1" aria-label="Step">
        <span class="keys">← → scrub · space play · L live</span>
        <button id="player-follow" type="button" aria-pressed="true" title="Follow the newest step (L)"><i class="dot"></i><span></span></button>`;
      const find = (id) => this.bar.querySelector(id);
      this.play = find("#player-play"); this.slider = find("#player-slider");
      this.label = find("#player-step"); this.follow = find("#player-follow");
      this.play.onclick = () => this.toggle();
      this.slider.oninput = () => this.pick(Number(this.slider.value));
      this.follow.onclick = () => this.setFollowing(!this.following);
      find("#player-speed").onclick = (event) => {
        this.speed = (this.speed + 1) % SPEEDS.length;
        event.target.textContent = `${SPEEDS[this.speed][0]}×`;
        event.target.setAttribute("aria-label", `Speed ${event.target.textContent}`);
      };
      this.keys = (event) => this.press(event);
      document.addEventListener("keydown", this.keys);
      this.setLive(this.live);
    }

    setLive(live) {
      this.live = live;
      this.follow.querySelector("span").textContent = live ? "Follow live" : "Latest step";
    }

    /** New steps; the position is kept, or moves to the end while following. */
    extend(steps) {
      const shown = this.step;
      this.steps = steps;
      this.slider.max = String(Math.max(0, steps.length - 1));
      if (!steps.length) { this.write(); return; }
      if (this.wanted !== null) { this.index = Math.max(0, ek.floorIndex(steps, this.wanted)); this.wanted = null; this.landed = this.step; this.show(); return; }
      if (this.following) { this.index = steps.length - 1; this.show(); return; }
      this.index = Math.max(0, ek.floorIndex(steps, shown));
      this.write();
    }

    /** More steps between those known: an asked step now found exactly is gone to, else none moves. */
    refine(steps, asked) {
      const before = this.step;
      if (!this.following && asked !== null && before === this.landed) this.wanted = asked;
      this.extend(steps);
    }

    get step() { return this.index >= 0 && this.index < this.steps.length ? this.steps[this.index] : null; }

    show() { this.write(); this.onStep(this.step); }

    write() {
      this.slider.value = String(Math.max(0, this.index));
      this.slider.setAttribute("aria-valuetext", this.step === null ? "no steps yet" : `step ${this.step}`);
      const last = this.steps.length ? this.steps[this.steps.length - 1] : null;
      this.label.innerHTML = this.step === null ? "no steps yet" : `step ${ek.count(this.step)} <small>of ${ek.count(last)}</small>`;
      this.follow.setAttribute("aria-pressed", String(this.following));
      this.bar.dataset.following = String(this.following);
    }

    pick(index) {
      this.following = false;
      this.index = Math.max(0, Math.min(this.steps.length - 1, index));
      if (this.steps.length) this.show();
    }

    pickStep(step) { this.pick(ek.floorIndex(this.steps, step)); }

    setFollowing(following) {
      this.pause();
      this.following = following;
      if (following && this.steps.length) this.index = this.steps.length - 1;
      if (this.steps.length) this.show(); else this.write();
    }

    toggle() { if (this.playing) this.pause(); else this.start(); }

    start() {
      if (!this.steps.length) return;
      if (this.index >= this.steps.length - 1) this.index = 0;
      this.following = false;
      this.playButton(PAUSE, "Pause");
      let before = performance.now(), owed = 0;
      const turn = (now) => {
        owed += ((now - before) / 1000) * SPEEDS[this.speed][1];
        before = now;
        const whole = Math.floor(owed);
        if (whole) { owed -= whole; this.index = Math.min(this.index + whole, this.steps.length - 1); this.show(); }
        if (this.index >= this.steps.length - 1) { this.pause(); return; }
        this.playing = requestAnimationFrame(turn);
      };
      this.playing = requestAnimationFrame(turn);
    }

    playButton(icon, word) {
      this.play.innerHTML = icon;
      this.play.setAttribute("aria-label", word);
    }

    pause() {
      cancelAnimationFrame(this.playing);
      this.playing = null;
      this.playButton(PLAY, "Play");
    }

    press(event) {
      if (event.target.matches("input:not([type=range]), textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
      const far = event.shiftKey ? 10 : 1;
      const acts = {
        ArrowLeft: () => this.pick(this.index - far), ArrowRight: () => this.pick(this.index + far),
        Home: () => this.pick(0), End: () => this.pick(this.steps.length - 1),
        " ": () => this.toggle(), l: () => this.setFollowing(true),
      };
      if (!acts[event.key] || (event.key === " " && event.target.matches("button, a"))) return;
      event.preventDefault();
      if (event.key.startsWith("Arrow")) this.pause();
      acts[event.key]();
    }

    remove() { this.pause(); document.removeEventListener("keydown", this.keys); }
  }

  ek.Player = Player;
})(window.evenkeel);
