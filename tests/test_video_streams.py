"""Videos in .lcn files: the header, salvage of what damage leaves, frames by the group, times."""

from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laconic.codecs import container
from laconic.codecs.codec import Stream, VideoFacts
from laconic.codecs.compress import finished
from laconic.codecs.errors import CorruptStream, LaconicError, LimitExceeded
from laconic.codecs.limits import Limits
from laconic.codecs.metrics import psnr
from laconic.codecs.signals import ArrayFrames, Colour, Image, Samples, Video
from laconic.codecs.video.frames import GroupFrames, video_of_groups
from laconic.codecs.video.timing import pack_times, unpack_times

CLIP = Stream(
    "video-inr",
    (7, 6, 9, 3),
    tuple(bytes([number]) * (40 + number) for number in range(4)),
    params={16: [0, 2, 4, 6]},
    metadata={"times": bytes([3]) * 6, "audio": b"the sound" * 20},
    video=VideoFacts(Fraction(30_000, 1001), Colour(1, 13, 1, True)),
)


def test_what_a_header_says_of_a_video_comes_back() -> None:
    assert container.read(container.write(CLIP)) == CLIP
    plain = replace(CLIP, video=VideoFacts(Fraction(25), Colour()))
    data = container.write(plain)
    assert container.read(data) == plain
    assert len(data) < len(container.write(CLIP))  # colour that is the default is left out
    description = container.describe(data)
    assert (description.shape, description.rate) == ((7, 6, 9, 3), 25.0)
    assert [chunk.type for chunk in description.chunks] == [
        "header",
        "header copy",
        "index",
        "times",
        "audio",
        *4 * ["payload"],
    ]


@pytest.mark.parametrize(
    ("rate", "shape"), [(Fraction(2**31), CLIP.shape), (Fraction(25), (0, 6, 9, 3)), (Fraction(25), (7, 6, 9, 4))]
)
def test_a_video_that_the_format_cannot_hold_is_refused(rate: Fraction, shape: tuple[int, ...]) -> None:
    with pytest.raises(CorruptStream):
        container.write(replace(CLIP, shape=shape, video=VideoFacts(rate, Colour())))


def test_a_damaged_byte_costs_one_group_wherever_it_is() -> None:
    data = container.write(CLIP)
    for at, bit in itertools.product(range(len(data)), (0, 3, 7)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << bit
        read = container.read(bytes(damaged), salvage=True)
        assert len(read.lost) <= 1, (at, bit)
        assert (read.codec, read.shape, read.video, read.params) == (CLIP.codec, CLIP.shape, CLIP.video, CLIP.params)
        for number, chunk in enumerate(read.chunks):
            assert chunk == (b"" if number in read.lost else CLIP.chunks[number])
        assert all(payload == CLIP.metadata[name] for name, payload in read.metadata.items())


def test_a_file_cut_short_keeps_its_whole_groups() -> None:
    data = container.write(CLIP)
    ends = [chunk.offset + chunk.length + 4 for chunk in container.describe(data).chunks if chunk.type == "payload"]
    for size in range(len(data)):
        whole = sum(end <= size for end in ends)
        if whole:
            assert container.read(data[:size], salvage=True).lost == frozenset(range(whole, 4))
        else:
            with pytest.raises(CorruptStream):
                container.read(data[:size], salvage=True)


def test_without_salvage_the_error_names_the_group() -> None:
    data = bytearray(container.write(CLIP))
    data[container.describe(bytes(data)).chunks[-2].offset] ^= 1
    with pytest.raises(CorruptStream, match="group of frames 2 of 4 is damaged"):
        container.read(bytes(data))


def test_limits_of_a_video() -> None:
    data = container.write(CLIP)
    for limits in (Limits(max_frames=6), Limits(max_pixels=53), Limits(max_audio_bytes=179)):
        with pytest.raises(LimitExceeded):
            container.read(data, limits)


def _groups(lost: frozenset[int] = frozenset()) -> tuple[GroupFrames, Samples, list[int]]:
    """Return frames in groups of 3, 2 and 5, the same in memory, and the groups that were decoded so far."""
    array = np.random.default_rng(0).integers(0, 256, (10, 2, 3, 3), np.uint8)
    starts, decoded = (0, 3, 5), list[int]()

    def decode(group: int) -> Samples:
        decoded.append(group)
        return array[starts[group] : (*starts, 10)[group + 1]]

    return GroupFrames((10, 2, 3, 3), 8, starts, decode, lost), array, decoded


@pytest.mark.parametrize(("start", "stop"), list(itertools.combinations(range(11), 2)))
def test_frames_are_read_from_their_groups_only(start: int, stop: int) -> None:
    source, array, decoded = _groups()
    assert np.array_equal(Video(source).frames(start, stop).array, array[start:stop])
    assert decoded == [group for group, (a, b) in enumerate(((0, 3), (3, 5), (5, 10))) if a < stop and b > start]


def test_lost_groups_repeat_the_frame_before_them() -> None:
    source, array, _ = _groups(frozenset({1}))
    video = video_of_groups(source)
    assert video.lost == ((3, 5),)
    shown = array.copy()
    shown[3:5] = array[2]
    assert np.array_equal(video.array, shown)
    for start, stop in itertools.combinations(range(11), 2):
        part = video.frames(start, stop)
        assert np.array_equal(part.array, shown[start:stop])
        assert [frame for a, b in part.lost for frame in range(a + start, b + start)] == [
            frame for frame in (3, 4) if start <= frame < stop
        ]


def test_lost_groups_at_the_start_are_grey() -> None:
    source, array, _ = _groups(frozenset({0, 1}))
    video = video_of_groups(source)
    assert (video.array[:5] == 128).all()
    assert np.array_equal(video.array[5:], array[5:])


@given(st.lists(st.integers(1, 2**31 - 1), max_size=30))
def test_times_come_back(steps: list[int]) -> None:
    times = np.cumsum(np.array([0, *steps], np.int64))
    assert np.array_equal(unpack_times(pack_times(times), times.size), times)


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\x01\x01\x01",
        b"\x01\x00",
        b"\x01\x80",
        b"\x01\x81\x00",
        b"\x01" + b"\xff" * 9 + b"\x01",
        b"\x01\xff\xff\xff\xff\x7f",
    ],
)
def test_malformed_times_are_corrupt(packed: bytes) -> None:
    with pytest.raises(CorruptStream):
        unpack_times(packed, 3)


