"""The job store and the blob folder by themselves: leases, attempts, keys, expiry, whole files."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from laconic.codecs.errors import InvalidSettings
from laconic.service.blobs import BlobFolder, blob_name
from laconic.service.job_store import Draft, Ending
from laconic.service.jobs import Jobs
from laconic.service.problems import IdempotencyMismatch, QueueFull
from laconic.service.settings import ServiceSettings
from laconic.service.sqlite_jobs import REMEMBERED_S, SqliteJobStore

LEASE_S = 10.0
SETTINGS = ServiceSettings(job_lease_s=LEASE_S, job_retention_s=100, max_jobs=20, max_job_bytes=1000)


class Clock:
    """A time that tests move."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[SqliteJobStore]:
    store = SqliteJobStore(tmp_path / "jobs.sqlite", SETTINGS, clock)
    yield store
    store.close()


def draft(**given: Any) -> Draft:
    values: dict[str, Any] = {
        "op": "encode",
        "options": {"quality": "3"},
        "form": "",
        "name": "a",
        "payload": "p",
        "payload_bytes": 9,
    }
    return Draft(**(values | given))


def test_a_job_from_its_draft_to_its_result(store: SqliteJobStore, clock: Clock) -> None:
    job, new = store.add(draft())
    assert new and (job.state, job.attempts, job.position, job.options) == ("queued", 0, 1, {"quality": "3"})
    claimed = store.claim("w")
    assert claimed is not None and claimed.id == job.id
    assert (claimed.state, claimed.attempts, claimed.started, claimed.position) == ("running", 1, clock.now, None)
    assert store.claim("w") is None
    assert store.beat(claimed, "w", 0.5, "half") and store.beat(claimed, "w", 0.5, "half")
    half = store.get(job.id)
    assert half is not None and (half.progress, half.stage, half.version) == (0.5, "half", claimed.version + 1)
    assert store.settle(claimed, "w", Ending("succeeded", "r", 7, "image/png", "webp"))
    done = store.get(job.id)
    assert done is not None and done.done
    assert (done.state, done.result, done.result_bytes, done.payload, done.payload_bytes) == ("succeeded", "r", 7, None, 0)
    assert done.expires == clock.now + 100 and done.version > half.version
    assert not store.settle(claimed, "w", Ending("failed")), "a job ends once"
    assert not store.beat(claimed, "w", 1.0, "late")


def test_a_dead_workers_job_goes_to_another_and_its_result_does_not_count(store: SqliteJobStore, clock: Clock) -> None:
    job, _ = store.add(draft())
    first = store.claim("dead")
    assert first is not None
    clock.now += LEASE_S - 1
    assert store.claim("other") is None
    assert store.beat(first, "dead", 0.1, "")
    clock.now += LEASE_S
    second = store.claim("other")
    assert second is not None and (second.id, second.attempts, second.progress) == (job.id, 2, 0)
    assert not store.beat(first, "dead", 0.2, "") and not store.settle(first, "dead", Ending("succeeded", "late"))
    assert store.settle(second, "other", Ending("succeeded", "right"))
    done = store.get(job.id)
    assert done is not None and done.result == "right"


def test_a_job_that_kills_every_worker_fails(store: SqliteJobStore, clock: Clock) -> None:
    job, _ = store.add(draft(callback="http://example.org"))
    behind, _ = store.add(draft())
    for attempt in (1, 2, 3):
        claimed = store.claim(f"w{attempt}")
        assert claimed is not None and (claimed.id, claimed.attempts) == (job.id, attempt)
        clock.now += LEASE_S
    following = store.claim("w4")
    assert following is not None and following.id == behind.id
    lost = store.get(job.id)
    assert lost is not None and lost.error is not None and lost.state == "failed" and lost.webhook == "pending"
    assert (lost.error["code"], lost.error["status"], lost.error["instance"]) == ("job-lost", 500, f"/v1/jobs/{job.id}")


