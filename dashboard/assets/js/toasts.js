/* Short messages at the corner of the page, which leave by themselves. */

import { byId } from "./dom.js";
import { element } from "./elements.js";

const MOST = 4;
const SHOWN_MS = 12000;

/**
 * Shows a message; the newest few stand.
 * @param {Node[]} content
 * @param {{ severity?: string, dataset?: Record<string, string> }} [options]
 */
export function toast(content, { severity = "note", dataset = {} } = {}) {
  const box = element("div", { className: `toast toast-${severity}`, dataset });
  const close = element(
    "button",
    { type: "button", className: "dismiss", onclick: () => box.remove() },
    "×",
  );
  close.setAttribute("aria-label", "Dismiss");
  box.append(...content, close);
  const toasts = byId("toasts");
  toasts.append(box);
  while (toasts.children.length > MOST) toasts.firstChild?.remove();
  setTimeout(() => box.remove(), SHOWN_MS);
  return box;
}
