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
    "adjust",
    "chains",
    "explain",
    "grow",
    "label",
    "mark",
]

Floats = NDArray[np.float64]
Function = TypeVar("Function", bound=Callable[..., Any])

CLIPPED, LABELLED, UNREACHABLE = 0, 1, 2  # what a pixel can be
EXACT, SHIFTED, RAW = 0, 1, 2  # how a pixel is explained: by the planes; by shifted chroma; only with differences in RGB
FAR = 1 << 40  # beyond every table entry
REACH = 1  # how far luma estimated from rounded RGB is off at most (0.53, over all lattices here)
WRONG = 256  # cost of an unexplained pixel; how far it is from explained counts below that
ROUGH = 16  # cost of a base sample that lies one away from its neighbours' mean
NEAR = 2  # and when it is adjusted how far from what it was
SLACK = 1  # how far a chain may move a base sample
RINGS = 6  # how far from the upsampled chroma a clipped pixel's own may lie before it counts as raw


class Evidence(NamedTuple):
    """What a picture shows: colours and labels [H, W, 3], states [H, W], upsampler taps, bias and reach, lattice tables."""

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
def _luma_range(s: Evidence, i: int, j: int, one: int, other: int, plane: int) -> tuple[int, int, int]:
    """Return the lowest and highest y that give pixel (i, j) its exact colour with this chroma, and a distance.

    The distance is 0 if there is such a y; else it says, in grey levels, how much the channels contradict each other.
    """
    low, high = -FAR, FAR
    c1, c2 = (one, other) if plane == 0 else (other, one)
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
def _miss(base: Bytes, plane: int, s: Evidence, i: int, j: int) -> int:
    """Return the cost of pixel (i, j), as far as it is this plane's fault."""
    state, distance = s.states[i, j], 0
    if state == LABELLED:
        distance = int(abs(np.int64(s.labels[i, j, 1 + plane]) - _sample(base, plane, s, i, j)))
    elif state == CLIPPED:
        distance = _luma_range(s, i, j, _sample(base, plane, s, i, j), _sample(base, 1 - plane, s, i, j), plane)[2]
    return WRONG + min(distance, WRONG - 1) if distance > 0 else 0


@_compiled
def _fit(base: Bytes, known: Bytes, s: Evidence, k: int, m: int, limit: int) -> int:
    """Return the cost of the settled pixels that depend on base sample (k, m), or some number from `limit` on."""
    cost = 0
    for i in range(s.rows_reach[k, 0], s.rows_reach[k, 1] + 1):
        for j in range(s.columns_reach[m, 0], s.columns_reach[m, 1] + 1):
            if cost < limit and _settled(known, s, i, j):
                for plane in range(2):
                    cost += _miss(base, plane, s, i, j)
    return cost


