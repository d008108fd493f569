/* Settings: rules of one's own, tried on a stored run before they are kept. */

import { send } from "./api.js";
import { formatCount, formatNumber } from "./display.js";
import { button, element, field, input, row, select, table, tick } from "./elements.js";
import { cancel, describe, dialog, form, valuesOf } from "./forms.js";
import { Section } from "./section.js";

/** @import { Firing, Preset, Rule, RunSummary, Trial } from "./types" */

const HEADS = ["Rule", "Holds when", "Opens after", "Severity", "Of", ""];
const KINDS = /** @type {[string, string][]} */ ([
  ["is above", "above"],
  ["is below", "below"],
  ["rises to a multiple of its median", "rises"],
  ["falls to a fraction of its median", "falls"],
  ["leaves theory's band", "outside_band"],
  ["is missing", "missing"],
  ["published rule of another tool", "preset"],
]);
const SEVERITIES = /** @type {[string, string][]} */ ([
  ["information", "info"],
  ["warning", "warning"],
  ["critical", "critical"],
]);
/** Which fields each kind of condition takes. @type {Record<string, string[]>} */
const TAKES = {
  above: ["value"],
  below: ["value"],
  rises: ["factor", "window"],
  falls: ["factor", "window"],
  outside_band: ["factor", "gap"],
  missing: [],
  preset: ["preset"],
};
const MOST_FIRINGS = 50;

export function rulesSection() {
  const section = new Section(
    "rules",
    "Own rules",
    "A rule of your own opens alerts beside the built-in ones. Try it on a run that is stored, then keep it.",
    async () => {
      const [{ rules, presets }, { runs }] = await Promise.all([
        send("GET", "/rules"),
        send("GET", "/runs?limit=100"),
      ]);
      const reload = () => section.refresh();
      const open = (/** @type {Rule | null} */ rule) => edit(rule, presets, runs, reload);
      const add = button("Add a rule", () => open(null));
      if (!rules.length)
        return [element("p", { className: "none" }, "No rule of your own yet."), add];
      const rows = rules.map((/** @type {Rule} */ rule) => ruleRow(rule, open, reload));
      return [table("Own rules", HEADS, rows), add];
    },
  );
  return section;
}

/** @param {Rule} rule */
export function conditionText({ condition, series, layers }) {
  if (condition.kind === "preset") return `${condition.preset} says so`;
  const where = layers ? `${series}, layers ${layers.first}–${layers.last},` : series;
  const { kind, value, factor, gap, window } = condition;
  if (kind === "above" || kind === "below") return `${where} is ${kind} ${value}`;
  if (kind === "rises") return `${where} rises to ${factor} times the median of ${window}`;
  if (kind === "falls") return `${where} falls to 1/${factor} of the median of ${window}`;
  if (kind === "outside_band") return `${where} leaves theory's band by ${factor}×, or ${gap}`;
  return `${where} is missing`;
}

/**
 * @param {Rule} rule
 * @param {(rule: Rule) => void} open
 * @param {() => Promise<void>} reload
 */
function ruleRow(rule, open, reload) {
  const scope = [
    rule.project && `project ${rule.project}`,
    ...rule.tags.map((tag) => `tag ${tag}`),
  ];
  const label = (/** @type {string} */ verb) => ({
    attributes: { "aria-label": `${verb} ${rule.name}` },
  });
  const made = row(
    [
      element("strong", {}, rule.name),
      element("span", { className: "quiet" }, rule.enabled ? "" : "off"),
    ],
    conditionText(rule),
    rule.for_samples === 1 ? "1 sample" : `${formatCount(rule.for_samples)} samples`,
    rule.severity,
    scope.filter(Boolean).join(", ") || "every run",
    [
      button("Edit", () => open(rule), label("Edit")),
      button("Delete", () => remove(rule, reload), label("Delete")),
    ],
  );
  made.dataset.rule = rule.id;
  return made;
}

/**
 * @param {Rule} rule
 * @param {() => Promise<void>} reload
 */
