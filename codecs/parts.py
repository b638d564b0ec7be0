"""Which part of a video or of sound is wanted: frames or seconds, as texts and as ranges."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from .errors import InvalidSettings
from .signals import Audio, Signal, Video

if TYPE_CHECKING:
    from .limits import Limits

__all__ = [
    "FrameRange",
    "SecondsRange",
    "check_one_part",
    "frame_range",
    "part_of",
    "ranges_text",
    "seconds_range",
    "seconds_text",
    "sound_of",
    "span_of",
    "span_of_seconds",
]

FrameRange = tuple[int | None, int | None]
SecondsRange = tuple[float | None, float | None]


def check_one_part(frames: object, seconds: object) -> None:
    """Raise `InvalidSettings` where both frames and seconds are given; None is neither."""
    if frames is not None and seconds is not None:
        raise InvalidSettings("frames are parts of a video and seconds parts of sound: give one of the two")


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


def seconds_range(text: str) -> SecondsRange:
    """Return the range that `A:B` stands for, in seconds: either may be missing, or count from the end.

    >>> seconds_range("1.5:20"), seconds_range("-5:")
    ((1.5, 20.0), (-5.0, None))

    Raises `InvalidSettings`.
    """
    start, colon, stop = text.partition(":")
    try:
        ends = tuple(float(end) if end.strip() else None for end in (start, stop))
        if not colon or not all(math.isfinite(end) for end in ends if end is not None):
            raise ValueError
    except ValueError as error:
        raise InvalidSettings(f"seconds are given as A:B, from A to before B, not {text!r}") from error
    return ends[0], ends[1]


def span_of_seconds(seconds: SecondsRange, rate: int, count: int) -> tuple[int, int]:
    """Return the first sample of a range and the one after its last; raises `InvalidSettings` for what is not there."""
    ends = [end if end is None else round(end * rate) + count * (end < 0) for end in seconds]
    start, stop = ends[0] if ends[0] is not None else 0, ends[1] if ends[1] is not None else count
    if not 0 <= start < stop <= count:
        asked = ":".join("" if end is None else f"{end:g}" for end in seconds)
        raise InvalidSettings(f"there are no seconds {asked} in sound of {count / rate:.3f}: they count from 0")
    return start, stop


def sound_of(signal: Signal, seconds: SecondsRange, limits: Limits) -> Audio:
    """Return the part of sound with the seconds of a range, in memory; raises `InvalidSettings` for those not there."""
    if not isinstance(signal, Audio):
        raise InvalidSettings("seconds are parts of sound, and the file holds none")
    start, stop = span_of_seconds(seconds, signal.rate, signal.shape[1])
    limits.check("max_samples", (stop - start) * signal.shape[0], "the number of samples of the seconds asked for")
    return replace(signal.part(start, stop), metadata=signal.metadata)


def ranges_text(ranges: Sequence[tuple[int, int]]) -> str:
    """Return frames [start, stop) in words.

    >>> ranges_text([(0, 32), (64, 65)])
    'frames 0 to 31, 64'
    """
    parts = [f"{start:,}" if stop - start == 1 else f"{start:,} to {stop - 1:,}" for start, stop in ranges]
    return f"frame{'s' * (ranges[-1][1] - ranges[0][0] > 1)} {', '.join(parts)}"


def seconds_text(ranges: Sequence[tuple[int, int]], rate: int) -> str:
    """Return samples [start, stop) as seconds, in words.

    >>> seconds_text([(0, 8000), (16000, 20000)], 8000)
    'seconds 0.000 to 1.000, 2.000 to 2.500'
    """
    return f"seconds {', '.join(f'{start / rate:.3f} to {stop / rate:.3f}' for start, stop in ranges)}"
