"""The REST service over real sockets: routes, headers, batches, and what happens when clients leave or signals come."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import IO

import httpx
import numpy as np
import pytest

from laconic.codecs import compress, media
from laconic.codecs.signals import Image
from laconic.service.lanes import Plan
from laconic.service.logs import make_log
from laconic.service.negotiation import choose, content_disposition, stem
from laconic.service.owner import DeviceOwner
from laconic.service.problems import NotAcceptable, QueueFull
from laconic.service.serve import background
from laconic.service.settings import ServiceSettings

LOG = io.StringIO()


def picture(height: int = 40, width: int = 56) -> Image:
    rows, columns = np.mgrid[0:height, 0:width]
    return Image(np.stack([rows * 3, columns * 2, rows + columns], 2).astype(np.uint8))


PNG = media.write(picture(), "png")


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    settings = ServiceSettings(port=0, threads=1, codecs=("jpeg", "webp", "jxl", "image-lossless"))
    with background(settings, make_log(LOG)) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


def encoded(client: httpx.Client, query: str = "codec=webp&quality=30") -> httpx.Response:
    response = client.post(f"/v1/encode?{query}", content=PNG)
    assert response.status_code == 200, response.text
    return response


def test_a_picture_goes_there_and_back(client: httpx.Client) -> None:
    response = encoded(client)
    expected = compress.encode(picture(), "webp", {"quality": 30})
    assert response.content == expected.data
    assert response.headers["content-type"] == "application/vnd.laconic"
    assert response.headers["x-laconic-codec"] == "webp"
    assert float(response.headers["x-laconic-bpp"]) == pytest.approx(expected.bpp, abs=1e-5)
    back = client.post("/v1/decode", content=response.content)
    assert back.headers["content-type"] == "image/png" and back.headers["vary"] == "Accept"
    assert np.array_equal(media.read(back.content).array, compress.decode(expected.data).array)


def test_auto_takes_a_codec_that_is_served(client: httpx.Client) -> None:
    response = encoded(client, "")
    assert response.headers["x-laconic-codec"] == "jxl"


@pytest.mark.parametrize(
    ("query", "codec"),
    [
        ("codec=webp&lossless=true", "webp"),
        ("codec=image-lossless&effort=1", "image-lossless"),
        ("codec=image-lossless&lossless=true&effort=2", "image-lossless"),
        ("codec=jpeg&target_psnr=30", "jpeg"),
        ("codec=webp&target_bytes=600", "webp"),
    ],
)
def test_settings_and_targets_are_the_librarys(client: httpx.Client, query: str, codec: str) -> None:
    response = encoded(client, query)
    assert response.headers["x-laconic-codec"] == codec
    if "target_bytes" in query:
        assert len(response.content) <= 600
    if "lossless" in query:
        assert np.array_equal(compress.decode(response.content).array, picture().array)


def test_lossless_coding_without_a_codec_takes_the_smallest_that_is_served(client: httpx.Client) -> None:
    response = encoded(client, "lossless=true&effort=1")
    named = [encoded(client, f"codec={codec}&lossless=true&effort=1") for codec in ("image-lossless", "jxl", "webp")]
    assert len(response.content) == min(len(answer.content) for answer in named)
    with background(ServiceSettings(port=0, threads=1, codecs=("jpeg", "webp")), make_log(io.StringIO())) as url:
        answer = httpx.post(f"{url}/v1/encode?lossless=true", content=PNG, timeout=30)
        assert (answer.status_code, answer.headers["x-laconic-codec"]) == (200, "webp")


@pytest.mark.parametrize("query", ["quality=5", "effort=0", "lossless=false", "target_bytes=9"])
def test_what_a_codec_without_loss_does_not_have_is_refused(client: httpx.Client, query: str) -> None:
    answer = client.post(f"/v1/encode?codec=image-lossless&{query}", content=PNG)
    assert answer.status_code == 422 and "image-lossless" in answer.json()["detail"]


def test_codecs_that_compile_for_long_are_warmed_after_the_service_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readiness does not wait for them; what fails there is logged, and the codec stays served."""
    begun, may_go_on = threading.Event(), threading.Event()

    def warm(name: str, device: str) -> None:
        if name == "image-lossless":
            begun.set()
            assert may_go_on.wait(30)
            raise ValueError("a kernel does not compile")

    monkeypatch.setattr("laconic.service.catalogue._warm", warm)
    log = io.StringIO()
    with background(ServiceSettings(port=0, threads=1, codecs=("jpeg", "image-lossless")), make_log(log)) as url:
        assert begun.wait(30)
        assert httpx.get(f"{url}/readyz").json()["codecs"] == ["jpeg", "image-lossless"]
        may_go_on.set()
        deadline = time.monotonic() + 30
        while "codec broken" not in log.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "a kernel does not compile" in log.getvalue()
        assert httpx.get(f"{url}/readyz").status_code == 200


