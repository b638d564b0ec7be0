"""Whole arrays of symbols under tables by index, coded one by one inside a kernel.

Where all tables are known beforehand `laconic.entropy.range_coder` does this in bulk. This is the same model (tables, escapes)
on the coder of `laconic.entropy.adaptive_binary`: an example of a codec's kernel, and what its tests and measurements run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

from .adaptive_binary import (
    decode_entry,
    decode_uniform,
    encode_entry,
    encode_uniform,
    finish_decoding,
    finish_encoding,
    start_decoding,
    start_encoding,
    written,
)
from .errors import SymbolsCorrupt
from .tables import Tables

__all__ = ["cumulative_tables", "decode_indexed", "encode_indexed"]

Integers = NDArray[np.int64]
Bytes = NDArray[np.uint8]
Function = TypeVar("Function", bound=Callable[..., Any])

MAX_CLASS = 29  # of escapes' Exp-Golomb codes
MAX_SYMBOL = 1 << 20  # magnitude


def _compiled(function: Function) -> Function:
    # without cache=True: numba does not notice when a kernel that it inlined from another file has changed
    return cast(Function, numba.njit(nogil=True)(function))


def cumulative_tables(tables: Tables) -> tuple[NDArray[np.int32], Integers]:
    """Return the edges of all tables one after the other, and where those of each start (one more entry than tables)."""
    edges = [np.concatenate([[0], np.cumsum(tables.table(k))]) for k in range(len(tables))]
    starts = np.cumsum([0, *(e.size for e in edges)])
    return np.concatenate(edges).astype(np.int32), starts.astype(np.int64)


@_compiled
def _encode_indexed(
    symbols: NDArray[np.int32], indices: Bytes, cumulative: NDArray[np.int32], starts: Integers, out: Bytes
) -> int:
    coder = start_encoding()
    for i in range(symbols.size):
        start, end = starts[indices[i]], starts[indices[i] + 1]
        radius, symbol = (end - start - 3) // 2, np.int64(symbols[i])
        excess = abs(symbol) - radius
        encode_entry(coder, out, cumulative, start, end, end - start - 2 if excess > 0 else symbol + radius)
        if excess > 0:
            c = 0
            while excess >> (c + 1):
                encode_uniform(coder, out, 1, 1)
                c += 1
            encode_uniform(coder, out, 0, 1)
            encode_uniform(coder, out, excess, c)
            encode_uniform(coder, out, 1 if symbol < 0 else 0, 1)
    return finish_encoding(coder, out)


@_compiled
def _decode_indexed(
    coded: Bytes, indices: Bytes, cumulative: NDArray[np.int32], starts: Integers, symbols: NDArray[np.int32]
) -> Integers:
    coder = start_decoding(coded)
    for i in range(symbols.size):
        start, end = starts[indices[i]], starts[indices[i] + 1]
        entry, radius = decode_entry(coder, coded, cumulative, start, end), (end - start - 3) // 2
        symbols[i] = entry - radius
        if entry == end - start - 2:
            c = 0
            while c < MAX_CLASS and decode_uniform(coder, coded, 1):
                c += 1
            magnitude = radius + ((1 << c) | decode_uniform(coder, coded, c))
            symbols[i] = -magnitude if decode_uniform(coder, coded, 1) else magnitude
    return coder


def encode_indexed(symbols: NDArray[Any], indices: NDArray[Any], tables: Tables) -> bytes:
    """Code integers [n] of magnitude at most 2**20, one by one, under tables `indices` [n].

    The counterpart of `laconic.entropy.range_coder` for tests and measurements: same tables, other bytes.
    """
    packed, cells = np.ascontiguousarray(symbols, dtype=np.int32), np.ascontiguousarray(indices, dtype=np.uint8)
    if packed.shape != cells.shape or packed.ndim != 1 or cells.max(initial=0) >= len(tables):
        raise ValueError(f"symbols {packed.shape} need one index below {len(tables)} each")
    if np.abs(packed).max(initial=0) > MAX_SYMBOL:
        raise ValueError(f"symbols must lie in -{MAX_SYMBOL}..{MAX_SYMBOL}")
    cumulative, starts = cumulative_tables(tables)
    return written(lambda out: _encode_indexed(packed, cells, cumulative, starts, out), 64 + 2 * packed.size)


def decode_indexed(coded: bytes, indices: NDArray[Any], tables: Tables) -> NDArray[np.int32]:
    """Return the symbols that `encode_indexed` coded with the same `indices` and tables; raises `SymbolsCorrupt`."""
    cells = np.ascontiguousarray(indices, dtype=np.uint8)
    if cells.ndim != 1 or cells.max(initial=0) >= len(tables):
        raise ValueError(f"indices must be one-dimensional and below {len(tables)}")
    array, symbols = np.frombuffer(coded, dtype=np.uint8), np.zeros(cells.size, dtype=np.int32)
    finish_decoding(_decode_indexed(array, cells, *cumulative_tables(tables), symbols), array)
    if np.abs(symbols).max(initial=0) > MAX_SYMBOL:
        raise SymbolsCorrupt(f"coded symbols are corrupt: a magnitude is above {MAX_SYMBOL}")
    return symbols
