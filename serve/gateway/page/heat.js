// Where the model looked: a heat map over the photo, which a button shows and hides.

import { el, svg } from "./dom.js";

const PNG = /^data:image\/png;base64,([A-Za-z0-9+/=]+)$/;

let url = null; // of the picture that is shown

/** The photo; with `attention`, as an answer has it, there is a button that lays the heat map over it. */
export function photoWithHeat(photoUrl, attention) {
  const photo = el("img", { src: photoUrl, alt: "The photo that was checked", class: "judged" });
  const heat = pictureUrl(attention);
  if (heat === null) return photo;
  const frame = el("div", { class: "frame" }, photo);
  const toggle = el("button", { type: "button", class: "secondary", "aria-pressed": "false" }, "Where the model looked");
  let overlay = null;
  toggle.addEventListener("click", () => {
    overlay ??= frame.appendChild(heatMap(heat, photo));
    const pressed = toggle.getAttribute("aria-pressed") !== "true";
    toggle.setAttribute("aria-pressed", String(pressed));
    overlay.classList.toggle("off", !pressed);
  });
  return el("div", {}, frame, el("div", { class: "buttons" }, toggle));
}

/** The page may load pictures from blob: addresses, but not from data: ones. */
function pictureUrl(attention) {
  if (url !== null) URL.revokeObjectURL(url);
  url = null;
  const [, text] = (attention && PNG.exec(attention.image)) || [];
  if (!text) return null;
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  url = URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
  return url;
}

/** The heat map is a square, as the model saw the photo, and is stretched to the photo's own shape. */
function heatMap(heat, photo) {
  const [width, height] = [photo.naturalWidth || 1, photo.naturalHeight || 1];
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "heat", role: "img", "aria-label": "Where the model looked" },
    svg("image", { href: heat, width, height, preserveAspectRatio: "none" }));
}
