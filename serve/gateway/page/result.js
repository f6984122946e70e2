// The result: the verdict, the probabilities, the photo, and the form for the real count.

import { request } from "./api.js";
import { announce, byId, el, icon, percent, show } from "./dom.js";
import { photoWithHeat } from "./heat.js";
import * as words from "./words.js";

export function drawResult(answer, photoUrl) {
  const { kind, title, text } = words.verdict(answer);
  if (typeof answer.alpha === "number") byId("alpha").textContent = percent(answer.alpha);
  draw(kind, title, text,
    el("div", { class: "seen" }, photoWithHeat(photoUrl, answer.attention), bars(answer)),
    answer.record ? record(answer) : null,
    answer.notes?.length ? el("ul", { class: "notes help" }, answer.notes.map((note) => el("li", {}, note))) : null,
    answer.event_id ? feedback(answer) : null,
    el("details", {}, el("summary", {}, "Details"), el("dl", { class: "facts" }, words.facts(answer).map(fact))));
}

export function drawProblem(error, retry) {
  const { title, todo, text } = words.problem(error);
  const wait = error.retryAfter ? ` The server asks to wait ${error.retryAfter} s.` : "";
  draw("problem", title, todo || text,
    todo ? el("p", { class: "help" }, `${text}${wait}`) : null,
    el("div", { class: "buttons" }, el("button", { type: "button", class: "secondary", onclick: retry }, "Try again")));
}

/** The heading takes the focus, so that screen readers read it and phones scroll to it. */
function draw(kind, title, text, ...details) {
  const heading = byId("result-title");
  byId("result").dataset.kind = kind;
  heading.replaceChildren(icon(kind === "problem" ? "unsure" : kind), el("span", {}, title));
  byId("result-body").replaceChildren(...[el("p", { class: "lead" }, text), ...details].filter(Boolean));
  heading.focus({ preventScroll: true });
  const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)").matches;
  byId("result").scrollIntoView({ block: "nearest", behavior: reducedMotion ? "auto" : "smooth" });
  announce(`${title}. ${text}`);
}

const fact = ([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value));

/** What the bin should hold: its products with quantity, size and weight. */
export function record({ bin_id: id, record: { quantity, products } }, titleId = "record-title") {
  const rows = products.map((product) => el("li", {},
    el("span", { class: "units" }, `${product.quantity} ×`), el("span", {}, words.productName(product)),
    el("span", { class: "measures" }, words.measures(product))));
  return el("section", { class: "record", "aria-labelledby": titleId },
    el("h3", { id: titleId }, `The record${id ? ` of bin ${id}` : ""}: ${words.objects(quantity)}`),
    rows.length ? el("ol", {}, rows) : el("p", { class: "help" }, "It lists no products."));
}

function bars(answer) {
  const recorded = String(answer.expected_quantity);
  const rows = Object.entries(answer.probabilities).map(([name, share]) => {
    const fill = el("span", { class: "fill" });
    fill.style.width = `${(100 * share).toFixed(1)}%`;
    const marks = [name === String(answer.count) && "most probable", name === recorded && "recorded"].filter(Boolean);
    return el("li", { class: marks.length ? "marked" : null },
      el("span", { class: "name" }, name), el("span", { class: "sr" }, name === "1" ? " object: " : " objects: "),
      el("span", { class: "bar", "aria-hidden": "true" }, fill), el("span", { class: "share" }, percent(share)),
      el("span", { class: "mark" }, marks.join(", ")));
  });
  return el("div", { class: "bars" }, el("h3", {}, "How probable is each count?"), el("ol", {}, rows));
}

function feedback(answer) {
  const note = el("p", { class: "help", role: "status" });
  const input = el("input", { type: "text", inputmode: "numeric", maxlength: "5", autocomplete: "off", id: "really" });
  const buttons = Object.keys(answer.probabilities).filter((name) => /^\d+$/.test(name)).map((name) =>
    el("button", { type: "button", class: "secondary round", "aria-label": words.objects(name), onclick: () => send(name) }, name));
  const form = el("form", { class: "other", novalidate: true },
    el("label", { for: "really" }, "Another number"), input, el("button", { type: "submit", class: "secondary" }, "Send"));
  form.addEventListener("submit", (event) => { event.preventDefault(); send(input.value.trim()); });

  async function send(text) {
    if (!/^\d{1,5}$/.test(text)) {
      note.textContent = "Enter a whole number from 0 to 99999.";
      input.focus();
      return;
    }
    try {
      const body = JSON.stringify({ event_id: answer.event_id, count: Number(text) });
      await request("/feedback", { method: "POST", body, headers: { "Content-Type": "application/json" } });
      note.textContent = `Thank you: ${words.objects(text)} saved. Choose again to correct it.`;
      for (const button of buttons) button.setAttribute("aria-pressed", String(button.textContent === text));
    } catch (error) {
      if (error.type === undefined) throw error;
      note.textContent = `Not saved: ${error.message}`;
    }
  }
  return el("fieldset", { class: "feedback" }, el("legend", {}, "What was really in the bin?"),
    el("div", { class: "choices" }, buttons, form), note);
}
