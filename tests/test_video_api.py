"""The library with videos: what goes in, what comes out, parts of it, and what damage leaves."""

from __future__ import annotations

import doctest
import io
from dataclasses import replace
from fractions import Fraction
from importlib import import_module
from typing import Any

import httpx
import numpy as np
import pytest

import laconic
from laconic.codecs import compress, container, media
from laconic.codecs.compress import Target
from laconic.codecs.limits import Limits
from laconic.codecs.parts import frame_range, part_of
from laconic.codecs.signals import Video
from laconic.codecs.watched import watched
from laconic.received import received

from .flipbooks import GROUP, clip, clip_array, flipbook

__all__ = ["flipbook"]

pytestmark = pytest.mark.usefixtures("flipbook")


def encoded(frames: int = 10, **arguments: Any) -> bytes:
    return laconic.encode(clip_array(frames), codec="flipbook", **arguments)


def damaged(stream: bytes, *groups: int) -> bytes:
    """The file with a wrong byte in each of these groups of frames."""
    content = bytearray(stream)
    payloads = [chunk for chunk in container.describe(stream).chunks if chunk.type == "payload"]
    for group in groups:
        content[payloads[group].offset + 3] ^= 1
    return bytes(content)


@pytest.mark.parametrize("module", ["laconic.codecs.parts", "laconic.files"])
def test_examples_run(module: str) -> None:
    assert doctest.testmod(import_module(module)).failed == 0


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_arrays_come_back(dtype: type[np.generic]) -> None:
    array = clip_array(7, dtype=dtype)
    video = laconic.decode(laconic.encode(array, codec="flipbook", rate=12.5))
    assert isinstance(video, laconic.Video) and video.rate == Fraction(25, 2) and video.lost == ()
    assert video.array.dtype == dtype and np.array_equal(video.array, array)


def test_the_rate_is_25_unless_given() -> None:
    assert laconic.inspect(encoded()).rate == 25
    assert laconic.inspect(encoded(rate=Fraction(30_000, 1001))).rate == pytest.approx(29.97003)


def test_tensors_and_videos_are_sources_too() -> None:
    torch = pytest.importorskip("torch")
    video = Video.of(clip_array(5), 25)
    sources = [clip_array(5), torch.from_numpy(clip_array(5)), video, clip_array(5)[::-1][::-1]]
    assert len({laconic.encode(source, codec="flipbook") for source in sources}) == 1


@pytest.mark.parametrize(
    ("array", "part"),
    [
        (np.zeros((5, 3, 40, 40), np.uint8), "T×H×W×3.*channels last"),
        (np.zeros((5, 40, 40, 4), np.uint8), "alpha"),
        (np.zeros((5, 40, 40, 1), np.uint8), "grey"),
        (np.zeros((5, 40, 40, 3), np.float32), "float32: scale to 0..255"),
        (np.zeros((0, 40, 40, 3), np.uint8), "T×H×W×3"),
        (np.zeros((1, 5, 40, 40, 3), np.uint8), "T×H×W×3"),
    ],
)
def test_arrays_that_are_no_videos(array: np.ndarray, part: str) -> None:
    with pytest.raises(laconic.UnsupportedMedia, match=part):
        laconic.encode(array, codec="flipbook")


@pytest.mark.parametrize("rate", [0, -25, float("nan"), float("inf"), 1e-9, 1e9])
def test_rates_that_are_none(rate: float) -> None:
    with pytest.raises(laconic.InvalidSettings, match="frames per second"):
        encoded(rate=rate)


def test_a_rate_is_for_arrays_of_frames() -> None:
    for source in (clip_array()[0], clip(), b"a file"):
        with pytest.raises(laconic.InvalidSettings, match="`rate` is for arrays"):
            laconic.encode(source, codec="flipbook", rate=25)


def test_codecs_of_the_other_kind_say_so() -> None:
    with pytest.raises(laconic.UnsupportedMedia, match="flipbook takes video, not image"):
        laconic.encode(clip_array()[0], codec="flipbook")
    with pytest.raises(laconic.UnsupportedMedia, match=r"webp takes image, not video; .*flipbook"):
        laconic.encode(clip_array(), codec="webp")


@pytest.mark.parametrize(
    ("asked", "taken"), [((0, 3), (0, 3)), ((3, 6), (3, 6)), ((-2, None), (8, 10)), ((None, -8), (0, 2)), ((9, 10), (9, 10))]
)
def test_frames_of_a_video(asked: Any, taken: tuple[int, int]) -> None:
    part = laconic.decode(encoded(), frames=asked)
    assert isinstance(part, Video) and np.array_equal(part.array, clip_array()[slice(*taken)])


