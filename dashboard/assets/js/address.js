/* The page's address: what it asks for, and what it keeps so that it can be passed on. */

/**
 * What the address asks for under a name.
 * @param {string} name
 */
export function query(name) {
  return new URLSearchParams(location.search).get(name);
}

/**
 * Keeps a choice in the address; null takes it out.
 * @param {string} name
 * @param {string | number | null} value
 */
export function setQuery(name, value) {
  const choices = new URLSearchParams(location.search);
  if (value === null || value === "") choices.delete(name);
  else choices.set(name, String(value));
  const text = choices.toString().replace(/%2C/g, ",");
  history.replaceState(history.state, "", location.pathname + (text ? `?${text}` : ""));
}
