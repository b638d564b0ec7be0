"""Small dense layers over blocks of positions, forwards and backwards: what fitting a picture's networks spends its time in.

Arrays are [channels, LANES] float32, one column a position, so that every inner loop is one vector operation. The numbers of
inputs and outputs are multiples of 4; weights are [outputs, inputs]. Only fitting uses these, so they may reorder sums.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LANES",
    "Floats",
    "add_outer",
    "dense",
    "dense_transposed",
    "exact",
    "exp2",
    "fast",
    "log2",
    "part",
    "pass_rectified",
]

LANES = 64
Floats = NDArray[np.float32]
Function = TypeVar("Function", bound=Callable[..., Any])


def fast(function: Function) -> Function:
    """Compile a function that decides nothing that a decoder has to repeat: sums may be reordered."""
    return cast(Function, numba.njit(fastmath=True, nogil=True, cache=True, error_model="numpy")(function))


def part(function: Function) -> Function:
    """Mark a function that becomes part of those that call it, and is compiled as they are.

    Called instead, it would be compiled in one way when it is new and in another when it comes from numba's cache: with sums
    in another order, so that the first encoding on a machine would give another file than the second.
    """
    return cast(Function, numba.njit(inline="always")(function))


def exact(function: Function) -> Function:
    """Compile a function whose float32 results are the same on every machine: nothing is reordered or fused."""
    return cast(Function, numba.njit(nogil=True, cache=True, error_model="numpy")(function))


@part
def dense(weights: Floats, bias: Floats, x: Floats, y: Floats, rectify: bool) -> None:
    """Set `y` to weights x + bias, with a ReLU if asked for."""
    for o in range(weights.shape[0]):
        row, out, b = weights[o], y[o], bias[o]
        for lane in range(LANES):
            out[lane] = b
        for i in range(0, weights.shape[1], 4):
            w0, w1, w2, w3 = row[i], row[i + 1], row[i + 2], row[i + 3]
            x0, x1, x2, x3 = x[i], x[i + 1], x[i + 2], x[i + 3]
            for lane in range(LANES):
                out[lane] += (w0 * x0[lane] + w1 * x1[lane]) + (w2 * x2[lane] + w3 * x3[lane])
        if rectify:
            for lane in range(LANES):
                out[lane] = max(out[lane], np.float32(0))


@part
def dense_transposed(weights: Floats, dy: Floats, dx: Floats) -> None:
    """Set `dx` to the transposed weights times `dy`: the gradient of a dense layer's inputs."""
    for i in range(weights.shape[1]):
        out = dx[i]
        for lane in range(LANES):
            out[lane] = 0
        for o in range(0, weights.shape[0], 4):
            w0, w1, w2, w3 = weights[o, i], weights[o + 1, i], weights[o + 2, i], weights[o + 3, i]
            d0, d1, d2, d3 = dy[o], dy[o + 1], dy[o + 2], dy[o + 3]
            for lane in range(LANES):
                out[lane] += (w0 * d0[lane] + w1 * d1[lane]) + (w2 * d2[lane] + w3 * d3[lane])


@part
def add_outer(dy: Floats, x: Floats, dweights: Floats, dbias: Floats) -> None:
    """Add the gradients of a dense layer's weights and biases."""
    for o in range(dweights.shape[0]):
        d = dy[o]
        total = np.float32(0)
        for lane in range(LANES):
            total += d[lane]
        dbias[o] += total
        for i in range(0, dweights.shape[1], 4):
            x0, x1, x2, x3 = x[i], x[i + 1], x[i + 2], x[i + 3]
            s0 = s1 = s2 = s3 = np.float32(0)
            for lane in range(LANES):
                s0 += d[lane] * x0[lane]
                s1 += d[lane] * x1[lane]
                s2 += d[lane] * x2[lane]
                s3 += d[lane] * x3[lane]
            dweights[o, i] += s0
            dweights[o, i + 1] += s1
            dweights[o, i + 2] += s2
            dweights[o, i + 3] += s3


@part
def pass_rectified(y: Floats, dy: Floats) -> None:
    """Set the gradient `dy` to 0 where the rectified `y` let nothing pass."""
    for o in range(y.shape[0]):
        for lane in range(LANES):
            dy[o, lane] = dy[o, lane] if y[o, lane] > 0 else np.float32(0)


@part
def exp2(x: Floats, bits: NDArray[np.int32], out: Floats) -> None:
    """Set `out` to 2**x, within 2e-7 of it, x clipped to -126..126; `bits` and `out` are views of other arrays than `x`.

    `bits` [LANES] is room for the powers' exponents.
    """
    power = bits.view(np.float32)
    for lane in range(LANES):
        v = min(max(x[lane], np.float32(-126)), np.float32(126))
        whole = np.int32(v + np.float32(126.5)) - np.int32(126)
        f = v - np.float32(whole)
        bits[lane] = (whole + 127) << 23
        p = np.float32(0.0013333558)
        p = p * f + np.float32(0.0096181291)
        p = p * f + np.float32(0.0555041087)
        p = p * f + np.float32(0.2402265070)
        p = p * f + np.float32(0.6931471806)
        out[lane] = p * f + np.float32(1)
    for lane in range(LANES):
        out[lane] *= power[lane]


@part
def log2(x: Floats, out: Floats) -> None:
    """Set `out` to log2 of positive numbers, within 1e-5."""
    bits = x.view(np.int32)
    mantissa = np.empty(LANES, np.int32)
    m = mantissa.view(np.float32)
    for lane in range(LANES):
        mantissa[lane] = (bits[lane] & 0x7FFFFF) | 0x3F800000
        out[lane] = np.float32((bits[lane] >> 23) - 127)
    for lane in range(LANES):
        t = (m[lane] - np.float32(1.41421356)) / (m[lane] + np.float32(1.41421356))
        s = t * t
        out[lane] += np.float32(0.5) + t * (
            np.float32(2.8853900818) + s * (np.float32(0.9617966939) + s * np.float32(0.5770780164))
        )
