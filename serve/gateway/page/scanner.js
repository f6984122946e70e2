// Recognises a barcode scanner that acts as a keyboard: it types faster than anybody does, and ends with Enter.

const FAST_MS = 70;
const MIN_LENGTH = 3;

/** A run of fast keys. `add` returns the scanned text when the key ends one, otherwise null. */
export class Burst {
  #text = "";
  #lastMs = -Infinity;

  /** `ms`: when the key was pressed; `repeated`: whether it is only held down. */
  add(key, ms, repeated = false) {
    const fast = ms - this.#lastMs <= FAST_MS && !repeated;
    const text = fast ? this.#text : "";
    this.#lastMs = ms;
    if (key === "Enter") {
      this.#text = "";
      return text.length >= MIN_LENGTH ? text : null;
    }
    this.#text = key.length === 1 && !repeated ? text + key : "";
    return null;
  }

  /** Whether the key that was added last is the first of a run. */
  get begins() {
    return this.#text.length === 1;
  }
}

/**
 * Call `accept` with each text that is scanned, wherever the focus is. What the scanner typed into a field other than
 * `own` is taken out of it again. Where a dialog is open, its fields get what is scanned; nothing is taken from a tab of
 * class `no-scan`, where people type numbers fast.
 */
export function onScan(accept, own) {
  const burst = new Burst();
  let field = null;
  let before = "";
  document.addEventListener("keydown", (event) => {
    if (!event.key || event.ctrlKey || event.altKey || event.metaKey || event.key === "Shift") return;
    if (document.querySelector("dialog[open], .no-scan:not([hidden])")) return;
    const text = burst.add(event.key, event.timeStamp, event.repeat);
    if (burst.begins) {
      field = event.target.matches("input:not([type=file]), select") ? event.target : null;
      before = field ? field.value : "";
    }
    if (text === null) return;
    event.preventDefault(); // Enter would press the button that has the focus, or send the form
    event.stopPropagation();
    if (field && field !== own) field.value = before;
    field = null;
    accept(text.trim());
  }, { capture: true });
}
