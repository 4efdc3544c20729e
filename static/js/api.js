/* Requests to the server. What it refuses is thrown as a Problem with its sentence. */

import { gettext } from "./words.js";

export class Problem extends Error {
  /** @param {number} status HTTP status, 0 where the server was not reached */
  constructor(sentence, status, errors = {}) {
    super(sentence);
    this.status = status;
    this.errors = errors;
  }

  /** The server, or what stands before it, was not there: over as soon as it answers again. */
  get passes() {
    return [0, 502, 504].includes(this.status);
  }
}

/** Event "reached": the server answered. */
export const server = new EventTarget();

function csrfToken() {
  return document.cookie.match(/(?:^|; )csrftoken=([^;]*)/)?.[1] ?? "";
}

async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { credentials: "same-origin", ...options });
  } catch {
    throw new Problem(gettext("The server cannot be reached. Check the connection and try again."), 0);
  }
  if (response.ok) {
    server.dispatchEvent(new Event("reached"));
    return response;
  }
  const body = await response.json().catch(() => ({}));
  const sentence = body.error || body.detail || gettext("The server could not answer. Please try again.");
  throw new Problem(sentence, response.status, body.errors);
}

const getJSON = async (path) =>
  (await request(path, { headers: { Accept: "application/json" }, cache: "no-store" })).json();

const post = async (path, body) =>
  (
    await request(path, {
      method: "POST",
      headers: { "Content-Type": "application/json", Accept: "application/json", "X-CSRFToken": csrfToken() },
      body: JSON.stringify(body),
    })
  ).json();

/** Starts a flow and returns the execution's id. */
export const start = async (flow, inputs) => (await post("/start-task/", { flow, inputs })).task_id;

/** The session's executions, newest first, without details. */
export const list = async () => (await getJSON("/executions/")).executions;

/** One execution with its details. */
export const read = (id) => getJSON(`/executions/${id}/`);

/** The final result as HTML that the server made safe. */
export const answer = async (id) => (await request(`/executions/${id}/answer/`, { cache: "no-store" })).text();

export const cancel = (id) => post(`/api/v1/executions/${id}/cancel`, {});
