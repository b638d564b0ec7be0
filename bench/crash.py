"""Kill the service with signal 9 at random moments while it runs jobs, start it again, and count what was lost or done twice.

A client keeps a few jobs waiting all the time, through the kills, and never submits one twice on purpose: what it sends again
has the same Idempotency-Key. In the end every job must have ended once, with the bytes that encoding in this process gives.
On stores that machines share there are two services, as on two machines, one of which is killed at a time.
"""

from __future__ import annotations

import argparse
import random
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from ..codecs import compress, media
from ..codecs.errors import LaconicError
from ..codecs.signals import Image
from .crash_fit import run_fit
from .service_process import running_service

__all__ = ["CrashReport", "main", "run"]

CODEC, SETTINGS = "jxl", {"effort": 9, "quality": 90}
FIT_CODEC, CHUNK_S = "video-inr", 10.0  # what a fit may lose by a kill
JOB_S = 300.0
WAITING = 4  # jobs that the client keeps unfinished


@dataclass(frozen=True)
class CrashReport:
    """What happened to the jobs.

    `lost` are submitted jobs that the service does not know, or whose result is not the expected bytes; `duplicated` are jobs
    beyond one for each submission, `given_up` those that failed because all allowed attempts died. `redone` counts attempts
    beyond the first; a kill costs at most one.
    """

    kills: int
    kills_in_a_job: int
    jobs: int
    lost: int
    duplicated: int
    given_up: int
    redone: int
    seconds: float

    def table(self) -> str:
        """Return a Markdown table."""
        rows = {
            "kills with signal 9": self.kills,
            "of them while a job ran": self.kills_in_a_job,
            "jobs": self.jobs,
            "lost": self.lost,
            "duplicated": self.duplicated,
            "given up after all attempts": self.given_up,
            "attempts done again": self.redone,
        }
        return "\n".join(["| | |", "|---|---:|", *(f"| {name} | {count} |" for name, count in rows.items()), ""])


def run(
    kills: int,
    longest_s: float = 6.0,
    size: int = 96,
    seed: int = 1,
    attempts: int = 3,
    stores: Mapping[str, str] | None = None,
) -> CrashReport:
    """Kill `kills` times, each after 0 to `longest_s` seconds of service; jobs encode noise of `size` × `size` pixels.

    A job may be started `attempts` times; chance may well kill one as often. `stores` are settings of stores that have no jobs
    yet and that two services share, with nothing else in common; chance decides which one is killed. Without them there is one
    service, which finds its folder again. Raises `RuntimeError` where a service does not start or the stores are not empty.
    """
    chance = random.Random(seed)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="laconic-crash-") as name, ExitStack() as stack:
        services = [stack.enter_context(_Service(Path(name), number, attempts, stores)) for number in range(2 if stores else 1)]
        if _jobs(services[0].url):
            raise RuntimeError("there are jobs in the stores already: give this empty ones")
        customer = _Customer([service.url for service in services], size)
        customer.start()
        in_a_job = 0
        for _ in range(kills):
            time.sleep(chance.uniform(0.0, longest_s))
            service = chance.choice(services)
            in_a_job += any(job["state"] == "running" for job in _jobs(service.url, 2 * WAITING))
            service.start_again()
        pictures = customer.finish()
        wrong = sum(not _is_right(customer.url(), job, size, number) for number, job in pictures.items())
        stored = _jobs(services[0].url)
    given_up = sum((job["error"] or {}).get("code") == "job-lost" for job in stored)
    return CrashReport(
        kills=kills,
        kills_in_a_job=in_a_job,
        jobs=len(pictures),
        lost=wrong - given_up,
        duplicated=len(stored) - len(pictures),
        given_up=given_up,
        redone=sum(max(0, job["attempts"] - 1) for job in stored),
        seconds=time.monotonic() - began,
    )


class _Service(AbstractContextManager["_Service"]):
    """A service that is killed and started again at the same port, on stores that are shared with a new folder each time."""

    def __init__(self, folder: Path, number: int, attempts: int, stores: Mapping[str, str] | None) -> None:
        self._folder, self._number, self._attempts, self._stores = folder, number, attempts, stores
        self._port, self._starts = _free_port(), 0
        self.url = f"http://127.0.0.1:{self._port}"
        self._running = self._started()

    def _started(self) -> ExitStack:
        self._starts += 1
        folder = self._folder / (f"{self._number}-{self._starts}" if self._stores else "state")
        with ExitStack() as stack:
            stack.enter_context(_service(folder, self._port, self._attempts, self._stores))
            return stack.pop_all()

    def start_again(self) -> None:
        """Kill it, and return when it is ready again."""
        self._running.close()
        self._running = self._started()

    def __exit__(self, *_: object) -> None:
        self._running.close()


def _jobs(url: str, limit: int = 10**9) -> list[dict[str, Any]]:
    """Return the newest jobs, all of them but for `limit`, as the service tells them."""
    found: list[dict[str, Any]] = []
    path: str | None = f"/v1/jobs?limit={min(limit, 100)}"
    while path is not None and len(found) < limit:
        page = httpx.get(url + path, timeout=60).raise_for_status().json()
        found, path = found + page["jobs"], page["next"]
    return found


