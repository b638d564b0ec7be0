"""The part of the OpenAPI description that is about jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .forms import OUTPUT_FORMATS
from .job_store import STATES
from .routes_jobs import LONGEST_PAGE, LONGEST_POLL_S
from .work import MEDIA_TYPE

__all__ = ["JOB_SCHEMAS", "describe_jobs", "job_accepted", "job_headers"]

Schema = dict[str, Any]  # OpenAPI documents are free-form JSON

_TEXT: Schema = {"type": "string"}
_TIME: Schema = {"type": ["string", "null"], "format": "date-time"}
_COUNT: Schema = {"type": "integer", "minimum": 0}


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


def job_accepted(description: str = "The job") -> Schema:
    """Return the answer that is a job's status."""
    return {"description": description, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Job"}}}}


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
        "202": job_accepted(),
        "200": job_accepted("The job of the Idempotency-Key, which is done already"),
        **problems((*submitting, 404, 406, 409, 423)),
    }
    page["parameters"] = [
        _parameter("limit", "query", {"type": "integer", "minimum": 1, "maximum": LONGEST_PAGE}, "jobs on a page"),
        _parameter("before", "query", _TEXT, "only jobs older than this one"),
    ]
    page["responses"] = {"200": _json("JobPage"), **problems((404, 422, 500, 503))}
    one = _parameter("job", "path", _TEXT, "the job's id", required=True)
    for operation in (job["get"], job["delete"], events["get"], result["get"]):
        operation["parameters"] = [one]
        operation["responses"] = problems((404, 422, 500, 503))
    wait = {"type": "integer", "minimum": 0, "maximum": LONGEST_POLL_S}
    job["get"]["parameters"] = [one, _parameter("wait", "query", wait, "seconds to wait for the job's end")]
    job["get"]["responses"]["200"] = job_accepted()
    job["delete"]["responses"]["202"] = job_accepted("The job, cancelled unless it was done")
    events["get"]["responses"] |= {
        "200": {"description": "Statuses", "content": {"text/event-stream": {"schema": _TEXT}}},
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
