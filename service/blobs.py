"""A folder of byte strings under the SHA-256 of their content: written whole or not at all, never changed."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Collection
from pathlib import Path

from ..codecs.saving import replace_file

__all__ = ["BlobFolder", "blob_name", "sync_folder"]

SWEEP_AGE_S = 600.0  # a blob is younger than this between its writing and the row that refers to it


def blob_name(content: bytes) -> str:
    """Return the name that these bytes are kept under."""
    return hashlib.sha256(content).hexdigest()


class BlobFolder:
    """Keeps payloads and results as `ab/abcdef...`; several processes may share one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, name: str) -> Path:
        """Return where a blob is, or would be."""
        return self._folder / name[:2] / name

    def put(self, content: bytes) -> str:
        """Write a blob to stable storage and return its name; what is there already only becomes young again."""
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

    def adopt(self, path: Path, name: str) -> None:
        """Move a synchronised file of the same file system, whose content has this name, to its place."""
        os.utime(path)
        target = self.path(name)
        target.parent.mkdir(mode=0o700, exist_ok=True)
        os.replace(path, target)
        for folder in (target.parent, self._folder):
            sync_folder(folder)

    def renew(self, name: str) -> None:
        """Make a blob young, so that no sweep takes it before a row refers to it; raises `FileNotFoundError`."""
        os.utime(self.path(name))

    def get(self, name: str) -> bytes:
        """Return a blob; raises `FileNotFoundError` for one that is not there, `OSError` for one that has changed."""
        content = self.path(name).read_bytes()
        if blob_name(content) != name:
            raise OSError(f"the stored file {name[:16]}… is damaged")
        return content

    def sweep(self, kept: Collection[str], age_s: float = SWEEP_AGE_S) -> int:
        """Delete blobs, and what an interrupted write has left, that are not `kept` and are older; return how many."""
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
