/* Requests to the server. What it refuses is thrown as a Problem with its sentence. */

import { gettext } from "./words.js";

// A start that nobody answers is sent again after these pauses, or after as long as the server asks for, as long
// as the next one comes within the patience. An answer that takes longer than this is taken for lost.
const PAUSES = [500, 1000, 2000, 4000, 6000, 8000];
const PATIENCE = 30_000;
const ANSWER_WITHIN = 10_000;

export class Problem extends Error {
  /**
   * @param {number} status HTTP status, 0 where the server was not reached
   * @param {number} pause milliseconds that the server asks to wait for before the next request
   */
  constructor(sentence, status, errors = {}, pause = 0) {
    super(sentence);
    this.status = status;
    this.errors = errors;
    this.pause = pause;
  }

  /** The server, its database, or what stands before it, was not there: over as soon as it answers again. */
  get passes() {
    return [0, 502, 503, 504].includes(this.status);
  }
}

/** Event "reached": the server answered. */
export const server = new EventTarget();

function csrfToken() {
  return document.cookie.match(/(?:^|; )csrftoken=([^;]*)/)?.[1] ?? "";
}

const asJSON = (response) => response.json();
const asText = (response) => response.text();

/** @param read takes the body out of the answer: one that breaks off in the middle did not reach us either */
async function request(path, read, options = {}) {
  let response, body;
  try {
    response = await fetch(path, { credentials: "same-origin", ...options });
    body = response.ok ? await read(response) : await response.json().catch(() => ({}));
  } catch {
    throw new Problem(gettext("The server cannot be reached. Check the connection and try again."), 0);
  }
  if (response.ok) {
    server.dispatchEvent(new Event("reached"));
    return body;
  }
  const sentence = body.error || body.detail || gettext("The server could not answer. Please try again.");
  throw new Problem(sentence, response.status, body.errors, pauseAsked(response));
}

/** Milliseconds of Retry-After, which is in seconds or a date; 0 without. */
function pauseAsked(response) {
  const asked = response.headers.get("Retry-After") ?? "";
  return Math.max(0, /^\d+$/.test(asked) ? Number(asked) * 1000 : Date.parse(asked) - Date.now() || 0);
}

const getJSON = (path) => request(path, asJSON, { headers: { Accept: "application/json" }, cache: "no-store" });

const post = (path, body, headers = {}, options = {}, read = asJSON) =>
  request(path, read, {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "application/json", "X-CSRFToken": csrfToken(), ...headers },
    body: typeof body === "string" ? body : JSON.stringify(body),
    ...options,
  });

/** A random key. Without https there is no randomUUID. */
function randomKey() {
  if (crypto.randomUUID) return crypto.randomUUID();
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

// The newest ticket of each execution: with it a stream costs the server little.
const tickets = new Map();

function keepTicket(id, ticket) {
  if (ticket) tickets.set(id, ticket);
}

/** Where an execution's stream is. */
export function streamAddress(id) {
  const ticket = tickets.get(id);
  return `/task-status/${id}/${ticket ? `?ticket=${encodeURIComponent(ticket)}` : ""}`;
}

// The request that was given up without an answer: it may have been done. The same once more is the same one.
let unanswered = null;

async function asStarted(response) {
  const { task_id } = await response.json();
  keepTicket(task_id, response.headers.get("Watch-Ticket"));
  return task_id;
}

/**
 * Sends a request that starts an execution, and returns its id. Where no answer comes, it is sent again under the same
 * key: the server starts once per key, so that nothing is lost nor doubled.
 * @param waiting called before each pause
 * @param givenUp the sentence for when nothing came in all that time
 */
async function startOnce(path, fields, waiting, givenUp) {
  const body = JSON.stringify(fields);
  const asked = path + body;
  const key = unanswered?.asked === asked ? unanswered.key : randomKey();
  unanswered = null;
  const until = Date.now() + PATIENCE;
  for (let tries = 0; ; tries += 1) {
    try {
      const signal = AbortSignal.timeout?.(ANSWER_WITHIN);
      return await post(path, body, { "Idempotency-Key": key }, { signal }, asStarted);
    } catch (problem) {
      if (!problem.passes) throw problem;
      // Not all at once, where a deploy has many people waiting.
      const pause = Math.max(PAUSES[Math.min(tries, PAUSES.length - 1)], problem.pause) * (1 + Math.random() / 4);
      if (Date.now() + pause > until) {
        unanswered = { asked, key };
        throw new Problem(givenUp, problem.status);
      }
      waiting();
      await sleep(pause);
    }
  }
}

/**
 * Starts a flow and returns the execution's id.
 * @param notify whether who starts it is mailed when it ends
 */
export const start = (flow, inputs, notify, waiting) =>
  startOnce(
    "/start-task/",
    notify ? { flow, inputs, notify } : { flow, inputs },
    waiting,
    gettext("The server does not answer. What you entered is kept: press Start again in a moment. It starts only once."),
  );

/**
 * Starts an execution again and returns the new one's id.
 * @param from "start", or "failed_step", which keeps the finished steps
 */
export const runAgain = (id, from) =>
  startOnce(
    `/api/v1/executions/${id}/run-again`,
    { from },
    () => {},
    gettext("The server cannot be reached. Check the connection and try again."),
  );

/** The session's executions, newest first, without details. */
export const list = async () => (await getJSON("/executions/")).executions;

/** One execution with its details. */
export async function read(id) {
  const { ticket, ...execution } = await getJSON(`/executions/${id}/`);
  keepTicket(id, ticket);
  return execution;
}

/** The final result as HTML that the server made safe. */
export const answer = (id) => request(`/executions/${id}/answer/`, asText, { cache: "no-store" });

export const cancel = (id) => post(`/api/v1/executions/${id}/cancel`, {});

/** What an execution's owner is told of its end: {notify, may_ask, is_owner, notifications}. */
export const notifications = (id) => getJSON(`/api/v1/executions/${id}/notifications`);

/** Asks to be mailed when an execution ends, or not to be. */
export const notify = (id, notify) => post(`/api/v1/executions/${id}/notify`, { notify });

/** Says that its owner has seen the end of an execution. */
export const seen = (id) => post(`/api/v1/executions/${id}/seen`, {});