def test_a_job_given_back_keeps_its_place_and_its_attempts(store: SqliteJobStore) -> None:
    first, _ = store.add(draft())
    store.add(draft())
    claimed = store.claim("w")
    assert claimed is not None and store.settle(claimed, "w", Ending("queued"))
    again = store.claim("w2")
    assert again is not None and (again.id, again.attempts) == (first.id, 1)


def test_cancelling(store: SqliteJobStore) -> None:
    running, _ = store.add(draft())
    waiting, _ = store.add(draft())
    claimed = store.claim("w")
    assert claimed is not None
    for job in (running, waiting):
        store.cancel(job.id, {"code": "cancelled"})
        found = store.get(job.id)
        assert found is not None and (found.state, found.error) == ("cancelled", {"code": "cancelled"})
    assert not store.settle(claimed, "w", Ending("succeeded", "late")) and store.claim("w") is None
    before = store.get(running.id)
    store.cancel(running.id, {"code": "again"})
    assert store.get(running.id) == before


def test_keys_belong_to_owners_and_to_one_request(store: SqliteJobStore) -> None:
    first, _ = store.add(draft(key="k"))
    assert store.add(draft(key="k", name="another name")) == (store.get(first.id), False)
    other, new = store.add(draft(key="k", owner="somebody"))
    assert new and other.id != first.id
    for different in ({"payload": "q"}, {"op": "decode"}, {"options": {}}, {"form": "png"}, {"callback": "http://x"}):
        with pytest.raises(IdempotencyMismatch):
            store.add(draft(key="k", **different))
    assert [job.id for job in store.page("somebody", None, 9)] == [other.id]
    assert [job.id for job in store.page(None, None, 9)] == [first.id]


def test_bounds_count_what_is_stored(store: SqliteJobStore, clock: Clock) -> None:
    store.add(draft(payload_bytes=600))
    with pytest.raises(QueueFull, match="LACONIC_MAX_JOB_BYTES"):
        store.add(draft(payload_bytes=401))
    for _ in range(19):
        store.add(draft(payload_bytes=0))
    with pytest.raises(QueueFull, match="LACONIC_MAX_JOBS") as refusal:
        store.add(draft(payload_bytes=0))
    assert refusal.value.retry_after == 60
    claimed = store.claim("w")
    assert claimed is not None and store.settle(claimed, "w", Ending("succeeded", "r", 999))
    clock.now += 100
    store.expire()
    assert store.add(draft())[1], "an expired job takes no place"


def test_expiry_and_oblivion(store: SqliteJobStore, clock: Clock) -> None:
    job, _ = store.add(draft(key="k", payload="in"))
    store.add(draft(payload="waits"))
    assert store.expire() == {"in", "waits"}
    claimed = store.claim("w")
    assert claimed is not None and store.settle(claimed, "w", Ending("succeeded", "out", 3))
    assert store.expire() == {"out", "waits"}
    clock.now += 100
    assert store.expire() == {"waits"}
    expired = store.get(job.id)
    assert expired is not None and (expired.state, expired.result) == ("expired", None)
    assert store.add(draft(key="k", payload="in")) == (expired, False), "a key is known for a day after"
    clock.now += REMEMBERED_S
    store.expire()
    assert store.get(job.id) is None and store.add(draft(key="k"))[1]


def test_webhooks_are_due_until_they_are_settled(store: SqliteJobStore, clock: Clock) -> None:
    job, _ = store.add(draft(callback="http://example.org/"))
    assert store.take_webhook() is None
    store.cancel(job.id, {})
    taken = store.take_webhook()
    assert taken is not None and (taken.id, taken.webhook_tries) == (job.id, 1)
    assert store.take_webhook() is None, "it is on its way"
    clock.now += 3600  # whoever had taken it has died
    taken = store.take_webhook()
    assert taken is not None and taken.webhook_tries == 2
    store.settle_webhook(taken, "no", 5.0)
    assert store.take_webhook() is None
    clock.now += 5
    taken = store.take_webhook()
    assert taken is not None
    store.settle_webhook(taken, None, None)
    clock.now += 3600
    done = store.get(job.id)
    assert store.take_webhook() is None and done is not None and done.webhook == "delivered"


