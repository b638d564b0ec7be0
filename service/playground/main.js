// The page: what happens between a file that comes in and the figures that stand there.

import { Api } from "./api.js";
import { Measurer, code, isLaconic, readOriginal, restore } from "./coding.js";
import { byId, bytesText, count, element, psnrText, table, timeText } from "./dom.js";
import { offerFiles, withdrawFiles } from "./files.js";
import { Film } from "./film.js";
import { KINDS, isSound, lengthText, soundText, speakOf } from "./kinds.js";
import { encodeAsJob, jobText, offersJobs } from "./jobs.js";
import { Comparison, Curves } from "./runs.js";
import { SettingsForm } from "./settings.js";
import { textFor } from "./texts.js";
import { codeVideo, isVideo, moves, playable, restoreVideo } from "./video.js";
import { Viewer } from "./viewer.js";

const DELAY_MS = 250; // a slider that still moves sends nothing
const START = 2 ** 20; // bytes that tell what a file is

class Playground {
  api = new Api();
  measurer = new Measurer();
  viewer = new Viewer();
  film = new Film();
  listener = null; // a listen.js that is there once there was sound
  settings = new SettingsForm();
  codecs = []; // those for what is on the page, of #served
  #served = [];
  #kind = "";
  limits = {};
  source = null; // { blob, name, stem }: what can be coded; of a video also the `film` that plays, of sound the `wav`, or null
  #opened = null; // [blob, name] of what came last, read or not
  result = null; // what the viewer shows, as coding.js gives it
  #curves = new Curves(this);
  #comparison = new Comparison(this);
  #working = null; // AbortController of what runs now
  #timer = 0;

  constructor() {
    this.viewer.onDifference = () =>
      this.result && (this.result.film ? this.film.difference() :
        this.measurer.ask(this.result.sound ? "soundDifference" : "difference", this.result.png));
    this.film.onMove = (moving) => this.viewer.frameChanged(moving);
    this.api.onWait = (seconds) => seconds && this.#say(`The service is busy; asking again in ${Math.ceil(seconds)} s.`);
    this.settings.onChange = () => this.#changed();
    byId("settings").addEventListener("submit", (event) => {
      event.preventDefault();
      this.encode();
    });
    byId("cancel").addEventListener("click", () => {
      this.#working?.abort();
      byId("encode").focus(); // a button that is disabled while it has the focus loses it to nowhere
    });
    byId("key-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#keyed();
    });
    byId("copy-kind").addEventListener("change", () => this.#tell());
    byId("copy").addEventListener("click", () => this.#copy());
    byId("inspect").addEventListener("click", () => this.#inspect());
    this.#takeFiles();
  }

  // Ask what codecs there are; a service that starts is asked again until it is ready.
  async start() {
    await this.#work("Asking the service for its codecs", async (signal) => {
      const { codecs, limits } = await this.api.codecs(signal);
      this.#served = codecs;
      this.limits = limits;
      this.#turnTo(Object.keys(KINDS).find((kind) => codecs.some(({ signal }) => signal === kind)) ?? "image");
      byId("job-choice").hidden = !(await offersJobs(this.api, signal));
      this.#say("Choose a picture, a video or a sound, or take the example.");
    });
  }

  // Offer what there is for pictures, for videos or for sound.
  #turnTo(kind) {
    if (this.#kind === kind) return;
    this.#kind = kind;
    this.codecs = this.#served.filter((codec) => codec.signal === kind);
    speakOf(kind);
    this.#curves.offer(this.codecs, kind === "audio");
    this.settings.offer(this.codecs);
    this.#changed();
  }

