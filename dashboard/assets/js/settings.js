/* The settings page: its sections, each read from the API by itself. */

import { channelsSection } from "./channels.js";
import { deliveriesSection } from "./deliveries.js";
import { byId } from "./dom.js";
import { element } from "./elements.js";
import { listen } from "./live.js";
import { notificationsSection } from "./notification-choice.js";
import { routesSection } from "./routes.js";
import { rulesSection } from "./rules.js";
import { silencesSection } from "./silences.js";
import { throttled } from "./timing.js";

/** @import { Section } from "./section.js" */

const REFRESH_MS = 5000; // what waits for a receiver changes without an event

export class SettingsPage {
  constructor() {
    const deliveries = deliveriesSection();
    const silences = silencesSection();
    const routes = routesSection();
    const channels = channelsSection(() => Promise.all([routes.refresh(), deliveries.refresh()]));
    /** @type {Section[]} */
    this.sections = [
      channels,
      routes,
      deliveries,
      silences,
      rulesSection(),
      notificationsSection(),
    ];
    this.live = [deliveries, silences];
    const links = this.sections.map(({ id, title }) => element("a", { href: `#${id}` }, title));
    const nav = element("nav", { attributes: { "aria-label": "Settings" } }, ...links);
    const body = element("div", { className: "sections" }, ...this.sections.map((s) => s.place));
    byId("settings").replaceChildren(nav, body);
    Promise.all(this.sections.map((section) => section.refresh())).then(() => this.jump());
    const refresh = throttled(() => this.refreshLive(), 1000);
    const stop = listen(({ type }) => {
      if (type === "incident" || type === "alert") refresh();
      if (type === "reconnected") for (const section of this.sections) section.refresh();
    });
    const timer = setInterval(() => this.refreshLive(), REFRESH_MS);
    this.close = () => {
      stop();
      clearInterval(timer);
    };
  }

  refreshLive() {
    if (document.hidden || document.querySelector("dialog[open]")) return;
    for (const section of this.live) {
      // Drawn anew, a section would take the focus from whoever is in it.
      if (!section.body.contains(document.activeElement)) section.refresh();
    }
  }

  /** Goes to the section that the address names, now that what is above it has its height. */
  jump() {
    document.getElementById(location.hash.slice(1))?.scrollIntoView();
  }
}
