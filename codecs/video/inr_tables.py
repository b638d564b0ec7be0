"""Activation functions on integers: tables that are the same on every machine, as decimal arithmetic makes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import ROUND_FLOOR, Decimal, localcontext
from functools import cache
from itertools import islice

import numpy as np
from numpy.typing import NDArray

__all__ = ["GRID_BITS", "LARGEST", "activation_table", "sample_table"]

GRID_BITS = 10  # activations are multiples of 2**-GRID_BITS ...
LARGEST = 2**15 - 1  # ... of at most so many units: int16
PRECISION = 36  # decimal digits, of which the last few are lost to sums
HALF = Decimal("0.5")
CERTAIN = 8  # beyond this the normal distribution's mass is less than a unit of any grid here


@cache
def activation_table(name: str) -> NDArray[np.int16]:
    """Return f(i / 2**GRID_BITS) in units of 2**-GRID_BITS, rounded half up, for i from -LARGEST to LARGEST.

    `name` is "gelu", "swish" or "sine".
    """
    with localcontext() as context:
        context.prec = PRECISION
        halves = list({"gelu": _gelu, "swish": _swish, "sine": _sine}[name]())
        unit = Decimal(2**GRID_BITS)
        upper = [_rounded(value * unit) for value in halves]
        # gelu and swish fall from x by the same amount on both sides, and the sine is odd.
        mirror: Callable[[int], Decimal] = (lambda i: -halves[i]) if name == "sine" else (lambda i: halves[i] - i / unit)
        lower = [_rounded(mirror(i) * unit) for i in range(LARGEST, 0, -1)]
    return np.array([*lower, *upper], np.int16)


@cache
def sample_table(output: str, bits: int, limit: int, peak: int) -> NDArray[np.uint16]:
    """Return the samples, 0 to `peak`, of a head's values i / 2**bits, for i from -limit to limit.

    `output` is "tanh" (1/2 + tanh(x) / 2) or "linear" (1/2 + x / 2), rounded half up.
    """
    with localcontext() as context:
        context.prec = PRECISION
        unit = Decimal(1) / 2**bits
        if output == "tanh":
            levels = [1 / (1 + power) for power in islice(_powers(-2 * unit), limit + 1)]
        else:
            levels = [HALF + i * unit / 2 for i in range(limit + 1)]
        samples = [_rounded(level * peak) for level in [*(1 - level for level in levels[:0:-1]), *levels]]
    return np.clip(samples, 0, peak).astype(np.uint16)


def _rounded(value: Decimal) -> int:
    return int((value + HALF).to_integral_value(ROUND_FLOOR))


def _grid() -> Iterator[Decimal]:
    return (Decimal(i) / 2**GRID_BITS for i in range(LARGEST + 1))


def _gelu() -> Iterator[Decimal]:
    """Yield x times the normal distribution's function, whose density is summed by Simpson's rule."""
    step, mass = Decimal(1) / 2**GRID_BITS, HALF
    scale = 1 / (2 * _pi()).sqrt()
    density = scale
    for x in _grid():
        yield x * mass
        if x < CERTAIN:
            middle, end = (scale * (-(at * at) / 2).exp() for at in (x + step / 2, x + step))
            mass, density = mass + step / 6 * (density + 4 * middle + end), end


def _swish() -> Iterator[Decimal]:
    return (x / (1 + power) for x, power in zip(_grid(), _powers(Decimal(-1) / 2**GRID_BITS), strict=False))


def _powers(x: Decimal) -> Iterator[Decimal]:
    """Yield e ** 0, e ** x, e ** 2x and so on."""
    factor, power = x.exp(), Decimal(1)
    while True:
        yield power
        power *= factor


def _sine() -> Iterator[Decimal]:
    """Yield sines, each from the one before it by the theorem of addition."""
    step = Decimal(1) / 2**GRID_BITS
    turn = (
        sum((_taylor(step, n) for n in range(1, 12, 2)), Decimal(0)),
        sum((_taylor(step, n) for n in range(0, 12, 2)), Decimal(0)),
    )
    sine, cosine = Decimal(0), Decimal(1)
    for _ in range(LARGEST + 1):
        yield sine
        sine, cosine = sine * turn[1] + cosine * turn[0], cosine * turn[1] - sine * turn[0]


def _taylor(x: Decimal, n: int) -> Decimal:
    """Return the term of degree n of the sine's (n odd) or cosine's series."""
    term = Decimal(-1 if n // 2 % 2 else 1)
    for i in range(1, n + 1):
        term = term * x / i
    return term


def _pi() -> Decimal:
    """Return pi, by Machin's formula."""
    return 4 * (4 * _arctangent(5) - _arctangent(239))


def _arctangent(inverse: int) -> Decimal:
    total, power, n = Decimal(0), Decimal(1) / inverse, 1
    while abs(power) > Decimal(10) ** -PRECISION:
        total, power, n = total + power / n, -power / inverse**2, n + 2
    return total
