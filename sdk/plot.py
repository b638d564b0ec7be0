"""A rate-distortion plot as inline SVG, without a plotting library: rates on a logarithmic axis, qualities on a linear one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["PICTURES", "Scales", "Series", "rd_plot"]

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 52, 140, 14, 46  # margins; the right one holds the names of the curves
LABEL_GAP = 15.0  # pixels between two names at least
MARKS = tuple(base * 10.0**power for power in range(-3, 5) for base in (1, 2, 5))  # of the rate


@dataclass(frozen=True)
class Scales:
    """What the axes are: the rate's name and short unit, the quality's name and unit ("" for none)."""

    rate: str
    rate_unit: str
    quality: str
    quality_unit: str

    def point(self, rate: float, quality: float) -> str:
        """Return a point in words."""
        return f"{rate:.3f} {self.rate_unit}, {self.value(quality)}"

    def value(self, quality: float) -> str:
        """Return a quality in words."""
        return f"{quality:.2f} {self.quality_unit}".rstrip()


PICTURES = Scales("bits per pixel", "bpp", "PSNR", "dB")


@dataclass(frozen=True)
class Series:
    """One codec's curve: points of (rate, quality), and `mark`, the point that the table shows."""

    name: str
    points: tuple[tuple[float, float], ...]
    mark: tuple[float, float] | None = None


@dataclass(frozen=True)
class _Axes:
    rate: tuple[float, float]
    quality: tuple[float, float]

    def x(self, rate: float) -> float:
        low, high = map(math.log, self.rate)
        return LEFT + (math.log(rate) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, quality: float) -> float:
        low, high = self.quality
        return HEIGHT - BOTTOM - (quality - low) / (high - low) * (HEIGHT - TOP - BOTTOM)


def rd_plot(series: Sequence[Series], target: float | None = None, scales: Scales = PICTURES) -> str:
    """Return an `<svg>` element; curve number n has the class `series-n`, which the page's style colours.

    `target` draws a dashed line at a quality. Points that are infinite (lossless) are left out.
    """
    curves = [Series(one.name, _finite(one.points), one.mark) for one in series]
    every = [point for one in curves for point in (*one.points, *_finite([one.mark] if one.mark else []))]
    if not every:
        return ""
    axes = _axes(every)
    parts = [*_grid(axes, scales)]
    if target is not None and axes.quality[0] < target < axes.quality[1]:
        y = axes.y(target)
        parts.append(f'<line class="target" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT + 6}" y="{y - 5:.1f}">same {scales.quality}: {scales.value(target)}</text>')
    labels = _label_places(curves, axes)
    for index, one in enumerate(curves):
        parts += _curve(index, one, axes, scales)
        if one.points:
            text = f'<text class="name" x="{WIDTH - RIGHT + 8}" y="{labels[index] + 4:.1f}">{escape(one.name)}</text>'
            parts.append(f'<g class="series-{index}">{text}</g>')
    unit = f" in {scales.quality_unit}" if scales.quality_unit else ""
    title = f"Rate-distortion: {scales.quality}{unit} over {scales.rate}, one curve for each codec"
    head = f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">'
    return "\n".join([head, *parts, "</svg>"])


def _finite(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    return tuple(sorted((rate, quality) for rate, quality in points if rate > 0 and math.isfinite(quality)))


def _axes(points: Sequence[tuple[float, float]]) -> _Axes:
    rates, qualities = zip(*points, strict=True)
    low, high = min(rates) / 1.15, max(rates) * 1.15
    return _Axes((low, high), (math.floor(min(qualities) - 0.5), math.ceil(max(qualities) + 0.5)))


def _grid(axes: _Axes, scales: Scales) -> list[str]:
    """Return the grid lines and the axes' labels."""
    bottom, right, parts = HEIGHT - BOTTOM, WIDTH - RIGHT, []
    low, high = axes.quality
    step = 1 if high - low <= 10 else 2 if high - low <= 24 else 5
    for quality in range(math.ceil(low / step) * step, int(high) + 1, step):
        y = axes.y(quality)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{quality}</text>')
    for rate in MARKS:
        if axes.rate[0] <= rate <= axes.rate[1]:
            x = axes.x(rate)
            parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>')
            parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{rate:g}</text>')
    middle = (LEFT + right) / 2
    parts.append(f'<text class="axis" x="{middle:.0f}" y="{HEIGHT - 8}" text-anchor="middle">{scales.rate} (log scale)</text>')
    y = (TOP + bottom) / 2
    name = f"{scales.quality} ({scales.quality_unit})" if scales.quality_unit else scales.quality
    parts.append(f'<text class="axis" transform="translate(14 {y:.0f}) rotate(-90)" text-anchor="middle">{name}</text>')
    return parts


def _curve(index: int, series: Series, axes: _Axes, scales: Scales) -> list[str]:
    places = " ".join(f"{axes.x(rate):.1f},{axes.y(quality):.1f}" for rate, quality in series.points)
    parts = [f'<g class="series-{index}">', f'<polyline points="{places}"/>']
    for rate, quality in series.points:
        tip = f"<title>{escape(series.name)}: {scales.point(rate, quality)}</title>"
        parts.append(f'<circle cx="{axes.x(rate):.1f}" cy="{axes.y(quality):.1f}" r="3.2">{tip}</circle>')
    for rate, quality in _finite([series.mark] if series.mark else []):
        tip = f"<title>{escape(series.name)}, as in the table: {scales.point(rate, quality)}</title>"
        parts.append(f'<circle class="mark" cx="{axes.x(rate):.1f}" cy="{axes.y(quality):.1f}" r="6">{tip}</circle>')
    return [*parts, "</g>"]


def _label_places(curves: Sequence[Series], axes: _Axes) -> dict[int, float]:
    """Return the height of each curve's name: at its last point, moved down as far as needed not to cover another."""
    wanted = sorted((axes.y(one.points[-1][1]), index) for index, one in enumerate(curves) if one.points)
    places: dict[int, float] = {}
    last = -math.inf
    for y, index in wanted:
        last = places[index] = max(y, last + LABEL_GAP)
    return places
