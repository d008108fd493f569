/* Sends forms to the API, and puts what it refuses beside the field that it names. */

import { ApiError } from "./api.js";
import { button, element } from "./elements.js";

/**
 * A form that is sent to the API; a refusal stands beside the field that it names, or below.
 * @param {(HTMLElement | null)[]} fields
 * @param {string} label of the button that sends it
 * @param {(form: HTMLFormElement) => Promise<void>} submit
 * @param {...HTMLElement} others buttons beside it
 */
export function form(fields, label, submit, ...others) {
  const failure = element("p", { className: "form-failure", attributes: { role: "alert" } });
  const send = element("button", { type: "submit", className: "button primary" }, label);
  const made = element(
    "form",
    { className: "form", noValidate: true },
    ...fields,
    failure,
    element("div", { className: "form-buttons" }, send, ...others),
  );
  made.onsubmit = async (event) => {
    event.preventDefault();
    clear(made, failure);
    send.disabled = true;
    try {
      await submit(made);
    } catch (error) {
      show(made, failure, /** @type {Error} */ (error));
    } finally {
      send.disabled = false;
    }
  };
  return made;
}

/**
 * @param {HTMLFormElement} made
 * @param {HTMLElement} failure
 */
function clear(made, failure) {
  failure.textContent = "";
  for (const wrong of made.querySelectorAll("[aria-invalid]"))
    wrong.removeAttribute("aria-invalid");
  for (const text of made.querySelectorAll(".field-failure")) text.remove();
}

/**
 * @param {HTMLFormElement} made
 * @param {HTMLElement} failure
 * @param {Error} error
 */
function show(made, failure, error) {
  const text = describe(error);
  const name = error instanceof ApiError ? error.field : "";
  const place = placeOf(made, name);
  const control = place?.querySelector("input, select, textarea");
  if (!(place && control instanceof HTMLElement)) {
    failure.textContent = text;
    return;
  }
  control.setAttribute("aria-invalid", "true");
  place.append(element("p", { className: "field-failure", attributes: { role: "alert" } }, text));
  control.focus();
}

/**
 * The field of a form that the API means: by its path, or by the last name of that.
 * @param {HTMLFormElement} made
 * @param {string} path
 */
function placeOf(made, path) {
  for (const name of [path, path.split(".").at(-1) || ""]) {
    const place = name && made.querySelector(`[data-field="${CSS.escape(name)}"]`);
    if (place) return place;
  }
  return null;
}

/**
 * What went wrong and what to do about it, as one text.
 * @param {Error} error
 */
export function describe(error) {
  if (error instanceof ApiError)
    return error.fix ? `${error.message}: ${error.fix}.` : error.message;
  return "The server did not answer. Try again when the connection is back.";
}

/**
 * The texts of a form's fields by name, without the space around them.
 * @param {HTMLFormElement} made
 * @returns {Record<string, string>}
 */
export function valuesOf(made) {
  const values = new FormData(made);
  return Object.fromEntries([...values].map(([name, value]) => [name, String(value).trim()]));
}

/**
 * Opens a dialog with a form in it; resolves when it is closed.
 * @param {string} title
 * @param {(close: () => void) => HTMLElement} build
 * @returns {HTMLDialogElement}
 */
export function dialog(title, build) {
  const heading = element("h2", {}, title);
  heading.id = "dialog-title";
  const box = element("dialog", { attributes: { "aria-labelledby": heading.id } });
  const close = () => box.close();
  box.append(heading, build(close));
  box.onclose = () => box.remove();
  document.body.append(box);
  box.showModal();
  return box;
}

/**
 * The button that leaves a dialog as it was.
 * @param {() => void} close
 */
export function cancel(close) {
  return button("Cancel", close);
}
