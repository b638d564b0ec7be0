"""Turn a request into a stored job: by POST /v1/jobs, or because the client of a coding route would rather not wait."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from fastapi import Request
from starlette.datastructures import QueryParams
from starlette.responses import JSONResponse, Response

from ..codecs.errors import InvalidSettings
from .forms import OUTPUT_FORMATS, accepted_forms
from .job_status import status_of
from .job_store import Draft
from .jobs import job_path
from .negotiation import choose, stem
from .problems import BadRequest
from .runtime import Runtime
from .settings import variable
from .upload_store import Upload
from .webhooks import checked_address
from .work import work_of

__all__ = ["RETRY_AFTER", "owner_of", "prefers_job", "submit"]

RETRY_AFTER = "1"  # seconds after which a job that is not done is worth another look
_KEY = re.compile(r'"?[\x21\x23-\x7e]{1,255}"?')
_JSON = "application/json"


def owner_of(request: Request) -> str | None:
    """Return whose jobs a request may see; None is everybody who needs no key."""
    owner = getattr(request.state, "key_name", None)
    return owner if isinstance(owner, str) else None


def prefers_job(request: Request) -> bool:
    """Whether the request carries `Prefer: respond-async` (RFC 7240); raises for a bad Idempotency-Key, even one not needed."""
    _idempotency_key(request)
    preferences = ",".join(request.headers.getlist("prefer")).split(",")
    return any(preference.partition(";")[0].strip().lower() == "respond-async" for preference in preferences)


async def submit(
    request: Request, op: str, query: QueryParams, headers: Mapping[str, str], upload: str | None = None
) -> Response:
    """Store the body and what is asked for; answer 202 with the job's status, or the known job of the Idempotency-Key.

    With `upload`, the id of a complete upload, that is the body. Raises what the coding route would raise for bad options and
    for bodies that do not begin as they should, `QueueFull`, `IdempotencyMismatch`, `NoSuchUpload`, `StorageFailed`.
    """
    runtime: Runtime = request.app.state.runtime
    callback = await _callback(runtime, query)
    query = QueryParams([(name, value) for name, value in query.multi_items() if name != "callback"])
    form = _output_form(request, op)
    work = work_of(op, query, form, runtime.check_accepting())
    draft = Draft(
        op=op,
        options=dict(query.multi_items()),
        form=form,
        name=stem(request.headers.get("content-disposition", "")),
        payload="",
        payload_bytes=0,
        owner=owner_of(request),
        key=_idempotency_key(request),
        callback=callback,
        trace=request.state.traceparent,
    )
    if upload is not None:
        draft = await _with_upload(request, draft, upload)
        size = draft.payload_bytes
        job, new = await runtime.jobs.submit_stored(draft, lambda body: runtime.in_pool(work.check, body, runtime))
    else:
        async with runtime.bodies.read(request.headers, request.receive) as body:
            await runtime.in_pool(work.check, body, runtime)
            job, new = await runtime.jobs.submit(draft, body)
            size = len(body)
    request.state.notes.update(job=job.id, new=new, bytes_in=size)
    status = 200 if job.done else 202
    headers = {**headers, "Location": job_path(job.id), **({} if job.done else {"Retry-After": RETRY_AFTER})}
    return JSONResponse(status_of(job), status, headers)


async def _with_upload(request: Request, draft: Draft, upload_id: str) -> Draft:
    """Return the draft with a complete upload for its payload, and with its name where the request gives none."""
    if request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers:
        raise BadRequest("a job takes a body or an upload, not both: leave the body empty")
    jobs, disposition = request.app.state.runtime.jobs, request.headers.get("content-disposition", "")
    upload: Upload = await jobs.on_disk(jobs.uploads.find, upload_id, draft.owner)
    upload = await jobs.on_disk(jobs.uploads.complete, upload)
    if upload.length == 0:
        raise BadRequest("the upload is empty")
    return replace(
        draft, payload=upload.digest or "", payload_bytes=upload.length, name=stem(disposition) if disposition else upload.name
    )


async def _callback(runtime: Runtime, query: QueryParams) -> str | None:
    given = query.getlist("callback")
    if not given:
        return None
    if len(given) > 1:
        raise InvalidSettings("'callback' is given more than once")
    if runtime.settings.webhook_secret is None:
        raise InvalidSettings(f"callback needs {variable('webhook_secret')}, which signs what is sent there")
    await checked_address(given[0], runtime.settings.webhook_allow_private)
    return given[0]


def _output_form(request: Request, op: str) -> str:
    """Return the formats of the result; a client of jobs may also accept no more than the JSON of the status."""
    if op == "encode":
        return ""
    accept = request.headers.get("accept", "*/*")
    status_only = choose(accept, [*OUTPUT_FORMATS, _JSON]) == _JSON
    return str(accepted_forms("*/*" if status_only else accept))


def _idempotency_key(request: Request) -> str | None:
    given = request.headers.getlist("idempotency-key")
    if not given:
        return None
    if len(given) > 1 or _KEY.fullmatch(given[0]) is None:
        raise BadRequest("Idempotency-Key is one value of 1 to 255 visible ASCII characters")
    return given[0].strip('"')
