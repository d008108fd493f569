/* What people do to incidents on their cards: each action can be undone. */

import { send } from "./api.js";
import { announce } from "./dash.js";
import { button, element, field, input, select } from "./elements.js";
import { cancel, describe, dialog, form, valuesOf } from "./forms.js";
import { toast } from "./toasts.js";

/** @import { Incident } from "./types" */

export const DURATIONS = /** @type {[string, string][]} */ ([
  ["1 hour", "3600"],
  ["8 hours", "28800"],
  ["1 day", "86400"],
  ["1 week", "604800"],
  ["4 weeks", "2419200"],
]);
const DONE = { acknowledge: "Acknowledged", resolve: "Resolved", reopen: "Reopened" };

/** @typedef {keyof typeof DONE} Action */

/** Hears the buttons of every card, also of those that Dash puts in place later. */
export function followIncidents() {
  document.addEventListener("click", (event) => {
    const target = /** @type {Element} */ (event.target);
    const pressed = target.closest("[data-incident-action]");
    const card = pressed?.closest("article[data-incident]");
    if (!(pressed instanceof HTMLButtonElement) || !(card instanceof HTMLElement)) return;
    act(pressed, card).catch(fail);
  });
}

/**
 * @param {HTMLButtonElement} pressed
 * @param {HTMLElement} card
 */
async function act(pressed, card) {
  const { incident = "", incidentStatus = "", incidentTitle = "" } = card.dataset;
  const action = pressed.dataset.incidentAction || "";
  if (action === "note") return openNote(incident);
  if (action === "silence") return openSilence(incident);
  pressed.disabled = true; // until the list is drawn anew, or the action has failed
  try {
    await change(incident, /** @type {Action} */ (action));
  } finally {
    pressed.disabled = false;
  }
  offerUndo(incident, incidentTitle, /** @type {Action} */ (action), incidentStatus);
}

/**
 * @param {string} incident
 * @param {Action} action
 */
async function change(incident, action) {
  await send("POST", `/incidents/${incident}/${action}`);
  announce("alert");
}

/**
 * @param {string} incident
 * @param {string} title
 * @param {Action} action
 * @param {string} before the status that undoing leads back to
 */
function offerUndo(incident, title, action, before) {
  const inverse =
    action !== "reopen" ? "reopen" : before === "resolved" ? "resolve" : "acknowledge";
  const undo = button("Undo", () => {
    box.remove();
    // Resolving what was acknowledged is undone in two steps: it is open in between.
    const again = before === "acknowledged" && action === "resolve";
    change(incident, inverse)
      .then(() => (again ? change(incident, "acknowledge") : undefined))
      .catch(fail);
  });
  const text = element("span", {}, element("strong", {}, DONE[action]), title);
  const box = toast([text, undo], { dataset: { testid: "undo" } });
}

/** @param {Error} error */
function fail(error) {
  toast([element("span", {}, element("strong", {}, "Nothing was changed"), describe(error))], {
    severity: "critical",
  });
}

/** @param {string} id */
async function openNote(id) {
  /** @type {Incident} */
  const incident = await send("GET", `/incidents/${id}`);
  const area = element("textarea", { name: "note", rows: 5, value: incident.note });
  dialog("Note", (close) =>
    form(
      [
        field(
          `On “${incident.title}”`,
          area,
          "Who looks into it, what was found. The timeline keeps former notes.",
        ),
      ],
      "Save",
      async (made) => {
        await send("PUT", `/incidents/${id}/note`, valuesOf(made));
        close();
        announce("alert");
      },
      cancel(close),
    ),
  );
  area.focus();
}

/** @param {string} id */
async function openSilence(id) {
  /** @type {Incident} */
  const incident = await send("GET", `/incidents/${id}`);
  const { tags } = await send("GET", `/runs/${incident.run_id}`);
  const scopes = /** @type {[string, string][]} */ ([
    ["This incident", JSON.stringify({ incident: id })],
    [
      `Rule ${incident.rule}, this run`,
      JSON.stringify({ rule: incident.rule, run: incident.run_id }),
    ],
    [`Rule ${incident.rule}, every run`, JSON.stringify({ rule: incident.rule })],
    [`Run ${incident.run_name}`, JSON.stringify({ run: incident.run_id })],
    ...tags.map((/** @type {string} */ tag) => [`Runs tagged ${tag}`, JSON.stringify({ tag })]),
  ]);
  const scope = select("scope", scopes, scopes[0][1]);
  dialog("Silence", (close) =>
    form(
      [
        field("What", scope, "Channels are told nothing of it. Pages go on showing it."),
        field("For", select("seconds", DURATIONS, "28800")),
        field("Why", input("note", ""), "Others see it in the list of silences."),
      ],
      "Silence",
      async (made) => {
        const { scope: chosen, seconds, note } = valuesOf(made);
        await send("POST", "/silences", { ...JSON.parse(chosen), seconds: Number(seconds), note });
        close();
        announce("alert");
        const link = element("a", { href: "/settings#silences" }, "All silences");
        toast([element("span", {}, element("strong", {}, "Silenced"), link)]);
      },
      cancel(close),
    ),
  );
  scope.focus();
}
