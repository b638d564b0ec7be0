"""Blobs and checkpoints on storage that speaks S3, so that every machine has the same ones.

The client, obstore, is the extra `[cluster]` and imported only here, when a setting asks for it. Endpoint, region and
credentials are those of the usual AWS_ variables, or of the role that the machine or pod has.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

from ..codecs.errors import InvalidSettings
from ..codecs.saving import replace_file
from .blobs import PIECE, SWEEP_AGE_S, blob_name, damaged
from .checkpoints import CheckpointFolder
from .extras import extra_module
from .settings import variable

__all__ = ["Bucket", "S3Blobs", "S3Checkpoints"]

PART = {"chunk_size": 8 * 2**20, "max_concurrency": 4}  # what a large object is sent in: so much of it is in memory
CLIENT = {"allow_http": True}  # where the endpoint says http:// itself
RETRIES = {"max_retries": 5, "retry_timeout": timedelta(seconds=30)}
INCOMING = "incoming-"  # objects whose names are not known yet
OWNER = "owner"


class Bucket:
    """The objects below `s3://bucket/prefix`; errors are `OSError`, and `FileNotFoundError` where an object is missing."""

    def __init__(self, url: str) -> None:
        self._client: Any = extra_module("obstore", "cluster", "blobs on S3 need obstore")
        self._errors: Any = extra_module("obstore.exceptions", "cluster", "blobs on S3 need obstore")
        store: Any = extra_module("obstore.store", "cluster", "blobs on S3 need obstore").S3Store
        try:
            self._store = store.from_url(url, client_options=CLIENT, retry_config=RETRIES)
        except (self._errors.BaseError, ValueError) as error:
            raise InvalidSettings(f"{variable('blob_store')} is {url!r}: {_first_line(error)}") from error

    def write(self, path: str, content: bytes | Path) -> None:
        """Write an object whole or not at all: bytes, or what is in a file."""
        with self._told_apart(path):
            self._client.put(self._store, path, content, **PART)

    def write_all(self, path: str, pieces: Iterable[bytes]) -> None:
        """Write an object that comes in pieces; where they break off there is none.

        `put` takes them as well, but draws them from a thread of the client, where they cannot be read from the same storage.
        """
        with self._told_apart(path):
            writer = self._client.open_writer(
                self._store, path, buffer_size=PART["chunk_size"], max_concurrency=PART["max_concurrency"]
            )
        for piece in pieces:
            with self._told_apart(path):
                writer.write(piece)
        with self._told_apart(path):
            writer.close()

    def read(self, path: str) -> bytes:
        """Return an object."""
        with self._told_apart(path):
            return bytes(self._client.get(self._store, path).bytes())

    def pieces(self, path: str, span: tuple[int, int] | None = None) -> Iterator[bytes]:
        """Open an object and return it, or the bytes of a span of it, in pieces."""
        with self._told_apart(path):
            found = self._client.get(self._store, path, options={} if span is None else {"range": span})

        def stream() -> Iterator[bytes]:
            with self._told_apart(path):
                for piece in found.stream(min_chunk_size=PIECE):
                    yield bytes(piece)

        return stream()

    def copy(self, path: str, target: str) -> None:
        """Copy an object within the storage."""
        with self._told_apart(path):
            self._client.copy(self._store, path, target)

    def delete(self, paths: Sequence[str]) -> None:
        """Delete objects; those that are not there do not matter."""
        for path in paths:
            with contextlib.suppress(FileNotFoundError), self._told_apart(path):
                self._client.delete(self._store, path)

    def changed(self, path: str) -> datetime:
        """Return when an object was written, by the storage's clock."""
        with self._told_apart(path):
            written: datetime = self._client.head(self._store, path)["last_modified"]
            return written

    def listing(self, prefix: str) -> Iterator[tuple[str, datetime]]:
        """Yield the path of every object below a prefix, and when it was written."""
        with self._told_apart(prefix):
            for batch in self._client.list(self._store, prefix, chunk_size=1000):
                yield from ((entry["path"], entry["last_modified"]) for entry in batch)

    def try_out(self) -> None:
        """Write an object and delete it, as everything else needs: raises `OSError` that says why not."""
        path = f"{INCOMING}{secrets.token_hex(8)}"
        self.write(path, b"")
        self.delete([path])

    @contextmanager
    def _told_apart(self, path: str) -> Iterator[None]:
        try:
            yield
        except self._errors.NotFoundError as error:
            raise FileNotFoundError(f"{path} is not in the object storage") from error
        except self._errors.BaseError as error:
            raise OSError(f"the object storage: {_first_line(error)}") from error


