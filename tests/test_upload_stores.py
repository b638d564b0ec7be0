"""The upload stores by themselves, in a folder and on Postgres: offsets, bounds, checksums, completion, expiry."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from laconic.codecs.errors import LimitExceeded
from laconic.service.blobs import BlobFolder, blob_name
from laconic.service.postgres import PostgresDatabase
from laconic.service.postgres_uploads import PostgresUploads
from laconic.service.problems import NoSuchUpload, QueueFull, UploadConflict, UploadLocked
from laconic.service.settings import ServiceSettings
from laconic.service.upload_store import Part, Upload, UploadStore
from laconic.service.uploads import UploadFolder

from .clocks import Clock
from .stores import Postgres

SETTINGS = ServiceSettings(max_uploads=3, max_upload_bytes=1000, max_job_bytes=2000, upload_retention_s=100)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def blobs(tmp_path: Path) -> BlobFolder:
    return BlobFolder(tmp_path / "blobs")


Opened = Callable[[], PostgresUploads]


@pytest.fixture
def on_postgres(request: pytest.FixtureRequest, blobs: BlobFolder, clock: Clock, postgres: Postgres) -> Opened:
    """Opens the uploads of one database, as each replica does."""
    url = postgres.url()
    database = PostgresDatabase(url)
    database.prepare()
    database.close()

    def opened() -> PostgresUploads:
        uploads = PostgresUploads(url, blobs, SETTINGS, clock)
        request.addfinalizer(uploads.close)
        return uploads

    return opened


@pytest.fixture(params=["folder", "postgres"])
def uploads(request: pytest.FixtureRequest, tmp_path: Path, blobs: BlobFolder, clock: Clock) -> UploadStore:
    if request.param == "folder":
        return UploadFolder(tmp_path / "uploads", blobs, SETTINGS, clock)
    opened: Opened = request.getfixturevalue("on_postgres")
    return opened()


def sent(uploads: UploadStore, upload: Upload, *pieces: bytes) -> Part:
    part = uploads.hold(upload)
    for piece in pieces:
        part.append(piece)
    part.sync()
    part.close()
    return part


def test_an_upload_from_its_creation_to_its_blob(uploads: UploadStore, blobs: BlobFolder) -> None:
    upload = uploads.create("me", 9, "filename YQ==", "a")
    assert uploads.find(upload.id, "me") == upload and uploads.offset(upload) == 0
    assert sent(uploads, upload, b"abc", b"").offset == 3
    assert uploads.offset(upload) == 3
    with pytest.raises(UploadConflict, match="3 of 9"):
        uploads.complete(upload)
    part = sent(uploads, upload, b"de", b"fghi")
    assert (part.start, part.offset) == (3, 9)
    done = uploads.complete(upload)
    assert done.digest == blob_name(b"abcdefghi") and blobs.get(done.digest) == b"abcdefghi"
    found = uploads.find(upload.id, "me")
    assert found == done and uploads.complete(found) == done and uploads.offset(found) == 9
    assert uploads.expire() == {done.digest}


def test_what_is_sealed_is_complete(uploads: UploadStore, blobs: BlobFolder) -> None:
    for content in (b"", b"content"):
        upload = uploads.create(None, len(content), "", "a")
        part = uploads.hold(upload)
        part.append(content)
        sealed = uploads.seal(upload, part)
        part.close()
        assert sealed == uploads.find(upload.id, None) and blobs.get(sealed.digest or "") == content


def test_what_is_undone_has_not_come(uploads: UploadStore) -> None:
    upload = uploads.create(None, 9, "", "a")
    sent(uploads, upload, b"abc")
    part = uploads.hold(upload)
    part.append(b"xy")
    part.append(b"z")
    assert part.digest("sha1", part.start) == hashlib.sha1(b"xyz").digest()
    assert part.digest() == hashlib.sha256(b"abcxyz").digest()
    part.undo()
    assert part.offset == 3
    part.append(b"d")
    part.close()
    assert uploads.offset(upload) == 4


def test_uploads_are_their_owners(uploads: UploadStore) -> None:
    upload = uploads.create("me", 9, "", "a")
    for name, owner in ((upload.id, "you"), (upload.id, None), ("0" * 32, "me"), ("\0", "me"), ("../x", "me")):
        with pytest.raises(NoSuchUpload):
            uploads.find(name, owner)


def test_bounds(uploads: UploadStore, clock: Clock) -> None:
    with pytest.raises(LimitExceeded, match="LACONIC_MAX_UPLOAD_BYTES"):
        uploads.create(None, 1001, "", "a")
    for _ in range(2):
        uploads.create(None, 900, "", "a")
    with pytest.raises(QueueFull, match="LACONIC_MAX_JOB_BYTES"):
        uploads.create(None, 201, "", "a")
    uploads.create(None, 0, "", "a")
    clock.now += 60
    with pytest.raises(QueueFull, match="LACONIC_MAX_UPLOADS") as refusal:
        uploads.create(None, 0, "", "a")
    assert refusal.value.retry_after == 40


def test_expiry_and_deletion(uploads: UploadStore, clock: Clock) -> None:
    upload, other = (uploads.create(None, 3, "", "a") for _ in range(2))
    sent(uploads, upload, b"abc")
    digest = uploads.complete(upload).digest
    uploads.delete(other)
    with pytest.raises(NoSuchUpload):
        uploads.find(other.id, None)
    with pytest.raises(UploadLocked):
        uploads.hold(other)
    assert uploads.expire() == {digest}
    clock.now += 100
    with pytest.raises(NoSuchUpload):
        uploads.find(upload.id, None)
    assert uploads.expire() == set()
    assert uploads.create(None, 3, "", "a").expires == clock.now + 100


def test_two_machines_that_send_at_once_do_not_mix(on_postgres: Opened, blobs: BlobFolder) -> None:
    here, there = on_postgres(), on_postgres()
    upload = here.create(None, 6, "", "a")
    first, second = here.hold(upload), there.hold(there.find(upload.id, None))
    first.append(b"abc")
    with pytest.raises(UploadConflict, match="gone on"):
        second.append(b"xyz")
    assert there.offset(upload) == 3
    second = there.hold(upload)
    second.append(b"def")
    first.undo()  # its checksum was wrong: what was put behind it cannot stay
    assert there.offset(upload) == 0
    with pytest.raises(UploadConflict):
        second.append(b"!")
    sent(there, upload, b"abc", b"def")
    assert here.complete(upload).digest == blob_name(b"abcdef")
    with pytest.raises(UploadConflict):
        first.append(b"late")
    assert blobs.get(blob_name(b"abcdef")) == b"abcdef"


def test_two_machines_that_complete_at_once_agree(on_postgres: Opened, blobs: BlobFolder) -> None:
    here, there = on_postgres(), on_postgres()
    upload = here.create(None, 3, "", "a")
    late = sent(here, upload, b"abc")
    assert there.complete(upload).digest == blob_name(b"abc")
    with pytest.raises(UploadConflict, match="completed"):
        here.seal(upload, late)
    found = here.find(upload.id, None)
    assert found.digest == blob_name(b"abc") and here.complete(found) == found


def test_pieces_are_kept_until_they_are_one(on_postgres: Opened) -> None:
    uploads = on_postgres()
    upload = uploads.create(None, 4, "", "a")
    sent(uploads, upload, b"ab")
    assert uploads.expire() == {blob_name(b"ab")}
    sent(uploads, upload, b"cd")
    assert uploads.expire() == {blob_name(b"ab"), blob_name(b"cd")}
    uploads.complete(upload)
    assert uploads.expire() == {blob_name(b"abcd")}
