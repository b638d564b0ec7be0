"""Uploads that come in parts: one folder, for each upload a file of its bytes so far and one that says what it is to be.

How much has come is the length of the first file, so nothing else can disagree with it after a crash. Whoever writes or looks
holds a lock of the system on it, which ends with the process. An upload that is complete moves into the folder of blobs.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from io import FileIO
from pathlib import Path

from ..codecs.errors import LimitExceeded
from .blobs import BlobFolder, sync_folder
from .problems import JobsOff, NoSuchUpload, QueueFull, UploadConflict, UploadLocked
from .settings import ServiceSettings, variable

__all__ = ["UPLOADS", "VERSION", "Part", "Upload", "UploadFolder", "upload_path"]

UPLOADS = "/v1/uploads"
VERSION = "1.0.0"  # of the tus protocol

_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Upload:
    """What an upload is to be: `length` in bytes, `metadata` as the client sent it, `name` the stem of a file name in it.

    `expires` is in seconds since 1970. `digest` is the name of the blob that a complete upload has become.
    """

    id: str
    owner: str | None
    length: int
    metadata: str
    name: str
    expires: float
    digest: str | None = None


def upload_path(upload_id: str) -> str:
    """Return the path of an upload's resource."""
    return f"{UPLOADS}/{upload_id}"


class Part:
    """The bytes of an upload so far, held by a lock until `close`; `offset` is how many there are."""

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self.start = self.offset = file.seek(0, os.SEEK_END)

    def append(self, content: bytes) -> None:
        """Write bytes at the end; a disk that fills up in the middle leaves what it has taken."""
        view = memoryview(content)
        while view:
            written = self._file.write(view) or 0
            self.offset += written
            view = view[written:]

    def undo(self) -> None:
        """Forget what has been appended."""
        self._file.truncate(self.start)
        self.offset = self._file.seek(self.start)

    def sync(self) -> None:
        """Have what was appended survive a power cut; file systems note a longer length after the bytes, never before."""
        os.fsync(self._file.fileno())

    def digest(self, algorithm: str = "sha256", start: int = 0) -> bytes:
        """Return the hash of the bytes from `start` on."""
        self._file.seek(start)
        return hashlib.file_digest(self._file, algorithm).digest()

    def close(self) -> None:
        """Let others have it."""
        self._file.close()


def _locked(file: FileIO, how: int) -> bool:
    """Take a lock that ends when the file is closed; False if somebody has one that excludes it."""
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False


class UploadFolder:
    """All uploads; several processes may share the folder. Methods raise `OSError` when the disk is full or gone."""

    def __init__(self, folder: Path, settings: ServiceSettings, clock: Callable[[], float] = time.time) -> None:
        self._folder, self._settings, self._clock = folder, settings, clock
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def create(self, owner: str | None, length: int, metadata: str, name: str) -> Upload:
        """Make room for an upload; raises `LimitExceeded` for one too long, `QueueFull` for one too many, `JobsOff`."""
        settings = self._settings
        if not settings.jobs:
            raise JobsOff
        for setting, bound in (("max_upload_bytes", settings.max_upload_bytes), ("max_job_bytes", settings.max_job_bytes)):
            if length > bound:
                raise LimitExceeded("the upload's length in bytes", bound, length, variable(setting))
        with self._alone():
            known = self._all()
            if len(known) >= settings.max_uploads:
                raise QueueFull("uploads", settings.max_uploads, len(known) + 1, variable("max_uploads"), self._wait(known))
            total = length + sum(upload.length for upload in known)
            if total > settings.max_job_bytes:
                name_of_limit = "bytes of uploads"
                raise QueueFull(name_of_limit, settings.max_job_bytes, total, variable("max_job_bytes"), self._wait(known))
            expires = self._clock() + settings.upload_retention_s
            upload = Upload(secrets.token_hex(16), owner, length, metadata, name, expires)
            self._part(upload.id).touch(mode=0o600)
            self._write(upload)
        return upload

    def find(self, upload_id: str, owner: str | None) -> Upload:
        """Return an upload; raises `NoSuchUpload` also for another owner's and for one that has expired."""
        upload = self._read(upload_id) if _ID.fullmatch(upload_id) else None
        if upload is None or upload.owner != owner or upload.expires <= self._clock():
            setting = variable("upload_retention_s")
            raise NoSuchUpload(f"no upload {upload_id[:64]!r} is known here; uploads are kept for {setting} and then forgotten")
        return upload

    def hold(self, upload: Upload) -> Part:
        """Open the bytes of an upload that is not complete; raises `UploadLocked` while somebody else has them open."""
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
        return Part(file)

    def offset(self, upload: Upload) -> int:
        """Return how many bytes have come; raises `UploadLocked` while more are coming."""
        if upload.digest is not None:
            return upload.length
        try:
            with FileIO(self._part(upload.id)) as file:
                if not _locked(file, fcntl.LOCK_SH):
                    raise UploadLocked("another request is at work on this upload: ask again in a moment")
                return file.seek(0, os.SEEK_END)
        except FileNotFoundError as error:
            raise UploadLocked("the upload has just been completed or ended: ask again where it stands") from error

    def complete(self, upload: Upload, blobs: BlobFolder) -> Upload:
        """Return the upload as the blob that it has become; raises `UploadConflict` while bytes are missing.

        Repeats what a crash may have cut off: first the digest is noted, then the file moves.
        """
        if upload.digest is None:
            part = self.hold(upload)
            try:
                if part.offset < upload.length:
                    raise UploadConflict(f"the upload has {part.offset:,} of {upload.length:,} bytes: send the others first")
                return self.seal(upload, part, blobs)
            finally:
                part.close()
        with suppress(FileNotFoundError):  # it has moved already, but after a crash
            blobs.adopt(self._part(upload.id), upload.digest)
        return upload

    def seal(self, upload: Upload, part: Part, blobs: BlobFolder) -> Upload:
        """Make a blob of an upload all of whose bytes are in `part`, and return it as such."""
        part.sync()
        digest = part.digest().hex()
        upload = replace(upload, digest=digest)
        self._write(upload)
        blobs.adopt(self._part(upload.id), digest)
        return upload

    def delete(self, upload: Upload) -> None:
        """End an upload; raises `UploadLocked` while somebody sends it. A job that was made from it keeps the blob."""
        part = self.hold(upload) if upload.digest is None else None
        self._remove(upload.id)
        if part is not None:
            part.close()

    def expire(self) -> set[str]:
        """Forget what has expired, and return the names of the blobs that complete uploads still need."""
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

    def _wait(self, known: Sequence[Upload]) -> int:
        soonest = min((upload.expires for upload in known), default=0.0)
        return max(1, min(60, round(soonest - self._clock())))

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
