"""What one running service holds: settings, metrics, log, body reader, device owner, reading threads, codecs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import ParamSpec, TypeVar

from ..codecs.compress import Encoded
from ..codecs.errors import InvalidSettings
from ..codecs.limits import Limits
from ..codecs.registry import codec_ids
from .allowances import Allowances
from .body import BodyReader
from .catalogue import Catalogue, open_catalogue, set_threads, warm_late
from .coding import Coder, EncodeJob, Job, Outcome
from .gate import Gate
from .jobs import Jobs
from .keys import Keys
from .logs import Log, make_log
from .metrics import Metrics
from .owner import DeviceOwner
from .problems import Unavailable
from .settings import ServiceSettings

__all__ = ["Runtime"]

P = ParamSpec("P")
T = TypeVar("T")


class Runtime:
    """The state behind the routes; belongs to one event loop. `open` runs it for as long as the block lasts.

    The gate lets two batches of pictures into memory at once, and four of the largest: reading overlaps with coding, while a
    long queue holds compressed bytes only.
    """

    def __init__(self, settings: ServiceSettings, log: Log | None = None) -> None:
        unknown = sorted(set(settings.codecs) - set(codec_ids()))
        if unknown:
            raise InvalidSettings(f"LACONIC_CODECS has {', '.join(unknown)}; there are {', '.join(codec_ids())}")
        self.settings = settings
        self.limits = Limits(max_input_bytes=settings.max_body_bytes, max_pixels=settings.max_pixels)
        self.log = log or make_log()
        self.metrics = Metrics()
        self.bodies = BodyReader(settings)
        self.gate = Gate(2 * settings.max_batch, 4 * settings.max_pixels)
        self.owner = DeviceOwner[Job, Outcome](
            self._run, settings, self._prepare, self.metrics.batch.observe, lambda: set_threads(settings.threads)
        )
        self.metrics.watch_depth(lambda: self.owner.depth)
        self.jobs = Jobs(settings)
        self.keys = None if settings.keys_file is None else Keys(settings.keys_file, self.log)
        self.allowances = Allowances()
        self.draining = False
        self.in_flight = 0
        self._catalogue: Catalogue | None = None
        self._coder: Coder | None = None
        readers = max(2, settings.threads)
        self._pool = ThreadPoolExecutor(readers, thread_name_prefix="media")
        self.metrics.have_workers("device", 1)
        self.metrics.have_workers("media", readers)
        self.metrics.in_flight.set_function(lambda: self.in_flight)
        self.metrics.buffered.set_function(lambda: self.bodies.buffered)

    def _prepare(self) -> None:
        """Open and warm every codec, on the owner's thread; those that compile for long are warmed on a thread of their own."""
        try:
            self._catalogue = open_catalogue(
                self.settings, self.log, lambda name, took: self.metrics.load.labels(name).set(took)
            )
        except Exception as error:
            self.log.error("start failed", exc_info=error)
            raise
        self._coder = Coder(self._catalogue, self.limits, self.settings.device)
        if any(served.device == "cuda" for served in self._catalogue.served.values()):
            self.metrics.watch_gpu()
        late = (self._catalogue, self.settings.device, self.log)
        threading.Thread(target=warm_late, args=late, name="warm-up", daemon=True).start()

    def _run(self, jobs: Sequence[Job]) -> Sequence[Outcome | BaseException]:
        with self.metrics.working("device"):
            outcomes = self.coder.run(jobs)
        for job, outcome in zip(jobs, outcomes, strict=True):
            if isinstance(job, EncodeJob) and isinstance(outcome, Outcome) and isinstance(outcome.value, Encoded):
                self.metrics.compressed(outcome.value.codec, job.request.signal.array.nbytes, len(outcome.value.data))
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
        """Call on one of the reading threads, so that the event loop stays free."""

        def work() -> T:
            with self.metrics.working("media"):
                return function(*args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Run the owner and the reading threads; raises `InvalidSettings` when jobs cannot be kept where they should be."""
        self.jobs.open()
        self.owner.start()
        try:
            yield
        finally:
            self.draining = True
            await asyncio.to_thread(self.owner.stop, 1.0)
            self._pool.shutdown(wait=False, cancel_futures=True)
            self.jobs.close()
