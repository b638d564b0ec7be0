// Measures in a thread of its own, so that a large picture does not stop the page. Holds the original's samples.

import { difference, psnr } from "./metrics.js";
import { readPng } from "./png.js";

let original = null;
let sound = null; // the original's samples and levels, where it is sound
let heard = null; // the levels of what was decoded last

const shape = ({ width, height, channels, depth }) => ({ width, height, channels, depth });

// What sound needs comes when there is sound.
const ofSound = async () => ({ ...(await import("./spectrogram.js")), ...(await import("./wav.js")) });
const soundShape = ({ rate, bits, length, channels }) => ({ rate, depth: bits, length, channels: channels.length });

const answers = {
  // A WAV file whose samples are the original's, or null to forget the last one.
  async sound(wav) {
    sound = null;
    if (!wav) return null;
    const { levels, picture, readWav } = await ofSound();
    const read = readWav(wav);
    sound = read && { read, levels: levels(read) };
    return sound && { shape: soundShape(read), picture: await picture(sound.levels) };
  },
  async measureSound(wav) {
    const { levels, picture, readWav, snr } = await ofSound();
    const read = readWav(wav);
    if (!read) return null;
    heard = levels(read);
    return { shape: soundShape(read), picture: await picture(heard), snr: sound ? snr(sound.read, read) : undefined };
  },
  async soundDifference() {
    return sound && heard ? (await ofSound()).levelDifference(sound.levels, heard) : null;
  },
  // A file as the user gave it, or null to forget the last one; and the service's own reading of one that is no plain PNG.
  async given(png) {
    original = null;
    original = png && (await readPng(png));
    return original && shape(original);
  },
  async read(png) {
    original = await readPng(png, true);
    return original && shape(original);
  },
  async measure(png) {
    const decoded = await readPng(png, true);
    if (!decoded) return null;
    return { ...shape(decoded), psnr: original ? psnr(original, decoded) : undefined };
  },
  async difference(png) {
    const decoded = await readPng(png, true);
    return (original && decoded && difference(original, decoded)) ?? null;
  },
};

self.onmessage = async ({ data: { id, question, png } }) => {
  try {
    const value = await answers[question](png);
    self.postMessage({ id, value }, value?.buffer ? [value.buffer] : []);
  } catch (error) {
    self.postMessage({ id, error: String(error) });
  }
};
