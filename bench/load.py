"""Load from processes of their own: so many clients at once, or arrivals at a rate whatever the answers; and what came back."""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from multiprocessing import get_context
from pathlib import Path

import httpx

from ..codecs.orphans import end_with_parent

__all__ = ["Answer", "Call", "clients", "loaders", "milliseconds", "open_loop", "probe", "statuses", "table", "write_report"]

TIMEOUT_S = 150.0


@dataclass(frozen=True)
class Call:
    """A request: the path with its query, and the body; without one it is a GET."""

    path: str
    body: bytes = b""


@dataclass(frozen=True)
class Answer:
    """What came back: status (0 for none), seconds from sending, seconds after the load's start and after the time planned."""

    status: int
    seconds: float
    sent: float
    late: float = 0.0
    retry_after: str = ""


def loaders(count: int) -> ProcessPoolExecutor:
    """Return so many processes that load; they are started from nothing, so that they share no lock with this one."""
    return ProcessPoolExecutor(count, get_context("spawn"), end_with_parent)


def clients(url: str, calls: Sequence[Call], count: int, seconds: float, requests: int | None = None) -> list[Answer]:
    """Have so many clients send the calls in turn, each its next when answered, for so long or so many requests in all."""
    return asyncio.run(_clients(url, calls, count, seconds, requests))


async def _clients(url: str, calls: Sequence[Call], count: int, seconds: float, requests: int | None) -> list[Answer]:
    answers, numbers = list[Answer](), iter(range(requests if requests is not None else 10**12))
    async with _client(url) as client:
        began = time.perf_counter()  # not before: to make a client takes longer than short runs do where the machine is busy

        async def one() -> None:
            for number in numbers:
                if time.perf_counter() - began > seconds:
                    return
                answers.append(await _send(client, calls[number % len(calls)], began))

        await asyncio.gather(*(one() for _ in range(count)))
    return answers


def open_loop(url: str, calls: Sequence[Call], rate: float, seconds: float, seed: int = 1) -> list[Answer]:
    """Send calls drawn at random, `rate` a second at random times (a Poisson process), without waiting for answers."""
    return asyncio.run(_open_loop(url, calls, rate, seconds, seed))


async def _open_loop(url: str, calls: Sequence[Call], rate: float, seconds: float, seed: int) -> list[Answer]:
    draw, began, planned = random.Random(seed), time.perf_counter(), 0.0
    tasks: list[asyncio.Task[Answer]] = []
    async with _client(url) as client:
        while (planned := planned + draw.expovariate(rate)) < seconds:
            await asyncio.sleep(max(0.0, began + planned - time.perf_counter()))
            tasks.append(asyncio.create_task(_send(client, draw.choice(calls), began, planned)))
        return list(await asyncio.gather(*tasks))


def probe(url: str, path: str, every_s: float, seconds: float) -> list[Answer]:
    """Ask for a path at fixed intervals, each time on a new connection, as a health check does."""
    began, answers = time.perf_counter(), list[Answer]()
    while (now := time.perf_counter()) - began < seconds:
        connection = HTTPConnection(httpx.URL(url).host, httpx.URL(url).port, TIMEOUT_S)  # lighter than an httpx.Client
        try:
            connection.request("GET", path)
            status = connection.getresponse().status
        except (OSError, HTTPException):
            status = 0
        finally:
            connection.close()
        taken = time.perf_counter() - now
        answers.append(Answer(status, taken, now - began))
        time.sleep(max(0.0, every_s - taken))
    return answers


def _client(url: str) -> httpx.AsyncClient:
    limits = httpx.Limits(
        max_connections=None, max_keepalive_connections=64, keepalive_expiry=2.0
    )  # the service closes after 10 s
    return httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, limits=limits)


async def _send(client: httpx.AsyncClient, call: Call, began: float, planned: float | None = None) -> Answer:
    sent = time.perf_counter()
    late = 0.0 if planned is None else sent - began - planned
    try:
        if call.body:
            response = await client.post(call.path, content=call.body)
        else:
            response = await client.get(call.path)
    except httpx.HTTPError:
        return Answer(0, time.perf_counter() - sent, sent - began, late)
    retry = response.headers.get("retry-after", "")
    return Answer(response.status_code, time.perf_counter() - sent, sent - began, late, retry)


def wait_for(future: Future[list[Answer]], every_s: float, watch: Callable[[], None]) -> list[Answer]:
    """Return what a loader brings; meanwhile call `watch` at intervals."""
    while not future.done():
        watch()
        time.sleep(every_s)
    return future.result()


def milliseconds(answers: Sequence[Answer], part: float) -> float:
    """Return the latency in ms that `part` (0.99 for p99) of the answers do not exceed; NaN without any."""
    if not answers:
        return math.nan
    ordered = sorted(answer.seconds for answer in answers)
    return 1000 * ordered[min(len(ordered) - 1, math.ceil(part * len(ordered)) - 1)]


def statuses(answers: Sequence[Answer]) -> dict[str, int]:
    """Count answers by status; "none" counts requests without one."""
    return {str(status or "none"): count for status, count in sorted(Counter(answer.status for answer in answers).items())}


def table(title: str, rows: Sequence[tuple[str, str]]) -> str:
    """Return a Markdown table of two columns."""
    return "\n".join([f"| {title} | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows), ""])


def write_report(out: Path | None, name: str, facts: Mapping[str, object], text: str) -> None:
    """Write `NAME.json` and `NAME.md` into a folder, if there is one."""
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{name}.json").write_text(json.dumps(facts, indent=2) + "\n")
        (out / f"{name}.md").write_text(text)
