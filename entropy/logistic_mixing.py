"""Binary decisions predicted by many models at once: adaptive probabilities, logistic mixing, logistic distributions.

For kernels that code one decision at a time: each model's probability of a one goes through `stretch`, weighted sums of these
("sets" of weights, selected by context) go back through `squash`, and the weights move towards what would have been better
(Mahoney 2005, "Adaptive weighing of context models for lossless data compression").

All arithmetic is integer, or + - x / on IEEE doubles in a fixed order, so that every machine computes the same bits; the tables
too are made with these operations only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .kernels import inlined

__all__ = [
    "adapt",
    "confidence",
    "exponential",
    "learn",
    "logistic_cdf",
    "mix",
    "new_cells",
    "probability_16",
    "squash",
    "stretch",
]

Doubles = NDArray[np.float64]
Cells = NDArray[np.int32]

SPAN = 12.0  # stretched probabilities are clipped to +-SPAN
CDF_SPAN = 20.0  # the logistic distribution's table ends at +-CDF_SPAN scales
STEPS = 4096  # of each table
COUNT_BITS = 9  # of a cell: the lowest bits count its uses, the 22 above are the probability of a one


def exponential(x: Doubles) -> Doubles:
    """Return exp(x), to about 1e-14, by additions, products and quotients alone: the same doubles on every machine."""
    reduced, term, total = x / 256.0, np.ones_like(x), np.ones_like(x)
    for k in range(1, 14):
        term = term * reduced / k
        total = total + term
    for _ in range(8):
        total = total * total
    return total


def _logistic(x: Doubles) -> Doubles:
    return 1.0 / (1.0 + exponential(-x))


def _inverse(p: Doubles) -> Doubles:
    """Return ln(p / (1 - p)) by Newton's method on the logistic function."""
    x = np.zeros_like(p)
    for _ in range(60):
        value = _logistic(x)
        x = x + np.clip((p - value) / (value * (1.0 - value)), -1.0, 1.0)
    return x


_CENTRES = (np.arange(STEPS) + 0.5) / STEPS
STRETCH = _inverse(_CENTRES).astype(np.float32)
SQUASH = _logistic(np.linspace(-SPAN, SPAN, STEPS + 1)).astype(np.float32)
CDF = _logistic(np.linspace(-CDF_SPAN, CDF_SPAN, STEPS + 1))
COUNTS = 1 << COUNT_BITS
RATE = np.array([int(65536 / (n + 1.6)) for n in range(COUNTS)])  # of adaptation after n uses, of 2**16
CONFIDENCE = (np.arange(COUNTS) / (np.arange(COUNTS) + 1.5)).astype(np.float32)  # weight of a cell's opinion after n uses


def new_cells(count: int) -> Cells:
    """Return `count` adaptive probabilities (int32 [count]) at 1/2, never used."""
    return np.full(count, 1 << (21 + COUNT_BITS), dtype=np.int32)


@inlined
def stretch(p: float) -> float:
    """Return ln(p / (1 - p)) for p in 0..1, in steps of 1 / STEPS; about +-9 at the ends."""
    return float(STRETCH[np.uintp(min(int(p * STEPS), STEPS - 1))])


@inlined
def squash(x: float) -> float:
    """Return 1 / (1 + exp(-x)), x clipped to +-SPAN, in steps of x of 2 SPAN / STEPS."""
    return float(SQUASH[np.uintp((min(max(x, -SPAN), SPAN) + SPAN) * (STEPS / (2.0 * SPAN)) + 0.5)])


@inlined
def logistic_cdf(x: float) -> float:
    """Return the logistic distribution function at `x` scales from its centre, by a table with interpolation."""
    u = (min(max(x, -CDF_SPAN), CDF_SPAN * 0.9999) + CDF_SPAN) * (STEPS / (2.0 * CDF_SPAN))
    i = np.uintp(u)
    left = CDF[i]
    return float(left + (CDF[i + np.uintp(1)] - left) * (u - np.float64(i)))


@inlined
def confidence(cell: int) -> float:
    """Return a cell's stretched probability, smaller the less often the cell was used: a model's input to `mix`."""
    return float(STRETCH[np.uintp(cell >> (COUNT_BITS + 10))] * CONFIDENCE[np.uintp(cell & (COUNTS - 1))])


@inlined
def adapt(cells: Cells, i: int, bit: int, limit: int) -> None:
    """Move cell `i` towards `bit`, by 1 / (n + 1.6) of the distance in use n, and never by less than after `limit` uses."""
    at = np.uintp(i)
    cell = np.int64(cells[at])
    uses, p = cell & (COUNTS - 1), cell >> COUNT_BITS
    p += (((bit << 22) - bit - p) * RATE[np.uintp(uses)]) >> 16
    cells[at] = (p << COUNT_BITS) | min(uses + 1, limit)


@inlined
def mix(weights: Doubles, at: int, inputs: Doubles, count: int) -> float:
    """Return the sum of `weights[at + i] * inputs[i]`, i below `count`, a multiple of 4 (inputs are padded with zeros)."""
    part = weights[at : at + count]
    a = b = c = d = 0.0
    for i in range(0, part.size, 4):
        a += part[i] * inputs[i]
        b += part[i + 1] * inputs[i + 1]
        c += part[i + 2] * inputs[i + 2]
        d += part[i + 3] * inputs[i + 3]
    return (a + b) + (c + d)


@inlined
def learn(weights: Doubles, at: int, inputs: Doubles, count: int, step: float) -> None:
    """Add `step` times the inputs to the weights; `step` is the learning rate times (bit - probability)."""
    part = weights[at : at + count]
    for i in range(part.size):
        part[i] += step * inputs[i]


@inlined
def probability_16(p: float) -> int:
    """Return a probability as an integer of 2**16, neither 0 nor certain."""
    return min(max(int(p * 65536.0), 1), 65535)
