// The first tab: the form, the question, and what comes of it.

import { ask } from "./api.js";
import { byId, say, show } from "./dom.js";
import * as photo from "./photo.js";
import { drawProblem, drawResult } from "./result.js";

const FIELDS = { expected_quantity: "quantity", weight: "weight", expected_weight: "expected-weight" };

/** `answered` is called with each answer, and with nothing after a failure. */
export function setUp(answered) {
  photo.setUp(() => {});
  const form = byId("check");
  form.addEventListener("submit", (event) => { event.preventDefault(); send("/verify", answered); });
  byId("count-only").addEventListener("click", () => send("/predict", answered));
  byId("fewer").addEventListener("click", () => step(-1));
  byId("more").addEventListener("click", () => step(1));
  byId("quantity").addEventListener("keydown", (event) => {
    const by = { ArrowUp: 1, ArrowDown: -1 }[event.key];
    if (by) { event.preventDefault(); step(by); }
  });
}

function step(by) {
  const input = byId("quantity");
  const now = /^\d+$/.test(input.value.trim()) ? Number(input.value) : by > 0 ? 0 : 1;
  input.value = String(Math.min(99999, Math.max(0, now + by)));
  complain("quantity", "");
}

let sending = false;

async function send(path, answered) {
  if (sending) return;
  const wrong = [checkPhoto(), path === "/verify" && checkQuantity(), path === "/verify" && checkWeights()].filter(Boolean);
  if (wrong.length) {
    byId(wrong[0]).focus();
    say("Something is missing; see the message at the field.");
    return;
  }
  const body = new FormData();
  if (path === "/verify") {
    for (const [name, id] of Object.entries(FIELDS)) if (typed(id)) body.append(name, typed(id).replace(",", "."));
  }
  body.append("photo", photo.chosen, "photo");
  busy(true);
  try {
    const answer = await ask(path, { method: "POST", body });
    drawResult(answer, byId("preview").src);
    answered(answer);
  } catch (error) {
    if (error.type === undefined) throw error;
    drawProblem(error, () => send(path, answered));
    answered();
  } finally {
    busy(false);
  }
}

const typed = (id) => byId(id).value.trim();

function checkPhoto() {
  if (photo.chosen) return null;
  if (byId("photo-error").hidden) photo.mark("Choose or take a photo of the bin first.");
  return "photo";
}

function checkQuantity() {
  const text = typed("quantity");
  const right = /^\d{1,5}$/.test(text);
  complain("quantity", right ? "" : text ? `“${text}” is no whole number from 0 to 99999.` : "Type the recorded quantity, a whole number.");
  return right ? null : "quantity";
}

function checkWeights() {
  const texts = [typed("weight"), typed("expected-weight")];
  const given = texts.filter(Boolean);
  const numbers = given.every((text) => Number(text.replace(",", ".")) > 0);
  const message = given.length === 1 ? "Type both weights, or neither." : numbers ? "" : "A weight is a number above 0.";
  complain("weight", message);
  return message ? (texts[0] ? "expected-weight" : "weight") : null;
}

function complain(id, message) {
  show(byId(`${id}-error`), message);
  byId(id).setAttribute("aria-invalid", String(message !== ""));
}

function busy(now) {
  sending = now;
  byId("result").setAttribute("aria-busy", String(now));
  byId("result").classList.toggle("busy", now);
  for (const id of ["submit", "count-only"]) byId(id).setAttribute("aria-disabled", String(now));
  byId("submit").textContent = now ? "Checking…" : "Check this bin";
  if (now) say("Checking the photo.");
}
