// Questions to the gateway. An error is always a Problem with a type; a missing key is asked for.

import { byId } from "./dom.js";

const KEPT = "binwatch-key";
const TIMEOUT_MS = 60000;

export class Problem extends Error {
  constructor(type, message, retryAfter = null) {
    super(message);
    this.type = type;
    this.retryAfter = retryAfter;
  }
}

/** The JSON that the gateway answers. Throws Problem. */
export async function ask(path, options = {}) {
  for (;;) {
    const response = await send(path, options);
    const body = await response.json().catch(() => null);
    if (response.ok && body !== null) return body;
    if (response.status === 401 && (await askForKey(sessionStorage.getItem(KEPT) !== null))) continue;
    const type = (body && body.type) || `HTTP ${response.status}`;
    throw new Problem(type, (body && body.message) || "The answer cannot be read.", response.headers.get("Retry-After"));
  }
}

async function send(path, options) {
  const key = sessionStorage.getItem(KEPT);
  const headers = { ...options.headers, ...(key ? { "X-API-Key": key } : {}) };
  try {
    return await fetch(path, { ...options, headers, signal: AbortSignal.timeout(TIMEOUT_MS) });
  } catch (error) {
    if (error.name === "TimeoutError") throw new Problem("TimedOut", "No answer came within a minute.");
    throw new Problem("Unreachable", "The server cannot be reached.");
  }
}

let asking = null;

/** Ask the user for a key; several questions that need one share the dialog. True when there is one to try. */
function askForKey(refused) {
  asking ??= new Promise((done) => {
    const dialog = byId("key-dialog");
    byId("key-title").textContent = refused ? "This key is not valid" : "An API key is needed";
    byId("key").value = "";
    dialog.returnValue = "cancel";
    dialog.addEventListener("close", () => {
      const key = byId("key").value.trim();
      asking = null;
      const given = dialog.returnValue === "ok" && key !== "";
      if (given) sessionStorage.setItem(KEPT, key);
      byId("forget").hidden = sessionStorage.getItem(KEPT) === null;
      done(given);
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

export function forgetKey() {
  sessionStorage.removeItem(KEPT);
  byId("forget").hidden = true;
}

export const hasKey = () => sessionStorage.getItem(KEPT) !== null;
