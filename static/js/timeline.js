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

  constructor(name) {
    this.name = name;
    this.entries = h("ol", { class: "entries" });
    this.more = h("button", { class: "link more", type: "button", hidden: true, onclick: () => this.#showAll() });
    this.mark = h("span", { class: "step-mark" });
    this.state = h("span", { class: "visually-hidden" });
    this.again = h("span", { class: "step-again", hidden: true }, gettext("begun again"));
    this.turn = h("span", { class: "step-turn" });
    const words = [h("span", {}, name), " ", this.turn, " ", this.state, " ", this.again];
    const title = name && h("p", { class: "step-title" }, this.mark, ...words);
    this.children = h("ol", { class: "timeline", hidden: true });
    this.element = h("li", { class: name ? "step" : "loose" }, title, this.more, this.entries, this.children);
  }

  setStep({ state, restarted }, turn) {
    this.again.hidden = !restarted;
    this.turn.hidden = turn < 2;
    setText(this.turn, String(turn));
    if (this.element.dataset.state === state) return;
    this.element.dataset.state = state;
    this.mark.replaceChildren(...(state ? [icon(STEP_STATES[state] ? state : "waiting")] : []));
    setText(this.state, state && `(${STEP_STATES[state]?.() ?? state})`);
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

/** The key of the step that a step lies in, null at the top. One that begins with a hash stands for a long way. */
function parentOf(key) {
  const parent = key.slice(0, Math.max(0, key.lastIndexOf("/")));
  return !parent || /^[0-9a-f]{16}$/.test(parent) ? null : parent;
}

/** The name that a step's key ends with, as main/run.py makes it. */
const nameOf = (key) => decodeURIComponent(key.slice(key.lastIndexOf("/") + 1).replace(/#.*/, ""));

/**
 * The steps by key, each after the one that it lies in. The server may tell that one later, as it ends later, or not
 * at all: where it was not finished before it is run again, or where steps are many. Then nothing is said of its state.
 */
function byKey(steps) {
  const told = new Map(steps.map((step) => [keyOf(step), step]));
  const known = new Map();
  const add = (key) => {
    const parent = parentOf(key);
    if (parent !== null && !known.has(parent)) add(parent);
    known.set(key, told.get(key) ?? { step: key, name: nameOf(key), state: "" });
  };
  for (const key of told.keys()) if (!known.has(key)) add(key);
  return known;
}

/**
 * The steps as a tree, in the order in which they began, each with its entries; entries of no step between them, as
 * they came. A step of a name that another beside it had before gets the number of its turn: an agent's second
 * answer, a loop's third round.
 */
function arranged(entries, steps) {
  const known = byKey(steps);
  const roots = [];
  const nodes = new Map();
  const node = (key) => {
    if (!nodes.has(key)) {
      const parent = parentOf(key);
      const beside = parent === null ? roots : node(parent).children;
      const turn = 1 + beside.filter(({ step }) => step?.name === known.get(key).name).length;
      nodes.set(key, { key, step: known.get(key), turn, entries: [], children: [] });
      beside.push(nodes.get(key));
    }
    return nodes.get(key);
  };
  let loose = 0;
  for (const entry of entries) {
    const key = [entry.step, entry.step_name].find((one) => known.has(one));
    if (key === undefined) {
      if (!roots.length || roots.at(-1).step) roots.push({ key: loose++, step: null, entries: [], children: [] });
      roots.at(-1).entries.push(entry);
    } else {
      // Steps before this one that had nothing to say keep their place.
      for (const earlier of known.keys()) {
        node(earlier);
        if (earlier === key) break;
      }
      if (!isTitle(entry, known.get(key))) node(key).entries.push(entry);
    }
  }
  for (const key of known.keys()) node(key);
  return roots;
}

/** A step that the end of a cancelled execution broke off did not fail: it was stopped. */
const stopped = (step) => (["running", "failed"].includes(step.state) ? { ...step, state: "cancelled" } : step);

export class Timeline {
  #blocks = new Map();

  constructor() {
    this.list = h("ol", { class: "timeline" });
    this.left = h("p", { class: "quiet", hidden: true });
    this.element = h("section", { class: "steps", hidden: true }, h("h3", {}, gettext("Steps")), this.left, this.list);
  }

  update({ step_results: entries = [], steps = [], omitted: left = 0 }, cancelled = false) {
    const before = this.#blocks;
    this.#blocks = new Map();
    this.#place(this.list, arranged(entries, steps), before, cancelled);
    this.left.hidden = !left;
    if (left) {
      const text = ngettext("%(count)s entry is left out.", "%(count)s entries are left out.", left);
      setText(this.left, fill(text, { count: left }));
    }
    this.element.hidden = !this.#blocks.size;
  }

  /** Puts blocks into a list and what lies in them into theirs; those that are there already stay as they are. */
  #place(list, nodes, before, cancelled) {
    for (const { key, step } of nodes) this.#blocks.set(key, before.get(key) ?? new Block(step?.name));
    const wanted = new Set(nodes.map(({ key }) => this.#blocks.get(key).element));
    for (const element of [...list.children]) if (!wanted.has(element)) element.remove();
    nodes.forEach(({ key, step, turn, entries, children }, index) => {
      const block = this.#blocks.get(key);
      if (list.children[index] !== block.element) list.insertBefore(block.element, list.children[index] ?? null);
      if (step) block.setStep(cancelled ? stopped(step) : step, turn);
      block.setEntries(entries);
      block.children.hidden = !children.length;
      this.#place(block.children, children, before, cancelled);
    });
  }
}
