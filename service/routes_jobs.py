"""Routes of jobs: submit, list, look, listen, fetch the result, cancel."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping

from fastapi import APIRouter, Request
from starlette.datastructures import QueryParams
from starlette.responses import JSONResponse, Response, StreamingResponse

from ..codecs.errors import InvalidSettings
from . import problems
from .blobs import checked
from .conditional import is_current, not_modified, wanted_range
from .job_status import status_of
from .job_store import Job
from .negotiation import content_disposition
from .options import check_names, single_values
from .problems import JobExpired, JobNotDone, NoSuchJob, StorageFailed
from .runtime import Runtime
from .submission import RETRY_AFTER, owner_of, submit
from .work import EXTENSIONS

__all__ = ["LONGEST_PAGE", "LONGEST_POLL_S", "router"]

LONGEST_POLL_S = 30
LONGEST_PAGE = 100
PING_S = 15.0

router = APIRouter()


@router.post("/v1/jobs")
async def submit_job(request: Request) -> Response:
    """Store the body to be encoded or decoded, and answer at once with the job."""
    ops = request.query_params.getlist("op")
    if ops not in (["encode"], ["decode"]):
        raise InvalidSettings(f"op is encode or decode, not {', '.join(map(repr, ops)) or 'left out'}")
    uploads = request.query_params.getlist("upload")
    if len(uploads) > 1:
        raise InvalidSettings("'upload' is given more than once")
    rest = [(name, value) for name, value in request.query_params.multi_items() if name not in ("op", "upload")]
    return await submit(request, ops[0], QueryParams(rest), {}, *uploads)


@router.get("/v1/jobs")
async def list_jobs(request: Request) -> Response:
    """List the client's jobs, newest first."""
    runtime: Runtime = request.app.state.runtime
    given = _query(request, {"limit", "before"})
    limit = _whole_number(given, "limit", 1, LONGEST_PAGE, 20)
    before = given.get("before")
    last = None if before is None else (await runtime.jobs.get(before, owner_of(request))).seq
    entries = await runtime.jobs.page(owner_of(request), last, limit)
    more = f"/v1/jobs?limit={limit}&before={entries[-1].id}" if len(entries) == limit else None
    return JSONResponse({"jobs": [status_of(job) for job in entries], "next": more})


@router.get("/v1/jobs/{job}")
async def show_job(request: Request) -> Response:
    """Tell a job's status, with `wait` not before the job is done or so many seconds have passed."""
    runtime: Runtime = request.app.state.runtime
    seconds = _whole_number(_query(request, {"wait"}), "wait", 0, LONGEST_POLL_S, 0)
    job = await _job(request)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not job.done and not runtime.jobs.closing and (left := deadline - loop.time()) > 0:
        job = await runtime.jobs.newer(job, left)
    return _status(job)


@router.delete("/v1/jobs/{job}")
async def cancel_job(request: Request) -> Response:
    """Cancel a job; one that is done stays as it is."""
    runtime: Runtime = request.app.state.runtime
    _query(request, set())
    return _status(await runtime.jobs.cancel(await _job(request)), 202)


def _status(job: Job, status: int = 200) -> Response:
    headers = {"Cache-Control": "no-store", **({} if job.done else {"Retry-After": RETRY_AFTER})}
    return JSONResponse(status_of(job), status, headers)


@router.get("/v1/jobs/{job}/events")
async def job_events(request: Request) -> Response:
    """Send the status, now and at every change, as server-sent events until the job is done.

    Each event is the whole status, so a client that resumes with Last-Event-ID gets the newest and has missed nothing. To one
    that has had the last event the answer is 204, which tells browsers not to come back.
    """
    runtime: Runtime = request.app.state.runtime
    _query(request, set())
    job = await _job(request)
    last = request.headers.get("last-event-id", "")
    seen = int(last) if last.isascii() and last.isdigit() and len(last) < 16 else 0
    if job.done and seen >= job.version:
        return Response(status_code=204)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_events(runtime, job, seen), headers=headers, media_type="text/event-stream")


async def _events(runtime: Runtime, job: Job, seen: int) -> AsyncIterator[str]:
    yield "retry: 1000\n\n"
    while True:
        if job.version > seen:
            seen = job.version
            content = json.dumps(status_of(job))
            yield f"id: {job.version}\nevent: status\ndata: {content}\n\n"
        else:
            yield ": ping\n\n"
        if job.done or runtime.jobs.closing:
            return
        try:
            job = await runtime.jobs.newer(job, PING_S)
        except (NoSuchJob, StorageFailed):
            return


@router.get("/v1/jobs/{job}/result")
async def job_result(request: Request) -> Response:
    """Send the result, or the part of it that Range asks for; for a job that failed, its problem."""
    runtime: Runtime = request.app.state.runtime
    _query(request, set())
    job = await _job(request)
    if not job.done:
        raise JobNotDone(f"the job is {job.state}: GET /v1/jobs/{job.id}?wait=30 waits for it")
    if job.state == "expired":
        raise JobExpired(f"the result was kept for {runtime.settings.job_retention_s:g} s (LACONIC_JOB_RETENTION_S)")
    if job.error is not None:
        return _stored_problem(job.error)
    assert job.result is not None
    tag = f'"{job.result}"'
    if is_current(request, tag):
        return not_modified(tag)
    part = wanted_range(request, tag, job.result_bytes)
    first, end = part or (0, job.result_bytes)
    headers = {
        "ETag": tag,
        "Accept-Ranges": "bytes",
        "Content-Length": str(end - first),
        "Content-Disposition": content_disposition(job.name + EXTENSIONS[job.media_type]),
        "X-Laconic-Codec": job.codec,
        **({"Content-Range": f"bytes {first}-{end - 1}/{job.result_bytes}"} if part else {}),
    }
    pieces = await asyncio.to_thread(_pieces, runtime, job.result, part, job.result_bytes)
    return StreamingResponse(pieces, 206 if part else 200, headers, job.media_type)


def _pieces(runtime: Runtime, name: str, part: tuple[int, int] | None, size: int) -> Iterator[bytes]:
    """Open a result and return what is asked for of it; all of it is compared with its name while it is sent."""
    try:
        pieces = runtime.jobs.blobs.read(name, *(part or (0, size)))
    except OSError as error:
        raise StorageFailed(f"the result cannot be read: {error.strerror or error}") from error
    return pieces if part else checked(name, pieces)


def _stored_problem(error: Mapping[str, object]) -> Response:
    status = error.get("status")
    return Response(json.dumps(error), status if isinstance(status, int) else 500, media_type=problems.MEDIA_TYPE)


async def _job(request: Request) -> Job:
    runtime: Runtime = request.app.state.runtime
    return await runtime.jobs.get(request.path_params["job"], owner_of(request))


def _query(request: Request, names: set[str]) -> Mapping[str, str]:
    given = single_values(request.query_params)
    check_names(given, names)
    return given


def _whole_number(given: Mapping[str, str], name: str, least: int, most: int, default: int) -> int:
    text = given.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most):
        raise InvalidSettings(f"{name} is {text!r}, not a whole number of {least} to {most}")
    return int(text)
