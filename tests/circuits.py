"""Small random circuits for tests, and what they say worked out by brute force."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from laconic.codecs.image.circuit_tables import integer_circuit
from laconic.codecs.image.circuit_walk import EDGE_BITS, SPREAD, TABLE_BITS, IntegerCircuit

__all__ = ["joint", "random_circuit", "units"]


def random_circuit(parent: list[int], states: list[int], seed: int = 0, entries: int = 5) -> IntegerCircuit:
    """A circuit on a given tree (the root's parent is -1) with random tables, some of whose entries are zero."""
    generator = np.random.default_rng(seed)
    transition = []
    for d, p in enumerate(parent):
        table = generator.integers(0, 1 << 12, (states[p] if p >= 0 else 1, states[d])) ** 2
        table[generator.random(table.shape) < 0.2] = 0
        table[:, 0] += 1
        transition.append(table)
    mixing = generator.integers(1, 1 << 16, (sum(states), entries))
    dictionary = generator.integers(0, 1 << 8, (entries, 256)) ** 3 // (1 + generator.integers(0, 1 << 10, (entries, 256)))
    return integer_circuit(parent, transition, mixing, dictionary + 1)


def units(circuit: IntegerCircuit) -> int:
    """The circuit's size: parameters of its tables and one input unit for each state."""
    return int(circuit.down.size + circuit.states.sum())


def joint(circuit: IntegerCircuit, values: NDArray[np.uint8], present: NDArray[np.bool_]) -> float:
    """Return the probability of the present values (of one picture), summed over all states one by one, in floating point."""
    size = len(circuit.parent)
    root = int(circuit.order[0])
    total = 0.0
    for choice in itertools.product(*(range(int(n)) for n in circuit.states)):
        p = 1.0
        for d in range(size):
            count, rows = int(circuit.states[d]), int(circuit.states[circuit.parent[d]])
            if d == root:
                p *= circuit.root[choice[d]] / 2**TABLE_BITS
            else:
                at = int(circuit.table_at[d])
                table = circuit.down[at : at + rows * count].reshape(rows, count)
                p *= table[choice[circuit.parent[d]], choice[d]] / 2**TABLE_BITS
            if present[d]:
                edges = circuit.edges[int(circuit.edge_at[d]) :][: 257 * count].reshape(257, count)[:, choice[d]]
                width = int(edges[int(values[d]) + 1]) - int(edges[values[d]])
                # each value also gets 1 of 2**24
                p *= (width * SPREAD / 2**EDGE_BITS + 1) / 2**EDGE_BITS
        total += p
    return total
