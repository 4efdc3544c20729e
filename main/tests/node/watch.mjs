// Watches a stream with the package `eventsource`, and prints what it says, a line of JSON for each message:
//
//     node watch.mjs URL COOKIE EVENT…
//
// It ends when the server has told it not to come back.
import { EventSource } from "eventsource";

const [url, cookie, ...events] = process.argv.slice(2);
const source = new EventSource(url, {
  fetch: (input, init) => fetch(input, { ...init, headers: { ...init.headers, Cookie: cookie } }),
});
for (const event of events) {
  source.addEventListener(event, ({ type, lastEventId, data }) => {
    console.log(JSON.stringify([type, lastEventId, data]));
  });
}
source.addEventListener("error", ({ code, message }) => {
  if (source.readyState === EventSource.CLOSED && code !== 204) {
    console.error(code, message);
    process.exitCode = 1;
  }
});
