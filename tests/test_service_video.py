"""Videos through the REST service: media in and out, parts of a video, damage, limits, and fits that go on after a kill."""

from __future__ import annotations

import io
import json
import os
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import PIL.Image
import pytest

from laconic.bench.service_process import running_service
from laconic.codecs import compress, media
from laconic.codecs.errors import CorruptMedia, CorruptStream, LimitExceeded
from laconic.codecs.limits import Limits
from laconic.codecs.registry import codec_class
from laconic.codecs.signals import Colour, Video
from laconic.service.excerpts import Excerpt
from laconic.service.forms import Forms, accepted_forms
from laconic.service.logs import make_log
from laconic.service.packing import pack_signal, unpack_signal
from laconic.service.problems import NotAcceptable
from laconic.service.sandbox import Sandbox
from laconic.service.serve import background
from laconic.service.settings import ServiceSettings

from . import toy_video
from .pictures import photograph

FRAMES, HEIGHT, WIDTH = 12, 32, 48
RATE = Fraction(25)
MP4, WEBM, MKV, NPY, ZIP = "video/mp4", "video/webm", "video/x-matroska", "application/x-npy", "application/zip"


def moving(frames: int = FRAMES, height: int = HEIGHT, width: int = WIDTH) -> Video:
    """A window that wanders over a photograph."""
    array = photograph().array
    return Video.of(np.stack([array[step : step + height, 2 * step : 2 * step + width] for step in range(frames)]), RATE)


CLIP = moving()


@pytest.fixture(scope="module", autouse=True)
def toys() -> Iterator[None]:
    with toy_video.installed():
        yield


