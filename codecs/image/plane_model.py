"""What the kernel of `image-lossless` learns in the course of a plane, and the constants of its model."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...entropy.kernels import inlined
from ...entropy.logistic_mixing import new_cells

__all__ = ["MARGIN", "Model", "clipped", "level", "new_model"]

Planes = NDArray[np.int32]
Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]
Bytes = NDArray[np.uint8]

MARGIN = 4  # samples around a plane, so that neighbours exist everywhere
FORMULAS = 3  # predictions that are not least squares
NODES = 32  # decisions with probabilities of their own: the first, 9 upwards, 9 downwards, bisections by size
LEVELS = 48  # of activity, see `level`
STRIDES = 16  # of first steps: 1 to 2**15
TEXTURES = 16
BIASES, BIAS_CONTEXTS = 5, 2048
MANY, FEW = 16, 12  # binary digits of the number of slots of a context
SPARSE = (0, 4, 5)  # contexts with many values


class Model(NamedTuple):
    """What is learnt along a plane of W columns: K predictions (the last is the blend), E distributions, C contexts."""

    predictions: Doubles  # [K] of the sample at hand
    errors: Doubles  # [K, 2, W + 2 MARGIN] absolute, of this row and the one above
    missed: Doubles  # [2, W + 2 MARGIN] signed, of the blend
    scale_sum: Doubles  # [K, LEVELS]
    scale_count: Doubles  # [K, LEVELS]
    levels: Integers  # [K] activity around the sample, by prediction
    bias_sum: Doubles  # [BIASES, BIAS_CONTEXTS]
    bias_count: Doubles
    bias_at: Integers  # [BIASES]
    centre: Doubles  # [E]
    sharpness: Doubles  # [E] 1 / scale
    below: Doubles  # [E] distribution functions at the ends of the interval, and at the threshold
    above: Doubles
    at: Doubles
    cells: NDArray[np.int32]  # slots of NODES adaptive probabilities, context after context
    starts: Integers  # [C] first cell of each context
    masks: Integers  # [C] number of its slots - 1
    slots: Integers  # [C] first cell of each context's slot
    used: Integers  # [C] cells of the decision at hand
    inputs: Doubles  # [E + C + 1, padded to 4]
    weights: Doubles  # [SETS][selectors][NODES][inputs], flat
    chosen: Integers  # [SETS] first weight of the decision at hand
    outputs: Doubles  # [SETS]
    final: Doubles  # [NODES, SETS]
    seen: Doubles  # [1] samples coded


def new_model(width: int, samples: int, predictors: int, distributions: int, contexts: int, sets: int) -> Model:
    """Return the state before a plane's first sample; `predictors` are those of least squares."""
    e = distributions
    k = predictors + FORMULAS + 1
    inputs = -(-(e + contexts + 1) // 4) * 4
    largest = min(max(samples.bit_length(), 8), MANY)
    bits = [largest if c in SPARSE else FEW for c in range(contexts)]
    starts = np.concatenate([[0], np.cumsum([NODES << b for b in bits])])
    selectors = STRIDES + LEVELS + TEXTURES
    weights = np.zeros((selectors, NODES, inputs))
    weights[..., :e] = 0.9 / e
    weights[..., e : e + contexts] = 0.15
    scale = 0.6 + 0.25 * 1.16 ** np.arange(LEVELS)
    return Model(
        predictions=np.zeros(k),
        errors=np.zeros((k, 2, width + 2 * MARGIN)),
        missed=np.zeros((2, width + 2 * MARGIN)),
        scale_sum=np.tile(scale, (k, 1)),
        scale_count=np.ones((k, LEVELS)),
        levels=np.zeros(k, np.int64),
        bias_sum=np.zeros((BIASES, BIAS_CONTEXTS)),
        bias_count=np.zeros((BIASES, BIAS_CONTEXTS)),
        bias_at=np.zeros(BIASES, np.int64),
        centre=np.zeros(e),
        sharpness=np.zeros(e),
        below=np.zeros(e),
        above=np.zeros(e),
        at=np.zeros(e),
        cells=new_cells(int(starts[-1])),
        starts=starts[:-1],
        masks=np.array([(1 << b) - 1 for b in bits]),
        slots=np.zeros(contexts, np.int64),
        used=np.zeros(contexts, np.int64),
        inputs=np.zeros(inputs),
        weights=weights.ravel(),
        chosen=np.zeros(sets, np.int64),
        outputs=np.zeros(sets),
        final=np.full((NODES, sets), 1.0 / sets),
        seen=np.zeros(1),
    )


@inlined
def level(activity: float) -> int:
    """Return activity on a scale that is linear to 8 and has four steps an octave beyond; below LEVELS."""
    if activity < 8.0:
        return int(activity)
    octave = 0
    while activity >= 16.0:
        activity *= 0.5
        octave += 1
    return min(8 + 4 * octave + ((int(activity) - 8) >> 1), LEVELS - 1)


@inlined
def clipped(value: int, bound: int) -> int:
    """Return the value, or the nearer of -bound and bound where it lies beyond."""
    return min(max(value, -bound), bound)
