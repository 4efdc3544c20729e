/* What the page knows about executions: one record each, told to whoever listens. */

import { joined } from "./text.js";

const FINAL = new Set(["SUCCESS", "FAILURE", "CANCELLED"]);

export const isFinal = (record) => FINAL.has(record.state);

/** waiting, running, done, failed or cancelled. */
export function phase(record) {
  if (record.state === "SUCCESS") return "done";
  const error = record.details?.error ?? record.error;
  if (record.state === "CANCELLED" || error?.type === "cancelled") return "cancelled";
  if (record.state === "FAILURE") return "failed";
  return record.state === "PENDING" ? "waiting" : "running";
}

/** Seconds it has taken so far, or null before it began. */
export function seconds(record) {
  if (record.duration !== null && record.duration !== undefined) return record.duration;
  if (!record.started_at) return null;
  const end = record.finished_at ? Date.parse(record.finished_at) : Date.now();
  return isFinal(record) && !record.finished_at ? null : Math.max(0, (end - Date.parse(record.started_at)) / 1000);
}

/** Events: "change" with detail {record, before} after every change; "order" when records came or went. */
export class Executions extends EventTarget {
  #records = new Map();

  get(id) {
    return this.#records.get(id);
  }

  /** Newest first. */
  all() {
    return [...this.#records.values()].sort((a, b) => Date.parse(b.created_at) - Date.parse(a.created_at));
  }

  unfinished() {
    return this.all().filter((record) => !isFinal(record) && record.connection !== "gone");
  }

  /**
   * Takes in rows as the server lists them, without details. What a stream already said is newer than a row,
   * and the end of an execution counts only with its details: see snapshot().
   */
  merge(rows) {
    let came = false;
    for (const row of rows) {
      const known = this.#records.get(row.id);
      if (!known) {
        this.#records.set(row.id, { details: null, connection: "none", ...row });
        came = true;
      } else if (isFinal(known) && isFinal(row)) {
        const { state, started_at, finished_at, duration } = row;
        this.#change(known, { state, started_at, finished_at, duration });
      } else if (!isFinal(known) && !isFinal(row)) {
        const progress = Math.max(known.progress ?? 0, row.progress ?? 0);
        const { state, status } = known.connection === "live" ? known : row;
        this.#change(known, { ...row, state, status, progress });
      }
    }
    if (came) this.dispatchEvent(new Event("order"));
  }

  /** Takes in a whole snapshot, from a stream or read once. */
  snapshot(id, { state, details }) {
    const known = this.#records.get(id);
    if (!known || (isFinal(known) && known.details)) return;
    const change = { state, details, status: details.status, progress: details.progress };
    const written = known.details?.partial_result;
    // An end without an answer does not take away what was already written of it.
    if (state === "FAILURE") details.partial_result ??= written;
    else if (details.partial_result) details.partial_result = joined(written, details.partial_result);
    if (state !== "PENDING" && !known.started_at) change.started_at = new Date().toISOString();
    if (FINAL.has(state) && !known.finished_at) change.finished_at = new Date().toISOString();
    this.#change(known, change);
  }

  connection(id, connection) {
    const known = this.#records.get(id);
    if (known && known.connection !== connection) this.#change(known, { connection });
  }

  #change(record, change) {
    const before = { state: record.state, status: record.status, connection: record.connection };
    Object.assign(record, change);
    this.dispatchEvent(new CustomEvent("change", { detail: { record, before } }));
  }
}
