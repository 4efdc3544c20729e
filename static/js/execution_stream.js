/*
 * The stream of one execution, with its text as it grows. A browser opens six connections to a host, over all its
 * tabs: three of these and the one of all executions (own_stream.js) leave room for what else is asked.
 */

import { streamAddress } from "./api.js";
import { backoff } from "./backoff.js";
import { readOnce } from "./read_once.js";

export const STREAMS = 3;
// After so long without a word a stream is not trusted where the server says otherwise.
const QUIET_AFTER = 10_000;

/**
 * Takes one of the slots that all tabs share, until the returned function is called; null where none is free.
 * Web Locks exist on https and localhost only; elsewhere each tab counts for itself.
 */
export async function takeSlot() {
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
export class ExecutionStream {
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
    this.#source = new EventSource(streamAddress(this.id));
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
    const pause = backoff(this.#losses);
    this.#lost();
    this.#timer = setTimeout(async () => {
      // EventSource hides the status; asking once tells whether there is anything left to wait for.
      await readOnce(this.id, this.executions);
      if (!this.#closed) this.#open();
    }, pause);
  }

  /** Opens again now, unless it is open. */
  hurry() {
    if (this.#source.readyState !== EventSource.OPEN) this.#open();
  }

  /** Opens again where the server's row shows that this stream missed something. */
  compare(row, record) {
    const differs = row.status !== record.status || row.progress !== record.progress;
    if (differs && Date.now() - this.#heard > QUIET_AFTER) this.#open();
  }

  close() {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#source.close();
    this.release();
    if (this.executions.get(this.id).connection !== "gone") this.executions.connection(this.id, "none");
  }
}
