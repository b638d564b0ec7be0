import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from laconic.entropy.adaptive_binary import (
    decode_bit,
    decode_integers,
    decode_probability,
    decode_uniform,
    encode_bit,
    encode_integers,
    encode_probability,
    encode_uniform,
    finish_decoding,
    finish_encoding,
    new_contexts,
    start_decoding,
    start_encoding,
)
from laconic.entropy.errors import SymbolsCorrupt
from laconic.entropy.symbol_by_table import decode_indexed, encode_indexed
from laconic.entropy.tables import PRECISION, Tables, load_tables, scale_of_index

LARGEST = (1 << 31) - 1


def test_golden_bytes() -> None:
    values = np.array([0, 0, 1, -1, 5, 0, -70000, LARGEST, -LARGEST, 2])
    assert encode_integers(values).hex() == "5e9a3a332fea59f91f8612e417fe04abf2ffcdf8fc"
    assert encode_integers(values, np.arange(10) % 3).hex() == "3ef39200041dc7c3800001f01ffff7477000022e23fffeef"
    indices = np.array([0, 12, 12, 3, 20, 20, 0, 63, 40, 20])
    symbols = np.array([0, 1, -1, 0, 5, -300, 2, 0, 70000, -3])
    assert encode_indexed(symbols, indices, load_tables("logistic")).hex() == "d809bde032269457672e45577918406d"


@given(arrays(np.int32, st.integers(0, 80), elements=st.integers(-LARGEST, LARGEST)), st.integers(1, 5))
@settings(max_examples=150, deadline=None)
def test_integers_round_trip(values: np.ndarray, sets: int) -> None:
    chosen = np.arange(values.size) % sets
    coded = encode_integers(values, chosen)
    assert (decode_integers(coded, values.size, chosen) == values).all()


@given(st.integers(0, 2**32), st.floats(0, 20), st.integers(0, 300))
@settings(max_examples=100, deadline=None)
def test_geometric_integers_round_trip(seed: int, scale: float, count: int) -> None:
    values = np.round(np.random.default_rng(seed).laplace(0, scale, count)).astype(np.int64)
    assert (decode_integers(encode_integers(values), count) == values).all()


def test_rate_approaches_the_entropy() -> None:
    values = np.round(np.random.default_rng(1).laplace(0, 1.5, 200_000)).astype(np.int32)
    p = np.unique(values, return_counts=True)[1] / values.size
    entropy = -(p * np.log2(p)).sum() * values.size / 8
    assert len(encode_integers(values)) < 1.012 * entropy


def test_contexts_pay() -> None:
    sets = np.arange(20_000) % 2
    values = np.round(np.random.default_rng(2).laplace(0, 1, 20_000) * (0.2 + 20 * sets)).astype(np.int32)
    assert len(encode_integers(values, sets)) < 0.9 * len(encode_integers(values))


def test_a_million_zeros_take_next_to_nothing() -> None:
    coded = encode_integers(np.zeros(1_000_000, dtype=np.int32))
    assert len(coded) < 150
    assert not decode_integers(coded, 1_000_000).any()


