"""Circuits as integers: what weights files hold, and the exact tables made of it.

A weights file holds every probability as a code, `powers[code]`; code 0 is zero. When it is loaded, integers alone make tables
of them: rows are scaled to a power of two, rounded down, and the rest goes to the largest entry.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ...entropy.adaptive_binary import decode_integers
from ..weights import load_weights
from .circuit_walk import EDGE_BITS, TABLE_BITS, VALUES, IntegerCircuit

__all__ = ["LoadedCircuit", "circuit_of", "depth_first", "exact_rows", "integer_circuit", "load_model", "model_spec"]

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class LoadedCircuit:
    """A circuit ready to code with, the digest of its weights and what its variables are: `spec` of the weights file."""

    circuit: IntegerCircuit
    digest: bytes
    name: str
    spec: Mapping[str, Any]


def exact_rows(weights: Integers, bits: int) -> Integers:
    """Return rows proportional to non-negative weights [rows, columns] below 2**31 that each sum to exactly 2**bits."""
    total = weights.sum(1, keepdims=True)
    shares = (weights << bits) // np.maximum(total, 1)
    shares[np.arange(len(shares)), weights.argmax(1)] += (1 << bits) - shares.sum(1)
    return cast(Integers, shares)


def depth_first(parent: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Return the variables depth first, larger subtrees first; each one's depth; and the place where its subtree ends."""
    children: list[list[int]] = [[] for _ in parent]
    for d, p in enumerate(parent):
        if p >= 0:
            children[p].append(d)
    root = list(parent).index(-1)
    downward = [root]
    for d in downward:
        downward += children[d]
    size = [1] * len(parent)
    for d in reversed(downward[1:]):
        size[parent[d]] += size[d]
    order, depth, last, left = list[int](), [0] * len(parent), [0] * len(parent), [root]
    while left:
        d = left.pop()
        depth[d] = depth[parent[d]] + 1 if parent[d] >= 0 else 0
        last[d] = len(order) + size[d] - 1
        order.append(d)
        left += sorted(children[d], key=lambda c: (size[c], -c))
    return order, depth, last


def integer_circuit(
    parent: Sequence[int], transition: Sequence[Integers], mixing: Integers, dictionary: Integers
) -> IntegerCircuit:
    """Return the exact circuit of non-negative weights below 2**31.

    `transition` holds a table [states of the parent, states] for each variable, [1, states] for the root; `mixing`
    [states of all variables, entries] and `dictionary` [entries, 256] make the emissions.
    """
    states = [table.shape[1] for table in transition]
    tables = [exact_rows(table, TABLE_BITS) for table in transition]
    cumulative = np.zeros((len(dictionary), VALUES + 1), dtype=np.int64)
    cumulative[:, 1:] = exact_rows(dictionary, EDGE_BITS).cumsum(1)
    # products and sums stay below 2**44, so float64 holds them exactly in whatever order they are taken
    edges = (exact_rows(mixing, TABLE_BITS).astype(np.float64) @ cumulative.astype(np.float64)).astype(np.int64) >> TABLE_BITS
    by_variable = np.split(edges.astype(np.int32), np.cumsum(states)[:-1])
    order, depth, last = depth_first(parent)
    root = order[0]
    return IntegerCircuit(
        order=np.array(order, np.int32),
        depth=np.array(depth, np.int32),
        parent=np.array([d if p < 0 else p for d, p in enumerate(parent)], np.int32),
        states=np.array(states, np.int32),
        last=np.array(last, np.int32),
        table_at=np.cumsum([0, *(table.size for table in tables[:-1])]),
        edge_at=np.cumsum([0, *(part.size for part in by_variable[:-1])]),
        down=np.concatenate([table.ravel() for table in tables]).astype(np.int32),
        up=np.concatenate([table.T.ravel() for table in tables]).astype(np.int32),
        edges=np.concatenate([part.T.ravel() for part in by_variable]),
        root=tables[root][0].astype(np.int32),
    )


def circuit_of(tensors: Mapping[str, NDArray[Any]]) -> IntegerCircuit:
    """Return the circuit of a weights file's tensors."""
    powers = tensors["powers"].astype(np.int64)
    parent, states = tensors["parent"].tolist(), tensors["states"].tolist()
    shapes = [(states[p] if p >= 0 else 1, states[d]) for d, p in enumerate(parent)]
    sizes = [rows * columns for rows, columns in shapes]
    flat = powers[_codes(tensors["transition"], sum(sizes))]
    transition = [part.reshape(shape) for part, shape in zip(np.split(flat, np.cumsum(sizes)[:-1]), shapes, strict=True)]
    dictionary = powers[tensors["dictionary"]]
    mixing = powers[_codes(tensors["mixing"], sum(states) * len(dictionary))].reshape(-1, len(dictionary))
    return integer_circuit(parent, transition, mixing, dictionary)


@cache
def model_spec(digest: bytes) -> dict[str, Any]:
    """Return what the weights with this digest are for: "name", "kind" ("pictures" or "blocks") and for pictures "size"."""
    return dict(json.loads(load_weights("image-circuit", digest).metadata["spec"]))


@cache
def load_model(digest: bytes) -> LoadedCircuit:
    """Return the circuit of the weights with this digest; raises as `load_weights` does."""
    spec = model_spec(digest)
    return LoadedCircuit(circuit_of(load_weights("image-circuit", digest).tensors), digest, spec["name"], spec)


def _codes(coded: NDArray[np.uint8], count: int) -> NDArray[np.int32]:
    return decode_integers(coded.tobytes(), count)
