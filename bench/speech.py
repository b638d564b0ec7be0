"""Rate, quality and speed of `audio-rvq` on speech, beside Opus and Lyra, from decoded bytes.

    python -m laconic.bench.speech --speech DIR -o OUT [--lyra DIR] [--limit N] [--clip SECONDS]

DIR holds mono FLAC files at 16 kHz. Rates of audio-rvq count every byte of its .lcn files, those of Opus its packets without
Ogg, those of Lyra its indices. PESQ (wide band, ITU-T P.862.2), STOI, ViSQOL (speech) and DNSMOS (overall; it does not look
at the original) are means over the files; the row "original" has those of the files themselves. Without the packages of
ViSQOL and DNSMOS their columns stay empty. Writes `results.json`, `table.md` and `rate.svg` into OUT, after each row.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import soundfile  # type: ignore[import-untyped]

from ..codecs import container
from ..codecs.audio.rvq import PARAM_LEVELS
from ..codecs.codec import Progress
from ..codecs.errors import InvalidSettings
from .program import run_program
from .sound_peers import OPUS_SPEECH, Coded, Sound, code
from .sound_report import Job, Measure, Point, measured, ours, write_report
from .sound_scores import Score, installed, needed, open_dnsmos, open_pesq, open_stoi, open_visqol
from .speech_peers import LYRA_RATES, Lyra

__all__ = ["main", "run"]

RATE = 16_000
OURS, OPUS = (1.5, 3.0, 6.0, 9.0, 12.0), (6.0, 9.0, 12.0, 16.0, 24.0)
BITS_A_LEVEL = 8 * 50 / 1000  # kbit/s of a level without entropy coding
MEASURES = (Measure("PESQ-WB", 2), Measure("STOI", 3), Measure("ViSQOL", 2), Measure("DNSMOS", 2))


def _nominal(data: bytes) -> float:
    levels = container.read(data).params[PARAM_LEVELS]
    assert isinstance(levels, int)
    return levels * BITS_A_LEVEL


def _scores() -> dict[str, Score]:
    """Return the scores of mono sounds [1, N]; raises `InvalidSettings` without PESQ and STOI."""
    found = {"PESQ-WB": needed("pesq", open_pesq), "STOI": needed("pystoi", open_stoi)}
    found |= installed({"ViSQOL": partial(open_visqol, "speech"), "DNSMOS": open_dnsmos})

    def mono(score: Score) -> Score:
        return lambda original, decoded: score(original[0], decoded[0])

    return {name: mono(score) for name, score in found.items()}


def _jobs(lyra: Path | None) -> list[Job]:
    def opus(kbps: float) -> Callable[[Sound], Coded]:
        return lambda sound: code(OPUS_SPEECH, sound, RATE, kbps)

    def peer(coder: Lyra, kbps: float) -> Callable[[Sound], Coded]:
        return lambda sound: coder(sound, kbps)

    jobs = [Job("audio-rvq", f"{kbps:g}", ours("audio-rvq", {"kbps": kbps}, RATE, _nominal)) for kbps in OURS]
    jobs += [Job("opus", f"{kbps:g}", opus(kbps)) for kbps in OPUS]
    if lyra is not None:
        coder = Lyra(lyra)
        jobs += [Job("lyra", f"{kbps:g}", peer(coder, kbps)) for kbps in LYRA_RATES]
    return jobs


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
    sounds = [soundfile.read(file, dtype="int16", frames=round(clip * RATE) if clip else -1)[0][None] for file in files]
    scores, jobs = _scores(), _jobs(lyra)
    jobs[0].code(sounds[0][:, :RATE])  # compiles
    about = f"{len(sounds)} files of speech, {sum(sound.shape[1] for sound in sounds) / RATE:.0f} s."
    points: list[Point] = []
    for point in measured(jobs, sounds, RATE, scores, progress):
        points.append(point)
        write_report(out, points, MEASURES, about, "PESQ-WB", ("audio-rvq",))
    return points


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