@contextmanager
def service(**given: Any) -> Iterator[httpx.Client]:
    limits: dict[str, Any] = {"port": 0, "threads": 1, "codecs": ("jpeg", "toy-frames", "toy-fit"), "max_pixels": 1_000_000}
    limits |= {"max_video_pixels": 200_000, "max_frames": 100}
    with (
        background(ServiceSettings(**(limits | given)), make_log(io.StringIO())) as url,
        httpx.Client(base_url=url, timeout=120) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with service() as client:
        yield client


@pytest.fixture(scope="module")
def stream() -> bytes:
    with toy_video.installed():
        return compress.encode(CLIP, "toy-frames").data


def decoded(client: httpx.Client, stream: bytes, query: str = "", accept: str = NPY) -> httpx.Response:
    return client.post(f"/v1/decode{query}", content=stream, headers={"Accept": accept})


def samples(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    return np.load(io.BytesIO(response.content))


def problem(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json", response.headers
    return response.status_code, str(response.json()["code"])


def test_signals_travel_with_all_that_they_have() -> None:
    times = np.array([0, 3000, 9000], np.int64)
    for dtype in (np.uint8, np.uint16):
        array = (np.arange(3 * 4 * 5 * 3) * 271).astype(dtype).reshape(3, 4, 5, 3)
        video = Video(
            Video.of(array).source, Fraction(30000, 1001), times, Colour(1, 1, 1, True), {"audio": b"sound"}, ((1, 2),)
        )
        facts, parts = pack_signal(video)
        payload = memoryview(b"".join(map(bytes, parts)))
        back = unpack_signal(json.loads(json.dumps(facts)), payload)
        assert isinstance(back, Video) and back.times is not None
        assert np.array_equal(back.array, array) and np.array_equal(back.times, times)
        assert (back.rate, back.colour, back.metadata, back.lost) == (video.rate, video.colour, video.metadata, video.lost)
        for wrong in ({"rate": [1, 0]}, {"shape": [2, 4, 5, 3]}, {"kind": "sound"}, {"lost": [[1]]}, {"depth": 24}):
            with pytest.raises((ValueError, KeyError, TypeError, ZeroDivisionError)):
                unpack_signal({**facts, **wrong}, payload)


def test_what_a_client_gets_depends_on_the_file() -> None:
    assert accepted_forms("*/*") == Forms("png", "mp4", "wav")
    assert accepted_forms("video/webm, image/webp") == Forms("webp", "webm")
    assert accepted_forms(NPY) == Forms("npy", "npy", "npy")
    assert Forms.parse(str(Forms("", "zip"))) == Forms("", "zip") == accepted_forms(ZIP)
    assert Forms.parse("webp") == Forms("webp", "")  # of jobs that an older version stored
    assert Forms("png", "").of("video", 1) == "png"
    for kind, frames, forms in (("video", 2, Forms("png", "")), ("image", 1, Forms("", "mp4"))):
        with pytest.raises(NotAcceptable, match="accept one of"):
            forms.of(kind, frames)


@pytest.mark.parametrize("form", ["mp4", "webm", "mkv", "y4m"])
def test_videos_come_in(client: httpx.Client, form: str) -> None:
    file = media.write(CLIP, form)
    response = client.post("/v1/encode?codec=toy-frames", content=file)
    assert response.status_code == 200, response.text
    assert response.headers["x-laconic-codec"] == "toy-frames"
    assert np.array_equal(compress.decode(response.content).array, media.read(file).array)
    assert response.headers["x-laconic-bpp"] == f"{8 * len(response.content) / CLIP.pixels:.5f}"


def test_auto_is_a_codec_that_takes_the_signal(client: httpx.Client) -> None:
    chosen = client.post("/v1/encode", content=media.write(CLIP, "mp4")).headers["x-laconic-codec"]
    assert chosen == "toy-frames"  # and not the one that fits
    assert client.post("/v1/encode", content=media.write(photograph(), "png")).headers["x-laconic-codec"] == "jpeg"
    refused = client.post("/v1/encode?codec=jpeg", content=media.write(CLIP, "mp4"))
    assert problem(refused) == (415, "unsupported-media")


def test_a_gif_is_what_the_codec_takes(client: httpx.Client) -> None:
    file = io.BytesIO()
    first, *others = [PIL.Image.fromarray(frame) for frame in CLIP.array[:3]]
    first.save(file, "gif", save_all=True, append_images=others, duration=40)
    shapes = {codec: client.post(f"/v1/encode?codec={codec}", content=file.getvalue()) for codec in ("toy-frames", "jpeg")}
    assert compress.decode(shapes["toy-frames"].content).shape == (3, HEIGHT, WIDTH, 3)
    assert compress.decode(shapes["jpeg"].content).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("accept", [MP4, WEBM, MKV])
def test_videos_go_out(client: httpx.Client, stream: bytes, accept: str) -> None:
    response = decoded(client, stream, accept=accept)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == accept and response.headers["vary"] == "Accept"
    back = media.read(response.content)
    assert isinstance(back, Video) and back.shape == CLIP.shape and back.rate == RATE
    assert np.abs(back.array.astype(int) - CLIP.array).mean() < 12


def test_mp4_is_what_nobody_asks_for(client: httpx.Client, stream: bytes) -> None:
    response = client.post("/v1/decode", content=stream)
    assert response.headers["content-type"] == MP4 and ".mp4" in response.headers["content-disposition"]
    assert problem(decoded(client, stream, accept="image/png")) == (406, "not-acceptable")
    picture = compress.encode(photograph(), "jpeg").data
    assert problem(decoded(client, picture, accept=MP4)) == (406, "not-acceptable")
    assert problem(decoded(client, picture, "?frames=0:1")) == (422, "invalid-settings")


def test_frames_as_pictures(client: httpx.Client, stream: bytes) -> None:
    archive = zipfile.ZipFile(io.BytesIO(decoded(client, stream, accept=ZIP).content))
    assert archive.namelist() == [f"{number:06d}.png" for number in range(FRAMES)]
    assert np.array_equal(media.read(archive.read("000007.png")).array, CLIP.array[7])
    one = decoded(client, stream, "?frames=5:6", "image/png")
    assert one.headers["content-type"] == "image/png" and np.array_equal(media.read(one.content).array, CLIP.array[5])


@pytest.mark.parametrize(("asked", "start", "stop"), [("3:7", 3, 7), (":2", 0, 2), ("9:", 9, FRAMES), (":", 0, FRAMES)])
def test_parts_of_a_video(client: httpx.Client, stream: bytes, asked: str, start: int, stop: int) -> None:
    assert np.array_equal(samples(decoded(client, stream, f"?frames={asked}")), CLIP.array[start:stop])


@pytest.mark.parametrize(
    "query", ["frames=7:3", "frames=0:13", "frames=12:", "frames=-1:3", "frames=3", "frames=1:2:3", "salvage=2"]
)
def test_parts_that_there_are_not(client: httpx.Client, stream: bytes, query: str) -> None:
    assert problem(decoded(client, stream, f"?{query}")) == (422, "invalid-settings")


def test_damage_costs_a_group_and_is_named(client: httpx.Client, stream: bytes) -> None:
    groups = [chunk for chunk in client.post("/v1/inspect", content=stream).json()["chunks"] if chunk["type"] == "payload"]
    damaged = bytearray(stream)
    damaged[groups[1]["offset"] + 10] ^= 1
    assert problem(decoded(client, bytes(damaged))) == (400, "corrupt-stream")
    response = decoded(client, bytes(damaged), "?salvage=true")
    assert response.headers["x-laconic-lost"] == "4:8"
    array = samples(response)
    assert np.array_equal(array[:4], CLIP.array[:4]) and np.array_equal(array[8:], CLIP.array[8:])
    assert np.array_equal(array[5], CLIP.array[3])
    part = decoded(client, bytes(damaged), "?salvage=true&frames=6:10")
    assert part.headers["x-laconic-lost"] == "0:2" and np.array_equal(samples(part)[2:], CLIP.array[8:10])
    assert "x-laconic-lost" not in decoded(client, stream, "?salvage=true").headers


def test_inspection_tells_frames_rate_and_groups(client: httpx.Client, stream: bytes) -> None:
    facts = client.post("/v1/inspect", content=stream).json()
    assert facts["shape"] == [FRAMES, HEIGHT, WIDTH, 3] and facts["signal"] == "video"
    assert facts["frames"] == FRAMES and facts["rate"] == 25.0 and len(facts["groups"]) == 3
    picture = client.post("/v1/inspect", content=compress.encode(photograph(), "jpeg").data).json()
    assert picture["signal"] == "image" and picture["frames"] is picture["groups"] is picture["rate"] is None


def test_codecs_and_limits_are_told(client: httpx.Client) -> None:
    listed = client.get("/v1/codecs").json()
    assert listed["limits"]["max_video_pixels"] == 200_000 and listed["limits"]["max_frames"] == 100
    assert {MP4, WEBM, MKV, ZIP, NPY} <= set(listed["output_types"])
    codecs = {codec["id"]: codec for codec in listed["codecs"]}
    assert codecs["toy-fit"]["signal"] == "video" and codecs["toy-fit"]["job"] and not codecs["toy-frames"]["job"]
    assert set(codecs["toy-fit"]["settings"]["properties"]) == {"steps"}


def test_videos_beyond_the_limits_are_refused(client: httpx.Client) -> None:
    large = moving(20, 90, 112)
    response = client.post("/v1/encode?codec=toy-frames", content=media.write(large, "mp4"))
    assert problem(response) == (413, "limit-exceeded")
    assert response.json()["setting"] == "LACONIC_MAX_VIDEO_PIXELS" and response.json()["actual"] == large.pixels
    stream = compress.encode(large, "toy-frames").data
    assert problem(decoded(client, stream)) == (413, "limit-exceeded")
    assert np.array_equal(samples(decoded(client, stream, "?frames=2:9")), large.array[2:9])  # a part may be small enough
    long = Video.of(np.zeros((101, 2, 2, 3), np.uint8))
    for query, body in (
        ("encode?codec=toy-frames", media.write(long, "y4m")),
        ("decode", compress.encode(long, "toy-frames").data),
    ):
        refused = client.post(f"/v1/{query}", content=body)
        assert problem(refused) == (413, "limit-exceeded") and refused.json()["setting"] == "LACONIC_MAX_FRAMES"


def test_damaged_videos_are_problems(client: httpx.Client) -> None:
    for form in ("mp4", "webm", "mkv"):
        file = media.write(CLIP, form)
        for cut in (len(file) // 3, len(file) - len(file) // 5):
            status, code = problem(client.post("/v1/encode?codec=toy-frames", content=file[:cut]))
            assert status in (400, 413, 415), (form, cut, code)
    assert problem(client.post("/v1/encode?codec=toy-frames", content=b"\x1aE\xdf\xa3" + bytes(60)))[0] in (400, 415)


@pytest.mark.skipif(os.name != "posix", reason="resource limits are POSIX's")
def test_a_file_with_more_frames_than_it_says_is_refused() -> None:
    box = Sandbox(1, Limits(max_pixels=100_000, max_video_pixels=CLIP.pixels), 60)
    box.start()
    try:
        file = media.write(CLIP, "mp4")
        there = box.read(file, Limits(max_video_pixels=CLIP.pixels))
        assert isinstance(there, Video) and np.array_equal(there.array, media.read(file).array)
        with pytest.raises(LimitExceeded, match="max_video_pixels"):
            box.read(file, Limits(max_video_pixels=CLIP.pixels - 1))
        with pytest.raises(CorruptMedia):
            box.read(file[: len(file) // 2], Limits(max_video_pixels=CLIP.pixels))
    finally:
        box.stop()


@pytest.mark.skipif(os.name != "posix", reason="resource limits are POSIX's")
@pytest.mark.parametrize("codec", ["av1", "hevc", "h264"])
def test_videos_are_read_and_decoded_in_confined_processes(codec: str) -> None:
    limits = Limits(max_pixels=100_000, max_video_pixels=200_000)
    box = Sandbox(1, limits, 60)
    try:
        file = compress.encode(CLIP, codec, {"frames": 4}).data
        whole = compress.decode(file)
        assert getattr(codec_class(codec), "native", False)
        assert np.array_equal(box.decode(file, limits).array, whole.array)
        assert np.array_equal(box.decode(file, limits, Excerpt(frames=(3, 6))).array, whole.array[3:6])
        with pytest.raises(CorruptStream):
            box.decode(file[:-3], limits)
    finally:
        box.stop()


def test_checkpoints_are_not_for_clients(client: httpx.Client, tmp_path: Path) -> None:
    body = media.write(CLIP, "mp4")
    for path in ("/v1/encode?codec=toy-fit", "/v1/jobs?op=encode&codec=toy-fit", "/v1/encode?codec=auto"):
        assert problem(client.post(f"{path}&checkpoint={tmp_path}", content=body)) == (422, "invalid-settings")
    assert problem(client.post("/v1/encode?codec=toy-fit&pause=9", content=body)) == (422, "invalid-settings")
    assert list(tmp_path.iterdir()) == []
    parameters = client.get("/openapi.json").json()["paths"]["/v1/encode"]["post"]["parameters"]
    assert "checkpoint" not in {parameter["name"] for parameter in parameters}


def test_a_fit_is_a_job(client: httpx.Client) -> None:
    body = media.write(CLIP, "mp4")
    refused = client.post("/v1/encode?codec=toy-fit", content=body)
    assert problem(refused) == (422, "job-needed") and "POST /v1/jobs" in refused.json()["detail"]
    job = client.post("/v1/encode?codec=toy-fit&steps=5", content=body, headers={"Prefer": "respond-async"}).json()
    assert ended(client, job)["state"] == "succeeded"
    result = client.get(job["links"]["result"]).content
    assert np.array_equal(compress.decode(result).array, media.read(body).array)
    back = client.post("/v1/jobs?op=decode", content=result, headers={"Accept": MP4}).json()
    assert ended(client, back)["result"]["name"].endswith(".mp4")


def ended(client: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    status = client.get(job["links"]["self"], params={"wait": 30}).json()
    assert status["state"] not in ("queued", "running"), status
    return dict(status)


def running_at(client: httpx.Client, job: dict[str, Any], progress: float) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while (status := client.get(job["links"]["self"]).json())["progress"] < progress:
        assert status["state"] in ("queued", "running") and time.monotonic() < deadline, status
        time.sleep(0.05)
    return dict(status)


def test_a_fit_shows_its_quality_and_is_cancelled_at_once(tmp_path: Path) -> None:
    with service(state_dir=tmp_path) as client:
        job = client.post("/v1/jobs?op=encode&codec=toy-fit&steps=6000", content=media.write(CLIP, "mp4")).json()
        status = running_at(client, job, 0.005)
        assert " dB" in status["stage"] and (tmp_path / "checkpoints" / job["id"] / "step.json").exists()
        began = time.monotonic()
        assert client.delete(job["links"]["self"]).json()["state"] == "cancelled"
        while (tmp_path / "checkpoints" / job["id"]).exists():
            assert time.monotonic() - began < 10
            time.sleep(0.05)


def test_a_killed_service_goes_on_from_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages, state, steps = tmp_path / "packages", tmp_path / "state", tmp_path / "steps"
    packages.mkdir()
    toy_video.write_distribution(packages)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(packages), *filter(None, [os.environ.get("PYTHONPATH")])]))
    monkeypatch.setenv("TOY_STEPS", str(steps))
    settings = {"codecs": "toy-fit", "threads": 1, "state_dir": state, "job_lease_s": 1, "playground": False}
    with running_service(settings) as first, httpx.Client(base_url=first.url, timeout=60) as client:
        job = client.post("/v1/jobs?op=encode&codec=toy-fit&steps=400", content=media.write(CLIP, "mp4")).json()
        running_at(client, job, 0.25)
        first.kill()
    before = [int(step) for step in steps.read_text().split()]
    assert before == list(range(len(before))) and 100 <= len(before) < 400
    with running_service(settings) as second, httpx.Client(base_url=second.url, timeout=60) as client:
        status = ended(client, job)
        assert status["state"] == "succeeded" and status["attempts"] == 2
        result = client.get(job["links"]["result"]).content
    after = [int(step) for step in steps.read_text().split()][len(before) :]
    assert after == list(range(after[0], 400)) and 0 <= len(before) - after[0] <= toy_video.KEPT_EVERY
    assert np.array_equal(compress.decode(result).array, media.read(media.write(CLIP, "mp4")).array)
    assert list((state / "checkpoints").iterdir()) == []


def test_a_late_request_is_told_of_jobs() -> None:
    with service(request_timeout_s=0.001) as client:
        response = client.post("/v1/encode?codec=toy-frames", content=media.write(CLIP, "mp4"))
        assert problem(response) == (504, "request-timeout") and "POST /v1/jobs" in response.json()["detail"]
