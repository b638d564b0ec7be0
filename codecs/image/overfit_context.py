"""Latents to bytes and back, one by one, under the context network on integers: what decides probabilities.

Parameters of the network are integers of 2**-FRACTION, and so are its activations; all of them are held in IEEE doubles, where
every product and sum is an integer below 2**53 and so exact in any order. The network gives the centre and scale of a Laplace
distribution; a latent is coded as decisions: is it the integer m nearest to the centre; above or below it; one further away,
and so on. Beyond m the distribution falls by the same factor at each step, which makes these decisions cheap.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...entropy.adaptive_binary import POSITION, decode_probability, encode_probability
from ...entropy.kernels import inlined, kernel
from ...entropy.logistic_mixing import exponential
from .overfit_spec import CONTEXT, INPUTS, LARGEST, LEFT, LOG_SCALES, MARGIN, OWN, UP

__all__ = ["FRACTION", "ContextModel", "code_plane", "context_model"]

FRACTION = 12
UNIT = 2.0**-FRACTION
HIGHEST = 2.0**24  # of a hidden activation, in units
PER_OCTAVE = 16
STEPS = 4096  # of the table of powers of 2
BEYOND = 16  # bytes past the end that are read before decoding stops

Doubles = NDArray[np.float64]
Symbols = NDArray[np.int32]
Bytes = NDArray[np.uint8]

LN2 = 0.6931471805599453
POWERS = exponential(-LN2 * np.arange(STEPS + 1) / STEPS)  # 2**-(i / STEPS)
HALVES = np.array([2.0**-i for i in range(64)])
SCALES = PER_OCTAVE * (LOG_SCALES[1] - LOG_SCALES[0]) + 1
# 1 / (scale x ln 2) of each scale: by it distances become exponents of 2
SHARPNESS = exponential(-LN2 * (np.arange(SCALES) / PER_OCTAVE + LOG_SCALES[0])) / LN2


class ContextModel(NamedTuple):
    """Integer parameters (doubles), the first two layers' weights as [inputs, outputs], and room for a latent's activations."""

    bias0: Doubles
    weight0: Doubles
    bias1: Doubles
    weight1: Doubles
    bias2: Doubles
    weight2: Doubles
    x: Doubles
    h0: Doubles
    h1: Doubles


@inlined
def _power(t: float) -> float:
    """Return 2**-t for t >= 0, within 1e-8, by a table with interpolation."""
    u = min(t, 60.0) * STEPS
    i = np.int64(u)
    at = np.uintp(i & (STEPS - 1))
    left = POWERS[at]
    return float((left + (POWERS[at + np.uintp(1)] - left) * (u - np.float64(i))) * HALVES[np.uintp(i // STEPS)])


@inlined
def _sixteen(p: float) -> int:
    return min(max(int(p * 65536.0 + 0.5), 1), 65535)


@inlined
def _gather(model: ContextModel, plane: Symbols, parent: Symbols, row: int, column: int) -> bool:
    """Set the network's inputs; returns whether any is not 0."""
    x, some = model.x, 0
    for i in range(OWN):
        v = plane[row + MARGIN - UP[i], column + MARGIN - LEFT[i]]
        some |= v
        x[i] = v
    y, x0 = (row >> 1) + 1, (column >> 1) + 1
    down, right = (1 if row & 1 else -1), (1 if column & 1 else -1)
    p0, p1, p2 = parent[y, x0], parent[y, x0 + right], parent[y + down, x0]
    p3, p4, p5 = parent[y + down, x0 + right], parent[y, x0 - right], parent[y - down, x0]
    x[OWN], x[OWN + 1], x[OWN + 2], x[OWN + 3], x[OWN + 4], x[OWN + 5] = p0, p1, p2, p3, p4, p5
    return bool((some | p0 | p1 | p2 | p3 | p4 | p5) != 0)


