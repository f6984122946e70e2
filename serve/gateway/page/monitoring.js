// The second tab: what scripts/monitor.py found in the captured answers.

import { ask } from "./api.js";
import { figure, gauge, lines, stacks, table } from "./charts.js";
import { byId, el, icon, percent } from "./dom.js";
import * as history from "./history.js";

const VERDICTS = ["match", "unsure", "mismatch"];
const DRIFTS = {
  counts: "Counts predicted",
  confidence: "Confidence",
  brightness: "Brightness of the photos",
  sharpness: "Sharpness of the photos",
};

export function setUp() {
  byId("refresh").addEventListener("click", load);
}

export async function load() {
  history.load();
  const body = byId("monitoring-body");
  body.setAttribute("aria-busy", "true");
  try {
    const found = await ask("/monitoring");
    byId("monitoring-when").textContent = found.records ? when(found) : "";
    body.replaceChildren(...(found.records ? all(found) : empty("Nothing was captured in this time.", "Check some bins, then run scripts/monitor.py again.")));
  } catch (error) {
    if (error.type === undefined) throw error;
    byId("monitoring-when").textContent = "";
    const none = error.type === "NoMonitoring";
    body.replaceChildren(...empty(none ? "There is nothing to show yet." : "The monitoring cannot be read.", error.message));
  } finally {
    body.setAttribute("aria-busy", "false");
  }
}

const empty = (title, text) => [el("div", { class: "card empty" }, el("h3", {}, title), el("p", {}, text))];

const moment = (iso, style) => new Intl.DateTimeFormat(undefined, style).format(new Date(iso));
const FULL = { dateStyle: "medium", timeStyle: "short" };

function when(found) {
  return `${moment(found.from, FULL)} to ${moment(found.to, FULL)}, this machine's time. Made ${moment(found.made_at, FULL)}.`;
}

function all(found) {
  const labels = times(found.buckets);
  const parts = [alerts(found.alerts || []), tiles(found)];
  parts.push(el("div", { class: "grid" }, charts(found, labels)));
  parts.push(drift(found.drift || []), versions(found.model_versions || {}));
  if (found.notes?.length) parts.push(el("ul", { class: "notes help" }, found.notes.map((each) => el("li", {}, each))));
  return parts;
}

