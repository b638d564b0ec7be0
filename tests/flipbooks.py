"""Small moving pictures, and a codec for them that needs no encoder: for tests of what is around codecs."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
from pydantic import Field

from laconic.codecs.codec import CodecSettings, Progress, Stream
from laconic.codecs.errors import CorruptStream, UnsupportedMedia
from laconic.codecs.registry import CODECS
from laconic.codecs.signals import Signal, Video
from laconic.codecs.video.frames import GroupFrames, video_of_groups

__all__ = ["GROUP", "Flipbook", "clip", "clip_array", "flipbook"]

GROUP = 4  # frames


def clip_array(frames: int = 10, height: int = 24, width: int = 32, dtype: type[np.generic] = np.uint8) -> np.ndarray:
    """A bright square that moves over a slope, (T, H, W, 3)."""
    rows, columns = np.mgrid[:height, :width]
    slope = np.stack([3 * rows, 2 * columns, rows + columns], 2)
    video = np.stack([slope + t for t in range(frames)])
    for t in range(frames):
        video[t, 4:10, t : t + 6] = 240
    return (video * (np.iinfo(dtype).max // 255)).astype(dtype)


def clip(frames: int = 10, rate: Fraction | float = 25) -> Video:
    """The same as a `Video`."""
    return Video.of(clip_array(frames), rate)


class FlipbookSettings(CodecSettings):
    """Of `Flipbook`."""

    quality: float = Field(default=100, ge=0, le=100)


class Flipbook:
    """Groups of 4 frames, samples divided by a step and deflated: 100 is lossless."""

    id = "flipbook"
    signal = "video"
    lossless = False
    Settings = FlipbookSettings

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def encode(self, signal: Signal, settings: FlipbookSettings, progress: Progress | None = None) -> Stream:
        if not isinstance(signal, Video):
            raise UnsupportedMedia("flipbook takes video")
        step = 1 + int(100 - settings.quality) // 4
        chunks = tuple(self._chunks(signal, step, progress))
        return Stream(self.id, signal.shape, chunks, bit_depth=signal.bit_depth, params={16: step})

    def _chunks(self, video: Video, step: int, progress: Progress | None) -> Iterator[bytes]:
        for start in range(0, video.shape[0], GROUP):
            stop = min(start + GROUP, video.shape[0])
            frames = np.stack(list(video.source.read(start, stop)))
            yield zlib.compress((frames // step).tobytes())
            if progress:
                progress(stop / video.shape[0], "flipping")

    def decode(self, stream: Stream, progress: Progress | None = None) -> Signal:
        count, height, width, channels = stream.shape
        starts = tuple(range(0, count, GROUP))
        if len(starts) != len(stream.chunks):
            raise CorruptStream("the number of groups is wrong")
        dtype = np.uint8 if stream.bit_depth == 8 else np.uint16

        def decode(group: int) -> np.ndarray:
            frames = min(GROUP, count - starts[group])
            size = frames * height * width * channels * (stream.bit_depth // 8)
            try:
                samples = zlib.decompressobj().decompress(stream.chunks[group], size)
            except zlib.error as error:
                raise CorruptStream(str(error)) from error
            if len(samples) != size:
                raise CorruptStream("a group is too short")
            return np.frombuffer(samples, dtype).reshape(frames, height, width, channels) * dtype(stream.params[16])

        shape = (count, height, width, channels)
        return video_of_groups(GroupFrames(shape, stream.bit_depth, starts, decode, stream.lost))


@pytest.fixture
def flipbook(monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of the codec, which is registered while the test lasts."""
    monkeypatch.setitem(CODECS, Flipbook.id, f"{__name__}:Flipbook")
    return Flipbook.id
