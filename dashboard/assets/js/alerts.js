/* Incidents on every page: how many are open in the bar at the top, and a toast for a new one. */

import { getIncidents, getOpenIncidents } from "./api.js";
import { notify } from "./browser-notifications.js";
import { formatCount } from "./display.js";
import { all, byId } from "./dom.js";
import { element } from "./elements.js";
import { throttled } from "./timing.js";
import { toast } from "./toasts.js";

/** @import { IncidentHeadline } from "./types" */

const RANKS = { info: 0, warning: 1, critical: 2 };

/** Severity at which each incident was last announced. @type {Map<string, number>} */
const announcedRanks = new Map();
/** When the newest incident opened that was there before the page. @type {Promise<number> | null} */
let newestBefore = null;

/**
 * Notes how severe an incident is.
 * @param {{ id: string, severity: keyof typeof RANKS }} incident
 */
function noteRank({ id, severity }) {
  announcedRanks.set(id, Math.max(RANKS[severity], announcedRanks.get(id) ?? 0));
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

/** Notes the incidents that there are; resolves with when the newest of them opened. */
export function noteIncidents() {
  newestBefore ??= getIncidents().then(
    (incidents) => {
      for (const incident of incidents) noteRank(incident);
      return incidents.length ? incidents[0].opened_at : 0;
    },
    () => {
      newestBefore = null;
      return Infinity; // nothing is announced until it is clear what is new
    },
  );
  return newestBefore;
}

/**
 * Toasts an incident that opened or escalated since the page was opened; its other changes are
 * silent. Where people asked for it the browser tells it, too.
 * @param {IncidentHeadline} incident
 */
export async function announceIncident(incident) {
  const newest = await noteIncidents();
  const rankBefore = announcedRanks.get(incident.id);
  noteRank(incident);
  const isNew =
    rankBefore === undefined ? incident.opened_at > newest : RANKS[incident.severity] > rankBefore;
  if (!isNew || incident.status !== "open") return;
  showIncident(incident);
  if (incident.severity !== "info") notify(incident, addressOf(incident));
}

/** @param {IncidentHeadline} incident */
function showIncident(incident) {
  for (const former of all(`.toast[data-incident="${incident.id}"]`)) former.remove();
  const link = element(
    "a",
    { href: addressOf(incident) },
    element("strong", {}, incident.title),
    `${incident.run_name}, step ${formatCount(incident.step)}`,
  );
  toast([link], { severity: incident.severity, dataset: { incident: incident.id } });
}

/**
 * The run's page at the incident's step, with its layers marked.
 * @param {IncidentHeadline} incident
 */
export function addressOf({ run_id, step, stack, first_layer, last_layer }) {
  const query = new URLSearchParams({ step: String(step) });
  if (stack && first_layer !== null) {
    query.set("stack", stack);
    query.set("layers", `${first_layer}-${last_layer ?? first_layer}`);
  }
  return `/runs/${run_id}?${query}`;
}
