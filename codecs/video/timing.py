"""The moments at which frames appear, as bytes: the "times" chunk of docs/format.md."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptStream

__all__ = ["pack_times", "unpack_times"]

LONGEST = 2**31  # ticks between two frames: more than six hours


def pack_times(times: NDArray[np.int64]) -> bytes:
    """Return the differences of ascending times [T] from 0, each a varint."""
    out = bytearray()
    for step in np.diff(times).tolist():
        while step > 0x7F:
            out.append(step & 0x7F | 0x80)
            step >>= 7
        out.append(step)
    return bytes(out)


def unpack_times(packed: bytes, count: int) -> NDArray[np.int64]:
    """Return the times of `count` frames; raises `CorruptStream` for other bytes than `pack_times` makes."""
    steps, value, shift = [], 0, 0
    for byte in packed:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            steps.append(value)
            value, shift = 0, 0
        elif shift > 28:
            break
    if shift or len(steps) != count - 1 or any(not 0 < step < LONGEST for step in steps):
        raise CorruptStream(f"the times of {count} frames are malformed")
    return np.cumsum(np.array([0, *steps], np.int64))
