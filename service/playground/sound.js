// A sound through the service and back.

import { losslessCopy } from "./coding.js";

const WAV = "audio/wav";
const WHOLE = ["RIFF", "FORM", "fLaC"]; // files of integers, which FLAC holds; of others the samples are floats

// Return { wav, shape, picture } of the original: its exact samples, from the file itself where it is a WAV file, else
// as the service reads it and gives it back without loss. null where no lossless codec of sound is served.
export async function readSound(source, api, measurer, codecs, signal) {
  const own = await measurer.ask("sound", source.blob);
  if (own) return { ...own, wav: source.blob };
  const whole = WHOLE.includes(String.fromCharCode(...new Uint8Array(await source.blob.slice(0, 4).arrayBuffer())));
  const suits = ({ id }) => Number((id === "flac") === whole);
  const first = codecs.toSorted((one, other) => suits(other) - suits(one));
  return losslessCopy(source, api, first, signal, async (stream) => {
    const wav = (await api.decode(stream, signal, WAV)).blob;
    const read = await measurer.ask("sound", wav);
    return read && { ...read, wav };
  });
}

// `encode` is another way to encode than one request: see jobs.js.
export async function codeSound(source, query, api, measurer, signal, encode = null) {
  const encoded = await (encode ?? api.encode.bind(api))(source.blob, query, signal);
  const result = await restoreSound(encoded.blob, api, measurer, signal);
  return { ...result, codec: encoded.codec, query, encoded };
}

// Decode a stream of sound and measure it against the original that the measurer holds, if any.
export async function restoreSound(stream, api, measurer, signal) {
  const decoded = await api.decode(stream, signal, WAV);
  const measured = await measurer.ask("measureSound", decoded.blob);
  signal?.throwIfAborted();
  if (!measured) throw new Error("The service's sound does not read as WAV.");
  const { shape, picture, snr } = measured;
  const samples = Math.max(1, shape.channels * shape.length);
  return {
    codec: decoded.codec,
    stream,
    sound: decoded.blob,
    png: picture,
    decoded,
    shape,
    psnr: snr, // called by its own name where it is shown
    bpp: (8 * stream.size) / samples,
    ratio: (samples * shape.depth) / 8 / stream.size,
    kbps: (8 * stream.size * shape.rate) / Math.max(1, shape.length) / 1000,
  };
}
