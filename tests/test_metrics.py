"""What the service counts and tells: metrics by name, workers, ratios, and the caller's trace in the log."""

from __future__ import annotations

import io
import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from laconic.codecs import media
from laconic.codecs.signals import Image
from laconic.service.logs import make_log
from laconic.service.metrics import Metrics
from laconic.service.serve import background
from laconic.service.settings import ServiceSettings
from laconic.service.tracing import trace_of

DOCUMENT = (Path(__file__).resolve().parent.parent / "docs" / "service.md").read_text()
LOG = io.StringIO()
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PNG = media.write(Image((np.mgrid[:48, :64, :3].sum(axis=0)).astype(np.uint8)), "png")


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    settings = ServiceSettings(port=0, threads=1, codecs=("jpeg", "webp"))
    with background(settings, make_log(LOG)) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample by its name and labels."""
    families = text_string_to_metric_families(text)
    return {(sample.name, frozenset(sample.labels.items())): sample.value for family in families for sample in family.samples}


def sample(client: httpx.Client, name: str, **labels: str) -> float:
    return samples(client.get("/metrics").text).get((name, frozenset(labels.items())), 0.0)


def test_encoding_and_decoding_are_counted(client: httpx.Client) -> None:
    before = samples(client.get("/metrics").text)
    answer = client.post("/v1/encode?codec=webp&quality=40", content=PNG)
    file = answer.content
    assert client.post("/v1/decode", content=file).status_code == 200
    after = samples(client.get("/metrics").text)

    def grown(name: str, **labels: str) -> float:
        key = (name, frozenset(labels.items()))
        return after[key] - before.get(key, 0.0)

    assert grown("compression_ratio_count", codec="webp") == 1
    assert grown("compression_ratio_sum", codec="webp") == pytest.approx(48 * 64 * 3 / len(file), rel=1e-6)
    assert grown("bytes_in_total", codec="webp") == len(PNG) + len(file)
    assert grown("http_requests_total", method="POST", route="/v1/encode", status="200") == 1
    assert grown("span_duration_seconds_count", span="read") == 2, "a picture, and the header of a file"
    assert grown("span_duration_seconds_count", span="write") == 1
    assert 0 < grown("workers_busy_seconds_total", worker="worker") < 30
    assert 0 < grown("workers_busy_seconds_total", worker="media") < 30


def test_what_does_not_decode_is_counted(client: httpx.Client) -> None:
    file = client.post("/v1/encode?codec=webp", content=PNG).content
    assert client.post("/v1/decode", content=file[:-3]).status_code == 400
    assert sample(client, "decode_errors_total", kind="truncated-stream") == 1


def test_the_state_of_the_service_is_told(client: httpx.Client) -> None:
    now = samples(client.get("/metrics").text)
    for codec in ("jpeg", "webp"):
        assert 0 < now["model_load_seconds", frozenset({("codec", codec)})] < 60
    assert now["http_requests_in_flight", frozenset()] == 1, "this one"
    assert now["queue_depth", frozenset()] == now["bodies_buffered_bytes", frozenset()] == 0
    assert now["process_resident_memory_bytes", frozenset()] > 2**25 and now["process_cpu_seconds_total", frozenset()] > 0
    (build,) = [dict(labels) for name, labels in now if name == "laconic_build_info"]
    assert set(build) == {"version", "python", "torch"} and all(build.values())


def test_every_metric_is_documented(client: httpx.Client) -> None:
    rows = DOCUMENT.split("| metric |")[1].split("\n\n")[0].splitlines()[2:]
    documented = {re.sub("_total$|_info$", "", name) for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    families = {family.name for family in text_string_to_metric_families(client.get("/metrics").text)}
    shown = {name.removesuffix("_info") for name in families if not name.startswith("process_")}
    shown = {name for name in shown if not name.endswith("_created")}  # which every counter and histogram has beside it
    assert {name for name in shown if f"`{name}" not in DOCUMENT} == set()
    assert len(documented) >= 17 and documented - shown == set()


def test_workers_are_counted_while_they_work() -> None:
    metrics = Metrics()
    metrics.have_workers("media", 4)

    def utilisation() -> float:
        return samples(metrics.exposition().decode())["workers_utilization", frozenset({("worker", "media")})]

    assert utilisation() == 0
    with metrics.working("media"):
        assert utilisation() == 0.25
        with metrics.working("media"):
            assert utilisation() == 0.5
    with pytest.raises(KeyError), metrics.working("media"):
        raise KeyError
    assert utilisation() == 0


def test_no_work_is_lost_between_threads() -> None:
    metrics = Metrics()
    metrics.have_workers("media", 1)
    everybody, seen = threading.Barrier(9), []

    def work() -> None:
        with metrics.working("media"):
            everybody.wait(30)
            everybody.wait(30)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    everybody.wait(30)
    seen.append(metrics.exposition().decode())
    everybody.wait(30)
    for thread in threads:
        thread.join()
    seen.append(metrics.exposition().decode())
    assert [samples(text)["workers_utilization", frozenset({("worker", "media")})] for text in seen] == [8, 0]


def logged(request_id: str) -> dict[str, Any]:
    """The line of a request, which is written once its answer is sent."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for text in LOG.getvalue().splitlines(keepends=True):
            if text.endswith("\n") and (line := json.loads(text)).get("request_id") == request_id:
                return dict(line)
        time.sleep(0.01)
    raise AssertionError(f"nothing is logged of {request_id}")


def test_a_trace_is_in_the_log(client: httpx.Client) -> None:
    header = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-Id": "traced"}
    assert client.post("/v1/encode?codec=webp", content=PNG, headers=header).status_code == 200
    line = logged("traced")
    assert (line["trace_id"], line["parent_id"], line["codec"]) == (TRACE, PARENT, "webp")


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00",
        f"00-{TRACE}-{PARENT}",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE}-{PARENT}-01\n",
        f"00-{TRACE}x-{PARENT}-01",
    ],
)
def test_malformed_traces_are_ignored(header: str) -> None:
    assert trace_of(header) == {}


def test_later_versions_of_traces_are_read() -> None:
    assert trace_of(f"01-{TRACE}-{PARENT}-01-more") == {"trace_id": TRACE, "parent_id": PARENT}
