/*
 * Keeps the records of running executions fresh. A browser opens six connections to a host, over all its
 * tabs, and one stream takes one: so at most four streams are open, for the execution that is looked at and
 * the newest others; the rest is asked for every three seconds.
 */

import * as api from "./api.js";
import { isFinal } from "./executions.js";

const STREAMS = 4;
const PAUSES = [500, 1000, 2000, 4000, 8000, 15_000];
const LIST_EVERY = 3000;
const CURRENT_EVERY = 1000;
// A stream that the network swallowed in silence is found out by asking now and then all the same.
const CHECK_EVERY = 30_000;
// A tab nobody looks at gives its streams back after a while, and keeps its title right by asking.
const HIDDEN_AFTER = 10_000;
const ASLEEP_EVERY = 15_000;

/**
 * Takes one of the slots that all tabs share, until the returned function is called; null where none is free.
 * Web Locks exist on https and localhost only; elsewhere each tab counts for itself.
 */
async function takeSlot() {
  if (!navigator.locks) return () => {};
  for (let number = 1; number <= STREAMS; number += 1) {
    const release = await new Promise((resolve) => {
      navigator.locks
        .request(`stream-${number}`, { ifAvailable: true }, (lock) =>
          lock ? new Promise((free) => resolve(free)) : resolve(null),
        )
        .catch(() => resolve(null));
    });
    if (release) return release;
  }
  return null;
}

/** One execution's stream, opened again after every loss until the final snapshot has come. */
class Stream {
  #source = null;
  #timer = 0;
  #losses = 0;
  #closed = false;
  #heard = Date.now();

  constructor(id, executions, release) {
    this.id = id;
    this.executions = executions;
    this.release = release;
    this.#open();
  }

  #open() {
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#source = new EventSource(`/task-status/${this.id}/`);
    this.#source.onmessage = (event) => {
      this.#losses = 0;
      this.#heard = Date.now();
      const snapshot = JSON.parse(event.data);
      this.executions.connection(this.id, "live");
      this.executions.snapshot(this.id, snapshot);
    };
    this.#source.onerror = () => {
      if (this.#closed) return;
      // While CONNECTING the browser tries by itself; CLOSED is its last word, and ours begins.
      if (this.#source.readyState === EventSource.CLOSED) this.#again();
      else this.#lost();
    };
  }

  #lost() {
    this.#losses += 1;
    // A stream that only ended and opens again at once is no loss worth a word.
    setTimeout(() => {
      if (!this.#closed && this.#losses > 0) this.executions.connection(this.id, "lost");
    }, 700);
  }

  async #again() {
    const pause = PAUSES[Math.min(this.#losses, PAUSES.length - 1)];
    this.#lost();
    this.#timer = setTimeout(async () => {
      // EventSource hides the status; asking once tells whether there is anything left to wait for.
      await readOnce(this.id, this.executions);
      if (!this.#closed) this.#open();
    }, pause * (0.75 + Math.random() / 2));
  }

  /** Opens again now, unless it is open. */
  hurry() {
    if (this.#source.readyState !== EventSource.OPEN) this.#open();
  }

  /** Opens again where the server's row shows that this stream missed something. */
  compare(row, record) {
    const differs = row.status !== record.status || row.progress !== record.progress;
    if (differs && Date.now() - this.#heard > 10_000) this.#open();
  }

  close() {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#source.close();
    this.release();
    if (this.executions.get(this.id).connection !== "gone") this.executions.connection(this.id, "none");
  }
}

/** Reads an execution with its details; returns the problem, if any. One that is not there is marked "gone". */
export async function readOnce(id, executions) {
  try {
    const { details, ...row } = await api.read(id);
    if (!executions.get(id)) executions.merge([row]);
    if (details) executions.snapshot(id, { state: row.state, details });
    executions.merge([row]);
    return null;
  } catch (problem) {
    if (problem.status === 404) executions.connection(id, "gone");
    return problem;
  }
}

export class Watch {
  #streams = new Map();
  #current = null;
  #listed = 0;
  #hiddenTimer = 0;
  #asleep = false;
  #arranging = false;
  #again = false;
  #asking = false;

  constructor(executions) {
    this.executions = executions;
    this.others = "BroadcastChannel" in globalThis ? new BroadcastChannel("executions") : null;
    this.others?.addEventListener("message", () => this.refresh());
    executions.addEventListener("order", () => this.arrange());
    executions.addEventListener("change", ({ detail: { record, before } }) => this.#changed(record, before));
    addEventListener("online", () => this.#wake());
    addEventListener("pageshow", (event) => event.persisted && this.#wake());
    addEventListener("pagehide", () => this.#sleep());
    document.addEventListener("visibilitychange", () => this.#visibility());
    setInterval(() => this.#tick(), CURRENT_EVERY);
    this.arrange();
  }

  /** The execution that is looked at gets a stream before all others. */
  look(id) {
    this.#current = id;
    this.arrange();
  }

  /** Tells the other tabs that there is something new. */
  tell() {
    this.others?.postMessage("new");
  }

  async refresh() {
    this.#listed = Date.now();
    const rows = await api.list().catch(() => []); // the next tick asks again
    this.executions.merge(rows);
    for (const row of rows) {
      const record = this.executions.get(row.id);
      if (isFinal(record)) continue;
      if (isFinal(row)) await readOnce(row.id, this.executions);
      else this.#streams.get(row.id)?.compare(row, record);
    }
  }

  #changed(record, before) {
    const ended = isFinal(record) && !isFinal(before);
    const vanished = record.connection === "gone" && before.connection !== "gone";
    if (ended || vanished) this.arrange();
    // The server knows exactly when it began and ended.
    if (ended) readOnce(record.id, this.executions);
  }

  #wanted() {
    if (this.#asleep) return [];
    const running = this.executions.unfinished();
    running.sort((a, b) => (b.id === this.#current) - (a.id === this.#current));
    return running.slice(0, STREAMS).map((record) => record.id);
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
        this.#streams.set(id, new Stream(id, this.executions, release));
      }
    } while (this.#again);
    this.#arranging = false;
  }

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
    const streamed = running.every((record) => this.#streams.has(record.id));
    const pause = this.#asleep ? ASLEEP_EVERY : streamed ? CHECK_EVERY : LIST_EVERY;
    if (Date.now() - this.#listed < pause) return;
    await this.refresh();
    this.arrange();
  }

  #visibility() {
    clearTimeout(this.#hiddenTimer);
    if (document.hidden) this.#hiddenTimer = setTimeout(() => this.#sleep(), HIDDEN_AFTER);
    else this.#wake();
  }

  #sleep() {
    this.#asleep = true;
    this.arrange();
  }

  #wake() {
    this.#asleep = false;
    for (const stream of this.#streams.values()) stream.hurry();
    this.refresh();
    this.arrange();
  }
}
