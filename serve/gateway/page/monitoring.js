// The second tab: the report that scripts/monitor.py makes from captured answers.

import { request } from "./api.js";
import { figure, gauge, lines, stacks, table } from "./charts.js";
import { byId, el, icon, percent } from "./dom.js";
import { comparison } from "./comparison.js";
import * as history from "./history.js";

const VERDICTS = ["match", "unsure", "mismatch"];
const EVIDENCE_NAMES = {
  photo: "The photo alone",
  "photo+products": "Photo and products",
  "photo+weight": "Photo and scale",
  "photo+products+weight": "Photo, products and scale",
};
const DRIFT_NAMES = {
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
    const report = await request("/monitoring");
    byId("monitoring-when").textContent = report.records ? period(report) : "";
    body.replaceChildren(...(report.records ? sections(report) : placeholder("Nothing was captured in this period.", "Check some bins, then run scripts/monitor.py again.")));
  } catch (error) {
    if (error.type === undefined) throw error;
    byId("monitoring-when").textContent = "";
    const missing = error.type === "NoMonitoring";
    body.replaceChildren(...placeholder(missing ? "There is nothing to show yet." : "The monitoring report cannot be read.", error.message));
  } finally {
    body.setAttribute("aria-busy", "false");
  }
}

const placeholder = (title, text) => [el("div", { class: "card empty" }, el("h3", {}, title), el("p", {}, text))];

const formatTime = (iso, style) => new Intl.DateTimeFormat(undefined, style).format(new Date(iso));
const FULL = { dateStyle: "medium", timeStyle: "short" };

function period(report) {
  return `${formatTime(report.from, FULL)} to ${formatTime(report.to, FULL)}, in your time zone. Created ${formatTime(report.made_at, FULL)}.`;
}

function sections(report) {
  const labels = bucketLabels(report.buckets);
  const parts = [alerts(report.alerts || []), tiles(report)];
  parts.push(el("div", { class: "grid" }, charts(report, labels)));
  parts.push(...comparison(report.comparison), ...evidence(report.totals), ...recounts(report.recounts), ...stations(report.stations));
  parts.push(drift(report.drift || []), versions(report.model_versions || {}));
  if (report.notes?.length) parts.push(el("ul", { class: "notes help" }, report.notes.map((note) => el("li", {}, note))));
  return parts;
}

/** Times of day, or dates if the buckets span two days or more. */
function bucketLabels(buckets) {
  const starts = buckets.map((bucket) => new Date(bucket.start));
  const days = starts.length > 1 && starts[starts.length - 1] - starts[0] >= 2 * 86400e3;
  const style = days ? { month: "short", day: "numeric" } : { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
  return starts.map((start) => formatTime(start, style));
}

function alerts(active) {
  if (!active.length) return el("p", { class: "notice ok" }, icon("match"), el("span", {}, "No alerts: everything is within its thresholds."));
  return el("section", { class: "notice bad", "aria-label": "Alerts" }, icon("mismatch"),
    el("ul", {}, active.map((alert) => el("li", {}, el("b", {}, alert.name), `: ${alert.message}`))));
}

function tiles({ totals, records, unreadable }) {
  const contents = [
    ["Answers", number(records), unreadable ? `${number(unreadable)} records unreadable` : "captured"],
    ["Mean confidence", orNone(totals.confidence_mean, percent), "of the most probable count"],
    ["Mismatches", number(totals.verdicts.mismatch), `of ${number(sum(Object.values(totals.verdicts)))} verdicts`],
    ["Accuracy", orNone(totals.accuracy, percent), totals.feedback ? `of ${number(totals.feedback)} counted by hand${interval(totals, "accuracy")}` : "no feedback yet"],
    ["Estimated accuracy", orNone(totals.accuracy_estimated, percent), `from confidence, no labels${interval(totals, "accuracy_estimated")}`],
    ["Response time", orNone(totals.latency_p99_ms, ms), "99 % are faster"],
    ["Errors", orNone(totals.requests ? totals.errors / totals.requests : null, (share) => percent(share, 1)), `${number(totals.errors)} answers`],
  ];
  return el("dl", { class: "tiles" }, contents.map(([name, value, description]) =>
    el("div", { class: "card tile" }, el("dt", {}, name), el("dd", {}, el("b", {}, value), el("span", {}, description)))));
}

/** The 95 % interval of a share. */
function interval(shares, name) {
  const [low, high] = [shares[`${name}_low`], shares[`${name}_high`]];
  return low == null || high == null ? "" : `, ${percent(low)} to ${percent(high)}`;
}

const number = (value) => new Intl.NumberFormat().format(value ?? 0);
const compact = (value) => new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 }).format(value);
const ms = (value) => `${value >= 100 ? Math.round(value) : value.toFixed(1)} ms`;
const orNone = (value, format) => (value === null || value === undefined ? "-" : format(value));
const sum = (values) => values.reduce((total, value) => total + value, 0);

