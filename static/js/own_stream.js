/*
 * One stream tells what happens to all executions, wherever they were started. The tabs share it: the one that holds
 * a lock has it open, and passes on what it hears. When that one closes, the next in the queue goes on after the last
 * event that was heard. Web Locks exist on https and localhost only; elsewhere each tab opens its own.
 */

import { backoff } from "./backoff.js";

const NAME = "own-stream";
const EVENTS = ["EXECUTION_STARTED", "EXECUTION_UPDATED", "EXECUTION_COMPLETED", "EXECUTION_FAILED"];
const BEAT_EVERY = 5000;
// The tab that has it and does not even say so for this long was put to sleep with it.
const SILENT_AFTER = 12_000;
// After so long without an event the stream is not trusted where the server says otherwise.
const QUIET_AFTER = 10_000;

/** Events: "open" when it was opened, so that something may have been missed; "told" with an event's data as detail. */
export class OwnStream extends EventTarget {
  #channel = navigator.locks && new BroadcastChannel(NAME);
  #leaving = null; // ends the wait for the lock, or gives it back
  #source = null; // in the tab that has it
  #timer = 0;
  #losses = 0;
  #last = "";
  #heard = 0;
  #openUntil = 0;

  /** @param mayOpen says, after it was refused, whether to try again */
  constructor(mayOpen) {
    super();
    this.mayOpen = mayOpen;
    this.#channel?.addEventListener("message", ({ data }) => (data === "who" ? this.#beat() : this.#take(data)));
    setInterval(() => this.#beat(), BEAT_EVERY);
  }

  /** Whether it is open, here or in another tab. */
  get isOpen() {
    return Date.now() < this.#openUntil;
  }

  /** Opens it as soon as no other tab has it. */
  open() {
    if (this.#leaving) return;
    this.#leaving = new AbortController();
    const { signal } = this.#leaving;
    const hold = () =>
      new Promise((release) => {
        if (signal.aborted) return release();
        signal.addEventListener("abort", release);
        this.#connect();
      });
    if (!this.#channel) {
      hold();
      return;
    }
    navigator.locks.request(NAME, { signal }, hold).catch(() => {}); // it was closed while it waited
    this.#channel.postMessage("who");
  }

  /** Leaves it to another tab. */
  close() {
    this.#leaving?.abort();
    this.#leaving = null;
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#source = null;
    this.#openUntil = 0;
  }

  /** Opens again now, unless it is open. */
  hurry() {
    if (this.#source && this.#source.readyState !== EventSource.OPEN) this.#connect();
  }

  /** Opens again where the server said something that should have been heard here. */
  doubt() {
    if (this.#source && Date.now() - this.#heard > QUIET_AFTER) this.#connect();
  }

  #connect() {
    clearTimeout(this.#timer);
    this.#source?.close();
    const since = this.#last ? `?last_event_id=${encodeURIComponent(this.#last)}` : "";
    const source = new EventSource(`/api/v1/stream${since}`);
    this.#source = source;
    source.onopen = () => {
      this.#losses = 0;
      this.#heard = Date.now();
      this.#pass({ open: true, opened: true });
    };
    source.onerror = () => {
      this.#pass({ open: false });
      // While CONNECTING the browser tries by itself.
      if (source.readyState === EventSource.CLOSED) this.#refused(source);
    };
    for (const name of EVENTS) {
      source.addEventListener(name, ({ data, lastEventId }) => {
        this.#heard = Date.now();
        this.#pass({ open: true, last: lastEventId, told: JSON.parse(data) });
      });
    }
  }

  #refused(source) {
    this.#last = ""; // in case it was that
    this.#timer = setTimeout(async () => {
      const may = await this.mayOpen();
      if (this.#source !== source) return;
      if (may) this.#connect();
      else this.close();
    }, backoff(this.#losses));
    this.#losses += 1;
  }

  #beat() {
    if (this.#source) this.#pass({ open: this.#source.readyState === EventSource.OPEN });
  }

  #pass(message) {
    this.#channel?.postMessage(message);
    this.#take(message);
  }

  #take({ open, opened = false, last = "", told = null }) {
    const wasOpen = this.isOpen;
    this.#openUntil = open ? Date.now() + SILENT_AFTER : 0;
    if (last) this.#last = last;
    if (open && (opened || !wasOpen)) this.dispatchEvent(new Event("open"));
    if (told) this.dispatchEvent(new CustomEvent("told", { detail: told }));
  }
}
