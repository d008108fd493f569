/* Alerts on every page: the count in the bar at the top, and a toast for what is new. */

import { getAlerts } from "./api.js";
import { formatCount } from "./display.js";
import { all, byId } from "./dom.js";
import { throttled } from "./timing.js";

/** @import { Alert } from "./types" */

const RANKS = { info: 0, warning: 1, critical: 2 };
const MOST_TOASTS = 4;
const TOAST_MS = 12000;

/** Severity at which each alert was last announced. @type {Map<string, number>} */
const announcedRanks = new Map();
/** When the newest alert opened that was there before the page. @type {Promise<number> | null} */
let newestBefore = null;

/** Shows how many alerts are open. */
export const countAlerts = throttled(async () => {
  const badge = byId("nav-alerts-badge");
  try {
    const { length } = await getAlerts({ status: "open" });
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
      for (const alert of alerts) announcedRanks.set(alert.id, RANKS[alert.severity]);
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
 * Toasts what opened or escalated since the page was opened; other updates are silent.
 * @param {Alert} alert
 */
export async function announceAlert(alert) {
  const newest = await noteAlerts();
  const rank = RANKS[alert.severity];
  const rankBefore = announcedRanks.get(alert.id);
  announcedRanks.set(alert.id, rank);
  const isNew = rankBefore === undefined ? alert.opened_at > newest : rank > rankBefore;
  if (isNew && alert.status === "open") toast(alert);
}

/** @param {Alert} alert */
function toast(alert) {
  for (const former of all(`.toast[data-alert="${alert.id}"]`)) former.remove();
  const box = document.createElement("div");
  box.className = `toast toast-${alert.severity}`;
  box.dataset.alert = alert.id;
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
