"""Connections that waste the service's time: slow headers, slow bodies, answers that nobody takes, too many at once."""

from __future__ import annotations

import io
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import numpy as np
import pytest

from laconic.codecs import compress, media
from laconic.codecs.signals import Image
from laconic.service import serve
from laconic.service.connection import sweep
from laconic.service.logs import make_log
from laconic.service.serve import background
from laconic.service.settings import ServiceSettings

HEAD = b"POST /v1/encode HTTP/1.1\r\nHost: x\r\n"
Address = tuple[str, int]


@contextmanager
def serving(**fields: Any) -> Iterator[Address]:
    chosen = ServiceSettings(**{"port": 0, "threads": 1, "codecs": ("webp",), "header_timeout_s": 1.0, **fields})
    with background(chosen, make_log(io.StringIO())) as url:
        yield "127.0.0.1", int(url.rpartition(":")[2])


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    with serving(body_timeout_s=1.0) as address:
        yield address


def rest_of(connection: socket.socket) -> bytes:
    """Everything until the service closes; a connection that it resets has ended too."""
    received = b""
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionResetError:
        pass
    return received


def answer_of(connection: socket.socket) -> bytes:
    """One answer with a JSON body, whole."""
    received = b""
    while not received.endswith(b"}"):
        received += connection.recv(65536)
    return received


def get(address: Address, path: str = "/livez") -> httpx.Response:
    return httpx.get(f"http://{address[0]}:{address[1]}{path}", timeout=10)


def dropped(address: Address, reason: str) -> float:
    text = get(address, "/metrics").text
    return float(text.split(f'connections_dropped_total{{reason="{reason}"}} ')[1].split()[0])


@pytest.mark.parametrize("sent", [b"", b"P", HEAD, b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Long: "])
def test_slow_headers_get_408_and_the_end(address: Address, sent: bytes) -> None:
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(sent)
        began = time.monotonic()
        answer = rest_of(connection)
    assert 0.5 < time.monotonic() - began < 3
    assert answer.startswith(b"HTTP/1.1 408 ") and b"application/problem+json" in answer
    assert b'"code": "header-timeout"' in answer and b"LACONIC_HEADER_TIMEOUT_S" in answer
    assert b"nosniff" in answer and b"server:" not in answer.lower()


def test_a_byte_now_and_then_buys_no_time(address: Address) -> None:
    with socket.create_connection(address, timeout=10) as connection:
        began = time.monotonic()
        try:
            for byte in HEAD * 9:
                connection.sendall(bytes([byte]))
                time.sleep(0.1)
        except ConnectionError:
            pass
    assert time.monotonic() - began < 4


def test_the_clock_starts_anew_for_each_request_and_idle_connections_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "KEEP_ALIVE_S", 2)
    with serving() as address, socket.create_connection(address, timeout=10) as connection:
        for _ in range(4):  # together longer than one request's headers may take
            connection.sendall(b"GET /livez HTTP/1.1\r\n")
            time.sleep(0.4)
            connection.sendall(b"Host: x\r\n\r\n")
            assert answer_of(connection).startswith(b"HTTP/1.1 200 ")
        began = time.monotonic()
        assert rest_of(connection) == b""  # without a word
        assert 1 < time.monotonic() - began < 5


def test_the_second_request_of_a_connection_has_a_deadline_too(address: Address) -> None:
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer_of(connection).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"GET ")
        began = time.monotonic()
        assert rest_of(connection).startswith(b"HTTP/1.1 408 ") and time.monotonic() - began < 3


def test_a_body_of_a_byte_at_a_time_is_not_waited_for(address: Address) -> None:
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\n")
        connection.settimeout(0.1)
        began, answer = time.monotonic(), b""
        while time.monotonic() - began < 8:
            try:
                connection.sendall(b"x")
                piece = connection.recv(65536)
                answer += piece
                if not piece:
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
    assert time.monotonic() - began < 6
    assert answer.startswith(b"HTTP/1.1 408 ") and b"body-timeout" in answer


@pytest.mark.parametrize("path", ["/nothing", "/livez"])
def test_a_body_that_nobody_reads_keeps_no_connection(address: Address, path: str) -> None:
    """The answer is there at once; then the connection ends, though the body would go on for ever."""
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n".encode())
        began = time.monotonic()
        assert connection.recv(65536).startswith(b"HTTP/1.1 ") and time.monotonic() - began < 1
        try:
            while time.monotonic() - began < 8:
                connection.sendall(b"x")
                time.sleep(0.1)
        except ConnectionError:
            pass
    assert time.monotonic() - began < 5


def test_a_request_behind_one_that_was_refused_early_is_answered(address: Address) -> None:
    """It may begin before the service is through with the first, whose answer the client has had."""
    refused = b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n" + bytes(9)
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(refused + b"POST /v1/inspect HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n" + bytes(3))
        assert b" 404 " in answer_of(connection)
        connection.sendall(bytes(6))
        assert b" 415 " in answer_of(connection)


