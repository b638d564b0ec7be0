"""Clients of the REST service, with httpx: the same verbs as the library, the same errors, nothing computed here.

    >>> from laconic import Client
    >>> with Client("http://127.0.0.1:8000") as client:           # doctest: +SKIP
    ...     stream = client.encode("photo.png", quality=50)
    ...     client.decode(stream).save("back.png")

The service's problems (RFC 9457) come back as the `LaconicError` whose `code` they carry; everything else that can go wrong
between here and there is a `ServiceError`. A busy service (429, 503) is asked again after the time it names.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import httpx

from . import errors
from .errors import LaconicError, LimitExceeded, ServiceError

if TYPE_CHECKING:
    from .api import Source
    from .codecs.container import Description
    from .codecs.signals import Signal

__all__ = ["AsyncClient", "Client", "CodecEntry"]

MEDIA_TYPE = "application/vnd.laconic"
RETRIED = (429, 503)
LONGEST_WAIT = 30.0  # seconds between two tries, whatever the service asks for
BY_CODE = {kind.code: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, LaconicError)}


@dataclass(frozen=True)
class CodecEntry:
    """One codec of a service.

    Its id, the kind of signal it takes, whether it can be lossless, the device it runs on there, the SHA-256 of its weights
    files, and the JSON schema of its settings.
    """

    id: str
    signal: str
    lossless: bool
    device: str
    weights: Sequence[str]
    settings: Mapping[str, Any]


class Client:
    """A connection to a service, for one thread at a time; close it, or use it as a context manager.

    `timeout` is in seconds for each request, `retries` counts further tries after 429 and 503, `transport` replaces the
    network (`httpx.MockTransport` in tests, `httpx.WSGITransport`, a proxy).
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        timeout: float = 120.0,
        retries: int = 3,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = httpx.Client(base_url=url, headers=_headers(api_key), timeout=timeout, transport=transport)
        self._retries = retries

    def encode(self, source: Source, codec: str = "auto", **settings: object) -> bytes:
        """Have the service compress a picture; arguments as of `laconic.encode`, without `device`."""
        return self._send(_encode_request(self._http, source, codec, settings)).content

    def decode(self, stream: bytes) -> Signal:
        """Have the service restore a stream; the picture travels as PNG, which loses nothing."""
        return _read_signal(self._send(_decode_request(self._http, stream, "image/png")).content)

    def decode_file(self, stream: bytes, media_type: str = "image/png") -> bytes:
        """Have the service restore a stream to the bytes of a media file, such as "image/webp"."""
        return self._send(_decode_request(self._http, stream, media_type)).content

    def inspect(self, stream: bytes) -> Description:
        """Have the service describe a stream without decoding it."""
        return _read_description(self._send(_inspect_request(self._http, stream)))

    def codecs(self) -> list[CodecEntry]:
        """List the codecs that the service offers."""
        return _read_codecs(self._send(self._http.build_request("GET", "/v1/codecs")))

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _send(self, request: httpx.Request) -> httpx.Response:
        for attempt in range(self._retries + 1):
            try:
                response = self._http.send(request)
            except httpx.HTTPError as error:
                raise _unreachable(request, error) from error
            if not _try_again(response, attempt, self._retries):
                return _checked(response)
            time.sleep(_wait(response, attempt))
        raise AssertionError("the last try returns or raises")


