"""A gate that lets only so many pictures, and so many pixels, into memory at once."""

from __future__ import annotations

import asyncio
from bisect import insort
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from .lanes import Plan

__all__ = ["Gate"]


@dataclass(frozen=True, eq=False)
class _Visit:
    turn: float
    pixels: int
    short: bool
    admitted: asyncio.Future[None]


class Gate:
    """Lets holders in, in the order of their turns, while they are at most `count` and have at most `pixels` together.

    Long work holds at most half of the count. One holder alone may always pass, whatever its size. Belongs to one event loop.
    """

    def __init__(self, count: int, pixels: int) -> None:
        self._count, self._pixels = count, pixels
        self._inside: set[_Visit] = set()
        self._waiting: list[_Visit] = []

    @asynccontextmanager
    async def hold(self, pixels: int, plan: Plan | None = None) -> AsyncIterator[None]:
        """Wait for room for a picture of this many pixels, and hold it as long as the block lasts."""
        plan = plan or Plan()
        visit = _Visit(plan.turn(), pixels, plan.short, asyncio.get_running_loop().create_future())
        insort(self._waiting, visit, key=lambda other: other.turn)
        self._admit()
        try:
            await visit.admitted
            yield
        finally:  # nothing to await here: a cancelled holder leaves for certain
            self._inside.discard(visit)
            if visit in self._waiting:
                self._waiting.remove(visit)
            self._admit()

    def _admit(self) -> None:
        """Let in whoever fits; long work beyond its half is passed by, everything else is waited for."""
        for visit in list(self._waiting):
            if not visit.short and sum(not other.short for other in self._inside) >= max(1, self._count // 2):
                continue
            if not self._has_room(visit.pixels):
                return
            self._waiting.remove(visit)
            self._inside.add(visit)
            if not visit.admitted.done():
                visit.admitted.set_result(None)

    def _has_room(self, pixels: int) -> bool:
        held = sum(other.pixels for other in self._inside)
        return not self._inside or (len(self._inside) < self._count and held + pixels <= self._pixels)
