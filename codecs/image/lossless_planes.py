"""Planes of integers to bytes and back with the kernel of `plane_coder`, as thoroughly as the effort says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...entropy.adaptive_binary import finish_decoding, finish_encoding, start_decoding, start_encoding, written
from ..codec import Progress
from .least_squares import Neighbourhood, new_least_squares
from .plane_coder import code_rows
from .plane_model import MARGIN, new_model

__all__ = ["HIGHEST_EFFORT", "Layer", "decode_layers", "encode_layers"]

Plane = NDArray[np.int32]
Integers = NDArray[np.int64]

HIGHEST_EFFORT = 9


class Layer(NamedTuple):
    """A plane to code: its number in the stack, and the numbers of up to two planes that are known before it, nearest first."""

    plane: int
    before: tuple[int, ...]


class _Thoroughness(NamedTuple):
    """What an effort means: least-squares predictors by number of planes before, distributions, contexts, sets of weights."""

    predictors: tuple[tuple[Neighbourhood, ...], ...]
    distributions: int
    contexts: int
    sets: int


def _predictors(*shapes: tuple[int, int, int, float, int]) -> tuple[tuple[Neighbourhood, ...], ...]:
    """Return neighbourhoods for 0, 1 and 2 planes before from (own, first, second, forgetting, rounds)."""
    return tuple(
        tuple(
            Neighbourhood(own - (0, 2, 4)[known], ((), (first,), (first - 1, second))[known], memory, memory, rounds)
            for own, first, second, memory, rounds in shapes
        )
        for known in range(3)
    )


THOROUGHNESS = {
    1: _Thoroughness(_predictors(), 1, 2, 1),
    2: _Thoroughness(_predictors(), 2, 8, 1),
    3: _Thoroughness(_predictors(), 5, 14, 3),
    4: _Thoroughness(_predictors((10, 4, 3, 0.85, 1)), 3, 8, 3),
    5: _Thoroughness(_predictors((14, 7, 6, 0.85, 1)), 3, 14, 3),
    6: _Thoroughness(_predictors((14, 7, 6, 0.85, 2)), 3, 14, 3),
    7: _Thoroughness(_predictors((14, 7, 6, 0.85, 0)), 3, 14, 3),
    8: _Thoroughness(_predictors((14, 7, 6, 0.85, 0), (7, 4, 3, 0.75, 0)), 4, 14, 3),
    9: _Thoroughness(_predictors((18, 9, 8, 0.88, 0), (10, 5, 4, 0.8, 0), (7, 3, 3, 0.7, 0)), 5, 14, 3),
}
BAND = 32  # rows between reports of progress


def _with_margins(stack: Sequence[Plane]) -> Plane:
    """Return planes [P, H + 2 MARGIN, W + 2 MARGIN] with edges repeated."""
    return np.stack([np.pad(plane, MARGIN, mode="edge") for plane in stack]).astype(np.int32)


def _run(
    planes: Plane,
    layers: Sequence[Layer],
    highest: int,
    effort: int,
    coder: Integers,
    coded: NDArray[np.uint8],
    decoding: bool,
    progress: Progress | None,
) -> None:
    """Code all layers; a plane's margins are filled once it is coded, as later ones look at all of it."""
    height, width = planes.shape[1] - 2 * MARGIN, planes.shape[2] - 2 * MARGIN
    thoroughness = THOROUGHNESS[effort]
    for number, (p, known) in enumerate(layers):
        planes[p, :MARGIN] = 0
        before = np.array(known, dtype=np.int64)
        predictors = thoroughness.predictors[len(known)]
        state = new_least_squares(predictors, width, highest)
        model = new_model(width, height * width, len(predictors), *thoroughness[1:])
        for top in range(0, height, BAND):
            bottom = min(top + BAND, height)
            code_rows(planes, p, before, highest, state, model, top, bottom, coder, coded, decoding)
            if progress:
                progress((number + bottom / height) / len(layers), "decoding" if decoding else "encoding")
        planes[p] = np.pad(planes[p, MARGIN:-MARGIN, MARGIN:-MARGIN], MARGIN, mode="edge")


def encode_layers(
    stack: Sequence[Plane], layers: Sequence[Layer], highest: int, effort: int, progress: Progress | None = None
) -> bytes:
    """Code the planes of `layers`, in this order, samples 0..`highest`; other planes of the stack are known to the decoder.

    All planes are [H, W] of one size.
    """

    def kernel(out: NDArray[np.uint8]) -> int:
        coder = start_encoding()
        _run(_with_margins(stack), layers, highest, effort, coder, out, False, progress)
        return int(finish_encoding(coder, out))

    samples = stack[0].size * len(layers)
    return written(kernel, 64 + samples * (2 + highest.bit_length()) // 8)


def decode_layers(
    coded: bytes,
    stack: Sequence[Plane],
    layers: Sequence[Layer],
    highest: int,
    effort: int,
    progress: Progress | None = None,
) -> list[Plane]:
    """Return the planes of `layers`; the stack may hold anything in their places. Raises `SymbolsCorrupt`."""
    planes, array = _with_margins(stack), np.frombuffer(coded, dtype=np.uint8).copy()  # writable, as the encoder's is
    coder = start_decoding(array)
    _run(planes, layers, highest, effort, coder, array, True, progress)
    finish_decoding(coder, array)
    return [planes[layer.plane, MARGIN:-MARGIN, MARGIN:-MARGIN] for layer in layers]