class AsyncClient:
    """`Client` for asyncio: the same arguments, the same errors, `await` in front of every verb."""

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        timeout: float = 120.0,
        retries: int = 3,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._http = httpx.AsyncClient(base_url=url, headers=_headers(api_key), timeout=timeout, transport=transport)
        self._retries = retries

    async def encode(self, source: Source, codec: str = "auto", **settings: object) -> bytes:
        """See `Client.encode`."""
        return (await self._send(_encode_request(self._http, source, codec, settings))).content

    async def decode(self, stream: bytes) -> Signal:
        """See `Client.decode`."""
        return _read_signal((await self._send(_decode_request(self._http, stream, "image/png"))).content)

    async def decode_file(self, stream: bytes, media_type: str = "image/png") -> bytes:
        """See `Client.decode_file`."""
        return (await self._send(_decode_request(self._http, stream, media_type))).content

    async def inspect(self, stream: bytes) -> Description:
        """See `Client.inspect`."""
        return _read_description(await self._send(_inspect_request(self._http, stream)))

    async def codecs(self) -> list[CodecEntry]:
        """See `Client.codecs`."""
        return _read_codecs(await self._send(self._http.build_request("GET", "/v1/codecs")))

    async def close(self) -> None:
        """Close the connection."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _send(self, request: httpx.Request) -> httpx.Response:
        for attempt in range(self._retries + 1):
            try:
                response = await self._http.send(request)
            except httpx.HTTPError as error:
                raise _unreachable(request, error) from error
            if not _try_again(response, attempt, self._retries):
                return _checked(response)
            await asyncio.sleep(_wait(response, attempt))
        raise AssertionError("the last try returns or raises")


def _headers(api_key: str | None) -> dict[str, str]:
    return {} if api_key is None else {"Authorization": f"Bearer {api_key}"}


def _encode_request(
    http: httpx.Client | httpx.AsyncClient, source: Source, codec: str, settings: Mapping[str, object]
) -> httpx.Request:
    from .api import media_bytes

    query = {"codec": codec, **{name: _query_value(value) for name, value in settings.items() if value is not None}}
    headers = {"Content-Type": "application/octet-stream", "Accept": MEDIA_TYPE}
    return http.build_request("POST", "/v1/encode", params=query, content=media_bytes(source), headers=headers)


def _query_value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _decode_request(http: httpx.Client | httpx.AsyncClient, stream: bytes, media_type: str) -> httpx.Request:
    headers = {"Content-Type": MEDIA_TYPE, "Accept": media_type}
    return http.build_request("POST", "/v1/decode", content=bytes(stream), headers=headers)


def _inspect_request(http: httpx.Client | httpx.AsyncClient, stream: bytes) -> httpx.Request:
    return http.build_request("POST", "/v1/inspect", content=bytes(stream), headers={"Content-Type": MEDIA_TYPE})


def _read_signal(content: bytes) -> Signal:
    from .codecs import media

    return media.read(content)


def _try_again(response: httpx.Response, attempt: int, retries: int) -> bool:
    return response.status_code in RETRIED and attempt < retries


def _wait(response: httpx.Response, attempt: int) -> float:
    """Return the seconds to wait: what `Retry-After` says (a number or a date), or 0.5, 1, 2..."""
    asked = response.headers.get("Retry-After", "")
    try:
        seconds = float(asked) if asked.isdigit() else parsedate_to_datetime(asked).timestamp() - time.time()
    except ValueError:
        seconds = 0.5 * 2**attempt
    return min(max(seconds, 0.0), LONGEST_WAIT)


def _unreachable(request: httpx.Request, error: httpx.HTTPError) -> ServiceError:
    reason = str(error) or type(error).__name__
    origin = f"{request.url.scheme}://{request.url.netloc.decode()}"
    return ServiceError(f"{origin} does not answer: {reason}")


def _checked(response: httpx.Response) -> httpx.Response:
    if not response.is_success:
        raise _error(response)
    return response


def _error(response: httpx.Response) -> LaconicError:
    """Return the error that a response stands for."""
    request_id = response.headers.get("X-Request-Id")
    try:
        problem = response.json()
        code, detail = str(problem["code"]), str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        text = f"the service answers {response.status_code} {response.reason_phrase}, which is no problem of its own"
        return ServiceError(text, response.status_code, request_id)
    kind = BY_CODE.get(code)
    if kind is None or kind is ServiceError:
        return ServiceError(detail, response.status_code, request_id)
    if kind is not LimitExceeded:
        return kind(detail)
    try:
        limits = int(problem["limit"]), int(problem["actual"])
    except (KeyError, TypeError, ValueError):
        return ServiceError(detail, response.status_code, request_id)
    error = LimitExceeded("the request", *limits, str(problem.get("setting", "")))
    error.args = (detail,)  # the service's own words, which name the service's setting
    return error


def _read_description(response: httpx.Response) -> Description:
    """Return the description in the service's JSON; a parameter of bytes stays hexadecimal text."""
    from .codecs.container import Chunk, Description

    with _expected_form(response):
        facts = dict(response.json())
        facts["params"] = {int(key): value for key, value in facts["params"].items()}
        facts["chunks"] = tuple(Chunk(**chunk) for chunk in facts["chunks"])
        facts |= {name: tuple(facts[name]) for name in ("shape", "weights")}
        return Description(**facts)


def _read_codecs(response: httpx.Response) -> list[CodecEntry]:
    names = [entry.name for entry in fields(CodecEntry)]
    with _expected_form(response):
        return [CodecEntry(**{name: entry[name] for name in names}) for entry in response.json()["codecs"]]


@contextmanager
def _expected_form(response: httpx.Response) -> Iterator[None]:
    """Turn what reading an answer of another form raises into `ServiceError`."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        text = f"{response.url.path} does not answer as this client expects: {error}"
        raise ServiceError(text, response.status_code, response.headers.get("X-Request-Id")) from error
