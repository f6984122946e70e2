// The third tab: bins whose record may be wrong, one after the other, for a person who counts them in the photo.
// What the model saw comes after the count: who has read a number counts towards it.

import { request, requestPhoto } from "./api.js";
import { byId } from "./dom.js";
import * as view from "./recount-view.js";
import { Burst } from "./scanner.js";
import * as unsaved from "./unsaved.js";

const WINDOW_KEY = "binwatch-window";
const RENEW_MS = 60000; // a bin is leased for three minutes
const SCAN_LENGTH = 4;

let current = null; // the bin on the screen, with the address of its photo
let ahead = null; // a promise of the next one
let settled = []; // event ids, the last one at the end
let loading = false;

const isOpen = () => !byId("panel-recount").hidden;

/** Tells this browser tab from others with the same key. */
function windowId() {
  const bytes = () => [...crypto.getRandomValues(new Uint8Array(12))];
  const id = sessionStorage.getItem(WINDOW_KEY) ?? bytes().map((byte) => byte.toString(16).padStart(2, "0")).join("");
  sessionStorage.setItem(WINDOW_KEY, id);
  return id;
}

export function setUp() {
  unsaved.setUp({ saved: onSaved, refused: onRefused, waiting: onWaiting });
  byId("recount-form").addEventListener("submit", (event) => { event.preventDefault(); saveCount(); });
  byId("recount-unclear").addEventListener("click", () => save({ outcome: "cannot_tell" }));
  byId("recount-bad").addEventListener("click", () => save({ outcome: "bad_photo" }));
  byId("recount-undo").addEventListener("click", undo);
  byId("recount-again").addEventListener("click", () => load());
  for (const id of ["recount-station", "recount-day"]) byId(id).addEventListener("change", () => load(false));
  document.addEventListener("keydown", onKey, { capture: true });
  setInterval(() => isOpen() && !document.hidden && renew(), RENEW_MS);
}

/** Called when the tab is shown. `focus`: whether the field for the count gets it. */
export function open(focus) {
  if (focus && current !== null) byId("recount-count").focus();
  renew(focus);
}

/** Show the best bin of the selection, in place of the one on the screen. */
async function load(focus = true) {
  if (loading) return;
  loading = true;
  ahead = null;
  try {
    await unsaved.send();
    await step(await fetchNext(null), focus);
    refreshProgress().catch(() => {});
  } catch (error) {
    fail(error);
  } finally {
    loading = false;
  }
}

/** The next bin with its photo in memory; `shown`: the bin that is on the screen, which stays with this person. */
async function fetchNext(shown) {
  const query = new URLSearchParams({ client: windowId(), ...view.filters(), ...(shown ? { shown } : {}) });
  const { bin, pending } = await request(`/recounts/next?${query}`);
  if (bin && unsaved.has(bin.event_id)) return { bin: null, pending, photo: null };
  return { bin, pending, photo: bin ? await photoUrl(bin) : null };
}

async function photoUrl(bin) {
  if (bin.link) return null;
  return URL.createObjectURL(await requestPhoto(`/recounts/${bin.event_id}/photo`));
}

/** Put a fetched bin on the screen, and fetch the one after it. */
async function step(next, focus = true) {
  if (current?.photo) URL.revokeObjectURL(current.photo);
  current = next.bin ? next : null;
  view.draw(next, focus);
  if (current) fetchAhead();
}

function fetchAhead() {
  const shown = current.bin.event_id;
  ahead = unsaved.send().then(() => fetchNext(shown));
  ahead.catch(() => {}); // it is asked again when it is needed
}

function saveCount() {
  const text = byId("recount-count").value.trim();
  if (/^\d{1,5}$/.test(text)) return save({ outcome: "count", count: Number(text) });
  view.markError(text ? `“${text}” is not a whole number from 0 to 99999.` : "Type how many objects you see.");
  return null;
}

/** The next photo is on the screen at once; what was found is sent meanwhile. */
async function save(content) {
  if (current === null || loading) return;
  loading = true;
  const { event_id: eventId } = current.bin;
  const prepared = ahead;
  settled.push(eventId);
  view.drawSaving(current.bin, content);
  const sent = unsaved.add(eventId, content);
  try {
    const next = await (prepared ?? sent.then(() => fetchNext(null)));
    await step(next.bin ? next : await sent.then(() => fetchNext(null)));
  } catch (error) {
    fail(error);
  } finally {
    loading = false;
  }
}

async function undo() {
  if (loading || settled.length === 0) return;
  loading = true;
  const eventId = settled[settled.length - 1];
  try {
    const query = new URLSearchParams({ client: windowId() });
    const bin = unsaved.remove(eventId) ? null : await request(`/recounts/${eventId}?${query}`, { method: "DELETE" });
    settled.pop();
    view.drawUndone(settled.length);
    ahead = null;
    await step(bin ? { bin, pending: null, photo: await photoUrl(bin) } : await fetchNext(null));
    refreshProgress().catch(() => {});
  } catch (error) {
    if (error.type === undefined) throw error;
    view.markError(`Not taken back: ${error.message}`);
  } finally {
    loading = false;
  }
}

function onSaved(answer) {
  view.drawSettled(answer);
  refreshProgress().catch(() => {});
}

function onRefused(error, eventId) {
  settled = settled.filter((id) => id !== eventId);
  view.drawRefused(error, settled.length);
}

function onWaiting(number, error) {
  view.showUnsaved(number, error);
  if (number === 0 && current === null && isOpen()) load();
}

async function refreshProgress() {
  view.drawProgress(await request(`/recounts?${new URLSearchParams(view.filters())}`));
}

/** Keep the leases of the bins on the screen and in memory; look for a bin where there is none. */
function renew(focus = false) {
  if (current === null) load(focus);
  else request(`/recounts/next?${new URLSearchParams({ client: windowId(), ...view.filters(), shown: current.bin.event_id })}`).catch(() => {});
}

function fail(error) {
  if (error.type === undefined) throw error;
  current = null;
  view.drawFailure(error);
}

const burst = new Burst();

/** Digits get into the field wherever the focus is; a scanned label is no count. */
function onKey(event) {
  if (!isOpen() || document.querySelector("dialog[open]") || current === null || !event.key || event.altKey) return;
  const input = byId("recount-count");
  const scanned = burst.add(event.key, event.timeStamp, event.repeat);
  if (scanned !== null && scanned.length >= SCAN_LENGTH) {
    event.preventDefault();
    event.stopPropagation();
    input.value = "";
    view.markError("A scanned label is not a count. Type how many objects you see.");
    return;
  }
  if (event.target !== input && event.target !== document.body) return;
  if (event.ctrlKey || event.metaKey) {
    if (event.key.toLowerCase() === "z" && input.value === "") { event.preventDefault(); undo(); }
    return;
  }
  const action = { "/": () => save({ outcome: "cannot_tell" }), "*": () => save({ outcome: "bad_photo" }) }[event.key];
  if (action) {
    event.preventDefault();
    action();
  } else if (/^\d$/.test(event.key)) {
    input.focus();
    view.markError("");
  } else if (event.key.length === 1) {
    event.preventDefault(); // a letter is no count
  }
}
