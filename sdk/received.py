"""Videos and sound from a service: samples travel as NPY, and the rest is in the .lcn file, which the client has."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from .codecs import compress, container
from .codecs.errors import InvalidSettings, LaconicError
from .codecs.limits import Limits
from .codecs.parts import FrameRange, SecondsRange, span_of, span_of_seconds
from .codecs.signals import ArrayFrames, ArraySamples, Audio, AudioSamples, Samples, Video
from .codecs.video.frames import GroupFrames, video_of_groups
from .protocol import expected_form

if TYPE_CHECKING:
    import httpx

    from .codecs.codec import Stream

__all__ = ["LOST", "contents_of", "default_type", "part_asked", "received", "received_sound"]

LOST = "X-Laconic-Lost"  # the header of an answer that names lost frames or samples: "32:64, 96:100"


def contents_of(stream: bytes, salvage: bool) -> Stream | None:
    """Return what a file holds before it is decoded; None for one that a service is to refuse in its own words.

    Raises `CorruptStream` for a damaged video or sound.
    """
    try:
        return container.read(stream, Limits(max_input_bytes=len(stream), max_pixels=2**62, max_frames=2**62), salvage)
    except LaconicError:
        if _kind(stream) != "image":
            raise
        return None


def default_type(start: bytes) -> str:
    """Return the media type that a file, of which the first 128 KiB are enough, is decoded to unless another is asked for."""
    return {"image": "image/png", "video": "video/mp4", "audio": "audio/wav"}[_kind(start)]


def _kind(start: bytes) -> str:
    try:
        header = container.read_header(start)
    except LaconicError:
        return "image"
    return "video" if header.video else "audio" if header.audio else "image"


def part_asked(
    stream: Stream | None, frames: FrameRange | None, seconds: SecondsRange | None
) -> tuple[dict[str, str], tuple[int, int] | None]:
    """Return how a service is asked for a part of a file, and its first frame or sample and the one after its last.

    None of both is no part. Raises `InvalidSettings` for what is not there.
    """
    if frames is not None:
        if stream is None or not stream.video:
            raise InvalidSettings("frames are parts of a video, and the file holds none")
        start, stop = span_of(frames, stream.shape[0])
        return {"frames": f"{start}:{stop}"}, (start, stop)
    if seconds is not None:
        if stream is None or not stream.audio:
            raise InvalidSettings("seconds are parts of sound, and the file holds none")
        start, stop = span_of_seconds(seconds, stream.audio.rate, stream.shape[1])
        return {"seconds": f"{start / stream.audio.rate:.9f}:{stop / stream.audio.rate:.9f}"}, (start, stop)
    return {}, None


def received_sound(stream: Stream, span: tuple[int, int] | None, answer: httpx.Response) -> Audio:
    """Return the sound of a file, or its samples [start, stop), of which `answer` has the samples.

    Raises `ServiceError` for an answer that holds others.
    """
    assert stream.audio is not None
    start, stop = span or (0, stream.shape[1])
    with expected_form(answer):
        array: AudioSamples = np.load(io.BytesIO(answer.content), allow_pickle=False)
        lost = _ranges(answer.headers.get(LOST, ""))
        sound = Audio(
            ArraySamples(array), stream.audio.rate, stream.bit_depth, stream.audio.layout, dict(stream.metadata), lost
        )
        if sound.shape != (stream.shape[0], stop - start):
            raise ValueError(f"samples of {sound.shape} came for {(stream.shape[0], stop - start)}")
    return sound


def received(stream: Stream, span: tuple[int, int] | None, answer: httpx.Response) -> Video:
    """Return the video of a file, or its frames [start, stop), of which `answer` has the samples.

    Raises `ServiceError` for an answer that holds other samples.
    """
    frames, height, width, channels = stream.shape
    whole = compress.finished(
        video_of_groups(GroupFrames((frames, height, width, channels), stream.bit_depth, (0,), _elsewhere)), stream
    )
    assert isinstance(whole, Video)
    part = whole if span is None else whole.view(*span)
    with expected_form(answer):
        array: Samples = np.load(io.BytesIO(answer.content), allow_pickle=False)
        video = replace(part, source=ArrayFrames(array), lost=_ranges(answer.headers.get(LOST, "")))
        if (video.shape, video.bit_depth) != (part.shape, part.bit_depth):
            raise ValueError(f"frames of {video.shape} came for {part.shape}")
    return video


def _ranges(text: str) -> tuple[tuple[int, int], ...]:
    return tuple((int(start), int(stop)) for start, stop in re.findall(r"(\d+):(\d+)", text))


def _elsewhere(group: int) -> NoReturn:
    raise AssertionError(f"group {group} is decoded by the service")
