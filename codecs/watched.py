"""Frames and samples that are watched on their way: how far the reading is, and how long it took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from .signals import Audio, AudioSamples, FrameSource, Samples, SampleSource, Video

if TYPE_CHECKING:
    from .codec import Progress

__all__ = ["WatchedFrames", "WatchedSamples", "watched", "watched_samples"]


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
