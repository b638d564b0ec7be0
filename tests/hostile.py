"""Throw every truncation and many bit flips of a real .lcn file at the command line and at the service, and count answers.

    scripts/hostile-check FILE.lcn [--flips 2000]

Exits 1 unless the command line answers only with 0, 3 or 4 and the service only with 200, 400, 413, 415 or 422.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx

from laconic.cli import main as laconic
from laconic.service.serve import background
from laconic.service.settings import ServiceSettings

EXIT_CODES = {0, 3, 4}
STATUSES = {200, 400, 413, 415, 422}


def damaged(data: bytes, flips: int) -> Iterator[bytes]:
    """Yield every proper prefix, then copies with one flipped bit each."""
    for length in range(len(data)):
        yield data[:length]
    draw = random.Random(0)
    for _ in range(flips):
        at = draw.randrange(8 * len(data))
        flipped = bytearray(data)
        flipped[at // 8] ^= 1 << (at % 8)
        yield bytes(flipped)


def tally(name: str, cases: Iterator[bytes], answer: Callable[[bytes], int], allowed: set[int]) -> bool:
    """Count the answers to all cases, print them, and say whether all are allowed."""
    began, slowest, counts = time.monotonic(), 0.0, Counter[int]()
    for case in cases:
        start = time.monotonic()
        counts[answer(case)] += 1
        slowest = max(slowest, time.monotonic() - start)
    seconds = time.monotonic() - began
    shown = ", ".join(f"{code}: {count:,}" for code, count in sorted(counts.items()))
    print(f"{name}: {counts.total():,} cases in {seconds:.0f} s, slowest {slowest:.2f} s; {shown}", flush=True)
    return set(counts) <= allowed


def through_the_command_line(folder: Path) -> Callable[[bytes], int]:
    """Return what decodes a file by the command line, in this process, and returns the exit code."""

    def decode(data: bytes) -> int:
        (folder / "damaged.lcn").write_bytes(data)
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            return laconic(["decode", str(folder / "damaged.lcn"), "-o", str(folder / "out.png"), "-f"])

    return decode


def main() -> int:
    """Run both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--flips", type=int, default=2000)
    arguments = parser.parse_args()
    data = arguments.file.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        decode = through_the_command_line(Path(folder))
        fine = tally("laconic decode", damaged(data, arguments.flips), decode, EXIT_CODES)
    with background(ServiceSettings(port=0), log=None) as url, httpx.Client(base_url=url, timeout=120) as client:

        def post(body: bytes) -> int:
            return client.post("/v1/decode", content=body).status_code

        fine &= tally("POST /v1/decode", damaged(data, arguments.flips), post, STATUSES)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
