"""Two-byte digest of symbols: turns drift between encoder and decoder into an error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

__all__ = ["SymbolDigest", "joint_digest", "symbol_digest"]


class SymbolDigest:
    """CRC-32C (Castagnoli) of symbols as little-endian int32, folded to 16 bits by exclusive or of its halves.

    Feed arrays in coding order; how they are split into arrays does not matter.
    """

    def __init__(self) -> None:
        self._crc = 0

    def update(self, symbols: NDArray[Any]) -> None:
        """Append integer symbols of any shape (row-major order) that fit into int32."""
        self._crc = google_crc32c.extend(self._crc, np.ascontiguousarray(symbols, dtype="<i4").tobytes())

    def value(self) -> bytes:
        """Return the digest of everything so far: 2 bytes, big-endian."""
        return ((self._crc >> 16) ^ (self._crc & 0xFFFF)).to_bytes(2, "big")


def symbol_digest(*arrays: NDArray[Any]) -> bytes:
    """Return the 2-byte digest of integer arrays in this order."""
    digest = SymbolDigest()
    for array in arrays:
        digest.update(array)
    return digest.value()


def joint_digest(digests: Sequence[bytes]) -> bytes:
    """Return the digest of digests, in this order: that of a picture from those of its tiles."""
    return symbol_digest(np.array([int.from_bytes(digest, "big") for digest in digests], np.int32))
