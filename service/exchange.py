"""Carry one coding request from its queue place to its result: in time, and only while its client listens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from starlette.types import Receive

from ..codecs.compress import Encoded
from ..codecs.errors import Cancelled
from ..codecs.signals import Signal
from .coding import Job
from .lanes import Plan
from .problems import AS_A_JOB, ClientGone, RequestTimeout
from .runtime import Runtime
from .settings import variable
from .tracing import Part

__all__ = ["Exchange", "while_connected"]

P = ParamSpec("P")
T = TypeVar("T")


class Exchange:
    """One request's way through the service, or one background job's.

    `spans` are the seconds it spent in each part, and `parts` those parts one after the other; `progress` is the part of the
    codec's work that is done, 0..1. `checkpoint` is the folder, which need not exist, where the job's work may be kept from one
    attempt to the next.
    """

    def __init__(
        self,
        runtime: Runtime,
        background: bool = False,
        checkpoint: Path | None = None,
        parts: list[Part] | None = None,
    ) -> None:
        self.runtime = runtime
        self.background = background
        self.checkpoint = checkpoint
        self.parts: list[Part] = [] if parts is None else parts
        self.progress = 0.0
        self.spans: dict[str, float] = {}
        self.stage = "waiting"
        self.began = time.perf_counter()

    def place(self) -> AbstractContextManager[None]:
        """Hold a place in the device's queue for as long as the block lasts; background work needs none."""
        return nullcontext() if self.background else self.runtime.owner.place()

    @asynccontextmanager
    async def room(self, plan: Plan) -> AsyncIterator[None]:
        """Wait for room for a picture in memory and hold it as long as the block lasts; long work may meet `QueueFull`."""
        self.stage = "waiting"
        began = time.perf_counter()
        with nullcontext() if self.background else self.runtime.owner.share(plan):
            async with self.runtime.gate.hold(plan.pixels, plan):
                self._add("queue", began)
                yield

    async def in_pool(self, span: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call what takes milliseconds on a thread and note the time as `span`."""
        with self._part(span):
            return await self.runtime.in_pool(function, *args, **kwargs)

    async def in_media_pool(
        self, span: str, form: str, pixels: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Read or write (`span`) a picture of a format on a thread, and note the time."""
        with self._part(span):
            return await self.runtime.in_media_pool((span, form), pixels, function, *args, **kwargs)

    async def on_device(self, job: Job) -> Encoded | Signal:
        """Have the device's owner run a job, and note its spans; a cancelled wait abandons the job."""
        self.stage = "waiting for the device"
        began = time.perf_counter()
        try:
            work = replace(job, report=self._note) if self.background else job
            outcome = await asyncio.wrap_future(self.runtime.owner.submit(work, self.background))
        except asyncio.CancelledError:
            job.abandoned.set()
            raise
        ended = time.perf_counter()
        started = max(began, ended - outcome.seconds)
        self._add("queue", began, started)
        self.spans |= outcome.spans
        took = {f"laconic.{name}_s": round(seconds, 6) for name, seconds in outcome.spans.items()}
        self.parts.append(Part("code", started, ended, took))
        return outcome.value

    def _note(self, part: float, stage: str) -> None:
        """Keep the codec's progress, on the thread that works, and let requests go first that wait."""
        self.progress, self.stage = min(max(part, self.progress), 1.0), stage
        self.runtime.owner.give_way()

    @contextmanager
    def _part(self, span: str) -> Iterator[None]:
        """Note the time of the block, also of one that fails."""
        self.stage = span
        began = time.perf_counter()
        try:
            yield
        finally:
            self._add(span, began)

    def _add(self, span: str, began: float, ended: float | None = None) -> None:
        ended = time.perf_counter() if ended is None else ended
        self.spans[span] = self.spans.get(span, 0.0) + ended - began
        self.parts.append(Part(span, began, ended))

    def server_timing(self) -> str:
        """Return the spans as a Server-Timing value, in milliseconds."""
        spans = self.spans | {"total": time.perf_counter() - self.began}
        return ", ".join(f"{name};dur={1000 * seconds:.2f}" for name, seconds in spans.items())

    async def finish(self, work: Coroutine[Any, Any, T], receive: Receive) -> T:
        """Await the work for at most `request_timeout_s`; raises `RequestTimeout`, or `ClientGone` if the client leaves."""
        limit = self.runtime.settings.request_timeout_s
        try:
            async with asyncio.timeout(limit):
                return await while_connected(work, receive)
        except TimeoutError as error:
            setting = variable("request_timeout_s")
            raise RequestTimeout(f"not done after {limit:g} s ({self.stage}); {AS_A_JOB}; {setting} allows more") from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # this request itself was cancelled, not its job
                raise
            raise Cancelled("the service stopped before the work was done") from error


async def while_connected(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """Await the work, but cancel it and raise `ClientGone` as soon as the client disconnects."""
    task = asyncio.create_task(work)
    watch = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone("the client left before the work was done")
        return task.result()
    finally:
        for pending in (task, watch):
            pending.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
