// Getting a photo: from a file, by dropping, pasting, or from the camera; made smaller where it is large.

import { byId, show } from "./dom.js";

const MAX_SIDE_PX = 1600;
const MAX_BYTES = 6000000;
const SENT_AS_IS = ["image/jpeg", "image/png"];

/** The photo that will be sent, null without one. */
export let chosen = null;

/** `changed` is called after a photo was chosen or refused. */
export function setUp(changed) {
  const take = async (file) => {
    if (file) await choose(file).finally(changed);
  };
  for (const id of ["photo", "shot"]) byId(id).addEventListener("change", (event) => take(event.target.files[0]));
  byId("camera").addEventListener("click", () => openCamera(take));
  addEventListener("paste", (event) => take([...event.clipboardData.files].find((each) => each.type.startsWith("image/"))));
  const drop = byId("drop");
  for (const name of ["dragenter", "dragover"]) {
    drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  }
  for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => { event.preventDefault(); take(event.dataTransfer.files[0]); });
  for (const name of ["dragover", "drop"]) addEventListener(name, (event) => event.preventDefault()); // a miss opens no file
}

async function choose(file) {
  chosen = null;
  try {
    if (!file.type.startsWith("image/")) throw new Error(`${file.name} is no photo. Choose a JPEG or PNG file.`);
    chosen = await prepared(file);
    mark("");
  } catch (error) {
    mark(error.message);
  }
  preview(file.name);
}

/** The file itself where the server takes it, else a smaller JPEG of it. */
async function prepared(file) {
  const image = await createImageBitmap(file).catch(() => {
    throw new Error(`${file.name} cannot be read as a photo; it may be damaged. Choose a JPEG or PNG file.`);
  });
  const scale = Math.min(1, MAX_SIDE_PX / Math.max(image.width, image.height));
  if (scale === 1 && file.size <= MAX_BYTES && SENT_AS_IS.includes(file.type)) {
    image.close();
    return new Blob([await file.arrayBuffer()], { type: file.type }); // what becomes of the file does not matter then
  }
  return drawn(image, Math.round(image.width * scale), Math.round(image.height * scale));
}

function drawn(image, width, height) {
  const canvas = Object.assign(document.createElement("canvas"), { width: Math.max(1, width), height: Math.max(1, height) });
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  if (image.close) image.close();
  return new Promise((done, failed) => {
    const made = (blob) => (blob ? done(blob) : failed(new Error("The photo cannot be made smaller. Choose another one.")));
    canvas.toBlob(made, "image/jpeg", 0.92);
  });
}

function preview(name) {
  const image = byId("preview");
  if (image.src) URL.revokeObjectURL(image.src);
  image.hidden = chosen === null;
  if (chosen) image.src = URL.createObjectURL(chosen);
  else image.removeAttribute("src");
  image.alt = chosen ? `The chosen photo, ${name}` : "";
  show(byId("photo-name"), chosen ? `${name}, ${size(chosen.size)}` : "");
  byId("drop-hint").hidden = chosen !== null;
  byId("choose").textContent = chosen ? "Choose another" : "Choose a photo";
}

const size = (bytes) => (bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`);

export function mark(message) {
  show(byId("photo-error"), message);
  byId("photo").setAttribute("aria-invalid", String(message !== ""));
}

/** A phone has its own camera app behind the input; elsewhere the camera is shown here. */
async function openCamera(take) {
  const dialog = byId("camera-dialog");
  if (matchMedia("(pointer: coarse)").matches || !navigator.mediaDevices) {
    byId("shot").click();
    return;
  }
  const wanted = { video: { facingMode: "environment", width: { ideal: 1920 }, height: { ideal: 1440 } } };
  const stream = await navigator.mediaDevices.getUserMedia(wanted).catch(() => null);
  if (stream === null) {
    mark("There is no camera that may be used. Allow it in the browser, or choose a photo.");
    return;
  }
  const video = byId("viewfinder");
  video.srcObject = stream;
  byId("shutter").onclick = async () => {
    const blob = await drawn(video, video.videoWidth, video.videoHeight);
    dialog.close();
    await take(new File([blob], "photo.jpg", { type: "image/jpeg" }));
  };
  byId("camera-cancel").onclick = () => dialog.close();
  dialog.addEventListener("close", () => stream.getTracks().forEach((track) => track.stop()), { once: true });
  dialog.showModal();
}
