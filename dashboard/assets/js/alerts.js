/* Alerts on every page: how many faults are open in the bar at the top, and a toast for a new one. */

import { getAlerts, getOpenIncidents } from "./api.js";
import { formatCount } from "./display.js";
import { all, byId } from "./dom.js";
import { throttled } from "./timing.js";

/** @import { Alert } from "./types" */

const RANKS = { info: 0, warning: 1, critical: 2 };
const MOST_TOASTS = 4;
const TOAST_MS = 12000;

/** Severity at which each incident was last announced. @type {Map<string, number>} */
const announcedRanks = new Map();
/** When the newest alert opened that was there before the page. @type {Promise<number> | null} */
let newestBefore = null;

/** @param {Alert} alert */
const incidentOf = (alert) => alert.incident ?? alert.id;

/** Notes how severe an incident is by one of its alerts. @param {Alert} alert */
function noteRank(alert) {
  const rank = RANKS[alert.severity];
  announcedRanks.set(incidentOf(alert), Math.max(rank, announcedRanks.get(incidentOf(alert)) ?? 0));
}

/** Shows how many incidents are open. */
export const countAlerts = throttled(async () => {
  const badge = byId("nav-alerts-badge");
  try {
    const { length } = await getOpenIncidents();
    badge.hidden = length === 0;
    badge.textContent = length > 99 ? "99+" : String(length);
  } catch {
    // The banner already says that the server is away.
  }
}, 1000);

/** Notes the alerts that there are; resolves with when the newest of them opened. */
export function noteAlerts() {
  newestBefore ??= getAlerts().then(
    (alerts) => {
      for (const alert of alerts) noteRank(alert);
      return alerts.length ? alerts[0].opened_at : 0;
    },
    () => {
      newestBefore = null;
      return Infinity; // nothing is announced until it is clear what is new
    },
  );
  return newestBefore;
}

/**
 * Toasts an incident that opened or escalated since the page was opened, by the alert that says so;
 * its other alerts are silent.
 * @param {Alert} alert
 */
export async function announceAlert(alert) {
  const newest = await noteAlerts();
  const rank = RANKS[alert.severity];
  const rankBefore = announcedRanks.get(incidentOf(alert));
  noteRank(alert);
  const isNew = rankBefore === undefined ? alert.opened_at > newest : rank > rankBefore;
  if (isNew && alert.status === "open") toast(alert);
}

/** @param {Alert} alert */
function toast(alert) {
  for (const former of all(`.toast[data-incident="${incidentOf(alert)}"]`)) former.remove();
  const box = document.createElement("div");
  box.className = `toast toast-${alert.severity}`;
  box.dataset.incident = incidentOf(alert);
  const link = document.createElement("a");
  link.href = `/runs/${alert.run_id}?step=${alert.step}`;
  const title = document.createElement("strong");
  title.textContent = alert.title;
  link.append(title, `${alert.run_name}, step ${formatCount(alert.step)}`);
  const close = document.createElement("button");
  Object.assign(close, { textContent: "×", type: "button", onclick: () => box.remove() });
  close.setAttribute("aria-label", "Dismiss");
  box.append(link, close);
  const toasts = byId("toasts");
  toasts.append(box);
  while (toasts.children.length > MOST_TOASTS) toasts.firstChild?.remove();
  setTimeout(() => box.remove(), TOAST_MS);
}