class S3Blobs:
    """A `blobs.BlobStore` of the objects `blobs/SHA-256`. Old is what the storage's clock says."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def claim(self, identity: str) -> None:
        """See `BlobStore.claim`; the object `owner` says whose it is."""
        try:
            owner = self._bucket.read(OWNER)
        except FileNotFoundError:
            self._bucket.write(OWNER, identity.encode())
            owner = self._bucket.read(OWNER)
        if owner != identity.encode():
            raise OSError("another database of jobs has its blobs there: give this one a prefix of its own")

    def put(self, content: bytes) -> str:
        """See `BlobStore.put`; written again even if it is there, which is what makes it young."""
        name = blob_name(content)
        self._bucket.write(_path(name), content)
        return name

    def put_all(self, pieces: Iterable[bytes]) -> str:
        """See `BlobStore.put_all`; the name is known at the end only, so that it is written under another first."""
        digest, incoming = hashlib.sha256(), _path(f"{INCOMING}{secrets.token_hex(8)}")

        def counted() -> Iterator[bytes]:
            for piece in pieces:
                digest.update(piece)
                yield piece

        self._bucket.write_all(incoming, counted())
        self._bucket.copy(incoming, _path(digest.hexdigest()))
        self._bucket.delete([incoming])
        return digest.hexdigest()

    def adopt(self, path: Path, name: str) -> None:
        """See `BlobStore.adopt`."""
        path.stat()  # raises what the folder raises where the file has gone already
        self._bucket.write(_path(name), path)
        path.unlink(missing_ok=True)

    def renew(self, name: str) -> None:
        """See `BlobStore.renew`; by way of a copy, because S3 does not copy an object to itself."""
        beside = _path(f"{INCOMING}{secrets.token_hex(8)}")
        self._bucket.copy(_path(name), beside)
        self._bucket.copy(beside, _path(name))
        self._bucket.delete([beside])

    def get(self, name: str) -> bytes:
        """See `BlobStore.get`."""
        content = self._bucket.read(_path(name))
        if blob_name(content) != name:
            raise damaged(name)
        return content

    def read(self, name: str, first: int, end: int) -> Iterator[bytes]:
        """See `BlobStore.read`."""
        return self._bucket.pieces(_path(name), (first, end)) if first < end else iter(())

    def sweep(self, kept: Collection[str], age_s: float = SWEEP_AGE_S) -> int:
        """See `BlobStore.sweep`; an object is looked at again just before: it may have been written anew since the listing."""
        horizon, removed = datetime.now(UTC) - timedelta(seconds=age_s), 0
        for path, written in list(self._bucket.listing(_path(""))):
            if path.rpartition("/")[2] in kept or written > horizon:
                continue
            with contextlib.suppress(FileNotFoundError):  # another process sweeps too
                if self._bucket.changed(path) <= horizon:
                    self._bucket.delete([path])
                    removed += 1
        return removed


class S3Checkpoints(CheckpointFolder):
    """A `CheckpointFolder` whose files are kept as the objects `checkpoints/JOB/...` as well, for the next machine."""

    def __init__(self, folder: Path, bucket: Bucket) -> None:
        super().__init__(folder)
        self._bucket = bucket
        self._saved: dict[str, dict[str, tuple[int, int]]] = {}  # of each job: files and the times and sizes last saved

    def fetch(self, job_id: str) -> None:
        """See `CheckpointFolder.fetch`; what this machine has of an earlier attempt of its own is older, or the same."""
        super().remove(job_id)
        self._saved.pop(job_id, None)
        for path, _ in self._bucket.listing(_checkpoint(job_id)):
            target = self.path(job_id) / path.removeprefix(_checkpoint(job_id))
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(target, _written(self._bucket.pieces(path)))

    def save(self, job_id: str) -> None:
        """See `CheckpointFolder.save`; files are written by the codec whole or not at all, so any moment will do."""
        folder, known = self.path(job_id), self._saved.setdefault(job_id, {})
        found = {str(path.relative_to(folder)): _state(path) for path in folder.rglob("*") if _is_whole(path)}
        for name, state in found.items():
            if state is not None and known.get(name) != state:
                with contextlib.suppress(FileNotFoundError):
                    self._bucket.write(_checkpoint(job_id) + name, folder / name)
                    known[name] = state
        for name in known.keys() - found.keys():
            self._bucket.delete([_checkpoint(job_id) + name])
            del known[name]

    def jobs(self) -> list[str]:
        """See `CheckpointFolder.jobs`."""
        kept = {path.split("/")[1] for path, _ in self._bucket.listing(_checkpoint(""))}
        return sorted(kept | set(super().jobs()))

    def remove(self, job_id: str) -> None:
        """See `CheckpointFolder.remove`."""
        super().remove(job_id)
        self._saved.pop(job_id, None)
        self._bucket.delete([path for path, _ in self._bucket.listing(_checkpoint(job_id))])


def _written(pieces: Iterable[bytes]) -> Callable[[BinaryIO], None]:
    return lambda file: file.writelines(pieces)


def _first_line(error: Exception) -> str:
    """Return what an error says, without the picture of its insides that follows."""
    return str(error).strip().partition("\n")[0]


def _path(name: str) -> str:
    return f"blobs/{name}"


def _checkpoint(job_id: str) -> str:
    return f"checkpoints/{job_id}/" if job_id else "checkpoints/"


def _is_whole(path: Path) -> bool:
    return not (path.name.startswith(".") or path.name.endswith(".part")) and path.is_file()


def _state(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size
