/* One WebSocket a page: reconnects by itself, and says plainly when the server is away. */

import { byId, first } from "./dom.js";

/** @import { LiveMessage } from "./types" */

const SILENCE_MS = 40000; // the server pings more often, so a longer silence is a dead connection
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 15000;
const CLOCK = /** @type {const} */ ({ hour: "2-digit", minute: "2-digit" });

/** @type {Set<(message: LiveMessage) => void>} */
const listeners = new Set();
/** The current connection. A former one may still call back, and is then ignored. @type {WebSocket | null} */
let socket = null;
/** The runs of the current connection. @type {string | null} */
let runsOfSocket = null;
let wait = FIRST_WAIT_MS;
/** @type {Date | null} */
let lostAt = null;
/** @type {ReturnType<typeof setTimeout> | undefined} */
let watchdog;
/** @type {ReturnType<typeof setTimeout> | undefined} */
let retry;
let wasOpen = false;

/**
 * @param {"live" | "lost"} state
 * @param {string} text
 */
function show(state, text) {
  const place = byId("connection");
  const banner = byId("banner");
  place.dataset.state = state;
  first(place, ".word").textContent = text;
  banner.hidden = state !== "lost";
  if (state === "lost" && lostAt) {
    const since = lostAt.toLocaleTimeString("en-GB", CLOCK);
    banner.textContent = `Server unreachable since ${since}, retrying. What is on show may be out of date.`;
  }
}

/** @param {LiveMessage} message */
function tell(message) {
  for (const listener of listeners) listener(message);
}

function restartWatchdog() {
  clearTimeout(watchdog);
  const watched = socket;
  watchdog = setTimeout(() => watched?.close(), SILENCE_MS);
}

function open() {
  clearTimeout(retry);
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const query = runsOfSocket ? `?runs=${runsOfSocket}` : "";
  const opened = new WebSocket(`${scheme}//${location.host}/api/v1/live${query}`);
  socket = opened;
  opened.onopen = () => {
    if (opened !== socket) return;
    show("live", "live");
    wait = FIRST_WAIT_MS;
    lostAt = null;
    if (wasOpen) tell({ type: "reconnected" });
    wasOpen = true;
    restartWatchdog();
  };
  opened.onmessage = (event) => {
    if (opened !== socket) return;
    restartWatchdog();
    tell(JSON.parse(event.data));
  };
  opened.onclose = () => {
    if (opened === socket) lost();
  };
}

function lost() {
  clearTimeout(watchdog);
  lostAt = lostAt || new Date();
  show("lost", "unreachable");
  retry = setTimeout(open, wait);
  wait = Math.min(LONGEST_WAIT_MS, 2 * wait);
}

function close() {
  const former = socket;
  socket = null;
  former?.close();
}

/**
 * Connects for these runs, or for the events of every run; the former connection ends.
 * @param {string[]} runs
 */
export function connect(runs) {
  const requested = runs.join(",");
  if (socket && runsOfSocket === requested && socket.readyState <= WebSocket.OPEN) return;
  runsOfSocket = requested;
  wasOpen = false;
  clearTimeout(watchdog);
  close();
  open();
}

/**
 * Calls `listener` for every message; the function returned ends that.
 * @param {(message: LiveMessage) => void} listener
 */
export function listen(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** Closes with the page, and opens again where the browser shows a page that it had kept. */
export function followPageVisits() {
  addEventListener("pagehide", close);
  addEventListener("pageshow", (event) => {
    if (event.persisted && runsOfSocket !== null) open();
  });
}
