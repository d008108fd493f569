/* The scrubber: which step is on show, play, and following the live end. */

import { formatCount } from "./display.js";
import { first } from "./dom.js";
import { floorIndex } from "./history.js";

/** Factors as the button shows them, and sampled steps a second. */
const SPEEDS = [
  { factor: 0.5, rate: 4 },
  { factor: 1, rate: 8 },
  { factor: 2, rate: 16 },
  { factor: 4, rate: 32 },
  { factor: 8, rate: 64 },
];
const PLAY =
  '<svg viewBox="0 0 16 16" width="14" height="14"><path d="M4 2.2v11.6L13.6 8z" fill="currentColor"/></svg>';
const PAUSE =
  '<svg viewBox="0 0 16 16" width="14" height="14"><path d="M3.5 2.5h3.2v11H3.500zM9.300 2.500h3.200v11H9.300z" fill="currentColor"/></svg>';
const CONTROLS = `
  <button id="player-play" type="button" title="Play or pause (space)" aria-label="Play">${PLAY}</button>
  <button id="player-speed" type="button" title="Speed" aria-label="Speed 1×">1×</button>
  <span id="player-step"></span>
  <input id="player-slider" type="range" min="0" max="0" value="0" step="1" aria-label="Step">
  <span class="keys">← → scrub · space play · L live</span>
  <button id="player-follow" type="button" aria-pressed="true" title="Follow the newest step (L)"><i class="dot"></i><span></span></button>`;

export class Player {
  /**
   * @param {HTMLElement} bar
   * @param {(step: number) => void} onStep called for each step to show
   * @param {{ step: number | null, live: boolean }} start `step` is the one to open at; null follows
   */
  constructor(bar, onStep, { step, live }) {
    this.bar = bar;
    this.onStep = onStep;
    /** @type {ArrayLike<number>} */
    this.steps = [];
    this.index = -1;
    this.speed = 1;
    /** The step to go to once there are steps. */
    this.requested = step;
    /** Where that request ended. @type {number | null} */
    this.landed = null;
    this.following = step === null;
    /** The next animation frame while playing. @type {number | null} */
    this.playing = null;
    this.bar.innerHTML = CONTROLS;
    this.playButton = first(bar, "#player-play");
    this.slider = /** @type {HTMLInputElement} */ (first(bar, "#player-slider"));
    this.label = first(bar, "#player-step");
    this.followButton = first(bar, "#player-follow");
    this.keys = (/** @type {KeyboardEvent} */ event) => this.press(event);
    this.listen();
    this.setLive(live);
  }

  listen() {
    const speedButton = first(this.bar, "#player-speed");
    this.playButton.onclick = () => this.toggle();
    this.slider.oninput = () => this.pick(Number(this.slider.value));
    this.followButton.onclick = () => this.setFollowing(!this.following);
    speedButton.onclick = () => {
      this.speed = (this.speed + 1) % SPEEDS.length;
      speedButton.textContent = `${SPEEDS[this.speed].factor}×`;
      speedButton.setAttribute("aria-label", `Speed ${speedButton.textContent}`);
    };
    document.addEventListener("keydown", this.keys);
  }

  /** @param {boolean} live */
  setLive(live) {
    first(this.followButton, "span").textContent = live ? "Follow live" : "Latest step";
  }

  /**
   * Takes over new steps; the position stays, or moves to the end while following.
   * @param {ArrayLike<number>} steps
   */
  extend(steps) {
    const { step } = this;
    this.steps = steps;
    this.slider.max = String(Math.max(0, steps.length - 1));
    if (!steps.length) {
      this.write();
    } else if (this.requested !== null) {
      this.index = Math.max(0, floorIndex(steps, this.requested));
      this.requested = null;
      this.landed = this.step;
      this.show();
    } else if (this.following) {
      this.index = steps.length - 1;
      this.show();
    } else {
      this.index = Math.max(0, floorIndex(steps, step ?? -1));
      this.write();
    }
  }

