"""A service at a steady part of its capacity for a long time: whether its memory grows, and whether anything fails.

Requests of several kinds arrive at random times. Memory after the warm-up is fitted with a line by least squares; its slope is
given for an hour.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..codecs import compress, media
from .load import Call, clients, loaders, milliseconds, open_loop, statuses, table, wait_for, write_report
from .service_process import running_service

__all__ = ["Soak", "main", "run", "slope"]

SAMPLE_S = 1.0
WARM_UP = 0.2  # of the time, that does not count for the slope
QUERIES = (
    "codec=image-transform&quality=30",
    "codec=jpeg",
    "codec=webp&effort=1",
    "codec=jxl&effort=3",
    "codec=jpeg&target_bpp=1",
)
FORMS = ("codec=image-transform&quality=30", "codec=webp&quality=50")  # of which files are decoded


@dataclass(frozen=True)
class Soak:
    """What was measured: rates in requests a second, latencies in ms, memory in MiB, its slope in MiB an hour."""

    picture: str
    load: float
    minutes: float
    capacity: float
    requests: int
    statuses: dict[str, int]
    p50: float
    p99: float
    memory_start: float
    memory_end: float
    memory_most: float
    memory_slope: float
    slope_error: float

    @property
    def server_errors(self) -> int:
        """Number of answers of 500 and above, and of requests without one."""
        return sum(count for status, count in self.statuses.items() if status == "none" or status >= "500")

    def table(self) -> str:
        """Return a Markdown table."""
        rows = [
            ("capacity", f"{self.capacity:.2f} requests/s"),
            ("requests", f"{self.requests:,} in {self.minutes:g} min"),
            ("answers", ", ".join(f"{status}: {count:,}" for status, count in self.statuses.items())),
            ("5xx, or no answer", f"{self.server_errors}"),
            ("latency p50 / p99", f"{self.p50:.0f} / {self.p99:.0f} ms"),
            (
                "memory at the start / end / most",
                f"{self.memory_start:.0f} / {self.memory_end:.0f} / {self.memory_most:.0f} MiB",
            ),
            ("slope after warm-up", f"{self.memory_slope:+.1f} ± {self.slope_error:.1f} MiB/h (one standard error)"),
        ]
        return table(f"{100 * self.load:.0f} % of capacity, {len(QUERIES) + len(FORMS)} kinds of request, {self.picture}", rows)


def run(picture: Path, out: Path | None = None, minutes: float = 30.0, load: float = 0.7, threads: int = 1) -> Soak:
    """Measure, and write `soak.json` and `soak.md` into `out` where it is given.

    Raises `OSError` for a picture that does not open, `RuntimeError` when the service does not start.
    """
    calls = _calls(picture.read_bytes())
    with running_service({"threads": threads}) as service, loaders(1) as pool:
        pool.submit(clients, service.url, calls, 4, 600.0, 4 * len(calls)).result()
        busy = pool.submit(clients, service.url, calls, 4, min(60.0, 12 * minutes)).result()
        capacity = len(busy) / max(answer.sent + answer.seconds for answer in busy)
        sent = pool.submit(open_loop, service.url, calls, load * capacity, 60 * minutes)
        began, samples = time.monotonic(), list[tuple[float, float]]()
        answers = wait_for(sent, SAMPLE_S, lambda: samples.append((time.monotonic() - began, service.resident_mib())))
    counted = [sample for sample in samples if sample[0] >= WARM_UP * 60 * minutes]
    memory = [mib for _, mib in samples]
    a_second, error = slope(counted)
    soak = Soak(
        picture=picture.name,
        load=load,
        minutes=minutes,
        capacity=capacity,
        requests=len(answers),
        statuses=statuses(answers),
        p50=milliseconds(answers, 0.5),
        p99=milliseconds(answers, 0.99),
        memory_start=memory[0],
        memory_end=memory[-1],
        memory_most=max(memory),
        memory_slope=3600 * a_second,
        slope_error=3600 * error,
    )
    write_report(out, "soak", asdict(soak) | {"memory": samples}, soak.table())
    return soak


def slope(samples: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return slope and standard error of the least-squares line through (x, y); 0 and infinity for fewer than three."""
    if len(samples) < 3:
        return 0.0, float("inf")
    x, y = np.array(samples).T
    centred = x - x.mean()
    spread = float((centred**2).sum())
    rise = float((centred * y).sum()) / spread
    residual = y - y.mean() - rise * centred
    return rise, float(np.sqrt((residual**2).sum() / (len(x) - 2) / spread))


def _calls(body: bytes) -> list[Call]:
    """Return the requests of the mix."""
    encodings = [Call(f"/v1/encode?{query}", body) for query in QUERIES]
    decodings = []
    for form in FORMS:
        codec, quality = (part.partition("=")[2] for part in form.split("&"))
        stream = compress.encode(media.read(body), codec, {"quality": int(quality)}, device="cpu").data
        decodings.append(Call("/v1/decode", stream))
    return [*encodings, *decodings]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="laconic bench soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--picture", type=Path, required=True, help="picture file that is encoded and decoded")
    parser.add_argument("-o", "--out", type=Path, help="folder for soak.json and soak.md")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--load", type=float, default=0.7, help="part of the capacity that arrives")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of the service")
    return parser


def main(arguments: Iterable[str] | None = None) -> int:
    """Run from the command line; prints the table and returns the exit code."""
    soak = run(**vars(_parser().parse_args(None if arguments is None else list(arguments))))
    print(soak.table(), end="")
    return 0 if soak.server_errors == 0 else 1


if __name__ == "__main__":
    raise SystemExit(main())
