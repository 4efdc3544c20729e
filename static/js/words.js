/* Words, times and amounts in the page's language. */

const language = document.documentElement.lang || "en";

/** The translated string; without a catalogue the English one. */
export const gettext = (text) => (globalThis.gettext ? globalThis.gettext(text) : text);

/** Marks a string for the catalogue where it is not shown yet. */
export const gettext_noop = (text) => text;

/** One of two translated forms by count. */
export function ngettext(one, many, count) {
  return globalThis.ngettext ? globalThis.ngettext(one, many, count) : count === 1 ? one : many;
}

/** "%(name)s" in the text replaced by values.name. */
export function fill(text, values) {
  return text.replace(/%\((\w+)\)s/g, (_, name) => String(values[name]));
}

const number = new Intl.NumberFormat(language);
export const amount = (value) => number.format(value);

const relative = new Intl.RelativeTimeFormat(language, { numeric: "auto" });
const absolute = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "medium" });

/** "3 minutes ago" for an ISO time; the future (a clock that is off) counts as now. */
export function ago(time) {
  const seconds = Math.max(0, (Date.now() - Date.parse(time)) / 1000);
  if (seconds < 45) return gettext("just now");
  if (seconds < 45 * 60) return relative.format(-Math.max(1, Math.round(seconds / 60)), "minute");
  if (seconds < 22 * 3600) return relative.format(-Math.max(1, Math.round(seconds / 3600)), "hour");
  return relative.format(-Math.max(1, Math.round(seconds / 86400)), "day");
}

export const moment = (time) => absolute.format(new Date(time));

const unit = (value, name, digits = 0) =>
  new Intl.NumberFormat(language, {
    style: "unit",
    unit: name,
    unitDisplay: "narrow",
    maximumFractionDigits: digits,
  }).format(value);

/** Seconds as "0.4s", "12s", "3m 20s" or "2h 5m". */
export function span(seconds) {
  if (seconds < 9.95) return unit(Math.max(0, seconds), "second", 1);
  const whole = Math.round(seconds);
  if (whole < 60) return unit(whole, "second");
  if (whole < 3600) return `${unit(Math.floor(whole / 60), "minute")} ${unit(whole % 60, "second")}`;
  return `${unit(Math.floor(whole / 3600), "hour")} ${unit(Math.floor((whole % 3600) / 60), "minute")}`;
}

/** Bytes as "812 B", "14 kB" or "1.2 MB". */
export function size(bytes) {
  if (bytes < 1000) return `${amount(bytes)} B`;
  if (bytes < 1_000_000) return `${amount(Math.round(bytes / 1000))} kB`;
  return `${amount(Math.round(bytes / 100_000) / 10)} MB`;
}
