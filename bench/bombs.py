"""Bombs against the service: how fast each is refused, and how much memory that takes.

Every bomb is posted to a service of its own that is warm, several times; the slowest answer counts, and the largest growth of
all its processes' peak memory. What is within the limits and only expensive for its bytes is listed too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from .hostile_files import Bomb, bombs, small_streams
from .load import write_report
from .service_process import ServiceProcess, running_service

__all__ = ["Blast", "main", "run", "table_of"]

FAST_MS, SMALL_MIB = 50.0, 64.0
TIMEOUT_S = 150.0


@dataclass(frozen=True)
class Blast:
    """What one bomb did: status (0 for no answer), slowest answer in ms, growth of peak memory in MiB."""

    name: str
    file_bytes: int
    refusable: bool
    status: int
    code: str
    milliseconds: float
    growth_mib: float

    @property
    def refused(self) -> bool:
        """Whether it was told that something is wrong with it, and nothing is wrong with the service."""
        return 400 <= self.status < 500

    @property
    def ok(self) -> bool:
        """Whether it was refused in time and space; what cannot be refused must only be answered."""
        return (self.refused and self.milliseconds < FAST_MS and self.growth_mib < SMALL_MIB) or (
            not self.refusable and 0 < self.status < 500
        )


def run(out: Path | None = None, repeats: int = 3, only: str = "") -> list[Blast]:
    """Post every bomb whose name contains `only`, and write `bombs.json` and `bombs.md` into `out` where it is given.

    Raises `RuntimeError` when the service does not start or ends.
    """
    with running_service({}) as service, httpx.Client(base_url=service.url, timeout=TIMEOUT_S) as client:
        _warm_up(client)
        blasts = [_blast(service, client, bomb, repeats) for bomb in bombs() if only in bomb.name]
    write_report(out, "bombs", {"bombs": [asdict(blast) for blast in blasts]}, table_of(blasts))
    return blasts


def _warm_up(client: httpx.Client) -> None:
    """Code a small picture of every codec both ways: what is loaded once does not count as growth."""
    for codec, stream in small_streams().items():
        picture = client.post("/v1/decode", content=stream).content
        client.post(f"/v1/encode?codec={codec}", content=picture)


def _blast(service: ServiceProcess, client: httpx.Client, bomb: Bomb, repeats: int) -> Blast:
    slowest = growth = 0.0
    status, code = 0, ""
    for _ in range(repeats if bomb.refusable else 1):
        grown = service.watch_peak()
        began = time.perf_counter()
        try:
            response = client.post(bomb.path, content=bomb.body)
            status = response.status_code
            code = response.json().get("code", "") if status >= 400 else ""
        except httpx.HTTPError as error:
            status, code = 0, type(error).__name__
        slowest = max(slowest, 1000 * (time.perf_counter() - began))
        growth = max(growth, grown())
        if not service.alive:
            raise RuntimeError(f"the service ended at {bomb.name}")
    return Blast(bomb.name, len(bomb.body), bomb.refusable, status, code, slowest, growth)


def table_of(blasts: Sequence[Blast]) -> str:
    """Return a Markdown table."""
    lines = ["| bomb | bytes | answer | slowest ms | growth MiB | |", "|---|---:|---|---:|---:|---|"]
    for blast in blasts:
        verdict = "within the limits" if blast.ok and not blast.refusable else "ok" if blast.ok else "**NOT REFUSED IN TIME**"
        answer = f"{blast.status or 'none'} {blast.code}"
        figures = f"{blast.milliseconds:.1f} | {blast.growth_mib:.1f}"
        lines.append(f"| {blast.name} | {blast.file_bytes:,} | {answer} | {figures} | {verdict} |")
    return "\n".join([*lines, ""])


def main(arguments: Iterable[str] | None = None) -> int:
    """Run from the command line; prints the table and returns the exit code."""
    parser = argparse.ArgumentParser(prog="laconic bench bombs", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-o", "--out", type=Path, help="folder for bombs.json and bombs.md")
    parser.add_argument("--repeats", type=int, default=3, help="times that each is posted")
    parser.add_argument("--only", default="", help="part of the names of those to post")
    blasts = run(**vars(parser.parse_args(None if arguments is None else list(arguments))))
    print(table_of(blasts), end="")
    return 0 if all(blast.ok for blast in blasts) else 1


if __name__ == "__main__":
    raise SystemExit(main())
