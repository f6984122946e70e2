// What verdicts and errors are called in plain words. Pure: no element is touched here.

import { percent } from "./dom.js";

export const objects = (count) => `${count} object${String(count) === "1" ? "" : "s"}`;

/** The title and the sentence of an answer. */
export function verdict(answer) {
  const looks = `The photo looks like ${objects(answer.count)}`;
  const recorded = answer.expected_quantity;
  const agrees = String(answer.count) === String(recorded);
  const weight = weighed(answer);
  switch (answer.verdict) {
    case "match":
      return { kind: "match", title: "Match", text: `${looks}${agrees ? ", as recorded" : `, and ${recorded} fits too`}.${weight}` };
    case "mismatch": {
      const against = agrees ? ", as recorded" : `; the record says ${recorded}`;
      return { kind: "mismatch", title: "Mismatch", text: `${looks}${against}.${weight} Recount this bin.` };
    }
    case "unsure":
      return { kind: "unsure", title: "Unsure", text: `${unsure(answer, looks, agrees)}${weight}` };
    default:
      return { kind: "count", title: objects(answer.count), text: `${looks}. Nothing was compared.` };
  }
}

function unsure(answer, looks, agrees) {
  const recorded = answer.expected_quantity;
  const known = Object.keys(answer.probabilities);
  if (answer.probability === null) {
    return `The model cannot judge a record of ${recorded}: it knows ${known[0]} to ${known[known.length - 1]} objects.`;
  }
  if (/too few for alpha/.test(answer.reason)) {
    return `${looks}, but the model was calibrated on too few bins with ${objects(recorded)} to say yes or no.`;
  }
  return agrees ? `${looks}, as recorded, but that is not certain enough.` : `${looks} rather than ${recorded}, but not clearly enough for an alarm.`;
}

function weighed({ weight }) {
  if (!weight) return "";
  return weight.verdict === "mismatch" ? " The weight does not fit the record." : " The weight fits the record.";
}

/** What is behind the verdict, as pairs of a name and a value. */
export function facts(answer) {
  const found = [["Expected count (the mean)", answer.expected_count.toFixed(2)]];
  if (answer.verdict) {
    const { probability, counts_that_fit: fitting } = answer;
    found.unshift(["The record is right", probability === null ? "unknown" : percent(probability)]);
    found.push(["Counts that fit the photo", fitting.length ? fitting.join(", ") : "none"]);
    found.push(["The server's reason", answer.reason]);
    found.push(["At most so many right records raise the alarm", percent(answer.alpha)]);
  }
  if (answer.weight && typeof answer.weight === "object") {
    for (const [name, value] of Object.entries(answer.weight)) found.push([`Weight: ${name.replaceAll("_", " ")}`, String(value)]);
  }
  found.push(["Model version", answer.model_version]);
  return found;
}

const TITLES = {
  BadPhoto: "This photo cannot be read",
  BadField: "Something typed cannot be used",
  TooLarge: "The photo is too large",
  TooSlow: "The photo came too slowly",
  NoModel: "There is no model yet",
  Down: "The counting server is down",
  Overloaded: "The server is busy",
  TimedOut: "No answer in time",
  TooManyRequests: "Too many requests",
  NoKey: "An API key is needed",
  Unreachable: "The server cannot be reached",
  Failed: "The counting server failed",
};

const TODO = {
  BadPhoto: "Take another photo, or choose a JPEG or PNG file.",
  NoModel: "The first one is trained and put in place by itself. Try again in some minutes.",
  Down: "Nothing is lost. Try again in a moment; if it stays like this, tell whoever runs binwatch.",
  Overloaded: "Nothing is lost. Try again in a moment.",
  TimedOut: "Try again in a moment.",
  Unreachable: "Check the network, then try again.",
  NoKey: "Press the button again and type the key.",
};

export function problem(error) {
  return { title: TITLES[error.type] || "That did not work", todo: TODO[error.type] || "", text: error.message };
}
