"""Results of the image benchmark: curves averaged over pictures, comparisons with anchors, and the Markdown table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from .bd_rate import BdRate, RateCurve, bd_rate
from .image_anchors import Anchor
from .image_points import Point, Scalar
from .image_timing import Timing

__all__ = ["LEVELS", "Comparison", "Curve", "Overhead", "Results", "averaged", "compare", "markdown_table", "mutual_table"]

LEVELS = (28, 30, 32, 34, 36, 38)  # dB at which the table gives bits per pixel
LEAST_POINTS = 3  # of a curve to be compared: the straight line between two lay 4 % below ten points of the same codec


@dataclass(frozen=True)
class Overhead:
    """All file bytes of a curve against the ideal -sum log2 p of their symbols."""

    file_bytes: int
    ideal_bytes: float
    files: int

    @property
    def percent(self) -> float:
        """What the files have more than the ideal, in percent of the ideal."""
        return 100 * (self.file_bytes / self.ideal_bytes - 1)

    @property
    def bytes_per_file(self) -> float:
        """What a file has more than the ideal, on average."""
        return (self.file_bytes - self.ideal_bytes) / self.files


@dataclass(frozen=True)
class Curve:
    """A measured codec: bits per pixel and PSNR of each setting, both averaged per picture."""

    name: str
    codec: str
    counted: str  # "file" (the whole .lcn) or "payload" (the codec's own format)
    weights: tuple[str, ...]
    settings: tuple[dict[str, Scalar], ...]
    bpp: tuple[float, ...]
    psnr: tuple[float, ...]
    overhead: Overhead | None
    timings: tuple[Timing, ...] = ()

    @property
    def curve(self) -> RateCurve:
        """The curve to interpolate and compare with."""
        return RateCurve.of(self.bpp, self.psnr)


@dataclass(frozen=True)
class Comparison:
    """One row of the table: rates at `LEVELS` (None outside the curve) and BD-rates by anchor."""

    name: str
    measured: bool
    bpp_at: dict[str, float | None]
    bd: dict[str, BdRate | None]


@dataclass(frozen=True)
class Results:
    """Everything that one run measured; `facts` say on what (machine, versions, pictures, date)."""

    facts: dict[str, object]
    curves: tuple[Curve, ...]
    comparisons: tuple[Comparison, ...]
    points: tuple[Point, ...] = field(repr=False)


def averaged(name: str, counted: str, weights: tuple[str, ...], groups: Sequence[Sequence[Point]]) -> Curve:
    """Return the curve of a codec from its points, one group of all pictures for each setting."""
    flat = [point for group in groups for point in group]
    ideal = [point.ideal_bits for point in flat if point.ideal_bits is not None]
    overhead = None
    if ideal and len(ideal) == len(flat):
        overhead = Overhead(sum(point.file_bytes for point in flat), sum(ideal) / 8, len(flat))
    return Curve(
        name=name,
        codec=flat[0].codec,
        counted=counted,
        weights=weights,
        settings=tuple(group[0].settings for group in groups),
        bpp=tuple(fmean(point.bpp for point in group) for group in groups),
        psnr=tuple(fmean(point.psnr for point in group) for group in groups),
        overhead=overhead,
    )


def compare(curves: Sequence[Curve], anchors: Mapping[str, Anchor]) -> tuple[Comparison, ...]:
    """Return the table's rows: measured ones, then published ones, each from the best to the worst against VTM."""
    references = {"vtm": anchors["vtm"].curve, "jpeg": anchors["jpeg"].curve}
    for curve in curves:
        if curve.name == "jpeg" and len(set(curve.psnr)) >= LEAST_POINTS:
            references["jpeg measured"] = curve.curve
    rows = [_row(curve.name, True, curve.curve, references) for curve in curves if len(set(curve.psnr)) >= LEAST_POINTS]
    rows += [_row(anchor.name, False, anchor.curve, references) for anchor in anchors.values()]
    return tuple(sorted(rows, key=_rank))


def _row(name: str, measured: bool, curve: RateCurve, references: Mapping[str, RateCurve]) -> Comparison:
    bd = {anchor: bd_rate(reference, curve) for anchor, reference in references.items()}
    return Comparison(name, measured, {str(level): curve.rate_at(level) for level in LEVELS}, bd)


def _rank(row: Comparison) -> tuple[bool, float]:
    against_vtm = row.bd["vtm"]
    return not row.measured, float("inf") if against_vtm is None else against_vtm.percent


def _percent(value: BdRate | None) -> str:
    return "–" if value is None else f"{value.percent:+.1f} ({value.low:.1f}–{value.high:.1f})"


def _speeds(curve: Curve | None, direction: str) -> str:
    if curve is None or not curve.timings:
        return "–"
    return " / ".join(f"{getattr(timing, f'{direction}_mps'):.2f}" for timing in curve.timings)


def markdown_table(curves: Sequence[Curve], comparisons: Sequence[Comparison]) -> str:
    """Return the Markdown table of all rows and, below it, the rate overhead of codecs that report their ideal rate."""
    by_name = {curve.name: curve for curve in curves}
    cores = [str(timing.cores) for curve in curves[:1] for timing in curve.timings]
    speed = f"MP/s, {' / '.join(cores)} core{'s' if cores[-1] != '1' else ''}" if cores else "MP/s"
    heads = ["codec", *(f"bpp at {level} dB" for level in LEVELS), "BD-rate % against VTM (dB)", "against JPEG (dB)"]
    heads += ["against jpeg here (dB)", f"encode {speed}", f"decode {speed}"]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    for row in comparisons:
        curve = by_name.get(row.name) if row.measured else None
        cells = [f"**{row.name}**" if row.measured else f"{row.name} (published)"]
        cells += ["–" if bpp is None else f"{bpp:.3f}" for bpp in row.bpp_at.values()]
        cells += [_percent(row.bd.get(anchor)) for anchor in ("vtm", "jpeg", "jpeg measured")]
        cells += [_speeds(curve, "encode"), _speeds(curve, "decode")]
        lines.append("| " + " | ".join(cells) + " |")
    for curve in curves:
        if curve.overhead is not None:
            excess = curve.overhead
            lines += ["", f"Rate overhead of {curve.name}: {excess.file_bytes:,} bytes in {excess.files} files, "]
            lines[-1] += f"{excess.percent:+.3f} % ({excess.bytes_per_file:+.1f} bytes a file) against −Σ log2 p."
    return "\n".join(lines) + "\n"


def mutual_table(curves: Sequence[Curve]) -> str:
    """Return a Markdown table of the BD-rates of all measured curves against each other, empty for fewer than two."""
    shown = [curve for curve in curves if len(set(curve.psnr)) >= LEAST_POINTS]
    if len(shown) < 2:
        return ""
    lines = ["| BD-rate % of … against … | " + " | ".join(curve.name for curve in shown) + " |", "|---|" + "---:|" * len(shown)]
    for curve in shown:
        cells = [_percent(bd_rate(other.curve, curve.curve)) if other is not curve else "" for other in shown]
        lines.append(f"| **{curve.name}** | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
