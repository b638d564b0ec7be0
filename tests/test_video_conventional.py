"""The conventional video codecs: every shape and depth, groups, seeking, salvage, damage, determinism, targets."""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from laconic.codecs import compress, container, media
from laconic.codecs.codec import Codec
from laconic.codecs.errors import Cancelled, CorruptStream, InvalidSettings, LaconicError, UnsupportedMedia
from laconic.codecs.limits import Limits
from laconic.codecs.metrics import psnr
from laconic.codecs.registry import open_codec
from laconic.codecs.signals import Colour, Samples, Signal, Video

from .checks import check_rejects
from .pictures import photograph, smooth

CODECS = ("av1", "hevc", "h264")
LOSSLESS = ("hevc", "h264")


def clip(frames: int = 12, height: int = 72, width: int = 80, bits: int = 8) -> Video:
    """A window that moves over a photograph, and gets brighter."""
    picture = photograph().array.astype(np.float64) / 255
    windows = [picture[at % 30 : at % 30 + height, at : at + width] * (0.7 + 0.02 * at) for at in range(frames)]
    scaled = np.clip(np.round(np.stack(windows) * (2**bits - 1)), 0, 2**bits - 1)
    return Video.of(scaled.astype(np.uint8) if bits == 8 else scaled.astype(np.uint16))


def still(frames: int, height: int, width: int) -> Video:
    """Smooth frames of any size, which differ."""
    picture = smooth(height, width).array
    return Video.of(np.stack([np.roll(picture, at, axis=1) for at in range(frames)]))


def coded(codec: str, video: Video, **settings: object) -> bytes:
    return compress.encode(video, codec, settings, device="cpu").data


def restored(data: bytes, **options: Any) -> Video:
    signal = compress.decode(data, device="cpu", **options)
    assert isinstance(signal, Video)
    return signal


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 72, 80), (2, 7, 130), (5, 65, 67)])
def test_every_size_comes_back(codec: str, shape: tuple[int, int, int]) -> None:
    video = still(*shape)
    decoded = restored(coded(codec, video, quality=90))
    assert decoded.shape == video.shape and decoded.array.dtype == np.uint8
    assert psnr(video, decoded) > 38
    assert all(np.abs(a.astype(int) - b).mean() < 4 for a, b in zip(video.array, decoded.array, strict=True)), "order of frames"


@pytest.mark.parametrize("codec", LOSSLESS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 9, 131), (6, 72, 80)])
def test_lossless_is_exact(codec: str, shape: tuple[int, int, int]) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
    for video in (still(*shape), Video.of(noise)):
        data = coded(codec, video, lossless=True)
        assert np.array_equal(restored(data).array, video.array)


@pytest.mark.parametrize("codec", CODECS)
def test_16_bits_are_coded_in_10(codec: str) -> None:
    video = clip(bits=16)
    decoded = restored(coded(codec, video, quality=95))
    assert decoded.bit_depth == 16 and psnr(video, decoded) > 40
    less = restored(coded(codec, video, quality=95, depth="8"))
    assert less.bit_depth == 16 and psnr(video, less) < psnr(video, decoded)
    if codec in LOSSLESS:
        with pytest.raises(UnsupportedMedia, match="8-bit samples exactly"):
            coded(codec, video, lossless=True)


@pytest.mark.parametrize("codec", CODECS)
def test_settings_order_size_and_psnr(codec: str) -> None:
    video = clip(8)
    files = [coded(codec, video, quality=quality) for quality in (0, 25, 50, 75, 100)]
    ratios = [psnr(video, restored(file)) for file in files]
    assert sorted(map(len, files)) == list(map(len, files)) and sorted(ratios) == ratios
    assert ratios[0] < 36 and ratios[-1] > 39
    for effort in (1, 9):
        assert psnr(video, restored(coded(codec, video, effort=effort))) > 32


@pytest.mark.parametrize("codec", LOSSLESS)
def test_whole_chroma_is_nearer(codec: str) -> None:
    video = still(3, 40, 48)
    video.array[..., 0] = np.where(np.indices(video.shape[1:3]).sum(0) % 2, 30, 220)  # red in every other pixel
    ratios = [psnr(video, restored(coded(codec, video, quality=95, chroma=chroma))) for chroma in ("420", "444")]
    assert ratios[1] > ratios[0] + 6


@pytest.mark.parametrize(
    "colour", [Colour(), Colour(1, 1, 1), Colour(9, 14, 9), Colour(1, 13, 6, True), Colour(2, 2, 0), Colour(8, 8, 8)]
)
def test_colour_is_kept_and_used(colour: Colour) -> None:
    video = replace(clip(3), colour=colour)
    decoded = restored(coded("h264", video, quality=95))
    assert decoded.colour == colour and psnr(video, decoded) > 36
    stream = container.read(coded("h264", replace(video, colour=Colour(1, 1, 1)), quality=95))
    assert stream.video is not None
    other = open_codec("h264").decode(replace(stream, video=replace(stream.video, colour=Colour(1, 1, 1, True))))
    assert psnr(video, other) < 36  # the header's colour is the one that decoding uses


