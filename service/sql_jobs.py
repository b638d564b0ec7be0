"""The job store in SQL that SQLite and Postgres both understand, over either database."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields
from typing import Any, Protocol

from .job_store import Draft, Ending, Job, State
from .problems import IdempotencyMismatch, JobLost, QueueFull, members
from .settings import ServiceSettings, variable

__all__ = ["REMEMBERED_S", "Database", "Row", "SqlJobStore"]

REMEMBERED_S = 86_400.0  # how long a job is known, and its Idempotency-Key taken, after its result has expired
HOOK_PAUSE_S = 60.0  # a webhook that a dead process had taken is due again after this
Row = Mapping[str, Any]
_NAMES = [field.name for field in fields(Job)]
_WAITING = "SELECT count(*) FROM jobs AS other WHERE other.state = 'queued' AND other.seq <= jobs.seq"
_COLUMNS = ", ".join(_NAMES).replace("position", f"CASE WHEN state = 'queued' THEN ({_WAITING}) END AS position")
_LIVE = "state <> 'expired'"
_DEAD = "state = 'running' AND lease_until <= :now"
_MINE = "id = :id AND state = 'running' AND worker = :worker AND attempts = :attempts"


class Database(Protocol):
    """A connection. Queries name their values as `:name`; `:now` is the time, seconds since 1970, and need not be given.

    `skip_locked` follows a SELECT of a row that is to be changed, so that processes which look for one at the same moment find
    different ones; it is empty where only one transaction writes at a time. All methods raise `StoreError`.
    """

    skip_locked: str

    def execute(self, query: str, values: Mapping[str, object], /) -> Sequence[Row]:
        """Run a statement and return its rows."""
        ...

    def transaction(self, *, alone: bool = False) -> AbstractContextManager[None]:
        """Run the block as one transaction; `alone` keeps others away that say so, in every process."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


