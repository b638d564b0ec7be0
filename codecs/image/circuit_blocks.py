"""Pictures of any size through a circuit: residuals in blocks of 8 x 8 samples, each given the border of those before it.

The circuit's variables are a window: the row above a block, from one sample left of it to one right of it, the column left of
it, and the block itself, in up to three channels. A block is coded given what is known of the border; samples outside of the
picture, and channels that it lacks, are summed out. Blocks are coded in waves along 2 rows + columns, so that those above, to
the upper right and to the left come before.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...entropy.adaptive_binary import (
    check_supply,
    finish_decoding,
    finish_encoding,
    start_decoding,
    start_encoding,
    written,
)
from ...entropy.errors import SymbolsCorrupt
from ..errors import CorruptStream
from .circuit_pictures import Coded
from .circuit_residual import TRANSFORMS, best_transform, from_residuals, merge_colours, split_colours, to_residuals
from .circuit_walk import ABSENT, CODED, KNOWN, IntegerCircuit, walk

__all__ = ["BLOCK", "CHANNELS", "WINDOW", "decode_tile", "encode_tile", "windows"]

BLOCK, CHANNELS = 8, 3
_ABOVE = [(-1, x) for x in range(-1, BLOCK + 1)]
_INSIDE = [(y, x) for y in range(BLOCK) for x in range(-1, BLOCK)]
WINDOW = np.array(_ABOVE + _INSIDE, np.int64)  # (row, column) of each variable of one channel, from the block's corner
_BORDER = (WINDOW < 0).any(1) | (WINDOW[:, 1] == BLOCK)

Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]


def windows(padded: Bytes, rows: Integers, columns: Integers) -> Bytes:
    """Return the windows (N, C * variables of a channel) of blocks whose corners are at `rows` and `columns`.

    `padded` (C, 1 + H, W + 2) has one row more above, one column more on either side.
    """
    gathered = padded[:, rows[:, None] + WINDOW[:, 0] + 1, columns[:, None] + WINDOW[:, 1] + 1]
    return np.ascontiguousarray(gathered.transpose(1, 0, 2).reshape(len(rows), -1))


def encode_tile(circuit: IntegerCircuit, samples: Bytes) -> Coded:
    """Code samples (1 or 3, H, W)."""
    transform = best_transform(samples) if len(samples) == CHANNELS else 0
    residuals = to_residuals(split_colours(samples, transform) if len(samples) == CHANNELS else samples)
    ideal, cost = [0.0], [0]

    def kernel(out: Bytes) -> int:
        coder = start_encoding()
        ideal[0], cost[0] = _walk_waves(circuit, residuals, coder, out, False)
        return int(finish_encoding(coder, out))

    coded = written(kernel, 1024 + residuals.size)
    return Coded(bytes([transform]) + coded, ideal[0], cost[0])


def decode_tile(circuit: IntegerCircuit, payload: bytes, channels: int, height: int, width: int) -> Bytes:
    """Restore samples (1 or 3, H, W); raises `CorruptStream`."""
    if not payload or payload[0] >= TRANSFORMS or (channels != CHANNELS and payload[0]):
        raise CorruptStream("the payload has no colour transform that exists")
    coded = np.frombuffer(bytearray(payload), np.uint8, offset=1)  # writable, as in `decode_pictures`
    coder = start_decoding(coded)
    residuals = np.zeros((channels, height, width), np.uint8)
    try:
        _walk_waves(circuit, residuals, coder, coded, True)
        finish_decoding(coder, coded)
    except SymbolsCorrupt as error:
        raise CorruptStream(str(error)) from error
    planes = from_residuals(residuals)
    return merge_colours(planes, payload[0]) if channels == CHANNELS else planes


def _waves(height: int, width: int) -> list[tuple[Integers, Integers]]:
    """Return the corners (rows, columns) of the blocks of each wave."""
    rows, columns = np.mgrid[: -(-height // BLOCK), : -(-width // BLOCK)].reshape(2, -1)
    order = np.argsort(2 * rows + columns, kind="stable")
    edges = np.flatnonzero(np.diff((2 * rows + columns)[order])) + 1
    parts = np.split(order, edges)
    return [(rows[part] * BLOCK, columns[part] * BLOCK) for part in parts]


def _walk_waves(circuit: IntegerCircuit, residuals: Bytes, coder: Integers, buffer: Bytes, decoding: bool) -> tuple[float, int]:
    """Code all blocks; decoding fills in `residuals`. Returns the bits that the probabilities call for and the cost.

    Decoding raises `SymbolsCorrupt` soon after the bytes have ended: few bytes can promise a large tile.
    """
    channels, height, width = residuals.shape
    tall, wide = -(-height // BLOCK) * BLOCK, -(-width // BLOCK) * BLOCK
    padded = np.zeros((channels, tall + 1, wide + 2), np.uint8)
    padded[:, 1 : height + 1, 1 : width + 1] = residuals
    present = np.zeros((1, tall + 1, wide + 2), np.uint8)
    present[:, 1 : height + 1, 1 : width + 1] = 1
    per_channel, variables = len(WINDOW), circuit.order.size
    role = np.where(_BORDER, KNOWN, CODED).astype(np.uint8)
    ideal, cost = 0.0, 0
    for rows, columns in _waves(height, width):
        values = np.zeros((len(rows), variables), np.uint8)
        status = np.full(values.shape, ABSENT, np.uint8)
        values[:, : channels * per_channel] = windows(padded, rows, columns)
        status[:, : channels * per_channel] = np.tile(windows(present, rows, columns) * role, channels)
        widths = np.full((0, 0) if decoding else values.shape, 1 << 24, np.int32)
        cost += walk(circuit, values, status, coder, buffer, decoding, widths)
        if decoding:
            check_supply(coder, buffer)
            _place(padded, values, rows, columns)
        else:
            ideal += float(24 * widths.size - np.log2(widths.astype(np.float64)).sum())
    if decoding:
        residuals[:] = padded[:, 1 : height + 1, 1 : width + 1]
    return ideal, cost


def _place(padded: Bytes, values: Bytes, rows: Integers, columns: Integers) -> None:
    """Put the inner samples of windows in their places."""
    channels = len(padded)
    inner = ~_BORDER
    by_channel = values[:, : channels * len(WINDOW)].reshape(len(rows), channels, -1)[:, :, inner]
    at_rows, at_columns = rows[:, None] + WINDOW[inner, 0] + 1, columns[:, None] + WINDOW[inner, 1] + 1
    padded[:, at_rows, at_columns] = by_channel.transpose(1, 0, 2)
