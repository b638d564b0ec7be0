"""The part of the OpenAPI description that is about resumable uploads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .openapi_jobs import link
from .routes_uploads import CONTENT_TYPE, UPLOAD_ID
from .upload_store import UPLOADS, VERSION

__all__ = ["describe_uploads"]

Schema = dict[str, Any]  # OpenAPI documents are free-form JSON

_COUNT: Schema = {"type": "integer", "minimum": 0, "maximum": 10**18 - 1}
_SUM: Schema = {"type": "string", "pattern": "^sha(1|256) ([A-Za-z0-9+/]{4}){1,20}$"}
_METADATA: Schema = {"type": "string", "pattern": "^filename ([A-Za-z0-9+/]{4}){1,50}$"}


def describe_uploads(paths: Schema, problems: Callable[[tuple[int, ...]], Schema]) -> None:
    """Describe the routes."""
    protocol, create = paths[UPLOADS]["options"], paths[UPLOADS]["post"]
    one = paths[f"{UPLOADS}/{{upload}}"]
    version = _parameter("Tus-Resumable", "header", {"type": "string", "enum": [VERSION]}, "the protocol's version", True)
    upload = _parameter("upload", "path", {"type": "string"}, "the upload's id", True)
    checksum = _parameter("Upload-Checksum", "header", _SUM, "algorithm and base64 of the sum of this body")
    protocol["responses"] = {"204": _empty("Versions and extensions of the protocol"), **problems((500, 503))}
    body = {"content": {CONTENT_TYPE: {"schema": {"type": "string", "format": "binary"}}}}
    create["requestBody"], one["patch"]["requestBody"] = {"required": False, **body}, {"required": True, **body}
    create["parameters"] = [
        version,
        _parameter("Upload-Length", "header", _COUNT, "bytes that the upload will have", True),
        _parameter("Upload-Metadata", "header", _METADATA, "keys and base64; `filename` names the result"),
        checksum,
    ]
    create["responses"] = {
        "201": _empty("Location is the upload", "Location", UPLOAD_ID, "Upload-Offset", "Upload-Expires")
        | {"links": _links(f"$response.header.{UPLOAD_ID}")},
        **problems((400, 408, 412, 413, 415, 422, 429, 460, 500, 501, 503)),
    }
    for operation in one.values():
        operation["parameters"] = [version, upload]
        operation["responses"] = problems((400, 404, 412, 422, 423, 500, 503))
    known = {"links": _links("$request.path.upload")}
    told = ("Upload-Offset", "Upload-Length", "Upload-Expires")
    one["head"]["responses"]["200"] = _empty("How many bytes have come", *told) | known
    one["patch"]["parameters"] += [_parameter("Upload-Offset", "header", _COUNT, "where the bytes begin", True), checksum]
    one["patch"]["responses"] |= {
        "204": _empty("The bytes are stored", "Upload-Offset", "Upload-Expires") | known,
        **problems((408, 409, 413, 415, 429, 460)),
    }
    one["delete"]["responses"]["204"] = _empty("The upload is forgotten")


def _links(upload: str) -> Schema:
    """Return links to what can be done with an upload whose id is where the runtime expression `upload` says."""
    offset = {"Upload-Offset": "$response.header.Upload-Offset"}
    return {
        "progress": link("show_upload", "ask how many bytes have come", upload=upload),
        "part": link("send_part", "send the bytes that follow", upload=upload, **offset),
        "end": link("end_upload", "forget it", upload=upload),
        "job": link("submit_job", "encode or decode it once it is complete", upload=upload),
    }


def _empty(description: str, *headers: str) -> Schema:
    return {"description": description, "headers": {name: {"schema": {"type": "string"}} for name in headers}}


def _parameter(name: str, place: str, schema: Schema, description: str, required: bool = False) -> Schema:
    return {"name": name, "in": place, "required": required, "schema": schema, "description": description}
