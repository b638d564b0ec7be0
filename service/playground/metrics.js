// How near a decoded picture is to the original, from exact samples: as the service's own figures are computed.

const SCALE = 8; // of the difference view

const alike = (one, other) => ["width", "height", "channels", "depth"].every((name) => one[name] === other[name]);

// The peak signal-to-noise ratio in dB over all samples, alpha included; Infinity for equal pictures.
export function psnr(original, decoded) {
  if (!alike(original, decoded)) return undefined;
  const [one, other] = [original.samples, decoded.samples];
  const wide = original.depth === 16;
  let total = 0; // exact: below 2^53 for 64 million pixels of 4 channels and 8 bits
  for (let at = 0; at < one.length; at += wide ? 2 : 1) {
    const error = wide ? 256 * (one[at] - other[at]) + one[at + 1] - other[at + 1] : one[at] - other[at];
    total += error * error;
  }
  const peak = 2 ** original.depth - 1;
  const samples = one.length / (wide ? 2 : 1);
  return total === 0 ? Infinity : 10 * Math.log10((peak * peak * samples) / total);
}

// The absolute difference times SCALE, as RGBA bytes without transparency; a difference in alpha brightens all three.
export function difference(original, decoded) {
  if (!alike(original, decoded)) return undefined;
  const { width, height, channels, depth } = original;
  const bytes = depth / 8;
  const colours = channels > 2 ? 3 : 1;
  const out = new Uint8ClampedArray(4 * width * height);
  // In 16 bits the high byte alone would lose differences below one part in 256, which SCALE makes visible.
  const value = ({ samples }, at) => (bytes === 1 ? samples[at] : (256 * samples[at] + samples[at + 1]) / 257);
  for (let pixel = 0; pixel < width * height; pixel++) {
    const error = (channel) => {
      const at = (pixel * channels + channel) * bytes;
      return SCALE * Math.abs(value(original, at) - value(decoded, at));
    };
    const alpha = channels % 2 ? 0 : error(channels - 1);
    for (let colour = 0; colour < 3; colour++) out[4 * pixel + colour] = error(Math.min(colour, colours - 1)) + alpha;
    out[4 * pixel + 3] = 255;
  }
  return out;
}
