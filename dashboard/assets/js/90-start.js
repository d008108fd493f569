/* Starts the script of the page that Dash has just put in place. */
(function (ek) {
  "use strict";
  let running = null;

  /** Tabs, the stack switch and the age of the last frame belong to the run page alone. */
  function dressRunPage(page) {
    const tabs = [...document.querySelectorAll("[data-show]")];
    const age = setInterval(() => tellAge(page), 1000), health = setInterval(() => page.isLive() && ek.announce("health"), 10000);
    for (const button of tabs) {
      button.onclick = () => {
        tabs.forEach((one) => one.setAttribute("aria-pressed", String(one === button)));
        document.querySelectorAll("[data-tab]").forEach((one) => { one.hidden = one.dataset.tab !== button.dataset.show; });
        ek.setQuery("tab", button.dataset.show);
        dispatchEvent(new Event("resize"));
        askInternals(page);
      };
    }
    for (const button of document.querySelectorAll("[data-stack]")) {
      button.onclick = () => {
        document.querySelectorAll("[data-stack]").forEach((one) => one.setAttribute("aria-pressed", String(one === button)));
        ek.setQuery("stack", button.dataset.stack);
        page.changeStack(button.dataset.stack).then(() => askInternals(page), (error) => page.fail(error));
      };
    }
    page.onShow = ek.throttled(() => askInternals(page), 400);
    page.undo.push(() => { clearInterval(age); clearInterval(health); });
  }

  function askInternals(page) {
    const place = document.querySelector('[data-tab="internals"]:not([hidden]), [data-tab="series"]:not([hidden])'), step = page.player.step;
    if (place && step !== null) window.dash_clientside.set_props("run-internals-step", { data: { step, stack: page.stack, tab: place.dataset.tab } });
  }

  function tellAge(page) {
    const place = document.getElementById("run-age");
    if (!place || !page.lastFrame) return;
    place.textContent = ek.ago(page.lastFrame);
    place.classList.toggle("stale", page.isLive() && Date.now() / 1000 - page.lastFrame > 30);
  }

  /** Called by Dash with the page's data whenever a page is put in place. */
  ek.start = function (data) {
    if (running) running.stop();
    running = null;
    ek.page = data;
    if (!data) return null;
    ek.markNavigation(data.page);
    ek.countAlerts();
    if (data.page === "run" || data.page === "compare") {
      running = new ek.RunPage(data);
      if (data.page === "run") dressRunPage(running);
    } else ek.connect([]);
    return data.page;
  };
})(window.evenkeel);
