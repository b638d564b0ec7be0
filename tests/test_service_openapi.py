"""The service against its own OpenAPI document: what it describes is what it does."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import booleans
from schemathesis.checks import CheckFunction, load_all_checks
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from laconic.codecs import compress, media
from laconic.codecs.signals import Image
from laconic.service.app import create_app
from laconic.service.logs import make_log
from laconic.service.problems import PROBLEMS
from laconic.service.serve import background
from laconic.service.settings import ServiceSettings

PICTURE = Image((np.arange(16 * 24 * 3) % 251).astype(np.uint8).reshape(16, 24, 3))
STREAM = compress.encode(PICTURE, "webp").data
PNG = media.write(PICTURE, "png")
BODIES = {"/v1/encode": PNG, "/v1/decode": STREAM, "/v1/inspect": STREAM, "/v1/jobs": PNG}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    limited = ServiceSettings(
        port=0,
        threads=1,
        codecs=("jpeg", "webp", "h264"),
        max_body_bytes=200_000,
        max_pixels=100_000,
        max_uploads=10_000,
        max_jobs=10_000,
    )
    with background(limited, make_log(io.StringIO())) as url:
        yield url


OPERATIONS = [
    *(("GET", path) for path in ("/", "/livez", "/readyz", "/metrics", "/v1/codecs", "/v1/codecs/{codec}", "/v1/jobs")),
    *(("GET", f"/v1/jobs/{{job}}{part}") for part in ("", "/events", "/result")),
    *(("POST", path) for path in ("/v1/encode", "/v1/decode", "/v1/inspect", "/v1/jobs")),
    ("DELETE", "/v1/jobs/{job}"),
    *((method, "/v1/uploads") for method in ("OPTIONS", "POST")),
    *((method, "/v1/uploads/{upload}") for method in ("HEAD", "PATCH", "DELETE")),
]
EXAMPLES = int(os.environ.get("SCHEMA_EXAMPLES", "15"))  # for each operation and mode; docs/benchmarks.md has a run with 500
MODES = [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE]


def schema_at(url: str, paths: str = "") -> schemathesis.BaseSchema:
    """The document of the service at a URL, of paths that match a pattern, with what the checks have to know of it."""
    load_all_checks()
    for kind in ("application/vnd.laconic", "application/offset+octet-stream"):
        schemathesis.serializer.alias(kind, "application/octet-stream")
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json").include(path_regex=paths)
    for check in (schema.config.checks.negative_data_rejection, schema.config.checks.missing_required_header):
        check.expected_statuses = [*check.expected_statuses, "412", "413"]  # what tus answers to headers that are wrong
    return schema


@pytest.fixture(scope="module")
def described(url: str) -> schemathesis.BaseSchema:
    return schema_at(url)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_the_service_does_what_it_describes(
    described: schemathesis.BaseSchema, method: str, path: str, mode: schemathesis.GenerationMode
) -> None:
    """All checks, except that bytes drawn at random are no pictures: the schema cannot say what a picture is."""
    excluded: list[CheckFunction] = [positive_data_acceptance] if method == "POST" or "{" in path else []
    positive = mode is schemathesis.GenerationMode.POSITIVE
    operation = described[path][method]

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    @given(case=operation.as_strategy(generation_mode=mode), real=booleans())
    def check(case: schemathesis.Case[Any], real: bool) -> None:
        checks = list(excluded)
        if real and positive and path in BODIES:
            case.body = BODIES[path]
            checks.append(negative_data_rejection)
        case.call_and_validate(excluded_checks=checks)

    if positive or method == "POST":  # the others have nothing that could be wrong
        check()


def test_every_parameter_and_answer_is_described(url: str) -> None:
    document: dict[str, Any] = httpx.get(f"{url}/openapi.json").json()
    assert {(method.upper(), path) for path, methods in document["paths"].items() for method in methods} == set(OPERATIONS)
    encode = document["paths"]["/v1/encode"]["post"]
    names = {parameter["name"] for parameter in encode["parameters"]}
    assert {"codec", "target_psnr", "target_bpp", "target_bytes", "quality", "effort", "lossless"} <= names
    assert {"200", "304", "400", "413", "415", "422", "429", "500", "503", "504"} <= set(encode["responses"])
    decoded = document["paths"]["/v1/decode"]["post"]["responses"]["200"]["content"]
    assert {"image/png", "image/webp", "image/jpeg", "application/x-npy"} <= set(decoded)
    assert {"video/mp4", "video/webm", "video/x-matroska", "application/zip"} <= set(decoded)
    parameters = {parameter["name"] for parameter in document["paths"]["/v1/decode"]["post"]["parameters"]}
    assert {"quality", "frames", "salvage"} <= parameters
    described = {int(status) for path in document["paths"].values() for op in path.values() for status in op["responses"]}
    assert {problem.status for problem in PROBLEMS.values()} - described == {499}


def test_links_lead_to_operations_that_take_what_they_give(url: str) -> None:
    document: dict[str, Any] = httpx.get(f"{url}/openapi.json").json()
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    known = {operation["operationId"]: {p["name"] for p in operation.get("parameters", [])} for operation in operations}
    assert len(known) == len(operations) and known["show_job"] == {"job", "wait"}
    answers = [answer for operation in operations for answer in operation["responses"].values()]
    links = [link for answer in answers for link in answer.get("links", {}).values()]
    for link in links:
        assert set(link["parameters"]) <= known[link["operationId"]] and link["description"]
    ends = {"show_job", "job_events", "job_result", "cancel_job", "list_jobs", "submit_job", "show_codec"}
    assert {link["operationId"] for link in links} == ends | {"show_upload", "send_part", "end_upload"}


def test_links_are_followed(url: str) -> None:
    """What the runtime expressions of links say is where an answer has it."""
    job = httpx.post(f"{url}/v1/jobs?op=encode&codec=jpeg", content=PNG)
    assert job.headers["location"] == f"/v1/jobs/{job.json()['id']}"
    headers = {"Tus-Resumable": "1.0.0", "Upload-Length": "3"}
    upload = httpx.post(f"{url}/v1/uploads", headers=headers)
    assert upload.headers["location"] == f"/v1/uploads/{upload.headers['x-laconic-upload']}"
    assert upload.headers["upload-offset"] == "0"
    assert httpx.get(f"{url}/v1/codecs").json()["codecs"][0]["id"] == "jpeg"
    assert httpx.get(f"{url}/v1/jobs").json()["jobs"][0]["id"]


def test_events_are_what_is_described(url: str) -> None:
    """The schema of a stream is that of each event, whose data is the status."""
    document: dict[str, Any] = httpx.get(f"{url}/openapi.json").json()
    described = document["paths"]["/v1/jobs/{job}/events"]["get"]["responses"]["200"]["content"]["text/event-stream"]["schema"]
    location = httpx.post(f"{url}/v1/jobs?op=encode&codec=webp", content=PNG).headers["location"]
    lines = httpx.get(f"{url}{location}/events").text.split("\n\n")[1].splitlines()
    event = dict(line.split(": ", 1) for line in lines)
    assert set(event) == set(described["required"]) == set(described["properties"])
    data = described["properties"]["data"]
    assert data["contentSchema"] == {"$ref": "#/components/schemas/Job"}
    assert set(json.loads(event["data"])) == set(document["components"]["schemas"]["Job"]["required"])


def test_the_document_exists_before_the_codecs_are_open() -> None:
    paths = create_app(ServiceSettings(), make_log(io.StringIO())).openapi()["paths"]
    assert "/v1/encode" in paths