@inlined
def _run_network(model: ContextModel, bias: Doubles) -> tuple[float, int]:
    """Return the centre and the number of the scale for the inputs set."""
    h0, h1 = model.h0, model.h1
    for o in range(CONTEXT):
        h0[o] = bias[o]
    for i in range(INPUTS):
        v = model.x[i]
        if v != 0.0:
            weights = model.weight0[i]
            for o in range(CONTEXT):
                h0[o] += v * weights[o]
    for o in range(CONTEXT):
        h1[o] = model.bias1[o]
    for i in range(CONTEXT):
        v = min(h0[i], HIGHEST)
        if v > 0.0:
            weights = model.weight1[i]
            for o in range(CONTEXT):
                h1[o] += v * weights[o]
    centre, scale = model.bias2[0], model.bias2[1]
    for i in range(CONTEXT):
        v = min(np.floor(h1[i] * UNIT), HIGHEST)
        if v > 0.0:
            centre += v * model.weight2[0, i]
            scale += v * model.weight2[1, i]
    number = np.floor(scale * (UNIT * UNIT * PER_OCTAVE) + (0.5 - PER_OCTAVE * LOG_SCALES[0]))
    return centre * (UNIT * UNIT), int(min(max(number, 0.0), SCALES - 1.0))


@inlined
def _code_bit(p: float, bit: int, coder: NDArray[np.int64], coded: Bytes, decoding: bool) -> int:
    if decoding:
        return decode_probability(coder, coded, _sixteen(p))
    encode_probability(coder, coded, _sixteen(p), bit)
    return bit


@inlined
def _code_latent(centre: float, scale: int, value: int, coder: NDArray[np.int64], coded: Bytes, decoding: bool) -> int:
    sharpness = SHARPNESS[np.uintp(scale)]
    middle = min(max(np.floor(centre + 0.5), -LARGEST), LARGEST)
    m, d = int(middle), min(max(centre - middle, -0.5), 0.5)
    above, below = 0.5 * _power((0.5 - d) * sharpness), 0.5 * _power((0.5 + d) * sharpness)
    if _code_bit(above + below, 1 if value != m else 0, coder, coded, decoding) == 0:
        return m
    up = 1
    if m == LARGEST:
        up = 0
    elif m > -LARGEST:
        up = _code_bit(above / (above + below), 1 if value > m else 0, coder, coded, decoding)
    further, step = _power(sharpness), (1 if up else -1)
    at = m + step
    while -LARGEST < at < LARGEST and _code_bit(further, 1 if value != at else 0, coder, coded, decoding):
        at += step
    return at


@kernel
def code_plane(
    model: ContextModel,
    bias: Doubles,
    plane: Symbols,
    parent: Symbols,
    coder: NDArray[np.int64],
    coded: Bytes,
    decoding: bool,
) -> None:
    """Code the inside of `plane`, which has MARGIN zeros above, left and right; `parent` has one on each side.

    `bias` is the plane's own of the first layer. Decoding stops early where the bytes have ended long ago.
    """
    height, width = plane.shape[0] - MARGIN, plane.shape[1] - 2 * MARGIN
    for i in range(INPUTS):
        model.x[i] = 0.0
    quiet_centre, quiet_scale = _run_network(model, bias)  # of the many latents all of whose neighbours are 0
    for row in range(height):
        if decoding and coder[POSITION] > coded.size + BEYOND:
            return
        for column in range(width):
            if _gather(model, plane, parent, row, column):
                centre, scale = _run_network(model, bias)
            else:
                centre, scale = quiet_centre, quiet_scale
            value = plane[row + MARGIN, column + MARGIN]
            plane[row + MARGIN, column + MARGIN] = _code_latent(centre, scale, value, coder, coded, decoding)


def context_model(tensors: dict[str, NDArray[np.int64]]) -> ContextModel:
    """Return the model of integer parameters, by name."""
    weight = [np.ascontiguousarray(tensors[f"context.{i}.weight"].T, np.float64) for i in range(2)]
    one = float(1 << FRACTION)
    return ContextModel(
        tensors["context.0.bias"].astype(np.float64),
        weight[0],
        np.asarray(tensors["context.1.bias"] * one, np.float64),
        weight[1],
        np.asarray(tensors["context.2.bias"] * one, np.float64),
        tensors["context.2.weight"].astype(np.float64),
        np.zeros(INPUTS),
        np.zeros(CONTEXT),
        np.zeros(CONTEXT),
    )
