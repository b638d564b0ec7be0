"""A rate-distortion plot as inline SVG, without any plotting library: bpp on a logarithmic axis, PSNR on a linear one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Series", "rd_plot"]

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 52, 140, 14, 46  # margins; the right one holds the names of the curves
LABEL_GAP = 15.0  # pixels between two names at least
MARKS = tuple(base * 10.0**power for power in range(-3, 3) for base in (1, 2, 5))  # bpp


@dataclass(frozen=True)
class Series:
    """One codec's curve: points of (bits per pixel, PSNR in dB), and `mark`, the point that the table shows."""

    name: str
    points: tuple[tuple[float, float], ...]
    mark: tuple[float, float] | None = None


@dataclass(frozen=True)
class _Axes:
    bpp: tuple[float, float]
    psnr: tuple[float, float]

    def x(self, bpp: float) -> float:
        low, high = map(math.log, self.bpp)
        return LEFT + (math.log(bpp) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, psnr: float) -> float:
        low, high = self.psnr
        return HEIGHT - BOTTOM - (psnr - low) / (high - low) * (HEIGHT - TOP - BOTTOM)


def rd_plot(series: Sequence[Series], target: float | None = None) -> str:
    """Return an `<svg>` element; curve number n has the class `series-n`, which the page's style colours.

    `target` draws a dashed line at a PSNR in dB. Points that are infinite (lossless) are left out.
    """
    curves = [Series(one.name, _finite(one.points), one.mark) for one in series]
    every = [point for one in curves for point in (*one.points, *_finite([one.mark] if one.mark else []))]
    if not every:
        return ""
    axes = _axes(every)
    parts = [*_grid(axes)]
    if target is not None and axes.psnr[0] < target < axes.psnr[1]:
        y = axes.y(target)
        parts.append(f'<line class="target" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT + 6}" y="{y - 5:.1f}">same PSNR: {target:.2f} dB</text>')
    labels = _label_places(curves, axes)
    for index, one in enumerate(curves):
        parts += _curve(index, one, axes)
        if one.points:
            text = f'<text class="name" x="{WIDTH - RIGHT + 8}" y="{labels[index] + 4:.1f}">{escape(one.name)}</text>'
            parts.append(f'<g class="series-{index}">{text}</g>')
    title = "Rate-distortion: PSNR in dB over bits per pixel, one curve for each codec"
    head = f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">'
    return "\n".join([head, *parts, "</svg>"])


def _finite(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    return tuple(sorted((bpp, psnr) for bpp, psnr in points if bpp > 0 and math.isfinite(psnr)))


def _axes(points: Sequence[tuple[float, float]]) -> _Axes:
    rates, qualities = zip(*points, strict=True)
    low, high = min(rates) / 1.15, max(rates) * 1.15
    return _Axes((low, high), (math.floor(min(qualities) - 0.5), math.ceil(max(qualities) + 0.5)))


def _grid(axes: _Axes) -> list[str]:
    """Return the grid lines and the axes' labels."""
    bottom, right, parts = HEIGHT - BOTTOM, WIDTH - RIGHT, []
    low, high = axes.psnr
    step = 1 if high - low <= 10 else 2 if high - low <= 24 else 5
    for psnr in range(math.ceil(low / step) * step, int(high) + 1, step):
        y = axes.y(psnr)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{psnr}</text>')
    for bpp in MARKS:
        if axes.bpp[0] <= bpp <= axes.bpp[1]:
            x = axes.x(bpp)
            parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>')
            parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{bpp:g}</text>')
    middle = (LEFT + right) / 2
    parts.append(f'<text class="axis" x="{middle:.0f}" y="{HEIGHT - 8}" text-anchor="middle">bits per pixel (log scale)</text>')
    y = (TOP + bottom) / 2
    parts.append(f'<text class="axis" transform="translate(14 {y:.0f}) rotate(-90)" text-anchor="middle">PSNR (dB)</text>')
    return parts


def _curve(index: int, series: Series, axes: _Axes) -> list[str]:
    places = " ".join(f"{axes.x(bpp):.1f},{axes.y(psnr):.1f}" for bpp, psnr in series.points)
    parts = [f'<g class="series-{index}">', f'<polyline points="{places}"/>']
    for bpp, psnr in series.points:
        tip = f"<title>{escape(series.name)}: {bpp:.3f} bpp, {psnr:.2f} dB</title>"
        parts.append(f'<circle cx="{axes.x(bpp):.1f}" cy="{axes.y(psnr):.1f}" r="3.2">{tip}</circle>')
    for bpp, psnr in _finite([series.mark] if series.mark else []):
        tip = f"<title>{escape(series.name)}, as in the table: {bpp:.3f} bpp, {psnr:.2f} dB</title>"
        parts.append(f'<circle class="mark" cx="{axes.x(bpp):.1f}" cy="{axes.y(psnr):.1f}" r="6">{tip}</circle>')
    return [*parts, "</g>"]


def _label_places(curves: Sequence[Series], axes: _Axes) -> dict[int, float]:
    """Return the height of each curve's name: at its last point, moved down as far as needed not to cover another."""
    wanted = sorted((axes.y(one.points[-1][1]), index) for index, one in enumerate(curves) if one.points)
    places: dict[int, float] = {}
    last = -math.inf
    for y, index in wanted:
        last = places[index] = max(y, last + LABEL_GAP)
    return places
