"""Arrays that are sound."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from .codecs.errors import InvalidSettings, UnsupportedMedia
from .codecs.signals import Audio
from .codecs.sources import LAYOUTS

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["audio_of_array", "is_sound"]

LONGEST_INTEGER = 2**23  # int32 samples are of 24 bits


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
