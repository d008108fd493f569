/* Tells Dash's callbacks what has happened in the browser. */

let events = 0;

/**
 * Sets properties of a Dash component.
 * @param {string} id
 * @param {object} props
 */
export function setProps(id, props) {
  window.dash_clientside.set_props(id, props);
}

/**
 * Announces that something of this kind has changed.
 * @param {"run" | "alert" | "health"} kind
 */
export function announce(kind) {
  events += 1;
  setProps("live-event", { data: { kind, count: events } });
}
