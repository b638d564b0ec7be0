"""The clients: requests, answers and errors against a transport that plays the service, and against the real one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict

import httpx
import numpy as np
import pytest

import laconic
from laconic.codecs import container, media
from laconic.protocol import BY_CODE

from .pictures import photograph, smooth

Answer = Callable[[httpx.Request], httpx.Response]


def client(answer: Answer, **options: object) -> laconic.Client:
    """A client whose service is a function."""
    return laconic.Client("http://service", transport=httpx.MockTransport(answer), **options)  # type: ignore[arg-type]


def problem(status: int, headers: dict[str, str] | None = None, **members: object) -> httpx.Response:
    return httpx.Response(status, headers=headers, json={"detail": "what is wrong", "status": status, **members})


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits, recorded instead of waited."""
    waits: list[float] = []

    async def nap(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("laconic.connection.time.sleep", waits.append)
    monkeypatch.setattr("laconic.connection.asyncio.sleep", nap)
    monkeypatch.setattr("laconic.protocol.random.random", lambda: 0.0)
    return waits


def test_requests() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if request.url.path == "/v1/decode":
            return httpx.Response(200, content=media.write(smooth(3, 4), "png"))
        return httpx.Response(200, content=b"a stream")

    with client(answer, api_key="secret") as service:
        assert service.encode(b"a picture", codec="webp", quality=50, lossless=False, chroma=None) == b"a stream"
        assert service.decode(b"a stream").shape == (3, 4, 3)
        assert service.decode_file(b"a stream", "image/webp")[:4] == b"\x89PNG"
    encode, decode, decode_file = seen
    assert encode.method == "POST" and encode.url.path == "/v1/encode" and encode.content == b"a picture"
    assert dict(encode.url.params) == {"codec": "webp", "quality": "50", "lossless": "false"}
    assert encode.headers["Authorization"] == "Bearer secret"
    assert decode.content == b"a stream" and decode.headers["Accept"] == "image/png"
    assert decode_file.headers["Accept"] == "image/webp"


def test_arrays_travel_losslessly() -> None:
    array = smooth(5, 7, 3, 16).array

    def answer(request: httpx.Request) -> httpx.Response:
        assert (media.read(request.content).array == array).all()
        return httpx.Response(200, content=b"ok")

    assert client(answer).encode(array) == b"ok"


def test_codes_cover_the_whole_tree() -> None:
    assert set(BY_CODE) == {kind.code for kind in vars(laconic).values() if isinstance(kind, type) and hasattr(kind, "code")}


@pytest.mark.parametrize("code", sorted(set(BY_CODE) - {"limit-exceeded", "service-error"}))
def test_problems_become_errors(code: str) -> None:
    with pytest.raises(BY_CODE[code]) as caught:
        client(lambda request: problem(422, code=code)).inspect(b"")
    assert type(caught.value) is BY_CODE[code] and str(caught.value) == "what is wrong"


def test_limits_keep_their_numbers() -> None:
    members = {"limit": 10, "actual": 12, "setting": "LACONIC_MAX_PIXELS"}
    with pytest.raises(laconic.LimitExceeded) as caught:
        client(lambda request: problem(413, code="limit-exceeded", **members)).encode(b"x")
    error = caught.value
    assert (error.allowed, error.actual, error.setting, str(error)) == (10, 12, "LACONIC_MAX_PIXELS", "what is wrong")


@pytest.mark.parametrize(
    "response",
    [
        problem(500, {"X-Request-Id": "abc"}, code="internal-error"),
        problem(413, {"X-Request-Id": "abc"}, code="limit-exceeded", limit="much"),
        httpx.Response(502, headers={"X-Request-Id": "abc"}, text="<html>bad gateway</html>"),
        httpx.Response(404, headers={"X-Request-Id": "abc"}, json=["not", "a", "problem"]),
    ],
)
def test_other_answers_are_service_errors(response: httpx.Response) -> None:
    with pytest.raises(laconic.ServiceError) as caught:
        client(lambda request: response).encode(b"x")
    assert (caught.value.status, caught.value.request_id) == (response.status_code, "abc")


@pytest.mark.parametrize("body", [b"no JSON", b"[]", b"{}", b'{"codecs": [{}]}', b'{"codecs": 3}'])
def test_answers_of_another_form(body: bytes) -> None:
    service = client(lambda request: httpx.Response(200, content=body))
    with pytest.raises(laconic.ServiceError):
        service.codecs()
    with pytest.raises(laconic.ServiceError):
        service.inspect(b"x")


@pytest.mark.parametrize("kind", [httpx.ConnectError, httpx.ReadTimeout, httpx.RemoteProtocolError])
def test_failed_connections(kind: type[httpx.TransportError]) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise kind("no luck")

    with pytest.raises(laconic.ServiceError, match=r"http://service does not answer: no luck"):
        client(answer).encode(b"x")


@pytest.mark.parametrize(
    ("retry_after", "waits"),
    [
        ("3", [3.0, 3.0]),
        ("30", [30.0, 30.0]),
        ("Fri, 01 Jan 1999 00:00:00 GMT", [0.0, 0.0]),
        ("soon", [0.5, 1.0]),
        (None, [0.5, 1.0]),
    ],
)
def test_a_busy_service_is_asked_again(naps: list[float], retry_after: str | None, waits: list[float]) -> None:
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    answers = iter(
        [
            problem(429, headers, code="queue-full"),
            problem(503, headers, code="unavailable"),
            httpx.Response(200, content=b"ok"),
        ]
    )
    assert client(lambda request: next(answers)).encode(b"x") == b"ok"
    assert naps == waits


@pytest.mark.parametrize("retry_after", ["31", "3600", "Fri, 01 Jan 2999 00:00:00 GMT"])
def test_a_service_that_asks_for_a_long_wait_is_not_asked_again(naps: list[float], retry_after: str) -> None:
    answers = iter([problem(429, {"Retry-After": retry_after}, code="rate-limited")])
    with pytest.raises(laconic.ServiceError, match="what is wrong") as caught:
        client(lambda request: next(answers)).encode(b"x")
    assert caught.value.status == 429 and naps == []


def test_retries_end(naps: list[float]) -> None:
    count = 0

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal count
        count += 1
        return problem(429, {"Retry-After": "1"}, code="queue-full")

    with pytest.raises(laconic.ServiceError, match="what is wrong"):
        client(answer, retries=2).encode(b"x")
    assert count == 3 and naps == [1.0, 1.0]


def test_bad_input_is_not_sent_again(naps: list[float]) -> None:
    with pytest.raises(laconic.CorruptStream):
        client(lambda request: problem(400, code="corrupt-stream")).decode(b"x")
    assert naps == []


def test_async_client(naps: list[float]) -> None:
    answers = iter(
        [problem(503, code="unavailable"), httpx.Response(200, content=b"ok"), problem(400, code="truncated-stream")]
    )

    async def use() -> None:
        transport = httpx.MockTransport(lambda request: next(answers))
        async with laconic.AsyncClient("http://service", "key", transport=transport) as service:
            assert await service.encode(b"x", quality=3) == b"ok"
            with pytest.raises(laconic.TruncatedStream):
                await service.decode(b"x")

    asyncio.run(use())
    assert naps == [0.5]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A real service in a thread of this process, with two codecs."""
    from laconic.service.serve import background
    from laconic.service.settings import ServiceSettings

    with background(ServiceSettings(port=0, codecs=("webp", "jpeg"), device="cpu", max_pixels=100_000)) as address:
        yield address


def test_with_the_real_service(url: str) -> None:
    image = photograph(48, 64)
    with laconic.Client(url) as service:
        stream = service.encode(image, codec="webp", lossless=True)
        assert stream == laconic.encode(image, codec="webp", lossless=True)
        assert (service.decode(stream).array == image.array).all()
        assert service.decode_file(stream, "image/webp")[8:12] == b"WEBP"
        assert json.dumps(asdict(service.inspect(stream))) == json.dumps(asdict(container.describe(stream)))
        entries = {entry.id: entry for entry in service.codecs()}
        assert set(entries) == {"webp", "jpeg"} and "quality" in entries["webp"].settings["properties"]
        assert len(service.encode(image, codec="jpeg", target_bytes=2000)) <= 2000


def test_errors_of_the_real_service(url: str) -> None:
    with laconic.Client(url) as service:
        with pytest.raises(laconic.UnsupportedMedia):
            service.encode(b"no picture")
        with pytest.raises(laconic.InvalidSettings, match="webp"):
            service.encode(smooth(4, 4), codec="nothing")
        with pytest.raises(laconic.InvalidSettings, match="qualty"):
            service.encode(smooth(4, 4), codec="webp", qualty=3)
        with pytest.raises(laconic.UnsupportedMedia):
            service.decode(b"no stream")
        with pytest.raises(laconic.CorruptStream):
            service.decode(service.encode(smooth(4, 4), codec="webp")[:-1])
        with pytest.raises(laconic.LimitExceeded, match="LACONIC_MAX_PIXELS") as caught:
            service.encode(np.zeros((400, 400), np.uint8), codec="webp")
        assert (caught.value.allowed, caught.value.actual) == (100_000, 160_000)
    with pytest.raises(laconic.ServiceError):
        laconic.Client("http://127.0.0.1:9").codecs()


def test_async_client_with_the_real_service(url: str) -> None:
    async def use() -> None:
        async with laconic.AsyncClient(url) as service:
            work: list[Awaitable[bytes]] = [service.encode(smooth(20, 20 + n), codec="webp") for n in range(4)]
            streams = await asyncio.gather(*work)
            assert [(await service.inspect(stream)).shape for stream in streams] == [(20, 20 + n, 3) for n in range(4)]
            assert (await service.decode(streams[0])).shape == (20, 20, 3)
            assert len(await service.codecs()) == 2
            assert (await service.decode_file(streams[0], "application/x-npy"))[:6] == b"\x93NUMPY"

    asyncio.run(use())
