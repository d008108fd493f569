/* Reads the HTTP API; begins with what the address asks for while the page is still loading. */

import { query } from "./address.js";
import { QUANTITIES } from "./display.js";

/** @import { Alert, Departure, Incident, InnovationHistory, QuantityName, Revision, ScalarHistory, SeriesHistory } from "./types" */

const BASE = "/api/v1";
const BUSY = 503;
const ATTEMPTS = 6;
const LONGEST_S = 10; // between two attempts
export const MAX_STEPS = 2000;
export const FIRST_STEPS = 250; // what the first picture needs; the others follow once it stands
export const LOSS = "/loss/value";
export const LEARNING_RATE = "/learning_rate/value";
export const NAMES = /** @type {QuantityName[]} */ (Object.keys(QUANTITIES));

/** Answers under way since the page began to load. @type {Map<string, Promise<any>>} */
const prefetched = new Map();

/** The server's refusal. */
export class ApiError extends Error {
  /**
   * @param {string} message
   * @param {number} status
   * @param {string} [field] the one to blame, "" for none
   * @param {string} [fix] what to do about it
   */
  constructor(message, status, field = "", fix = "") {
    super(message);
    this.status = status;
    this.field = field;
    this.fix = fix;
  }
}

/**
 * The answer's body, or a refusal in the server's words.
 * @param {Response} response
 */
async function read(response) {
  const body = response.status === 204 ? {} : await response.json().catch(() => ({}));
  if (response.ok) return body;
  const { message, field, fix } = body.error || {};
  const text = message || `the server answered ${response.status}`;
  throw new ApiError(text, response.status, field || "", fix || "");
}

/**
 * GET; a server that is busy for the moment is asked again when it says so.
 * @param {string} path
 * @returns {Promise<any>}
 */
async function request(path) {
  for (let attempt = 1; ; attempt += 1) {
    const response = await fetch(BASE + path, { headers: { Accept: "application/json" } });
    if (response.status !== BUSY || attempt === ATTEMPTS) return read(response);
    const seconds = Number(response.headers.get("Retry-After")) || 1;
    await new Promise((resolve) => setTimeout(resolve, Math.min(seconds, LONGEST_S) * 1000));
  }
}

/**
 * Sends a request with a JSON body, if there is one.
 * @param {"GET" | "POST" | "PUT" | "PATCH" | "DELETE"} method
 * @param {string} path
 * @param {object} [body]
 * @returns {Promise<any>}
 */
export async function send(method, path, body) {
  const headers = { Accept: "application/json", "Content-Type": "application/json" };
  const content = body === undefined ? undefined : JSON.stringify(body);
  return read(await fetch(BASE + path, { method, headers, body: content }));
}

/**
 * GET; a prefetched answer is used once.
 * @param {string} path
 * @returns {Promise<any>}
 */
function get(path) {
  const answer = prefetched.get(path);
  prefetched.delete(path);
  return answer || request(path);
}

const paths = {
  /** @param {string} run */
  predictions: (run) => `/runs/${run}/predictions`,
  /**
   * @param {string} run
   * @param {string} stack
   * @param {QuantityName} name
   * @param {number} from
   * @param {number} most
   */
  history: (run, stack, name, from, most) => {
    const series = `${stack}/${QUANTITIES[name].series}`;
    return `/runs/${run}/history?series=${series}&max_steps=${most}${from ? `&from=${from}` : ""}`;
  },
  /**
   * @param {string} run
   * @param {number} after
   */
  scalars: (run, after) =>
    `/runs/${run}/scalars?series=${LOSS}&series=${LEARNING_RATE}&after=${after}&max_steps=${MAX_STEPS}`,
};

/**
 * A run's prediction revisions, ascending by step.
 * @param {string} run
 * @returns {Promise<Revision[]>}
 */
export async function getRevisions(run) {
  return (await get(paths.predictions(run))).revisions;
}

/**
 * A quantity over steps from `from` on, at most `most` of them, evenly thinned.
 * @param {string} run
 * @param {string} stack
 * @param {QuantityName} name
 * @param {number} from
 * @param {number} most
 * @returns {Promise<SeriesHistory>}
 */
export function getHistory(run, stack, name, from, most) {
  return get(paths.history(run, stack, name, from, most));
}

/**
 * Innovations of a quantity over steps, with their ratio to half the band.
 * @param {string} run
 * @param {string} stack
 * @param {QuantityName} name
 * @param {{ from: number, to: number | null, most: number }} range
 * @returns {Promise<InnovationHistory>}
 */
export function getInnovations(run, stack, name, { from, to, most }) {
  const end = to === null ? "" : `&to=${to}`;
  const series = `${stack}/innovation/${name}`;
  return get(`/runs/${run}/history?series=${series}&max_steps=${most}&from=${from}${end}`);
}

/**
 * The blocks that depart, of the last samples up to a step, newest first.
 * @param {string} run
 * @param {number} step
 * @returns {Promise<{ departures: Departure[], note?: string }>} older servers send no note
 */
export function getDepartures(run, step) {
  return get(`/runs/${run}/ahead?step=${step}`);
}

/**
 * Loss and learning rate after a step.
 * @param {string} run
 * @param {number} after
 * @returns {Promise<ScalarHistory>}
 */
export function getScalars(run, after) {
  return get(paths.scalars(run, after));
}

/**
 * The newest hundred incidents that are open.
 * @returns {Promise<Incident[]>}
 */
export async function getOpenIncidents() {
  return (await get("/incidents?status=open&limit=100")).incidents;
}

/**
 * The newest hundred incidents of every status.
 * @returns {Promise<Incident[]>}
 */
export async function getIncidents() {
  return (await get("/incidents?limit=100")).incidents;
}

/**
 * The newest hundred alerts, of one run or with one status where asked for.
 * @param {{ run?: string, status?: string }} filter
 * @returns {Promise<Alert[]>}
 */
export async function getAlerts(filter = {}) {
  return (await get(`/alerts?${new URLSearchParams({ ...filter, limit: "100" })}`)).alerts;
}

/**
 * @param {string} path
 * @returns {Promise<any>}
 */
function prefetch(path) {
  const answer = request(path);
  answer.catch(() => {}); // whoever gets the answer handles its failure
  prefetched.set(path, answer);
  return answer;
}

/**
 * The prediction names the stacks, sooner than Dash has put the page in place.
 * @param {string} run
 */
async function prefetchRun(run) {
  prefetch(paths.scalars(run, -1));
  const { revisions } = await prefetch(paths.predictions(run));
  const stacks = Object.keys(revisions[0]?.stacks || {}).sort();
  if (!stacks.length) return;
  const requested = query("stack") || "";
  const fallback = stacks.includes("decoder") ? "decoder" : stacks[0];
  const stack = stacks.includes(requested) ? requested : fallback;
  for (const name of NAMES) {
    const path = paths.history(run, stack, name, 0, FIRST_STEPS);
    if (!prefetched.has(path)) prefetch(path);
  }
}

/** Begins to fetch what the page at this address will ask for. */
export function prefetchPage() {
  const run = location.pathname.match(/^\/runs\/([^/]+)/);
  const compared = location.pathname === "/compare" ? query("runs") : null;
  const runs = run ? [run[1]] : compared ? compared.split(",").slice(0, 4) : [];
  for (const id of runs) prefetchRun(id).catch(() => {});
}
