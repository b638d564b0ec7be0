"""The job store on SQLite: one file, write-ahead log, a lease per running job. Nothing to install, nothing to run."""

from __future__ import annotations

import hashlib
import json
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

from .job_store import Draft, Ending, Job, State
from .problems import IdempotencyMismatch, JobLost, QueueFull, members
from .settings import ServiceSettings, variable

__all__ = ["SqliteJobStore"]

SCHEMA = 1
PATIENCE_S = 10.0  # for other processes that hold the file
REMEMBERED_S = 86_400.0  # how long a job is known, and its Idempotency-Key taken, after its result has expired
HOOK_PAUSE_S = 60.0  # a webhook that a dead process had taken is due again after this
_TABLE = """
CREATE TABLE IF NOT EXISTS jobs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, owner TEXT, op TEXT NOT NULL, options TEXT NOT NULL,
    form TEXT NOT NULL, name TEXT NOT NULL, key TEXT, fingerprint TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'queued', version INTEGER NOT NULL DEFAULT 1,
    progress REAL NOT NULL DEFAULT 0, stage TEXT NOT NULL DEFAULT '',
    attempts INTEGER NOT NULL DEFAULT 0, worker TEXT, lease_until REAL, heartbeat REAL,
    created REAL NOT NULL, started REAL, finished REAL, expires REAL,
    payload TEXT, payload_bytes INTEGER NOT NULL, result TEXT, result_bytes INTEGER NOT NULL DEFAULT 0,
    media_type TEXT NOT NULL DEFAULT '', codec TEXT NOT NULL DEFAULT '', error TEXT,
    callback TEXT, webhook TEXT, webhook_tries INTEGER NOT NULL DEFAULT 0, webhook_due REAL
);
CREATE UNIQUE INDEX IF NOT EXISTS jobs_key ON jobs (ifnull(owner, ''), key) WHERE key IS NOT NULL;
CREATE INDEX IF NOT EXISTS jobs_state ON jobs (state, seq);
CREATE INDEX IF NOT EXISTS jobs_webhook ON jobs (webhook_due) WHERE webhook_due IS NOT NULL;
"""
_NAMES = [field.name for field in fields(Job)]
_WAITING = "SELECT count(*) FROM jobs AS other WHERE other.state = 'queued' AND other.seq <= jobs.seq"
_COLUMNS = ", ".join(_NAMES).replace("position", f"iif(state = 'queued', ({_WAITING}), NULL) AS position")
_LIVE = "state <> 'expired'"
_MINE = "id = :id AND state = 'running' AND worker = :worker AND attempts = :attempts"


