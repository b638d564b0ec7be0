"""A service at a steady part of its capacity for a long time: whether its memory grows, and whether anything fails.

Requests of several kinds arrive at random times. Part of the warm-up is a burst of several times the capacity, which fills
the queue: what the service takes when it is full for the first time it keeps, and that is no growth. Memory after the warm-up,
by its median in each thirtieth of the time, is fitted with a line by least squares; its slope is given for an hour.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..codecs import compress, media
from .load import Call, clients, loaders, milliseconds, open_loop, statuses, table, wait_for, write_report
from .service_process import running_service

__all__ = ["Soak", "main", "medians", "run", "slope"]

SAMPLE_S = 1.0
BURST = 4.0  # times the capacity that arrives for `burst_s` seconds before the time counts
WARM_UP = 0.2  # of the time, that does not count for the slope either
PIECES = 30  # of the time, each of which gives the slope one point
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
    """What was measured: rates in requests a second, latencies in ms, memory in MiB, its slope in MiB an hour.

    `memory_before` is that of the warm service before the burst, `burst` counts the answers in the burst. The slope is of
    memory that is no file's (`ServiceProcess.anonymous_mib`).
    """

    picture: str
    load: float
    minutes: float
    capacity: float
    requests: int
    statuses: dict[str, int]
    burst_s: float
    burst: dict[str, int]
    p50: float
    p99: float
    memory_before: float
    memory_start: float
    memory_end: float
    memory_most: float
    memory_slope: float
    slope_error: float

    @property
    def server_errors(self) -> int:
        """Number of answers of 500 and above, and of requests without one, those of the burst included."""
        counts = [*self.statuses.items(), *self.burst.items()]
        return sum(count for status, count in counts if status == "none" or status >= "500")

    def table(self) -> str:
        """Return a Markdown table."""
        rows = [
            ("capacity", f"{self.capacity:.2f} requests/s"),
            ("requests", f"{self.requests:,} in {self.minutes:g} min"),
            ("answers", _said(self.statuses)),
            (f"answers in the burst, {BURST:g} × capacity for {self.burst_s:.0f} s before", _said(self.burst)),
            ("5xx, or no answer", f"{self.server_errors}"),
            ("latency p50 / p99", f"{self.p50:.0f} / {self.p99:.0f} ms"),
            (
                "memory before the burst / at the start / end / most",
                f"{self.memory_before:.0f} / {self.memory_start:.0f} / {self.memory_end:.0f} / {self.memory_most:.0f} MiB",
            ),
            ("slope after warm-up", f"{self.memory_slope:+.1f} ± {self.slope_error:.1f} MiB/h (one standard error)"),
        ]
        return table(f"{100 * self.load:.0f} % of capacity, {len(QUERIES) + len(FORMS)} kinds of request, {self.picture}", rows)


def run(
    picture: Path,
    out: Path | None = None,
    minutes: float = 30.0,
    load: float = 0.7,
    threads: int = 1,
    burst_s: float = 90.0,
) -> Soak:
    """Measure, and write `soak.json` and `soak.md` into `out` where it is given.

    Raises `OSError` for a picture that does not open, `RuntimeError` when the service does not start.
    """
    calls = _calls(picture.read_bytes())
    with running_service({"threads": threads}) as service, loaders(1) as pool:
        pool.submit(clients, service.url, calls, 4, 600.0, 4 * len(calls)).result()
        busy = pool.submit(clients, service.url, calls, 4, min(60.0, 12 * minutes)).result()
        capacity = len(busy) / max(answer.sent + answer.seconds for answer in busy)
        before = service.resident_mib()
        burst = pool.submit(open_loop, service.url, calls, BURST * capacity, burst_s, 2).result() if burst_s else []
        sent = pool.submit(open_loop, service.url, calls, load * capacity, 60 * minutes)
        began, samples = time.monotonic(), list[tuple[float, float, float]]()

        def look() -> None:
            samples.append((time.monotonic() - began, service.resident_mib(), service.anonymous_mib()))

        answers = wait_for(sent, SAMPLE_S, look)
    piece_s = 60 * minutes / PIECES
    points = medians([(at, anonymous) for at, _, anonymous in samples if at >= WARM_UP * 60 * minutes], piece_s)
    memory = [resident for _, resident, _ in samples]
    a_second, error = slope(points)
    soak = Soak(
        picture=picture.name,
        load=load,
        minutes=minutes,
        capacity=capacity,
        requests=len(answers),
        statuses=statuses(answers),
        burst_s=burst_s,
        burst=statuses(burst),
        p50=milliseconds(answers, 0.5),
        p99=milliseconds(answers, 0.99),
        memory_before=before,
        memory_start=memory[0],
        memory_end=memory[-1],
        memory_most=max(memory),
        memory_slope=3600 * a_second,
        slope_error=3600 * error,
    )
    write_report(out, "soak", asdict(soak) | {"memory": samples}, soak.table())
    return soak


def medians(samples: Sequence[tuple[float, float]], width: float) -> list[tuple[float, float]]:
    """Return the (x, y) of each stretch of x of this width: its middle, and the median of its y."""
    pieces: dict[int, list[float]] = {}
    for x, y in samples:
        pieces.setdefault(int(x // width), []).append(y)
    return [((number + 0.5) * width, statistics.median(values)) for number, values in sorted(pieces.items())]


def slope(samples: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return slope and standard error of the least-squares line through (x, y); 0 and infinity for fewer than three.

    The error is enlarged for residuals of which neighbours are alike (a first-order autoregression, whose r is estimated): of
    memory, which moves in steps, they always are.
    """
    if len(samples) < 3:
        return 0.0, float("inf")
    x, y = np.array(samples).T
    centred = x - x.mean()
    spread = float((centred**2).sum())
    rise = float((centred * y).sum()) / spread
    residual = y - y.mean() - rise * centred
    squares = float((residual**2).sum())
    alike = min(0.95, max(0.0, float((residual[1:] * residual[:-1]).sum()) / squares)) if squares else 0.0
    return rise, math.sqrt(squares / (len(x) - 2) / spread * (1 + alike) / (1 - alike))


def _said(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{status}: {count:,}" for status, count in counts.items())


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
    parser.add_argument(
        "--burst-s", type=float, default=90.0, help=f"seconds at {BURST:g} times the capacity before the time counts"
    )
    parser.add_argument("--threads", type=int, default=1, help="torch threads of the service")
    return parser


def main(arguments: Iterable[str] | None = None) -> int:
    """Run from the command line; prints the table and returns the exit code."""
    soak = run(**vars(_parser().parse_args(None if arguments is None else list(arguments))))
    print(soak.table(), end="")
    return 0 if soak.server_errors == 0 else 1


if __name__ == "__main__":
    raise SystemExit(main())
