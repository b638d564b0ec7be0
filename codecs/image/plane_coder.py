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

import numpy as np

from ...entropy.adaptive_binary import POSITION, decode_probability, encode_probability
from ...entropy.kernels import inlined, kernel
from ...entropy.logistic_mixing import adapt, confidence, learn, logistic_cdf, mix, probability_16, squash, stretch
from .least_squares import LeastSquares, begin_row, predict, update
from .plane_model import LEVELS, MARGIN, NODES, STRIDES, Bytes, Integers, Model, Planes, clipped, level
from .plane_predictions import account, activity_of, blend, predict_by_formulas, prepare_row, textures, unbias

__all__ = ["code_rows"]

UP, DOWN, BISECT = 1, 10, 19  # first nodes of decisions upwards, downwards and by bisection
LIMIT = 120  # uses after which adaptive probabilities move at a constant rate
FASTEST, SLOWEST = 0.02, 0.003  # learning rate of the weights, at first and at last
BEYOND = 16  # bytes past the end that are read before decoding stops


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
    if slots.size > 2:
        slots[2] = missed * 8 + coarse
        slots[3] = six * 8 + coarse
    if slots.size > 4:
        slots[4] = along * big + west - c
        slots[5] = over * big + north - c
        slots[6] = other * 8 + coarse
        slots[7] = (four * 81 + missed) * 8 + coarse
    if slots.size > 8:
        slots[8] = clipped(north - c, 12) * 64 + clipped(west - c, 12)
        slots[9] = clipped(north_east - c, 12) * 64 + clipped(north_west - c, 12)
        slots[10] = second * 8 + coarse
        slots[11] = c * 8 + coarse
        last = model.predictions.size - 2
        slots[12] = clipped(int(3.0 * (model.predictions[0] - mean)), 10) * 64 + clipped(
            int(3.0 * (model.predictions[last - 3] - mean)), 10
        )
        slots[13] = clipped(int(2.0 * (model.predictions[last - 2] - mean)), 10) * 64 + clipped(
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
def _choose_weights(model: Model, stride: int, activity: int, four: int) -> None:
    """Select the sets of weights: by stride, and where there are three sets by activity and by texture."""
    size = NODES * model.inputs.size
    model.chosen[0] = stride * size
    if model.chosen.size > 1:
        model.chosen[1] = (STRIDES + activity) * size
        model.chosen[2] = (STRIDES + LEVELS + four) * size


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
    last, fitted, row = model.predictions.size - 1, ls.own.size, y & 1
    for k in range(fitted):
        model.predictions[k] = predict(ls, k, s, p, before, y, x, x - MARGIN)
    predict_by_formulas(model, fitted, s, p, before, y, x)
    mean = blend(model, highest, row, x)
    above = model.errors[last, 1 - row]
    nearby = activity_of(model, last, row, x)
    activity = level(0.5 * (nearby + 0.5 * (above[x + 2] + above[x - 2])))
    model.levels[last] = activity
    six, four = textures(s, p, before, y, x, mean)
    missed = 9 * (clipped(int(model.missed[row, x - 1]), 4) + 4) + clipped(int(model.missed[1 - row, x]), 4) + 4
    centre = min(max(unbias(model, mean, six, four, activity, missed), 0.0), float(highest))
    model.predictions[last] = centre
    _distributions(model, highest)
    first = min(max(int(centre + 0.5), 1), highest)
    stride, scale = 0, 1.0 / model.sharpness[0]
    while scale > 4.0:
        scale *= 0.5
        stride += 1
    quarter = clipped(int(4.0 * (centre + 0.5 - first)), 3)
    _find_slots(model, s, p, before, y, x, first, quarter, six, four, activity, missed, stride)
    _choose_weights(model, min(stride, STRIDES - 1), activity, four)
    value = _code_sample(model, s[p, y, x], first, 1 << stride, highest, coder, coded, decoding)
    s[p, y, x] = value
    account(model, value, mean, row, x)
    # samples in restless surroundings say less of the weights than those in quiet ones
    importance = 8.0 / (1.0 + nearby * ls.unit[0] / 7.0)
    for k in range(fitted):
        update(ls, k, value - s[p, y, x - 1], x - MARGIN, importance)


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
        prepare_row(model, s, p, y, width)
        for k in range(ls.own.size):
            begin_row(ls, k)
        for x in range(MARGIN, width + MARGIN):
            _code_next(s, p, before, highest, ls, model, y, x, coder, coded, decoding)