  #takeFiles() {
    const open = (file) => file && this.open(file, file.name);
    byId("file").addEventListener("change", ({ target }) => {
      open(target.files[0]);
      target.value = ""; // the same file may be chosen again
    });
    byId("example").addEventListener("click", () => this.#example());
    document.addEventListener("paste", (event) => {
      const file = event.clipboardData?.files[0];
      if (file) event.preventDefault();
      open(file);
    });
    document.addEventListener("dragover", (event) => {
      event.preventDefault();
      document.body.classList.add("dragging");
    });
    document.addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("dragging"));
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      document.body.classList.remove("dragging");
      open(event.dataTransfer.files[0]);
    });
  }

  async #example() {
    const response = await fetch(this.api.url("playground/photograph.png")).catch(() => null);
    if (response?.ok) this.open(await response.blob(), "photograph.png");
    else this.#fail(new Error("The example does not load: is the service still running?"));
  }

  // Take a file of media, or an .lcn file.
  async open(blob, name) {
    if (!this.codecs.length) await this.start();
    if (!this.codecs.length) return;
    const start = new Uint8Array(await blob.slice(0, START).arrayBuffer());
    if (blob.size > this.limits.max_body_bytes) {
      const most = bytesText(this.limits.max_body_bytes);
      return this.#fail(new Error(`${name} has ${bytesText(blob.size)}; the service takes at most ${most}.`));
    }
    this.#forget();
    this.#opened = [blob, name];
    byId("source-name").textContent = `${name}, ${bytesText(blob.size)}`;
    if (isLaconic(start)) await this.#openStream(blob, name);
    else if (isSound(start)) await this.#openSound(blob, name);
    else if (isVideo(start) || (moves(start) && this.#served.some((codec) => codec.signal === "video"))) await this.#openVideo(blob, name);
    else await this.#openPicture(blob, name);
  }

  async #openStream(blob, name) {
    this.source = null;
    this.#tell();
    await this.#work("Decoding", async (signal) => {
      await this.measurer.ask("given", null);
      await this.measurer.ask("sound", null);
      await this.viewer.showOriginal(null);
      const { signal: kind } = await this.api.inspect(blob, signal);
      this.#turnTo(kind);
      const ways = {
        image: () => restore(blob, this.api, this.measurer, signal),
        video: () => restoreVideo(blob, this.api, null, signal),
        audio: async () => (await this.#sounds()).restoreSound(blob, this.api, this.measurer, signal),
      };
      await this.present({ ...(await ways[kind]()), name });
      await this.#inspect();
    });
  }

  async #openVideo(blob, name) {
    this.#turnTo("video");
    const source = { blob, name, stem: name.replace(/\.[^.]*$/, "") || "video" };
    this.source = null;
    const read = await this.#work("Reading the video", async (signal) => {
      await this.viewer.showOriginal(null);
      source.film = await playable(blob, this.api, this.codecs, signal);
      if (source.film) await this.viewer.showOriginal(source.film, true);
      const { videoWidth, videoHeight } = byId("original-film");
      const size = source.film ? ` ${videoWidth} × ${videoHeight},` : "";
      const copy = source.film === blob ? "" : source.film ? ", shown as a copy that plays here" : ", which does not play here";
      byId("source-name").textContent = `${name},${size} ${bytesText(blob.size)}${copy}`;
      this.source = source;
    });
    this.#tell();
    if (read && !this.#takesJob()) await this.encode();
    else if (read) this.#say("This codec fits the video in steps, as a job: press Encode.");
  }

  async #openSound(blob, name) {
    this.#turnTo("audio");
    const source = { blob, name, stem: name.replace(/\.[^.]*$/, "") || "sound", wav: null };
    this.source = null;
    const read = await this.#work("Reading the sound", async (signal) => {
      await this.viewer.showOriginal(null);
      const { readSound } = await this.#sounds();
      const found = await readSound(source, this.api, this.measurer, this.codecs, signal);
      if (found) await this.viewer.showOriginal(found.picture);
      source.wav = found?.wav ?? null;
      await this.listener.offer(source.wav, null);
      byId("source-name").textContent = `${name}, ${soundText(found?.shape)}, ${bytesText(blob.size)}`;
      this.source = source;
    });
    this.#tell();
    if (read) await this.encode();
  }

  async #openPicture(blob, name) {
    this.#turnTo("image");
    const source = { blob, name, stem: name.replace(/\.[^.]*$/, "") || "picture" };
    this.source = null; // until it has been read nothing may be coded
    const read = await this.#work("Reading the picture", async (signal) => {
      await this.viewer.showOriginal(blob).catch(() => {}); // no browser shows every kind; the service's PNG may come
      const { shape, png } = await readOriginal(source, this.api, this.measurer, this.codecs, signal);
      if (png && byId("original").hidden) await this.viewer.showOriginal(png);
      const depth = shape?.depth === 16 ? ", 16 bits" : "";
      const kind = shape ? `${shape.width} × ${shape.height}${depth}` : "no PSNR, as no lossless codec is served to read it";
      byId("source-name").textContent = `${name}, ${kind}, ${bytesText(blob.size)}`;
      this.source = source;
    });
    this.#tell();
    if (read && !this.#takesJob()) await this.encode();
    else if (read) this.#say("This codec fits the picture in steps, as a job: press Encode.");
  }

  // Code the picture with the form's settings, and show what comes back.
  async encode() {
    clearTimeout(this.#timer);
    if (!this.source || !this.settings.valid()) return;
    const query = this.settings.query();
    const job = (body, asked, signal) => encodeAsJob(this.api, body, asked, signal, (status) => this.#progress(status));
    await this.#work(`Coding with ${query.codec}`, async (signal) => {
      const encode = byId("as-job").checked ? job : null;
      await this.present(await this.code(query, signal, encode));
    });
  }

  // The part of the page that codes sound, and the one that plays it, which come with the first sound.
  async #sounds() {
    const { Listener } = await import("./listen.js");
    this.listener ??= new Listener();
    return import("./sound.js");
  }

  // What is on the page through the service and back, measured.
  async code(query, signal, encode = null) {
    const { source, api, measurer } = this;
    if ("film" in source) return codeVideo(source, query, api, signal, encode);
    const way = "wav" in source ? (await this.#sounds()).codeSound : code;
    return way(source, query, api, measurer, signal, encode);
  }

  // Whether the codec that is chosen fits in steps: nobody waits for that in a request.
  #takesJob() {
    return Boolean(this.codecs.find(({ id }) => id === byId("codec").value)?.job);
  }

  #progress(status) {
    byId("activity").classList.toggle("known", status.state === "running" && status.progress > 0);
    byId("activity").style.setProperty("--part", `${100 * status.progress}%`);
    byId("status").textContent = jobText(status);
    byId("status").setAttribute("aria-busy", "true"); // to be seen; read out is what comes of it, not every percent
  }

  async present(result) {
    this.result = result;
    byId("stage").classList.toggle("alpha", !result.sound && result.shape.channels % 2 === 0);
    await this.viewer.showDecoded(result.film ?? result.png, Boolean(result.film));
    this.film.offer(result.film ? result.shape : null);
    await this.listener?.offer(result.sound ? (this.source?.wav ?? null) : null, result.sound ?? null);
    const { stream, bpp, ratio, kbps, encoded, decoded, codec } = result;
    const psnr = `${result.film && result.psnr ? "≈ " : ""}${psnrText(result.psnr)}`;
    const part = this.source ? ` (${((100 * stream.size) / this.source.blob.size).toFixed(1)} %)` : "";
    const figures = {
      bytes: `${count(stream.size)}${part}`,
      bpp: bpp.toFixed(bpp < 0.1 ? 4 : 3),
      ratio: `${ratio.toFixed(1)} : 1`,
      kbps: kbps?.toFixed(kbps < 10 ? 2 : 0) ?? "–",
      frames: lengthText(result),
      psnr,
      encode: timeText(encoded?.ms),
      decode: timeText(decoded.ms),
    };
    for (const [name, text] of Object.entries(figures)) byId(`figure-${name}`).textContent = text;
    const trips = [encoded && `encode ${timeText(encoded.roundTrip)}`, `decode ${timeText(decoded.roundTrip)}`];
    this.#say(`${codec}: ${bytesText(stream.size)}, ${psnr}. Round trips: ${trips.filter(Boolean).join(", ")}.`);
    const stem = this.source?.stem ?? result.name.replace(/\.[^.]*$/, "");
    offerFiles(stem, KINDS[this.#kind].ending, result);
    byId("inspect").disabled = false;
    byId("inspected").replaceChildren();
    if (result.film) return;
    this.#curves.mark(result);
    if (!result.sound) this.#comparison.suggest(result.psnr);
  }

  // Another picture came: nothing may remain that speaks of the last one.
  #forget() {
    this.#working?.abort();
    this.#curves.clear();
    this.#comparison.clear();
    this.film.offer(null);
    this.film.rewind();
    this.listener?.rewind();
    this.listener?.offer(null, null);
    this.result = null;
    for (const place of document.querySelectorAll(".figures dd")) place.textContent = "–";
    byId("inspected").replaceChildren();
    byId("inspect").disabled = true;
    withdrawFiles();
  }

  #changed() {
    this.#tell();
    const job = this.#takesJob();
    if (job) byId("as-job").checked = true;
    else if (byId("as-job").disabled) byId("as-job").checked = false;
    byId("as-job").disabled = job;
    clearTimeout(this.#timer);
    if (byId("live").checked && this.source && !job) this.#timer = setTimeout(() => this.encode(), DELAY_MS);
  }

  async #keyed() {
    this.api.key = byId("key").value.trim();
    this.#tell();
    byId("access").open = false;
    if (!this.codecs.length) await this.start();
    if (this.codecs.length && this.#opened && !this.result) await this.open(...this.#opened); // was refused without the key
  }

  async #inspect() {
    try {
      const facts = await this.api.inspect(this.result.stream);
      const plain = (value) => (typeof value === "object" ? JSON.stringify(value) : String(value));
      const { chunks, ...rest } = facts;
      const rows = Object.entries(rest).map(([name, value]) => [name.replaceAll("_", " "), plain(value)]);
      const columns = chunks.length ? Object.keys(chunks[0]) : [];
      const cells = chunks.slice(0, 100).map((chunk) => Object.values(chunk).map(plain));
      const tables = [table("Header", ["field", "value"], rows), table(`Chunks: ${chunks.length}`, columns, cells)];
      byId("inspected").replaceChildren(...tables);
    } catch (error) {
      this.#fail(error);
    }
  }

  #tell() {
    byId("copy-text").textContent = textFor(byId("copy-kind").value, {
      name: this.source?.name ?? KINDS[this.#kind || "image"].example,
      ending: KINDS[this.#kind || "image"].ending,
      job: this.#takesJob(),
      query: byId("codec").value ? this.settings.query() : { codec: "auto" },
      service: this.api.url(""),
      secret: Boolean(this.api.key),
    });
  }

  // Browsers give the clipboard to pages from https or this machine only; elsewhere the text is marked, ready to be copied.
  async #copy() {
    try {
      await navigator.clipboard.writeText(byId("copy-text").textContent);
      byId("copy-status").textContent = "Copied.";
    } catch {
      getSelection().selectAllChildren(byId("copy-text"));
      byId("copy-status").textContent = "Selected: press Ctrl-C or ⌘C.";
    }
  }

  // Run one piece of work at a time: what ran before is stopped, and the service told by the closed connection.
  async #work(what, work) {
    this.#working?.abort();
    const control = (this.#working = new AbortController());
    const began = performance.now();
    const current = () => this.#working === control;
    this.#busy(true);
    byId("problem").hidden = true;
    this.#say(`${what} …`);
    // Seconds are for the eye only: a live region would read out each of them.
    const clock = setInterval(() => (byId("encode").dataset.seconds = `${Math.floor((performance.now() - began) / 1000)} s`), 1000);
    try {
      await work(control.signal);
      return current();
    } catch (error) {
      if (!current()) return false;
      if (control.signal.aborted) this.#say("Cancelled.");
      else this.#fail(error);
      return false;
    } finally {
      clearInterval(clock);
      if (current()) this.#busy(false);
    }
  }

  #busy(busy) {
    delete byId("encode").dataset.seconds;
    byId("activity").hidden = !busy;
    byId("activity").classList.remove("known");
    byId("cancel").disabled = !busy;
    byId("viewer").setAttribute("aria-busy", String(busy));
    for (const id of ["encode", "curve-run", "table-run"]) byId(id).disabled = !this.source;
  }

  #say(text) {
    byId("status").removeAttribute("aria-busy");
    byId("status").textContent = text;
  }

  #fail(error) {
    this.#say("");
    byId("problem").textContent = error.message;
    byId("problem").hidden = false;
    if (error.status === 401) {
      byId("access").open = true;
      byId("key").focus();
    }
  }
}

new Playground().start();
