// WAV files to samples, exactly: PCM of 8 to 32 bits and floats. A browser's own decoder would change the sampling rate.

const [PCM, FLOAT, EXTENSIBLE] = [1, 3, 0xfffe];

const text = (view, at) => String.fromCharCode(...new Uint8Array(view.buffer, view.byteOffset + at, 4));

// Return { rate, bits, length, channels: [Float32Array, ...] } with samples in ±1, or null for what is no such file.
export function readWav(buffer) {
  const view = new DataView(buffer);
  if (view.byteLength < 44 || text(view, 0) !== "RIFF" || text(view, 8) !== "WAVE") return null;
  let format = null;
  for (let at = 12; at + 8 <= view.byteLength; ) {
    const [name, size] = [text(view, at), view.getUint32(at + 4, true)];
    if (name === "fmt " && at + 24 <= view.byteLength) format = formatAt(view, at + 8, size);
    if (name === "data") return format && samplesAt(view, at + 8, Math.min(size, view.byteLength - at - 8), format);
    at += 8 + size + (size & 1);
  }
  return null;
}

function formatAt(view, at, size) {
  const tag = view.getUint16(at, true);
  const extended = tag === EXTENSIBLE && size >= 40 && at + 40 <= view.byteLength;
  const kind = extended ? view.getUint16(at + 24, true) : tag;
  const [count, rate, bits] = [view.getUint16(at + 2, true), view.getUint32(at + 4, true), view.getUint16(at + 14, true)];
  const known = (kind === PCM && [8, 16, 24, 32].includes(bits)) || (kind === FLOAT && bits === 32);
  return known && count && rate ? { floats: kind === FLOAT, count, rate, bits } : null;
}

function samplesAt(view, at, size, { floats, count, rate, bits }) {
  const bytes = bits / 8;
  const length = Math.floor(size / bytes / count);
  const scale = 2 ** (1 - bits);
  const read = floats ? (place) => view.getFloat32(place, true)
    : bits === 8 ? (place) => (view.getUint8(place) - 128) * scale
    : bits === 16 ? (place) => view.getInt16(place, true) * scale
    : bits === 24 ? (place) => (view.getUint16(place, true) + 65536 * view.getInt8(place + 2)) * scale
    : (place) => view.getInt32(place, true) * scale;
  const channels = Array.from({ length: count }, () => new Float32Array(length));
  for (let sample = 0; sample < length; sample++) {
    for (let channel = 0; channel < count; channel++) channels[channel][sample] = read(at + (sample * count + channel) * bytes);
  }
  return { rate, bits, length, channels };
}
