"""The moments at which frames appear, as bytes: the "times" chunk of docs/format.md."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptStream
from ..varint import read_varint, varint

__all__ = ["pack_times", "unpack_times"]

LONGEST = 2**31  # ticks between two frames: more than six hours


def pack_times(times: NDArray[np.int64]) -> bytes:
    """Return the differences of ascending times [T] from 0, each a varint."""
    return b"".join(map(varint, np.diff(times).tolist()))


def unpack_times(packed: bytes, count: int) -> NDArray[np.int64]:
    """Return the times of `count` frames; raises `CorruptStream` for other bytes than `pack_times` makes."""
    steps, at = [], 0
    while at < len(packed):
        step, at = read_varint(packed, at, "the time of a frame")
        steps.append(step)
    if len(steps) != count - 1 or any(not 0 < step < LONGEST for step in steps):
        raise CorruptStream(f"the times of {count} frames are malformed")
    return np.cumsum(np.array([0, *steps], np.int64))
