"""Predictions of sound for kernels of `audio-lossless`: recursive least squares, then a cascade of adaptive filters.

For every sample of every channel, in this order:

1. *Least squares.* A linear combination of the channel's own last samples and of those of up to two other channels, the current
   ones too where they are coded already (which is what stereo prediction is). The weights solve the normal equations over all
   samples so far, those further back weighted less by `decay` for each sample; they are solved anew every few samples. There
   may be several of these; the first leads.
2. *Cascade.* Normalised least-mean-squares filters, long ones first, each predicting what the one before missed from what it
   missed earlier (as in Monkey's Audio and in Sac, with sums that are weighted here by each filter's own energy).
3. *Blend.* What all of this gives together is corrected by one more least-squares fit, of the filters' outputs and of the
   differences between the predictors to what is left.

Arithmetic is + - x / on IEEE numbers in a fixed order, so that every machine computes the same predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...entropy.kernels import inlined

__all__ = ["Filter", "Predictor", "SquaresFit", "advance", "new_predictor", "predict", "update"]

Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

SPAN = 4096  # samples of history between moves back to the beginning
LANES = 8
BLEND_DECAY, BLEND_RIDGE = 0.998, 1.0
LARGEST = 1e9  # beyond it predictions count as failed, so that nothing becomes infinite


class SquaresFit(NamedTuple):
    """A least-squares predictor: taps of the `own` channel and of `others` together, and how soon samples are forgotten."""

    own: int
    others: int
    decay: float
    every: int


class Filter(NamedTuple):
    """A filter of the cascade: `taps` (a multiple of 8) and its step size."""

    taps: int
    step: float


class Predictor(NamedTuple):
    """State for C channels, K least-squares predictors of up to n inputs, and S filters of up to T taps.

    `predictions` are of the sample at hand: 0 the blend, 1 the cascade without it, then the K least-squares ones.
    """

    partners: Integers  # [C, P] channels that each is predicted from besides itself
    own: Integers  # [K]
    others: Integers  # [K] taps in each partner
    decay: Doubles  # [K]
    every: Integers  # [K]
    taps: Integers  # [S]
    step: Floats  # [S]
    at: Integers  # [2] where the sample at hand goes in the histories; number of samples so far
    history: Doubles  # [C, n + SPAN] samples
    missed: Floats  # [C, S, T + SPAN] inputs of the filters
    energy: Doubles  # [C, S] sum of squares of a filter's inputs at hand
    sums: Doubles  # [C, K, n, m] normal equations; column n is the right side
    solution: Doubles  # [C, K, n]
    inputs: Doubles  # [K, m] of the sample at hand
    system: Doubles  # [n, m] equations being solved
    weights: Floats  # [C, S, T]
    outputs: Doubles  # [S] of the filters
    blend_sums: Doubles  # [C, b, b + 1]
    blend_weights: Doubles  # [C, b]
    blend_inputs: Doubles  # [b + 1]
    blend_system: Doubles  # [b, b + 1]
    predictions: Doubles  # [K + 2]


def new_predictor(channels: int, fits: Sequence[SquaresFit], filters: Sequence[Filter]) -> Predictor:
    """Return the state before the first sample."""
    partners = [sorted({(c - 1) % channels, (c - 2) % channels} - {c}) for c in range(channels)]
    count = len(partners[0])
    others = [fit.others // count if count else 0 for fit in fits]
    n = max(fit.own + count * other for fit, other in zip(fits, others, strict=True))
    m = -(-(n + 1) // 4) * 4
    k, s, longest = len(fits), len(filters), max((f.taps for f in filters), default=0)
    b = max(s + k - 1, 1)
    solution = np.zeros((channels, k, n))
    for index, fit in enumerate(fits):
        solution[:, index, fit.own - 1] = 1.0
    return Predictor(
        partners=np.array(partners, np.int64).reshape(channels, count),
        own=np.array([fit.own for fit in fits], np.int64),
        others=np.array(others, np.int64),
        decay=np.array([fit.decay for fit in fits]),
        every=np.array([fit.every for fit in fits], np.int64),
        taps=np.array([f.taps for f in filters], np.int64),
        step=np.array([f.step for f in filters], np.float32),
        at=np.array([max(n, longest), 0], np.int64),
        history=np.zeros((channels, max(n, longest) + SPAN)),
        missed=np.zeros((channels, s, max(n, longest) + SPAN), np.float32),
        energy=np.zeros((channels, s)),
        sums=np.zeros((channels, k, n, m)),
        solution=solution,
        inputs=np.zeros((k, m)),
        system=np.zeros((n, m)),
        weights=np.zeros((channels, s, longest), np.float32),
        outputs=np.zeros(s),
        blend_sums=np.zeros((channels, b, b + 1)),
        blend_weights=np.zeros((channels, b)),
        blend_inputs=np.zeros(b + 1),
        blend_system=np.zeros((b, b + 1)),
        predictions=np.zeros(k + 2),
    )


@inlined
def advance(state: Predictor) -> None:
    """Go on to the next sample time; moves the histories back when they have run full."""
    state.at[0] += 1
    state.at[1] += 1
    if state.at[0] < state.history.shape[1]:
        return
    keep = state.history.shape[1] - SPAN
    for c in range(state.history.shape[0]):
        for i in range(keep):
            state.history[c, i] = state.history[c, SPAN + i]
        for s in range(state.taps.size):
            for i in range(keep):
                state.missed[c, s, i] = state.missed[c, s, SPAN + i]
    state.at[0] = keep


@inlined
def _dot(a: Floats, b: Floats) -> float:
    """Return the inner product of two rows, whose length is a multiple of 8."""
    zero = np.float32(0.0)
    p = q = r = s = t = u = v = w = zero
    for i in range(0, a.size, 8):
        p += a[i] * b[i]
        q += a[i + 1] * b[i + 1]
        r += a[i + 2] * b[i + 2]
        s += a[i + 3] * b[i + 3]
        t += a[i + 4] * b[i + 4]
        u += a[i + 5] * b[i + 5]
        v += a[i + 6] * b[i + 6]
        w += a[i + 7] * b[i + 7]
    return float(((p + t) + (r + v)) + ((q + u) + (s + w)))


@inlined
def _solve(system: Doubles, n: int, weights: Doubles) -> None:
    """Solve the symmetric equations of which the upper triangle and column n are given; destroys them."""
    for j in range(n):
        pivot = system[j]
        inverse = 1.0 / pivot[j]
        for i in range(j + 1, n):
            factor = pivot[i] * inverse
            row = system[i]
            for k in range(i, n + 1):
                row[k] -= factor * pivot[k]
    for i in range(n - 1, -1, -1):
        row = system[i]
        total = row[n]
        for k in range(i + 1, n):
            total -= row[k] * weights[k]
        weights[i] = total / row[i]


@inlined
def _fit(state: Predictor, c: int, k: int) -> float:
    """Return least-squares predictor `k`'s value."""
    at, own, others, v = state.at[0], state.own[k], state.others[k], state.inputs[k]
    history = state.history[c]
    for i in range(own):
        v[i] = history[at - own + i]
    n = own
    for r in range(state.partners.shape[1]):
        other = state.partners[c, r]
        end = at + 1 if other < c else at
        line = state.history[other]
        for i in range(others):
            v[n + i] = line[end - others + i]
        n += others
    weights = state.solution[c, k]
    a = b = 0.0
    for i in range(0, n - 1, 2):
        a += weights[i] * v[i]
        b += weights[i + 1] * v[i + 1]
    if n & 1:
        a += weights[n - 1] * v[n - 1]
    total = a + b
    return total if abs(total) < LARGEST else v[own - 1]


