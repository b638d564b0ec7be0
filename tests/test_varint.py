"""Varints: what is written comes back, and nothing else is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laconic.codecs.errors import CorruptStream, TruncatedStream
from laconic.codecs.varint import VARINT_BYTES, read_varint, varint


@pytest.mark.parametrize(
    ("number", "coded"),
    [
        (0, "00"),
        (127, "7f"),
        (128, "8001"),
        (300, "ac02"),
        (2**14 - 1, "ff7f"),
        (2**14, "808001"),
        (2**28 - 1, "ffffff7f"),
        (2**28, "8080808001"),
        (2**32 - 1, "ffffffff0f"),
    ],
)
def test_bytes_of_numbers(number: int, coded: str) -> None:
    assert varint(number).hex() == coded
    assert read_varint(bytes.fromhex(coded), 0, "it") == (number, len(coded) // 2)


@given(st.integers(0, 2**32 - 1), st.binary(max_size=6), st.binary(max_size=6))
def test_numbers_come_back_from_between_other_bytes(number: int, before: bytes, after: bytes) -> None:
    coded = varint(number)
    assert 1 <= len(coded) <= VARINT_BYTES
    for data in (before + coded + after, memoryview(before + coded + after)):
        assert read_varint(data, len(before), "it") == (number, len(before) + len(coded))
    for cut in range(len(coded)):
        with pytest.raises(TruncatedStream, match="the bytes end inside a length"):
            read_varint(before + coded[:cut], len(before), "a length")


@given(st.binary(max_size=8))
def test_no_two_forms_are_the_same_number(data: bytes) -> None:
    try:
        number, after = read_varint(data, 0, "it")
    except CorruptStream:
        return
    assert varint(number) == data[:after]


@pytest.mark.parametrize(
    ("coded", "why"),
    [
        ("8000", "shortest form"),
        ("ff8000", "shortest form"),
        ("8080808000", "shortest form"),
        ("8080808010", "too large"),
        ("ffffffff7f", "too large"),
        ("808080808001", "too many bytes"),
        ("ffffffffff", "too many bytes"),
    ],
)
def test_other_forms_are_corrupt(coded: str, why: str) -> None:
    with pytest.raises(CorruptStream, match=f"a length .*{why}") as raised:
        read_varint(bytes.fromhex(coded), 0, "a length")
    assert not isinstance(raised.value, TruncatedStream)


def test_a_field_may_allow_fewer_bytes() -> None:
    assert read_varint(varint(2**28 - 1), 0, "it", 4) == (2**28 - 1, 4)
    with pytest.raises(CorruptStream, match="too many bytes"):
        read_varint(varint(2**28), 0, "it", 4)


@pytest.mark.parametrize("number", [-1, 2**32])
def test_numbers_that_do_not_fit_are_not_written(number: int) -> None:
    with pytest.raises(CorruptStream, match="a varint holds"):
        varint(number)
