/* What every page shares: navigation, theme, copying, and the keyboard's way to the search. */

import { all, byId, first } from "./dom.js";

const COPIED_MS = 1600;

/**
 * Goes to another page without loading the shell again.
 * @param {string} address
 */
function go(address) {
  history.pushState({}, "", address);
  dispatchEvent(new CustomEvent("_dashprivate_pushstate")); // by which Dash hears of it
  scrollTo(0, 0);
}

/** @param {MouseEvent} event */
function followLink(event) {
  const link = /** @type {Element} */ (event.target).closest("a[href]");
  if (!link || event.defaultPrevented || event.button) return;
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  const address = link.getAttribute("href") || "";
  if (!address.startsWith("/") || address.startsWith("/api/")) return;
  if (link.getAttribute("target")) return;
  event.preventDefault();
  go(address);
}

/** @param {MouseEvent} event */
async function copySnippet(event) {
  const button = /** @type {Element} */ (event.target).closest(".copy");
  if (!button?.parentElement) return;
  const code = first(button.parentElement, "code");
  try {
    await navigator.clipboard.writeText(code.textContent || "");
    button.textContent = "Copied";
  } catch {
    // Browsers give no clipboard to a page that is served without TLS.
    getSelection()?.selectAllChildren(code);
    button.textContent = "Press Ctrl+C";
  }
  setTimeout(() => {
    button.textContent = "Copy";
  }, COPIED_MS);
}

/** @param {KeyboardEvent} event */
function focusSearch(event) {
  const target = /** @type {Element} */ (event.target);
  const typing = target.matches("input:not([type=checkbox], [type=radio]), textarea");
  const search = document.getElementById("runs-search");
  if (event.key !== "/" || typing || !(search instanceof HTMLInputElement)) return;
  event.preventDefault();
  search.focus();
  search.select();
}

function toggleTheme() {
  const root = document.documentElement;
  root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
  try {
    localStorage.setItem("evenkeel-theme", root.dataset.theme);
  } catch {
    // Storage is barred; the theme lasts as long as the page.
  }
  dispatchEvent(new Event("evenkeel-theme"));
}

/**
 * Marks the entry of the navigation that a page belongs to.
 * @param {string} page
 */
export function markNavigation(page) {
  const entry = page === "run" || page === "compare" ? "runs" : page;
  for (const link of all(".shell nav a")) {
    if (link.dataset.nav === entry) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

/** Makes the shell's links, buttons and keys work. */
export function startShell() {
  document.addEventListener("click", followLink);
  document.addEventListener("click", copySnippet);
  document.addEventListener("keydown", focusSearch);
  byId("theme-toggle").addEventListener("click", toggleTheme);
}
