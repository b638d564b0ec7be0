import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.entropy.errors import SymbolsCorrupt
from laconic.entropy.range_coder import MAX_MAGNITUDE, IndexedDecoder, IndexedEncoder
from laconic.entropy.tables import PRECISION, Tables, load_tables, scale_of_index


def coded(symbols: np.ndarray, indices: np.ndarray, tables: Tables, skip_below: int = 0) -> bytes:
    encoder = IndexedEncoder()
    encoder.encode(symbols, indices, tables, skip_below)
    return encoder.finish()


def sample(count: int, seed: int, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Symbols of logistic tables, with indices as codecs see them: mostly low."""
    rng = np.random.default_rng(seed)
    indices = np.clip(rng.normal(14, 10, count), 0, 63).astype(np.uint8)
    scales = np.array([scale_of_index(k) for k in range(64)])
    return np.round(spread * rng.logistic(0, 1, count) * scales[indices]).astype(np.int32), indices


def reference_intervals(symbols: np.ndarray, indices: np.ndarray, tables: Tables) -> list[tuple[int, int]]:
    """(left edge, width) of each coded entry in units of 2**-24, as docs/entropy.md defines them."""
    entries, escapes = [], []
    for k in range(len(tables)):
        table, radius = tables.table(k).tolist(), int(tables.radius[k])
        for position in np.flatnonzero(indices == k):
            symbol = int(symbols[position])
            i = symbol + radius if abs(symbol) <= radius else 2 * radius + 1
            entries.append((sum(table[:i]), table[i]))
            if abs(symbol) > radius:
                escapes.append((int(position), abs(symbol) - radius, symbol < 0))
    escapes.sort()
    for _, m, _ in escapes:
        c = m.bit_length() - 1
        entries.append(((1 << 24) - (1 << (24 - c)), 1 << (24 - min(c + 1, 19))))
    entries += [(negative << 23, 1 << 23) for _, _, negative in escapes]
    for c in range(1, 20):
        entries += [((m - (1 << c)) << (24 - c), 1 << (24 - c)) for _, m, _ in escapes if m.bit_length() - 1 == c]
    return entries


def reference_decode_point(coded_bytes: bytes, entries: list[tuple[int, int]]) -> None:
    """Follow a plain-integer range decoder (64-bit state, 32-bit words) and check that it meets every entry."""
    words = iter(int.from_bytes(coded_bytes[i : i + 4].ljust(4, b"\0"), "big") for i in range(0, len(coded_bytes), 4))
    lower, size = 0, (1 << 64) - 1
    point = next(words, 0) << 32 | next(words, 0)
    for left, width in entries:
        scale = size >> PRECISION
        quantile = ((point - lower) % (1 << 64)) // scale
        assert left <= quantile < left + width
        lower, size = (lower + scale * left) % (1 << 64), scale * width
        if size < 1 << 32:
            lower, size, point = lower << 32 & (1 << 64) - 1, size << 32, (point << 32 & (1 << 64) - 1) | next(words, 0)


def test_golden_bytes() -> None:
    symbols = np.array([0, 1, -1, 0, 5, -300, 2, 0, 70000, -3], dtype=np.int32)
    indices = np.array([0, 12, 12, 3, 20, 20, 0, 63, 40, 20])
    assert coded(symbols, indices, load_tables("logistic")).hex() == "ff817198e0c81d4c5aacfbe81937d2b9"
    assert coded(symbols, indices, load_tables("laplace")).hex() == "ffc0781f76d1d2ee9be4538680be4886c2"
    assert coded(symbols, indices, load_tables("gaussian")).hex() == "ffffbac8d54ee72bded10cc618df3917e196"


def test_empty_and_silent_messages_take_no_bytes() -> None:
    tables = load_tables("logistic")
    assert IndexedEncoder().finish() == b""
    assert coded(np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.uint8), tables) == b""
    assert coded(np.zeros(1000, dtype=np.int32), np.zeros(1000, dtype=np.uint8), tables, skip_below=1) == b""
    assert (IndexedDecoder(b"").decode(np.zeros(1000, dtype=np.uint8), tables, skip_below=1) == 0).all()


@given(st.integers(0, 2**32), st.integers(0, 60), st.sampled_from([1.0, 1.0, 4.0, 200.0]))
@settings(max_examples=150, deadline=None)
def test_bytes_are_those_of_integer_arithmetic(seed: int, count: int, spread: float) -> None:
    tables = load_tables("logistic")
    symbols, indices = sample(count, seed, spread)
    data = coded(symbols, indices, tables)
    reference_decode_point(data, reference_intervals(symbols, indices, tables))
    assert (IndexedDecoder(data).decode(indices, tables) == symbols).all()
    assert not data.endswith(b"\0")
    assert len(data) <= tables.bits(symbols, indices).sum() / 8 + 1.01


def test_extreme_probabilities_and_carries_round_trip() -> None:
    total = 1 << PRECISION
    tables = Tables.from_arrays(np.array([0, 0, 1]), np.array([total - 1, 1, 1, total - 1, 1, 1, total - 3, 1]))
    rng = np.random.default_rng(5)
    for _ in range(1500):
        indices = rng.integers(0, 3, rng.integers(1, 12))
        symbols = np.where(rng.random(indices.size) < 0.3, rng.integers(-9, 9, indices.size), 0)
        symbols[(indices == 2) & (symbols == 0)] = 1
        data = coded(symbols, indices, tables)
        assert (IndexedDecoder(data).decode(indices, tables) == symbols).all()
        assert len(data) <= tables.bits(symbols, indices).sum() / 8 + 1.01


def test_steps_with_tables_chosen_on_the_way() -> None:
    families = [load_tables(name) for name in ("logistic", "gaussian", "laplace")]
    parts = [sample(count, seed) for seed, count in enumerate((7, 4000, 0, 1, 333))]
    encoder = IndexedEncoder()
    for step, (symbols, indices) in enumerate(parts):
        encoder.encode(symbols * (indices >= step), indices, families[step % 3], skip_below=step)
    decoder = IndexedDecoder(encoder.finish())
    for step, (symbols, indices) in enumerate(parts):
        decoded = decoder.decode(indices, families[step % 3], skip_below=step)
        assert decoded.dtype == np.int32
        assert (decoded == symbols * (indices >= step)).all()


def test_finish_can_be_called_on_the_way() -> None:
    tables = load_tables("laplace")
    (first, first_indices), (second, second_indices) = sample(500, 1), sample(500, 2)
    encoder = IndexedEncoder()
    encoder.encode(first, first_indices, tables)
    assert encoder.finish() == coded(first, first_indices, tables)
    encoder.encode(second, second_indices, tables)
    decoder = IndexedDecoder(encoder.finish())
    assert (decoder.decode(first_indices, tables) == first).all()
    assert (decoder.decode(second_indices, tables) == second).all()


def test_rate_is_ideal_on_a_picture_s_worth_of_symbols() -> None:
    tables = load_tables("logistic")
    symbols, indices = sample(400_000, 3)
    data = coded(symbols, indices, tables)
    ideal = tables.bits(symbols, indices).sum() / 8
    assert ideal - 3 < len(data) < ideal * 1.0005 + 2
    assert (IndexedDecoder(data).decode(indices, tables) == symbols).all()


def test_largest_escapes_round_trip() -> None:
    tables = load_tables("gaussian")
    edges = [s * (int(tables.radius[k]) + m) for k in (0, 63) for s in (1, -1) for m in (0, 1, 2, 3, 4, 7, 8)]
    symbols = np.array([MAX_MAGNITUDE, -MAX_MAGNITUDE, MAX_MAGNITUDE - 1, *edges])
    for k in (0, 63):
        indices = np.full(symbols.size, k)
        assert (IndexedDecoder(coded(symbols, indices, tables)).decode(indices, tables) == symbols).all()


def test_what_cannot_be_coded_is_refused() -> None:
    tables, encoder = load_tables("logistic"), IndexedEncoder()
    one, zero = np.ones(1, dtype=np.int32), np.zeros(1, dtype=np.uint8)
    with pytest.raises(ValueError, match="lie in -1048576"):
        encoder.encode(one * (MAX_MAGNITUDE + 1), zero, tables)
    with pytest.raises(ValueError, match="must be 0"):
        encoder.encode(one, zero, tables, skip_below=1)
    with pytest.raises(ValueError, match=r"lie in 0\.\.63"):
        encoder.encode(one, np.array([64]), tables)
    with pytest.raises(ValueError, match="as many integer symbols"):
        encoder.encode(np.ones(2, dtype=np.int32), zero, tables)
    with pytest.raises(ValueError, match="as many integer symbols"):
        encoder.encode(np.ones(1), zero, tables)
    with pytest.raises(ValueError, match="integers in one dimension"):
        encoder.encode(one, np.ones(1), tables)
    assert encoder.finish() == b""


@given(st.binary(max_size=200), st.integers(0, 2**32))
@settings(max_examples=300, deadline=None)
def test_hostile_bytes_give_symbols_or_an_error(data: bytes, seed: int) -> None:
    tables = load_tables("logistic")
    _, indices = sample(300, seed)
    try:
        symbols = IndexedDecoder(data).decode(indices, tables)
    except SymbolsCorrupt:
        return
    assert np.abs(symbols).max() <= MAX_MAGNITUDE


def test_saturated_bytes_are_an_error_not_a_crash() -> None:
    tables = load_tables("logistic")
    with pytest.raises(SymbolsCorrupt):
        for _ in range(100):
            IndexedDecoder(b"\xff" * 64).decode(np.full(200, 63), tables)
