"""The one owner of the device, and the threads beside it: work waits its turn and is coded together where it is alike."""

from __future__ import annotations

import math
import threading
import time
from bisect import insort
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

from .lanes import Plan
from .problems import QueueFull
from .settings import ServiceSettings, variable

__all__ = ["DeviceOwner", "Job"]


class Job(Protocol):
    """What the owner needs to know of a piece of work."""

    @property
    def plan(self) -> Plan:
        """How it is to be run."""
        ...


J = TypeVar("J", bound=Job)
R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class _Entry(Generic[J, R]):
    turn: float
    job: J
    future: Future[R]


class DeviceOwner(Generic[J, R]):
    """Runs requests in the order of their turns (`lanes`), at most `max_batch` of one key at once.

    What needs the device runs on one thread. What does not (`Plan.anywhere`) runs on `workers` others, and if it is short on
    one thread more, which long ones never keep busy. Background work has a thread of its own, which runs one job at a time;
    what needs the device there starts only while nobody else waits for it or has it, and lets others go first whenever it
    calls `give_way`. `run` takes the jobs of a batch and returns a result or an exception for each. Jobs whose future was
    cancelled before they started are never run. `prepare` runs first, on the device's thread, `prepare_background` on that
    of the background.
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
        self._taken, self._long = 0, 0
        self._queue: list[_Entry[J, R]] = []  # earliest turn first
        self._background: list[_Entry[J, R]] = []
        self._busy = False  # the device's thread has work
        self._lent = False  # background work has the device
        self._changed = threading.Condition()
        self._stopping = False
        self._expected_s = 0.0  # of all jobs that wait or run
        takes: list[Callable[[Plan], bool]] = [lambda plan: plan.anywhere] * settings.workers
        takes.append(lambda plan: plan.anywhere and plan.short)
        self._threads = [threading.Thread(target=self._work, args=(take,), name="worker", daemon=True) for take in takes]
        self._threads.append(threading.Thread(target=self._own_device, name="device-owner", daemon=True))
        self._threads.append(threading.Thread(target=self._work_in_background, name="background", daemon=True))
        self.ready = False
        self.failure: BaseException | None = None

    def start(self) -> None:
        """Start the threads; `ready` turns true, or `failure` holds the error, when `prepare` is through."""
        for thread in self._threads:
            thread.start()

    def stop(self, timeout: float) -> None:
        """Cancel what has not started and wait up to `timeout` seconds for what has."""
        with self._changed:
            self._stopping = True
            for entry in [*self._queue, *self._background]:
                entry.future.cancel()
            self._changed.notify_all()
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    @property
    def depth(self) -> int:
        """Number of requests that hold a place: those that wait and those that run."""
        return self._taken

    def check_room(self) -> None:
        """Raise `QueueFull` when all places are taken; `retry_after` is what the jobs here are expected to take."""
        if self._taken >= self._places:
            raise self._full("requests waiting", self._places, self._taken)

    def _full(self, what: str, allowed: int, actual: int) -> QueueFull:
        wait = max(1, min(60, math.ceil(self._expected_s)))
        return QueueFull(what, allowed, actual, variable("queue_size"), wait)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place in the queue for as long as the block lasts; raises `QueueFull` when all are taken."""
        with self._changed:
            self.check_room()
            self._taken += 1
        try:
            yield
        finally:
            with self._changed:
                self._taken -= 1

    @contextmanager
    def share(self, plan: Plan) -> Iterator[None]:
        """Count long work as such for as long as the block lasts; raises `QueueFull` beyond three quarters of all places."""
        if plan.short:
            yield
            return
        with self._changed:
            allowed = self._places - self._places // 4
            if self._long >= allowed:
                raise self._full("long requests waiting", allowed, self._long)
            self._long += 1
        try:
            yield
        finally:
            with self._changed:
                self._long -= 1

    def submit(self, job: J, background: bool = False) -> Future[R]:
        """Queue a job; whoever submits it, unless it is background work, holds a `place`. Cancel the future to abandon it."""
        future: Future[R] = Future()
        with self._changed:
            if self._stopping:
                future.cancel()
                return future
            entry = _Entry(job.plan.turn(), job, future)
            seconds = 0.0 if background else job.plan.seconds
            if background:
                self._background.append(entry)
            else:
                insort(self._queue, entry, key=lambda other: other.turn)
            self._expected_s += seconds
            self._changed.notify_all()
        future.add_done_callback(partial(self._forget, seconds))
        return future

    def _forget(self, seconds: float, future: Future[R]) -> None:
        """Drop a job that is done or abandoned: an abandoned one's picture must not stay in memory until its turn."""
        with self._changed:
            self._expected_s = max(0.0, self._expected_s - seconds)
            if future.cancelled():
                self._queue = [entry for entry in self._queue if entry.future is not future]
                self._background = [entry for entry in self._background if entry.future is not future]

    def _own_device(self) -> None:
        try:
            self._prepare()
        except Exception as error:
            self.failure = error
            return
        self.ready = True
        while batch := self._next_batch(_needs_device, device=True):
            self._execute(batch)
            del batch  # its pictures must not stay in memory until the next one comes

    def _work(self, takes: Callable[[Plan], bool]) -> None:
        while batch := self._next_batch(takes):
            self._execute(batch)
            del batch

    def _work_in_background(self) -> None:
        self._prepare_background()
        while entry := self._next_in_background():
            try:
                self._execute([entry])
            finally:
                with self._changed:
                    self._lent = False
                    self._changed.notify_all()
                del entry

    def _next_in_background(self) -> _Entry[J, R] | None:
        """Wait for background work, and for the device if it needs that; None when the owner stops."""
        with self._changed:
            self._changed.wait_for(lambda: (self._background and self.ready) or self._stopping)
            entry = None if self._stopping else self._background.pop(0)
            if entry is not None and _needs_device(entry.job.plan):
                self._changed.wait_for(self._nobody_waits)
                self._lent = True
            if entry is not None and self._stopping:
                entry.future.cancel()
        return None if self._stopping else entry

    def _nobody_waits(self) -> bool:
        waiting = any(_needs_device(entry.job.plan) for entry in self._queue)
        return not (waiting or self._busy) or self._stopping

    def give_way(self) -> None:
        """Let those that wait for the device run first; for background work that has it, from its progress reports."""
        with self._changed:
            if self._lent and not self._nobody_waits():
                self._lent = False
                self._changed.notify_all()
                self._changed.wait_for(self._nobody_waits)
                self._lent = True

    def _next_batch(self, takes: Callable[[Plan], bool], device: bool = False) -> list[_Entry[J, R]]:
        """Wait for a job that this thread takes, then up to the batch wait for others with its key; empty at the end."""
        with self._changed:
            if device:
                self._busy = False
                self._changed.notify_all()
            while not self._stopping:
                first = next((entry for entry in self._queue if takes(entry.job.plan)), None)
                if first is not None:
                    self._busy = self._busy or device
                    batch = self._with_company(first)
                    self._changed.wait_for(lambda: not (device and self._lent) or self._stopping)
                    return batch
                self._changed.wait()
        return []

    def _with_company(self, first: _Entry[J, R]) -> list[_Entry[J, R]]:
        self._queue.remove(first)
        batch, key = [first], first.job.plan.batch_key
        deadline = time.monotonic() + self._wait_s
        while key is not None:
            fitting = [entry for entry in self._queue if entry.job.plan.batch_key == key][: self._max_batch - len(batch)]
            self._queue = [entry for entry in self._queue if entry not in fitting]
            batch += fitting
            left = deadline - time.monotonic()
            if len(batch) == self._max_batch or left <= 0 or self._stopping:
                break
            self._changed.wait(left)
        return batch

    def _execute(self, batch: list[_Entry[J, R]]) -> None:
        live = [entry for entry in batch if entry.future.set_running_or_notify_cancel()]
        if not live:
            return
        self._on_batch(len(live))
        try:
            results = self._run([entry.job for entry in live])
        except BaseException as error:  # the thread must outlive whatever a codec does
            results = [error] * len(live)
        for entry, result in zip(live, results, strict=True):
            if isinstance(result, BaseException):
                entry.future.set_exception(result)
            else:
                entry.future.set_result(result)


def _needs_device(plan: Plan) -> bool:
    return not plan.anywhere
