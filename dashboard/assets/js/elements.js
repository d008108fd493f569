/* Builds elements of the page: text is set as text, so that nothing a server says becomes markup. */

/** @typedef {Node | string | null | undefined | false} Child */

let count = 0;

/**
 * An element with these properties; `dataset`, `aria` and `attributes` are objects of their own.
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, any>} [properties]
 * @param {...Child} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function element(tag, properties = {}, ...children) {
  const { dataset = {}, attributes = {}, ...rest } = properties;
  const made = document.createElement(tag);
  Object.assign(made, rest);
  Object.assign(made.dataset, dataset);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  made.append(
    ...children.filter((child) => child !== null && child !== undefined && child !== false),
  );
  return made;
}

/**
 * @param {string} text
 * @param {() => void} onclick
 * @param {Record<string, any>} [properties]
 */
export function button(text, onclick, properties = {}) {
  return element("button", { type: "button", className: "button", onclick, ...properties }, text);
}

/**
 * A control below its label, with a hint and a place for what is wrong with it.
 * @param {string} label
 * @param {HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement} control
 * @param {string} [hint]
 */
export function field(label, control, hint = "") {
  count += 1;
  control.id ||= `field-${count}`;
  const described = `${control.id}-hint`;
  control.setAttribute("aria-describedby", described);
  return element(
    "div",
    { className: "field", dataset: { field: control.name } },
    element("label", { htmlFor: control.id }, label),
    control,
    element("p", { id: described, className: "hint quiet" }, hint),
  );
}

/**
 * A box to tick, beside its label.
 * @param {string} label
 * @param {string} name
 * @param {boolean} checked
 */
export function tick(label, name, checked) {
  const box = element("input", { type: "checkbox", name, checked });
  return element("label", { className: "tick" }, box, label);
}

/**
 * @param {string} name
 * @param {string} value
 * @param {Record<string, any>} [properties]
 */
export function input(name, value, properties = {}) {
  return element("input", { name, value, type: "text", autocomplete: "off", ...properties });
}

/**
 * @param {string} name
 * @param {[string, string][]} options label and value of each
 * @param {string} value
 */
export function select(name, options, value) {
  const made = element("select", { name });
  for (const [label, option] of options) made.append(element("option", { value: option }, label));
  made.value = value;
  return made;
}

/**
 * A table with a head; on a narrow page each cell shows its column's name.
 * @param {string} label
 * @param {string[]} heads
 * @param {HTMLTableRowElement[]} rows
 */
export function table(label, heads, rows) {
  const cells = heads.map((text) => (text ? element("th", { scope: "col" }, text) : element("td")));
  const head = element("tr", {}, ...cells);
  for (const row of rows) {
    [...row.cells].forEach((cell, i) => {
      cell.dataset.head = heads[i];
    });
  }
  return element(
    "table",
    { className: "list", attributes: { "aria-label": label } },
    element("thead", {}, head),
    element("tbody", {}, ...rows),
  );
}

/**
 * @param {...(Child | Child[])} cells
 */
export function row(...cells) {
  return element(
    "tr",
    {},
    ...cells.map((cell) => element("td", {}, ...(Array.isArray(cell) ? cell : [cell]))),
  );
}
