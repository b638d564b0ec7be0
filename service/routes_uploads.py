"""Resumable uploads (https://tus.io, protocol 1.0.0): create, send the bytes in any number of requests, ask how many came."""

from __future__ import annotations

import asyncio
import base64
import binascii
import random
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from email.utils import formatdate

from fastapi import APIRouter, Request
from starlette.responses import Response

from ..codecs.errors import InvalidSettings, LimitExceeded, UnsupportedMedia
from .body import SPREAD
from .negotiation import plain_stem
from .problems import (
    BadRequest,
    BodyTimeout,
    ChecksumMismatch,
    ClientGone,
    Unavailable,
    UploadConflict,
    UploadLocked,
    WrongProtocol,
)
from .runtime import Runtime
from .settings import variable
from .submission import owner_of
from .upload_store import UPLOADS, VERSION, Part, Upload, upload_path

__all__ = ["CONTENT_TYPE", "EXTENSIONS", "UPLOAD_ID", "router"]

CONTENT_TYPE = "application/offset+octet-stream"
UPLOAD_ID = "X-Laconic-Upload"  # a header: what `POST /v1/jobs?upload=` takes
EXTENSIONS = "creation,creation-with-upload,expiration,termination,checksum"
ALGORITHMS = ("sha1", "sha256")
LONGEST_METADATA = 4096  # characters
MOMENT_S = 0.1  # that a part waits for the lock
PIECE = 2**20  # bytes that are gathered before they are written
_PAIR = re.compile(r"([!-+\--~]+)(?: ([A-Za-z0-9+/]*={0,2}))?")  # a key has neither space nor comma

router = APIRouter()


@router.options(UPLOADS)
async def upload_protocol(request: Request) -> Response:
    """Tell what of the protocol is spoken here."""
    most = request.app.state.runtime.settings.max_upload_bytes
    headers = {"Tus-Version": VERSION, "Tus-Extension": EXTENSIONS, "Tus-Max-Size": str(most)}
    return Response(status_code=204, headers={**headers, "Tus-Checksum-Algorithm": ",".join(ALGORITHMS)})


@router.post(UPLOADS)
async def create_upload(request: Request) -> Response:
    """Make room for an upload of Upload-Length bytes, of which the body may have the first."""
    runtime = _runtime(request)
    jobs = runtime.jobs
    length = _whole_number(request, "upload-length")
    metadata = _single(request, "upload-metadata") or ""
    name = plain_stem(_metadata(metadata).get("filename", ""))
    sends = _has_body(request)
    if sends:
        _check_type(request)
        _check_length(request, length, 0)
    upload = await jobs.on_disk(jobs.uploads.create, owner_of(request), length, metadata, name)
    request.state.notes.update(upload=upload.id, length=length)
    offset = await _append(request, upload, 0) if sends else 0
    names = {"Location": upload_path(upload.id), UPLOAD_ID: upload.id}
    return Response(status_code=201, headers=names | _state(upload, offset))


@router.head("/v1/uploads/{upload}")
async def show_upload(request: Request) -> Response:
    """Tell how many bytes have come."""
    jobs = _runtime(request).jobs
    upload = await _upload(request)
    offset = await jobs.on_disk(jobs.uploads.offset, upload)
    headers = {"Cache-Control": "no-store", "Upload-Length": str(upload.length), **_state(upload, offset)}
    return Response(headers=headers | ({"Upload-Metadata": upload.metadata} if upload.metadata else {}))


@router.patch("/v1/uploads/{upload}")
async def send_part(request: Request) -> Response:
    """Take more bytes, which begin at Upload-Offset."""
    _runtime(request)
    _check_type(request)
    offset = _whole_number(request, "upload-offset")
    upload = await _upload(request)
    _check_length(request, upload.length, offset)
    return Response(status_code=204, headers=_state(upload, await _append(request, upload, offset)))


@router.delete("/v1/uploads/{upload}")
async def end_upload(request: Request) -> Response:
    """Forget an upload and its bytes; jobs that were made from it keep theirs."""
    jobs = _runtime(request).jobs
    await jobs.on_disk(jobs.uploads.delete, await _upload(request))
    return Response(status_code=204)


def _runtime(request: Request) -> Runtime:
    """Return the runtime, for a request of our version of the protocol, without a query, while the service goes on."""
    runtime: Runtime = request.app.state.runtime
    if _single(request, "tus-resumable") != VERSION:
        raise WrongProtocol(f"Tus-Resumable must be {VERSION}", VERSION)
    if request.query_params:
        raise InvalidSettings("uploads take no query parameters")
    if runtime.draining:
        raise Unavailable("the service is shutting down")
    return runtime


async def _upload(request: Request) -> Upload:
    jobs = request.app.state.runtime.jobs
    upload: Upload = await jobs.on_disk(jobs.uploads.find, request.path_params["upload"], owner_of(request))
    request.state.notes.update(upload=upload.id)
    return upload


def _state(upload: Upload, offset: int) -> dict[str, str]:
    return {"Upload-Offset": str(offset), "Upload-Expires": formatdate(upload.expires, usegmt=True)}


@asynccontextmanager
async def _held(runtime: Runtime, upload: Upload) -> AsyncIterator[Part]:
    """Hold the upload's bytes for as long as the block lasts; one that is only being looked at is waited for."""
    jobs, deadline = runtime.jobs, asyncio.get_running_loop().time() + MOMENT_S
    while True:
        try:
            part = await jobs.on_disk(jobs.uploads.hold, upload)
            break
        except UploadLocked:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(MOMENT_S / 10)
    try:
        yield part
    finally:
        await jobs.on_disk(part.close)


