"""Lossy codecs on a set of sounds: means of rates, scores and speeds, as a table and a plot.

Rates are of real bytes, scores of what was decoded from these, speeds in CPU seconds of one thread per second of sound.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from ..codecs import compress
from ..codecs.codec import Progress
from ..codecs.signals import Audio
from .image import processor
from .image_points import Scalar
from .sound_peers import Coded, Sound
from .sound_scores import EXTRA, Score

__all__ = ["ORIGINAL", "Job", "Measure", "Point", "markdown_table", "measured", "ours", "write_report"]

ORIGINAL = "original"  # the row of the sounds themselves: what scores are at best


@dataclass(frozen=True)
class Job:
    """One codec at one setting; `asked` is how the table calls that."""

    codec: str
    asked: str
    code: Callable[[Sound], Coded]


@dataclass(frozen=True)
class Measure:
    """A column of the table: the name of a score and its digits."""

    name: str
    digits: int


@dataclass(frozen=True)
class Point:
    """Means over all sounds of one job; `nominal` is the kbit/s of its tokens without entropy coding."""

    codec: str
    asked: str
    kbps: float
    scores: dict[str, float]
    encode: float | None = None
    decode: float | None = None
    nominal: float | None = None


def ours(
    codec: str, settings: Mapping[str, Scalar], rate: int, nominal: Callable[[bytes], float] | None = None
) -> Callable[[Sound], Coded]:
    """Return what codes sounds at `rate` with a codec of the registry to a whole .lcn file, and decodes that.

    `nominal` tells the kbit/s of a file's tokens without entropy coding.
    """

    def code(sound: Sound) -> Coded:
        began = time.process_time()
        data = compress.encode(Audio.of(sound, rate), codec, settings, device="cpu").data
        encoded = time.process_time()
        decoded = compress.decode(data, device="cpu")
        assert isinstance(decoded, Audio)
        samples = decoded.array.astype(np.int16)
        times = encoded - began, time.process_time() - encoded
        return Coded(len(data), samples, *times, None if nominal is None else nominal(data))

    return code


def measured(
    jobs: Sequence[Job], sounds: Sequence[Sound], rate: int, scores: Mapping[str, Score], progress: Progress | None = None
) -> Iterator[Point]:
    """Yield the point of the originals, then that of every job; `scores` are of samples [C, N] in ±1."""
    every = [Job(ORIGINAL, "", lambda sound: Coded(sound.nbytes, sound)), *jobs]
    for number, job in enumerate(every):
        coded = []
        for index, sound in enumerate(sounds):
            if progress is not None:
                progress((number + index / len(sounds)) / len(every), f"{job.codec} {job.asked}")
            one = job.code(sound)
            pair = sound / 32768, one.decoded / 32768
            coded.append((one, {name: score(*pair) for name, score in scores.items()}))
        yield _mean(job, coded, sum(sound.shape[1] for sound in sounds) / rate)


def _mean(job: Job, coded: Sequence[tuple[Coded, Mapping[str, float]]], seconds: float) -> Point:
    """Return the mean of scores and of nominal rates, and rates and speeds over all seconds."""

    def total(values: Sequence[float | None], of: float) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / of if known else None

    files = [one for one, _ in coded]
    return Point(
        job.codec,
        job.asked,
        8 * sum(one.size for one in files) / seconds / 1000,
        {name: float(np.mean([scores[name] for _, scores in coded])) for name in coded[0][1]},
        total([one.encode for one in files], seconds),
        total([one.decode for one in files], seconds),
        total([one.nominal for one in files], len(files)),
    )


def markdown_table(points: Sequence[Point], measures: Sequence[Measure]) -> str:
    """Return the points as a table; scores that were not installed are dashes, with a line that tells what to install."""
    coding = any(point.nominal is not None for point in points)
    columns = ["codec", "asked", "kbit/s", *(["tokens without entropy coding", "saved"] if coding else [])]
    columns += [*(measure.name for measure in measures), "encode", "decode"]
    lines = [f"| {' | '.join(columns)} |", "|---" + "|---:" * (len(columns) - 1) + "|"]
    for point in points:
        cells = [point.codec, point.asked, f"{point.kbps:.2f}"]
        if coding and point.nominal is not None:
            cells += [f"{point.nominal:.2f}", f"{100 * (1 - point.kbps / point.nominal):.0f} %"]
        elif coding:
            cells += ["", ""]
        cells += [f"{point.scores[one.name]:.{one.digits}f}" if one.name in point.scores else "–" for one in measures]
        cells += ["" if value is None else f"{value:.4f}" for value in (point.encode, point.decode)]
        lines.append(f"| {' | '.join(cells)} |")
    if missing := [one.name for one in measures if one.name not in points[0].scores]:
        lines += ["", f"Not installed: {', '.join(missing)}; pip install 'laconic[{EXTRA}]'."]
    return "\n".join(lines) + "\n"


def write_report(
    out: Path, points: Sequence[Point], measures: Sequence[Measure], about: str, plotted: str, main: Sequence[str]
) -> None:
    """Write `results.json`, `table.md` and, with matplotlib, the plot `rate.svg` of the score `plotted` into `out`.

    `about` tells what was coded; `main` are the codecs that the plot is about.
    """
    out.mkdir(parents=True, exist_ok=True)
    facts = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "processor": processor(),
        "load_average": round(os.getloadavg()[0], 1),
    }
    content = {**facts, "about": about, "points": [asdict(point) for point in points]}
    (out / "results.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    caption = (
        f"{about} Speeds are CPU seconds of one thread per second of sound. "
        f"{facts['date']}, {facts['processor']}, load average {facts['load_average']}."
    )
    (out / "table.md").write_text(f"{markdown_table(points, measures)}\n{caption}\n", encoding="utf-8")
    if all(plotted in point.scores for point in points):
        _draw([point for point in points if point.codec != ORIGINAL], out / "rate.svg", plotted, main)


def _draw(points: Sequence[Point], path: Path, score: str, main: Sequence[str]) -> None:
    try:
        from .plot import PlotFrame, PlottedCurve, write_plot
    except ImportError:  # matplotlib is an extra
        return
    curves = []
    for name in dict.fromkeys(point.codec for point in points):
        own = [point for point in points if point.codec == name]
        rates, levels = [point.kbps for point in own], [point.scores[score] for point in own]
        curves.append(PlottedCurve(name, rates, levels, measured=True, main=name in main))
    frame = PlotFrame.around(curves, ("kbit/s of real bytes", score), margin=0.15)
    write_plot(curves, path, f"{score} over rate", frame)
