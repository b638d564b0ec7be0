"""Blobs and checkpoints on storage that speaks S3, so that every machine has the same ones.

What speaks to the storage is `codecs/object_storage.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from ..codecs.object_storage import Bucket
from ..codecs.saving import replace_file
from .blobs import SWEEP_AGE_S, blob_name, damaged
from .checkpoints import CheckpointFolder

__all__ = ["S3Blobs", "S3Checkpoints", "try_out"]

INCOMING = "incoming-"  # objects whose names are not known yet
OWNER = "owner"


def try_out(bucket: Bucket) -> None:
    """Write an object and delete it, as everything else needs: raises `OSError` that says why not."""
    path = f"{INCOMING}{secrets.token_hex(8)}"
    bucket.write(path, b"")
    bucket.delete([path])


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
        for path, written, _ in list(self._bucket.listing(_path(""))):
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
        for path, *_ in self._bucket.listing(_checkpoint(job_id)):
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
        kept = {path.split("/")[1] for path, *_ in self._bucket.listing(_checkpoint(""))}
        return sorted(kept | set(super().jobs()))

    def remove(self, job_id: str) -> None:
        """See `CheckpointFolder.remove`."""
        super().remove(job_id)
        self._saved.pop(job_id, None)
        self._bucket.delete([path for path, *_ in self._bucket.listing(_checkpoint(job_id))])


def _written(pieces: Iterable[bytes]) -> Callable[[BinaryIO], None]:
    return lambda file: file.writelines(pieces)


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