  /**
   * Takes over more steps between those there were. A request that had to end beside its step
   * goes to it now, unless somebody has moved since.
   * @param {ArrayLike<number>} steps
   * @param {number | null} requested
   */
  refine(steps, requested) {
    if (!this.following && requested !== null && this.step === this.landed) {
      this.requested = requested;
    }
    this.extend(steps);
  }

  /** @returns {number | null} */
  get step() {
    return this.index >= 0 && this.index < this.steps.length ? this.steps[this.index] : null;
  }

  show() {
    this.write();
    if (this.step !== null) this.onStep(this.step);
  }

  write() {
    const { step, steps } = this;
    this.slider.value = String(Math.max(0, this.index));
    this.slider.setAttribute("aria-valuetext", step === null ? "no steps yet" : `step ${step}`);
    const last = steps.length ? steps[steps.length - 1] : null;
    const position = `step ${formatCount(step)} <small>of ${formatCount(last)}</small>`;
    this.label.innerHTML = step === null ? "no steps yet" : position;
    this.followButton.setAttribute("aria-pressed", String(this.following));
    this.bar.dataset.following = String(this.following);
  }

  /** @param {number} index */
  pick(index) {
    this.following = false;
    this.index = Math.max(0, Math.min(this.steps.length - 1, index));
    if (this.steps.length) this.show();
  }

  /** @param {number} step */
  pickStep(step) {
    this.pick(floorIndex(this.steps, step));
  }

  /** @param {boolean} following */
  setFollowing(following) {
    this.pause();
    this.following = following;
    if (following && this.steps.length) this.index = this.steps.length - 1;
    if (this.steps.length) this.show();
    else this.write();
  }

  toggle() {
    if (this.playing === null) this.play();
    else this.pause();
  }

  play() {
    if (!this.steps.length) return;
    if (this.index >= this.steps.length - 1) this.index = 0;
    this.following = false;
    this.drawButton(PAUSE, "Pause");
    let before = performance.now();
    let owed = 0; // steps that are due, with the fraction that no frame has shown yet
    const turn = (/** @type {number} */ now) => {
      owed += ((now - before) / 1000) * SPEEDS[this.speed].rate;
      before = now;
      const due = Math.floor(owed);
      if (due > 0) {
        owed -= due;
        this.index = Math.min(this.index + due, this.steps.length - 1);
        this.show();
      }
      if (this.index >= this.steps.length - 1) this.pause();
      else this.playing = requestAnimationFrame(turn);
    };
    this.playing = requestAnimationFrame(turn);
  }

  pause() {
    if (this.playing !== null) cancelAnimationFrame(this.playing);
    this.playing = null;
    this.drawButton(PLAY, "Play");
  }

  /**
   * @param {string} icon
   * @param {string} label
   */
  drawButton(icon, label) {
    this.playButton.innerHTML = icon;
    this.playButton.setAttribute("aria-label", label);
  }

  /** @param {KeyboardEvent} event */
  press(event) {
    const target = /** @type {Element} */ (event.target);
    if (target.matches("input:not([type=range]), textarea")) return;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === " " && target.matches("button, a")) return;
    const distance = event.shiftKey ? 10 : 1;
    /** @type {Record<string, () => void>} */
    const actions = {
      ArrowLeft: () => this.pick(this.index - distance),
      ArrowRight: () => this.pick(this.index + distance),
      Home: () => this.pick(0),
      End: () => this.pick(this.steps.length - 1),
      " ": () => this.toggle(),
      l: () => this.setFollowing(true),
    };
    if (!Object.hasOwn(actions, event.key)) return;
    event.preventDefault();
    if (event.key.startsWith("Arrow")) this.pause();
    actions[event.key]();
  }

  remove() {
    this.pause();
    document.removeEventListener("keydown", this.keys);
  }
}
