"""Targets of videos: few encodings, close to the target, from decoded bytes; on samples of long videos first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest

from laconic.codecs import compress
from laconic.codecs.codec import Progress
from laconic.codecs.compress import Target
from laconic.codecs.errors import Cancelled, InvalidSettings, UnsupportedMedia, WeightsMissing
from laconic.codecs.metrics import psnr
from laconic.codecs.signals import Video
from laconic.codecs.video import search
from laconic.codecs.video.search import sampled, search_video

from .test_video_conventional import clip

GREY = Video.of(np.full((40, 8, 8, 3), 100, np.uint8))


@dataclass(frozen=True)
class File:
    data: bytes


class Rig:
    """Pretends to code: every quality takes 4 % more bytes, and its samples are off by less."""

    def __init__(self, **factors: float) -> None:
        self.factors = factors
        self.tried: list[tuple[str, int, object]] = []

    def encode(self, video: Video, codec: str, settings: Mapping[str, object], progress: Progress | None) -> File:
        frames = video.shape[0]
        self.tried.append((codec, frames, settings.get("quality", "lossless")))
        if "lossless" in settings:
            return File(bytes([0]) + bytes(100_000))
        quality = float(str(settings["quality"]))
        size = frames * 10 * 1.04**quality * self.factors.get(codec, 1.0)
        return File(bytes([1 + round(100 - quality)]) + bytes(round(size)))

    def decode(self, data: bytes) -> Video:
        return Video.of(np.full((40, 8, 8, 3), 100 + data[0] // 2 + 1, np.uint8)) if data[0] else GREY

    def search(self, target: Target, *codecs: str) -> File:
        return search_video(GREY, codecs or ("h264",), {}, target, self.encode, self.decode)


@pytest.mark.parametrize("size", [500, 700, 3_000, 9_000, 19_000])
def test_a_size_is_met_within_two_percent_in_few_encodings(size: int) -> None:
    rig = Rig()
    assert 0.98 * size <= len(rig.search(Target(bytes=size)).data) <= size
    assert len(rig.tried) <= 6
    rig = Rig()
    assert len(rig.search(Target(bpp=8 * size / GREY.pixels)).data) <= size


def test_the_smallest_codec_wins_a_psnr_and_the_best_a_size() -> None:
    rig = Rig(hevc=0.5)
    best = rig.search(Target(psnr=30), "h264", "hevc")
    assert len(best.data) < len(Rig().search(Target(psnr=30)).data)
    assert psnr(GREY, rig.decode(best.data)) >= 30
    assert {codec for codec, _, _ in rig.tried} == {"h264", "hevc"}


def test_lossless_coding_is_tried_where_no_quality_is_enough() -> None:
    rig = Rig()
    assert rig.search(Target(psnr=60), "av1", "h264").data[0] == 0
    assert [tried for tried in rig.tried if tried[2] == "lossless"] == [("h264", 40, "lossless")]
    assert rig.search(Target(bytes=200_000), "av1", "h264").data[0] == 0
    with pytest.raises(InvalidSettings, match=r"60 dB cannot be met: the highest PSNR is \d+\.\d\d dB, by av1"):
        rig.search(Target(psnr=60), "av1")
    with pytest.raises(InvalidSettings, match="3 bytes cannot be met: the smallest file has 401 bytes, by h264"):
        rig.search(Target(bytes=3))


@pytest.mark.parametrize("error", [UnsupportedMedia, WeightsMissing])
def test_codecs_that_refuse_are_left_out(error: type[Exception]) -> None:
    rig = Rig()

    def encode(video: Video, codec: str, settings: Mapping[str, object], progress: Progress | None) -> File:
        if codec == "hevc":
            raise error("not today")
        return rig.encode(video, codec, settings, progress)

    found = search_video(GREY, ["hevc", "h264"], {}, Target(bytes=3000), encode, rig.decode)
    assert 0 < len(found.data) <= 3000
    with pytest.raises(error, match="not today"):
        search_video(GREY, ["hevc"], {}, Target(bytes=3000), encode, rig.decode)


def test_long_videos_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "SAMPLE_PIXELS", 1)
    video = replace(Video.of(np.arange(200, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 3, 3), np.uint8)))
    sample = sampled(video)
    numbers = [*range(32), *range(84, 116), *range(168, 200)]
    assert sample.shape == (96, 2, 3, 3) and sample.metadata == {} and sample.array[:, 0, 0, 0].tolist() == numbers
    assert sample.frames(30, 34).array[:, 0, 0, 0].tolist() == [30, 31, 84, 85]
    assert sampled(video.frames(0, 96)).shape[0] == 96


@pytest.mark.parametrize("codec", ["av1", "hevc", "h264", "auto"])
def test_real_codecs_meet_targets(codec: str) -> None:
    video = clip(12)
    settings = {"effort": 2}
    seen: list[float] = []
    for_psnr = compress.encode(video, codec, settings, Target(psnr=36), "cpu", lambda part, stage: seen.append(round(part, 9)))
    assert seen == sorted(seen) and seen[0] >= 0 and seen[-1] <= 1
    assert codec in ("auto", for_psnr.codec)
    assert 36 <= psnr(video, compress.decode(for_psnr.data)) < 36.5
    again = compress.encode(video, for_psnr.codec, for_psnr.settings, device="cpu")
    assert again.data == for_psnr.data, "the settings reported are not the ones used"
    for_size = compress.encode(video, codec, settings, Target(bytes=1200), "cpu")
    assert 0.85 * 1200 < len(for_size.data) <= 1200  # a step of quality is wide for so few bytes


def test_a_long_video_is_coded_whole_at_its_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "SAMPLE_FRAMES", 12)
    monkeypatch.setattr(search, "SAMPLE_PIXELS", 1)
    video = clip(24)
    encoded = compress.encode(video, "auto", {"effort": 1}, Target(psnr=34), "cpu")
    decoded = compress.decode(encoded.data)
    assert decoded.shape == video.shape and 34 <= psnr(video, decoded) < 34.5
    with_sound = replace(video, metadata={"audio": bytes(5000)})
    assert 5000 + 0.9 * 1500 < len(compress.encode(with_sound, "h264", {"effort": 1}, Target(bytes=6500), "cpu").data) <= 6500


def test_the_search_can_be_stopped() -> None:
    def progress(part: float, stage: str) -> None:
        if part > 0.3:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        compress.encode(clip(4), "auto", {"effort": 1}, Target(psnr=34), "cpu", progress)


def test_settings_narrow_the_choice() -> None:
    encoded = compress.encode(clip(4), "auto", {"effort": 1, "chroma": "444"}, Target(psnr=34), "cpu")
    assert encoded.codec in ("hevc", "h264")
    only = compress.encode(clip(4), "auto", {"effort": 1}, Target(psnr=34), "cpu", among=["h264"])
    assert only.codec == "h264"