@pytest.mark.parametrize("sent", [b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTQ/1.1", b"GET /" + b"a" * 100_000, b"A" * 70_000])
def test_bytes_that_are_no_http_get_a_problem(address: Address, sent: bytes) -> None:
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(sent + b"\r\n\r\n")
        answer = rest_of(connection)
    assert answer == b"" or (answer.startswith(b"HTTP/1.1 400 ") and b"application/problem+json" in answer)


@pytest.mark.parametrize(
    "request_head",
    [
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 50\r\n\r\n0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    ],
)
def test_ambiguous_requests_are_answered_once_at_most(address: Address, request_head: bytes) -> None:
    """What a proxy and the service could read differently (request smuggling) is refused, or is one request and no more."""
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(request_head)
        connection.shutdown(socket.SHUT_WR)
        answer = rest_of(connection)
    assert answer.count(b"HTTP/1.1 ") == 1 and answer.startswith(b"HTTP/1.1 4"), answer[:200]


def test_200_half_open_connections_delay_nobody(address: Address) -> None:
    before = dropped(address, "headers late")
    with ExitStack() as stack:
        for number in range(200):
            connection = stack.enter_context(socket.create_connection(address, timeout=10))
            connection.sendall(HEAD[: number % len(HEAD)])
        waits = []
        for _ in range(40):
            began = time.monotonic()
            assert get(address).status_code == 200
            waits.append(time.monotonic() - began)
        deadline = time.monotonic() + 10
        while dropped(address, "headers late") < before + 200:
            assert time.monotonic() < deadline, "half-open connections stay open"
            time.sleep(0.1)
    assert sorted(waits)[36] < 0.5


def test_connections_beyond_the_bound_get_503() -> None:
    with serving(max_connections=8) as address, ExitStack() as stack:
        time.sleep(0.1)
        for _ in range(8):
            stack.enter_context(socket.create_connection(address, timeout=10))
        with socket.create_connection(address, timeout=10) as ninth:
            answer = rest_of(ninth)
        assert (
            answer.startswith(b"HTTP/1.1 503 ") and b"LACONIC_MAX_CONNECTIONS" in answer and b"retry-after: 2" in answer.lower()
        )
        time.sleep(2)  # until the eight are late
        assert get(address).status_code == 200 and dropped(address, "too many") == 1


def test_an_answer_that_nobody_takes_is_thrown_away() -> None:
    """A decoded picture of 12 MB: more than the kernel holds for a client that does not read."""
    stream = compress.encode(Image(np.full((2000, 2000, 3), 77, np.uint8)), "webp", {"quality": 1}).data
    with serving(send_timeout_s=1.0) as address, ExitStack() as stack:
        connection = stack.enter_context(socket.socket())
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(address)
        request = f"POST /v1/decode HTTP/1.1\r\nHost: x\r\nAccept: application/x-npy\r\nContent-Length: {len(stream)}\r\n\r\n"
        connection.sendall(request.encode() + stream)
        deadline = time.monotonic() + 20
        while dropped(address, "answer not taken") == 0:
            assert time.monotonic() < deadline, "the answer is kept for ever"
            time.sleep(0.1)
        whole = get_decoded(address, stream)  # one who reads gets it all
        assert np.array_equal(media.read(whole).array, compress.decode(stream).array)


def get_decoded(address: Address, stream: bytes) -> bytes:
    url = f"http://{address[0]}:{address[1]}/v1/decode"
    return httpx.post(url, content=stream, headers={"Accept": "application/x-npy"}, timeout=30).content


class Stuck:
    """What `sweep` needs of a connection whose client takes nothing."""

    def __init__(self, unsent: int, since: float) -> None:
        self.unsent, self.unsent_since, self.dropped = unsent, since, False

    def check(self, now: float) -> bool:
        return False

    def drop(self) -> None:
        self.dropped = True


def test_unsent_answers_together_are_bounded() -> None:
    stuck = [Stuck(100, 3.0), Stuck(100, 1.0), Stuck(0, 0.0), Stuck(100, 2.0)]
    sweep(stuck, 4.0, 300)  # type: ignore[arg-type]
    assert not any(connection.dropped for connection in stuck)
    sweep(stuck, 4.0, 299)  # type: ignore[arg-type]
    assert [connection.dropped for connection in stuck] == [False, True, False, False]  # the longest stuck


def test_descriptors_are_asked_for_and_their_lack_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[int, int]] = []
    log = io.StringIO()
    monkeypatch.setattr(serve.resource, "setrlimit", lambda which, limits: given.append(limits))
    monkeypatch.setattr(serve.resource, "getrlimit", lambda which: (1024, 1_000_000))
    chosen = ServiceSettings(max_connections=2000)
    assert serve._with_descriptors(chosen, make_log(log)) == chosen and given == [(2256, 1_000_000)] and not log.getvalue()
    monkeypatch.setattr(serve.resource, "getrlimit", lambda which: (1024, 1024))
    assert serve._with_descriptors(chosen, make_log(log)).max_connections == 768
    assert "LACONIC_MAX_CONNECTIONS" in log.getvalue()
    monkeypatch.setattr(serve.resource, "getrlimit", lambda which: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert serve._with_descriptors(chosen, make_log(log)) == chosen
