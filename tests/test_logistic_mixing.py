"""Adaptive probabilities and logistic mixing: the tables are the same bits everywhere, the kernels do what they say."""

from __future__ import annotations

import hashlib
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.entropy import logistic_mixing
from laconic.entropy.logistic_mixing import (
    CDF,
    CDF_SPAN,
    CONFIDENCE,
    COUNT_BITS,
    COUNTS,
    RATE,
    SPAN,
    SQUASH,
    STEPS,
    STRETCH,
    adapt,
    confidence,
    learn,
    logistic_cdf,
    mix,
    new_cells,
    probability_16,
    squash,
    stretch,
)

TABLES = {
    "STRETCH": "33dc3af254eda16a974daa4d75943c7258552ecffcf772bfc1bfd0c27eeb23e3",
    "SQUASH": "3f0901e7f323bdca42a32c5c94d09d2d905254a365c9beb019d14682c3a1a3d3",
    "CDF": "21515d592724018089201df19defd22b7fb66b725f375c7d45eab2cd08e1a5bc",
    "RATE": "e7fff57145bb47e0759860ce9cbf2b2556d41a75124ce5a3ab47b26c7cd5b16e",
    "CONFIDENCE": "18009e12757f8059d58bea98523cc8cc443f20ef205f608c1abeb33c74af8654",
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_the_same_bits_on_every_machine(name: str) -> None:
    """A platform whose arithmetic differs cannot decode what others coded; here is where it shows."""
    table = getattr(logistic_mixing, name)
    digest = hashlib.sha256(table.astype(table.dtype.newbyteorder("<")).tobytes()).hexdigest()
    assert digest == TABLES[name]


def test_tables_rise_and_are_symmetric() -> None:
    assert STRETCH.shape == (STEPS,) and SQUASH.shape == CDF.shape == (STEPS + 1,)
    assert RATE.shape == CONFIDENCE.shape == (COUNTS,)
    assert (np.diff(STRETCH) > 0).all() and (np.diff(SQUASH) >= 0).all() and (np.diff(CDF) > 0).all()
    assert (np.diff(RATE) <= 0).all() and (np.diff(CONFIDENCE) > 0).all()
    assert np.array_equal(STRETCH, -STRETCH[::-1])
    assert np.abs(SQUASH + SQUASH[::-1] - 1).max() < 1e-7 and np.abs(CDF + CDF[::-1] - 1).max() < 1e-13
    assert SQUASH[0] > 0 and SQUASH[-1] < 1 and CDF[0] > 0 and CDF[-1] < 1


def test_tables_are_accurate() -> None:
    p = (np.arange(STEPS) + 0.5) / STEPS
    assert np.allclose(STRETCH, np.log(p / (1 - p)), rtol=1e-6, atol=1e-6)
    assert np.allclose(SQUASH, 1 / (1 + np.exp(-np.linspace(-SPAN, SPAN, STEPS + 1))), rtol=1e-6, atol=0)
    assert np.allclose(CDF, 1 / (1 + np.exp(-np.linspace(-CDF_SPAN, CDF_SPAN, STEPS + 1))), rtol=1e-12, atol=0)
    assert [int(RATE[n]) for n in (0, 1, COUNTS - 1)] == [40960, 25206, 127]
    assert CONFIDENCE[0] == 0 and CONFIDENCE[3] == np.float32(3 / 4.5)


def test_squash_undoes_stretch() -> None:
    for p in np.linspace(0, 1, 3001):
        assert abs(squash(stretch(p)) - p) < 4 / STEPS
    assert stretch(0.0) == -stretch(1.0) == pytest.approx(math.log(0.5 / (STEPS - 0.5)))
    assert stretch(0.5) == pytest.approx(0, abs=1e-3)
    assert squash(-1e9) == SQUASH[0] and squash(1e9) == SQUASH[-1] and squash(0.0) == 0.5


@given(st.floats(-1e6, 1e6))
@settings(max_examples=300, deadline=None)
def test_the_distribution_function_is_interpolated(x: float) -> None:
    bounded = min(max(x, -CDF_SPAN), CDF_SPAN)
    assert abs(logistic_cdf(x) - 1 / (1 + math.exp(-bounded))) < 2e-6
    assert logistic_cdf(x) <= logistic_cdf(x + 0.01)
    assert 0 < logistic_cdf(x) < 1


def estimate(cell: int) -> float:
    return (int(cell) >> COUNT_BITS) / (1 << 22)


def test_new_cells_know_nothing() -> None:
    cells = new_cells(3)
    assert cells.dtype == np.int32 and [estimate(cell) for cell in cells] == [0.5] * 3
    assert confidence(cells[0]) == 0
    for n in range(5):
        adapt(cells, 1, 1, 255)
        assert estimate(cells[0]) == estimate(cells[2]) == 0.5
        assert int(cells[1]) & (COUNTS - 1) == n + 1


@given(st.lists(st.integers(0, 1), max_size=600), st.integers(1, COUNTS - 1))
@settings(max_examples=100, deadline=None)
def test_cells_stay_in_range(bits: list[int], limit: int) -> None:
    cells = new_cells(1)
    for bit in bits:
        before = estimate(cells[0])
        adapt(cells, 0, bit, limit)
        assert 0 <= estimate(cells[0]) < 1
        assert estimate(cells[0]) >= before - 1e-6 if bit else estimate(cells[0]) <= before + 1e-6
    assert int(cells[0]) & (COUNTS - 1) == min(len(bits), limit)
    assert abs(confidence(cells[0])) < 9.1


@pytest.mark.parametrize("bit", [0, 1])
def test_cells_stay_in_range_when_the_same_bit_goes_on(bit: int) -> None:
    cells = new_cells(1)
    for _ in range(20_000):
        adapt(cells, 0, bit, COUNTS - 1)
    assert 0 <= estimate(cells[0]) < 0.001 if bit == 0 else 0.999 < estimate(cells[0]) < 1


def test_cells_move_by_one_over_n_plus_1_6() -> None:
    cells, expected, generator = new_cells(1), 0.5, random.Random(3)
    for n in range(400):
        bit = int(generator.random() < 0.3)
        adapt(cells, 0, bit, COUNTS - 1)
        expected += (bit - expected) / (n + 1.6)
        assert abs(estimate(cells[0]) - expected) < 1e-3
    assert abs(expected - 0.3) < 0.06


def test_cells_go_on_adapting_from_the_limit_on() -> None:
    cells = new_cells(1)
    for bit in [0] * 300 + [1] * 60:
        adapt(cells, 0, bit, 20)
    assert estimate(cells[0]) > 0.9


@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_mix_and_learn_equal_plain_python(seed: int, fours: int, at: int) -> None:
    generator = np.random.default_rng(seed)
    count = 4 * fours
    weights, inputs = generator.normal(0, 1, count + 5), generator.normal(0, 3, count)
    lanes = [0.0] * 4
    for i in range(count):
        lanes[i % 4] += float(weights[at + i]) * float(inputs[i])
    assert mix(weights, at, inputs, count) == (lanes[0] + lanes[1]) + (lanes[2] + lanes[3])
    step = float(generator.normal(0, 0.1))
    expected = weights.tolist()
    for i in range(count):
        expected[at + i] += step * float(inputs[i])
    learn(weights, at, inputs, count, step)
    assert weights.tolist() == expected, "a fused multiplication and addition rounds once, not twice"


def test_learning_finds_the_better_model() -> None:
    generator = random.Random(7)
    weights, inputs, cost = np.full(4, 0.25), np.zeros(4), [0.0, 0.0]
    for n in range(4000):
        bit = int(generator.random() < 0.5)
        inputs[:2] = stretch(0.9 if bit else 0.1), stretch(generator.random())  # one that knows, one that guesses
        p = squash(mix(weights, 0, inputs, 4))
        cost[n // 2000] -= math.log2(p if bit else 1 - p)
        learn(weights, 0, inputs, 4, 0.02 * (bit - p))
    assert cost[1] < cost[0] < 0.1 * 2000
    assert weights[0] > 1 and abs(weights[1]) < 0.2


def test_probabilities_for_the_coder() -> None:
    assert [probability_16(p) for p in (0.0, 1e-9, 0.5, 1 - 1e-9, 1.0)] == [1, 1, 32768, 65535, 65535]
