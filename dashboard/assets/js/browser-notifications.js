/* Notifications of the browser: only where somebody has asked for them with a click. */

/** @import { IncidentHeadline } from "./types" */

const CHOICE = "evenkeel-notify";

/** Whether this browser can show notifications at all: not without TLS, except on this machine. */
export const canNotify = () => "Notification" in window && window.isSecureContext;

/** Whether somebody asked for them in this browser, and the browser allows them. */
export function notifies() {
  if (!canNotify() || Notification.permission !== "granted") return false;
  try {
    return localStorage.getItem(CHOICE) === "on";
  } catch {
    return false; // storage is barred: nobody could have asked
  }
}

/**
 * Asks the browser, and keeps the choice; to be called from a click. Resolves with whether
 * notifications are shown from now on.
 * @param {boolean} on
 */
export async function chooseNotifications(on) {
  const allowed = on && canNotify() && (await Notification.requestPermission()) === "granted";
  try {
    localStorage.setItem(CHOICE, allowed ? "on" : "off");
  } catch {
    return false;
  }
  return allowed;
}

/**
 * Shows an incident outside of the page, unless somebody is looking at it. Of several pages that
 * are open the browser shows one notification, by its tag.
 * @param {Pick<IncidentHeadline, "id" | "title" | "run_name" | "severity">} incident
 * @param {string} address
 */
export function notify(incident, address) {
  if (!notifies() || document.hasFocus()) return;
  const shown = new Notification(`${incident.run_name}: ${incident.title}`, {
    body: incident.severity,
    tag: incident.id,
  });
  shown.onclick = () => {
    window.focus();
    location.assign(address);
  };
}
