"""Planes of samples to bytes and back, one sample at a time: the kernel of `image-lossless`.

A sample is predicted several times (`least_squares`, and formulas here), the predictions are blended by how well each did
nearby, and the blend is corrected by what it missed in similar contexts. Then the sample is coded as decisions: is it above
the prediction; is it further away than one step, two, three, then steps that double; then bisection of what is left. Each
decision's probability is mixed (`laconic.entropy.logistic_mixing`) from logistic distributions around the predictions, with
scales learnt in contexts of the errors nearby, and from adaptive probabilities in contexts of exact neighbouring values: those
find colours and differences that recur.

Encoder and decoder run the same function; integers and IEEE doubles in a fixed order make it the same on every machine.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...entropy.adaptive_binary import POSITION, decode_probability, encode_probability
from ...entropy.kernels import inlined, kernel
from ...entropy.logistic_mixing import adapt, confidence, learn, logistic_cdf, mix, new_cells, probability_16, squash, stretch
from .least_squares import LeastSquares, begin_row, predict, update

__all__ = ["MARGIN", "Model", "code_rows", "new_model"]

Planes = NDArray[np.int32]
Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]
Bytes = NDArray[np.uint8]

MARGIN = 4  # samples around a plane, so that neighbours exist everywhere
FORMULAS = 3  # predictions that are not least squares
NODES = 32  # decisions with probabilities of their own: the first, 9 upwards, 9 downwards, bisections by size
UP, DOWN, BISECT = 1, 10, 19
LEVELS = 48  # of activity, see `level`
BIASES, BIAS_CONTEXTS = 5, 2048
LIMIT = 120  # uses after which adaptive probabilities move at a constant rate
FASTEST, SLOWEST = 0.02, 0.003  # learning rate of the weights, at first and at last
BEYOND = 16  # bytes past the end that are read before decoding stops
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
    selectors = LEVELS + 16 + 16
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
def _clip(value: int, bound: int) -> int:
    return min(max(value, -bound), bound)


@inlined
def _formulas(model: Model, first: int, s: Planes, p: int, before: Integers, y: int, x: int) -> None:
    """Predict by formulas: the median edge detector (LOCO-I), and two that use the plane before or wider neighbours."""
    west, north, north_west, north_east = s[p, y, x - 1], s[p, y - 1, x], s[p, y - 1, x - 1], s[p, y - 1, x + 1]
    plane = west + north - north_west
    model.predictions[first] = min(max(plane, min(west, north)), max(west, north))
    if before.size > 0:
        q = before[0]
        here, left, over = s[q, y, x], s[q, y, x - 1], s[q, y - 1, x]
        model.predictions[first + 1] = 0.5 * (west + north) + here - 0.5 * (left + over)
        model.predictions[first + 2] = plane + 0.75 * (here - (left + over - s[q, y - 1, x - 1]))
    else:
        model.predictions[first + 1] = 0.5 * (west + north) + 0.25 * (north_east - north_west)
        model.predictions[first + 2] = north + 0.5 * (north_east - s[p, y - 2, x + 1]) + 0.25 * (west - north_west)


@inlined
def _activity(model: Model, k: int, row: int, x: int) -> float:
    """Return the weighted sum of a prediction's absolute errors at the neighbours, weights summing to 7."""
    here, above = model.errors[k, row], model.errors[k, 1 - row]
    return 2.0 * (here[x - 1] + above[x]) + above[x - 1] + above[x + 1] + here[x - 2]


@inlined
def _blend(model: Model, highest: int, row: int, x: int) -> float:
    """Return the mean of the predictions, weighted by the inverse fourth power of their errors nearby."""
    total = weight = 0.0
    for k in range(model.predictions.size - 1):
        model.predictions[k] = min(max(model.predictions[k], 0.0), float(highest))
        activity = _activity(model, k, row, x)
        model.levels[k] = level(activity * (4.0 / 7.0))
        share = 1.0 / ((activity + 0.6) * (activity + 0.6))
        share *= share
        weight += share
        total += share * model.predictions[k]
    return total / weight


@inlined
def _textures(s: Planes, p: int, before: Integers, y: int, x: int, mean: float) -> tuple[int, int]:
    """Return which of 6 and of 4 neighbours exceed the prediction (or, in the plane before, the sample there)."""
    west, north, north_west, north_east = s[p, y, x - 1], s[p, y - 1, x], s[p, y - 1, x - 1], s[p, y - 1, x + 1]
    six = (north > mean) | (west > mean) << 1 | (north_west > mean) << 2 | (north_east > mean) << 3
    six |= (s[p, y, x - 2] > mean) << 4 | (s[p, y - 2, x] > mean) << 5
    if before.size > 0:
        q = before[0]
        here = s[q, y, x]
        four = (
            (s[q, y - 1, x] > here) | (s[q, y, x - 1] > here) << 1 | (s[q, y, x + 1] > here) << 2 | (s[q, y + 1, x] > here) << 3
        )
    else:
        four = (2 * north - s[p, y - 2, x] > mean) | (2 * west - s[p, y, x - 2] > mean) << 1
        four |= (west + north - north_west > mean) << 2 | (s[p, y - 1, x + 2] > mean) << 3
    return six, four


