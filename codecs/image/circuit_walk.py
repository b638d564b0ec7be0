"""The walk through a circuit that codes pictures: exact integers in numba kernels, the same for encoder and decoder.

Variables are coded depth first, the child with the larger subtree first. At each one

    down     belief about its state given all that is coded or known, from its parent's: one product with `transition`
    code     P(x < v) = sum of belief * edges[v]: two such sums to encode, about ten to decode, never all 256
    up       when its subtree is done, what that says about the parent's state: one product with `transition`

so that a picture costs two products for each table (a third where some samples are known beforehand), however deep the tree:
the parent's belief stays where it is while its subtrees come and go. The paper's order and caches do the same for circuits in
general (Liu, Mandt and Van den Broeck, ICLR 2022, section 3.2).

Beliefs are integers below 2**28, scaled by powers of two so that the largest is at least 2**27; tables sum to 2**20, edges end
at 2**24. With at most 256 states no sum reaches 2**61. Several pictures go through the tree together, variable by variable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

from ...entropy.intervals import decode_interval, decode_quantile, encode_interval

__all__ = ["ABSENT", "CODED", "EDGE_BITS", "KNOWN", "TABLE_BITS", "VALUES", "IntegerCircuit", "walk"]

Integers = NDArray[np.int64]
Small = NDArray[np.int32]
Bytes = NDArray[np.uint8]
Function = TypeVar("Function", bound=Callable[..., Any])

VALUES = 256
TABLE_BITS, EDGE_BITS, BELIEF_BITS = 20, 24, 28
FLAT = 1 << (BELIEF_BITS - 1)  # of a belief that prefers no state
SPREAD = (1 << 24) - VALUES  # what is shared out by the model; each value also gets 1 of 2**24
ABSENT, KNOWN, CODED = 0, 1, 2  # of a sample: of no interest, known beforehand, or in the stream


class IntegerCircuit(NamedTuple):
    """A circuit as kernels take it.

    `order` lists the variables depth first; `depth`, `parent` (the root's is itself), `states` and `last` (the place in `order`
    of the last variable of the subtree) are by variable. `down` holds all tables [states of parent, states], row after row,
    from `table_at[d]`; `up` the same transposed. `edges` holds [257, states] cumulative sums from `edge_at[d]`. `root` is the
    prior.
    """

    order: Small
    depth: Small
    parent: Small
    states: Small
    last: Small
    table_at: Integers
    edge_at: Integers
    down: Small
    up: Small
    edges: Small
    root: Small


class _Place(NamedTuple):
    """What the walk keeps: by depth the beliefs and what subtrees said so far, by variable marks and evidence."""

    belief: NDArray[np.int32]  # [depth, pictures, states]: given all that is coded or known, but the subtrees to come
    below: NDArray[np.int32]  # [depth, pictures, states]: what the subtree so far says about the state
    evidence: NDArray[np.int32]  # [variables, pictures, states of the parent]: what known samples of the subtree say about it
    known: NDArray[np.bool_]  # [variables]: some sample of the subtree is known, or is coded
    coded: NDArray[np.bool_]
    now: Small
    sums: Integers


def _compiled(function: Function) -> Function:
    return cast(Function, numba.njit(cache=True, nogil=True, error_model="numpy")(function))


def _inner(function: Function) -> Function:
    """Compile what only kernels call: without wrappers for Python, which take longer to compile than the function."""
    options: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return cast(Function, numba.njit(nogil=True, error_model="numpy", **options)(function))


@_inner
def _normalise(sums: Integers, count: int, out: Small, least: int) -> None:
    """Write sums as beliefs: shifted so that the largest has 28 bits, and at least `least`."""
    largest = np.int64(0)
    for i in range(count):
        largest = max(largest, sums[i])
    if largest == 0:  # cannot be for tables that sum to 2**20, but nothing may depend on that
        for i in range(count):
            out[i] = FLAT
        return
    shift = -BELIEF_BITS
    for step in (32, 16, 8, 4, 2, 1):
        if largest >> step:
            largest >>= step
            shift += step
    shift += 1
    if shift >= 0:
        for i in range(count):
            out[i] = max(least, sums[i] >> shift)
    else:
        for i in range(count):
            out[i] = max(least, sums[i] << -shift)


@_inner
def _multiply(belief: Small, message: Small, count: int, sums: Integers) -> None:
    """Multiply a belief by a message, in place."""
    for i in range(count):
        sums[i] = np.int64(belief[i]) * np.int64(message[i])
    _normalise(sums, count, belief, 0)


@_inner
def _product(vector: Small, rows: int, table: Small, columns: int, sums: Integers) -> None:
    """Multiply a row vector by a table [rows, columns]."""
    for j in range(columns):
        sums[j] = 0
    for i in range(rows):
        factor = np.int64(vector[i])
        if factor != 0:
            row = table[i * columns : (i + 1) * columns]
            for j in range(columns):
                sums[j] += factor * np.int64(row[j])


@_inner
def _edge(belief: Small, count: int, edges: Small, value: int, total: int) -> int:
    """Return the left edge of `value` (0..256) of 2**24 under a belief whose sum is `total`."""
    dot = np.int64(0)
    row = edges[value * count : (value + 1) * count]
    for j in range(count):
        dot += np.int64(belief[j]) * np.int64(row[j])
    return int((dot >> EDGE_BITS) * SPREAD // total) + value


@_inner
def _code(
    belief: Small, count: int, edges: Small, value: int, coder: Integers, buffer: Bytes, decoding: bool
) -> tuple[int, int]:
    """Encode `value`, or decode it; returns it and the width of its interval of 2**24."""
    total = 0
    for j in range(count):
        total += int(belief[j])
    if not decoding:
        left, right = _edge(belief, count, edges, value, total), _edge(belief, count, edges, value + 1, total)
        encode_interval(coder, buffer, left, right)
        return value, right - left
    quantile = decode_quantile(coder)
    low, high, left, right = 0, VALUES, 0, 1 << 24
    while high - low > 1:
        middle = (low + high) >> 1 if low > 0 or high < VALUES else 1  # the lowest value is the most frequent of many pictures
        edge = _edge(belief, count, edges, middle, total)
        if edge <= quantile:
            low, left = middle, edge
        else:
            high, right = middle, edge
    decode_interval(coder, buffer, left, right)
    return low, right - left


@_inner
def _weigh(belief: Small, count: int, edges: Small, value: int, sums: Integers) -> None:
    """Multiply a belief by the emissions of a value."""
    low, high = edges[value * count : (value + 1) * count], edges[(value + 1) * count : (value + 2) * count]
    for j in range(count):
        # one more, as the value's interval has
        sums[j] = np.int64(belief[j]) * (np.int64(high[j]) - np.int64(low[j]) + 1)
    _normalise(sums, count, belief, 0)


@_inner
def _gather_evidence(circuit: IntegerCircuit, values: Bytes, status: Bytes, place: _Place) -> int:
    """Fill in what known samples say about the states above them; returns the cost."""
    cost, sums = 0, place.sums
    inside = np.empty(place.evidence.shape, dtype=np.int32)
    inside[:] = FLAT
    for position in range(circuit.order.size - 1, -1, -1):
        d = circuit.order[position]
        if not place.known[d]:
            continue
        p, count = circuit.parent[d], circuit.states[d]
        rows = circuit.states[p] if position else 1
        edges, table = circuit.edges[circuit.edge_at[d] :], circuit.up[circuit.table_at[d] :]
        for n in range(values.shape[0]):
            if status[n, d] == KNOWN:
                _weigh(inside[d, n], count, edges, values[n, d], sums)
            if position:
                _product(inside[d, n], count, table, rows, sums)
                _normalise(sums, rows, place.evidence[d, n], 1)
                _multiply(inside[p, n], place.evidence[d, n], rows, sums)
                cost += count * rows
    return cost


@_inner
def _marks(circuit: IntegerCircuit, status: Bytes, wanted: int) -> NDArray[np.bool_]:
    """Return, by variable, whether some picture has a sample of the wanted status in its subtree."""
    marks = np.zeros(circuit.order.size, dtype=np.bool_)
    for position in range(circuit.order.size - 1, -1, -1):
        d = circuit.order[position]
        for n in range(status.shape[0]):
            if status[n, d] == wanted:
                marks[d] = True
                break
        if marks[d]:
            marks[circuit.parent[d]] = True
    return marks


@_inner
def _add_evidence(
    circuit: IntegerCircuit, position: int, after: int, uncoded: bool, n: int, belief: Small, place: _Place
) -> None:
    """Multiply a belief by the evidence of subtrees that begin at `position` in the order and end by `after`, all siblings.

    With `uncoded` also of those in which nothing is coded.
    """
    while position <= after:
        c = circuit.order[position]
        if place.known[c] and (uncoded or place.coded[c]):
            _multiply(belief, place.evidence[c, n], circuit.states[circuit.parent[c]], place.sums)
        position = circuit.last[c] + 1


@_inner
def _go_down(circuit: IntegerCircuit, position: int, n: int, place: _Place) -> int:
    """Begin the belief of the variable at `position` from its parent's; returns the cost."""
    d, sums = circuit.order[position], place.sums
    level, count = circuit.depth[d], circuit.states[d]
    here = place.belief[level, n]
    place.below[level, n, :count] = FLAT
    if position == 0:
        for j in range(count):
            sums[j] = circuit.root[j]
        _normalise(sums, count, here, 0)
        return 0
    p = circuit.parent[d]
    rows = circuit.states[p]
    place.now[:rows] = place.belief[level - 1, n, :rows]
    if place.known[p]:
        # where nothing is coded, evidence has been in the parent's belief since it was entered
        _add_evidence(circuit, circuit.last[d] + 1, circuit.last[p], False, n, place.now, place)
    _product(place.now, rows, circuit.down[circuit.table_at[d] :], count, sums)
    _normalise(sums, count, here, 0)
    return int(rows * count)