async def _append(request: Request, upload: Upload, offset: int) -> int:
    """Write the body at `offset` and return the new one; a body that breaks off is kept as far as it came.

    With Upload-Checksum it is kept whole or not at all.
    """
    jobs = request.app.state.runtime.jobs
    checksum = _checksum(request)
    if upload.digest is not None:
        _check_offset(offset, upload.length)
        return upload.length
    async with _held(request.app.state.runtime, upload) as part:
        _check_offset(offset, part.offset)
        try:
            await _write_body(request, upload, part, checksum)
        except BaseException:
            if checksum is not None:
                await jobs.on_disk(part.undo)
            raise
        finally:
            await jobs.on_disk(part.sync)
        if part.offset == upload.length:
            await jobs.on_disk(jobs.uploads.seal, upload, part)
        return part.offset


async def _write_body(request: Request, upload: Upload, part: Part, checksum: tuple[str, bytes] | None) -> None:
    """Write what comes, a piece at a time, for at most `body_timeout_s`: what is late goes into the next request."""
    jobs, limit = request.app.state.runtime.jobs, request.app.state.runtime.settings.body_timeout_s
    deadline = asyncio.get_running_loop().time() + limit * random.uniform(1, SPREAD)
    waiting, more = bytearray(), True
    try:
        while more:
            async with asyncio.timeout_at(deadline):  # of waiting only: a write that has begun is not given up
                message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone("the client left while it sent a part")
            waiting += message.get("body", b"")
            more = message.get("more_body", False)
            _check_end(part.offset + len(waiting), upload.length)
            if len(waiting) >= PIECE:
                content, waiting = bytes(waiting), bytearray()
                await jobs.on_disk(part.append, content)
    except TimeoutError as error:
        hint = f"HEAD tells how many were kept; {variable('body_timeout_s')} allows more time"
        raise BodyTimeout(f"the part took longer than {limit:g} s: {hint}") from error
    finally:
        content = bytes(waiting[: max(0, upload.length - part.offset)])
        await jobs.on_disk(part.append, content)
    if checksum is not None:
        await jobs.on_disk(_compare, part, *checksum)


def _compare(part: Part, algorithm: str, expected: bytes) -> None:
    if part.digest(algorithm, part.start) != expected:
        raise ChecksumMismatch(f"the bytes have another {algorithm} than Upload-Checksum says; send them again")


def _single(request: Request, name: str) -> str | None:
    given = request.headers.getlist(name)
    if len(given) > 1:
        raise BadRequest(f"{name.title()} is there more than once")
    return given[0] if given else None


def _whole_number(request: Request, name: str) -> int:
    text = _single(request, name)
    if text is None or re.fullmatch(r"[0-9]{1,18}", text) is None:
        raise BadRequest(f"{name.title()} is a number of bytes of at most 18 digits, not {text!r}")
    return int(text)


def _metadata(text: str) -> Mapping[str, str]:
    """Return the pairs of an Upload-Metadata header: unique keys, values of base64 that is UTF-8 where it is used."""
    found: dict[str, str] = {}
    if len(text) > LONGEST_METADATA:
        raise BadRequest(f"Upload-Metadata has {len(text):,} characters; {LONGEST_METADATA:,} are allowed")
    for pair in text.split(",") if text else ():
        match = _PAIR.fullmatch(pair.strip(" "))
        if match is None or match[1] in found:
            raise BadRequest(
                "Upload-Metadata is a list of keys, each once and followed by a space and base64, with commas between"
            )
        try:
            value = base64.b64decode(match[2] or "", validate=True)
            found[match[1]] = value.decode() if match[1] == "filename" else ""
        except (binascii.Error, UnicodeDecodeError) as error:
            raise BadRequest(
                f"Upload-Metadata has a {match[1][:40]!r} that is no base64, or a filename that is no UTF-8"
            ) from error
    return found


def _checksum(request: Request) -> tuple[str, bytes] | None:
    """Return a hash algorithm and what it should come to; None where the request names none."""
    text = _single(request, "upload-checksum")
    if text is None:
        return None
    algorithm, _, value = text.partition(" ")
    try:
        if algorithm in ALGORITHMS and value:
            return algorithm, base64.b64decode(value.encode("ascii"), validate=True)
        raise ValueError(algorithm)
    except ValueError as error:  # of base64 and of ASCII as well
        raise BadRequest(f"Upload-Checksum is one of {', '.join(ALGORITHMS)}, a space, and the sum in base64") from error


def _has_body(request: Request) -> bool:
    return request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers


def _check_type(request: Request) -> None:
    if _single(request, "content-type") != CONTENT_TYPE:
        raise UnsupportedMedia(f"the bytes of an upload come as Content-Type: {CONTENT_TYPE}")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMedia("the body must not be compressed: leave Content-Encoding out")


def _check_length(request: Request, length: int, offset: int) -> None:
    """Refuse, before a byte is read, what claims to go beyond the end."""
    given = request.headers.get("content-length", "0")
    if re.fullmatch(r"[0-9]{1,18}", given) is None:
        raise BadRequest(f"Content-Length is {given[:40]!r}, not a number")
    _check_end(offset + int(given), length)


def _check_end(end: int, length: int) -> None:
    if end > length:
        raise LimitExceeded("the end of the part", length, end, "Upload-Length")


def _check_offset(given: int, offset: int) -> None:
    if given != offset:
        raise UploadConflict(f"the upload stands at {offset:,}, not at {given:,}: HEAD tells where to go on")
