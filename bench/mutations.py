"""Mutated .lcn files of every codec through the service: whatever the bytes, an answer below 500, in time.

Half of the files are damaged as `bench.fuzz` damages them. In the others payloads, parameters and shapes are changed and
everything around them, checksums included, is made right, so that the damage reaches the codec. Of what lasts, parts are
asked for as well, and what damage has left. What is measured is kept: an interrupted run goes on with the codec it was at.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from http.client import HTTPConnection, HTTPException
from itertools import islice, zip_longest
from pathlib import Path
from random import Random

import httpx

from ..codecs import container
from ..codecs.codec import ParamValue, Stream
from ..codecs.errors import LaconicError
from ..codecs.registry import codec_ids
from .fuzz import MUTATIONS
from .hostile_files import small_files
from .load import Answer, Call, loaders, milliseconds, statuses, write_report
from .service_process import ServiceProcess, running_service

__all__ = ["Tally", "main", "mutants", "run", "table_of"]

CLIENTS, CHUNK = 4, 2_000  # files that go to the loading process at once
HANG_MS = 10_000.0
ALLOWED = {"200", "400", "413", "415", "422"}
LIMITS = {  # one file stays cheap: pictures of 250 x 250, eight times as many frames or samples as there were
    "max_pixels": 65_536,
    "max_video_pixels": 1_000_000,
    "max_samples": 1_000_000,
    "queue_size": 4 * CLIENTS,
    "request_timeout_s": HANG_MS / 1000,
}
PARTS = {"image": "", "video": "frames=1:3", "audio": "seconds=0.1:0.2"}  # that are asked for
WARM_S = 300.0  # the first file of a codec may have to wait until its kernels are compiled


@dataclass(frozen=True)
class Tally:
    """Answers to the mutants of one codec by status, the slowest in ms, and failures that the service logged.

    `seconds` is how long that took, at a load average of `load`.
    """

    codec: str
    files: int
    statuses: dict[str, int]
    p99: float
    slowest: float
    failures: list[str]
    seed: int = 1
    seconds: float = 0.0
    load: float = 0.0

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
    sides = (1, height - 1, height + 1, 8 * height, 250)
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

    Codecs that `out` has of the same seed, with as many files and without a fault, are not measured again. Raises
    `RuntimeError` when the service does not start, or refuses the file that is not damaged.
    """
    kept = _kept(out, files, seed)
    with running_service(LIMITS) as service, loaders(1) as pool:
        for number, (name, data) in enumerate(small_files().items()):
            if name in kept or (codecs and name not in codecs):
                continue
            _warm_up(service, name, data)
            kept[name] = _tally(service, pool, name, _calls(data, files, seed + number), seed)
            tallies = _in_order(kept)
            write_report(out, "mutations", {"codecs": [asdict(tally) for tally in tallies]}, table_of(tallies))
            if not service.alive:
                break
    return _in_order(kept)


def _in_order(tallies: Mapping[str, Tally]) -> list[Tally]:
    return [tallies[name] for name in codec_ids() if name in tallies]


def _kept(out: Path | None, files: int, seed: int) -> dict[str, Tally]:
    """Return what an earlier run has measured, by codec."""
    path = out and out / "mutations.json"
    known = json.loads(path.read_text())["codecs"] if path and path.exists() else []
    tallies = [Tally(**facts) for facts in known]
    return {tally.codec: tally for tally in tallies if tally.ok and (tally.files, tally.seed) == (files, seed)}


def _calls(data: bytes, count: int, seed: int) -> Iterator[Call]:
    """Yield a call for each mutant: of a picture for all of it, of what lasts also for a part, and for what damage has left."""
    part = PARTS[{2: "audio", 3: "image", 4: "video"}[len(container.read(data).shape)]]
    queries = ("", part, "salvage=true", f"salvage=true&{part}") if part else ("",)
    for number, body in enumerate(mutants(data, count, seed)):
        yield Call(f"/v1/decode?{queries[number % len(queries)]}", body or b"\0")


def _warm_up(service: ServiceProcess, name: str, data: bytes) -> None:
    """Have the intact file decoded, which may take until the codec's kernels are compiled."""
    deadline = time.monotonic() + WARM_S
    while (answer := httpx.post(f"{service.url}/v1/decode", content=data, timeout=WARM_S)).status_code != 200:
        if answer.status_code != 504 or time.monotonic() > deadline:
            raise RuntimeError(f"the service does not decode a file of {name}: {answer.text}")


def _tally(service: ServiceProcess, pool: ProcessPoolExecutor, name: str, calls: Iterator[Call], seed: int) -> Tally:
    answers, began = list[Answer](), time.perf_counter()
    while chunk := list(islice(calls, CHUNK)):
        answers += pool.submit(_answers, service.url, chunk).result()
    failures = service.failures() if service.alive else ["the service ended"]
    return Tally(
        name,
        len(answers),
        statuses(answers),
        milliseconds(answers, 0.99),
        milliseconds(answers, 1.0),
        failures[-3:],
        seed,
        time.perf_counter() - began,
        os.getloadavg()[1],
    )


def _answers(url: str, calls: Sequence[Call]) -> list[Answer]:
    """Return the answers to calls, in order; `CLIENTS` send them at once, by plain sockets, which cost the processor little."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        parts = pool.map(_client, [url] * CLIENTS, [calls[at::CLIENTS] for at in range(CLIENTS)])
        return [answer for together in zip_longest(*parts) for answer in together if answer is not None]


def _client(url: str, calls: Sequence[Call]) -> list[Answer]:
    began, answers = time.perf_counter(), list[Answer]()
    connection = HTTPConnection(httpx.URL(url).host, httpx.URL(url).port, timeout=10 * HANG_MS / 1000)
    for call in calls:
        sent = time.perf_counter()
        try:
            connection.request("POST", call.path, call.body)
            response = connection.getresponse()
            response.read()
            status = response.status
        except (OSError, HTTPException):
            status = 0
            connection.close()
        answers.append(Answer(status, time.perf_counter() - sent, sent - began))
    connection.close()
    return answers


def table_of(tallies: Sequence[Tally]) -> str:
    """Return a Markdown table."""
    lines = ["| codec | files | answers | p99 ms | slowest ms | s | |", "|---|---:|---|---:|---:|---:|---|"]
    for tally in tallies:
        answers = ", ".join(f"{status}: {count:,}" for status, count in tally.statuses.items())
        verdict = "ok" if tally.ok else "**FAILED**"
        figures = f"{tally.p99:.1f} | {tally.slowest:.0f} | {tally.seconds:.0f}"
        lines.append(f"| {tally.codec} | {tally.files:,} | {answers} | {figures} | {verdict} |")
    return "\n".join([*lines, ""])


def main(arguments: Iterable[str] | None = None) -> int:
    """Run from the command line; prints the table and returns the exit code."""
    parser = argparse.ArgumentParser(prog="laconic bench mutations", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "-o", "--out", type=Path, help="folder for mutations.json and mutations.md, and of what a run goes on from"
    )
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
