/* One execution in full: state, progress, answer, steps. */

import * as api from "./api.js";
import { growText, h, icon, setText } from "./dom.js";
import { isFinal, phase, seconds } from "./executions.js";
import { Mail } from "./mail.js";
import { translated } from "./sentences.js";
import { readable } from "./text.js";
import { Timeline, folded, omitted } from "./timeline.js";
import { ago, gettext, moment, span } from "./words.js";

export const PHASES = {
  waiting: () => gettext("Waiting"),
  running: () => gettext("Running"),
  done: () => gettext("Done"),
  failed: () => gettext("Failed"),
  cancelled: () => gettext("Cancelled"),
};

/** A progress bar that says its figure and what happens in words. */
export class Progress {
  constructor() {
    this.bar = h("div", { class: "bar-fill" });
    this.element = h(
      "div",
      { class: "bar", role: "progressbar", "aria-valuemin": "0", "aria-valuemax": "100", "aria-label": gettext("Progress") },
      this.bar,
    );
  }

  update(record) {
    const value = Math.round(record.progress ?? 0);
    this.bar.style.transform = `scaleX(${value / 100})`;
    this.element.classList.toggle("waiting", record.state === "PENDING" && !value);
    this.element.setAttribute("aria-valuenow", String(value));
    this.element.setAttribute("aria-valuetext", `${value} % · ${translated(record.status) ?? ""}`);
  }
}

/** The word for the state with its drawing; drawn again only when it changes. */
export class StateMark {
  constructor() {
    this.element = h("span", { class: "state" });
  }

  update(record) {
    const now = phase(record);
    if (this.element.dataset.phase === now) return;
    this.element.dataset.phase = now;
    this.element.replaceChildren(icon(now), h("span", {}, PHASES[now]()));
  }
}

/** The answer while it is written (plain text) and when it is there (the server's safe HTML). */
class Answer {
  #settled = false;
  #fetching = false;

  constructor() {
    this.body = h("div", { class: "answer-body" });
    this.heading = h("h3", {}, gettext("Answer"));
    this.element = h("section", { class: "answer" }, this.heading, this.body);
    this.growing = h("div", { class: "growing" });
    this.skeleton = h("div", { class: "skeleton", "aria-hidden": "true" }, h("i"), h("i"), h("i"));
  }

  update(record) {
    if (this.#settled) return;
    const details = record.details;
    const now = phase(record);
    const partial = details?.partial_result;
    if (now === "done") this.#finish(record);
    else if (partial) {
      if (this.growing.parentNode !== this.body) this.body.replaceChildren(this.growing);
      growText(this.growing, readable(partial));
      this.growing.classList.toggle("writing", now === "running");
    } else if (isFinal(record)) this.element.hidden = true;
    else if (this.skeleton.parentNode !== this.body) this.body.replaceChildren(this.skeleton);
    if (now === "failed" || now === "cancelled") setText(this.heading, gettext("Unfinished answer"));
  }

  async #finish(record) {
    if (this.#fetching || !record.details) return;
    this.#fetching = true;
    this.growing.classList.remove("writing");
    const result = record.details.final_result;
    if (result === null || result === undefined || result === "") {
      this.#settle(h("p", { class: "quiet" }, gettext("This flow ended without an answer.")));
      return;
    }
    try {
      const whole = await wholeResult(record);
      if (typeof whole === "string") this.#settle(prose(await api.answer(record.id)));
      else this.#settle(folded(whole, gettext("Result"), true));
    } catch {
      this.#plain(result);
      this.#fetching = false; // the next change tries again
    }
  }

  #settle(element) {
    this.#settled = true;
    this.body.replaceChildren(element);
  }

  #plain(result) {
    if (typeof result === "string") {
      if (this.growing.parentNode !== this.body) this.body.replaceChildren(this.growing);
      growText(this.growing, readable(result));
    } else this.body.replaceChildren(isOmitted(result) ? omitted(result) : folded(result, gettext("Result")));
  }
}

const isOmitted = (value) => value !== null && typeof value === "object" && "omitted_bytes" in value;

/** The result; one too large for a snapshot is read on its own. */
async function wholeResult(record) {
  const result = record.details.final_result;
  return isOmitted(result) ? (await api.read(record.id)).details.final_result : result;
}

/** The answer as the server rendered it and made safe: the only HTML that is ever put into the page. */
function prose(html) {
  const element = h("div", { class: "prose" });
  element.innerHTML = html;
  for (const block of element.querySelectorAll("pre")) block.tabIndex = 0;
  for (const table of element.querySelectorAll("table")) {
    const frame = h("div", { class: "table", tabindex: "0", role: "group", "aria-label": gettext("Table") });
    table.replaceWith(frame);
    frame.append(table);
  }
  for (const link of element.querySelectorAll("a[href]")) {
    if (link.origin !== location.origin) link.target = "_blank";
  }
  return element;
}

