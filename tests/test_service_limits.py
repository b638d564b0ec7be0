"""What the service refuses, and how: limits, bad input, full queues, late work, clients that leave, hostile bytes."""

from __future__ import annotations

import asyncio
import io
import random
import socket
import struct
import sys
import threading
import time
import types
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.datastructures import Headers

from laconic.codecs import compress, errors, media, registry
from laconic.codecs.codec import CodecSettings, Progress, Stream
from laconic.codecs.errors import InvalidSettings, LaconicError
from laconic.codecs.signals import Image
from laconic.service.body import BodyReader
from laconic.service.gate import Gate
from laconic.service.logs import make_log
from laconic.service.problems import PROBLEMS, QueueFull, describe
from laconic.service.serve import background
from laconic.service.settings import ServiceSettings

PICTURE = Image((np.arange(48 * 64 * 3) % 251).astype(np.uint8).reshape(48, 64, 3))
PNG = media.write(PICTURE, "png")
STREAM = compress.encode(PICTURE, "webp", {"quality": 20}).data


@contextmanager
def serving(**fields: Any) -> Iterator[httpx.Client]:
    settings = ServiceSettings(**{"port": 0, "threads": 1, "codecs": ("jpeg", "webp"), **fields})
    with background(settings, make_log(io.StringIO())) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with serving(max_body_bytes=100_000, max_pixels=1_000_000, body_timeout_s=0.5) as client:
        yield client


def check_problem(response: httpx.Response, status: int, code: str) -> Mapping[str, Any]:
    """Assert that an answer is a complete RFC 9457 problem; return it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: Mapping[str, Any] = response.json()
    assert problem["status"] == status and problem["code"] == code
    assert problem["type"] == f"urn:laconic:problem:{code}" and problem["instance"] == response.url.path
    assert problem["title"] and problem["detail"]
    assert problem["request_id"] == response.headers["x-request-id"]
    return problem


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header claims a size that its few bytes of pixels do not have."""

    def chunk(kind: bytes, payload: bytes) -> bytes:
        return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9999))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "says"),
    [
        ("/v1/encode", b"plain text", 415, "unsupported-media", "png"),
        ("/v1/encode", b"", 400, "bad-request", "curl -T"),
        ("/v1/encode", PNG[: len(PNG) // 2], 400, "corrupt-media", ""),
        ("/v1/encode", png_claiming(60_000, 60_000), 413, "limit-exceeded", "LACONIC_MAX_PIXELS"),
        ("/v1/encode?codec=gif", PNG, 422, "invalid-settings", "jpeg, webp"),
        ("/v1/encode?codec=webp&kwality=3", PNG, 422, "invalid-settings", "quality"),
        ("/v1/encode?kwality=3", PNG, 422, "invalid-settings", "quality"),
        ("/v1/encode?codec=webp&quality=101", PNG, 422, "invalid-settings", "100"),
        ("/v1/encode?codec=webp&quality=1&quality=2", PNG, 422, "invalid-settings", "more than once"),
        ("/v1/encode?codec=jpeg&lossless=true", PNG, 422, "invalid-settings", "lossless"),
        ("/v1/encode?target_psnr=30&target_bpp=1", PNG, 422, "invalid-settings", "one target"),
        ("/v1/encode?target_psnr=high", PNG, 422, "invalid-settings", "number"),
        (f"/v1/encode?target_bytes=1{'0' * 400}", PNG, 422, "invalid-settings", "larger"),
        ("/v1/encode?target_psnr=nan", PNG, 422, "invalid-settings", "positive"),
        ("/v1/encode?codec=webp&target_bytes=3", PNG, 422, "invalid-settings", "smallest"),
        ("/v1/encode?codec=webp&target_bpp=1&quality=3", PNG, 422, "invalid-settings", "contradicts"),
        ("/v1/decode", b"", 400, "bad-request", ""),
        ("/v1/decode", PNG, 415, "unsupported-media", ""),
        ("/v1/decode", STREAM[:-9], 400, "truncated-stream", ""),
        ("/v1/decode?quality=0000101", STREAM, 422, "invalid-settings", "100"),
        ("/v1/decode?quality=200", STREAM, 422, "invalid-settings", "100"),
        ("/v1/decode?codec=webp", STREAM, 422, "invalid-settings", "quality"),
        ("/v1/inspect", b"\0" * 99, 415, "unsupported-media", ""),
        ("/v1/inspect?x=1", STREAM, 422, "invalid-settings", "none"),
        ("/v1/nothing", b"x", 404, "not-found", ""),
    ],
)
def test_bad_input_gets_a_problem(client: httpx.Client, path: str, body: bytes, status: int, code: str, says: str) -> None:
    assert says in check_problem(client.post(path, content=body), status, code)["detail"]


def test_wrong_methods_get_a_problem(client: httpx.Client) -> None:
    response = client.get("/v1/encode")
    check_problem(response, 405, "method-not-allowed")
    assert response.headers["allow"] == "POST"
    check_problem(client.get("/v1/codecs/nope"), 404, "no-such-codec")


def test_forms_and_compressed_bodies_are_refused(client: httpx.Client) -> None:
    form = client.post("/v1/encode", files={"file": PNG})
    assert "curl -T" in check_problem(form, 415, "unsupported-media")["detail"]
    check_problem(client.post("/v1/encode", content=PNG, headers={"Content-Encoding": "gzip"}), 415, "unsupported-media")


def test_a_declared_length_is_refused_with_the_limit(client: httpx.Client) -> None:
    problem = check_problem(client.post("/v1/encode", content=bytes(1_000_000)), 413, "limit-exceeded")
    assert (problem["limit"], problem["actual"]) == (100_000, 1_000_000)
    assert problem["setting"] == "LACONIC_MAX_BODY_BYTES" and "LACONIC_MAX_BODY_BYTES" in problem["detail"]


def test_an_endless_body_is_cut_at_the_limit(client: httpx.Client) -> None:
    def chunks() -> Iterator[bytes]:
        while True:
            time.sleep(0.002)
            yield bytes(10_000)

    began = time.monotonic()
    problem = check_problem(client.post("/v1/encode", content=chunks()), 413, "limit-exceeded")
    assert 100_000 < problem["actual"] < 500_000  # the server reads ahead by up to 256 KiB
    assert time.monotonic() - began < 10


def test_a_slow_body_is_not_waited_for(client: httpx.Client) -> None:
    with socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=10) as connection:
        connection.sendall(b"POST /v1/encode HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\nsome")
        began = time.monotonic()
        answer = connection.recv(4096)
        assert b" 408 " in answer.partition(b"\r\n")[0] and time.monotonic() - began < 5
        assert b"body-timeout" in answer + connection.recv(4096)


