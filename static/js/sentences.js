/*
 * What the server says of an execution, in the page's language. A snapshot is the same for all who watch, so
 * its sentences come in English; those that are known here are translated where they are shown.
 */

import { fill, gettext, gettext_noop } from "./words.js";

// main/tests/test_translation.py finds what is missing. The order matters: the first that fits is taken.
const SENTENCES = [
  // Status
  gettext_noop("Waiting for a worker"),
  gettext_noop("Running"),
  gettext_noop("Done"),
  gettext_noop("Writing …"),
  gettext_noop("Waiting for the model …"),
  gettext_noop("Waiting for %(model)s …"),
  gettext_noop("Using %(tool)s …"),
  // Ends that come from outside
  gettext_noop("The execution was cancelled."),
  gettext_noop("The execution was stopped: its worker died %(times)s times while running it."),
  gettext_noop("The execution took longer than it may and was stopped."),
  gettext_noop("The execution waited for a worker longer than it may, and was not run."),
  // Failures
  gettext_noop("The flow failed because of an error in its code. The server's log has the details."),
  gettext_noop("The flow needed more than the %(megabytes)s MB of memory that an execution may use."),
  gettext_noop("The flow needed more memory than there was for it."),
  gettext_noop("%(provider)s did not answer in time. Try again in a moment."),
  gettext_noop("The database could not be reached. Try again in a moment."),
  gettext_noop("%(provider)s could not be reached or has trouble of its own. Try again in a moment."),
  gettext_noop("The connection to %(provider)s broke in the middle of its answer. Try again."),
  gettext_noop("Gemini's answer broke off before its end. Try again."),
  gettext_noop("%(provider)s refused the API key of this server. Whoever runs it has to check %(setting)s."),
  gettext_noop(
    "The quota of this server's account with %(provider)s is used up. Try again tomorrow, or ask whoever runs this server.",
  ),
  gettext_noop("%(provider)s takes no more requests from this server just now. Try again in a minute."),
  gettext_noop("%(provider)s could not work with this request."),
  gettext_noop(
    "The text is too long for %(provider)s. Shorten the input, or choose a model that takes more.",
  ),
  gettext_noop("%(provider)s does not know the model it was asked for. CHAT_MODEL has to name another."),
  gettext_noop("%(provider)s answered in a form that the flow could not read. Try again."),
  gettext_noop(
    "%(provider)s would not answer: its safety rules blocked the request or the answer. Put it otherwise.",
  ),
  gettext_noop(
    "The chat model “%(spec)s” has no known provider. A model is named provider:model; the providers are %(known)s. Whoever runs this server has to check CHAT_MODEL.",
  ),
  gettext_noop(
    "The chat model is Google's, and this server has no key for it. Whoever runs it has to set GEMINI_API_KEY.",
  ),
  gettext_noop(
    "%(sentence)s It asked for a pause of %(minutes)s minutes, which is too long to wait.",
  ),
  // Lines of the timeline
  gettext_noop("↻ %(sentence)s Trying again in %(seconds)s s (%(tries)s of %(all)s)."),
  gettext_noop("✗ %(tool)s failed."),
  // What became of a mail
  gettext_noop("The receiver has unsubscribed."),
  gettext_noop("The receiver has no active account any more."),
  gettext_noop("Its owner watched it to the end."),
  gettext_noop("It could not be sent. The server’s log says why."),
  gettext_noop("The address is not valid."),
  gettext_noop("The worker stopped."),
  gettext_noop("The worker died, or was cut off."),
  gettext_noop("Kept in the folder of mails."),
  // What stands in sentences in place of a name
  gettext_noop("The service that this flow asked"),
  gettext_noop("the service that this flow asked"),
  gettext_noop("the key"),
];

const PLACE = /%\\\((\w+)\\\)s/g;
const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
const patterns = SENTENCES.map((text) => [text, new RegExp(`^${escaped(text).replace(PLACE, "(?<$1>.+?)")}$`, "s")]);

/** The sentence in the page's language; one that is not known (a flow's own) as it is. */
export function translated(sentence) {
  for (const [text, pattern] of patterns) {
    const found = sentence?.match(pattern);
    if (found) return fill(gettext(text), values(found.groups ?? {}));
  }
  return sentence;
}

const values = (groups) => Object.fromEntries(Object.entries(groups).map(([name, text]) => [name, translated(text)]));
