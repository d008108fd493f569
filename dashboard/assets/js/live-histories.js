/* The histories of a page's runs: loaded in two stages, then extended by frames as they arrive. */

import { FIRST_STEPS } from "./api.js";
import { RunHistory } from "./history.js";
import { throttled } from "./timing.js";

/** @import { FrameMessage, RunData } from "./types" */

const REREAD_PAUSE_MS = 5000;
const SCALARS_PAUSE_MS = 1000;

/**
 * @typedef {object} Observer
 * @property {() => void} grown called when steps were added
 * @property {() => void} replaced called when a run was read anew and has fewer steps
 */

export class LiveHistories {
  /**
   * @param {RunData[]} runs
   * @param {string} stack the one to read where a run has it; "" for each run's default
   * @param {Observer} observer
   */
  constructor(runs, stack, observer) {
    this.runs = runs;
    this.observer = observer;
    this.list = this.empty(stack);
    this.loaded = false;
    this.closed = false;
    this.catchingUp = false;
    this.missedMore = false;
    /** Frames that wait for the steps before them. @type {[number, FrameMessage][]} */
    this.queue = [];
    /** By run, from which step on there are scalars to fetch. @type {Map<number, number>} */
    this.newScalars = new Map();
    this.readScalarsSoon = throttled(() => {
      this.readScalars().catch(() => {}); // the next message or connection brings them
    }, SCALARS_PAUSE_MS);
    this.rereadSoon = throttled(() => {
      this.reread().catch(() => {}); // the next frame of such a job tries again
    }, REREAD_PAUSE_MS);
  }

  /** @param {string} stack */
  empty(stack) {
    return this.runs.map((run) => new RunHistory(run.id, stackOf(run, stack)));
  }

  /** The steps of every run, ascending. */
  get steps() {
    if (this.list.length === 1) return this.list[0].steps.subarray(0, this.list[0].length);
    const steps = new Set(this.list.flatMap(({ steps, length }) => [...steps.subarray(0, length)]));
    return Float64Array.from(steps).sort();
  }

  /** Fetches what the first picture needs. */
  async load() {
    await Promise.all(this.list.map((history) => history.load(FIRST_STEPS)));
  }

  /** Begins to take frames, those that arrived while the first picture was loading included. */
  async open() {
    this.loaded = true;
    await this.catchUp();
  }

  /** Swaps in every step of histories that were first fetched thinned; false when none was. */
  async refine() {
    const refined = await Promise.all(this.list.map((history) => history.refined()));
    if (this.closed || !refined.some(Boolean)) return false;
    this.list = this.list.map((history, i) => refined[i] || history);
    return true;
  }

  /**
   * Reads the histories of another stack. Frames wait until `open` is called again.
   * @param {string} stack
   */
  async read(stack) {
    this.loaded = false;
    const list = this.empty(stack);
    await Promise.all(list.map((history) => history.load()));
    return list;
  }

  /**
   * Takes a frame of the run at `index`.
   * @param {number} index
   * @param {FrameMessage} message
   */
  addFrame(index, message) {
    // What lies before this frame is still on its way, and a history only grows at its end.
    if (!this.loaded || this.catchingUp) this.queue.push([index, message]);
    else if (message.step <= this.list[index].last) this.rereadSoon();
    else if (message.skipped) this.catchUp();
    else if (this.list[index].addFrame(message)) this.observer.grown();
  }

  /**
   * Notes that the run at `index` has scalars of steps that were not sampled, from `first` on.
   * @param {number} index
   * @param {number} first
   */
  announceScalars(index, first) {
    if (!this.loaded) return; // what is being read has them
    this.newScalars.set(index, Math.min(first, this.newScalars.get(index) ?? first));
    this.readScalarsSoon();
  }

  async readScalars() {
    const waiting = [...this.newScalars];
    this.newScalars.clear();
    const list = this.list;
    await Promise.all(waiting.map(([index, first]) => list[index].loadScalars(first)));
    if (!this.closed && waiting.length) this.observer.grown();
  }

  /** Fetches what lies past the last steps, then takes what arrived meanwhile. */
  async catchUp() {
    if (!this.loaded) return;
    if (this.catchingUp) {
      this.missedMore = true;
      return;
    }
    this.catchingUp = true;
    try {
      await Promise.all(this.list.map((history) => history.load()));
      if (!this.closed) this.observer.grown();
    } catch {
      // The connection's banner says it, and the next connection catches up.
    }
    this.catchingUp = false;
    if (this.closed) return;
    this.takeQueue();
    if (this.missedMore) {
      this.missedMore = false;
      await this.catchUp();
    }
  }

  takeQueue() {
    const queue = this.queue;
    this.queue = [];
    for (const [index, message] of queue) {
      // Frames that the catching up has brought already are no sign of a job that went back.
      if (message.step > this.list[index].last) this.addFrame(index, message);
    }
  }

  /** A job that went on from an earlier checkpoint measures steps anew: its history is read again. */
  async reread() {
    if (this.catchingUp || !this.loaded) return;
    const before = this.list;
    const list = before.map(({ run, stack }) => new RunHistory(run, stack));
    await Promise.all(list.map((history) => history.load()));
    if (this.closed || this.list !== before) return;
    if (list.every((history, i) => history.last >= before[i].last)) return;
    this.list = list;
    this.observer.replaced();
  }

  close() {
    this.closed = true;
  }
}

/**
 * The stack to read of a run: the one requested where it has that, else its default.
 * @param {RunData} run
 * @param {string} requested
 */
export function stackOf(run, requested) {
  return requested && run.stacks[requested] ? requested : run.stack;
}
