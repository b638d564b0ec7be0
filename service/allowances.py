"""How much each key has used of what it may: requests a minute, and bytes of bodies an hour.

Fixed windows that begin with a key's first use after the last one ended. Few lines, and so ours: `limits`, the library for
this, brings two more packages, and its exact windows keep an entry for each unit, which for bytes is millions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..codecs.errors import LimitExceeded
from .keys import Key
from .problems import RateLimited

__all__ = ["Allowance", "Allowances"]


@dataclass
class Window:
    """Uses of one quota; times are seconds of the allowances' clock. `unit` is a quota unit of the RateLimit draft."""

    unit: str
    quota: int
    seconds: int
    used: int = 0
    ends: float = 0.0

    def left(self, now: float) -> int:
        """Return what is left of the quota; begins a new window if the last one has ended."""
        if now >= self.ends:
            self.used, self.ends = 0, now + self.seconds
        return self.quota - self.used

    def wait(self, now: float) -> int:
        """Return the seconds until the window ends, at least 1."""
        return max(1, math.ceil(self.ends - now))


class Allowance:
    """What one key may still use."""

    def __init__(self, requests: Window | None, content: Window | None, clock: Callable[[], float]) -> None:
        self._requests, self._bytes, self._clock = requests, content, clock

    def take_request(self, length: int) -> None:
        """Count a request whose body claims so many bytes; counts nothing where it raises `RateLimited` or `LimitExceeded`."""
        self._check(self._requests, 1, "requests a minute")
        self._check(self._bytes, length, "bytes an hour")
        if self._requests is not None:
            self._requests.used += 1

    def take_bytes(self, count: int) -> None:
        """Count bytes of a body that have come; raises `RateLimited` where that is more than is left."""
        self._check(self._bytes, count, "bytes an hour")
        if self._bytes is not None:
            self._bytes.used += count

    def _check(self, window: Window | None, count: int, what: str) -> None:
        if window is None:
            return
        if count > window.quota:  # it would be refused for ever
            raise LimitExceeded("the body's size in bytes", window.quota, count, "a key with more bytes an hour")
        now = self._clock()
        if count > window.left(now):
            wait = window.wait(now)
            text = f"this key may use {window.quota:,} {what} and has {window.left(now):,} left: retry in {wait} s"
            raise RateLimited(text, wait, self.headers())

    def headers(self) -> dict[str, str]:
        """Return RateLimit and RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers-11); empty where nothing is limited."""
        now = self._clock()
        policies, states = [], []
        for window in filter(None, (self._requests, self._bytes)):
            name = "requests" if window.unit == "requests" else "bytes"
            unit = "" if window.unit == "requests" else f';qu="{window.unit}"'
            policies.append(f'"{name}";q={window.quota};w={window.seconds}{unit}')
            states.append(f'"{name}";r={window.left(now)};t={window.wait(now)}')
        return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(states)} if policies else {}


class Allowances:
    """The windows of all names. Keys of one name with the same quota share them, so replacing a key gives nothing anew.

    Belongs to one event loop; `clock` gives seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._windows: dict[tuple[str, str, int], Window] = {}

    def of(self, key: Key) -> Allowance:
        """Return what a key may still use."""
        requests = self._window(key.name, "requests", key.requests_per_minute, 60)
        content = self._window(key.name, "content-bytes", key.bytes_per_hour, 3600)
        return Allowance(requests, content, self._clock)

    def _window(self, name: str, unit: str, quota: int | None, seconds: int) -> Window | None:
        if quota is None:
            return None
        if len(self._windows) > 10_000:  # of keys long revoked
            now = self._clock()
            self._windows = {place: window for place, window in self._windows.items() if window.ends > now}
        return self._windows.setdefault((name, unit, quota), Window(unit, quota, seconds))
