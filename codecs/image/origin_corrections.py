"""Coded form of the pixels that luma and subsampled chroma do not explain.

Three runs of adaptive Exp-Golomb codes (`laconic.entropy.adaptive_binary`), each known in length once those before are decoded:

    segments    for every 16 pixels of a row (fewer at its end): 1 if any is corrected; the set is 1 if one is predicted clipped
    modes       for every pixel of those segments: 0 as predicted, 1 shifted, 2 raw; the set is 1 if it is predicted clipped
    values      for every shifted pixel its shifts of c1 and c2 (sets 0 and 1), then for every raw pixel its red, green and
                blue less those of the raw pixel before, modulo 256 (-128..127; sets 2 to 4)

in front of them the lengths of the first two, 32 bits each, little-endian. Nothing to correct is no bytes at all.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...entropy.adaptive_binary import decode_integers, encode_integers
from ...entropy.errors import SymbolsCorrupt
from ..errors import CorruptStream
from .origin_lattice import Bytes
from .origin_search import RAW, SHIFTED

__all__ = ["Corrections", "decode", "encode"]

SEGMENT = 16
LENGTHS = struct.Struct("<II")
SHIFT_SETS, RAW_SETS = np.arange(2), np.arange(2, 5)


@dataclass(frozen=True)
class Corrections:
    """Modes uint8 [H, W]; in raster order the shifts [n, 2] of shifted pixels, modulo 256, and raw ones' colours [m, 3]."""

    modes: Bytes
    shifts: Bytes
    colours: Bytes


def encode(corrections: Corrections, clipped: NDArray[np.bool_]) -> bytes:
    """Return the coded form; `clipped` [H, W] says where the prediction has a 0 or a 255."""
    if not corrections.modes.any():
        return b""
    segments, inside = _segments(corrections.modes.shape), corrections.modes.ravel()
    flags = np.bincount(segments, weights=inside > 0) > 0
    chosen = flags[segments]
    first = encode_integers(flags.astype(np.int64), _any_clipped(segments, clipped))
    second = encode_integers(inside[chosen].astype(np.int64), clipped.ravel()[chosen].astype(np.int64))
    colours = np.concatenate([np.zeros((1, 3), np.int64), corrections.colours.astype(np.int64)])
    steps = colours[1:] - colours[:-1]
    values = np.concatenate([_signed(corrections.shifts.astype(np.int64)).ravel(), _signed(steps).ravel()])
    third = encode_integers(values, _value_sets(len(corrections.shifts), len(steps)))
    return LENGTHS.pack(len(first), len(second)) + first + second + third


def decode(coded: bytes, clipped: NDArray[np.bool_]) -> Corrections:
    """Return what `encode` coded with the same `clipped`; raises CorruptStream."""
    if not coded:
        return Corrections(np.zeros(clipped.shape, np.uint8), np.zeros((0, 2), np.uint8), np.zeros((0, 3), np.uint8))
    if len(coded) < LENGTHS.size:
        raise CorruptStream("the corrections of a picture's origin end too early")
    ends = np.cumsum([LENGTHS.size, *LENGTHS.unpack(coded[: LENGTHS.size])])
    if ends[-1] > len(coded):
        raise CorruptStream("the corrections of a picture's origin end too early")
    runs = [coded[ends[0] : ends[1]], coded[ends[1] : ends[2]], coded[ends[2] :]]
    segments, modes = _segments(clipped.shape), np.zeros(clipped.size, dtype=np.uint8)
    try:
        flags = _within(decode_integers(runs[0], int(segments[-1]) + 1, _any_clipped(segments, clipped)), 1)
        chosen = flags[segments] == 1
        inside = decode_integers(runs[1], int(chosen.sum()), clipped.ravel()[chosen].astype(np.int64))
        modes[chosen] = _within(inside, RAW)
        shifted, raw = int((modes == SHIFTED).sum()), int((modes == RAW).sum())
        values = decode_integers(runs[2], 2 * shifted + 3 * raw, _value_sets(shifted, raw)).astype(np.int64)
    except SymbolsCorrupt as error:
        raise CorruptStream(f"the corrections of a picture's origin are corrupt: {error}") from error
    colours = np.cumsum(values[2 * shifted :].reshape(raw, 3), axis=0)
    shifts = values[: 2 * shifted].reshape(shifted, 2)
    return Corrections(modes.reshape(clipped.shape), (shifts & 255).astype(np.uint8), (colours & 255).astype(np.uint8))


def _segments(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the segment's number of every pixel, in raster order."""
    height, width = shape
    per_row = -(-width // SEGMENT)
    return (np.arange(height)[:, None] * per_row + np.arange(width) // SEGMENT).ravel()


def _any_clipped(segments: NDArray[np.int64], clipped: NDArray[np.bool_]) -> NDArray[np.int64]:
    return (np.bincount(segments, weights=clipped.ravel()) > 0).astype(np.int64)


def _value_sets(shifted: int, raw: int) -> NDArray[np.int64]:
    return np.concatenate([np.tile(SHIFT_SETS, shifted), np.tile(RAW_SETS, raw)])


def _signed(values: NDArray[np.int64]) -> NDArray[np.int64]:
    return ((values + 128) & 255) - 128


def _within(values: NDArray[Any], most: int) -> NDArray[Any]:
    if values.size and (values.min() < 0 or values.max() > most):
        raise CorruptStream("the corrections of a picture's origin are corrupt: a flag is out of range")
    return values
