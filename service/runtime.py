"""What one running service holds: settings, metrics, log, body reader, device owner, reading threads, codecs."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, ParamSpec, Protocol, TypeVar

from ..codecs import media
from ..codecs.compress import Encoded
from ..codecs.errors import InvalidSettings
from ..codecs.limits import Limits
from ..codecs.registry import codec_ids
from ..codecs.signals import Signal
from .allowances import Allowances
from .body import BodyReader
from .catalogue import Catalogue, open_catalogue, set_threads, warm_late
from .coding import Coder, EncodeJob, Job, Outcome
from .gate import Gate
from .jobs import Jobs
from .keys import Keys
from .lanes import Costs, Plan
from .logs import Log, make_log
from .metrics import Metrics
from .owner import DeviceOwner
from .problems import Unavailable
from .settings import ServiceSettings
from .tracing import Recorder, open_recorder

if TYPE_CHECKING:
    from .sandbox import Sandbox

__all__ = ["Runtime"]

P = ParamSpec("P")
T = TypeVar("T")
LAST_SPANS_S = 5.0  # for a collector to take them when the service stops


class Media(Protocol):
    """What `codecs.media` and a sandbox have in common."""

    def read_header(self, data: bytes, limits: Limits, /) -> media.Header:
        """Return the size of a picture."""
        ...

    def read(self, data: bytes, limits: Limits, kind: str | None, /) -> Signal:
        """Return a picture or a video, which must be of a kind where one is given."""
        ...

    def write(self, signal: Signal, form: str, quality: int | None, /) -> bytes:
        """Return a media file."""
        ...


class Runtime:
    """The state behind the routes; belongs to one event loop. `open` runs it for as long as the block lasts.

    `media` reads and writes media, in processes of their own where `sandbox` is on. Long reading and writing leaves a thread to
    short, and hashes and headers have threads that pictures never use. The gate lets two batches of pictures into memory at
    once, and four of the largest: reading overlaps with coding, while a long queue holds compressed bytes only.
    """

    def __init__(self, settings: ServiceSettings, log: Log | None = None) -> None:
        unknown = sorted(set(settings.codecs) - set(codec_ids()))
        if unknown:
            raise InvalidSettings(f"LACONIC_CODECS has {', '.join(unknown)}; there are {', '.join(codec_ids())}")
        self.settings = settings
        self.limits = Limits(
            max_input_bytes=max(settings.max_body_bytes, settings.max_upload_bytes),
            max_pixels=settings.max_pixels,
            max_video_pixels=settings.max_video_pixels,
            max_samples=settings.max_samples,
            max_frames=settings.max_frames,
        )
        self.log = log or make_log()
        self.metrics = Metrics()
        self.recorder: Recorder | None = None
        self.bodies = BodyReader(settings)
        self.costs = Costs()
        self.sandbox: Sandbox | None = None
        if settings.sandbox:  # a reader, or writer, and a decoder for each thread that may want one
            from .sandbox import Sandbox  # needs resource limits, which not every system has

            self.sandbox = Sandbox(2 * (settings.workers + 1), self.limits, settings.media_timeout_s)
        self.media: Media = self.sandbox or media
        self.gate = Gate(2 * settings.max_batch, 4 * settings.max_pixels)
        self.owner = DeviceOwner[Job, Outcome](
            self._run, settings, self._prepare, self.metrics.batch.observe, lambda: set_threads(settings.threads)
        )
        self.metrics.watch_depth(lambda: self.owner.depth)
        self.jobs = Jobs(settings)
        self.keys = None if settings.keys_file is None else Keys(settings.keys_file, self.log)
        self.allowances = Allowances()
        self.when_warm: Callable[[], None] = lambda: None  # called once, when all codecs are warm
        self.draining = False
        self.in_flight = 0
        self._catalogue: Catalogue | None = None
        self._coder: Coder | None = None
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="header")
        self._media_pool = ThreadPoolExecutor(settings.workers + 1, thread_name_prefix="media")
        self._long_media = asyncio.Semaphore(settings.workers)
        self.metrics.have_workers("device", 1)
        self.metrics.have_workers("worker", settings.workers + 1)
        self.metrics.have_workers("media", settings.workers + 1)
        self.metrics.in_flight.set_function(lambda: self.in_flight)
        self.metrics.buffered.set_function(lambda: self.bodies.buffered)

    def _prepare(self) -> None:
        """Open and warm every codec, on the owner's thread; those that compile for long are warmed on a thread of their own."""
        try:
            self._catalogue = open_catalogue(
                self.settings, self.log, lambda name, took: self.metrics.load.labels(name).set(took)
            )
            if self.sandbox:
                self.sandbox.warm()
                if reason := self.sandbox.unfiltered():
                    self.log.warning("media workers without a filter of system calls", reason=reason)
        except Exception as error:
            self.log.error("start failed", exc_info=error)
            raise
        decode = self.sandbox.decode if self.sandbox else None
        self._coder = Coder(self._catalogue, self.limits, self.settings.device, self.costs, decode)
        if any(served.device == "cuda" for served in self._catalogue.served.values()):
            self.metrics.watch_gpu()
        threading.Thread(target=self._warm_late, args=(self._catalogue,), name="warm-up", daemon=True).start()

    def _warm_late(self, catalogue: Catalogue) -> None:
        warm_late(catalogue, self.settings.device, self.log)
        self.when_warm()

    def _run(self, jobs: Sequence[Job]) -> Sequence[Outcome | BaseException]:
        with self.metrics.working("worker" if jobs[0].plan.anywhere else "device"):
            outcomes = self.coder.run(jobs)
        for job, outcome in zip(jobs, outcomes, strict=True):
            if isinstance(job, EncodeJob) and isinstance(outcome, Outcome) and isinstance(outcome.value, Encoded):
                self.metrics.compressed(outcome.value.codec, _bytes_of(job.request.signal), len(outcome.value.data))
        return outcomes

    @property
    def coder(self) -> Coder:
        """Makes jobs and runs them; raises `Unavailable` as `catalogue` does."""
        if self._coder is None:
            raise Unavailable("the service is starting: its codecs are being opened")
        return self._coder

    @property
    def catalogue(self) -> Catalogue:
        """The codecs served; raises `Unavailable` until they are open, and for ever if that failed."""
        if self.owner.failure is not None:
            raise Unavailable(f"the service could not start: {self.owner.failure}")
        if not self.owner.ready or self._catalogue is None:
            raise Unavailable("the service is starting: its codecs are being opened")
        return self._catalogue

    def check_accepting(self) -> Catalogue:
        """Return the catalogue; raises `Unavailable` when the service starts, drains or has failed."""
        if self.draining:
            raise Unavailable("the service is shutting down")
        return self.catalogue

    async def in_pool(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call what takes milliseconds on a thread, so that the event loop stays free."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: function(*args, **kwargs))

    async def in_media_pool(
        self, kind: Hashable, pixels: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call what reads or writes a picture on a thread; `kind` as of `lanes.Plan`."""
        plan = Plan(seconds=self.costs.expect(kind, pixels))

        def measured() -> T:
            began = time.perf_counter()
            with self.metrics.working("media"):
                result = function(*args, **kwargs)
            self.costs.learn(kind, pixels, time.perf_counter() - began)
            return result

        async with contextlib.nullcontext() if plan.short else self._long_media:
            return await asyncio.get_running_loop().run_in_executor(self._media_pool, measured)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Run owner, sandbox and threads; raises `InvalidSettings` when jobs cannot be kept where they should be."""
        self.jobs.open()
        self.recorder = open_recorder(self.log)
        self.owner.start()
        if self.sandbox:
            await asyncio.to_thread(self.sandbox.start)
        try:
            yield
        finally:
            self.draining = True
            await asyncio.to_thread(self.owner.stop, 1.0)
            for pool in (self._pool, self._media_pool):
                pool.shutdown(wait=False, cancel_futures=True)
            if self.sandbox:
                self.sandbox.stop()
            self.jobs.close()
            if self.recorder:
                await asyncio.to_thread(self.recorder.close, min(LAST_SPANS_S, self.settings.drain_seconds))


def _bytes_of(signal: Signal) -> int:
    """Return the bytes of a signal's samples."""
    return math.prod(signal.shape) * signal.bit_depth // 8
