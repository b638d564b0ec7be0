"""Tensors of a fitted network to bytes and back, one integer at a time: the kernel of `inr_parameters`.

An integer is predicted from integers before it: the one to the left and the one above, the same place one and two steps back
along the first axis (the frame before, or the same weight of an output channel before) and along the second (the input channel
before), and the same place of a reference. A recursive least-squares fit weighs them. What it misses is expected as large as
misses were in the same row, column, place of the kernel and neighbourhood, weighed by a second such fit. Then the integer is
coded as decisions: is it the predicted one; on which side; further away than one stride, two, three, then strides that double;
then bisection. Each decision's probability is mixed (`laconic.entropy.logistic_mixing`) from logistic distributions and from
adaptive probabilities in contexts.

Encoder and decoder run the same function; integers and IEEE doubles in a fixed order make it the same on every machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...entropy.adaptive_binary import POSITION, decode_probability, encode_probability
from ...entropy.kernels import inlined, kernel
from ...entropy.logistic_mixing import adapt, confidence, learn, logistic_cdf, mix, probability_16, squash, stretch
from .inr_weight_state import (
    CONTEXTS,
    EXPERTS,
    INPUTS,
    LARGEST,
    NEIGHBOURS,
    NODES,
    SLOT_BITS,
    STRIDES,
    TRAITS,
    Bytes,
    Doubles,
    Integers,
    Model,
    fit,
    restart,
)

__all__ = ["code_values"]

BEYOND = 16  # bytes past the end that are read before decoding stops
ZERO, SIGN, UP, BISECT = 0, 1, 2, 18  # decisions; those to bisect from the last one up
LIMIT = 250  # uses after which adaptive probabilities move at a constant rate
FASTEST, SLOWEST, HALFWAY = 0.02, 0.002, 3000.0  # learning rate of the weights: at first, at last, and integers until midway
WIDTHS = (1.0, 0.5, 2.0)  # of the distributions around the prediction
SPREAD = 0.72  # scale of a logistic distribution whose mean magnitude is 1


@inlined
def _level(scale: float, steps: int) -> int:
    """Return a positive scale as a class: `steps` (1, 2 or 4) an octave from 1/8 on, at most 15 octaves."""
    octave, scaled = 0, scale * 8.0
    while scaled >= 2.0 and octave < 14:
        scaled *= 0.5
        octave += 1
    return octave * steps + min(max(int((scaled - 1.0) * steps), 0), steps - 1)


@inlined
def _clipped(value: int, bound: int) -> int:
    return min(max(value, -bound), bound)


@inlined
def _find_neighbours(model: Model, real: Doubles, reference: Doubles, inverse: float, a: int, b: int, y: int, x: int) -> None:
    """Set the neighbours of place (a, b, y, x), in units of its step."""
    n = model.neighbours
    n[0] = real[a, b, y, x - 1] if x > 0 else 0.0
    n[1] = real[a, b, y - 1, x] if y > 0 else 0.0
    n[2] = real[a, b - 1, y, x] if b > 0 else 0.0
    n[3] = real[a - 1, b, y, x] if a > 0 else 0.0
    n[4] = real[a - 2, b, y, x] if a > 1 else 0.0
    n[5] = real[a - 1, b, y, x + 1] if a > 0 and x + 1 < real.shape[3] else 0.0
    n[6] = real[a - 1, b, y + 1, x] if a > 0 and y + 1 < real.shape[2] else 0.0
    n[7] = real[a - 4, b, y, x] if a > 3 else 0.0
    n[8] = reference[a, b, y, x] if reference.size > 0 else 0.0
    for i in range(NEIGHBOURS):
        n[i] *= inverse


@inlined
def _near(misses: Doubles, tensor: float, inverse: float, a: int, b: int, y: int, x: int) -> float:
    """Return the mean miss around a place, in units of its step; `tensor` counts as one more."""
    total, count = tensor, 1.0
    if x > 0:
        total, count = total + 2.0 * inverse * misses[a, b, y, x - 1], count + 2.0
    if y > 0:
        total, count = total + 2.0 * inverse * misses[a, b, y - 1, x], count + 2.0
    if b > 0:
        total, count = total + inverse * misses[a, b - 1, y, x], count + 1.0
    if a > 0:
        total, count = total + inverse * misses[a - 1, b, y, x], count + 1.0
    return total / count


@inlined
def _distributions(model: Model, predicted: float, around: float, scale: float) -> None:
    """Set centres (relative to the integer nearest to the prediction) and scales."""
    centre, sharpness = model.centre, model.sharpness
    traits = model.traits
    for e in range(EXPERTS):
        centre[e] = predicted
        mean = scale
        if e < 3:
            mean = scale * WIDTHS[e]
        elif e == 3:
            centre[e], mean = around, traits[5]
        elif e == 4:
            mean = traits[4]
        elif e == 5:
            mean = traits[5]
        else:
            centre[e], mean = around, traits[0]
        sharpness[e] = 1.0 / (SPREAD * mean + 0.03)


@inlined
def _decide(
    model: Model, node: int, one: int, two: int, rate: float, bit: int, coder: Integers, coded: Bytes, decoding: bool
) -> int:
    """Code a decision whose experts' inputs are set, by the mean of two mixtures; the model learns from it."""
    inputs, used = model.inputs, model.slots
    for i in range(CONTEXTS):
        inputs[EXPERTS + i] = confidence(model.cells[used[i] + node])
    inputs[EXPERTS + CONTEXTS] = 0.3
    first, second = one + node * INPUTS, two + node * INPUTS
    a, b = mix(model.weights, first, inputs, INPUTS), mix(model.weights, second, inputs, INPUTS)
    p = squash(0.5 * (a + b))
    if decoding:
        bit = decode_probability(coder, coded, probability_16(p))
    else:
        encode_probability(coder, coded, probability_16(p), bit)
    learn(model.weights, first, inputs, INPUTS, rate * (bit - squash(a)))
    learn(model.weights, second, inputs, INPUTS, rate * (bit - squash(b)))
    for i in range(CONTEXTS):
        adapt(model.cells, used[i] + node, bit, LIMIT)
    return bit


