/* What an execution is like now, without a stream. */

import * as api from "./api.js";

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
