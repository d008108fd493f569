/* The alerts page: which incidents it lists, kept in the address. */

import { setQuery } from "./address.js";
import { setProps } from "./dash.js";
import { all } from "./dom.js";

const OPEN = "open";

export class AlertList {
  constructor() {
    this.filters = all("[data-alerts-status]");
    for (const filter of this.filters) filter.onclick = () => this.choose(filter);
  }

  /** @param {HTMLElement} chosen */
  choose(chosen) {
    for (const filter of this.filters) {
      filter.setAttribute("aria-pressed", String(filter === chosen));
    }
    const status = chosen.dataset.alertsStatus || OPEN;
    setQuery("status", status === OPEN ? null : status);
    setProps("alerts-shown", { data: 0 });
    setProps("alerts-status", { data: status });
  }

  close() {}
}
