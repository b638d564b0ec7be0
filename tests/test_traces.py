"""Spans over OTLP: what a collector gets of requests and jobs, and that none, or a bad one, costs nothing."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from laconic.codecs import media
from laconic.codecs.signals import Image
from laconic.service import tracing
from laconic.service.job_store import Draft
from laconic.service.logs import make_log
from laconic.service.postgres import _STEPS as STEPS
from laconic.service.postgres import PostgresDatabase
from laconic.service.postgres_jobs import PostgresJobStore
from laconic.service.serve import background
from laconic.service.settings import ServiceSettings
from laconic.service.sqlite_jobs import SqliteJobStore

from .stores import Postgres

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra [otel] is not installed")

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

PNG = media.write(Image(np.arange(16 * 16 * 3, dtype=np.uint16).astype(np.uint8).reshape(16, 16, 3)), "png")
CALLER, ITS_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """An OTLP/HTTP collector of spans, as mappings; `pause_s` is how long it thinks before it answers."""

    def __init__(self, pause_s: float = 0.0) -> None:
        self.spans: list[dict[str, Any]] = []
        self.resources: list[dict[str, Any]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                time.sleep(pause_s)
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.path == "/v1/traces" and self.headers["Content-Type"] == "application/x-protobuf"
                collector.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def take(self, request: ExportTraceServiceRequest) -> None:
        for group in request.resource_spans:
            self.resources.append(_facts(group.resource.attributes))
            for scope in group.scope_spans:
                for span in scope.spans:
                    self.spans.append(
                        {
                            "name": span.name,
                            "kind": span.kind,
                            "trace": span.trace_id.hex(),
                            "id": span.span_id.hex(),
                            "parent": span.parent_span_id.hex(),
                            "links": [(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
                            "from": span.start_time_unix_nano,
                            "to": span.end_time_unix_nano,
                            "failed": span.status.code == 2,
                            **_facts(span.attributes),
                        }
                    )

    def named(self, name: str) -> dict[str, Any]:
        (span,) = [span for span in self.spans if span["name"] == name]
        return span

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _facts(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


@contextmanager
def collecting(pause_s: float = 0.0) -> Iterator[Collector]:
    collector = Collector(pause_s)
    try:
        yield collector
    finally:
        collector.close()


@contextmanager
def service(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, log: io.StringIO | None = None, **given: Any
) -> Iterator[httpx.Client]:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = ServiceSettings(port=0, threads=1, codecs=("jpeg",), drain_seconds=3)
    with (
        background(settings, make_log(log or io.StringIO())) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        yield client


def test_a_request_is_a_server_span_with_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    with collecting() as collector:
        began = time.time_ns()
        with service(monkeypatch, collector.url, log) as client:
            headers = {"traceparent": f"00-{CALLER}-{ITS_SPAN}-01", "x-request-id": "mine"}
            assert client.post("/v1/encode?codec=jpeg&quality=40", content=PNG, headers=headers).status_code == 200
        ended = time.time_ns()
    span = collector.named("POST /v1/encode")
    expected = {
        "kind": 2,
        "trace": CALLER,
        "parent": ITS_SPAN,
        "failed": False,
        "http.request.method": "POST",
        "http.route": "/v1/encode",
        "http.response.status_code": 200,
        "url.path": "/v1/encode",
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "server.address": "127.0.0.1",
        "laconic.codec": "jpeg",
        "laconic.bytes_in": len(PNG),
        "laconic.request_id": "mine",
    }
    assert expected.items() <= span.items() and "error.type" not in span
    assert "quality" not in json.dumps(span), "query strings are not told"
    parts = [part for part in collector.spans if part["parent"] == span["id"]]
    assert [part["name"] for part in parts] == ["read", "queue", "read", "queue", "code"]
    assert all(part["trace"] == CALLER for part in parts)
    times = [began, span["from"], *(time for part in parts for time in (part["from"], part["to"])), span["to"], ended]
    assert all(earlier <= later + 2_000_000 for earlier, later in pairwise(times)), times
    code = parts[-1]
    assert 0 <= code["laconic.transform_s"] + code["laconic.entropy_s"] <= (code["to"] - code["from"]) / 1e9 + 0.002
    (line,) = [json.loads(line) for line in log.getvalue().splitlines() if '"/v1/encode"' in line]
    assert (line["trace_id"], line["span_id"], line["parent_id"]) == (CALLER, span["id"], ITS_SPAN)
    assert collector.resources[0]["service.name"] == "laconic" and collector.resources[0]["service.version"]


def test_without_a_caller_the_trace_begins_here_and_probes_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    with collecting() as collector, service(monkeypatch, collector.url, log, OTEL_SERVICE_NAME="pictures") as client:
        for path in ("/livez", "/readyz", "/metrics", "/v1/codecs"):
            assert client.get(path, headers={"traceparent": "nonsense"}).status_code == 200
        assert client.get("/nowhere/" + "x" * 10).status_code == 404
        client.request("BREW", "/v1/codecs")
    assert {span["name"] for span in collector.spans} == {"GET /v1/codecs", "GET", "HTTP /v1/codecs"}
    (line,) = [json.loads(line) for line in log.getvalue().splitlines() if '"GET", "path": "/v1/codecs"' in line]
    span = collector.named("GET /v1/codecs")
    assert span["parent"] == "" and line["trace_id"] == span["trace"] and "parent_id" not in line
    assert collector.named("HTTP /v1/codecs")["http.request.method"] == "_OTHER"
    assert collector.named("GET")["http.response.status_code"] == 404 and not collector.named("GET")["failed"]
    assert collector.resources[0]["service.name"] == "pictures"


def test_what_goes_wrong_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("laconic.service.coding.Coder.encode_job", lambda *_: 1 / 0)
    with collecting() as collector, service(monkeypatch, collector.url) as client:
        assert client.post("/v1/encode?codec=jpeg", content=PNG).status_code == 500
        assert client.post("/v1/encode?codec=jpeg", content=b"no picture").status_code == 415
    broken, refused = sorted((span for span in collector.spans if span["kind"] == 2), key=lambda span: -span["failed"])
    assert broken["failed"] and broken["error.type"] == "internal-error"
    assert not refused["failed"] and "error.type" not in refused and refused["http.response.status_code"] == 415
    assert [part["name"] for part in collector.spans if part["parent"] == refused["id"]] == ["read"]


def test_an_attempt_at_a_job_links_to_the_request_that_submitted_it(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    with collecting() as collector, service(monkeypatch, collector.url, log) as client:
        job = client.post("/v1/jobs?op=encode&codec=jpeg", content=PNG).json()
        while client.get(f"/v1/jobs/{job['id']}?wait=5").json()["state"] != "succeeded":
            pass
        assert "trace" not in job
    submission, attempt = collector.named("POST /v1/jobs"), collector.named("job encode")
    assert attempt["links"] == [(submission["trace"], submission["id"])]
    assert attempt["parent"] == "" and attempt["trace"] != submission["trace"] and not attempt["failed"]
    expected = {"laconic.job": job["id"], "laconic.op": "encode", "laconic.attempt": 1, "laconic.state": "succeeded"}
    assert expected.items() <= attempt.items() and submission["laconic.job"] == job["id"]
    assert "code" in [part["name"] for part in collector.spans if part["parent"] == attempt["id"]]
    (line,) = [json.loads(line) for line in log.getvalue().splitlines() if '"event": "job"' in line]
    assert line["trace_id"] == attempt["trace"]


def test_a_sampler_that_takes_nothing_sends_nothing_and_ids_are_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    with collecting() as collector, service(monkeypatch, collector.url, log, OTEL_TRACES_SAMPLER="always_off") as client:
        client.post("/v1/encode?codec=jpeg", content=PNG)
    assert collector.spans == [] and re.search(r'"trace_id": "[0-9a-f]{32}"', log.getvalue())


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.mark.parametrize("kind", ["dead", "slow"])
def test_a_collector_that_is_gone_or_slow_costs_requests_nothing(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    with collecting(pause_s=30) as collector:
        endpoint = collector.url if kind == "slow" else f"http://127.0.0.1:{free_port()}"
        bounds = {"OTEL_BSP_MAX_QUEUE_SIZE": "8", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4", "OTEL_BSP_SCHEDULE_DELAY": "10"}
        with service(monkeypatch, endpoint, **bounds) as client:
            client.post("/v1/encode?codec=jpeg", content=PNG)
            began = time.monotonic()
            for _ in range(40):
                assert client.post("/v1/encode?codec=jpeg", content=PNG).status_code == 200
            assert time.monotonic() - began < 8, "40 small pictures take well below a second"
            began = time.monotonic()
        assert time.monotonic() - began < 7, "stopping takes no longer than the drain time and a little"


def test_without_the_variables_nothing_is_imported() -> None:
    program = (
        "import io, sys, httpx\nfrom laconic.service.logs import make_log\nfrom laconic.service.serve import background\n"
        "from laconic.service.settings import ServiceSettings\n"
        "with background(ServiceSettings(port=0, threads=1, codecs=('jpeg',)), make_log(io.StringIO())) as url:\n"
        "    httpx.get(url + '/v1/codecs')\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))])\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    assert ran.stdout.strip() == "[]", ran.stderr


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"OTEL_SDK_DISABLED": "true"}, None),
        ({"OTEL_TRACES_EXPORTER": "none"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, None),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "http/protobuf"),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "4", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "8"}, "max_export_batch_size"),
    ],
)
def test_variables_that_switch_it_off_or_make_no_sense(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], told: str | None
) -> None:
    log = io.StringIO()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert tracing.open_recorder(make_log(log)) is None
    assert (told in log.getvalue() and "no traces" in log.getvalue()) if told else log.getvalue() == ""


def test_without_the_extra_the_service_runs_and_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setitem(sys.modules, "laconic.service.otlp", None)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    assert tracing.open_recorder(make_log(log)) is None and "laconic[otel]" in log.getvalue()


def test_a_database_of_a_version_before_takes_traces_too(tmp_path: Path) -> None:
    path, settings = tmp_path / "jobs.sqlite", ServiceSettings()
    draft = Draft(op="encode", options={}, form="", name="a", payload="p", payload_bytes=1, trace="00-a-b-01")
    store = SqliteJobStore(path, settings)
    kept, _ = store.add(draft)
    store._database.execute("ALTER TABLE jobs DROP COLUMN trace", {})
    store.close()
    store = SqliteJobStore(path, settings)
    before, now = store.get(kept.id), store.add(draft)[0]
    assert before is not None and before.trace == "" and now.trace == "00-a-b-01"
    store.close()


def test_tables_of_the_version_before_are_brought_up_to_date(monkeypatch: pytest.MonkeyPatch, postgres: Postgres) -> None:
    url, settings = postgres.url(), ServiceSettings()
    with monkeypatch.context() as before:
        before.setattr("laconic.service.postgres._STEPS", STEPS[:1])
        before.setattr("laconic.service.postgres.SCHEMA", 1)
        database = PostgresDatabase(url)
        database.prepare()
        database.close()
    store = PostgresJobStore(url, settings)
    kept, _ = store.add(Draft(op="encode", options={}, form="", name="a", payload="p", payload_bytes=1, trace="00-a-b-01"))
    store.close()
    database = PostgresDatabase(url)
    assert kept.trace == "00-a-b-01" and database.version() == len(STEPS)
    database.close()
