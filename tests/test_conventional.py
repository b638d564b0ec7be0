"""The conventional codecs: every kind of picture, determinism, damage, and payloads that lie about their size."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from laconic.codecs import compress, container, media
from laconic.codecs.codec import Codec
from laconic.codecs.errors import CorruptStream, InvalidSettings, UnsupportedMedia
from laconic.codecs.metrics import psnr
from laconic.codecs.registry import open_codec
from laconic.codecs.signals import Image

from .checks import check_batches, check_deterministic, check_rejects, check_round_trip
from .pictures import noisy, odd_pictures, photograph, smooth

CODECS = ("jpeg", "webp", "avif", "jxl")
LOSSLESS = ("webp", "avif", "jxl")


def takes(codec: str, image: Image) -> bool:
    return not (codec == "jpeg" and image.has_alpha)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("name", odd_pictures())
def test_lossy_round_trip(codec: str, name: str) -> None:
    image = odd_pictures()[name]
    if not takes(codec, image):
        with pytest.raises(UnsupportedMedia, match="alpha channel; avif, jxl"):
            compress.encode(image, codec)
        return
    settings: dict[str, object] = {"quality": 90} | ({"chroma": "444"} if codec in ("jpeg", "avif") else {})
    least = {"smooth": 30, "noisy": 6}[name.split("-")[0]]
    data = check_round_trip(codec, image, settings, least)
    assert len(data) < image.array.nbytes + 800


@pytest.mark.parametrize("codec", LOSSLESS)
@pytest.mark.parametrize("name", odd_pictures())
def test_lossless_round_trip(codec: str, name: str) -> None:
    check_round_trip(codec, odd_pictures()[name], {"lossless": True})


@pytest.mark.parametrize("name", odd_pictures(16))
def test_16_bits_lossless(name: str) -> None:
    check_round_trip("jxl", odd_pictures(16)[name], {"lossless": True})


@pytest.mark.parametrize("codec", CODECS)
def test_16_bits_are_refused_where_they_would_be_lost(codec: str) -> None:
    with pytest.raises(UnsupportedMedia, match="16-bit samples; npy, png and ppm files and lossless jxl"):
        compress.encode(smooth(4, 4, 3, 16), codec)


@pytest.mark.parametrize("codec", LOSSLESS)
def test_opaque_alpha_stays_a_channel(codec: str) -> None:
    image = smooth(9, 8, 4)
    image.array[..., 3] = 255
    check_round_trip(codec, image, {"lossless": True})


@pytest.mark.parametrize("codec", ["webp", "jxl"])
def test_alpha_of_lossy_coding_is_exact(codec: str) -> None:
    image = noisy(20, 21, 4)
    decoded = compress.decode(compress.encode(image, codec, {"quality": 10}).data)
    assert np.array_equal(decoded.array[..., 3], image.array[..., 3])


@pytest.mark.parametrize("codec", CODECS)
def test_quality_orders_size_and_psnr(codec: str) -> None:
    image = photograph()
    files = [compress.encode(image, codec, {"quality": quality}) for quality in (0, 30, 60, 90, 100)]
    sizes = [len(file.data) for file in files]
    qualities = [psnr(image, compress.decode(file.data)) for file in files]
    assert sizes == sorted(sizes)
    assert qualities == sorted(qualities)
    assert 15 < qualities[0] < 30
    assert 35 < qualities[-1] < math.inf


@pytest.mark.parametrize("codec", ["webp", "avif", "jxl"])
def test_effort_is_accepted_at_both_ends(codec: str) -> None:
    image = photograph(32, 32)
    for effort in (1, 9):
        assert compress.decode(compress.encode(image, codec, {"effort": effort}).data).shape == image.shape


@pytest.mark.parametrize("codec", CODECS)
def test_runs_and_threads_agree(codec: str) -> None:
    check_deterministic(codec, photograph(), {"quality": 50})


@pytest.mark.parametrize("codec", CODECS)
def test_many_at_once_agree_with_one_by_one(codec: str) -> None:
    check_batches(codec, [photograph(40, 50), smooth(9, 9), noisy(8, 5, 1), photograph(40, 50)], {"quality": 40})


@pytest.mark.parametrize("codec", CODECS)
def test_damaged_files(codec: str) -> None:
    data = compress.encode(photograph(40, 48), codec).data
    raised = check_rejects(data, flips=500, truncations=len(data))
    assert raised > len(data) + 450  # every truncation, and nearly every flip: checksums see them


@pytest.mark.parametrize(("codec", "lossless"), [(c, False) for c in CODECS] + [(c, True) for c in LOSSLESS])
def test_damaged_payloads_behind_right_checksums(codec: str, lossless: bool) -> None:
    settings = {"lossless": True} if lossless else {"quality": 50}
    stream = container.read(compress.encode(photograph(40, 48), codec, settings).data)

    def decode(payload: bytes) -> None:
        compress.decode(container.write(replace(stream, chunks=(payload,))))

    check_rejects(stream.chunks[0], flips=300, truncations=100, open_file=decode)


@pytest.mark.parametrize("codec", CODECS)
def test_payloads_that_contradict_the_header(codec: str) -> None:
    stream = container.read(compress.encode(smooth(16, 16), codec).data)
    larger = media.write(smooth(64, 64), codec, 50)
    smaller = media.write(smooth(8, 16), codec, 50)
    other = media.write(smooth(16, 16), "png")
    deep = media.write(smooth(16, 16, 3, 16), "png")
    for chunks in ((larger,), (smaller,), (other,), (deep,), (), stream.chunks * 2, (b"",)):
        with pytest.raises(CorruptStream):
            open_codec(codec).decode(replace(stream, chunks=chunks))


def test_a_jpeg_payload_of_two_depths() -> None:
    stream = container.read(compress.encode(smooth(16, 16, 3, 16), "jxl", {"lossless": True}).data)
    with pytest.raises(CorruptStream, match="16 bits"):
        open_codec("jxl").decode(replace(stream, bit_depth=8))


def test_pictures_that_are_too_wide_for_webp() -> None:
    with pytest.raises(UnsupportedMedia, match="webp cannot hold"):
        compress.encode(Image(np.zeros((1, 16_384, 3), np.uint8)), "webp")


def test_native_files_hold_no_metadata() -> None:
    for codec in CODECS:
        image = Image(smooth(8, 8).array, {"icc": b"unlikely words in a profile"})
        stream = container.read(compress.encode(image, codec).data)
        assert b"unlikely" not in stream.chunks[0]
        assert stream.metadata == image.metadata


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"quality": 101}, "quality.*100"),
        ({"quality": "high"}, "quality"),
        ({"kbps": 3}, "kbps.*settings are quality"),
    ],
)
def test_wrong_settings(codec: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidSettings, match=words):
        compress.encode(smooth(4, 4), codec, settings)


def test_codecs_keep_to_the_protocol() -> None:
    for codec in CODECS:
        assert isinstance(open_codec(codec), Codec)
        schema = open_codec(codec).Settings.model_json_schema()
        assert all(entry["description"] for entry in schema["properties"].values())
