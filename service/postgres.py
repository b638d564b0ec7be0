"""One connection to Postgres: made again when it breaks, its tables made and brought up to date when it opens.

The driver, psycopg 3, is the extra `[cluster]` and imported only here, when a setting asks for it.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from ..codecs.errors import InvalidSettings
from ..codecs.extras import extra_module
from .job_store import StoreError
from .settings import variable
from .sql_jobs import Row

__all__ = ["SCHEMA", "PostgresDatabase"]

# What takes an empty database to version 1, that to version 2, and so on. Each step only adds, and what it adds has defaults:
# replicas of the version before go on working while those of the next one start.
_STEPS = (
    """
CREATE TABLE jobs (
    seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id TEXT NOT NULL UNIQUE, owner TEXT, op TEXT NOT NULL,
    options TEXT NOT NULL, form TEXT NOT NULL, name TEXT NOT NULL, key TEXT, fingerprint TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'queued', version BIGINT NOT NULL DEFAULT 1,
    progress DOUBLE PRECISION NOT NULL DEFAULT 0, stage TEXT NOT NULL DEFAULT '',
    attempts INTEGER NOT NULL DEFAULT 0, worker TEXT, lease_until DOUBLE PRECISION, heartbeat DOUBLE PRECISION,
    created DOUBLE PRECISION NOT NULL, started DOUBLE PRECISION, finished DOUBLE PRECISION, expires DOUBLE PRECISION,
    payload TEXT, payload_bytes BIGINT NOT NULL, result TEXT, result_bytes BIGINT NOT NULL DEFAULT 0,
    media_type TEXT NOT NULL DEFAULT '', codec TEXT NOT NULL DEFAULT '', error TEXT,
    callback TEXT, webhook TEXT, webhook_tries INTEGER NOT NULL DEFAULT 0, webhook_due DOUBLE PRECISION
);
CREATE UNIQUE INDEX jobs_key ON jobs (coalesce(owner, ''), key) WHERE key IS NOT NULL;
CREATE INDEX jobs_state ON jobs (state, seq);
CREATE INDEX jobs_webhook ON jobs (webhook_due) WHERE webhook_due IS NOT NULL;
CREATE TABLE uploads (
    id TEXT PRIMARY KEY, owner TEXT, length BIGINT NOT NULL, metadata TEXT NOT NULL, name TEXT NOT NULL,
    expires DOUBLE PRECISION NOT NULL, digest TEXT, received BIGINT NOT NULL DEFAULT 0
);
CREATE TABLE pieces (
    upload TEXT NOT NULL REFERENCES uploads ON DELETE CASCADE, start BIGINT NOT NULL, blob TEXT NOT NULL,
    PRIMARY KEY (upload, start)
);
""",
    "ALTER TABLE jobs ADD COLUMN trace TEXT NOT NULL DEFAULT ''",
)
SCHEMA = len(_STEPS)
LOCK = 0x1AC0171C  # the advisory lock of those who want to be alone
# A server that has gone must not hold the one thread that asks it: the URL may say otherwise of each.
PATIENCE: Mapping[str, object] = {
    "connect_timeout": 10,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    "application_name": "laconic",
    "options": "-c statement_timeout=30s -c lock_timeout=15s -c idle_in_transaction_session_timeout=60s",
}
_TIME = "extract(epoch FROM statement_timestamp())::float8"  # the server's: replicas' clocks may differ


class PostgresDatabase:
    """A `sql_jobs.Database` for any number of threads, which take turns. `clock` takes the place of the server's, for tests."""

    skip_locked = "FOR UPDATE SKIP LOCKED"

    def __init__(self, url: str, clock: Callable[[], float] | None = None) -> None:
        self._psycopg: Any = extra_module("psycopg", "cluster", "jobs on Postgres need psycopg")
        self._clock = clock
        try:
            self._given = {**PATIENCE, **self._psycopg.conninfo.conninfo_to_dict(url)}
        except self._psycopg.ProgrammingError:  # whose message may have the password in it
            raise InvalidSettings(f"{variable('job_store')} is not like postgresql://user:password@host/database") from None
        self._turn = threading.RLock()
        self._live: Any = None
        self._inside = False  # a transaction, which a new connection could not go on with

    def prepare(self) -> None:
        """Make the tables, or bring those there up to date; raises `StoreError` where a newer version of Laconic has."""
        with self.transaction(alone=True):
            version = self.version()
            if version is None:
                self.execute("CREATE TABLE laconic (version INTEGER NOT NULL, id TEXT NOT NULL)", {})
                self.execute("INSERT INTO laconic VALUES (0, :id)", {"id": secrets.token_hex(16)})
            if (version or 0) > SCHEMA:
                raise StoreError(f"the database was written by a newer version of Laconic (schema {version}, not {SCHEMA})")
            for step in _STEPS[version or 0 :]:
                self.execute(step, {})
            if version != SCHEMA:
                self.execute("UPDATE laconic SET version = :version", {"version": SCHEMA})

    def version(self) -> int | None:
        """Return the version of the tables; None where there are none yet."""
        (there,) = self.execute("SELECT to_regclass('laconic') IS NOT NULL AS yes", {})
        return int(self.execute("SELECT version FROM laconic", {})[0]["version"]) if there["yes"] else None

    def close(self) -> None:
        """Close the connection."""
        with self._turn:
            if self._live is not None:
                self._live.close()

    def execute(self, query: str, values: Mapping[str, object], /) -> Sequence[Row]:
        """Run a statement, in the transaction if there is one."""
        with self._turn, self._told_apart():
            given = {**values, "now": self._clock()} if self._clock else values
            cursor = self._connection().execute(_translated(query, self._clock is None), given or None)
            return list(cursor.fetchall()) if cursor.description else []

    @contextmanager
    def transaction(self, *, alone: bool = False) -> Iterator[None]:
        """Begin a transaction; `alone` waits for the one of any process that is alone as well."""
        with self._turn, self._told_apart(), self._connection().transaction():
            self._inside = True
            try:
                if alone:
                    self.execute("SELECT pg_advisory_xact_lock(:lock)", {"lock": LOCK})
                yield
            finally:
                self._inside = False

    def _connection(self) -> Any:
        """Return the connection, a new one if it has broken: what was asked then has failed, the next question need not."""
        if not self._inside and (self._live is None or self._live.closed):
            psycopg = self._psycopg
            # Values are put into the text by the driver: types of parameters need not be guessed, poolers need not know them.
            self._live = psycopg.connect(
                **self._given, autocommit=True, row_factory=psycopg.rows.dict_row, cursor_factory=psycopg.ClientCursor
            )
        return self._live

    @contextmanager
    def _told_apart(self) -> Iterator[None]:
        """Raise psycopg's errors as `StoreError`."""
        try:
            yield
        except self._psycopg.Error as error:
            raise StoreError(f"the jobs' database: {str(error).strip() or type(error).__name__}") from error


@lru_cache(maxsize=256)
def _translated(query: str, own_time: bool) -> str:
    """Return a query with psycopg's placeholders, and with the server's time where there is no other."""
    timed = query.replace(":now", _TIME) if own_time else query
    return re.sub(r"(?<!:):([a-z]\w*)", r"%(\1)s", timed)
