"""Clients of the REST service, with httpx: the same verbs as the library, the same errors, nothing computed here.

    >>> from laconic import Client
    >>> with Client("http://127.0.0.1:8000") as client:           # doctest: +SKIP
    ...     stream = client.encode("photo.png", quality=50)
    ...     client.decode(stream).save("back.png")
    ...     job = client.submit("photo.png", codec="avif", effort=9)
    ...     job.wait()
    ...     stream = job.result()

What is asked and what answers mean is in `laconic.protocol` and `laconic.jobs`, for both clients.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

import httpx

from .connection import AsyncConnection, Connection
from .jobs import AsyncJob, Job, JobProtocol, JobStatus, Order, shown
from .protocol import CodecEntry, Protocol
from .uploads import UPLOAD_ABOVE

if TYPE_CHECKING:
    from fractions import Fraction

    from .api import Source
    from .codecs.codec import Progress
    from .codecs.container import Description
    from .codecs.parts import FrameRange, SecondsRange
    from .codecs.signals import Signal

__all__ = ["AsyncClient", "Client", "CodecEntry"]


class Client:
    """A connection to a service, for one thread at a time; close it, or use it as a context manager.

    `timeout` is in seconds for each request, `retries` counts further tries after 429 and 503, `transport` replaces the
    network (`httpx.MockTransport` in tests, `httpx.WSGITransport`, a proxy).
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        timeout: float = 120.0,
        retries: int = 3,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        http = httpx.Client(base_url=url, headers=_headers(api_key), timeout=timeout, transport=transport)
        self._connection = Connection(http)
        self._protocol = Protocol(http.build_request, retries)
        self._jobs = JobProtocol(self._protocol)

    def encode(self, source: Source, codec: str = "auto", *, rate: Fraction | float | None = None, **settings: object) -> bytes:
        """Have the service compress a picture or a video; arguments as of `laconic.encode`, without `device`."""
        return self._connection.run(self._protocol.encode(source, codec, rate, settings))

    def decode(
        self,
        stream: bytes,
        *,
        frames: FrameRange | None = None,
        seconds: SecondsRange | None = None,
        salvage: bool = False,
    ) -> Signal:
        """Have the service restore a stream, or a part of it, as `laconic.decode` does; nothing is lost on the way."""
        return self._connection.run(self._protocol.decode(stream, frames, seconds, salvage))

    def decode_file(self, stream: bytes, media_type: str | None = None) -> bytes:
        """Have the service restore a stream to the bytes of a media file, such as "image/webp"; by default PNG or MP4."""
        return self._connection.run(self._protocol.decode_file(stream, media_type))

    def inspect(self, stream: bytes) -> Description:
        """Have the service describe a stream without decoding it."""
        return self._connection.run(self._protocol.inspect(stream))

    def codecs(self) -> list[CodecEntry]:
        """List the codecs that the service offers."""
        return self._connection.run(self._protocol.codecs())

    def submit(
        self,
        source: Source,
        codec: str = "auto",
        op: str = "encode",
        *,
        media_type: str | None = None,
        rate: Fraction | float | None = None,
        callback: str | None = None,
        idempotency_key: str | None = None,
        upload_above: int = UPLOAD_ABOVE,
        progress: bool | Progress = False,
        **settings: object,
    ) -> Job:
        """Have the service compress a picture or a video as a job, for what takes longer than a request may.

        Arguments as of `encode`; with `op="decode"` the source is an .lcn file (a path or bytes) and the result a file of
        `media_type`, by default PNG or MP4. `callback` is the URL of a webhook. A submission that is tried again is one job:
        `idempotency_key`, by default a random one, tells them apart.

        A body of more than `upload_above` bytes is sent in parts of 8 MiB, each of which survives a connection that breaks and
        a service that is restarted; `progress` is a function of the part sent (0..1) and the stage, or whether to show a bar on
        a terminal.
        """
        order = Order(source, codec, op, media_type, rate, callback, idempotency_key, settings, upload_above)
        with shown(progress) as report:
            return self.job(self._connection.run(self._jobs.submit(order, report)).id)

    def job(self, job_id: str) -> Job:
        """Return the job with this id, without asking the service about it."""
        return Job(self._connection, self._jobs, job_id)

    def jobs(self, limit: int = 20) -> list[JobStatus]:
        """List the newest jobs that this client may see."""
        return self._connection.run(self._jobs.list(limit))

    def close(self) -> None:
        """Close the connection."""
        self._connection.http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class AsyncClient:
    """`Client` for asyncio: the same arguments, the same errors, `await` in front of every verb."""

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        timeout: float = 120.0,
        retries: int = 3,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        http = httpx.AsyncClient(base_url=url, headers=_headers(api_key), timeout=timeout, transport=transport)
        self._connection = AsyncConnection(http)
        self._protocol = Protocol(http.build_request, retries)
        self._jobs = JobProtocol(self._protocol)

    async def encode(
        self, source: Source, codec: str = "auto", *, rate: Fraction | float | None = None, **settings: object
    ) -> bytes:
        """See `Client.encode`."""
        return await self._connection.run(self._protocol.encode(source, codec, rate, settings))

    async def decode(
        self,
        stream: bytes,
        *,
        frames: FrameRange | None = None,
        seconds: SecondsRange | None = None,
        salvage: bool = False,
    ) -> Signal:
        """See `Client.decode`."""
        return await self._connection.run(self._protocol.decode(stream, frames, seconds, salvage))

    async def decode_file(self, stream: bytes, media_type: str | None = None) -> bytes:
        """See `Client.decode_file`."""
        return await self._connection.run(self._protocol.decode_file(stream, media_type))

    async def inspect(self, stream: bytes) -> Description:
        """See `Client.inspect`."""
        return await self._connection.run(self._protocol.inspect(stream))

    async def codecs(self) -> list[CodecEntry]:
        """See `Client.codecs`."""
        return await self._connection.run(self._protocol.codecs())

    async def submit(
        self,
        source: Source,
        codec: str = "auto",
        op: str = "encode",
        *,
        media_type: str | None = None,
        rate: Fraction | float | None = None,
        callback: str | None = None,
        idempotency_key: str | None = None,
        upload_above: int = UPLOAD_ABOVE,
        progress: bool | Progress = False,
        **settings: object,
    ) -> AsyncJob:
        """See `Client.submit`."""
        order = Order(source, codec, op, media_type, rate, callback, idempotency_key, settings, upload_above)
        with shown(progress) as report:
            return self.job((await self._connection.run(self._jobs.submit(order, report))).id)

    def job(self, job_id: str) -> AsyncJob:
        """See `Client.job`."""
        return AsyncJob(self._connection, self._jobs, job_id)

    async def jobs(self, limit: int = 20) -> list[JobStatus]:
        """See `Client.jobs`."""
        return await self._connection.run(self._jobs.list(limit))

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _headers(api_key: str | None) -> dict[str, str]:
    return {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
