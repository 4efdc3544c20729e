/* The page: a form to start flows, one execution or an overview on the stage, and the list of all. */

import * as api from "./api.js";
import { h, setText } from "./dom.js";
import { Executions, isFinal, phase } from "./executions.js";
import { Fields } from "./form.js";
import { Overview } from "./overview.js";
import { PHASES, Panel, placeholder } from "./panel.js";
import { Past } from "./past.js";
import { readOnce } from "./read_once.js";
import { translated } from "./sentences.js";
import { Watch } from "./watch.js";
import { fill, gettext } from "./words.js";

const data = JSON.parse(document.getElementById("page-data").textContent);
const flows = new Map(data.flows.map((flow) => [flow.name, flow]));
// What this person may not start, for whatever reason, is disabled in the form.
for (const radio of document.querySelectorAll("input[name=flow]:disabled")) flows.get(radio.value).available = false;
const stage = document.getElementById("stage");
const announcer = document.getElementById("announcer");
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

const executions = new Executions();
executions.merge(data.executions);
const seenRunning = new Set(executions.unfinished().map((record) => record.id));
const newestAtFirst = Date.parse(executions.all()[0]?.created_at ?? 0);
const pastBox = document.getElementById("past");
const isUser = pastBox.hasAttribute("data-user");
const watch = new Watch(executions, isUser);
const past = new Past(pastBox, executions);
const overview = new Overview();

let current = null; // the id of the execution on the stage, null for the overview
let panel = null;

/* What is said to screen readers */

function say(text) {
  const line = h("p", {}, text);
  announcer.append(line);
  setTimeout(() => line.remove(), 10_000);
}

function announce(record, before) {
  const title = record.title ?? record.flow;
  const now = phase(record);
  if (record.connection === "lost" && before.connection !== "lost" && record.id === current)
    say(gettext("The connection was lost. Connecting again."));
  if (record.state === before.state) return;
  if (now === "done") say(fill(gettext("%(title)s is done. The answer is there."), { title }));
  else if (now === "failed") say(fill(gettext("%(title)s failed: %(status)s"), { title, status: translated(record.status) }));
  else say(`${title}: ${PHASES[now]()}`);
}

/* The stage */

function entitle() {
  const record = executions.get(current);
  const words = record ? [PHASES[phase(record)](), record.title ?? record.flow] : [gettext("Flows")];
  document.title = [...words, "API-CTM"].join(" · ");
}

function place(element) {
  if (stage.firstElementChild !== element || stage.children.length > 1) stage.replaceChildren(element);
}

function bringIntoView() {
  const { top, bottom } = stage.getBoundingClientRect();
  if (top >= 0 && top < innerHeight * 0.6) return;
  if (top < 0 && bottom > innerHeight * 0.4 && top > -80) return;
  stage.scrollIntoView({ block: "start", behavior: reducedMotion.matches ? "auto" : "smooth" });
}

async function show(id, { focus = false } = {}) {
  current = id;
  panel?.close();
  panel = null;
  watch.look(id);
  past.mark(id);
  if (!id) {
    place(overview.element);
    drawOverview();
    entitle();
    return;
  }
  let record = executions.get(id);
  if (!record || (isFinal(record) && !record.details)) {
    if (!record) place(placeholder());
    else mount(record);
    const problem = await readOnce(id, executions);
    if (current !== id) return;
    record = executions.get(id);
    if (problem) {
      place(placeholder(problem, () => show(id, { focus: true })));
      if (focus) stage.querySelector("h2").focus();
      return;
    }
    past.mark(id);
  }
  mount(record);
  if (focus) panel.heading.focus({ preventScroll: true });
}

function mount(record) {
  if (panel?.record === record) {
    panel.update();
  } else {
    panel?.close();
    panel = new Panel(record, flows.get(record.flow), { runAgain, change, cancel, say, timeOf, isUser });
    place(panel.element);
  }
  entitle();
}

/** When an execution was started, where the page knows it. */
const timeOf = (id) => executions.get(id)?.created_at;

function drawOverview() {
  overview.update(executions.all().filter((record) => seenRunning.has(record.id) && record.connection !== "gone"));
}

/* Changes come up to ten times a second for each execution: they are drawn once a frame. */

let drawing = 0;

function draw() {
  drawing = 0;
  if (current) panel?.update();
  else drawOverview();
  entitle();
}

executions.addEventListener("change", ({ detail: { record, before } }) => {
  announce(record, before);
  if (record.connection === "live" && before.connection !== "live") reached();
  if (current && record.id !== current) return;
  // A hidden tab gets no frames, but its title should tell.
  if (document.hidden) draw();
  else drawing ||= requestAnimationFrame(draw);
});
executions.addEventListener("order", () => {
  // What was started elsewhere may have ended before it is known here.
  const ranSince = executions.all().filter((record) => Date.parse(record.created_at) > newestAtFirst);
  for (const record of [...executions.unfinished(), ...ranSince]) seenRunning.add(record.id);
  if (!current) drawOverview();
});
setInterval(() => panel?.tick(), 1000);

/* Addresses */

const idIn = (path) => path.match(/^\/executions\/([0-9a-f-]{36})\/?$/)?.[1] ?? null;

function go(path, options) {
  if (location.pathname !== path) history.pushState(null, "", path);
  return show(idIn(path), options);
}