@given(st.binary(max_size=40), st.integers(1, 12))
def test_times_from_any_bytes_ascend_or_are_corrupt(packed: bytes, count: int) -> None:
    try:
        times = unpack_times(packed, count)
    except LaconicError:
        return
    assert times.shape == (count,) and times[0] == 0 and (np.diff(times) > 0).all()


def test_a_decoded_video_gets_what_the_stream_says_of_it() -> None:
    array = np.zeros((7, 6, 9, 3), np.uint8)
    video = finished(Video(ArrayFrames(array)), CLIP)
    assert isinstance(video, Video) and video.times is not None
    assert (video.rate, video.colour) == (CLIP.video.rate, CLIP.video.colour) if CLIP.video else False
    assert video.times.tolist() == list(range(0, 21, 3))
    assert video.metadata == {"audio": CLIP.metadata["audio"]}
    with pytest.raises(CorruptStream):
        finished(Image(array[0]), CLIP)


def test_the_ratio_of_videos_is_the_mean_of_their_frames() -> None:
    rng = np.random.default_rng(1)
    one = rng.integers(0, 256, (3, 16, 16, 3), np.uint8)
    other = one.copy()
    other[0, 0, 0, 0] ^= 1
    other[1] ^= 3
    ratios = [psnr(Image(a), Image(b)) for a, b in zip(one[:2], other[:2], strict=True)]
    assert psnr(Video.of(one), Video.of(other)) == pytest.approx((sum(ratios) + 100) / 3)
    assert psnr(Video.of(one), Video.of(one)) == np.inf


@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 2, 3, 4), (0, 2, 3, 3), (1, 2, 3, 1)])
def test_frames_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="T x H x W x 3"):
        ArrayFrames(np.zeros(shape, np.uint8))


def test_times_of_a_video_ascend_from_zero() -> None:
    array = np.zeros((3, 2, 2, 3), np.uint8)
    for times in ([0, 1], [1, 2, 3], [0, 2, 2]):
        with pytest.raises(ValueError, match="ascend from 0"):
            Video(ArrayFrames(array), times=np.array(times, np.int64))
    assert Video(ArrayFrames(array), Fraction(25), np.array([0, 9000, 27_000], np.int64)).seconds == pytest.approx(0.34)
