"""One folder of jobs and several processes, as the replicas on one machine have it: each job runs once, and all know of all."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from laconic.service.job_store import Draft
from laconic.service.settings import ServiceSettings
from laconic.service.sqlite_jobs import SqliteJobStore

JOBS, WORKERS = 60, 3
# Adds jobs, then claims and ends jobs until there are none, and prints the ids of those that it ended.
WORKER = """
import json, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from laconic.service.job_store import Draft, Ending
from laconic.service.settings import ServiceSettings
from laconic.service.sqlite_jobs import SqliteJobStore

name, path, count, all_jobs = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
store = SqliteJobStore(path, ServiceSettings())
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


def test_processes_share_a_store(tmp_path: Path) -> None:
    path, each = tmp_path / "jobs.sqlite", JOBS // WORKERS
    total = each + WORKERS * each  # those with keys once, those without from every process
    commands = [[sys.executable, "-c", WORKER, f"worker-{n}", str(path), str(each), str(total)] for n in range(WORKERS)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for command in commands]
    done = []
    for process in running:
        printed, complaints = process.communicate(timeout=90)
        assert process.returncode == 0, complaints
        done.append(json.loads(printed))
    ended = [job for jobs in done for job in jobs]
    assert len(ended) == len(set(ended)) == total, "a job ran twice, or was lost"
    store = SqliteJobStore(path, ServiceSettings())
    for job_id in ended:
        job = store.get(job_id)
        assert job is not None and (job.state, job.attempts) == ("succeeded", 1)
    assert store.counts() == {"succeeded": total}
    store.close()


def test_a_job_submitted_by_one_is_known_claimed_and_cancelled_by_another(tmp_path: Path) -> None:
    first, second = (SqliteJobStore(tmp_path / "jobs.sqlite", ServiceSettings()) for _ in range(2))
    made, _ = first.add(draft())
    known = second.get(made.id)
    assert known is not None and known.state == "queued"
    claimed = second.claim("second")
    assert claimed is not None and claimed.id == made.id and first.claim("first") is None
    first.cancel(made.id, {"code": "cancelled"})
    assert not second.beat(claimed, "second", 0.5, "half"), "its worker would not notice"
    first.close()
    second.close()


def test_a_new_store_is_opened_by_many_at_once(tmp_path: Path) -> None:
    barrier = threading.Barrier(6)

    def opened(path: Path) -> None:
        barrier.wait()
        SqliteJobStore(path, ServiceSettings()).close()

    with ThreadPoolExecutor(6) as pool:
        for number in range(60):
            list(pool.map(opened, [tmp_path / f"{number}.sqlite"] * 6))
