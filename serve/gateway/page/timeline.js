// The history as SVG: a step for each stretch in which a version served, at the height of its accuracy.

import { svg } from "./dom.js";

const HEIGHT = 210;
const PAD = { left: 54, right: 14, top: 26, bottom: 26 };
const LABEL_PX = 34;

/** For figure(): draws `served`, newest first, up to `madeAt`. Versions of unknown accuracy are at the bottom. */
export function drawTimeline(served, madeAt, format) {
  const spans = served.map((stretch) => ({ ...stretch, start: Date.parse(stretch.from), end: Date.parse(stretch.to ?? madeAt) })).reverse();
  const first = spans[0].start;
  const length = Math.max(spans[spans.length - 1].end - first, 1);
  return (width, name) => {
    const x = (time) => PAD.left + ((width - PAD.left - PAD.right) * (time - first)) / length;
    const y = (share) => PAD.top + (HEIGHT - PAD.top - PAD.bottom) * (1 - share);
    const root = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-label": `${name} ${describe(served, format)}` });
    root.append(...rules(width, y, format), ...times(first, length, x));
    let lastLabel = -LABEL_PX;
    for (const span of spans) {
      const hasRoom = x(span.start) - lastLabel >= LABEL_PX;
      if (hasRoom) lastLabel = x(span.start);
      root.append(step(span, x, y, hasRoom));
    }
    return root;
  };
}

function rules(width, y, format) {
  return [0, 0.5, 1].map((share) => svg("g", {},
    svg("line", { class: "rule", x1: PAD.left, x2: width - PAD.right, y1: y(share), y2: y(share) }),
    svg("text", { class: "tick", x: PAD.left - 6, y: y(share) + 4, "text-anchor": "end" }, format(share))));
}

function times(first, length, x) {
  const style = { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
  const text = (time) => new Intl.DateTimeFormat(undefined, style).format(new Date(time));
  return [[first, "start"], [first + length, "end"]].map(([time, anchor]) =>
    svg("text", { class: "tick", x: x(time), y: HEIGHT - 8, "text-anchor": anchor }, text(time)));
}

function step(span, x, y, labelled) {
  const kind = span.did === "promoted" ? "accent" : "second";
  const width = Math.max(x(span.end) - x(span.start), 1.5);
  const known = typeof span.accuracy === "number";
  const height = y(known ? span.accuracy : 0);
  const [low, high] = Array.isArray(span.accuracy_interval) ? span.accuracy_interval : [0, 0];
  const group = svg("g", { class: `stretch ${kind}` });
  if (high > low) group.append(svg("rect", { class: "band", x: x(span.start), y: y(high), width, height: y(low) - y(high) }));
  group.append(
    svg("line", { class: `line ${kind}`, x1: x(span.start), x2: x(span.start) + width, y1: height, y2: height }),
    svg("circle", { class: "dot", cx: x(span.start), cy: height, r: 4 }));
  if (labelled) group.append(svg("text", { class: "tick", x: x(span.start), y: PAD.top - 10 }, `v${span.version}`));
  return group;
}

/** The chart in words, for those who cannot see it; the table has the details. */
function describe(served, format) {
  const texts = served.slice(0, 5).map(({ version, accuracy, did }) =>
    `version ${version}${typeof accuracy === "number" ? ` with ${format(accuracy)}` : ""}, ${did}`);
  return `${served.length} in total, newest first: ${texts.join("; ")}.`;
}
