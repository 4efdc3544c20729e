/* Elements built from data. Text always goes in as text. */

/** h("a", {href: "/", class: "x", onclick: f}, "text", child); null and false are left out. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Sets text only where it differs, so that nothing is announced or laid out twice. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Shows text that grows: what is already there stays, only the end is written anew. */
export function growText(element, text) {
  const node = element.firstChild;
  if (!node) {
    element.textContent = text;
    return;
  }
  const shown = node.data;
  // Nearly always only the last few characters differ, so the rest is compared in one go.
  let same = Math.max(0, Math.min(shown.length, text.length) - 64);
  if (!text.startsWith(shown.slice(0, same))) same = 0;
  while (same < shown.length && shown[same] === text[same]) same += 1;
  if (same < shown.length || same < text.length) node.replaceData(same, shown.length - same, text.slice(same));
}

/** The address where it is a plain web address, else null: model output is not trusted. */
export function webAddress(text) {
  try {
    const address = new URL(text, location.href);
    return ["http:", "https:"].includes(address.protocol) ? address : null;
  } catch {
    return null;
  }
}

const SHAPES = {
  waiting: "M8 3.500 V8 L11 9.750 M14.250 8 A6.250 6.250 0 1 1 1.750 8 A6.250 6.250 0 1 1 14.250 8",
  running: "M8 1.750 A6.250 6.250 0 1 1 1.750 8",
  done: "M3 8.500 L6.500 12 L13 4.500",
  failed: "M8 4.500 V8.750 M8 11.200 V11.300 M14.250 8 A6.250 6.250 0 1 1 1.750 8 A6.250 6.250 0 1 1 14.250 8",
  again: "M13.250 8.500 A5.250 5.250 0 1 1 11.500 4.100 M11.750 1.250 V4.250 H8.750",
  cancelled: "M5.250 8 H10.750 M14.250 8 A6.250 6.250 0 1 1 1.750 8 A6.250 6.250 0 1 1 14.250 8",
};

/** A small drawing, such as for a state, hidden from screen readers: the word stands beside it. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("class", `icon icon-${name}`);
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", SHAPES[name]);
  svg.append(path);
  return svg;
}
