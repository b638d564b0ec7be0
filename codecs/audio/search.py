"""Search for the bit rate of a sound codec that meets a target of size, in few encodings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from ..codec import Progress
from ..errors import InvalidSettings
from ..signals import Audio
from ..target_search import approach
from ..targets import Target

__all__ = ["search_audio"]

LOWEST, HIGHEST = 6.0, 510.0  # kbit/s that are tried
TRIES, NEAR = 8, 0.98  # encodings at most, and the part of the target that is near enough
CLOSEST = 0.001  # of the logarithm of the rate: nearer ones are not tried apart


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
    files: list[F] = []

    def gap(logarithm: float) -> float:
        kbps = round(math.exp(logarithm), 3)
        files.append(encode({**settings, "kbps": kbps}, progress and _share(progress, len(files))))
        return math.log(len(files[-1].data) / most) if most else math.inf

    start = math.log(max(8 * most / 1000 / max(audio.seconds, 1e-3), LOWEST))
    limits = math.log(LOWEST), math.log(HIGHEST)
    approach(gap, start, 1.0, limits, (math.log(NEAR), 0.0), closest=CLOSEST, trials=TRIES)
    best = max((file for file in files if len(file.data) <= most), key=lambda file: len(file.data), default=None)
    if best is None:
        smallest = min(len(file.data) for file in files)
        raise InvalidSettings(f"the target of {target} cannot be met: the smallest file has {smallest:,} bytes, by {codec}")
    return best


def _share(progress: Progress, number: int) -> Progress:
    return lambda part, stage: progress((number + part) / TRIES, stage)
