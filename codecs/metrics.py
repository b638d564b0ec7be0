"""How near a decoded signal is to the original."""

from __future__ import annotations

import math

import numpy as np

from .signals import Image

__all__ = ["psnr"]

ROWS = 256  # compared at a time, so that large pictures take little memory


def psnr(reference: Image, decoded: Image) -> float:
    """Return the peak signal-to-noise ratio in dB over all samples, alpha included; infinity for equal pictures.

    The peak is 255 or 65535 after the bit depth, which both pictures share, as they do the shape.
    """
    if reference.shape != decoded.shape or reference.bit_depth != decoded.bit_depth:
        raise ValueError(f"pictures of {reference.shape} and {decoded.shape} do not compare")
    total = 0
    for top in range(0, reference.shape[0], ROWS):
        rows = slice(top, top + ROWS)
        difference = reference.array[rows].astype(np.int64) - decoded.array[rows]
        total += int(np.sum(difference * difference))
    if total == 0:
        return math.inf
    peak = 2**reference.bit_depth - 1
    return 10 * math.log10(peak * peak * reference.array.size / total)
