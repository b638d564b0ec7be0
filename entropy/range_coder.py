"""Range coder with a table per symbol, selected by index.

One coder is one string of bytes. `IndexedEncoder.encode` may be called any number of times; `IndexedDecoder.decode` must be
called with the same indices and tables in the same order, so that the tables of a call may depend on the symbols of earlier
calls. Inside a call the order of coding is

1. symbols grouped by table, tables in increasing index, within a table in the order of the arrays;
2. of all symbols that were sent as escapes, in the order of the arrays: the length classes, then the signs (1 is negative),
   then, class by class in increasing order, the suffixes. With m = |symbol| - R (m >= 1) this is an Exp-Golomb code: class
   c = floor(log2 m), of probability 2**-(c + 1) (the last, 19, has that of 18), and suffix m - 2**c, uniform in c bits.

The arithmetic is that of `constriction.stream.queue` (range coding after Martin 1979; 32-bit words, 64-bit state, 24-bit
probabilities). Bytes: the words in order, each big-endian, so that the whole is one binary fraction; the encoder ends it with
the shortest byte string inside the final interval, without trailing zero bytes, and the decoder reads zeros past the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import constriction  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from .errors import SymbolsCorrupt
from .tables import Tables

__all__ = ["MAX_MAGNITUDE", "IndexedDecoder", "IndexedEncoder"]

MAX_MAGNITUDE = 1 << 20  # of a symbol
LENGTH_CLASSES = 20


@cache
def _length_model() -> Any:
    """The model of length classes: probabilities 1/2, 1/4, ... with the last twice."""
    exponents = [*range(1, LENGTH_CLASSES), LENGTH_CLASSES - 1]
    weights = np.array([2.0 ** (24 - e) - 1 for e in exponents])
    return constriction.stream.model.Categorical(weights, lazy=False, perfect=False)


@cache
def _uniform(bits: int) -> Any:
    return constriction.stream.model.Uniform(1 << bits)


@dataclass(frozen=True)
class _Grouping:
    """`order` sorts positions by table; `spans` are (table, start, end) in that order."""

    order: NDArray[np.intp]
    spans: list[tuple[int, int, int]]


def _group(indices: NDArray[np.uint8], skip_below: int) -> _Grouping:
    order = np.argsort(indices, kind="stable")
    ends = np.cumsum(np.bincount(indices))
    spans = [(k, int(end - n), int(end)) for k, (end, n) in enumerate(zip(ends, np.diff(ends, prepend=0), strict=True)) if n]
    return _Grouping(order, [span for span in spans if span[0] >= skip_below])


def _checked_indices(indices: NDArray[Any], tables: Tables) -> NDArray[np.uint8]:
    indices = np.asarray(indices)
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        raise ValueError(f"indices must be integers in one dimension, not {indices.dtype} {indices.shape}")
    if indices.size and (indices.min() < 0 or indices.max() >= len(tables)):
        raise ValueError(f"indices must lie in 0..{len(tables) - 1}, not {indices.min()}..{indices.max()}")
    return indices.astype(np.uint8)


class IndexedEncoder:
    """Codes integer symbols, each under the table that its index selects."""

    def __init__(self) -> None:
        self._coder = constriction.stream.queue.RangeEncoder()

    def encode(self, symbols: NDArray[Any], indices: NDArray[Any], tables: Tables, skip_below: int = 0) -> None:
        """Append `symbols` [n] (integers, magnitude at most 2**20) under tables `indices` [n].

        Symbols with an index below `skip_below` take no bits and must be 0. Raises ValueError for anything else.
        """
        indices, symbols = _checked_indices(indices, tables), np.asarray(symbols)
        if symbols.shape != indices.shape or symbols.dtype.kind not in "iu":
            raise ValueError(f"{indices.size} indices need as many integer symbols, not {symbols.dtype} {symbols.shape}")
        if not symbols.size:
            return
        if symbols.max() > MAX_MAGNITUDE or symbols.min() < -MAX_MAGNITUDE:
            raise ValueError(f"symbols must lie in -{MAX_MAGNITUDE}..{MAX_MAGNITUDE}, not {symbols.min()}..{symbols.max()}")
        if skip_below and symbols[indices < skip_below].any():
            raise ValueError(f"symbols with an index below {skip_below} must be 0")
        symbols = symbols.astype(np.int32)
        radius = tables.radius[indices]
        excess = np.abs(symbols) - radius
        grouping = _group(indices, skip_below)
        entries = np.where(excess > 0, 2 * radius + 1, symbols + radius)[grouping.order]
        for k, start, end in grouping.spans:
            self._coder.encode(entries[start:end], tables.categorical(k))
        escaped = np.flatnonzero((excess > 0) & (indices >= skip_below))
        if escaped.size:
            self._encode_escapes(excess[escaped], symbols[escaped] < 0)

    def _encode_escapes(self, excess: NDArray[np.int32], negative: NDArray[np.bool_]) -> None:
        """Append the magnitudes beyond the radius (from 1 up) and the signs."""
        length = np.frexp(excess.astype(np.float64))[1].astype(np.int32) - 1
        self._coder.encode(length, _length_model())
        self._coder.encode(negative.astype(np.int32), _uniform(1))
        for c in np.unique(length[length > 0]).tolist():
            self._coder.encode(excess[length == c] - (1 << c), _uniform(c))

    def finish(self) -> bytes:
        """Return the coded bytes; the encoder may go on, and a later call returns the bytes of everything."""
        position, (lower, size) = self._coder.pos()
        sealed = self._coder.get_compressed().astype(">u4").tobytes()
        return _shorten(sealed, position, lower, size) if sealed else b""


def _shorten(sealed: bytes, position: int, lower: int, size: int) -> bytes:
    """Return the shortest bytes, read as a fraction with zeros after them, inside the final interval.

    `sealed` is one fraction inside it. After the first `position` words (32 bits each) the interval is
    lower .. lower + size - 1 in units of 2**-64 words; beyond 2**64 it carries into those words.
    """
    prefix, tail = sealed[: 4 * position], sealed[4 * position :]
    seal = int.from_bytes(tail[:8].ljust(8, b"\0"), "big")
    seal_carried = seal < lower
    top = lower + size - 1
    point = next(p for cut in range(64, -1, -8) if (p := (top >> cut) << cut) >= lower)
    if point >> 64 and not seal_carried:
        kept = prefix.rstrip(b"\xff")
        prefix = kept[:-1] + bytes([kept[-1] + 1])
    return (prefix.ljust(4 * position, b"\0") + (point % (1 << 64)).to_bytes(8, "big")).rstrip(b"\0")


class IndexedDecoder:
    """Restores symbols from the bytes of an `IndexedEncoder`.

    Damaged bytes give other symbols or `SymbolsCorrupt`, nothing else; memory is proportional to the indices asked for.
    """

    def __init__(self, coded: bytes) -> None:
        words = np.frombuffer(coded + bytes(-len(coded) % 4), dtype=">u4").astype(np.uint32)
        self._coder = constriction.stream.queue.RangeDecoder(words)

    def _decode(self, model: Any, count: int) -> NDArray[np.int32]:
        try:
            return np.asarray(self._coder.decode(model, count), dtype=np.int32)
        except AssertionError as error:  # what constriction raises for a point outside of the interval
            raise SymbolsCorrupt("coded symbols are corrupt: point outside of the coder's interval") from error

    def decode(self, indices: NDArray[Any], tables: Tables, skip_below: int = 0) -> NDArray[np.int32]:
        """Return the next symbols, int32 [n], under tables `indices` [n]; the arguments are those of `encode`."""
        indices = _checked_indices(indices, tables)
        symbols = np.zeros(indices.shape, dtype=np.int32)
        if not indices.size:
            return symbols
        grouping = _group(indices, skip_below)
        escaped = []
        for k, start, end in grouping.spans:
            entries = self._decode(tables.categorical(k), end - start)
            radius, positions = int(tables.radius[k]), grouping.order[start:end]
            symbols[positions] = entries - radius
            escaped.append(positions[entries > 2 * radius])
        positions = np.sort(np.concatenate(escaped)) if escaped else np.zeros(0, dtype=np.intp)
        if positions.size:
            symbols[positions] = self._decode_escapes(tables.radius[indices[positions]])
        return symbols

    def _decode_escapes(self, radius: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the symbols beyond `radius` [n]."""
        length = self._decode(_length_model(), radius.size)
        negative = self._decode(_uniform(1), radius.size)
        excess = np.left_shift(1, length, dtype=np.int32)
        for c in np.unique(length[length > 0]).tolist():
            chosen = length == c
            excess[chosen] += self._decode(_uniform(c), int(chosen.sum()))
        magnitude = radius + excess
        if magnitude.max() > MAX_MAGNITUDE:
            raise SymbolsCorrupt(f"coded symbols are corrupt: magnitude {magnitude.max()} is above {MAX_MAGNITUDE}")
        return np.where(negative == 1, -magnitude, magnitude).astype(np.int32)
