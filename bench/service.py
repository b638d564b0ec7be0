"""Load on the service: many clients at once, beside the same work done in this process; speed, waiting, memory.

The service runs in a process of its own with the same threads. Clients and service share the machine's cores, so what the
clients take is a part of the difference.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypedDict

import httpx

from ..codecs import compress, media
from ..codecs.errors import LaconicError
from .load import table, write_report
from .pictures import set_threads
from .service_process import running_service

__all__ = ["ServiceLoad", "main", "run"]

WARM_UP = 100  # requests before memory is first read


@dataclass(frozen=True)
class ServiceLoad:
    """What was measured.

    Rates are encodings a second, latencies milliseconds, memory the service's resident MiB. Milliseconds of processor time
    per encoding are the steadier comparison where other processes run as well.
    """

    codec: str
    quality: int
    picture: str
    input_bytes: int
    output_bytes: int
    threads: int
    clients: int
    requests: int
    errors: int
    in_process_rate: float
    in_process_cpu_ms: float
    service_rate: float
    service_cpu_ms: float
    p50_ms: float
    p99_ms: float
    rss_before_mib: float
    rss_after_mib: float
    same_bytes: bool

    @property
    def http_adds(self) -> float:
        """The part by which an encoding takes longer through the service, 0.05 for 5 %; negative where it overlaps work."""
        return self.in_process_rate / self.service_rate - 1

    def table(self) -> str:
        """Return a Markdown table."""
        rows = [
            (f"in process, {self.threads} thread(s)", f"{self.in_process_rate:.2f} pictures/s"),
            (f"service, {self.clients} clients", f"{self.service_rate:.2f} pictures/s"),
            ("HTTP adds", f"{100 * self.http_adds:+.1f} %"),
            ("processor time, in process / service", f"{self.in_process_cpu_ms:.1f} / {self.service_cpu_ms:.1f} ms a picture"),
            ("latency p50 / p99", f"{self.p50_ms:.0f} / {self.p99_ms:.0f} ms"),
            ("errors", f"{self.errors} of {self.requests}"),
            ("bytes as in process", "yes" if self.same_bytes else "NO"),
            ("memory after warm-up / at the end", f"{self.rss_before_mib:.0f} / {self.rss_after_mib:.0f} MiB"),
        ]
        title = f"{self.codec} at quality {self.quality}, {self.picture}"
        return table(title, rows)


def run(
    picture: Path,
    out: Path | None = None,
    codec: str = "image-transform",
    quality: int = 30,
    clients: int = 16,
    requests: int = 500,
    threads: int = 1,
    in_process: int = 50,
) -> ServiceLoad:
    """Measure, and write `service.json` and `service.md` into `out` where it is given.

    Raises `OSError` for a picture that does not open, `RuntimeError` when the service does not start.
    """
    body = picture.read_bytes()
    set_threads(threads)
    expected, *before = _in_process(body, codec, quality, in_process // 2)
    through = _through_service(body, expected, codec, quality, clients, requests, threads)
    after = _in_process(body, codec, quality, in_process // 2)[1:]  # a machine's speed drifts: half before, half after
    seconds, processor = (statistics.mean(pair) for pair in zip(before, after, strict=True))
    load = ServiceLoad(
        codec=codec,
        quality=quality,
        picture=picture.name,
        input_bytes=len(body),
        output_bytes=len(expected),
        threads=threads,
        clients=clients,
        requests=requests,
        in_process_rate=1 / seconds,
        in_process_cpu_ms=1000 * processor,
        **through,
    )
    write_report(out, "service", asdict(load) | {"http_adds": load.http_adds}, load.table())
    return load


class _Measured(TypedDict):
    """The fields of `ServiceLoad` that come from the service."""

    service_rate: float
    service_cpu_ms: float
    errors: int
    same_bytes: bool
    p50_ms: float
    p99_ms: float
    rss_before_mib: float
    rss_after_mib: float


def _through_service(
    body: bytes, expected: bytes, codec: str, quality: int, clients: int, requests: int, threads: int
) -> _Measured:
    with running_service({"threads": threads, "queue_size": 2 * clients}) as service:
        query = f"{service.url}/v1/encode?codec={codec}&quality={quality}"
        asyncio.run(_load(query, body, clients, WARM_UP))
        before = service.resident_mib()
        began, processor = time.perf_counter(), service.processor_seconds()
        answers = asyncio.run(_load(query, body, clients, requests))
        seconds = time.perf_counter() - began
        processor = service.processor_seconds() - processor
        after = service.resident_mib()
    waits = sorted(wait for wait, _ in answers)
    return {
        "service_rate": requests / seconds,
        "service_cpu_ms": 1000 * processor / requests,
        "errors": sum(content is None for _, content in answers),
        "same_bytes": all(content == expected for _, content in answers if content is not None),
        "p50_ms": 1000 * statistics.median(waits),
        "p99_ms": 1000 * waits[min(len(waits) - 1, round(0.99 * len(waits)))],
        "rss_before_mib": before,
        "rss_after_mib": after,
    }


def _in_process(body: bytes, codec: str, quality: int, count: int) -> tuple[bytes, float, float]:
    """Return the file, and seconds and processor seconds of reading and encoding once, after two that do not count."""
    for _ in range(2):
        expected = compress.encode(media.read(body), codec, {"quality": quality}).data
    began, processor = time.perf_counter(), time.process_time()
    for _ in range(count):
        compress.encode(media.read(body), codec, {"quality": quality})
    return expected, (time.perf_counter() - began) / count, (time.process_time() - processor) / count


async def _load(query: str, body: bytes, clients: int, requests: int) -> list[tuple[float, bytes | None]]:
    """Send requests from as many clients at once; return each one's seconds and body, None for an error."""
    left = iter(range(requests))
    answers: list[tuple[float, bytes | None]] = []

    async def one_client() -> None:
        async with httpx.AsyncClient(timeout=600) as client:
            for _ in left:
                began = time.perf_counter()
                try:
                    response = await client.post(query, content=body)
                    content = response.content if response.status_code == 200 else None
                except httpx.HTTPError:
                    content = None
                answers.append((time.perf_counter() - began, content))

    await asyncio.gather(*(one_client() for _ in range(clients)))
    return answers


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="laconic bench service", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--picture", type=Path, required=True, help="picture file that every client posts")
    parser.add_argument("-o", "--out", type=Path, help="folder for service.json and service.md")
    parser.add_argument("--codec", default="image-transform")
    parser.add_argument("--quality", type=int, default=30)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1, help="torch threads, in process and in the service")
    parser.add_argument("--in-process", type=int, default=50, help="encodings measured in process")
    return parser


def main(arguments: Iterable[str] | None = None) -> int:
    """Run from the command line; prints the table and returns the exit code."""
    options = vars(_parser().parse_args(None if arguments is None else list(arguments)))
    try:
        load = run(**options)
    except LaconicError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        return 1
    print(load.table(), end="")
    return 0 if load.errors == 0 and load.same_bytes else 1


if __name__ == "__main__":
    raise SystemExit(main())