/** Hours within a day, days over more. */
function times(buckets) {
  const starts = buckets.map((each) => new Date(each.start));
  const days = starts.length > 1 && starts[starts.length - 1] - starts[0] >= 2 * 86400e3;
  const style = days ? { month: "short", day: "numeric" } : { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
  return starts.map((each) => moment(each, style));
}

function alerts(found) {
  if (!found.length) return el("p", { class: "notice ok" }, icon("match"), el("span", {}, "No alert: everything is within its thresholds."));
  return el("section", { class: "notice bad", "aria-label": "Alerts" }, icon("mismatch"),
    el("ul", {}, found.map((each) => el("li", {}, el("b", {}, each.name), `: ${each.message}`))));
}

function tiles({ totals, records, unreadable }) {
  const shown = [
    ["Answers", number(records), unreadable ? `${number(unreadable)} records unreadable` : "captured"],
    ["Mean confidence", orNone(totals.confidence_mean, percent), "of the most probable count"],
    ["Mismatches", number(totals.verdicts.mismatch), `of ${number(sum(Object.values(totals.verdicts)))} verdicts`],
    ["Accuracy", orNone(totals.accuracy, percent), totals.feedback ? `of ${number(totals.feedback)} counted by hand${interval(totals)}` : "no feedback yet"],
    ["Time to answer", orNone(totals.latency_p99_ms, ms), "99 of 100 are faster"],
    ["Errors", orNone(totals.requests ? totals.errors / totals.requests : null, (share) => percent(share, 1)), `${number(totals.errors)} answers`],
  ];
  return el("dl", { class: "tiles" }, shown.map(([name, value, about]) =>
    el("div", { class: "card tile" }, el("dt", {}, name), el("dd", {}, el("b", {}, value), el("span", {}, about)))));
}

/** What the accuracy may be, given how few were counted by hand. */
function interval({ accuracy_low: low, accuracy_high: high }) {
  return low == null || high == null ? "" : `, ${percent(low)} to ${percent(high)}`;
}

const number = (value) => new Intl.NumberFormat().format(value ?? 0);
const ms = (value) => `${value >= 100 ? Math.round(value) : value.toFixed(1)} ms`;
const orNone = (value, format) => (value === null || value === undefined ? "-" : format(value));
const sum = (values) => values.reduce((total, each) => total + each, 0);

function charts(found, labels) {
  const buckets = found.buckets;
  const of = (name) => buckets.map((each) => each[name] ?? null);
  const rows = (...cells) => buckets.map((each, at) => [labels[at], ...cells.map((cell) => cell(each))]);
  return [
    figure("Confidence over time", "What the model gives its most probable count: the mean, and what nine tenths of the answers exceed.",
      { head: ["Time", "Mean", "Nine tenths exceed"], rows: rows((b) => orNone(b.confidence_mean, percent), (b) => orNone(b.confidence_p10, percent)) },
      lines([{ kind: "accent", values: of("confidence_mean") }, { kind: "second", values: of("confidence_p10") }], labels, 1, percent),
      [["accent", "mean"], ["second", "nine tenths exceed"]]),
    figure("Verdicts over time", "How many answers were a match, unsure, or a mismatch.",
      { head: ["Time", ...VERDICTS], rows: rows(...VERDICTS.map((name) => (b) => number(b.verdicts[name]))) },
      sum(Object.values(found.totals.verdicts)) > 0 && stacks(VERDICTS.map((kind) => ({ kind, values: buckets.map((b) => b.verdicts[kind] || 0) })), labels, compact),
      VERDICTS.map((kind) => [kind, kind])),
    counts(found.totals.counts),
    figure("Time to answer", "Half of the answers are faster than the median; one in a hundred is slower than p99.",
      { head: ["Time", "Median", "p99"], rows: rows((b) => orNone(b.latency_p50_ms, ms), (b) => orNone(b.latency_p99_ms, ms)) },
      lines([{ kind: "accent", values: of("latency_p50_ms") }, { kind: "second", values: of("latency_p99_ms") }], labels, null, (v) => `${compact(v)} ms`),
      [["accent", "median"], ["second", "p99"]]),
    figure("Accuracy from feedback", "The share of answers that were right, among bins counted by hand.",
      { head: ["Time", "Accuracy", "Counted by hand"], rows: rows((b) => orNone(b.accuracy, percent), (b) => number(b.feedback)) },
      found.totals.feedback > 0 && lines([{ kind: "accent", values: of("accuracy") }], labels, 1, percent)),
    figure("Answers over time", "How many requests came, and how many of them failed.",
      { head: ["Time", "Requests", "Errors"], rows: rows((b) => number(b.requests), (b) => number(b.errors)) },
      stacks([{ kind: "accent", values: buckets.map((b) => b.requests - b.errors) }, { kind: "mismatch", values: of("errors").map((v) => v || 0) }], labels, compact),
      [["accent", "answered"], ["mismatch", "failed"]]),
  ];
}

const compact = (value) => new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 }).format(value);

function counts(found) {
  const names = Object.keys(found).sort((a, b) => parseInt(a, 10) - parseInt(b, 10));
  const total = sum(Object.values(found)) || 1;
  return figure("Counts predicted", "How often each count was the most probable one.",
    { head: ["Count", "Answers", "Share"], rows: names.map((name) => [name, number(found[name]), percent(found[name] / total, 1)]) },
    stacks([{ kind: "accent", values: names.map((name) => found[name]) }], names, compact));
}

function drift(found) {
  const rows = found.map(({ name, psi, threshold, alert }) => [
    DRIFTS[name] || name,
    el("span", { class: "drift" }, gauge(psi, threshold, alert), el("span", {}, `${psi.toFixed(3)} of ${threshold.toFixed(2)}`)),
    alert ? el("b", { class: "mismatch-text" }, "drifted") : "as in training",
  ]);
  return el("section", { class: "card", "aria-labelledby": "drift-title" }, el("h3", { id: "drift-title" }, "Drift since training"),
    el("p", { class: "help" }, "How far answers and photos have moved from those of the training set: the population stability index, 0 for not at all."),
    rows.length ? table(["What", "Index, of what raises an alert", "State"], rows) : el("p", {}, "There is no reference to compare with."));
}

function versions(found) {
  const total = sum(Object.values(found)) || 1;
  const rows = Object.entries(found).map(([name, n]) => [name, number(n), percent(n / total, 1)]);
  return el("section", { class: "card", "aria-labelledby": "versions-title" }, el("h3", { id: "versions-title" }, "Model versions"),
    table(["Version", "Answers", "Share"], rows));
}