class SqliteJobStore:
    """A `JobStore` in one file. For one thread at a time; raises `sqlite3.Error` when the disk is full or gone."""

    def __init__(self, path: Path, settings: ServiceSettings, clock: Callable[[], float] = time.time) -> None:
        self._settings, self._clock = settings, clock
        self._database = sqlite3.connect(path, timeout=PATIENCE_S, isolation_level=None, check_same_thread=False)
        self._database.row_factory = sqlite3.Row
        self._log_ahead()
        self._database.execute("PRAGMA synchronous = FULL")  # an accepted job outlives a power cut
        version = self._database.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, SCHEMA):
            self._database.close()
            raise sqlite3.DatabaseError(f"{path} was written by another version of Laconic (schema {version}, not {SCHEMA})")
        self._database.executescript(f"{_TABLE} PRAGMA user_version = {SCHEMA};")

    def _log_ahead(self) -> None:
        """Switch to the write-ahead log: SQLite itself does not wait here for another process that switches a new file too."""
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                self._database.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
                time.sleep(0.01)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def check_room(self, draft: Draft) -> Job | None:
        """See `JobStore.check_room`."""
        if draft.key is not None:
            where = "key = :key AND owner IS :owner"
            found = self._one(f"SELECT {_COLUMNS}, fingerprint FROM jobs WHERE {where}", key=draft.key, owner=draft.owner)
            if found is not None:
                if found["fingerprint"] != _fingerprint(draft):
                    raise IdempotencyMismatch(
                        "this Idempotency-Key was used for another request: take a new key for another body or other options"
                    )
                return _job(found)
        count, size = self._execute(f"SELECT count(*), total(payload_bytes + result_bytes) FROM jobs WHERE {_LIVE}").fetchone()
        limits = self._settings
        if count >= limits.max_jobs:
            raise QueueFull("jobs stored", limits.max_jobs, count + 1, variable("max_jobs"), self._retry_after())
        size = int(size) + draft.payload_bytes
        if size > limits.max_job_bytes:
            raise QueueFull("bytes of jobs", limits.max_job_bytes, size, variable("max_job_bytes"), self._retry_after())
        return None

    def _retry_after(self) -> int:
        soonest = self._execute(f"SELECT min(expires) FROM jobs WHERE {_LIVE}").fetchone()[0]
        return 60 if soonest is None else max(1, min(60, round(soonest - self._clock())))

    def add(self, draft: Draft) -> tuple[Job, bool]:
        """See `JobStore.add`."""
        with self._transaction():
            known = self.check_room(draft)
            if known is not None:
                return known, False
            row = self._one(
                "INSERT INTO jobs"
                " (id, owner, op, options, form, name, key, fingerprint, created, payload, payload_bytes, callback)"
                " VALUES (:id, :owner, :op, :options, :form, :name, :key, :print, :now, :payload, :payload_bytes, :callback)"
                " RETURNING id",
                **vars(draft) | {"options": json.dumps(dict(draft.options))},
                id=secrets.token_hex(16),
                print=_fingerprint(draft),
                now=self._clock(),
            )
            return self._returned(row), True

    def get(self, job_id: str) -> Job | None:
        """See `JobStore.get`."""
        row = self._one(f"SELECT {_COLUMNS} FROM jobs WHERE id = :id", id=job_id)
        return None if row is None else _job(row)

    def _returned(self, row: sqlite3.Row | None) -> Job:
        """Return the job of a RETURNING clause, which itself would not see the other rows as they are now."""
        job = None if row is None else self.get(row["id"])
        assert job is not None
        return job

    def page(self, owner: str | None, before: int | None, limit: int) -> Sequence[Job]:
        """See `JobStore.page`."""
        where = "owner IS :owner AND (:before IS NULL OR seq < :before)"
        query = f"SELECT {_COLUMNS} FROM jobs WHERE {where} ORDER BY seq DESC LIMIT :limit"
        return [_job(row) for row in self._execute(query, owner=owner, before=before, limit=limit)]

    def counts(self) -> Mapping[State, int]:
        """See `JobStore.counts`."""
        return {row[0]: row[1] for row in self._execute("SELECT state, count(*) FROM jobs GROUP BY state")}

    def claim(self, worker: str) -> Job | None:
        """See `JobStore.claim`."""
        now = self._clock()
        with self._transaction():
            dead = "state = 'running' AND lease_until <= :now"
            given_up = f"SELECT id FROM jobs WHERE {dead} AND attempts >= :most"
            most, setting = self._settings.job_attempts, variable("job_attempts")
            for (job_id,) in self._execute(given_up, now=now, most=most).fetchall():
                lost = JobLost(f"the service died in each of {most} attempts at this job; {setting} allows more")
                self._end(Ending("failed", error=members(lost, f"/v1/jobs/{job_id}", job_id)), "id = :id", id=job_id)
            row = self._one(
                "UPDATE jobs SET state = 'running', attempts = attempts + 1, worker = :worker, heartbeat = :now,"
                " lease_until = :now + :lease, started = :now, version = version + 1, progress = 0, stage = ''"
                f" WHERE seq = (SELECT min(seq) FROM jobs WHERE state = 'queued' OR ({dead})) RETURNING id",
                worker=worker,
                now=now,
                lease=self._settings.job_lease_s,
            )
            return None if row is None else self._returned(row)

    def beat(self, job: Job, worker: str, progress: float, stage: str) -> bool:
        """See `JobStore.beat`."""
        row = self._one(
            "UPDATE jobs SET lease_until = :now + :lease, heartbeat = :now, version = version + (progress <> :progress OR"
            f" stage <> :stage), progress = :progress, stage = :stage WHERE {_MINE} RETURNING id",
            **_lease(job, worker),
            now=self._clock(),
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
        now = self._clock()
        row = self._one(
            "UPDATE jobs SET state = :state, result = :result, result_bytes = :size, media_type = :media_type, codec = :codec,"
            " error = :error, finished = :now, expires = :now + :retention, progress = iif(:state = 'succeeded', 1, progress),"
            " stage = '', version = version + 1, worker = NULL, lease_until = NULL, payload = NULL, payload_bytes = 0,"
            " webhook = iif(callback IS NULL, NULL, 'pending'), webhook_due = iif(callback IS NULL, NULL, :now)"
            f" WHERE {where} RETURNING id",
            **values,
            state=ending.state,
            result=ending.result,
            size=ending.result_bytes,
            media_type=ending.media_type,
            codec=ending.codec,
            error=None if ending.error is None else json.dumps(ending.error),
            now=now,
            retention=self._settings.job_retention_s,
        )
        return row is not None

    def expire(self) -> set[str]:
        """See `JobStore.expire`."""
        now = self._clock()
        with self._transaction():
            self._execute(
                "UPDATE jobs SET state = 'expired', result = NULL, result_bytes = 0, version = version + 1"
                f" WHERE expires <= :now AND {_LIVE}",
                now=now,
            )
            self._execute("DELETE FROM jobs WHERE expires <= :horizon", horizon=now - REMEMBERED_S)
            used = self._execute("SELECT payload, result FROM jobs WHERE payload IS NOT NULL OR result IS NOT NULL").fetchall()
        return {name for row in used for name in row if name is not None}

    def take_webhook(self) -> Job | None:
        """See `JobStore.take_webhook`."""
        row = self._one(
            "UPDATE jobs SET webhook_due = :now + :pause, webhook_tries = webhook_tries + 1 WHERE seq ="
            " (SELECT seq FROM jobs WHERE webhook_due <= :now ORDER BY webhook_due LIMIT 1) RETURNING id",
            now=self._clock(),
            pause=HOOK_PAUSE_S,
        )
        return None if row is None else self._returned(row)

    def settle_webhook(self, job: Job, failure: str | None, again_in: float | None) -> None:
        """See `JobStore.settle_webhook`."""
        self._execute(
            "UPDATE jobs SET webhook = :text, webhook_due = :due WHERE id = :id",
            text="delivered" if failure is None else f"failed: {failure}" if again_in is None else "pending",
            due=None if again_in is None else self._clock() + again_in,
            id=job.id,
        )

    def _execute(self, query: str, **values: object) -> sqlite3.Cursor:
        return self._database.execute(query, values)

    def _one(self, query: str, **values: object) -> sqlite3.Row | None:
        """Return the only row; every row is fetched, because SQLite ends a statement with RETURNING only then."""
        rows = self._execute(query, **values).fetchall()
        return rows[0] if rows else None

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")


def _lease(job: Job, worker: str) -> dict[str, object]:
    return {"id": job.id, "worker": worker, "attempts": job.attempts}


def _job(row: sqlite3.Row) -> Job:
    values = {field.name: row[field.name] for field in fields(Job)}
    values["options"] = json.loads(values["options"])
    values["error"] = None if values["error"] is None else json.loads(values["error"])
    return Job(**values)


def _fingerprint(draft: Draft) -> str:
    """Return what two requests with one Idempotency-Key must have in common; the name of the file is not part of it."""
    parts = (draft.op, sorted(draft.options.items()), draft.form, draft.payload, draft.callback)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
