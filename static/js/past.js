/* The session's executions, newest first. */

import { h, icon, setText } from "./dom.js";
import { isFinal, phase, seconds } from "./executions.js";
import { StateMark } from "./panel.js";
import { translated } from "./sentences.js";
import { ago, fill, gettext, moment, ngettext, span } from "./words.js";

const PAGE = 12;

const gist = (inputs) => Object.values(inputs ?? {}).find((value) => typeof value === "string" && value) ?? "";

/** The title; that it is another's repetition stands beside it as a sign, and as words for who does not see it. */
const titleOf = ({ title, flow, origin }) =>
  h(
    "span",
    { class: "row-title" },
    title ?? flow,
    origin && h("span", { class: "row-again", title: gettext("run again"), "aria-hidden": "true" }, icon("again")),
    origin && h("span", { class: "visually-hidden" }, ` (${gettext("run again")})`),
  );

class Row {
  constructor(record) {
    this.record = record;
    this.state = new StateMark();
    this.facts = h("span", { class: "row-facts" });
    this.bar = h("span", { class: "row-bar", "aria-hidden": "true" });
    this.link = h(
      "a",
      { href: `/executions/${record.id}/` },
      titleOf(record),
      gist(record.inputs) && h("span", { class: "row-gist" }, gist(record.inputs)),
      h("span", { class: "row-line" }, this.state.element, this.facts),
      this.bar,
    );
    this.element = h("li", {}, this.link);
    this.update();
  }

  update() {
    const { record } = this;
    this.state.update(record);
    const took = isFinal(record) ? seconds(record) : null;
    // Of what waits the word for its state says enough.
    const now = phase(record) === "running" ? translated(record.status) : ago(record.created_at);
    const facts = [now, took !== null && span(took)];
    setText(this.facts, facts.filter(Boolean).join(" · "));
    this.facts.title = moment(record.created_at);
    this.bar.hidden = isFinal(record);
    this.bar.style.transform = `scaleX(${(record.progress ?? 0) / 100})`;
  }
}

export class Past {
  #rows = new Map();
  #shown = PAGE;

  constructor(container, executions) {
    this.executions = executions;
    this.list = h("ul", { class: "rows" });
    this.empty = h("p", { class: "quiet" }, gettext("What you start is listed here."));
    this.more = h("button", { type: "button", class: "link", onclick: () => this.#showMore() });
    container.replaceChildren(this.empty, this.list, this.more);
    executions.addEventListener("order", () => this.order());
    executions.addEventListener("change", ({ detail }) => this.#rows.get(detail.record.id)?.update());
    setInterval(() => this.#rows.forEach((row) => row.update()), 20_000);
    this.order();
  }

  order() {
    const all = this.executions.all();
    const records = all.slice(0, this.#shown);
    const rows = records.map((record) => {
      if (!this.#rows.has(record.id)) this.#rows.set(record.id, new Row(record));
      return this.#rows.get(record.id).element;
    });
    rows.forEach((row, index) => {
      if (this.list.children[index] !== row) this.list.insertBefore(row, this.list.children[index] ?? null);
    });
    while (this.list.children.length > rows.length) this.list.lastElementChild.remove();
    this.empty.hidden = all.length > 0;
    const left = all.length - records.length;
    this.more.hidden = left === 0;
    setText(this.more, fill(ngettext("Show %(count)s more", "Show %(count)s more", left), { count: left }));
  }

  /** Marks the one that is open. */
  mark(id) {
    for (const [key, row] of this.#rows) {
      if (key === id) row.link.setAttribute("aria-current", "page");
      else row.link.removeAttribute("aria-current");
    }
    this.marked = id;
  }

  #showMore() {
    const first = this.#shown;
    this.#shown += 4 * PAGE;
    this.order();
    this.mark(this.marked);
    this.list.children[first]?.querySelector("a").focus();
  }
}