function inputValue(value) {
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return text.length > 400 ? h("details", {}, h("summary", {}, `${text.slice(0, 120)} …`), text) : text;
}

function inputList(record, flow) {
  const rows = Object.entries(record.inputs ?? {}).filter(([, value]) => value !== null && value !== "");
  if (!rows.length) return null;
  const title = (name) => flow?.schema?.properties?.[name]?.title ?? name;
  return h(
    "dl",
    { class: "inputs" },
    ...rows.map(([name, value]) => h("div", {}, h("dt", {}, title(name)), h("dd", {}, inputValue(value)))),
  );
}

async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // Without https there is no clipboard API; the old way still works.
  const area = h("textarea", { class: "visually-hidden" });
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

/** Where an execution comes from that was run again, with the way there; its time where the page knows it. */
function originOf({ origin }, time) {
  const link = h("a", { href: `/executions/${origin}/`, title: time && moment(time) }, gettext("an earlier execution"));
  const [before, after] = gettext("Run again from %(execution)s").split("%(execution)s");
  return h("span", { class: "origin" }, before, link, after);
}

/** @param actions {runAgain(record, from), change(record), cancel(record), say(text), timeOf(id), isUser} */
export class Panel {
  #asked = 0;

  constructor(record, flow, actions) {
    this.record = record;
    this.actions = actions;
    this.heading = h("h2", { id: "execution-title", tabindex: "-1" }, record.title ?? record.flow ?? gettext("Execution"));
    this.state = new StateMark();
    this.took = h("span", { class: "took" });
    this.time = h("span", { class: "when" });
    this.status = h("p", { class: "status" });
    this.percent = h("span", { class: "percent", "aria-hidden": "true" });
    this.progress = new Progress();
    this.now = h("div", { class: "now" }, h("div", { class: "now-line" }, this.status, this.percent), this.progress.element);
    this.connection = h("p", { class: "connection", hidden: true });
    this.error = h("div", { class: "failure", hidden: true });
    this.answer = new Answer();
    this.timeline = new Timeline();
    this.cancelButton = this.#button(gettext("Cancel"), () => this.#cancel());
    this.copyButton = this.#button(gettext("Copy answer"), () => this.#copy());
    this.againButton = this.#button(gettext("Run again"), () => this.#runAgain(this.againButton, "start"));
    this.onButton = this.#button("", () => this.#runAgain(this.onButton, "failed_step"));
    this.onButton.title = gettext("The finished steps are kept, and not done again.");
    this.changeButton = this.#button(gettext("Change inputs"), () => actions.change(this.record));
    this.problem = h("p", { class: "field-error", role: "alert", hidden: true });
    this.mail = actions.isUser ? new Mail(record, (text, passes) => this.complain(text, passes)) : null;
    this.element = h(
      "article",
      { class: "execution", "aria-labelledby": "execution-title" },
      h(
        "header",
        {},
        h("div", { class: "title-line" }, this.heading, this.state.element),
        h(
          "p",
          { class: "facts" },
          this.time,
          this.took,
          record.origin && originOf(record, actions.timeOf(record.origin)),
          h("a", { class: "permalink", href: `/executions/${record.id}/` }, gettext("Link to this execution")),
        ),
        inputList(record, flow),
      ),
      this.now,
      this.connection,
      this.error,
      h(
        "div",
        { class: "actions" },
        ...[this.cancelButton, this.copyButton, this.againButton, this.onButton, this.changeButton],
      ),
      this.mail?.choice,
      this.problem,
      this.answer.element,
      this.timeline.element,
      this.mail?.history,
    );
    this.hasInputs = Object.keys(flow?.schema?.properties ?? {}).length > 0;
    this.canRun = flow?.available === true;
    this.update();
  }

