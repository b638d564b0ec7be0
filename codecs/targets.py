"""Search for the setting that meets a target: the quality of each candidate codec by bisection, then the best codec."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from .codec import Progress, share_of
from .errors import InvalidSettings, LaconicError, UnsupportedMedia, WeightsMissing
from .metrics import psnr
from .registry import codec_class
from .signals import Audio, Signal, Video

__all__ = ["Target", "search"]

HIGHEST = 100
STEPS = 7  # bisections that narrow 101 qualities, or none, to one


@dataclass(frozen=True)
class Target:
    """Exactly one of: at least `psnr` dB, or at most `bpp` bits per pixel, `bytes` or `kbps`, all of the whole file.

    `kbps`, thousands of bits per second, is for what has a duration; codecs never meet it, as `sized` turns it into bytes.
    """

    psnr: float | None = None
    bpp: float | None = None
    bytes: int | None = None
    kbps: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.psnr, self.bpp, self.bytes, self.kbps) if value is not None]
        if len(given) != 1 or not (math.isfinite(given[0]) and given[0] > 0):
            units = "of dB (psnr), of bits per pixel (bpp), of bytes or of kbit per second (kbps)"
            raise InvalidSettings(f"a target is one positive number: {units}")

    def sized(self, signal: Signal) -> Target:
        """Return the target with a bit rate as the bytes that it allows for; raises `InvalidSettings` for a picture."""
        if self.kbps is None:
            return self
        if not isinstance(signal, Video | Audio):
            raise InvalidSettings(f"a target of {self} is for what lasts some time, not for a picture: give bpp or bytes")
        return Target(bytes=max(1, math.floor(1000 * self.kbps / 8 * signal.seconds + 1e-6)))

    def max_bytes(self, pixels: int) -> int | None:
        """Return the largest file that meets the target, None where the size does not matter."""
        return (
            self.bytes if self.bpp is None else math.floor(self.bpp * pixels / 8 + 1e-6)
        )  # as 29 bytes of 100 pixels are 2.32

    def __str__(self) -> str:
        units = {"dB": self.psnr, "bits per pixel": self.bpp, "bytes": self.bytes, "kbps": self.kbps}
        return next(f"{value:g} {unit}" for unit, value in units.items() if value is not None)


class _File(Protocol):
    @property
    def data(self) -> bytes: ...


F = TypeVar("F", bound=_File)


@dataclass(frozen=True)
class _Attempt(Generic[F]):
    """One encoding; `psnr` is NaN where it does not matter, `meets` whether the target is met."""

    codec: str
    file: F
    psnr: float
    meets: bool


@dataclass(frozen=True)
class _Search(Generic[F]):
    """What stays the same from one attempt to the next."""

    signal: Signal
    settings: Mapping[str, object]
    target: Target
    encode: Callable[[str, Mapping[str, object], Progress | None], F]
    decode: Callable[[bytes], Signal]

    def quality_of(self, file: F) -> float:
        return psnr(self.signal, self.decode(file.data))

    def attempt(self, codec: str, progress: Progress | None, **choice: object) -> _Attempt[F]:
        file = self.encode(codec, {**self.settings, **choice}, progress)
        most = self.target.max_bytes(self.signal.pixels)
        if self.target.psnr is None:
            return _Attempt(codec, file, math.nan, most is not None and len(file.data) <= most)
        reached = self.quality_of(file)
        return _Attempt(codec, file, reached, reached >= self.target.psnr)

    def bisect(self, codec: str, progress: Progress | None) -> Iterator[_Attempt[F]]:
        """Yield attempts at integer qualities; of those that meet the target the last is the best."""
        low, high, step = 0, HIGHEST + 1, 0
        while low < high:
            middle = (low + high) // 2
            attempt = self.attempt(codec, share_of(progress, step / STEPS, 1 / STEPS), quality=middle)
            step += 1
            # A PSNR is met from some quality upwards, a size up to some quality.
            if attempt.meets == (self.target.psnr is not None):
                high = middle
            else:
                low = middle + 1
            yield attempt

    def lossless(self, codec: str, progress: Progress | None) -> Iterator[_Attempt[F]]:
        """Yield one attempt at lossless coding."""
        yield self.attempt(codec, progress, lossless=True)

    def best(self, attempts: Sequence[_Attempt[F]]) -> F:
        """Return the smallest file for a PSNR, the one of highest PSNR for a size."""
        files = [attempt.file for attempt in attempts]
        if self.target.psnr is None and len(files) > 1:
            return max(files, key=lambda file: (self.quality_of(file), -len(file.data)))
        return min(files, key=lambda file: len(file.data))

    def shortfall(self, attempts: Sequence[_Attempt[F]]) -> str:
        if self.target.psnr is not None:
            nearest = max(attempts, key=lambda attempt: attempt.psnr)
            reached = f"the highest PSNR is {nearest.psnr:.2f} dB"
        else:
            nearest = min(attempts, key=lambda attempt: len(attempt.file.data))
            reached = f"the smallest file has {len(nearest.file.data):,} bytes"
        return f"the target of {self.target} cannot be met: {reached}, by {nearest.codec}"


def search(
    signal: Signal,
    codecs: Sequence[str],
    settings: Mapping[str, object],
    target: Target,
    encode: Callable[[str, Mapping[str, object], Progress | None], F],
    decode: Callable[[bytes], Signal],
    progress: Progress | None = None,
) -> F:
    """Return the smallest file with the target's PSNR, or the one of highest PSNR within the target's size.

    Each codec's integer quality is bisected, at most 7 encodings for each; of several codecs, those with lossless coding
    also try that. Of several codecs, those that do not take the signal or miss their weights are left out. Raises
    `InvalidSettings` that tells the best reached if no file meets the target.
    """
    work = _Search(signal, settings, target, encode, decode)
    exact = [codec for codec in codecs if len(codecs) > 1 and "lossless" in codec_class(codec).Settings.model_fields]
    rounds = [(work.bisect, codec) for codec in codecs] + [(work.lossless, codec) for codec in exact]
    best: list[_Attempt[F]] = []
    missed: list[_Attempt[F]] = []
    refusal: LaconicError | None = None
    for number, (tries, codec) in enumerate(rounds):
        met: list[_Attempt[F]] = []
        try:
            for step, attempt in enumerate(tries(codec, share_of(progress, number / len(rounds), 1 / len(rounds)))):
                (met if attempt.meets else missed).append(attempt)
                if progress:
                    progress((number + min(1.0, (step + 1) / STEPS)) / len(rounds), f"tried {attempt.codec}")
        except (UnsupportedMedia, WeightsMissing) as error:
            refusal = error
        best += met[-1:]
    if best:
        return work.best(best)
    if missed:
        raise InvalidSettings(work.shortfall(missed))
    raise refusal or InvalidSettings("there is no codec to search with")
