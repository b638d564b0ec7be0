"""Send a large file to a service in parts (tus 1.0.0), as a flow: what a broken connection has left is where it goes on."""

from __future__ import annotations

import base64
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import quote

import httpx

from .connection import Flow
from .errors import ServiceError
from .protocol import JITTER, expected_form

if TYPE_CHECKING:
    from fractions import Fraction

    from .api import Source
    from .codecs.codec import Progress

__all__ = ["UPLOAD_ABOVE", "forget", "opened", "upload"]

Ask = Callable[..., Flow[httpx.Response]]  # `Protocol.ask`
UPLOAD_ABOVE = 16 * 2**20  # bytes from which a body is not sent in one go
CHUNK = 8 * 2**20  # bytes of one request
PATIENCE_S = 60.0  # without a byte more, before an upload is given up
LONGEST_PAUSE_S = 8.0
PASSING = (None, 408, 409, 423, 502, 503, 504)  # None: no answer; 409 and 423: the service knows another offset, or will soon
TUS = {"Tus-Resumable": "1.0.0"}


@contextmanager
def opened(source: Source, rate: Fraction | float | None) -> Iterator[tuple[BinaryIO, int]]:
    """Yield the bytes of a media file that holds the source, and how many; a file on disk is not read before it is needed."""
    from .api import media_bytes

    if isinstance(source, str | os.PathLike) and Path(source).is_file():
        with open(source, "rb") as file:
            yield file, os.fstat(file.fileno()).st_size
    else:
        content = media_bytes(source, rate)
        yield BytesIO(content), len(content)


def upload(ask: Ask, file: BinaryIO, length: int, name: str, progress: Progress | None) -> Flow[str]:
    """Send `length` bytes and return the upload's id; raises `ServiceError` when nothing more has come for `PATIENCE_S`.

    `progress` hears of the part that the service has, 0..1.
    """
    label = base64.b64encode(name.encode("utf-8", "replace")).decode()
    metadata = {"Upload-Metadata": f"filename {label}"} if name else {}
    created = yield from ask("POST", "/v1/uploads", True, headers={**TUS, "Upload-Length": str(length), **metadata})
    with expected_form(created):
        upload_id = created.headers["Location"].rpartition("/")[2]
    offset, failures, lost, heard = 0, 0, False, time.monotonic()
    while offset < length:
        if progress is not None:
            progress(offset / length, "upload")
        try:
            now = yield from (_look(ask, upload_id) if lost else _send(ask, upload_id, file, offset))
        except ServiceError as error:
            pause = min(LONGEST_PAUSE_S, 0.5 * 2**failures) if error.retry_after is None else error.retry_after
            passing = error.status in PASSING or error.retry_after is not None  # a key's share of requests is new in a minute
            if not passing or time.monotonic() + pause - heard > PATIENCE_S + LONGEST_PAUSE_S:
                raise
            yield pause * (1 + JITTER * random.random())
            failures, lost = failures + 1, True
            continue
        if now > offset:
            failures, heard = 0, time.monotonic()
        elif not lost:
            raise ServiceError(f"the service takes bytes at {offset:,} and stays there")
        offset, lost = now, False
    if progress is not None:
        progress(1.0, "upload")
    return upload_id


def _send(ask: Ask, upload_id: str, file: BinaryIO, offset: int) -> Flow[int]:
    file.seek(offset)
    content = file.read(CHUNK)
    if not content:
        raise OSError("the file has become shorter while it was sent")
    headers = {**TUS, "Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream"}
    return _offset((yield from ask("PATCH", _path(upload_id), content=content, headers=headers)))


def _look(ask: Ask, upload_id: str) -> Flow[int]:
    return _offset((yield from ask("HEAD", _path(upload_id), headers=TUS)))


def forget(ask: Ask, upload_id: str) -> Flow[None]:
    """Free the room of an upload that has served; one that cannot be reached now expires by itself."""
    with suppress(ServiceError):
        yield from ask("DELETE", _path(upload_id), headers=TUS)


def _path(upload_id: str) -> str:
    return f"/v1/uploads/{quote(upload_id, safe='')}"


def _offset(response: httpx.Response) -> int:
    with expected_form(response):
        return int(response.headers["Upload-Offset"])
