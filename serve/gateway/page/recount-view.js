// What the third tab shows. It asks the server nothing.

import { announce, byId, el, percent, show } from "./dom.js";
import { record } from "./result.js";
import { objects, problem } from "./words.js";

const FILTERS = { station: "recount-station", day: "recount-day" };

/** The selection, as parameters of a request. */
export function filters() {
  const pairs = Object.entries(FILTERS).map(([name, id]) => [name, byId(id).value]);
  return Object.fromEntries(pairs.filter(([, value]) => value !== ""));
}

/** Show a bin, or that none is left. */
export function draw({ bin, pending, photo }, focus) {
  byId("recount-bin").hidden = bin === null;
  byId("recount-empty").hidden = bin !== null;
  if (bin === null) {
    const others = pending > 0;
    drawEmpty(others ? "Others count the bins that are left." : "No bin waits for a recount.",
      others ? `${pending} ${pending === 1 ? "is" : "are"} on other screens.` : "Bins get here when a check finds a mismatch, and a few at random.");
    return;
  }
  const image = byId("recount-photo");
  image.hidden = photo === null;
  if (photo) image.src = photo;
  else image.removeAttribute("src");
  show(byId("recount-no-photo"), photo ? "" : `The photo was sent as a link, which is not read here: ${bin.link}. Count it there, or in the bin.`);
  byId("recount-record").replaceChildren(record(bin, "recount-record-title"), where(bin));
  byId("recount-count").value = "";
  markError("");
  if (focus) byId("recount-count").focus({ preventScroll: true });
  announce(`Next bin. ${objects(bin.record.quantity)} by its record.`);
}

function where({ station, seen_at: seenAt }) {
  const time = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" }).format(new Date(seenAt));
  return el("p", { class: "help" }, `${station ? `Station ${station}, ` : ""}${time}`);
}

function drawEmpty(title, text) {
  byId("recount-empty-title").textContent = title;
  byId("recount-empty-text").textContent = text;
  announce(`${title} ${text}`);
}

export function drawFailure(error) {
  const { title, todo, text } = problem(error);
  byId("recount-bin").hidden = true;
  byId("recount-empty").hidden = false;
  drawEmpty(title, todo ? `${text} ${todo}` : text);
}

export function markError(message) {
  show(byId("recount-error"), message);
  byId("recount-count").setAttribute("aria-invalid", String(message !== ""));
}

const binName = ({ bin_id: id }) => (id ? `Bin ${id}` : "The bin");

function finding({ outcome, count }, recorded) {
  if (outcome === "cannot_tell") return "cannot be told.";
  if (outcome === "bad_photo") return "has a bad photo.";
  return `${objects(count)} counted, ${count === recorded ? "as recorded" : `the record says ${recorded}: it is wrong`}.`;
}

function drawLast(text, model) {
  byId("recount-last").hidden = false;
  byId("recount-last-text").textContent = text;
  show(byId("recount-last-model"), model);
  byId("recount-undo").hidden = false;
}

export function drawSaving(bin, content) {
  drawLast(`${binName(bin)}: ${finding(content, bin.record.quantity)}`, "");
}

/** What the model saw, now that the person has counted. */
export function drawSettled(answer) {
  const seen = answer.expected_count === null ? "" : `The model saw about ${answer.expected_count.toFixed(1)}, most probably ${answer.predicted_count}. `;
  drawLast(`${binName(answer)}: ${finding(answer, answer.record.quantity)}`, `${seen}Its verdict was ${answer.verdict}: ${answer.reason}.`);
}

export function drawRefused(error, undoable) {
  drawLast(`Not saved: ${error.message}`, "");
  byId("recount-undo").hidden = undoable === 0;
  announce(`Not saved: ${error.message}`);
}

export function drawUndone(undoable) {
  drawLast("Taken back.", "");
  byId("recount-undo").hidden = undoable === 0;
  announce("Taken back: count this bin again.");
}

export function showUnsaved(number, error) {
  const what = number === 1 ? "1 recount is" : `${number} recounts are`;
  show(byId("recount-unsaved"), number && error ? `${what} not saved yet. ${error.message} Nothing is lost: it is sent again every 5 seconds.` : "");
}

const share = ({ share: value, low, high }) => `${percent(value)} (${percent(low)} to ${percent(high)})`;

/** Found so far against expected, and what the bins drawn at random say. */
export function drawProgress(progress) {
  const { pending, outcomes, wrong, expected_wrong: expected, expected_of: expectedOf, wrong_share: wrongShare, accuracy } = progress;
  const parts = [`${pending} ${pending === 1 ? "waits" : "wait"}.`];
  if (outcomes.count) {
    const hope = expectedOf ? `, ${expected.toFixed(1)} expected` : "";
    parts.push(`${outcomes.count} counted: ${wrong} wrong ${wrong === 1 ? "record" : "records"} found${hope}.`);
  }
  if (wrongShare.total) parts.push(`Of ${wrongShare.total} drawn at random, ${share(wrongShare)} of the records are wrong, and the model is right in ${share(accuracy)}.`);
  byId("recount-progress").textContent = parts.join(" ");
  fill("station", progress.stations, "All stations");
  fill("day", progress.days, "All days");
}

/** The choices of a filter; what is selected stays, also where nothing of it waits any more. */
function fill(name, numbers, all) {
  const list = byId(FILTERS[name]);
  const selected = list.value;
  const names = [...new Set([...Object.keys(numbers), ...(selected ? [selected] : [])])].sort();
  const choices = names.map((value) => el("option", { value }, `${value} (${numbers[value] ?? 0})`));
  list.replaceChildren(el("option", { value: "" }, all), ...choices);
  list.value = selected;
  list.closest("label").hidden = names.length === 0;
}
