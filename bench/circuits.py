"""`image-circuit` on test sets of small grey pictures, beside other lossless formats and published figures.

    python -m laconic.bench.circuits --digits t10k-images-idx3-ubyte.gz --fashion t10k-images-idx3-ubyte.gz -o OUT

writes `results.json` and `table.md` into OUT. Rates are of whole files, header included, in bits per dimension (pixel);
each is decoded and compared. PNG, WebP and JPEG XL code the same pictures as one mosaic, 100 pictures wide, which suits them
better than 10,000 files would. `--docs` names a Markdown file whose marked section is replaced.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..codecs import compress, media
from ..codecs.codec import Progress
from ..codecs.errors import InvalidSettings
from ..codecs.image import writers
from ..codecs.image.circuit import CircuitSettings, ImageCircuit
from ..codecs.image.idx import read_idx
from ..codecs.registry import open_codec
from ..codecs.signals import Pictures
from .image import processor
from .image_points import versions
from .program import run_program
from .sections import replace_section

__all__ = ["DOCS_BEGIN", "DOCS_END", "Measured", "main", "run"]

DOCS_BEGIN, DOCS_END = "<!-- circuits:begin -->", "<!-- circuits:end -->"
SETS = {"digits": ("MNIST", "mnist"), "fashion": ("Fashion-MNIST", "fashion-mnist")}  # name in tables, in the anchors
MOSAIC = 100  # pictures side by side
WARM_UP = 20  # pictures, so that compilation and loading are not timed

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Measured:
    """One row: a codec on one test set. `ideal` is what the model's probabilities call for; seconds by number of threads."""

    codec: str
    dataset: str
    pictures: int
    bytes: int
    bits_per_dimension: float
    ideal: float | None
    encode_seconds: dict[int, float]
    decode_seconds: dict[int, float]


