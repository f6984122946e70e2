// The verdict, the bars, the photo, and the question what was really in the bin.

import { ask } from "./api.js";
import { byId, el, icon, percent, say, show } from "./dom.js";
import * as words from "./words.js";

export function drawResult(answer, photoUrl) {
  const found = words.verdict(answer);
  if (typeof answer.alpha === "number") byId("alpha").textContent = percent(answer.alpha);
  put(found.kind, found.title, found.text,
    el("div", { class: "seen" }, seen(photoUrl), bars(answer)),
    answer.event_id ? feedback(answer) : null,
    el("details", {}, el("summary", {}, "Details"), el("dl", { class: "facts" }, words.facts(answer).map(fact))));
}

export function drawProblem(error, again) {
  const found = words.problem(error);
  const wait = error.retryAfter ? ` The server asks to wait ${error.retryAfter} s.` : "";
  put("problem", found.title, found.todo || found.text,
    found.todo ? el("p", { class: "help" }, `${found.text}${wait}`) : null,
    el("div", { class: "buttons" }, el("button", { type: "button", class: "secondary", onclick: again }, "Try again")));
}

/** The heading takes the focus, so that it is read, and seen on a phone. */
function put(kind, title, text, ...rest) {
  const heading = byId("result-title");
  byId("result").dataset.kind = kind;
  heading.replaceChildren(icon(kind === "problem" ? "unsure" : kind), el("span", {}, title));
  byId("result-body").replaceChildren(...[el("p", { class: "lead" }, text), ...rest].filter(Boolean));
  heading.focus({ preventScroll: true });
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  byId("result").scrollIntoView({ block: "nearest", behavior: calm ? "auto" : "smooth" });
  say(`${title}. ${text}`);
}

const fact = ([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value));

function seen(url) {
  return el("img", { src: url, alt: "The photo that was judged", class: "judged" });
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
  const other = el("input", { type: "text", inputmode: "numeric", maxlength: "5", autocomplete: "off", id: "really" });
  const buttons = Object.keys(answer.probabilities).filter((name) => /^\d+$/.test(name)).map((name) =>
    el("button", { type: "button", class: "secondary round", "aria-label": words.objects(name), onclick: () => send(name) }, name));
  const form = el("form", { class: "other", novalidate: true },
    el("label", { for: "really" }, "Another number"), other, el("button", { type: "submit", class: "secondary" }, "Send"));
  form.addEventListener("submit", (event) => { event.preventDefault(); send(other.value.trim()); });

  async function send(text) {
    if (!/^\d{1,5}$/.test(text)) {
      note.textContent = "Type a whole number from 0 to 99999.";
      other.focus();
      return;
    }
    try {
      const body = JSON.stringify({ event_id: answer.event_id, count: Number(text) });
      await ask("/feedback", { method: "POST", body, headers: { "Content-Type": "application/json" } });
      note.textContent = `Thank you: ${words.objects(text)} noted. Choose again to correct it.`;
      for (const each of buttons) each.setAttribute("aria-pressed", String(each.textContent === text));
    } catch (error) {
      if (error.type === undefined) throw error;
      note.textContent = `Not kept: ${error.message}`;
    }
  }
  return el("fieldset", { class: "feedback" }, el("legend", {}, "What was really in the bin?"),
    el("div", { class: "choices" }, buttons, form), note);
}