@pytest.mark.parametrize("kind", ["image/webp", "image/jpeg", "image/jxl", "application/x-npy"])
def test_decode_writes_what_accept_asks_for(client: httpx.Client, kind: str) -> None:
    response = client.post("/v1/decode", content=encoded(client).content, headers={"Accept": f"text/html, {kind};q=0.9"})
    assert (response.status_code, response.headers["content-type"]) == (200, kind)
    assert media.read(response.content).shape == (40, 56, 3)


def test_decode_lists_what_it_writes(client: httpx.Client) -> None:
    response = client.post("/v1/decode", content=b"any", headers={"Accept": "text/html"})
    assert response.status_code == 406 and "image/png" in response.json()["detail"]


def test_a_format_that_cannot_hold_the_picture_is_not_acceptable(client: httpx.Client) -> None:
    alpha = Image(np.concatenate([picture().array, picture().array[:, :, :1]], 2).astype(np.uint8))
    stream = compress.encode(alpha, "webp").data
    response = client.post("/v1/decode", content=stream, headers={"Accept": "image/jpeg"})
    assert response.status_code == 406 and "image/png" in response.json()["detail"]


def test_inspect_describes_a_file(client: httpx.Client) -> None:
    facts = client.post("/v1/inspect", content=encoded(client).content).json()
    assert (facts["codec"], facts["shape"]) == ("webp", [40, 56, 3])
    assert facts["file_bytes"] == len(encoded(client).content)
    assert all(chunk["intact"] for chunk in facts["chunks"])


def test_codecs_are_listed_with_settings_and_limits(client: httpx.Client) -> None:
    listed = client.get("/v1/codecs").json()
    assert [codec["id"] for codec in listed["codecs"]] == ["jpeg", "webp", "jxl", "image-lossless"]
    webp = client.get("/v1/codecs/webp").json()
    assert webp["settings"]["properties"]["quality"]["maximum"] == 100
    assert webp["lossless"] is True and webp["limits"]["max_pixels"] == 64_000_000
    assert client.get("/v1/codecs/nope").status_code == 404


