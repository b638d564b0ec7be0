"""What the settings name: jobs and uploads in the state folder or on Postgres, blobs and checkpoints there or on S3."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from ..codecs.errors import InvalidSettings
from ..codecs.object_storage import Bucket
from .blobs import BlobFolder, BlobStore
from .checkpoints import CheckpointFolder
from .job_store import JobStore, StoreError
from .settings import ServiceSettings, variable
from .sqlite_jobs import SqliteJobStore
from .upload_store import UploadStore
from .uploads import UploadFolder

__all__ = ["DATABASE", "Stores", "looks", "open_stores"]

DATABASE = "jobs.sqlite"
MANY = 1000  # blobs that are counted


@dataclass(frozen=True)
class Stores:
    """What keeps the jobs of a service; `close` once nothing uses it any more."""

    jobs: JobStore
    blobs: BlobStore
    uploads: UploadStore
    checkpoints: CheckpointFolder
    close: Callable[[], None]


def open_stores(settings: ServiceSettings, folder: Path) -> Stores:
    """Open the stores, with `folder` for what is on this machine; raises `InvalidSettings` that names the setting at fault."""
    with ExitStack() as opened:
        with _named("state_dir", settings, folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _named("blob_store", settings, folder):
            blobs, checkpoints = _open_blobs(settings, folder)
        with _named("job_store", settings, folder):
            jobs, uploads = _open_jobs(settings, folder, blobs, opened)
        with _named("blob_store", settings, folder):
            blobs.claim(jobs.identity())
        return Stores(jobs, blobs, uploads, checkpoints, opened.pop_all().close)


def looks(settings: ServiceSettings) -> Mapping[str, Callable[[], str]]:
    """Return, by their settings, what looks at the stores beyond the state folder, and tells of them; nothing is changed.

    They raise `InvalidSettings` where the setting or an extra is at fault, `OSError` where the store is.
    """
    found: dict[str, Callable[[], str]] = {}
    if settings.job_store is not None:
        found["job_store"] = partial(_look_at_postgres, settings.job_store.get_secret_value())
    if settings.blob_store is not None:
        found["blob_store"] = partial(_look_at_bucket, settings.blob_store)
    return found


def _look_at_postgres(url: str) -> str:
    from .postgres import SCHEMA, PostgresDatabase

    with closing(PostgresDatabase(url)) as database:
        (server,) = database.execute("SELECT current_setting('server_version') AS version", {})
        version = database.version()
        if version is None:
            return f"Postgres {server['version']}, without tables yet: the service makes them when it starts"
        if version > SCHEMA:
            raise StoreError(f"a newer version of Laconic has been there (schema {version}, not {SCHEMA})")
        (jobs,) = database.execute("SELECT count(*) AS count FROM jobs", {})
    return f"Postgres {server['version']}, schema {version} of {SCHEMA}, {jobs['count']} jobs"


def _look_at_bucket(url: str) -> str:
    bucket = _bucket(url)
    blobs = sum(1 for _ in islice(bucket.listing("blobs/"), MANY))
    return f"{url}, {'at least ' * (blobs == MANY)}{blobs} blobs; writing is tried when the service starts"


def _bucket(url: str) -> Bucket:
    return Bucket(url, variable("blob_store"))


def _open_blobs(settings: ServiceSettings, folder: Path) -> tuple[BlobStore, CheckpointFolder]:
    if settings.blob_store is None:
        return BlobFolder(folder / "blobs"), CheckpointFolder(folder / "checkpoints")
    from .s3 import S3Blobs, S3Checkpoints, try_out

    bucket = _bucket(settings.blob_store)
    try_out(bucket)
    return S3Blobs(bucket), S3Checkpoints(folder / "checkpoints", bucket)


def _open_jobs(settings: ServiceSettings, folder: Path, blobs: BlobStore, opened: ExitStack) -> tuple[JobStore, UploadStore]:
    if settings.job_store is None:
        store = SqliteJobStore(folder / DATABASE, settings)
        opened.callback(store.close)
        return store, UploadFolder(folder / "uploads", blobs, settings)
    from .postgres_jobs import PostgresJobStore
    from .postgres_uploads import PostgresUploads

    url = settings.job_store.get_secret_value()
    jobs, uploads = PostgresJobStore(url, settings), PostgresUploads(url, blobs, settings)
    opened.callback(jobs.close)
    opened.callback(uploads.close)
    return jobs, uploads


@contextmanager
def _named(setting: str, settings: ServiceSettings, folder: Path) -> Iterator[None]:
    """Raise what goes wrong as `InvalidSettings` that names the setting, or the state folder where that is not set.

    The value of a setting is not shown: a URL may have a password.
    """
    given = setting != "state_dir" and getattr(settings, setting) is not None
    name, place = (setting, "there") if given else ("state_dir", f"in {folder}")
    try:
        yield
    except OSError as error:
        raise InvalidSettings(f"jobs cannot be kept {place}: {error}; set {variable(name)}") from error
