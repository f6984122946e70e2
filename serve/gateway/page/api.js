// Requests to the gateway. Every error is a Problem with a type; if a key is missing, the user is asked for one.

import { byId } from "./dom.js";

const STORAGE_KEY = "binwatch-key";
const TIMEOUT_MS = 60000;

export class Problem extends Error {
  constructor(type, message, retryAfter = null) {
    super(message);
    this.type = type;
    this.retryAfter = retryAfter;
  }
}

/** The JSON that the gateway returns. Throws Problem. */
export const request = (path, options = {}) => receive(path, options, (response) => response.json());

/** The photo that the gateway returns, as a Blob. Throws Problem. */
export const requestPhoto = (path) => receive(path, {}, (response) => response.blob());

async function receive(path, options, read) {
  for (;;) {
    const response = await send(path, options);
    const body = await (response.ok ? read(response) : response.json()).catch(() => null);
    if (response.ok && body !== null) return body;
    if (response.status === 401 && (await askForKey(hasKey()))) continue;
    const type = (body && body.type) || `HTTP ${response.status}`;
    throw new Problem(type, (body && body.message) || "The answer cannot be read.", response.headers.get("Retry-After"));
  }
}

async function send(path, options) {
  const key = sessionStorage.getItem(STORAGE_KEY);
  const headers = { ...options.headers, ...(key ? { "X-API-Key": key } : {}) };
  try {
    return await fetch(path, { ...options, headers, signal: AbortSignal.timeout(TIMEOUT_MS) });
  } catch (error) {
    if (error.name === "TimeoutError") throw new Problem("TimedOut", "The server did not answer within a minute.");
    throw new Problem("Unreachable", "The server cannot be reached.");
  }
}

let openDialog = null;

/** Ask the user for a key; requests that need one at the same time share the dialog. Resolves to whether to retry. */
function askForKey(rejected) {
  openDialog ??= new Promise((resolve) => {
    const dialog = byId("key-dialog");
    byId("key-title").textContent = rejected ? "This key is not valid" : "An API key is needed";
    byId("key").value = "";
    dialog.returnValue = "cancel";
    dialog.addEventListener("close", () => {
      const key = byId("key").value.trim();
      openDialog = null;
      const confirmed = dialog.returnValue === "ok" && key !== "";
      if (confirmed) sessionStorage.setItem(STORAGE_KEY, key);
      byId("forget").hidden = !hasKey();
      resolve(confirmed);
    }, { once: true });
    dialog.showModal();
  });
  return openDialog;
}

export function forgetKey() {
  sessionStorage.removeItem(STORAGE_KEY);
  byId("forget").hidden = true;
}

export const hasKey = () => sessionStorage.getItem(STORAGE_KEY) !== null;
