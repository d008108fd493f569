/* Settings: channels, where alerts go. */

import { send } from "./api.js";
import { button, element, field, input, row, table, tick } from "./elements.js";
import { cancel, describe, dialog, form, valuesOf } from "./forms.js";
import { Section } from "./section.js";

/** @import { Channel, ChannelList } from "./types" */

const MINUTE_S = 60;
const HEADS = ["Channel", "Receiver", "Carries", "Limit", "Test", ""];

/** @param {() => Promise<unknown>} onChange */
export function channelsSection(onChange) {
  const section = new Section(
    "channels",
    "Channels",
    "Where alerts go: a signed webhook, or any service of apprise, such as Slack, Discord, Teams, e-mail, PagerDuty or ntfy.",
    async () => {
      /** @type {ChannelList} */
      const list = await send("GET", "/channels");
      const reload = async () => {
        await section.refresh();
        await onChange();
      };
      const add = button("Add a channel", () => edit(list, null, reload), {
        className: "button primary",
      });
      if (!list.channels.length) {
        return [
          element("p", { className: "none" }, "No channel yet: alerts are on the pages alone."),
          add,
        ];
      }
      const rows = list.channels.map((channel) => channelRow(list, channel, reload));
      return [table("Channels", HEADS, rows), add];
    },
  );
  return section;
}

/**
 * @param {ChannelList} list
 * @param {Channel} channel
 * @param {() => Promise<void>} reload
 */
function channelRow(list, channel, reload) {
  const isFixed = channel.source === "settings";
  const state = [
    channel.enabled ? "" : "off",
    channel.signed ? "signed" : "",
    channel.problem,
    isFixed ? "from EVENKEEL_WEBHOOKS" : "",
  ].filter(Boolean);
  const answer = element("span", { className: "answer", attributes: { role: "status" } });
  const test = button("Test", () => tryOut(channel, test, answer));
  test.setAttribute("aria-label", `Test ${channel.name}`);
  const made = row(
    [
      element("strong", {}, channel.name),
      element("span", { className: "quiet" }, state.join(" · ")),
    ],
    `${channel.kind === "webhook" ? "webhook at" : ""} ${channel.address}`.trim(),
    channel.project ? `project ${channel.project}` : "every project",
    channel.limit ? limitText(channel.limit) : "none",
    [test, answer],
    isFixed ? [] : actions(list, channel, reload),
  );
  made.dataset.channel = channel.id;
  return made;
}

/** @param {{ most: number, window_s: number }} limit */
const limitText = ({ most, window_s }) =>
  `${most} in ${Math.round((window_s / MINUTE_S) * 100) / 100} min, then a digest`;

/**
 * @param {ChannelList} list
 * @param {Channel} channel
 * @param {() => Promise<void>} reload
 */
function actions(list, channel, reload) {
  const label = (/** @type {string} */ verb) => ({
    attributes: { "aria-label": `${verb} ${channel.name}` },
  });
  return [
    button("Edit", () => edit(list, channel, reload), label("Edit")),
    button("Delete", () => remove(channel, reload), label("Delete")),
  ];
}

/**
 * @param {Channel} channel
 * @param {HTMLButtonElement} test
 * @param {HTMLElement} answer
 */
async function tryOut(channel, test, answer) {
  test.disabled = true;
  answer.className = "answer quiet";
  answer.textContent = "sending…";
  try {
    const { delivered, answer: text } = await send("POST", `/channels/${channel.id}/test`);
    answer.className = `answer ${delivered ? "good" : "bad"}`;
    answer.textContent = text;
  } catch (error) {
    answer.className = "answer bad";
    answer.textContent = describe(/** @type {Error} */ (error));
  } finally {
    test.disabled = false;
  }
}

/**
 * @param {Channel} channel
 * @param {() => Promise<void>} reload
 */
function remove(channel, reload) {
  dialog(`Delete ${channel.name}?`, (close) =>
    form(
      [element("p", {}, "Its routes go with it. What waits for it is listed as dead.")],
      "Delete",
      async () => {
        await send("DELETE", `/channels/${channel.id}`);
        close();
        await reload();
      },
      cancel(close),
    ),
  );
}

/**
 * @param {ChannelList} list
 * @param {Channel | null} channel null for a new one
 * @param {() => Promise<void>} reload
 */
