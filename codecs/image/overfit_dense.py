"""Small dense layers over blocks of positions, forwards and backwards: what fitting a picture's networks spends its time in.

Activations are flat float32 arrays, LANES positions for each channel, and layers' sizes are constants: so channels lie at
constant distances, and a compiler sees that they do not overlap. With 4 x 4 weights in registers that is three to four
times faster here than rows of arrays. The numbers of inputs and outputs are multiples of 4; weights are [outputs, inputs].
Only fitting uses these, so they may reorder sums.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LANES",
    "LOG2E",
    "Floats",
    "add_outer",
    "dense",
    "exact",
    "exp2",
    "fast",
    "log2",
    "part",
    "pass_rectified",
    "root_of_two",
]

LANES = 128
LOG2E = np.float32(1.4426950408889634)
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
def dense(size: tuple[int, int], weights: Floats, bias: Floats, x: Floats, y: Floats, rectify: bool) -> None:
    """Set `y` to weights x + bias, with a ReLU if asked for."""
    for o in range(0, size[0], 4):
        at = o * LANES
        b0, b1, b2, b3 = bias[o], bias[o + 1], bias[o + 2], bias[o + 3]
        for lane in range(at, at + LANES):
            y[lane], y[lane + LANES], y[lane + 2 * LANES], y[lane + 3 * LANES] = b0, b1, b2, b3
        for i in range(0, size[1], 4):
            a0, a1, a2, a3 = weights[o, i], weights[o, i + 1], weights[o, i + 2], weights[o, i + 3]
            c0, c1, c2, c3 = weights[o + 1, i], weights[o + 1, i + 1], weights[o + 1, i + 2], weights[o + 1, i + 3]
            e0, e1, e2, e3 = weights[o + 2, i], weights[o + 2, i + 1], weights[o + 2, i + 2], weights[o + 2, i + 3]
            g0, g1, g2, g3 = weights[o + 3, i], weights[o + 3, i + 1], weights[o + 3, i + 2], weights[o + 3, i + 3]
            source = i * LANES
            for lane in range(LANES):
                x0, x1 = x[source + lane], x[source + LANES + lane]
                x2, x3 = x[source + 2 * LANES + lane], x[source + 3 * LANES + lane]
                y[at + lane] += (a0 * x0 + a1 * x1) + (a2 * x2 + a3 * x3)
                y[at + LANES + lane] += (c0 * x0 + c1 * x1) + (c2 * x2 + c3 * x3)
                y[at + 2 * LANES + lane] += (e0 * x0 + e1 * x1) + (e2 * x2 + e3 * x3)
                y[at + 3 * LANES + lane] += (g0 * x0 + g1 * x1) + (g2 * x2 + g3 * x3)
        if rectify:
            for lane in range(at, at + 4 * LANES):
                y[lane] = max(y[lane], np.float32(0))


@part
def add_outer(size: tuple[int, int], dy: Floats, x: Floats, dweights: Floats, dbias: Floats) -> None:
    """Add the gradients of a dense layer's weights and biases."""
    for o in range(0, size[0], 2):
        at = o * LANES
        total0 = total1 = np.float32(0)
        for lane in range(at, at + LANES):
            total0 += dy[lane]
            total1 += dy[lane + LANES]
        dbias[o] += total0
        dbias[o + 1] += total1
        for i in range(0, size[1], 4):
            source = i * LANES
            s0 = s1 = s2 = s3 = t0 = t1 = t2 = t3 = np.float32(0)
            for lane in range(LANES):
                d0, d1 = dy[at + lane], dy[at + LANES + lane]
                x0, x1 = x[source + lane], x[source + LANES + lane]
                x2, x3 = x[source + 2 * LANES + lane], x[source + 3 * LANES + lane]
                s0 += d0 * x0
                s1 += d0 * x1
                s2 += d0 * x2
                s3 += d0 * x3
                t0 += d1 * x0
                t1 += d1 * x1
                t2 += d1 * x2
                t3 += d1 * x3
            dweights[o, i] += s0
            dweights[o, i + 1] += s1
            dweights[o, i + 2] += s2
            dweights[o, i + 3] += s3
            dweights[o + 1, i] += t0
            dweights[o + 1, i + 1] += t1
            dweights[o + 1, i + 2] += t2
            dweights[o + 1, i + 3] += t3


@part
def pass_rectified(channels: int, y: Floats, dy: Floats) -> None:
    """Set the gradient `dy` to 0 where the rectified `y` let nothing pass."""
    for lane in range(channels * LANES):
        dy[lane] = dy[lane] if y[lane] > 0 else np.float32(0)


@part
def root_of_two(f: np.float32) -> np.float32:
    """Return 2**f within 2e-7 of it, f from -1/2 to 1/2."""
    p = np.float32(0.0013333558)
    p = p * f + np.float32(0.0096181291)
    p = p * f + np.float32(0.0555041087)
    p = p * f + np.float32(0.2402265070)
    p = p * f + np.float32(0.6931471806)
    return p * f + np.float32(1)


@part
def exp2(room: Floats, x: int, bits: NDArray[np.int32], out: int) -> None:
    """Set channel `out` to 2**x, within 2e-7 of it, x clipped to -126..126; `bits` [LANES] is room for exponents."""
    power = bits.view(np.float32)
    for lane in range(LANES):
        v = min(max(room[x * LANES + lane], np.float32(-126)), np.float32(126))
        whole = np.int32(v + np.float32(126.5)) - np.int32(126)
        f = v - np.float32(whole)
        bits[lane] = (whole + 127) << 23
        room[out * LANES + lane] = root_of_two(f)
    for lane in range(LANES):
        room[out * LANES + lane] *= power[lane]


@part
def log2(room: Floats, x: int, bits: NDArray[np.int32], out: int) -> None:
    """Set channel `out` to log2 of positive numbers, within 1e-5; `bits` [LANES] is room for mantissas."""
    numbers, mantissas = room.view(np.int32), bits.view(np.float32)
    for lane in range(LANES):
        number = numbers[x * LANES + lane]
        bits[lane] = (number & 0x7FFFFF) | 0x3F800000
        room[out * LANES + lane] = np.float32((number >> 23) - 127)
    for lane in range(LANES):
        m = mantissas[lane]
        t = (m - np.float32(1.41421356)) / (m + np.float32(1.41421356))
        s = t * t
        room[out * LANES + lane] += np.float32(0.5) + t * (
            np.float32(2.8853900818) + s * (np.float32(0.9617966939) + s * np.float32(0.5770780164))
        )
