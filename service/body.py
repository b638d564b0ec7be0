"""Read a raw request body with every limit enforced while the bytes come in, before anything looks at them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.datastructures import Headers
from starlette.types import Receive

from ..codecs.errors import LimitExceeded, UnsupportedMedia
from .problems import BadRequest, BodyTimeout, ClientGone, QueueFull
from .settings import ServiceSettings, variable

__all__ = ["BodyReader"]

SPREAD = 1.1  # up to a tenth more time: bodies that began together do not all end together, in one turn of the event loop


class BodyReader:
    """Reads bodies, each held to `max_body_bytes` and all together to `max_buffered_bytes`.

    Belongs to one event loop: the running total needs no lock.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self._limit = settings.max_body_bytes
        self._shared_limit = settings.max_buffered_bytes
        self._timeout = settings.body_timeout_s
        self.buffered = 0

    @asynccontextmanager
    async def read(self, headers: Headers, receive: Receive) -> AsyncIterator[bytes]:
        """Yield the whole body; its bytes count as held until the block ends.

        Raises `LimitExceeded` (413) as soon as the declared or the real length is too long, `QueueFull` (429) when all
        bodies together are, `BodyTimeout` (408), `UnsupportedMedia` (415) for forms and compressed bodies, `BadRequest`
        (400) when there is no body, `ClientGone` when the client leaves.
        """
        self._check_headers(headers)
        pieces, body = list[bytes](), b""
        try:
            await self._collect(pieces, receive)
            body = b"".join(pieces)
            pieces.clear()  # a body that waits its turn is held once, not twice
            if not body:
                raise BadRequest("there is no body: send the file's bytes as the body, as curl -T does")
            yield body
        finally:
            self.buffered -= sum(map(len, pieces)) + len(body)

    def _check_headers(self, headers: Headers) -> None:
        if headers.get("content-type", "").startswith("multipart/"):
            raise UnsupportedMedia("forms are not read: send the file's bytes as the body, as curl -T does")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise UnsupportedMedia("the body must not be compressed: leave Content-Encoding out")
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            raise BadRequest(f"Content-Length is {length!r}, not a number")
        self._check_length(int(length))

    async def _collect(self, pieces: list[bytes], receive: Receive) -> None:
        length = 0
        try:
            async with asyncio.timeout(self._timeout * random.uniform(1, SPREAD)):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone("the client left while it sent the body")
                    piece = message.get("body", b"")
                    length += len(piece)
                    self._check_length(length)
                    self._check_shared(len(piece))
                    pieces.append(piece)
                    self.buffered += len(piece)
                    more = message.get("more_body", False)
        except TimeoutError as error:
            raise BodyTimeout(
                f"{length:,} bytes came in {self._timeout:g} s; {variable('body_timeout_s')} allows more time"
            ) from error

    def _check_length(self, length: int) -> None:
        if length > self._limit:
            raise LimitExceeded("the body's size in bytes", self._limit, length, variable("max_body_bytes"))

    def _check_shared(self, length: int) -> None:
        if self.buffered + length > self._shared_limit:
            total = self.buffered + length
            raise QueueFull("bytes of all bodies held", self._shared_limit, total, variable("max_buffered_bytes"))