function remove(rule, reload) {
  dialog(`Delete ${rule.name}?`, (close) =>
    form(
      [element("p", {}, "Its alerts are resolved. They stay listed.")],
      "Delete",
      async () => {
        await send("DELETE", `/rules/${rule.id}`);
        close();
        await reload();
      },
      cancel(close),
    ),
  );
}

/**
 * @param {Rule | null} rule null for a new one
 * @param {Preset[]} presets
 * @param {RunSummary[]} runs
 * @param {() => Promise<void>} reload
 */
function edit(rule, presets, runs, reload) {
  const condition = conditionFields(rule, presets);
  const made = dialog(rule ? `Edit ${rule.name}` : "Add a rule", (close) => {
    const body = form(
      [
        field("Name", input("name", rule?.name || "")),
        ...condition,
        pair(
          field("From layer", number("first", rule?.layers?.first), "Empty: every layer."),
          field("To layer", number("last", rule?.layers?.last)),
        ),
        pair(
          field("Opens after samples", number("for_samples", rule?.for_samples ?? 5), "In a row."),
          field("Clears after samples", number("clear_samples", rule?.clear_samples ?? 20)),
        ),
        field(
          "Severity",
          select("severity", SEVERITIES, rule?.severity || "warning"),
          "Channels are told from warning on.",
        ),
        pair(
          field("Project", input("project", rule?.project || ""), "Empty: every project."),
          field(
            "Tags",
            input("tags", rule?.tags.join(", ") || ""),
            "Separated by commas; a run has all of them.",
          ),
        ),
        field(
          "What to do",
          element("textarea", { name: "advice", rows: 2, value: rule?.advice || "" }),
        ),
        tick("Switched on", "enabled", rule?.enabled ?? true),
        trialFields(runs),
      ],
      "Save",
      async (filled) => {
        const content = ruleOf(filled);
        await (rule ? send("PUT", `/rules/${rule.id}`, content) : send("POST", "/rules", content));
        close();
        await reload();
      },
      cancel(close),
    );
    return body;
  });
  showFields(/** @type {HTMLFormElement} */ (made.querySelector("form")));
}

/**
 * @param {...HTMLElement} fields
 */
function pair(...fields) {
  return element("div", { className: "pair" }, ...fields);
}

/**
 * @param {string} name
 * @param {number | undefined} value
 */
function number(name, value) {
  return input(name, value === undefined ? "" : String(value), { inputMode: "decimal" });
}

/**
 * @param {Rule | null} rule
 * @param {Preset[]} presets
 */
function conditionFields(rule, presets) {
  const condition = rule?.condition || { kind: "above" };
  const kind = select("kind", KINDS, condition.kind);
  kind.onchange = () => kind.form && showFields(kind.form);
  const names = presets.map(({ name, title }) => /** @type {[string, string]} */ ([title, name]));
  return [
    field(
      "Series",
      input("series", rule?.series || "", { placeholder: "decoder/stream/variance" }),
      "stack/site/quantity, * for every stack; /loss/value for the loss. A run's tab “All series” lists them.",
    ),
    field("Holds when it", kind),
    field("Value", number("value", condition.value)),
    field("Factor", number("factor", condition.factor ?? 2)),
    field("Gap of a correlation", number("gap", condition.gap ?? 0)),
    field("Samples of the median", number("window", condition.window ?? 32)),
    field("Rule", select("preset", names, condition.preset || names[0]?.[1] || "")),
  ];
}

/**
 * Shows the fields that the chosen condition takes.
 * @param {HTMLFormElement} made
 */
function showFields(made) {
  const kind = valuesOf(made).kind;
  for (const name of ["value", "factor", "gap", "window", "preset"]) {
    const place = made.querySelector(`[data-field="${name}"]`);
    if (place instanceof HTMLElement) place.hidden = !TAKES[kind].includes(name);
  }
  for (const name of ["series", "first", "last"]) {
    const place = made.querySelector(`[data-field="${name}"]`);
    if (place instanceof HTMLElement) place.hidden = kind === "preset";
  }
}