def test_no_job_is_claimed_twice_by_several_processes(tmp_path: Path) -> None:
    """Each thread has a connection of its own, as processes have."""
    path = tmp_path / "jobs.sqlite"
    store = SqliteJobStore(path, SETTINGS)
    ids = [store.add(draft(payload_bytes=0))[0].id for _ in range(20)]
    claimed: list[str] = []

    def work(name: str) -> None:
        own = SqliteJobStore(path, SETTINGS)
        while (job := own.claim(name)) is not None:
            claimed.append(job.id)
        own.close()

    threads = [threading.Thread(target=work, args=(f"w{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.close()
    assert sorted(claimed) == sorted(ids)


def test_a_store_of_another_version_is_left_alone(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "jobs.sqlite")
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(InvalidSettings, match="LACONIC_STATE_DIR"):
        Jobs(ServiceSettings(state_dir=tmp_path)).open()


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc/version").exists(), reason="needs a path that cannot be written")
def test_a_folder_that_cannot_be_made_is_an_error_with_the_settings_name() -> None:
    with pytest.raises(InvalidSettings, match="LACONIC_STATE_DIR"):
        Jobs(ServiceSettings(state_dir=Path("/proc/version/laconic"))).open()


def test_blobs_are_whole_and_kept_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = BlobFolder(tmp_path / "blobs")
    name = blobs.put(b"some bytes")
    assert name == blob_name(b"some bytes") == blobs.put(b"some bytes")
    assert blobs.get(name) == b"some bytes" and blobs.path(name).parent.name == name[:2]

    def dies(handle: int) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="full"):
        patched.setattr("laconic.service.blobs.os.fsync", dies)
        blobs.put(b"other bytes")
    assert [path.name for path in (tmp_path / "blobs").glob("*/*")] == [name]
    with pytest.raises(FileNotFoundError):
        blobs.get(blob_name(b"other bytes"))
    blobs.path(name).write_bytes(b"some Bytes")
    with pytest.raises(OSError, match="damaged"):
        blobs.get(name)


def test_a_sweep_takes_what_is_old_and_not_needed(tmp_path: Path) -> None:
    blobs = BlobFolder(tmp_path)
    kept, old, young = (blobs.put(content) for content in (b"kept", b"old", b"young"))
    for name in (kept, old):
        os.utime(blobs.path(name), (0, 0))
    leftover = blobs.path(old).with_name(".interrupted")
    leftover.write_bytes(b"half")
    os.utime(leftover, (0, 0))
    assert blobs.sweep({kept}) == 2
    assert sorted(path.name for path in tmp_path.glob("*/*")) == sorted([kept, young])
    os.utime(blobs.path(young), (0, 0))
    blobs.put(b"young")
    assert blobs.sweep({kept}) == 0, "writing a blob again makes it young"


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"LACONIC_STATE_DIR": "/srv/laconic", "HOME": "/root"}, "/srv/laconic"),
        ({"XDG_STATE_HOME": "{tmp}/state", "HOME": "/nowhere"}, "{tmp}/state/laconic"),
        ({"HOME": "{tmp}"}, "{tmp}/.local/state/laconic"),
        ({"HOME": "/proc/1"}, None),
        ({"XDG_STATE_HOME": "relative"}, None),
        ({}, None),
    ],
)
def test_where_jobs_are_kept(tmp_path: Path, environment: dict[str, str], folder: str | None) -> None:
    given = {name: value.replace("{tmp}", str(tmp_path)) for name, value in environment.items()}
    expected = None if folder is None else Path(folder.replace("{tmp}", str(tmp_path)))
    if expected is None and os.geteuid() == 0 and "HOME" in environment:
        pytest.skip("root may write anywhere")
    assert ServiceSettings.from_environment(given).state_dir == expected
