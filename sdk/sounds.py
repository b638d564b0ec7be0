"""Which seconds of sound are wanted, samples that are watched on their way, and arrays that are sound."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from .codecs.errors import InvalidSettings, UnsupportedMedia
from .codecs.signals import Audio, AudioSamples, SampleSource, Signal
from .codecs.sources import LAYOUTS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .codecs.codec import Progress
    from .codecs.limits import Limits

__all__ = [
    "SecondsRange",
    "WatchedSamples",
    "audio_of_array",
    "is_sound",
    "seconds_range",
    "seconds_text",
    "sound_of",
    "span_of_seconds",
    "watched_samples",
]

SecondsRange = tuple[float | None, float | None]
LONGEST_INTEGER = 2**23  # int32 samples are of 24 bits


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


def seconds_text(ranges: Sequence[tuple[int, int]], rate: int) -> str:
    """Return samples [start, stop) as seconds, in words.

    >>> seconds_text([(0, 8000), (16000, 20000)], 8000)
    'seconds 0.000 to 1.000, 2.000 to 2.500'
    """
    return f"seconds {', '.join(f'{start / rate:.3f} to {stop / rate:.3f}' for start, stop in ranges)}"


def is_sound(array: NDArray[Any]) -> bool:
    """Whether an array's samples are such as only sound has."""
    return array.ndim in (1, 2) and array.dtype in (np.int16, np.int32, np.float32, np.float64)


def audio_of_array(array: NDArray[Any], rate: Fraction | float | None) -> Audio:
    """Return an array of samples C x N, or N, as sound; `InvalidSettings` and `UnsupportedMedia` say what it lacks."""
    if rate is None:
        raise InvalidSettings("`rate` is missing: the samples of sound per second")
    if not (math.isfinite(rate) and rate == int(rate) and 1 <= rate < 2**31):
        raise InvalidSettings(f"`rate` of sound is a whole number of Hz, not {rate}")
    if array.dtype not in (np.int16, np.int32, np.float32):
        raise UnsupportedMedia(f"sound's samples are int16, int32 (of 24 bits) or float32 (in ±1), not {array.dtype}")
    channels = array[None] if array.ndim == 1 else array
    if not 1 <= channels.shape[0] <= len(LAYOUTS):
        hint = ": move the channels first" if channels.shape[1] in range(1, len(LAYOUTS) + 1) else ""
        raise UnsupportedMedia(f"sound is C×N with 1 to {len(LAYOUTS)} channels, not {channels.shape}{hint}")
    if (
        channels.dtype == np.int32
        and channels.size
        and not -LONGEST_INTEGER <= channels.min() <= channels.max() < LONGEST_INTEGER
    ):
        raise UnsupportedMedia("int32 samples are of 24 bits, from -8,388,608 to 8,388,607: shift others right by 8")
    return Audio.of(np.ascontiguousarray(channels), int(rate))


class WatchedSamples:
    """The samples of another source, of which `progress` hears; `seconds` is how long the source took for them."""

    def __init__(self, source: SampleSource, stage: str, progress: Progress | None) -> None:
        self._source, self._stage, self._progress = source, stage, progress
        self.shape, self.dtype = source.shape, source.dtype
        self.seconds = 0.0

    def read(self, start: int, stop: int) -> Iterator[AudioSamples]:
        """Yield the samples start .. stop - 1."""
        blocks, done = self._source.read(start, stop), start
        while True:
            began = time.perf_counter()
            block = next(blocks, None)
            self.seconds += time.perf_counter() - began
            if block is None:
                return
            done += block.shape[1]
            if self._progress:
                self._progress(done / self.shape[1], self._stage)
            yield block


def watched_samples(audio: Audio, stage: str, progress: Progress | None) -> tuple[Audio, WatchedSamples]:
    """Return the sound with its samples watched, and what watches them."""
    samples = WatchedSamples(audio.source, stage, progress)
    return replace(audio, source=samples), samples