@_inner
def _take_in(circuit: IntegerCircuit, position: int, n: int, value: int, present: bool, place: _Place) -> int:
    """Put the value of the variable at `position`, and evidence of subtrees where nothing is coded, into its beliefs.

    Returns the cost.
    """
    d = circuit.order[position]
    level, count = circuit.depth[d], circuit.states[d]
    here, inside = place.belief[level, n], place.below[level, n]
    if present:
        edges = circuit.edges[circuit.edge_at[d] :]
        _weigh(here, count, edges, value, place.sums)
        _weigh(inside, count, edges, value, place.sums)
    position += 1
    while place.known[d] and position <= circuit.last[d]:
        c = circuit.order[position]
        if place.known[c] and not place.coded[c]:
            _multiply(here, place.evidence[c, n], count, place.sums)
            _multiply(inside, place.evidence[c, n], count, place.sums)
        position = circuit.last[c] + 1
    return int(2 * count) if present else 0


@_inner
def _go_up(circuit: IntegerCircuit, d: int, pictures: int, place: _Place) -> int:
    """Tell the parent of d, whose subtree is done, what it says; returns the cost."""
    level, p = circuit.depth[d] - 1, circuit.parent[d]
    rows, count = circuit.states[p], circuit.states[d]
    table = circuit.up[circuit.table_at[d] :]
    for n in range(pictures):
        _product(place.below[level + 1, n], count, table, rows, place.sums)
        _normalise(place.sums, rows, place.now, 1)
        _multiply(place.belief[level, n], place.now, rows, place.sums)
        _multiply(place.below[level, n], place.now, rows, place.sums)
    return int(pictures * count * rows)


