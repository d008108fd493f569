/* Settings: silences, what channels are told nothing of, and until when. */

import { send } from "./api.js";
import { button, element, field, input, row, select, table } from "./elements.js";
import { cancel, describe, dialog, form, valuesOf } from "./forms.js";
import { DURATIONS } from "./incidents.js";
import { Section } from "./section.js";
import { toast } from "./toasts.js";

/** @import { Silence } from "./types" */

const HEADS = ["What", "Why", "Until", ""];
const CLOCK = /** @type {const} */ ({ dateStyle: "medium", timeStyle: "short" });

export function silencesSection() {
  const section = new Section(
    "silences",
    "Silences",
    "What channels are told nothing of, for a time. Pages go on showing it. What still holds at the end is told then.",
    async () => {
      const { silences } = await send("GET", "/silences");
      const reload = () => section.refresh();
      const add = button("Silence a rule or a tag", () => edit(reload));
      if (!silences.length)
        return [element("p", { className: "none" }, "Nothing is silenced."), add];
      const rows = silences.map((/** @type {Silence} */ silence) => silenceRow(silence, reload));
      return [table("Silences", HEADS, rows), add];
    },
  );
  return section;
}

/**
 * What a silence is about, in words.
 * @param {Silence} silence
 */
export function silenceText({ incident, incident_title, run, run_name, rule, tag, project }) {
  const parts = [
    incident ? `“${incident_title || "an incident"}”` : "",
    rule ? `rule ${rule}` : "",
    run ? `run ${run_name || run}` : incident && run_name ? `of ${run_name}` : "",
    tag ? `runs tagged ${tag}` : "",
    project ? `project ${project}` : "",
  ].filter(Boolean);
  return parts.join(", ") || "everything";
}

/**
 * @param {Silence} silence
 * @param {() => Promise<void>} reload
 */
function silenceRow(silence, reload) {
  const text = silenceText(silence);
  const end = button(
    "End now",
    async () => {
      end.disabled = true;
      try {
        await send("DELETE", `/silences/${silence.id}`);
      } catch (error) {
        toast([element("span", {}, describe(/** @type {Error} */ (error)))], {
          severity: "critical",
        });
      }
      await reload();
    },
    { attributes: { "aria-label": `End now: ${text}` } },
  );
  const until = new Date(silence.until * 1000).toLocaleString("en-GB", CLOCK);
  const made = row(text, silence.note || "–", until, end);
  made.dataset.silence = silence.id;
  return made;
}

/** @param {() => Promise<void>} reload */
function edit(reload) {
  dialog("Silence", (close) =>
    form(
      [
        field("Rule", input("rule", "", { placeholder: "rank_collapse" }), "Empty: any rule."),
        field(
          "Tag",
          input("tag", ""),
          "Of the run. Empty: any run. An incident or a run is silenced from its card.",
        ),
        field("For", select("seconds", DURATIONS, "3600")),
        field("Why", input("note", "")),
      ],
      "Silence",
      async (made) => {
        const { rule, tag, seconds, note } = valuesOf(made);
        const silence = { rule: rule || null, tag: tag || null, seconds: Number(seconds), note };
        await send("POST", "/silences", silence);
        close();
        await reload();
      },
      cancel(close),
    ),
  );
}
