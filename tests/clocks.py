"""Time that passes when a test tells it to."""

from __future__ import annotations

__all__ = ["Clock"]


class Clock:
    """Seconds that stand still until `now` is moved."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
