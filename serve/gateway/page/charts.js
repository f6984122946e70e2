// Small charts as SVG, each with its numbers as a table for those who cannot see it.

import { el, svg } from "./dom.js";

const HEIGHT = 190;
const PAD = { left: 54, right: 10, top: 12, bottom: 26 };

/** A figure with a title, a chart that is drawn again when its width changes, and a table; without `draw`, a note. */
export function figure(title, description, { head, rows }, draw, legend = []) {
  const caption = el("figcaption", {}, el("h3", {}, title), el("p", { class: "help" }, description));
  if (!draw) return el("figure", { class: "card chart" }, caption, el("p", { class: "nothing" }, "No data in this period."));
  const plot = el("div", { class: "plot" });
  const node = el("figure", { class: "card chart" }, caption,
    legend.length ? el("ul", { class: "legend" }, legend.map(([kind, text]) => el("li", { class: kind }, text))) : null,
    plot,
    el("details", { class: "numbers" }, el("summary", {}, `Numbers: ${title.toLowerCase()}`), table(head, rows)));
  new ResizeObserver(() => {
    const width = Math.floor(plot.clientWidth);
    if (width > 0 && String(width) !== plot.dataset.width) {
      plot.dataset.width = String(width);
      plot.replaceChildren(draw(width, `${title}. ${description}`));
    }
  }).observe(plot);
  return node;
}

export function table(head, rows) {
  return el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Table" }, el("table", {},
    el("thead", {}, el("tr", {}, head.map((title) => el("th", { scope: "col" }, title)))),
    el("tbody", {}, rows.map((row) => el("tr", {},
      row.map((cell, index) => (index ? el("td", {}, cell ?? "-") : el("th", { scope: "row" }, cell))))))));
}

function frame(width, name, max, format, labels) {
  const inner = { width: width - PAD.left - PAD.right, height: HEIGHT - PAD.top - PAD.bottom };
  const y = (value) => PAD.top + inner.height * (1 - value / (max || 1));
  const x = (index) => PAD.left + (inner.width * (index + 0.5)) / labels.length;
  const rules = [0, 0.5, 1].map((share) => svg("g", {},
    svg("line", { class: "rule", x1: PAD.left, x2: width - PAD.right, y1: y(share * max), y2: y(share * max) }),
    svg("text", { class: "tick", x: PAD.left - 6, y: y(share * max) + 4, "text-anchor": "end" }, format(share * max))));
  const labelWidth = Math.max(...labels.map((text) => text.length), 1) * 8 + 14;
  const interval = Math.ceil(labels.length / Math.max(2, Math.floor(inner.width / labelWidth)));
  const ticks = labels.map((text, index) => index % interval === 0 &&
    svg("text", { class: "tick", x: x(index), y: HEIGHT - 8, "text-anchor": "middle" }, text));
  const root = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-label": name });
  root.append(...rules, ...ticks.filter(Boolean));
  return { root, x, y, step: inner.width / labels.length };
}

/** Lines over time: `series` is a list of {kind, values}; null is a gap. Without `max`, the axis fits the values. */
export function lines(series, labels, max, format) {
  const highest = max ?? (roundUp(Math.max(0, ...series.flatMap(({ values }) => values.filter((value) => value !== null)))));
  return (width, name) => {
    const { root, x, y } = frame(width, name, highest, format, labels);
    for (const { kind, values } of series) {
      const parts = values.map((value, index) => {
        const starts = index === 0 || values[index - 1] === null || values[index - 1] === undefined;
        return value === null || value === undefined ? "" : `${starts ? "M" : "L"}${x(index).toFixed(1)} ${y(value).toFixed(1)}`;
      });
      root.append(svg("path", { class: `line ${kind}`, d: parts.join(" ") }));
      values.forEach((value, index) => {
        const alone = values[index - 1] == null && values[index + 1] == null;
        if (value != null && (alone || values.length <= 31)) root.append(svg("circle", { class: `dot ${kind}`, cx: x(index), cy: y(value), r: alone ? 4 : 2.5 }));
      });
    }
    return root;
  };
}

/** Stacked bars over time or over counts: `series` is a list of {kind, values}, the first at the bottom. */
export function stacks(series, labels, format = String) {
  const totals = labels.map((_, index) => series.reduce((sum, { values }) => sum + values[index], 0));
  const max = roundUp(Math.max(0, ...totals));
  return (width, name) => {
    const { root, x, y, step } = frame(width, name, max, format, labels);
    const barWidth = Math.max(1, Math.min(44, step * 0.72));
    labels.forEach((_, index) => {
      let below = 0;
      for (const { kind, values } of series) {
        const top = y(below + values[index]);
        if (values[index]) root.append(svg("rect", { class: `block ${kind}`, x: x(index) - barWidth / 2, width: barWidth, y: top, height: y(below) - top }));
        below += values[index];
      }
    });
    return root;
  };
}

/** A value against the threshold that raises an alert. */
export function gauge(value, threshold, alert) {
  const max = Math.max(value, threshold) * 1.25 || 1;
  const width = 240;
  const x = (number) => (number / max) * width;
  return svg("svg", { viewBox: `0 0 ${width} 18`, class: "gauge", "aria-hidden": "true", preserveAspectRatio: "none" },
    svg("rect", { class: "rail", x: 0, y: 5, width, height: 8, rx: 4 }),
    svg("rect", { class: alert ? "block mismatch" : "block accent", x: 0, y: 5, width: x(value), height: 8, rx: 4 }),
    svg("rect", { class: "threshold", x: x(threshold) - 1, y: 0, width: 2, height: 18 }));
}

/** The next round number, such as 4 for 3.2 or 50 for 41. */
export function roundUp(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 5, 10].map((factor) => factor * power).find((number) => number >= value);
}
