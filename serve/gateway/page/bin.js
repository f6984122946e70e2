// The bin's id, typed or scanned, and its record, which takes the place of the recorded quantity.

import { request } from "./api.js";
import { announce, byId, el, show } from "./dom.js";
import { onScan } from "./scanner.js";
import * as words from "./words.js";

const HELP = "Of the contents without the bin, both in the same unit.";
const VALID = /^[A-Za-z0-9_:-][A-Za-z0-9_.:-]{0,63}$/;

let shown = ""; // the id whose record is shown, or was asked for
let configured = false;
let answered = false; // whether the server has said if it has records

/** The id to send, empty if there is none. */
export const typed = () => (configured ? byId("bin").value.trim() : "");

/**
 * Ask the server whether it has records, until it answers; the field is there only if it does.
 * `onChange` is called with each new id.
 */
export async function setUp(onChange) {
  if (answered) return;
  answered = true;
  const answer = await request("/records").catch(() => null);
  answered = answer !== null;
  configured = answer?.configured === true;
  if (!configured) return;
  byId("bin-field").hidden = false;
  const input = byId("bin");
  input.addEventListener("change", () => lookUp(onChange));
  input.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault(); // the form is sent by its button: here Enter ends the id
    lookUp(onChange);
  });
  onScan((text) => {
    if (byId("panel-check").hidden) location.hash = "check";
    input.value = text;
    lookUp(onChange);
  }, input);
}

/** Marks the field if its id cannot be one. Returns whether it can. */
export function check() {
  const id = typed();
  const valid = id === "" || VALID.test(id);
  if (!valid) markError(`“${id}” is not a bin's id: 1 to 64 letters, digits and any of _ . : -, no dot in front.`);
  return valid;
}

async function lookUp(onChange) {
  const id = typed();
  if (id === shown) return;
  shown = id;
  markError("");
  drawRecord(null);
  if (!check()) return;
  onChange(id);
  if (id === "") return;
  try {
    const { record } = await request(`/records/${encodeURIComponent(id)}`);
    if (id === shown) drawRecord(record);
  } catch (error) {
    if (error.type === undefined) throw error;
    if (id === shown) markError(error.message);
    shown = ""; // so that Enter asks again
  }
}

/** Show what the record says in place of the quantity that is typed otherwise; null: nothing, as without an id. */
function drawRecord(record) {
  const quantity = byId("quantity");
  if (record !== null || quantity.readOnly) quantity.value = record === null ? "" : String(record.quantity);
  quantity.readOnly = record !== null;
  for (const name of ["fewer", "more"]) byId(name).disabled = record !== null;
  const weighable = record !== null && record.products.some((product) => product.weight_kg !== null);
  byId("expected-weight-field").hidden = weighable;
  byId("weight-unit-field").hidden = !weighable;
  byId("weight-help").textContent = weighable ? "Of the contents without the bin; the record knows what they should weigh." : HELP;
  byId("bin-record").replaceChildren(...(record === null ? [] : [summary(record)]));
  if (record !== null) announce(`Bin ${shown}: ${words.objects(record.quantity)} by its record.`);
}

function summary(record) {
  const lines = record.products.map((product) => el("li", {}, `${product.quantity} × ${words.productName(product)}`));
  return el("div", {}, el("p", {}, `${words.objects(record.quantity)} by its record`), lines.length > 0 && el("ul", {}, lines));
}

function markError(message) {
  show(byId("bin-error"), message);
  byId("bin").setAttribute("aria-invalid", String(message !== ""));
}
