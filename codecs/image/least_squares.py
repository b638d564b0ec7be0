"""Predictors that fit themselves to the surroundings of every sample, for kernels of the lossless codec.

A predictor is a linear combination of differences between known samples near the one to predict: its own neighbours above and
to the left, and those of planes coded before, all around. Its weights are the least-squares solution over all samples coded so
far, each weighted by how near it is: by `along` for each column of distance, by `down` for each row (exponentially weighted
recursive least squares in two dimensions). The sums behind the normal equations are kept per column and swept along the row in
both directions, so that a sample costs a fixed number of operations: see `begin_row`, `predict`, `update`.

Arithmetic is + - x / on IEEE single-precision numbers in a fixed order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...entropy.kernels import inlined

__all__ = ["LeastSquares", "Neighbourhood", "begin_row", "new_least_squares", "predict", "update"]

Planes = NDArray[np.int32]
Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

ZERO, ONE, TINY = np.float32(0.0), np.float32(1.0), np.float32(1e-30)
RIDGE = np.float32(4.0)  # added to the diagonal: pulls weights towards zero where there is nothing to learn
LANES = 8  # rows of the normal equations are padded to a multiple of this

# Offsets (row, column) of neighbours, nearest first. The first of the own ones is what differences are taken to.
OWN = np.array(
    [
        *((0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0), (-1, 2), (-1, -2), (-2, -1), (-2, 1), (0, -3)),
        *((-2, 2), (-2, -2), (-3, 0), (-1, 3), (-1, -3), (-2, 3), (-2, -3), (-3, 1), (-3, -1), (0, -4)),
    ]
)
OTHER = np.array([(0, 0), (0, 1), (-1, 0), (1, 0), (-1, 1), (0, 2), (1, 1), (-1, -1), (1, -1), (-2, 0)])


class Neighbourhood(NamedTuple):
    """How many neighbours a predictor looks at: `own` (2..21), and in each plane coded before `others` (0..10 each)."""

    own: int
    others: tuple[int, ...]
    along: float
    down: float
    rounds: int = 0


class LeastSquares(NamedTuple):
    """State of K predictors on a plane of W columns, with up to n inputs and rows of n + 1 values padded to m.

    Sums are kept as T = n m values, row after row.
    """

    own: Integers  # [K] numbers of own neighbours
    others: Integers  # [K, planes before]
    inputs: Integers  # [K] numbers of inputs
    rounds: Integers  # [K] of refinement; 0: the equations are solved exactly
    along: Floats  # [K]
    down: Floats  # [K]
    unit: Floats  # [1] what differences are multiplied by: samples of more than 8 bits are scaled down to them
    columns: Floats  # [K, W, T] sums over the rows above, at each column
    ahead: Floats  # [K, W + 1, T] the same swept from the right: columns x and beyond
    behind: Floats  # [K, T] swept from the left: columns below x, this row included
    sums: Floats  # [T] normal equations of the sample at hand, destroyed by solving them
    system: Floats  # [n, m] the same
    products: Floats  # [n, m] of the sample just coded
    product_sums: Floats  # [T] the same
    sample: Floats  # [K, m] inputs, then the sample itself
    weights: Floats  # [K, m]
    work: Floats  # [4, m]


def new_least_squares(neighbourhoods: Sequence[Neighbourhood], width: int, highest: int) -> LeastSquares:
    """Return the state of predictors with these neighbourhoods before a plane's first row; samples are 0..`highest`."""
    inputs = [n.own - 1 + sum(n.others) for n in neighbourhoods]
    count, n = len(inputs), max(inputs, default=1)
    m = -(-(n + 1) // LANES) * LANES
    system, products = np.zeros((n, m), np.float32), np.zeros((n, m), np.float32)
    others = np.zeros((count, 2), np.int64)
    for k, neighbourhood in enumerate(neighbourhoods):
        others[k, : len(neighbourhood.others)] = neighbourhood.others
    return LeastSquares(
        own=np.array([n.own for n in neighbourhoods], np.int64),
        others=others,
        inputs=np.array(inputs, np.int64),
        rounds=np.array([n.rounds for n in neighbourhoods], np.int64),
        along=np.array([n.along for n in neighbourhoods], np.float32),
        down=np.array([n.down for n in neighbourhoods], np.float32),
        unit=np.array([0.5 ** max(highest.bit_length() - 8, 0)], np.float32),
        columns=np.zeros((count, width, n * m), np.float32),
        ahead=np.zeros((count, width + 1, n * m), np.float32),
        behind=np.zeros((count, n * m), np.float32),
        sums=system.reshape(-1),
        system=system,
        products=products,
        product_sums=products.reshape(-1),
        sample=np.zeros((count, m), np.float32),
        weights=np.zeros((count, m), np.float32),
        work=np.zeros((4, m), np.float32),
    )


@inlined
def begin_row(state: LeastSquares, k: int) -> None:
    """Sweep predictor `k`'s sums from right to left, before a row's first sample."""
    size, along = state.inputs[k] * state.system.shape[1], state.along[k]
    columns, ahead, behind = state.columns[k], state.ahead[k], state.behind[k]
    for t in range(size):
        behind[t] = 0.0
    for x in range(columns.shape[0] - 1, -1, -1):
        for t in range(size):
            ahead[x, t] = columns[x, t] + along * ahead[x + 1, t]


@inlined
def _solve(system: Floats, n: int, weights: Floats) -> None:
    """Solve the symmetric equations in rows 0..n-1, right side in column n, by elimination without pivoting."""
    m = system.shape[1]
    for j in range(n):
        inverse = ONE / system[j, j]
        for i in range(j + 1, n):
            factor = system[j, i] * inverse
            for k in range(m):
                system[i, k] -= factor * system[j, k]
    for i in range(n - 1, -1, -1):
        total = system[i, n]
        for k in range(i + 1, n):
            total -= system[i, k] * weights[k]
        weights[i] = total / system[i, i]


@inlined
def _dot(a: Floats, b: Floats) -> np.float32:
    """Return the inner product of two rows, whose length is a multiple of 4."""
    s = t = u = v = ZERO
    for i in range(0, a.size, 4):
        s += a[i] * b[i]
        t += a[i + 1] * b[i + 1]
        u += a[i + 2] * b[i + 2]
        v += a[i + 3] * b[i + 3]
    return (s + t) + (u + v)


@inlined
def _times(system: Floats, n: int, vector: Floats, product: Floats) -> None:
    """Set `product` to the symmetric matrix in rows 0..n-1 times `vector`."""
    m = product.size
    for j in range(m):
        product[j] = ZERO
    for i in range(n):
        scale, row = vector[i], system[i]
        for j in range(m):
            product[j] += scale * row[j]


@inlined
def _refine(system: Floats, n: int, weights: Floats, work: Floats, rounds: int) -> None:
    """Move `weights` towards the solution by conjugate gradients, preconditioned with the diagonal."""
    residual, direction, product, scaled = work[0], work[1], work[2], work[3]
    for i in range(n, residual.size):
        residual[i] = direction[i] = scaled[i] = ZERO
    _times(system, n, weights, product)
    for i in range(n):
        residual[i] = system[i, n] - product[i]
        scaled[i] = residual[i] / system[i, i]
        direction[i] = scaled[i]
    energy = _dot(residual, scaled)
    for turn in range(rounds):
        _times(system, n, direction, product)
        step = energy / (_dot(direction, product) + TINY)
        for i in range(n):
            weights[i] += step * direction[i]
        if turn + 1 == rounds:
            return
        for i in range(n):
            residual[i] -= step * product[i]
            scaled[i] = residual[i] / system[i, i]
        before, energy = energy, _dot(residual, scaled)
        ratio = energy / (before + TINY)
        for i in range(n):
            direction[i] = scaled[i] + ratio * direction[i]


@inlined
def predict(state: LeastSquares, k: int, planes: Planes, p: int, before: Integers, y: int, x: int, column: int) -> float:
    """Return predictor `k`'s value for sample (y, x) of plane `p`; `before` are the planes coded before it."""
    base, at, sample, unit = planes[p, y, x - 1], 0, state.sample[k], state.unit[0]
    for i in range(1, state.own[k]):
        sample[at] = unit * np.float32(planes[p, y + OWN[i, 0], x + OWN[i, 1]] - base)
        at += 1
    for r in range(before.size):
        other = planes[before[r], y, x - 1]
        for i in range(state.others[k, r]):
            sample[at] = unit * np.float32(planes[before[r], y + OTHER[i, 0], x + OTHER[i, 1]] - other)
            at += 1
    system, sums, ahead, behind = state.system, state.sums, state.ahead[k, column], state.behind[k]
    for t in range(at * system.shape[1]):
        sums[t] = ahead[t] + behind[t]
    for i in range(at):
        system[i, i] += RIDGE
    weights = state.weights[k]
    if state.rounds[k] == 0:
        _solve(system, at, weights)
    else:
        _refine(system, at, weights, state.work, state.rounds[k])
    value = ZERO
    for i in range(at):
        value += weights[i] * sample[i]
    if value != value:  # not a number: in single precision the equations are singular, as those of stripes may be
        value = ZERO
        for i in range(at):
            weights[i] = ZERO
    return float(base) + float(value / unit)


@inlined
def update(state: LeastSquares, k: int, target: int, column: int, importance: float) -> None:
    """Learn from the sample that `predict` was last asked for, with a weight of `importance`.

    `target` is its difference to its left neighbour.
    """
    n, along, down = state.inputs[k], state.along[k], state.down[k]
    sample, products, product_sums = state.sample[k], state.products, state.product_sums
    columns, behind = state.columns[k, column], state.behind[k]
    m = products.shape[1]
    sample[n] = state.unit[0] * np.float32(target)
    weight = np.float32(importance)
    for i in range(n):
        scale = weight * sample[i]
        for j in range(m):
            products[i, j] = scale * sample[j]
    for t in range(n * m):
        total = columns[t] + product_sums[t]
        behind[t] = along * (behind[t] + total)
        columns[t] = down * total