@inlined
def _unbias(model: Model, mean: float, six: int, four: int, activity: int, missed: int) -> float:
    """Return the mean plus the average of what it missed in five contexts."""
    model.bias_at[0] = six * 8 + min(activity >> 1, 7)
    model.bias_at[1] = missed
    model.bias_at[2] = four * LEVELS + activity
    model.bias_at[3] = min(int(mean) >> 1, BIAS_CONTEXTS - 1)
    model.bias_at[4] = six * 16 + four
    total = 0.0
    for b in range(BIASES):
        total += model.bias_sum[b, model.bias_at[b]] / (model.bias_count[b, model.bias_at[b]] + 2.0)
    return mean + total / BIASES


@inlined
def _distributions(model: Model, highest: int) -> None:
    """Set centres and scales: first around the blend, a narrower one too, then around the other predictions."""
    blend = model.predictions.size - 1
    for e in range(model.centre.size):
        k = blend if e < 2 else e - 2
        scale = model.scale_sum[k, model.levels[k]] / model.scale_count[k, model.levels[k]]
        model.centre[e] = model.predictions[k]
        model.sharpness[e] = 1.0 / (0.62 * scale + 0.06)
        if e == 1:
            model.sharpness[e] *= 2.2
        model.below[e] = logistic_cdf((-0.5 - model.centre[e]) * model.sharpness[e])
        model.above[e] = logistic_cdf((highest + 0.5 - model.centre[e]) * model.sharpness[e])


@inlined
def _find_slots(
    model: Model,
    s: Planes,
    p: int,
    before: Integers,
    y: int,
    x: int,
    c: int,
    quarter: int,
    six: int,
    four: int,
    activity: int,
    missed: int,
    stride: int,
) -> None:
    """Set the slots of cells for the contexts of a sample whose first threshold is `c`."""
    west, north, north_west, north_east = s[p, y, x - 1], s[p, y - 1, x], s[p, y - 1, x - 1], s[p, y - 1, x + 1]
    mean, coarse = model.predictions[model.predictions.size - 1], min(activity >> 2, 7)
    if before.size > 0:
        q = before[0]
        other, along, over = s[q, y, x] - c, s[q, y, x] - s[q, y, x - 1], s[q, y, x] - s[q, y - 1, x]
    else:
        other, along, over = north - c, north - north_west, west - north_west
    second = s[before[1], y, x] - c if before.size > 1 else west - c
    slots, big = model.slots, np.int64(1) << 18
    slots[0] = other * big + second
    slots[1] = activity * 4 + quarter
    slots[2] = missed * 8 + coarse
    slots[3] = six * 8 + coarse
    if slots.size > 4:
        slots[4] = along * big + west - c
        slots[5] = over * big + north - c
        slots[6] = other * 8 + coarse
        slots[7] = (four * 81 + missed) * 8 + coarse
    if slots.size > 8:
        slots[8] = _clip(north - c, 12) * 64 + _clip(west - c, 12)
        slots[9] = _clip(north_east - c, 12) * 64 + _clip(north_west - c, 12)
        slots[10] = second * 8 + coarse
        slots[11] = c * 8 + coarse
        last = model.predictions.size - 2
        slots[12] = _clip(int(3.0 * (model.predictions[0] - mean)), 10) * 64 + _clip(
            int(3.0 * (model.predictions[last - 3] - mean)), 10
        )
        slots[13] = _clip(int(2.0 * (model.predictions[last - 2] - mean)), 10) * 64 + _clip(
            int(2.0 * (model.predictions[last - 1] - mean)), 10
        )
    for i in range(slots.size):
        h = (slots[i] + (i + 1) * 7919 + stride * 104729) * np.int64(0x2545F4914F6CDD1D)
        h ^= (h >> 29) & 0x7FFFFFFFF
        slots[i] = model.starts[i] + ((h * 0x9E3779B1 >> 20) & model.masks[i]) * NODES


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
def _code_sample(
    model: Model, value: int, first: int, stride: int, highest: int, coder: Integers, coded: Bytes, decoding: bool
) -> int:
    """Code a sample (its `value` counts only when encoding) by decisions that start at `first`; returns the sample."""
    low, high = 0, highest + 1
    rate = SLOWEST + (FASTEST - SLOWEST) * (4000.0 / (4000.0 + model.seen[0]))
    model.seen[0] += 1.0
    threshold, node, side, turns = first, 0, 0, 0
    while high - low > 1:
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
            stride *= 2
        threshold = low + stride if side == 1 else high - stride
        if side == 2 or threshold <= low or threshold >= high:
            side = 2
            threshold = (low + high) >> 1
            node, size = BISECT, high - low
            while size > 3 and node < NODES - 1:
                size >>= 1
                node += 1
        else:
            node = (UP if side == 1 else DOWN) + min(turns - 1, DOWN - UP - 1)
    return low


