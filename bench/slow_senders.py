"""Many connections that never finish what they began, and how long `/livez` takes meanwhile.

A third of the connections say nothing, a third send a request's headers a byte at a time, a third its body. Those that the
service closes are opened again at once. They live in a process of their own; `/livez` is asked from this one, by a new
connection each time.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import multiprocessing
import resource
import selectors
import socket
import statistics
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import numpy as np

from ..codecs import media
from ..codecs.signals import Image
from .service_process import running_service

__all__ = ["SlowSenders", "main", "run"]

OPEN_S = 20.0  # to open all connections
ALONE_S = 20.0  # of questions before there are connections
PROBE_S = 0.05  # between two questions
PARTS = 20  # of the crowd, which send their bytes one after the other within a second
CODE_EACH = 20  # questions between two pictures that are coded
HEADS = (
    b"",
    b"POST /v1/encode HTTP/1.1\r\nHost: x\r\nX-Slow: ",
    b"POST /v1/encode HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n",
)


@dataclass(frozen=True)
class SlowSenders:
    """What was measured. Times are milliseconds; `open_mean` is how many connections were open at a question, on average."""

    sockets: int
    seconds: float
    open_mean: float
    closed_by_service: int
    questions: int
    failures: int
    alone_p50_ms: float
    alone_p99_ms: float
    livez_p50_ms: float
    livez_p99_ms: float
    livez_max_ms: float
    pictures: int
    pictures_failed: int
    picture_p50_ms: float

    def table(self) -> str:
        """Return a Markdown table."""
        coded = self.pictures - self.pictures_failed
        rows = [
            ("connections open, on average", f"{self.open_mean:,.0f} of {self.sockets:,}"),
            ("closed by the service and opened again", f"{self.closed_by_service:,}"),
            ("`/livez` p50 / p99 without them", f"{self.alone_p50_ms:.1f} / {self.alone_p99_ms:.1f} ms"),
            ("`/livez` p50 / p99 / slowest", f"{self.livez_p50_ms:.1f} / {self.livez_p99_ms:.1f} / {self.livez_max_ms:.1f} ms"),
            ("`/livez` without an answer", f"{self.failures} of {self.questions:,}"),
            ("pictures coded meanwhile", f"{coded} of {self.pictures}, p50 {self.picture_p50_ms:.0f} ms"),
        ]
        title = f"{self.sockets:,} slow connections for {self.seconds:.0f} s"
        return "\n".join([f"| {title} | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows), ""])


def run(sockets: int = 1000, seconds: float = 60.0, out: Path | None = None) -> SlowSenders:
    """Measure, and write `slow-senders.json` and `slow-senders.md` into `out` where it is given.

    Raises `RuntimeError` when the service does not start or the connections cannot be opened.
    """
    with TemporaryDirectory() as folder, running_service({"threads": 1, "codecs": "webp", "state_dir": folder}) as service:
        parts = urlsplit(service.url)
        host, port = str(parts.hostname), int(parts.port or 80)
        alone = _Questions(host, port)
        alone.ask_for(min(ALONE_S, seconds))
        context = multiprocessing.get_context("spawn")
        opened, closed = context.Value("i", 0), context.Value("i", 0)
        process = context.Process(target=_send_slowly, args=(host, port, sockets, opened, closed), daemon=True)
        process.start()
        try:
            _wait_until_open(opened, sockets)
            during = _Questions(host, port, opened)
            during.ask_for(seconds)
            count = closed.value
        finally:
            process.kill()
            process.join()
    measured = SlowSenders(
        sockets=sockets,
        seconds=seconds,
        open_mean=statistics.mean(during.opened),
        closed_by_service=count,
        questions=len(during.waits) + during.failures,
        failures=during.failures,
        alone_p50_ms=_quantile(alone.waits, 0.5),
        alone_p99_ms=_quantile(alone.waits, 0.99),
        livez_p50_ms=_quantile(during.waits, 0.5),
        livez_p99_ms=_quantile(during.waits, 0.99),
        livez_max_ms=_quantile(during.waits, 1.0),
        pictures=len(during.coded) + during.failed,
        pictures_failed=during.failed,
        picture_p50_ms=_quantile(during.coded, 0.5),
    )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "slow-senders.json").write_text(json.dumps(asdict(measured), indent=2) + "\n")
        (out / "slow-senders.md").write_text(measured.table())
    return measured


class _Questions:
    """Asks for `/livez`, and now and then for a picture; the waits are in milliseconds."""

    def __init__(self, host: str, port: int, opened: Synchronized[int] | None = None) -> None:
        self._place, self._opened = (host, port), opened
        self._picture = media.write(Image(np.arange(64 * 64 * 3, dtype=np.uint32).astype(np.uint8).reshape(64, 64, 3)), "png")
        self.waits: list[float] = []
        self.coded: list[float] = []
        self.opened: list[int] = []
        self.failures = self.failed = 0

    def ask_for(self, seconds: float) -> None:
        """Ask for so long."""
        ends = time.monotonic() + seconds
        for number in itertools.count():
            if time.monotonic() > ends:
                break
            if self._opened is not None:
                self.opened.append(self._opened.value)
            self.failures += not self._ask("GET", "/livez", None, self.waits)
            if number % CODE_EACH == 0:
                self.failed += not self._ask("POST", "/v1/encode?codec=webp&quality=50", self._picture, self.coded)
            time.sleep(PROBE_S)

    def _ask(self, method: str, path: str, body: bytes | None, waits: list[float]) -> bool:
        """Return whether the answer was 200, and note how long it took if so."""
        connection = http.client.HTTPConnection(*self._place, timeout=10)
        began = time.perf_counter()
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        if response.status == 200:
            waits.append(1000 * (time.perf_counter() - began))
        return response.status == 200


def _wait_until_open(opened: Synchronized[int], sockets: int) -> None:
    deadline = time.monotonic() + OPEN_S
    while opened.value < 0.95 * sockets:
        if time.monotonic() > deadline:
            raise RuntimeError(f"only {opened.value} of {sockets} connections could be opened")
        time.sleep(0.05)


class _SlowCrowd:
    """Connections that never finish what they began, on one selector: cheap, so that what is measured is the service."""

    def __init__(self, host: str, port: int, opened: Synchronized[int], closed: Synchronized[int]) -> None:
        self._place, self._opened, self._closed = (host, port), opened, closed
        self._ready = selectors.DefaultSelector()
        self._connections: dict[int, socket.socket] = {}  # by their number in the crowd

    def open(self, number: int) -> None:
        """Open a connection and begin a request as this number does."""
        try:
            connection = socket.create_connection(self._place, timeout=5)
            connection.sendall(_head(number))
        except OSError:
            return  # the next round tries again
        connection.setblocking(False)
        self._ready.register(connection, selectors.EVENT_READ, number)
        self._connections[number] = connection
        self._opened.value += 1

    def read(self, seconds: float) -> None:
        """Wait so long for answers, and open those connections again that the service has closed."""
        for key, _ in self._ready.select(seconds):
            connection = self._connections[key.data]
            try:
                if connection.recv(65536):
                    continue  # an answer; the end is still to come
            except BlockingIOError:
                continue
            except OSError:
                pass  # reset, which is an end as well
            self._ready.unregister(connection)
            del self._connections[key.data]
            connection.close()
            self._opened.value -= 1
            self._closed.value += 1
            self.open(key.data)

    def send(self, numbers: Iterable[int]) -> None:
        """Send one byte more of these, where they have begun a request; open those that could not be opened."""
        for number in numbers:
            if number not in self._connections:
                self.open(number)
            elif _head(number):
                with contextlib.suppress(OSError):
                    self._connections[number].send(b"x")


def _head(number: int) -> bytes:
    return HEADS[number % len(HEADS)]


def _send_slowly(host: str, port: int, sockets: int, opened: Synchronized[int], closed: Synchronized[int]) -> None:
    """Keep so many connections open for ever, each with a byte a second; the body of a process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < sockets + 100:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(sockets + 100, hard), hard))
    crowd = _SlowCrowd(host, port, opened, closed)
    for part in itertools.cycle(range(PARTS)):
        ends = time.monotonic() + 1 / PARTS
        crowd.send(range(part, sockets, PARTS))
        while (left := ends - time.monotonic()) > 0:
            crowd.read(left)


def _quantile(values: list[float], part: float) -> float:
    ordered = sorted(values) or [float("nan")]
    return ordered[min(len(ordered) - 1, round(part * len(ordered)))]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="laconic bench slow-senders", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-o", "--out", type=Path, help="folder for slow-senders.json and slow-senders.md")
    parser.add_argument("--sockets", type=int, default=1000, help="connections that never finish")
    parser.add_argument("--seconds", type=float, default=60.0)
    return parser


def main(arguments: Iterable[str] | None = None) -> int:
    """Run from the command line; prints the table, returns 1 where `/livez` failed or its p99 was 100 ms or more."""
    options = vars(_parser().parse_args(None if arguments is None else list(arguments)))
    try:
        measured = run(**options)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    print(measured.table(), end="")
    return 0 if measured.failures == 0 and measured.livez_p99_ms < 100 else 1


if __name__ == "__main__":
    raise SystemExit(main())
