"""Sequences of calls along the links of the service's own OpenAPI document: jobs and uploads from beginning to end."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from random import Random
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.errors import Flaky
from schemathesis.checks import CheckFunction
from schemathesis.core import NOT_SET
from schemathesis.core.transport import Response
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance, use_after_free

from laconic.service.logs import make_log
from laconic.service.serve import background
from laconic.service.settings import ServiceSettings

from .test_service_openapi import PNG, STREAM, schema_at

Case = schemathesis.Case[Any]

SCENARIOS = int(os.environ.get("SCHEMA_EXAMPLES", "15"))  # docs/benchmarks.md has a run with 500
STEPS = 12  # calls of a scenario
POSITIVE = schemathesis.GenerationMode.POSITIVE
PART = "application/offset+octet-stream"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    limited = ServiceSettings(
        max_uploads=10_000,
        port=0,
        threads=1,
        codecs=("jpeg", "webp"),
        max_body_bytes=200_000,
        max_pixels=100_000,
        job_retention_s=60,
        max_jobs=100_000,
    )
    with background(limited, make_log(io.StringIO())) as url:
        yield url


@pytest.fixture(scope="module")
def described(url: str) -> schemathesis.BaseSchema:
    return schema_at(url, "/v1/(encode|decode|jobs|uploads)")


class Record:
    """What a run has met: scenarios begun, answers by operation and status, and checks that failed."""

    def __init__(self) -> None:
        self.scenarios = 0
        self.answers = Counter[tuple[str, int]]()
        self.failures = list[Exception]()


def machine_of(schema: schemathesis.BaseSchema, record: Record) -> type[Any]:
    """Return the state machine of the document; its scenarios often send what makes sense."""
    base = schema.as_state_machine()

    class Scenarios(base):  # type: ignore[misc, valid-type]
        def setup(self) -> None:
            record.scenarios += 1
            self.draw = Random(record.scenarios)
            self.real = False

        def before_call(self, case: Case) -> None:
            """Send a real picture three times of four, whole or the part that follows: bytes drawn at random are none."""
            drawn_right = case.meta is not None and case.meta.generation.mode is POSITIVE
            self.real = drawn_right and self.draw.random() < 0.75 and make_real(case, self.draw)

        def after_call(self, response: Response, case: Case) -> None:
            super().after_call(response, case)
            record.answers[case.operation.label, response.status_code] += 1

        def validate_response(self, response: Response, case: Case, *args: Any, **kwargs: Any) -> None:
            excluded = inapplicable(case, self.real)
            try:
                case.validate_response(response, excluded_checks=excluded, recorder=self.recorder)
            except Exception as error:  # which Hypothesis loses if it cannot repeat it
                record.failures.append(error)
                raise

    return Scenarios


def make_real(case: Case, draw: Random) -> bool:
    """Make a case one that can succeed; False where there is nothing to do for it."""
    label = case.operation.label
    if label == "POST /v1/uploads":
        case.headers["Upload-Length"] = str(len(PNG))
        case.body = draw.choice((NOT_SET, PNG, PNG[: draw.randrange(1, len(PNG))]))
        for name in ("Upload-Checksum", "Upload-Metadata"):  # sums of other bytes, and names that are no UTF-8
            case.headers.pop(name, None)
        case.media_type = None if case.body is NOT_SET else PART
    elif label == "PATCH /v1/uploads/{upload}":
        offset = int(case.headers.get("Upload-Offset", "0"))
        case.body = PNG[offset:][: draw.choice((1, 50, len(PNG)))]
        case.headers.pop("Upload-Checksum", None)
    elif label in ("POST /v1/jobs", "POST /v1/encode", "POST /v1/decode"):
        decoding = label == "POST /v1/decode" or (label == "POST /v1/jobs" and draw.random() < 0.3)
        upload = {name: value for name, value in (case.query or {}).items() if name == "upload" and len(value) == 32}
        op = {"op": "decode" if decoding and not upload else "encode"} if label == "POST /v1/jobs" else {}
        case.query = op | upload | ({} if decoding and not upload else {"codec": draw.choice(("jpeg", "webp"))})
        case.body = NOT_SET if upload else STREAM if decoding else PNG
        if label != "POST /v1/jobs":
            case.headers["Prefer"] = "respond-async"
    else:
        return False
    return True


def inapplicable(case: Case, real: bool) -> list[CheckFunction]:
    """Return the checks that say nothing about a call."""
    checks: list[CheckFunction] = []
    if real or "{" in case.operation.path or case.operation.method == "post":
        checks.append(positive_data_acceptance)  # bytes at random are no pictures, ids no jobs, numbers no offsets of uploads
    if real:
        checks.append(negative_data_rejection)  # what was drawn is not what was sent
    if case.operation.path.startswith("/v1/jobs/"):  # DELETE cancels: a job, and its result, are there until they expire
        checks.append(use_after_free)
    return checks


ENDS = {  # what scenarios come to, all of them together
    *((f"GET /v1/jobs/{{job}}{part}", 200) for part in ("", "/events", "/result")),
    *((f"POST {path}", 202) for path in ("/v1/jobs", "/v1/encode", "/v1/decode")),
    ("GET /v1/jobs/{job}/result", 409),
    ("DELETE /v1/jobs/{job}", 202),
    ("POST /v1/uploads", 201),
    *(("HEAD /v1/uploads/{upload}", status) for status in (200, 404)),
    *((f"{method} /v1/uploads/{{upload}}", 204) for method in ("PATCH", "DELETE")),
}
SOON = {("POST /v1/jobs", 202), ("GET /v1/jobs/{job}", 200), ("POST /v1/uploads", 201)}  # after few


def test_sequences_of_calls_do_what_is_described(described: schemathesis.BaseSchema) -> None:
    """All checks but `inapplicable` ones, over scenarios of up to twelve calls."""
    record = Record()
    while record.scenarios < SCENARIOS and not record.failures:
        chosen = settings(
            max_examples=SCENARIOS - record.scenarios,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        machine = seed(record.scenarios)(machine_of(described, record))
        with suppress(Flaky):  # answers depend on how far a job is, so that a beginning, repeated, may go on in another way
            machine.run(settings=chosen)
    print(
        record.scenarios,
        "scenarios:",
        *(f"{count} × {call} {status}" for (call, status), count in sorted(record.answers.items())),
    )
    if record.failures:
        raise record.failures[0]
    assert (ENDS if SCENARIOS >= 100 else SOON) <= set(record.answers)