document.addEventListener("click", (event) => {
  if (event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  const link = event.target.closest("a[href]");
  if (!link || link.target || link.origin !== location.origin || link.hash) return;
  if (!idIn(link.pathname) && link.pathname !== "/") return;
  event.preventDefault();
  go(link.pathname, { focus: true });
  bringIntoView();
});
addEventListener("popstate", () => show(idIn(location.pathname)));

/* Starting */

const form = document.getElementById("start");
const button = document.getElementById("start-button");
const errorBox = document.getElementById("start-error");
const waitLine = document.getElementById("start-wait");
const notifyBox = document.getElementById("notify"); // null for visitors, who have no address
const NOTIFY = "notify?"; // beside the names of flows, which have no question mark
const drafts = JSON.parse(sessionStorage.getItem("drafts") ?? "{}");
let fields = null;
let chosen = null;
let starting = false;

function choose(name, values = null) {
  if (fields && chosen) drafts[chosen] = fields.draft();
  chosen = name;
  fields = new Fields(document.getElementById("fields"), flows.get(name), values);
  if (!values) fields.restore(drafts[name]);
  const radio = form.querySelector(`input[value="${CSS.escape(name)}"]`);
  radio.checked = true;
  radio.closest("label").scrollIntoView({ block: "nearest" });
  if (starting) return;
  complain("");
  button.disabled = false;
}

function keepDraft() {
  if (fields) drafts[chosen] = fields.draft();
  drafts[""] = chosen;
  drafts[NOTIFY] = notifyBox?.checked;
  sessionStorage.setItem("drafts", JSON.stringify(drafts));
}

/** @param passes whether it is over as soon as the server answers again */
function complain(sentence, passes = false) {
  if (!errorBox) return;
  errorBox.hidden = !sentence;
  errorBox.toggleAttribute("data-passes", passes);
  setText(errorBox, sentence);
}

/** What was said of a server that could not be reached does not hold any more. */
function reached() {
  if (errorBox?.hasAttribute("data-passes")) complain("");
  panel?.reached();
}

api.server.addEventListener("reached", reached);

/** Says that a start is sent again, and is being waited for. */
function wait() {
  const sentence = gettext("The server does not answer. Trying again …");
  if (waitLine.hidden) say(sentence);
  setText(waitLine, sentence);
  waitLine.hidden = false;
}

/** Shows an execution that was just started, unless who started it has gone to look at something else since. */
function present({ id, flow, inputs, origin = null }, at) {
  complain("");
  const row = { id, flow, inputs, origin, title: flows.get(flow)?.title ?? flow, state: "PENDING", progress: 0 };
  const times = { created_at: new Date().toISOString(), started_at: null, finished_at: null, duration: null };
  // The stream of all may have told of it before the start was answered.
  if (!executions.get(id)) executions.merge([{ ...row, ...times, status: gettext("Waiting to begin") }]);
  say(fill(gettext("%(title)s started"), { title: row.title }));
  watch.tell();
  if (location.pathname !== at) return;
  go(`/executions/${id}/`);
  bringIntoView();
}

async function submit(event) {
  event.preventDefault();
  if (starting) return; // Ctrl+Enter asks no button
  complain("");
  const [flow, asked, at] = [chosen, fields, location.pathname];
  const inputs = asked.inputs();
  if (!inputs) return;
  starting = button.disabled = true;
  button.setAttribute("aria-busy", "true");
  try {
    const notify = notifyBox?.checked ?? false;
    present({ id: await api.start(flow, inputs, notify, wait), flow, inputs }, at);
  } catch (problem) {
    const others = asked.complain(problem.errors ?? {});
    const atFields = Object.keys(problem.errors ?? {}).length - others.length > 0;
    complain(others.length ? others.join(" ") : atFields ? "" : problem.message, problem.passes);
  }
  waitLine.hidden = true;
  starting = button.disabled = false;
  button.removeAttribute("aria-busy");
  // Disabling took the focus away; the next start is one key away.
  if (document.activeElement === document.body) button.focus({ preventScroll: true });
}

async function runAgain({ id, flow, inputs }, from) {
  const at = location.pathname;
  present({ id: await api.runAgain(id, from), flow, inputs: inputs ?? {}, origin: id }, at);
  panel?.heading.focus({ preventScroll: true });
}

function change(record) {
  choose(record.flow, record.inputs ?? {});
  form.scrollIntoView({ block: "nearest", behavior: reducedMotion.matches ? "auto" : "smooth" });
  fields.fields[0]?.control.focus({ preventScroll: true });
}

async function cancel(record) {
  await api.cancel(record.id);
  await readOnce(record.id, executions);
}

if (form) {
  form.addEventListener("change", (event) => event.target.name === "flow" && choose(event.target.value));
  form.addEventListener("submit", submit);
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  addEventListener("pagehide", keepDraft);
  if (notifyBox && !notifyBox.disabled) notifyBox.checked = drafts[NOTIFY] === true;
  const available = data.flows.filter((flow) => flow.available).map((flow) => flow.name);
  const first = available.includes(drafts[""]) ? drafts[""] : available[0];
  if (first) choose(first);
}

show(data.execution_id ?? null).then(() => {
  if (data.execution_id && scrollY === 0) bringIntoView();
});
