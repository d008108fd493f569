/* What every page shares: navigation, theme, toasts, the alert count, copying. */
(function (ek) {
  "use strict";
  const byId = (id) => document.getElementById(id);
  let events = 0;

  /** Tells Dash's callbacks that something of this kind has changed. */
  ek.announce = function (kind) { window.dash_clientside.set_props("live-event", { data: { kind, count: ++events } }); };

  /** Goes to another page without loading the shell again. */
  ek.go = function (address) {
    history.pushState({}, "", address);
    dispatchEvent(new CustomEvent("_dashprivate_pushstate"));
    scrollTo(0, 0);
  };

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href]");
    if (!link || event.defaultPrevented || event.button || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const address = link.getAttribute("href");
    if (!address.startsWith("/") || address.startsWith("/api/") || link.target) return;
    event.preventDefault();
    ek.go(address);
  });

  document.addEventListener("click", async (event) => {
    const button = event.target.closest(".copy");
    if (!button) return;
    const code = button.parentElement.querySelector("code");
    try { await navigator.clipboard.writeText(code.textContent); button.textContent = "Copied"; } catch (error) {
      getSelection().selectAllChildren(code);
      button.textContent = "Press Ctrl+C";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1600);
  });

  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target.matches("input:not([type=checkbox], [type=radio]), textarea")) return;
    const search = byId("runs-search");
    if (search) { event.preventDefault(); search.focus(); search.select(); }
  });

  byId("theme-toggle").addEventListener("click", () => {
    const root = document.documentElement;
    root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("evenkeel-theme", root.dataset.theme); } catch (error) { /* storage is barred */ }
    dispatchEvent(new Event("evenkeel-theme"));
  });

  ek.markNavigation = function (page) {
    for (const link of document.querySelectorAll(".shell nav a")) {
      const here = link.dataset.nav === page || (link.dataset.nav === "runs" && (page === "run" || page === "compare"));
      if (here) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
    }
  };

  ek.countAlerts = ek.throttled(async function () {
    const badge = byId("nav-alerts-badge");
    try {
      const open = (await ek.get("/alerts?status=open&limit=100")).alerts.length;
      badge.hidden = open === 0;
      badge.textContent = open > 99 ? "99+" : String(open);
    } catch (error) { /* the banner already says that the server is away */ }
  }, 1000);

  const RANKS = { info: 0, warning: 1, critical: 2 };
  const ranked = new Map(); // alert id → severity already told
  let before = null; // what stood when the page was opened; messages wait until it is known

  /** Notes the alerts there are; resolves with when the newest of them opened. */
  function whatStood() {
    before = before || ek.get("/alerts?limit=100").then(({ alerts }) => {
      alerts.forEach((one) => ranked.set(one.id, RANKS[one.severity]));
      return alerts.length ? alerts[0].opened_at : 0;
    }).catch(() => { before = null; return Infinity; });
    return before;
  }

  /** Toasts what opened or escalated since the page was opened; updates of the rest are silent. */
  async function hearAlert(alert) {
    const newest = await whatStood();
    const known = ranked.get(alert.id), rank = RANKS[alert.severity];
    ranked.set(alert.id, rank);
    const isNews = known === undefined ? alert.opened_at > newest : rank > known;
    if (isNews && alert.status === "open") toast(alert);
  }

  function toast(alert) {
    document.querySelectorAll(`.toast[data-alert="${alert.id}"]`).forEach((one) => one.remove());
    const box = document.createElement("div"), link = document.createElement("a"), close = document.createElement("button");
    box.className = `toast toast-${alert.severity}`;
    box.dataset.alert = alert.id;
    link.href = `/runs/${alert.run_id}?step=${alert.step}`;
    const title = document.createElement("strong");
    title.textContent = alert.title;
    link.append(title, `${alert.run_name}, step ${ek.count(alert.step)}`);
    close.textContent = "×"; close.type = "button"; close.setAttribute("aria-label", "Dismiss");
    close.onclick = () => box.remove();
    box.append(link, close);
    byId("toasts").append(box);
    while (byId("toasts").children.length > 4) byId("toasts").firstChild.remove();
    setTimeout(() => box.remove(), 12000);
  }

  whatStood();

  const announceRun = ek.throttled(() => ek.announce("run"), 1000);
  const announceAlert = ek.throttled(() => ek.announce("alert"), 500);

  ek.listen((message) => {
    if (message.type === "alert") { hearAlert(message.alert); ek.countAlerts(); announceAlert(); }
    if (message.type === "run" && ek.page && ek.page.page === "runs") announceRun();
    if (message.type === "hello") whatStood();
    if (message.type === "reconnected") { ek.countAlerts(); announceAlert(); }
  });
})(window.evenkeel);
