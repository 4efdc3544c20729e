/* What the home page shows: a card for each execution that runs, or ran while the page was open. */

import { h, setText } from "./dom.js";
import { STREAMS } from "./execution_stream.js";
import { isFinal } from "./executions.js";
import { Progress, StateMark } from "./panel.js";
import { translated } from "./sentences.js";
import { readable } from "./text.js";
import { gettext } from "./words.js";

const TAIL = 400;

/** The end of a text that grows, the beginning of one that is there. */
function excerpt({ state, status, details }) {
  const final = details?.final_result;
  if (state === "SUCCESS") return typeof final === "string" ? readable(final.slice(0, TAIL)).replace(/\n{2,}/g, "\n") : "";
  if (state === "FAILURE" || state === "CANCELLED") return translated(details?.error?.message ?? status) ?? "";
  const partial = details?.partial_result ?? "";
  return readable(partial.length > TAIL ? `… ${partial.slice(-TAIL)}` : partial);
}

function headline(records) {
  const finished = records.filter(isFinal).length;
  if (!finished) return gettext("Running now");
  return finished === records.length ? gettext("Just finished") : gettext("Running and just finished");
}

export class Card {
  constructor(record) {
    this.record = record;
    this.state = new StateMark();
    this.status = h("p", { class: "status" });
    this.progress = new Progress();
    this.text = h("div", { class: "card-text" });
    this.element = h(
      "li",
      { class: "card" },
      h(
        "div",
        { class: "title-line" },
        h("h3", {}, h("a", { href: `/executions/${record.id}/` }, record.title ?? record.flow)),
        this.state.element,
      ),
      this.status,
      this.progress.element,
      this.text,
    );
    this.update();
  }

  /** @param grows whether it has a stream, so that its text is what there is now */
  update(grows = false) {
    const final = isFinal(this.record);
    this.state.update(this.record);
    setText(this.status, translated(this.record.status) ?? "");
    this.status.hidden = final;
    this.progress.element.hidden = final;
    this.progress.update(this.record);
    const text = final || grows ? excerpt(this.record) : "";
    setText(this.text, text);
    this.text.hidden = !text;
    this.text.classList.toggle("growing-end", !final);
  }
}

export class Overview {
  #cards = new Map();

  constructor() {
    this.heading = h("h2", { tabindex: "-1" }, gettext("Running now"));
    this.list = h("ul", { class: "cards" });
    this.running = h("div", {}, this.heading, this.list);
    this.welcome = h(
      "div",
      { class: "welcome" },
      h("h2", {}, gettext("Nothing is running")),
      h("p", {}, gettext("Choose a flow and start it. Its steps and its answer appear here while they are made.")),
      h(
        "ul",
        { class: "promises" },
        h("li", {}, gettext("Executions go on when you close the page; come back and they are here.")),
        h("li", {}, gettext("Start several at once, and open each from the list.")),
        h("li", {}, gettext("Every execution has an address of its own.")),
      ),
    );
    this.element = h("div", { class: "overview" }, this.running, this.welcome);
  }

  /** @param records the executions to show, newest first */
  update(records) {
    const ids = new Set(records.map((record) => record.id));
    for (const [id, card] of this.#cards) {
      if (ids.has(id)) continue;
      card.element.remove();
      this.#cards.delete(id);
    }
    records.forEach((record, index) => {
      if (!this.#cards.has(record.id)) this.#cards.set(record.id, new Card(record));
      const { element } = this.#cards.get(record.id);
      if (this.list.children[index] !== element) this.list.insertBefore(element, this.list.children[index] ?? null);
    });
    const growing = records.filter((record) => !isFinal(record)).slice(0, STREAMS);
    for (const card of this.#cards.values()) card.update(growing.includes(card.record));
    this.running.hidden = !records.length;
    this.welcome.hidden = records.length > 0;
    setText(this.heading, headline(records));
  }
}
