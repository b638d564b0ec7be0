"""Lossless sizes and speeds on a folder of pictures: `image-lossless` at several efforts beside other formats.

    python -m laconic.bench.lossless --pictures KODAK -o OUT [--docs docs/benchmarks.md]

writes `results.json`, `table.md` and `lossless.svg` into OUT. Sizes are of real files, each decoded from its bytes and compared
sample by sample; ours count with the whole .lcn file, the others with their own format's bytes. Times are of the way from
pixels to bytes and back on one thread, warm. Rows called "RGB" code the colours as they are, without looking for the planes
that they were made from (docs/codecs/image-lossless.md); `--halved` makes every picture half as wide and high first, after
which there are no such planes. Points are kept in `OUT/points.jsonl`: an interrupted run continues.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from ..codecs import compress, container
from ..codecs.codec import Progress
from ..codecs.errors import InvalidSettings
from ..codecs.image.lossless import ImageLossless, LosslessSettings
from ..codecs.registry import codec_ids
from ..codecs.signals import Image
from .image import PICTURES
from .image_points import file_digest, source_digest, versions
from .image_report import KODAK
from .lossless_runs import against, check_rows, collect, digest_of, facts_of_run, options, speeds, timed, write_results
from .pictures import load_picture
from .program import run_program
from .sections import replace_section

__all__ = ["DOCS_BEGIN", "DOCS_END", "Point", "Row", "main", "run"]

DOCS_BEGIN, DOCS_END = "<!-- lossless:begin -->", "<!-- lossless:end -->"
HALVED_BEGIN, HALVED_END = "<!-- lossless halved:begin -->", "<!-- lossless halved:end -->"
OURS, CIRCUIT = "image-lossless", "image-circuit"
EFFORTS, PLAIN_EFFORTS = (1, 3, 5, 7, 9), (1, 5, 9)
REFERENCE = "jxl -e 9"  # what sizes are compared with
Coded = tuple[bytes, Callable[[bytes], NDArray[Any]]]


@dataclass(frozen=True)
class Job:
    """One picture, halved or not, through one row's codec; `key` names the result in the cache."""

    picture: Path
    row: str
    halved: bool
    key: str


@dataclass(frozen=True)
class Point:
    """What one job measured: bytes, and seconds on one thread."""

    key: str
    row: str
    picture: str
    pixels: int
    bytes: int
    encode_seconds: float
    decode_seconds: float


@dataclass(frozen=True)
class Row:
    """A row of the table: means over all pixels."""

    name: str
    bpp: float
    encode_mps: float | None
    decode_mps: float | None
    published: bool = False


def _pixels(data: bytes) -> NDArray[Any]:
    return compress.decode(data).array


def _registered(codec: str, **settings: object) -> Callable[[Image], Coded]:
    """Return what codes with a codec of the registry; peers count with their own file, which is the stream's one payload."""

    def code(picture: Image) -> Coded:
        data = compress.encode(picture, codec, settings).data
        if codec in (OURS, CIRCUIT):
            return data, _pixels
        return container.read(data).chunks[0], lambda _: _pixels(data)

    return code


def _plain(effort: int) -> Callable[[Image], Coded]:
    """Return what codes with `image-lossless` without looking for a picture's origin."""

    def code(picture: Image) -> Coded:
        settings = LosslessSettings(effort=effort)
        stream = ImageLossless(recover_origin=False).encode(picture, settings)
        return compress.packed(stream, picture, settings, 0.0, "cpu").data, _pixels

    return code


def _png(picture: Image) -> Coded:
    return bytes(imagecodecs.png_encode(picture.array, level=9)), imagecodecs.png_decode


ROWS: dict[str, Callable[[Image], Coded]] = {
    **{f"{OURS} -e {effort}": _registered(OURS, effort=effort) for effort in EFFORTS},
    **{f"{OURS} -e {effort}, RGB": _plain(effort) for effort in PLAIN_EFFORTS},
    CIRCUIT: _registered(CIRCUIT),
    **{f"jxl -e {effort}": _registered("jxl", lossless=True, effort=effort) for effort in (3, 7, 9)},
    "webp": _registered("webp", lossless=True),
    "png": _png,
}