def test_only_the_groups_of_these_frames_are_looked_at() -> None:
    stream = damaged(encoded(), 0)
    with pytest.raises(laconic.CorruptStream, match="group of frames 0 of 3"):
        laconic.decode(stream)
    part = laconic.decode(stream, frames=(4, 10), salvage=True)
    assert isinstance(part, Video) and part.lost == () and np.array_equal(part.array, clip_array()[4:])


@pytest.mark.parametrize("asked", [(0, 0), (5, 3), (0, 11), (10, 11), (-11, 2), (None, -10)])
def test_frames_that_are_not_there(asked: Any) -> None:
    with pytest.raises(laconic.InvalidSettings, match="in a video of 10"):
        laconic.decode(encoded(), frames=asked)


def test_pictures_have_no_frames() -> None:
    with pytest.raises(laconic.InvalidSettings, match="the file holds none"):
        laconic.decode(laconic.encode(clip_array()[0], codec="webp"), frames=(0, 1))


def test_salvage_repeats_the_frame_before() -> None:
    video = laconic.decode(damaged(encoded(), 1), salvage=True)
    assert isinstance(video, Video) and video.lost == ((4, 8),)
    expected = clip_array()
    expected[4:8] = expected[3]
    assert np.array_equal(video.array, expected)
    part = video.view(6, 10)
    assert part.lost == ((0, 2),) and np.array_equal(part.array, expected[6:])


def test_a_truncated_file_gives_its_first_groups() -> None:
    stream = encoded()
    video = laconic.decode(stream[: len(stream) - 40], salvage=True)
    assert isinstance(video, Video) and video.lost == ((8, 10),)
    assert np.array_equal(video.array[:8], clip_array()[:8])


def test_limits_hold_for_what_is_in_memory() -> None:
    stream, limits = encoded(), Limits(max_video_pixels=24 * 32 * 4)
    with pytest.raises(laconic.LimitExceeded) as caught:
        laconic.decode(stream, limits=limits)
    assert caught.value.setting == "max_video_pixels"
    with pytest.raises(laconic.LimitExceeded):
        laconic.decode(stream, limits=limits, frames=(0, 5))
    assert laconic.decode(stream, limits=limits, frames=(0, 4)).shape[0] == 4


def test_inspect() -> None:
    stream = encoded(rate=5)
    seen = laconic.inspect(damaged(stream, 0, 2))
    assert (seen.shape, seen.rate, seen.seconds) == ((10, 24, 32, 3), 5, 2.0)
    assert (seen.groups, seen.damaged) == (3, (0, 2))
    assert seen.bpp == pytest.approx(8 * len(stream) / (10 * 24 * 32)) and seen.kbps == pytest.approx(8 * len(stream) / 2000)
    picture = laconic.inspect(laconic.encode(clip_array()[0], codec="webp"))
    assert (picture.rate, picture.seconds, picture.kbps, picture.groups, picture.damaged) == (None, None, None, 1, ())


def test_the_duration_follows_the_times() -> None:
    times = np.array([0, 90_000, 270_000, 300_000], np.int64)
    video = Video(clip(4).source, Fraction(10), times)
    stream = compress.encode(video, "flipbook").data
    assert laconic.inspect(stream).seconds == pytest.approx(video.seconds) == pytest.approx(300_000 / 90_000 + 0.1)


def test_kbps_are_bytes_of_the_duration() -> None:
    video = clip(10, rate=5)
    assert Target(kbps=8).sized(video) == Target(bytes=2000)
    assert Target(bpp=2).sized(video) == Target(bpp=2)
    kbps = 4 * len(encoded(rate=5)) / 1000 * 0.8
    assert len(encoded(rate=5, target_kbps=kbps)) * 4 / 1000 <= kbps
    with pytest.raises(laconic.InvalidSettings, match="cannot be met"):
        encoded(rate=5, target_kbps=0.01)
    with pytest.raises(laconic.InvalidSettings, match="not for a picture"):
        laconic.encode(clip_array()[0], codec="webp", target_kbps=100)
    with pytest.raises(laconic.InvalidSettings, match="one target"):
        encoded(target_kbps=100, target_bpp=1)


