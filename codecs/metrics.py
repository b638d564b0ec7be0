"""How near a decoded signal is to the original."""

from __future__ import annotations

import math

import numpy as np

from .signals import Audio, Samples, Signal, Video

__all__ = ["psnr"]

EQUAL_FRAME = 100.0  # dB
ROWS = 256  # compared at a time, so that large pictures take little memory


def psnr(reference: Signal, decoded: Signal) -> float:
    """Return the peak signal-to-noise ratio in dB over all samples, alpha included; infinity for equal pictures.

    Of videos it is the mean of the frames' ratios, as the papers on video give it; a frame that is equal counts 100 dB, and
    equal videos have infinity. The peak is 255 or 65535 after the bit depth, which both share, as they do the shape.
    """
    if reference.shape != decoded.shape or reference.bit_depth != decoded.bit_depth:
        raise ValueError(f"signals of {reference.shape} and {decoded.shape} do not compare")
    if isinstance(reference, Audio) or isinstance(decoded, Audio):
        raise ValueError("sound has no peak signal-to-noise ratio here")
    if not (isinstance(reference, Video) and isinstance(decoded, Video)):
        return _psnr(reference.array, decoded.array)
    frames = reference.shape[0]
    pairs = zip(reference.source.read(0, frames), decoded.source.read(0, frames), strict=True)
    ratios = [_psnr(one, other) for one, other in pairs]
    return math.inf if min(ratios) == math.inf else sum(min(ratio, EQUAL_FRAME) for ratio in ratios) / frames


def _psnr(reference: Samples, decoded: Samples) -> float:
    total = 0
    for top in range(0, reference.shape[0], ROWS):
        rows = slice(top, top + ROWS)
        difference = reference[rows].astype(np.int64) - decoded[rows]
        total += int(np.sum(difference * difference))
    if total == 0:
        return math.inf
    peak = 2 ** (8 * reference.dtype.itemsize) - 1
    return 10 * math.log10(peak * peak * reference.size / total)
