/* Settings: routes, which messages each channel carries. */

import { send } from "./api.js";
import { button, element, field, input, row, select, table } from "./elements.js";
import { cancel, dialog, form, valuesOf } from "./forms.js";
import { Section } from "./section.js";

/** @import { Channel, Route } from "./types" */

const HEADS = ["Channel", "Project", "Tag", "From severity", ""];

export function routesSection() {
  const section = new Section(
    "routes",
    "Routes",
    "Which alerts go where. A channel without routes carries every alert; one with routes carries what any of them matches.",
    async () => {
      const [{ routes }, { channels }] = await Promise.all([
        send("GET", "/routes"),
        send("GET", "/channels"),
      ]);
      if (!channels.length) return [element("p", { className: "none" }, "Add a channel first.")];
      const reload = () => section.refresh();
      const add = button("Add a route", () => openForm(reload));
      if (!routes.length) {
        return [
          element("p", { className: "none" }, "No routes: every channel carries every alert."),
          add,
        ];
      }
      const names = new Map(channels.map((/** @type {Channel} */ { id, name }) => [id, name]));
      const rows = routes.map((/** @type {Route} */ route) => routeRow(route, names, reload));
      return [table("Routes", HEADS, rows), add];
    },
  );
  return section;
}

/**
 * @param {Route} route
 * @param {Map<string, string>} names
 * @param {() => Promise<void>} reload
 */
function routeRow(route, names, reload) {
  const name = names.get(route.channel) || "a channel that is no longer there";
  const remove = button(
    "Delete",
    async () => {
      remove.disabled = true;
      await send("DELETE", `/routes/${route.id}`).catch(() => {});
      await reload();
    },
    { attributes: { "aria-label": `Delete the route to ${name}` } },
  );
  return row(name, route.project || "any", route.tag || "any", route.severity, remove);
}

/**
 * The channels are read again: one may have been added since the section was drawn.
 * @param {() => Promise<void>} reload
 */
async function openForm(reload) {
  /** @type {{ channels: Channel[] }} */
  const { channels } = await send("GET", "/channels");
  const options = channels.map(({ id, name }) => /** @type {[string, string]} */ ([name, id]));
  const severities = /** @type {[string, string][]} */ ([
    ["warning", "warning"],
    ["critical", "critical"],
  ]);
  dialog("Add a route", (close) =>
    form(
      [
        field("Channel", select("channel", options, channels[0].id)),
        field("Project", input("project", ""), "Empty: any."),
        field("Tag", input("tag", ""), "Of the run. Empty: any."),
        field("From severity", select("severity", severities, "warning")),
      ],
      "Add",
      async (made) => {
        const { channel, project, tag, severity } = valuesOf(made);
        const route = { channel, severity, project: project || null, tag: tag || null };
        await send("POST", "/routes", route);
        close();
        await reload();
      },
      cancel(close),
    ),
  );
}
