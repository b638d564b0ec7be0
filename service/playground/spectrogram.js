// Spectrograms of sounds, and how near two sounds are: time to the right, frequency upwards, level as a colour.

const [WIDTH, HEIGHT] = [1200, 400];
const WINDOW_S = 0.032;
const [FLOOR, SPAN] = [-100, 90]; // dB of full scale that is black, and dB from there to the brightest
const ERROR_SPAN = 30; // dB of difference that is brightest
const ANCHORS = [[0, 0, 4], [60, 15, 112], [140, 41, 129], [222, 73, 104], [254, 159, 109], [252, 253, 191]]; // dark to bright

// The ratio of signal to noise in dB over all samples; Infinity for equal sounds, undefined for what does not compare.
export function snr(original, decoded) {
  const alike = ["rate", "length"].every((name) => original[name] === decoded[name]) && original.channels.length === decoded.channels.length;
  if (!alike) return undefined;
  let [signal, noise] = [0, 0];
  original.channels.forEach((channel, number) => {
    const other = decoded.channels[number];
    for (let at = 0; at < channel.length; at++) {
      const error = channel[at] - other[at];
      signal += channel[at] * channel[at];
      noise += error * error;
    }
  });
  return noise === 0 ? Infinity : 10 * Math.log10(signal / noise);
}

// Levels in dB of full scale, HEIGHT rows of WIDTH columns, the highest frequency first: the mean of the channels' powers.
export function levels({ rate, length, channels }) {
  const size = 2 ** Math.max(6, Math.round(Math.log2(WINDOW_S * rate)));
  const window = Float64Array.from({ length: size }, (_, at) => 0.5 - 0.5 * Math.cos((2 * Math.PI * at) / (size - 1)));
  const scale = (4 / size) ** 2 / channels.length; // a sine at full scale has 0 dB
  const out = new Float32Array(WIDTH * HEIGHT);
  const [real, imaginary, power] = [0, 1, 2].map(() => new Float64Array(size));
  for (let column = 0; column < WIDTH; column++) {
    const first = Math.floor((column * length) / WIDTH) - size / 2;
    power.fill(0);
    for (const channel of channels) {
      for (let at = 0; at < size; at++) real[at] = window[at] * (channel[first + at] ?? 0);
      imaginary.fill(0);
      transform(real, imaginary);
      for (let at = 1; at <= size / 2; at++) power[at - 1] += real[at] ** 2 + imaginary[at] ** 2;
    }
    for (let row = 0; row < HEIGHT; row++) {
      const low = Math.floor((row * size) / 2 / HEIGHT);
      const high = Math.max(low + 1, Math.floor(((row + 1) * size) / 2 / HEIGHT));
      let most = 1e-12;
      for (let at = low; at < high; at++) most = Math.max(most, power[at] * scale);
      out[(HEIGHT - 1 - row) * WIDTH + column] = 10 * Math.log10(most);
    }
  }
  return out;
}

// The fast Fourier transform in place (Cooley and Tukey, 1965); the size is a power of two.
function transform(real, imaginary) {
  const size = real.length;
  for (let at = 1, other = 0; at < size; at++) {
    let bit = size >> 1;
    for (; other & bit; bit >>= 1) other ^= bit;
    other ^= bit;
    if (at < other) {
      [real[at], real[other]] = [real[other], real[at]];
      [imaginary[at], imaginary[other]] = [imaginary[other], imaginary[at]];
    }
  }
  for (let half = 1; half < size; half *= 2) {
    for (let turn = 0; turn < half; turn++) {
      const [cosine, sine] = [Math.cos((Math.PI * turn) / half), -Math.sin((Math.PI * turn) / half)];
      for (let at = turn; at < size; at += 2 * half) {
        const far = at + half;
        const [x, y] = [real[far] * cosine - imaginary[far] * sine, real[far] * sine + imaginary[far] * cosine];
        [real[far], imaginary[far]] = [real[at] - x, imaginary[at] - y];
        [real[at], imaginary[at]] = [real[at] + x, imaginary[at] + y];
      }
    }
  }
}

const coloured = (value) => {
  const place = Math.min(Math.max(value, 0), 1) * (ANCHORS.length - 1);
  const at = Math.min(Math.floor(place), ANCHORS.length - 2);
  return ANCHORS[at].map((one, channel) => one + (ANCHORS[at + 1][channel] - one) * (place - at));
};

function painted(count, value) {
  const out = new Uint8ClampedArray(4 * count);
  for (let at = 0; at < count; at++) {
    out.set(coloured(value(at)), 4 * at);
    out[4 * at + 3] = 255;
  }
  return out;
}

// Levels as a PNG.
export function picture(found) {
  const canvas = new OffscreenCanvas(WIDTH, HEIGHT);
  const bytes = painted(found.length, (at) => (found[at] - FLOOR) / SPAN);
  canvas.getContext("2d").putImageData(new ImageData(bytes, WIDTH, HEIGHT), 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}

// The absolute difference of two sounds' levels as RGBA bytes.
export const levelDifference = (one, other) =>
  painted(one.length, (at) => Math.abs(Math.max(one[at], FLOOR) - Math.max(other[at], FLOOR)) / ERROR_SPAN);
