"""Kill the service with signal 9 at random moments while it runs jobs, start it again, and count what was lost or done twice.

A client keeps a few jobs waiting all the time, through the kills, and never submits one twice on purpose: what it sends again
has the same Idempotency-Key. In the end every job must have ended once, with the bytes that encoding in this process gives.
"""

from __future__ import annotations

import argparse
import random
import socket
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

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


def run(kills: int, longest_s: float = 6.0, size: int = 96, seed: int = 1, attempts: int = 3) -> CrashReport:
    """Kill `kills` times, each after 0 to `longest_s` seconds of service; jobs encode noise of `size` × `size` pixels.

    A job may be started `attempts` times; chance may well kill one as often.
    """
    chance = random.Random(seed)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="laconic-crash-") as name:
        folder, port = Path(name), _free_port()
        customer = _Customer(f"http://127.0.0.1:{port}", size)
        customer.start()
        in_a_job = 0
        for _ in range(kills):
            with _service(folder, port, attempts):
                time.sleep(chance.uniform(0.0, longest_s))
            in_a_job += _running(folder) > 0
        with _service(folder, port, attempts):
            pictures = customer.finish()
            lost = sum(not _is_right(customer.url, job, size, number) for number, job in pictures.items())
        given_up, redone, stored = _counts(folder)
    return CrashReport(
        kills=kills,
        kills_in_a_job=in_a_job,
        jobs=len(pictures),
        lost=lost - given_up,
        duplicated=stored - len(pictures),
        given_up=given_up,
        redone=redone,
        seconds=time.monotonic() - began,
    )


class _Customer:
    """Submits jobs from a thread of its own, so that `WAITING` are unfinished; knocks until the service answers."""

    def __init__(self, url: str, size: int) -> None:
        self.url, self._size = url, size
        self._jobs: dict[int, str] = {}  # the picture's number to the job's id
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._submit, daemon=True)

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
                answer = httpx.request(method, self.url + path, content=content, params=query, headers=headers, timeout=10)
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


def _running(folder: Path) -> int:
    return int(_query(folder, "SELECT count(*) FROM jobs WHERE state = 'running'")[0])


def _counts(folder: Path) -> tuple[int, int, int]:
    """Return how many jobs were given up, how many attempts were not a job's first, and how many jobs there are."""
    query = "SELECT total(error LIKE '%\"job-lost\"%'), total(max(attempts - 1, 0)), count(*) FROM jobs"
    given_up, redone, stored = _query(folder, query)
    return int(given_up), int(redone), int(stored)


def _query(folder: Path, query: str) -> tuple[float, ...]:
    database = sqlite3.connect(folder / "jobs.sqlite", timeout=30)
    try:
        return tuple(database.execute(query).fetchone())
    finally:
        database.close()


@contextmanager
def _service(folder: Path, port: int, attempts: int) -> Iterator[None]:
    """Run a service, ready, and kill it with signal 9 at the end of the block."""
    settings = {"codecs": CODEC, "threads": 1, "state_dir": folder, "job_lease_s": 1, "job_attempts": attempts}
    with running_service({"port": port, **settings}) as service:
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
    arguments = _parser().parse_args()
    if arguments.fit is not None:
        return _main_fit(arguments.fit, arguments.kills, arguments.longest, arguments.seed)
    try:
        report = run(arguments.kills, arguments.longest, arguments.size, arguments.seed, arguments.attempts)
    except (LaconicError, OSError, RuntimeError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(f"{report.kills} kills in {report.seconds:.0f} s, {CODEC} at effort {SETTINGS['effort']}\n\n{report.table()}")
    return 1 if report.lost or report.duplicated or report.redone > report.kills else 0


def _main_fit(seconds: float, kills: int, longest_s: float, seed: int) -> int:
    """Kill a fit; 1 when its result is not right, or more than `CHUNK_S` seconds are done twice."""
    try:
        report = run_fit(FIT_CODEC, {"seconds": f"{seconds:g}"}, seconds, kills, longest_s, seed)
    except (LaconicError, OSError, RuntimeError, httpx.HTTPError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(f"{FIT_CODEC}, {kills} kills\n\n{report.table()}")
    return 0 if report.good and max(report.redone, default=0.0) <= CHUNK_S else 1


if __name__ == "__main__":
    sys.exit(main())
