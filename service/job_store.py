"""What a job is, and what keeps jobs: a protocol, which SQLite and Postgres fulfil with the same SQL (`sql_jobs.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

__all__ = ["FINAL", "STATES", "Draft", "Ending", "Job", "JobStore", "State", "StoreError"]

State = Literal["queued", "running", "succeeded", "failed", "cancelled", "expired"]
STATES: tuple[State, ...] = get_args(State)
FINAL: frozenset[State] = frozenset({"succeeded", "failed", "cancelled", "expired"})


class StoreError(OSError):
    """A store cannot be used: its disk is full, its server is gone, or it belongs to another version of Laconic."""


@dataclass(frozen=True)
class Draft:
    """A job to be: `op` is encode or decode, `options` its query, `form` the output formats of a decoding.

    `name` is the stem of the result's file name, `payload` the name of the blob that holds the body, `payload_bytes` its
    length. `key` is the client's Idempotency-Key, None without one. `trace` is the traceparent of the request, "" where spans
    are not sent.
    """

    op: str
    options: Mapping[str, str]
    form: str
    name: str
    payload: str
    payload_bytes: int
    owner: str | None = None
    key: str | None = None
    callback: str | None = None
    trace: str = ""


@dataclass(frozen=True)
class Job:
    """A stored job. Times are seconds since 1970, `started` the latest attempt's; `version` grows with every change.

    `progress` runs 0..1. `error` is the RFC 9457 problem of a job that failed or was cancelled. `webhook` is None without a
    callback, else "pending", "delivered" or what the last try failed with. `position` is 1 for the queued
    job that is next, 2 for the one after it, None for one that does not wait.
    """

    seq: int
    id: str
    owner: str | None
    op: str
    options: Mapping[str, str]
    form: str
    name: str
    state: State
    version: int
    progress: float
    stage: str
    attempts: int
    created: float
    started: float | None
    finished: float | None
    expires: float | None
    payload: str | None
    payload_bytes: int
    result: str | None
    result_bytes: int
    media_type: str
    codec: str
    error: Mapping[str, object] | None
    callback: str | None
    webhook: str | None
    webhook_tries: int
    position: int | None
    trace: str

    @property
    def done(self) -> bool:
        """Whether nothing will change any more, but that the result expires."""
        return self.state in FINAL


@dataclass(frozen=True)
class Ending:
    """How an attempt ended: with a result (a blob's name), with an error, or, for "queued", given back."""

    state: State
    result: str | None = None
    result_bytes: int = 0
    media_type: str = ""
    codec: str = ""
    error: Mapping[str, object] | None = None


class JobStore(Protocol):
    """Keeps jobs through the death of the process. Every method is one transaction; several processes may share a store.

    It is for one thread at a time. Methods raise `StoreError` when it cannot be used.

    A job that runs is leased to one worker: only that one may `beat` and `settle` it, and when it does neither for the length
    of a lease, `claim` gives the job to whoever asks.
    """

    def close(self) -> None:
        """Let go of the file or the server."""
        ...

    def identity(self) -> str:
        """Return a name that this store got when it was made, and no other has."""
        ...

    def add(self, draft: Draft) -> tuple[Job, bool]:
        """Store a job and return it with True, or with False the one that has the draft's key already.

        Raises `IdempotencyMismatch` if that one was something else, `QueueFull` when there are too many jobs or bytes.
        """
        ...

    def check_room(self, draft: Draft) -> Job | None:
        """Do what `add` does, without storing; None where it would store."""
        ...

    def get(self, job_id: str) -> Job | None:
        """Return a job."""
        ...

    def page(self, owner: str | None, before: int | None, limit: int) -> Sequence[Job]:
        """Return the owner's newest jobs, those with a `seq` below `before` if that is given."""
        ...

    def counts(self) -> Mapping[State, int]:
        """Return the number of jobs in each state that any job is in."""
        ...

    def claim(self, worker: str) -> Job | None:
        """Lease the oldest job that is queued, or whose lease has run out, for one more attempt; None without any.

        A job whose last allowed attempt died as well fails with `JobLost`.
        """
        ...

    def beat(self, job: Job, worker: str, progress: float, stage: str) -> bool:
        """Renew the lease and note the progress; False if the job is no longer this worker's: cancelled, or lost."""
        ...

    def settle(self, job: Job, worker: str, ending: Ending) -> bool:
        """End this attempt; False, and nothing is changed, if the job is no longer this worker's."""
        ...

    def cancel(self, job_id: str, error: Mapping[str, object]) -> None:
        """Cancel a job that is not done; without effect on any other."""
        ...

    def expire(self) -> set[str]:
        """Let results expire, forget what expired long ago, and return the names of the blobs that are still needed."""
        ...

    def take_webhook(self) -> Job | None:
        """Return a job whose webhook is due and put its next try off, so that nobody else takes it at once."""
        ...

    def settle_webhook(self, job: Job, failure: str | None, again_in: float | None) -> None:
        """Note that a webhook was delivered, or why not, and in how many seconds to try again (None: never)."""
        ...
