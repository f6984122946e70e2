// A timeline as SVG: a step for each stretch of time, as high as the accuracy of the version that served in it.

import { svg } from "./dom.js";

const HEIGHT = 210;
const PAD = { left: 54, right: 14, top: 26, bottom: 26 };
const LABEL_PX = 34;

/** Draws `served`, newest first, up to `madeAt`; for figure(). Versions without an accuracy lie at the bottom. */
export function stretches(served, madeAt, format) {
  const spans = served.map((each) => ({ ...each, start: Date.parse(each.from), end: Date.parse(each.to ?? madeAt) })).reverse();
  const first = spans[0].start;
  const length = Math.max(spans[spans.length - 1].end - first, 1);
  return (width, name) => {
    const x = (at) => PAD.left + ((width - PAD.left - PAD.right) * (at - first)) / length;
    const y = (share) => PAD.top + (HEIGHT - PAD.top - PAD.bottom) * (1 - share);
    const root = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-label": `${name} ${told(served, format)}` });
    root.append(...rules(width, y, format), ...times(spans, first, length, x));
    let labelled = -LABEL_PX;
    for (const span of spans) {
      const free = x(span.start) - labelled >= LABEL_PX;
      if (free) labelled = x(span.start);
      root.append(stretch(span, x, y, free));
    }
    return root;
  };
}

function rules(width, y, format) {
  return [0, 0.5, 1].map((share) => svg("g", {},
    svg("line", { class: "rule", x1: PAD.left, x2: width - PAD.right, y1: y(share), y2: y(share) }),
    svg("text", { class: "tick", x: PAD.left - 6, y: y(share) + 4, "text-anchor": "end" }, format(share))));
}

function times(spans, first, length, x) {
  const style = { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
  const text = (at) => new Intl.DateTimeFormat(undefined, style).format(new Date(at));
  return [[first, "start"], [first + length, "end"]].map(([at, anchor]) =>
    svg("text", { class: "tick", x: x(at), y: HEIGHT - 8, "text-anchor": anchor }, text(at)));
}

function stretch(span, x, y, labelled) {
  const kind = span.did === "promoted" ? "accent" : "second";
  const wide = Math.max(x(span.end) - x(span.start), 1.5);
  const known = typeof span.accuracy === "number";
  const at = y(known ? span.accuracy : 0);
  const [low, high] = Array.isArray(span.accuracy_interval) ? span.accuracy_interval : [0, 0];
  const group = svg("g", { class: `stretch ${kind}` });
  if (high > low) group.append(svg("rect", { class: "band", x: x(span.start), y: y(high), width: wide, height: y(low) - y(high) }));
  group.append(
    svg("line", { class: `line ${kind}`, x1: x(span.start), x2: x(span.start) + wide, y1: at, y2: at }),
    svg("circle", { class: "dot", cx: x(span.start), cy: at, r: 4 }));
  if (labelled) group.append(svg("text", { class: "tick", x: x(span.start), y: PAD.top - 10 }, `v${span.version}`));
  return group;
}

/** The picture in words, for those who do not see it; the table says the rest. */
function told(served, format) {
  const words = served.slice(0, 5).map((each) =>
    `version ${each.version}${typeof each.accuracy === "number" ? ` with ${format(each.accuracy)}` : ""}, ${each.did}`);
  return `${served.length} in all; the newest first: ${words.join("; ")}.`;
}
