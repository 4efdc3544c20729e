/* The text of an answer while it grows. */

// What the server puts before the end of a text that grew too long for a snapshot.
const CUT = "… ";
const OVERLAP = 200;

/** What is known of a text after a newer telling of it, which may have lost its beginning. */
export function joined(known, told) {
  if (!known || !told?.startsWith(CUT)) return told;
  const end = told.slice(CUT.length);
  const place = known.lastIndexOf(end.slice(0, OVERLAP));
  return place < 0 ? told : known.slice(0, place) + end;
}

/**
 * Markdown as plain text that reads well: without its marks, links by their words. Only for the eye, while an
 * answer is written; the finished answer is rendered by the server.
 */
export function readable(markdown) {
  return markdown
    .split(/^```.*\n?/m) // every second part is code
    .map((part, index) => (index % 2 ? part : prose(part)))
    .join("");
}

const prose = (text) =>
  text
    .replace(/^#{1,6} +/gm, "")
    .replace(/^(\s*)[-*+] +/gm, "$1• ")
    .replace(/\[([^[\]\n]*|\[[^\]\n]*\])\]\(<?[^)\n]*(\)|$(?![^]))/g, "$1")
    .replace(/\*\*|`/g, "")
    .replace(/(?<![\w*])[*_](?=\S)|(?<=\S)[*_](?![\w*])/g, "");
