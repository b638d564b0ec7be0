"""Large submissions of `Client`, `AsyncClient` and `laconic jobs`: in parts, through broken connections and restarts."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import laconic
from laconic.bench import crash
from laconic.cli import main
from laconic.codecs import compress, media
from laconic.service.logs import make_log
from laconic.service.serve import background
from laconic.service.settings import ServiceSettings

from .pictures import smooth

PICTURE = smooth(200, 240, 3)
PPM = media.write(PICTURE, "ppm")
STREAM = compress.encode(PICTURE, "webp", {"quality": 30}).data
ENCODING: dict[str, object] = {"codec": "webp", "quality": 30}
CHUNK = 20_000


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("laconic.uploads.CHUNK", CHUNK)


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between tries, which are kept short."""
    from laconic import connection

    waits: list[float] = []
    sleep = connection.time.sleep

    def nap(seconds: float) -> None:
        waits.append(seconds)
        sleep(0.02)

    monkeypatch.setattr("laconic.connection.time.sleep", nap)
    return waits


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    given = ServiceSettings(port=0, threads=1, codecs=("webp", "jpeg"), state_dir=folder, max_body_bytes=CHUNK)
    with background(given, make_log(io.StringIO())) as address:
        yield address


class Breaking(httpx.BaseTransport):
    """A network in which the requests with these numbers fail: before they arrive, or (negative) when the answer is due."""

    def __init__(self, *numbers: int) -> None:
        self.inner, self.numbers = httpx.HTTPTransport(), numbers
        self.seen: list[tuple[str, str]] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.seen.append((request.method, request.headers.get("Upload-Offset", "")))
        number = len(self.seen)
        if number in self.numbers:
            raise httpx.ConnectError("cut", request=request)
        response = self.inner.handle_request(request)
        if -number in self.numbers:
            response.close()
            raise httpx.ReadError("cut", request=request)
        return response

    def close(self) -> None:
        self.inner.close()


