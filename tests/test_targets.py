"""The search for a target, on a made-up codec whose rate and distortion are known and on the real ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest

from laconic.codecs import compress
from laconic.codecs.codec import Progress
from laconic.codecs.errors import InvalidSettings, UnsupportedMedia, WeightsMissing
from laconic.codecs.metrics import psnr
from laconic.codecs.signals import Image
from laconic.codecs.targets import Target, search

from .pictures import photograph, smooth

PICTURE = Image(np.full((10, 10, 1), 100, np.uint8))


@dataclass(frozen=True)
class File:
    data: bytes


class Rig:
    """Pretends to code: a file of 10 + quality bytes whose samples are all off by 100 - quality, more for some codecs."""

    def __init__(self, **extra_bytes: int) -> None:
        self.extra_bytes = extra_bytes
        self.tried: list[tuple[str, int]] = []

    def encode(self, codec: str, settings: Mapping[str, object], progress: Progress | None = None) -> File:
        if "lossless" in settings:
            raise UnsupportedMedia("not today")
        quality = int(str(settings["quality"]))
        self.tried.append((codec, quality))
        return File(bytes([quality]) + bytes(9 + quality + self.extra_bytes.get(codec, 0)))

    def decode(self, data: bytes) -> Image:
        return Image(PICTURE.array + np.uint8(100 - data[0]))

    def search(self, target: Target, *codecs: str) -> File:
        return search(PICTURE, codecs or ("jpeg",), {}, target, self.encode, self.decode)


@pytest.mark.parametrize("quality", range(0, 100))
def test_bisection_finds_the_lowest_quality_for_a_psnr(quality: int) -> None:
    rig = Rig()
    exact = psnr(PICTURE, rig.decode(bytes([quality])))
    assert rig.search(Target(psnr=exact)).data[0] == quality
    assert len(rig.tried) <= 7


@pytest.mark.parametrize("quality", range(0, 101))
def test_bisection_finds_the_highest_quality_for_a_size(quality: int) -> None:
    rig = Rig()
    assert rig.search(Target(bytes=10 + quality)).data[0] == quality
    assert rig.search(Target(bpp=8 * (10 + quality) / 100)).data[0] == quality
    assert len(rig.tried) <= 14


def test_the_smallest_codec_wins_a_psnr_and_the_best_a_size() -> None:
    rig = Rig(webp=5)
    assert len(rig.search(Target(psnr=30), "webp", "jpeg").data) == len(rig.search(Target(psnr=30), "jpeg").data)
    assert rig.search(Target(bytes=50), "webp", "jpeg").data[0] == 40
    assert rig.search(Target(bytes=50), "webp").data[0] == 35


def off_by_one(data: bytes) -> Image:
    return Image(PICTURE.array + np.uint8(101 - data[0]))


def test_targets_out_of_reach_say_what_was_reached() -> None:
    with pytest.raises(InvalidSettings, match=r"5 bytes cannot be met: the smallest file has 10 bytes, by jpeg"):
        Rig(webp=5).search(Target(bytes=5), "webp", "jpeg")
    with pytest.raises(InvalidSettings, match=r"60 dB cannot be met: the highest PSNR is 48\.13 dB, by jpeg"):
        search(PICTURE, ["jpeg"], {}, Target(psnr=60), Rig().encode, off_by_one)


@pytest.mark.parametrize("error", [UnsupportedMedia, WeightsMissing])
def test_codecs_that_refuse_are_left_out(error: type[Exception]) -> None:
    rig = Rig()

    def encode(codec: str, settings: Mapping[str, object], progress: Progress | None) -> File:
        if codec == "webp":
            raise error("no webp today")
        return rig.encode(codec, settings)

    assert search(PICTURE, ["webp", "jpeg"], {}, Target(bytes=50), encode, rig.decode).data[0] == 40
    with pytest.raises(error, match="no webp"):
        search(PICTURE, ["webp"], {}, Target(bytes=50), encode, rig.decode)


def test_progress_rises_to_one() -> None:
    seen: list[float] = []
    rig = Rig()
    search(PICTURE, ["jpeg", "webp"], {}, Target(psnr=30), rig.encode, rig.decode, lambda part, stage: seen.append(part))
    assert seen == sorted(seen)
    assert 0 < seen[0] <= seen[-1] <= 1


@pytest.mark.parametrize("values", [{}, {"psnr": 30, "bpp": 1}, {"bytes": 0}, {"psnr": math.nan}, {"bpp": -1}])
def test_a_target_is_one_positive_number(values: dict[str, float]) -> None:
    with pytest.raises(InvalidSettings, match="one positive number"):
        Target(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("codec", ["jpeg", "webp", "avif", "jxl"])
def test_real_codecs_meet_targets(codec: str) -> None:
    image = photograph(64, 80)
    encoded = compress.encode(image, codec, target=Target(psnr=41))
    assert encoded.codec == codec
    assert psnr(image, compress.decode(encoded.data)) >= 41
    quality = int(str(encoded.settings["quality"]))
    below = compress.encode(image, codec, {"quality": quality - 1})
    assert psnr(image, compress.decode(below.data)) < 41
    encoded = compress.encode(image, codec, target=Target(bytes=2500))
    assert len(encoded.data) <= 2500
    assert encoded.bpp == 8 * len(encoded.data) / image.pixels


def test_lossless_coding_wins_where_it_is_smaller() -> None:
    flat = Image(np.kron(np.eye(4, dtype=np.uint8) * 200, np.ones((16, 16), np.uint8))[..., None].repeat(3, axis=2))
    encoded = compress.encode(flat, "auto", {"effort": 3}, Target(psnr=50))
    assert encoded.settings["lossless"] is True
    assert "quality" not in encoded.settings


def test_16_bits_meet_a_psnr_losslessly() -> None:
    image = smooth(8, 9, 3, 16)
    encoded = compress.encode(image, "auto", {"effort": 3}, Target(psnr=90))
    assert encoded.codec == "jxl"
    assert psnr(image, compress.decode(encoded.data)) == math.inf
