/* Values as the API sends them, and as the pages write them. */
window.evenkeel = window.evenkeel || {};
(function (ek) {
  "use strict";

  /** A field whose name ends in _f32 → Float32Array; NaN and Inf arrive unchanged. */
  ek.decode = function (text) {
    const raw = atob(text || "");
    const bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    return new Float32Array(bytes.buffer);
  };

  /** A JSON number of the API, where non-finite ones are strings and none is null. */
  ek.number = function (value) {
    return value === null || value === undefined ? NaN : Number(value);
  };

  const SUPERSCRIPT = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };

  ek.superscript = (power) => String(power).replace(/[-\d]/g, (c) => SUPERSCRIPT[c]);

  /** A number with few digits, as dashboard/formats.py writes it. */
  ek.format = function (value, digits = 4) {
    if (value === null || value === undefined) return "–";
    const found = ek.number(value);
    if (Number.isNaN(found)) return "NaN";
    if (!Number.isFinite(found)) return found > 0 ? "+Inf" : "−Inf";
    const size = Math.abs(found);
    if (found && (size < 1e-3 || size >= 1e5)) {
      const [mantissa, power] = found.toExponential(digits - 2).split("e");
      return mantissa + " × 10" + ek.superscript(Number(power));
    }
    return String(Number(found.toPrecision(digits)));
  };

  /** A loss with three decimals, as dashboard/formats.py writes it. */
  ek.loss = function (value) {
    const found = ek.number(value), size = Math.abs(found);
    return size >= 0.01 && size < 1000 ? found.toFixed(3) : ek.format(value);
  };

  ek.count = (value) => (value === null || value === undefined ? "–" : Number(value).toLocaleString("en"));

  /** How long ago, from seconds since the epoch. */
  ek.ago = function (then) {
    if (!then) return "never";
    const passed = Math.max(0, Date.now() / 1000 - then);
    if (passed < 60) return `${Math.round(passed)} s ago`;
    if (passed < 3600) return `${Math.round(passed / 60)} min ago`;
    return passed < 86400 ? `${Math.round(passed / 3600)} h ago` : `${Math.round(passed / 86400)} d ago`;
  };

  /** Keeps a choice in the address, so that it can be passed on; null takes it out. */
  ek.setQuery = function (name, value) {
    const query = new URLSearchParams(location.search);
    if (value === null || value === "") query.delete(name); else query.set(name, value);
    const text = query.toString().replace(/%2C/g, ",");
    history.replaceState(history.state, "", location.pathname + (text ? `?${text}` : ""));
  };

  ek.clock = (when = new Date()) => when.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });

  /** Position of the last of the ascending `steps` that is ≤ `step`; −1 when there is none. */
  ek.floorIndex = function (steps, step, length = steps.length) {
    let low = 0, high = length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (steps[middle] <= step) low = middle + 1; else high = middle;
    }
    return low - 1;
  };

  /** Calls `work` at most once a frame, with the latest arguments. */
  ek.onceAFrame = function (work) {
    let waiting = null;
    return function (...given) {
      if (!waiting) requestAnimationFrame(() => { const last = waiting; waiting = null; work(...last); });
      waiting = given;
    };
  };

  /** Calls `work` at once, then at most every `pause` ms, and always once after the last call. */
  ek.throttled = function (work, pause) {
    let timer = null, due = 0, again = false;
    return function run() {
      const now = performance.now();
      if (timer) { again = true; return; }
      if (now >= due) { due = now + pause; work(); return; }
      timer = setTimeout(() => { timer = null; due = performance.now() + pause; work(); if (again) { again = false; run(); } }, due - now);
    };
  };

  /** Calls `work` at once while fewer than `most` calls fell into the last `window` ms, later
      otherwise: browsers refuse more than about 200 changes of the address in 30 s. */
  ek.rationed = function (work, most, window) {
    let calls = [];
    const late = ek.throttled(work, 1000);
    return function () {
      const now = performance.now();
      calls = calls.filter((then) => now - then < window);
      if (calls.length >= most) { late(); return; }
      calls.push(now);
      work();
    };
  };
})(window.evenkeel);
