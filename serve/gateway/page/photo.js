// Gets a photo from a file, by drag and drop, from the clipboard or from the camera, and scales it down if it is large.

import { byId, show } from "./dom.js";

const MAX_SIDE_PX = 1600;
const MAX_BYTES = 6000000;
const SERVER_TYPES = ["image/jpeg", "image/png"];

/** The photo to send, null if there is none. */
export let chosen = null;

/** `onChange` is called after a photo was chosen or rejected. */
export function setUp(onChange) {
  const accept = async (file) => {
    if (file) await choose(file).finally(onChange);
  };
  for (const id of ["photo", "shot"]) byId(id).addEventListener("change", (event) => accept(event.target.files[0]));
  byId("camera").addEventListener("click", () => openCamera(accept));
  addEventListener("paste", (event) => accept([...event.clipboardData.files].find((file) => file.type.startsWith("image/"))));
  const drop = byId("drop");
  for (const name of ["dragenter", "dragover"]) {
    drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  }
  for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => { event.preventDefault(); accept(event.dataTransfer.files[0]); });
  // a file dropped beside the field must not replace the page
  for (const name of ["dragover", "drop"]) addEventListener(name, (event) => event.preventDefault());
}

/** Forget the photo, as before one is chosen. */
export function clear() {
  chosen = null;
  for (const id of ["photo", "shot"]) byId(id).value = "";
  preview("");
}

async function choose(file) {
  chosen = null;
  try {
    if (!file.type.startsWith("image/")) throw new Error(`${file.name} is not a photo. Choose a JPEG or PNG file.`);
    chosen = await prepare(file);
    markError("");
  } catch (error) {
    markError(error.message);
  }
  preview(file.name);
}

/** The file itself if the server accepts it, otherwise a smaller JPEG of it. */
async function prepare(file) {
  const image = await createImageBitmap(file).catch(() => {
    throw new Error(`${file.name} cannot be read as a photo; it may be damaged. Choose a JPEG or PNG file.`);
  });
  const scale = Math.min(1, MAX_SIDE_PX / Math.max(image.width, image.height));
  if (scale === 1 && file.size <= MAX_BYTES && SERVER_TYPES.includes(file.type)) {
    image.close();
    return new Blob([await file.arrayBuffer()], { type: file.type }); // a copy: the file may change before it is sent
  }
  return toJpeg(image, Math.round(image.width * scale), Math.round(image.height * scale));
}

function toJpeg(image, width, height) {
  const canvas = Object.assign(document.createElement("canvas"), { width: Math.max(1, width), height: Math.max(1, height) });
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  if (image.close) image.close();
  return new Promise((resolve, reject) => {
    const settle = (blob) => (blob ? resolve(blob) : reject(new Error("The photo cannot be scaled down. Choose another one.")));
    canvas.toBlob(settle, "image/jpeg", 0.92);
  });
}

function preview(name) {
  const image = byId("preview");
  if (image.src) URL.revokeObjectURL(image.src);
  image.hidden = chosen === null;
  if (chosen) image.src = URL.createObjectURL(chosen);
  else image.removeAttribute("src");
  image.alt = chosen ? `The chosen photo, ${name}` : "";
  show(byId("photo-name"), chosen ? `${name}, ${formatSize(chosen.size)}` : "");
  byId("drop-hint").hidden = chosen !== null;
  byId("choose").textContent = chosen ? "Choose another" : "Choose a photo";
}

const formatSize = (bytes) => (bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`);

export function markError(message) {
  show(byId("photo-error"), message);
  byId("photo").setAttribute("aria-invalid", String(message !== ""));
}

/** Phones open their camera app through the file input; elsewhere the page shows the camera. */
async function openCamera(accept) {
  const dialog = byId("camera-dialog");
  if (matchMedia("(pointer: coarse)").matches || !navigator.mediaDevices) {
    byId("shot").click();
    return;
  }
  const constraints = { video: { facingMode: "environment", width: { ideal: 1920 }, height: { ideal: 1440 } } };
  const stream = await navigator.mediaDevices.getUserMedia(constraints).catch(() => null);
  if (stream === null) {
    markError("No camera is available. Allow access to it in the browser, or choose a photo.");
    return;
  }
  const video = byId("viewfinder");
  video.srcObject = stream;
  byId("shutter").onclick = async () => {
    const blob = await toJpeg(video, video.videoWidth, video.videoHeight);
    dialog.close();
    await accept(new File([blob], "photo.jpg", { type: "image/jpeg" }));
  };
  byId("camera-cancel").onclick = () => dialog.close();
  dialog.addEventListener("close", () => stream.getTracks().forEach((track) => track.stop()), { once: true });
  dialog.showModal();
}
