"""Samples of float32 as integers of 24 bits with a common exponent, and the bits that these leave out.

The integer is the sample in units of 2**-22 of the largest one's power of two, towards zero. Of a float32, whose mantissa
has 24 bits, this leaves out one bit at the largest exponent, and one more with each smaller one: their number follows from the
integer. Whatever becomes zero (zeros of both signs, infinite ones, what is no number, and what is very small) is kept whole.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...entropy.adaptive_binary import (
    POSITION,
    Contexts,
    decode_bit,
    decode_uniform,
    encode_bit,
    encode_uniform,
    finish_decoding,
    finish_encoding,
    new_contexts,
    start_decoding,
    start_encoding,
)
from ...entropy.kernels import kernel
from ..errors import CorruptStream

__all__ = ["join_floats", "split_floats"]

MANTISSA, BIAS = 24, 127  # bits of a mantissa with its leading one; of the exponent
INTEGER = 23  # bits of the integers' magnitudes
LEAST = 23  # the smallest exponent for all, so that only zeros come from subnormal samples
CONTEXTS = MANTISSA + 1  # by the number of bits left out; 0 stands for samples that became zero
BEYOND = 16

Integers = NDArray[np.int32]
Longs = NDArray[np.int64]
Bytes = NDArray[np.uint8]


def split_floats(samples: NDArray[np.float32]) -> tuple[Integers, bytes]:
    """Return the integers [C, N] of samples, and the bytes that say the rest."""
    words = samples.view(np.uint32).astype(np.int64)
    exponents = words >> 23 & 255
    finite = exponents < 255
    largest = max(int(exponents[finite].max(initial=0)), LEAST)
    scaled = np.where(finite, samples, 0).astype(np.float64) * 2.0 ** (BIAS + INTEGER - 1 - largest)
    integers = np.trunc(scaled).astype(np.int32)
    left_out = _left_out(integers)
    rest = np.where(integers == 0, words, words & ((np.int64(1) << left_out) - 1))
    beside = b""
    if rest.any():
        out = np.zeros(5 * rest.size + 64, np.uint8)
        coder = start_encoding()
        _code_rest(rest.reshape(-1), left_out.reshape(-1), new_contexts(CONTEXTS), coder, out, False)
        beside = out[: finish_encoding(coder, out)].tobytes()
    return integers, bytes([largest]) + len(beside).to_bytes(4, "little") + beside


def join_floats(integers: Integers, largest: int, beside: bytes) -> NDArray[np.float32]:
    """Return the samples of integers [C, N]; raises `CorruptStream` and `SymbolsCorrupt`."""
    sizes = np.abs(integers.astype(np.int64))
    if not LEAST <= largest < 255 or (sizes.size and sizes.max() >> INTEGER):
        raise CorruptStream("a packet's samples are no floating-point numbers")
    left_out, rest = _left_out(integers), np.zeros(integers.shape, np.int64)
    if beside:
        coded = np.frombuffer(bytearray(beside), np.uint8)
        coder, flat = start_decoding(coded), rest.reshape(-1)
        _code_rest(flat, left_out.reshape(-1), new_contexts(CONTEXTS), coder, coded, True)
        finish_decoding(coder, coded)
    mantissas = (sizes << left_out) + rest
    exponents = largest + 1 - left_out
    words = np.where(integers < 0, 1 << 31, 0) | exponents << 23 | mantissas & ((1 << (MANTISSA - 1)) - 1)
    words = np.where(integers == 0, rest, words)
    return words.astype(np.uint32).view(np.float32)


def _left_out(integers: Integers) -> Longs:
    """Return how many bits of each mantissa are not in the integers; 0 for zeros."""
    sizes = np.abs(integers.astype(np.int64))
    _, digits = np.frexp(sizes.astype(np.float64))
    return np.where(sizes == 0, 0, np.maximum(MANTISSA - digits, 0)).astype(np.int64)


@kernel
def _code_rest(rest: Longs, left_out: Longs, contexts: Contexts, coder: Longs, coded: Bytes, decoding: bool) -> None:
    """Code the rest of each sample: whether it is zero, under a context of its size, and if not its bits."""
    for i in range(rest.size):
        if decoding and coder[POSITION] > coded.size + BEYOND:
            return
        size = left_out[i]
        bits = size if size > 0 else 32
        if decoding:
            rest[i] = decode_uniform(coder, coded, bits) if decode_bit(coder, coded, contexts, size) else 0
        else:
            encode_bit(coder, coded, contexts, size, 1 if rest[i] != 0 else 0)
            if rest[i] != 0:
                encode_uniform(coder, coded, rest[i], bits)
