// The first tab: the form, the request, and its result.

import { request } from "./api.js";
import * as bin from "./bin.js";
import { announce, byId, show } from "./dom.js";
import * as photo from "./photo.js";
import { drawProblem, drawResult } from "./result.js";

const FIELDS = { bin_id: "bin", expected_quantity: "quantity", weight: "weight", weight_unit: "weight-unit", expected_weight: "expected-weight", station: "station" };
const STATION = "binwatch-station";

let checked = null; // the photo that the last verdict is about

/** `onAnswer` is called with each answer, and without an argument after a failure. */
export function setUp(onAnswer) {
  photo.setUp(() => {});
  bin.setUp(onBin);
  const form = byId("check");
  form.addEventListener("submit", (event) => { event.preventDefault(); send("/verify", onAnswer); });
  const station = byId("station");
  station.value = localStorage.getItem(STATION) ?? "";
  station.addEventListener("change", () => localStorage.setItem(STATION, station.value.trim()));
  byId("count-only").addEventListener("click", () => send("/predict", onAnswer));
  byId("fewer").addEventListener("click", () => step(-1));
  byId("more").addEventListener("click", () => step(1));
  byId("quantity").addEventListener("keydown", (event) => {
    const change = { ArrowUp: 1, ArrowDown: -1 }[event.key];
    if (change) { event.preventDefault(); step(change); }
  });
}

/** The photo of a bin that has its verdict is not meant for the next bin. */
function onBin(id) {
  if (id !== "" && photo.chosen !== null && photo.chosen === checked) photo.clear();
  markError("quantity", "");
}

function step(change) {
  const input = byId("quantity");
  if (input.readOnly) return;
  const current = /^\d+$/.test(input.value.trim()) ? Number(input.value) : change > 0 ? 0 : 1;
  input.value = String(Math.min(99999, Math.max(0, current + change)));
  markError("quantity", "");
}

let sending = false;

async function send(path, onAnswer) {
  if (sending) return;
  const checks = path === "/verify" ? [checkPhoto, checkRecord, checkWeights] : [checkPhoto];
  const invalid = checks.map((check) => check()).filter(Boolean);
  if (invalid.length) {
    byId(invalid[0]).focus();
    announce("Something is missing or not valid; see the message at the field.");
    return;
  }
  const body = new FormData();
  for (const [name, text] of Object.entries(fields())) {
    if (path === "/verify" || name === "station") body.append(name, text);
  }
  body.append("attention", "1");
  body.append("photo", photo.chosen, "photo");
  setBusy(true);
  try {
    const sent = photo.chosen;
    const answer = await request(path, { method: "POST", body });
    checked = sent;
    drawResult(answer, byId("preview").src);
    onAnswer(answer);
    bin.setUp(onBin); // where it could not be asked before, as without a key
  } catch (error) {
    if (error.type === undefined) throw error;
    drawProblem(error, () => send(path, onAnswer));
    onAnswer();
  } finally {
    setBusy(false);
  }
}

const typed = (id) => byId(id).value.trim();

/** The fields of a request by name: those that are filled in and shown; of bin and quantity, the bin. */
function fields() {
  const names = Object.keys(FIELDS).filter((name) => typed(FIELDS[name]) && !isHidden(FIELDS[name]));
  const unused = [bin.typed() ? "expected_quantity" : "bin_id", typed("weight") ? "" : "weight_unit"];
  const pairs = names.filter((name) => !unused.includes(name)).map((name) => [name, typed(FIELDS[name])]);
  return Object.fromEntries(pairs.map(([name, text]) => [name, name.endsWith("weight") ? text.replace(",", ".") : text]));
}

const isHidden = (id) => byId(id).closest("[hidden]") !== null;

/** Each check returns the id of the field to correct, or null. */
function checkPhoto() {
  if (photo.chosen) return null;
  if (byId("photo-error").hidden) photo.markError("Choose or take a photo of the bin first.");
  return "photo";
}

function checkRecord() {
  if (bin.typed() === "") return checkQuantity();
  markError("quantity", "");
  return bin.check() ? null : "bin";
}

function checkQuantity() {
  const text = typed("quantity");
  const valid = /^\d{1,5}$/.test(text);
  markError("quantity", valid ? "" : text ? `“${text}” is not a whole number from 0 to 99999.` : "Enter the recorded quantity, a whole number.");
  return valid ? null : "quantity";
}

function checkWeights() {
  const byRecord = isHidden("expected-weight");
  const texts = [typed("weight"), byRecord ? "" : typed("expected-weight")];
  const filled = texts.filter(Boolean);
  const valid = filled.every((text) => Number(text.replace(",", ".")) > 0);
  const message = filled.length === 1 && !byRecord ? "Enter both weights, or neither." : valid ? "" : "Enter a weight greater than 0.";
  markError("weight", message);
  return message ? (texts[0] && !byRecord ? "expected-weight" : "weight") : null;
}

function markError(id, message) {
  show(byId(`${id}-error`), message);
  byId(id).setAttribute("aria-invalid", String(message !== ""));
}

function setBusy(busy) {
  sending = busy;
  byId("result").setAttribute("aria-busy", String(busy));
  byId("result").classList.toggle("busy", busy);
  for (const id of ["submit", "count-only"]) byId(id).setAttribute("aria-disabled", String(busy));
  byId("submit").textContent = busy ? "Checking…" : "Check this bin";
  if (busy) announce("Checking the photo.");
}
