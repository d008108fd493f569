/* Settings: deliveries, what was sent, what waits and what was given up. */

import { send } from "./api.js";
import { formatAge } from "./display.js";
import { button, element, field, row, select, table } from "./elements.js";
import { describe } from "./forms.js";
import { Section } from "./section.js";
import { toast } from "./toasts.js";

/** @import { Delivery } from "./types" */

const PAGE = 25;
const HEADS = ["Message", "Channel", "State", "Attempts", "Last answer", ""];
const STATES = /** @type {[string, string][]} */ ([
  ["Every state", ""],
  ["Waiting", "pending"],
  ["Delivered", "delivered"],
  ["In a digest", "digested"],
  ["Dead", "dead"],
]);
const WORDS = { pending: "waiting", delivered: "delivered", digested: "in a digest", dead: "dead" };

export function deliveriesSection() {
  let status = "";
  let shown = PAGE;
  const section = new Section(
    "deliveries",
    "Deliveries",
    "Each message to each channel. It is tried again until the channel takes it; what was refused or given up is dead, and can be retried for 30 days.",
    async () => {
      const query = new URLSearchParams({ limit: String(shown), ...(status ? { status } : {}) });
      const { deliveries, next_cursor } = await send("GET", `/deliveries?${query}`);
      const chosen = select("status", STATES, status);
      chosen.onchange = () => {
        status = chosen.value;
        shown = PAGE;
        section.refresh();
      };
      for (const option of chosen.options)
        option.toggleAttribute("selected", option.value === status);
      const filter = field("Show", chosen);
      if (!deliveries.length) {
        const none = status ? "None of this state." : "Nothing was sent yet.";
        return [filter, element("p", { className: "none" }, none)];
      }
      const more = () => {
        shown = Math.min(500, shown + PAGE);
        section.refresh();
      };
      const rows = deliveries.map((/** @type {Delivery} */ delivery) =>
        deliveryRow(delivery, section),
      );
      const isMore = next_cursor && shown < 500;
      return [
        filter,
        table("Deliveries", HEADS, rows),
        ...(isMore ? [button("Show older", more)] : []),
      ];
    },
  );
  return section;
}

/**
 * @param {Delivery} delivery
 * @param {Section} section
 */
function deliveryRow(delivery, section) {
  const now = Date.now() / 1000;
  const retry = button("Retry", () => sendAgain(delivery, retry, section), {
    attributes: { "aria-label": `Retry ${delivery.title}` },
  });
  const made = row(
    [
      element("strong", { title: delivery.text }, delivery.title),
      element(
        "span",
        { className: "quiet" },
        `${delivery.kind} · ${formatAge(delivery.created_at, now)}`,
      ),
    ],
    delivery.target,
    [
      element("span", { className: `state state-${delivery.status}` }, WORDS[delivery.status]),
      when(delivery, now),
    ],
    String(delivery.attempts),
    delivery.answer || delivery.last_error || "–",
    delivery.status === "dead" ? [retry] : [],
  );
  made.dataset.delivery = delivery.id;
  made.dataset.status = delivery.status;
  return made;
}

/**
 * @param {Delivery} delivery
 * @param {number} now
 */
function when({ status, held, next_attempt_at }, now) {
  let text = "";
  if (status === "pending" && held) text = "for its channel's limit";
  else if (status === "pending" && next_attempt_at && next_attempt_at > now) {
    text = `next attempt in ${Math.ceil(next_attempt_at - now)} s`;
  }
  return element("span", { className: "quiet" }, text);
}

/**
 * @param {Delivery} delivery
 * @param {HTMLButtonElement} retry
 * @param {Section} section
 */
async function sendAgain(delivery, retry, section) {
  retry.disabled = true;
  try {
    await send("POST", `/deliveries/${delivery.id}/retry`);
  } catch (error) {
    const text = describe(/** @type {Error} */ (error));
    toast([element("span", {}, element("strong", {}, "Not retried"), text)], {
      severity: "critical",
    });
  }
  retry.disabled = false;
  await section.refresh();
}
