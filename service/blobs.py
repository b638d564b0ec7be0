"""Byte strings under the SHA-256 of their content: written whole or not at all, never changed; the ones in a folder."""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Protocol

from ..codecs.object_storage import PIECE
from ..codecs.saving import replace_file

__all__ = ["PIECE", "SWEEP_AGE_S", "BlobFolder", "BlobStore", "blob_name", "checked", "damaged", "sync_folder"]

SWEEP_AGE_S = 600.0  # a blob is younger than this between its writing and the row that refers to it


class BlobStore(Protocol):
    """Keeps payloads and results; several processes may share a store, and threads call it at once.

    Methods raise `OSError` where the storage is full or gone, those that read `FileNotFoundError` for what is not there.
    """

    def claim(self, identity: str) -> None:
        """Have the storage serve one store of jobs only, whose sweeps take what it does not know; raises for a second one."""
        ...

    def put(self, content: bytes) -> str:
        """Write a blob to stable storage and return its name; what is there already only becomes young again."""
        ...

    def put_all(self, pieces: Iterable[bytes]) -> str:
        """Write a blob that comes in pieces, of which few are in memory at once."""
        ...

    def adopt(self, path: Path, name: str) -> None:
        """Take over a synchronised file whose content has this name; the file is then gone. Repeats what a crash cut off."""
        ...

    def renew(self, name: str) -> None:
        """Make a blob young, so that no sweep takes it before a row refers to it."""
        ...

    def get(self, name: str) -> bytes:
        """Return a blob; raises `OSError` also for one that has changed."""
        ...

    def read(self, name: str, first: int, end: int) -> Iterator[bytes]:
        """Return the bytes of a blob from `first` up to `end`, in pieces; opened at once, it may be deleted meanwhile."""
        ...

    def sweep(self, kept: Collection[str], age_s: float = SWEEP_AGE_S) -> int:
        """Delete blobs, and what an interrupted write has left, that are not `kept` and are older; return how many."""
        ...


def blob_name(content: bytes) -> str:
    """Return the name that these bytes are kept under."""
    return hashlib.sha256(content).hexdigest()


def checked(name: str, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the pieces of a whole blob; raises `OSError` before the last of them if it has changed."""
    digest, waiting = hashlib.sha256(), b""
    for piece in pieces:
        if waiting:
            yield waiting
        waiting = piece
        digest.update(piece)
    if digest.hexdigest() != name:
        raise damaged(name)
    yield waiting


def damaged(name: str) -> OSError:
    """Return the error of a blob whose content has not the digest that it is named after."""
    return OSError(f"the stored file {name[:16]}… is damaged")


class BlobFolder:
    """A `BlobStore` of files `ab/abcdef...`; several processes may share one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, name: str) -> Path:
        """Return where a blob is, or would be."""
        return self._folder / name[:2] / name

    def claim(self, identity: str) -> None:
        """See `BlobStore.claim`; the folder is beside the jobs that it serves."""

    def put(self, content: bytes) -> str:
        """See `BlobStore.put`."""
        name = blob_name(content)
        path = self.path(name)
        try:
            os.utime(path)  # so that no sweep takes it before a row refers to it
            return name
        except FileNotFoundError:
            pass
        path.parent.mkdir(mode=0o700, exist_ok=True)
        replace_file(path, content)
        for folder in (path.parent, self._folder):
            sync_folder(folder)
        return name

    def put_all(self, pieces: Iterable[bytes]) -> str:
        """See `BlobStore.put_all`."""
        digest, incoming = hashlib.sha256(), self.path(f".{secrets.token_hex(8)}")
        incoming.parent.mkdir(mode=0o700, exist_ok=True)
        try:
            with open(incoming, "xb") as file:
                for piece in pieces:
                    digest.update(piece)
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            self.adopt(incoming, digest.hexdigest())
        finally:
            incoming.unlink(missing_ok=True)
        return digest.hexdigest()

    def adopt(self, path: Path, name: str) -> None:
        """See `BlobStore.adopt`; the file is of the same file system, and moves."""
        os.utime(path)
        target = self.path(name)
        target.parent.mkdir(mode=0o700, exist_ok=True)
        os.replace(path, target)
        for folder in (target.parent, self._folder):
            sync_folder(folder)

    def renew(self, name: str) -> None:
        """See `BlobStore.renew`."""
        os.utime(self.path(name))

    def get(self, name: str) -> bytes:
        """See `BlobStore.get`."""
        content = self.path(name).read_bytes()
        if blob_name(content) != name:
            raise damaged(name)
        return content

    def read(self, name: str, first: int, end: int) -> Iterator[bytes]:
        """See `BlobStore.read`."""
        file = open(self.path(name), "rb")  # noqa: SIM115 (closed when the last piece is read)

        def pieces() -> Iterator[bytes]:
            with file:
                file.seek(first)
                left = end - first
                while left > 0 and (piece := file.read(min(PIECE, left))):
                    left -= len(piece)
                    yield piece

        return pieces()

    def sweep(self, kept: Collection[str], age_s: float = SWEEP_AGE_S) -> int:
        """See `BlobStore.sweep`."""
        horizon, removed = time.time() - age_s, 0
        for path in self._folder.glob("??/*"):
            try:
                if path.name not in kept and path.stat().st_mtime <= horizon:
                    path.unlink()
                    removed += 1
            except FileNotFoundError:
                pass  # another process sweeps too
        return removed


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
