"""One HTTP/1.1 connection with what uvicorn leaves out: deadlines for headers and for taking answers, a bound on their number.

One sweep looks at all connections several times a second: cheaper than timers for each, and fine enough.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable
from typing import Any, cast

import h11
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from .middleware import PROTECTIVE_HEADERS
from .problems import BadRequest, HeaderTimeout, Unavailable, answer
from .runtime import Runtime
from .settings import variable

__all__ = ["Connection", "sweep"]

LATE_AT_ONCE = 50  # at some 70 microseconds each
PROGRESS = 16 * 2**10  # bytes that must be taken of an answer within `send_timeout_s`


class Connection(H11Protocol):
    """Uvicorn's protocol. A connection has `header_timeout_s` for each request's headers, else 408 and the end."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._runtime: Runtime = cast(FastAPI, self.config.app).state.runtime
        self._settings = self._runtime.settings
        self._head_due: float | None = None
        self.unsent = 0  # bytes of answers that the client has not taken, at the last sweep
        self.unsent_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, or refuse it with 503 when there are too many."""
        super().connection_made(transport)
        self._expect_head()
        if len(self.connections) > self._settings.max_connections:
            self._runtime.metrics.dropped.labels("too many").inc()
            setting = f"{variable('max_connections')} is {self._settings.max_connections:,}"
            self._refuse(Unavailable(f"too many connections are open: {setting}"))

    def data_received(self, data: bytes) -> None:
        """Take bytes; the first of a request's headers start its clock, the last stop it."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._head_due = None
        elif self._head_due is None:
            self._expect_head()

    def _expect_head(self) -> None:
        self._head_due = self.loop.time() + self._settings.header_timeout_s

    def on_response_complete(self) -> None:
        """Close where the request goes on after its answer: `Linger` has read what it would, and nobody times the rest."""
        unread = self.conn.their_state is h11.SEND_BODY  # of this request: the next may begin in the call below
        super().on_response_complete()
        if unread:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are no HTTP; after an answer has begun there is no place for another."""
        self._refuse(BadRequest(msg))

    def check(self, now: float) -> bool:
        """End the connection if its headers are late (then True) or its answer is not taken; `now` is the loop's time."""
        if self._head_due is not None and now >= self._head_due and not self.transport.is_closing():
            self._runtime.metrics.dropped.labels("headers late").inc()
            seconds = f"{self._settings.header_timeout_s:g} s"
            self._refuse(HeaderTimeout(f"the headers took more than {seconds}; {variable('header_timeout_s')} allows more"))
            return True
        unsent = self.transport.get_write_buffer_size()
        if unsent == 0 or unsent > self.unsent or unsent <= self.unsent - PROGRESS:
            self.unsent, self.unsent_since = unsent, now
        elif now - self.unsent_since > self._settings.send_timeout_s:
            self.drop()
        return False

    def drop(self) -> None:
        """Throw away what the client has not taken, and the connection."""
        self._runtime.metrics.dropped.labels("answer not taken").inc()
        self.unsent = 0
        self.transport.abort()

    def _refuse(self, error: Exception) -> None:
        """Send an error that belongs to no request, where an answer may still begin, and close."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            response = answer(error, "", uuid.uuid4().hex)
            for name, value in {**PROTECTIVE_HEADERS, "Cache-Control": "no-store", "Connection": "close"}.items():
                response.headers.setdefault(name, value)
            headers = [*self.server_state.default_headers, *response.raw_headers]
            start = h11.Response(status_code=response.status_code, headers=headers)
            for event in (start, h11.Data(data=bytes(response.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self._head_due = None
        self.transport.close()


def sweep(connections: Iterable[Connection], now: float, most_unsent: int) -> None:
    """Check every connection; where their unsent answers are more than `most_unsent` bytes together, drop the longest stuck.

    At most `LATE_AT_ONCE` connections end at a time, so that a crowd which is late together does not hold up others.
    """
    waiting = list(connections)
    late = 0
    for connection in waiting:
        late += connection.check(now)
        if late == LATE_AT_ONCE:
            break
    held = sum(connection.unsent for connection in waiting)
    for connection in sorted(waiting, key=lambda connection: connection.unsent_since):
        if held <= most_unsent:
            break
        held -= connection.unsent
        if connection.unsent:
            connection.drop()
