"""The one owner of the device: a thread that takes work from a bounded queue and codes compatible work together."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

from .problems import QueueFull
from .settings import ServiceSettings, variable

__all__ = ["DeviceOwner", "Job"]


class Job(Protocol):
    """What the owner needs to know of a piece of work."""

    @property
    def batch_key(self) -> Hashable | None:
        """Jobs with equal keys may run together; None runs alone and never waits for company."""
        ...

    @property
    def exclusive(self) -> bool:
        """Whether it may not run in the background while another job runs, because both might use one codec."""
        ...


J = TypeVar("J", bound=Job)
R = TypeVar("R")


class DeviceOwner(Generic[J, R]):
    """Runs jobs in the order they came, on one thread, at most `max_batch` of one key at once.

    Background work has a thread of its own, which runs one job at a time. What is exclusive there starts only while nothing
    else waits or runs, and lets others go first whenever it calls `give_way`.
    `run` takes the jobs of a batch and returns a result or an exception for each. Jobs whose future was cancelled before
    they started are never run. `prepare` runs first, on the same thread, `prepare_background` on the other one.
    """

    def __init__(
        self,
        run: Callable[[Sequence[J]], Sequence[R | BaseException]],
        settings: ServiceSettings,
        prepare: Callable[[], None] = lambda: None,
        on_batch: Callable[[int], None] = lambda size: None,
        prepare_background: Callable[[], None] = lambda: None,
    ) -> None:
        self._prepare_background = prepare_background
        self._run, self._prepare, self._on_batch = run, prepare, on_batch
        self._max_batch, self._wait_s = settings.max_batch, settings.batch_wait_ms / 1000
        self._places = settings.queue_size
        self._taken = 0
        self._queue: deque[tuple[J, Future[R]]] = deque()
        self._background: deque[tuple[J, Future[R]]] = deque()
        self._busy = False  # the owner's thread has work
        self._lent = False  # exclusive background work has the device
        self._changed = threading.Condition()
        self._stopping = False
        self._job_s = 0.0  # running mean of the seconds that a job takes
        self._thread = threading.Thread(target=self._loop, name="device-owner", daemon=True)
        self._background_thread = threading.Thread(target=self._background_loop, name="background", daemon=True)
        self.ready = False
        self.failure: BaseException | None = None

    def start(self) -> None:
        """Start the thread; `ready` turns true, or `failure` holds the error, when `prepare` is through."""
        self._thread.start()
        self._background_thread.start()

    def stop(self, timeout: float) -> None:
        """Cancel what has not started and wait up to `timeout` seconds for what has."""
        with self._changed:
            self._stopping = True
            for _, future in [*self._queue, *self._background]:
                future.cancel()
            self._changed.notify_all()
        ends = time.monotonic() + timeout
        for thread in (self._thread, self._background_thread):
            thread.join(max(0.0, ends - time.monotonic()))

    @property
    def depth(self) -> int:
        """Number of requests that hold a place: those that wait and those that run."""
        return self._taken

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place in the queue for as long as the block lasts; raises `QueueFull` when all are taken."""
        with self._changed:
            if self._taken >= self._places:
                wait = max(1, min(60, math.ceil(self._taken * self._job_s)))
                raise QueueFull("requests waiting", self._places, self._taken, variable("queue_size"), wait)
            self._taken += 1
        try:
            yield
        finally:
            with self._changed:
                self._taken -= 1

    def submit(self, job: J, background: bool = False) -> Future[R]:
        """Queue a job; whoever submits it, unless it is background work, holds a `place`. Cancel the future to abandon it."""
        future: Future[R] = Future()
        with self._changed:
            if self._stopping:
                future.cancel()
                return future
            (self._background if background else self._queue).append((job, future))
            self._changed.notify_all()
        future.add_done_callback(self._forget_cancelled)
        return future

    def _forget_cancelled(self, future: Future[R]) -> None:
        """Drop an abandoned job at once, so that its picture does not stay in memory until its turn."""
        if future.cancelled():
            with self._changed:
                self._queue = deque(entry for entry in self._queue if entry[1] is not future)
                self._background = deque(entry for entry in self._background if entry[1] is not future)

    def _loop(self) -> None:
        try:
            self._prepare()
        except Exception as error:
            self.failure = error
            return
        self.ready = True
        while batch := self._next_batch():
            self._execute(batch)

    def _next_batch(self) -> list[tuple[J, Future[R]]]:
        """Wait for a job, then up to the batch wait for others with its key; empty when the owner stops."""
        with self._changed:
            self._busy = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._queue or self._stopping)
            if self._stopping:
                return []
            batch = [self._queue.popleft()]
            self._busy = True
            key = batch[0][0].batch_key
            deadline = time.monotonic() + self._wait_s
            while key is not None:
                self._take_matching(key, batch)
                left = deadline - time.monotonic()
                if len(batch) == self._max_batch or left <= 0 or self._stopping:
                    break
                self._changed.wait(left)
            self._changed.wait_for(lambda: not self._lent or self._stopping)
        return batch

    def _background_loop(self) -> None:
        self._prepare_background()
        while entry := self._next_in_background():
            try:
                self._execute([entry])
            finally:
                with self._changed:
                    self._lent = False
                    self._changed.notify_all()

    def _next_in_background(self) -> tuple[J, Future[R]] | None:
        """Wait for background work, and for the device if it wants that for itself; None when the owner stops."""
        with self._changed:
            self._changed.wait_for(lambda: (self._background and self.ready) or self._stopping)
            entry = None if self._stopping else self._background.popleft()
            if entry is not None and entry[0].exclusive:
                self._changed.wait_for(self._nobody_waits)
                self._lent = True
            if entry is not None and self._stopping:
                entry[1].cancel()
        return None if self._stopping else entry

    def _nobody_waits(self) -> bool:
        return (not self._queue and not self._busy) or self._stopping

    def give_way(self) -> None:
        """Let what waits run first; for exclusive background work, from its progress reports."""
        with self._changed:
            if self._lent and not self._nobody_waits():
                self._lent = False
                self._changed.notify_all()
                self._changed.wait_for(self._nobody_waits)
                self._lent = True

    def _take_matching(self, key: Hashable, batch: list[tuple[J, Future[R]]]) -> None:
        kept: deque[tuple[J, Future[R]]] = deque()
        for entry in self._queue:
            fits = len(batch) < self._max_batch and entry[0].batch_key == key
            (batch if fits else kept).append(entry)
        self._queue = kept

    def _execute(self, batch: list[tuple[J, Future[R]]]) -> None:
        live = [entry for entry in batch if entry[1].set_running_or_notify_cancel()]
        if not live:
            return
        self._on_batch(len(live))
        started = time.monotonic()
        try:
            results = self._run([job for job, _ in live])
        except BaseException as error:  # the thread must outlive whatever a codec does
            results = [error] * len(live)
        if threading.current_thread() is self._thread:
            seconds = (time.monotonic() - started) / len(live)
            self._job_s = seconds if self._job_s == 0 else 0.9 * self._job_s + 0.1 * seconds
        for (_, future), result in zip(live, results, strict=True):
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)
