"""One store of jobs and several processes, as replicas have it: each job runs once, all know of all, and death gives back."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from laconic.service.job_store import Draft, Ending, JobStore
from laconic.service.settings import ServiceSettings
from laconic.service.stores import open_stores

from .stores import Postgres

JOBS, WORKERS = 60, 3
# Adds jobs, then claims and ends jobs until there are none, and prints the ids of those that it ended.
WORKER = """
import json, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from laconic.service.job_store import Draft, Ending
from laconic.service.settings import ServiceSettings
from laconic.service.stores import open_stores

name, settings, folder = sys.argv[1], ServiceSettings(**json.loads(sys.argv[2])), Path(sys.argv[3])
count, all_jobs = int(sys.argv[4]), int(sys.argv[5])
store = open_stores(settings, folder).jobs
for number in range(count):
    key = f"key-{number}"  # the same in every process: whoever comes second gets the first one's job
    store.add(Draft(op="encode", options={}, form="", name="a", payload="p", payload_bytes=1, key=key))
    store.add(Draft(op="encode", options={}, form="", name=f"{name}-{number}", payload="p", payload_bytes=1))
done, last = [], time.monotonic()
while time.monotonic() - last < 20 and sum(store.counts().get(state, 0) for state in ("succeeded", "failed")) < all_jobs:
    job = store.claim(name)
    if job is None:
        time.sleep(0.01)
        continue
    assert store.beat(job, name, 0.5, "half")
    assert store.settle(job, name, Ending("succeeded", "r", 1, "image/png", "jpeg"))
    done.append(job.id)
    last = time.monotonic()
print(json.dumps(done))
"""


def draft(**given: Any) -> Draft:
    return Draft(**({"op": "encode", "options": {}, "form": "", "name": "a", "payload": "p", "payload_bytes": 1} | given))


# Claims a job, tells of progress until it is killed.
VICTIM = """
import json, sys, time
from pathlib import Path
from laconic.service.settings import ServiceSettings
from laconic.service.stores import open_stores

store = open_stores(ServiceSettings(**json.loads(sys.argv[1])), Path(sys.argv[2])).jobs
job = store.claim("victim")
print(job.id, flush=True)
while store.beat(job, "victim", 0.5, "half"):
    time.sleep(0.05)
"""


@pytest.fixture(params=["sqlite", "postgres"])
def given(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What the settings say of the store."""
    return {} if request.param == "sqlite" else {"job_store": request.getfixturevalue("postgres").url()}


def opened(given: dict[str, Any], folder: Path) -> JobStore:
    return open_stores(ServiceSettings(**given), folder).jobs


def test_processes_share_a_store(given: dict[str, Any], tmp_path: Path) -> None:
    each = JOBS // WORKERS
    total = each + WORKERS * each  # those with keys once, those without from every process
    said = json.dumps(given), str(tmp_path), str(each), str(total)
    commands = [[sys.executable, "-c", WORKER, f"worker-{n}", *said] for n in range(WORKERS)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for command in commands]
    done = []
    for process in running:
        printed, complaints = process.communicate(timeout=90)
        assert process.returncode == 0, complaints
        done.append(json.loads(printed))
    ended = [job for jobs in done for job in jobs]
    assert len(ended) == len(set(ended)) == total, "a job ran twice, or was lost"
    store = opened(given, tmp_path)
    for job_id in ended:
        job = store.get(job_id)
        assert job is not None and (job.state, job.attempts) == ("succeeded", 1)
    assert store.counts() == {"succeeded": total}
    store.close()


def test_a_job_submitted_by_one_is_known_claimed_and_cancelled_by_another(given: dict[str, Any], tmp_path: Path) -> None:
    first, second = (opened(given, tmp_path) for _ in range(2))
    made, _ = first.add(draft())
    known = second.get(made.id)
    assert known is not None and known.state == "queued"
    claimed = second.claim("second")
    assert claimed is not None and claimed.id == made.id and first.claim("first") is None
    first.cancel(made.id, {"code": "cancelled"})
    assert not second.beat(claimed, "second", 0.5, "half"), "its worker would not notice"
    first.close()
    second.close()


def test_a_process_that_is_killed_gives_its_job_back(given: dict[str, Any], tmp_path: Path) -> None:
    given |= {"job_lease_s": 1.0}
    store = opened(given, tmp_path)
    made, _ = store.add(draft())
    command = [sys.executable, "-c", VICTIM, json.dumps(given), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as victim:
        assert victim.stdout is not None and victim.stdout.readline().strip() == made.id
        time.sleep(1.5)
        assert store.claim("other") is None, "it beats"
        victim.kill()
    deadline = time.monotonic() + 20
    while (claimed := store.claim("other")) is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (claimed.id, claimed.attempts) == (made.id, 2)
    assert store.settle(claimed, "other", Ending("succeeded", "r", 1, "image/png", "jpeg"))
    assert store.counts() == {"succeeded": 1}
    store.close()


def test_a_new_file_is_opened_by_many_at_once(tmp_path: Path) -> None:
    open_at_once([tmp_path / f"{number}" for number in range(60)], {})


def test_a_new_database_is_opened_by_many_at_once(postgres: Postgres, tmp_path: Path) -> None:
    for _ in range(5):
        open_at_once([tmp_path], {"job_store": postgres.url()})


def open_at_once(folders: Sequence[Path], given: dict[str, Any]) -> None:
    barrier = threading.Barrier(6)

    def opening(folder: Path) -> None:
        barrier.wait()
        opened(given, folder).close()

    with ThreadPoolExecutor(6) as pool:
        for folder in folders:
            list(pool.map(opening, [folder] * 6))
