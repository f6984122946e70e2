// Below the monitoring: which model served when, and what the pipeline did. scripts/monitor.py writes it.

import { request } from "./api.js";
import { figure, table } from "./charts.js";
import { byId, el, percent } from "./dom.js";
import { drawTimeline } from "./timeline.js";

const SHORT_LENGTH = 12;

export async function load() {
  const body = byId("history-body");
  body.setAttribute("aria-busy", "true");
  try {
    const history = await request("/history");
    const served = records(history.served).filter((stretch) => !Number.isNaN(Date.parse(stretch.from)));
    const executions = records(history.executions);
    body.replaceChildren(
      served.length ? timeline(served, history.made_at) : placeholder("No model has served yet.", "The first version is deployed automatically once it is trained."),
      executions.length ? pipeline(executions) : placeholder("The pipeline has not run yet.", "It starts automatically when there are photos to train on."));
  } catch (error) {
    if (error.type === undefined) throw error;
    body.replaceChildren(placeholder(error.type === "NoHistory" ? "There is no history yet." : "The history cannot be read.", error.message));
  } finally {
    body.setAttribute("aria-busy", "false");
  }
}

const records = (value) => (Array.isArray(value) ? value.filter((entry) => entry && typeof entry === "object") : []);
const texts = (value) => (Array.isArray(value) ? value.map(String) : []);
const placeholder = (title, text) => el("div", { class: "card empty" }, el("h3", {}, title), el("p", {}, text));
const moment = (iso) => (iso ? new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" }).format(new Date(iso)) : "now");
const accuracy = (stretch) => (typeof stretch.accuracy === "number" ? percent(stretch.accuracy, 1) : "-");
const shorten = (text) => (text ? String(text).slice(0, SHORT_LENGTH) : "-");

/** A chart of the stretches in which a version served, newest first, with a table. */
function timeline(served, madeAt) {
  const rows = served.map((stretch) => [
    `Version ${stretch.version}`, moment(stretch.from), moment(stretch.to), accuracy(stretch), interval(stretch), `${stretch.did}: ${stretch.reason}`,
    shorten(stretch.dataset_fingerprint), shorten(stretch.revision)]);
  const current = served[0];
  return figure("Which model served when",
    `Accuracy of each version on its test photos while it served; versions of unknown accuracy are drawn at the bottom. Version ${current.version} has served since ${moment(current.from)}.`,
    { head: ["Model", "From", "To", "Accuracy", "95 % interval", "Why", "Data", "Code"], rows },
    drawTimeline(served, madeAt, percent),
    [["accent", "promoted"], ["second", "rolled back to"]]);
}

function interval({ accuracy_interval: bounds }) {
  return Array.isArray(bounds) ? `${percent(bounds[0], 1)} to ${percent(bounds[1], 1)}` : "-";
}

function pipeline(executions) {
  return el("section", { class: "card", "aria-labelledby": "executions-title" },
    el("h3", { id: "executions-title" }, "What the pipeline did"),
    el("p", { class: "help" }, "Each execution trains a challenger, compares it with the serving model, and promotes it if it is better."),
    el("ol", { class: "executions" }, executions.map((entry) => el("li", {}, execution(entry)))));
}

function execution({ decision, status, version, started, seconds, why, reasons, steps }) {
  const outcome = decision || status || "unknown";
  const kind = { promoted: "match", refused: "unsure", failed: "mismatch" }[outcome] || "accent";
  const versionText = version ? `, version ${version}` : "";
  const notes = [...texts(why).map((text) => `Started because ${text}`), ...texts(reasons)];
  return el("details", {},
    el("summary", {}, el("b", { class: `outcome ${kind}` }, outcome), ` ${moment(started)}${versionText}, ${duration(seconds)}`),
    el("ul", { class: "notes" }, notes.map((text) => el("li", {}, text))),
    stepTable(records(steps)));
}

/** Steps as a table; the bar compares each step's time with that of the longest. */
function stepTable(steps) {
  if (!steps.length) return el("p", { class: "help" }, "No steps are recorded.");
  const longest = Math.max(...steps.map((step) => step.seconds || 0)) || 1;
  return table(["Step", "State", "Time", "Share"], steps.map((step) => [
    String(step.name), step.cached ? `${step.status}, from the cache` : String(step.status), duration(step.seconds),
    el("meter", { value: (step.seconds || 0) / longest, "aria-label": `${step.name}: ${duration(step.seconds)}` })]));
}

function duration(seconds) {
  if (typeof seconds !== "number") return "-";
  if (seconds < 120) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}
