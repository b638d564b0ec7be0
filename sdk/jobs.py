"""Jobs of a service, from the client's side: what is asked (as flows, see `laconic.connection`), `Job` and `AsyncJob`."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx

from .connection import AsyncConnection, Connection, Flow
from .errors import InvalidSettings, JobNotDone, ServiceError
from .protocol import MEDIA_TYPE, Protocol, error_of, expected_form, query_of
from .terminal import progress_bar
from .uploads import UPLOAD_ABOVE, forget, opened, upload

if TYPE_CHECKING:
    from fractions import Fraction

    from .api import Source
    from .codecs.codec import Progress

__all__ = ["AsyncJob", "Job", "JobProtocol", "JobStatus", "Order", "shown"]

START_BYTES = 2**17  # of an .lcn file, in which its header is
FINAL = ("succeeded", "failed", "cancelled", "expired")
POLL_S, QUICK_POLL_S = 20, 1  # seconds that one request waits for the job's end; less where progress is shown
PATIENCE_S = 60.0  # how long `wait` bears with a service that does not answer, because it is being started again


@dataclass(frozen=True)
class JobStatus:
    """What a service tells of a job.

    `state` is queued, running, succeeded, failed, cancelled or expired; `progress` runs 0..1; `eta_s` is in seconds, None
    where nobody knows; `queue_position` is 1 for the job that is next. Times are RFC 3339. `result` has the result's `name`,
    `bytes`, `media_type`, `codec` and `sha256`, `error` the problem (RFC 9457) of a job that failed or was cancelled.
    """

    id: str
    op: str
    options: Mapping[str, str]
    state: str
    progress: float
    stage: str
    eta_s: float | None
    queue_position: int | None
    attempts: int
    created: str
    started: str | None
    finished: str | None
    expires: str | None
    result: Mapping[str, Any] | None
    error: Mapping[str, Any] | None
    webhook: str | None

    @property
    def done(self) -> bool:
        """Whether the job has ended, one way or another."""
        return self.state in FINAL


@dataclass(frozen=True)
class Order:
    """What `submit` asks for: the arguments of `Client.submit`."""

    source: Source
    codec: str
    op: str
    media_type: str | None
    rate: Fraction | float | None
    callback: str | None
    idempotency_key: str | None
    settings: Mapping[str, object]
    upload_above: int = UPLOAD_ABOVE


class JobProtocol:
    """The verbs of jobs, as flows."""

    def __init__(self, protocol: Protocol) -> None:
        self._ask = protocol.ask

    def submit(self, order: Order, progress: Progress | None = None) -> Flow[JobStatus]:
        """Submit a job, a large body through an upload; the Idempotency-Key makes repeated tries one job."""
        from .received import default_type

        if order.op not in ("encode", "decode"):
            raise InvalidSettings(f"op is encode or decode, not {order.op!r}")
        query = {"op": order.op, **query_of(order.settings)}
        if order.op == "encode":
            query["codec"] = order.codec
        if order.callback is not None:
            query["callback"] = order.callback
        headers = {
            "Content-Type": "application/octet-stream" if order.op == "encode" else MEDIA_TYPE,
            "Accept": "application/json",
            "Idempotency-Key": order.idempotency_key or uuid.uuid4().hex,
        }
        name = Path(order.source).name if isinstance(order.source, str | os.PathLike) else ""
        if name:
            headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{quote(name, safe='')}"
        with opened(order.source, order.rate) as (file, length):
            if order.op == "decode":
                headers["Accept"] = f"{order.media_type or default_type(file.read(START_BYTES))}, application/json;q=0.5"
                file.seek(0)
            if length <= order.upload_above:
                content = file.read()
                return _status((yield from self._ask("POST", "/v1/jobs", True, params=query, content=content, headers=headers)))
            upload_id = yield from upload(self._ask, file, length, name, progress)
        query["upload"] = upload_id
        status = _status((yield from self._ask("POST", "/v1/jobs", True, params=query, headers=headers)))
        yield from forget(self._ask, upload_id)
        return status

    def status(self, job: str, wait: int = 0) -> Flow[JobStatus]:
        """Ask for a job's status, which the service holds back for `wait` seconds or until the job is done."""
        query = {"wait": str(wait)} if wait else {}
        timeout = httpx.Timeout(30.0, read=30.0 + wait)
        return _status((yield from self._ask("GET", _path(job), True, params=query, timeout=timeout)))

    def wait(self, job: str, timeout: float | None, progress: Progress | None) -> Flow[JobStatus]:
        """Wait for a job's end, through restarts of the service; raises `JobNotDone` after `timeout` seconds."""
        began = heard = time.monotonic()
        longest = POLL_S if progress is None else QUICK_POLL_S
        while True:
            asked = time.monotonic()
            left = float("inf") if timeout is None else max(0.0, began + timeout - asked)
            poll = int(min(longest, left))
            try:
                status = yield from self.status(job, poll)
            except ServiceError as error:
                if error.status not in (None, 502, 503, 504) or time.monotonic() - heard > PATIENCE_S:
                    raise
                yield min(1.0, left)
                continue
            heard = time.monotonic()
            if progress is not None:
                progress(status.progress, status.stage or status.state)
            if status.done:
                return status
            if left <= 0:
                raise JobNotDone(f"job {job} is {status.state} after {timeout:g} s", 409)
            if heard - asked < poll or poll == 0:  # answered at once: the service stops, or the time is almost over
                yield min(0.5, left)

    def result(self, job: str, timeout: float | None) -> Flow[bytes]:
        """Wait for the result; raises the job's own error."""
        status = yield from self.wait(job, timeout, None)
        if status.error is not None and status.state != "expired":
            raise error_of(status.error, int(status.error.get("status", 500)), str(status.error.get("request_id")))
        return (yield from self._ask("GET", f"{_path(job)}/result", True)).content

    def cancel(self, job: str) -> Flow[JobStatus]:
        """Cancel a job."""
        return _status((yield from self._ask("DELETE", _path(job), True)))

    def list(self, limit: int) -> Flow[list[JobStatus]]:
        """Return the newest jobs."""
        path: str | None = f"/v1/jobs?limit={min(limit, 100)}"
        found: list[JobStatus] = []
        while path is not None and len(found) < limit:
            response = yield from self._ask("GET", path)
            with expected_form(response):
                page = response.json()
                found += [_job_status(entry) for entry in page["jobs"]]
                path = page["next"]
        return found[:limit]


