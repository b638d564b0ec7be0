"""Predictors that fit themselves to the surroundings of every sample, for kernels of the lossless codec.

A predictor is a linear combination of differences between known samples near the one to predict: its own neighbours above and
to the left, and those of planes coded before, all around. Its weights are the least-squares solution over all samples coded so
far, each weighted by how near it is: by `along` for each column of distance, by `down` for each row (exponentially weighted
recursive least squares in two dimensions). The sums behind the normal equations are kept per column and swept along the row in
both directions, so that a sample costs a fixed number of operations: see `begin_row`, `predict`, `update`.

Arithmetic is + - x / on IEEE doubles in a fixed order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...entropy.kernels import kernel

__all__ = ["LeastSquares", "Neighbourhood", "begin_row", "new_least_squares", "predict", "update"]

Planes = NDArray[np.int32]
Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]

RIDGE = 4.0  # added to the diagonal: pulls weights towards zero where there is nothing to learn
LANES = 4  # rows of the normal equations are padded to a multiple of this

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
    """State of K predictors on a plane of W columns, with up to n inputs and rows of n + 1 values padded to m."""

    own: Integers  # [K] numbers of own neighbours
    others: Integers  # [K, planes before]
    inputs: Integers  # [K] numbers of inputs
    along: Doubles  # [K]
    down: Doubles  # [K]
    columns: Doubles  # [K, W, n, m] sums over the rows above, at each column
    ahead: Doubles  # [K, W + 1, n, m] the same swept from the right: columns x and beyond
    behind: Doubles  # [K, n, m] swept from the left: columns below x, this row included
    products: Doubles  # [n, m] of the sample just coded
    system: Doubles  # [n, m] normal equations, destroyed by solving them
    sample: Doubles  # [K, m] inputs, then the sample itself
    weights: Doubles  # [K, m]
    rounds: Integers
    work: Doubles


def new_least_squares(neighbourhoods: Sequence[Neighbourhood], width: int) -> LeastSquares:
    """Return the state of predictors with these neighbourhoods before a plane's first row."""
    inputs = [n.own - 1 + sum(n.others) for n in neighbourhoods]
    count, n = len(inputs), max(inputs, default=1)
    m = -(-(n + 1) // LANES) * LANES
    return LeastSquares(
        own=np.array([n.own for n in neighbourhoods], np.int64),
        others=np.array([[*n.others, 0] for n in neighbourhoods], np.int64).reshape(
            count, len(neighbourhoods[0].others) + 1 if count else 1
        ),
        inputs=np.array(inputs, np.int64),
        along=np.array([n.along for n in neighbourhoods], np.float64),
        down=np.array([n.down for n in neighbourhoods], np.float64),
        columns=np.zeros((count, width, n, m)),
        ahead=np.zeros((count, width + 1, n, m)),
        behind=np.zeros((count, n, m)),
        products=np.zeros((n, m)),
        system=np.zeros((n, m)),
        sample=np.zeros((count, m)),
        weights=np.zeros((count, m)),
        rounds=np.array([n.rounds for n in neighbourhoods], np.int64),
        work=np.zeros((4, m)),
    )


@kernel
def begin_row(state: LeastSquares, k: int) -> None:
    """Sweep predictor `k`'s sums from right to left, before a row's first sample."""
    n, along = state.inputs[k], state.along[k]
    columns, ahead = state.columns[k], state.ahead[k]
    m = columns.shape[2]
    for i in range(n):
        for j in range(m):
            state.behind[k, i, j] = 0.0
    for x in range(columns.shape[0] - 1, -1, -1):
        for i in range(n):
            for j in range(m):
                ahead[x, i, j] = columns[x, i, j] + along * ahead[x + 1, i, j]


@kernel
def _solve(system: Doubles, n: int, weights: Doubles) -> None:
    """Solve the symmetric equations in rows 0..n-1, right side in column n, by elimination without pivoting."""
    m = system.shape[1]
    for j in range(n):
        inverse = 1.0 / system[j, j]
        for i in range(j + 1, n):
            factor = system[j, i] * inverse
            for k in range(m):
                system[i, k] -= factor * system[j, k]
    for i in range(n - 1, -1, -1):
        total = system[i, n]
        for k in range(i + 1, n):
            total -= system[i, k] * weights[k]
        weights[i] = total / system[i, i]


@kernel
def _dot(a: Doubles, b: Doubles) -> float:
    """Return the inner product of two rows, whose length is a multiple of LANES."""
    s = t = u = v = 0.0
    for i in range(0, a.size, LANES):
        s += a[i] * b[i]
        t += a[i + 1] * b[i + 1]
        u += a[i + 2] * b[i + 2]
        v += a[i + 3] * b[i + 3]
    return (s + t) + (u + v)


@kernel
def _times(system: Doubles, n: int, vector: Doubles, product: Doubles) -> None:
    """Set `product` to the symmetric matrix in rows 0..n-1 times `vector`."""
    m = product.size
    for j in range(m):
        product[j] = 0.0
    for i in range(n):
        scale, row = vector[i], system[i]
        for j in range(m):
            product[j] += scale * row[j]


@kernel
def _refine(system: Doubles, n: int, weights: Doubles, work: Doubles, rounds: int) -> None:
    """Move `weights` towards the solution by conjugate gradients, preconditioned with the diagonal."""
    m = system.shape[1]
    residual, direction, product, scaled = work[0], work[1], work[2], work[3]
    _times(system, n, weights, product)
    for i in range(n):
        residual[i] = system[i, n] - product[i]
    for i in range(n, m):
        residual[i] = 0.0
        direction[i] = 0.0
        scaled[i] = 0.0
    for i in range(n):
        scaled[i] = residual[i] / system[i, i]
        direction[i] = scaled[i]
    energy = _dot(residual, scaled)
    for turn in range(rounds):
        _times(system, n, direction, product)
        for i in range(n, m):
            product[i] = 0.0
        step = energy / (_dot(direction, product) + 1e-30)
        for i in range(n):
            weights[i] += step * direction[i]
        if turn + 1 == rounds:
            return
        for i in range(n):
            residual[i] -= step * product[i]
            scaled[i] = residual[i] / system[i, i]
        before, energy = energy, _dot(residual, scaled)
        ratio = energy / (before + 1e-30)
        for i in range(n):
            direction[i] = scaled[i] + ratio * direction[i]


@kernel
def predict(state: LeastSquares, k: int, planes: Planes, p: int, before: Integers, y: int, x: int, column: int) -> float:
    """Return predictor `k`'s value for sample (y, x) of plane `p`; `before` are the planes coded before it."""
    base, at, sample = planes[p, y, x - 1], 0, state.sample[k]
    for i in range(1, state.own[k]):
        sample[at] = planes[p, y + OWN[i, 0], x + OWN[i, 1]] - base
        at += 1
    for r in range(before.size):
        other = planes[before[r], y, x - 1]
        for i in range(state.others[k, r]):
            sample[at] = planes[before[r], y + OTHER[i, 0], x + OTHER[i, 1]] - other
            at += 1
    system, ahead, behind = state.system, state.ahead[k, column], state.behind[k]
    m = system.shape[1]
    for i in range(at):
        for j in range(m):
            system[i, j] = ahead[i, j] + behind[i, j]
        system[i, i] += RIDGE
    weights = state.weights[k]
    if state.rounds[k] == 0:
        _solve(system, at, weights)
    else:
        _refine(system, at, weights, state.work, state.rounds[k])
    value = float(base)
    for i in range(at):
        value += weights[i] * sample[i]
    return value


@kernel
def update(state: LeastSquares, k: int, target: int, column: int) -> None:
    """Learn from the sample that `predict` was last asked for; `target` is its difference to its left neighbour."""
    n, along, down = state.inputs[k], state.along[k], state.down[k]
    sample, products = state.sample[k], state.products
    columns, behind = state.columns[k, column], state.behind[k]
    m = products.shape[1]
    sample[n] = target
    for i in range(n):
        scale = sample[i]
        for j in range(m):
            products[i, j] = scale * sample[j]
    for i in range(n):
        for j in range(m):
            total = columns[i, j] + products[i, j]
            behind[i, j] = along * (behind[i, j] + total)
            columns[i, j] = down * total
