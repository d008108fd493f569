/* How often something is done. */

/**
 * Calls `work` at most once a frame, with the latest argument.
 * @template Argument
 * @param {(argument: Argument) => void} work
 */
export function onceAFrame(work) {
  /** @type {{ argument: Argument } | null} */
  let waiting = null;
  return (/** @type {Argument} */ argument) => {
    if (!waiting) {
      requestAnimationFrame(() => {
        const latest = waiting;
        waiting = null;
        if (latest) work(latest.argument);
      });
    }
    waiting = { argument };
  };
}

/**
 * Calls `work` at once, then at most every `pause` ms, and always once after the last call.
 * @param {() => void} work
 * @param {number} pause
 */
export function throttled(work, pause) {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  let due = 0;
  let again = false;
  return function run() {
    const now = performance.now();
    if (timer !== undefined) {
      again = true;
      return;
    }
    if (now >= due) {
      due = now + pause;
      work();
      return;
    }
    timer = setTimeout(() => {
      timer = undefined;
      due = performance.now() + pause;
      work();
      if (again) {
        again = false;
        run();
      }
    }, due - now);
  };
}

/**
 * Calls `work` at once while fewer than `most` calls fell into the last `period` ms, later
 * otherwise: browsers refuse more than about 200 changes of the address in 30 s.
 * @param {() => void} work
 * @param {number} most
 * @param {number} period
 */
export function rationed(work, most, period) {
  /** @type {number[]} */
  let calls = [];
  const late = throttled(work, 1000);
  return () => {
    const now = performance.now();
    calls = calls.filter((then) => now - then < period);
    if (calls.length >= most) {
      late();
      return;
    }
    calls.push(now);
    work();
  };
}
