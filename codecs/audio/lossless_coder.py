"""The kernel of `audio-lossless`: every sample is predicted, and coded by binary decisions whose probabilities are mixed.

For each sample (`lossless_predictor` predicts it):

1. Each of a few predictions has a logistic distribution around it, whose scale is that of its errors of late, over short and
   long times, corrected by what the same proportion of these meant before.
2. Decisions: is the sample above the blended prediction? Then outwards in steps that double, then bisection of what is left.
   What is small beside the distribution's scale is coded as it is.
3. Each decision's probability is mixed from the distributions and from adaptive probabilities in contexts: errors before,
   their signs, and what the other channels did.

Encoder and decoder run the same function; integers and IEEE numbers in a fixed order make it the same on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...entropy.adaptive_binary import (
    POSITION,
    decode_probability,
    decode_uniform,
    encode_probability,
    encode_uniform,
)
from ...entropy.kernels import inlined, kernel
from ...entropy.logistic_mixing import (
    adapt,
    confidence,
    learn,
    logistic_cdf,
    mix,
    new_cells,
    probability_16,
    squash,
    stretch,
)
from .lossless_predictor import Predictor, advance, predict, update

__all__ = ["Model", "code_samples", "new_model"]

Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]
Bytes = NDArray[np.uint8]

NODES = 24  # decisions with probabilities of their own: the first, 9 upwards, 9 downwards, bisections by size
UP, DOWN, BISECT = 1, 10, 19
LIMIT = 250  # uses after which adaptive probabilities move at a constant rate
FASTEST, SLOWEST = 0.015, 0.002  # learning rate of the weights, at first and at last
FINE = 8.0  # intervals of less than 1 / FINE of the scale are coded without a model
BEYOND = 16  # bytes past the end that are read before decoding stops
WINDOWS = 3  # times over which errors are averaged
RATES = np.array([1.0 / 16.0, 1.0 / 128.0, 1.0 / 2048.0])
CONTEXTS = 6
STEPS = 9  # of the proportion of two means, see `_step`
SLOTS = 1024  # of each context
SELECTORS = 32


class Model(NamedTuple):
    """What is learnt along a packet of C channels: P predictions, E distributions, K contexts, and weights in `sets`."""

    means: Doubles  # [C, P, WINDOWS] of absolute errors
    counts: Doubles  # [C] samples seen, up to the longest window
    ratio_sum: Doubles  # [P, STEPS * STEPS] of absolute errors in units of their mean
    ratio_count: Doubles
    ratio_at: Integers  # [P]
    last: Doubles  # [C, 2] errors of the blend at the samples before, in units of the scale
    now: Doubles  # [C] the same of this sample, of the channels that are coded
    centre: Doubles  # [E]
    sharpness: Doubles  # [E] 1 / scale
    below: Doubles  # [E] distribution functions at the ends of the interval, and at the threshold
    above: Doubles
    at: Doubles
    source: Integers  # [E] which prediction
    factor: Doubles  # [E] of the sharpness
    cells: NDArray[np.int32]  # [K * SLOTS * NODES]
    slots: Integers  # [K] first cell of each context's slot
    used: Integers  # [K] cells of the decision at hand
    inputs: Doubles  # [E + K + 1, padded to 4]
    weights: Doubles  # [sets][SELECTORS][NODES][inputs], flat
    chosen: Integers  # [sets] first weight of the decision at hand
    outputs: Doubles  # [sets]
    final: Doubles  # [NODES, sets]
    seen: Doubles  # [1] samples coded


def new_model(channels: int, distributions: Sequence[tuple[int, float]], contexts: int, sets: int) -> Model:
    """Return the state before the first sample.

    Each distribution is around a prediction, with the scale that its errors call for divided by a number; the first of them is
    around the blend as it is.
    """
    e = len(distributions)
    inputs = -(-(e + contexts + 1) // 4) * 4
    weights = np.zeros((sets, SELECTORS, NODES, inputs))
    weights[..., :e] = 0.95 / e
    weights[..., e : e + contexts] = 0.6 / max(contexts, 1)
    source = np.array([one for one, _ in distributions], np.int64)
    predictions = int(source.max()) + 1
    return Model(
        means=np.full((channels, predictions, WINDOWS), 1.0),
        counts=np.zeros(channels),
        ratio_sum=np.full((predictions, STEPS * STEPS), 4.0),
        ratio_count=np.full((predictions, STEPS * STEPS), 4.0),
        ratio_at=np.zeros(predictions, np.int64),
        last=np.zeros((channels, 2)),
        now=np.zeros(channels),
        centre=np.zeros(e),
        sharpness=np.zeros(e),
        below=np.zeros(e),
        above=np.zeros(e),
        at=np.zeros(e),
        source=source,
        factor=np.array([factor for _, factor in distributions]),
        cells=new_cells(contexts * SLOTS * NODES),
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
def _step(a: float, b: float) -> int:
    """Return the proportion a / b in STEPS steps, the middle one around 1."""
    if a < b:
        if a > 0.8 * b:
            return 4
        if a > 0.6 * b:
            return 3
        if a > 0.4 * b:
            return 2
        return 1 if a > 0.2 * b else 0
    if b > 0.8 * a:
        return 4
    if b > 0.6 * a:
        return 5
    if b > 0.4 * a:
        return 6
    return 7 if b > 0.2 * a else 8


@inlined
def _class(x: float) -> int:
    """Return an error in units of the scale as one of 9 classes, 4 around 0."""
    size = abs(x)
    c = 0 if size < 0.35 else 1 if size < 1.0 else 2 if size < 2.0 else 3 if size < 4.0 else 4
    return 4 + c if x > 0.0 else 4 - c


@inlined
def _distributions(model: Model, predictor: Predictor, c: int, low: int, high: int) -> None:
    """Set centres and scales."""
    for k in range(model.ratio_at.size):
        means = model.means[c, k]
        context = _step(means[0], means[1]) * STEPS + _step(means[1], means[2])
        model.ratio_at[k] = context
    for e in range(model.centre.size):
        k = model.source[e]
        ratio = model.ratio_sum[k, model.ratio_at[k]] / model.ratio_count[k, model.ratio_at[k]]
        scale = 0.62 * ratio * model.means[c, k, 1] + 0.05
        model.centre[e] = min(max(predictor.predictions[k], float(low)), float(high))
        model.sharpness[e] = model.factor[e] / scale
        model.below[e] = logistic_cdf((low - 0.5 - model.centre[e]) * model.sharpness[e])
        model.above[e] = logistic_cdf((high + 0.5 - model.centre[e]) * model.sharpness[e])


@inlined
def _find_slots(model: Model, predictor: Predictor, c: int, quarter: int, stride: int) -> None:
    """Set the slots of cells, and the sets of weights, for a sample whose first step is 2**stride."""
    slots, chosen = model.slots, model.chosen
    means, sharp = model.means[c, 0], model.sharpness[0]
    fine = min(stride, 3)
    if slots.size > 0:
        slots[0] = (model.ratio_at[0] * 2 + (1 if fine > 0 else 0)) * 4 + quarter
    if slots.size > 1:
        slots[1] = (_class(model.last[c, 0]) * 9 + _class(model.last[c, 1])) * 4 + fine
    if slots.size > 2:
        other = model.now[c - 1] if c > 0 else model.last[(c + 1) % model.counts.size, 0]
        slots[2] = (_class(other) * 9 + _step(means[0], means[1])) * 4 + fine
    if slots.size > 3:
        slots[3] = min(stride, 23) * 4 + quarter
    if slots.size > 4:
        away = (predictor.predictions[1] - model.centre[0]) * sharp * 2.0
        further = (predictor.predictions[2] - model.centre[0]) * sharp
        slots[4] = (_class(away) * 9 + _class(further)) * 4 + fine
    if slots.size > 5:
        slots[5] = (min(c, 7) * 9 + _class(model.last[c, 0])) * 4 + fine
    for i in range(slots.size):
        slots[i] = (i * SLOTS + slots[i]) * NODES
    size = NODES * model.inputs.size
    chosen[0] = min(stride, SELECTORS - 1) * size
    if chosen.size > 1:
        chosen[1] = (SELECTORS + _step(means[0], means[1]) * 3 + min(fine, 2)) * size
    if chosen.size > 2:
        chosen[2] = (2 * SELECTORS + _class(model.last[c, 0]) * 3 + min(c, 2)) * size


@inlined
def _probability(model: Model, threshold: int, node: int) -> float:
    """Return the probability that the sample is at least `threshold`, and leave behind what `_learn` needs."""
    experts, inputs = model.centre.size, model.inputs
    for e in range(experts):
        f = logistic_cdf((threshold - 0.5 - model.centre[e]) * model.sharpness[e])
        model.at[e] = f
        high, low = max(model.above[e] - f, 1e-7), max(f - model.below[e], 1e-7)
        inputs[e] = stretch(high / (high + low))
    for i in range(model.slots.size):
        model.used[i] = model.slots[i] + node
        inputs[experts + i] = confidence(model.cells[model.used[i]])
    inputs[experts + model.slots.size] = 0.3
    total = 0.0
    for k in range(model.outputs.size):
        model.outputs[k] = mix(model.weights, model.chosen[k] + node * inputs.size, inputs, inputs.size)
        total += model.final[node, k] * model.outputs[k]
    return squash(total)


@inlined
def _learn(model: Model, node: int, p: float, bit: int, rate: float) -> None:
    """Adapt weights and cells to a decision."""
    size = model.inputs.size
    for k in range(model.outputs.size):
        learn(model.weights, model.chosen[k] + node * size, model.inputs, size, rate * (bit - squash(model.outputs[k])))
        model.final[node, k] += 0.002 * (bit - p) * model.outputs[k]
    for i in range(model.used.size):
        adapt(model.cells, model.used[i], bit, LIMIT)
    for e in range(model.at.size):
        if bit:
            model.below[e] = model.at[e]
        else:
            model.above[e] = model.at[e]


@inlined
def _code_rest(low: int, width: int, value: int, coder: Integers, coded: Bytes, decoding: bool) -> int:
    """Code which of the `width` values from `low` a sample is, all alike."""
    bits = 0
    while width >> (bits + 1):
        bits += 1
    if width == 1 << bits:
        if decoding:
            return low + decode_uniform(coder, coded, bits)
        encode_uniform(coder, coded, value - low, bits)
        return value
    high = low + width
    while high - low > 1:
        middle = (low + high) >> 1
        if decoding:
            bit = decode_probability(coder, coded, 32768)
        else:
            bit = 1 if value >= middle else 0
            encode_probability(coder, coded, 32768, bit)
        if bit:
            low = middle
        else:
            high = middle
    return low


@inlined
def _code_sample(
    model: Model, value: int, first: int, stride: int, bottom: int, top: int, coder: Integers, coded: Bytes, decoding: bool
) -> int:
    """Code a sample of bottom..top (its `value` counts only when encoding); returns the sample."""
    low, high = bottom, top + 1
    rate = SLOWEST + (FASTEST - SLOWEST) * (2000.0 / (2000.0 + model.seen[0]))
    model.seen[0] += 1.0
    fine = int(min(1.0 / (model.sharpness[0] * FINE), 1e9))
    step, threshold, node, side, turns = 1 << stride, first, 0, 0, 0
    while high - low > 1:
        if side == 2 and high - low <= fine:
            return _code_rest(low, high - low, value, coder, coded, decoding)
        p = _probability(model, threshold, node)
        if decoding:
            bit = decode_probability(coder, coded, probability_16(p))
        else:
            bit = 1 if value >= threshold else 0
            encode_probability(coder, coded, probability_16(p), bit)
        _learn(model, node, p, bit, rate)
        if bit:
            low = threshold
        else:
            high = threshold
        if side == 0:
            side = 1 if bit else -1
        elif (side == 1) != (bit == 1):
            side = 2
        turns += 1
        if turns > 3 and side != 2:
            step *= 2
        threshold = low + step if side == 1 else high - step
        if side == 2 or threshold <= low or threshold >= high:
            if side != 2:
                turns = 0
            side = 2
            threshold = (low + high) >> 1
            node = min(max(node, BISECT - 1) + 1, NODES - 1)
        else:
            node = (UP if side == 1 else DOWN) + min(turns - 1, DOWN - UP - 1)
    return low


@inlined
def _account(model: Model, predictor: Predictor, c: int, value: int) -> None:
    """Learn how large the errors are."""
    model.counts[c] += 1.0
    for k in range(model.ratio_at.size):
        means, context = model.means[c, k], model.ratio_at[k]
        error = abs(value - predictor.predictions[k])
        model.ratio_sum[k, context] += min(error / (means[1] + 0.05), 20.0)
        model.ratio_count[k, context] += 1.0
        if model.ratio_count[k, context] > 1000.0:
            model.ratio_sum[k, context] *= 0.5
            model.ratio_count[k, context] *= 0.5
        for w in range(WINDOWS):
            means[w] += max(RATES[w], 1.0 / (model.counts[c] + 0.5)) * (error - means[w])
    model.last[c, 1] = model.last[c, 0]
    model.last[c, 0] = (value - predictor.predictions[0]) * model.sharpness[0]
    model.now[c] = model.last[c, 0]


@kernel
def code_samples(
    samples: NDArray[np.int32],
    lowest: Integers,
    highest: Integers,
    predictor: Predictor,
    model: Model,
    coder: Integers,
    coded: Bytes,
    decoding: bool,
) -> None:
    """Code samples [C, N], those of channel c within lowest[c]..highest[c]; when decoding they are written.

    Decoding stops early where the bytes have ended long ago.
    """
    for t in range(samples.shape[1]):
        if decoding and coder[POSITION] > coded.size + BEYOND:
            return
        for c in range(samples.shape[0]):
            low, high = lowest[c], highest[c]
            predict(predictor, c)
            _distributions(model, predictor, c, low, high)
            first = min(max(int(np.floor(model.centre[0] + 0.5)), low + 1), high)
            stride, scale = 0, 1.0 / model.sharpness[0]
            while scale > 4.0:
                scale *= 0.5
                stride += 1
            quarter = min(max(int(4.0 * (model.centre[0] + 0.5 - first)), 0), 3)
            _find_slots(model, predictor, c, quarter, stride)
            value = _code_sample(model, samples[c, t], first, stride, low, high, coder, coded, decoding)
            samples[c, t] = value
            _account(model, predictor, c, value)
            update(predictor, c, value)
        advance(predictor)