def test_an_etag_spares_the_work(client: httpx.Client) -> None:
    first = encoded(client)
    tag = first.headers["etag"]
    again = client.post("/v1/encode?codec=webp&quality=30", content=PNG, headers={"If-None-Match": f'"x", {tag}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    other = client.post("/v1/encode?codec=webp&quality=31", content=PNG, headers={"If-None-Match": tag})
    assert other.status_code == 200 and other.headers["etag"] != tag
    decoded = client.post("/v1/decode", content=first.content)
    as_webp = client.post("/v1/decode", content=first.content, headers={"Accept": "image/webp"})
    assert decoded.headers["etag"] != as_webp.headers["etag"]
    spared = client.post("/v1/decode", content=first.content, headers={"If-None-Match": decoded.headers["etag"]})
    assert spared.status_code == 304 and spared.headers["vary"] == "Accept"


def test_answers_carry_ids_timings_and_names(client: httpx.Client) -> None:
    headers = {"X-Request-Id": "my-id.7", "Content-Disposition": "attachment; filename*=UTF-8''Stra%C3%9Fe.png"}
    response = client.post("/v1/encode?codec=webp", content=PNG, headers=headers)
    assert response.headers["x-request-id"] == "my-id.7"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["content-disposition"].endswith("filename*=UTF-8''Stra%C3%9Fe.lcn")
    spans = dict(part.split(";dur=") for part in response.headers["server-timing"].split(", "))
    assert {"queue", "transform", "entropy", "total"} <= set(spans)
    assert float(spans["total"]) >= float(spans["transform"]) > 0
    assert client.get("/", headers={"X-Request-Id": "no spaces"}).headers["x-request-id"] != "no spaces"
    line = next(json.loads(line) for line in LOG.getvalue().splitlines() if '"my-id.7"' in line)
    assert (line["status"], line["codec"], line["bytes_in"]) == (200, "webp", len(PNG))


def test_metrics_count(client: httpx.Client) -> None:
    encoded(client)
    client.post("/v1/decode", content=b"not a stream")
    text = client.get("/metrics").text
    for sample in (
        'http_requests_total{method="POST",route="/v1/encode",status="200"}',
        'span_duration_seconds_count{span="transform"}',
        'bytes_in_total{codec="webp"}',
        'decode_errors_total{kind="',
        "queue_depth 0.0",
        "batch_size_count",
        'http_request_duration_seconds_bucket{le="0.001",method="POST",route="/v1/encode"}',
    ):
        assert sample in text


def test_index_and_health(client: httpx.Client) -> None:
    assert client.get("/").json()["name"] == "laconic"
    assert client.get("/livez").json() == {"status": "alive"}
    assert client.get("/readyz").json()["status"] == "ready"


class Number:
    """A job for the owner's own tests: `key` is its batch key."""

    def __init__(self, value: int, key: str | None = "k") -> None:
        self.value, self.plan = value, Plan(batch_key=key)


def test_the_owner_batches_what_is_compatible_in_order() -> None:
    sizes: list[list[int]] = []
    started, go = threading.Event(), threading.Event()

    def run(jobs: list[Number]) -> list[int | BaseException]:
        sizes.append([job.value for job in jobs])
        started.set()
        go.wait(5)
        return [ValueError(job.value) if job.value == 3 else 10 * job.value for job in jobs]

    owner = DeviceOwner[Number, int](run, ServiceSettings(max_batch=3, batch_wait_ms=1))  # type: ignore[arg-type]
    owner.start()
    first = owner.submit(Number(0, None))
    started.wait(5)
    futures = [owner.submit(Number(i, "other" if i == 2 else "k")) for i in range(1, 7)]
    assert futures[4].cancel()  # its client left: it never runs
    go.set()
    assert first.result(5) == 0
    assert [future.result(5) for future in futures if future not in (futures[2], futures[4])] == [10, 20, 40, 60]
    with pytest.raises(ValueError):
        futures[2].result(5)
    owner.stop(5)
    assert sizes == [[0], [1, 3, 4], [2], [6]]


def test_the_owners_places_are_bounded() -> None:
    owner = DeviceOwner[Number, int](lambda jobs: [0 for _ in jobs], ServiceSettings(queue_size=2))
    with owner.place(), owner.place():
        assert owner.depth == 2
        with pytest.raises(QueueFull, match="LACONIC_QUEUE_SIZE") as refusal, owner.place():
            pass
        assert refusal.value.retry_after >= 1
    assert owner.depth == 0


def test_the_owner_survives_a_batch_that_fails() -> None:
    def run(jobs: list[Number]) -> list[int | BaseException]:
        if jobs[0].value == 0:
            raise SystemExit(3)
        return [jobs[0].value]

    owner = DeviceOwner[Number, int](run, ServiceSettings())  # type: ignore[arg-type]
    owner.start()
    with pytest.raises(SystemExit):
        owner.submit(Number(0)).result(5)
    assert owner.submit(Number(4)).result(5) == 4
    owner.stop(5)


def test_accept_is_weighed_as_rfc_9110_says() -> None:
    offered = ["image/png", "image/webp", "application/x-npy"]
    assert choose("", offered) == choose("*/*", offered) == "image/png"
    assert choose("image/*;q=0.5, application/x-npy", offered) == "application/x-npy"
    assert choose("image/png;q=0, image/*", offered) == "image/webp"
    assert choose("IMAGE/WEBP", offered) == "image/webp"
    for refused in ("text/html", "image/png;q=0", "image/png;q=x", ",", "\x00"):
        if refused != ",":
            with pytest.raises(NotAcceptable):
                choose(refused, offered)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("", "picture"),
        ('attachment; filename="holiday.jpg"', "holiday"),
        ("attachment; filename=../../etc/passwd", "passwd"),
        ("attachment; filename*=UTF-8''..%2F..%2Fx%0d%0aSet-Cookie%3A.png", "xSet-Cookie:"),
        ('attachment; filename="..."', "picture"),
    ],
)
def test_file_names_are_made_harmless(given: str, name: str) -> None:
    assert stem(given) == name
    assert content_disposition(stem(given) + ".lcn").isascii() and "\n" not in content_disposition(stem(given))


def lines_of(stream: IO[str]) -> Iterator[dict[str, object]]:
    for line in stream:
        yield json.loads(line)


def test_sigterm_drains() -> None:
    """Readiness ends first, the request in flight finishes, the process leaves with status 0."""
    environment = os.environ | {"LACONIC_PORT": "0", "LACONIC_CODECS": "webp", "LACONIC_THREADS": "1"}
    command = [sys.executable, "-m", "laconic.service.serve"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        events = lines_of(process.stderr)
        url = str(next(event for event in events if event["event"] == "listening")["url"])
        next(event for event in events if event["event"] == "codec ready")
        answers: list[httpx.Response] = []
        rng = np.random.default_rng(1)
        noise = media.write(Image(rng.integers(0, 256, (900, 900, 3), np.uint8)), "png")
        query = f"{url}/v1/encode?codec=webp&target_bpp=2&effort=9"
        sender = threading.Thread(target=lambda: answers.append(httpx.post(query, content=noise, timeout=60)))
        with httpx.Client(base_url=url) as client:
            while client.get("/readyz").status_code != 200:
                time.sleep(0.02)
            sender.start()
            while "queue_depth 1.0" not in client.get("/metrics").text:
                time.sleep(0.005)
            process.send_signal(signal.SIGTERM)
            statuses = {client.get("/readyz").status_code for _ in range(3)}
            refused = client.post("/v1/encode", content=PNG)
        sender.join(60)
        assert process.wait(30) == 0
    assert answers[0].status_code == 200
    assert 503 in statuses and refused.status_code == 503
    assert refused.json()["code"] == "unavailable" and "retry-after" in refused.headers
