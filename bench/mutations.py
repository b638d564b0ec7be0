"""Mutated .lcn files of every codec through the service: whatever the bytes, an answer below 500, in time.

Half of the files are damaged as `bench.fuzz` damages them. In the others payloads, parameters and shapes are changed and
everything around them, checksums included, is made right, so that the damage reaches the codec.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random

from ..codecs import container
from ..codecs.codec import ParamValue, Stream
from ..codecs.errors import LaconicError
from .fuzz import MUTATIONS
from .hostile_files import small_streams
from .load import Call, clients, loaders, milliseconds, statuses, write_report
from .service_process import ServiceProcess, running_service

__all__ = ["Tally", "main", "mutants", "run", "table_of"]

CLIENTS, CHUNK = 4, 2_000  # files that go to the loading process at once
HANG_MS = 10_000.0
ALLOWED = {"200", "400", "413", "415", "422"}
LIMITS = {"max_pixels": 250_000, "queue_size": 4 * CLIENTS, "request_timeout_s": HANG_MS / 1000}


@dataclass(frozen=True)
class Tally:
    """Answers to the mutants of one codec by status, the slowest in ms, and failures that the service logged."""

    codec: str
    files: int
    statuses: dict[str, int]
    p99: float
    slowest: float
    failures: list[str]

    @property
    def ok(self) -> bool:
        """Whether nothing crashed, hung or failed."""
        return set(self.statuses) <= ALLOWED and self.slowest < HANG_MS and not self.failures


def mutants(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Yield `count` mutants of a valid file; the same ones for the same seed."""
    draw, stream = Random(seed), container.read(data)
    for _ in range(count):
        yield _consistent(draw, stream) or draw.choice(MUTATIONS)(draw, data, [data])


def _consistent(draw: Random, stream: Stream) -> bytes | None:
    """Return a mutant that is well formed, None half of the time or where what was drawn cannot be written."""
    if draw.random() < 0.5:
        return None
    changed = replace(stream, chunks=tuple(_damaged(draw, chunk) for chunk in stream.chunks))
    if draw.random() < 0.3:
        changed = replace(changed, shape=_other_shape(draw, stream.shape))
    if draw.random() < 0.3:
        values: tuple[ParamValue, ...] = (0, 1, 9, -1, 2**40, b"", b"\xff" * 9, "", [1, 2], True)
        changed = replace(changed, params={**stream.params, draw.choice((16, 17, 18, 99)): draw.choice(values)})
    if draw.random() < 0.1:
        changed = replace(changed, chunks=changed.chunks * draw.randrange(3), bit_depth=draw.choice((8, 16)))
    if draw.random() < 0.1:
        changed = replace(changed, version=draw.choice((1, 2, 9)), weights=draw.choice(((), stream.weights, (bytes(8),))))
    try:
        return container.write(changed)
    except LaconicError:
        return None


def _other_shape(draw: Random, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return another shape of a picture, of a video's frames and sides, or of sound's channels and samples."""
    if len(shape) == 2:
        channels, samples = shape
        return draw.choice((1, 2, channels, 8)), draw.choice((1, samples - 1, samples + 1, 8 * samples, 500))
    *frames, height, width, channels = shape
    sides = (1, height - 1, height + 1, 8 * height, 500)
    sizes = (draw.choice(sides), draw.choice((width, *sides)), draw.choice((1, 2, channels, 4)))
    return (*(draw.choice((1, count - 1, count + 1, 8 * count)) for count in frames), *sizes)


def _damaged(draw: Random, chunk: bytes) -> bytes:
    kind = draw.randrange(6)
    if kind == 0 or not chunk:
        return draw.randbytes(draw.randrange(64))
    at = draw.randrange(len(chunk))
    if kind == 1:
        return chunk[:at]
    if kind == 2:
        return chunk[:at] + draw.randbytes(draw.randrange(16)) + chunk[at:]
    if kind == 3:
        return chunk[:at] + bytes([draw.choice((0, 255))]) * (len(chunk) - at)
    changed = bytearray(chunk)
    for _ in range(draw.choice((1, 1, 4, 32))):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def run(out: Path | None = None, files: int = 20_000, seed: int = 1, codecs: Sequence[str] = ()) -> list[Tally]:
    """Post `files` mutants of a small file of each codec, and write `mutations.json` and `.md` into `out` where it is given.

    Raises `RuntimeError` when the service does not start.
    """
    streams = {name: data for name, data in small_streams().items() if not codecs or name in codecs}
    tallies = []
    with running_service(LIMITS) as service, loaders(1) as pool:
        for number, (name, data) in enumerate(streams.items()):
            tallies.append(_tally(service, pool, name, list(mutants(data, files, seed + number))))
    write_report(out, "mutations", {"codecs": [asdict(tally) for tally in tallies]}, table_of(tallies))
    return tallies


def _tally(service: ServiceProcess, pool: ProcessPoolExecutor, name: str, bodies: list[bytes]) -> Tally:
    answers = []
    for start in range(0, len(bodies), CHUNK):
        calls = [Call("/v1/decode", body or b"\0") for body in bodies[start : start + CHUNK]]
        answers += pool.submit(clients, service.url, calls, CLIENTS, 3600.0, len(calls)).result()
    failures = service.failures() if service.alive else ["the service ended"]
    return Tally(name, len(answers), statuses(answers), milliseconds(answers, 0.99), milliseconds(answers, 1.0), failures[-3:])


def table_of(tallies: Sequence[Tally]) -> str:
    """Return a Markdown table."""
    lines = ["| codec | files | answers | p99 ms | slowest ms | |", "|---|---:|---|---:|---:|---|"]
    for tally in tallies:
        answers = ", ".join(f"{status}: {count:,}" for status, count in tally.statuses.items())
        verdict = "ok" if tally.ok else "**FAILED**"
        lines.append(f"| {tally.codec} | {tally.files:,} | {answers} | {tally.p99:.1f} | {tally.slowest:.0f} | {verdict} |")
    return "\n".join([*lines, ""])


def main(arguments: Iterable[str] | None = None) -> int:
    """Run from the command line; prints the table and returns the exit code."""
    parser = argparse.ArgumentParser(prog="laconic bench mutations", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-o", "--out", type=Path, help="folder for mutations.json and mutations.md")
    parser.add_argument("--files", type=int, default=20_000, help="mutants of each codec")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--codec", dest="codecs", action="append", default=[], help="only this codec; repeat for more")
    tallies = run(**vars(parser.parse_args(None if arguments is None else list(arguments))))
    print(table_of(tallies), end="")
    for tally in tallies:
        for line in tally.failures:
            print(f"{tally.codec}: {line}")
    return 0 if all(tally.ok for tally in tallies) else 1


if __name__ == "__main__":
    raise SystemExit(main())
