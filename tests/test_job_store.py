"""The job stores by themselves, on SQLite and on Postgres: leases, attempts, keys, expiry, and what only one of them has."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from laconic.codecs.errors import InvalidSettings
from laconic.service import postgres as module
from laconic.service.job_store import Draft, Ending, JobStore, StoreError
from laconic.service.jobs import Jobs
from laconic.service.postgres_jobs import PostgresJobStore
from laconic.service.problems import IdempotencyMismatch, QueueFull
from laconic.service.settings import ServiceSettings
from laconic.service.sql_jobs import REMEMBERED_S
from laconic.service.sqlite_jobs import SqliteJobStore

from .clocks import Clock
from .stores import Postgres

LEASE_S = 10.0
SETTINGS = ServiceSettings(job_lease_s=LEASE_S, job_retention_s=100, max_jobs=20, max_job_bytes=1000)


@pytest.fixture
def clock() -> Clock:
    return Clock()


Opened = Callable[[Clock | None], JobStore]


@pytest.fixture(params=["sqlite", "postgres"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Opened:
    """Opens the same store again and again, as processes do."""
    if request.param == "sqlite":
        return lambda clock: SqliteJobStore(tmp_path / "jobs.sqlite", SETTINGS, clock or time.time)
    url = request.getfixturevalue("postgres").url()
    return lambda clock: PostgresJobStore(url, SETTINGS, clock)


@pytest.fixture
def store(opened: Opened, clock: Clock) -> Iterator[JobStore]:
    store = opened(clock)
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


def test_a_job_from_its_draft_to_its_result(store: JobStore, clock: Clock) -> None:
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


def test_a_dead_workers_job_goes_to_another_and_its_result_does_not_count(store: JobStore, clock: Clock) -> None:
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


def test_a_job_that_kills_every_worker_fails(store: JobStore, clock: Clock) -> None:
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


def test_a_job_given_back_keeps_its_place_and_its_attempts(store: JobStore) -> None:
    first, _ = store.add(draft())
    store.add(draft())
    claimed = store.claim("w")
    assert claimed is not None and store.settle(claimed, "w", Ending("queued"))
    again = store.claim("w2")
    assert again is not None and (again.id, again.attempts) == (first.id, 1)


def test_cancelling(store: JobStore) -> None:
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


def test_keys_belong_to_owners_and_to_one_request(store: JobStore) -> None:
    first, _ = store.add(draft(key="k"))
    assert store.add(draft(key="k", name="another name")) == (store.get(first.id), False)
    other, new = store.add(draft(key="k", owner="somebody"))
    assert new and other.id != first.id
    for different in ({"payload": "q"}, {"op": "decode"}, {"options": {}}, {"form": "png"}, {"callback": "http://x"}):
        with pytest.raises(IdempotencyMismatch):
            store.add(draft(key="k", **different))
    assert [job.id for job in store.page("somebody", None, 9)] == [other.id]
    assert [job.id for job in store.page(None, None, 9)] == [first.id]


def test_bounds_count_what_is_stored(store: JobStore, clock: Clock) -> None:
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


def test_expiry_and_oblivion(store: JobStore, clock: Clock) -> None:
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


def test_webhooks_are_due_until_they_are_settled(store: JobStore, clock: Clock) -> None:
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


def test_no_job_is_claimed_twice_by_several_processes(opened: Opened) -> None:
    """Each thread has a connection of its own, as processes have."""
    store = opened(None)
    ids = [store.add(draft(payload_bytes=0))[0].id for _ in range(20)]
    claimed: list[str] = []

    def work(name: str) -> None:
        own = opened(None)
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


def test_a_store_keeps_its_identity(opened: Opened, store: JobStore, tmp_path: Path) -> None:
    again, other = opened(None), SqliteJobStore(tmp_path / "other.sqlite", SETTINGS)
    assert again.identity() == store.identity() != other.identity() and len(store.identity()) == 32
    again.close()
    other.close()


def test_what_is_no_id_is_nobodys(store: JobStore) -> None:
    assert [store.get(text) for text in ("", "\0", "nothing", "\ud800", "a" * 10_000)] == [None] * 5


def test_times_are_the_servers(opened: Opened) -> None:
    store = opened(None)
    job, _ = store.add(draft())
    assert abs(job.created - time.time()) < 60
    claimed = store.claim("w")
    assert claimed is not None and claimed.started is not None and claimed.started >= job.created
    store.close()


def test_a_newer_schema_on_postgres_is_left_alone_and_an_older_one_brought_up_to_date(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.url()
    PostgresJobStore(url, SETTINGS).close()
    step = "ALTER TABLE jobs ADD COLUMN weight INTEGER NOT NULL DEFAULT 1"
    with monkeypatch.context() as later:
        later.setattr("laconic.service.postgres._STEPS", (*module._STEPS, step))
        later.setattr("laconic.service.postgres.SCHEMA", module.SCHEMA + 1)
        for _ in range(2):
            newer = PostgresJobStore(url, SETTINGS)
            assert newer.add(draft())[1]
            newer.close()
    with pytest.raises(StoreError, match="newer version"):
        PostgresJobStore(url, SETTINGS)


def test_a_connection_that_breaks_is_made_again(postgres: Postgres) -> None:
    store = PostgresJobStore(postgres.url(), SETTINGS)
    job, _ = store.add(draft())
    others = "datname = current_database() AND pid <> pg_backend_pid()"
    postgres.query(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")
    with pytest.raises(StoreError):
        store.claim("w")
    claimed = store.claim("w")
    assert claimed is not None and claimed.id == job.id and claimed.attempts == 1
    store.close()


def test_a_url_that_is_refused_is_not_shown(tmp_path: Path, postgres: Postgres) -> None:
    nobody = postgres.url().replace("laconic@", "nobody:hush@")
    for url in (nobody, "postgresql://u:hush@[", "postgresql://u:hush@127.0.0.1:1/x", "mysql://u:hush@host/x"):
        with pytest.raises(InvalidSettings, match="LACONIC_JOB_STORE") as refusal:
            Jobs(ServiceSettings(state_dir=tmp_path, job_store=url)).open()
        assert "hush" not in str(refusal.value)
    assert "hush" not in json.dumps(ServiceSettings(job_store=nobody).model_dump(mode="json"))


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