function charts({ buckets, totals }, labels) {
  const column = (name) => buckets.map((bucket) => bucket[name] ?? null);
  const rows = (...cells) => buckets.map((bucket, index) => [labels[index], ...cells.map((cell) => cell(bucket))]);
  return [
    figure("Confidence over time", "Probability of the most probable count: the mean, and the value that nine tenths of the answers exceed.",
      { head: ["Time", "Mean", "Nine tenths exceed"], rows: rows((b) => orNone(b.confidence_mean, percent), (b) => orNone(b.confidence_p10, percent)) },
      lines([{ kind: "accent", values: column("confidence_mean") }, { kind: "second", values: column("confidence_p10") }], labels, 1, percent),
      [["accent", "mean"], ["second", "nine tenths exceed"]]),
    figure("Verdicts over time", "Number of answers that were a match, unsure, or a mismatch.",
      { head: ["Time", ...VERDICTS], rows: rows(...VERDICTS.map((name) => (b) => number(b.verdicts[name]))) },
      sum(Object.values(totals.verdicts)) > 0 && stacks(VERDICTS.map((kind) => ({ kind, values: buckets.map((b) => b.verdicts[kind] || 0) })), labels, compact),
      VERDICTS.map((kind) => [kind, kind])),
    countChart(totals.counts),
    figure("Response time", "Half of the answers are faster than the median; one in a hundred is slower than p99.",
      { head: ["Time", "Median", "p99"], rows: rows((b) => orNone(b.latency_p50_ms, ms), (b) => orNone(b.latency_p99_ms, ms)) },
      lines([{ kind: "accent", values: column("latency_p50_ms") }, { kind: "second", values: column("latency_p99_ms") }], labels, null, (value) => `${compact(value)} ms`),
      [["accent", "median"], ["second", "p99"]]),
    figure("Accuracy", "The share of answers that were right, among bins counted by hand; and what their confidence says of all answers.",
      { head: ["Time", "Counted by hand", "Bins", "Estimated"], rows: rows((b) => orNone(b.accuracy, percent), (b) => number(b.feedback), (b) => orNone(b.accuracy_estimated, percent)) },
      (totals.feedback > 0 || totals.accuracy_estimated != null)
        && lines([{ kind: "accent", values: column("accuracy") }, { kind: "second", values: column("accuracy_estimated") }], labels, 1, percent),
      [["accent", "counted by hand"], ["second", "estimated"]]),
    figure("Answers over time", "Number of requests, and how many of them failed.",
      { head: ["Time", "Requests", "Errors"], rows: rows((b) => number(b.requests), (b) => number(b.errors)) },
      stacks([{ kind: "accent", values: buckets.map((b) => b.requests - b.errors) }, { kind: "mismatch", values: column("errors").map((value) => value || 0) }], labels, compact),
      [["accent", "answered"], ["mismatch", "failed"]]),
  ];
}

function countChart(counts) {
  const names = Object.keys(counts).sort((a, b) => parseInt(a, 10) - parseInt(b, 10));
  const total = sum(Object.values(counts)) || 1;
  return figure("Counts predicted", "How often each count was the most probable one.",
    { head: ["Count", "Answers", "Share"], rows: names.map((name) => [name, number(counts[name]), percent(counts[name] / total, 1)]) },
    stacks([{ kind: "accent", values: names.map((name) => counts[name]) }], names, compact));
}

/** Nothing for reports from before verdicts had evidence, and where there are none. */
function evidence({ verdicts_by_evidence: verdicts = {}, not_a_bin: notABin }) {
  const rows = Object.entries(verdicts).map(([name, numbers]) => [EVIDENCE_NAMES[name] || name, ...VERDICTS.map((kind) => number(numbers[kind]))]);
  if (!rows.length) return [];
  return [el("section", { class: "card", "aria-labelledby": "evidence-title" }, el("h3", { id: "evidence-title" }, "What the verdicts rest on"),
    el("p", { class: "help" }, "The sizes of the recorded products and a scale tell more than the photo alone."),
    table(["Evidence", ...VERDICTS], rows),
    notABin ? el("p", {}, `Of the unsure ones, ${number(notABin)} ${notABin === 1 ? "is about a photo that does" : "are about photos that do"} not look like a bin.`) : null)];
}