def sample(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    indices = np.clip(rng.normal(14, 10, count), 0, 63).astype(np.uint8)
    scales = np.array([scale_of_index(k) for k in range(64)])
    return np.round(rng.logistic(0, 1, count) * scales[indices] * rng.choice([1, 1, 30], count)).astype(np.int32), indices


@given(st.integers(0, 2**32), st.integers(0, 50))
@settings(max_examples=100, deadline=None)
def test_indexed_symbols_round_trip_at_the_ideal_rate(seed: int, count: int) -> None:
    tables = load_tables("logistic")
    symbols, indices = sample(count, seed)
    coded = encode_indexed(symbols, indices, tables)
    assert (decode_indexed(coded, indices, tables) == symbols).all()
    assert len(coded) <= tables.bits(symbols, indices).sum() / 8 + 1.02


def test_extreme_tables_and_carries_round_trip() -> None:
    total = 1 << PRECISION
    tables = Tables.from_arrays(np.array([0, 0, 1]), np.array([total - 1, 1, 1, total - 1, 1, 1, total - 3, 1]))
    rng = np.random.default_rng(5)
    for _ in range(1500):
        indices = rng.integers(0, 3, rng.integers(1, 12))
        symbols = np.where(rng.random(indices.size) < 0.3, rng.integers(-9, 9, indices.size), 0)
        symbols[(indices == 2) & (symbols == 0)] = 1
        coded = encode_indexed(symbols, indices, tables)
        assert (decode_indexed(coded, indices, tables) == symbols).all()
        assert len(coded) <= tables.bits(symbols, indices).sum() / 8 + 1.02


@numba.njit  # type: ignore[untyped-decorator]
def interleave(bits: np.ndarray, out: np.ndarray) -> int:
    coder, contexts = start_encoding(), np.array([[1 << 21, 1 << 21, 0]] * 4, dtype=np.int32)
    for i in range(bits.size):
        encode_bit(coder, out, contexts, i % 4, bits[i])
        encode_uniform(coder, out, i, 32)
    return finish_encoding(coder, out)


def test_kernels_of_codecs_call_the_coder() -> None:
    bits = np.random.default_rng(3).integers(0, 2, 300)
    out = np.zeros(4000, dtype=np.uint8)
    coded = out[: interleave(bits, out)]
    coder, contexts = start_decoding(coded), new_contexts(4)
    for i, bit in enumerate(bits):
        assert decode_bit(coder, coded, contexts, i % 4) == bit
        assert decode_uniform(coder, coded, 32) == i
    finish_decoding(coder, coded)


def coded_with(bits: np.ndarray, probabilities: np.ndarray) -> bytes:
    """Code bits with given probabilities of a one, of 2**16."""
    coder, out = start_encoding(), np.zeros(64 + 3 * bits.size, dtype=np.uint8)
    for bit, p in zip(bits.tolist(), probabilities.tolist(), strict=True):
        encode_probability(coder, out, p, bit)
    return out[: finish_encoding(coder, out)].tobytes()


def decoded_with(coded: bytes, probabilities: np.ndarray) -> list[int]:
    array = np.frombuffer(coded, dtype=np.uint8)
    coder = start_decoding(array)
    bits = [decode_probability(coder, array, p) for p in probabilities.tolist()]
    finish_decoding(coder, array)
    return bits


@given(st.lists(st.tuples(st.integers(1, 65535), st.integers(0, 1)), max_size=300))
@settings(max_examples=100, deadline=None)
def test_bits_with_given_probabilities_round_trip(cases: list[tuple[int, int]]) -> None:
    probabilities, bits = np.array([p for p, _ in cases], int), np.array([bit for _, bit in cases], int)
    assert decoded_with(coded_with(bits, probabilities), probabilities) == bits.tolist()


@pytest.mark.parametrize(("low", "high"), [(1, 65535), (30_000, 36_000), (1, 400), (65_000, 65_535)])
def test_bits_cost_what_their_probabilities_say(low: int, high: int) -> None:
    rng = np.random.default_rng(low)
    probabilities = rng.integers(low, high, 60_000, endpoint=True)
    bits = (rng.random(probabilities.size) * 65536 < probabilities).astype(int)
    coded = coded_with(bits, probabilities)
    ideal = -np.log2(np.where(bits == 1, probabilities, 65536 - probabilities) / 65536).sum()
    assert abs(8 * len(coded) - ideal) < 0.001 * ideal + 16
    assert decoded_with(coded, probabilities) == bits.tolist()


def test_an_output_that_is_too_short_is_counted_not_overrun() -> None:
    bits = np.random.default_rng(3).integers(0, 2, 300)
    room = np.full(4000, 7, dtype=np.uint8)
    length = interleave(bits, room[:100])
    assert length == interleave(bits, np.zeros(4000, dtype=np.uint8))
    assert (room[100:] == 7).all()


def test_streams_of_another_length_are_noticed() -> None:
    values = np.round(np.random.default_rng(4).laplace(0, 3, 400)).astype(np.int32)
    coded = encode_integers(values)
    for length in range(len(coded)):
        try:
            assert not (decode_integers(coded[:length], values.size) == values).all()
        except SymbolsCorrupt:
            continue
    with pytest.raises(SymbolsCorrupt, match="left over"):
        decode_integers(coded + bytes(7), values.size)
    with pytest.raises(SymbolsCorrupt, match="too early"):
        decode_integers(b"", 100_000)


@given(st.binary(max_size=120), st.integers(0, 200))
@settings(max_examples=300, deadline=None)
def test_hostile_bytes_give_symbols_or_an_error(data: bytes, count: int) -> None:
    for decode in (
        lambda: decode_integers(data, count),
        lambda: decode_indexed(data, sample(count, 0)[1], load_tables("laplace")),
    ):
        try:
            symbols = decode()
        except SymbolsCorrupt:
            continue
        assert symbols.dtype == np.int32 and symbols.shape == (count,)


def test_saturated_bytes_are_safe() -> None:
    for filler in (b"\xff", b"\0", b"\x80"):
        for decode in (
            lambda f=filler: decode_integers(f * 5000, 3000),
            lambda f=filler: decode_indexed(f * 5000, sample(3000, 0)[1], load_tables("laplace")),
        ):
            with pytest.raises(SymbolsCorrupt):
                decode()


def test_what_cannot_be_coded_is_refused() -> None:
    with pytest.raises(ValueError, match="lie in"):
        encode_integers(np.array([1 << 31]))
    with pytest.raises(ValueError, match="lie in"):
        encode_integers(np.array([-(1 << 31)]))
    with pytest.raises(ValueError, match="integers in one dimension"):
        encode_integers(np.array([0.5]))
    with pytest.raises(ValueError, match="as many integer context sets"):
        encode_integers(np.array([1, 2]), np.array([0]))
    with pytest.raises(ValueError, match="context sets must lie"):
        encode_integers(np.array([1]), np.array([1 << 16]))
    with pytest.raises(ValueError, match="symbols must lie"):
        encode_indexed(np.array([(1 << 20) + 1]), np.array([0]), load_tables("laplace"))
    with pytest.raises(ValueError, match="need one index"):
        encode_indexed(np.array([1]), np.array([64]), load_tables("laplace"))
    with pytest.raises(ValueError, match="one-dimensional"):
        decode_indexed(b"", np.array([64]), load_tables("laplace"))
