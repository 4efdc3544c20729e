/* Steps, log lines and tool results. Only what differs from the last snapshot is built anew. */

import { h, icon, setText, webAddress } from "./dom.js";
import { translated } from "./sentences.js";
import { fill, gettext, ngettext, size } from "./words.js";

// So many newest entries of a step are shown at first; the others on demand.
const SHOWN = 6;
const SNIPPET = 260;

function source({ url, title, content }) {
  const address = webAddress(url);
  const text = typeof content === "string" ? content.trim() : "";
  const name = title || (address ? address.host + address.pathname.replace(/\/$/, "") : String(url));
  const outside = address && address.origin !== location.origin;
  const link = address
    ? h("a", { href: address.href, ...(outside && { target: "_blank", rel: "noopener noreferrer" }) }, name)
    : h("span", {}, name);
  const host = title && outside ? h("span", { class: "host" }, address.host) : null;
  const snippet = text.length <= SNIPPET ? text : `${text.slice(0, SNIPPET).replace(/\s+\S*$/, "")} …`;
  const whole =
    text.length > SNIPPET &&
    h("details", {}, h("summary", {}, gettext("Show all of it")), h("p", { class: "snippet" }, text));
  return h("li", {}, link, host, text && h("p", { class: "snippet" }, snippet), whole);
}

const isSource = (item) => item && typeof item === "object" && typeof item.url === "string";

/** JSON, folded; written out only when it is opened. */
export function folded(value, summary, isOpen = false) {
  const text = JSON.stringify(value);
  const label = `${summary ?? gettext("Data")} · ${size(text.length)}`;
  const pre = h("pre", { tabindex: "0" });
  const write = () => pre.textContent || (pre.textContent = JSON.stringify(value, null, 2));
  return h("details", { class: "folded", ontoggle: write, open: isOpen }, h("summary", {}, label), pre);
}

/** What the server left out because of its size, with the address that has it. */
export function omitted({ omitted_bytes: bytes, url }) {
  const address = webAddress(url);
  const text = fill(gettext("Too large to show here (%(size)s)."), { size: size(bytes) });
  return h("p", { class: "quiet" }, text, " ", address && h("a", { href: address.href, target: "_blank" }, gettext("Open it")));
}

function toolData(data) {
  if (Array.isArray(data) && data.length && data.every(isSource))
    return h("ol", { class: "sources" }, ...data.map(source));
  if (data && typeof data === "object" && "omitted_bytes" in data) return omitted(data);
  if (Array.isArray(data) && !data.length) return h("p", { class: "quiet" }, gettext("Nothing was found."));
  if (typeof data === "string") return h("p", { class: "snippet" }, data);
  return folded(data);
}

function entryElement(entry, underStep) {
  if (entry.type !== "tool_result") return h("li", { class: "log" }, translated(entry.message) ?? "");
  const title = [underStep, entry.tool].includes(entry.step_name) ? null : entry.step_name;
  const tool = h("code", { class: "tool" }, entry.tool ?? "");
  return h("li", { class: "tool-result" }, h("p", { class: "tool-line" }, title, title && " ", tool), toolData(entry.data));
}

/** The line that only says that a step begins: its title says so already. */
const isTitle = (entry, step) => entry.type === "log" && entry.message?.replace(/^▶\uFE0F?\s*/u, "") === step?.name;

const STEP_STATES = {
  running: () => gettext("running"),
  done: () => gettext("done"),
  failed: () => gettext("failed"),
  cancelled: () => gettext("stopped"),
};

/** The same number and content: the row that shows it can stay. */
const signature = (entry) => `${entry.n ?? ""} ${entry.type === "log" ? entry.message : JSON.stringify(entry)}`;

/** A run of entries: those of one step, or those that belong to none (key null). */
class Block {
  #rows = [];
  #all = false;