def test_a_large_file_is_sent_in_parts_and_its_room_is_freed(url: str, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "Straße 1.ppm"
    path.write_bytes(PPM)
    told: list[tuple[float, str]] = []
    network = Breaking()
    with laconic.Client(url, transport=network) as client:
        job = client.submit(path, upload_above=CHUNK, progress=lambda part, stage: told.append((part, stage)), **ENCODING)  # type: ignore[arg-type]
        assert job.result() == STREAM
        status = job.status()
    assert status.result is not None and status.result["name"] == "Straße 1.lcn"
    offsets = [offset for method, offset in network.seen if method == "PATCH"]
    assert offsets == [str(offset) for offset in range(0, len(PPM), CHUNK)]
    parts = [part for part, _ in told]
    assert parts == sorted(parts) and parts[0] == 0 and parts[-1] == 1 and {stage for _, stage in told} == {"upload"}
    assert list((folder / "uploads").glob("*.*")) == [], "the service has forgotten the upload"


def test_small_bodies_go_in_one_request(url: str) -> None:
    network = Breaking()
    with laconic.Client(url, transport=network) as client:
        png = media.write(smooth(40, 56, 3), "png")
        assert client.submit(png, **ENCODING).result()  # type: ignore[arg-type]
    assert {method for method, _ in network.seen} == {"POST", "GET"}


@pytest.mark.parametrize("source", ["bytes", "array"])
def test_bytes_and_arrays_are_sent_in_parts_too(url: str, source: str) -> None:
    with laconic.Client(url) as client:
        given = PPM if source == "bytes" else PICTURE.array
        assert client.submit(given, upload_above=1000, **ENCODING).result() == STREAM  # type: ignore[arg-type]


def test_an_upload_goes_on_where_the_connection_broke(url: str, naps: list[float]) -> None:
    """Requests are lost on their way (3, 5, 9) and answers on theirs (7): the service is asked where it stands, each time."""
    network = Breaking(3, 5, -7, 9)
    with laconic.Client(url, transport=network) as client:
        assert client.submit(PPM, upload_above=0, **ENCODING).result() == STREAM  # type: ignore[arg-type]
    sent = network.seen[: 1 + network.seen.index(("DELETE", ""))]
    expected = ["POST", "PATCH", "PATCH", "HEAD", "PATCH", "HEAD", "PATCH", "HEAD", "PATCH", "HEAD"]
    assert [method for method, _ in sent][: len(expected)] == expected
    offsets = [int(offset) for method, offset in sent if method == "PATCH"]
    assert offsets == [0, CHUNK, CHUNK, CHUNK, 2 * CHUNK, *range(2 * CHUNK, len(PPM), CHUNK)], "what came is not sent again"
    assert [round(nap / 1.125 * 2) for nap in naps] == [1, 2, 4, 1], "longer each time until something comes, with jitter"


def test_every_answer_may_be_lost(url: str, naps: list[float]) -> None:
    """Also those of the creation and of the submission: there is one job."""
    with laconic.Client(url) as client:
        before = len(client.jobs(100))
        parts = -(-len(PPM) // CHUNK)
        with laconic.Client(url, transport=Breaking(-1, -(parts + 2), -(parts + 4))) as other:
            assert other.submit(PPM, upload_above=0, **ENCODING).result() == STREAM  # type: ignore[arg-type]
        assert len(client.jobs(100)) == before + 1
    assert len(naps) == 3


def test_a_service_that_stays_away_is_given_up(naps: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    created = httpx.Response(201, headers={"Location": "/v1/uploads/abc"})
    seen = 0

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal seen
        seen += 1
        if seen == 1:
            return created
        raise httpx.ConnectError("refused")

    monkeypatch.setattr("laconic.uploads.PATIENCE_S", 0.3)
    client = laconic.Client("http://service", retries=0, transport=httpx.MockTransport(answer))
    with pytest.raises(laconic.ServiceError, match="does not answer"):
        client.submit(PPM, upload_above=0)
    assert seen > 5 and max(naps) <= 10, "pauses grow, but not beyond the longest"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (httpx.Response(404, json={"code": "no-such-upload", "detail": "gone"}), laconic.ServiceError),
        (httpx.Response(204), laconic.ServiceError),
        (httpx.Response(204, headers={"Upload-Offset": "0"}), laconic.ServiceError),
        (httpx.Response(204, headers={"Upload-Offset": "x"}), laconic.ServiceError),
        (
            httpx.Response(429, headers={"Retry-After": "900"}, json={"code": "rate-limited", "detail": "no"}),
            laconic.ServiceError,
        ),
    ],
)
def test_what_does_not_pass_is_raised_at_once(naps: list[float], answer: httpx.Response, error: type[Exception]) -> None:
    answers = iter([httpx.Response(201, headers={"Location": "http://elsewhere/v1/uploads/../x"}), answer])
    seen: list[str] = []

    def play(request: httpx.Request) -> httpx.Response:
        seen.append(str(request.url))
        return next(answers)

    client = laconic.Client("http://service", transport=httpx.MockTransport(play))
    with pytest.raises(error):
        client.submit(PPM, upload_above=0)
    assert naps == [] and seen == ["http://service/v1/uploads", "http://service/v1/uploads/x"], "no key goes elsewhere"


def test_a_key_that_has_used_its_minute_waits_for_the_next(naps: list[float]) -> None:
    answers = iter(
        [
            httpx.Response(201, headers={"Location": "/v1/uploads/x"}),
            httpx.Response(429, headers={"Retry-After": "55"}, json={"code": "rate-limited", "detail": "no"}),
            httpx.Response(200, headers={"Upload-Offset": "0"}),
            httpx.Response(204, headers={"Upload-Offset": "5"}),
            httpx.Response(429, headers={"Retry-After": "3000"}, json={"code": "rate-limited", "detail": "no"}),
        ]
    )
    client = laconic.Client("http://service", retries=0, transport=httpx.MockTransport(lambda request: next(answers)))
    with pytest.raises(laconic.ServiceError) as caught:
        client.submit(b"12345", upload_above=0)
    assert [55 <= nap <= 69 for nap in naps] == [True] and caught.value.status == 429


def test_what_the_service_refuses_is_a_typed_error(tmp_path: Path) -> None:
    given = ServiceSettings(port=0, threads=1, codecs=("webp",), state_dir=tmp_path, max_upload_bytes=1000, max_pixels=100)
    with background(given, make_log(io.StringIO())) as url, laconic.Client(url) as client:
        with pytest.raises(laconic.LimitExceeded, match="LACONIC_MAX_UPLOAD_BYTES"):
            client.submit(PPM, upload_above=0)
        with pytest.raises(laconic.LimitExceeded, match="LACONIC_MAX_PIXELS"):
            client.submit(media.write(smooth(11, 10, 3), "ppm"), upload_above=0)


def test_a_file_that_shrinks_is_said(url: str, tmp_path: Path) -> None:
    path = tmp_path / "a.ppm"
    path.write_bytes(PPM)
    with laconic.Client(url) as client, pytest.raises(OSError, match="shorter"):
        client.submit(path, upload_above=0, progress=lambda part, stage: path.write_bytes(PPM[: CHUNK + 5]))


def test_the_same_with_asyncio(url: str) -> None:
    async def run() -> bytes:
        told: list[float] = []
        async with laconic.AsyncClient(url) as client:
            job = await client.submit(PPM, upload_above=0, progress=lambda part, stage: told.append(part), **ENCODING)  # type: ignore[arg-type]
            assert told[0] == 0 and told[-1] == 1
            return await job.result()

    assert asyncio.run(run()) == STREAM


def test_the_command_line_sends_large_files_in_parts(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.ppm"
    path.write_bytes(media.write(smooth(2200, 2700, 3), "ppm"))
    assert path.stat().st_size > 16 * 2**20, "above the default"
    monkeypatch.setattr("laconic.uploads.CHUNK", 8 * 2**20)
    sizes: list[int] = []
    send = httpx.Client.send

    def noted(client: httpx.Client, request: httpx.Request, **given: object) -> httpx.Response:
        sizes.append(len(request.content))
        return send(client, request, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(httpx.Client, "send", noted)
    arguments = ["jobs", "submit", str(path), "--codec", "jpeg", "-q", "5", "--wait", "--json", "--url", url]
    assert main(arguments) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["state"], status["result"]["name"]) == ("succeeded", "large.lcn")
    assert max(sizes) == 8 * 2**20 and sum(sizes) == path.stat().st_size
    assert main(["jobs", "submit", str(tmp_path / "none.png"), "--url", url]) == 1


def test_an_upload_outlives_kill_9_of_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real process dies in the middle of the upload; the client waits for the next one and goes on."""
    monkeypatch.setattr(crash, "CODEC", "webp")
    port = crash._free_port()
    started = crash._service(tmp_path, port, 3)
    started.__enter__()
    open_services, kills = [started], 0

    def disturb(part: float, stage: str) -> None:
        nonlocal kills
        if part > 0.4 and kills == 0:
            kills += 1
            open_services.pop().__exit__(None, None, None)
            again = crash._service(tmp_path, port, 3)
            again.__enter__()
            open_services.append(again)

    try:
        with laconic.Client(f"http://127.0.0.1:{port}") as client:
            job = client.submit(PPM, upload_above=0, progress=disturb, **ENCODING)  # type: ignore[arg-type]
            assert job.result() == STREAM
    finally:
        for service in open_services:
            service.__exit__(None, None, None)
    assert kills == 1