@inlined
def _ask_experts(model: Model, node: int, threshold: int) -> None:
    """Set the experts' inputs of a decision; `threshold` is the distance that it asks about."""
    inputs, centre, sharpness = model.inputs, model.centre, model.sharpness
    below, above = model.below, model.above
    for e in range(EXPERTS):
        if node == ZERO:
            below[e] = logistic_cdf((-0.5 - centre[e]) * sharpness[e])
            above[e] = 1.0 - logistic_cdf((0.5 - centre[e]) * sharpness[e])
            inputs[e] = stretch(below[e] + above[e])
        elif node == SIGN:
            inputs[e] = stretch((below[e] + 1e-9) / (below[e] + above[e] + 2e-9))
        else:
            model.at[e] = logistic_cdf((threshold - 0.5 - centre[e]) * sharpness[e])
            over, under = max(above[e] - model.at[e], 1e-9), max(model.at[e] - below[e], 1e-9)
            inputs[e] = stretch(over / (over + under))


@inlined
def _code_miss(
    model: Model, stride: int, one: int, two: int, rate: float, miss: int, coder: Integers, coded: Bytes, decoding: bool
) -> int:
    """Code how far the integer is from the one predicted: zero, side, then thresholds of the distance."""
    centre, sharpness, below, above = model.centre, model.sharpness, model.below, model.above
    low, high, turn, upwards, negative = 0, 2 * LARGEST + 2, 0, True, 0
    threshold, node, bit = 1, ZERO, 0
    while high - low > 1:
        if node == ZERO:
            bit = 1 if miss != 0 else 0
        elif node == SIGN:
            bit = 1 if miss < 0 else 0
        else:
            bit = 1 if abs(miss) >= threshold else 0
        _ask_experts(model, node, threshold)
        bit = _decide(model, node, one, two, rate, bit, coder, coded, decoding)
        if node == ZERO:
            if bit == 0:
                return 0
            node = SIGN
            continue
        if node == SIGN:
            negative, low, threshold = bit, 1, 1 + stride
            node = UP
            for e in range(EXPERTS):
                if bit:
                    centre[e] = -centre[e]
                below[e], above[e] = logistic_cdf((0.5 - centre[e]) * sharpness[e]), 1.0
            continue
        for e in range(EXPERTS):
            if bit:
                below[e] = model.at[e]
            else:
                above[e] = model.at[e]
        if bit:
            low = threshold
        else:
            high, upwards = threshold, False
        turn += 1
        if turn > 3 and upwards:
            stride *= 2
        node, threshold = UP + min(turn, BISECT - UP - 1), low + stride
        if not upwards or threshold >= high:
            upwards, threshold, node, size = False, (low + high) >> 1, BISECT, high - low
            while size > 3 and node < NODES - 1:
                size >>= 1
                node += 1
    return -low if negative else low


@inlined
def _find_slots(
    model: Model, role: int, near: float, predicted: int, reference: int, scale: float, stride: int, place: int
) -> None:
    """Set the slots of cells for the contexts of an integer whose nearest prediction is `predicted`."""
    traits, n, coarse = model.traits, model.neighbours, _level(scale, 1)
    slots = model.slots
    slots[0] = _level(scale, 4) * 4 + role
    slots[1] = _level(near, 2) * 32 + _level(traits[5], 2)
    left, before = int(n[0] + (0.5 if n[0] > 0 else -0.5)), int(n[3] + (0.5 if n[3] > 0 else -0.5))
    slots[2] = (_clipped(left - predicted, 3) * 7 + _clipped(before - predicted, 3)) * 16 + coarse
    slots[3] = (place * 4 + role) * 16 + coarse
    slots[4] = _clipped(reference - predicted, 6) * 16 + coarse
    slots[5] = _level(traits[2], 2) * 32 + _level(traits[1], 2)
    for i in range(CONTEXTS):
        h = (slots[i] * 16 + stride + (i + 1) * 7919) * np.int64(0x2545F4914F6CDD1D)
        h ^= (h >> 29) & 0x7FFFFFFFF
        slots[i] = ((i << SLOT_BITS) + ((h * 0x9E3779B1 >> 20) & ((1 << SLOT_BITS) - 1))) * NODES