@pytest.mark.parametrize("codec", CODECS)
def test_sound_times_and_rate_pass_through(codec: str) -> None:
    times = np.array([0, 9, 3003, 90_000, 2**31, 2**31 + 1], np.int64)
    for rate in (Fraction(30_000, 1001), Fraction(1, 1000), Fraction(2**31 - 1), Fraction(1, 2**31 - 1)):
        video = replace(clip(6), times=times, rate=rate, metadata={"audio": b"the sound"})
        decoded = restored(coded(codec, video, effort=1))
        assert decoded.times is not None and np.array_equal(decoded.times, times)
        assert (decoded.rate, decoded.metadata) == (rate, {"audio": b"the sound"})


@pytest.mark.parametrize("codec", CODECS)
def test_seeking_equals_decoding_all(codec: str) -> None:
    video = clip(17)
    data = coded(codec, video, frames=5, effort=2)
    assert len(container.read(data).chunks) == 4
    decoded = restored(data, whole=False)
    every = decoded.array
    assert psnr(video, decoded) > 32
    for start, stop in ((0, 1), (4, 6), (7, 8), (5, 10), (16, 17), (3, 17)):
        assert np.array_equal(decoded.frames(start, stop).array, every[start:stop])


@pytest.mark.parametrize("codec", CODECS)
def test_groups_are_decoded_only_as_they_are_asked_for(codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = restored(coded(codec, clip(12), frames=4, effort=2), whole=False)
    asked: list[int] = []
    decode = decoded.source.decode  # type: ignore[attr-defined]
    object.__setattr__(decoded.source, "decode", lambda group: asked.append(group) or decode(group))
    decoded.frames(5, 7)
    assert asked == [1]
    next(decoded.source.read(7, 12))
    assert asked == [1, 1]


@pytest.mark.parametrize("codec", CODECS)
def test_damage_costs_one_group(codec: str) -> None:
    video = clip(12)
    data = coded(codec, video, frames=4, effort=2)
    every = restored(data).array
    second = [chunk for chunk in container.describe(data).chunks if chunk.type == "payload"][1]
    damaged = bytearray(data)
    damaged[second.offset + second.length // 2] ^= 4
    with pytest.raises(CorruptStream, match="group of frames 1 of 3"):
        restored(bytes(damaged))
    left = restored(bytes(damaged), salvage=True)
    assert left.lost == ((4, 8),)
    assert np.array_equal(left.array[:4], every[:4]) and np.array_equal(left.array[8:], every[8:])
    assert all(np.array_equal(frame, every[3]) for frame in left.array[4:8])
    cut = restored(data[: second.offset + second.length], salvage=True)
    assert cut.lost == ((4, 8), (8, 12))


def test_files_that_are_cut_or_flipped() -> None:
    for codec in CODECS:
        data = coded(codec, clip(3), effort=2)

        def decode(damaged: bytes) -> None:
            compress.test(damaged, Limits(max_pixels=10**6), "cpu")

        raised = check_rejects(data, flips=60, truncations=60, open_file=decode)
        assert raised > 100  # every truncation, and nearly every flip: checksums see them


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("codec", CODECS)
def test_payloads_damaged_behind_right_checksums(codec: str, lossless: bool) -> None:
    if lossless and codec not in LOSSLESS:
        return
    stream = container.read(coded(codec, clip(3, 66, 70), effort=2, **({"lossless": True} if lossless else {"quality": 40})))

    def decode(payload: bytes) -> None:
        compress.test(container.write(replace(stream, chunks=(payload,))), Limits(max_pixels=10**6), "cpu")

    check_rejects(stream.chunks[0], flips=150, truncations=40, open_file=decode)


@pytest.mark.parametrize("codec", CODECS)
def test_payloads_that_contradict_the_header(codec: str) -> None:
    stream = container.read(coded(codec, clip(6), frames=3, effort=2))
    decoder = open_codec(codec)

    def decode(**changes: Any) -> Signal:
        signal = decoder.decode(replace(stream, **changes))
        assert isinstance(signal, Video)
        for _ in signal.source.read(0, signal.shape[0]):
            pass
        return signal

    decode()
    other = container.read(coded(codec, clip(3, 90, 110), effort=2)).chunks[0]
    short = container.read(coded(codec, clip(2), effort=2)).chunks[0]
    longer = container.read(coded(codec, clip(4), effort=2)).chunks[0]
    for chunk in (other, short, longer, b"", b"\0", bytes(40), b"\xff" * 40):
        with pytest.raises(CorruptStream):
            decode(chunks=(stream.chunks[0], chunk))
    for changes in (
        {"shape": (7, 72, 80, 3)},
        {"shape": (3, 72, 80, 3)},
        {"shape": (6, 74, 80, 3)},
        {"params": {16: 2}},
        {"params": {16: 0}},
        {"params": {16: True}},
        {"params": {16: [3]}},
        {"params": {}},
        {"chunks": ()},
    ):
        with pytest.raises(CorruptStream):
            decode(**changes)


PROGRAM = """
import hashlib, sys
from laconic.codecs import compress
from tests.test_video_conventional import CODECS, clip
for codec in CODECS:
    for settings in ({"effort": 6}, {"lossless": True}) if codec != "av1" else ({"effort": 6}, {"depth": "8"}):
        print(hashlib.sha256(compress.encode(clip(10, 70, 100), codec, settings, device="cpu").data).hexdigest())
"""


def test_bytes_are_the_same_in_every_process() -> None:
    """Memory is filled with other bytes in each: encoders that read what was not written would show it."""
    outputs = []
    for fill in ("1", "85"):
        environment = {**os.environ, "MALLOC_PERTURB_": fill, "SVT_LOG": "0"}
        done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
        assert done.stderr == "", "encoders write nothing by themselves"
        outputs.append(done.stdout.split())
    assert outputs[0] == outputs[1] and len(outputs[0]) == 6


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the system does not tell threads' priorities")
def test_encoders_take_no_priority() -> None:
    """SVT-AV1 gives itself and its caller the highest one where it may: as root."""
    seen: set[int] = set()

    def progress(part: float, stage: str) -> None:
        for task in Path("/proc/self/task").iterdir():
            with contextlib.suppress(ProcessLookupError):
                seen.add(os.sched_getscheduler(int(task.name)))

    compress.encode(clip(9), "av1", {"effort": 1, "frames": 5}, progress=progress, device="cpu")
    progress(1.0, "")
    media.write(clip(2, bits=16), "webm")
    progress(1.0, "")
    assert seen == {os.SCHED_OTHER}


@pytest.mark.parametrize("codec", CODECS)
def test_progress_can_stop_the_work(codec: str) -> None:
    seen: list[float] = []

    def progress(part: float, stage: str) -> None:
        seen.append(part)
        if part > 0.5:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        compress.encode(clip(12), codec, {"frames": 4, "effort": 1}, progress=progress, device="cpu")
    assert seen == sorted(seen) and len(seen) == 8


def test_frames_are_read_once_and_in_order() -> None:
    video = clip(9)
    read: list[int] = []

    class Source:
        shape, bit_depth = video.source.shape, 8

        def read(self, start: int, stop: int) -> Iterator[Samples]:
            for number in range(start, stop):
                read.append(number)
                yield video.array[number]

    coded("h264", Video(Source()), frames=4)
    assert read == list(range(9))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    ("settings", "words"),
    [({"quality": 101}, "quality.*100"), ({"frames": 0}, "frames"), ({"depth": "9"}, "depth"), ({"kbps": 3}, "kbps")],
)
def test_wrong_settings(codec: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidSettings, match=words):
        compress.encode(clip(1), codec, settings)


def test_av1_is_not_lossless() -> None:
    with pytest.raises(InvalidSettings, match="no lossless coding; hevc, h264 have"):
        coded("av1", clip(1), lossless=True)
    with pytest.raises(InvalidSettings, match="quality"):
        coded("hevc", clip(1), lossless=True, quality=5)


def test_codecs_keep_to_the_protocol() -> None:
    for codec in CODECS:
        assert isinstance(open_codec(codec), Codec)
        schema = open_codec(codec).Settings.model_json_schema()
        assert all(entry["description"] for entry in schema["properties"].values())
        with pytest.raises(UnsupportedMedia, match="takes video"):
            compress.encode(photograph(), codec)


def test_auto_is_av1_and_losslessly_the_smallest() -> None:
    video = clip(4)
    assert compress.encode(video, settings={"effort": 1}).codec == "av1"
    sizes = {codec: len(coded(codec, video, lossless=True, effort=3)) for codec in LOSSLESS}
    smallest = compress.encode(video, settings={"lossless": True, "effort": 3})
    assert len(smallest.data) == min(sizes.values()) == sizes[smallest.codec]
    assert math.isinf(psnr(video, compress.decode(smallest.data)))


def test_a_third_kind_of_signal_is_no_error_of_the_program() -> None:
    with pytest.raises(LaconicError):
        open_codec("h264").decode(replace(container.read(coded("h264", clip(1))), shape=(72, 80, 3)))
