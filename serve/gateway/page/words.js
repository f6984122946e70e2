// Verdicts and errors in plain words. Pure: it touches no elements.

import { percent } from "./dom.js";

export const objects = (count) => `${count} object${String(count) === "1" ? "" : "s"}`;

/** The title and the sentence for an answer. */
export function verdict(answer) {
  const looks = `The photo looks like ${objects(answer.count)}`;
  const recorded = answer.expected_quantity;
  const agrees = String(answer.count) === String(recorded);
  const weight = weightSentence(answer);
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
  if (answer.calibrated === false) {
    return `${looks}, but the model was calibrated on too few bins with ${objects(recorded)} to say yes or no.`;
  }
  return agrees ? `${looks}, as recorded, but that is not certain enough.` : `${looks} rather than ${recorded}, but not clearly enough for an alarm.`;
}

function weightSentence({ weight }) {
  if (!weight) return "";
  return weight.verdict === "mismatch" ? " The weight does not fit the record." : " The weight fits the record.";
}

/** The details behind the verdict, as pairs of name and value. */
export function facts(answer) {
  const pairs = [["Expected count (the mean)", answer.expected_count.toFixed(2)]];
  if (answer.verdict) {
    const { probability, counts_that_fit: fitting } = answer;
    pairs.unshift(["The record is right", probability === null ? "unknown" : percent(probability)]);
    pairs.push(["Counts that fit the photo", fitting.length ? fitting.join(", ") : "none"]);
    pairs.push(["The server's reason", answer.reason]);
    pairs.push(["Share of right records that may raise the alarm", percent(answer.alpha)]);
  }
  if (answer.weight && typeof answer.weight === "object") {
    for (const [name, value] of Object.entries(answer.weight)) pairs.push([`Weight: ${name.replaceAll("_", " ")}`, String(value)]);
  }
  pairs.push(["Model version", answer.model_version]);
  return pairs;
}

const TITLES = {
  BadPhoto: "This photo cannot be read",
  BadField: "A field is not valid",
  TooLarge: "The photo is too large",
  TooSlow: "The upload took too long",
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
  NoModel: "The first one is trained and deployed automatically. Try again in a few minutes.",
  Down: "Nothing is lost. Try again in a moment; if the problem persists, tell the operator of this server.",
  Overloaded: "Nothing is lost. Try again in a moment.",
  TimedOut: "Try again in a moment.",
  Unreachable: "Check the network, then try again.",
  NoKey: "Press the button again and enter the key.",
};

export function problem(error) {
  return { title: TITLES[error.type] || "That did not work", todo: TODO[error.type] || "", text: error.message };
}
