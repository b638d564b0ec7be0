// The service's REST interface. Refusals become `Problem`s with the service's own words; a busy service is asked again.

const TRIES = 5;
const LONGEST_WAIT_S = 30;
const LACONIC = "application/vnd.laconic";

export class Problem extends Error {
  // A refusal: `status` 0 means that the service did not answer at all.
  constructor(status, title, detail, code = "") {
    super(detail ? `${title}: ${detail}` : title);
    Object.assign(this, { status, title, detail, code });
  }
}

export class Api {
  key = ""; // in memory only: a page that is closed has forgotten it
  onWait = () => {}; // told the seconds until a busy service is asked again

  // Relative to the page, so that a proxy may serve both below any path.
  url(path) {
    return new URL(path, new URL(".", document.baseURI)).href;
  }

  codecs(signal) {
    return this.#send("v1/codecs", {}, signal).then((response) => response.json());
  }

  encode(body, query, signal) {
    return this.#timed(`v1/encode?${new URLSearchParams(query)}`, this.#post(body, "application/octet-stream", LACONIC), signal);
  }

  decode(stream, signal, accept = "image/png", query = {}) {
    const asked = Object.keys(query).length ? `?${new URLSearchParams(query)}` : "";
    return this.#timed(`v1/decode${asked}`, this.#post(stream, LACONIC, accept), signal);
  }

  inspect(stream, signal) {
    return this.#send("v1/inspect", this.#post(stream, LACONIC, "application/json"), signal).then((answer) => answer.json());
  }

  description(signal) {
    return this.#send("openapi.json", {}, signal).then((answer) => answer.json());
  }

  submit(body, query, signal) {
    const options = this.#post(body, "application/octet-stream", "application/json");
    return this.#send(`v1/jobs?${new URLSearchParams(query)}`, options, signal).then((answer) => answer.json());
  }

  job(id, signal) {
    return this.#send(`v1/jobs/${id}`, {}, signal).then((answer) => answer.json());
  }

  cancel(id) {
    return this.#send(`v1/jobs/${id}`, { method: "DELETE" });
  }

  async result(id, signal) {
    const response = await this.#send(`v1/jobs/${id}/result`, {}, signal);
    return { blob: await response.blob(), codec: response.headers.get("X-Laconic-Codec") ?? "" };
  }

  // The statuses of a job's server-sent events. Not by EventSource: that cannot send a key.
  async *events(id, signal) {
    const response = await this.#send(`v1/jobs/${id}/events`, {}, signal);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    try {
      for (let part = await reader.read(); !part.done; part = await reader.read()) {
        const events = (text + part.value).split("\n\n");
        text = events.pop();
        for (const event of events) {
          const line = event.split("\n").find((one) => one.startsWith("data: "));
          if (line) yield JSON.parse(line.slice(6));
        }
      }
    } catch (error) {
      if (signal.aborted || error instanceof SyntaxError) throw error; // else: cut off, which who listens can mend
    }
  }

  #post(body, kind, accept) {
    return { method: "POST", body, headers: { "Content-Type": kind, Accept: accept } };
  }

  async #timed(path, options, signal) {
    const began = performance.now();
    const response = await this.#send(path, options, signal);
    const blob = await response.blob();
    const spans = spansOf(response.headers.get("Server-Timing") ?? "");
    const codec = response.headers.get("X-Laconic-Codec") ?? "";
    return { blob, codec, ms: codecTime(spans), roundTrip: performance.now() - began };
  }

  async #send(path, options, signal) {
    const headers = { ...options.headers, ...(this.key && { Authorization: `Bearer ${this.key}` }) };
    for (let attempt = 1; ; attempt++) {
      let response;
      try {
        response = await fetch(this.url(path), { ...options, headers, signal, cache: "no-store" });
      } catch (error) {
        if (signal?.aborted) throw error;
        throw new Problem(0, "The service does not answer", "is it still running?");
      }
      if (response.ok) return response;
      const wait = Number(response.headers.get("Retry-After"));
      if (!(wait > 0) || attempt === TRIES) throw await problemOf(response);
      await response.body?.cancel();
      await this.#pause(Math.min(wait, LONGEST_WAIT_S), signal);
    }
  }

  // A little longer than asked, and not the same for everyone: else all come back at once.
  async #pause(seconds, signal) {
    const wait = seconds * (1 + Math.random() / 4);
    this.onWait(wait);
    await new Promise((resolve, reject) => {
      const stop = () => {
        clearTimeout(timer);
        reject(signal.reason);
      };
      const timer = setTimeout(() => {
        signal?.removeEventListener("abort", stop);
        resolve();
      }, 1000 * wait);
      signal?.addEventListener("abort", stop, { once: true });
      if (signal?.aborted) stop();
    });
    this.onWait(0);
  }
}

async function problemOf(response) {
  try {
    const problem = await response.json();
    return new Problem(response.status, String(problem.title), String(problem.detail ?? ""), problem.code);
  } catch {
    return new Problem(response.status, `The service answers ${response.status}`, response.statusText);
  }
}

// What the codec itself took. The rest of the total is waiting and media files: the PNG that every decoding here writes
// would take longer than most codecs.
const codecTime = ({ transform, entropy = 0, total }) => (transform === undefined ? total : transform + entropy);

// "queue;dur=1.2, total;dur=30" as { queue: 1.2, total: 30 }, in milliseconds.
function spansOf(header) {
  const spans = {};
  for (const part of header.split(",")) {
    const found = /^\s*([\w-]+);dur=([\d.]+)/.exec(part);
    if (found) spans[found[1]] = Number(found[2]);
  }
  return spans;
}
