"""The service's OpenAPI description: FastAPI's paths, with bodies, parameters and answers of the coding routes."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from . import problems
from .authentication import scope_of
from .catalogue import Catalogue
from .forms import OUTPUT_FORMATS
from .openapi_jobs import JOB_SCHEMAS, describe_jobs, job_accepted, job_headers, link
from .openapi_uploads import describe_uploads
from .options import FRAMES_PATTERN, SECONDS_PATTERN, TARGETS
from .problems import PROBLEMS
from .runtime import Runtime
from .work import MEDIA_TYPE

__all__ = ["openapi_schema"]

Schema = dict[str, Any]  # OpenAPI documents are free-form JSON

_BINARY: Schema = {"type": "string", "format": "binary", "minLength": 1}
_TARGETS: dict[str, tuple[Schema, str]] = {
    "target_psnr": ({"type": "number", "exclusiveMinimum": 0, "maximum": 100}, "dB to reach at least"),
    "target_bpp": ({"type": "number", "exclusiveMinimum": 0, "maximum": 1000}, "bits per pixel to stay under"),
    "target_bytes": ({"type": "integer", "minimum": 1}, "file size to stay under"),
    "target_kbps": ({"type": "number", "exclusiveMinimum": 0, "maximum": 1e9}, "kbit/s to stay under, of what lasts"),
}
_COMMON = (500, 503)
_CODING = (400, 408, 413, 415, 422, 429, 500, 501, 503, 504)


def openapi_schema(app: FastAPI, runtime: Runtime) -> Schema:
    """Return the OpenAPI 3.1 document; kept once the codecs are known."""
    if app.openapi_schema:
        return app.openapi_schema
    document: Schema = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
    document.setdefault("components", {})["schemas"] = {"Problem": _problem_schema(), **JOB_SCHEMAS}
    paths = document["paths"]
    for path, methods in paths.items():
        for operation in methods.values():
            operation["responses"] = {"200": _json_answer({"type": "object"}), **_problems(_COMMON)}
        if path in ("/", "/livez"):
            methods["get"]["responses"].pop("503")
    paths["/metrics"]["get"]["responses"]["200"] = _answer("Prometheus text", "text/plain", {"type": "string"})
    _describe_coding(paths)
    describe_jobs(paths, _problems, _CODING)
    describe_uploads(paths, _problems)
    _describe_keys(document, runtime.keys is not None)
    if not runtime.owner.ready:
        return document
    options = _encode_parameters(runtime.catalogue)
    paths["/v1/encode"]["post"]["parameters"] += options
    callback = _parameter("callback", {"type": "string", "maxLength": 2000}, "URL of a webhook to send when the job is done")
    paths["/v1/jobs"]["post"]["parameters"] += [*options, callback]
    app.openapi_schema = document
    return document


def _describe_keys(document: Schema, in_force: bool) -> None:
    """Add what keys change: which operations need one where keys are in force, and the answers to those that are refused."""
    document["components"]["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "`laconic keys add`"}
    }
    for path, methods in document["paths"].items():
        needed = scope_of(path)
        for operation in methods.values() if needed else ():
            operation["responses"] |= _problems((401, 403, 429))
            if in_force:
                operation |= {"security": [{"key": []}], "x-scope": needed}


def _describe_coding(paths: Schema) -> None:
    encode, decode = paths["/v1/encode"]["post"], paths["/v1/decode"]["post"]
    inspect, codec = paths["/v1/inspect"]["post"], paths["/v1/codecs/{codec}"]["get"]
    for operation, taken in ((encode, "application/octet-stream"), (decode, MEDIA_TYPE), (inspect, MEDIA_TYPE)):
        operation["requestBody"] = {"required": True, "content": {taken: {"schema": _BINARY}}}
        operation["responses"] = {"200": _json_answer({"type": "object"}), **_problems(_CODING)}
    encode["responses"]["200"] = _answer("The .lcn file", MEDIA_TYPE, _BINARY)
    decode["responses"]["200"] = {
        "description": "The picture, video or sound, or the part of it that is asked for, in the form that Accept asks for",
        "headers": {
            "X-Laconic-Lost": {"schema": {"type": "string"}, "description": "frames, or samples, that damage took: 8:16, 40:48"}
        },
        "content": {kind: {"schema": _BINARY} for kind in OUTPUT_FORMATS},
    }
    decode["responses"] |= _problems((406,))
    decode["parameters"] = [
        _parameter("quality", {"type": "integer", "minimum": 0, "maximum": 100}, "of a lossy output format"),
        _part("frames", FRAMES_PATTERN, "0:25", "of a video, the last excluded; below 0 from the end"),
        _part("seconds", SECONDS_PATTERN, "1.5:20", "of sound, the last excluded; below 0 from the end"),
        _parameter("salvage", {"type": "boolean", "default": False}, "decode what damage has left of a video or of sound"),
    ]
    encode["parameters"] = []
    for operation in (encode, decode):
        operation["parameters"] += [_prefer(), *job_headers()]
        operation["responses"]["202"] = accepted = job_accepted("The job that Prefer asked for", location=True)
        operation["responses"]["200"]["content"] |= accepted["content"]  # of a known Idempotency-Key
        operation["responses"]["304"] = {"description": "If-None-Match has the ETag that the answer would have"}
    found = link("show_codec", "the settings of the first", codec="$response.body#/codecs/0/id")
    paths["/v1/codecs"]["get"]["responses"]["200"]["links"] = {"codec": found}
    codec["responses"] |= _problems((404,))
    codec["parameters"] = [{"name": "codec", "in": "path", "required": True, "schema": {"type": "string"}}]


def _encode_parameters(catalogue: Catalogue) -> list[Schema]:
    """Return the query parameters of /v1/encode: the codec, the targets and every setting of any codec."""
    parameters = [
        _parameter("codec", {"type": "string", "enum": ["auto", *catalogue.served], "default": "auto"}, "codec id"),
        *(_parameter(name, *_TARGETS[name]) for name in TARGETS),
    ]
    settings: dict[str, list[Schema]] = {}
    users: dict[str, list[str]] = {}
    for name, served in catalogue.served.items():
        for setting, schema in served.schema().get("properties", {}).items():
            kind = {key: value for key, value in schema.items() if key not in ("title", "default")}
            alike = settings.setdefault(setting, [])
            if kind not in alike:
                alike.append(kind)
            users.setdefault(setting, []).append(name)
    for setting, kinds in settings.items():
        schema = kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
        parameters.append(_parameter(setting, schema, f"setting of {', '.join(users[setting])}"))
    return parameters


def _prefer() -> Schema:
    schema = {"type": "string", "examples": ["respond-async"]}  # others are ignored, as RFC 7240 asks
    return _parameter("Prefer", schema, "make a job of the request and answer at once") | {"in": "header"}


def _parameter(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": description}


def _part(name: str, pattern: str, example: str, description: str) -> Schema:
    return _parameter(name, {"type": "string", "pattern": pattern, "examples": [example]}, description)


def _answer(description: str, media_type: str, schema: Schema) -> Schema:
    return {"description": description, "content": {media_type: {"schema": schema}}}


def _json_answer(schema: Schema) -> Schema:
    return _answer("Success", "application/json", schema)


def _problems(statuses: tuple[int, ...]) -> Schema:
    titles: dict[int, list[str]] = {}
    for problem in PROBLEMS.values():
        titles.setdefault(problem.status, []).append(problem.title)
    reference = {"$ref": "#/components/schemas/Problem"}
    return {str(status): _answer("; ".join(titles[status]), problems.MEDIA_TYPE, reference) for status in statuses}


def _problem_schema() -> Schema:
    text: Schema = {"type": "string"}
    number: Schema = {"type": "integer"}
    names = ("type", "title", "detail", "instance", "code", "request_id")
    return {
        "type": "object",
        "description": "RFC 9457 problem details",
        "required": [*names, "status"],
        "properties": {name: text for name in names} | {"status": number, "limit": number, "actual": number, "setting": text},
    }
