"""The walk through a circuit: it codes the joint probability, whatever is known, at a cost that grows with the circuit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from laconic.codecs.errors import CorruptStream
from laconic.codecs.image.circuit_pictures import PICTURES_PER_CHUNK, decode_pictures, encode_pictures
from laconic.codecs.image.circuit_tables import depth_first, exact_rows
from laconic.codecs.image.circuit_walk import ABSENT, CODED, KNOWN, IntegerCircuit, walk
from laconic.entropy.adaptive_binary import finish_decoding, finish_encoding, start_decoding, start_encoding

from .circuits import joint, random_circuit, units

TREE = [-1, 0, 0, 1, 1, 2, 5]
STATES = [3, 2, 4, 1, 3, 2, 2]
NONE = np.zeros((0, 0), np.int32)


def coded_bits(circuit: IntegerCircuit, values: NDArray[np.uint8], status: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Code, decode and compare; returns the bits of each picture's coded samples."""
    widths = np.full(values.shape, 1 << 24, np.int32)
    out = np.zeros(64 + 4 * values.size, np.uint8)
    coder = start_encoding()
    walk(circuit, values.copy(), status, coder, out, False, widths)
    coded = out[: finish_encoding(coder, out)].copy()
    restored = np.where(status == KNOWN, values, 0).astype(np.uint8)
    coder = start_decoding(coded)
    walk(circuit, restored, status, coder, coded, True, NONE)
    finish_decoding(coder, coded)
    assert (restored == np.where(status == ABSENT, 0, values)).all()
    bits = (24 - np.log2(widths)).sum(1)
    assert 8 * len(coded) <= bits.sum() + 0.001 * values.size + 48
    return np.asarray(bits)


@pytest.mark.parametrize("seed", range(4))
def test_the_chain_of_coded_probabilities_is_the_joint_probability(seed: int) -> None:
    circuit = random_circuit(TREE, STATES, seed)
    values = np.random.default_rng(seed).integers(0, 256, (3, len(TREE)), np.uint8)
    bits = coded_bits(circuit, values, np.full(values.shape, CODED, np.uint8))
    everything = np.ones(len(TREE), np.bool_)
    for row, spent in zip(values, bits, strict=True):
        assert spent == pytest.approx(-math.log2(joint(circuit, row, everything)), rel=1e-4)


@pytest.mark.parametrize("seed", range(8))
def test_with_any_samples_known_or_absent_it_is_the_conditional_probability(seed: int) -> None:
    circuit = random_circuit(TREE, STATES, seed)
    generator = np.random.default_rng(seed)
    values = generator.integers(0, 256, (4, len(TREE)), np.uint8)
    status = generator.integers(0, 3, values.shape).astype(np.uint8)
    status[0] = CODED  # a picture beside others of which more is known
    status[1] = KNOWN
    for row, marks, spent in zip(values, status, coded_bits(circuit, values, status), strict=True):
        expected = joint(circuit, row, marks != ABSENT) / joint(circuit, row, marks == KNOWN)
        assert spent == pytest.approx(-math.log2(expected), rel=1e-4, abs=1e-4)


def test_the_cost_of_a_picture_is_a_small_multiple_of_the_circuits_size() -> None:
    """The paper's bound is O(log D) circuit sizes a picture; in a tree in this order it is 3, whatever D, against D naively."""
    for size in (15, 127, 1023):
        parent = [-1, *((d - 1) // 2 for d in range(1, size))]
        circuit = random_circuit(parent, [6] * size)
        values = np.zeros((2, size), np.uint8)
        status = np.full(values.shape, CODED, np.uint8)
        out = np.zeros(1 << 14, np.uint8)
        cost = walk(circuit, values, status, start_encoding(), out, False, NONE) / 2
        assert cost <= 3 * units(circuit) <= math.log2(size) * units(circuit)
        assert cost < 3 / size * (size * units(circuit)) * 1.001  # of the naive cost: one evaluation for each variable
        status[:, ::3] = KNOWN
        assert walk(circuit, values, status, start_encoding(), out, False, NONE) / 2 <= 4 * units(circuit)


def test_the_cost_does_not_depend_on_the_depth() -> None:
    size = 400
    chain = random_circuit([-1, *range(size - 1)], [5] * size)
    star = random_circuit([-1] + [0] * (size - 1), [5] * size)
    values = np.zeros((1, size), np.uint8)
    status, out = np.full(values.shape, CODED, np.uint8), np.zeros(4096, np.uint8)
    costs = [walk(circuit, values, status, start_encoding(), out, False, NONE) for circuit in (chain, star)]
    assert costs[0] == costs[1] <= 3 * units(chain)


def test_variables_come_depth_first_with_larger_subtrees_first() -> None:
    order, depth, last = depth_first([-1, 0, 0, 2, 2, 3])
    assert order == [0, 2, 3, 5, 4, 1]
    assert depth == [0, 1, 1, 2, 2, 3]
    assert [order[last[d]] for d in range(6)] == [1, 1, 4, 5, 4, 5]


def test_rows_sum_exactly() -> None:
    generator = np.random.default_rng(0)
    weights = generator.integers(0, 1 << 31, (50, 97)) * (generator.random((50, 97)) < 0.5)
    weights[0] = 0
    rows = exact_rows(weights, 20)
    assert (rows.sum(1) == 1 << 20).all() and (rows >= 0).all()


@pytest.mark.parametrize("value", [0, 255])
def test_certain_and_impossible_values_code(value: int) -> None:
    """A circuit that is sure of 0: zeros cost nothing, anything else 24 bits, and no belief ever runs out."""
    parent = [-1, *range(199)]
    circuit = random_circuit(parent, [2] * 200)
    edges = np.zeros((257, 2), np.int32)
    edges[1:] = 1 << 24
    sure = circuit._replace(edges=np.tile(edges.ravel(), 200))
    values = np.full((2, 200), value, np.uint8)
    bits = coded_bits(sure, values, np.full(values.shape, CODED, np.uint8))
    assert (bits < 0.01).all() if value == 0 else (bits == 24 * 200).all()


def test_groups_and_chunks_do_not_matter_to_decoding() -> None:
    circuit = random_circuit(TREE, STATES)
    for count in (1, 2, 99, 100, 101, PICTURES_PER_CHUNK):
        values = np.random.default_rng(count).integers(0, 256, (count, len(TREE)), np.uint8)
        coded = encode_pictures(circuit, values)
        assert (decode_pictures(circuit, coded.payload, count) == values).all()
        assert 8 * len(coded.payload) <= 1.005 * coded.ideal_bits + 8 * 8


def test_damage_gives_an_error_or_other_pictures() -> None:
    circuit = random_circuit(TREE, STATES)
    values = np.random.default_rng(0).integers(0, 256, (30, len(TREE)), np.uint8)
    payload = encode_pictures(circuit, values).payload
    generator = np.random.default_rng(1)
    refused = 0
    for attempt in range(300):
        damaged = bytearray(payload[: int(generator.integers(0, len(payload)))] if attempt % 2 else payload)
        for _ in range(min(3, len(damaged))):
            damaged[int(generator.integers(len(damaged)))] = int(generator.integers(256))
        try:
            assert decode_pictures(circuit, bytes(damaged), 30).shape == values.shape
        except CorruptStream:
            refused += 1
    assert refused > 100
