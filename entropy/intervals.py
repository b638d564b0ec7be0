"""Intervals of 2**24 on the coder of `adaptive_binary`: for kernels that compute single edges of a table, never all of it.

A model with a cumulative distribution that is cheap at any one point encodes with two edges, and decodes with a binary
search for the edges around the quantile. Coded bytes are those that `encode_entry` makes of the same edges.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

from .adaptive_binary import LOW, SIZE, _fill, _settle
from .tables import PRECISION

__all__ = ["decode_interval", "decode_quantile", "encode_interval"]

Integers = NDArray[np.int64]
Bytes = NDArray[np.uint8]
Function = TypeVar("Function", bound=Callable[..., Any])

TOTAL = 1 << PRECISION


def _compiled(function: Function) -> Function:
    return cast(Function, numba.njit(cache=True, nogil=True)(function))


@_compiled
def encode_interval(coder: Integers, out: Bytes, left: int, right: int) -> None:
    """Append the part `left` .. `right` - 1 of 2**24, 0 <= left < right <= 2**24."""
    scale = coder[SIZE] >> PRECISION
    start = scale * left
    coder[LOW] += start
    coder[SIZE] = (coder[SIZE] if right == TOTAL else scale * right) - start
    _settle(coder, out)


@_compiled
def decode_quantile(coder: Integers) -> int:
    """Return a number (0 .. 2**24 - 1) inside the next interval, whatever the bytes."""
    return int(min(coder[LOW] // (coder[SIZE] >> PRECISION), TOTAL - 1))


@_compiled
def decode_interval(coder: Integers, coded: Bytes, left: int, right: int) -> None:
    """Go on after the interval that holds the quantile."""
    scale = coder[SIZE] >> PRECISION
    start = scale * left
    coder[LOW] -= start
    coder[SIZE] = (coder[SIZE] if right == TOTAL else scale * right) - start
    _fill(coder, coded)
