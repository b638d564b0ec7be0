"""Which frames of a video are wanted, and frames that are watched on their way."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from .codecs.errors import InvalidSettings
from .codecs.signals import FrameSource, Samples, Signal, Video

if TYPE_CHECKING:
    from .codecs.codec import Progress

__all__ = ["FrameRange", "WatchedFrames", "frame_range", "part_of", "ranges_text", "span_of", "watched"]

FrameRange = tuple[int | None, int | None]


def frame_range(text: str) -> FrameRange:
    """Return the range that `A:B` stands for, as Python slices are written: either may be missing or count from the end.

    >>> frame_range("10:20"), frame_range("-5:")
    ((10, 20), (-5, None))

    Raises `InvalidSettings`.
    """
    start, colon, stop = text.partition(":")
    try:
        if not colon:
            raise ValueError
        return int(start) if start.strip() else None, int(stop) if stop.strip() else None
    except ValueError as error:
        raise InvalidSettings(f"frames are given as A:B, from A to before B, not {text!r}") from error


def span_of(frames: FrameRange, count: int) -> tuple[int, int]:
    """Return the first frame of a range and the one after its last in a video of `count`; raises `InvalidSettings` for none."""
    start, stop = (end if end is None else end + count * (end < 0) for end in frames)
    start, stop = 0 if start is None else start, count if stop is None else stop
    if not 0 <= start < stop <= count:
        asked = ":".join("" if end is None else str(end) for end in frames)
        raise InvalidSettings(f"there are no frames {asked} in a video of {count:,}: they count from 0")
    return start, stop


def part_of(signal: Signal, frames: FrameRange) -> Video:
    """Return the part of a video, read when it is asked for; raises `InvalidSettings` for frames that are not there."""
    if not isinstance(signal, Video):
        raise InvalidSettings("frames are parts of a video, and the file holds none")
    return signal.view(*span_of(frames, signal.shape[0]))


def ranges_text(ranges: Sequence[tuple[int, int]]) -> str:
    """Return frames [start, stop) in words.

    >>> ranges_text([(0, 32), (64, 65)])
    'frames 0 to 31, 64'
    """
    parts = [f"{start:,}" if stop - start == 1 else f"{start:,} to {stop - 1:,}" for start, stop in ranges]
    return f"frame{'s' * (ranges[-1][1] - ranges[0][0] > 1)} {', '.join(parts)}"


class WatchedFrames:
    """The frames of another source, of which `progress` hears; `seconds` is how long the source took for them."""

    def __init__(self, source: FrameSource, stage: str, progress: Progress | None) -> None:
        self._source, self._stage, self._progress = source, stage, progress
        self.shape, self.bit_depth = source.shape, source.bit_depth
        self.seconds = 0.0

    def read(self, start: int, stop: int) -> Iterator[Samples]:
        """Yield the frames start .. stop - 1."""
        frames, done = self._source.read(start, stop), start
        while True:
            began = time.perf_counter()
            frame = next(frames, None)
            self.seconds += time.perf_counter() - began
            if frame is None:
                return
            done += 1
            if self._progress:
                self._progress(done / self.shape[0], f"{self._stage} {done:,} of {self.shape[0]:,}")
            yield frame


def watched(video: Video, stage: str, progress: Progress | None) -> tuple[Video, WatchedFrames]:
    """Return the video with its frames watched, and what watches them."""
    frames = WatchedFrames(video.source, stage, progress)
    return replace(video, source=frames), frames
