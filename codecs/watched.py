"""Frames and samples that are watched on their way: how far the reading is, and how long it took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from .signals import Audio, AudioSamples, FrameSource, Samples, SampleSource, Video

if TYPE_CHECKING:
    from .codec import Progress

__all__ = ["WatchedFrames", "WatchedSamples", "watched", "watched_samples"]


Part = TypeVar("Part")


class _Timed:
    """`seconds` is how long a source took for what was read of it."""

    seconds = 0.0

    def _timed(self, parts: Iterator[Part]) -> Iterator[Part]:
        while True:
            began = time.perf_counter()
            part = next(parts, None)
            self.seconds += time.perf_counter() - began
            if part is None:
                return
            yield part


class WatchedFrames(_Timed):
    """The frames of another source, of which `progress` hears; `seconds` is how long the source took for them."""

    def __init__(self, source: FrameSource, stage: str, progress: Progress | None) -> None:
        self._source, self._stage, self._progress = source, stage, progress
        self.shape, self.bit_depth = source.shape, source.bit_depth

    def read(self, start: int, stop: int) -> Iterator[Samples]:
        """Yield the frames start .. stop - 1."""
        for done, frame in enumerate(self._timed(self._source.read(start, stop)), start + 1):
            if self._progress:
                self._progress(done / self.shape[0], f"{self._stage} {done:,} of {self.shape[0]:,}")
            yield frame


def watched(video: Video, stage: str, progress: Progress | None) -> tuple[Video, WatchedFrames]:
    """Return the video with its frames watched, and what watches them."""
    frames = WatchedFrames(video.source, stage, progress)
    return replace(video, source=frames), frames


class WatchedSamples(_Timed):
    """The samples of another source, of which `progress` hears; `seconds` is how long the source took for them."""

    def __init__(self, source: SampleSource, stage: str, progress: Progress | None) -> None:
        self._source, self._stage, self._progress = source, stage, progress
        self.shape, self.dtype = source.shape, source.dtype

    def read(self, start: int, stop: int) -> Iterator[AudioSamples]:
        """Yield the samples start .. stop - 1."""
        done = start
        for block in self._timed(self._source.read(start, stop)):
            done += block.shape[1]
            if self._progress:
                self._progress(done / self.shape[1], self._stage)
            yield block


def watched_samples(audio: Audio, stage: str, progress: Progress | None) -> tuple[Audio, WatchedSamples]:
    """Return the sound with its samples watched, and what watches them."""
    samples = WatchedSamples(audio.source, stage, progress)
    return replace(audio, source=samples), samples