@inlined
def _refit(state: Predictor, c: int, k: int, value: float) -> None:
    """Take a sample into the normal equations, and solve them when it is time."""
    own = state.own[k]
    n = own + state.others[k] * state.partners.shape[1]
    v, sums, decay = state.inputs[k], state.sums[c, k], state.decay[k]
    v[n] = value
    for i in range(n):
        scale = v[i]
        row = sums[i]
        for j in range(i, n + 1):
            row[j] = decay * row[j] + scale * v[j]
    seen = state.at[1]
    if seen % state.every[k] != 0 and seen > 32:
        return
    system, weights = state.system, state.solution[c, k]
    for i in range(n):
        for j in range(i, n + 1):
            system[i, j] = sums[i, j]
        system[i, i] += 1.0 + 1e-9 * sums[i, i]
    # what there is nothing to learn from stays what it was at first: the last sample goes on
    system[own - 1, n] += 1.0
    _solve(system, n, weights)


@inlined
def _blend(state: Predictor, c: int, base: float) -> float:
    """Return the correction of the cascade's prediction `base`."""
    v, s = state.blend_inputs, state.taps.size
    for i in range(s):
        v[i] = state.outputs[i]
    for k in range(1, state.own.size):
        v[s + k - 1] = state.predictions[2 + k] - base
    total = 0.0
    for i in range(s + state.own.size - 1):
        total += state.blend_weights[c, i] * v[i]
    return total if abs(total) < LARGEST else 0.0


@inlined
def _reblend(state: Predictor, c: int, rest: float) -> None:
    """Learn what was left after the cascade."""
    n = state.taps.size + state.own.size - 1
    v, sums, system = state.blend_inputs, state.blend_sums[c], state.blend_system
    v[n] = rest
    for i in range(n):
        for j in range(i, n + 1):
            sums[i, j] = BLEND_DECAY * sums[i, j] + v[i] * v[j]
            system[i, j] = sums[i, j]
        system[i, i] += BLEND_RIDGE + 0.001 * sums[i, i]
    _solve(system, n, state.blend_weights[c])


@inlined
def predict(state: Predictor, c: int) -> None:
    """Set the predictions of channel `c`'s sample at hand."""
    for k in range(state.own.size):
        state.predictions[2 + k] = _fit(state, c, k)
    total, at = state.predictions[2], state.at[0]
    for s in range(state.taps.size):
        taps = state.taps[s]
        weights = state.weights[c, s, :taps]
        output = _dot(weights, state.missed[c, s, at - taps : at])
        if not abs(output) < LARGEST:  # nor a number at all
            output = 0.0
            for i in range(taps):
                weights[i] = np.float32(0.0)
        state.outputs[s] = output
        total += output
    state.predictions[1] = total
    state.predictions[0] = total + _blend(state, c, total)


@inlined
def update(state: Predictor, c: int, value: int) -> None:
    """Learn from the sample that `predict` was last asked for."""
    sample, at = float(value), state.at[0]
    rest = sample - state.predictions[2]
    for s in range(state.taps.size):
        taps = state.taps[s]
        line, weights = state.missed[c, s], state.weights[c, s, :taps]
        left = rest - state.outputs[s]
        step = np.float32(state.step[s] * left / (float(taps) + state.energy[c, s]))
        part = line[at - taps : at]
        for i in range(taps):
            weights[i] += step * part[i]
        line[at] = np.float32(rest)
        old = np.float64(line[at - taps])
        new = np.float64(line[at])
        state.energy[c, s] = max(state.energy[c, s] + new * new - old * old, 0.0)
        rest = left
    _reblend(state, c, rest)
    for k in range(state.own.size):
        _refit(state, c, k, sample)
    state.history[c, at] = sample