def _path(job: str) -> str:
    return f"/v1/jobs/{quote(job, safe='')}"


def _status(response: httpx.Response) -> JobStatus:
    with expected_form(response):
        return _job_status(response.json())


def _job_status(members: Mapping[str, Any]) -> JobStatus:
    return JobStatus(**{field.name: members[field.name] for field in fields(JobStatus)})


@contextmanager
def shown(progress: bool | Progress) -> Iterator[Progress | None]:
    """Yield what is told of progress: the caller's function, a bar where there is a terminal, or None."""
    if isinstance(progress, Callable):  # type: ignore[arg-type]
        yield progress  # type: ignore[misc]
    elif progress:
        with progress_bar() as bar:
            yield bar
    else:
        yield None


class Job:
    """A job of a service, as `Client.submit` and `Client.job` return it; lives as long as its client is open."""

    def __init__(self, connection: Connection, protocol: JobProtocol, job_id: str) -> None:
        self._connection, self._protocol = connection, protocol
        self.id = job_id

    def status(self) -> JobStatus:
        """Ask how the job is doing."""
        return self._connection.run(self._protocol.status(self.id))

    def wait(self, timeout: float | None = None, progress: bool | Progress = True) -> JobStatus:
        """Wait until the job has ended, well or not, and return its status; raises `JobNotDone` after `timeout` seconds.

        `progress` is a function of the part done (0..1) and the stage, or whether to show a bar on a terminal. A service that
        is restarted meanwhile is waited for.
        """
        with shown(progress) as report:
            return self._connection.run(self._protocol.wait(self.id, timeout, report))

    def result(self, timeout: float | None = None) -> bytes:
        """Wait for the result and return it: an .lcn file, or the media file that was asked for.

        Raises the error of a job that failed, `Cancelled`, `JobExpired`, and `JobNotDone` after `timeout` seconds.
        """
        return self._connection.run(self._protocol.result(self.id, timeout))

    def cancel(self) -> JobStatus:
        """Cancel the job; one that has ended stays as it is."""
        return self._connection.run(self._protocol.cancel(self.id))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"


class AsyncJob:
    """`Job` for asyncio: `await` in front of every verb."""

    def __init__(self, connection: AsyncConnection, protocol: JobProtocol, job_id: str) -> None:
        self._connection, self._protocol = connection, protocol
        self.id = job_id

    async def status(self) -> JobStatus:
        """See `Job.status`."""
        return await self._connection.run(self._protocol.status(self.id))

    async def wait(self, timeout: float | None = None, progress: bool | Progress = True) -> JobStatus:
        """See `Job.wait`."""
        with shown(progress) as report:
            return await self._connection.run(self._protocol.wait(self.id, timeout, report))

    async def result(self, timeout: float | None = None) -> bytes:
        """See `Job.result`."""
        return await self._connection.run(self._protocol.result(self.id, timeout))

    async def cancel(self) -> JobStatus:
        """See `Job.cancel`."""
        return await self._connection.run(self._protocol.cancel(self.id))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"
