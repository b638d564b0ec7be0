"""What the service is asked and what its answers mean, for both clients: flows (see `laconic.connection`) and errors.

The service's problems (RFC 9457) come back as the `LaconicError` whose `code` they carry; everything else that can go wrong
between here and there is a `ServiceError`. A busy service (429, 503) is asked again after the time it names.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import httpx

from . import errors
from .connection import Flow
from .errors import LaconicError, LimitExceeded, ServiceError

if TYPE_CHECKING:
    from fractions import Fraction

    from .api import Source
    from .codecs.container import Description
    from .codecs.parts import FrameRange, SecondsRange
    from .codecs.signals import Signal

__all__ = ["BY_CODE", "MEDIA_TYPE", "CodecEntry", "Protocol", "error_of", "expected_form", "query_of"]

MEDIA_TYPE = "application/vnd.laconic"
RETRIED = (429, 503)
LONGEST_WAIT = 30.0  # seconds between two tries; a service that asks for more is not asked again
JITTER = 0.25  # a wait is up to this part longer, so that many clients do not come back at once
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


class Protocol:
    """The verbs, as flows. `build` makes a request as `httpx.Client.build_request` does; `retries` counts further tries."""

    def __init__(self, build: Callable[..., httpx.Request], retries: int) -> None:
        self._build, self._retries = build, retries

    def ask(self, method: str, path: str, repeatable: bool = False, **arguments: Any) -> Flow[httpx.Response]:
        """Send a request until the service is not busy; one that is `repeatable` also when the connection fails."""
        for attempt in range(self._retries + 1):
            request = self._build(method, path, **arguments)
            last = attempt == self._retries
            asked = ""
            try:
                response = yield request
            except httpx.HTTPError as error:
                if last or not repeatable:
                    raise _unreachable(request, error) from error
            else:
                asked = response.headers.get("Retry-After", "")
                if response.status_code not in RETRIED:
                    return _checked(response)
                if last or _wait(asked, attempt) > LONGEST_WAIT:
                    raise _busy(response, _wait(asked, attempt))
            yield _wait(asked, attempt) * (1 + JITTER * random.random())
        raise AssertionError("the last try returns or raises")

    def encode(self, source: Source, codec: str, rate: Fraction | float | None, settings: Mapping[str, object]) -> Flow[bytes]:
        """Have a picture, a video or sound compressed."""
        from .api import media_bytes

        headers = {"Content-Type": "application/octet-stream", "Accept": MEDIA_TYPE}
        query, content = {"codec": codec, **query_of(settings)}, media_bytes(source, rate)
        response = yield from self.ask("POST", "/v1/encode", params=query, content=content, headers=headers)
        return response.content

    def decode_file(self, stream: bytes, media_type: str | None) -> Flow[bytes]:
        """Have a stream restored to a media file, by default PNG, MP4 or WAV."""
        from .received import default_type

        return (yield from self._decoded(stream, media_type or default_type(stream), {})).content

    def decode(self, stream: bytes, frames: FrameRange | None, seconds: SecondsRange | None, salvage: bool) -> Flow[Signal]:
        """Have a stream restored; a picture travels as PNG, a video or sound as NPY, which lose nothing."""
        from .codecs import media
        from .codecs.parts import check_one_part
        from .received import contents_of, part_asked, received, received_sound

        check_one_part(frames, seconds)
        found = contents_of(stream, salvage)
        query, span = part_asked(found, frames, seconds)
        query |= {"salvage": "true"} if salvage else {}
        if found is None or not (found.audio or found.video):
            return media.read((yield from self._decoded(stream, "image/png", query)).content)
        answer = yield from self._decoded(stream, "application/x-npy", query)
        return received_sound(found, span, answer) if found.audio else received(found, span, answer)

    def _decoded(self, stream: bytes, media_type: str, query: Mapping[str, str]) -> Flow[httpx.Response]:
        headers = {"Content-Type": MEDIA_TYPE, "Accept": media_type}
        return self.ask("POST", "/v1/decode", params=query, content=bytes(stream), headers=headers)

    def inspect(self, stream: bytes) -> Flow[Description]:
        """Have a stream described."""
        headers = {"Content-Type": MEDIA_TYPE}
        return _read_description((yield from self.ask("POST", "/v1/inspect", content=bytes(stream), headers=headers)))

    def codecs(self) -> Flow[list[CodecEntry]]:
        """List the codecs."""
        response = yield from self.ask("GET", "/v1/codecs")
        names = [entry.name for entry in fields(CodecEntry)]
        with expected_form(response):
            return [CodecEntry(**{name: entry[name] for name in names}) for entry in response.json()["codecs"]]


def query_of(settings: Mapping[str, object]) -> dict[str, str]:
    """Return settings as query parameters; those that are None are left out."""
    given = {name: value for name, value in settings.items() if value is not None}
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in given.items()}


def _wait(asked: str, attempt: int) -> float:
    """Return the seconds to wait: what `Retry-After` says (a number or a date), or 0.5, 1, 2..., up to the longest."""
    try:
        seconds = float(asked) if asked.isdigit() else parsedate_to_datetime(asked).timestamp() - time.time()
    except ValueError:
        seconds = min(0.5 * 2**attempt, LONGEST_WAIT)
    return max(seconds, 0.0)


def _busy(response: httpx.Response, seconds: float) -> LaconicError:
    """Return the error of an answer that asks for patience."""
    try:
        _checked(response)
    except ServiceError as error:
        error.retry_after = seconds
        return error
    except LaconicError as error:
        return error
    raise AssertionError("429 and 503 are errors")


def _unreachable(request: httpx.Request, error: httpx.HTTPError) -> ServiceError:
    reason = str(error) or type(error).__name__
    origin = f"{request.url.scheme}://{request.url.netloc.decode()}"
    return ServiceError(f"{origin} does not answer: {reason}")


def _checked(response: httpx.Response) -> httpx.Response:
    if response.is_success:
        return response
    request_id = response.headers.get("X-Request-Id")
    try:
        problem = response.json()
        str(problem["code"]), str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        text = f"the service answers {response.status_code} {response.reason_phrase}, which is no problem of its own"
        raise ServiceError(text, response.status_code, request_id) from None
    raise error_of(problem, response.status_code, request_id)


def error_of(problem: Mapping[str, Any], status: int, request_id: str | None) -> LaconicError:
    """Return the error that a problem with the members `code` and `detail` stands for."""
    detail = str(problem["detail"])
    kind = BY_CODE.get(str(problem["code"]), ServiceError)
    if issubclass(kind, ServiceError):
        return kind(detail, status, request_id)
    if kind is not LimitExceeded:
        return kind(detail)
    try:
        limits = int(problem["limit"]), int(problem["actual"])
    except (KeyError, TypeError, ValueError):
        return ServiceError(detail, status, request_id)
    error = LimitExceeded("the request", *limits, str(problem.get("setting", "")))
    error.args = (detail,)  # the service's own words, which name the service's setting
    return error


def _read_description(response: httpx.Response) -> Description:
    """Return the description in the service's JSON; a parameter of bytes stays hexadecimal text."""
    from .codecs.container import Chunk, Description

    with expected_form(response):
        known = {entry.name for entry in fields(Description)}
        facts = {name: value for name, value in response.json().items() if name in known}
        facts["params"] = {int(key): value for key, value in facts["params"].items()}
        facts["chunks"] = tuple(Chunk(**chunk) for chunk in facts["chunks"])
        facts |= {name: tuple(facts[name]) for name in ("shape", "weights")}
        return Description(**facts)


@contextmanager
def expected_form(response: httpx.Response) -> Iterator[None]:
    """Turn what reading an answer of another form raises into `ServiceError`."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        text = f"{response.url.path} does not answer as this client expects: {error}"
        raise ServiceError(text, response.status_code, response.headers.get("X-Request-Id")) from error
