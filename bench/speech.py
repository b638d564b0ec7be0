"""Rate, quality and speed of `audio-rvq` on speech, beside Opus and Lyra, from decoded bytes.

    python -m laconic.bench.speech --speech DIR -o OUT [--lyra DIR] [--limit N] [--clip SECONDS]

DIR holds mono FLAC files at 16 kHz. Rates of audio-rvq count every byte of its .lcn files, those of Opus its packets without
Ogg, those of Lyra its indices. PESQ (wide band, ITU-T P.862.2) and STOI are means over the files. Speeds are CPU seconds of
one thread per second of sound. Writes `results.json`, `table.md` and `rate.svg` into OUT.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile  # type: ignore[import-untyped]
from numpy.typing import NDArray

from ..codecs import compress, container
from ..codecs.audio.rvq import PARAM_LEVELS
from ..codecs.codec import Progress
from ..codecs.errors import InvalidSettings
from ..codecs.signals import Audio
from .program import run_program
from .speech_peers import LYRA_RATES, Lyra, opus

__all__ = ["Point", "main", "run"]

RATE = 16_000
OURS, OPUS = (1.5, 3.0, 6.0, 9.0, 12.0), (6.0, 9.0, 12.0, 16.0, 24.0)
BITS_A_LEVEL = 8 * 50 / 1000  # kbit/s of a level without entropy coding

Sound = NDArray[np.int16]


@dataclass(frozen=True)
class Point:
    """Means over all files of one codec at one setting; `nominal` is the kbit/s of its tokens without entropy coding.

    `encode` and `decode` are CPU seconds per second of sound.
    """

    codec: str
    asked: float
    kbps: float
    nominal: float | None
    pesq: float
    stoi: float
    encode: float | None = None
    decode: float | None = None


@dataclass(frozen=True)
class _Sample:
    size: float
    decoded: Sound
    nominal: float | None = None
    encode: float | None = None
    decode: float | None = None


def ours(sound: Sound, kbps: float) -> _Sample:
    """Code a sound to bytes and decode these."""
    signal = Audio.of(sound[None], RATE)
    began = time.process_time()
    data = compress.encode(signal, "audio-rvq", {"kbps": kbps}, device="cpu").data
    encoded = time.process_time()
    decoded = compress.decode(data, device="cpu")
    assert isinstance(decoded, Audio)
    samples = decoded.array[0].astype(np.int16)
    ended, seconds = time.process_time(), sound.size / RATE
    levels = container.read(data).params[PARAM_LEVELS]
    assert isinstance(levels, int)
    return _Sample(len(data), samples, levels * BITS_A_LEVEL, (encoded - began) / seconds, (ended - encoded) / seconds)


def measured(name: str, asked: float, sounds: Sequence[Sound], code: Callable[[Sound, float], _Sample]) -> Point:
    """Return the means of a codec over sounds."""
    pesq, stoi = _measure("pesq"), _measure("pystoi")
    samples = [code(sound, asked) for sound in sounds]
    seconds = sum(sound.size for sound in sounds) / RATE
    pairs = [(sound / 32768, sample.decoded / 32768) for sound, sample in zip(sounds, samples, strict=True)]

    def mean(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None

    return Point(
        name,
        asked,
        8 * sum(sample.size for sample in samples) / seconds / 1000,
        mean(sample.nominal for sample in samples),
        float(np.mean([pesq.pesq(RATE, original, decoded, "wb") for original, decoded in pairs])),
        float(np.mean([stoi.stoi(original, decoded, RATE) for original, decoded in pairs])),
        mean(sample.encode for sample in samples),
        mean(sample.decode for sample in samples),
    )


def run(
    out: Path,
    speech: Path,
    *,
    lyra: Path | None = None,
    limit: int | None = None,
    clip: float | None = None,
    progress: Progress | None = None,
) -> list[Point]:
    """Measure all codecs on the first `limit` files, the first `clip` seconds of each; raises `InvalidSettings` for none."""
    files = sorted(speech.glob("*.flac"))[:limit]
    if not files:
        raise InvalidSettings(f"{speech} has no .flac files")
    sounds = [soundfile.read(file, dtype="int16", frames=round(clip * RATE) if clip else -1)[0] for file in files]
    ours(sounds[0][:RATE], 6.0)  # compiles
    jobs: list[tuple[str, float, Callable[[Sound, float], _Sample]]] = [("audio-rvq", kbps, ours) for kbps in OURS]
    jobs += [("opus", kbps, lambda sound, rate: _Sample(*opus(sound, rate))) for kbps in OPUS]
    if lyra is not None:
        peer = Lyra(lyra)
        jobs += [("lyra", kbps, lambda sound, rate: _Sample(*peer(sound, rate))) for kbps in LYRA_RATES]
    points = []
    for number, (name, kbps, code) in enumerate(jobs):
        if progress is not None:
            progress(number / len(jobs), f"{name} {kbps:g} kbit/s")
        points.append(measured(name, kbps, sounds, code))
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps([asdict(point) for point in points], indent=1) + "\n", encoding="utf-8")
    (out / "table.md").write_text(table(points, len(sounds)), encoding="utf-8")
    draw(points, out / "rate.svg")
    return points


def table(points: Sequence[Point], count: int) -> str:
    """Return the points as a Markdown table."""
    lines = [
        f"{count} speakers; kbit/s of real bytes; speeds in CPU seconds per second of sound.",
        "",
        "| codec | asked | kbit/s | tokens without entropy coding | saved | PESQ-WB | STOI | encode | decode |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for point in points:
        nominal = "" if point.nominal is None else f"{point.nominal:.2f}"
        saved = "" if point.nominal is None else f"{100 * (1 - point.kbps / point.nominal):.0f} %"
        speeds = ["" if value is None else f"{value:.3f}" for value in (point.encode, point.decode)]
        lines.append(
            f"| {point.codec} | {point.asked:g} | {point.kbps:.2f} | {nominal} | {saved} | {point.pesq:.2f} | "
            f"{point.stoi:.3f} | {speeds[0]} | {speeds[1]} |"
        )
    return "\n".join(lines) + "\n"


def draw(points: Sequence[Point], path: Path) -> None:
    """Plot PESQ over rate, where matplotlib is installed."""
    try:
        figure: Any = importlib.import_module("matplotlib.figure").Figure(figsize=(6.4, 4.0), layout="constrained")
    except ImportError:
        return
    axes = figure.subplots()
    for name in dict.fromkeys(point.codec for point in points):
        own = sorted((point.kbps, point.pesq) for point in points if point.codec == name)
        axes.plot(*zip(*own, strict=True), marker="o", label=name)
    axes.set(xlabel="kbit/s of real bytes", ylabel="PESQ-WB")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, metadata={"Date": None})


def _measure(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InvalidSettings(f"the measurement needs {module}: pip install 'laconic[speech]'") from error


def main(arguments: Iterable[str] | None = None) -> int:
    """Run as a program; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="laconic bench speech", description="Measure audio-rvq on speech beside Opus and Lyra."
    )
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--speech", type=Path, required=True, help="folder of mono FLAC files at 16 kHz")
    parser.add_argument("--lyra", type=Path, help="folder of Lyra's .tflite files")
    parser.add_argument("--limit", type=int, help="how many files at most")
    parser.add_argument("--clip", type=float, help="how many seconds of each file at most")
    return run_program(run, parser, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
