"""Lossless sizes and speeds on folders of sound: `audio-lossless` at several efforts beside FLAC, WavPack, ALAC and TTA.

    python -m laconic.bench.audio_lossless --set speech=FOLDER --set drums=FOLDER -o OUT [--docs docs/benchmarks.md]

writes `results.json` and `table.md` into OUT. Every file of the folders that libsndfile reads as integers is coded whole,
decoded from the coded bytes, and compared sample by sample; sizes are of whole files. FLAC and WavPack are the programs of
these names where they are installed (their times have reading, writing and starting in them); FLAC is given no padding, so that
short files do not pay for it. Points are kept in `OUT/points.jsonl`: an interrupted run continues.
"""

from __future__ import annotations

import argparse
import io
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import av
import numpy as np
import soundfile  # type: ignore[import-untyped]
from numpy.typing import NDArray

from ..codecs import compress
from ..codecs.codec import Progress
from ..codecs.errors import InvalidSettings
from ..codecs.signals import ArraySamples, Audio, AudioSamples
from .image_points import file_digest, source_digest, versions
from .lossless_runs import against, check_rows, collect, digest_of, facts_of_run, options, speeds, timed, write_results
from .program import run_program
from .sections import replace_section

__all__ = ["DOCS_BEGIN", "DOCS_END", "Point", "Row", "main", "markdown_table", "run"]

DOCS_BEGIN, DOCS_END = "<!-- audio lossless:begin -->", "<!-- audio lossless:end -->"
OURS = "audio-lossless"
EFFORTS = (1, 3, 5, 7, 9)
WAVPACK = ("-hx", "-hhx6")  # usual for small files, and the smallest
REFERENCE = "flac -8"  # what sizes are compared with
SUBTYPES = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24}  # libsndfile's names of integers, and their bits
SUFFIXES = (".wav", ".flac", ".aif", ".aiff")
Coded = tuple[bytes, Callable[[bytes], AudioSamples]]


@dataclass(frozen=True)
class Job:
    """One file of a set through one row's codec; `key` names the result in the cache."""

    file: Path
    name: str
    row: str
    key: str


@dataclass(frozen=True)
class Point:
    """What one job measured: samples of all channels, seconds of sound, bytes, and seconds on one thread."""

    key: str
    row: str
    set: str
    file: str
    samples: int
    seconds: float
    bytes: int
    encode_seconds: float
    decode_seconds: float


@dataclass(frozen=True)
class Row:
    """A row of the table: bytes of each set and of all, and seconds of sound coded per second."""

    name: str
    sets: Mapping[str, int]
    bytes: int
    encode_speed: float
    decode_speed: float


def _ours(effort: int) -> Callable[[Audio], Coded]:
    """Return what codes with `audio-lossless`; the size is that of the .lcn file."""

    def code(sound: Audio) -> Coded:
        data = compress.encode(sound, OURS, {"effort": effort}, device="cpu").data
        return data, lambda data: _samples(compress.decode(data, device="cpu"))

    return code


def _samples(signal: object) -> AudioSamples:
    if not isinstance(signal, Audio):
        raise TypeError("sound came back as something else")
    return signal.array


def _program(suffix: str, encoder: Sequence[str], decoder: Sequence[str]) -> Callable[[Audio], Coded]:
    """Return what codes with programs, to whose arguments IN and OUT stand for files."""

    def call(command: Sequence[str], content: bytes, given: str, wanted: str) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            names = {"IN": f"{folder}/in{given}", "OUT": f"{folder}/out{wanted}"}
            Path(names["IN"]).write_bytes(content)
            subprocess.run([names.get(word, word) for word in command], check=True, capture_output=True)
            return Path(names["OUT"]).read_bytes()

    def code(sound: Audio) -> Coded:
        wave = _written(sound, "WAV")
        return call(encoder, wave, ".wav", suffix), lambda data: _read(call(decoder, data, suffix, ".wav"), sound.bits)

    return code


def _wavpack(mode: str) -> Callable[[Audio], Coded]:
    encoder = ("wavpack", mode, "-q", "-y", "IN", "-o", "OUT")
    return _program(".wv", encoder, ("wvunpack", "-q", "-y", "IN", "-o", "OUT"))


def _written(sound: Audio, kind: str, **options: float) -> bytes:
    """Return sound as libsndfile writes it."""
    file = io.BytesIO()
    subtype = "PCM_24" if sound.bits > 16 else "PCM_16" if sound.bits > 8 else "PCM_U8" if kind == "WAV" else "PCM_S8"
    samples = sound.array.astype(np.int32).T << (32 - sound.bits)
    soundfile.write(file, samples, sound.rate, subtype, format=kind, **options)
    return file.getvalue()


