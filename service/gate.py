"""A gate that lets only so many pictures, and so many pixels, into memory at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["Gate"]


class Gate:
    """Lets holders in, in order, while they are at most `count` and have at most `pixels` together.

    One holder alone may always pass, whatever its size. Belongs to one event loop.
    """

    def __init__(self, count: int, pixels: int) -> None:
        self._count, self._pixels = count, pixels
        self._inside, self._held = 0, 0
        self._turn = asyncio.Lock()  # first come, first served: small pictures do not overtake a large one for ever
        self._left = asyncio.Event()

    @asynccontextmanager
    async def hold(self, pixels: int) -> AsyncIterator[None]:
        """Wait for room for a picture of this many pixels, and hold it as long as the block lasts."""
        async with self._turn:
            while not self._has_room(pixels):
                self._left.clear()
                await self._left.wait()
            self._inside += 1
            self._held += pixels
        try:
            yield
        finally:  # nothing to await here: a cancelled holder leaves for certain
            self._inside -= 1
            self._held -= pixels
            self._left.set()

    def _has_room(self, pixels: int) -> bool:
        return self._inside == 0 or (self._inside < self._count and self._held + pixels <= self._pixels)