/**
 * A rule as the API takes it.
 * @param {HTMLFormElement} made
 */
function ruleOf(made) {
  const values = valuesOf(made);
  const { kind } = values;
  const entries = TAKES[kind].map((name) => [
    name,
    name === "preset" ? values[name] : numberOf(values[name]),
  ]);
  const isPreset = kind === "preset";
  const hasLayers = !isPreset && (values.first !== "" || values.last !== "");
  return {
    name: values.name,
    enabled: values.enabled === "on",
    series: isPreset ? null : values.series,
    condition: { kind, ...Object.fromEntries(entries) },
    layers: hasLayers
      ? {
          first: numberOf(values.first || values.last),
          last: numberOf(values.last || values.first),
        }
      : null,
    for_samples: numberOf(values.for_samples),
    clear_samples: numberOf(values.clear_samples),
    severity: values.severity,
    advice: values.advice,
    project: values.project || null,
    tags: values.tags
      .split(",")
      .map((tag) => tag.trim())
      .filter(Boolean),
  };
}

/**
 * The number that was entered; a text that is none is sent as it is, and refused by name.
 * @param {string} text
 */
function numberOf(text) {
  const value = Number(text);
  return text === "" || Number.isNaN(value) ? text : value;
}

/** @param {RunSummary[]} runs */
function trialFields(runs) {
  const place = element("div", { className: "trial", attributes: { role: "status" } });
  if (!runs.length)
    return element("p", { className: "quiet" }, "There is no run yet to try it on.");
  const names = runs.map(({ id, name }) => /** @type {[string, string]} */ ([name, id]));
  const run = select("trial_run", names, runs[0].id);
  const attempt = button("Try on this run", async () => {
    const made = attempt.form;
    if (!made) return;
    attempt.disabled = true;
    place.replaceChildren("…");
    try {
      const trial = await send("POST", "/rules/test", { rule: ruleOf(made), run: run.value });
      place.replaceChildren(...trialText(trial));
    } catch (error) {
      const text = describe(/** @type {Error} */ (error));
      place.replaceChildren(element("p", { className: "bad" }, text));
    } finally {
      attempt.disabled = false;
    }
  });
  return element("div", { className: "trial-fields" }, field("Run", run), attempt, place);
}

/** @param {Trial} trial */
function trialText({ run_id, judged, first_step, last_step, firings, note, truncated }) {
  if (note) return [element("p", {}, note)];
  const steps = `steps ${formatCount(first_step)} to ${formatCount(last_step)}, ${formatCount(judged)} judged`;
  const rest = truncated ? " The run has more steps than one trial judges." : "";
  const count = firings.length === 1 ? "1 alert" : `${formatCount(firings.length)} alerts`;
  const lines = firings.slice(0, MOST_FIRINGS).map((firing) => firingLine(run_id, firing));
  if (firings.length > MOST_FIRINGS) {
    lines.push(element("li", {}, `and ${formatCount(firings.length - MOST_FIRINGS)} more`));
  }
  return [element("p", {}, `${count} in ${steps}.${rest}`), element("ul", {}, ...lines)];
}

/**
 * @param {string} run
 * @param {Firing} firing
 */
function firingLine(run, { step, resolved, stack, first_layer, last_layer, measured, message }) {
  const query = new URLSearchParams({ step: String(step) });
  if (stack && first_layer !== null) {
    query.set("stack", stack);
    query.set("layers", `${first_layer}-${last_layer ?? first_layer}`);
  }
  const link = element("a", { href: `/runs/${run}?${query}`, target: "_blank", title: message });
  link.textContent = `step ${formatCount(step)}`;
  const until = resolved === null ? "holds to the end" : `to step ${formatCount(resolved)}`;
  const layers = first_layer === null ? "" : `, layers ${first_layer}–${last_layer ?? first_layer}`;
  const value = measured === null ? "" : `, measured ${formatNumber(Number(measured))}`;
  return element("li", {}, link, ` ${until}${layers}${value}`);
}
