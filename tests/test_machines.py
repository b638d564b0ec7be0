"""Two services that share nothing but Postgres and S3, as on two machines: whatever one takes, the other answers for."""

from __future__ import annotations

import hashlib
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from laconic.codecs import compress, media
from laconic.codecs.errors import Cancelled
from laconic.service.coding import Coder
from laconic.service.logs import make_log
from laconic.service.serve import background
from laconic.service.settings import ServiceSettings

from .pictures import smooth
from .stores import S3, Postgres

PICTURE = smooth(40, 56, 3)
PNG = media.write(PICTURE, "png")
EXPECTED = compress.encode(PICTURE, "webp", {"quality": 30}).data
WEBP = "/v1/jobs?op=encode&codec=webp&quality=30"
TUS = {"Tus-Resumable": "1.0.0"}
Pair = tuple[httpx.Client, httpx.Client]


@pytest.fixture(scope="module")
def pair(s3_server: S3, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Clients of the two."""
    shared: dict[str, Any] = {"job_store": postgres.url(), "blob_store": s3_server.url()}
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        for name, value in s3_server.environment.items():
            patch.setenv(name, value)
        clients = []
        for name in ("a", "b"):
            folder = tmp_path_factory.mktemp(name)
            settings = ServiceSettings(port=0, threads=1, codecs=("jpeg", "webp"), state_dir=folder, sandbox=False, **shared)
            url = stack.enter_context(background(settings, make_log(io.StringIO())))
            clients.append(stack.enter_context(httpx.Client(base_url=url, timeout=30)))
        yield clients[0], clients[1]


@pytest.fixture
def braked(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """Holds every job on its device's thread until the test ends or it is cancelled, and counts both."""
    code, counts, over = Coder._code, {"held": 0, "stopped": 0}, threading.Event()

    def held(coder: Coder, job: Any, progress: Callable[[float, str], None]) -> Any:
        if job.report is not None:
            counts["held"] += 1
            try:
                while not over.wait(0.01):
                    progress(0.25, "transform")
            except Cancelled:
                counts["stopped"] += 1
                raise
        return code(coder, job, progress)

    monkeypatch.setattr(Coder, "_code", held)
    yield counts
    over.set()


def until(what: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def submitted(client: httpx.Client, content: bytes = PNG, **headers: str) -> dict[str, Any]:
    response = client.post(WEBP, content=content, headers=headers)
    assert response.status_code in (200, 202), response.text
    return dict(response.json())


def test_a_job_of_one_is_read_at_the_other(pair: Pair) -> None:
    a, b = pair
    job = submitted(a)
    status = b.get(job["links"]["self"], params={"wait": 30}).json()
    assert status["state"] == "succeeded" and [entry["id"] for entry in b.get("/v1/jobs?limit=1").json()["jobs"]] == [job["id"]]
    for client in pair:
        result = client.get(job["links"]["result"])
        assert result.content == EXPECTED and result.headers["etag"] == f'"{hashlib.sha256(EXPECTED).hexdigest()}"'
        part = client.get(job["links"]["result"], headers={"Range": "bytes=7-30", "If-Range": result.headers["etag"]})
        assert (part.status_code, part.content) == (206, EXPECTED[7:31])
        last = client.get(job["links"]["result"], headers={"Range": "bytes=-5"})
        assert (last.status_code, last.content) == (206, EXPECTED[-5:])


def test_events_of_a_job_of_one_come_from_the_other(pair: Pair) -> None:
    a, b = pair
    job = submitted(a)
    with b.stream("GET", job["links"]["events"]) as events:
        told = [json.loads(line[6:]) for line in events.iter_lines() if line.startswith("data: ")]
    assert told[-1]["state"] == "succeeded" and {status["id"] for status in told} == {job["id"]}


def test_a_key_makes_one_job_wherever_it_comes(pair: Pair) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: submitted(pair[n % 2], **{"Idempotency-Key": "one"}), range(16)))
    assert len({job["id"] for job in made}) == 1
    refused = pair[1].post(WEBP[:-1] + "1", content=PNG, headers={"Idempotency-Key": "one"})
    assert (refused.status_code, refused.json()["code"]) == (422, "idempotency-mismatch")


