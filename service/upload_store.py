"""What an upload is that comes in parts, and what keeps uploads: a protocol, with what every store of them does alike."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import Protocol

from ..codecs.errors import LimitExceeded
from .problems import JobsOff, NoSuchUpload, QueueFull
from .settings import ServiceSettings, variable

__all__ = ["UPLOADS", "VERSION", "Part", "Upload", "UploadStore", "checked_upload", "is_upload_id", "new_upload", "upload_path"]

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


class Part(Protocol):
    """The bytes of an upload so far, to be added to; `offset` is how many there are, `start` how many there were at first."""

    start: int
    offset: int

    def append(self, content: bytes) -> None:
        """Write bytes at the end; raises `UploadConflict` where somebody else has."""
        ...

    def undo(self) -> None:
        """Forget what has been appended."""
        ...

    def sync(self) -> None:
        """Have what was appended survive a power cut."""
        ...

    def digest(self, algorithm: str = "sha256", start: int = 0) -> bytes:
        """Return the hash of the bytes from `start` on."""
        ...

    def close(self) -> None:
        """Let others have it."""
        ...


class UploadStore(Protocol):
    """All uploads; several processes may share a store, and threads call it at once. Methods raise `OSError` when it fails."""

    def create(self, owner: str | None, length: int, metadata: str, name: str) -> Upload:
        """Make room for an upload; raises `LimitExceeded` for one too long, `QueueFull` for one too many, `JobsOff`."""
        ...

    def find(self, upload_id: str, owner: str | None) -> Upload:
        """Return an upload; raises `NoSuchUpload` also for another owner's and for one that has expired."""
        ...

    def hold(self, upload: Upload) -> Part:
        """Open the bytes of an upload that is not complete; raises `UploadLocked` where that cannot be."""
        ...

    def offset(self, upload: Upload) -> int:
        """Return how many bytes have come; raises `UploadLocked` while that is not certain."""
        ...

    def complete(self, upload: Upload) -> Upload:
        """Return the upload as the blob that it has become; raises `UploadConflict` while bytes are missing.

        Repeats what a crash may have cut off.
        """
        ...

    def seal(self, upload: Upload, part: Part) -> Upload:
        """Make a blob of an upload all of whose bytes are in `part`, and return it as such."""
        ...

    def delete(self, upload: Upload) -> None:
        """End an upload. A job that was made from it keeps the blob."""
        ...

    def expire(self) -> set[str]:
        """Forget what has expired, and return the names of the blobs that uploads still need."""
        ...


def upload_path(upload_id: str) -> str:
    """Return the path of an upload's resource."""
    return f"{UPLOADS}/{upload_id}"


def is_upload_id(text: str) -> bool:
    """Whether a client's text could be the id of an upload."""
    return _ID.fullmatch(text) is not None


def new_upload(
    upload: Upload, settings: ServiceSettings, known: int, known_bytes: int, soonest: float | None, now: float
) -> Upload:
    """Return the upload with an id and its end, where there is room for it beside `known` others with `known_bytes`.

    `soonest` is when the first of those expires. Raises as `UploadStore.create`.
    """
    if not settings.jobs:
        raise JobsOff
    for setting, bound in (("max_upload_bytes", settings.max_upload_bytes), ("max_job_bytes", settings.max_job_bytes)):
        if upload.length > bound:
            raise LimitExceeded("the upload's length in bytes", bound, upload.length, variable(setting))
    wait = max(1, min(60, round((soonest or now) - now)))
    if known >= settings.max_uploads:
        raise QueueFull("uploads", settings.max_uploads, known + 1, variable("max_uploads"), wait)
    total = upload.length + known_bytes
    if total > settings.max_job_bytes:
        raise QueueFull("bytes of uploads", settings.max_job_bytes, total, variable("max_job_bytes"), wait)
    values = vars(upload) | {"id": secrets.token_hex(16), "expires": now + settings.upload_retention_s}
    return Upload(**values)


def checked_upload(upload_id: str, upload: Upload | None, owner: str | None, now: float) -> Upload:
    """Return an upload that was looked for, if it is this owner's and has not expired; raises `NoSuchUpload`."""
    if upload is None or upload.owner != owner or upload.expires <= now:
        setting = variable("upload_retention_s")
        raise NoSuchUpload(f"no upload {upload_id[:64]!r} is known here; uploads are kept for {setting} and then forgotten")
    return upload