def test_the_codecs_of_hostile_files_must_be_served(client: httpx.Client) -> None:
    stream = compress.encode(PICTURE, "jxl").data
    assert "jxl" in check_problem(client.post("/v1/decode", content=stream), 422, "invalid-settings")["detail"]


def test_hostile_bytes_never_give_500(client: httpx.Client) -> None:
    rng = random.Random(7)
    bodies = [STREAM[:length] for length in range(0, len(STREAM), 1 + len(STREAM) // 60)]
    for _ in range(120):
        body = bytearray(STREAM)
        body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
        bodies.append(bytes(body))
    allowed = {200, 400, 413, 415, 422}
    assert {client.post("/v1/decode", content=body).status_code for body in bodies} <= allowed
    assert {client.post("/v1/inspect", content=body).status_code for body in bodies[::3]} <= allowed
    pictures = [PNG[:cut] + bytes([rng.randrange(256)]) + PNG[cut + 1 :] for cut in rng.sample(range(len(PNG)), 60)]
    assert {client.post("/v1/encode", content=body).status_code for body in pictures} <= allowed


class SlowSettings(CodecSettings):
    """Settings of the codec for these tests."""


class Slow:
    """A codec that waits for `gate` and reports progress meanwhile."""

    id = "slow"
    signal = "image"
    lossless = True
    devices = ("cpu",)
    Settings = SlowSettings
    gate = threading.Event()
    running = threading.Event()
    stopped = threading.Event()

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def encode(self, signal: Image, settings: SlowSettings, progress: Progress | None = None) -> Stream:
        self.running.set()
        while not self.gate.wait(0.01):
            if progress:
                try:
                    progress(0.5, "waiting")
                except LaconicError:
                    self.stopped.set()
                    raise
        return Stream(self.id, signal.shape, (signal.array.tobytes(),))

    def decode(self, stream: Stream, progress: Progress | None = None) -> Image:
        return Image(np.frombuffer(stream.chunks[0], np.uint8).reshape(stream.shape))


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Slow]]:
    module = types.ModuleType("slow_codec_for_tests")
    vars(module)["Slow"] = Slow
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(registry.CODECS, "slow", f"{module.__name__}:Slow")
    registry.codec_class.cache_clear()
    registry.open_codec.cache_clear()
    Slow.gate.set()  # open while the service warms up
    yield Slow
    Slow.gate.set()
    registry.codec_class.cache_clear()
    registry.open_codec.cache_clear()


