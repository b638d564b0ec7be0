// Original and decoded sound run together, sample by sample, and one of them is heard: who switches stays at the same place.

import { byId } from "./dom.js";
import { readWav } from "./wav.js";

const FADE_S = 0.008; // of a switch, so that it does not click
const LATE_S = 0.05; // from now, when both begin at once
const SIDES = ["original", "decoded"];
const PLAY = ["▶", "Play"];
const PAUSE = ["❚❚", "Pause"];

export class Listener {
  #context = null; // made by a click: browsers let no page sound before
  #sounds = {}; // by side: { rate, length, channels }
  #running = null; // { sources, gains, began } while it plays
  #seconds = 0;
  #wish = "decoded"; // the side to be heard where there are both
  #at = 0; // seconds, where it stands when it does not play

  constructor() {
    byId("sound-play").addEventListener("click", () => this.toggle());
    byId("sound-seek").addEventListener("input", () => this.seek(Number(byId("sound-seek").value)));
    for (const side of SIDES) byId(`hear-${side}`).addEventListener("change", () => this.#hear(side));
    byId("viewer").addEventListener("keydown", (event) => this.#key(event));
  }

  // Show the controls for these WAV files, of which either may be null; a null for both hides them.
  async offer(original, decoded) {
    const playing = Boolean(this.#running);
    const place = this.#place();
    this.#stop();
    const blobs = { original, decoded };
    this.#sounds = {};
    for (const side of SIDES) {
      const read = blobs[side] && readWav(await blobs[side].arrayBuffer());
      if (read?.length) this.#sounds[side] = read;
      byId(`hear-${side}`).disabled = !this.#sounds[side];
    }
    const found = Object.values(this.#sounds);
    byId("sound-transport").hidden = !found.length;
    if (!found.length) return;
    byId(`hear-${this.#sounds[this.#wish] ? this.#wish : Object.keys(this.#sounds)[0]}`).checked = true;
    this.#seconds = Math.max(...found.map(({ length, rate }) => length / rate));
    byId("sound-seek").max = String(this.#seconds);
    this.seek(Math.min(place, this.#seconds));
    if (playing) this.#play();
  }

  rewind() {
    this.#stop();
    this.#at = 0;
  }

  toggle() {
    if (this.#running) this.#pause();
    else this.#play();
  }

  seek(seconds) {
    const playing = Boolean(this.#running);
    this.#stop();
    this.#tell(seconds);
    if (playing) this.#play();
  }

  #heard() {
    return SIDES.find((side) => byId(`hear-${side}`).checked);
  }

  #place() {
    if (!this.#running) return this.#at;
    return Math.min(this.#seconds, Math.max(this.#at, this.#at + this.#context.currentTime - this.#running.began));
  }

  async #play() {
    this.#context ??= new AudioContext();
    if (this.#at >= this.#seconds) this.#at = 0;
    const [began, sources, gains] = [this.#context.currentTime + LATE_S, [], {}];
    for (const [side, sound] of Object.entries(this.#sounds)) {
      const gain = (gains[side] = this.#context.createGain());
      const source = this.#context.createBufferSource();
      source.buffer = this.#bufferOf(sound);
      source.connect(gain).connect(this.#context.destination);
      gain.gain.value = Number(side === this.#heard());
      source.start(began, this.#at);
      sources.push(source);
    }
    this.#running = { sources, gains, began };
    this.#says(PAUSE);
    requestAnimationFrame(() => this.#follow());
    await this.#context.resume();
  }

  // A sound as the browser plays it, made once.
  #bufferOf(sound) {
    if (sound.buffer) return sound.buffer;
    sound.buffer = this.#context.createBuffer(sound.channels.length, sound.length, sound.rate);
    sound.channels.forEach((channel, number) => sound.buffer.copyToChannel(channel, number));
    return sound.buffer;
  }

  #hear(wish) {
    this.#wish = wish;
    byId(`hear-${wish}`).checked = true;
    if (!this.#running) return;
    for (const [side, { gain }] of Object.entries(this.#running.gains)) {
      gain.setTargetAtTime(Number(side === this.#heard()), this.#context.currentTime, FADE_S / 3);
    }
  }

  #stop() {
    if (!this.#running) return;
    this.#running.sources.forEach((source) => source.stop());
    this.#running = null;
    this.#says(PLAY);
  }

  #pause() {
    const place = this.#place();
    this.#stop();
    this.#tell(place);
  }

  #follow() {
    if (!this.#running) return;
    const place = this.#place();
    this.#show(place);
    if (place >= this.#seconds) this.#pause();
    else requestAnimationFrame(() => this.#follow());
  }

  #tell(seconds) {
    this.#at = Math.min(Math.max(seconds, 0), this.#seconds);
    this.#show(this.#at);
  }

  #show(seconds) {
    const text = `${seconds.toFixed(2)} of ${this.#seconds.toFixed(2)} s`;
    byId("sound-seek").value = String(seconds);
    byId("sound-seek").setAttribute("aria-valuetext", text);
    byId("sound-moment").textContent = text;
  }

  #says([sign, name]) {
    byId("sound-play").textContent = sign;
    byId("sound-play").setAttribute("aria-label", name);
  }

  // Space plays, H hears the other side.
  #key(event) {
    if (byId("sound-transport").hidden || event.target !== byId("stage") || event.ctrlKey || event.metaKey || event.altKey) return;
    const other = SIDES.find((side) => side !== this.#heard());
    const hear = () => byId(`hear-${other}`).disabled || this.#hear(other);
    const action = { " ": () => this.toggle(), h: hear }[event.key.toLowerCase()];
    if (!action) return;
    event.preventDefault();
    if (!event.repeat) action();
  }
}
