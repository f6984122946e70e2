// What people found and the server does not have yet. It stays in this browser tab, also over a reload, until it is saved.

import { request } from "./api.js";

const STORAGE_KEY = "binwatch-unsaved";
const RETRY_MS = 5000;
const REFUSED = ["NoSuchEvent", "Settled", "BadField"]; // sending these again would not help

const outcomes = JSON.parse(sessionStorage.getItem(STORAGE_KEY) || "[]");
let sending = null;
let timer = null;
let listener = { saved() {}, refused() {}, waiting() {} };

/**
 * `saved` is called with each answer; `refused` with the error of one that the server does not take; `waiting` with the
 * number that is not saved and why, 0 and null once all are.
 */
export function setUp(callbacks) {
  listener = callbacks;
  if (outcomes.length) send();
}

/** Send what was found about a bin, `{ outcome, count }`, now or as soon as the server answers. */
export function add(eventId, content) {
  outcomes.push({ eventId, content });
  store();
  return send();
}

/** Take back what was not sent yet. Returns whether there was anything. */
export function remove(eventId) {
  const place = outcomes.findIndex((item) => item.eventId === eventId);
  if (place === -1 || (place === 0 && sending !== null)) return false;
  outcomes.splice(place, 1);
  store();
  listener.waiting(outcomes.length, null);
  return true;
}

/** Whether something about a bin was not saved yet. */
export const has = (eventId) => outcomes.some((item) => item.eventId === eventId);

/** Resolves once everything was sent, or could not be. */
export function send() {
  clearTimeout(timer);
  sending ??= sendAll().finally(() => { sending = null; });
  return sending;
}

async function sendAll() {
  while (outcomes.length) {
    const { eventId, content } = outcomes[0];
    try {
      const body = JSON.stringify(content);
      listener.saved(await request(`/recounts/${eventId}`, { method: "POST", body, headers: { "Content-Type": "application/json" } }));
    } catch (error) {
      if (error.type === undefined) throw error;
      if (!REFUSED.includes(error.type)) {
        listener.waiting(outcomes.length, error);
        timer = setTimeout(send, RETRY_MS);
        return;
      }
      listener.refused(error, eventId);
    }
    outcomes.shift();
    store();
  }
  listener.waiting(0, null);
}

const store = () => sessionStorage.setItem(STORAGE_KEY, JSON.stringify(outcomes));
