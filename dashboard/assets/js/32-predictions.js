/* The curves a run is measured against: at initialisation, and from the latest weights described. */
(function (ek) {
  "use strict";
  const PLACE = { variance: ["stream", "variance"], correlation: ["stream", "correlation"], gradient: ["stream_gradient", "variance"] };
  const NOTHING = new Float32Array(0);

  function curve(revision, stack, name) {
    const [site, field] = PLACE[name];
    const found = revision && revision.state === "ready" && revision.stacks[stack] && revision.stacks[stack][site];
    if (!found) return { middle: NOTHING, low: NOTHING, high: NOTHING };
    return {
      middle: ek.decode(found[`${field}_f32`]),
      low: ek.decode(found[`${field}_low_f32`]),
      high: ek.decode(found[`${field}_high_f32`]),
    };
  }

  function why(revision, middle) {
    if (!revision) return "no prediction: the model is not described yet";
    if (revision.state === "pending") return "the prediction is being computed";
    if (revision.state === "failed") return `no prediction: ${revision.reason || "the theory could not be applied"}`;
    const hole = middle.findIndex((value) => !Number.isFinite(value));
    if (middle.length && hole < 0) return "";
    const known = middle.some(Number.isFinite), last = middle.findLastIndex((value) => !Number.isFinite(value));
    const where = !known ? "" : hole > 0 ? ` from layer ${hole} on` : ` up to layer ${last}`;
    const reason = (revision.missing || []).slice(0, 1).map((one) => `${one.what}: ${one.why}`);
    return [`no prediction${where}`, ...reason].join(": ");
  }

  /** {name: {predicted, low, high, today, missing}} for each quantity. */
  ek.predictions = async function (run, stack) {
    const revisions = (await ek.get(ek.paths.predictions(run))).revisions;
    const first = revisions[0], latest = revisions.length > 1 ? revisions[revisions.length - 1] : null;
    const found = {};
    for (const name of ek.NAMES) {
      const start = curve(first, stack, name), today = curve(latest, stack, name);
      found[name] = { predicted: start.middle, low: start.low, high: start.high, today: today.middle, missing: why(first, start.middle) };
    }
    return found;
  };
})(window.evenkeel);
