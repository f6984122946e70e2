// Creates elements, never from HTML: text from a server or a file stays text.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** An element. Attributes that start with "on" are event listeners; null, undefined and false are left out. */
export function el(name, attributes = {}, ...children) {
  return build(document.createElement(name), attributes, children);
}

export function svg(name, attributes = {}, ...children) {
  return build(document.createElementNS(SVG, name), attributes, children);
}

function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

const ICONS = {
  match: "M12 2a10 10 0 1 0 0 20 10 10 0 0 0 0-20zm-1.3 14.2-4-4 1.6-1.6 2.4 2.4 5-5 1.6 1.6z",
  mismatch: "M8 2h8l6 6v8l-6 6H8l-6-6V8zm2.8 4.5v7h2.4v-7zm0 8.8v2.4h2.4v-2.4z",
  unsure: "M12 2 22.5 21h-21zm-1.2 7v6h2.4V9zm0 7.4v2.2h2.4v-2.2z",
  count: "M3 5h8v6H3zm10 0h8v6h-8zM3 13h8v6H3zm10 0h8v6h-8z",
};

/** A decorative icon: the text beside it says the same. */
export function icon(name) {
  return svg("svg", { viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true", focusable: "false" },
    svg("path", { d: ICONS[name], fill: "currentColor", "fill-rule": "evenodd" }));
}

export function show(node, text) {
  node.textContent = text || "";
  node.hidden = !text;
}

/** Announce a text to screen readers. */
export function announce(text) {
  byId("status").textContent = text;
}

/** `share` (0-1) in percent; a share that would be rounded to zero is shown as less than the smallest value. */
export function percent(share, digits = 0) {
  const smallest = 10 ** -digits;
  return share > 0 && 100 * share < smallest / 2 ? `<${smallest} %` : `${(100 * share).toFixed(digits)} %`;
}
