// Small charts as SVG, each with its numbers as a table for those who do not see it.

import { el, svg } from "./dom.js";

const HEIGHT = 190;
const PAD = { left: 54, right: 10, top: 12, bottom: 26 };

/** A figure with a title, a chart drawn at the width that there is, and the same as a table; without `draw`, a word. */
export function figure(title, about, { head, rows }, draw, legend = []) {
  const caption = el("figcaption", {}, el("h3", {}, title), el("p", { class: "help" }, about));
  if (!draw) return el("figure", { class: "card chart" }, caption, el("p", { class: "nothing" }, "None in this time."));
  const place = el("div", { class: "plot" });
  const node = el("figure", { class: "card chart" }, caption,
    legend.length ? el("ul", { class: "legend" }, legend.map(([kind, text]) => el("li", { class: kind }, text))) : null,
    place,
    el("details", { class: "numbers" }, el("summary", {}, `Numbers: ${title.toLowerCase()}`), table(head, rows)));
  new ResizeObserver(() => {
    const width = Math.floor(place.clientWidth);
    if (width > 0 && String(width) !== place.dataset.width) {
      place.dataset.width = String(width);
      place.replaceChildren(draw(width, `${title}. ${about}`));
    }
  }).observe(place);
  return node;
}

export function table(head, rows) {
  return el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Table" }, el("table", {},
    el("thead", {}, el("tr", {}, head.map((each) => el("th", { scope: "col" }, each)))),
    el("tbody", {}, rows.map((row) => el("tr", {},
      row.map((each, at) => (at ? el("td", {}, each ?? "-") : el("th", { scope: "row" }, each))))))));
}

function frame(width, name, most, format, labels) {
  const inner = { width: width - PAD.left - PAD.right, height: HEIGHT - PAD.top - PAD.bottom };
  const y = (value) => PAD.top + inner.height * (1 - value / (most || 1));
  const x = (at) => PAD.left + (inner.width * (at + 0.5)) / labels.length;
  const lines = [0, 0.5, 1].map((share) => svg("g", {},
    svg("line", { class: "rule", x1: PAD.left, x2: width - PAD.right, y1: y(share * most), y2: y(share * most) }),
    svg("text", { class: "tick", x: PAD.left - 6, y: y(share * most) + 4, "text-anchor": "end" }, format(share * most))));
  const widest = Math.max(...labels.map((text) => text.length), 1) * 8 + 14;
  const every = Math.ceil(labels.length / Math.max(2, Math.floor(inner.width / widest)));
  const marks = labels.map((text, at) => at % every === 0 &&
    svg("text", { class: "tick", x: x(at), y: HEIGHT - 8, "text-anchor": "middle" }, text));
  const root = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-label": name });
  root.append(...lines, ...marks.filter(Boolean));
  return { root, x, y, step: inner.width / labels.length };
}

/** Lines over time: series of {kind, values}; null is a gap. */
export function lines(series, labels, most, format) {
  const highest = most ?? (nice(Math.max(0, ...series.flatMap((each) => each.values.filter((value) => value !== null)))));
  return (width, name) => {
    const { root, x, y } = frame(width, name, highest, format, labels);
    for (const { kind, values } of series) {
      const parts = values.map((value, at) => {
        const starts = at === 0 || values[at - 1] === null || values[at - 1] === undefined;
        return value === null || value === undefined ? "" : `${starts ? "M" : "L"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
      });
      root.append(svg("path", { class: `line ${kind}`, d: parts.join(" ") }));
      values.forEach((value, at) => {
        const alone = values[at - 1] == null && values[at + 1] == null;
        if (value != null && (alone || values.length <= 31)) root.append(svg("circle", { class: `dot ${kind}`, cx: x(at), cy: y(value), r: alone ? 4 : 2.5 }));
      });
    }
    return root;
  };
}

/** Bars stacked over time or over counts: series of {kind, values}, the first at the bottom. */
export function stacks(series, labels, format = String) {
  const totals = labels.map((_, at) => series.reduce((sum, each) => sum + each.values[at], 0));
  const most = nice(Math.max(0, ...totals));
  return (width, name) => {
    const { root, x, y, step } = frame(width, name, most, format, labels);
    const wide = Math.max(1, Math.min(44, step * 0.72));
    labels.forEach((_, at) => {
      let below = 0;
      for (const { kind, values } of series) {
        const top = y(below + values[at]);
        if (values[at]) root.append(svg("rect", { class: `block ${kind}`, x: x(at) - wide / 2, width: wide, y: top, height: y(below) - top }));
        below += values[at];
      }
    });
    return root;
  };
}

/** A value against the threshold that raises an alert. */
export function gauge(value, threshold, alert) {
  const most = Math.max(value, threshold) * 1.25 || 1;
  const width = 240;
  const at = (number) => (number / most) * width;
  return svg("svg", { viewBox: `0 0 ${width} 18`, class: "gauge", "aria-hidden": "true", preserveAspectRatio: "none" },
    svg("rect", { class: "rail", x: 0, y: 5, width, height: 8, rx: 4 }),
    svg("rect", { class: alert ? "block mismatch" : "block accent", x: 0, y: 5, width: at(value), height: 8, rx: 4 }),
    svg("rect", { class: "threshold", x: at(threshold) - 1, y: 0, width: 2, height: 18 }));
}

/** The next round number. */
export function nice(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 5, 10].map((each) => each * power).find((each) => each >= value);
}
