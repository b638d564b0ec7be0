"""`Client.submit`, `Job`, `AsyncJob` and `laconic jobs`: against a transport that plays the service, and the real one."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import laconic
from laconic.cli import main
from laconic.codecs import compress, media
from laconic.service.coding import Coder
from laconic.service.logs import make_log
from laconic.service.serve import background
from laconic.service.settings import ServiceSettings

from .pictures import smooth

PICTURE = smooth(40, 56, 3)
PNG = media.write(PICTURE, "png")
STREAM = compress.encode(PICTURE, "webp", {"quality": 30}).data
STATUS: dict[str, Any] = {
    "id": "abc",
    "op": "encode",
    "options": {},
    "state": "queued",
    "progress": 0.0,
    "stage": "",
    "eta_s": None,
    "queue_position": 1,
    "attempts": 0,
    "created": "2026-01-01T00:00:00.000Z",
    "started": None,
    "finished": None,
    "expires": None,
    "result": None,
    "error": None,
    "webhook": None,
    "links": {},
}
Answer = Callable[[httpx.Request], httpx.Response]


def status(**members: object) -> httpx.Response:
    return httpx.Response(200, json=STATUS | members)


def playing(*answers: httpx.Response | Exception) -> tuple[laconic.Client, list[httpx.Request]]:
    """A client whose service gives these answers, and the requests that it gets."""
    left, seen = iter(answers), list[httpx.Request]()

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        found = next(left)
        if isinstance(found, Exception):
            raise found
        return found

    return laconic.Client("http://service", transport=httpx.MockTransport(answer)), seen


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waits: list[float] = []
    monkeypatch.setattr("laconic.connection.time.sleep", waits.append)
    return waits


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    given = ServiceSettings(port=0, threads=1, codecs=("webp", "jpeg"), state_dir=tmp_path_factory.mktemp("state"))
    with background(given, make_log(io.StringIO())) as address:
        yield address


def test_a_submission_that_is_tried_again_has_one_key(naps: list[float]) -> None:
    busy = httpx.Response(503, headers={"Retry-After": "2"}, json={"code": "unavailable", "detail": "starting"})
    client, seen = playing(httpx.ConnectError("refused"), busy, httpx.ReadError("cut"), status())
    job = client.submit(b"a picture", codec="webp", quality=50, callback="http://example.org/", chroma=None)
    assert job.id == "abc" and repr(job) == "Job('abc')"
    assert len(seen) == 4 and len({request.headers["Idempotency-Key"] for request in seen}) == 1
    assert {(request.method, request.url.path, request.content) for request in seen} == {("POST", "/v1/jobs", b"a picture")}
    assert dict(seen[0].url.params) == {"op": "encode", "codec": "webp", "quality": "50", "callback": "http://example.org/"}
    assert [0.5 <= naps[0] <= 0.625, 2 <= naps[1] <= 2.5, 2 <= naps[2] <= 2.5] == [True] * 3, "with jitter, never too early"
    other, seen_by_other = playing(status(), status())
    other.submit(b"a picture", idempotency_key="mine")
    other.submit(b"a picture")
    keys = [request.headers["Idempotency-Key"] for request in seen_by_other]
    assert keys[0] == "mine" and keys[1] != seen[0].headers["Idempotency-Key"]


def test_what_submit_sends(tmp_path: Path) -> None:
    client, seen = playing(status(), status())
    path = tmp_path / "Straße 1.lcn"
    path.write_bytes(STREAM)
    client.submit(path, op="decode", media_type="image/webp", quality=80)
    client.submit(PICTURE.array, codec="jpeg")
    decoding, encoding = seen
    assert dict(decoding.url.params) == {"op": "decode", "quality": "80"} and decoding.content == STREAM
    assert decoding.headers["accept"].startswith("image/webp,")
    assert decoding.headers["content-disposition"] == "attachment; filename*=UTF-8''Stra%C3%9Fe%201.lcn"
    assert (media.read(encoding.content).array == PICTURE.array).all()
    with pytest.raises(laconic.InvalidSettings, match="encode or decode"):
        client.submit(path, op="inspect")


def test_waiting_outlives_a_restart_and_tells_of_progress(naps: list[float]) -> None:
    gone = [httpx.ConnectError("refused")] * 8
    client, seen = playing(
        status(), *gone, status(state="running", progress=0.5, stage="half"), status(state="succeeded", progress=1.0)
    )
    told: list[tuple[float, str]] = []
    assert client.job("abc").wait(progress=lambda part, stage: told.append((part, stage))).state == "succeeded"
    assert told == [(0.0, "queued"), (0.5, "half"), (1.0, "succeeded")]
    assert {request.url.params.get("wait") for request in seen} == {"1"} and seen[0].url.path == "/v1/jobs/abc"
    assert all(request.extensions["timeout"]["read"] > 30 for request in seen)


def test_waiting_ends(naps: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    client, _ = playing(status(state="running"))
    with pytest.raises(laconic.JobNotDone, match="running after 0 s"):
        client.job("abc").wait(timeout=0)
    monkeypatch.setattr("laconic.jobs.PATIENCE_S", 0.0)
    client, _ = playing(*[httpx.ConnectError("refused")] * 4)
    with pytest.raises(laconic.ServiceError, match="does not answer"):
        client.job("abc").wait()


@pytest.mark.parametrize("progress", [True, False])
def test_a_bar_is_shown_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch, progress: bool) -> None:
    client, seen = playing(status(state="succeeded"))
    client.job("abc").wait(progress=progress)
    assert seen[0].url.params["wait"] == "20", "nobody looks"
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    client, seen = playing(status(state="succeeded"))
    client.job("abc").wait(progress=progress)
    assert seen[0].url.params["wait"] == ("1" if progress else "20")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("corrupt-media", laconic.CorruptMedia),
        ("cancelled", laconic.Cancelled),
        ("out-of-memory", laconic.ServiceError),
        ("job-lost", laconic.ServiceError),
    ],
)
def test_a_failed_job_raises_its_own_error(naps: list[float], code: str, kind: type[laconic.LaconicError]) -> None:
    error = {"code": code, "detail": "what went wrong", "status": 503, "request_id": "r"}
    client, seen = playing(status(state="failed", error=error))
    with pytest.raises(kind, match="what went wrong"):
        client.job("abc").result()
    assert len(seen) == 1 and naps == []


@pytest.mark.parametrize(("code", "kind"), [("job-expired", laconic.JobExpired), ("no-such-job", laconic.NoSuchJob)])
def test_results_that_are_gone(code: str, kind: type[laconic.ServiceError]) -> None:
    client, _ = playing(status(state="expired"), httpx.Response(410, json={"code": code, "detail": "gone"}))
    with pytest.raises(kind) as caught:
        client.job("abc").result()
    assert caught.value.status == 410 and laconic.errors.exit_code(caught.value) == 6


@pytest.mark.parametrize("body", [b"no JSON", b"[]", b"{}", b'{"id": 3}'])
def test_answers_of_another_form(body: bytes) -> None:
    with pytest.raises(laconic.ServiceError):
        playing(httpx.Response(200, content=body))[0].job("abc").status()
    with pytest.raises(laconic.ServiceError):
        playing(httpx.Response(200, content=body))[0].jobs()


def test_ids_stay_in_their_path() -> None:
    client, seen = playing(status())
    client.job("../codecs?x").status()
    assert seen[0].url.raw_path == b"/v1/jobs/..%2Fcodecs%3Fx"


def test_with_the_real_service(url: str) -> None:
    with laconic.Client(url) as client:
        job = client.submit(PNG, codec="webp", quality=30)
        assert job.wait(30).state == "succeeded" and job.result() == STREAM
        found = job.status()
        assert found.done and found.result is not None and found.result["bytes"] == len(STREAM)
        decoded = client.submit(STREAM, op="decode", media_type="image/webp").result(30)
        assert (media.read(decoded).array == compress.decode(STREAM).array).all()
        assert [entry.id for entry in client.jobs(2)][1] == job.id and client.job(job.id).cancel().state == "succeeded"
        for _ in range(3):
            client.submit(PNG, codec="webp")
        assert len({entry.id for entry in client.jobs(5)}) == 5
        with pytest.raises(laconic.CorruptMedia):
            client.submit(PNG[:-40], codec="webp").result(30)
        with pytest.raises(laconic.InvalidSettings):
            client.submit(PNG, codec="nothing")
        with pytest.raises(laconic.NoSuchJob):
            client.job("nope").result()


def test_async_with_the_real_service(url: str) -> None:
    async def use() -> None:
        async with laconic.AsyncClient(url) as client:
            jobs = [await client.submit(smooth(20, 20 + n, 3), codec="webp", lossless=True) for n in range(3)]
            streams = await asyncio.gather(*(job.result(30) for job in jobs))
            assert [laconic.inspect(stream).shape for stream in streams] == [(20, 20 + n, 3) for n in range(3)]
            assert (await jobs[0].wait()).state == (await jobs[0].status()).state == "succeeded"
            assert (await jobs[0].cancel()).state == "succeeded" and repr(jobs[0]) == f"AsyncJob({jobs[0].id!r})"
            assert [entry.id for entry in await client.jobs(3)] == [job.id for job in reversed(jobs)]
            with pytest.raises(laconic.NoSuchJob):
                await client.job("nope").status()

    asyncio.run(use())


def laconic_jobs(*arguments: str) -> int:
    return main(["jobs", *arguments])


def test_the_command_line(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LACONIC_URL", url)
    Path("holiday.png").write_bytes(PNG)
    assert laconic_jobs("submit", "holiday.png", "--codec", "webp", "-q", "30") == 0
    job = capsys.readouterr().out.strip()
    assert laconic_jobs("wait", job) == 0 and "succeeded" in capsys.readouterr().out
    assert laconic_jobs("result", job) == 0 and Path("holiday.lcn").read_bytes() == STREAM
    assert laconic_jobs("result", job) == 1, "nothing is overwritten"
    assert laconic_jobs("result", job, "-o", "other.lcn") == 0 and Path("other.lcn").read_bytes() == STREAM
    capsys.readouterr()
    assert laconic_jobs("show", job, "--json") == 0
    assert json.loads(capsys.readouterr().out)["result"]["name"] == "holiday.lcn"
    assert laconic_jobs("cancel", job) == 0 and "holiday.lcn" in capsys.readouterr().out
    assert laconic_jobs("submit", "holiday.lcn", "--op", "decode", "--type", "image/webp", "--wait", "--json") == 0
    assert json.loads(capsys.readouterr().out)["result"]["name"] == "holiday.webp"
    assert laconic_jobs("list", "-n", "2") == 0
    listed = capsys.readouterr().out
    assert job in listed and "holiday.webp" in listed
    assert laconic_jobs("list", "--json") == 0 and json.loads(capsys.readouterr().out)[0]["state"] == "succeeded"


def test_exit_codes_of_the_command_line(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LACONIC_URL", url)
    Path("a.png").write_bytes(PNG)
    Path("cut.png").write_bytes(PNG[:-40])
    assert laconic_jobs("submit", "cut.png", "--codec", "webp", "--wait") == 3
    assert "corrupt-media" in (out := capsys.readouterr()).out and out.err.startswith("laconic: ")
    assert laconic_jobs("submit", "a.png", "--codec", "nothing") == 2
    assert laconic_jobs("submit", "a.png", "--op", "decode", "--codec", "webp") == 2
    assert laconic_jobs("submit", "missing.png") == 1
    assert laconic_jobs("show", "nope") == 6 and laconic_jobs("result", "nope") == 6
    assert laconic_jobs("show", "nope", "--url", "service:8000") == 2
    assert laconic_jobs("list", "--url", "http://127.0.0.1:9") == 6
    assert laconic_jobs() == 2


def test_no_result_leads_out_of_the_folder(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    names = iter(["../../out.lcn", "/tmp/out.lcn", ".bashrc", "..", ""])
    status_of = laconic.Job.wait

    def renamed(job: laconic.Job, *arguments: Any) -> laconic.JobStatus:
        from dataclasses import replace

        found = status_of(job, *arguments)
        return replace(found, result={**(found.result or {}), "name": next(names)})

    monkeypatch.setattr(laconic.Job, "wait", renamed)
    with laconic.Client(url) as client:
        jobs = [client.submit(PNG, codec="webp").id for _ in range(5)]
    for job in jobs:
        assert laconic_jobs("result", job, "--url", url, "-f") == 0
    assert sorted(path.name for path in (tmp_path / "inner").iterdir()) == sorted(["out.lcn", "bashrc", *jobs[3:]])
    assert [path.name for path in tmp_path.iterdir()] == ["inner"]


def test_cancelling_a_running_job(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, code = threading.Event(), Coder._code

    def endless(coder: Coder, job: Any, progress: Callable[[float, str], None]) -> Any:
        entered.set()
        while True:
            progress(0.5, "for ever")

    monkeypatch.setattr(Coder, "_code", endless)
    with laconic.Client(url) as client:
        job = client.submit(PNG, codec="webp")
        assert entered.wait(10) and job.cancel().state == "cancelled"
        with pytest.raises(laconic.Cancelled):
            job.result(30)
        monkeypatch.setattr(Coder, "_code", code)
        assert client.submit(PNG, codec="webp", quality=30).result(30) == STREAM
