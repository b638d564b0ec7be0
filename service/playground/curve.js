// A rate-distortion plot as inline SVG: the rate on a logarithmic axis, PSNR or SNR on a linear one.

import { svg } from "./dom.js";

const [LEFT, TOP, BOTTOM] = [52, 14, 46]; // margins
const NAMES = 140; // the right margin where the curves' names have room; where not, the colours tell
const NAME_GAP = 16;
const TICKS = [-3, -2, -1, 0, 1, 2, 3].flatMap((power) => [1, 2, 5].map((base) => base * 10 ** power));

// What the axes are: the name of the rate and its unit, and that of the ratio in dB.
export const PICTURES = { rate: "bits per pixel", unit: "bpp", ratio: "PSNR" };
export const SOUNDS = { rate: "kbit/s", unit: "kbit/s", ratio: "SNR" };

// `series` are { name, tint, points: [{ rate, psnr, quality }] }, `mark` is the result in the viewer, or null. The plot is
// as wide as its place, so that its letters have the size of the page's.
export function plot(series, mark, room, scales = PICTURES) {
  const width = Math.min(Math.max(room, 280), 900);
  const frame = { width, height: Math.max(260, Math.min(width * 0.58, 460)), right: width < 520 ? 14 : NAMES };
  const viewBox = `0 0 ${frame.width} ${frame.height}`;
  const finite = (point) => point && point.rate > 0 && Number.isFinite(point.psnr);
  const curves = series.map((one) => ({ ...one, points: one.points.filter(finite).sort((a, b) => a.rate - b.rate) }));
  const every = [...curves.flatMap(({ points }) => points), mark].filter(finite);
  if (!every.length) return svg("svg", { viewBox, "aria-hidden": "true" });
  const axes = axesFor(every, frame);
  const names = curves.filter(({ points }) => points.length).map(({ name }) => name);
  const label = `Rate and distortion of ${names.join(", ") || "what is shown"}: ${scales.ratio} in dB over ${scales.rate}`;
  const drawn = svg("svg", { viewBox, role: "img", "aria-label": label }, ...grid(axes, scales));
  drawn.append(...curves.map((one) => curve(one, axes, scales)), ...(frame.right === NAMES ? curveNames(curves, axes) : []));
  if (finite(mark)) drawn.append(cross(axes.x(mark.rate), axes.y(mark.psnr)));
  return drawn;
}

function axesFor(points, { width, height, right }) {
  const rates = points.map(({ rate }) => rate);
  const psnrs = points.map(({ psnr }) => psnr);
  const rate = [Math.min(...rates) / 1.15, Math.max(...rates) * 1.15];
  const psnr = [Math.floor(Math.min(...psnrs) - 0.5), Math.ceil(Math.max(...psnrs) + 0.5)];
  const across = (value) => Math.log(value / rate[0]) / Math.log(rate[1] / rate[0]);
  return {
    rate,
    psnr,
    right: width - right,
    bottom: height - BOTTOM,
    x: (value) => LEFT + across(value) * (width - right - LEFT),
    y: (value) => height - BOTTOM - ((value - psnr[0]) / (psnr[1] - psnr[0])) * (height - TOP - BOTTOM),
  };
}

function grid(axes, scales) {
  const { right, bottom } = axes;
  const parts = [];
  for (const rate of TICKS.filter((tick) => tick > axes.rate[0] && tick < axes.rate[1])) {
    const x = axes.x(rate);
    parts.push(svg("line", { class: "grid", x1: x, x2: x, y1: TOP, y2: bottom }));
    parts.push(svg("text", { class: "tick", x, y: bottom + 18, "text-anchor": "middle" }, String(Number(rate.toPrecision(2)))));
  }
  const range = axes.psnr[1] - axes.psnr[0];
  const every = range > 25 ? 5 : range > 8 ? 2 : 1;
  for (let psnr = Math.ceil(axes.psnr[0] / every) * every; psnr <= axes.psnr[1]; psnr += every) {
    const y = axes.y(psnr);
    parts.push(svg("line", { class: "grid", x1: LEFT, x2: right, y1: y, y2: y }));
    parts.push(svg("text", { class: "tick", x: LEFT - 8, y: y + 4, "text-anchor": "end" }, String(psnr)));
  }
  const middle = (TOP + bottom) / 2;
  parts.push(svg("text", { class: "axis", x: (LEFT + right) / 2, y: bottom + BOTTOM - 6, "text-anchor": "middle" }, scales.rate));
  parts.push(
    svg("text", { class: "axis", x: 0, y: 0, transform: `translate(13 ${middle}) rotate(-90)`, "text-anchor": "middle" }, `${scales.ratio} (dB)`),
  );
  return parts;
}

function curve({ name, tint, points }, axes, scales) {
  const line = points.map(({ rate, psnr }) => `${axes.x(rate).toFixed(1)},${axes.y(psnr).toFixed(1)}`).join(" ");
  const dots = points.map(({ rate, psnr, quality }) => {
    const told = svg("title", {}, `${name}, quality ${quality}: ${rate.toFixed(3)} ${scales.unit}, ${psnr.toFixed(2)} dB`);
    return svg("circle", { cx: axes.x(rate), cy: axes.y(psnr), r: 4 }, told);
  });
  return svg("g", { class: `curve tint-${tint}` }, svg("polyline", { points: line }), ...dots);
}

// Each name stands at its curve's end; where ends are close, the names are pushed apart.
function curveNames(curves, axes) {
  const ends = curves
    .filter(({ points }) => points.length)
    .map(({ name, tint, points }) => ({ name, tint, y: axes.y(points.at(-1).psnr) + 4 }))
    .sort((a, b) => a.y - b.y);
  for (let at = 1; at < ends.length; at++) ends[at].y = Math.max(ends[at].y, ends[at - 1].y + NAME_GAP);
  return ends.map(({ name, tint, y }) => svg("text", { class: `name tint-${tint}`, x: axes.right + 8, y }, name));
}

function cross(x, y) {
  const told = svg("title", {}, "the picture shown");
  return svg("path", { class: "mark", d: `M${x - 7} ${y}h14M${x} ${y - 7}v14` }, told);
}
