"""Rate, quality and speed on music in stereo, of our codecs beside Opus and AAC, from decoded bytes.

    python -m laconic.bench.music --music DIR -o OUT [--limit N] [--clip SECONDS] [--rate HZ]

DIR holds files of sound of any kind. Of each, the clip from one third of its length on is brought to stereo of 16 bits at
`--rate`. Rates of ours count every byte of .lcn files; those of Opus (libopus, complexity 10, variable rate) and AAC (FFmpeg's
own encoder, low complexity profile) count packets, without the Ogg or MP4 around them. ViSQOL (audio) is of the mean of both
channels at 48 kHz, its column stays empty where it is not installed; the signal-to-noise ratio and the distance of the mel
spectra are of both channels. All are means over the files. Writes `results.json`, `table.md` and `rate.svg` into OUT.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import av
import numpy as np

from ..codecs.codec import Progress
from ..codecs.errors import InvalidSettings
from .image_points import Scalar
from .program import run_program
from .sound_peers import AAC, OPUS_MUSIC, Coded, Encoder, Sound, code, resampled
from .sound_report import Job, Measure, Point, measured, ours, write_report
from .sound_scores import Samples, Score, installed, mel_distance, open_visqol, snr

__all__ = ["OURS", "PEERS", "main", "run"]

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aac", ".aif", ".aiff", ".wv", ".webm")
RATE, CLIP = 48_000, 8.0
MEASURES = (Measure("ViSQOL", 2), Measure("SNR, dB", 1), Measure("mel distance, dB", 2))

# What is measured: codecs of the registry with their settings, and peers with the kbit/s of both channels that are asked of
# them.
OURS: tuple[tuple[str, Mapping[str, Scalar]], ...] = tuple(
    ("audio-rvq", {"model": "music", "kbps": kbps}) for kbps in (2, 4, 8, 13)
)
PEERS: Mapping[str, tuple[Encoder, tuple[float, ...]]] = {
    "opus": (OPUS_MUSIC, (12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0)),
    "aac": (AAC, (32.0, 48.0, 64.0, 96.0, 128.0)),
}


def clip_of(path: Path, seconds: float, rate: int) -> Sound:
    """Return `seconds` of a file from a third of its length on (all of a shorter one), [2, N] at `rate`.

    Raises `InvalidSettings` for what FFmpeg does not read.
    """
    resampler = av.AudioResampler("s16p", "stereo", rate)
    try:
        with av.open(str(path), "r") as container:
            parts = [part.to_ndarray() for frame in container.decode(audio=0) for part in resampler.resample(frame)]
            parts += [part.to_ndarray() for part in resampler.resample(None)]
        track = np.concatenate(parts, axis=1)
    except (av.FFmpegError, IndexError, ValueError) as error:  # ValueError: no samples
        raise InvalidSettings(f"{path.name} is not a sound that can be read") from error
    wanted = round(seconds * rate)
    start = max(0, min(track.shape[1] // 3, track.shape[1] - wanted))
    return np.ascontiguousarray(track[:, start : start + wanted], np.int16)


def _scores(rate: int) -> dict[str, Score]:
    """Return the scores of stereo sounds [2, N] in ±1."""

    def middle(score: Score) -> Score:
        def of(samples: Samples) -> Samples:
            whole = np.rint(samples * 32768).astype(np.int16)
            return np.asarray((whole if rate == RATE else resampled(whole, rate, RATE)).mean(axis=0) / 32768, np.float64)

        return lambda original, decoded: score(of(original), of(decoded))

    found = {name: middle(score) for name, score in installed({"ViSQOL": partial(open_visqol, "audio")}).items()}
    return found | {
        "SNR, dB": snr,
        "mel distance, dB": lambda original, decoded: mel_distance(original, decoded, rate),
    }


def _jobs(rate: int) -> list[Job]:
    def peer(encoder: Encoder, kbps: float) -> Callable[[Sound], Coded]:
        return lambda sound: code(encoder, sound, rate, kbps)

    jobs = [
        Job(codec, ", ".join(f"{key} {value}" for key, value in settings.items()), ours(codec, settings, rate))
        for codec, settings in OURS
    ]
    jobs += [Job(name, f"{kbps:g}", peer(encoder, kbps)) for name, (encoder, rates) in PEERS.items() for kbps in rates]
    return jobs


def run(
    out: Path,
    music: Path,
    *,
    limit: int | None = None,
    clip: float = CLIP,
    rate: int = RATE,
    progress: Progress | None = None,
) -> list[Point]:
    """Measure all codecs on clips of the files in a folder, of at most `limit` of them, spread evenly.

    Raises `InvalidSettings` for a folder without music, and for a clip or rate that cannot be.
    """
    if not (0.1 <= clip <= 600 and 8_000 <= rate <= 48_000):
        raise InvalidSettings("a clip has 0.1 to 600 seconds, and a rate is 8000 to 48000 Hz")
    files = sorted(path for path in music.glob("*") if path.suffix.lower() in SUFFIXES)
    if limit is not None:
        files = [files[index] for index in sorted({len(files) * k // limit for k in range(limit)})] if files else []
    if not files:
        raise InvalidSettings(f"{music} has no files of sound ({', '.join(SUFFIXES)})")
    sounds, scores, jobs = [clip_of(file, clip, rate) for file in files], _scores(rate), _jobs(rate)
    for job in jobs[: len(OURS)]:
        job.code(sounds[0][:, :rate])  # compiles
    about = f"{len(sounds)} clips of music of {clip:g} s, stereo, {rate / 1000:g} kHz."
    points: list[Point] = []
    for point in measured(jobs, sounds, rate, scores, progress):
        points.append(point)
        write_report(out, points, MEASURES, about, "ViSQOL", [codec for codec, _ in OURS])
    return points


def main(arguments: Iterable[str] | None = None) -> int:
    """Run as a program; returns the exit code."""
    parser = argparse.ArgumentParser(prog="laconic bench music", description="Measure codecs on music beside Opus and AAC.")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--music", type=Path, required=True, help="folder of files of sound")
    parser.add_argument("--limit", type=int, help="how many files at most, spread evenly")
    parser.add_argument(
        "--clip", type=float, default=CLIP, help="seconds of each file, from a third of its length on (default 8)"
    )
    parser.add_argument("--rate", type=int, default=RATE, help="Hz that all clips are brought to (default 48000)")
    return run_program(run, parser, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