  constructor(key, name, depth) {
    this.key = key;
    this.name = name;
    this.entries = h("ol", { class: "entries" });
    this.more = h("button", { class: "link more", type: "button", hidden: true, onclick: () => this.#showAll() });
    this.mark = h("span", { class: "step-mark" });
    this.state = h("span", { class: "visually-hidden" });
    this.again = h("span", { class: "step-again", hidden: true }, gettext("begun again"));
    const words = [h("span", {}, name), " ", this.state, " ", this.again];
    const title = name && h("p", { class: "step-title" }, this.mark, ...words);
    this.element = h("li", { class: name ? "step" : "loose" }, title, this.more, this.entries);
    if (depth) this.element.style.marginInlineStart = `${depth * 1.5}rem`;
  }

  setStep({ state, restarted }) {
    this.again.hidden = !restarted;
    if (this.element.dataset.state === state) return;
    this.element.dataset.state = state;
    this.mark.replaceChildren(icon(STEP_STATES[state] ? state : "waiting"));
    setText(this.state, `(${STEP_STATES[state]?.() ?? state})`);
  }

  /**
   * Rows that are still told stay as they are. The oldest may have been left out of a long list, and a step
   * that begins again drops what it said before.
   */
  setEntries(entries) {
    const told = entries.map(signature);
    const dropped = told.length ? this.#rows.indexOf(told[0]) : this.#rows.length;
    const start = dropped < 0 ? 0 : dropped;
    let same = 0;
    while (same < told.length && told[same] === this.#rows[start + same]) same += 1;
    if (start === 0 && same === told.length && same === this.#rows.length) return;
    for (let gone = 0; gone < start; gone += 1) this.entries.firstElementChild.remove();
    while (this.entries.children.length > same) this.entries.lastElementChild.remove();
    this.entries.append(...entries.slice(same).map((entry) => entryElement(entry, this.name)));
    this.#rows = told;
    this.#fold();
  }

  #fold() {
    const rows = this.entries.children;
    const hidden = this.#all ? 0 : Math.max(0, rows.length - SHOWN);
    for (let index = 0; index < rows.length; index += 1) {
      if (rows[index].hidden !== index < hidden) rows[index].hidden = index < hidden;
    }
    this.more.hidden = hidden === 0;
    if (hidden) {
      const text = ngettext("Show %(count)s earlier entry", "Show %(count)s earlier entries", hidden);
      setText(this.more, fill(text, { count: hidden }));
    }
  }

  #showAll() {
    this.#all = true;
    this.#fold();
    this.entries.tabIndex = -1;
    this.entries.focus({ preventScroll: true });
  }
}

const keyOf = (step) => step.step ?? step.name;

/** How many other steps this one lies in: their keys begin its own. */
const depth = (key, steps) => steps.filter((step) => key.startsWith(`${keyOf(step)}/`)).length;

/** The entries by step, in the order in which the steps began; those of no step between them, as they came. */
function arranged(entries, steps) {
  const known = new Map(steps.map((step) => [keyOf(step), step]));
  const blocks = [];
  const byStep = new Map();
  const blockOf = (key) => {
    if (!byStep.has(key)) {
      byStep.set(key, { key, step: known.get(key), entries: [] });
      blocks.push(byStep.get(key));
    }
    return byStep.get(key);
  };
  for (const entry of entries) {
    const key = [entry.step, entry.step_name].find((one) => known.has(one));
    if (key === undefined) {
      if (blocks.at(-1)?.key !== null) blocks.push({ key: null, step: null, entries: [] });
      blocks.at(-1).entries.push(entry);
    } else {
      // Steps before this one that had nothing to say keep their place.
      for (const earlier of known.keys()) {
        blockOf(earlier);
        if (earlier === key) break;
      }
      if (!isTitle(entry, known.get(key))) blockOf(key).entries.push(entry);
      else blockOf(key);
    }
  }
  for (const key of known.keys()) blockOf(key);
  return blocks;
}

/** A step that the end of a cancelled execution broke off did not fail: it was stopped. */
const stopped = (step) => (["running", "failed"].includes(step.state) ? { ...step, state: "cancelled" } : step);

export class Timeline {
  #blocks = [];

  constructor() {
    this.list = h("ol", { class: "timeline" });
    this.left = h("p", { class: "quiet", hidden: true });
    this.element = h("section", { class: "steps", hidden: true }, h("h3", {}, gettext("Steps")), this.left, this.list);
  }

  update({ step_results: entries = [], steps = [], omitted: left = 0 }, cancelled = false) {
    const wanted = arranged(entries, steps);
    wanted.forEach(({ key, step, entries: own }, index) => {
      if (this.#blocks[index]?.key !== key) {
        for (const old of this.#blocks.splice(index)) old.element.remove();
        this.#blocks[index] = new Block(key, step?.name, step ? depth(key, steps) : 0);
        this.list.append(this.#blocks[index].element);
      }
      if (step) this.#blocks[index].setStep(cancelled ? stopped(step) : step);
      this.#blocks[index].setEntries(own);
    });
    for (const old of this.#blocks.splice(wanted.length)) old.element.remove();
    this.left.hidden = !left;
    if (left) {
      const text = ngettext("%(count)s entry is left out.", "%(count)s entries are left out.", left);
      setText(this.left, fill(text, { count: left }));
    }
    this.element.hidden = !this.#blocks.length;
  }
}
