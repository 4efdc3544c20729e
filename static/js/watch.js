/*
 * Keeps the records of executions fresh. What happens to all of them is told by one stream; the one that is looked
 * at, or the newest on the overview, have a stream each, with the text that grows. While the first is not open, the
 * list is asked for every three seconds.
 */

import * as api from "./api.js";
import { ExecutionStream, STREAMS, takeSlot } from "./execution_stream.js";
import { isFinal } from "./executions.js";
import { OwnStream } from "./own_stream.js";
import { readOnce } from "./read_once.js";

const LIST_EVERY = 3000;
const CURRENT_EVERY = 1000;
// A stream that the network swallowed in silence is found out by asking now and then all the same.
const CHECK_EVERY = 30_000;
// A tab nobody looks at gives its streams back after a while, and keeps its title right by listening to other tabs,
// or by asking.
const HIDDEN_AFTER = 10_000;
const ASLEEP_EVERY = 15_000;
// Executions that were started elsewhere are read one by one up to so many at once; of more, those that the list has.
const FEW = 3;
const GATHER = 150;
// How long the stream of an execution that has ended may take to say so.
const END_WITHIN = 1000;

const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

export class Watch {
  #streams = new Map();
  #sought = new Map(); // what was told last of executions that are not known yet
  #leftOut = new Set(); // those that are older than all in the list
  #seeking = false;
  #current = null;
  #listed = Date.now();
  #hiddenTimer = 0;
  #asleep = false;
  #arranging = false;
  #again = false;
  #asking = false;

