"""Write the shipped probability tables: `python -m laconic.entropy.build_tables entropy/tables.safetensors`.

This is the only place where probabilities come from exp and erfc. Its output is committed as integers, so that coders never
depend on a machine's mathematical library.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from .tables import PRECISION, SCALE_COUNT, scale_of_index

__all__ = ["SURVIVAL", "build_family", "build_table", "main"]

TOTAL = 1 << PRECISION
ESCAPED_MASS = 2.0**-14  # a table's radius is the smallest that leaves less than this to the escape symbol
RADIUS_CAP = 2047
ESCAPE_FLOOR = 64  # in 2**-24: outliers that the family did not foresee stay affordable, for 6e-6 bits a symbol


def _gaussian(x: float, scale: float) -> float:
    return 0.5 * math.erfc(x / (scale * math.sqrt(2.0)))


def _laplace(x: float, scale: float) -> float:
    return 0.5 * math.exp(-x / scale)


def _logistic(x: float, scale: float) -> float:
    return math.exp(-x / scale) / (1.0 + math.exp(-x / scale))


# Survival function P(X > x), x >= 0, of each zero-mean family with a given scale. Probabilities are differences of these:
# in the smaller tail nothing cancels.
SURVIVAL: dict[str, Callable[[float, float], float]] = {"gaussian": _gaussian, "laplace": _laplace, "logistic": _logistic}


def build_table(family: str, scale: float) -> NDArray[np.int32]:
    """Return the frequencies, summing to 2**24, of symbols -R..R and the escape; R follows from the scale."""
    survival = SURVIVAL[family]
    radius = 1
    while 2.0 * survival(radius + 0.5, scale) >= ESCAPED_MASS and radius < RADIUS_CAP:
        radius += 1
    edges = [survival(i - 0.5, scale) for i in range(1, radius + 2)]
    side = [max(1, round((a - b) * TOTAL)) for a, b in pairwise(edges)]
    escape = max(ESCAPE_FLOOR, round(2.0 * edges[-1] * TOTAL))
    left = TOTAL - escape - 2 * sum(side) - round((1.0 - 2.0 * edges[0]) * TOTAL)
    for i in range(min(abs(left) // 2, radius)):  # what rounding left goes to the likeliest symbols, one unit each, in pairs
        side[i] = max(1, side[i] + (1 if left > 0 else -1))
    centre = TOTAL - escape - 2 * sum(side)
    return np.array([*reversed(side), centre, *side, escape], dtype=np.int32)


def build_family(family: str) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return radius int32 [64] and the packed frequencies of a family."""
    tables = [build_table(family, scale_of_index(k)) for k in range(SCALE_COUNT)]
    return np.array([t.size // 2 - 1 for t in tables], dtype=np.int32), np.concatenate(tables)


def main() -> None:
    """Build all families and write them to the path given on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    arrays: dict[str, NDArray[np.int32]] = {}
    for family in SURVIVAL:
        arrays[f"{family}.radius"], arrays[f"{family}.frequencies"] = build_family(family)
    safetensors.numpy.save_file(arrays, parser.parse_args().output)


if __name__ == "__main__":
    main()
