// Below the monitoring: which model served when, and what the pipeline did. scripts/monitor.py writes it.

import { ask } from "./api.js";
import { figure, table } from "./charts.js";
import { byId, el, percent } from "./dom.js";
import { stretches } from "./timeline.js";

const SHORT = 12;

export async function load() {
  const body = byId("history-body");
  body.setAttribute("aria-busy", "true");
  try {
    const found = await ask("/history");
    const served = list(found.served).filter((each) => !Number.isNaN(Date.parse(each.from)));
    const executions = list(found.executions);
    body.replaceChildren(
      served.length ? timeline(served, found.made_at) : none("Nothing has served yet.", "The first version is put in place by itself once it is trained."),
      executions.length ? pipeline(executions) : none("The pipeline has not run yet.", "It starts by itself when there are photos to train on."));
  } catch (error) {
    if (error.type === undefined) throw error;
    body.replaceChildren(none(error.type === "NoHistory" ? "There is no history yet." : "The history cannot be read.", error.message));
  } finally {
    body.setAttribute("aria-busy", "false");
  }
}

const list = (value) => (Array.isArray(value) ? value.filter((each) => each && typeof each === "object") : []);
const none = (title, text) => el("div", { class: "card empty" }, el("h3", {}, title), el("p", {}, text));
const moment = (iso) => (iso ? new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" }).format(new Date(iso)) : "now");
const accuracy = (each) => (typeof each.accuracy === "number" ? percent(each.accuracy, 1) : "-");
const short = (text) => (text ? String(text).slice(0, SHORT) : "-");

/** A picture, and the same as a table. */
function timeline(served, madeAt) {
  const rows = served.map((each) => [
    `Version ${each.version}`, moment(each.from), moment(each.to), accuracy(each), interval(each), `${each.did}: ${each.reason}`,
    short(each.dataset_fingerprint), short(each.revision)]);
  const now = served[0];
  return figure("Which model served when",
    `How accurate each version was on its test photos, over the time that it served; at the bottom where that is not known. Version ${now.version} serves since ${moment(now.from)}.`,
    { head: ["Model", "From", "To", "Accuracy", "95 % interval", "Why", "Data", "Code"], rows },
    stretches(served, madeAt, percent),
    [["accent", "promoted"], ["second", "rolled back to"]]);
}

function interval({ accuracy_interval: bounds }) {
  return Array.isArray(bounds) ? `${percent(bounds[0], 1)} to ${percent(bounds[1], 1)}` : "-";
}

function pipeline(executions) {
  return el("section", { class: "card", "aria-labelledby": "executions-title" },
    el("h3", { id: "executions-title" }, "What the pipeline did"),
    el("p", { class: "help" }, "Each execution trains a challenger, compares it with the model that serves, and promotes it where it is better."),
    el("ol", { class: "executions" }, executions.map((each) => el("li", {}, execution(each)))));
}

function execution(each) {
  const outcome = each.decision || each.status || "unknown";
  const kind = { promoted: "match", refused: "unsure", failed: "mismatch" }[outcome] || "accent";
  const version = each.version ? `, version ${each.version}` : "";
  return el("details", {},
    el("summary", {}, el("b", { class: `outcome ${kind}` }, outcome), ` ${moment(each.started)}${version}, ${duration(each.seconds)}`),
    el("ul", { class: "notes" }, [...texts(each.why).map((text) => `Started because ${text}`), ...texts(each.reasons)].map((text) => el("li", {}, text))),
    steps(list(each.steps)));
}

const texts = (value) => (Array.isArray(value) ? value.map(String) : []);

/** Steps as a table; the bar shows how much of the longest step each took. */
function steps(found) {
  if (!found.length) return el("p", { class: "help" }, "No step is recorded.");
  const longest = Math.max(...found.map((each) => each.seconds || 0)) || 1;
  return table(["Step", "State", "Time", "Share"], found.map((each) => [
    String(each.name), each.cached ? `${each.status}, taken from before` : String(each.status), duration(each.seconds),
    el("meter", { value: (each.seconds || 0) / longest, "aria-label": `${each.name}: ${duration(each.seconds)}` })]));
}

function duration(seconds) {
  if (typeof seconds !== "number") return "-";
  if (seconds < 120) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}
