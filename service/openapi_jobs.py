"""The part of the OpenAPI description that is about jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .forms import OUTPUT_FORMATS
from .job_store import STATES
from .routes_jobs import LONGEST_PAGE, LONGEST_POLL_S
from .work import MEDIA_TYPE

__all__ = ["JOB_SCHEMAS", "describe_jobs", "job_accepted", "job_headers", "link", "links_of_job"]

Schema = dict[str, Any]  # OpenAPI documents are free-form JSON

_TEXT: Schema = {"type": "string"}
_TIME: Schema = {"type": ["string", "null"], "format": "date-time"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_EVENT: Schema = {  # before OpenAPI 3.2 the schema of a stream is that of each event
    "type": "object",
    "required": ["id", "event", "data"],
    "properties": {
        "id": _TEXT,
        "event": {"type": "string", "enum": ["status"]},
        "data": {**_TEXT, "contentMediaType": "application/json", "contentSchema": {"$ref": "#/components/schemas/Job"}},
    },
}


def _job_schema() -> Schema:
    result = {"name": _TEXT, "bytes": _COUNT, "media_type": _TEXT, "codec": _TEXT, "sha256": _TEXT}
    properties: Schema = {
        "id": _TEXT,
        "op": {"type": "string", "enum": ["encode", "decode"]},
        "options": {"type": "object", "additionalProperties": _TEXT},
        "state": {"type": "string", "enum": list(STATES)},
        "progress": {"type": "number", "minimum": 0, "maximum": 1},
        "stage": _TEXT,
        "eta_s": {"type": ["number", "null"]},
        "queue_position": {"type": ["integer", "null"], "minimum": 1},
        "attempts": _COUNT,
        "created": {"type": "string", "format": "date-time"},
        **dict.fromkeys(("started", "finished", "expires"), _TIME),
        "result": {"type": ["object", "null"], "required": list(result), "properties": result},
        "error": {"anyOf": [{"$ref": "#/components/schemas/Problem"}, {"type": "null"}]},
        "webhook": {"type": ["string", "null"]},
        "links": {"type": "object", "additionalProperties": _TEXT},
    }
    return {"type": "object", "description": "A job", "required": list(properties), "properties": properties}


def _page_schema() -> Schema:
    jobs = {"type": "array", "items": {"$ref": "#/components/schemas/Job"}}
    return {"type": "object", "required": ["jobs", "next"], "properties": {"jobs": jobs, "next": {"type": ["string", "null"]}}}


JOB_SCHEMAS: Schema = {"Job": _job_schema(), "JobPage": _page_schema()}


def job_accepted(description: str = "The job", location: bool = False) -> Schema:
    """Return the answer that is a job's status, with links to what can be done next; `location` for one that makes the job."""
    headers = {"Location": {"schema": _TEXT, "required": True, "description": "path of the job"}} if location else {}
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Job"}}}
    return {"description": description, "headers": headers, "content": content, "links": links_of_job("$response.body#/id")}


def links_of_job(job: str) -> Schema:
    """Return links to the operations on a job whose id is where the runtime expression `job` says."""
    operations = {
        "status": ("show_job", "look at it, or wait for its end"),
        "events": ("job_events", "hear of its progress"),
        "result": ("job_result", "fetch the result once it is done"),
        "cancel": ("cancel_job", "stop it"),
    }
    return {name: link(operation, words, job=job) for name, (operation, words) in operations.items()}


def link(operation: str, description: str, **parameters: str) -> Schema:
    """Return an OpenAPI link to an operation, whose parameters are runtime expressions."""
    return {"operationId": operation, "description": description, "parameters": parameters}


def job_headers() -> list[Schema]:
    """Return the headers that a request may carry which makes a job."""
    key = {"type": "string", "pattern": "^[!#-~]{1,255}$"}
    return [_parameter("Idempotency-Key", "header", key, "the same key and request give the same job for at least 24 h")]


def describe_jobs(paths: Schema, problems: Callable[[tuple[int, ...]], Schema], submitting: tuple[int, ...]) -> None:
    """Describe the routes; `submitting` are the statuses of problems that a coding route has."""
    job, events, result = (paths[f"/v1/jobs/{{job}}{part}"] for part in ("", "/events", "/result"))
    submit, page = paths["/v1/jobs"]["post"], paths["/v1/jobs"]["get"]
    submit["requestBody"] = {"required": False, "content": {"application/octet-stream": {"schema": _binary()}}}
    op = {"type": "string", "enum": ["encode", "decode"]}
    submit["parameters"] = [
        _parameter("op", "query", op, "what to do with the body", required=True),
        _parameter("upload", "query", _TEXT, "id of a complete upload, in place of the body"),
        *job_headers(),
    ]
    submit["responses"] = {
        "202": job_accepted(location=True),
        "200": job_accepted("The job of the Idempotency-Key, which is done already", location=True),
        **problems((*submitting, 404, 406, 409, 423)),
    }
    page["parameters"] = [
        _parameter("limit", "query", {"type": "integer", "minimum": 1, "maximum": LONGEST_PAGE}, "jobs on a page"),
        _parameter("before", "query", _TEXT, "only jobs older than this one"),
    ]
    older = link("list_jobs", "the jobs that are older than the first", before="$response.body#/jobs/0/id")
    newest = links_of_job("$response.body#/jobs/0/id")  # links reach one element of an array
    page["responses"] = {"200": _json("JobPage") | {"links": {"older": older, **newest}}, **problems((404, 422, 500, 503))}
    one = _parameter("job", "path", _TEXT, "the job's id", required=True)
    for operation in (job["get"], job["delete"], events["get"], result["get"]):
        operation["parameters"] = [one]
        operation["responses"] = problems((404, 422, 500, 503))
    wait = {"type": "integer", "minimum": 0, "maximum": LONGEST_POLL_S}
    job["get"]["parameters"] = [one, _parameter("wait", "query", wait, "seconds to wait for the job's end")]
    job["get"]["responses"]["200"] = job_accepted()
    job["delete"]["responses"]["202"] = job_accepted("The job, cancelled unless it was done")
    last = _parameter("Last-Event-ID", "header", _TEXT, "id of the last event that the client has")
    events["get"]["parameters"] = [one, last]
    events["get"]["responses"] |= {
        "200": {"description": "Statuses, each an event", "content": {"text/event-stream": {"schema": _EVENT}}},
        "204": {"description": "The client has had the last event"},
    }
    content = {kind: {"schema": _binary()} for kind in (MEDIA_TYPE, *OUTPUT_FORMATS)}
    result["get"]["responses"] |= {
        "200": {"description": "The result", "content": content},
        "206": {"description": "The part that Range asks for", "content": content},
        "304": {"description": "If-None-Match has the result's ETag"},
        **problems((*submitting, 406, 409, 410, 416)),
    }


def _json(schema: str) -> Schema:
    return {"description": "Success", "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}}


def _binary() -> Schema:
    return {"type": "string", "format": "binary", "minLength": 1}


def _parameter(name: str, place: str, schema: Schema, description: str, required: bool = False) -> Schema:
    return {"name": name, "in": place, "required": required, "schema": schema, "description": description}
