"""Video files to frames: how large they are, and one pass that decodes, counts and times all frames.

Containers are not believed: frames are counted by decoding them. They stay in memory as long as they are few; beyond that the
file is decoded again, from the nearest key frame, whenever frames are asked for.
"""

from __future__ import annotations

import io
import itertools
import math
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, cast

import av
import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptMedia, UnsupportedMedia
from ..image.readers import Header
from ..limits import Limits
from ..signals import TICKS, ArrayFrames, Colour, FrameSource, Samples, Video
from .ffmpeg import MATRICES, failures_are, is_deep, rgb_of_frame
from .framing import check_whole, y4m_size
from .soundtrack import Soundtrack
from .timing import LONGEST

__all__ = ["DEMUXERS", "FileFrames", "Look", "is_animated", "opened", "read_header", "read_video"]

DEMUXERS = {
    "mp4": "mp4",
    "mov": "mov",
    "webm": "webm",
    "mkv": "matroska",
    "avi": "avi",
    "y4m": "yuv4mpegpipe",
    "gif": "gif",
}
HELD_BYTES = 256 * 2**20  # of frames that stay in memory
UNTIMED = {"avi", "y4m"}  # frames of one length, whatever times the demuxer makes up
FULL, RESERVED, NOT_SAID = 2, 3, 2
USUAL_RATE, FASTEST = Fraction(25), 100_000


@dataclass(frozen=True)
class Look:
    """What the first frame shows: the stored size, the turn that makes it upright, depth and colour of all frames."""

    height: int
    width: int
    matrix: tuple[int, int, int, int]
    bit_depth: int
    colour: Colour

    @classmethod
    def of(cls, frame: Any) -> Look:
        """Return the look of a frame; raises `UnsupportedMedia` for a colour matrix that swscale does not have."""
        form, matrix = frame.format, int(frame.colorspace)
        if form.is_rgb or len(form.components) < 3 or matrix == RESERVED:
            matrix = NOT_SAID
        if matrix not in MATRICES:
            raise UnsupportedMedia(f"the colour matrix {matrix} of ITU-T H.273 is not read; {list(MATRICES)} are")
        full = not form.is_rgb and (frame.color_range == FULL or form.name.startswith("yuvj"))
        colour = Colour(int(frame.color_primaries), int(frame.color_trc), matrix, full)
        return cls(frame.height, frame.width, _display_matrix(frame), 16 if is_deep(form) else 8, colour)

    @property
    def upright(self) -> tuple[int, int]:
        """Height and width of the upright frame."""
        return (self.width, self.height) if self._lies else (self.height, self.width)

    @property
    def _lies(self) -> bool:
        a, b, _, _ = self.matrix
        return abs(b) > abs(a)

    def rgb(self, frame: Any) -> Samples:
        """Return a frame as upright RGB; raises `CorruptMedia` for one of another size."""
        if (frame.height, frame.width) != (self.height, self.width):
            raise CorruptMedia(f"a frame is {frame.height} x {frame.width} in a video of {self.height} x {self.width}")
        array = rgb_of_frame(frame, self.colour, self.bit_depth)
        a, b, c, d = self.matrix
        across, down = (c, b) if self._lies else (a, d)
        array = array.transpose(1, 0, 2) if self._lies else array
        array = array[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]
        return cast(Samples, np.ascontiguousarray(array))