@inlined
def _code_next(
    model: Model, role: int, near: float, place: int, value: int, coder: Integers, coded: Bytes, decoding: bool
) -> tuple[int, float]:
    """Code an integer whose neighbours and traits are set; returns it and by how much the prediction missed it."""
    coefficients, n = model.coefficients[role], model.neighbours
    predicted = 0.0
    for i in range(NEIGHBOURS):
        predicted += coefficients[i] * n[i]
    if not abs(predicted) < LARGEST / 2:
        predicted = 0.0
    traits, product, mean = model.traits, model.traits[5], 0.0
    for i in range(TRAITS):
        mean += model.trait_coefficients[role, i] * traits[i]
    scale = min(max(mean, 0.3 * product, 0.02), 3.0 * product + 0.1)
    nearest = int(predicted + (0.5 if predicted > 0 else -0.5))
    expected = n[NEIGHBOURS - 1]
    _distributions(model, predicted - nearest, expected - nearest, scale)
    stride, octave = 1, 0
    while scale > 3.0 * stride:
        stride *= 2
        octave += 1
    reference = int(min(max(expected, -1e6), 1e6) + (0.5 if expected > 0 else -0.5))
    _find_slots(model, role, near, nearest, reference, scale, octave, place)
    rate = SLOWEST + (FASTEST - SLOWEST) * (HALFWAY / (HALFWAY + model.seen[0]))
    model.seen[0] += 1.0
    one, two = min(octave, STRIDES - 1) * NODES * INPUTS, (STRIDES + role) * NODES * INPUTS
    value = nearest + _code_miss(model, stride, one, two, rate, value - nearest, coder, coded, decoding)
    value = min(max(value, -LARGEST), LARGEST)
    missed = value - predicted
    inverse = 1.0 / scale
    for i in range(TRAITS):
        traits[i] *= inverse
    error = min(abs(missed) * inverse, 6.0) - mean * inverse
    fit(model.trait_coefficients[role], model.trait_covariance, traits, model.gain, error)
    for i in range(NEIGHBOURS):
        n[i] = min(max(n[i] * inverse, -20.0), 20.0)
    fit(coefficients, model.covariance, n, model.gain, min(max(missed * inverse, -4.0), 4.0))
    return value, missed


@kernel
def code_values(
    model: Model,
    values: NDArray[np.int32],
    rows: Doubles,
    columns: Doubles,
    reference: Doubles,
    real: Doubles,
    misses: Doubles,
    sums: Doubles,
    role: int,
    expected: float,
    coder: Integers,
    coded: Bytes,
    decoding: bool,
) -> None:
    """Code `values` (A, B, Y, X), in magnitude at most LARGEST, whose units are `rows[a] * columns[b]`.

    `reference` has that shape or none; `real`, `misses` (the same shape) and `sums` (2, max(A, B, Y X)) are work, zeros at
    first; `expected` is about the mean magnitude. When decoding, values are written, and coding stops early where the bytes
    have ended long ago.
    """
    count_a, count_b, count_y, count_x = values.shape
    restart(model.covariance, 0.02)
    restart(model.trait_covariance, 0.02)
    total, count = 8.0 * expected, 8.0
    traits = model.traits
    for a in range(count_a):
        row, row_count = 0.0, 0.0
        if decoding and coder[POSITION] > coded.size + BEYOND:
            return
        for b in range(count_b):
            unit = rows[a] * columns[b]
            inverse, place = 1.0 / unit, 0
            for y in range(count_y):
                for x in range(count_x):
                    tensor = total / count
                    near = _near(misses, tensor, inverse, a, b, y, x)
                    _find_neighbours(model, real, reference, inverse, a, b, y, x)
                    traits[0], traits[4] = tensor, near
                    traits[1] = (row + 4.0 * tensor) / (row_count + 4.0)
                    traits[2] = (sums[0, b] + 4.0 * tensor) / (a * count_y * count_x + place + 4.0)
                    traits[3] = (sums[1, place] + 4.0 * tensor) / (a * count_b + b + 4.0)
                    traits[5] = traits[1] * traits[2] / tensor
                    value, missed = _code_next(model, role, near, min(place, 63), values[a, b, y, x], coder, coded, decoding)
                    values[a, b, y, x] = value
                    size = abs(missed)
                    real[a, b, y, x], misses[a, b, y, x] = value * unit, size * unit
                    row, row_count = row + size, row_count + 1.0
                    sums[0, b] += size
                    sums[1, place] += size
                    total, count = total + size, count + 1.0
                    place += 1
