"""The job store on Postgres, which any number of machines share: the SQL of SQLite's, rows locked one by one."""

from __future__ import annotations

from collections.abc import Callable

from .job_store import StoreError
from .postgres import PostgresDatabase
from .settings import ServiceSettings
from .sql_jobs import SqlJobStore

__all__ = ["PostgresJobStore"]


class PostgresJobStore(SqlJobStore):
    """A `JobStore` in a database of its own, named by a URL; makes its tables, or brings them up to date."""

    def __init__(self, url: str, settings: ServiceSettings, clock: Callable[[], float] | None = None) -> None:
        database = PostgresDatabase(url, clock)
        try:
            database.prepare()
        except StoreError:
            database.close()
            raise
        super().__init__(database, settings)
