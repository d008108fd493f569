/* Reads the HTTP API; begins with what the address asks for while the page is still loading. */
(function (ek) {
  "use strict";
  const BASE = "/api/v1";
  const started = new Map();

  async function ask(path) {
    const answer = await fetch(BASE + path, { headers: { Accept: "application/json" } });
    const body = await answer.json().catch(() => ({}));
    if (!answer.ok) {
      const said = (body.error && body.error.message) || `the server answered ${answer.status}`;
      throw Object.assign(new Error(said), { status: answer.status });
    }
    return body;
  }

  /** GET; an answer already under way since the page began to load is used once. */
  ek.get = function (path) {
    const early = started.get(path);
    started.delete(path);
    return early || ask(path);
  };

  ek.SERIES = {
    variance: "stream/variance",
    correlation: "stream/correlation",
    gradient: "stream_gradient/variance",
  };
  ek.MAX_STEPS = 2000;
  ek.FIRST_STEPS = 250; // what the first picture needs; the rest follows once it stands

  ek.paths = {
    predictions: (run) => `/runs/${run}/predictions`,
    alerts: (run) => `/alerts?run=${run}&limit=100`,
    history: (run, stack, name, from, most) =>
      `/runs/${run}/history?series=${stack}/${ek.SERIES[name]}&max_steps=${most}` + (from ? `&from=${from}` : ""),
    scalars: (run, after) =>
      `/runs/${run}/scalars?series=/loss/value&series=/learning_rate/value&after=${after}&max_steps=${ek.MAX_STEPS}`,
    profile: (run, step) => `/runs/${run}/profile?step=${step}`,
  };

  function early(path) {
    const answer = ask(path);
    answer.catch(() => {});
    started.set(path, answer);
    return answer;
  }

  /** The prediction names the stacks, sooner than Dash has put the page in place. */
  function prefetch(run) {
    early(ek.paths.scalars(run, -1));
    early(ek.paths.predictions(run)).then(({ revisions }) => {
      const stacks = Object.keys((revisions[0] || {}).stacks || {}).sort();
      if (!stacks.length) return;
      const asked = new URLSearchParams(location.search).get("stack");
      const stack = stacks.includes(asked) ? asked : stacks.includes("decoder") ? "decoder" : stacks[0];
      for (const name in ek.SERIES) {
        const path = ek.paths.history(run, stack, name, 0, ek.FIRST_STEPS);
        if (!started.has(path)) early(path);
      }
    }).catch(() => {});
  }

  const onRun = location.pathname.match(/^\/runs\/([^/]+)/);
  const compared = location.pathname === "/compare" && new URLSearchParams(location.search).get("runs");
  if (onRun) prefetch(onRun[1]);
  if (compared) compared.split(",").slice(0, 4).forEach(prefetch);
})(window.evenkeel);