class SqlJobStore:
    """A `JobStore` in one table of a database that has been opened and has its tables."""

    def __init__(self, database: Database, settings: ServiceSettings) -> None:
        self._database, self._settings = database, settings

    def close(self) -> None:
        """See `JobStore.close`."""
        self._database.close()

    def identity(self) -> str:
        """See `JobStore.identity`."""
        return str(self._execute("SELECT id FROM laconic")[0]["id"])

    def check_room(self, draft: Draft) -> Job | None:
        """See `JobStore.check_room`."""
        if draft.key is not None:
            where = "key = :key AND coalesce(owner, '') = coalesce(:owner, '')"
            found = self._one(f"SELECT {_COLUMNS}, fingerprint FROM jobs WHERE {where}", key=draft.key, owner=draft.owner)
            if found is not None:
                if found["fingerprint"] != _fingerprint(draft):
                    raise IdempotencyMismatch(
                        "this Idempotency-Key was used for another request: take a new key for another body or other options"
                    )
                return _job(found)
        stored = "count(*) AS jobs, coalesce(sum(payload_bytes + result_bytes), 0) AS bytes"
        (there,) = self._execute(f"SELECT {stored} FROM jobs WHERE {_LIVE}")
        limits, count, size = self._settings, there["jobs"], int(there["bytes"]) + draft.payload_bytes
        if count >= limits.max_jobs:
            raise QueueFull("jobs stored", limits.max_jobs, count + 1, variable("max_jobs"), self._retry_after())
        if size > limits.max_job_bytes:
            raise QueueFull("bytes of jobs", limits.max_job_bytes, size, variable("max_job_bytes"), self._retry_after())
        return None

    def _retry_after(self) -> int:
        (soonest,) = self._execute(f"SELECT min(expires) - :now AS seconds FROM jobs WHERE {_LIVE}")
        return 60 if soonest["seconds"] is None else max(1, min(60, round(soonest["seconds"])))

    def add(self, draft: Draft) -> tuple[Job, bool]:
        """See `JobStore.add`."""
        with self._database.transaction(alone=True):
            known = self.check_room(draft)
            if known is not None:
                return known, False
            row = self._one(
                "INSERT INTO jobs"
                " (id, owner, op, options, form, name, key, fingerprint, created, payload, payload_bytes, callback,"
                " trace)"
                " VALUES (:id, :owner, :op, :options, :form, :name, :key, :print, :now, :payload, :payload_bytes, :callback,"
                " :trace)"
                " RETURNING id",
                **vars(draft) | {"options": json.dumps(dict(draft.options))},
                id=secrets.token_hex(16),
                print=_fingerprint(draft),
            )
            return self._returned(row), True

    def get(self, job_id: str) -> Job | None:
        """See `JobStore.get`."""
        if not (job_id.isascii() and job_id.isalnum()):  # a path may have a NUL in it, which Postgres takes for a mistake
            return None
        row = self._one(f"SELECT {_COLUMNS} FROM jobs WHERE id = :id", id=job_id)
        return None if row is None else _job(row)

    def _returned(self, row: Row | None) -> Job:
        """Return the job of a RETURNING clause, which itself would not see the other rows as they are now."""
        job = None if row is None else self.get(row["id"])
        assert job is not None
        return job

    def page(self, owner: str | None, before: int | None, limit: int) -> Sequence[Job]:
        """See `JobStore.page`."""
        where = "coalesce(owner, '') = coalesce(:owner, '') AND (:before IS NULL OR seq < :before)"
        query = f"SELECT {_COLUMNS} FROM jobs WHERE {where} ORDER BY seq DESC LIMIT :limit"
        return [_job(row) for row in self._execute(query, owner=owner, before=before, limit=limit)]

    def counts(self) -> Mapping[State, int]:
        """See `JobStore.counts`."""
        return {row["state"]: row["jobs"] for row in self._execute("SELECT state, count(*) AS jobs FROM jobs GROUP BY state")}

    def claim(self, worker: str) -> Job | None:
        """See `JobStore.claim`."""
        most, setting = self._settings.job_attempts, variable("job_attempts")
        with self._database.transaction():
            given_up = f"{_DEAD} AND attempts >= :most"
            for row in self._execute(f"SELECT id FROM jobs WHERE {given_up}", most=most):
                lost = JobLost(f"the service died in each of {most} attempts at this job; {setting} allows more")
                ending = Ending("failed", error=members(lost, f"/v1/jobs/{row['id']}", row["id"]))
                self._end(ending, f"id = :id AND {given_up}", id=row["id"], most=most)  # unless another process was faster
            taken = self._one(
                "UPDATE jobs SET state = 'running', attempts = attempts + 1, worker = :worker, heartbeat = :now,"
                " lease_until = :now + :lease, started = :now, version = version + 1, progress = 0, stage = ''"
                f" WHERE seq = (SELECT seq FROM jobs WHERE state = 'queued' OR ({_DEAD} AND attempts < :most)"
                f" ORDER BY seq LIMIT 1 {self._database.skip_locked}) RETURNING id",
                worker=worker,
                lease=self._settings.job_lease_s,
                most=most,
            )
            return None if taken is None else self._returned(taken)

    def beat(self, job: Job, worker: str, progress: float, stage: str) -> bool:
        """See `JobStore.beat`."""
        changed = "CASE WHEN progress <> :progress OR stage <> :stage THEN 1 ELSE 0 END"
        row = self._one(
            f"UPDATE jobs SET lease_until = :now + :lease, heartbeat = :now, version = version + {changed},"
            f" progress = :progress, stage = :stage WHERE {_MINE} RETURNING id",
            **_lease(job, worker),
            lease=self._settings.job_lease_s,
            progress=progress,
            stage=stage,
        )
        return row is not None

    def settle(self, job: Job, worker: str, ending: Ending) -> bool:
        """See `JobStore.settle`."""
        if ending.state != "queued":
            return self._end(ending, _MINE, **_lease(job, worker))
        row = self._one(
            "UPDATE jobs SET state = 'queued', attempts = attempts - 1, worker = NULL, lease_until = NULL, progress = 0,"
            f" stage = '', version = version + 1 WHERE {_MINE} RETURNING id",
            **_lease(job, worker),
        )
        return row is not None

    def cancel(self, job_id: str, error: Mapping[str, object]) -> None:
        """See `JobStore.cancel`."""
        self._end(Ending("cancelled", error=error), "id = :id AND state IN ('queued', 'running')", id=job_id)

    def _end(self, ending: Ending, where: str, **values: object) -> bool:
        """End the job that `where` selects; its payload is needed no more, its webhook is due."""
        row = self._one(
            "UPDATE jobs SET state = :state, result = :result, result_bytes = :size, media_type = :media_type, codec = :codec,"
            " error = :error, finished = :now, expires = :now + :retention, stage = '', version = version + 1,"
            " progress = CASE WHEN :state = 'succeeded' THEN 1 ELSE progress END,"
            " worker = NULL, lease_until = NULL, payload = NULL, payload_bytes = 0,"
            " webhook = CASE WHEN callback IS NOT NULL THEN 'pending' END,"
            f" webhook_due = CASE WHEN callback IS NOT NULL THEN :now END WHERE {where} RETURNING id",
            **values,
            state=ending.state,
            result=ending.result,
            size=ending.result_bytes,
            media_type=ending.media_type,
            codec=ending.codec,
            error=None if ending.error is None else json.dumps(ending.error),
            retention=self._settings.job_retention_s,
        )
        return row is not None

    def expire(self) -> set[str]:
        """See `JobStore.expire`."""
        with self._database.transaction(alone=True):  # two that change many rows at once could wait for each other
            self._execute(
                "UPDATE jobs SET state = 'expired', result = NULL, result_bytes = 0, version = version + 1"
                f" WHERE expires <= :now AND {_LIVE}"
            )
            self._execute("DELETE FROM jobs WHERE expires <= :now - :remembered", remembered=REMEMBERED_S)
            used = self._execute("SELECT payload, result FROM jobs WHERE payload IS NOT NULL OR result IS NOT NULL")
        return {name for row in used for name in (row["payload"], row["result"]) if name is not None}

    def take_webhook(self) -> Job | None:
        """See `JobStore.take_webhook`."""
        row = self._one(
            "UPDATE jobs SET webhook_due = :now + :pause, webhook_tries = webhook_tries + 1 WHERE seq ="
            " (SELECT seq FROM jobs WHERE webhook_due <= :now ORDER BY webhook_due LIMIT 1"
            f" {self._database.skip_locked}) RETURNING id",
            pause=HOOK_PAUSE_S,
        )
        return None if row is None else self._returned(row)

    def settle_webhook(self, job: Job, failure: str | None, again_in: float | None) -> None:
        """See `JobStore.settle_webhook`."""
        self._execute(
            "UPDATE jobs SET webhook = :text, webhook_due = :now + :pause WHERE id = :id",
            text="delivered" if failure is None else f"failed: {failure}" if again_in is None else "pending",
            pause=again_in,
            id=job.id,
        )

    def _execute(self, query: str, **values: object) -> Sequence[Row]:
        return self._database.execute(query, values)

    def _one(self, query: str, **values: object) -> Row | None:
        rows = self._execute(query, **values)
        return rows[0] if rows else None


def _lease(job: Job, worker: str) -> dict[str, object]:
    return {"id": job.id, "worker": worker, "attempts": job.attempts}


def _job(row: Row) -> Job:
    values = {name: row[name] for name in _NAMES}
    values["options"] = json.loads(values["options"])
    values["error"] = None if values["error"] is None else json.loads(values["error"])
    return Job(**values)


def _fingerprint(draft: Draft) -> str:
    """Return what two requests with one Idempotency-Key must have in common; the name of the file is not part of it."""
    parts = (draft.op, sorted(draft.options.items()), draft.form, draft.payload, draft.callback)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
