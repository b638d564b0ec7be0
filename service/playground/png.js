// PNG files to samples, exactly. A canvas would not do: browsers convert colours by profile, multiply by alpha and cut to 8 bits.

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const CHANNELS = { 0: 1, 2: 3, 4: 2, 6: 4 }; // by colour type
const CHANGE_SAMPLES = ["tRNS", "eXIf", "acTL"]; // transparency, rotation, animation: the service reads those

// Return { width, height, channels, depth, samples } or null for what is not a plain PNG of 8 or 16 bits.
// `samples` are bytes, in 16 bits the high one first. What the service itself wrote is `upright`, whatever its EXIF.
export async function readPng(buffer, upright = false) {
  const bytes = new Uint8Array(buffer);
  if (bytes.length < 33 || SIGNATURE.some((byte, index) => bytes[index] !== byte)) return null;
  const view = new DataView(buffer);
  const [width, height, depth] = [view.getUint32(16), view.getUint32(20), bytes[24]];
  const channels = CHANNELS[bytes[25]];
  if (!channels || !(depth === 8 || depth === 16) || bytes[28] !== 0 || !width || !height) return null;
  const packed = [];
  for (let at = 8; at + 12 <= bytes.length; ) {
    const length = view.getUint32(at);
    const kind = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    if (CHANGE_SAMPLES.includes(kind) && !(upright && kind === "eXIf")) return null;
    if (kind === "IDAT") packed.push(bytes.subarray(at + 8, at + 8 + length));
    at += 12 + length;
  }
  const step = (channels * depth) / 8;
  const filtered = await inflate(packed, (1 + width * step) * height);
  return filtered && { width, height, channels, depth, samples: unfilter(filtered, height, width * step, step) };
}

// Return exactly `size` bytes, or null; what claims to be small and unpacks to more is not read on.
async function inflate(packed, size) {
  const out = new Uint8Array(size);
  let at = 0;
  try {
    const reader = new Blob(packed).stream().pipeThrough(new DecompressionStream("deflate")).getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      if (at + part.value.length > size) return null;
      out.set(part.value, at);
      at += part.value.length;
    }
  } catch {
    return null;
  }
  return at === size ? out : null;
}

// The PNG specification's section 9: each row begins with the number of its filter.
function unfilter(filtered, rows, stride, step) {
  const out = new Uint8Array(rows * stride);
  for (let row = 0, from = 0, to = 0; row < rows; row++) {
    const filter = filtered[from++];
    for (let column = 0; column < stride; column++, from++, to++) {
      const left = column < step ? 0 : out[to - step];
      const above = row ? out[to - stride] : 0;
      const predicted =
        filter === 0 ? 0
        : filter === 1 ? left
        : filter === 2 ? above
        : filter === 3 ? (left + above) >> 1
        : paeth(left, above, column < step || !row ? 0 : out[to - stride - step]);
      out[to] = filtered[from] + predicted;
    }
  }
  return out;
}

function paeth(left, above, corner) {
  const guess = left + above - corner;
  const [a, b, c] = [Math.abs(guess - left), Math.abs(guess - above), Math.abs(guess - corner)];
  return a <= b && a <= c ? left : b <= c ? above : corner;
}
