"""Durable jobs over real sockets: routes and problems, events, cancelling, expiry, webhooks, and death of the process."""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from laconic.bench import crash
from laconic.codecs import compress, media
from laconic.codecs.errors import Cancelled
from laconic.service.blobs import BlobFolder
from laconic.service.coding import Coder
from laconic.service.keys import SCOPES, change_keys, new_key
from laconic.service.lanes import Plan
from laconic.service.logs import make_log
from laconic.service.owner import DeviceOwner
from laconic.service.serve import background
from laconic.service.settings import ServiceSettings
from laconic.service.webhooks import signed_headers

from .pictures import smooth

SECRET = "whsec_" + base64.b64encode(b"a secret of 24 bytes ...").decode()
PICTURE = smooth(40, 56, 3)
PNG = media.write(PICTURE, "png")
STREAM = compress.encode(PICTURE, "webp", {"quality": 30}).data
WEBP = "/v1/jobs?op=encode&codec=webp&quality=30"


def settings(folder: Path | None, **given: Any) -> ServiceSettings:
    limits = {"port": 0, "threads": 1, "codecs": ("jpeg", "webp"), "state_dir": folder, "max_pixels": 1_000_000}
    return ServiceSettings(**(limits | given))


@contextmanager
def service(folder: Path | None, **given: Any) -> Iterator[httpx.Client]:
    with (
        background(settings(folder, **given), make_log(io.StringIO())) as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with service(tmp_path_factory.mktemp("state")) as client:
        yield client


class Brake:
    """Holds every job on the device's thread until it is released; reports progress, so that it can be cancelled."""

    def __init__(self) -> None:
        self.entered, self.released, self.stopped = threading.Event(), threading.Event(), threading.Event()
        self.runs = 0

    def hold(self, progress: Callable[[float, str], None]) -> None:
        self.runs += 1
        self.entered.set()
        try:
            while not self.released.is_set():
                progress(0.25, "transform")
                time.sleep(0.01)
        except Cancelled:
            self.stopped.set()
            raise


@pytest.fixture
def brake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Brake]:
    """A brake on work that has a `report`, which only jobs have: requests pass."""
    brake, code = Brake(), Coder._code

    def braked(coder: Coder, job: Any, progress: Callable[[float, str], None]) -> Any:
        if job.report is not None:
            brake.hold(progress)
        return code(coder, job, progress)

    monkeypatch.setattr(Coder, "_code", braked)
    yield brake
    brake.released.set()


def submitted(client: httpx.Client, query: str = WEBP, content: bytes = PNG, **headers: str) -> dict[str, Any]:
    response = client.post(query, content=content, headers=headers)
    assert response.status_code == 202, response.text
    assert response.headers["location"] == response.json()["links"]["self"] and response.headers["retry-after"]
    return dict(response.json())


