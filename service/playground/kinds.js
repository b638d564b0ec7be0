// Pictures, videos and sound: what the page calls things of each, and which parts of it there are.

import { byId, count } from "./dom.js";

// By the kind of signal: the decoded file's ending, and what the page calls things.
export const KINDS = {
  image: { ending: "png", example: "photo.png", download: "PNG", ratio: "PSNR", bpp: "bits per pixel", alt: "picture" },
  video: { ending: "mp4", example: "clip.mp4", download: "video", ratio: "PSNR", bpp: "bits per pixel", alt: "picture" },
  audio: { ending: "wav", example: "speech.wav", download: "WAV", ratio: "SNR", bpp: "bits per sample", alt: "sound's spectrogram", difference: "Difference" },
};

// Whether a file, of which these are the first bytes, holds sound.
export function isSound(bytes) {
  const text = String.fromCharCode(...bytes.subarray(0, 12));
  const parts = [text.slice(0, 4), text.slice(8, 12)];
  if (parts[0] === "RIFF") return parts[1] === "WAVE";
  if (parts[0] === "FORM") return parts[1] === "AIFF" || parts[1] === "AIFC";
  if (text.slice(4, 8) === "ftyp") return parts[1].startsWith("M4A") || parts[1].startsWith("M4B");
  return ["fLaC", "OggS"].includes(parts[0]) || text.startsWith("ID3") || (bytes[0] === 0xff && (bytes[1] & 0xe0) === 0xe0);
}

// Show the parts that there are for a kind of signal, with its words.
export function speakOf(kind) {
  const words = KINDS[kind];
  byId("curves").hidden = kind === "video";
  byId("tables").hidden = kind !== "image";
  for (const id of ["film-rate", "film-length"]) byId(id).hidden = kind === "image";
  byId("film-keys").hidden = kind !== "video";
  byId("sound-keys").hidden = kind !== "audio";
  byId("show-difference").textContent = words.difference ?? "Difference × 8";
  byId("picture-kind").textContent = words.download;
  byId("name-psnr").textContent = words.ratio;
  byId("name-bpp").textContent = words.bpp;
  byId("name-frames").textContent = kind === "audio" ? "length" : "frames";
  byId("original").alt = `Original ${words.alt}`;
  byId("decoded").alt = `Decoded ${words.alt}`;
}

// The shape of a sound, in words; undefined for one that could not be read.
export function soundText(shape) {
  if (!shape) return "no SNR, as no lossless codec is served to read it";
  const { rate, length, channels, depth } = shape;
  const layout = channels === 1 ? "mono" : channels === 2 ? "stereo" : `${channels} channels`;
  return `${(length / rate).toFixed(2)} s, ${layout}, ${count(rate)} Hz, ${depth} bits`;
}

// How long what was decoded is, as the figures have it.
export function lengthText({ film, sound, shape }) {
  if (sound) return `${(shape.length / shape.rate).toFixed(2)} s`;
  return film ? `${count(shape.frames)} at ${Number(shape.rate.toFixed(2))}/s` : "–";
}
