// How a challenger's answers compare with the champion's on live traffic, before it may become the champion.

import { table } from "./charts.js";
import { el, percent } from "./dom.js";

const STATES = {
  wait: "It is under way.",
  proceed: "It is over: the challenger may be the champion.",
  return: "It is over: the challenger was returned, and is never tried again.",
};

const number = (value) => new Intl.NumberFormat().format(value ?? 0);
const byNumber = (a, b) => parseInt(a, 10) - parseInt(b, 10);

/** Nothing where no version was tried on live traffic. */
export function comparison(trial) {
  if (!trial) return [];
  const state = STATES[trial.step] || "";
  return [el("section", { class: "card", "aria-labelledby": "comparison-title" },
    el("h3", { id: "comparison-title" }, `Version ${trial.version} beside version ${trial.champion}`),
    el("p", { class: "help" }, `Both answered the same photos (${trial.plan}). Their disagreement is compared with that on the test photos.`),
    el("p", {}, trial.step === "return" ? el("b", { class: "mismatch-text" }, state) : state, ` ${trial.stage}: ${trial.reason}.`),
    traffic(trial), ...counts(trial), ...verdicts(trial.comparison.verdicts))];
}

function traffic({ comparison: { champion, challenger }, latency_ms: medians, champion: own, version }) {
  const row = (name, sums, median) => [name, number(sums.answered), number(sums.failed), sums.answered ? `${Math.round(median)} ms` : "-"];
  return table(["Version", "Answered", "Failed", "Median response time"],
    [row(`${own}, champion`, champion, medians.champion), row(`${version}, challenger`, challenger, medians.challenger)]);
}

/** The champion's count by the challenger's count, with the agreement at each count of the champion. */
function counts({ comparison: { counts: pairs }, agreement }) {
  const rivals = names(pairs, 1);
  const rows = names(pairs, 0).map((own) => {
    const { share, expected } = agreement[own.replace("+", "")] || {};
    return [own, ...rivals.map((rival) => number(pairs[`${own}>${rival}`])), share === undefined ? "-" : percent(share), expected == null ? "-" : percent(expected)];
  });
  if (!rows.length) return [];
  return [el("h4", {}, "Counts"), table(["Champion counts", ...rivals.map((rival) => `challenger ${rival}`), "Agreement", "On test photos"], rows)];
}

function verdicts(pairs) {
  const rivals = names(pairs, 1);
  const rows = names(pairs, 0).map((own) => [own, ...rivals.map((rival) => number(pairs[`${own}>${rival}`]))]);
  return rows.length ? [el("h4", {}, "Verdicts"), table(["Champion says", ...rivals.map((rival) => `challenger ${rival}`)], rows)] : [];
}

/** The values at one side of pairs such as "3>4", in order. */
function names(pairs, side) {
  return [...new Set(Object.keys(pairs).map((pair) => pair.split(">")[side]))].sort((a, b) => byNumber(a, b) || a.localeCompare(b));
}