def ended(client: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    status = client.get(job["links"]["self"], params={"wait": 30}).json()
    assert status["state"] in ("succeeded", "failed", "cancelled", "expired"), status
    return dict(status)


def until(state: str, client: httpx.Client, job: dict[str, Any], seconds: float = 10) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while (status := client.get(job["links"]["self"]).json())["state"] != state:
        assert time.monotonic() < deadline, status
        time.sleep(0.02)
    return dict(status)


def test_an_encoding_as_a_job_gives_what_the_request_gives(client: httpx.Client) -> None:
    job = submitted(client, **{"Content-Disposition": 'attachment; filename="holiday.png"'})
    assert (
        job["state"] in ("queued", "running") and job["op"] == "encode" and job["options"] == {"codec": "webp", "quality": "30"}
    )
    status = ended(client, job)
    assert (status["state"], status["progress"], status["attempts"], status["error"]) == ("succeeded", 1.0, 1, None)
    assert status["created"] <= status["started"] <= status["finished"] < status["expires"]
    result = client.get(job["links"]["result"])
    assert result.content == STREAM and result.headers["content-type"] == "application/vnd.laconic"
    assert result.headers["content-disposition"].startswith('attachment; filename="holiday.lcn"')
    digest = hashlib.sha256(STREAM).hexdigest()
    assert status["result"] == {
        "name": "holiday.lcn",
        "bytes": len(STREAM),
        "media_type": "application/vnd.laconic",
        "codec": "webp",
        "sha256": digest,
    }
    assert result.headers["etag"] == f'"{digest}"'


@pytest.mark.parametrize(("accept", "kind"), [("image/webp", "webp"), ("application/json", "png"), ("*/*", "png")])
def test_a_decoding_as_a_job_writes_what_accept_asked_for(client: httpx.Client, accept: str, kind: str) -> None:
    job = submitted(client, "/v1/jobs?op=decode", STREAM, Accept=accept)
    assert ended(client, job)["state"] == "succeeded"
    result = client.get(job["links"]["result"])
    assert result.headers["content-type"] == f"image/{kind}"
    assert np.array_equal(media.read(result.content).array, compress.decode(STREAM).array)


@pytest.mark.parametrize(("path", "body"), [("/v1/encode?codec=webp&quality=30", PNG), ("/v1/decode", STREAM)])
def test_a_request_that_prefers_so_becomes_a_job(client: httpx.Client, path: str, body: bytes) -> None:
    answer = client.post(path, content=body, headers={"Prefer": "wait=5, Respond-Async"})
    assert answer.status_code == 202 and answer.headers["preference-applied"] == "respond-async"
    assert ended(client, answer.json())["state"] == "succeeded"
    direct = client.post(path, content=body)
    assert client.get(answer.json()["links"]["result"]).content == direct.content


@pytest.mark.parametrize(
    ("query", "body", "status", "code"),
    [
        ("/v1/jobs", PNG, 422, "invalid-settings"),
        ("/v1/jobs?op=encode&op=decode", PNG, 422, "invalid-settings"),
        ("/v1/jobs?op=inspect", PNG, 422, "invalid-settings"),
        ("/v1/jobs?op=encode&qualty=3", PNG, 422, "invalid-settings"),
        ("/v1/jobs?op=encode&quality=300", PNG, 422, "invalid-settings"),
        ("/v1/jobs?op=decode&codec=webp", STREAM, 422, "invalid-settings"),
        ("/v1/jobs?op=encode&callback=http://example.org/", PNG, 422, "invalid-settings"),
        ("/v1/jobs?op=encode", b"no picture", 415, "unsupported-media"),
        ("/v1/jobs?op=decode", PNG, 415, "unsupported-media"),
        ("/v1/jobs?op=encode", b"", 400, "bad-request"),
        ("/v1/jobs?op=encode", media.write(smooth(1001, 1000, 3), "png"), 413, "limit-exceeded"),
    ],
)
def test_what_cannot_be_done_is_refused_at_once(client: httpx.Client, query: str, body: bytes, status: int, code: str) -> None:
    answer = client.post(query, content=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_job_that_fails_has_the_problem_of_the_request(client: httpx.Client) -> None:
    broken = PNG[:-40]  # the header is whole, the picture is not
    direct = client.post("/v1/encode?codec=webp", content=broken)
    job = submitted(client, content=broken)
    error = ended(client, job)["error"]
    answer = client.get(job["links"]["result"])
    assert answer.status_code == direct.status_code == error["status"] == 400
    assert answer.json() == error and answer.headers["content-type"] == "application/problem+json"
    assert {name: error[name] for name in ("code", "title", "detail")} == {
        name: direct.json()[name] for name in ("code", "title", "detail")
    }


@pytest.mark.parametrize("path", ["/v1/jobs/nope", "/v1/jobs/nope/events", "/v1/jobs/nope/result"])
def test_unknown_jobs(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.json()["code"]) == (404, "no-such-job")
    assert client.delete("/v1/jobs/nope").status_code == 404
    assert client.get("/v1/jobs?before=nope").status_code == 404


@pytest.mark.parametrize("query", ["wait=31", "wait=-1", "wait=x", "wait=1&wait=2", "limit=1"])
def test_bad_parameters_of_a_status(client: httpx.Client, query: str) -> None:
    job = submitted(client)
    assert client.get(f"{job['links']['self']}?{query}").status_code == 422
    assert client.get(f"{job['links']['result']}?{query}").status_code == 422


def test_jobs_are_listed_newest_first_in_pages(tmp_path: Path) -> None:
    with service(tmp_path) as client:
        ids = [submitted(client)["id"] for _ in range(5)][::-1]
        first = client.get("/v1/jobs?limit=2").json()
        second = client.get(first["next"]).json()
        third = client.get(second["next"]).json()
        assert [job["id"] for page in (first, second, third) for job in page["jobs"]] == ids
        assert third["next"] is None
        assert client.get("/v1/jobs?limit=0").status_code == client.get("/v1/jobs?limit=101").status_code == 422


@pytest.mark.parametrize(
    ("asked", "first", "end"),
    [
        ("bytes=0-9", 0, 10),
        ("bytes=10-10", 10, 11),
        (f"bytes=5-{10**9}", 5, None),
        ("bytes=20-", 20, None),
        ("bytes=-7", -7, None),
        (f"bytes=-{10**9}", 0, None),
    ],
)
def test_a_part_of_a_result(client: httpx.Client, asked: str, first: int, end: int | None) -> None:
    job = submitted(client)
    ended(client, job)
    answer = client.get(job["links"]["result"], headers={"Range": asked})
    expected = STREAM[first:end]
    start = first % len(STREAM) if first < 0 else first
    assert answer.status_code == 206 and answer.content == expected
    assert answer.headers["content-range"] == f"bytes {start}-{start + len(expected) - 1}/{len(STREAM)}"
    assert answer.headers["content-length"] == str(len(expected))


def test_conditions_on_a_result(client: httpx.Client) -> None:
    job = submitted(client)
    ended(client, job)
    url = job["links"]["result"]
    tag = client.get(url).headers["etag"]
    assert client.get(url, headers={"If-None-Match": tag}).status_code == 304
    for ignored in ("bytes=9-3", "bytes=-", "bytes=0-1,4-5", "lines=0-1", "bytes=x-y"):
        assert client.get(url, headers={"Range": ignored}).content == STREAM
    for outside in (f"bytes={len(STREAM)}-", "bytes=-0"):
        refused = client.get(url, headers={"Range": outside})
        assert (refused.status_code, refused.json()["code"]) == (416, "range-not-satisfiable")
        assert refused.headers["content-range"] == f"bytes */{len(STREAM)}"
    assert client.get(url, headers={"Range": "bytes=0-1", "If-Range": tag}).status_code == 206
    assert client.get(url, headers={"Range": "bytes=0-1", "If-Range": '"other"'}).status_code == 200


def test_an_idempotency_key_makes_one_job_of_many_tries(client: httpx.Client) -> None:
    first = submitted(client, **{"Idempotency-Key": "one-1"})
    ended(client, first)
    again = client.post(WEBP, content=PNG, headers={"Idempotency-Key": '"one-1"'})
    assert (again.status_code, again.json()["id"], again.json()["state"]) == (200, first["id"], "succeeded")
    for query, body in ((WEBP.replace("30", "31"), PNG), (WEBP, media.write(smooth(3, 4, 3), "png"))):
        other = client.post(query, content=body, headers={"Idempotency-Key": "one-1"})
        assert (other.status_code, other.json()["code"]) == (422, "idempotency-mismatch")
    assert submitted(client, **{"Idempotency-Key": "one-2"})["id"] != first["id"]
    assert client.post(WEBP, content=PNG, headers={"Idempotency-Key": "x" * 256}).status_code == 400


def test_tries_at_the_same_time_are_one_job(client: httpx.Client) -> None:
    found: list[str] = []

    def submit() -> None:
        response = client.post(WEBP, content=PNG, headers={"Idempotency-Key": "at-once"})
        assert response.status_code in (200, 202), response.text  # 200 where the first has ended by then
        found.append(response.json()["id"])

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(set(found)) == 1


def read_events(client: httpx.Client, job: dict[str, Any], **headers: str) -> list[tuple[int, dict[str, Any]]]:
    with client.stream("GET", job["links"]["events"], headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        blocks = answer.read().decode().split("\n\n")
    fields = [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks if block.startswith("id: ")]
    assert all(block["event"] == "status" for block in fields)
    return [(int(block["id"]), json.loads(block["data"])) for block in fields]


def test_events_follow_a_job_to_its_end_and_resume(tmp_path: Path, brake: Brake) -> None:
    with service(tmp_path) as client:
        job = submitted(client)
        assert brake.entered.wait(10)
        threading.Timer(1.2, brake.released.set).start()
        events = read_events(client, job)
        states = [status["state"] for _, status in events]
        assert "running" in states and states[-1] == "succeeded" and states.count("succeeded") == 1
        assert any(status["progress"] == 0.25 and status["stage"] == "transform" for _, status in events)
        assert any((status["eta_s"] or 0) > 0 for _, status in events)
        ids = [number for number, _ in events]
        assert ids == sorted(set(ids))
        resumed = read_events(client, job, **{"Last-Event-ID": str(ids[0])})
        assert resumed == events[-1:]
        over = client.get(job["links"]["events"], headers={"Last-Event-ID": str(ids[-1])})
        assert over.status_code == 204 and over.content == b""
        assert read_events(client, job, **{"Last-Event-ID": "nonsense"}) == events[-1:]


def test_idle_events_are_kept_alive(tmp_path: Path, brake: Brake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("laconic.service.routes_jobs.PING_S", 0.1)
    with service(tmp_path) as client:
        submitted(client)
        assert brake.entered.wait(10)
        waiting = submitted(client)
        with client.stream("GET", waiting["links"]["events"]) as answer:
            lines = answer.iter_lines()
            assert next(line for line in lines if line.startswith(":")) == ": ping"
        brake.released.set()


def test_jobs_wait_in_order_and_can_be_cancelled(tmp_path: Path, brake: Brake) -> None:
    with service(tmp_path) as client:
        running, second, third = (submitted(client) for _ in range(3))
        assert brake.entered.wait(10)
        assert [client.get(job["links"]["self"]).json()["queue_position"] for job in (running, second, third)] == [None, 1, 2]
        early = client.get(second["links"]["result"])
        assert (early.status_code, early.json()["code"]) == (409, "job-not-done") and early.headers["retry-after"]
        began = time.monotonic()
        assert client.get(second["links"]["self"], params={"wait": 1}).json()["state"] == "queued"
        assert 0.9 < time.monotonic() - began < 5
        cancelled = client.delete(second["links"]["self"])
        assert (cancelled.status_code, cancelled.json()["state"]) == (202, "cancelled")
        assert client.get(third["links"]["self"]).json()["queue_position"] == 1
        stopped = client.delete(running["links"]["self"])
        assert (stopped.status_code, stopped.json()["state"]) == (202, "cancelled")
        assert brake.stopped.wait(5), "the codec was not stopped at its next progress report"
        again = client.delete(running["links"]["self"])
        assert (again.status_code, again.json()["finished"]) == (202, stopped.json()["finished"])
        answer = client.get(running["links"]["result"])
        assert (answer.status_code, answer.json()["code"]) == (409, "cancelled")
        brake.released.set()
        assert ended(client, third)["state"] == "succeeded"
        assert client.delete(third["links"]["self"]).json()["state"] == "succeeded"
        assert client.get(third["links"]["result"]).content == STREAM


def test_a_job_that_runs_does_not_keep_requests_waiting(tmp_path: Path, brake: Brake) -> None:
    with service(tmp_path) as client:
        job = submitted(client)
        assert brake.entered.wait(10)
        assert client.post("/v1/encode?codec=webp&quality=30", content=PNG).content == STREAM
        assert client.get(job["links"]["self"]).json()["state"] == "running"


def test_a_job_that_needs_the_device_alone_lets_requests_go_first(
    tmp_path: Path, brake: Brake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job's codec is held at its progress reports; the requests get the device there, and finish long before it."""
    monkeypatch.setattr(Coder, "_overlaps", lambda coder, codec: False)
    with service(tmp_path) as client:
        job = submitted(client)
        assert brake.entered.wait(10)
        for _ in range(3):
            assert client.post("/v1/encode?codec=webp&quality=30", content=PNG).content == STREAM
        assert client.get(job["links"]["self"]).json()["state"] == "running"
        brake.released.set()
        assert ended(client, job)["state"] == "succeeded"


class Piece:
    """Work for the owner's own tests: a name, and what to do on the owner's thread or in the background."""

    plan = Plan()  # needs the device

    def __init__(self, name: str, work: Callable[[], None] = lambda: None) -> None:
        self.name, self.work = name, work


def test_exclusive_background_work_never_runs_beside_requests() -> None:
    order: list[str] = []
    device = threading.Lock()
    slow, go = threading.Event(), threading.Event()

    def run(pieces: Sequence[Piece]) -> list[int | BaseException]:
        assert device.acquire(blocking=False), "two at once"
        pieces[0].work()
        order.append(pieces[0].name)
        device.release()
        return [0]

    def wait() -> None:
        slow.set()
        assert go.wait(10)

    def report() -> None:
        for _ in range(3):
            device.release()
            owner.give_way()
            assert device.acquire(blocking=False), "two at once"
            if not begun.is_set():
                begun.set()
                assert more.wait(10)

    begun, more = threading.Event(), threading.Event()
    owner = DeviceOwner[Piece, int](run, ServiceSettings(batch_wait_ms=0))
    owner.start()
    first = owner.submit(Piece("slow request", wait))
    assert slow.wait(10)
    background = owner.submit(Piece("job", report), background=True)
    second = owner.submit(Piece("request"))
    go.set()
    assert begun.wait(10)
    third = owner.submit(Piece("late request"))
    more.set()
    for future in (first, second, third, background):
        assert future.result(10) == 0
    owner.stop(5)
    assert order == ["slow request", "request", "late request", "job"]


def test_jobs_have_a_time_limit_of_their_own(tmp_path: Path, brake: Brake) -> None:
    with service(tmp_path, job_timeout_s=0.5, request_timeout_s=0.2) as client:
        error = ended(client, submitted(client))["error"]
        assert (error["status"], error["code"]) == (504, "request-timeout") and "LACONIC_JOB_TIMEOUT_S" in error["detail"]
        assert brake.stopped.wait(5)


def test_a_storage_that_fails_now_and_then_fails_no_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease runs out, and the next attempt finds what it needs; the last one tells what is wrong."""
    failures, get = [2, 3], BlobFolder.get

    def failing(blobs: BlobFolder, name: str) -> bytes:
        if failures[0]:
            failures[0] -= 1
            raise OSError(5, "Input/output error")
        return get(blobs, name)

    with service(tmp_path, job_lease_s=0.3, job_attempts=3) as client:
        monkeypatch.setattr(BlobFolder, "get", failing)
        done = ended(client, submitted(client))
        assert (done["state"], done["attempts"]) == ("succeeded", 3)
        failures.pop(0)
        lost = ended(client, submitted(client))
        assert (lost["state"], lost["attempts"], lost["error"]["code"]) == ("failed", 3, "storage-failed")
        assert "Input/output error" in lost["error"]["detail"]


def test_results_expire_and_their_bytes_go(tmp_path: Path) -> None:
    with service(tmp_path, job_retention_s=1.0) as client:
        job = submitted(client)
        assert ended(client, job)["state"] == "succeeded"
        status = until("expired", client, job)
        gone = client.get(job["links"]["result"])
        assert (gone.status_code, gone.json()["code"]) == (410, "job-expired") and status["result"] is None
        blobs = list((tmp_path / "blobs").glob("??/*"))
        assert len(blobs) == 2, "the body and the result, which are young"
        for blob in blobs:
            os.utime(blob, (0, 0))
        deadline = time.monotonic() + 10
        while any(blob.exists() for blob in blobs) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(blob.exists() for blob in blobs)


def test_stored_jobs_are_bounded(tmp_path: Path) -> None:
    with service(tmp_path / "few", max_jobs=2) as client:
        first = submitted(client, **{"Idempotency-Key": "k"})
        submitted(client)
        full = client.post(WEBP, content=PNG)
        assert (full.status_code, full.json()["setting"]) == (429, "LACONIC_MAX_JOBS") and int(full.headers["retry-after"]) >= 1
        assert client.post(WEBP, content=PNG, headers={"Idempotency-Key": "k"}).json()["id"] == first["id"]
        assert 'queue_rejected_total{reason="jobs stored"} 1.0' in client.get("/metrics").text
    with service(tmp_path / "small", max_job_bytes=len(PNG) - 1) as client:
        full = client.post(WEBP, content=PNG)
        assert (full.status_code, full.json()["setting"]) == (429, "LACONIC_MAX_JOB_BYTES")
        assert not list((tmp_path / "small" / "blobs").glob("??/*"))


def test_jobs_and_their_results_outlive_the_service(tmp_path: Path, brake: Brake) -> None:
    """A job that runs when the service stops goes back into the queue, and that costs none of its attempts."""
    with service(tmp_path) as client:
        job = submitted(client)
        assert brake.entered.wait(10)
    assert brake.stopped.is_set()
    brake.released.set()
    with service(tmp_path) as client:
        status = ended(client, job)
        assert (status["state"], status["attempts"]) == ("succeeded", 1)
        assert client.get(job["links"]["result"]).content == STREAM
    with service(tmp_path) as client:
        assert client.get(job["links"]["result"]).content == STREAM


def test_without_a_folder_jobs_end_with_the_service() -> None:
    with service(None) as client:
        job = submitted(client)
        assert ended(client, job)["state"] == "succeeded"
    with service(None) as client:
        assert client.get(job["links"]["self"]).status_code == 404


def test_jobs_belong_to_the_name_of_the_key_that_submitted_them(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    made = [new_key(name, SCOPES) for name in ("alice", "alice", "bob")]
    change_keys(keys, lambda known: (*known, *(key for key, _ in made)))
    alice, renewed, bob = ({"Authorization": f"Bearer {text}"} for _, text in made)
    with service(tmp_path / "state", keys_file=keys) as client:
        assert client.post(WEBP, content=PNG).status_code == 401
        job = submitted(client, **alice, **{"Idempotency-Key": "k"})
        url = job["links"]["self"]
        for path in (url, f"{url}/events", f"{url}/result", f"/v1/jobs?before={job['id']}"):
            assert client.get(path, headers=bob).status_code == 404
        assert client.delete(url, headers=bob).status_code == 404 and client.get("/v1/jobs", headers=bob).json()["jobs"] == []
        assert submitted(client, **bob, **{"Idempotency-Key": "k"})["id"] != job["id"]
        assert client.get(url, params={"wait": 30}, headers=renewed).json()["state"] == "succeeded"
        assert client.get(f"{url}/result", headers=renewed).content == STREAM


class Receiver:
    """An HTTP server on loopback that notes what is posted to it; the first `failures` posts get 500."""

    def __init__(self, failures: int = 0, location: str | None = None) -> None:
        received: list[tuple[dict[str, str], bytes]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                received.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(302 if location else 500 if len(received) <= failures else 204)
                if location:
                    self.send_header("Location", location)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
                pass

        self.received = received
        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://localhost:{self.server.server_port}/hook?a=b"

    @contextmanager
    def open(self) -> Iterator[Receiver]:
        thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.server.shutdown()
            self.server.server_close()
            thread.join()


def with_callback(url: str) -> str:
    return str(httpx.URL(WEBP).copy_merge_params({"callback": url}))


def told(client: httpx.Client, job: dict[str, Any], seconds: float = 15) -> str:
    deadline = time.monotonic() + seconds
    while (told := client.get(job["links"]["self"]).json()["webhook"]) == "pending":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return str(told)


def test_webhooks_are_signed_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("laconic.service.job_runner.backoff", lambda tries: 0.05)
    receiver = Receiver(failures=1)
    with receiver.open(), service(tmp_path, webhook_secret=SECRET, webhook_allow_private=True) as client:
        job = submitted(client, with_callback(receiver.url))
        ended(client, job)
        assert told(client, job) == "delivered"
    (first, _), (headers, body) = receiver.received
    assert first["webhook-id"] == headers["webhook-id"] == f"msg_{job['id']}"
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.digest(b"a secret of 24 bytes ...", signed, "sha256")).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert headers["host"] == httpx.URL(receiver.url).netloc.decode()
    message = json.loads(body)
    assert message["type"] == "job.succeeded" and message["data"]["id"] == job["id"]


def test_webhooks_give_up_and_follow_no_redirects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("laconic.service.job_runner.backoff", lambda tries: 0.0)
    elsewhere, receiver = Receiver(), None
    receiver = Receiver(location=elsewhere.url)
    with elsewhere.open(), receiver.open(), service(tmp_path, webhook_secret="s", webhook_allow_private=True) as client:
        job = submitted(client, with_callback(receiver.url))
        ended(client, job)
        assert told(client, job) == "failed: the answer was 302"
    assert len(receiver.received) == 5 and elsewhere.received == []


def test_an_address_is_checked_again_when_the_webhook_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that resolved to a public address when the job came, and to loopback when it is done, gains nothing."""
    monkeypatch.setattr("laconic.service.job_runner.backoff", lambda tries: 0.0)
    receiver = Receiver()

    async def public(url: str, allow_private: bool) -> tuple[httpx.URL, str]:
        return httpx.URL(url), "93.184.216.34"

    with receiver.open(), service(tmp_path, webhook_secret="s") as client:
        monkeypatch.setattr("laconic.service.submission.checked_address", public)
        job = submitted(client, with_callback(receiver.url))
        ended(client, job)
        assert "not public" in told(client, job) and receiver.received == []


def test_a_secret_is_never_logged(tmp_path: Path) -> None:
    assert "hush" not in settings(tmp_path, webhook_secret="hush").model_dump_json()
    signed = signed_headers("hush", "id", 1, b"{}")
    assert signed["webhook-signature"].startswith("v1,") and "hush" not in str(signed)


def test_kill_9_loses_no_job_and_ends_none_twice() -> None:
    """`laconic bench crash`, short: jobs of a real process that is killed while they run and while they are submitted."""
    report = crash.run(kills=2, longest_s=1.5)
    assert (report.lost, report.duplicated, report.given_up) == (0, 0, 0), report
    assert report.jobs >= 4 and report.redone <= report.kills, report
