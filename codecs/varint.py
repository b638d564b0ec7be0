"""Varints: whole numbers in groups of 7 bits, as docs/format.md defines them for lengths and differences of times."""

from __future__ import annotations

from .errors import CorruptStream, TruncatedStream

__all__ = ["VARINT_BYTES", "read_varint", "varint"]

VARINT_BYTES = 5  # of the longest
LIMIT = 2**32


def varint(number: int) -> bytes:
    """Return the 1 to 5 bytes of a number; raises `CorruptStream` unless it is in 0 .. 2**32 - 1."""
    if not 0 <= number < LIMIT:
        raise CorruptStream(f"a varint holds 0 to {LIMIT - 1}, not {number}")
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def read_varint(coded: bytes | memoryview, at: int, what: str, longest: int = VARINT_BYTES) -> tuple[int, int]:
    """Return the number whose varint begins at byte `at`, and the place after it; `what` it is, errors say.

    Raises `TruncatedStream` where the bytes end inside it, `CorruptStream` where it takes more than `longest` bytes, is not in
    its shortest form or not below 2**32.
    """
    number = 0
    for count in range(longest):
        if at + count >= len(coded):
            raise TruncatedStream(f"the bytes end inside {what}")
        byte = coded[at + count]
        number |= (byte & 0x7F) << 7 * count
        if byte < 0x80:
            if number >= LIMIT or (byte == 0 and count):
                raise CorruptStream(f"{what} is not in its shortest form or too large")
            return number, at + count + 1
    raise CorruptStream(f"{what} takes too many bytes")
