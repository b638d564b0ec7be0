"""The capacity model of docs/operations.md: from what a request costs to how many cores serve so many requests a second.

    cores = requests a second x (processor ms per megapixel x megapixels + processor ms of HTTP) / 1000 / utilisation

It counts processor time and supposes that work spreads evenly over processes of one core each, which share nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .costs import Cost

__all__ = ["DOCS_BEGIN", "DOCS_END", "HTTP_MS", "MEGAPIXELS", "RATES", "UTILISATION", "capacity_table", "cores"]

DOCS_BEGIN, DOCS_END = "<!-- capacity: begin -->", "<!-- capacity: end -->"
HTTP_MS = 1.0  # of processor time of one request beside reading and coding: docs/benchmarks.md, "What a request costs"
MEGAPIXELS = 768 * 512 / 1e6
UTILISATION = 0.7  # above it waiting grows steeply: in an M/M/1 queue it is 1 / (1 - u) times the work
RATES = (10, 100, 1_000, 10_000)  # requests a second


def cores(rate: float, ms_per_megapixel: float, megapixels: float = MEGAPIXELS, utilisation: float = UTILISATION) -> int:
    """Return the cores that serve `rate` requests a second, at least 1.

    >>> cores(100, 250.0, 1.0)
    36
    """
    return max(1, math.ceil(rate * (ms_per_megapixel * megapixels + HTTP_MS) / 1000 / utilisation))


def capacity_table(costs: Iterable[Cost]) -> str:
    """Return the Markdown table of cores by codec, way and rate."""
    lines = [
        "| codec | way | requests a second on one core | " + " | ".join(f"cores for {rate:,}/s" for rate in RATES) + " |",
        "|---|---|---:|" + "---:|" * len(RATES),
    ]
    for cost in costs:
        for way, milliseconds in (
            ("encode", round(cost.encode_ms)),
            ("decode", round(cost.decode_ms)),
        ):  # as its table shows them
            alone = 1000 * UTILISATION / (milliseconds * MEGAPIXELS + HTTP_MS)
            needed = " | ".join(f"{cores(rate, milliseconds):,}" for rate in RATES)
            lines.append(f"| {cost.name} | {way} | {alone:.1f} | {needed} |")
    return "\n".join([*lines, ""])
