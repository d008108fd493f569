/* One section of the settings page: reads what it shows, and says when it cannot. */

import { button, element } from "./elements.js";
import { describe } from "./forms.js";

export class Section {
  /**
   * @param {string} id
   * @param {string} title
   * @param {string} intro
   * @param {() => Promise<Node[]>} load what the section shows now
   */
  constructor(id, title, intro, load) {
    this.id = id;
    this.title = title;
    this.load = load;
    this.drawn = "";
    this.body = element(
      "div",
      { className: "section-body" },
      element("p", { className: "quiet" }, "…"),
    );
    this.place = element(
      "section",
      { id, className: "card", attributes: { "aria-labelledby": `${id}-title` } },
      element("h2", { id: `${id}-title` }, title),
      element("p", { className: "quiet" }, intro),
      this.body,
    );
  }

  /** Reads and draws anew; nothing moves where nothing has changed, or while somebody types. */
  async refresh() {
    /** @type {Node[]} */
    let nodes;
    try {
      nodes = await this.load();
    } catch (error) {
      const retry = button("Try again", () => this.refresh());
      const text = element("p", { className: "form-failure", attributes: { role: "alert" } });
      text.textContent = describe(/** @type {Error} */ (error));
      nodes = [text, retry];
    }
    const next = element("div", {}, ...nodes);
    if (next.innerHTML === this.drawn) return;
    this.drawn = next.innerHTML;
    this.body.replaceChildren(...next.childNodes);
  }
}
