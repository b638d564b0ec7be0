"""What a request costs by codec: processor time and memory of reading and encoding, and of decoding and writing, a picture.

    laconic bench costs --picture PHOTO [-o DIR] [--docs docs]

These are the inputs of the capacity model in docs/operations.md. Each row is measured in a process of its own, warm, with one
thread for torch: from the bytes of a PNG file to those of an .lcn file, and back. Processor time is of all threads and hardly
depends on what else the machine does; peak memory is above that of the process with its codec open and warm.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from ..codecs import compress, media
from ..codecs.errors import InvalidSettings
from ..codecs.limits import Limits
from ..codecs.settings import codecs_at_once
from ..codecs.signals import Image
from . import capacity
from .image import processor
from .image_points import versions
from .pictures import load_picture, set_threads
from .progress import shown_progress
from .sections import replace_section

__all__ = ["DOCS_BEGIN", "DOCS_END", "Cost", "main", "run"]

DOCS_BEGIN, DOCS_END = "<!-- bench costs: begin -->", "<!-- bench costs: end -->"
BESIDE_DEFAULTS: tuple[tuple[str, Mapping[str, object]], ...] = (
    ("image-lossless", {"effort": 1}),
    ("jxl", {"lossless": True}),
    ("webp", {"lossless": True}),
)
PROC = Path("/proc/self")


@dataclass(frozen=True)
class Cost:
    """A codec with its settings beside the defaults, and what a megapixel costs.

    Processor milliseconds and peak MiB, each per megapixel, of both ways; the MiB of the process that is ready; bits per pixel.
    """

    codec: str
    settings: Mapping[str, object]
    encode_ms: float
    decode_ms: float
    encode_mib: float
    decode_mib: float
    ready_mib: float
    bpp: float

    @property
    def name(self) -> str:
        """The codec and its settings, as the tables show them."""
        return " ".join([self.codec, *(name if value is True else f"{name} {value}" for name, value in self.settings.items())])


def run(picture: Path, out: Path | None, codecs: Sequence[str], side: int, rounds: int, docs: Path | None) -> list[Cost]:
    """Measure, print the table, and write `costs.json` and `costs.md` into `out`, and tables into the documents of `docs`.

    The picture is repeated `side` times each way; times are medians of `rounds`. Raises `OSError`, `InvalidSettings`.
    """
    there = codecs_at_once("image")
    if unknown := sorted(set(codecs) - set(there)):
        raise InvalidSettings(f"no codec for pictures is called {', '.join(unknown)}; there are {', '.join(there)}")
    plain: list[tuple[str, Mapping[str, object]]] = [(name, {}) for name in there]
    rows = [row for row in (*plain, *BESIDE_DEFAULTS) if row[0] in (codecs or there)]
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    large = Image(np.tile(load_picture(picture).array, (side, side, 1)).astype(np.uint8))
    costs = []
    with shown_progress() as progress, tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "large.png"
        file.write_bytes(media.write(large, "png"))
        for index, (codec, settings) in enumerate(rows):
            progress(index / len(rows), codec)
            costs.append(_in_own_process(file, codec, settings, rounds))
            if out is not None:  # after each row, so that an interrupted run has not been in vain
                (out / "costs.json").write_text(json.dumps([asdict(cost) for cost in costs], indent=2) + "\n")
        progress(1.0, "done")
    height, width = large.shape[:2]
    text = table(costs, f"`{picture.name}` repeated to {width} × {height}, median of {rounds}")
    if out is not None:
        (out / "costs.md").write_text(text)
    if docs is not None:
        replace_section(docs / "benchmarks.md", DOCS_BEGIN, DOCS_END, text)
        replace_section(docs / "operations.md", capacity.DOCS_BEGIN, capacity.DOCS_END, capacity.capacity_table(costs))
    print(text, end="")
    return costs


def table(costs: Iterable[Cost], what: str) -> str:
    """Return the Markdown table, with a line on how it was measured."""
    lines = [
        "| codec | bpp | encode, processor ms per MP | decode, processor ms per MP "
        "| encode, peak MiB per MP | decode, peak MiB per MP | MiB when ready |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {cost.name} | {cost.bpp:.2f} | {cost.encode_ms:,.0f} | {cost.decode_ms:,.0f} | {cost.encode_mib:.0f} "
        f"| {cost.decode_mib:.0f} | {cost.ready_mib:.0f} |"
        for cost in costs
    ]
    machine = f"{processor()}, one thread; {', '.join(f'{name} {number}' for name, number in versions().items())}"
    return "\n".join([*lines, "", f"{what}, from and to PNG; {datetime.now(UTC):%Y-%m-%d}, {machine}.", ""])


def _in_own_process(picture: Path, codec: str, settings: Mapping[str, object], rounds: int) -> Cost:
    given = json.dumps({"picture": str(picture), "codec": codec, "settings": settings, "rounds": rounds})
    command = [sys.executable, "-P", "-m", "laconic.bench.costs", "--measure", given]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise RuntimeError(f"{codec} failed: {done.stderr.strip().splitlines()[-1:]}")
    return Cost(codec, settings, **json.loads(done.stdout))


def _measure(picture: str, codec: str, settings: Mapping[str, object], rounds: int) -> dict[str, float]:
    """Return the figures of `Cost`, measured in this process."""
    set_threads(1)
    small = Image(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8))
    compress.decode(compress.encode(small, codec, settings, device="cpu").data, device="cpu")  # opens, compiles, warms
    body = Path(picture).read_bytes()
    header = media.read_header(body, Limits())
    megapixels = header.height * header.width / 1e6

    def encode() -> bytes:
        return compress.encode(media.read(body), codec, settings, device="cpu").data

    def decode() -> bytes:
        return media.write(compress.decode(file, device="cpu"), "png")

    ready = _memory("VmRSS")
    file, encode_peak = _peak(encode)
    decode_peak = _peak(decode)[1]
    return {
        "encode_ms": 1000 * _seconds(encode, rounds) / megapixels,
        "decode_ms": 1000 * _seconds(decode, rounds) / megapixels,
        "encode_mib": max(0.0, encode_peak - ready) / megapixels,
        "decode_mib": max(0.0, decode_peak - ready) / megapixels,
        "ready_mib": ready,
        "bpp": 8 * len(file) / (1e6 * megapixels),
    }


def _peak(work: Callable[[], bytes]) -> tuple[bytes, float]:
    """Return what the work makes, and the MiB that this process peaks at meanwhile."""
    if (PROC / "clear_refs").exists():
        (PROC / "clear_refs").write_text("5")  # forget the peak so far: proc(5)
    return work(), _memory("VmHWM")


def _seconds(work: Callable[[], object], rounds: int) -> float:
    """Return the median of the processor seconds."""
    seconds = []
    for _ in range(rounds):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return statistics.median(seconds)


def _memory(field: str) -> float:
    """Return a figure of /proc/self/status in MiB; NaN where there is no /proc."""
    if not (PROC / "status").exists():
        return float("nan")
    match = re.search(rf"^{field}:\s+(\d+) kB$", (PROC / "status").read_text(), re.MULTILINE)
    return int(match[1]) / 1024 if match else float("nan")


def main(arguments: Iterable[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="laconic bench costs", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--picture", type=Path, help="photograph")
    parser.add_argument("-o", "--out", type=Path, help="folder for costs.json and costs.md")
    parser.add_argument("--codec", dest="codecs", action="append", default=[], help="only this codec; repeat for more")
    parser.add_argument("--side", type=int, default=2, help="how often the picture is repeated each way")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--docs", type=Path, help="folder of benchmarks.md and operations.md, to replace sections")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = vars(parser.parse_args(None if arguments is None else list(arguments)))
    if (given := options.pop("measure")) is not None:
        print(json.dumps(_measure(**json.loads(given))))
        return 0
    if options["picture"] is None:
        parser.error("--picture is needed")
    run(**options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
