import hashlib
from pathlib import Path

import numpy as np
import pytest

import laconic.entropy.tables as tables_module
from laconic.entropy.build_tables import SURVIVAL, build_table
from laconic.entropy.digest import SymbolDigest, symbol_digest
from laconic.entropy.errors import TablesInvalid
from laconic.entropy.tables import FAMILIES, PRECISION, SCALE_COUNT, SCALE_MAX, SCALE_MIN, Tables, load_tables, scale_of_index

TABLES_SHA256 = "b66891fa88b14bc76a9f17589a5bf70cb1e14b3fb41c392afb8ef16461474dcb"


def test_shipped_tables_never_change() -> None:
    path = Path(tables_module.__file__).with_name("tables.safetensors")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == TABLES_SHA256


@pytest.mark.parametrize("family", FAMILIES)
def test_shipped_tables_are_what_the_generator_writes(family: str) -> None:
    tables = load_tables(family)
    for k in range(0, SCALE_COUNT, 3):
        built = build_table(family, scale_of_index(k))
        assert built.size == tables.table(k).size
        assert np.abs(built - tables.table(k)).max() <= 2  # another mathematical library may round differently


@pytest.mark.parametrize("family", FAMILIES)
def test_tables_sum_are_symmetric_and_follow_the_distribution(family: str) -> None:
    tables = load_tables(family)
    assert len(tables) == SCALE_COUNT
    assert (np.diff(tables.radius) >= 0).all()
    for k in range(SCALE_COUNT):
        table, radius, scale = tables.table(k).astype(np.int64), int(tables.radius[k]), scale_of_index(k)
        assert table.sum() == 1 << PRECISION
        assert (table[:-1] == table[-2::-1]).all()
        survival = SURVIVAL[family]
        exact = np.array([survival(i - 0.5, scale) - survival(i + 0.5, scale) for i in range(1, radius + 1)])
        assert np.abs(table[radius + 1 : -1] / 2.0**PRECISION - exact).max() < 2.0**-PRECISION * 40
        assert table[-1] < 2 ** (PRECISION - 14) + 2


def test_scale_grid_ends_where_it_says() -> None:
    assert scale_of_index(0) == SCALE_MIN
    assert scale_of_index(SCALE_COUNT - 1) == pytest.approx(SCALE_MAX, rel=1e-12)


def test_expected_code_length_is_the_entropy() -> None:
    tables = load_tables("laplace")
    k = 30
    table = tables.table(k)[:-1].astype(np.float64) / 2.0**PRECISION
    symbols = np.arange(-tables.radius[k], tables.radius[k] + 1)
    bits = tables.bits(symbols, np.full(symbols.size, k))
    assert (table * bits).sum() == pytest.approx(-(table * np.log2(table)).sum())


def test_code_length_of_escapes_counts_class_sign_and_suffix() -> None:
    tables = load_tables("laplace")
    escape = 24 - np.log2(float(tables.table(0)[-1]))  # radius 1
    bits = tables.bits(np.array([2, -2, 3, 4, 5]), np.zeros(5, dtype=np.uint8))
    assert bits == pytest.approx(escape + np.array([2.0, 2.0, 4.0, 4.0, 6.0]))


def valid_arrays() -> tuple[np.ndarray, np.ndarray]:
    total = 1 << PRECISION
    return np.array([0, 1]), np.array([total - 1, 1, 1, total - 3, 1, 1])


def test_own_tables_are_accepted() -> None:
    tables = Tables.from_arrays(*valid_arrays())
    assert len(tables) == 2
    assert tables.table(0).tolist() == [(1 << PRECISION) - 1, 1]
    with pytest.raises(ValueError, match="read-only"):
        tables.frequencies[0] = 5


@pytest.mark.parametrize(
    ("radius", "frequencies", "message"),
    [
        (np.array([0.0, 1.0]), None, "integer arrays"),
        (np.array([[0, 1]]), None, "one dimension"),
        (np.array([], dtype=int), None, "1 to 256 tables"),
        (np.array([-1, 1]), None, "radii must lie"),
        (np.array([0, 1 << 40]), None, "radii must lie"),
        (np.array([1, 1]), None, "ask for 8"),
        (None, np.array([(1 << PRECISION), 0, 1, (1 << PRECISION) - 3, 1, 1]), "must lie in 1"),
        (None, np.array([(1 << PRECISION) - 1, 1, 1, (1 << PRECISION) - 4, 1, 1]), "table 1 sum to 16777215"),
    ],
)
def test_bad_tables_are_refused(radius: np.ndarray | None, frequencies: np.ndarray | None, message: str) -> None:
    good_radius, good_frequencies = valid_arrays()
    with pytest.raises(TablesInvalid, match=message):
        Tables.from_arrays(good_radius if radius is None else radius, good_frequencies if frequencies is None else frequencies)


def test_unknown_family_is_refused() -> None:
    with pytest.raises(TablesInvalid, match="gaussian, laplace, logistic"):
        load_tables("cauchy")


def test_digest_is_folded_crc32c_of_little_endian_int32() -> None:
    # CRC-32C of b"\x01\0\0\0\xff\xff\xff\xff" is 728c7b95
    assert symbol_digest(np.array([1, -1])) == bytes.fromhex("0919")
    assert symbol_digest() == b"\0\0"


def test_digest_does_not_depend_on_how_symbols_are_split() -> None:
    symbols = np.arange(-500, 500, dtype=np.int64)
    digest = SymbolDigest()
    for part in np.split(symbols, [3, 3, 700]):
        digest.update(part.astype(np.int32))
    assert digest.value() == symbol_digest(symbols) == symbol_digest(symbols.reshape(50, 20))
    symbols[7] += 1
    assert digest.value() != symbol_digest(symbols)
