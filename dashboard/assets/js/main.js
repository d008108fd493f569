/* Starts the shell at once, and the script of each page that Dash puts in place. */

import { setQuery } from "./address.js";
import { AlertList } from "./alert-list.js";
import { announceIncident, countAlerts, noteIncidents } from "./alerts.js";
import { prefetchPage } from "./api.js";
import { announce, setProps } from "./dash.js";
import { formatAge } from "./display.js";
import { all } from "./dom.js";
import { followIncidents } from "./incidents.js";
import { connect, followPageVisits, listen } from "./live.js";
import { RunPage } from "./run-page.js";
import { SettingsPage } from "./settings.js";
import { markNavigation, startShell } from "./shell.js";
import { throttled } from "./timing.js";
import { chosenBlock, followBlockButtons, openWhy } from "./why.js";

/** @import { PageData } from "./types" */

const STALE_S = 30;
const FOLLOWING = ["internals", "why", "series"]; // tabs that Dash draws for the step on show

/** What the page in place has to undo when it leaves. @type {{ close: () => void } | null} */
let openPage = null;
/** The page in place. @type {string | null} */
let pageName = null;

/**
 * Presses one of a group of buttons.
 * @param {HTMLElement[]} buttons
 * @param {HTMLElement} pressed
 */
function press(buttons, pressed) {
  for (const button of buttons) {
    button.setAttribute("aria-pressed", String(button === pressed));
  }
}

/**
 * Tabs, the stack switch and the age of the last frame belong to the run page alone.
 * @param {RunPage} page
 */
function dressRunPage(page) {
  const tabs = all("[data-show]");
  for (const tab of tabs) {
    tab.onclick = () => {
      press(tabs, tab);
      for (const panel of all("[data-tab]")) panel.hidden = panel.dataset.tab !== tab.dataset.show;
      setQuery("tab", tab.dataset.show || null);
      dispatchEvent(new Event("resize")); // Plotly has drawn hidden charts without a size
      askForTab(page);
    };
  }
  const stacks = all("[data-stack]");
  for (const button of stacks) {
    const stack = button.dataset.stack || "";
    button.onclick = () => {
      press(stacks, button);
      setQuery("stack", stack);
      page.changeStack(stack).then(
        () => askForTab(page),
        (error) => page.fail(error),
      );
    };
  }
  page.onBlock = openWhy;
  page.undo.push(followBlockButtons(() => askForTab(page)));
  page.onShow = throttled(() => askForTab(page), 400);
  const age = setInterval(() => writeAge(page), 1000);
  const health = setInterval(() => page.isLive() && announce("health"), 10000);
  page.undo.push(() => {
    clearInterval(age);
    clearInterval(health);
  });
}

/**
 * Asks Dash for the tab that is open, at the step on show.
 * @param {RunPage} page
 */
function askForTab(page) {
  const tab = all("[data-tab]").find((panel) => !panel.hidden)?.dataset.tab;
  const { step } = page.player;
  if (step === null || !tab || !FOLLOWING.includes(tab)) return;
  setProps("run-internals-step", { data: { step, stack: page.stack, tab, block: chosenBlock() } });
}

/** @param {RunPage} page */
function writeAge(page) {
  const label = document.getElementById("run-age");
  if (!label || !page.lastFrame) return;
  const now = Date.now() / 1000;
  label.textContent = formatAge(page.lastFrame, now);
  label.classList.toggle("stale", page.isLive() && now - page.lastFrame > STALE_S);
}

/**
 * Called by Dash with the page's data whenever a page is put in place.
 * @param {PageData | null} data
 */
export function start(data) {
  openPage?.close();
  openPage = null;
  pageName = data?.page ?? null;
  if (!data) return null;
  markNavigation(data.page);
  countAlerts();
  if (data.page === "run" || data.page === "compare") {
    const runPage = new RunPage(data);
    openPage = runPage;
    if (data.page === "run") dressRunPage(runPage);
  } else connect([]);
  if (data.page === "alerts") openPage = new AlertList();
  if (data.page === "settings") openPage = new SettingsPage();
  return data.page;
}

function listenForEvents() {
  const announceRun = throttled(() => announce("run"), 1000);
  const announceAlerts = throttled(() => announce("alert"), 500);
  listen((message) => {
    if (message.type === "incident") announceIncident(message.incident);
    const changes = message.type === "alert" || message.type === "incident";
    if (changes || message.type === "reconnected") {
      countAlerts();
      announceAlerts();
    }
    if (message.type === "run" && pageName === "runs") announceRun();
    if (message.type === "hello") noteIncidents();
  });
}

prefetchPage();
startShell();
followPageVisits();
listenForEvents();
followIncidents();
noteIncidents();
