"""Uploads that come in parts, in one folder: for each upload a file of its bytes so far and one that says what it is to be.

How much has come is the length of the first file, so nothing else can disagree with it after a crash. Whoever writes or looks
holds a lock of the system on it, which ends with the process. An upload that is complete moves to the blobs.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from io import FileIO
from pathlib import Path

from .blobs import BlobStore, sync_folder
from .problems import UploadConflict, UploadLocked
from .settings import ServiceSettings
from .upload_store import Part, Upload, checked_upload, is_upload_id, new_upload

__all__ = ["FilePart", "UploadFolder"]


class FilePart:
    """A `Part` in a file, held by a lock until `close`."""

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self.start = self.offset = file.seek(0, os.SEEK_END)

    def append(self, content: bytes) -> None:
        """See `Part.append`; a disk that fills up in the middle leaves what it has taken."""
        view = memoryview(content)
        while view:
            written = self._file.write(view) or 0
            self.offset += written
            view = view[written:]

    def undo(self) -> None:
        """See `Part.undo`."""
        self._file.truncate(self.start)
        self.offset = self._file.seek(self.start)

    def sync(self) -> None:
        """See `Part.sync`; file systems note a longer length after the bytes, never before."""
        os.fsync(self._file.fileno())

    def digest(self, algorithm: str = "sha256", start: int = 0) -> bytes:
        """See `Part.digest`."""
        self._file.seek(start)
        return hashlib.file_digest(self._file, algorithm).digest()

    def close(self) -> None:
        """See `Part.close`."""
        self._file.close()


def _locked(file: FileIO, how: int) -> bool:
    """Take a lock that ends when the file is closed; False if somebody has one that excludes it."""
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False


class UploadFolder:
    """An `UploadStore` in one folder, and in `blobs` what is complete."""

    def __init__(
        self, folder: Path, blobs: BlobStore, settings: ServiceSettings, clock: Callable[[], float] = time.time
    ) -> None:
        self._folder, self._blobs, self._settings, self._clock = folder, blobs, settings, clock
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def create(self, owner: str | None, length: int, metadata: str, name: str) -> Upload:
        """See `UploadStore.create`."""
        with self._alone():
            known = self._all()
            soonest = min((upload.expires for upload in known), default=None)
            total = sum(upload.length for upload in known)
            wanted = Upload("", owner, length, metadata, name, 0.0)
            upload = new_upload(wanted, self._settings, len(known), total, soonest, self._clock())
            self._part(upload.id).touch(mode=0o600)
            self._write(upload)
        return upload

    def find(self, upload_id: str, owner: str | None) -> Upload:
        """See `UploadStore.find`."""
        upload = self._read(upload_id) if is_upload_id(upload_id) else None
        return checked_upload(upload_id, upload, owner, self._clock())

    def hold(self, upload: Upload) -> FilePart:
        """See `UploadStore.hold`; nobody else has the bytes open meanwhile."""
        try:
            file = FileIO(self._part(upload.id), "r+")
            try:
                if not _locked(file, fcntl.LOCK_EX):
                    raise UploadLocked("another request is at work on this upload: ask again in a moment")
                if not os.path.samestat(os.fstat(file.fileno()), self._part(upload.id).stat()):
                    raise FileNotFoundError("the file has been replaced")
            except BaseException:
                file.close()
                raise
        except FileNotFoundError as error:  # before it was locked, or while
            raise UploadLocked("the upload has just been completed or ended: ask again where it stands") from error
        return FilePart(file)

    def offset(self, upload: Upload) -> int:
        """See `UploadStore.offset`; it is not certain while somebody has the bytes open."""
        if upload.digest is not None:
            return upload.length
        try:
            with FileIO(self._part(upload.id)) as file:
                if not _locked(file, fcntl.LOCK_SH):
                    raise UploadLocked("another request is at work on this upload: ask again in a moment")
                return file.seek(0, os.SEEK_END)
        except FileNotFoundError as error:
            raise UploadLocked("the upload has just been completed or ended: ask again where it stands") from error

    def complete(self, upload: Upload) -> Upload:
        """See `UploadStore.complete`: first the digest is noted, then the file moves."""
        if upload.digest is None:
            part = self.hold(upload)
            try:
                if part.offset < upload.length:
                    raise UploadConflict(f"the upload has {part.offset:,} of {upload.length:,} bytes: send the others first")
                return self.seal(upload, part)
            finally:
                part.close()
        with suppress(FileNotFoundError):  # it has moved already, but after a crash
            self._blobs.adopt(self._part(upload.id), upload.digest)
        return upload

    def seal(self, upload: Upload, part: Part) -> Upload:
        """See `UploadStore.seal`."""
        part.sync()
        digest = part.digest().hex()
        upload = replace(upload, digest=digest)
        self._write(upload)
        self._blobs.adopt(self._part(upload.id), digest)
        return upload

    def delete(self, upload: Upload) -> None:
        """See `UploadStore.delete`; raises `UploadLocked` while somebody sends it."""
        part = self.hold(upload) if upload.digest is None else None
        self._remove(upload.id)
        if part is not None:
            part.close()

    def expire(self) -> set[str]:
        """See `UploadStore.expire`."""
        with self._alone():
            known = self._all()
            for upload in known:
                if upload.expires <= self._clock():
                    self._remove(upload.id)
            kept = {upload.id for upload in known if upload.expires > self._clock()}
            for path in self._folder.glob("*.*"):  # what a crash has left of one that was made or ended just then
                if path.name.partition(".")[0] not in kept:
                    path.unlink(missing_ok=True)
        return {upload.digest for upload in known if upload.id in kept and upload.digest is not None}

    def _part(self, upload_id: str) -> Path:
        return self._folder / f"{upload_id}.part"

    def _remove(self, upload_id: str) -> None:
        self._folder.joinpath(f"{upload_id}.json").unlink(missing_ok=True)
        self._part(upload_id).unlink(missing_ok=True)

    def _write(self, upload: Upload) -> None:
        path = self._folder / f"{upload.id}.json"
        temporary = path.with_suffix(".new")
        with open(temporary, "w", encoding="ascii") as file:
            json.dump(asdict(upload), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(self._folder)

    def _read(self, upload_id: str) -> Upload | None:
        try:
            return Upload(**json.loads(self._folder.joinpath(f"{upload_id}.json").read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):  # a damaged one is as good as gone, and must not stop the others
            return None

    def _all(self) -> list[Upload]:
        found = (self._read(path.stem) for path in self._folder.glob("*.json"))
        return [upload for upload in found if upload is not None]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Count and make uploads one at a time, so that the bounds hold across processes."""
        with open(self._folder / "lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
