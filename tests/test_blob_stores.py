"""The blob stores by themselves, in a folder and on S3: names, whole objects, ranges, sweeps; and checkpoints on S3."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import pytest

from laconic.codecs.errors import InvalidSettings
from laconic.codecs.object_storage import Bucket
from laconic.service.blobs import PIECE, BlobFolder, BlobStore, blob_name, checked
from laconic.service.jobs import Jobs
from laconic.service.s3 import S3Blobs, S3Checkpoints
from laconic.service.settings import ServiceSettings

from .stores import S3

LONG = bytes(range(256)) * 40_000  # 10 MB: two parts on S3, and no whole number of pieces


@dataclass(frozen=True)
class Place:
    """A blob store, and a way to look at it and to harm it without its knowledge."""

    blobs: BlobStore
    names: Callable[[], Collection[str]]
    overwrite: Callable[[str, bytes], object]


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "folder":
        blobs = BlobFolder(tmp_path / "blobs")
        names = lambda: sorted(path.name for path in (tmp_path / "blobs").glob("*/*"))  # noqa: E731
        return Place(blobs, names, lambda name, content: blobs.path(name).write_bytes(content))
    s3: S3 = request.getfixturevalue("s3")
    url = s3.url()
    names = lambda: sorted(path.removeprefix("blobs/") for path in s3.objects(url))  # noqa: E731
    return Place(S3Blobs(Bucket(url)), names, lambda name, content: Bucket(url).write(f"blobs/{name}", content))


def test_what_is_put_is_got(place: Place) -> None:
    for content in (b"", b"some bytes", LONG):
        name = place.blobs.put(content)
        assert name == blob_name(content) == place.blobs.put(content)
        assert place.blobs.get(name) == content
        assert b"".join(checked(name, place.blobs.read(name, 0, len(content)))) == content
    assert len(place.names()) == 3


def test_what_comes_in_pieces_is_one_blob(place: Place) -> None:
    for pieces in ([], [b"one"], [LONG[:7], b"", LONG[7:PIECE], LONG[PIECE:]]):
        name = place.blobs.put_all(iter(pieces))
        assert name == blob_name(b"".join(pieces)) and place.blobs.get(name) == b"".join(pieces)
    assert len(place.names()) == 3, "nothing is left of how they came"


def test_a_source_of_pieces_that_fails_leaves_nothing(place: Place) -> None:
    def pieces() -> object:
        yield LONG
        raise ValueError("the source has dried up")

    with pytest.raises(Exception, match="dried up"):
        place.blobs.put_all(pieces())  # type: ignore[arg-type]
    assert place.names() == []


def test_a_file_is_adopted(place: Place, tmp_path: Path) -> None:
    file, name = tmp_path / "file", blob_name(LONG)
    file.write_bytes(LONG)
    place.blobs.adopt(file, name)
    assert not file.exists() and place.blobs.get(name) == LONG
    with pytest.raises(FileNotFoundError):
        place.blobs.adopt(file, name)


def test_parts_of_a_blob_are_read_in_pieces(place: Place) -> None:
    name = place.blobs.put(LONG)
    for first, end in ((0, len(LONG)), (1, 2), (PIECE - 1, 2 * PIECE + 1), (len(LONG) - 3, len(LONG)), (5, 5)):
        pieces = list(place.blobs.read(name, first, end))
        assert b"".join(pieces) == LONG[first:end]
        assert all(len(piece) <= 4 * PIECE for piece in pieces), "a result is never whole in memory"


def test_what_is_not_there_is_said_at_once(place: Place) -> None:
    name = blob_name(b"never put")
    for ask in (place.blobs.get, place.blobs.renew, lambda name: place.blobs.read(name, 0, 3)):
        with pytest.raises(FileNotFoundError):
            ask(name)


def test_what_has_changed_is_no_blob(place: Place) -> None:
    name = place.blobs.put(b"some bytes")
    place.overwrite(name, b"some Bytes")
    with pytest.raises(OSError, match="damaged"):
        place.blobs.get(name)
    sent = b""
    with pytest.raises(OSError, match="damaged"):
        for piece in checked(name, place.blobs.read(name, 0, 10)):
            sent += piece
    assert len(sent) < 10, "whoever reads it must see that it is not whole"
    assert place.blobs.put(b"some bytes") == name


def test_a_sweep_takes_what_is_old_and_not_needed(place: Place) -> None:
    kept, old = place.blobs.put(b"kept"), place.blobs.put(b"old")
    assert place.blobs.sweep({kept}) == 0, "all are young"
    time.sleep(1.1)  # S3 tells seconds
    young, renewed = place.blobs.put(b"young"), place.blobs.put(b"old")
    place.blobs.renew(kept)
    assert place.blobs.sweep(set(), age_s=1.0) == 0 and renewed == old
    time.sleep(1.1)
    assert place.blobs.sweep({kept}, age_s=1.0) == 2
    assert list(place.names()) == [kept] and young != kept


def test_a_disk_that_is_full_leaves_no_half_blob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = BlobFolder(tmp_path)
    name = blobs.put(b"some bytes")
    assert blobs.path(name).parent.name == name[:2]

    def dies(handle: int) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr("laconic.service.blobs.os.fsync", dies)
        for write in (lambda: blobs.put(b"other bytes"), lambda: blobs.put_all([b"other bytes"])):
            with pytest.raises(OSError, match="full"):
                write()
    assert [path.name for path in tmp_path.glob("*/*")] == [name]


def test_a_sweep_takes_what_an_interrupted_write_has_left(tmp_path: Path) -> None:
    blobs = BlobFolder(tmp_path)
    leftover = blobs.path(blobs.put(b"old")).with_name(".interrupted")
    leftover.write_bytes(b"half")
    os.utime(leftover, (0, 0))
    assert blobs.sweep(set()) == 1 and not leftover.exists()


def test_a_bucket_that_cannot_be_used_stops_the_start(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("laconic.codecs.object_storage.RETRIES", {"max_retries": 0})
    for url in ("s3://there-is-none/x", "gs://bucket", "/srv/blobs", "s3://"):
        with pytest.raises(InvalidSettings, match=r"LACONIC_BLOB_STORE"):
            Jobs(ServiceSettings(state_dir=tmp_path, blob_store=url)).open()


def test_a_bucket_serves_one_store_of_jobs(s3: S3, tmp_path: Path) -> None:
    """The sweeps of another one would take its blobs."""
    url = s3.url()
    given = [ServiceSettings(state_dir=tmp_path / name, blob_store=url) for name in ("a", "b")]
    for _ in range(2):
        jobs = Jobs(given[0])
        jobs.open()
        jobs.close()
    second = Jobs(given[1])
    with pytest.raises(InvalidSettings, match=r"another database.*LACONIC_BLOB_STORE"):
        second.open()
    second.close()


def test_checkpoints_go_on_elsewhere(s3: S3, tmp_path: Path) -> None:
    url = s3.url()
    here, there = (S3Checkpoints(tmp_path / name, Bucket(url)) for name in ("here", "there"))
    here.fetch("job1")
    folder = here.path("job1") / "fit"
    folder.mkdir(parents=True)
    for name in ("a.safetensors", "b.checkpoint", "c.checkpoint.part", ".d.new"):
        (folder / name).write_bytes(name.encode())
    here.save("job1")
    (folder / "b.checkpoint").write_bytes(b"further on")
    here.save("job1")
    there.fetch("job1")
    found = {path.name: path.read_bytes() for path in there.path("job1").glob("fit/*")}
    assert found == {"a.safetensors": b"a.safetensors", "b.checkpoint": b"further on"}, "halves are left out"
    (folder / "b.checkpoint").unlink()
    here.save("job1")
    there.fetch("job1")
    assert [path.name for path in there.path("job1").glob("*/*")] == ["a.safetensors"]
    assert here.jobs() == there.jobs() == ["job1"]
    there.remove("job1")
    assert s3.objects(url) == {} and not there.path("job1").exists()
    here.remove("job1")
    assert here.jobs() == []
