"""Colours that nobody guessed, sample by sample: the second kernel of `flat_coder`.

A sample is a path of bisections, from its highest bit to its lowest. Each decision's probability is mixed from cells in
contexts of exact colours nearby (they find colours that recur) and of where predictions lie relative to the threshold (they
follow gradients).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...entropy.adaptive_binary import decode_probability, encode_probability
from ...entropy.kernels import inlined, kernel
from ...entropy.logistic_mixing import adapt, confidence, learn, mix, new_cells, probability_16, squash

__all__ = ["MULTIPLIER", "SampleModel", "code_samples", "hashed", "new_sample_model"]

Colours = NDArray[np.int64]
Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]
Bytes = NDArray[np.uint8]

EXACT, RELATIVE = 5, 4  # contexts
INPUTS = 12
ACTIVITIES = 8
DISTANCES = 80
MULTIPLIER = 0x2545F4914F6CDD1D


class SampleModel(NamedTuple):
    """What is learnt in the course of a picture."""

    shape: Integers  # [2] channels, bits of a sample
    cells: NDArray[np.int32]
    exact: Integers  # [EXACT] hashes
    predictions: Integers  # [RELATIVE]
    used: Integers
    inputs: Doubles
    weights: Doubles


def new_sample_model(channels: int, bits: int, pixels: int) -> SampleModel:
    """Return the state before the first pixel, for `channels` samples of `bits` bits, channel 0 in a colour's lowest bits."""
    size = min(max(pixels.bit_length() + 2, 10), 18)
    relative = channels * bits * ACTIVITIES * DISTANCES
    weights = np.full((channels * bits + channels * ACTIVITIES, INPUTS), 0.3)
    return SampleModel(
        shape=np.array([channels, bits]),
        cells=new_cells((EXACT << size) + RELATIVE * relative),
        exact=np.zeros(EXACT, np.int64),
        predictions=np.zeros(RELATIVE, np.int64),
        used=np.zeros(INPUTS, np.int64),
        inputs=np.zeros(INPUTS),
        weights=weights.ravel(),
    )


@inlined
def hashed(h: int, mask: int) -> int:
    """Return a hash of an integer of 64 bits, below `mask` + 1, a power of two."""
    h = int(h * np.int64(MULTIPLIER))
    h ^= (h >> 31) & 0x1FFFFFFFF
    return (h * 0x9E3779B1 >> 24) & mask


@inlined
def _distance(d: int) -> int:
    """Return a distance on a scale exact to 8, with two steps an octave beyond; 0..DISTANCES - 1."""
    magnitude, level = abs(d), 0
    if magnitude < 8:
        level = magnitude
    else:
        octave = 0
        while magnitude >= 16:
            magnitude >>= 1
            octave += 1
        level = 8 + 2 * octave + ((magnitude - 8) >> 2)
    return 40 + min(level, 39) if d >= 0 else 40 - min(level, 40)


@inlined
def _predict(m: SampleModel, s: Colours, i: int, stride: int, channel: int, known: int) -> int:
    """Set predictions and hashes of a sample, given the `known` ones; returns the activity around it, 0..ACTIVITIES - 1."""
    bits = m.shape[1]
    shift, mask = channel * bits, (np.int64(1) << bits) - 1
    w, n, nw, ne = s[i - 1], s[i - stride], s[i - stride - 1], s[i - stride + 1]
    west, north = (w >> shift) & mask, (n >> shift) & mask
    north_west, north_east = (nw >> shift) & mask, (ne >> shift) & mask
    median = min(max(west + north - north_west, min(west, north)), max(west, north))
    p = m.predictions
    p[0] = median
    if channel == 0:
        p[1], p[2], p[3] = west, north, (west + north) >> 1
    else:
        before = shift - bits
        here = (known >> before) & mask
        along, over, corner = (w >> before) & mask, (n >> before) & mask, (nw >> before) & mask
        middle = min(max(along + over - corner, min(along, over)), max(along, over))
        p[1] = min(max(west + here - along, 0), mask)
        p[2] = min(max(north + here - over, 0), mask)
        p[3] = min(max(median + here - middle, 0), mask)
    e = m.exact
    e[0] = channel
    e[1] = known * 0x1F123BB5 + channel + 1000
    e[2] = (e[1] + w) * 0x36D0F1CD5
    e[3] = (e[1] + n) * 0x2545F4915B
    e[4] = e[2] + n * 0x1234567ABCD
    activity, level = abs(west - north_west) + abs(north - north_west) + abs(north - north_east), 0
    while activity > 0 and level < ACTIVITIES - 1:
        activity >>= 1
        level += 1
    return level


@inlined
def _code_bit(m: SampleModel, bit: int, one: int, two: int, rate: float, coder: Integers, coded: Bytes, decoding: bool) -> int:
    for k in range(EXACT + RELATIVE):
        m.inputs[k] = confidence(m.cells[m.used[k]])
    m.inputs[EXACT + RELATIVE] = 0.3
    a, b = mix(m.weights, one, m.inputs, INPUTS), mix(m.weights, two, m.inputs, INPUTS)
    p = probability_16(squash(0.5 * (a + b)))
    if decoding:
        bit = decode_probability(coder, coded, p)
    else:
        encode_probability(coder, coded, p, bit)
    learn(m.weights, one, m.inputs, INPUTS, rate * (bit - squash(a)))
    learn(m.weights, two, m.inputs, INPUTS, rate * (bit - squash(b)))
    for k in range(EXACT + RELATIVE):
        adapt(m.cells, m.used[k], bit, 255)
    return bit


@kernel
def code_samples(
    m: SampleModel, s: Colours, i: int, stride: int, value: int, seen: int, coder: Integers, coded: Bytes, decoding: bool
) -> int:
    """Code the colour of pixel `i` (`value` counts only when encoding) by its samples; returns it."""
    channels, bits = m.shape[0], m.shape[1]
    relative = channels * bits * ACTIVITIES * DISTANCES
    first = m.cells.size - RELATIVE * relative
    mask = first // EXACT - 1
    rate = 0.003 + 0.02 * (2000.0 / (2000.0 + seen))
    known = np.int64(0)
    for channel in range(channels):
        activity = _predict(m, s, i, stride, channel, int(known))
        sample = np.int64(0)
        for b in range(bits - 1, -1, -1):
            prefix = (np.int64(1) << (bits - 1 - b)) | (sample >> (b + 1))
            threshold = sample + (np.int64(1) << b)
            for k in range(EXACT):
                m.used[k] = k * (mask + 1) + hashed(m.exact[k] + prefix * 0x3C6EF372FE95 + k, mask)
            place = ((channel * bits + b) * ACTIVITIES + activity) * DISTANCES
            for k in range(RELATIVE):
                m.used[EXACT + k] = first + k * relative + place + _distance(m.predictions[k] - threshold)
            one = (channel * bits + b) * INPUTS
            two = (channels * bits + channel * ACTIVITIES + activity) * INPUTS
            bit = (value >> (channel * bits + b)) & 1
            sample |= np.int64(_code_bit(m, bit, one, two, rate, coder, coded, decoding)) << b
        known |= sample << (channel * bits)
    return int(known)