@_compiled
def walk(
    circuit: IntegerCircuit, values: Bytes, status: Bytes, coder: Integers, buffer: Bytes, decoding: bool, widths: Small
) -> int:
    """Code the samples of `values` [pictures, variables] whose `status` is CODED, given those that are KNOWN.

    Decoding fills in `values`. `widths`, unless it is empty, gets the width of each coded interval, of 2**24. Returns
    the cost: multiplications with parameters.
    """
    pictures, size = values.shape[0], circuit.order.size
    most, deepest = circuit.states.max(), circuit.depth.max() + 1
    coded, known = _marks(circuit, status, CODED), _marks(circuit, status, KNOWN)
    shape = (size if known.any() else 0, pictures, most)
    belief, below = np.zeros((deepest, pictures, most), dtype=np.int32), np.zeros((deepest, pictures, most), dtype=np.int32)
    now, sums = np.zeros(most, dtype=np.int32), np.zeros(most, dtype=np.int64)
    place = _Place(belief, below, np.zeros(shape, dtype=np.int32), known, coded, now, sums)
    cost = _gather_evidence(circuit, values, status, place) if known.any() else 0
    path, level, position = np.zeros(deepest, dtype=np.int32), -1, 0
    while position < size or level > 0:
        if level > 0 and position > circuit.last[path[level]]:
            cost += _go_up(circuit, path[level], pictures, place)
            level -= 1
            continue
        d = circuit.order[position]
        if level == 0 and position > circuit.last[d]:
            break
        if not coded[d]:
            position = circuit.last[d] + 1
            continue
        count, edges = circuit.states[d], circuit.edges[circuit.edge_at[d] :]
        level = circuit.depth[d]
        path[level] = d
        for n in range(pictures):
            cost += _go_down(circuit, position, n, place)
            if status[n, d] == CODED:
                now[:count] = belief[level, n, :count]
                if known[d]:
                    _add_evidence(circuit, position + 1, circuit.last[d], True, n, now, place)
                value, width = _code(now, count, edges, values[n, d], coder, buffer, decoding)
                values[n, d] = value
                cost += (9 if decoding else 2) * count
                if widths.size:
                    widths[n, d] = width
            cost += _take_in(circuit, position, n, values[n, d], status[n, d] != ABSENT, place)
        position += 1
    return cost