def run(
    out: Path,
    digits: Path | None = None,
    fashion: Path | None = None,
    *,
    limit: int | None = None,
    threads: Iterable[int] = (1, 2),
    peers: bool = True,
    progress: Progress | None = None,
    docs: Path | None = None,
) -> list[Measured]:
    """Measure on the first `limit` pictures of IDX files and write `results.json` and `table.md` into `out`.

    `threads` are the numbers of threads to time with, as far as there are cores. Raises `InvalidSettings` without any file.
    """
    sets = {name: read_idx(path)[:limit] for name, path in (("digits", digits), ("fashion", fashion)) if path}
    if not sets:
        raise InvalidSettings("name a test set: --digits or --fashion, IDX files as MNIST comes in")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    counts = sorted({min(count, cores) for count in threads})
    report = progress or (lambda done, stage: None)
    rows: list[Measured] = []
    steps = len(sets) * (1 + len(PEERS) * peers)
    for name, pictures in sets.items():
        report(len(rows) / steps, f"image-circuit on {name}")
        rows.append(_measure_circuit(name, pictures, counts))
        for peer in PEERS if peers else ():
            report(len(rows) / steps, f"{peer} on {name}")
            rows.append(_measure_peer(peer, name, pictures))
    out.mkdir(parents=True, exist_ok=True)
    facts: dict[str, object] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "processor": processor(),
        "load_average": os.getloadavg(),
        "versions": versions(),
    }
    (out / "results.json").write_text(json.dumps({**facts, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")
    table = f"{markdown_table(rows)}\n{_footing(rows, facts)}"
    (out / "table.md").write_text(table, encoding="utf-8")
    if docs is not None:
        replace_section(docs, DOCS_BEGIN, DOCS_END, table)
    report(1.0, "done")
    return rows


def _measure_circuit(name: str, pictures: Bytes, threads: list[int]) -> Measured:
    codec = open_codec("image-circuit")
    assert isinstance(codec, ImageCircuit)
    compress.decode(compress.encode(Pictures(pictures[:WARM_UP]), "image-circuit").data)
    encode_seconds, decode_seconds, data = {}, {}, b""
    before = codec.threads
    try:
        for count in threads:
            codec.threads = count
            began = time.perf_counter()
            data = compress.encode(Pictures(pictures), "image-circuit").data
            encode_seconds[count] = time.perf_counter() - began
            began = time.perf_counter()
            decoded = compress.decode(data).array
            decode_seconds[count] = time.perf_counter() - began
            if not np.array_equal(decoded, pictures):
                raise AssertionError(f"the pictures of {name} do not come back")
    finally:
        codec.threads = before
    ideal = codec.ideal_bits(Pictures(pictures), CircuitSettings()) / pictures.size
    return _row("image-circuit", name, pictures, len(data), ideal, encode_seconds, decode_seconds)


def _measure_peer(peer: str, name: str, pictures: Bytes) -> Measured:
    mosaic = _mosaic(pictures)
    began = time.perf_counter()
    data = PEERS[peer](mosaic[:, :, None])
    encoded = time.perf_counter()
    decoded = media.read(data).array[:, :, 0]
    done = time.perf_counter()
    if not np.array_equal(decoded, mosaic):
        raise AssertionError(f"{peer} is not lossless")
    return _row(peer, name, pictures, len(data), None, {1: encoded - began}, {1: done - encoded})


def _mosaic(pictures: Bytes) -> Bytes:
    """Return pictures (N, H, W) as one, `MOSAIC` of them wide, filled up with black ones."""
    count, height, width = pictures.shape
    filled = np.concatenate([pictures, np.zeros((-count % MOSAIC, height, width), np.uint8)])
    return filled.reshape(-1, MOSAIC, height, width).transpose(0, 2, 1, 3).reshape(-1, MOSAIC * width)


def _row(
    codec: str,
    name: str,
    pictures: Bytes,
    size: int,
    ideal: float | None,
    encode_seconds: dict[int, float],
    decode_seconds: dict[int, float],
) -> Measured:
    rate = 8 * size / pictures.size
    return Measured(codec, name, len(pictures), size, rate, ideal, encode_seconds, decode_seconds)


PEERS: dict[str, Callable[[Bytes], bytes]] = {
    "jxl": writers.jxl_lossless,
    "webp": writers.webp_lossless,
    "png": writers.png,
}


def published() -> dict[str, dict[str, float]]:
    """Return published coded rates in bits per dimension: set to method to rate."""
    anchors = json.loads(files("laconic.bench").joinpath("anchors/circuits_bpd.json").read_text(encoding="utf-8"))
    return {
        name: {method: rate["coded"] if isinstance(rate, dict) else rate for method, rate in anchors[key].items()}
        for name, (_, key) in SETS.items()
    }


def markdown_table(rows: list[Measured]) -> str:
    """Return a table of the rows and the published figures of their sets."""
    lines = [
        "| set | codec | bits per dimension | model's | above it | encode s | decode s |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for name in dict.fromkeys(row.dataset for row in rows):
        title = SETS[name][0]
        measured = [row for row in rows if row.dataset == name]
        cells = [(row.bits_per_dimension, f"| {title} | **{row.codec}** | {_cells(row)} |") for row in measured]
        for method, rate in published()[name].items():
            cells.append((rate, f"| {title} | {method} (published) | {rate:.2f} | – | – | – | – |"))
        lines += [text for _, text in sorted(cells)]
    return "\n".join(lines) + "\n"


def _cells(row: Measured) -> str:
    ideal = "– | –" if row.ideal is None else f"{row.ideal:.4f} | {100 * (row.bits_per_dimension / row.ideal - 1):.2f} %"
    seconds = [" / ".join(f"{value:.1f}" for value in by.values()) for by in (row.encode_seconds, row.decode_seconds)]
    return f"{row.bits_per_dimension:.4f} | {ideal} | {seconds[0]} | {seconds[1]}"


def _footing(rows: list[Measured], facts: dict[str, object]) -> str:
    loads = facts["load_average"]
    assert isinstance(loads, tuple)
    first, load = rows[0].pictures, f"{loads[0]:.1f}"
    threads = " and ".join(map(str, sorted({count for row in rows for count in row.encode_seconds})))
    return (
        f"{first:,} pictures of each test set, {facts['date']}, {facts['processor']}, load average {load} at the end. "
        f"Bold rows are measured from files that were decoded and compared: `image-circuit` one .lcn file, on {threads} "
        f"thread{'' if threads == '1' else 's'}; the others one mosaic, 100 pictures wide. Published rows are coded sizes "
        "where there are any ([anchors](../bench/anchors/circuits_bpd.json)).\n"
    )


def main(arguments: Iterable[str] | None = None) -> int:
    """Run from the command line; prints the table and returns the exit code."""
    parser = argparse.ArgumentParser(prog="laconic.bench.circuits", description="Circuits on test sets of small pictures.")
    parser.add_argument("--digits", type=Path, help="IDX file of the MNIST test pictures")
    parser.add_argument("--fashion", type=Path, help="IDX file of the Fashion-MNIST test pictures")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--limit", type=int, help="only the first pictures")
    parser.add_argument("--threads", type=int, nargs="+", default=(1, 2), help="numbers of threads to time with")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="leave PNG, WebP and JPEG XL out")
    parser.add_argument("--docs", type=Path, help="Markdown file whose marked section is replaced")
    return run_program(run, parser, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