class _Customer:
    """Submits jobs from a thread of its own, so that `WAITING` are unfinished; knocks until a service answers."""

    def __init__(self, urls: Sequence[str], size: int) -> None:
        self._urls, self._size = cycle(urls), size
        self._jobs: dict[int, str] = {}  # the picture's number to the job's id
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._submit, daemon=True)

    def url(self) -> str:
        """Return the services' URLs in turn, as a balancer would."""
        return next(self._urls)

    def start(self) -> None:
        self._thread.start()

    def finish(self) -> dict[int, str]:
        """Submit no more, and return the jobs once the last submission is through."""
        self._enough.set()
        self._thread.join(JOB_S)
        return self._jobs

    def _submit(self) -> None:
        while not self._enough.is_set() or len(self._jobs) <= WAITING:
            number = len(self._jobs)
            content = media.write(_noise(self._size, number), "png")
            query = {"op": "encode", "codec": CODEC, **{name: str(value) for name, value in SETTINGS.items()}}
            headers = {"Idempotency-Key": f"picture-{number}"}
            self._jobs[number] = str(self._knock("POST", "/v1/jobs", content, query, headers)["id"])
            while number >= WAITING and not self._enough.is_set() and not self._done(number - WAITING):
                time.sleep(0.1)

    def _done(self, number: int) -> bool:
        return self._knock("GET", f"/v1/jobs/{self._jobs[number]}", None, {}, {})["state"] not in ("queued", "running")

    def _knock(
        self, method: str, path: str, content: bytes | None, query: dict[str, str], headers: dict[str, str]
    ) -> dict[str, object]:
        while True:
            try:
                answer = httpx.request(method, self.url() + path, content=content, params=query, headers=headers, timeout=10)
                if answer.status_code < 300:
                    return dict(answer.json())
            except (httpx.HTTPError, ValueError):
                pass
            time.sleep(0.05)


def _noise(size: int, number: int) -> Image:
    return Image(np.random.default_rng(number).integers(0, 256, (size, size, 3), np.uint8))


def _is_right(url: str, job: str, size: int, number: int) -> bool:
    deadline = time.monotonic() + JOB_S
    while httpx.get(f"{url}/v1/jobs/{job}?wait=20", timeout=60).json().get("state") in ("queued", "running"):
        if time.monotonic() > deadline:
            return False
    expected = compress.encode(_noise(size, number), CODEC, SETTINGS).data
    return httpx.get(f"{url}/v1/jobs/{job}/result", timeout=60).content == expected


@contextmanager
def _service(folder: Path, port: int, attempts: int, stores: Mapping[str, str] | None = None) -> Iterator[None]:
    """Run a service, ready, and kill it with signal 9 at the end of the block."""
    settings = {"codecs": CODEC, "threads": 1, "state_dir": folder, "job_lease_s": 1, "job_attempts": attempts}
    with running_service({"port": port, **settings, **(stores or {})}) as service:
        try:
            yield
        finally:
            service.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="laconic bench crash", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="how often (default: %(default)s)")
    parser.add_argument("--longest", type=float, default=6.0, help="seconds of service before a kill, at most (%(default)s)")
    parser.add_argument("--size", type=int, default=96, help="side of the pictures in pixels (%(default)s)")
    parser.add_argument("--attempts", type=int, default=3, help="LACONIC_JOB_ATTEMPTS of the service (%(default)s)")
    parser.add_argument("--job-store", metavar="URL", help="LACONIC_JOB_STORE of two services that share it, with no jobs yet")
    parser.add_argument("--blob-store", metavar="URL", help="LACONIC_BLOB_STORE of the two; needed with --job-store")
    parser.add_argument("--seed", type=int, default=1, help="of the random moments (%(default)s)")
    parser.add_argument(
        "--fit",
        type=float,
        metavar="SECONDS",
        help="kill one fit of a video of so many seconds instead, and tell how many of them are done twice",
    )
    return parser


def main() -> int:
    """Run the command line; 1 when a job was lost or done twice."""
    parser = _parser()
    arguments = parser.parse_args()
    if (arguments.job_store is None) != (arguments.blob_store is None):
        parser.error("--job-store and --blob-store come together")
    given = {"job_store": arguments.job_store, "blob_store": arguments.blob_store}
    stores = given if arguments.job_store else None
    if arguments.fit is not None:
        return _main_fit(arguments.fit, arguments.kills, arguments.longest, arguments.seed, stores)
    try:
        report = run(arguments.kills, arguments.longest, arguments.size, arguments.seed, arguments.attempts, stores)
    except (LaconicError, OSError, RuntimeError, httpx.HTTPError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(f"{report.kills} kills in {report.seconds:.0f} s, {CODEC} at effort {SETTINGS['effort']}\n\n{report.table()}")
    return 1 if report.lost or report.duplicated or report.redone > report.kills else 0


def _main_fit(seconds: float, kills: int, longest_s: float, seed: int, stores: Mapping[str, str] | None) -> int:
    """Kill a fit; 1 when its result is not right, or more than `CHUNK_S` seconds are done twice."""
    try:
        report = run_fit(FIT_CODEC, {"seconds": f"{seconds:g}"}, seconds, kills, longest_s, seed, stores)
    except (LaconicError, OSError, RuntimeError, httpx.HTTPError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(f"{FIT_CODEC}, {kills} kills\n\n{report.table()}")
    return 0 if report.good and max(report.redone, default=0.0) <= CHUNK_S else 1


if __name__ == "__main__":
    sys.exit(main())