def test_the_other_cancels_and_tells_the_place_in_the_queue(pair: Pair, braked: dict[str, int]) -> None:
    a, b = pair
    jobs = [submitted(a, content=PNG + bytes(n)) for n in range(3)]
    until(lambda: braked["held"] == 2)  # one in each
    waiting = b.get(jobs[2]["links"]["self"]).json()
    assert (waiting["state"], waiting["queue_position"]) == ("queued", 1)
    for job in reversed(jobs):
        assert b.delete(job["links"]["self"]).json()["state"] == "cancelled"
    until(lambda: braked["stopped"] == 2)
    assert all(a.get(job["links"]["result"]).json()["code"] == "cancelled" for job in jobs)
    assert braked == {"held": 2, "stopped": 2}


def test_an_upload_begun_at_one_goes_on_at_the_other(pair: Pair) -> None:
    a, b = pair
    path = a.post("/v1/uploads", headers={**TUS, "Upload-Length": str(len(PNG))}).headers["location"]
    kind = {"Content-Type": "application/offset+octet-stream", **TUS}
    assert a.patch(path, headers={**kind, "Upload-Offset": "0"}, content=PNG[:100]).status_code == 204
    assert b.head(path, headers=TUS).headers["upload-offset"] == "100"
    behind = a.patch(path, headers={**kind, "Upload-Offset": "50"}, content=PNG[50:])
    assert (behind.status_code, behind.json()["code"]) == (409, "upload-conflict")
    wrong = {"Upload-Offset": "100", "Upload-Checksum": "sha1 AAAA"}
    assert b.patch(path, headers={**kind, **wrong}, content=PNG[100:]).status_code == 460
    assert b.patch(path, headers={**kind, "Upload-Offset": "100"}, content=PNG[100:]).status_code == 204
    job = a.post(f"{WEBP}&upload={path.rpartition('/')[2]}").json()
    assert b.get(job["links"]["self"], params={"wait": 30}).json()["state"] == "succeeded"
    assert b.get(job["links"]["result"]).content == EXPECTED
    assert b.delete(path, headers=TUS).status_code == 204 and a.head(path, headers=TUS).status_code == 404


def test_what_came_before_a_connection_broke_is_there_at_the_other(pair: Pair) -> None:
    a, b = pair
    path = a.post("/v1/uploads", headers={**TUS, "Upload-Length": "5000"}).headers["location"]
    head = f"PATCH {path} HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\nContent-Length: 5000\r\n"
    with socket.create_connection((a.base_url.host, a.base_url.port or 80), 10) as connection:
        connection.sendall(f"{head}Content-Type: application/offset+octet-stream\r\n\r\n".encode() + bytes(777))
        time.sleep(0.3)
    until(lambda: b.head(path, headers=TUS).headers["upload-offset"] == "777")


def test_hostile_ids_are_not_found(pair: Pair) -> None:
    for name in ("%00", "%ff", "nothing", "0" * 32):
        assert pair[0].get(f"/v1/jobs/{name}").status_code == 404
        assert pair[0].head(f"/v1/uploads/{name}", headers=TUS).status_code == 404


def test_many_jobs_are_run_once_by_both(pair: Pair) -> None:
    contents = [media.write(smooth(8 + n, 9, 3), "png") for n in range(12)]
    jobs = [submitted(pair[n % 2], content=content) for n, content in enumerate(contents)]
    for n, job in enumerate(jobs):
        status = pair[(n + 1) % 2].get(job["links"]["self"], params={"wait": 30}).json()
        assert (status["state"], status["attempts"]) == ("succeeded", 1)
        wanted = compress.encode(smooth(8 + n, 9, 3), "webp", {"quality": 30}).data
        assert pair[n % 2].get(job["links"]["result"]).content == wanted
