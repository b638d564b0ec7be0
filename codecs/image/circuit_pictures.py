"""Small pictures through a circuit: up to 1,000 in a payload, all of their samples or those not known beforehand."""

from __future__ import annotations

import itertools
import math
import zlib
from dataclasses import dataclass
from typing import cast

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from ...entropy.adaptive_binary import check_supply, finish_decoding, finish_encoding, start_decoding, start_encoding, written
from ...entropy.errors import SymbolsCorrupt
from ..errors import CorruptStream, InvalidSettings
from .circuit_walk import CODED, KNOWN, IntegerCircuit, walk

__all__ = ["PICTURES_PER_CHUNK", "Coded", "decode_pictures", "encode_pictures"]

PICTURES_PER_CHUNK = 1000
TOGETHER = 100  # pictures that go through the tree side by side; more need more cache
CHECK_BYTES, LENGTH_BYTES = 4, 4

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Coded:
    """A payload, the bits that the circuit's probabilities call for, and the multiplications that it took."""

    payload: bytes
    ideal_bits: float
    cost: int


def encode_pictures(circuit: IntegerCircuit, values: Bytes, known: NDArray[np.bool_] | None = None) -> Coded:
    """Code pictures [N, variables]; where `known` [N, variables] is given, only the samples that it does not mark."""
    samples = np.array(values)
    status = np.full(values.shape, CODED, np.uint8) if known is None else np.where(known, KNOWN, CODED).astype(np.uint8)
    widths, costs = np.zeros(values.shape, np.int32), list[int]()

    def kernel(out: Bytes) -> int:
        coder = start_encoding()
        costs[:] = [walk(circuit, samples[part], status[part], coder, out, False, widths[part]) for part in _parts(len(values))]
        return int(finish_encoding(coder, out))

    coded = written(kernel, 1024 + values.size // 2)
    widths[status != CODED] = 1 << 24
    ideal = float(24 * widths.size - np.log2(widths.astype(np.float64)).sum())
    return Coded((b"" if known is None else _known_head(values, known)) + coded, ideal, sum(costs))


def decode_pictures(
    circuit: IntegerCircuit, payload: bytes, count: int, known: Bytes | None = None, partial: bool = False
) -> Bytes:
    """Restore pictures [count, variables].

    `partial` says that the payload holds only what was not known beforehand; `known` [count, variables] are the samples, of
    which those that were known are looked at. Raises `CorruptStream`, and `InvalidSettings` where `known` does not fit.
    """
    shape = (count, circuit.order.size)
    values, status = np.zeros(shape, np.uint8), np.full(shape, CODED, np.uint8)
    if partial:
        mask, payload = _read_known_head(payload, shape, known)
        status[mask] = KNOWN
        values[mask] = cast(Bytes, known)[mask]
    coded = np.frombuffer(bytearray(payload), np.uint8)  # the kernel, which also encodes, takes bytes that it could write
    coder = start_decoding(coded)
    nothing = np.zeros((0, 0), np.int32)
    try:
        for part in _parts(count):
            walk(circuit, values[part], status[part], coder, coded, True, nothing)
            check_supply(coder, coded)
        finish_decoding(coder, coded)
    except SymbolsCorrupt as error:
        raise CorruptStream(str(error)) from error
    return values


def _parts(count: int) -> list[slice]:
    """Return the pictures in groups of almost equal size that go through the tree side by side."""
    groups = max(1, math.ceil(count / TOGETHER))
    edges = [count * k // groups for k in range(groups + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def _check(values: Bytes, known: NDArray[np.bool_]) -> bytes:
    """Return a checksum of the known samples and of where they are."""
    crc = google_crc32c.extend(google_crc32c.value(np.packbits(known).tobytes()), values[known].tobytes())
    return int(crc).to_bytes(CHECK_BYTES, "little")


def _known_head(values: Bytes, known: NDArray[np.bool_]) -> bytes:
    mask = zlib.compress(np.packbits(known, axis=1).tobytes(), 9)
    return _check(values, known) + len(mask).to_bytes(LENGTH_BYTES, "little") + mask


def _read_known_head(payload: bytes, shape: tuple[int, int], known: Bytes | None) -> tuple[NDArray[np.bool_], bytes]:
    """Return which samples are known and what follows the head."""
    if known is None:
        raise InvalidSettings("the file holds only the samples that were not known: give the others as known=")
    if known.shape != shape or known.dtype != np.uint8:
        raise InvalidSettings(f"known= has {known.size:,} samples of {known.dtype}, not {shape[0] * shape[1]:,} of uint8")
    check, rest = payload[:CHECK_BYTES], payload[CHECK_BYTES + LENGTH_BYTES :]
    length, row = int.from_bytes(payload[CHECK_BYTES : CHECK_BYTES + LENGTH_BYTES], "little"), math.ceil(shape[1] / 8)
    if len(check) < CHECK_BYTES or length > len(rest):
        raise CorruptStream("the payload ends inside its list of known samples")
    try:
        inflater = zlib.decompressobj()
        bits = inflater.decompress(rest[:length], row * shape[0])
    except zlib.error as error:
        raise CorruptStream("the list of known samples does not open") from error
    if len(bits) != row * shape[0]:
        raise CorruptStream("the list of known samples is too short")
    mask = np.unpackbits(np.frombuffer(bits, np.uint8).reshape(shape[0], row), axis=1, count=shape[1]).astype(np.bool_)
    if _check(known, mask) != check:
        raise InvalidSettings("known= differs from the samples that the file was made with")
    return mask, rest[length:]