@dataclass(frozen=True, eq=False)
class FileFrames:
    """The frames of a media file, a `FrameSource`: decoded again whenever they are asked for.

    `stamps` are the time stamps of all frames, ascending, or empty for a file that is read from its beginning; `keys` are the
    key frames, each (number of the frame, decoding time stamp).
    """

    data: bytes
    name: str
    look: Look
    count: int
    stamps: NDArray[np.int64]
    keys: tuple[tuple[int, int], ...]
    limits: Limits

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(T, H, W, 3)."""
        return self.count, *self.look.upright, 3

    @property
    def bit_depth(self) -> int:
        """Bits per sample: 8 or 16."""
        return self.look.bit_depth

    def read(self, start: int, stop: int) -> Iterator[Samples]:
        """Yield the frames start .. stop - 1."""
        near = bisect_right(self.keys, (start, LONGEST**2)) - 1
        if near > 0:
            frames = self._from_key(self.keys[near], start, stop)
            first = next(frames, None)
            if first is not None:
                yield first
                yield from frames
                return
        yield from self._from_beginning(start, stop)

    def _from_beginning(self, start: int, stop: int) -> Iterator[Samples]:
        with opened(self.data, self.name, self.limits) as (container, stream), _breaking_off(start):
            number = 0
            for number, frame in enumerate(itertools.islice(container.decode(stream), stop), 1):
                if number > start:
                    yield self.look.rgb(frame)
            if number < stop:
                raise CorruptMedia(f"there are {number} frames where there were {self.count}")

    def _from_key(self, key: tuple[int, int], start: int, stop: int) -> Iterator[Samples]:
        """Yield the frames start .. stop - 1, or none if seeking leads elsewhere."""
        with opened(self.data, self.name, self.limits) as (container, stream), _breaking_off(start):
            container.seek(key[1], stream=stream)
            number = start
            for frame in container.decode(stream):
                if frame.pts is None or frame.pts < self.stamps[number]:
                    continue  # one that is shown before the first that is wanted
                if frame.pts != self.stamps[number]:
                    if number == start:
                        return
                    raise CorruptMedia(f"frame {number} is not there any more")
                yield self.look.rgb(frame)
                number += 1
                if number == stop:
                    return
            if number > start:
                raise CorruptMedia(f"there are {number} frames where there were {self.count}")


@dataclass
class _Pass:
    """What one pass over a file finds, and the frames themselves as long as they are few."""

    limits: Limits
    look: Look | None = None
    stamps: list[int | None] = field(default_factory=list)
    key_stamps: list[tuple[int, int]] = field(default_factory=list)
    held: list[Samples] | None = field(default_factory=list)

    def take(self, frame: Any) -> None:
        """Count, time, check and perhaps keep a decoded frame."""
        if frame.is_corrupt:
            raise CorruptMedia("a frame is damaged")
        self.limits.check("max_frames", len(self.stamps) + 1, "the video's number of frames")
        self.limits.check("max_pixels", frame.height * frame.width, "a frame's number of pixels")
        self.look = self.look or Look.of(frame)
        self.stamps.append(frame.pts)
        if self.held is None:
            if (frame.height, frame.width) != (self.look.height, self.look.width):
                raise CorruptMedia("a frame is of another size than the first")
            return
        self.held.append(self.look.rgb(frame))
        pixels = frame.height * frame.width * len(self.held)
        if pixels > self.limits.max_video_pixels or pixels * 3 * self.look.bit_depth // 8 > HELD_BYTES:
            self.held = None


def is_animated(data: bytes, limits: Limits) -> bool:
    """Whether a GIF has more than one frame; damaged ones have not."""
    try:
        with opened(data, "gif", limits) as (container, stream):
            return len(list(itertools.islice((p for p in container.demux(stream) if p.size), 2))) > 1
    except (CorruptMedia, UnsupportedMedia):
        return False


def read_header(data: bytes, name: str, limits: Limits) -> Header:
    """Return the header of a video file; of its frames one is decoded at most, which says whether it lies on its side.

    The number of frames is what the file says, or reckoned from how long it lasts, and at least 1.
    """
    with opened(data, name, limits) as (container, stream):
        count = stream.frames or round((container.duration or 0) * (stream.average_rate or USUAL_RATE) / av.time_base)
        height, width = stream.height, stream.width
        if name in ("mp4", "mov", "mkv", "webm"):
            with _breaking_off(0):
                for frame in container.decode(stream):
                    height, width = Look.of(frame).upright
                    break
        return Header(name, height, width, 3, max(1, count))


def read_video(data: bytes, name: str, limits: Limits) -> Video:
    """Return the video in a file, with its sound; raises `LaconicError`s only.

    Frames are upright and keep the stored pixels, square or not. More than 8 bits become uint16. Frames that are evenly
    spaced, but for the rounding of time stamps, have no `times`. A file that ends too early, or whose frames do not all
    decode, is `CorruptMedia`.
    """
    check_whole(data, name)
    with opened(data, name, limits) as (container, stream):
        found, sound = _Pass(limits), _soundtrack(container, limits)
        with _breaking_off(found.stamps):
            for packet in container.demux(*[stream, *container.streams.audio[:1]]):
                if packet.stream.type == "audio":
                    sound.add(packet)
                    continue
                if packet.is_corrupt:
                    raise CorruptMedia("a packet is cut")
                if packet.is_keyframe and packet.pts is not None and packet.dts is not None:
                    found.key_stamps.append((packet.pts, packet.dts))
                for frame in packet.decode():
                    found.take(frame)
        if found.look is None:
            raise CorruptMedia(f"the {name} file has no frames")
        base, first = stream.time_base or Fraction(1, TICKS), found.stamps[0]
        audio = sound.file((first or 0) * base)
        rates = [rate for rate in (stream.guessed_rate, stream.average_rate, stream.base_rate) if rate and 0 < rate <= FASTEST]
    rate, times = _timing([] if name in UNTIMED else found.stamps, len(found.stamps), base, rates)
    return Video(_source(data, name, found, limits), rate, times, found.look.colour, {"audio": audio} if audio else {})


@contextmanager
def opened(data: bytes, name: str, limits: Limits) -> Iterator[tuple[Any, Any]]:
    """Open a file and its first video stream, which decodes on one thread and no frame above the limit."""
    # A decoder takes the memory of whole blocks, so that a frame may be larger than it looks.
    bounds = {"max_pixels": str(2 * limits.max_pixels + 2**16), "err_detect": "explode", "threads": "1"}
    if name == "y4m":  # FFmpeg refuses a header of too many pixels before it tells of how many
        limits.check("max_pixels", math.prod(y4m_size(data)), "a frame's number of pixels")
    with failures_are(CorruptMedia, f"the {name} file is damaged"):
        file = cast(Any, av.open(io.BytesIO(data), "r", DEMUXERS[name], options=bounds, metadata_errors="replace"))
    with closing(file) as container:
        streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not streams:
            what = "sound but no video" if container.streams.audio else "no video"
            raise UnsupportedMedia(f"the {name} file has {what}")
        stream = streams[0]
        if stream.codec_context is None:
            raise UnsupportedMedia(f"video of this kind in {name} files is not decoded here")
        limits.check("max_pixels", stream.width * stream.height, "a frame's number of pixels")
        limits.check("max_frames", stream.frames, "the video's number of frames")
        stream.codec_context.options = bounds
        stream.codec_context.thread_count = 1
        yield container, stream


@contextmanager
def _breaking_off(done: list[int | None] | int) -> Iterator[None]:
    """Say after how many frames a file that is damaged broke."""
    try:
        with failures_are(CorruptMedia, "it does not decode"):
            yield
    except CorruptMedia as error:
        after = done if isinstance(done, int) else len(done)
        raise CorruptMedia(f"the video is damaged after {after} frames: {error}") from error


def _soundtrack(container: Any, limits: Limits) -> Soundtrack:
    stream = container.streams.audio[0] if container.streams.audio else None
    if stream is not None and stream.codec_context is None:
        raise UnsupportedMedia("the video's sound is of a kind that is not known here")
    return Soundtrack(stream, limits)


def _source(data: bytes, name: str, found: _Pass, limits: Limits) -> FrameSource:
    """Return the frames that are held, or what decodes them again."""
    if found.held is not None:
        return ArrayFrames(cast(Samples, np.stack(found.held)))
    assert found.look is not None
    stamps = np.array([] if None in found.stamps else found.stamps, np.int64)
    keys: list[tuple[int, int]] = []
    if len(stamps) and (np.diff(stamps) > 0).all() and name not in UNTIMED:
        numbers = {stamp: number for number, stamp in enumerate(stamps.tolist())}
        keys = sorted((numbers[shown], decoded) for shown, decoded in found.key_stamps if shown in numbers)
    return FileFrames(data, name, found.look, len(found.stamps), stamps, tuple(keys), limits)


def _timing(
    stamps: list[int | None], count: int, base: Fraction, rates: list[Fraction]
) -> tuple[Fraction, NDArray[np.int64] | None]:
    """Return frames per second, and the times of frames that are not evenly spaced."""
    rate = rates[0] if rates else USUAL_RATE
    known = [stamp for stamp in stamps if stamp is not None]
    if len(known) < count or count == 1:
        return rate.limit_denominator(FASTEST), None
    seconds = [(stamp - known[0]) * base for stamp in known]
    for candidate in rates:
        slack = min(base, 1 / (4 * candidate))
        if all(abs(at - number / candidate) <= slack for number, at in enumerate(seconds)):
            return candidate.limit_denominator(FASTEST), None
    times = [0]
    for at in seconds[1:]:
        times.append(max(times[-1] + 1, round(at * TICKS)))
        if times[-1] - times[-2] >= LONGEST:
            raise CorruptMedia("a frame lasts longer than six hours")
    average = Fraction(count - 1, times[-1]) * TICKS
    return min(average, Fraction(FASTEST)).limit_denominator(FASTEST) or Fraction(1, FASTEST), np.array(times, np.int64)


def _display_matrix(frame: Any) -> tuple[int, int, int, int]:
    """Return (a, b, c, d), which lead from stored x and y to shown a x + c y and b x + d y; up to scale."""
    for entry in frame.side_data:
        if entry.type.name == "DISPLAYMATRIX":
            numbers = np.frombuffer(bytes(entry), "<i4")
            if len(numbers) == 9:
                a, b, _, c, d = (int(number) for number in numbers[:5])
                return a, b, c, d
    return 1, 0, 0, 1
