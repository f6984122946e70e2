// Verdicts and errors in plain words. Pure: it touches no elements.

import { percent } from "./dom.js";

export const objects = (count) => `${count} object${String(count) === "1" ? "" : "s"}`;

/** The name of a product of a record, else its id. */
export const productName = ({ name, id }) => name || id || "a product without a name";

/** The sides and the weight of one unit of a product, as far as the record knows them. */
export function measures({ sides_cm: sides, weight_kg: weight, quantity }) {
  const size = sides ? `${sides.map((side) => side.toFixed(side < 10 ? 1 : 0)).join(" × ")} cm` : "size not known";
  const heavy = weight === null ? "weight not known" : weight < 1 ? `${Math.round(1000 * weight)} g` : `${weight.toFixed(2)} kg`;
  return `${size}, ${heavy}${quantity === 1 || !(sides || weight !== null) ? "" : " each"}`;
}

/** The title and the sentence for an answer. */
export function verdict(answer) {
  const looks = `The photo looks like ${objects(answer.count)}`;
  const recorded = answer.expected_quantity;
  const agrees = String(answer.count) === String(recorded);
  const weight = weightSentence(answer);
  const reason = restsOnProducts(answer) ? `${sentence(answer.reason)}${answer.evidence.includes("weight") ? "" : weight}` : null;
  switch (answer.verdict) {
    case "match":
      return { kind: "match", title: "Match", text: `${looks}${agrees ? ", as recorded" : `, and ${recorded} fits too`}.${weight}` };
    case "mismatch": {
      const against = agrees ? ", as recorded" : `; the record says ${recorded}`;
      return { kind: "mismatch", title: "Mismatch", text: `${reason ?? `${looks}${against}.${weight}`} Recount this bin.` };
    }
    case "unsure":
      return { kind: "unsure", title: "Unsure", text: reason ?? `${unsure(answer, looks, agrees)}${weight}` };
    default:
      return { kind: "count", title: objects(answer.count), text: `${looks}. Nothing was compared.` };
  }
}

function unsure(answer, looks, agrees) {
  const recorded = answer.expected_quantity;
  const known = Object.keys(answer.probabilities);
  if (answer.not_a_bin === true) return sentence(answer.reason);
  if (answer.probability === null) {
    return `The model cannot judge a record of ${recorded}: it knows ${known[0]} to ${known[known.length - 1]} objects.`;
  }
  if (answer.calibrated === false) {
    return `${looks}, but no record of ${recorded} can raise the alarm yet: ${answer.reason}.`;
  }
  return agrees ? `${looks}, as recorded, but that is not certain enough.` : `${looks} rather than ${recorded}, but not clearly enough for an alarm.`;
}

function weightSentence({ weight }) {
  if (!weight) return "";
  if (weight.unit) return ` ${sentence(weight.reason)}`; // compared with the products of the record
  return weight.verdict === "mismatch" ? " The weight does not fit the record." : " The weight fits the record.";
}

/** Whether the sizes of the record's products had a say. */
const restsOnProducts = ({ evidence }) => typeof evidence === "string" && evidence.includes("products");

/** A reason of the server as a sentence. */
const sentence = (reason) => `${reason.charAt(0).toUpperCase()}${reason.slice(1)}.`;

/** The details behind the verdict, as pairs of name and value. */
export function facts(answer) {
  const pairs = [["Expected count (the mean)", answer.expected_count.toFixed(2)]];
  if (answer.verdict) {
    const { probability, counts_that_fit: fitting } = answer;
    pairs.unshift(["The record is right", probability === null ? "unknown" : percent(probability)]);
    pairs.push(["Counts that fit the photo", fitting.length ? fitting.join(", ") : "none"]);
    pairs.push(["The server's reason", answer.reason]);
    if (answer.evidence) pairs.push(["The verdict rests on", answer.evidence.split("+").join(" and ")]);
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
  NoSuchBin: "There is no record of this bin",
  NoRecords: "Records are not looked up here",
  BadRecord: "The record of this bin is broken",
  RecordsDown: "The records cannot be reached",
  RecordsFailed: "The records cannot be read",
  RecordsTimeout: "The records took too long",
  RecordsUnreadable: "The records cannot be read",
  NoRecounts: "There is no list of recounts here",
  NoRight: "This API key may not recount",
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
  NoSuchBin: "Check the id, or clear it and enter the quantity.",
  RecordsDown: "Try again in a moment, or clear the bin's id and enter the quantity.",
  RecordsTimeout: "Try again in a moment, or clear the bin's id and enter the quantity.",
  NoKey: "Press the button again and enter the key.",
};

export function problem(error) {
  return { title: TITLES[error.type] || "That did not work", todo: TODO[error.type] || "", text: error.message };
}
