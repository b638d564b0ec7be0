// A video through the service and back.

import { load, measured } from "./film.js";

const MP4 = "video/mp4";
const WEBM = "video/webm";
const CLEAR = { quality: "95" }; // of the copies that are only looked at

// What this browser plays of what the service writes.
export const playedType = () =>
  document.createElement("video").canPlayType(`${MP4}; codecs="avc1.64001f"`) === "" ? WEBM : MP4;

const EBML = [0x1a, 0x45, 0xdf, 0xa3]; // of Matroska and WebM
const Y4M = "YUV4MPEG2";
const PICTURES = ["avif", "avis", "heic", "heix", "mif1"]; // brands of ISO media files that hold pictures

// Whether a file, of which these are the first bytes, holds a video.
export function isVideo(bytes) {
  const text = String.fromCharCode(...bytes.subarray(0, 16));
  if (text.slice(4, 8) === "ftyp") return !PICTURES.includes(text.slice(8, 12));
  return EBML.every((byte, index) => bytes[index] === byte) || text.startsWith(Y4M);
}

// Whether a GIF moves: a picture of one frame has one block of graphic control at most.
export function moves(bytes) {
  if (String.fromCharCode(...bytes.subarray(0, 4)) !== "GIF8") return false;
  let found = 0;
  for (let at = 0; at + 2 < bytes.length && found < 2; at++) {
    found += Number(bytes[at] === 0x21 && bytes[at + 1] === 0xf9 && bytes[at + 2] === 4);
  }
  return found > 1;
}

// Return what the browser can play of a video: the file itself, or what the service makes of it.
export async function playable(blob, api, codecs, signal) {
  const url = URL.createObjectURL(blob);
  try {
    await load(document.createElement("video"), url);
    return blob;
  } catch {
    const codec = ["h264", "av1", "hevc"].find((id) => codecs.some((one) => one.id === id));
    if (!codec) return null;
    const { blob: stream } = await api.encode(blob, { codec, ...CLEAR }, signal);
    return (await api.decode(stream, signal, playedType(), CLEAR)).blob;
  } finally {
    URL.revokeObjectURL(url);
  }
}

// `encode` is another way to encode than one request: see jobs.js. `source.film` is what the browser plays of the original.
export async function codeVideo(source, query, api, signal, encode = null) {
  const encoded = await (encode ?? api.encode.bind(api))(source.blob, query, signal);
  const result = await restoreVideo(encoded.blob, api, source.film, signal);
  return { ...result, codec: encoded.codec, query, encoded };
}

// Decode a video's stream and measure it against the original, if there is one that plays.
export async function restoreVideo(stream, api, original, signal) {
  const facts = await api.inspect(stream, signal);
  const [frames, height, width] = facts.shape;
  const shape = { width, height, frames, rate: facts.rate, channels: 3, depth: facts.bit_depth };
  const decoded = await api.decode(stream, signal, playedType(), CLEAR);
  const psnr = original ? await measured(original, decoded.blob, shape, signal) : undefined;
  const pixels = width * height * frames;
  return {
    codec: decoded.codec,
    stream,
    film: decoded.blob,
    decoded,
    shape,
    psnr,
    bpp: (8 * stream.size) / pixels,
    ratio: (pixels * 3 * shape.depth) / 8 / stream.size,
    kbps: (8 * stream.size * shape.rate) / frames / 1000,
  };
}
