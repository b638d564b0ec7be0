"""Integer probability tables, selected by index.

A set holds up to 256 tables. Table k covers the symbols -R_k .. R_k and, last, an escape symbol for all others (2 R_k + 2
entries). Entry i is an integer frequency f_i >= 1, all entries of a table sum to 2**24, and the probability of entry i is
exactly f_i / 2**24: no floating point takes part, on any machine.

Three families are shipped (`tables.safetensors`, written by `laconic.entropy.build_tables`): zero-mean Gaussian (scale:
standard deviation), Laplace (scale b, standard deviation b sqrt 2) and logistic (scale s, standard deviation s pi / sqrt 3),
each integrated over unit bins, for `SCALE_COUNT` scales from `SCALE_MIN` to `SCALE_MAX` quantisation steps in geometric
progression. A weights file may carry its own, fitted tables in the same two arrays: see `Tables.from_arrays`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import constriction  # type: ignore[import-untyped]
import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from .errors import TablesInvalid

__all__ = [
    "FAMILIES",
    "MAX_RADIUS",
    "MAX_TABLES",
    "PRECISION",
    "SCALE_COUNT",
    "SCALE_MAX",
    "SCALE_MIN",
    "Tables",
    "load_tables",
    "scale_of_index",
]

PRECISION = 24  # bits: frequencies of a table sum to 2**PRECISION
SCALE_COUNT = 64
SCALE_MIN, SCALE_MAX = 0.08, 160.0  # scale of the first and of the last table, in quantisation steps
MAX_RADIUS = 4095
MAX_TABLES = 256
FAMILIES = ("gaussian", "laplace", "logistic")


def scale_of_index(index: int) -> float:
    """Return the scale, in steps, that table `index` (0..63) of a shipped family stands for."""
    return float(SCALE_MIN * (SCALE_MAX / SCALE_MIN) ** (index / (SCALE_COUNT - 1)))


@dataclass(frozen=True, eq=False)
class Tables:
    """A validated set of tables; make one with `from_arrays` or `load_tables`.

    `radius` is int32 [K], `frequencies` int32 [sum of 2 R_k + 2] holds the tables one after the other, and table k starts at
    `offset[k]` (int64 [K]).
    """

    radius: NDArray[np.int32]
    frequencies: NDArray[np.int32]
    offset: NDArray[np.int64]
    _models: dict[int, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_arrays(cls, radius: NDArray[Any], frequencies: NDArray[Any]) -> Tables:
        """Check and pack `radius` [K] and `frequencies` [sum of 2 R_k + 2]; raises `TablesInvalid`."""
        if radius.ndim != 1 or frequencies.ndim != 1 or radius.dtype.kind not in "iu" or frequencies.dtype.kind not in "iu":
            raise TablesInvalid("radius and frequencies must be integer arrays of one dimension")
        if not 1 <= radius.size <= MAX_TABLES:
            raise TablesInvalid(f"a set holds 1 to {MAX_TABLES} tables, not {radius.size}")
        if radius.min() < 0 or radius.max() > MAX_RADIUS:
            raise TablesInvalid(f"radii must lie in 0..{MAX_RADIUS}, not {radius.min()}..{radius.max()}")
        sizes = 2 * radius.astype(np.int64) + 2
        if frequencies.size != sizes.sum():
            raise TablesInvalid(f"the radii ask for {sizes.sum()} frequencies, there are {frequencies.size}")
        if frequencies.min() < 1 or frequencies.max() >= 1 << PRECISION:
            raise TablesInvalid(f"frequencies must lie in 1..2**{PRECISION} - 1")
        offset = np.cumsum(sizes) - sizes
        sums = np.add.reduceat(frequencies.astype(np.int64), offset)
        if (sums != 1 << PRECISION).any():
            k = int(np.flatnonzero(sums != 1 << PRECISION)[0])
            raise TablesInvalid(f"frequencies of table {k} sum to {sums[k]}, not 2**{PRECISION}")
        packed = frequencies.astype(np.int32)
        for array in (arrays := (radius.astype(np.int32), packed, offset)):
            array.setflags(write=False)
        return cls(*arrays)

    def __len__(self) -> int:
        return int(self.radius.size)

    def table(self, k: int) -> NDArray[np.int32]:
        """Return the frequencies of table `k`: symbols -R_k .. R_k, then the escape."""
        start = int(self.offset[k])
        return self.frequencies[start : start + 2 * int(self.radius[k]) + 2]

    def categorical(self, k: int) -> Any:
        """Return the `constriction` model of table `k`, made on first use.

        `Categorical(perfect=False)` gives entry i the left edge trunc(scale * sum of w_j, j < i) + i of 2**24 with
        scale = (2**24 - n) / sum of w. Integer weights w_i = f_i - 1 make the scale exactly 1 and every sum exact, so that
        entry i gets exactly f_i.
        """
        model = self._models.get(k)
        if model is None:
            weights = (self.table(k) - 1).astype(np.float64)
            model = self._models[k] = constriction.stream.model.Categorical(weights, lazy=False, perfect=False)
        return model

    def bits(self, symbols: NDArray[Any], indices: NDArray[Any]) -> NDArray[np.float64]:
        """Return the ideal code length of each symbol under its table, for measurements only.

        Both arrays are integers of one shape; escapes include the bits of their Exp-Golomb code.
        """
        symbols, indices = np.asarray(symbols).astype(np.int64), np.asarray(indices).astype(np.int64)
        radius = self.radius[indices].astype(np.int64)
        excess = np.abs(symbols) - radius
        position = self.offset[indices] + np.where(excess > 0, 2 * radius + 1, symbols + radius)
        bits = PRECISION - np.log2(self.frequencies[position].astype(np.float64))
        length = np.floor(np.log2(np.maximum(excess, 1)))
        return np.asarray(bits + (excess > 0) * (2 * length + 2), dtype=np.float64)


@cache
def load_tables(family: str) -> Tables:
    """Return the shipped set of 64 tables of "gaussian", "laplace" or "logistic"."""
    if family not in FAMILIES:
        raise TablesInvalid(f"no family of tables is called {family!r}; there are {', '.join(FAMILIES)}")
    arrays = safetensors.numpy.load(Path(__file__).with_name("tables.safetensors").read_bytes())
    return Tables.from_arrays(arrays[f"{family}.radius"], arrays[f"{family}.frequencies"])
