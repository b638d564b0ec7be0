"""The job store on SQLite: one file, write-ahead log, a lease per running job. Nothing to install, nothing to run."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from .job_store import StoreError
from .settings import ServiceSettings
from .sql_jobs import Row, SqlJobStore

__all__ = ["SqliteJobStore"]

SCHEMA = 1
PATIENCE_S = 10.0  # for other processes that hold the file
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
    callback TEXT, webhook TEXT, webhook_tries INTEGER NOT NULL DEFAULT 0, webhook_due REAL,
    trace TEXT NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX IF NOT EXISTS jobs_key ON jobs (coalesce(owner, ''), key) WHERE key IS NOT NULL;
CREATE INDEX IF NOT EXISTS jobs_state ON jobs (state, seq);
CREATE INDEX IF NOT EXISTS jobs_webhook ON jobs (webhook_due) WHERE webhook_due IS NOT NULL;
CREATE TABLE IF NOT EXISTS laconic (id TEXT NOT NULL);
INSERT INTO laconic SELECT lower(hex(randomblob(16))) WHERE NOT EXISTS (SELECT 1 FROM laconic);
"""


class SqliteJobStore(SqlJobStore):
    """A `JobStore` in one file."""

    def __init__(self, path: Path, settings: ServiceSettings, clock: Callable[[], float] = time.time) -> None:
        super().__init__(_Database(path, clock), settings)


class _Database:
    """One connection to a file; a transaction that writes has the file for itself, so that rows are never locked."""

    skip_locked = ""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._clock = clock
        with _told_apart():
            self._database = sqlite3.connect(path, timeout=PATIENCE_S, isolation_level=None, check_same_thread=False)
            self._database.row_factory = sqlite3.Row
            self._log_ahead()
            self._database.execute("PRAGMA synchronous = FULL")  # an accepted job outlives a power cut
            version = self._database.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, SCHEMA):
                self._database.close()
                raise StoreError(f"{path} was written by another version of Laconic (schema {version}, not {SCHEMA})")
            self._database.executescript(f"BEGIN IMMEDIATE; {_TABLE} PRAGMA user_version = {SCHEMA}; COMMIT;")
            self._add_columns()

    def _add_columns(self) -> None:
        """Add what versions before did not have; theirs go on with it, since it has defaults."""
        with self.transaction():
            if "trace" not in {row["name"] for row in self.execute("PRAGMA table_info(jobs)", {})}:
                self.execute("ALTER TABLE jobs ADD COLUMN trace TEXT NOT NULL DEFAULT ''", {})

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

    def execute(self, query: str, values: Mapping[str, object], /) -> Sequence[Row]:
        """Fetch every row: SQLite ends a statement with RETURNING only then."""
        with _told_apart():
            return self._database.execute(query, {**values, "now": self._clock()}).fetchall()

    @contextmanager
    def transaction(self, *, alone: bool = False) -> Iterator[None]:
        """Every transaction is alone."""
        self.execute("BEGIN IMMEDIATE", {})
        try:
            yield
        except BaseException:
            self.execute("ROLLBACK", {})
            raise
        self.execute("COMMIT", {})


@contextmanager
def _told_apart() -> Iterator[None]:
    """Raise SQLite's errors as `StoreError`."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(f"the jobs' database: {error}") from error
