"""Plot of lossless sizes against encoding speed, as SVG; efforts of one codec are joined."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import matplotlib
from matplotlib.figure import Figure

from .plot import GREY, OURS, PEERS

__all__ = ["write_plot"]

OURS_ID = "image-lossless"


class Measured(Protocol):
    """What is plotted of a row."""

    @property
    def name(self) -> str:
        """The codec, then ` -e N` if it has efforts, then what else was chosen."""
        ...

    @property
    def bpp(self) -> float:
        """Bits per pixel."""
        ...

    @property
    def encode_mps(self) -> float | None:
        """Megapixels a second."""
        ...


def _family(name: str) -> str:
    """Return the name without the effort: `jxl -e 7` belongs to `jxl`."""
    words = name.replace(",", " ,").split()
    if "-e" in words:
        at = words.index("-e")
        del words[at : at + 2]
    return " ".join(words).replace(" ,", ",")


def write_plot(rows: Sequence[Measured], path: Path) -> None:
    """Write the plot; the same rows give the same bytes."""
    families: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        if row.encode_mps is not None:
            families[_family(row.name)].append((row.encode_mps, row.bpp))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "laconic", "font.family": "sans-serif"}):
        figure = Figure(figsize=(9, 5), layout="constrained")
        axes = figure.add_subplot()
        axes.set_xscale("log")
        axes.set(xlabel="megapixels a second when encoding, one thread", ylabel="bits per pixel")
        axes.set_title("Lossless size and speed, all pictures together", color=GREY, fontsize=11, loc="left")
        axes.grid(color=GREY, alpha=0.25, linewidth=0.6)
        axes.tick_params(colors=GREY)
        peers = iter(PEERS * (1 + len(families) // len(PEERS)))
        for family, points in families.items():
            ours = family.startswith(OURS_ID)
            colour = OURS if ours else next(peers)
            style = "--" if ours and family != OURS_ID else "-"
            points.sort()
            axes.plot(*zip(*points, strict=True), style, marker="o", color=colour, markersize=5, linewidth=2.2 if ours else 1.5)
            right = points[-1]
            bold = "bold" if ours else "normal"
            axes.annotate(family, right, (7, 5), textcoords="offset points", color=colour, fontsize=9, fontweight=bold)
        axes.margins(x=0.18, y=0.12)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set_color(GREY)
        for side, spine in axes.spines.items():
            spine.set(color=GREY, visible=side in ("left", "bottom"))
        figure.savefig(path, format="svg", transparent=True, metadata={"Date": None})
