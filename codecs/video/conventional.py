"""What the conventional video codecs share: every payload chunk is what an encoder made of a group of frames.

Each group is coded for itself and begins with a key frame, so that seeking and damage touch one group. Frames are padded to
even sides of at least `LEAST_SIDE`, which 4:2:0 and the encoders need, and cut to the header's size after decoding. The
matrix and range of the header's colour convert between RGB and YUV, so that what was YUV before loses least.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import Any, Literal, Self, cast

import numpy as np
from pydantic import Field, model_validator

from ..codec import CodecSettings, Progress, Stream
from ..errors import CorruptStream, UnsupportedMedia
from ..signals import Colour, Samples, Video
from .ffmpeg import decode_frames, encode_frames
from .frames import GroupFrames, video_of_groups

__all__ = [
    "PRESETS",
    "Coding",
    "LossyOrLosslessVideo",
    "VideoSettings",
    "decode_groups",
    "encode_groups",
    "pixel_format",
    "refuse_lossless",
]

PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")  # efforts 1 to 9
GROUP, DEFAULT_GROUP = 16, 256  # the parameter that holds the frames of a group, and what it is where it is left out
LEAST_SIDE = 64  # x265 writes beyond its memory for frames of fewer than 50 columns
RATES = Fraction(1), Fraction(240)  # frames per second that encoders are told: they refuse others, and it matters little


class VideoSettings(CodecSettings):
    """Settings that all conventional video codecs have."""

    quality: float = Field(60, ge=0, le=100, description="0 (smallest file) to 100 (best video); parts of one count")
    effort: int = Field(6, ge=1, le=9, description="1 (fastest) to 9 (smallest file)")
    depth: Literal["8", "10"] | None = Field(None, description="bits per sample inside; not given: as suits codec and video")
    frames: int = Field(
        DEFAULT_GROUP, ge=1, le=4096, description="frames of a group, which seeking decodes and damage costs: fewer cost bits"
    )


class LossyOrLosslessVideo(VideoSettings):
    """Settings of a codec that codes lossily at a quality, or losslessly."""

    lossless: bool = Field(False, description="keep every sample exactly; 8 bits only")
    chroma: Literal["420", "444"] = Field(
        "420", description="420 halves the colour planes both ways, 444 keeps them whole; lossy only"
    )

    @model_validator(mode="after")
    def _not_both(self) -> Self:
        if self.lossless and "quality" in self.model_fields_set:
            raise ValueError("lossless coding has no quality: give one of the two")
        return self


@dataclass(frozen=True)
class Coding:
    """How an encoder of FFmpeg is run, and what packets lose of what decoding does without."""

    encoder: str
    options: Mapping[str, str]
    pixel_format: str
    stripped: Callable[[bytes], bytes] = bytes


def pixel_format(chroma: str, deep: bool) -> str:
    """Return FFmpeg's name of YUV with chroma "420" or "444" in 8 bits, or in 10."""
    return f"yuv{chroma}p" + ("10le" if deep else "")


def refuse_lossless(video: Video) -> None:
    """Raise `UnsupportedMedia` for 16 bits, of which the encoders would keep 12."""
    if video.bit_depth > 8:
        raise UnsupportedMedia("the encoders keep 8-bit samples exactly, not 16-bit ones")


def encode_groups(codec: str, video: Video, coding: Coding, length: int, progress: Progress | None) -> Stream:
    """Return the stream of a video in groups of `length` frames, read one after the other.

    Raises `UnsupportedMedia` where the encoder refuses, and what reading and `progress`, called for every frame, raise.
    """
    count = video.shape[0]
    frames = _reported(video.source.read(0, count), count, codec, progress)
    options = {**coding.options, "g": str(length)}
    rate = min(max(video.rate, RATES[0]), RATES[1]).limit_denominator(1001)
    chunks = [
        encode_frames(
            map(_padded, islice(frames, length)),
            rate,
            coding.encoder,
            options,
            coding.pixel_format,
            video.colour,
            stripped=coding.stripped,
        )
        for _ in range(0, count, length)
    ]
    params = {} if length == DEFAULT_GROUP else {GROUP: length}
    return Stream(codec, video.shape, tuple(chunks), bit_depth=video.bit_depth, params=params)


def decode_groups(stream: Stream, decoder: str, progress: Progress | None) -> Video:
    """Return the video in a stream, whose groups FFmpeg's `decoder` restores as their frames are asked for.

    Raises `CorruptStream`, here and where frames are read.
    """
    length = stream.params.get(GROUP, DEFAULT_GROUP)
    if type(length) is not int or len(stream.shape) != 4 or not 0 < length < 2**32:
        raise CorruptStream(f"a {stream.codec} stream holds a video in groups of frames")
    count, height, width = stream.shape[:3]
    if len(stream.chunks) != -(-count // length):
        raise CorruptStream(f"{count} frames in groups of {length} are not {len(stream.chunks)} groups")
    colour = stream.video.colour if stream.video else Colour()
    padded = max(LEAST_SIDE, height + height % 2), max(LEAST_SIDE, width + width % 2)

    def decode(group: int) -> Iterator[Samples]:
        here = min(length, count - group * length)
        for frame in decode_frames(stream.chunks[group], decoder, (here, *padded, 3), stream.bit_depth, colour):
            yield frame[:height, :width]

    if progress:
        progress(1.0, stream.codec)
    starts = tuple(range(0, count, length))
    return video_of_groups(GroupFrames((count, height, width, 3), stream.bit_depth, starts, decode, stream.lost))


def _reported(frames: Iterator[Samples], count: int, codec: str, progress: Progress | None) -> Iterator[Samples]:
    for number, frame in enumerate(frames):
        if progress:
            progress(number / count, codec)
        yield frame
    if progress:
        progress(1.0, codec)


def _padded(frame: Samples) -> Samples:
    """Return a frame whose last row and column are repeated up to sides that encoders take."""
    height, width = frame.shape[:2]
    rows, columns = (max(LEAST_SIDE - side, side % 2) for side in (height, width))
    return cast(Samples, np.pad(cast(Any, frame), ((0, rows), (0, columns), (0, 0)), "edge")) if rows or columns else frame
