"""Tensors of a network as bytes: exact, near the entropy, below it where there is structure, and safe."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.codecs.errors import CorruptStream
from laconic.codecs.video.inr_parameters import (
    LARGEST,
    MAX_EXPONENT,
    QuantisedTensor,
    Shapes,
    decode_parameters,
    encode_parameters,
    powers,
)

from .checks import check_rejects

GOLDEN = "ec42f38c26d86c5ce1cce010a332bfc0"
SHAPES: Shapes = (
    ("embedding", (6, 4, 3, 4), "embedding"),
    ("stem_weight", (12, 4, 1, 1), "weight"),
    ("stem_bias", (12,), "bias"),
    ("stage0_weight", (16, 12, 3, 3), "weight"),
    ("stage0_bias", (16,), "bias"),
    ("time_weight", (8, 6), "weight"),
)


def network(seed: int = 0, scale: float = 3.0) -> dict[str, QuantisedTensor]:
    """Return integers whose rows and columns have scales of their own, as those of networks."""
    generator = np.random.default_rng(seed)
    tensors = {}
    for i, (name, shape, role) in enumerate(SHAPES):
        spread = np.full(shape, scale * (20 if role == "bias" else 1))
        for axis in range(min(len(shape), 2) if role != "bias" else 0):
            lengths = [shape[k] if k == axis else 1 for k in range(len(shape))]
            spread = spread * np.exp(generator.normal(0, 0.5, lengths))
        values = np.round(generator.laplace(0, spread)).astype(np.int32)
        rows = generator.integers(-9, 9, shape[0]).astype(np.int32) if i % 2 else None
        columns = generator.integers(-9, 9, shape[1]).astype(np.int32) if len(shape) > 1 and i != 1 else None
        tensors[name] = QuantisedTensor(values, -50 - i, rows, columns)
    return tensors


def check_equal(one: dict[str, QuantisedTensor], other: dict[str, QuantisedTensor]) -> None:
    assert list(one) == list(other)
    for a, b in zip(one.values(), other.values(), strict=True):
        assert a.values.dtype == b.values.dtype == np.int32 and np.array_equal(a.values, b.values)
        assert a.exponent == b.exponent
        for x, y in ((a.rows, b.rows), (a.columns, b.columns)):
            assert (x is None) == (y is None) and (x is None or np.array_equal(x, y))
        assert np.array_equal(a.dequantised(), b.dequantised())


def entropy(values: np.ndarray) -> float:
    """Return the bits that the best static code of a tensor takes, its table not counted."""
    counts = np.unique(values, return_counts=True)[1]
    return float(-(counts * np.log2(counts / values.size)).sum())


def bits(shape: tuple[int, ...], values: np.ndarray, role: str = "weight") -> int:
    tensor = QuantisedTensor(values.astype(np.int32).reshape(shape), -40)
    return 8 * len(encode_parameters([("tensor", shape, role)], {"tensor": tensor}))


def test_steps_are_exact_powers() -> None:
    assert np.array_equal(powers(np.array([-16, 0, 8, 256])), [0.25, 1.0, 2.0, 2.0**32])
    e = np.arange(-MAX_EXPONENT, MAX_EXPONENT + 1)
    assert np.allclose(powers(e), 2.0 ** (e / 8), rtol=1e-15, atol=0)
    tensor = QuantisedTensor(np.ones((2, 3, 1, 1), np.int32), 8, np.array([0, 4], np.int32), np.array([0, -8, 8], np.int32))
    assert np.allclose(tensor.dequantised()[:, :, 0, 0], [[2, 1, 4], [2**1.5, 2**0.5, 2**2.5]], rtol=1e-6)
    assert tensor.dequantised().dtype == np.float32


def test_golden_bytes() -> None:
    coded = encode_parameters(SHAPES, network())
    assert hashlib.sha256(coded).hexdigest()[:32] == GOLDEN, "files of earlier versions would not decode"
    check_equal(decode_parameters(coded, SHAPES), network())


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.integers(0, 2**32), st.floats(0, 25), st.integers(1, 3))
@settings(max_examples=80, deadline=None)
def test_round_trip(shape: list[int], seed: int, octaves: float, count: int) -> None:
    generator = np.random.default_rng(seed)
    shapes, tensors, before = [], {}, {}
    for i in range(count):
        name, role = f"t{i}", ("weight", "bias", "embedding", "grid")[generator.integers(4)]
        shapes.append((name, tuple(shape), role))
        for target in (tensors, before):
            values = np.clip(np.round(generator.standard_cauchy(shape) * 2**octaves / 8), -LARGEST, LARGEST).astype(np.int32)
            rows, columns = (
                generator.integers(-MAX_EXPONENT, MAX_EXPONENT + 1, n).astype(np.int32) if generator.integers(2) else None
                for n in (*shape, 1)[:2]
            )
            target[name] = QuantisedTensor(
                values, int(generator.integers(-256, 257)), rows, columns if len(shape) > 1 else None
            )
    reference = before if generator.integers(2) else None
    check_equal(decode_parameters(encode_parameters(shapes, tensors, reference), shapes, reference), tensors)


@pytest.mark.parametrize("value", [0, 1, -LARGEST, LARGEST])
def test_constant_tensors_cost_next_to_nothing(value: int) -> None:
    assert bits((20, 20, 3, 3), np.full(3600, value)) < 1200


@pytest.mark.parametrize("scale", [0.1, 0.7, 2.5, 8.0, 60.0])
@pytest.mark.parametrize("law", ["laplace", "normal"])
def test_rate_is_near_the_entropy_of_unstructured_values(scale: float, law: str) -> None:
    values = np.round(getattr(np.random.default_rng(3), law)(0, scale, 60 * 30 * 9))
    assert bits((60, 30, 3, 3), values) < 1.02 * entropy(values) + 8 * 64


def test_rows_and_columns_of_their_own_scale_pay() -> None:
    generator = np.random.default_rng(4)
    spread = np.exp(generator.normal(0, 0.7, (60, 1, 1, 1)) + generator.normal(0, 0.7, (1, 30, 1, 1)))
    values = np.round(generator.laplace(0, 3 * spread, (60, 30, 3, 3)))
    assert bits((60, 30, 3, 3), values) < 0.95 * entropy(values)


def test_embeddings_that_change_slowly_pay() -> None:
    generator = np.random.default_rng(5)
    values = np.round(np.cumsum(generator.normal(0, 3, (60, 8, 3, 4)), 0))
    assert bits((60, 8, 3, 4), values, "embedding") < 0.8 * entropy(values)


def test_a_reference_pays_whatever_its_steps() -> None:
    generator = np.random.default_rng(6)
    shapes = [("w", (40, 20, 3, 3), "weight")]
    floats = generator.laplace(0, 1, (40, 20, 3, 3))
    near = floats + generator.laplace(0, 0.05, floats.shape)
    tensor = QuantisedTensor(np.round(near / powers(-24)).astype(np.int32), -24)
    alone = len(encode_parameters(shapes, {"w": tensor}))
    for exponent in (-32, -24, -19):
        reference = {"w": QuantisedTensor(np.round(floats / powers(exponent)).astype(np.int32), exponent)}
        coded = encode_parameters(shapes, {"w": tensor}, reference)
        assert len(coded) < 0.55 * alone
        check_equal(decode_parameters(coded, shapes, reference), {"w": tensor})
    other = {"w": QuantisedTensor(np.ones((2, 2), np.int32), 0), "v": tensor}
    assert encode_parameters(shapes, {"w": tensor}, other) == encode_parameters(shapes, {"w": tensor}), "of another shape"


def test_damage_gives_integers_or_an_error() -> None:
    data = encode_parameters(SHAPES, network(1))

    def opened(damaged: bytes) -> None:
        for tensor in decode_parameters(damaged, SHAPES).values():
            assert np.abs(tensor.values).max() <= LARGEST and np.isfinite(tensor.dequantised()).all()

    assert check_rejects(data, flips=300, truncations=300, open_file=opened) > 100
    for cut in range(0, len(data) - 8, 37):
        with pytest.raises(CorruptStream):
            decode_parameters(data[:cut], SHAPES)
    with pytest.raises(CorruptStream):
        decode_parameters(data + bytes(9), SHAPES)


@given(st.binary(max_size=300))
@settings(max_examples=60, deadline=None)
def test_hostile_bytes(data: bytes) -> None:
    try:
        tensors = decode_parameters(data, SHAPES)
    except CorruptStream:
        return
    assert [tensor.values.shape for tensor in tensors.values()] == [shape for _, shape, _ in SHAPES]


def test_more_parameters_than_bytes_end_early() -> None:
    with pytest.raises(CorruptStream):
        decode_parameters(b"\x55" * 20, [("w", (4096, 4096), "weight")])
    with pytest.raises(CorruptStream, match="more than"):
        decode_parameters(b"", [("w", (1 << 20, 1 << 20), "weight")])


def test_what_cannot_be_coded_is_refused() -> None:
    def refused(tensor: QuantisedTensor, shape: tuple[int, ...], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            encode_parameters([("w", shape, "weight")], {"w": tensor})

    ones = np.ones((2, 3), np.int32)
    refused(QuantisedTensor(ones, 0), (3, 2), "must be int32")
    refused(QuantisedTensor(ones.astype(np.int64), 0), (2, 3), "must be int32")  # type: ignore[arg-type]
    refused(QuantisedTensor(ones * (LARGEST + 1), 0), (2, 3), "magnitudes above")
    refused(QuantisedTensor(ones, MAX_EXPONENT + 1), (2, 3), "steps beyond")
    refused(QuantisedTensor(ones, 0, np.zeros(3, np.int32)), (2, 3), "factor for each index of axis 0")
    refused(QuantisedTensor(ones, 0, None, np.zeros(2, np.int32)), (2, 3), "factor for each index of axis 1")
    refused(QuantisedTensor(np.zeros((0, 3), np.int32), 0), (0, 3), "empty")
