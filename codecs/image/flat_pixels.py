"""Pixels of flat pictures (screenshots, drawings, text) to decisions: the kernel of `flat_coder`.

Pixels are coded in raster order, each as one colour. A list of guesses is made: what followed when this neighbourhood was seen
before (six sizes of neighbourhood), what stands at the same place of an earlier copy of what is being drawn, the neighbours
themselves. The best guess, by how often guesses of its kind were right so far, is confirmed or refuted by one decision, then
the next best; a colour that nobody guessed is coded sample by sample (`flat_samples`). The probability of each decision is
mixed from adaptive cells (`laconic.entropy.logistic_mixing`). Rows equal to the one above, and runs inside of one-coloured
surroundings, take one decision for many pixels.

Encoder and decoder run the same function; integers and IEEE doubles in a fixed order make it the same on every machine.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...entropy.adaptive_binary import POSITION, decode_probability, encode_probability
from ...entropy.kernels import inlined, kernel
from ...entropy.logistic_mixing import adapt, confidence, learn, mix, new_cells, probability_16, squash
from .flat_samples import MULTIPLIER, SampleModel, code_samples, hashed

__all__ = ["MARGIN", "NEIGHBOURS", "Model", "code_pixels", "new_model"]

Colours = NDArray[np.int64]
Cells = NDArray[np.int32]
Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]
Bytes = NDArray[np.uint8]

MARGIN = 8  # columns on both sides of the picture, and rows above it
ORDERS = 6  # neighbourhoods: the first SIZES of AROUND
SIZES = np.array([2, 4, 6, 12, 20, 36])
AROUND = np.array(  # (x, y) relative to the pixel
    [
        *((-1, 0), (0, -1), (-1, -1), (1, -1), (-2, 0), (0, -2), (2, -1), (-2, -1), (1, -2), (-1, -2), (-3, 0), (3, -1)),
        *((0, -3), (1, -3), (-1, -3), (2, -2), (-2, -2), (-3, -1), (-4, 0), (4, -1)),
        *((0, -4), (1, -4), (-1, -4), (2, -3), (-2, -3), (3, -2), (-3, -2), (0, -5), (-1, -5), (1, -5), (-5, 0), (-4, -1)),
        *((0, -6), (-1, -6), (1, -6), (5, -1)),
    ]
)
MATCH, SECONDS, WEST, SOURCES = ORDERS, ORDERS + 1, 2 * ORDERS + 1, 2 * ORDERS + 5
NEIGHBOURS = 4  # last sources: west, north, north-east, north-west
GUESSES = 6  # refuted before a colour is coded by its samples
TRUSTS = 64  # kinds of confidence per source
INPUTS = 12
SMALLS = 6
SMALL = 1 << 12  # cells of a context that is not hashed
RANKS = 4
LEVEL = np.array([0, 1, 2, 3, 4, 4, 5, 5, 5] + [6] * 16 + [7] * 231)  # of the number of times a guess was right
LONGEST, SHORTEST = 12, 2  # binary logarithms of the length of runs


class Model(NamedTuple):
    """What is learnt in the course of a picture of W columns."""

    around: Integers  # [36] distances of the neighbours in `s`
    factors: Integers  # [36] odd
    hashes: Integers  # [ORDERS] of the neighbourhoods at hand
    slots: Integers  # [ORDERS] of `colours` and `counts`
    colours: Colours  # [ORDERS << bits, 2] what followed a neighbourhood
    counts: Integers  # [ORDERS << bits] how sure the first of both is
    places: Integers  # [1 << bits] where the widest neighbourhood was last seen
    offsets: Integers  # [W + 2] distance to the earlier copy, by column
    hits: Integers  # [W + 2] how long it predicted well
    ranks: Integers  # [W + 2 MARGIN] which guess was right, by column
    guesses: Colours  # [SOURCES]
    trust_at: Integers  # [SOURCES] cells of `trust`; negative: no guess
    trust: Cells  # [2 * SOURCES * TRUSTS] of first guesses, and of later ones
    cells: Cells  # [ORDERS << cell bits], then small contexts
    used: Integers  # [INPUTS]
    inputs: Doubles  # [INPUTS]
    weights: Doubles  # flat: sets of INPUTS
    runs: Cells


def new_model(width: int, pixels: int) -> Model:
    """Return the state before the first pixel."""
    bits = min(max(pixels.bit_length(), 8), 18)
    factors = np.full(len(AROUND), MULTIPLIER).cumprod()
    weights = np.full((RANKS * 128, INPUTS), 0.25)
    return Model(
        around=AROUND @ np.array([1, width + 2 * MARGIN]),
        factors=factors,
        hashes=np.zeros(ORDERS, np.int64),
        slots=np.zeros(ORDERS, np.int64),
        colours=np.zeros((ORDERS << bits, 2), np.int64),
        counts=np.zeros(ORDERS << bits, np.int64),
        places=np.zeros(1 << bits, np.int64),
        offsets=np.ones(width + 2, np.int64),
        hits=np.zeros(width + 2, np.int64),
        ranks=np.zeros(width + 2 * MARGIN, np.int64),
        guesses=np.zeros(SOURCES, np.int64),
        trust_at=np.zeros(SOURCES, np.int64),
        trust=new_cells(2 * SOURCES * TRUSTS),
        cells=new_cells((ORDERS << (bits + 2)) + SMALLS * SMALL),
        used=np.zeros(INPUTS, np.int64),
        inputs=np.zeros(INPUTS),
        weights=weights.ravel(),
        runs=new_cells(1024),
    )


@inlined
def _look_around(m: Model, s: Colours, i: int, stride: int) -> int:
    """Hash the neighbourhoods of pixel `i`; returns which neighbours are equal to each other."""
    west, north, north_west, north_east = s[i - 1], s[i - stride], s[i - stride - 1], s[i - stride + 1]
    west2, north2 = s[i - 2], s[i - 2 * stride]
    mask = m.places.size - 1
    h, j = np.int64(0), 0
    for k in range(ORDERS):
        while j < SIZES[k]:
            h += s[i + m.around[j]] * m.factors[j]
            j += 1
        m.hashes[k] = h
        m.slots[k] = k * (mask + 1) + hashed(m.hashes[k] + k, mask)
    pattern = (west == north) | (west == north_west) << 1 | (north == north_west) << 2 | (north == north_east) << 3
    return int(pattern | (west == west2) << 4 | (north == north2) << 5)


@inlined
def _find_copy(m: Model, i: int, x: int) -> tuple[int, int]:
    """Return the distance to the copy that goes on at pixel `i`, column `x`, and how long it has predicted well."""
    best = x
    if m.hits[x + 1] > m.hits[best]:
        best = x + 1
    if m.hits[x + 2] > m.hits[best]:
        best = x + 2
    if m.hits[best] > 2:
        return m.offsets[best], m.hits[best]
    place = m.places[m.slots[ORDERS - 1] - (ORDERS - 1) * m.places.size]
    if place > 0:
        return i - place, 0
    return m.offsets[best], m.hits[best]


@inlined
def _guess(m: Model, s: Colours, i: int, stride: int, pattern: int, offset: int, hits: int) -> None:
    """Collect the guesses and how far those of their kind are to be trusted."""
    for k in range(ORDERS):
        slot = m.slots[k]
        count = LEVEL[m.counts[slot]]
        m.guesses[k], m.guesses[SECONDS + k] = m.colours[slot, 0], m.colours[slot, 1]
        m.trust_at[k] = k * TRUSTS + count if count > 0 else -1
        m.trust_at[SECONDS + k] = (SECONDS + k) * TRUSTS + count if count > 0 else -1
    m.guesses[MATCH] = s[i - offset]
    m.trust_at[MATCH] = MATCH * TRUSTS + min(hits, TRUSTS - 1)
    m.guesses[WEST], m.guesses[WEST + 1] = s[i - 1], s[i - stride]
    m.guesses[WEST + 2], m.guesses[WEST + 3] = s[i - stride + 1], s[i - stride - 1]
    for k in range(WEST, SOURCES):
        m.trust_at[k] = k * TRUSTS + pattern


@inlined
def _best(m: Model, later: int) -> int:
    """Return the source to be trusted most; -1 if none is left."""
    best, most = -1, -1
    for k in range(SOURCES):
        if m.trust_at[k] >= 0:
            trust = m.trust[later * SOURCES * TRUSTS + m.trust_at[k]]
            if trust > most:
                best, most = k, trust
    return best


@inlined
def _contexts(m: Model, s: Colours, i: int, stride: int, colour: int, source: int, rank: int, hits: int, history: int) -> int:
    """Set the cells of the decision whether pixel `i` has `colour`; returns which neighbours have it."""
    mask = ((m.cells.size - SMALLS * SMALL) // ORDERS) - 1
    for k in range(ORDERS):
        m.used[k] = k * (mask + 1) + hashed(m.hashes[k] + colour * 0x9E3779B1 + k + 77, mask)
    equal = (s[i - 1] == colour) | (s[i - stride] == colour) << 1 | (s[i - stride + 1] == colour) << 2
    equal |= (s[i - stride - 1] == colour) << 3 | (s[i - 2] == colour) << 4 | (s[i - 2 * stride] == colour) << 5
    equal |= (s[i - stride + 2] == colour) << 6
    agree = 0
    for k in range(1, 5):
        if m.counts[m.slots[k]] > 0:
            agree |= (1 if m.guesses[k] == colour else 2) << 2 * k - 2
    matched = 0
    if m.guesses[MATCH] == colour:
        matched = 1 + min(hits, 30)
    base = m.cells.size - SMALLS * SMALL
    low = min(rank, RANKS - 1)
    m.used[ORDERS + 0] = base + (low << 7 | equal)
    m.used[ORDERS + 1] = base + SMALL + (((low << 5 | matched) << 4) | (equal & 15))
    m.used[ORDERS + 2] = base + 2 * SMALL + (low << 8 | agree)
    m.used[ORDERS + 3] = base + 3 * SMALL + hashed(colour * 4 + low, SMALL - 1)
    m.used[ORDERS + 4] = base + 4 * SMALL + (low << 10 | history)
    m.used[ORDERS + 5] = base + 5 * SMALL + ((low << 4 | source) << 3 | LEVEL[m.counts[m.slots[2]]])
    return int(equal)


@inlined
def _confirm(
    m: Model, right: int, one: int, two: int, rate: float, limit: int, coder: Integers, coded: Bytes, decoding: bool
) -> int:
    """Code whether a guess is right, by the cells and the two sets of weights chosen."""
    for k in range(ORDERS + SMALLS):
        m.inputs[k] = confidence(m.cells[m.used[k]])
    a, b = mix(m.weights, one, m.inputs, INPUTS), mix(m.weights, two, m.inputs, INPUTS)
    p = squash(0.5 * (a + b))
    if decoding:
        wrong = decode_probability(coder, coded, probability_16(p))
    else:
        wrong = 1 - right
        encode_probability(coder, coded, probability_16(p), wrong)
    learn(m.weights, one, m.inputs, INPUTS, rate * (wrong - squash(a)))
    learn(m.weights, two, m.inputs, INPUTS, rate * (wrong - squash(b)))
    for k in range(ORDERS + SMALLS):
        adapt(m.cells, m.used[k], wrong, limit)
    return 1 - wrong


@inlined
def _drop(m: Model, colour: int) -> None:
    """Take a refuted colour out of the guesses."""
    for k in range(SOURCES):
        if m.guesses[k] == colour:
            m.trust_at[k] = -1


@inlined
def _judge(m: Model, colour: int, later: int) -> None:
    """Note which kinds of guesses were right."""
    for k in range(SOURCES):
        if m.trust_at[k] >= 0:
            adapt(m.trust, later * SOURCES * TRUSTS + m.trust_at[k], 1 if m.guesses[k] == colour else 0, 250)


@inlined
def _remember(m: Model, i: int, x: int, colour: int, offset: int, hits: int, flat: bool) -> None:
    """Note what followed the neighbourhoods at hand."""
    for k in range(ORDERS):
        slot = m.slots[k]
        count = m.counts[slot]
        if count == 0:
            m.colours[slot, 0], m.colours[slot, 1], m.counts[slot] = colour, colour, 1
        elif colour == m.colours[slot, 0]:
            m.counts[slot] = min(count + 1, 255)
        elif count == 1:
            m.colours[slot, 1] = m.colours[slot, 0]
            m.colours[slot, 0] = colour
        else:
            m.colours[slot, 1] = colour
            m.counts[slot] = count >> 1
    m.places[m.slots[ORDERS - 1] - (ORDERS - 1) * m.places.size] = i
    m.offsets[x + 1] = offset
    if m.guesses[MATCH] != colour:
        m.hits[x + 1] = 0
    else:
        m.hits[x + 1] = hits if flat else min(hits + 1, 255)


@inlined
def _code_pixel(
    m: Model,
    samples: SampleModel,
    s: Colours,
    i: int,
    x: int,
    stride: int,
    value: int,
    seen: int,
    coder: Integers,
    coded: Bytes,
    decoding: bool,
) -> int:
    """Code pixel `i` in column `x` (its `value` counts only when encoding); returns its colour."""
    pattern = _look_around(m, s, i, stride)
    offset, hits = _find_copy(m, i, x)
    _guess(m, s, i, stride, pattern, offset, hits)
    r, at = m.ranks, x + MARGIN
    history = r[at - 1] | r[at] << 2 | r[at + 1] << 4 | r[at - 2] << 6 | min(r[at + 2], 1) << 8 | min(r[at - 3], 1) << 9
    most = 1 if history & 63 == 63 else GUESSES
    rate = 0.002 + 0.02 * (2000.0 / (2000.0 + seen))
    rank, colour, first, found = 0, 0, 0, 0
    while rank < most:
        source = _best(m, min(rank, 1))
        if source < 0:
            break
        colour = int(m.guesses[source])
        equal = _contexts(m, s, i, stride, colour, source, rank, hits, history)
        low = min(rank, RANKS - 1)
        matched = min(hits, 15) if m.guesses[MATCH] == colour else 0
        one = (low * 128 + (equal & 63)) * INPUTS
        two = (low * 128 + 64 + matched * 4 + (history & 3)) * INPUTS
        right = _confirm(m, 1 if value == colour else 0, one, two, rate, 255, coder, coded, decoding)
        if right:
            found = 1
            break
        if rank == 0:
            first = colour
        rank += 1
        _drop(m, colour)
    if found == 0:
        colour = code_samples(samples, s, i, stride, value, seen, coder, coded, decoding)
        rank = RANKS - 1
    m.ranks[at] = min(rank, RANKS - 1)
    if rank > 0:
        _guess(m, s, i, stride, pattern, offset, hits)
        _judge(m, colour, 0)
        _drop(m, first)
        _judge(m, colour, 1)
    else:
        _judge(m, colour, 0)
    _remember(m, i, x, colour, offset, hits, pattern == 63)
    return colour


@inlined
def _flag(cells: Cells, c: int, bit: int, coder: Integers, coded: Bytes, decoding: bool) -> int:
    """Code a decision with one cell."""
    p = min(max(cells[c] >> 15, 1), 65535)
    if decoding:
        bit = decode_probability(coder, coded, p)
    else:
        encode_probability(coder, coded, p, bit)
    adapt(cells, c, bit, 250)
    return bit


@inlined
def _run_length(s: Colours, i: int, stride: int, left: int) -> int:
    """Return for how many pixels from `i` on, at most `left`, the surroundings have the colour to the west."""
    colour = s[i - 1]
    if s[i - 2] != colour or s[i - stride - 1] != colour or s[i - stride] != colour or s[i - 2 * stride] != colour:
        return 0
    length = 0
    while length < left and s[i - stride + length + 1] == colour:
        length += 1
    return length


@inlined
def _same(s: Colours, start: int, length: int, back: int) -> int:
    """Return whether `length` pixels equal those `back` before them."""
    for i in range(start, start + length):
        if s[i] != s[i - back]:
            return 0
    return 1


@inlined
def _copy(s: Colours, start: int, length: int, back: int) -> None:
    for i in range(start, start + length):
        s[i] = s[i - back]


@kernel
def code_pixels(m: Model, samples: SampleModel, s: Colours, width: int, coder: Integers, coded: Bytes, decoding: bool) -> None:
    """Code a picture: `s` holds its rows with MARGIN zeros on both sides and as many rows of zeros above; decoding fills it."""
    stride = width + 2 * MARGIN
    same, seen, scale = 0, 0, 16
    for y in range(MARGIN, s.size // stride):
        if decoding and coder[POSITION] > coded.size + 8:
            break  # damaged: nobody wrote what is being read
        start = y * stride + MARGIN
        for j in range(1, MARGIN + 1):
            s[start - j] = s[start - stride]
            s[start - stride + width - 1 + j] = s[start - stride + width - 1]
        bit = 0 if decoding else 1 - _same(s, start, width, stride)
        bit = _flag(m.runs, 1008 + (same & 7), bit, coder, coded, decoding)
        same = same << 1 | bit
        if bit == 0:
            _copy(s, start, width, stride)
            continue
        x, blocked = 0, 0
        while x < width:
            if x >= blocked:
                length = _run_length(s, start + x, stride, min(width - x, 1 << (scale >> 2)))
                if length >= 1 << SHORTEST:
                    broken = 0 if decoding else 1 - _same(s, start + x, length, 1)
                    size = 0
                    while length >> (size + 1):
                        size += 1
                    full = 1 if x + length == width else 0
                    broken = _flag(m.runs, (size << 1 | full) << 4 | (scale >> 2), broken, coder, coded, decoding)
                    if broken:
                        scale = max(scale - 2, SHORTEST << 2)
                        blocked = x + length
                    else:
                        scale = min(scale + 1, LONGEST << 2)
                        _copy(s, start + x, length, 1)
                        for j in range(x, x + length):
                            m.ranks[j + MARGIN] = 0
                            m.hits[j + 1] = 0
                        x += length
                        continue
            colour = _code_pixel(m, samples, s, start + x, x, stride, s[start + x], seen, coder, coded, decoding)
            s[start + x] = colour
            if m.ranks[x + MARGIN] > 0:
                blocked = 0
            seen += 1
            x += 1
