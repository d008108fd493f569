/* Settings: whether this browser shows notifications. */

import { canNotify, chooseNotifications, notifies } from "./browser-notifications.js";
import { button, element } from "./elements.js";
import { Section } from "./section.js";

export function notificationsSection() {
  let refused = false;
  const section = new Section(
    "browser",
    "This browser",
    "A notification for each new incident from warning on, while a page of evenkeel is open in this browser and nobody looks at it.",
    async () => {
      if (!canNotify()) {
        const text =
          "This browser shows none here: it asks for HTTPS, or this machine's own address.";
        return [element("p", { className: "none" }, text)];
      }
      const isOn = notifies();
      const toggle = button(isOn ? "Switch off" : "Notify me in this browser", async () => {
        refused = !(await chooseNotifications(!isOn)) && !isOn;
        await section.refresh();
      });
      const text = refused
        ? "The browser refused. Allow notifications of this site in its own settings, then try again."
        : isOn
          ? "On."
          : "Off.";
      return [element("p", { attributes: { role: "status" } }, text), toggle];
    },
  );
  return section;
}
