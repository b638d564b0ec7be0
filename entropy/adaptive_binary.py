"""Range coder that lives inside numba kernels: adaptive bits, bits without model, and symbols by table.

For codecs whose next distribution depends on the symbol just decoded: their kernels (numba, `nogil`, no fastmath) call
`encode_bit`, `encode_uniform`, `encode_entry` and the matching decoders below. `encode_integers` is such a kernel;
`laconic.entropy.symbol_by_table` is another, in a file of its own.

The coder is a carry-propagating byte-wise range coder (Martin 1979; Subbotin's and LZMA's form) in integers of 64 bits:

    interval   low .. low + size - 1,  2**40 < size <= 2**48 between symbols; a byte leaves at the top while size <= 2**40
    symbol     a share of size: entry i of a table gets (size >> 24) * f_i, the last entry also what the shift cut off
    bit        probability of a one: (a + b) >> 7 of 2**16, where a, b are 22-bit estimates that move by 2**-FAST and
               2**-SLOW of the distance (two rates, as in VVC's CABAC: Bross et al. 2021, section III-F), and faster at
               first: by 2**-r in the k-th use, where r is the number of binary digits of k

Every sequence of bytes decodes to something: nothing overflows or is read out of bounds. Past the end the decoder reads zeros;
since the encoder ends with the shortest bytes inside the last interval, a complete stream needs at most 6 of them.

A coder is an int64 array [low or code, size, position]; `contexts` are int32 [n, 3]: a, b and
the number of uses up to 2**SLOW; `new_contexts` makes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

from .errors import SymbolsCorrupt
from .tables import PRECISION

__all__ = [
    "check_supply",
    "decode_bit",
    "decode_entry",
    "decode_integers",
    "decode_probability",
    "decode_uniform",
    "encode_bit",
    "encode_entry",
    "encode_integers",
    "encode_probability",
    "encode_uniform",
    "finish_decoding",
    "finish_encoding",
    "new_contexts",
    "start_decoding",
    "start_encoding",
    "written",
]

Integers = NDArray[np.int64]
Bytes = NDArray[np.uint8]
Contexts = NDArray[np.int32]
Function = TypeVar("Function", bound=Callable[..., Any])

LOW, SIZE, POSITION = 0, 1, 2  # of a coder; LOW is the code (relative to the interval) when decoding
WINDOW = 48  # bits of the interval; six bytes
FULL, SMALL = 1 << WINDOW, 1 << (WINDOW - 8)
FAST, SLOW = 5, 8  # adaptation rates
SURE = 1 << 22  # certainty, in the units of the estimates
RATE = np.array([k.bit_length() for k in range(1, (1 << SLOW) + 1)])  # adaptation rate after k - 1 uses
MAX_CLASS = 30  # of Exp-Golomb codes: magnitudes lie below 2**31
SET_SIZE = 2 + 2 * MAX_CLASS + 1  # contexts of one set of `encode_integers`: zero, sign, classes, first suffix bits
MAX_SETS = 1 << 16


def _compiled(function: Function) -> Function:
    return cast(Function, numba.njit(cache=True, nogil=True)(function))


def new_contexts(count: int) -> Contexts:
    """Return `count` contexts, each at probability 1/2."""
    return np.tile(np.array([SURE // 2, SURE // 2, 0], dtype=np.int32), (count, 1))


@_compiled
def start_encoding() -> Integers:
    """Return a coder at the start of a stream."""
    coder = np.zeros(3, dtype=np.int64)
    coder[SIZE] = FULL
    return coder


@_compiled
def _settle(coder: Integers, out: Bytes) -> None:
    """Carry into bytes already written and write those that are settled; bytes beyond the end of `out` are only counted."""
    low, position = coder[LOW], coder[POSITION]
    if low >= FULL:
        low -= FULL
        i = position - 1
        while 0 <= i < out.size and out[i] == 255:
            out[i] = 0
            i -= 1
        if 0 <= i < out.size:
            out[i] += 1
    size = coder[SIZE]
    while size <= SMALL:
        if position < out.size:
            out[position] = low >> (WINDOW - 8)
        position += 1
        low = (low & (SMALL - 1)) << 8
        size <<= 8
    coder[LOW], coder[SIZE], coder[POSITION] = low, size, position


@_compiled
def _adapt(contexts: Contexts, c: int, bit: int) -> None:
    fast, slow, uses = contexts[c, 0], contexts[c, 1], contexts[c, 2]
    rate = RATE[uses]
    if bit:
        contexts[c, 0] = fast + ((SURE - fast) >> min(rate, FAST))
        contexts[c, 1] = slow + ((SURE - slow) >> min(rate, SLOW))
    else:
        contexts[c, 0] = fast - (fast >> min(rate, FAST))
        contexts[c, 1] = slow - (slow >> min(rate, SLOW))
    contexts[c, 2] = min(uses + 1, RATE.size - 1)


@_compiled
def encode_probability(coder: Integers, out: Bytes, p: int, bit: int) -> None:
    """Append `bit` (0 or 1), a one with probability `p` of 2**16, 1..65535: for models outside of this file."""
    share = (coder[SIZE] >> 16) * p
    if bit:
        coder[SIZE] = share
    else:
        coder[LOW] += share
        coder[SIZE] -= share
    _settle(coder, out)


@_compiled
def encode_bit(coder: Integers, out: Bytes, contexts: Contexts, c: int, bit: int) -> None:
    """Append `bit` (0 or 1) under context `c`, and adapt the context."""
    encode_probability(coder, out, (np.int64(contexts[c, 0]) + contexts[c, 1]) >> 7, bit)
    _adapt(contexts, c, bit)


@_compiled
def encode_uniform(coder: Integers, out: Bytes, value: int, bits: int) -> None:
    """Append the lowest `bits` (0..32) of `value` without a model."""
    left = bits
    while left > 0:
        part = min(left, 16)
        left -= part
        share = coder[SIZE] >> part
        coder[LOW] += share * ((value >> left) & ((1 << part) - 1))
        coder[SIZE] = share
        _settle(coder, out)


@_compiled
def encode_entry(coder: Integers, out: Bytes, cumulative: NDArray[np.int32], start: int, end: int, entry: int) -> None:
    """Append `entry` (0 .. end - start - 2) of the table whose edges, from 0 to 2**24, are `cumulative[start:end]`."""
    scale = coder[SIZE] >> PRECISION
    left = scale * np.int64(cumulative[start + entry])
    coder[LOW] += left
    if start + entry + 2 == end:
        coder[SIZE] -= left
    else:
        coder[SIZE] = scale * np.int64(cumulative[start + entry + 1]) - left
    _settle(coder, out)


@_compiled
def finish_encoding(coder: Integers, out: Bytes) -> int:
    """Write the last bytes and return the length of the stream; if it is above `out.size`, `out` was too short."""
    top = coder[LOW] + coder[SIZE] - 1
    cut = WINDOW
    while (top >> cut) << cut < coder[LOW]:
        cut -= 8
    coder[LOW], coder[SIZE] = (top >> cut) << cut, FULL
    _settle(coder, out)
    for shift in range(WINDOW - 8, cut - 8, -8):
        if coder[POSITION] < out.size:
            out[coder[POSITION]] = (coder[LOW] >> shift) & 255
        coder[POSITION] += 1
    return int(coder[POSITION])


@_compiled
def _fill(coder: Integers, coded: Bytes) -> None:
    """Read bytes until the interval is large again."""
    while coder[SIZE] <= SMALL:
        coder[SIZE] <<= 8
        coder[LOW] <<= 8
        if coder[POSITION] < coded.size:
            coder[LOW] |= np.int64(coded[coder[POSITION]])
        coder[POSITION] += 1


@_compiled
def start_decoding(coded: Bytes) -> Integers:
    """Return a coder at the start of the stream `coded`."""
    coder = np.zeros(3, dtype=np.int64)
    coder[SIZE] = 1
    _fill(coder, coded)
    return coder


@_compiled
def decode_probability(coder: Integers, coded: Bytes, p: int) -> int:
    """Return the next bit, a one with probability `p` of 2**16, 1..65535."""
    share = (coder[SIZE] >> 16) * p
    bit = 0
    if coder[LOW] < share:
        bit = 1
        coder[SIZE] = share
    else:
        coder[LOW] -= share
        coder[SIZE] -= share
    _fill(coder, coded)
    return bit


@_compiled
def decode_bit(coder: Integers, coded: Bytes, contexts: Contexts, c: int) -> int:
    """Return the next bit under context `c`, and adapt the context."""
    bit = decode_probability(coder, coded, (np.int64(contexts[c, 0]) + contexts[c, 1]) >> 7)
    _adapt(contexts, c, bit)
    return bit


@_compiled
def decode_uniform(coder: Integers, coded: Bytes, bits: int) -> int:
    """Return the next `bits` (0..32) without a model."""
    value, left = 0, bits
    while left > 0:
        part = min(left, 16)
        left -= part
        share = coder[SIZE] >> part
        # the remainder of the division belongs to nobody; damaged bytes that point there count as the last value
        digit = min(coder[LOW] // share, (1 << part) - 1)
        coder[LOW] = min(coder[LOW] - digit * share, share - 1)
        coder[SIZE] = share
        value = (value << part) | digit
        _fill(coder, coded)
    return value


@_compiled
def decode_entry(coder: Integers, coded: Bytes, cumulative: NDArray[np.int32], start: int, end: int) -> int:
    """Return the next entry of the table whose edges are `cumulative[start:end]`."""
    scale = coder[SIZE] >> PRECISION
    quantile = coder[LOW] // scale
    low, high = start, end - 1
    while high - low > 1:
        middle = (low + high) >> 1
        if cumulative[middle] <= quantile:
            low = middle
        else:
            high = middle
    left = scale * np.int64(cumulative[low])
    coder[LOW] -= left
    if low + 2 == end:
        coder[SIZE] -= left
    else:
        coder[SIZE] = scale * np.int64(cumulative[low + 1]) - left
    _fill(coder, coded)
    return low - start


def check_supply(coder: Integers, coded: Bytes) -> None:
    """Raise `SymbolsCorrupt` if more was decoded than `coded` can hold: a long stream need not be gone through then."""
    if int(coder[POSITION]) - coded.size > WINDOW // 8:
        raise SymbolsCorrupt("coded symbols are corrupt: the bytes end too early")


def finish_decoding(coder: Integers, coded: Bytes) -> None:
    """Raise `SymbolsCorrupt` unless `coded` is as long as the symbols decoded from it needed."""
    check_supply(coder, coded)
    if int(coder[POSITION]) < coded.size:
        raise SymbolsCorrupt("coded symbols are corrupt: bytes are left over")


def written(kernel: Callable[[Bytes], int], guess: int) -> bytes:
    """Run an encoding kernel, a second time if its output is longer than `guess` bytes."""
    out = np.zeros(guess, dtype=np.uint8)
    length = kernel(out)
    if length > out.size:
        out = np.zeros(length, dtype=np.uint8)
        kernel(out)
    return out[:length].tobytes()


@_compiled
def _encode_integers(values: NDArray[np.int32], sets: NDArray[np.int32], contexts: Contexts, out: Bytes) -> int:
    coder = start_encoding()
    for i in range(values.size):
        base, value = int(sets[i]) * SET_SIZE, int(values[i])
        encode_bit(coder, out, contexts, base, 1 if value == 0 else 0)
        if value == 0:
            continue
        encode_bit(coder, out, contexts, base + 1, 1 if value < 0 else 0)
        magnitude, c = abs(value), 0
        while magnitude >> (c + 1):
            encode_bit(coder, out, contexts, base + 2 + c, 1)
            c += 1
        if c < MAX_CLASS:
            encode_bit(coder, out, contexts, base + 2 + c, 0)
        if c > 0:
            encode_bit(coder, out, contexts, base + 2 + MAX_CLASS + c, (magnitude >> (c - 1)) & 1)
            encode_uniform(coder, out, magnitude, c - 1)
    return finish_encoding(coder, out)


@_compiled
def _decode_integers(coded: Bytes, sets: NDArray[np.int32], contexts: Contexts, values: NDArray[np.int32]) -> Integers:
    coder = start_decoding(coded)
    for i in range(values.size):
        base = int(sets[i]) * SET_SIZE
        if decode_bit(coder, coded, contexts, base):
            values[i] = 0
            continue
        negative = decode_bit(coder, coded, contexts, base + 1)
        c = 0
        while c < MAX_CLASS and decode_bit(coder, coded, contexts, base + 2 + c):
            c += 1
        magnitude = 1
        if c > 0:
            magnitude = 2 + decode_bit(coder, coded, contexts, base + 2 + MAX_CLASS + c)
            magnitude = (magnitude << (c - 1)) | decode_uniform(coder, coded, c - 1)
        values[i] = -magnitude if negative else magnitude
    return coder


def _context_sets(sets: NDArray[Any] | None, count: int) -> NDArray[np.int32]:
    if sets is None:
        return np.zeros(count, dtype=np.int32)
    if sets.shape != (count,) or sets.dtype.kind not in "iu":
        raise ValueError(f"{count} values need as many integer context sets, not {sets.dtype} {sets.shape}")
    if count and (sets.min() < 0 or sets.max() >= MAX_SETS):
        raise ValueError(f"context sets must lie in 0..{MAX_SETS - 1}")
    return np.ascontiguousarray(sets, dtype=np.int32)


def _integer_contexts(sets: NDArray[np.int32]) -> Contexts:
    return new_contexts(SET_SIZE * (int(sets.max(initial=0)) + 1))


def encode_integers(values: NDArray[Any], sets: NDArray[Any] | None = None) -> bytes:
    """Code integers [n] of magnitude below 2**31 with adaptive Exp-Golomb codes.

    `sets` [n] (0..65535) says which set of adaptive probabilities each value uses; both sides must know it. By default there
    is one. A value is a zero bit, a sign, its class c = floor(log2 |value|) in unary, and c suffix bits, of which the first is
    adaptive too. Raises ValueError for what cannot be coded.
    """
    values = np.asarray(values)
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise ValueError(f"values must be integers in one dimension, not {values.dtype} {values.shape}")
    if values.size and (values.min() <= -(1 << 31) or values.max() >= 1 << 31):
        raise ValueError("values must lie in -(2**31 - 1)..2**31 - 1")
    packed, checked = np.ascontiguousarray(values, dtype=np.int32), _context_sets(sets, values.size)
    return written(lambda out: _encode_integers(packed, checked, _integer_contexts(checked), out), 64 + values.size)


def decode_integers(coded: bytes, count: int, sets: NDArray[Any] | None = None) -> NDArray[np.int32]:
    """Return the `count` integers that `encode_integers` coded with the same `sets`; raises `SymbolsCorrupt`."""
    checked, values = _context_sets(sets, count), np.zeros(count, dtype=np.int32)
    array = np.frombuffer(coded, dtype=np.uint8)
    finish_decoding(_decode_integers(array, checked, _integer_contexts(checked), values), array)
    return values