  /** @param isUser whether somebody is signed in, who may watch before having started anything */
  constructor(executions, isUser) {
    this.executions = executions;
    this.isUser = isUser;
    // Who signed out, or never started anything, has nothing to watch.
    this.own = new OwnStream(async () => (await this.refresh())?.length !== 0);
    this.own.addEventListener("open", () => this.refresh());
    this.own.addEventListener("told", ({ detail }) => this.#told(detail));
    this.others = "BroadcastChannel" in globalThis ? new BroadcastChannel("executions") : null;
    this.others?.addEventListener("message", () => this.own.isOpen || this.refresh());
    executions.addEventListener("order", () => this.#listen());
    executions.addEventListener("change", ({ detail: { record, before } }) => this.#changed(record, before));
    addEventListener("online", () => this.#wake());
    addEventListener("pageshow", (event) => event.persisted && this.#wake());
    addEventListener("pagehide", () => this.#sleep());
    document.addEventListener("visibilitychange", () => this.#visibility());
    setInterval(() => this.#tick(), CURRENT_EVERY);
    this.#listen();
  }

  /** The execution that is looked at gets the streams, without one those on the overview. */
  look(id) {
    this.#current = id;
    this.arrange();
  }

  /** Tells the other tabs that there is something new: to a visitor's first execution no stream is open. */
  tell() {
    this.others?.postMessage("new");
  }

  /** Reads the list, and by itself what that cannot tell; returns the rows, null where they could not be read. */
  async refresh() {
    this.#listed = Date.now();
    const asked = Date.now();
    const rows = await api.list().catch(() => null); // the next tick asks again
    if (!rows) return null;
    const missed = rows.some((row) => isMissing(row, this.executions.get(row.id)));
    this.executions.merge(rows.filter(({ id }) => !(this.executions.get(id)?.told_at >= asked)));
    if (missed) this.own.doubt();
    const listed = new Map(rows.map((row) => [row.id, row]));
    for (const record of this.executions.unfinished()) {
      const row = listed.get(record.id);
      if (!row || isFinal(row)) await readOnce(record.id, this.executions);
      else this.#streams.get(row.id)?.compare(row, record);
    }
    return rows;
  }

  /* What is told of all */

  /** Opens the stream of all. A visitor who has started nothing would be refused. */
  #listen() {
    if (!this.#asleep && (this.isUser || this.executions.all().length)) this.own.open();
    this.arrange();
  }

  #told(told) {
    const { execution_id: id, state, status, progress } = told;
    const record = this.executions.get(id);
    if (!record) this.#seek(id, told);
    else if (isFinal(record)) return;
    else if (isFinal(told)) this.#ended(id);
    else this.executions.merge([{ id, state, status, progress, told_at: Date.now() }]);
  }

  /** An end counts only with its details: its stream brings them, or else they are read. */
  async #ended(id) {
    if (this.#streams.has(id)) await sleep(END_WITHIN);
    if (!isFinal(this.executions.get(id))) await readOnce(id, this.executions);
  }

  /** Makes an execution known that was started elsewhere. One that this page starts is known in a moment. */
  #seek(id, told) {
    if (this.#leftOut.has(id)) return;
    this.#sought.set(id, told);
    if (!this.#seeking) this.#find();
  }

  async #find() {
    this.#seeking = true;
    await sleep(GATHER);
    const unknown = (id) => !this.executions.get(id);
    const ids = [...this.#sought.keys()].filter(unknown);
    if (ids.length <= FEW) await Promise.all(ids.map((id) => readOnce(id, this.executions)));
    else if (await this.refresh()) ids.filter(unknown).forEach((id) => this.#leftOut.add(id));
    const told = this.#sought;
    this.#sought = new Map();
    this.#seeking = false;
    // What was told meanwhile: an end may have come too late for what was read.
    for (const [id, each] of told) if (unknown(id) ? !ids.includes(id) : isFinal(each)) this.#told(each);
  }

  /* Streams of executions */

  #changed(record, before) {
    const ended = isFinal(record) && !isFinal(before);
    const vanished = record.connection === "gone" && before.connection !== "gone";
    // The server knows exactly when it began and ended, which a stream does not say.
    if (ended && this.#streams.has(record.id)) readOnce(record.id, this.executions);
    if (ended || vanished) this.arrange();
  }

  /** What grows before somebody's eyes: the execution that is looked at, or the newest on the overview. */
  #wanted() {
    if (this.#asleep) return [];
    const ids = this.executions.unfinished().map((record) => record.id);
    return this.#current ? ids.filter((id) => id === this.#current) : ids.slice(0, STREAMS);
  }

  /** Closes the streams that are not wanted any more and opens those that are. */
  async arrange() {
    if (this.#arranging) {
      this.#again = true;
      return;
    }
    this.#arranging = true;
    do {
      this.#again = false;
      const wanted = this.#wanted();
      for (const [id, stream] of this.#streams) {
        if (wanted.includes(id)) continue;
        this.#streams.delete(id);
        stream.close();
      }
      for (const id of wanted) {
        if (this.#streams.has(id)) continue;
        const release = await takeSlot();
        if (!release) break;
        if (!this.#wanted().includes(id)) {
          release();
          continue;
        }
        this.#streams.set(id, new ExecutionStream(id, this.executions, release));
      }
    } while (this.#again);
    this.#arranging = false;
  }

  /* Asking */

  async #tick() {
    const running = this.executions.unfinished();
    if (!running.length || this.#asking) return;
    this.#asking = true;
    await this.#ask(running);
    this.#asking = false;
  }

  async #ask(running) {
    const current = running.find((record) => record.id === this.#current);
    if (current && !this.#streams.has(current.id) && !this.#asleep) {
      const problem = await readOnce(current.id, this.executions);
      this.executions.connection(current.id, !problem ? "none" : problem.status === 404 ? "gone" : "lost");
    }
    const pause = this.own.isOpen ? CHECK_EVERY : this.#asleep ? ASLEEP_EVERY : LIST_EVERY;
    if (Date.now() - this.#listed >= pause) await this.refresh();
    this.arrange(); // another tab may have left a slot
  }

  #visibility() {
    clearTimeout(this.#hiddenTimer);
    if (document.hidden) this.#hiddenTimer = setTimeout(() => this.#sleep(), HIDDEN_AFTER);
    else this.#wake();
  }

  #sleep() {
    this.#asleep = true;
    this.own.close();
    this.arrange();
  }

  #wake() {
    this.#asleep = false;
    this.own.hurry();
    for (const stream of this.#streams.values()) stream.hurry();
    this.refresh();
    this.#listen();
  }
}

/** Whether a row of the list says what should have been told before. */
function isMissing(row, record) {
  return !record || (isFinal(row) && !isFinal(record)) || (row.progress ?? 0) > (record.progress ?? 0);
}