def _read(content: bytes | Path, bits: int) -> AudioSamples:
    """Return the samples [C, N] of a file that libsndfile reads."""
    source = io.BytesIO(content) if isinstance(content, bytes) else content
    samples, _ = soundfile.read(source, dtype="int32", always_2d=True)
    integers: AudioSamples = np.ascontiguousarray(samples.T >> (32 - bits), np.int32)
    return integers.astype(np.int16) if bits <= 16 else integers


def _sndfile_flac(sound: Audio) -> Coded:
    return _written(sound, "FLAC", compression_level=1.0), lambda data: _read(data, sound.bits)


def _ffmpeg(codec: str, container: str, planar: bool, level: int | None = None) -> Callable[[Audio], Coded]:
    """Return what codes with an encoder of FFmpeg, at a compression level where it has several."""

    def code(sound: Audio) -> Coded:
        file, deep = io.BytesIO(), sound.bits > 16
        layout = "mono" if sound.shape[0] == 1 else sound.layout
        kind, spare = ("s32", 32 - sound.bits) if deep else ("s16", 16 - sound.bits)
        kind += "p" if planar else ""
        samples = (sound.array.astype(np.int32) << spare).astype(np.int32 if deep else np.int16)
        with av.open(file, "w", format=container) as output:
            stream = cast(av.AudioStream, output.add_stream(codec, rate=sound.rate))
            stream.codec_context.format, stream.codec_context.layout = av.AudioFormat(kind), av.AudioLayout(layout)
            stream.options = {} if level is None else {"compression_level": str(level)}
            stream.codec_context.open()
            size = stream.codec_context.frame_size or 4096
            for start in range(0, samples.shape[1], size):
                part = np.ascontiguousarray(samples[:, start : start + size])
                part = part if planar else np.ascontiguousarray(part.T).reshape(1, -1)
                frame = av.AudioFrame.from_ndarray(part, format=kind, layout=layout)
                frame.sample_rate, frame.pts = sound.rate, start
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
        return file.getvalue(), lambda data: _decoded(data, sound.bits)

    return code


def _decoded(data: bytes, bits: int) -> AudioSamples:
    with av.open(io.BytesIO(data), "r") as source:
        frames = [
            frame.to_ndarray() if frame.format.is_planar else frame.to_ndarray().reshape(-1, frame.layout.nb_channels).T
            for frame in source.decode(audio=0)
        ]
    planes = cast(NDArray[np.int32], np.concatenate(frames, axis=1))
    integers = planes >> (32 - bits if planes.dtype == np.int32 else 16 - bits)
    return integers


ROWS: dict[str, Callable[[Audio], Coded]] = {
    **{f"{OURS} -e {effort}": _ours(effort) for effort in EFFORTS},
    "flac -8": _program(
        ".flac",
        ("flac", "-8", "--totally-silent", "--no-padding", "--force", "IN", "-o", "OUT"),
        ("flac", "-d", "--totally-silent", "--force", "IN", "-o", "OUT"),
    ),
    **{f"wavpack {mode}": _wavpack(mode) for mode in WAVPACK},
    "libsndfile flac, level 8": _sndfile_flac,
    "ffmpeg wavpack, level 3": _ffmpeg("wavpack", "wv", planar=True, level=3),
    "alac": _ffmpeg("alac", "ipod", planar=True),
    "tta": _ffmpeg("tta", "tta", planar=False),
}
PROGRAMS = {"flac -8": ("flac",), **{f"wavpack {mode}": ("wavpack", "wvunpack") for mode in WAVPACK}}


def run(
    out: Path,
    sets: Sequence[str] = (),
    *,
    rows: Sequence[str] | None = None,
    limit: int | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
    docs: Path | None = None,
) -> list[Row]:
    """Measure `rows` (default: all that are installed) on sets, each given as NAME=FOLDER.

    With `limit`, so many files of each set are taken, spread evenly. Writes `results.json` and `table.md` into `out`; `docs`
    names a Markdown file whose marked section is replaced. Raises `InvalidSettings` for unknown rows and sets without files.
    """
    check_rows(rows, ROWS)
    names = list(rows or [name for name in ROWS if all(map(shutil.which, PROGRAMS.get(name, ())))])
    files = _files(sets, limit)
    work = [Job(path, name, row, _key(path, name, row)) for name, paths in files.items() for path in paths for row in names]
    points = collect(work, Point, out, _measure, jobs, progress)
    table = sorted((_summed(name, [one for one in points if one.row == name]) for name in names), key=lambda row: row.bytes)
    _write(out, table, points, files, jobs, docs)
    return table