/** Nothing where no answer of the model was recounted at random. */
function recounts(statistics) {
  if (!statistics) return [];
  const { alarms_on_right: alarms, accuracy, alpha, threshold } = statistics;
  const share = (measured) => (measured.share === null ? "-" : `${percent(measured.share, 1)} of ${number(measured.total)} (${percent(measured.low, 1)} to ${percent(measured.high, 1)})`);
  const state = (evidence, broken, fine) => (evidence >= threshold ? el("b", { class: "mismatch-text" }, broken) : fine);
  return [el("section", { class: "card", "aria-labelledby": "promise-state-title" }, el("h3", { id: "promise-state-title" }, "Is the promise kept?"),
    el("p", { class: "help" }, `Of right records, at most ${percent(alpha, 1)} may raise the alarm. Measured without bias, on bins of version ${statistics.version} that were recounted at random.`),
    table(["What", "Measured", "Expected", "State"], [
      ["Alarms on right records", share(alarms), `at most ${percent(alpha, 1)}`, state(statistics.promise_e_value, "broken", "kept, as far as recounts tell")],
      ["Right answers", share(accuracy), orNone(statistics.accuracy_estimated, (value) => `${percent(value, 1)} by their confidence`), state(statistics.accuracy_e_value, "confidence is off", "they agree")],
    ]))];
}

/** Nothing where no station is known, and for reports from before there were stations. */
function stations({ listed = [], other = null } = {}) {
  if (!listed.length) return [];
  const rows = listed.map(({ name, totals, drift: indices }) => stationRow(name || "(none named)", totals, indices));
  if (other) rows.push(stationRow("(all others)", other, []));
  return [el("section", { class: "card", "aria-labelledby": "stations-title" }, el("h3", { id: "stations-title" }, "Stations"),
    el("p", { class: "help" }, "Where photos were taken. Drift of one station alone is a matter of its camera, light or bins."),
    table(["Station", "Answers", ...VERDICTS, "Confidence", "Accuracy", "Drift"], rows))];
}

function stationRow(name, totals, indices) {
  const verdicts = sum(Object.values(totals.verdicts));
  const drifted = indices.filter(({ alert }) => alert).map((index) => (DRIFT_NAMES[index.name] || index.name).toLowerCase());
  const accuracy = totals.feedback ? `${percent(totals.accuracy)} of ${number(totals.feedback)}` : "-";
  return [name, number(totals.requests), ...VERDICTS.map((kind) => (verdicts ? percent(totals.verdicts[kind] / verdicts) : "-")),
    orNone(totals.confidence_mean, percent), accuracy, drifted.length ? el("b", { class: "mismatch-text" }, drifted.join(", ")) : "-"];
}

/** The index is null if no answer in the period can be compared, as when all have failed. */
function drift(indices) {
  const rows = indices.map(({ name, psi, threshold, alert }) => [
    DRIFT_NAMES[name] || name,
    psi === null ? "-" : el("span", { class: "drift" }, gauge(psi, threshold, alert), el("span", {}, `${psi.toFixed(3)} of ${threshold.toFixed(2)}`)),
    psi === null ? "no answers to compare" : alert ? el("b", { class: "mismatch-text" }, "drifted") : "as in training",
  ]);
  return el("section", { class: "card", "aria-labelledby": "drift-title" }, el("h3", { id: "drift-title" }, "Drift since training"),
    el("p", { class: "help" }, "How far answers and photos differ from those of the training set: the population stability index, where 0 means no change."),
    rows.length ? table(["What", "Index, and the threshold of an alert", "State"], rows) : el("p", {}, "There is no reference to compare with."));
}

function versions(answers) {
  const total = sum(Object.values(answers)) || 1;
  const rows = Object.entries(answers).map(([name, count]) => [name, number(count), percent(count / total, 1)]);
  return el("section", { class: "card", "aria-labelledby": "versions-title" }, el("h3", { id: "versions-title" }, "Model versions"),
    table(["Version", "Answers", "Share"], rows));
}
