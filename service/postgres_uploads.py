"""Uploads that come in parts, on Postgres: which bytes have come is in its tables, the bytes are blobs, one for each piece.

Nothing is locked while bytes come: a piece counts if the upload stands where it begins, which one transaction decides. Whoever
comes second, on whatever machine, gets a conflict and asks where the upload stands. A complete upload becomes one blob.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import fields, replace

from .blobs import BlobStore
from .postgres import PostgresDatabase
from .problems import UploadConflict, UploadLocked
from .settings import ServiceSettings
from .upload_store import Part, Upload, checked_upload, is_upload_id, new_upload

__all__ = ["PostgresUploads"]

_COLUMNS = ", ".join(field.name for field in fields(Upload))


class PostgresUploads:
    """An `UploadStore` in a database whose tables are there, and in `blobs` what has come."""

    def __init__(self, url: str, blobs: BlobStore, settings: ServiceSettings, clock: Callable[[], float] | None = None) -> None:
        self._database, self._blobs, self._settings = PostgresDatabase(url, clock), blobs, settings

    def close(self) -> None:
        """Let go of the server."""
        self._database.close()

    def create(self, owner: str | None, length: int, metadata: str, name: str) -> Upload:
        """See `UploadStore.create`."""
        with self._database.transaction(alone=True):
            sums = "count(*) AS uploads, coalesce(sum(length), 0) AS bytes, min(expires) AS soonest, :now AS now"
            (known,) = self._database.execute(f"SELECT {sums} FROM uploads", {})
            wanted = Upload("", owner, length, metadata, name, 0.0)
            counted = known["uploads"], int(known["bytes"]), known["soonest"], float(known["now"])
            upload = new_upload(wanted, self._settings, *counted)
            values = ":id, :owner, :length, :metadata, :name, :expires, :digest"
            self._database.execute(f"INSERT INTO uploads ({_COLUMNS}) VALUES ({values})", vars(upload))
        return upload

    def find(self, upload_id: str, owner: str | None) -> Upload:
        """See `UploadStore.find`."""
        query = f"SELECT {_COLUMNS}, :now AS now FROM uploads WHERE id = :id"
        rows = self._database.execute(query, {"id": upload_id}) if is_upload_id(upload_id) else []
        values = dict(rows[0]) if rows else {}
        now = float(values.pop("now", 0.0))
        return checked_upload(upload_id, Upload(**values) if values else None, owner, now)

    def hold(self, upload: Upload) -> Part:
        """See `UploadStore.hold`; others may have it as well."""
        return _Pieces(self._database, self._blobs, upload.id, self.offset(upload))

    def offset(self, upload: Upload) -> int:
        """See `UploadStore.offset`."""
        rows = self._database.execute("SELECT received FROM uploads WHERE id = :id", {"id": upload.id})
        if not rows:
            raise UploadLocked("the upload has just been ended")
        return int(rows[0]["received"])

    def complete(self, upload: Upload) -> Upload:
        """See `UploadStore.complete`."""
        if upload.digest is not None:
            return upload
        part = self.hold(upload)
        if part.offset < upload.length:
            raise UploadConflict(f"the upload has {part.offset:,} of {upload.length:,} bytes: send the others first")
        return self.seal(upload, part)

    def seal(self, upload: Upload, part: Part) -> Upload:
        """See `UploadStore.seal`; of two that do it at once the second finds it done."""
        assert isinstance(part, _Pieces)
        names = part.names()
        digest = self._blobs.put_all(map(self._blobs.get, names))
        with self._database.transaction():
            query = "UPDATE uploads SET digest = :digest WHERE id = :id AND digest IS NULL RETURNING id"
            if not self._database.execute(query, {"digest": digest, "id": upload.id}) or part.names() != names:
                raise UploadConflict(
                    "another request has completed this upload, changed or ended it: HEAD tells where it stands"
                )
            self._database.execute("DELETE FROM pieces WHERE upload = :id", {"id": upload.id})
        return replace(upload, digest=digest)

    def delete(self, upload: Upload) -> None:
        """See `UploadStore.delete`; whoever sends bytes just then gets a conflict."""
        self._database.execute("DELETE FROM uploads WHERE id = :id", {"id": upload.id})

    def expire(self) -> set[str]:
        """See `UploadStore.expire`."""
        with self._database.transaction(alone=True):
            self._database.execute("DELETE FROM uploads WHERE expires <= :now", {})
            query = "SELECT digest AS blob FROM uploads WHERE digest IS NOT NULL UNION SELECT blob FROM pieces"
            return {row["blob"] for row in self._database.execute(query, {})}


class _Pieces:
    """A `Part` of blobs."""

    def __init__(self, database: PostgresDatabase, blobs: BlobStore, upload_id: str, offset: int) -> None:
        self._database, self._blobs, self._id = database, blobs, upload_id
        self.start = self.offset = offset

    def append(self, content: bytes) -> None:
        """See `Part.append`."""
        if not content:
            return
        end = self.offset + len(content)
        piece = {"id": self._id, "start": self.offset, "end": end, "blob": self._blobs.put(content)}
        with self._database.transaction():
            stands = "id = :id AND received = :start AND digest IS NULL"
            taken = self._database.execute(f"UPDATE uploads SET received = :end WHERE {stands} RETURNING id", piece)
            if not taken:
                raise UploadConflict("another request has gone on with this upload, or ended it: HEAD tells where it stands")
            self._database.execute("INSERT INTO pieces (upload, start, blob) VALUES (:id, :start, :blob)", piece)
        self.offset = end

    def undo(self) -> None:
        """See `Part.undo`; what others have put behind it goes as well."""
        since = {"id": self._id, "start": self.start}
        with self._database.transaction():
            behind = "id = :id AND received > :start AND digest IS NULL"
            if self._database.execute(f"UPDATE uploads SET received = :start WHERE {behind} RETURNING id", since):
                self._database.execute("DELETE FROM pieces WHERE upload = :id AND start >= :start", since)
        self.offset = self.start

    def sync(self) -> None:
        """See `Part.sync`; each piece is kept before it counts."""

    def digest(self, algorithm: str = "sha256", start: int = 0) -> bytes:
        """See `Part.digest`; `start` is where a piece begins."""
        digest = hashlib.new(algorithm, usedforsecurity=False)
        for name in self.names(start):
            digest.update(self._blobs.get(name))
        return digest.digest()

    def names(self, start: int = 0) -> list[str]:
        """Return the blobs that begin at `start` or later, in order."""
        query = "SELECT blob FROM pieces WHERE upload = :id AND start >= :start ORDER BY start"
        return [row["blob"] for row in self._database.execute(query, {"id": self._id, "start": start})]

    def close(self) -> None:
        """See `Part.close`; nobody waits."""