function edit(list, channel, reload) {
  const names = list.template_names.map((name) => `{${name}}`).join(" ");
  const title = input("title_template", channel?.title_template || "", {
    placeholder: list.default_title,
  });
  const text = element("textarea", {
    name: "text_template",
    rows: 4,
    value: channel?.text_template || "",
    placeholder: list.default_text,
  });
  dialog(channel ? `Edit ${channel.name}` : "Add a channel", (close) =>
    form(
      [
        field("Name", input("name", channel?.name || "", { placeholder: "On call" })),
        field(
          "URL",
          input("url", "", {
            type: "password", // nobody reads it over a shoulder, and it is never shown again
            autocomplete: "new-password",
            placeholder: channel ? "unchanged" : "https://… or slack://… mailto://… ntfy://…",
          }),
          channel
            ? `Now at ${channel.address}. Leave it empty to keep it.`
            : "It is stored, and never shown again.",
        ),
        field("Project", input("project", channel?.project || ""), "Empty: every project."),
        limitFields(channel),
        field("Title", title, `Empty: the alert's own. Names: ${names}`),
        field(
          "Text",
          text,
          "For people: services of apprise send it. A webhook gets the incident as JSON in its place.",
        ),
        preview(title, text),
        tick("Switched on", "enabled", channel?.enabled ?? true),
        tick(
          channel?.signed ? "Make another signing secret" : "Sign webhooks",
          "generate_secret",
          false,
        ),
      ],
      "Save",
      async (made) => {
        const answer = await save(made, channel);
        close();
        if (answer.secret) showSecret(answer.secret);
        await reload();
      },
      cancel(close),
    ),
  );
}

/** @param {Channel | null} channel */
function limitFields(channel) {
  const most = input("most", channel?.limit ? String(channel.limit.most) : "", {
    inputMode: "numeric",
  });
  const minutes = channel?.limit ? channel.limit.window_s / MINUTE_S : 60;
  const pair = element(
    "div",
    { className: "pair" },
    field(
      "Messages at most",
      most,
      "Empty: no limit. What is beyond waits, and is told in one digest.",
    ),
    field("In minutes", input("minutes", String(minutes), { inputMode: "decimal" })),
  );
  pair.children[0].setAttribute("data-field", "limit.most");
  pair.children[1].setAttribute("data-field", "limit.window_s");
  return pair;
}

/**
 * @param {HTMLInputElement} title
 * @param {HTMLTextAreaElement} text
 */
function preview(title, text) {
  const place = element("div", { className: "preview", attributes: { role: "status" } });
  const show = async () => {
    try {
      const body = { title_template: title.value, text_template: text.value };
      const example = await send("POST", "/channels/preview", body);
      place.replaceChildren(element("strong", {}, example.title), element("p", {}, example.text));
    } catch (error) {
      place.replaceChildren(
        element("p", { className: "bad" }, describe(/** @type {Error} */ (error))),
      );
    }
  };
  return element("div", {}, button("Preview an example", show), place);
}

/**
 * @param {HTMLFormElement} made
 * @param {Channel | null} channel
 */
function save(made, channel) {
  const values = valuesOf(made);
  const limit = values.most
    ? { most: Number(values.most), window_s: Number(values.minutes) * MINUTE_S }
    : null;
  const body = {
    name: values.name,
    project: values.project || null,
    enabled: values.enabled === "on",
    generate_secret: values.generate_secret === "on",
    title_template: values.title_template,
    text_template: values.text_template,
    limit,
    ...(values.url || !channel ? { url: values.url } : {}),
  };
  return channel ? send("PATCH", `/channels/${channel.id}`, body) : send("POST", "/channels", body);
}

/** @param {string} secret */
function showSecret(secret) {
  dialog("Signing secret", (close) =>
    element(
      "div",
      { className: "form" },
      element("p", {}, "Give it to the receiver now. It is not shown again."),
      element(
        "div",
        { className: "snippet" },
        element("pre", {}, element("code", {}, secret)),
        element("button", { type: "button", className: "copy" }, "Copy"),
      ),
      element(
        "div",
        { className: "form-buttons" },
        button("Done", close, { className: "button primary" }),
      ),
    ),
  );
}
