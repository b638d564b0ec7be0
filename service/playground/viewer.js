// Original and decoded, pictures or videos, under one split, with zoom, pan and a difference view.

import { byId } from "./dom.js";
import { load } from "./film.js";

const STEP = 1.25;
const LARGEST = 64; // screen pixels for one of the picture's
const NUDGE = 48; // screen pixels that an arrow key moves

export class Viewer {
  #stage = byId("stage");
  #pictures = ["original", "original-film", "decoded", "decoded-film", "difference"].map(byId);
  #size = null; // the picture's { width, height }
  #scale = 1;
  #x = 0;
  #y = 0;
  #fitted = true;
  #pointers = new Map();
  #urls = {};
  #swapped = false;
  onDifference = async () => null; // returns RGBA bytes of the picture's size, or null
  onShow = () => {}; // other pictures or videos are there

  constructor() {
    byId("split").addEventListener("input", () => this.#place());
    this.#stage.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    this.#stage.addEventListener("pointerdown", (event) => this.#down(event));
    this.#stage.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) {
      this.#stage.addEventListener(name, (event) => this.#pointers.delete(event.pointerId));
    }
    byId("viewer").addEventListener("keydown", (event) => this.#key(event));
    byId("viewer").addEventListener("keyup", (event) => event.key.toLowerCase() === "s" && this.#swap(false));
    byId("viewer").addEventListener("focusout", () => this.#swap(false)); // the key's release would go elsewhere
    byId("zoom-in").addEventListener("click", () => this.#zoom(STEP));
    byId("zoom-out").addEventListener("click", () => this.#zoom(1 / STEP));
    byId("zoom-one").addEventListener("click", () => this.#actualSize());
    byId("zoom-fit").addEventListener("click", () => this.#fit());
    byId("show-difference").addEventListener("click", () => this.showDifference(!this.#differs()));
    this.#holdToSwap(byId("swap"));
    new ResizeObserver(() => (this.#fitted ? this.#fit() : this.#place())).observe(this.#stage);
  }

  // Show an original, from a Blob that the browser can read, or none; `film` says that it is a video. Rejects for one
  // that it cannot.
  async showOriginal(blob, film = false) {
    await this.showDecoded(null);
    await this.#load("original", blob, film);
    this.#sides();
    if (blob) this.#resize(this.#shown("original"));
  }

  // Show what was decoded beside the original; without an original, alone.
  async showDecoded(blob, film = false) {
    await this.#load("decoded", blob, film);
    if (this.#differs()) await this.showDifference(Boolean(blob));
    this.#sides();
    if (blob && !this.#shown("original")) this.#resize(this.#shown("decoded"));
  }

  // The element that shows the original, or what was decoded; undefined for none.
  #shown(side) {
    return [byId(side), byId(`${side}-film`)].find((element) => !element.hidden);
  }

  async showDifference(wanted) {
    const bytes = wanted ? await this.onDifference() : null;
    const canvas = byId("difference");
    if (bytes) {
      Object.assign(canvas, this.#size);
      canvas.getContext("2d").putImageData(new ImageData(bytes, this.#size.width, this.#size.height), 0, 0);
    }
    canvas.hidden = !bytes;
    byId("show-difference").setAttribute("aria-pressed", String(Boolean(bytes)));
    this.#sides();
    this.#place();
  }

  #differs() {
    return !byId("difference").hidden;
  }

  // Show the difference anew, as other frames are there; not while they move.
  frameChanged(moving) {
    if (this.#differs()) this.showDifference(!moving);
  }

  async #load(side, blob, film) {
    const [element, other] = film ? [byId(`${side}-film`), byId(side)] : [byId(side), byId(`${side}-film`)];
    const before = this.#urls[side];
    this.#urls[side] = blob ? URL.createObjectURL(blob) : undefined;
    try {
      if (!blob) return;
      await (film ? load(element, this.#urls[side]) : show(element, this.#urls[side]));
      element.hidden = false;
      forget(other);
    } catch (error) {
      blob = null;
      throw error;
    } finally {
      if (!blob) [element, other].forEach(forget); // of another picture nothing may remain
      if (before) URL.revokeObjectURL(before);
      this.onShow();
    }
  }

  // What may be done with the sides depends on which of them there are.
  #sides() {
    const [original, decoded] = ["original", "decoded"].map((side) => Boolean(this.#shown(side)));
    const both = original && decoded;
    for (const id of ["split", "swap", "show-difference"]) byId(id).disabled = !both;
    for (const id of ["divider", "tag-left", "tag-right"]) byId(id).hidden = !both;
    byId("hint").hidden = original || decoded;
    this.#stage.classList.toggle("alone", !both);
    const right = this.#differs() ? byId("show-difference").textContent.toLowerCase() : "decoded";
    byId("tag-left").textContent = this.#swapped ? right : "original";
    byId("tag-right").textContent = this.#swapped ? "original" : right;
    this.#stage.classList.toggle("swapped", this.#swapped);
  }

  #swap(swapped) {
    if (this.#swapped === swapped || (swapped && byId("swap").disabled)) return;
    this.#swapped = swapped;
    byId("swap").setAttribute("aria-pressed", String(swapped));
    this.#sides();
  }

  // Held with the pointer it swaps for as long; from the keyboard each press toggles.
  #holdToSwap(button) {
    let held = false;
    button.addEventListener("pointerdown", () => this.#swap((held = true)));
    for (const name of ["pointerup", "pointerleave", "pointercancel"]) button.addEventListener(name, () => held && this.#swap(false));
    button.addEventListener("click", () => {
      if (!held) this.#swap(!this.#swapped);
      held = false;
    });
  }

  #resize(image) {
    const size = { width: image.naturalWidth ?? image.videoWidth, height: image.naturalHeight ?? image.videoHeight };
    const same = this.#size?.width === size.width && this.#size?.height === size.height;
    this.#size = size;
    for (const picture of this.#pictures) {
      picture.style.width = `${size.width}px`;
      picture.style.height = `${size.height}px`;
    }
    if (same) this.#place();
    else this.#fit();
  }

  #fitScale() {
    const { clientWidth, clientHeight } = this.#stage;
    return Math.min(clientWidth / this.#size.width, clientHeight / this.#size.height, 8);
  }

  #fit() {
    if (!this.#size) return;
    this.#fitted = true;
    this.#scale = this.#fitScale();
    this.#place();
  }

  #actualSize() {
    if (this.#size) this.#zoom(1 / devicePixelRatio / this.#scale);
  }

  // Zoom by a factor around a point of the stage, by default its middle.
  #zoom(factor, x = this.#stage.clientWidth / 2, y = this.#stage.clientHeight / 2) {
    if (!this.#size) return;
    const smallest = Math.min(this.#fitScale(), 1 / devicePixelRatio);
    const scale = Math.min(Math.max(this.#scale * factor, smallest), LARGEST);
    this.#x = x - ((x - this.#x) * scale) / this.#scale;
    this.#y = y - ((y - this.#y) * scale) / this.#scale;
    this.#scale = scale;
    this.#fitted = false;
    this.#place();
  }

  #pan(x, y) {
    if (!this.#size) return;
    this.#x += x;
    this.#y += y;
    this.#fitted = false;
    this.#place();
  }

  // Keep the picture in sight, and write its place to the elements.
  #place() {
    const { clientWidth, clientHeight } = this.#stage;
    this.#stage.style.setProperty("--split", `${byId("split").value}%`);
    if (!this.#size) return;
    const within = (at, extent, room) => (extent <= room ? (room - extent) / 2 : Math.min(0, Math.max(room - extent, at)));
    this.#x = within(this.#x, this.#size.width * this.#scale, clientWidth);
    this.#y = within(this.#y, this.#size.height * this.#scale, clientHeight);
    const pixel = this.#scale * devicePixelRatio;
    for (const picture of this.#pictures) {
      picture.style.transform = `translate(${this.#x}px, ${this.#y}px) scale(${this.#scale})`;
      picture.classList.toggle("pixels", pixel >= 2); // single pixels are what is to be seen then
    }
    this.#stage.classList.toggle("movable", this.#scale > this.#fitScale() * 1.001);
    byId("zoom-one").textContent = `${Math.round(100 * pixel)} %`;
  }

  #at(event) {
    const box = this.#stage.getBoundingClientRect();
    return [event.clientX - box.left - this.#stage.clientLeft, event.clientY - box.top - this.#stage.clientTop];
  }

  #wheel(event) {
    // At its smallest the picture lets the page scroll on: a wheel must not be caught for ever.
    if (!this.#size || (event.deltaY > 0 && !event.ctrlKey && this.#scale <= this.#fitScale() * 1.001)) return;
    event.preventDefault();
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
    this.#zoom(Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.002)), ...this.#at(event));
  }

  #down(event) {
    if (event.button !== 0) return;
    if (event.target.closest("#divider")) this.#pointers.clear();
    this.#pointers.set(event.pointerId, { at: this.#at(event), splits: Boolean(event.target.closest("#divider")) });
    this.#stage.setPointerCapture(event.pointerId);
  }

  // One pointer drags the split or the picture; two also zoom by how their distance changes.
  #move(event) {
    const pointer = this.#pointers.get(event.pointerId);
    if (!pointer) return;
    const before = [...this.#pointers.values()].map(({ at }) => at);
    const from = pointer.at;
    pointer.at = this.#at(event);
    if (pointer.splits) {
      byId("split").value = String((100 * pointer.at[0]) / this.#stage.clientWidth);
      this.#place();
    } else if (before.length === 2) {
      const [one, other] = [...this.#pointers.values()].map(({ at }) => at);
      const distance = ([a, b]) => Math.hypot(a[0] - b[0], a[1] - b[1]);
      this.#zoom(distance([one, other]) / Math.max(1, distance(before)), (one[0] + other[0]) / 2, (one[1] + other[1]) / 2);
      this.#pan((pointer.at[0] - from[0]) / 2, (pointer.at[1] - from[1]) / 2);
    } else if (this.#stage.classList.contains("movable")) {
      this.#pan(pointer.at[0] - from[0], pointer.at[1] - from[1]);
    }
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const onStage = event.target === this.#stage;
    const actions = {
      "+": () => this.#zoom(STEP),
      "=": () => this.#zoom(STEP),
      "-": () => this.#zoom(1 / STEP),
      0: () => this.#fit(),
      1: () => this.#actualSize(),
      d: () => !byId("show-difference").disabled && this.showDifference(!this.#differs()),
      s: () => this.#swap(true),
      ...(onStage && {
        // The split's own slider needs its arrow keys.
        ArrowLeft: () => this.#pan(NUDGE, 0),
        ArrowRight: () => this.#pan(-NUDGE, 0),
        ArrowUp: () => this.#pan(0, NUDGE),
        ArrowDown: () => this.#pan(0, -NUDGE),
      }),
    };
    const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action) return;
    event.preventDefault();
    if (!event.repeat || onStage) action();
  }
}

// Paint a picture; the old one stays until the new one can be.
async function show(image, url) {
  const fresh = new Image();
  fresh.src = url;
  await fresh.decode();
  image.src = url;
  await image.decode();
}

function forget(element) {
  element.hidden = true;
  element.removeAttribute("src");
  if (element.load) element.load(); // a video keeps its last frame otherwise
}