@_compiled
def grow(base: Bytes, known: Bytes, s: Evidence, radius: int) -> None:
    """Set the unknown samples of base [2, h2, w2] from the known ones [h2, w2] on, each as near its neighbours as fits."""
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
                    sum1 += int(np.int64(base[0, a, b]))
                    sum2 += int(np.int64(base[1, a, b]))
        if not known[k, m]:
            known[k, m] = 1
            _place(base, known, s, k, m, (sum1 + count // 2) // count, (sum2 + count // 2) // count, radius, True)


@_compiled
def _roughness(base: Bytes, known: Bytes, k: int, m: int) -> int:
    """Return the cost of how far base sample (k, m) is from the mean of its known neighbours."""
    cost = 0
    for plane in range(2):
        count, total = 0, 0
        for n in range(9):
            a, b = k + n // 3 - 1, m + n % 3 - 1
            if n != 4 and 0 <= a < known.shape[0] and 0 <= b < known.shape[1] and known[a, b]:
                weight = 1 + n % 2
                count += weight
                total += weight * int(np.int64(base[plane, a, b]))
        if count > 0:
            cost += abs(int(np.int64(base[plane, k, m])) * count - total) * ROUGH // count
    return cost


@_compiled
def _place(base: Bytes, known: Bytes, s: Evidence, k: int, m: int, c1: int, c2: int, radius: int, growing: bool) -> None:
    """Set base sample (k, m) to the pair that fits best: one near (c1, c2), or one that makes a labelled pixel right."""
    base[0, k, m], base[1, k, m] = c1, c2
    chosen1, chosen2, top, left = c1, c2, s.rows_reach[k, 0], s.columns_reach[m, 0]
    best = _roughness(base, known, k, m) + _fit(base, known, s, k, m, FAR)
    across = s.columns_reach[m, 1] + 1 - left
    for turn in range((s.rows_reach[k, 1] + 1 - top) * across + 1):
        if turn > 0:
            i, j = top + (turn - 1) // across, left + (turn - 1) % across
            weight = (s.rows[i, 0] == k) * s.rows[i, 2] + (s.rows[i, 1] == k) * (4 - s.rows[i, 2])
            weight *= (s.columns[j, 0] == m) * s.columns[j, 2] + (s.columns[j, 1] == m) * (4 - s.columns[j, 2])
            if s.states[i, j] != LABELLED or weight == 0 or not _settled(known, s, i, j):
                continue
            base[0, k, m], base[1, k, m] = chosen1, chosen2
            radius, c1, c2 = 1, chosen1, chosen2
            c1 += int((np.int64(s.labels[i, j, 1]) - _sample(base, 0, s, i, j)) * 16 // weight)
            c2 += int((np.int64(s.labels[i, j, 2]) - _sample(base, 1, s, i, j)) * 16 // weight)
        for ring in range(radius + 1):
            if turn == 0 and growing and best < ROUGH * (ring - 1):
                break  # further from the neighbours' mean everything is rougher than that
            for n in range((2 * ring + 1) * (2 * ring + 1)):
                d1, d2 = n // (2 * ring + 1) - ring, n % (2 * ring + 1) - ring
                if max(abs(d1), abs(d2)) < ring or not (0 <= c1 + d1 < 256 and 0 <= c2 + d2 < 256):
                    continue
                base[0, k, m], base[1, k, m] = c1 + d1, c2 + d2
                cost = _roughness(base, known, k, m)
                if cost < best:
                    cost += _fit(base, known, s, k, m, best - cost)
                if cost < best:
                    best, chosen1, chosen2 = cost, c1 + d1, c2 + d2
        if best < WRONG:
            break
    base[0, k, m], base[1, k, m] = chosen1, chosen2


@_compiled
def adjust(base: Bytes, free: Bytes, s: Evidence) -> None:
    """Move the free samples [h2, w2] of base [2, h2, w2], forwards, then backwards, to where more is explained or smoother."""
    height, width = free.shape
    known = np.ones((height, width), dtype=np.uint8)
    for n in range(2 * height * width):
        at = n if n < height * width else 2 * height * width - 1 - n
        k, m = at // width, at % width
        if free[k, m] and _roughness(base, known, k, m) + _fit(base, known, s, k, m, ROUGH) >= ROUGH:
            _place(base, known, s, k, m, int(np.int64(base[0, k, m])), int(np.int64(base[1, k, m])), NEAR, False)


@_compiled
def _link(base: Bytes, plane: int, s: Evidence, k: int, m: int) -> int:
    """Return the cost of the pixels that depend on base sample (k, m) and none to its right."""
    cost = 0
    for j in range(s.columns_reach[m, 0], s.columns_reach[m, 1] + 1):
        last = s.columns[j, 0] if s.columns[j, 2] == 4 else max(s.columns[j, 0], s.columns[j, 1])
        if last == m:
            for i in range(s.rows_reach[k, 0], s.rows_reach[k, 1] + 1):
                cost += _miss(base, plane, s, i, j)
    return cost


@_compiled
def _chain(base: Bytes, plane: int, s: Evidence, k: int, start: int, end: int, dice: Integers) -> None:
    """Set base samples start..end-1 of row k, each within SLACK of what it is, to the values of least cost (Viterbi 1967)."""
    stop, size = min(end + 1, base.shape[2]), 2 * SLACK + 1  # the sample after the chain is fixed, and so is the one before
    old, choices = np.empty(stop - start, dtype=np.int64), np.empty((stop - start, size), dtype=np.int64)
    costs, following = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
    for n in range(stop - start):
        old[n] = base[plane, k, start + n]
        for now in range(size):
            following[now], choices[n, now], value = FAR, SLACK, old[n] + now - SLACK
            if not 0 <= value < 256 or (start + n >= end and now != SLACK):
                continue
            base[plane, k, start + n] = value
            for before in range(size):
                if costs[before] >= following[now] or (n == 0 and before != SLACK):
                    continue
                if n > 0:
                    base[plane, k, start + n - 1] = old[n - 1] + before - SLACK
                dice[0] = (dice[0] * 1103515245 + 12345) & 0x7FFFFFFF
                cost = costs[before] + _link(base, plane, s, k, start + n) + (dice[0] >> 28)
                if cost < following[now]:
                    following[now], choices[n, now] = cost, before
        for now in range(size):
            costs[now] = following[now]
    best = SLACK
    for now in range(size):
        if costs[now] < costs[best]:
            best = now
    for n in range(stop - start - 1, -1, -1):
        base[plane, k, start + n] = old[n] + best - SLACK
        best = choices[n, best]


@_compiled
def mark(base: Bytes, s: Evidence, around: int, marks: Bytes) -> int:
    """Set marks [2, h2, w2] to 1 at samples around which pixels are not explained, else 0; return the number of such pixels."""
    count = 0
    for plane in range(2):
        for k in range(base.shape[1]):
            for m in range(base.shape[2]):
                marks[plane, k, m] = 0
        for i in range(s.states.shape[0]):
            for j in range(s.states.shape[1]):
                if _miss(base, plane, s, i, j):
                    count += 1
                    for k in range(2):
                        for m in range(max(s.columns[j, 0] - around, 0), min(s.columns[j, 0] + around + 1, base.shape[2])):
                            marks[plane, s.rows[i, k], m] = 1
    return count


@_compiled
def chains(base: Bytes, s: Evidence, marks: Bytes, dice: Integers) -> None:
    """Change the marked runs in the rows of base [2, h2, w2], each together, so that more pixels are explained.

    Among changes that explain as many, `dice` [1] (updated) decide: only so are errors undone that several runs share.
    """
    for plane in range(2):
        for k in range(base.shape[1]):
            start = 0
            for m in range(base.shape[2] + 1):
                if m == base.shape[2] or not marks[plane, k, m]:
                    if m > start:
                        _chain(base, plane, s, k, start, m, dice)
                    start = m + 1


@_compiled
def _smooth_luma(y: Bytes, i: int, j: int, low: int, high: int) -> int:
    """Return the value of low..high nearest to what the neighbours above and to the left suggest (their median edge)."""
    left, above, corner = 0, 0, 0
    if i > 0 and j > 0:
        left, above, corner = int(np.int64(y[i, j - 1])), int(np.int64(y[i - 1, j])), int(np.int64(y[i - 1, j - 1]))
    elif i > 0:
        left = above = corner = int(np.int64(y[i - 1, j]))
    elif j > 0:
        left = above = corner = int(np.int64(y[i, j - 1]))
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
                if _luma_range(s, i, j, c1 + d1, c2 + d2, 0)[2] == 0:
                    return d1, d2, True
    return 0, 0, False


@_compiled
def explain(s: Evidence, base: Bytes, y: Bytes, modes: Bytes, differences: NDArray[np.int16]) -> None:
    """Choose luma [H, W]; write how each pixel is explained (modes [H, W]) and the differences [H, W, 3] that this takes."""
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            c1, c2 = _sample(base, 0, s, i, j), _sample(base, 1, s, i, j)
            if s.states[i, j] == LABELLED and s.labels[i, j, 1] == c1 and s.labels[i, j, 2] == c2:
                y[i, j] = s.labels[i, j, 0]
                continue
            low, high, distance = _luma_range(s, i, j, c1, c2, 0)
            if distance > 0 and s.states[i, j] != UNREACHABLE:
                if s.states[i, j] == LABELLED:
                    d1, d2 = int(np.int64(s.labels[i, j, 1])) - c1, int(np.int64(s.labels[i, j, 2])) - c2
                    found = True
                else:
                    d1, d2, found = _nearest_chroma(s, i, j, c1, c2)
                if found:
                    modes[i, j], differences[i, j, 0], differences[i, j, 1] = SHIFTED, d1, d2
                    low, high, distance = _luma_range(s, i, j, c1 + d1, c2 + d2, 0)
            if distance > 0:
                modes[i, j] = RAW
                low, high = 0, 255
            y[i, j] = _smooth_luma(y, i, j, low, high)
