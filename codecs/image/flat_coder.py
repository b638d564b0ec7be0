"""Flat pictures (screenshots, drawings, text, charts, masks) to bytes and back, without loss.

The bytes: a form (0 the samples as they are, 1 colours, 2 indices of a palette); for 2, the number of colours less 1, the
length of the coded palette (two varints), the palette; then what `flat_pixels` coded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...entropy.adaptive_binary import (
    decode_integers,
    encode_integers,
    finish_decoding,
    finish_encoding,
    start_decoding,
    start_encoding,
    written,
)
from ...entropy.errors import SymbolsCorrupt
from ..errors import CorruptStream
from ..varint import read_varint, varint
from .flat_pixels import MARGIN, NEIGHBOURS, code_pixels, new_model
from .flat_samples import new_sample_model

__all__ = ["decode_flat", "encode_flat", "expected_size", "few_colours", "flatness"]

Samples = NDArray[Any]
Colours = NDArray[np.int64]

RAW, DIRECT, PALETTE = 0, 1, 2
MOST_COLOURS = 256
MOST_GREYS = 32
LENGTH_BYTES = 4  # of a varint: a palette's are far shorter
SMALL_PICTURE = 1 << 16  # pixels below which both forms are tried


def flatness(pixels: Samples) -> float:
    """Return the share (0..1) of pixels equal to the one on the left, above, or above left or right; `pixels` are [H, W, C]."""
    colours = _packed(pixels[: max(1, min(len(pixels), (1 << 20) // max(pixels.shape[1], 1)))])
    same = np.zeros(colours.shape, dtype=np.bool_)
    same[:, 1:] |= colours[:, 1:] == colours[:, :-1]
    same[1:] |= colours[1:] == colours[:-1]
    same[1:, 1:] |= colours[1:, 1:] == colours[:-1, :-1]
    same[1:, :-1] |= colours[1:, :-1] == colours[:-1, 1:]
    return float(np.count_nonzero(same)) / same.size


def few_colours(pixels: Samples) -> bool:
    """Whether a sample of the pixels has so few colours, or grey levels, that they are hardly a photograph's."""
    every = pixels.reshape(-1, pixels.shape[2])
    some = every[:: max(1, len(every) // 4096), : 3 if pixels.shape[2] >= 3 else 1]
    most = MOST_GREYS if (some == some[:, :1]).all() else MOST_COLOURS
    return len(np.unique(some, axis=0)) <= most


def expected_size(pixels: Samples, others: int) -> float:
    """Return about how many bytes whole colours take, for a picture that another way coded in `others` bytes.

    Which neighbour a pixel equals costs the entropy of that in its surroundings, and a pixel that equals none the other way's
    mean. That is too much where things repeat (`encode_flat` finds earlier copies), and seldom too little.
    """
    colours = np.pad(_packed(pixels), ((2, 0), (2, 1)))
    here, west, far_west = colours[2:, 2:-1], colours[2:, 1:-2], colours[2:, :-3]
    north, north_west, north_east, far_north = colours[1:-1, 2:-1], colours[1:-1, 1:-2], colours[1:-1, 3:], colours[:-2, 2:-1]
    pairs = ((west, north), (west, north_west), (north, north_west), (north, north_east), (west, far_west), (north, far_north))
    surroundings = sum((a == b).astype(np.int64) << k for k, (a, b) in enumerate(pairs))
    equal = np.select([here == west, here == north, here == north_west, here == north_east], range(NEIGHBOURS), NEIGHBOURS)
    choices = NEIGHBOURS + 1
    counts = np.bincount((surroundings * choices + equal).ravel(), minlength=choices << len(pairs)).reshape(-1, choices)
    totals = counts.sum(axis=1, keepdims=True)
    bits = float((counts * np.log2(np.maximum(totals, 1) / np.maximum(counts, 1))).sum())
    return bits / 8 + others * float(counts[:, NEIGHBOURS].sum()) / here.size


def _packed(pixels: Samples) -> Colours:
    """Return [H, W] colours, channel 0 in the lowest bits."""
    bits = 8 * pixels.dtype.itemsize
    colours = pixels[..., 0].astype(np.int64)
    for channel in range(1, pixels.shape[2]):
        colours |= pixels[..., channel].astype(np.int64) << (bits * channel)
    return colours


def _unpacked(colours: Colours, channels: int, dtype: np.dtype[Any]) -> Samples:
    bits = 8 * dtype.itemsize
    return np.stack([(colours >> (bits * c)).astype(dtype) for c in range(channels)], axis=-1)


def _with_margins(height: int, width: int) -> Colours:
    return np.zeros((height + MARGIN, width + 2 * MARGIN), dtype=np.int64)


def _encode_colours(colours: Colours, channels: int, bits: int) -> bytes:
    height, width = colours.shape

    def kernel(out: NDArray[np.uint8]) -> int:
        s, coder = _with_margins(height, width), start_encoding()
        s[MARGIN:, MARGIN : MARGIN + width] = colours
        model, samples = new_model(width, colours.size), new_sample_model(channels, bits, colours.size)
        code_pixels(model, samples, s.ravel(), width, coder, out, False)
        return finish_encoding(coder, out)

    return written(kernel, 1024 + 2 * channels * colours.size)


def _decode_colours(coded: bytes, height: int, width: int, channels: int, bits: int) -> Colours:
    array = np.frombuffer(coded, dtype=np.uint8).copy()  # kernels take arrays that may be written
    s, coder = _with_margins(height, width), start_decoding(array)
    model, samples = new_model(width, height * width), new_sample_model(channels, bits, height * width)
    code_pixels(model, samples, s.ravel(), width, coder, array, True)
    finish_decoding(coder, array)
    return s[MARGIN:, MARGIN : MARGIN + width]


def _encode_palette(palette: Samples) -> bytes:
    """Code [n, C] colours."""
    differences = np.diff(palette.astype(np.int64), axis=0, prepend=0)
    return encode_integers(differences.ravel(), np.tile(np.arange(palette.shape[1]), len(palette)))


def _decode_palette(coded: bytes, count: int, channels: int, dtype: np.dtype[Any]) -> Samples:
    differences = decode_integers(coded, count * channels, np.tile(np.arange(channels), count))
    palette = np.cumsum(differences.reshape(count, channels).astype(np.int64), axis=0)
    if palette.min() < 0 or palette.max() > np.iinfo(dtype).max:
        raise SymbolsCorrupt("coded symbols are corrupt: a colour out of range")
    return palette.astype(dtype)


def encode_flat(pixels: Samples) -> bytes:
    """Return the bytes of `pixels`, uint8 or uint16 [H, W, C], C from 1 to 4: at most 1 more than the samples take."""
    colours, channels, dtype = _packed(pixels), pixels.shape[2], pixels.dtype
    distinct = np.unique(colours)
    coded = []
    if len(distinct) <= MOST_COLOURS:
        palette = _encode_palette(_unpacked(distinct, channels, dtype))
        indices = np.searchsorted(distinct, colours)
        head = bytes([PALETTE]) + varint(len(distinct) - 1) + varint(len(palette)) + palette
        coded.append(head + _encode_colours(indices, 1, max(1, (len(distinct) - 1).bit_length())))
    if not coded or colours.size <= SMALL_PICTURE:
        coded.append(bytes([DIRECT]) + _encode_colours(colours, channels, 8 * dtype.itemsize))
    smallest = min(coded, key=len)
    if len(smallest) <= pixels.nbytes:
        return smallest
    return bytes([RAW]) + pixels.astype(dtype.newbyteorder("<")).tobytes()


def decode_flat(coded: bytes, shape: tuple[int, int, int], dtype: Any) -> Samples:
    """Return the array of `shape` and `dtype` (uint8, uint16) that `encode_flat` coded; raises `SymbolsCorrupt`."""
    height, width, channels = shape
    depth = np.dtype(dtype)
    if not coded or coded[0] > PALETTE:
        raise SymbolsCorrupt("coded symbols are corrupt: unknown form")
    if coded[0] == RAW:
        if len(coded) - 1 != height * width * channels * depth.itemsize:
            raise SymbolsCorrupt("coded symbols are corrupt: wrong number of samples")
        return np.frombuffer(coded, dtype=depth.newbyteorder("<"), offset=1).reshape(shape).astype(depth)
    if coded[0] == DIRECT:
        return _unpacked(_decode_colours(coded[1:], height, width, channels, 8 * depth.itemsize), channels, depth)
    try:
        count, at = read_varint(coded, 1, "a palette's size", LENGTH_BYTES)
        length, at = read_varint(coded, at, "a palette's length", LENGTH_BYTES)
    except CorruptStream as error:
        raise SymbolsCorrupt(f"coded symbols are corrupt: {error}") from error
    count += 1
    if count > MOST_COLOURS or length > len(coded) - at:
        raise SymbolsCorrupt("coded symbols are corrupt: palette too large")
    palette = _decode_palette(coded[at : at + length], count, channels, depth)
    bits = max(1, (count - 1).bit_length())
    indices = _decode_colours(coded[at + length :], height, width, 1, bits)
    if indices.max() >= count:
        raise SymbolsCorrupt("coded symbols are corrupt: a colour that the palette lacks")
    return palette[indices]
