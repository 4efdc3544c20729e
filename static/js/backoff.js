/* How long to wait before the next try. */

const PAUSES = [500, 1000, 2000, 4000, 8000, 15_000];

/** Milliseconds after so many failures in a row: longer each time, and not the same for all who wait. */
export const backoff = (failures) => PAUSES[Math.min(failures, PAUSES.length - 1)] * (0.75 + Math.random() / 2);
