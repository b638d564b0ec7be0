"""What the model of a network's integers learns along a stream, its two least-squares fits, and the coding of side values.

See `inr_weight_model`, whose parts these are.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...entropy.adaptive_binary import (
    Contexts,
    decode_bit,
    decode_probability,
    encode_bit,
    encode_probability,
    new_contexts,
)
from ...entropy.kernels import inlined, kernel
from ...entropy.logistic_mixing import new_cells

__all__ = [
    "CONTEXTS",
    "EXPERTS",
    "INPUTS",
    "LARGEST",
    "NEIGHBOURS",
    "NODES",
    "SLOT_BITS",
    "STRIDES",
    "TRAITS",
    "Bytes",
    "Doubles",
    "Integers",
    "Model",
    "code_integer",
    "fit",
    "new_model",
    "restart",
]

Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]
Bytes = NDArray[np.uint8]

LARGEST = 1 << 20  # magnitude of integers
ROLES = 4
NEIGHBOURS, TRAITS = 9, 6  # inputs of the two fits
EXPERTS = 7
SLOT_BITS = 10  # binary digits of the number of slots of a context
CONTEXTS = 6
INPUTS = EXPERTS + CONTEXTS + 1 + (-(EXPERTS + CONTEXTS + 1)) % 4
NODES = 32  # decisions with probabilities of their own
STRIDES = 16
SETS = STRIDES + ROLES
DIGITS = 20  # of magnitudes
SIDE_CONTEXTS = 2 + 2 * DIGITS  # of one kind of side value


class Model(NamedTuple):
    """What is learnt along a stream of tensors."""

    cells: NDArray[np.int32]  # slots of NODES adaptive probabilities, context after context
    slots: Integers  # [CONTEXTS] first cell of each context's slot
    weights: Doubles  # [SETS][NODES][INPUTS], flat
    inputs: Doubles  # [INPUTS]
    centre: Doubles  # [EXPERTS]
    sharpness: Doubles  # [EXPERTS] 1 / scale
    below: Doubles  # [EXPERTS] distribution functions at the ends of the interval, and at the threshold
    above: Doubles
    at: Doubles
    coefficients: Doubles  # [ROLES, NEIGHBOURS] of the prediction
    covariance: Doubles  # [NEIGHBOURS, NEIGHBOURS] of its fit
    neighbours: Doubles  # [NEIGHBOURS] of the integer at hand, in its unit
    traits: Doubles  # [TRAITS] magnitudes of misses, in units of the integer
    trait_coefficients: Doubles  # [ROLES, TRAITS]
    trait_covariance: Doubles  # [TRAITS, TRAITS]
    gain: Doubles  # [NEIGHBOURS] work of the fits
    seen: Doubles  # [1] integers coded
    side: Contexts  # adaptive probabilities of side values, SIDE_CONTEXTS of each kind


def new_model(kinds: int) -> Model:
    """Return the state before the first tensor; `kinds` of side values are told apart."""
    weights = np.zeros((SETS, NODES, INPUTS))
    weights[..., 0] = 0.4
    weights[..., 1:EXPERTS] = 0.6 / (EXPERTS - 1)
    weights[..., EXPERTS : EXPERTS + CONTEXTS] = 0.15
    coefficients = np.zeros((ROLES, NEIGHBOURS))
    coefficients[:, -1] = 1.0  # the reference
    return Model(
        cells=new_cells(CONTEXTS * NODES << SLOT_BITS),
        slots=np.zeros(CONTEXTS, np.int64),
        weights=weights.ravel(),
        inputs=np.zeros(INPUTS),
        centre=np.zeros(EXPERTS),
        sharpness=np.ones(EXPERTS),
        below=np.zeros(EXPERTS),
        above=np.zeros(EXPERTS),
        at=np.zeros(EXPERTS),
        coefficients=coefficients,
        covariance=np.zeros((NEIGHBOURS, NEIGHBOURS)),
        neighbours=np.zeros(NEIGHBOURS),
        traits=np.zeros(TRAITS),
        trait_coefficients=np.tile([0.1, 0.1, 0.1, 0.1, 0.2, 0.4], (ROLES, 1)),
        trait_covariance=np.zeros((TRAITS, TRAITS)),
        gain=np.zeros(NEIGHBOURS),
        seen=np.zeros(1),
        side=new_contexts(kinds * SIDE_CONTEXTS),
    )


@inlined
def _code_bit(coder: Integers, coded: Bytes, contexts: Contexts, c: int, bit: int, decoding: bool) -> int:
    if decoding:
        return decode_bit(coder, coded, contexts, c)
    encode_bit(coder, coded, contexts, c, bit)
    return bit


@kernel
def code_integer(model: Model, kind: int, value: int, coder: Integers, coded: Bytes, decoding: bool) -> int:
    """Code a side value of magnitude below 2**20 by an adaptive Exp-Golomb code; `value` counts only when encoding."""
    base = kind * SIDE_CONTEXTS
    if _code_bit(coder, coded, model.side, base, 1 if value == 0 else 0, decoding):
        return 0
    negative = _code_bit(coder, coded, model.side, base + 1, 1 if value < 0 else 0, decoding)
    magnitude, c = abs(value), 0
    while c < DIGITS - 1 and _code_bit(coder, coded, model.side, base + 2 + c, 1 if magnitude >> (c + 1) else 0, decoding):
        c += 1
    result = 1
    for i in range(c - 1, -1, -1):
        bit = (magnitude >> i) & 1
        if i == c - 1:
            bit = _code_bit(coder, coded, model.side, base + 2 + DIGITS + c, bit, decoding)
        elif decoding:
            bit = decode_probability(coder, coded, 1 << 15)
        else:
            encode_probability(coder, coded, 1 << 15, bit)
        result = result << 1 | bit
    return -result if negative else result


@inlined
def fit(coefficients: Doubles, covariance: Doubles, inputs: Doubles, gain: Doubles, missed: float) -> None:
    """Move coefficients by what they missed: one step of recursive least squares."""
    n, total = inputs.size, 1.0
    for i in range(n):
        g = 0.0
        for j in range(n):
            g += covariance[i, j] * inputs[j]
        gain[i] = g
        total += g * inputs[i]
    if not 1.0 <= total < 1e9:  # rounding has spoilt the covariance, or the inputs say nothing of value
        return
    share = 1.0 / total
    for i in range(n):
        g = gain[i] * share
        coefficients[i] += g * missed
        for j in range(n):
            covariance[i, j] -= g * gain[j]


@inlined
def restart(covariance: Doubles, certainty: float) -> None:
    """Forget how well the coefficients are known, not what they are."""
    for i in range(covariance.shape[0]):
        for j in range(covariance.shape[0]):
            covariance[i, j] = 0.0
        covariance[i, i] = certainty
