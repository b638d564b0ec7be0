"""Search for the quality of a video codec that meets a target, in few encodings: on samples of a long video first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Generic, Protocol, TypeVar

from ..codec import Progress, share_of
from ..errors import InvalidSettings, LaconicError, UnsupportedMedia, WeightsMissing
from ..metrics import psnr
from ..registry import codec_class
from ..signals import FrameSource, Samples, Signal, Video
from ..target_search import approach, slope_between
from ..targets import Target

__all__ = ["sampled", "search_video"]

HIGHEST = 100.0
START, DB_PER_QUALITY, OCTAVES_PER_QUALITY = 55.0, 0.25, 0.075  # where the search begins, and the slopes that it expects
CLOSEST = 0.2  # of quality: nearer ones are not tried apart
TRIALS = 7  # at most, of one codec on one video
SPANS = 3  # of a long video the codecs are tried on so many runs of frames, together so many frames or pixels at least
SAMPLE_FRAMES, SAMPLE_PIXELS = 96, 50_000_000
SAMPLE_SHARE = 0.4  # of the progress


class _File(Protocol):
    @property
    def data(self) -> bytes: ...


F = TypeVar("F", bound=_File)
Encode = Callable[[Video, str, Mapping[str, object], Progress | None], F]


@dataclass(frozen=True)
class _Spans:
    """A `FrameSource` of some runs of frames [start, stop) of another."""

    source: FrameSource
    spans: tuple[tuple[int, int], ...]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return sum(stop - start for start, stop in self.spans), *self.source.shape[1:]

    @property
    def bit_depth(self) -> int:
        return self.source.bit_depth

    def read(self, start: int, stop: int) -> Iterator[Samples]:
        numbers = list(chain.from_iterable(range(*span) for span in self.spans))[start:stop]
        first = 0
        for at in range(1, len(numbers) + 1):
            if at == len(numbers) or numbers[at] != numbers[at - 1] + 1:
                yield from self.source.read(numbers[first], numbers[at - 1] + 1)
                first = at


def sampled(video: Video) -> Video:
    """Return a few runs of a long video's frames, spread evenly, as a video without sound; short ones as they are."""
    count, height, width = video.shape[:3]
    span = max(SAMPLE_FRAMES, SAMPLE_PIXELS // (height * width)) // SPANS
    if count <= SPANS * span:
        return video
    starts = [round((count - span) * number / (SPANS - 1)) for number in range(SPANS)]
    spans = tuple((start, start + span) for start in starts)
    return replace(video, source=_Spans(video.source, spans), times=None, metadata={}, lost=())


@dataclass(frozen=True)
class _Goal:
    """How far a file is from the target: `least` <= gap <= `most` meets it closely, and `meets` says whether at all.

    The gap grows with quality: of a PSNR dB above the target, of a size octaves above the largest.
    """

    target: Target
    pixels: int

    @property
    def of_psnr(self) -> bool:
        return self.target.psnr is not None

    @property
    def bounds(self) -> tuple[float, float]:
        return (0.0, 0.05) if self.of_psnr else (math.log2(0.98), 0.0)

    @property
    def slope(self) -> float:
        return DB_PER_QUALITY if self.of_psnr else OCTAVES_PER_QUALITY

    def gap(self, size: int, quality: float) -> float:
        if self.target.psnr is not None:
            return quality - self.target.psnr
        most = self.target.max_bytes(self.pixels) or 0
        return math.log2(size / most) if most else math.inf

    def meets(self, gap: float) -> bool:
        return gap >= 0 if self.of_psnr else gap <= 0


@dataclass(frozen=True)
class _Trial(Generic[F]):
    """A file of a codec at a quality, None for lossless coding; `psnr` is NaN where it does not matter."""

    codec: str
    quality: float | None
    file: F
    psnr: float
    gap: float


@dataclass(frozen=True)
class _Work(Generic[F]):
    """One video to be coded to a goal; `measured` says whether the PSNR matters."""

    video: Video
    settings: Mapping[str, object]
    goal: _Goal
    measured: bool
    encode: Encode[F]
    decode: Callable[[bytes], Signal]

    def trial(self, codec: str, quality: float | None, progress: Progress | None) -> _Trial[F]:
        choice: dict[str, object] = {"lossless": True} if quality is None else {"quality": quality}
        file = self.encode(self.video, codec, {**self.settings, **choice}, progress)
        reached = psnr(self.video, self.decode(file.data)) if self.measured else math.nan
        return _Trial(codec, quality, file, reached, self.goal.gap(len(file.data), reached))

    def solve(self, codec: str, start: float, slope: float, progress: Progress | None) -> list[_Trial[F]]:
        """Return the trials of a search for the quality that meets the goal closely."""
        trials: list[_Trial[F]] = []

        def gap(quality: float) -> float:
            trials.append(self.trial(codec, round(quality, 2), share_of(progress, len(trials) / TRIALS, 1 / TRIALS)))
            return trials[-1].gap

        approach(gap, start, slope, (0.0, HIGHEST), self.goal.bounds, closest=CLOSEST, trials=TRIALS)
        return trials

    def best(self, trials: Sequence[_Trial[F]]) -> _Trial[F] | None:
        """Return the trial that meets the goal best: the smallest file for a PSNR, the highest PSNR or size for a size."""
        met = [trial for trial in trials if self.goal.meets(trial.gap)]
        if self.goal.of_psnr:
            return min(met, key=lambda trial: len(trial.file.data), default=None)
        return max(met, key=lambda trial: (trial.psnr if self.measured else 0.0, len(trial.file.data)), default=None)


def search_video(
    video: Video,
    codecs: Sequence[str],
    settings: Mapping[str, object],
    target: Target,
    encode: Encode[F],
    decode: Callable[[bytes], Signal],
    progress: Progress | None = None,
) -> F:
    """Return the smallest file with the target's PSNR, or the one of highest PSNR within the target's size.

    Each codec is searched on a sample of the video; that which does best there is searched on the whole, where a file is met
    within 2 % of the size or 0.05 dB if the encoder's steps are as fine. Of several codecs, those with lossless coding try
    that where no quality is high enough. Codecs that do not take the video or miss their weights are left out. Raises
    `InvalidSettings` that tells what was reached if no file meets the target.
    """
    sample = sampled(video)
    whole = sample is video
    several = len(codecs) > 1
    work = _Work(video, settings, _Goal(target, video.pixels), target.psnr is not None or (whole and several), encode, decode)
    trying = work
    if not whole:
        most = target.max_bytes(video.pixels)
        room = (most or 0) - sum(map(len, video.metadata.values()))  # beside the sound, which the sample has not
        part = target if most is None else Target(bytes=max(1, round(room * sample.shape[0] / video.shape[0])))
        trying = _Work(sample, settings, _Goal(part, sample.pixels), several or work.measured, encode, decode)
    found = _tried(trying, codecs, share_of(progress, 0.0, 1.0 if whole else SAMPLE_SHARE))
    exact = [codec for codec in codecs if several and "lossless" in codec_class(codec).Settings.model_fields]
    if whole:
        return _result(work, [trial for trials in found for trial in trials], exact, progress)
    nearest = min(found, key=lambda trials: _rank(trying, trials))
    last = trying.best(nearest) or min(nearest, key=lambda trial: abs(trial.gap))
    points = [(trial.quality, trial.gap) for trial in nearest if trial.quality is not None]
    slope = slope_between(points, trying.goal.slope, CLOSEST)
    rest = share_of(progress, SAMPLE_SHARE, 1 - SAMPLE_SHARE)
    return _result(work, work.solve(last.codec, last.quality or 0.0, slope, rest), exact, rest)


def _tried(work: _Work[F], codecs: Sequence[str], progress: Progress | None) -> list[list[_Trial[F]]]:
    """Return each codec's trials; raises the last refusal where no codec takes the video."""
    found: list[list[_Trial[F]]] = []
    refusal: LaconicError = InvalidSettings("there is no codec to search with")
    for number, codec in enumerate(codecs):
        try:
            found.append(work.solve(codec, START, work.goal.slope, share_of(progress, number / len(codecs), 1 / len(codecs))))
        except (UnsupportedMedia, WeightsMissing) as error:
            refusal = error
    if not found:
        raise refusal
    return found


def _rank(work: _Work[F], trials: Sequence[_Trial[F]]) -> tuple[bool, float]:
    """Return a key that is lowest for the codec that does best."""
    best = work.best(trials)
    if best is None:
        return True, min(abs(trial.gap) for trial in trials)
    return False, len(best.file.data) if work.goal.of_psnr else -best.psnr


def _result(work: _Work[F], trials: list[_Trial[F]], exact: Sequence[str], progress: Progress | None) -> F:
    """Return the best file of trials, or of the lossless coding of `exact` codecs where no quality is high enough."""
    best = work.best(trials)
    room = best is None if work.goal.of_psnr else best is not None and best.quality == HIGHEST
    if room and work.video.bit_depth == 8:
        trials = trials + [work.trial(codec, None, share_of(progress, 1.0, 0.0)) for codec in exact]
        best = work.best(trials)
    if best is None:
        raise InvalidSettings(f"the target of {work.goal.target} cannot be met: {_reached(work, trials)}")
    return best.file


def _reached(work: _Work[F], trials: Sequence[_Trial[F]]) -> str:
    if work.goal.of_psnr:
        nearest = max(trials, key=lambda trial: trial.psnr)
        return f"the highest PSNR is {nearest.psnr:.2f} dB, by {nearest.codec}"
    nearest = min(trials, key=lambda trial: len(trial.file.data))
    return f"the smallest file has {len(nearest.file.data):,} bytes, by {nearest.codec}"
