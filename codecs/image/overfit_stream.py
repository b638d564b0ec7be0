"""The payload of one tile of `image-overfit`: its network, then its latents; and which tiles a picture has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...entropy.adaptive_binary import (
    decode_probability,
    encode_probability,
    finish_decoding,
    finish_encoding,
    start_decoding,
    start_encoding,
    written,
)
from ...entropy.digest import symbol_digest
from ...entropy.errors import SymbolsCorrupt
from ..errors import CorruptStream
from ..varint import read_varint, varint
from .overfit_context import Symbols, code_plane, context_model
from .overfit_parameters import Network, decode_network
from .overfit_spec import LEVELS, MARGIN, plane_shapes

__all__ = ["Decoded", "decode_tile", "encode_latents", "encode_tile", "tiles_of"]

TILE = 2048  # pixels of a tile's longer side: memory, for a fit of 160 bytes a pixel, stays bounded
HALF = 1 << 15  # of 2**16


class Decoded(NamedTuple):
    """A tile's network, its latents (finest plane first) and their checksum."""

    network: Network
    latents: list[Symbols]
    digest: bytes


def tiles_of(height: int, width: int) -> list[tuple[slice, slice]]:
    """Return the rows and columns of all tiles in raster order: as few as can be, of sizes as equal as can be."""
    rows, columns = (
        [slice(i * size // count, (i + 1) * size // count) for count in [-(-size // TILE)] for i in range(count)]
        for size in (height, width)
    )
    return [(r, c) for r in rows for c in columns]


def _with_margins(latents: Symbols) -> Symbols:
    """Return a plane with the zeros around it that its own contexts reach."""
    return np.pad(latents, ((MARGIN, 0), (MARGIN, MARGIN)))


def _as_parent(latents: Symbols) -> Symbols:
    """Return a plane with the zeros around it that the contexts of the next finer plane reach."""
    return np.pad(latents, 1)


def encode_latents(network: Network, latents: Sequence[Symbols]) -> bytes:
    """Return the code of latents, finest plane first: for each plane from the coarsest whether it has any, then those."""
    model, tensors = context_model(network.integer_tensors()), network.integer_tensors()

    def kernel(out: NDArray[np.uint8]) -> int:
        coder = start_encoding()
        parent = _top(latents[-1].shape)
        for k in range(LEVELS - 1, -1, -1):
            encode_probability(coder, out, HALF, int(latents[k].any()))
            if latents[k].any():
                plane = _with_margins(latents[k])
                code_plane(model, tensors["context.0.bias"][k].astype(np.float64), plane, parent, coder, out, False)
            parent = _as_parent(latents[k])
        return finish_encoding(coder, out)

    return written(kernel, 4096 + latents[0].size)


def _top(shape: tuple[int, ...]) -> Symbols:
    """Return what lies beyond the coarsest plane: nothing."""
    return np.zeros(((shape[0] + 1) // 2 + 2, (shape[1] + 1) // 2 + 2), np.int32)


def encode_tile(network_code: bytes, network: Network, latents: Sequence[Symbols]) -> tuple[bytes, bytes]:
    """Return a tile's payload and the checksum of its symbols."""
    payload = varint(len(network_code)) + network_code + encode_latents(network, latents)
    return payload, symbol_digest(network.integers, *latents)


def decode_tile(payload: bytes, initial: Network, height: int, width: int) -> Decoded:
    """Return what is in a payload; raises `CorruptStream`."""
    length, at = read_varint(payload, 0, "the length of the networks' code")
    if length > len(payload) - at:
        raise CorruptStream("the networks' code is longer than its payload")
    network = decode_network(payload[at : at + length], initial)
    model, tensors = context_model(network.integer_tensors()), network.integer_tensors()
    coded = np.frombuffer(payload, np.uint8, offset=at + length).copy()  # writable, as encoding shares the kernel
    coder, shapes = start_decoding(coded), plane_shapes(height, width)
    latents: list[Symbols] = []
    parent = _top(shapes[-1])
    for k in range(LEVELS - 1, -1, -1):
        plane = np.zeros((shapes[k][0] + MARGIN, shapes[k][1] + 2 * MARGIN), np.int32)
        if decode_probability(coder, coded, HALF):
            code_plane(model, tensors["context.0.bias"][k].astype(np.float64), plane, parent, coder, coded, True)
        latents.insert(0, plane[MARGIN:, MARGIN : MARGIN + shapes[k][1]])
        parent = _as_parent(latents[0])
    try:
        finish_decoding(coder, coded)
    except SymbolsCorrupt as error:
        raise CorruptStream(f"the latents: {error}") from error
    return Decoded(network, latents, symbol_digest(network.integers, *latents))
