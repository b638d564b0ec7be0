"""Whose turn it is: what work is expected to take, and an order in which short work passes long work but nothing starves.

The turn of a piece of work is the time it came plus `STRETCH` times its expected seconds. Of everything that waits, the
earliest turn goes first: work of 10 ms passes work of 20 s that came up to 40 s before it, and none that came earlier than
that. So no work waits for what comes later than `STRETCH` times its own length after it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable
from dataclasses import dataclass

__all__ = ["SHORT_S", "Costs", "Plan"]

STRETCH = 2.0
SHORT_S = 0.5  # expected seconds up to which work is short: it has a thread and places that long work never takes
FIRST_RATE = 1e-6  # seconds a pixel, until work of the kind has been measured
FIRST_PIXELS = 50_000.0  # how much measured work outweighs that guess
MEMORY = 0.9  # what earlier work counts in comparison with the next


@dataclass(frozen=True)
class Plan:
    """How work is to be run, known from headers alone.

    Work with equal keys may run together; None runs alone and never waits for company. `seconds` is what it is expected to
    take, alone. `anywhere` says that it needs no device and may run beside its owner. Work of a `kind` takes similar time per
    pixel.
    """

    batch_key: Hashable | None = None
    seconds: float = 0.0
    anywhere: bool = False
    kind: Hashable = None
    pixels: int = 0

    @property
    def short(self) -> bool:
        """Whether it may use what is kept for short work."""
        return self.seconds <= SHORT_S

    def turn(self, came: float | None = None) -> float:
        """Return the turn of this work if it came at `came`, a time of `time.monotonic`, by default now."""
        came = time.monotonic() if came is None else came
        return came + STRETCH * self.seconds


class Costs:
    """What work of each kind takes for a pixel, learned from work done. Safe to use from several threads."""

    def __init__(self) -> None:
        self._done: dict[Hashable, tuple[float, float]] = {}  # seconds and pixels, older work counting less
        self._lock = threading.Lock()

    def expect(self, kind: Hashable, pixels: int) -> float:
        """Return the seconds that work of a kind is expected to take for so many pixels."""
        seconds, measured = self._done.get(kind, (FIRST_RATE * FIRST_PIXELS, FIRST_PIXELS))
        return pixels * seconds / measured

    def learn(self, kind: Hashable, pixels: int, seconds: float) -> None:
        """Take account of work that was done; `kind` comes from a fixed set, never from a request's bytes."""
        with self._lock:
            before = self._done.get(kind, (FIRST_RATE * FIRST_PIXELS, FIRST_PIXELS))
            self._done[kind] = (MEMORY * before[0] + seconds, MEMORY * before[1] + pixels)
