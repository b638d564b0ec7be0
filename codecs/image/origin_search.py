"""Kernels that find the lattice coordinates of a picture's pixels and the subsampled chroma that explains them.

They are in one file, functions that they inline included, so that numba may cache them. Only the encoder runs them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

from .origin_lattice import BLUE, GREEN1, GREEN2, LUMA, RED, Bytes, Integers

__all__ = [
    "CLIPPED",
    "EXACT",
    "LABELLED",
    "RAW",
    "SHIFTED",
    "UNREACHABLE",
    "Evidence",
    "explain",
    "grow",
    "label",
    "refine",
]

Floats = NDArray[np.float64]
Function = TypeVar("Function", bound=Callable[..., Any])

CLIPPED, LABELLED, UNREACHABLE = 0, 1, 2  # what a pixel can be
EXACT, SHIFTED, RAW = 0, 1, 2  # how a pixel is explained: by the planes; by shifted chroma; only with differences in RGB
FAR = 1 << 40  # beyond every table entry
REACH = 1  # how far luma estimated from rounded RGB is off at most (0.53, over all lattices here)
WRONG = 256  # cost of an unexplained pixel; how far it is from explained counts below that
PASSES = 12  # over the base samples at most
NEAR = 2  # shifts of a base sample that are always tried, up to this in both planes
RINGS = 6  # how far from the upsampled chroma a clipped pixel's own may lie before it counts as raw
GROWTH = 8  # how far a grown base sample may lie from the mean of its neighbours


class Evidence(NamedTuple):
    """What is known of a picture: colours and labels [H, W, 3], states [H, W], upsampler taps, bias and reach, lattice tables."""

    rgb: Bytes
    labels: Bytes
    states: Bytes
    rows: Integers
    columns: Integers
    bias: Integers
    rows_reach: Integers
    columns_reach: Integers
    tables: Integers
    shift: int


def _compiled(function: Function) -> Function:
    return cast(Function, numba.njit(cache=True, nogil=True)(function))


@_compiled
def _first(table: Integers, value: int) -> int:
    """Return the first entry of a rising table that is at least `value`, or 256; the table is nearly a line."""
    guess = (value - table[0]) * 255 // (table[255] - table[0])
    i = min(max(guess, 0), 255)
    while i > 0 and table[i - 1] >= value:
        i -= 1
    while i < 256 and table[i] < value:
        i += 1
    return int(i)


@_compiled
def label(rgb: Bytes, tables: Integers, shift: int, weights: Floats, labels: Bytes, states: Bytes) -> None:
    """Find the triple (y, c1, c2) of every unclipped pixel of rgb [H, W, 3].

    Writes `labels` [H, W, 3] where there is one, and in `states` [H, W] whether the pixel is labelled, clipped or unreachable.
    `weights` estimate luma from RGB.
    """
    for i in range(rgb.shape[0]):
        for j in range(rgb.shape[1]):
            red, green, blue = np.int64(rgb[i, j, 0]), np.int64(rgb[i, j, 1]), np.int64(rgb[i, j, 2])
            if min(red, green, blue) == 0 or max(red, green, blue) == 255:
                states[i, j] = CLIPPED
                continue
            states[i, j] = UNREACHABLE
            guess = int(np.rint(weights[0] * red + weights[1] * green + weights[2] * blue + weights[3]))
            for y in range(max(guess - REACH, 0), min(guess + REACH, 255) + 1):
                luma = tables[LUMA, y]
                c2 = _first(tables[RED], (red << shift) - luma)
                if c2 == 256 or (luma + tables[RED, c2]) >> shift != red:
                    continue
                c1 = _first(tables[BLUE], (blue << shift) - luma)
                if c1 == 256 or (luma + tables[BLUE, c1]) >> shift != blue:
                    continue
                if (luma + tables[GREEN1, c1] + tables[GREEN2, c2]) >> shift == green:
                    states[i, j] = LABELLED
                    labels[i, j, 0], labels[i, j, 1], labels[i, j, 2] = y, c1, c2
                    break


@_compiled
def _luma_range(s: Evidence, i: int, j: int, c1: int, c2: int) -> tuple[int, int, int]:
    """Return the lowest and highest y that give pixel (i, j) its exact colour with this chroma, and a distance.

    The distance is 0 if there is such a y; else it says, in grey levels, how much the channels contradict each other.
    """
    low, high = -FAR, FAR
    for channel in range(3):
        if channel == 0:
            offset = s.tables[RED, c2]
        elif channel == 1:
            offset = s.tables[GREEN1, c1] + s.tables[GREEN2, c2]
        else:
            offset = s.tables[BLUE, c1]
        value = np.int64(s.rgb[i, j, channel])
        if value > 0:
            low = max(low, (value << s.shift) - offset)
        if value < 255:
            high = min(high, ((value + 1) << s.shift) - offset)
    if low >= high:
        return 1, 0, 2 + ((low - high) >> s.shift)
    first, last = _first(s.tables[LUMA], low), _first(s.tables[LUMA], high) - 1
    return first, last, 0 if first <= last else 1


@_compiled
def _sample(base: Bytes, plane: int, s: Evidence, i: int, j: int) -> int:
    """Return the upsampled chroma at (i, j)."""
    near, far, weight = s.rows[i, 0], s.rows[i, 1], s.rows[i, 2]
    left, right, share = s.columns[j, 0], s.columns[j, 1], s.columns[j, 2]
    upper = share * base[plane, near, left] + (4 - share) * base[plane, near, right]
    lower = share * base[plane, far, left] + (4 - share) * base[plane, far, right]
    return int((weight * upper + (4 - weight) * lower + s.bias[i & 1, j & 1]) >> 4)


@_compiled
def _settled(known: Bytes, s: Evidence, i: int, j: int) -> bool:
    """Tell whether all base samples that (i, j) depends on are known."""
    near, far, left, right = s.rows[i, 0], s.rows[i, 1], s.columns[j, 0], s.columns[j, 1]
    if s.rows[i, 2] == 4:
        far = near
    if s.columns[j, 2] == 4:
        right = left
    return bool(known[near, left] and known[near, right] and known[far, left] and known[far, right])


@_compiled
def _cost(base: Bytes, known: Bytes, s: Evidence, k: int, m: int, limit: int) -> int:
    """Return the cost of the unexplained pixels that depend on base sample (k, m), or some number from `limit` on."""
    cost = 0
    for i in range(s.rows_reach[k, 0], s.rows_reach[k, 1] + 1):
        for j in range(s.columns_reach[m, 0], s.columns_reach[m, 1] + 1):
            state = s.states[i, j]
            if state == UNREACHABLE or not _settled(known, s, i, j):
                continue
            c1, c2 = _sample(base, 0, s, i, j), _sample(base, 1, s, i, j)
            if state == LABELLED:
                distance = abs(np.int64(s.labels[i, j, 1]) - c1) + abs(np.int64(s.labels[i, j, 2]) - c2)
            else:
                distance = _luma_range(s, i, j, c1, c2)[2]
            if distance > 0:
                cost += WRONG + min(distance, WRONG - 1)
                if cost >= limit:
                    return cost
    return cost


@_compiled
def _try(base: Bytes, known: Bytes, s: Evidence, k: int, m: int, c1: int, c2: int, radius: int, best: int) -> int:
    """Set base sample (k, m) to the first best pair, nearest first, around (c1, c2); return its cost if below `best`."""
    chosen1, chosen2 = base[0, k, m], base[1, k, m]
    for ring in range(radius + 1):
        for d1 in range(-ring, ring + 1):
            for d2 in range(-ring, ring + 1):
                if max(abs(d1), abs(d2)) < ring or not (0 <= c1 + d1 < 256 and 0 <= c2 + d2 < 256):
                    continue
                base[0, k, m], base[1, k, m] = c1 + d1, c2 + d2
                cost = _cost(base, known, s, k, m, best)
                if cost < best:
                    best, chosen1, chosen2 = cost, base[0, k, m], base[1, k, m]
        if best == 0:
            break
    base[0, k, m], base[1, k, m] = chosen1, chosen2
    return best


@_compiled
def grow(base: Bytes, known: Bytes, s: Evidence) -> None:
    """Set the unknown samples of base [2, h2, w2] from the known ones [h2, w2] outwards, each as near its neighbours as fits."""
    height, width = known.shape
    queue, queued = np.empty(height * width, dtype=np.int64), known.copy()
    end = 0
    for n in range(height * width):
        if known[n // width, n % width]:
            queue[end] = n
            end += 1
    start = 0
    while start < end:
        k, m = queue[start] // width, queue[start] % width
        start += 1
        count, sum1, sum2 = 0, 0, 0
        for a in range(max(k - 1, 0), min(k + 2, height)):
            for b in range(max(m - 1, 0), min(m + 2, width)):
                if not queued[a, b]:
                    queued[a, b] = 1
                    queue[end] = a * width + b
                    end += 1
                if known[a, b]:
                    count += 1
                    sum1 += np.int64(base[0, a, b])
                    sum2 += np.int64(base[1, a, b])
        if not known[k, m]:
            known[k, m] = 1
            c1, c2 = (sum1 + count // 2) // count, (sum2 + count // 2) // count
            base[0, k, m], base[1, k, m] = c1, c2
            _try(base, known, s, k, m, c1, c2, GROWTH, FAR)


@_compiled
def _improve(base: Bytes, known: Bytes, s: Evidence, k: int, m: int) -> int:
    """Move one base sample if that lowers the cost; return by how much."""
    start = _cost(base, known, s, k, m, FAR)
    if start == 0:
        return 0
    best = _try(base, known, s, k, m, np.int64(base[0, k, m]), np.int64(base[1, k, m]), NEAR, start)
    for i in range(s.rows_reach[k, 0], s.rows_reach[k, 1] + 1):
        for j in range(s.columns_reach[m, 0], s.columns_reach[m, 1] + 1):
            if best == 0:
                return start
            if s.states[i, j] != LABELLED:
                continue
            weight = (s.rows[i, 0] == k) * s.rows[i, 2] + (s.rows[i, 1] == k) * (4 - s.rows[i, 2])
            weight *= (s.columns[j, 0] == m) * s.columns[j, 2] + (s.columns[j, 1] == m) * (4 - s.columns[j, 2])
            # what would make this pixel right, the other base samples being as they are
            miss1 = np.int64(s.labels[i, j, 1]) - _sample(base, 0, s, i, j)
            miss2 = np.int64(s.labels[i, j, 2]) - _sample(base, 1, s, i, j)
            if weight == 0 or abs(miss1) + abs(miss2) == 0:
                continue
            c1, c2 = np.int64(base[0, k, m]) + miss1 * 16 // weight, np.int64(base[1, k, m]) + miss2 * 16 // weight
            best = _try(base, known, s, k, m, c1, c2, 1, best)
    return start - best


@_compiled
def refine(base: Bytes, s: Evidence) -> None:
    """Move samples of base [2, h2, w2], forwards and backwards in turn, as long as that explains more pixels."""
    height, width = base.shape[1], base.shape[2]
    known = np.ones((height, width), dtype=np.uint8)
    for turn in range(PASSES):
        gain = 0
        for n in range(height * width):
            at = n if turn % 2 == 0 else height * width - 1 - n
            gain += _improve(base, known, s, at // width, at % width)
        if gain == 0:
            break


@_compiled
def _smooth_luma(y: Bytes, i: int, j: int, low: int, high: int) -> int:
    """Return the value of low..high nearest to what the neighbours above and to the left suggest (their median edge)."""
    left, above, corner = np.int64(0), np.int64(0), np.int64(0)
    if i > 0 and j > 0:
        left, above, corner = np.int64(y[i, j - 1]), np.int64(y[i - 1, j]), np.int64(y[i - 1, j - 1])
    elif i > 0:
        left = above = corner = np.int64(y[i - 1, j])
    elif j > 0:
        left = above = corner = np.int64(y[i, j - 1])
    guess = max(min(left + above - corner, max(left, above)), min(left, above))
    return int(min(max(guess, low), high))


@_compiled
def _nearest_chroma(s: Evidence, i: int, j: int, c1: int, c2: int) -> tuple[int, int, bool]:
    """Return the smallest shift of c1 and c2 with which some luma gives pixel (i, j) its colour, and whether there is any."""
    for radius in range(1, RINGS + 1):
        for d1 in range(-radius, radius + 1):
            for d2 in range(-radius, radius + 1):
                if max(abs(d1), abs(d2)) < radius or not (0 <= c1 + d1 < 256 and 0 <= c2 + d2 < 256):
                    continue
                if _luma_range(s, i, j, c1 + d1, c2 + d2)[2] == 0:
                    return d1, d2, True
    return 0, 0, False


@_compiled
def explain(s: Evidence, base: Bytes, y: Bytes, modes: Bytes, differences: NDArray[np.int16]) -> None:
    """Choose luma [H, W], and write how each pixel is explained (modes [H, W]) and the differences [H, W, 3] that this takes."""
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            c1, c2 = _sample(base, 0, s, i, j), _sample(base, 1, s, i, j)
            low, high, distance = _luma_range(s, i, j, c1, c2)
            if distance > 0 and s.states[i, j] != UNREACHABLE:
                if s.states[i, j] == LABELLED:
                    d1, d2, found = np.int64(s.labels[i, j, 1]) - c1, np.int64(s.labels[i, j, 2]) - c2, True
                else:
                    d1, d2, found = _nearest_chroma(s, i, j, c1, c2)
                if found:
                    modes[i, j], differences[i, j, 0], differences[i, j, 1] = SHIFTED, d1, d2
                    low, high, distance = _luma_range(s, i, j, c1 + d1, c2 + d2)
            if distance > 0:
                modes[i, j] = RAW
                low, high = 0, 255
            y[i, j] = _smooth_luma(y, i, j, low, high)
