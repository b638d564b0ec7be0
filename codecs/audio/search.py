"""Search for the bit rate of a sound codec that meets a target of size, in few encodings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from ..codec import Progress
from ..errors import InvalidSettings
from ..signals import Audio
from ..targets import Target

__all__ = ["search_audio"]

LOWEST, HIGHEST = 6.0, 510.0  # kbit/s that are tried
TRIES, NEAR = 8, 0.98  # encodings at most, and the part of the target that is near enough


class _File(Protocol):
    @property
    def data(self) -> bytes: ...


F = TypeVar("F", bound=_File)


def search_audio(
    audio: Audio,
    codec: str,
    settings: Mapping[str, object],
    target: Target,
    encode: Callable[[Mapping[str, object], Progress | None], F],
    progress: Progress | None = None,
) -> F:
    """Return the file of a codec with a setting `kbps` that uses most of a target's size, at least 98 % where it can.

    `encode` makes a file with settings. Raises `InvalidSettings` for other targets, and for one below the smallest file.
    """
    most = target.max_bytes(audio.pixels)
    if most is None:
        raise InvalidSettings(f"a target of {target} is not for sound, whose quality it does not tell: give kbps or bytes")
    best, smallest = None, math.inf
    below: tuple[float, float] | None = None  # the nearest rate on either side, and the size that it gave
    above: tuple[float, float] | None = None
    kbps = 8 * most / 1000 / max(audio.seconds, 1e-3)
    for number in range(TRIES):
        kbps = min(max(kbps, LOWEST), HIGHEST)
        file = encode({**settings, "kbps": round(kbps, 3)}, progress and _share(progress, number))
        size = len(file.data)
        smallest = min(smallest, size)
        if size <= most:
            best, below = file, (kbps, size)
        else:
            above = kbps, size
        if NEAR * most <= size <= most or below == (HIGHEST, size) or above == (LOWEST, size):
            break
        kbps = _next(below, above, kbps, size, 0.5 * (1 + NEAR) * most)
    if best is None:
        raise InvalidSettings(f"the target of {target} cannot be met: the smallest file has {smallest:,} bytes, by {codec}")
    return best


def _next(
    below: tuple[float, float] | None, above: tuple[float, float] | None, kbps: float, size: float, wanted: float
) -> float:
    """Return the rate to try next: in proportion, or between the two nearest, as their logarithms go."""
    if below is None or above is None:
        return kbps * wanted / size
    (low, small), (high, large) = below, above
    part = math.log(wanted / small) / math.log(large / small) if wanted > small else 0.5
    return low * math.exp(math.log(high / low) * min(max(part, 0.1), 0.9))


def _share(progress: Progress, number: int) -> Progress:
    return lambda part, stage: progress((number + part) / TRIES, stage)
