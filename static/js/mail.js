/* Whether who started an execution is mailed when it ends, and what became of those mails. */

import * as api from "./api.js";
import { h } from "./dom.js";
import { isFinal } from "./executions.js";
import { translated } from "./sentences.js";
import { fill, gettext, moment, span } from "./words.js";

const SETTLED = new Set(["SENT", "FAILED", "SKIPPED"]);
// Milliseconds between looks while a mail is under way; then it is looked at no more.
const LOOKS = [1000, 2000, 4000, 8000, 15_000, 30_000, 60_000, 60_000, 60_000];
// A mail takes about as long: mostly one look is enough.
const AFTER_END = 800;
// How long after the end a page that shows it says so.
const JUST_ENDED = 60_000;

const STATES = {
  PENDING: () => gettext("waiting"),
  SENDING: () => gettext("being sent"),
  SENT: () => gettext("sent"),
  FAILED: () => gettext("not delivered"),
  DIGESTED: () => gettext("in one mail with others"),
  SKIPPED: () => gettext("not sent"),
};
const OUTCOMES = {
  sent: () => gettext("sent"),
  put_off: () => gettext("put off"),
  refused: () => gettext("refused"),
  unknown: () => gettext("unknown"),
};

/** The box and the history of one execution, for who is signed in. Both are hidden while there is nothing to say. */
export class Mail {
  #told = null;
  #asking = false;
  #again = false;
  #looks = 0;
  #timer = 0;
  #isSeen = false;
  #wasFinal = false;
  #sawEnd = false;
  #isClosed = false;

  /** @param complain(text, passes) shows what went wrong, beside what else does */
  constructor(record, complain) {
    this.record = record;
    this.complain = complain;
    this.box = h("input", { type: "checkbox", onchange: () => this.#ask() });
    const label = h("label", {}, this.box, h("span", {}, gettext("Mail me when it ends")));
    this.choice = h("div", { class: "field field-switch", hidden: true }, label);
    this.list = h("ul", { class: "mails-sent" });
    this.history = h("section", { class: "mail-history", hidden: true }, h("h3", {}, gettext("Mail")), this.list);
    this.#wasFinal = isFinal(record);
    this.onvisible = () => this.#visible();
    document.addEventListener("visibilitychange", this.onvisible);
    this.#read();
  }

  /** The execution's record has changed. */
  update() {
    const final = isFinal(this.record);
    if (final && !this.#wasFinal) {
      this.#sawEnd = true;
      this.#plan(AFTER_END);
    }
    this.#wasFinal = final;
    this.choice.hidden = final || !this.#told?.may_ask || this.record.connection === "gone";
    this.history.hidden = !final || !this.#told?.notifications.length;
  }

  /** It is not shown any more. */
  close() {
    this.#isClosed = true;
    clearTimeout(this.#timer);
    document.removeEventListener("visibilitychange", this.onvisible);
  }

  async #read() {
    if (this.#asking) {
      this.#again = true;
      return;
    }
    this.#asking = true;
    try {
      this.#show(await api.notifications(this.record.id));
    } catch (problem) {
      if (problem.passes) this.#plan(); // what it says is said elsewhere
    }
    this.#asking = false;
    if (this.#again) this.#plan(0);
    this.#again = false;
  }

  #show(told) {
    this.#told = told;
    if (!this.box.disabled) this.box.checked = told.notify;
    this.list.replaceChildren(...told.notifications.map(described));
    this.update();
    this.#saySeen();
    if (isFinal(this.record) && told.notifications.some(({ state }) => !SETTLED.has(state))) this.#plan();
  }

  /** Looks again: at once, or after a pause that grows. */
  #plan(pause = LOOKS[this.#looks++]) {
    if (this.#isClosed || pause === undefined) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => (document.hidden ? null : this.#read()), pause);
  }

  #visible() {
    if (document.hidden || !isFinal(this.record)) return;
    if (this.#told && this.#told.notifications.every(({ state }) => SETTLED.has(state))) return;
    this.#plan(0);
  }

  async #ask() {
    const notify = this.box.checked;
    this.box.disabled = true;
    this.complain("");
    try {
      this.#told = await api.notify(this.record.id, notify);
    } catch (problem) {
      this.box.checked = !notify;
      this.complain(problem.message, problem.passes);
      if (problem.status === 409) this.#plan(0);
    }
    this.box.disabled = false;
    // Disabling took the focus away.
    if (!this.choice.hidden && document.activeElement === document.body) this.box.focus({ preventScroll: true });
  }

  /** Who sees the end need not be told that it took long: said once, and only where a mail waits for that. */
  #saySeen() {
    const { is_owner, notifications } = this.#told;
    const waits = notifications.some(({ reason, state }) => reason === "long" && state === "PENDING");
    // Clocks may differ: where the end was seen as it came, none is asked.
    const isFresh = this.#sawEnd || Date.now() - Date.parse(this.record.finished_at) < JUST_ENDED;
    if (this.#isSeen || this.#isClosed || !is_owner || !waits || !isFresh) return;
    if (document.visibilityState !== "visible") return;
    this.#isSeen = true;
    // Where it cannot be said the mail comes: no harm is done.
    api.seen(this.record.id).then(() => this.#plan(0), () => {});
  }
}

function described({ to, state, note, in_digest: inDigest, due_at: dueAt, deliveries }) {
  const line = h("p", {}, h("strong", {}, to), " · ", stateIn({ state, dueAt, deliveries }));
  const why = [inDigest && gettext("One mail tells of this and other executions."), note && translated(note)];
  return h(
    "li",
    { "data-state": state },
    line,
    ...why.map((sentence) => sentence && h("p", { class: "quiet" }, sentence)),
    deliveries.length > 0 && h("ol", { class: "tries" }, ...deliveries.map(tried)),
  );
}

/** The word for a state, with the time of the next try where one comes. */
function stateIn({ state, dueAt, deliveries }) {
  if (state !== "PENDING" || !deliveries.length) return h("span", { class: "mail-state" }, STATES[state]());
  const sentence = fill(gettext("is tried again at %(time)s"), { time: moment(dueAt) });
  return h("span", { class: "mail-state" }, sentence);
}

function tried({ at, outcome, answer, seconds }) {
  return h(
    "li",
    {},
    h("span", {}, h("time", { datetime: at }, moment(at)), ` · ${OUTCOMES[outcome]()} · ${span(seconds)}`),
    answer && h("span", { class: "mail-answer" }, translated(answer)),
  );
}