def _files(sets: Sequence[str], limit: int | None) -> dict[str, list[Path]]:
    found = {}
    for text in sets:
        name, _, folder = text.partition("=")
        paths = sorted(path for path in Path(folder or ".").rglob("*") if path.suffix.lower() in SUFFIXES and _takes(path))
        if not folder or not paths:
            raise InvalidSettings(f"{text!r} is no set: give NAME=FOLDER, a folder with {', '.join(SUFFIXES)}")
        chosen = range(len(paths)) if limit is None else {len(paths) * k // limit for k in range(limit)}
        found[name] = [paths[index] for index in sorted(chosen)]
    if not found:
        raise InvalidSettings("name folders of sound: --set NAME=FOLDER")
    return found


def _takes(path: Path) -> bool:
    try:
        found = soundfile.info(path)
    except soundfile.LibsndfileError:
        return False
    return found.subtype in SUBTYPES and 1 <= found.channels <= 2 and found.frames > 0


def _key(path: Path, name: str, row: str) -> str:
    code = source_digest(OURS, False) if row.startswith(OURS) else ""
    return digest_of(name, row, file_digest(path), code, versions())


def cpu_seconds() -> float:
    """Return what the processor has worked for this process and for the programs that it has run."""
    programs = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + programs.ru_utime + programs.ru_stime


def _measure(job: Job) -> Point:
    """Encode, decode from the bytes, compare; raises RuntimeError where the sound does not come back."""
    found = soundfile.info(job.file)
    bits = SUBTYPES[found.subtype]
    sound = Audio(ArraySamples(_read(job.file, bits)), found.samplerate, bits)
    warm = [sound.part(0, min(sound.shape[1], 1000))]
    size, *times = timed(job.row, ROWS[job.row], job.file, sound, sound.array, warm, cpu_seconds)
    return Point(job.key, job.row, job.name, job.file.name, sound.pixels, round(sound.seconds, 4), size, *times)


def _summed(name: str, points: Sequence[Point]) -> Row:
    sizes = {one: sum(point.bytes for point in points if point.set == one) for one in dict.fromkeys(p.set for p in points)}
    return Row(name, sizes, sum(sizes.values()), *speeds(sum(point.seconds for point in points), points))


def markdown_table(rows: Sequence[Row]) -> str:
    """Return the table; our rows in bold, sizes of sets against the reference where it was measured, else in bytes."""
    reference = next((row for row in rows if row.name == REFERENCE), None)
    sets = sorted(rows[0].sets)
    lines = [
        f"| codec | {' | '.join(sets)} | bytes | against {REFERENCE} | encode | decode |",
        f"|---|{'---:|' * (len(sets) + 4)}",
    ]
    for row in rows:
        name = f"**{row.name}**" if row.name.startswith(OURS) else row.name
        cells = [against(row.sets[one], reference.sets[one] if reference else None, f"{row.sets[one]:,}") for one in sets]
        cells += [f"{row.bytes:,}", against(row.bytes, reference.bytes if reference else None, f"{row.bytes:,}")]
        cells += [f"{speed:.3g}×" for speed in (row.encode_speed, row.decode_speed)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _write(
    out: Path, rows: Sequence[Row], points: Sequence[Point], files: Mapping[str, list[Path]], jobs: int, docs: Path | None
) -> None:
    facts = {**facts_of_run(jobs), "files": {name: len(paths) for name, paths in files.items()}}
    each = {(point.set, point.file, point.key): point for point in points if point.row == rows[0].name}
    lengths = {name: sum(point.seconds for point in each.values() if point.set == name) for name in files}
    described = "; ".join(f"{name}: {len(paths)} files, {lengths[name]:.0f} s" for name, paths in files.items())
    table = markdown_table(rows) + (
        f"\n{described}. Speeds are seconds of sound per CPU second, {jobs} processes of one thread at once. "
        f"{facts['date']}, {facts['processor']}, load average {facts['load_average']:.1f}.\n"
    )
    write_results(out, facts, rows, points, table)
    if docs is not None:
        replace_section(docs, DOCS_BEGIN, DOCS_END, table)


def _parser() -> argparse.ArgumentParser:
    parser = options("audio-lossless", __doc__, ROWS, "only so many files of each set, spread evenly")
    parser.add_argument("--set", action="append", dest="sets", required=True, help="a set of files as NAME=FOLDER (repeat)")
    return parser


def main(arguments: Iterable[str] | None = None) -> int:
    """Run from the command line; prints the table and returns the exit code."""
    return run_program(run, _parser(), arguments)


if __name__ == "__main__":
    raise SystemExit(main())
