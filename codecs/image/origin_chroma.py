"""Chroma planes at full size from subsampled ones, and back: the subsampled planes that explain a picture's colours.

A full-size sample is a weighted mean of up to four subsampled ones: along each axis the `near` one weighs 4, 3 or 2 quarters
and the `far` one the rest, and (sum + bias) >> 4 rounds. Positions beyond an edge take the sample at the edge.

    whole       near = its own sample, weight 4
    cosited     every second position (from `phase` on) has its own sample, those between are the mean of both neighbours
    centred     two positions share a near sample of weight 3; the far one is on the other side ("fancy" in libjpeg and libwebp)
    replicated  two positions share a sample of weight 4
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

import numba
import numpy as np

from .origin_lattice import BLUE, GREEN1, GREEN2, LUMA, RED, Bytes, Integers

__all__ = ["Axis", "Placement", "Upsampler", "axis", "spread", "to_rgb"]

Function = TypeVar("Function", bound=Callable[..., Any])
Placement = Literal["whole", "cosited", "centred", "replicated"]


@dataclass(frozen=True)
class Axis:
    """One axis of an upsampler: for every full-size position its near and far samples and the near one's weight, int64 [n, 3].

    `reach` int64 [size, 2] is the first and last full-size position whose value depends on each subsampled one.
    """

    taps: Integers
    reach: Integers

    @property
    def size(self) -> int:
        """The number of subsampled positions."""
        return len(self.reach)


@dataclass(frozen=True)
class Upsampler:
    """Both axes and the bias [2, 2] by parity of row and column."""

    rows: Axis
    columns: Axis
    bias: Integers

    @property
    def base_shape(self) -> tuple[int, int]:
        """Rows and columns of the subsampled planes."""
        return self.rows.size, self.columns.size

    @property
    def centred(self) -> bool:
        """Whether a filter without positions of its own samples is along any axis."""
        return any((one.taps[:, 2] == 3).any() for one in (self.rows, self.columns))

    def __call__(self, plane: Bytes) -> Bytes:
        """Return the full-size plane uint8 [H, W] of a subsampled one, uint8 `base_shape`."""
        full = np.empty((len(self.rows.taps), len(self.columns.taps)), dtype=np.uint8)
        spread(plane, self.rows.taps, self.columns.taps, self.bias, full)
        return full


def axis(length: int, placement: Placement, phase: int = 0) -> Axis:
    """Return the axis of `length` full-size positions.

    `phase` (0 or 1) is the first cosited position with its own sample, or how many positions a crop took from the first pair.
    """
    at = np.arange(length, dtype=np.int64)
    if placement == "whole":
        return Axis(np.stack([at, at, np.full_like(at, 4)], axis=1), np.stack([at, at], axis=1))
    if placement == "cosited":
        size = max((length - phase + 1) // 2, 1)
        between = (at - phase) & 1
        near, far, weight = (at - phase - between) // 2, (at - phase + between) // 2, 4 - 2 * between
    else:
        size, at_pairs = (length + phase + 1) // 2, at + phase
        near, far, weight = at_pairs // 2, at_pairs // 2 + 2 * (at_pairs & 1) - 1, np.full_like(at, 3)
        if placement == "replicated":
            far, weight = near, weight + 1
    near, far = near.clip(0, size - 1), far.clip(0, size - 1)
    reach = np.tile(np.array([length, -1], dtype=np.int64), (size, 1))
    for tap in (near, far):
        np.minimum.at(reach[:, 0], tap, at)
        np.maximum.at(reach[:, 1], tap, at)
    return Axis(np.stack([near, far, weight], axis=1), reach)


def _compiled(function: Function) -> Function:
    return cast(Function, numba.njit(cache=True, nogil=True)(function))


@_compiled
def spread(plane: Bytes, rows: Integers, columns: Integers, bias: Integers, full: Bytes) -> None:
    """Write the full-size plane of a subsampled one; the taps must lie inside it."""
    for i in range(rows.shape[0]):
        near, far, weight = rows[i]
        for j in range(columns.shape[0]):
            left, right, share = columns[j]
            upper = share * plane[near, left] + (4 - share) * plane[near, right]
            lower = share * plane[far, left] + (4 - share) * plane[far, right]
            full[i, j] = (weight * upper + (4 - weight) * lower + bias[i & 1, j & 1]) >> 4


@_compiled
def to_rgb(y: Bytes, c1: Bytes, c2: Bytes, tables: Integers, shift: int, rgb: Bytes) -> None:
    """Write the colours rgb [H, W, 3] of the planes y, c1, c2 [H, W]."""
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            luma, first, second = tables[LUMA, y[i, j]], c1[i, j], c2[i, j]
            red = (luma + tables[RED, second]) >> shift
            green = (luma + tables[GREEN1, first] + tables[GREEN2, second]) >> shift
            blue = (luma + tables[BLUE, first]) >> shift
            rgb[i, j, 0] = min(max(red, 0), 255)
            rgb[i, j, 1] = min(max(green, 0), 255)
            rgb[i, j, 2] = min(max(blue, 0), 255)
