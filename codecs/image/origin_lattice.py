"""Integer luma-chroma lattices whose image in RGB a picture may be.

Every decoder of luma and chroma that we know computes, with five tables of 256 integers and a shift,

    red   = (luma[y] + red[c2]) >> shift
    green = (luma[y] + green1[c1] + green2[c2]) >> shift        each clipped to 0..255
    blue  = (luma[y] + blue[c1]) >> shift

so one set of kernels serves them all: only the tables differ. Luma rises with y, red with c2 and blue with c1, the latter two
by more than one grey level a step, hence few RGB triples (one in 4 to one in 9) are reachable, and each unclipped one from one
triple.

Sources: PhotoCD's matrix as published (Kodak PCD 042; 1.3584, 1.8215, 2.2179, offsets 156 and 137, green by 0.194 and 0.509 of
the other two's chroma terms), its rounding found from decoded pictures; JPEG's in libjpeg's jdcolor.c; WebP's in libwebp's
dsp/yuv.h.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Lattice", "jpeg", "photocd", "webp"]

Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]

LUMA, RED, GREEN1, GREEN2, BLUE = range(5)  # rows of the tables


@dataclass(frozen=True)
class Lattice:
    """Tables int64 [5, 256] of luma, red, green by c1, green by c2 and blue, and the shift."""

    tables: Integers
    shift: int

    def luma_weights(self) -> NDArray[np.float64]:
        """Return [wr, wg, wb, w1] with y = wr * red + wg * green + wb * blue + w1 wherever nothing is clipped or rounded."""
        slopes = (self.tables[:, -1] - self.tables[:, 0]) / 255
        middles = self.tables.mean(axis=1)
        ratios = np.array([-slopes[GREEN2] / slopes[RED], 1.0, -slopes[GREEN1] / slopes[BLUE]])
        weights = ratios / ratios.sum()
        # at the middle of both chroma tables red, green and blue exceed luma by these offsets
        offsets = np.array([middles[RED], middles[GREEN1] + middles[GREEN2], middles[BLUE]])
        one = 1 << self.shift
        constant = weights.sum() * one / 2 - weights @ offsets - self.tables[LUMA, 0]
        found: NDArray[np.float64] = np.append(weights * one, constant) / slopes[LUMA]
        return found


def _lattice(luma: Integers, red: Integers, green1: Integers, green2: Integers, blue: Integers, shift: int) -> Lattice:
    tables = np.stack([luma, red, green1, green2, blue])
    tables.setflags(write=False)
    return Lattice(tables, shift)


def photocd() -> Lattice:
    """PhotoCD's YCC to gamma-coded RGB, 16 fractional bits; green takes its chroma terms from the others' after flooring."""
    y, c1, c2 = _arange(0), _arange(156), _arange(137)
    red, blue = 119374 * c2, 145352 * c1
    return _lattice(89024 * y, red, -12714 * (blue >> 16), -33358 * (red >> 16), blue, 16)


def jpeg() -> Lattice:
    """Full-range BT.601 with 16 fractional bits as libjpeg rounds it; c1 is Cb, c2 is Cr."""
    y, cb, cr = _arange(0), _arange(128), _arange(128)
    half = 1 << 15
    return _lattice(y << 16, 91881 * cr + half, -22554 * cb, -46802 * cr + half, 116130 * cb + half, 16)


def webp() -> Lattice:
    """Limited-range BT.601 with 6 fractional bits as libwebp rounds it; c1 is U, c2 is V."""
    y, u, v = _arange(0), _arange(0), _arange(0)
    luma, red, blue = (19077 * y) >> 8, ((26149 * v) >> 8) - 14234, ((33050 * u) >> 8) - 17685
    return _lattice(luma, red, -((6419 * u) >> 8), 8708 - ((13320 * v) >> 8), blue, 6)


def _arange(zero: int) -> Integers:
    return np.arange(256, dtype=np.int64) - zero