def close(gate: type[Slow]) -> None:
    for event in (gate.gate, gate.running, gate.stopped):
        event.clear()


def post_slow(client: httpx.Client, answers: list[httpx.Response]) -> threading.Thread:
    thread = threading.Thread(target=lambda: answers.append(client.post("/v1/encode?codec=slow", content=PNG)))
    thread.start()
    return thread


def test_a_full_queue_answers_at_once_and_health_never_waits(slow: type[Slow]) -> None:
    with serving(codecs=("slow",), queue_size=2) as client:
        close(slow)
        answers: list[httpx.Response] = []
        threads = [post_slow(client, answers) for _ in range(2)]
        while "queue_depth 2.0" not in client.get("/metrics").text:
            time.sleep(0.01)
        began = time.monotonic()
        refused = client.post("/v1/encode?codec=slow", content=PNG)
        problem = check_problem(refused, 429, "queue-full")
        assert problem["setting"] == "LACONIC_QUEUE_SIZE" and int(refused.headers["retry-after"]) >= 1
        assert client.get("/livez").status_code == 200 and time.monotonic() - began < 1
        slow.gate.set()
        for thread in threads:
            thread.join(20)
        assert [answer.status_code for answer in answers] == [200, 200]
        assert 'queue_rejected_total{reason="requests waiting"} 1.0' in client.get("/metrics").text
        assert client.post("/v1/decode", content=answers[0].content).status_code == 200


def test_late_work_is_stopped_with_504(slow: type[Slow]) -> None:
    with serving(codecs=("slow",), request_timeout_s=0.3) as client:
        close(slow)
        problem = check_problem(client.post("/v1/encode?codec=slow", content=PNG), 504, "request-timeout")
        assert "LACONIC_REQUEST_TIMEOUT_S" in problem["detail"]
        assert slow.stopped.wait(5)
        slow.gate.set()
        assert client.post("/v1/encode?codec=slow", content=PNG).status_code == 200


def test_a_client_that_leaves_frees_its_place(slow: type[Slow]) -> None:
    with serving(codecs=("slow",), queue_size=1) as client:
        close(slow)
        with socket.create_connection((client.base_url.host, client.base_url.port or 0)) as connection:
            head = f"POST /v1/encode?codec=slow HTTP/1.1\r\nHost: x\r\nContent-Length: {len(PNG)}\r\n\r\n"
            connection.sendall(head.encode() + PNG)
            assert slow.running.wait(5)
        assert slow.stopped.wait(2)
        slow.gate.set()
        while "queue_depth 0.0" not in client.get("/metrics").text:
            time.sleep(0.01)
        assert client.post("/v1/encode?codec=slow", content=PNG).status_code == 200