@inlined
def _prepare_row(model: Model, s: Planes, p: int, y: int, width: int) -> None:
    """Fill the margins beside row `y` and those of the row above from known samples."""
    row = y & 1
    for j in range(MARGIN):
        s[p, y, j] = s[p, y - 1, MARGIN]
        s[p, y - 1, width + MARGIN + j] = s[p, y - 1, width + MARGIN - 1]
        model.missed[row, j] = 0.0
        for k in range(model.predictions.size):
            above = model.errors[k, 1 - row]
            model.errors[k, row, j] = above[MARGIN]
            above[width + MARGIN + j] = above[width + MARGIN - 1]


@inlined
def _choose_weights(model: Model, stride: int, activity: int, four: int) -> None:
    """Select the sets of weights: by stride, and where there are three sets by activity and by texture."""
    size = NODES * model.inputs.size
    model.chosen[0] = stride * size
    if model.chosen.size > 1:
        model.chosen[1] = (16 + activity) * size
        model.chosen[2] = (16 + LEVELS + four) * size


@inlined
def _account(model: Model, value: int, mean: float, row: int, x: int) -> None:
    """Note how well the predictions did."""
    for k in range(model.predictions.size):
        error, at = abs(value - model.predictions[k]), model.levels[k]
        model.errors[k, row, x] = error
        model.scale_sum[k, at] += error
        model.scale_count[k, at] += 1.0
        if model.scale_count[k, at] > 400.0:
            model.scale_sum[k, at] *= 0.5
            model.scale_count[k, at] *= 0.5
    model.missed[row, x] = value - model.predictions[model.predictions.size - 1]
    for b in range(BIASES):
        at = model.bias_at[b]
        model.bias_sum[b, at] += value - mean
        model.bias_count[b, at] += 1.0
        if model.bias_count[b, at] > 120.0:
            model.bias_sum[b, at] *= 0.5
            model.bias_count[b, at] *= 0.5


@inlined
def _code_next(
    s: Planes,
    p: int,
    before: Integers,
    highest: int,
    ls: LeastSquares,
    model: Model,
    y: int,
    x: int,
    coder: Integers,
    coded: Bytes,
    decoding: bool,
) -> None:
    """Code sample (y, x)."""
    blend, fitted, row = model.predictions.size - 1, ls.own.size, y & 1
    for k in range(fitted):
        model.predictions[k] = predict(ls, k, s, p, before, y, x, x - MARGIN)
    _formulas(model, fitted, s, p, before, y, x)
    mean = _blend(model, highest, row, x)
    above = model.errors[blend, 1 - row]
    activity = level(0.5 * (_activity(model, blend, row, x) + 0.5 * (above[x + 2] + above[x - 2])))
    model.levels[blend] = activity
    six, four = _textures(s, p, before, y, x, mean)
    missed = 9 * (_clip(int(model.missed[row, x - 1]), 4) + 4) + _clip(int(model.missed[1 - row, x]), 4) + 4
    centre = min(max(_unbias(model, mean, six, four, activity, missed), 0.0), float(highest))
    model.predictions[blend] = centre
    _distributions(model, highest)
    first = min(max(int(centre + 0.5), 1), highest)
    stride, scale = 0, 1.0 / model.sharpness[0]
    while scale > 4.0:
        scale *= 0.5
        stride += 1
    quarter = _clip(int(4.0 * (centre + 0.5 - first)), 3)
    _find_slots(model, s, p, before, y, x, first, quarter, six, four, activity, missed, stride)
    _choose_weights(model, min(stride, 15), activity, four)
    value = _code_sample(model, s[p, y, x], first, 1 << stride, highest, coder, coded, decoding)
    s[p, y, x] = value
    _account(model, value, mean, row, x)
    for k in range(fitted):
        update(ls, k, value - s[p, y, x - 1], x - MARGIN)


@kernel
def code_rows(
    s: Planes,
    p: int,
    before: Integers,
    highest: int,
    ls: LeastSquares,
    model: Model,
    top: int,
    bottom: int,
    coder: Integers,
    coded: Bytes,
    decoding: bool,
) -> None:
    """Code rows `top` to `bottom` (exclusive) of plane `p` of `s` (planes, H + 2 MARGIN, W + 2 MARGIN; samples 0..highest).

    The planes `before` are complete, margins too. When decoding, the samples are written; the margins of plane `p` are in both
    directions. Decoding stops early where the bytes have ended long ago.
    """
    width = s.shape[2] - 2 * MARGIN
    for y in range(top + MARGIN, bottom + MARGIN):
        if decoding and coder[POSITION] > coded.size + BEYOND:
            return
        _prepare_row(model, s, p, y, width)
        for k in range(ls.own.size):
            begin_row(ls, k)
        for x in range(MARGIN, width + MARGIN):
            _code_next(s, p, before, highest, ls, model, y, x, coder, coded, decoding)
