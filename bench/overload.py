"""More requests than the service can take: what is accepted stays quick, the rest is refused quickly, memory stays flat.

A service of its own takes arrivals at a multiple of its capacity, at random times that do not wait for answers. Its queue is
short, because the latency of what is accepted is made of how many wait for those that run. Senders and service share a machine.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from .load import Answer, Call, clients, loaders, milliseconds, open_loop, probe, statuses, table, wait_for, write_report
from .service_process import ServiceProcess, running_service

__all__ = ["Overload", "main", "run"]

PROBE_S = 0.05  # between two questions to /livez
SAMPLE_S = 0.5  # between two looks at the memory


@dataclass(frozen=True)
class Overload:
    """What was measured: rates in requests a second, latencies in ms, memory in MiB."""

    query: str
    picture: str
    queue_size: int
    factor: float
    seconds: float
    capacity: float
    offered: float
    accepted: float
    unloaded_p50: float
    unloaded_p99: float
    accepted_p50: float
    accepted_p99: float
    refused_share: float
    refused_p50: float
    refused_p99: float
    without_retry_after: int
    statuses: dict[str, int]
    livez_p50: float
    livez_p99: float
    livez_max: float
    livez_failures: int
    sent_late_p99: float
    memory_start: float
    memory_end: float
    memory_least: float
    memory_most: float

    @property
    def ok(self) -> bool:
        """Whether only 200 and 429 came back, each 429 with Retry-After, and /livez always answered."""
        return set(self.statuses) <= {"200", "429"} and self.without_retry_after == self.livez_failures == 0

    def table(self) -> str:
        """Return a Markdown table."""
        ratio = self.accepted_p99 / self.unloaded_p99
        flat = max(self.memory_most / self.memory_start, self.memory_start / self.memory_least) - 1
        rows = [
            ("capacity", f"{self.capacity:.2f} requests/s"),
            ("offered / accepted", f"{self.offered:.2f} / {self.accepted:.2f} requests/s for {self.seconds:.0f} s"),
            ("unloaded p50 / p99", f"{self.unloaded_p50:.0f} / {self.unloaded_p99:.0f} ms"),
            ("accepted p50 / p99", f"{self.accepted_p50:.0f} / {self.accepted_p99:.0f} ms, p99 {ratio:.2f} × unloaded"),
            (
                "refused with 429",
                f"{100 * self.refused_share:.1f} %, p50 / p99 {self.refused_p50:.1f} / {self.refused_p99:.1f} ms",
            ),
            ("429 without Retry-After", f"{self.without_retry_after}"),
            ("answers", ", ".join(f"{status}: {count:,}" for status, count in self.statuses.items())),
            ("/livez p50 / p99 / slowest", f"{self.livez_p50:.1f} / {self.livez_p99:.1f} / {self.livez_max:.1f} ms"),
            ("memory at the start / end", f"{self.memory_start:.0f} / {self.memory_end:.0f} MiB"),
            ("memory least / most", f"{self.memory_least:.0f} / {self.memory_most:.0f} MiB, {100 * flat:.1f} % off the start"),
            ("senders late by, p99", f"{self.sent_late_p99:.1f} ms"),
        ]
        return table(f"{self.factor:g} × capacity, {self.query}, {self.picture}, {self.queue_size} places", rows)


def run(
    picture: Path,
    out: Path | None = None,
    query: str = "codec=image-transform&quality=30",
    queue_size: int = 2,
    factor: float = 4.0,
    seconds: float = 300.0,
    threads: int = 1,
    calibrate_s: float = 20.0,
) -> Overload:
    """Measure, and write `overload.json` and `overload.md` into `out` where it is given.

    Raises `OSError` for a picture that does not open, `RuntimeError` when the service does not start or refuses the picture.
    """
    call = Call(f"/v1/encode?{query}", picture.read_bytes())
    with running_service({"threads": threads, "queue_size": queue_size}) as service, loaders(2) as pool:
        clients_of = pool.submit(clients, service.url, [call], 1, calibrate_s / 2).result()  # warms up as well
        if {answer.status for answer in clients_of} != {200}:
            raise RuntimeError(f"the service answers {statuses(clients_of)}, not 200")
        unloaded = pool.submit(clients, service.url, [call], 1, calibrate_s).result()
        busy = pool.submit(clients, service.url, [call], queue_size, calibrate_s).result()
        capacity = sum(answer.status == 200 for answer in busy) / _span(busy)
        sent = pool.submit(open_loop, service.url, [call], factor * capacity, seconds)
        health = pool.submit(probe, service.url, "/livez", PROBE_S, seconds)
        memory = [service.resident_mib()]
        answers = wait_for(sent, SAMPLE_S, lambda: memory.append(service.resident_mib()))
        result = _summary(answers, unloaded, health.result(), memory) | {"capacity": capacity}
        _check(service)
    overload = Overload(
        query=query,
        picture=picture.name,
        queue_size=queue_size,
        factor=factor,
        seconds=seconds,
        **result,  # type: ignore[arg-type]
    )
    write_report(out, "overload", asdict(overload), overload.table())
    return overload


def _summary(
    answers: list[Answer], unloaded: list[Answer], health: list[Answer], memory: list[float]
) -> dict[str, float | dict[str, int]]:
    """Return what the answers come to; fields of `Overload`."""
    accepted = [answer for answer in answers if answer.status == 200]
    refused = [answer for answer in answers if answer.status == 429]
    return {
        "offered": len(answers) / max(answer.sent for answer in answers),
        "accepted": len(accepted) / _span(answers),
        "unloaded_p50": milliseconds(unloaded, 0.5),
        "unloaded_p99": milliseconds(unloaded, 0.99),
        "accepted_p50": milliseconds(accepted, 0.5),
        "accepted_p99": milliseconds(accepted, 0.99),
        "refused_share": len(refused) / len(answers),
        "refused_p50": milliseconds(refused, 0.5),
        "refused_p99": milliseconds(refused, 0.99),
        "without_retry_after": sum(not answer.retry_after.isdigit() for answer in refused),
        "statuses": statuses(answers),
        "livez_p50": milliseconds(health, 0.5),
        "livez_p99": milliseconds(health, 0.99),
        "livez_max": milliseconds(health, 1.0),
        "livez_failures": sum(answer.status != 200 for answer in health),
        "sent_late_p99": 1000 * statistics.quantiles([a.late for a in answers], n=100)[-1] if len(answers) > 1 else math.nan,
        "memory_start": memory[0],
        "memory_end": memory[-1],
        "memory_least": min(memory),
        "memory_most": max(memory),
    }


def _span(answers: list[Answer]) -> float:
    """Return the seconds from the start of a load to its last answer."""
    return max(answer.sent + answer.seconds for answer in answers)


def _check(service: ServiceProcess) -> None:
    time.sleep(0.1)
    if not service.alive or service.failures():
        raise RuntimeError(f"the service failed: {service.failures()[-1:] or 'it ended'}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="laconic bench overload", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--picture", type=Path, required=True, help="picture file that every request posts")
    parser.add_argument("-o", "--out", type=Path, help="folder for overload.json and overload.md")
    parser.add_argument("--query", default="codec=image-transform&quality=30", help="parameters of /v1/encode")
    parser.add_argument("--queue-size", type=int, default=2, help="requests that the service holds: one runs, the others wait")
    parser.add_argument("--factor", type=float, default=4.0, help="times the capacity that arrives")
    parser.add_argument("--seconds", type=float, default=300.0, help="length of the overload")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of the service")
    parser.add_argument("--calibrate-s", type=float, default=20.0, help="seconds to measure latency, and capacity, for")
    return parser


def main(arguments: Iterable[str] | None = None) -> int:
    """Run from the command line; prints the table and returns the exit code."""
    overload = run(**vars(_parser().parse_args(None if arguments is None else list(arguments))))
    print(overload.table(), end="")
    return 0 if overload.ok else 1


if __name__ == "__main__":
    raise SystemExit(main())