def test_work_that_breaks_is_a_500_without_its_message(slow: type[Slow], monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    settings = ServiceSettings(port=0, threads=1, codecs=("slow",))
    with background(settings, make_log(log)) as url:
        monkeypatch.setattr(Slow, "encode", lambda *_: 1 / 0)
        response = httpx.post(f"{url}/v1/encode?codec=slow", content=PNG)
    problem = check_problem(response, 500, "internal-error")
    assert "division" not in response.text and "ZeroDivisionError" in log.getvalue()
    assert problem["request_id"] in log.getvalue()


def test_a_codec_that_does_not_open_does_not_stop_the_others(slow: type[Slow], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Slow, device: str = "cpu") -> None:
        raise errors.WeightsMissing("slow.safetensors is not installed")

    monkeypatch.setattr(Slow, "__init__", refuse)
    with serving(codecs=("jpeg", "slow")) as client:
        listed = client.get("/v1/codecs").json()
        assert [codec["id"] for codec in listed["codecs"]] == ["jpeg"] and "slow.safetensors" in listed["missing"]["slow"]
        check_problem(client.post("/v1/encode?codec=slow", content=PNG), 422, "invalid-settings")
        assert client.post("/v1/encode", content=PNG).headers["x-laconic-codec"] == "jpeg"
    with pytest.raises(errors.WeightsMissing), serving(codecs=("slow",)):
        pass


def test_the_gate_lets_in_only_what_fits_in_order() -> None:
    gate = Gate(count=2, pixels=100)
    inside: list[str] = []

    async def visit(name: str, pixels: int, leave: asyncio.Event) -> None:
        async with gate.hold(pixels):
            inside.append(name)
            await leave.wait()
            inside.remove(name)

    async def visits() -> None:
        doors = [asyncio.Event() for _ in range(4)]
        sizes = [("giant", 500), ("large", 90), ("small", 10), ("tiny", 1)]
        tasks = [asyncio.create_task(visit(*size, door)) for size, door in zip(sizes, doors, strict=True)]
        await asyncio.sleep(0.01)
        assert inside == ["giant"]
        tasks[0].cancel()
        await asyncio.sleep(0.01)
        assert inside == ["giant", "large", "small"]  # a cancelled visit is over without its farewell
        doors[1].set()
        await asyncio.sleep(0.01)
        assert inside == ["giant", "small", "tiny"]
        for task in tasks[1:]:
            task.cancel()

    asyncio.run(visits())


def test_all_bodies_together_are_bounded() -> None:
    reader = BodyReader(ServiceSettings(max_buffered_bytes=100))

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": bytes(60), "more_body": False}

    async def read_two() -> None:
        async with reader.read(Headers(), receive) as body:
            assert len(body) == reader.buffered == 60
            with pytest.raises(QueueFull, match="LACONIC_MAX_BUFFERED_BYTES"):
                async with reader.read(Headers(), receive):
                    pass
        assert reader.buffered == 0

    asyncio.run(read_two())


def test_every_error_of_the_tree_has_a_status_of_its_own() -> None:
    for name in errors.__all__:
        kind = getattr(errors, name)
        if kind is not LaconicError:
            assert kind in PROBLEMS or any(parent in PROBLEMS for parent in kind.__mro__[1:-3]), name
    limit = errors.LimitExceeded("pixels", 1, 2, "max_pixels")
    assert describe(limit)[0].status == 413
    assert describe(errors.TruncatedStream("x"))[0].status == 400
    assert describe(KeyError("secret"))[2].find("secret") == -1


def test_settings_come_from_the_environment_and_fail_loudly() -> None:
    environment = {"LACONIC_PORT": "9000", "LACONIC_CODECS": "jpeg, webp", "LACONIC_WEIGHTS_FOLDER": "elsewhere"}
    settings = ServiceSettings.from_environment(environment, port=None, host="0.0.0.0")
    assert (settings.port, settings.host, settings.codecs) == (9000, "0.0.0.0", ("jpeg", "webp"))
    with pytest.raises(InvalidSettings, match=r"LACONIC_PORT is '70000'"):
        ServiceSettings.from_environment({"LACONIC_PORT": "70000"})
    with pytest.raises(InvalidSettings, match="LACONIC_MAX_PIXEL is not a setting; LACONIC_MAX_PIXELS is"):
        ServiceSettings.from_environment({"LACONIC_MAX_PIXEL": "1"})
    with pytest.raises(InvalidSettings, match="LACONIC_CODECS has nope"), serving(codecs=("nope",)):
        pass
