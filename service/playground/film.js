// Original and decoded video played as one: play, pause, seek and single frames. And how near they are, frame by frame.

import { byId } from "./dom.js";
import { difference, psnr } from "./metrics.js";

const SAMPLED = 8; // frames whose PSNR is measured
const EQUAL = 100; // dB of a frame that is equal, as the service counts it
const PLAY = ["▶", "Play"];
const PAUSE = ["❚❚", "Pause"];

const loaded = (film) => heard(film, "loadeddata", (one) => one.readyState >= 2);
const still = (film) => heard(film, "seeked", (one) => !one.seeking && one.readyState >= 2);

// Wait for an event of a video unless what it stands for is so already; rejects where the video fails.
function heard(film, event, already) {
  if (already(film)) return Promise.resolve();
  return new Promise((resolve, reject) => {
    film.addEventListener(event, resolve, { once: true });
    film.addEventListener("error", () => reject(new Error("this browser does not play the video")), { once: true });
  });
}

// Have an element show a video; rejects where the browser cannot.
export async function load(film, url) {
  film.src = url;
  await loaded(film);
}

export class Film {
  #films = [byId("original-film"), byId("decoded-film")];
  #rate = 25;
  #frames = 0;
  #frame = 0;
  #playing = false;
  onMove = () => {}; // another frame is shown, or `true`: they begin to move

  constructor() {
    byId("play").addEventListener("click", () => this.toggle());
    byId("seek").addEventListener("input", () => this.seek(Number(byId("seek").value)));
    byId("viewer").addEventListener("keydown", (event) => this.#key(event));
  }

  // Show the controls for videos of so many frames at so many per second, or none.
  offer(shape) {
    this.pause();
    byId("transport").hidden = !shape;
    if (!shape) return;
    this.#rate = shape.rate;
    this.#frames = shape.frames;
    byId("seek").max = String(shape.frames - 1);
    this.seek(Math.min(this.#frame, shape.frames - 1));
  }

  rewind() {
    this.#frame = 0;
  }

  #shown() {
    return this.#films.filter((film) => !film.hidden);
  }

  toggle() {
    if (this.#playing) this.pause();
    else this.#play();
  }

  async #play() {
    const films = this.#shown();
    if (!films.length) return;
    this.#says(PAUSE);
    this.#playing = true;
    this.onMove(true);
    if (this.#frame >= this.#frames - 1) await this.seek(0);
    await Promise.all(films.map(still));
    if (!this.#playing) return;
    await Promise.all(films.map((film) => film.play())).catch(() => this.pause());
    requestAnimationFrame(() => this.#follow());
  }

  pause() {
    if (!this.#playing) return;
    this.#playing = false;
    this.#films.forEach((film) => film.pause());
    this.#says(PLAY);
    this.seek(this.#frame);
  }

  // While they play: the decoded one keeps step with the original, the slider with both.
  #follow() {
    const [leader, follower] = this.#shown();
    if (!this.#playing || !leader) return;
    this.#tell(Math.min(this.#frames - 1, Math.floor(leader.currentTime * this.#rate)));
    if (leader.ended || follower?.ended) return this.pause();
    const behind = follower ? leader.currentTime - follower.currentTime : 0;
    if (follower && Math.abs(behind) > 0.25) follower.currentTime = leader.currentTime;
    if (follower) follower.playbackRate = Math.abs(behind) > 0.5 / this.#rate ? 1 + Math.sign(behind) * 0.1 : 1;
    requestAnimationFrame(() => this.#follow());
  }

  // Show one frame of both; a seek that comes meanwhile goes before the last.
  async seek(frame) {
    this.#tell(Math.max(0, Math.min(this.#frames - 1, frame)));
    const films = this.#shown();
    for (const film of films) {
      film.playbackRate = 1;
      film.currentTime = (this.#frame + 0.5) / this.#rate;
    }
    await Promise.all(films.map(still)).catch(() => {});
    if (!this.#playing) this.onMove(false);
  }

  #tell(frame) {
    this.#frame = frame;
    byId("seek").value = String(frame);
    byId("seek").setAttribute("aria-valuetext", `frame ${frame + 1} of ${this.#frames}`);
    byId("moment").textContent = `${(frame / this.#rate).toFixed(2)} s, frame ${frame + 1} of ${this.#frames}`;
  }

  #says([sign, name]) {
    byId("play").textContent = sign;
    byId("play").setAttribute("aria-label", name);
  }

  #key(event) {
    if (byId("transport").hidden || event.target !== byId("stage") || event.ctrlKey || event.metaKey || event.altKey) return;
    const actions = { " ": () => this.toggle(), ",": () => this.#step(-1), ".": () => this.#step(1) };
    const action = actions[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  }

  #step(frames) {
    this.pause();
    this.seek(this.#frame + frames);
  }

  // The difference of the frames that are shown, as the pictures' one; null where only one video is.
  difference() {
    const films = this.#shown();
    return films.length === 2 ? difference(...films.map(samplesOf)) : null;
  }
}

// The mean PSNR of a few frames, evenly spaced, of two videos as the browser shows them: both through the same conversion
// from YUV, so near to, but not exactly, what the service measures. undefined where one does not play.
export async function measured(original, decoded, { rate, frames }, signal) {
  const urls = [original, decoded].map((blob) => URL.createObjectURL(blob));
  try {
    const films = urls.map(() => Object.assign(document.createElement("video"), { muted: true, preload: "auto" }));
    await Promise.all(films.map((film, index) => load(film, urls[index])));
    let total = 0;
    const count = Math.min(SAMPLED, frames);
    for (let number = 0; number < count; number++) {
      const frame = Math.floor(((number + 0.5) * frames) / count);
      for (const film of films) film.currentTime = (frame + 0.5) / rate;
      await Promise.all(films.map(still));
      signal?.throwIfAborted();
      total += Math.min(EQUAL, psnr(...films.map(samplesOf)) ?? NaN);
    }
    return Number.isFinite(total) ? total / count : undefined;
  } catch (error) {
    if (signal?.aborted) throw error;
    return undefined;
  } finally {
    urls.forEach((url) => URL.revokeObjectURL(url));
  }
}

// A video's frame as metrics.js takes it: RGB, as alpha is none of its samples.
function samplesOf(film) {
  const [width, height] = [film.videoWidth, film.videoHeight];
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(film, 0, 0);
  const pixels = context.getImageData(0, 0, width, height).data;
  const samples = new Uint8Array(3 * width * height);
  for (let from = 0, to = 0; to < samples.length; from += 4, to += 3) {
    samples[to] = pixels[from];
    samples[to + 1] = pixels[from + 1];
    samples[to + 2] = pixels[from + 2];
  }
  return { width, height, channels: 3, depth: 8, samples };
}