def run(
    out: Path,
    pictures: Path | None = None,
    *,
    rows: Sequence[str] | None = None,
    limit: int | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
    docs: Path | None = None,
    halved: bool = False,
) -> list[Row]:
    """Measure `rows` (default: all) on the first `limit` pictures of a folder, in `jobs` processes of one thread.

    With `halved` each is made half as wide and high first, by means of 2 × 2 samples. Writes `results.json`, `table.md` and
    `lossless.svg` into `out`; `docs` names a Markdown file whose marked section is replaced. Raises `InvalidSettings` for
    unknown rows and a folder without pictures.
    """
    check_rows(rows, ROWS)
    names = [name for name in rows or ROWS if name != CIRCUIT or CIRCUIT in codec_ids()]
    paths = sorted(path for path in (pictures or Path()).glob("*") if path.suffix.lower() in PICTURES)[:limit]
    if pictures is None or not paths:
        raise InvalidSettings(f"name a folder with pictures ({', '.join(PICTURES)}): --pictures DIR")
    work = [Job(path, name, halved, _key(path, name, halved)) for path in paths for name in names]
    points = collect(work, Point, out, _measure, jobs, progress)
    table = [_averaged(name, [point for point in points if point.row == name]) for name in names]
    if {path.name for path in paths} == KODAK and not halved:
        table += [Row(f"{name} (published)", bpp, None, None, True) for name, bpp in _published().items()]
    table.sort(key=lambda row: row.bpp)
    _write(out, table, points, paths, jobs, docs, halved)
    return table


def _key(picture: Path, row: str, halved: bool) -> str:
    codec = next((codec for codec in (OURS, CIRCUIT) if row.startswith(codec)), None)
    source = source_digest(codec, False) if codec else ""
    return digest_of(row, file_digest(picture), source, versions(), *(["halved"] if halved else []))


def _halved(picture: Image) -> Image:
    """Return the picture at half its width and height; an odd last row or column is left out."""
    height, width = (side // 2 * 2 for side in picture.array.shape[:2])
    samples = picture.array[:height, :width].astype(np.uint16)
    return Image(
        ((samples[::2, ::2] + samples[1::2, ::2] + samples[::2, 1::2] + samples[1::2, 1::2] + 2) // 4).astype(np.uint8)
    )


def _measure(job: Job) -> Point:
    """Encode, decode from the bytes, compare; raises RuntimeError where the picture does not come back."""
    picture = load_picture(job.picture)
    if job.halved:
        picture = _halved(picture)
    warm = picture, Image(np.zeros((64, 64, 3), np.uint8))
    size, *times = timed(job.row, ROWS[job.row], job.picture, picture, picture.array, warm, time.perf_counter)
    return Point(job.key, job.row, job.picture.name, picture.pixels, size, *times)


def _averaged(name: str, points: Sequence[Point]) -> Row:
    pixels = sum(point.pixels for point in points)
    return Row(name, 8 * sum(point.bytes for point in points) / pixels, *speeds(pixels / 1e6, points))


def _published() -> dict[str, float]:
    anchors = json.loads(files("laconic.bench").joinpath("anchors/kodak_lossless.json").read_text())
    return cast(dict[str, float], anchors["published"])


def markdown_table(rows: Sequence[Row]) -> str:
    """Return the table; our rows in bold, published ones with sizes only."""
    reference = next((row.bpp for row in rows if row.name == REFERENCE), None)
    lines = [f"| codec | bits per pixel | against {REFERENCE} | encode MP/s | decode MP/s |", "|---|---:|---:|---:|---:|"]
    for row in rows:
        name = f"**{row.name}**" if row.name.startswith((OURS, CIRCUIT)) else row.name
        shown = (f"{speed:.3g}" if speed else "–" for speed in (row.encode_mps, row.decode_mps))
        lines.append(f"| {name} | {row.bpp:.3f} | {against(row.bpp, reference, '–')} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def _write(
    out: Path,
    rows: Sequence[Row],
    points: Sequence[Point],
    paths: Sequence[Path],
    jobs: int,
    docs: Path | None,
    halved: bool,
) -> None:
    from .lossless_plot import write_plot  # matplotlib is an extra

    facts = {**facts_of_run(jobs), "pictures": [path.name for path in paths]}
    table = markdown_table(rows) + (
        f"\n{len(paths)} pictures{', halved' if halved else ''} ({paths[0].name} to {paths[-1].name}), {facts['date']}, "
        f"{facts['processor']}, one thread in each of {jobs} processes at once, load average {facts['load_average']:.1f}; "
        f"{', '.join(f'{name} {number}' for name, number in versions().items())}.\n"
    )
    write_results(out, facts, rows, points, table)
    write_plot([row for row in rows if not row.published], out / "lossless.svg")
    if docs is not None and halved:
        replace_section(docs, HALVED_BEGIN, HALVED_END, table)
    elif docs is not None:
        replace_section(docs, DOCS_BEGIN, DOCS_END, f"![Size and speed without loss](lossless.svg)\n\n{table}")
        (docs.parent / "lossless.svg").write_bytes((out / "lossless.svg").read_bytes())


def _parser() -> argparse.ArgumentParser:
    parser = options("lossless", __doc__, ROWS, "only the first pictures")
    parser.add_argument("--pictures", type=Path, required=True, help="folder of PNG pictures, for example Kodak's 24")
    parser.add_argument("--halved", action="store_true", help="make each picture half as wide and high first")
    return parser


def main(arguments: Iterable[str] | None = None) -> int:
    """Run from the command line; prints the table and returns the exit code."""
    return run_program(run, _parser(), arguments)


if __name__ == "__main__":
    raise SystemExit(main())
