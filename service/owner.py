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


J = TypeVar("J", bound=Job)
R = TypeVar("R")


class DeviceOwner(Generic[J, R]):
    """Runs jobs in the order they came, on one thread, at most `max_batch` of one key at once.

    Background work has a lane of its own: it runs alone, and only starts while nothing else waits.
    `run` takes the jobs of a batch and returns a result or an exception for each. Jobs whose future was cancelled before
    they started are never run. `prepare` runs first, on the same thread: what it opens stays with the thread.
    """

    def __init__(
        self,
        run: Callable[[Sequence[J]], Sequence[R | BaseException]],
        settings: ServiceSettings,
        prepare: Callable[[], None] = lambda: None,
        on_batch: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._run, self._prepare, self._on_batch = run, prepare, on_batch
        self._max_batch, self._wait_s = settings.max_batch, settings.batch_wait_ms / 1000
        self._places = settings.queue_size
        self._taken = 0
        self._queue: deque[tuple[J, Future[R]]] = deque()
        self._background: deque[tuple[J, Future[R]]] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._job_s = 0.0  # running mean of the seconds that a job takes
        self._thread = threading.Thread(target=self._loop, name="device-owner", daemon=True)
        self.ready = False
        self.failure: BaseException | None = None

    def start(self) -> None:
        """Start the thread; `ready` turns true, or `failure` holds the error, when `prepare` is through."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Cancel what has not started and wait up to `timeout` seconds for what has."""
        with self._changed:
            self._stopping = True
            for _, future in [*self._queue, *self._background]:
                future.cancel()
            self._changed.notify()
        self._thread.join(timeout)

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
            self._changed.notify()
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
            self._changed.wait_for(lambda: self._queue or self._background or self._stopping)
            if self._stopping:
                return []
            if not self._queue:
                return [self._background.popleft()]
            batch = [self._queue.popleft()]
            key = batch[0][0].batch_key
            deadline = time.monotonic() + self._wait_s
            while key is not None:
                self._take_matching(key, batch)
                left = deadline - time.monotonic()
                if len(batch) == self._max_batch or left <= 0 or self._stopping:
                    break
                self._changed.wait(left)
        return batch

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
        seconds = (time.monotonic() - started) / len(live)
        self._job_s = seconds if self._job_s == 0 else 0.9 * self._job_s + 0.1 * seconds
        for (_, future), result in zip(live, results, strict=True):
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)
