"""What the settings name: jobs and uploads in the state folder or on Postgres, blobs and checkpoints there or on S3."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..codecs.errors import InvalidSettings
from .blobs import BlobFolder, BlobStore
from .checkpoints import CheckpointFolder
from .job_store import JobStore
from .settings import ServiceSettings, variable
from .sqlite_jobs import SqliteJobStore
from .upload_store import UploadStore
from .uploads import UploadFolder

__all__ = ["DATABASE", "Stores", "open_stores"]

DATABASE = "jobs.sqlite"


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
        with _in_folder(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _named("blob_store", "blobs cannot be kept there") if settings.blob_store else _in_folder(folder):
            blobs, checkpoints = _open_blobs(settings, folder)
        with _named("job_store", "jobs cannot be kept there") if settings.job_store else _in_folder(folder):
            jobs, uploads = _open_jobs(settings, folder, blobs, opened)
        return Stores(jobs, blobs, uploads, checkpoints, opened.pop_all().close)


def _open_blobs(settings: ServiceSettings, folder: Path) -> tuple[BlobStore, CheckpointFolder]:
    if settings.blob_store is None:
        return BlobFolder(folder / "blobs"), CheckpointFolder(folder / "checkpoints")
    if not settings.blob_store.startswith("s3://"):
        raise InvalidSettings(f"{variable('blob_store')} is {settings.blob_store!r}, not s3://bucket or s3://bucket/prefix")
    from .s3 import Bucket, S3Blobs, S3Checkpoints  # needs the extra

    bucket = Bucket(settings.blob_store)
    bucket.try_out()
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


def _in_folder(folder: Path) -> AbstractContextManager[None]:
    return _named("state_dir", f"jobs cannot be kept in {folder}")


@contextmanager
def _named(setting: str, complaint: str) -> Iterator[None]:
    """Raise what goes wrong as `InvalidSettings` with the setting's name, and never with its value: a URL has a password."""
    try:
        yield
    except OSError as error:
        raise InvalidSettings(f"{complaint}: {error}; set {variable(setting)}") from error