def test_parts_are_read_when_they_are_asked_for() -> None:
    video = compress.decode(encoded(), whole=False)
    assert isinstance(video, Video)
    seen: list[tuple[float, str]] = []
    shown, frames = watched(part_of(video, frame_range("2:-1")), "frame", lambda part, stage: seen.append((part, stage)))
    assert shown.shape == (7, 24, 32, 3) and seen == []
    assert np.array_equal(np.stack(list(shown.source.read(1, 7))), clip_array()[3:9])
    assert seen[-1] == (1.0, "frame 7 of 7") and len(seen) == 6 and frames.seconds > 0


def service(stream: bytes) -> tuple[laconic.Client, list[httpx.Request]]:
    """A client of a service that takes anything and decodes with the library, and what the service was asked."""
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if request.url.path == "/v1/encode":
            return httpx.Response(200, content=stream)
        if request.url.path == "/v1/jobs":
            return httpx.Response(400, json={"code": "invalid-settings", "detail": "no jobs here"})
        asked = request.url.params
        frames = frame_range(asked["frames"]) if "frames" in asked else None
        video = laconic.decode(request.content, frames=frames, salvage="salvage" in asked)
        file = io.BytesIO()
        np.save(file, video.array)
        ranges = video.lost if isinstance(video, Video) else ()
        headers = {"X-Laconic-Lost": ", ".join(f"{start}:{stop}" for start, stop in ranges)} if ranges else {}
        return httpx.Response(200, content=file.getvalue(), headers=headers)

    return laconic.Client("http://service", transport=httpx.MockTransport(answer)), seen


def test_clients_get_videos_back() -> None:
    stream = encoded(rate=5)
    client, seen = service(stream)
    video = client.decode(stream)
    assert isinstance(video, Video) and video.rate == 5 and np.array_equal(video.array, clip_array())
    part = client.decode(stream, frames=(-3, None))
    assert np.array_equal(part.array, clip_array()[7:])
    assert [request.headers["Accept"] for request in seen] == 2 * ["application/x-npy"]
    assert dict(seen[0].url.params) == {} and dict(seen[1].url.params) == {"frames": "7:10"}
    salvaged = client.decode(damaged(stream, 1), frames=(2, 10), salvage=True)
    assert isinstance(salvaged, Video) and salvaged.lost == ((2, 6),)
    assert dict(seen[2].url.params) == {"frames": "2:10", "salvage": "true"}
    with pytest.raises(laconic.CorruptStream, match="group of frames 1 of 3"):
        client.decode(damaged(stream, 1))
    with pytest.raises(laconic.InvalidSettings, match="in a video of 10"):
        client.decode(stream, frames=(4, 11))
    with pytest.raises(laconic.InvalidSettings, match="parts of a video"):
        client.decode(laconic.encode(clip_array()[0], codec="webp"), frames=(0, 1))


def test_clients_do_not_take_other_videos() -> None:
    client = laconic.Client("http://service", transport=httpx.MockTransport(lambda request: httpx.Response(200, content=b"x")))
    with pytest.raises(laconic.ServiceError, match="does not answer as this client expects"):
        client.decode(encoded())
    client, _ = service(encoded())
    with pytest.raises(laconic.ServiceError, match="came for"):
        received(container.read(encoded(8)), None, client._connection.run(client._protocol._decoded(encoded(), "", {})))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_videos_travel_losslessly(dtype: type[np.generic]) -> None:
    array = np.random.default_rng(3).integers(0, np.iinfo(dtype).max, (5, 17, 23, 3)).astype(dtype)
    client, seen = service(b"a stream")
    assert client.encode(array, codec="flipbook", rate=Fraction(30_000, 1001)) == b"a stream"
    assert dict(seen[0].url.params) == {"codec": "flipbook"}
    sent = media.read(seen[0].content)
    assert isinstance(sent, Video) and sent.rate == Fraction(30_000, 1001) and sent.times is None
    assert sent.bit_depth == array.itemsize * 8 and np.array_equal(sent.array, array)


def test_jobs_of_videos_give_mp4() -> None:
    stream = encoded()
    client, seen = service(stream)
    for body in (stream, laconic.encode(clip_array()[0], codec="webp")):
        with pytest.raises(laconic.InvalidSettings, match="no jobs here"):
            client.submit(body, op="decode")
    types = [request.headers["Accept"].partition(",")[0] for request in seen]
    assert types == ["video/mp4", "image/png"] and seen[0].content == stream


def test_damage_below_the_checksums_is_named() -> None:
    stream = container.read(encoded())
    chunks = (stream.chunks[0], b"not deflated", stream.chunks[2])
    with pytest.raises(laconic.CorruptStream, match=f"frame {GROUP} of 10 does not decode"):
        compress.test(container.write(replace(stream, chunks=chunks)))