  #button(text, onclick) {
    return h("button", { type: "button", class: "secondary", onclick }, text);
  }

  update() {
    const record = this.record;
    const now = phase(record);
    const final = isFinal(record);
    const focused = document.activeElement;
    const onPassing = focused === this.cancelButton || focused === this.mail?.box;
    if (final && this.element.dataset.phase !== now) this.complain("");
    this.element.dataset.phase = now;
    this.state.update(record);
    setText(this.status, translated(record.status) ?? "");
    setText(this.percent, `${Math.round(record.progress ?? 0)} %`);
    this.progress.update(record);
    this.now.hidden = final;
    this.cancelButton.hidden = final || record.connection === "gone";
    this.copyButton.hidden = now !== "done" || !record.details?.final_result;
    this.#again(now);
    this.changeButton.hidden = !final || !this.canRun || !this.hasInputs;
    this.#connection(final);
    this.#error(now);
    this.mail?.update();
    this.answer.update(record);
    if (record.details) this.timeline.update(record.details, now === "cancelled");
    this.tick();
    if (onPassing && focused.closest("[hidden]")) this.#keepFocus();
  }

  /** It is not shown any more. */
  close() {
    this.mail?.close();
  }

  /**
   * The ways to run it again. Whether they are open is for the server to say: its sentence tells what is missing.
   * What never began a step has nothing to keep.
   */
  #again(now) {
    const { details } = this.record;
    const broke = now === "failed" || now === "cancelled";
    this.againButton.hidden = now !== "done" && !broke;
    this.onButton.hidden = !broke || !details?.steps?.length;
    const text = now === "failed" ? gettext("Run again from the failed step") : gettext("Run again from the stopped step");
    setText(this.onButton, text);
    const goesOn = !this.onButton.hidden && details.error?.retryable === true;
    this.onButton.classList.toggle("primary", goesOn);
    this.againButton.classList.toggle("primary", now === "failed" && !goesOn);
  }

  /** Where the focus goes when the button that had it is not there any more. */
  #keepFocus() {
    if (!this.element.isConnected) return;
    const place = [this.cancelButton, this.againButton].find((button) => !button.hidden) ?? this.heading;
    place.focus({ preventScroll: true });
  }

  /** What changes by itself as time goes by. */
  tick() {
    const { record } = this;
    if (record.created_at) {
      setText(this.time, ago(record.created_at));
      this.time.title = moment(record.created_at);
    }
    const took = seconds(record);
    const whole = isFinal(record) ? took : Math.floor(took);
    setText(this.took, took === null ? "" : span(whole));
    this.took.hidden = took === null;
  }

  #connection(final) {
    const lost = !final && this.record.connection === "lost";
    const gone = !final && this.record.connection === "gone";
    this.connection.hidden = !lost && !gone;
    if (lost) setText(this.connection, gettext("The connection was lost. Connecting again; the execution goes on."));
    if (gone) setText(this.connection, gettext("This execution is not there any more."));
    this.element.classList.toggle("stale", lost || gone);
  }

  #error(now) {
    const { details, status } = this.record;
    this.error.hidden = now !== "failed";
    if (now !== "failed") return;
    const sentence = translated(details?.error?.message || status) || gettext("The execution failed.");
    if (this.error.dataset.sentence === sentence) return;
    this.error.dataset.sentence = sentence;
    this.error.replaceChildren(h("p", { class: "failure-sentence" }, sentence));
    if (details?.error?.retryable) this.error.append(h("p", {}, gettext("This may pass: running it again can help.")));
  }

  /** @param passes whether it is over as soon as the server answers again */
  complain(text, passes = false) {
    this.problem.hidden = !text;
    this.problem.toggleAttribute("data-passes", passes);
    setText(this.problem, text);
  }

  reached() {
    if (this.problem.hasAttribute("data-passes")) this.complain("");
  }

  async #runAgain(button, from) {
    const buttons = [this.againButton, this.onButton];
    for (const each of buttons) each.disabled = true;
    button.setAttribute("aria-busy", "true");
    this.complain("");
    try {
      await this.actions.runAgain(this.record, from);
    } catch (problem) {
      this.complain(problem.message, problem.passes);
    }
    for (const each of buttons) each.disabled = false;
    button.removeAttribute("aria-busy");
    // Disabling took the focus away.
    if (this.element.isConnected && document.activeElement === document.body) button.focus({ preventScroll: true });
  }

  async #cancel() {
    this.cancelButton.disabled = true;
    this.complain("");
    try {
      await this.actions.cancel(this.record);
    } catch (problem) {
      if (problem.status !== 409) this.complain(problem.message, problem.passes);
    }
    this.cancelButton.disabled = false;
    this.update();
    // Disabling took the focus away.
    if (document.activeElement === document.body) this.#keepFocus();
  }

  async #copy() {
    try {
      const text = await wholeResult(this.record);
      await copy(typeof text === "string" ? text : JSON.stringify(text, null, 2));
    } catch {
      this.complain(gettext("The answer could not be copied."));
      return;
    }
    this.complain("");
    setText(this.copyButton, gettext("Copied"));
    this.actions.say(gettext("Answer copied"));
    clearTimeout(this.#asked);
    this.#asked = setTimeout(() => setText(this.copyButton, gettext("Copy answer")), 2000);
  }
}

/** In place of a panel: while an execution is read, and when that fails. */
export function placeholder(problem, retry) {
  if (!problem) {
    const lines = h("div", { class: "skeleton", "aria-hidden": "true" }, h("i"), h("i"), h("i"));
    return h("div", { class: "execution", "aria-busy": "true" }, h("p", { class: "quiet" }, gettext("Loading …")), lines);
  }
  const missing = problem.status === 404;
  const sentence = missing
    ? gettext("There is no such execution, or it was started in another browser.")
    : problem.message;
  return h(
    "div",
    { class: "execution" },
    h("h2", { tabindex: "-1" }, missing ? gettext("Not found") : gettext("This execution could not be read")),
    h("p", {}, sentence),
    !missing && h("button", { type: "button", class: "secondary", onclick: retry }, gettext("Try again")),
  );
}
