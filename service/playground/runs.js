// Work that takes many requests: the curves, and the table of all codecs. With progress, and a way to stop.

import { losslessly } from "./coding.js";
import { PICTURES, SOUNDS, plot } from "./curve.js";
import { byId, bytesText, count, element, psnrText, table, timeText } from "./dom.js";

const QUALITIES = [10, 30, 50, 70, 90];
const PEERS = ["jpeg", "webp", "avif", "jxl"];
const TINTS = 8;

const hasQuality = (codec) => !codec.job && "quality" in (codec.settings.properties ?? {}); // nobody waits for jobs here

// A form whose submission runs `steps` one after another until they are done or the button says stop.
class Run {
  #stop = null;

  constructor(name, begin) {
    this.name = name;
    byId(`${name}-form`).addEventListener("submit", (event) => {
      event.preventDefault();
      begin();
    });
    byId(`${name}-cancel`).addEventListener("click", () => {
      this.stop();
      byId(`${name}-run`).focus();
    });
  }

  say(text) {
    byId(`${this.name}-status`).textContent = text;
  }

  stop() {
    this.#stop?.abort();
  }

  // `steps` are { name, work(signal) }; a step that is refused is told to `refused` and does not stop the others.
  async do(steps, refused) {
    this.stop();
    const stop = (this.#stop = new AbortController());
    this.#show(true);
    const bar = byId(`${this.name}-progress`);
    try {
      for (const [index, { name, work }] of steps.entries()) {
        bar.value = index / steps.length;
        this.say(`${index + 1} of ${steps.length}: ${name} …`);
        try {
          await work(stop.signal);
        } catch (error) {
          if (stop.signal.aborted || [0, 401, 403].includes(error.status)) throw error; // the others would fare no better
          refused(name, error);
        }
      }
      return true;
    } catch (error) {
      if (this.#stop === stop) this.say(stop.signal.aborted ? "Cancelled." : error.message);
      return false;
    } finally {
      if (this.#stop === stop) this.#show(false);
    }
  }

  #show(running) {
    byId(`${this.name}-cancel`).disabled = !running;
    byId(`${this.name}-progress`).hidden = !running;
  }
}

export class Curves {
  #series = [];
  #mark = null;
  #scales = PICTURES;

  constructor(desk) {
    this.desk = desk; // main.js's: source, codecs, code(query, signal)
    this.run = new Run("curve", () => this.#draw());
    addEventListener("resize", () => this.#series.length && this.#show());
  }

  // Offer the codecs to draw, of pictures or of sound.
  offer(codecs, sounds = false) {
    this.#scales = sounds ? SOUNDS : PICTURES;
    const boxes = codecs.filter(hasQuality).map((codec, index) => {
      const box = element("input", { type: "checkbox", id: `draw-${codec.id}`, value: codec.id });
      box.checked = sounds || PEERS.includes(codec.id) || index === 0;
      const label = element("label", { htmlFor: box.id, className: `chip tint-${this.#tint(codec.id)}` }, box, ` ${codec.id}`);
      return label;
    });
    byId("curve-codecs").replaceChildren(byId("curve-codecs").firstElementChild, ...boxes);
  }

  // The picture in the viewer is marked in the plot.
  mark(result) {
    this.#mark = this.#point(result);
    if (this.#series.length) this.#show();
  }

  clear() {
    this.run.stop();
    this.#series = [];
    byId("curve").replaceChildren();
    byId("curve-details").hidden = true;
  }

  #point({ bpp, kbps, psnr }) {
    return { rate: this.#scales === SOUNDS ? kbps : bpp, psnr };
  }

  #tint(codec) {
    return this.desk.codecs.findIndex(({ id }) => id === codec) % TINTS;
  }

  async #draw() {
    const chosen = [...byId("curve-codecs").querySelectorAll("input:checked")].map(({ value }) => value);
    if (!chosen.length) return this.run.say("Choose a codec.");
    this.#series = chosen.map((name) => ({ name, tint: this.#tint(name), points: [] }));
    const steps = this.#series.flatMap(({ name, points }) =>
      QUALITIES.map((quality) => ({
        name: `${name} at quality ${quality}`,
        work: async (signal) => {
          const result = await this.desk.code({ codec: name, quality: String(quality) }, signal);
          points.push({ ...this.#point(result), quality, bytes: result.stream.size });
          this.#show();
        },
      })),
    );
    const refusals = new Set();
    const done = await this.run.do(steps, (name, error) => refusals.add(`${name.split(" ")[0]}: ${error.message}`));
    if (done) this.run.say(["Done.", ...refusals].join(" "));
  }

  #show() {
    byId("curve").replaceChildren(plot(this.#series, this.#mark, byId("curve").clientWidth, this.#scales));
    const { unit, ratio } = this.#scales;
    const rows = this.#series.flatMap(({ name, points }) =>
      points.map(({ quality, bytes, rate, psnr }) => [name, String(quality), bytesText(bytes), rate.toFixed(3), psnrText(psnr)]),
    );
    byId("curve-table").replaceChildren(table("Points of the curves", ["codec", "quality", "size", unit, ratio], rows));
    byId("curve-details").hidden = false;
  }
}

export class Comparison {
  #rows = [];

  constructor(desk) {
    this.desk = desk; // as above, and present(result)
    this.run = new Run("table", () => this.#compare());
    byId("table-aim").addEventListener("change", () => this.#aim());
  }

  // The PSNR to compare at: that of the picture in the viewer, cut so that the same file still reaches it.
  suggest(psnr) {
    if (Number.isFinite(psnr)) byId("table-psnr").value = (Math.floor(100 * psnr) / 100).toFixed(2);
  }

  clear() {
    this.run.stop();
    byId("table").replaceChildren();
  }

  #aim() {
    byId("table-psnr").disabled = byId("table-aim").value === "lossless";
  }

  async #compare() {
    const { codecs } = this.desk;
    const lossless = byId("table-aim").value === "lossless";
    const target = byId("table-psnr").value;
    const chosen = codecs.filter(lossless ? (codec) => codec.lossless : hasQuality);
    this.#rows = [];
    const refused = [];
    const steps = chosen.map((codec) => ({
      name: codec.id,
      work: async (signal) => {
        const query = lossless ? losslessly(codec) : { codec: codec.id, target_psnr: target };
        this.#rows.push(await this.desk.code(query, signal));
        this.#show(refused);
      },
    }));
    const done = await this.run.do(steps, (name, error) => {
      refused.push([name, error.message]);
      this.#show(refused);
    });
    if (done) this.run.say(lossless ? "Done: every sample comes back." : `Done: smallest files of at least ${target} dB.`);
  }

  #show(refused) {
    this.#rows.sort((one, other) => one.stream.size - other.stream.size);
    const least = this.#rows[0]?.stream.size;
    const rows = this.#rows.map((result) => {
      const { codec, stream, bpp, psnr, encoded, decoded } = result;
      const more = stream.size === least ? "smallest" : `+${(100 * (stream.size / least - 1)).toFixed(1)} %`;
      const show = element("button", { type: "button" }, "Show");
      show.setAttribute("aria-label", `Show the picture of ${codec}`);
      show.addEventListener("click", () => this.desk.present(result));
      const times = [timeText(encoded.ms), timeText(decoded.ms)];
      return [codec, count(stream.size), more, bpp.toFixed(3), psnrText(psnr), ...times, show];
    });
    const columns = ["codec", "bytes", "", "bpp", "PSNR", "encode", "decode", "picture"];
    const notes = refused.map(([name, why]) => element("p", { className: "muted" }, `${name} is missing: ${why}`));
    byId("table").replaceChildren(table("Smallest first; encoding times include the search", columns, rows), ...notes);
  }
}
