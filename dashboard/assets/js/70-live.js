/* One WebSocket a page: reconnects by itself, and says plainly when the server is away. */
(function (ek) {
  "use strict";
  const SILENCE_MS = 40000, FIRST_WAIT_MS = 500, LONGEST_WAIT_MS = 15000;
  const listeners = new Set();
  let socket = null, asked = null, wait = FIRST_WAIT_MS, lostAt = null, watchdog = null, retry = null, wasOpen = false;

  function show(state, words) {
    const place = document.getElementById("connection"), banner = document.getElementById("banner");
    place.dataset.state = state;
    place.querySelector(".word").textContent = words;
    banner.hidden = state !== "lost";
    if (state === "lost") banner.textContent = `Server unreachable since ${ek.clock(lostAt)}, retrying. What is on show may be out of date.`;
  }

  function tell(message) { for (const one of listeners) one(message); }

  function alive() {
    clearTimeout(watchdog);
    const watched = socket;
    watchdog = setTimeout(() => watched && watched.close(), SILENCE_MS);
  }

  function open() {
    clearTimeout(retry);
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const own = new WebSocket(`${scheme}//${location.host}/api/v1/live${asked ? `?runs=${asked}` : ""}`);
    socket = own;
    own.onopen = () => {
      if (own !== socket) return;
      show("live", "live");
      wait = FIRST_WAIT_MS;
      if (wasOpen) tell({ type: "reconnected" });
      wasOpen = true; lostAt = null;
      alive();
    };
    own.onmessage = (event) => { if (own !== socket) return; alive(); tell(JSON.parse(event.data)); };
    own.onclose = () => { if (own === socket) lost(); };
  }

  function lost() {
    clearTimeout(watchdog);
    lostAt = lostAt || new Date();
    show("lost", "unreachable");
    retry = setTimeout(open, wait);
    wait = Math.min(LONGEST_WAIT_MS, 2 * wait);
  }

  /** Connects for these runs, or for the events of every run; the former connection ends. */
  ek.connect = function (runs) {
    const wanted = runs.join(",");
    if (socket && asked === wanted && socket.readyState <= WebSocket.OPEN) return;
    asked = wanted; wasOpen = false;
    clearTimeout(watchdog);
    const old = socket;
    socket = null;
    if (old) old.close();
    open();
  };

  /** Hears every message, `{type: "reconnected"}` included; returns how to stop. */
  ek.listen = function (hear) { listeners.add(hear); return () => listeners.delete(hear); };

  addEventListener("pagehide", () => { const old = socket; socket = null; if (old) old.close(); });
  addEventListener("pageshow", (event) => { if (event.persisted && asked !== null) open(); });
})(window.evenkeel);
