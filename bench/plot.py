"""Rate-distortion plot as SVG: measured curves solid, published ones dashed, each named at its end.

Rates are on a logarithmic axis, where the horizontal distance of two curves is their ratio of rates. The ground
is transparent and all text is a grey that reads on white and on black.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from .bd_rate import RateCurve

__all__ = ["PlotFrame", "PlottedCurve", "write_plot"]

GREY = "#7d8590"
OURS, OURS_TOO = "#e5484d", "#8f1d21"
PEERS = ("#3b82f6", "#12a594", "#b07d09", "#a35bd8", "#d6409f", "#6b9e2e")
RISE = 6.5  # dB that curves near their ends gain while the rate grows e-fold: where a name would meet its curve
GAP = 0.6  # dB between two names


@dataclass(frozen=True)
class PlotFrame:
    """What a plot shows: bits per pixel and dB from and to, and the ticks of the rate.

    Plots of other rates and qualities give their names as `axes`; `margin` is what 1 dB is to theirs.
    """

    rates: tuple[float, float] = (0.08, 2.0)
    levels: tuple[float, float] = (26.0, 43.5)
    ticks: tuple[float, ...] = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.4, 2.0)
    axes: tuple[str, str] = ("bits per pixel", "PSNR (dB)")
    margin: float = 1.0

    @classmethod
    def around(
        cls, curves: Sequence[PlottedCurve], axes: tuple[str, str] = ("bits per pixel", "PSNR (dB)"), margin: float = 1.0
    ) -> PlotFrame:
        """Return the frame that holds all points of the curves."""
        rates = [rate for curve in curves for rate in curve.bpp] or [0.01, 1.0]
        levels = [level for curve in curves for level in curve.psnr] or [20.0, 40.0]
        decades = range(math.floor(math.log10(min(rates))), math.ceil(math.log10(max(rates))) + 1)
        ticks = tuple(step * 10.0**decade for decade in decades for step in (1, 2, 5))
        low, high = 0.8 * min(rates), 1.1 * max(rates)
        between = min(levels) - margin, max(levels) + margin
        return cls((low, high), between, tuple(tick for tick in ticks if low <= tick <= high), axes, margin)


@dataclass(frozen=True)
class PlottedCurve:
    """One curve of rates and qualities; `main` marks the codecs that the plot is about, among the measured ones."""

    name: str
    bpp: Sequence[float]
    psnr: Sequence[float]
    measured: bool
    main: bool = False


@dataclass(frozen=True)
class _Label:
    text: str
    colour: str
    rate: float
    level: float
    bold: bool


def write_plot(curves: Sequence[PlottedCurve], path: Path, title: str, frame: PlotFrame | None = None) -> None:
    """Write the plot, by default in the frame for pictures; the same curves give the same bytes."""
    frame = frame or PlotFrame()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "laconic", "font.family": "sans-serif"}):
        figure = Figure(figsize=(9, 6.2), layout="constrained")
        axes = figure.add_subplot()
        _frame(axes, title, frame, all(curve.measured for curve in curves))
        peers = iter(PEERS * (1 + len(curves) // len(PEERS)))
        ours = chain([OURS], repeat(OURS_TOO))
        labels = []
        for curve in curves:
            colour = next(ours) if curve.main else next(peers) if curve.measured else GREY
            labels.append(_draw(axes, curve, colour, frame))
        _write_labels(axes, labels, frame)
        figure.savefig(path, format="svg", transparent=True, metadata={"Date": None})


def _frame(axes: Axes, title: str, frame: PlotFrame, all_measured: bool) -> None:
    axes.set_xscale("log")
    axes.set(xlim=(frame.rates[0], frame.rates[1] * 1.95), ylim=frame.levels, xlabel=frame.axes[0], ylabel=frame.axes[1])
    axes.set_xticks(frame.ticks, [f"{tick:g}" for tick in frame.ticks])
    axes.set_xticks([], minor=True)
    axes.set_title(title, color=GREY, fontsize=11, loc="left")
    axes.grid(color=GREY, alpha=0.25, linewidth=0.6)
    axes.tick_params(colors=GREY)
    axes.xaxis.label.set_color(GREY)
    axes.yaxis.label.set_color(GREY)
    for side, spine in axes.spines.items():
        spine.set(color=GREY, visible=side in ("left", "bottom"))
    kinds = [
        Line2D([], [], color=GREY, marker="o", markersize=4, linewidth=1.8, label="measured here, from decoded bytes"),
        Line2D([], [], color=GREY, linestyle=(0, (4, 3)), linewidth=1.1, label="published"),
    ]
    axes.legend(handles=kinds[: 1 if all_measured else 2], loc="upper left", frameon=False, labelcolor=GREY, fontsize=9)


def _draw(axes: Axes, curve: PlottedCurve, colour: str, frame: PlotFrame) -> _Label:
    """Draw the curve through its points and return the label of its last point inside the frame."""
    rate, level = _line(curve)
    inside = (rate >= frame.rates[0]) & (rate <= frame.rates[1]) & (level >= frame.levels[0]) & (level <= frame.levels[1])
    if curve.measured:
        axes.plot(rate[inside], level[inside], color=colour, linewidth=2.4 if curve.main else 1.7, zorder=3)
        seen = [(r, q) for r, q in zip(curve.bpp, curve.psnr, strict=True) if frame.rates[0] <= r <= frame.rates[1]]
        axes.plot(*zip(*seen, strict=True), "o", color=colour, markersize=4, zorder=4, clip_on=True) if seen else None
    else:
        axes.plot(rate[inside], level[inside], color=colour, linewidth=1.1, linestyle=(0, (4, 3)), zorder=2)
    last = int(np.flatnonzero(inside)[-1]) if inside.any() else len(level) - 1
    return _Label(curve.name, colour, float(rate[last]), float(level[last]), curve.main)


def _line(curve: PlottedCurve) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return rates and levels along the curve: smooth where more bits are always better, else straight between points."""
    order = np.argsort(curve.bpp)
    rate, level = np.asarray(curve.bpp, np.float64)[order], np.asarray(curve.psnr, np.float64)[order]
    if len(level) < 2 or (np.diff(level) <= 0).any():
        return rate, level
    smooth = RateCurve.of(rate, level)
    levels = np.linspace(smooth.psnr[0], smooth.psnr[-1], 400)
    return np.exp(smooth.log_rate_at(levels)), levels


def _write_labels(axes: Axes, labels: Sequence[_Label], frame: PlotFrame) -> None:
    """Write the names in a column right of the curves, in the curves' order, with thin lines to the curves' ends."""
    rise, gap = RISE * frame.margin, GAP * frame.margin
    aims = {id(label): label.level + rise * math.log(frame.rates[1] / label.rate) for label in labels}
    height = frame.levels[1] + gap / 2
    for label in sorted(labels, key=lambda label: -aims[id(label)]):
        height = min(aims[id(label)], height - gap)
        axes.annotate(
            label.text,
            (label.rate, label.level),
            (frame.rates[1] * 1.1, height),
            color=label.colour,
            fontsize=9,
            fontweight="bold" if label.bold else "normal",
            va="center",
            arrowprops={
                "arrowstyle": "-",
                "color": label.colour,
                "alpha": 0.5,
                "linewidth": 0.6,
                "relpos": (0, 0.5),
                "shrinkB": 0,
            },
        )
