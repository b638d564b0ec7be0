// One picture through the service and back, measured: what every figure on the page is made of.

const LACONIC_SIGNATURE = [0x8c, 0x4c, 0x43, 0x0d, 0x0a, 0x1a, 0x0a];

export const isLaconic = (bytes) => LACONIC_SIGNATURE.every((byte, index) => bytes[index] === byte);

// Asks the worker; questions are answered in any order.
export class Measurer {
  #worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  #waiting = new Map();
  #asked = 0;

  constructor() {
    this.#worker.onmessage = ({ data: { id, value, error } }) => {
      const { resolve, reject } = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (error) reject(new Error(error));
      else resolve(value);
    };
  }

  // `question` is one of worker.js's: given, read, measure, difference.
  async ask(question, blob) {
    const png = blob && (await blob.arrayBuffer());
    const id = ++this.#asked;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ id, question, png }, png ? [png] : []);
    });
  }
}

// Return the original's exact samples' shape, and the PNG that holds them where the file itself is none that we read:
// the service reads the file, keeps it losslessly, and gives it back. So even media that no browser shows can be compared.
export async function readOriginal(source, api, measurer, codecs, signal) {
  const shape = await measurer.ask("given", source.blob);
  if (shape) return { shape, png: null };
  const fast = codecs.toSorted((one, other) => effortless(other) - effortless(one));
  const copy = await losslessCopy(source, api, fast, signal, async (stream) => {
    const png = (await api.decode(stream, signal)).blob;
    const read = await measurer.ask("read", png);
    return read && { shape: read, png };
  });
  return copy ?? { shape: null, png: null };
}

// Have the service keep a file losslessly, with the first codec that can, and return what `read` makes of the stream;
// null where none does it.
export async function losslessCopy(source, api, codecs, signal, read) {
  let refusal = null;
  for (const codec of codecs.filter((one) => one.lossless)) {
    try {
      const { blob } = await api.encode(source.blob, losslessly(codec, true), signal);
      const found = await read(blob);
      if (found) return found;
    } catch (error) {
      if (![415, 422].includes(error.status)) throw error; // those mean: not this codec; try the next
      refusal = error;
    }
  }
  if (refusal) throw refusal;
  return null;
}

// Codecs whose lossless coding is one of several ways are the fast ones.
const effortless = ({ settings }) => Number("lossless" in (settings.properties ?? {}));

export function losslessly(codec, fast = false) {
  const properties = codec.settings.properties ?? {};
  const query = { codec: codec.id };
  if ("lossless" in properties) query.lossless = "true";
  if (fast && properties.effort) query.effort = String(properties.effort.minimum ?? 1);
  return query;
}

// `encode` is another way to encode than one request: see jobs.js.
export async function code(source, query, api, measurer, signal, encode = null) {
  const encoded = await (encode ?? api.encode.bind(api))(source.blob, query, signal);
  const result = await restore(encoded.blob, api, measurer, signal);
  return { ...result, codec: encoded.codec, query, encoded };
}

// Decode a stream and measure it against the original that the measurer holds, if any.
export async function restore(stream, api, measurer, signal) {
  const decoded = await api.decode(stream, signal);
  const measured = await measurer.ask("measure", decoded.blob);
  signal?.throwIfAborted();
  if (!measured) throw new Error("The service's picture does not read as PNG.");
  const pixels = measured.width * measured.height;
  return {
    codec: decoded.codec,
    stream,
    png: decoded.blob,
    decoded,
    shape: measured,
    bpp: (8 * stream.size) / pixels,
    ratio: (pixels * measured.channels * measured.depth) / 8 / stream.size,
    psnr: measured.psnr,
  };
}
