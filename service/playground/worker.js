// Measures in a thread of its own, so that a large picture does not stop the page. Holds the original's samples.

import { difference, psnr } from "./metrics.js";
import { readPng } from "./png.js";

let original = null;

const shape = ({ width, height, channels, depth }) => ({ width, height, channels, depth });

const answers = {
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
