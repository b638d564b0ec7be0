"""One packet of sound to bytes and back without loss. docs/codecs/audio-lossless.md has the layout.

Integers are coded by `lossless_coder` after what is simple is taken off: constant channels, channels that equal another,
a step that all values are multiples of (16 bits in 24), and lists of values where few are used (companded sound). Samples of
float32 become integers of up to 24 bits by a common exponent, and the bits that this leaves out, of which files that were
integers once have none. What would be larger than the samples themselves is stored as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...entropy.adaptive_binary import (
    decode_integers,
    encode_integers,
    finish_decoding,
    finish_encoding,
    start_decoding,
    start_encoding,
)
from ...entropy.digest import symbol_digest
from ...entropy.errors import SymbolsCorrupt
from ..errors import CorruptStream, TruncatedStream, UnsupportedMedia
from ..signals import AudioSamples
from ..sources import dtype_of_bits
from .lossless_coder import code_samples
from .lossless_efforts import EFFORTS
from .lossless_floats import join_floats, split_floats

__all__ = ["decode_packet", "encode_packet"]

STORED, CODED, FLOATS = 0, 1, 2  # the first byte of a packet, after the checksum
PLAIN, CONSTANT, COPY, STEPPED, LISTED = 0, 1, 2, 3, 4  # the first byte of a channel
LOWEST, HIGHEST = -(2**24), 2**24 - 1  # of integers that are coded
FEW = 8  # times that a value of a list is used, at least, on average
SPARSE = 0.9  # share of the values between the quartiles that are used, below which lists are tried

Integers = NDArray[np.int32]


class _Reader:
    """Takes parts of a packet from its front; raises `TruncatedStream` where there is too little."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = memoryview(content), 0

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        part = bytes(self._content[self._at : self._at + count])
        if len(part) < count:
            raise TruncatedStream("a packet of sound ends too early")
        self._at += count
        return part

    def byte(self) -> int:
        """Return the next byte."""
        return self.take(1)[0]

    def integer(self, low: int, high: int) -> int:
        """Return the next four bytes as an integer, little-endian; raises `CorruptStream` outside of low..high."""
        value = int.from_bytes(self.take(4), "little", signed=True)
        if not low <= value <= high:
            raise CorruptStream(f"a packet of sound says {value} where {low} to {high} are possible")
        return value

    def rest(self) -> bytes:
        """Return all bytes that are left."""
        return self.take(len(self._content) - self._at)


@dataclass(frozen=True)
class _Channel:
    """How values that the kernel codes, of lowest..highest, become one channel's samples.

    A value v stands for `offset` + `step` * v, or for entry v of a list.
    """

    lowest: int
    highest: int
    step: int = 1
    offset: int = 0
    listed: Integers | None = None

    def samples(self, values: Integers) -> Integers:
        """Return the samples that values stand for."""
        return values * np.int32(self.step) + np.int32(self.offset) if self.listed is None else self.listed[values]


def encode_packet(samples: AudioSamples, bits: int, effort: int) -> bytes:
    """Code samples [C, N] of `bits` bits (32: float32); raises `UnsupportedMedia` where they have more."""
    if bits == 32:
        integers, beside = split_floats(np.ascontiguousarray(samples, np.float32))
        body = bytes([FLOATS]) + beside + _encode_integers(integers, effort)
    else:
        if _exceeds(samples, bits):
            raise UnsupportedMedia(f"sound of {bits} bits has samples of more")
        body = bytes([CODED]) + _encode_integers(np.ascontiguousarray(samples, np.int32), effort)
    width = _stored_width(bits)
    if len(body) > samples.size * width:
        stored = np.ascontiguousarray(samples.astype(f"<{samples.dtype.kind}{samples.dtype.itemsize}"))
        raw = stored.reshape(-1).view(np.uint8).reshape(-1, samples.dtype.itemsize)[:, :width]
        body = bytes([STORED]) + raw.tobytes()
    return _checksum(samples) + body


def decode_packet(coded: bytes, shape: tuple[int, int], bits: int, effort: int) -> AudioSamples:
    """Return the samples [C, N]; raises `CorruptStream`."""
    reader = _Reader(coded)
    try:
        checksum, way = reader.take(2), reader.byte()
        samples = _decode_way(reader, way, shape, bits, effort)
    except SymbolsCorrupt as error:
        raise CorruptStream(f"a packet of sound is damaged: {error}") from error
    if _checksum(samples) != checksum:
        raise CorruptStream("the samples of a packet do not have its checksum")
    return samples


def _decode_way(reader: _Reader, way: int, shape: tuple[int, int], bits: int, effort: int) -> AudioSamples:
    dtype = dtype_of_bits(bits)
    if way == FLOATS and bits == 32:
        largest, beside = reader.byte(), reader.take(reader.integer(0, 2**31 - 1))
        return join_floats(_decode_integers(reader, shape, effort), largest, beside)
    if way == CODED and bits < 32:
        values = _decode_integers(reader, shape, effort)
        if _exceeds(values, bits):
            raise CorruptStream(f"a packet has samples of more than {bits} bits")
        return values.astype(dtype)
    if way == STORED:
        raw = np.frombuffer(reader.rest(), np.uint8)
        width = _stored_width(bits)
        if raw.size != shape[0] * shape[1] * width:
            raise CorruptStream(f"a packet stores {raw.size} bytes, not {shape[0] * shape[1] * width}")
        if width == 3:
            parts = raw.reshape(-1, 3).astype(np.int32)
            whole = parts[:, 0] | parts[:, 1] << 8 | (parts[:, 2] << 24 >> 8)
        else:
            whole = raw.view({1: "i1", 2: "<i2", 4: "<f4"}[width])
        samples: AudioSamples = whole.astype(dtype).reshape(shape)
        return samples
    raise CorruptStream(f"there is no way {way} to code sound of {bits} bits")


def _exceeds(samples: AudioSamples, bits: int) -> bool:
    limit = 1 << (bits - 1)
    return bool(samples.size and (samples.min() < -limit or samples.max() >= limit))


def _stored_width(bits: int) -> int:
    """Return the bytes of a sample that is stored as it is."""
    return (bits + 7) // 8


def _checksum(samples: AudioSamples) -> bytes:
    return symbol_digest(samples.view(np.int32) if samples.dtype == np.float32 else samples)


def _encode_integers(samples: Integers, effort: int) -> bytes:
    """Code integers [C, N], with lists of values where these make it shorter."""
    sparse = [_is_sparse(line) for line in samples]
    plain = _encode_channels(samples, [False] * len(sparse), effort)
    return min(plain, _encode_channels(samples, sparse, effort), key=len) if any(sparse) else plain


def _is_sparse(line: Integers) -> bool:
    """Whether few of the values of a channel occur: not only far from the others, where any sound has gaps."""
    used = np.unique(line)
    if used.size < 2 or FEW * used.size > line.size:
        return False
    low, high = np.quantile(line, (0.25, 0.75), method="nearest")
    possible = (int(high) - int(low)) // _step(used) + 1
    return bool(np.count_nonzero((used >= low) & (used <= high)) < SPARSE * possible)


def _step(used: Integers) -> int:
    """Return what the differences between values are multiples of."""
    return int(np.gcd.reduce(np.diff(used)))


def _encode_channels(samples: Integers, listed: Sequence[bool], effort: int) -> bytes:
    """Code integers [C, N]: how each channel is coded, then the values of those that are, together."""
    head, values, channels = b"", list[Integers](), list[_Channel]()
    for c, line in enumerate(samples):
        copied = next((j for j in range(c) if np.array_equal(samples[j], line)), None)
        if copied is not None:
            head += bytes([COPY, copied])
        elif (line == line[0]).all():
            head += bytes([CONSTANT]) + _four(int(line[0]))
        else:
            header, channel, coded = _analysed(line, listed[c])
            head += header
            channels.append(channel)
            values.append(coded)
    if not channels:
        return head
    out = np.zeros(5 * len(values) * samples.shape[1] + 64, np.uint8)
    coder = start_encoding()
    _run(np.stack(values), channels, effort, coder, out, False)
    return head + out[: finish_encoding(coder, out)].tobytes()


def _analysed(line: Integers, listed: bool) -> tuple[bytes, _Channel, Integers]:
    """Return how to code a channel that is not constant: its header, and its values."""
    used = np.unique(line)
    low, high = int(used[0]), int(used[-1])
    step = _step(used)
    if listed:
        gaps = encode_integers(np.diff(used) - 1)
        header = bytes([LISTED]) + _four(low) + _four(used.size) + _four(len(gaps)) + gaps
        return header, _Channel(0, used.size - 1, listed=used), np.searchsorted(used, line).astype(np.int32)
    offset = low % step
    channel = _Channel((low - offset) // step, (high - offset) // step, step, offset)
    header = _four(channel.lowest) + _four(channel.highest)
    if step == 1:
        return bytes([PLAIN]) + header, channel, line
    return bytes([STEPPED]) + header + _four(step) + _four(offset), channel, (line - offset) // step


def _decode_integers(reader: _Reader, shape: tuple[int, int], effort: int) -> Integers:
    """Return the integers [C, N]."""
    samples = np.zeros(shape, np.int32)
    channels, copies = dict[int, _Channel](), dict[int, int]()
    for c in range(shape[0]):
        kind = reader.byte()
        if kind == CONSTANT:
            samples[c] = reader.integer(LOWEST, HIGHEST)
        elif kind == COPY:
            copies[c] = reader.byte()
            if copies[c] >= c:
                raise CorruptStream("a channel is a copy of one that comes after it")
        elif kind in (PLAIN, STEPPED):
            channels[c] = _read_range(reader, kind == STEPPED)
        elif kind == LISTED:
            channels[c] = _read_list(reader, shape[1])
        else:
            raise CorruptStream(f"there is no kind {kind} of channels")
    coded = np.frombuffer(bytearray(reader.rest()), np.uint8)  # writable, as one kernel serves both ways
    if channels:
        values = np.zeros((len(channels), shape[1]), np.int32)
        coder = start_decoding(coded)
        _run(values, list(channels.values()), effort, coder, coded, True)
        finish_decoding(coder, coded)
        for c, line in zip(channels, values, strict=True):
            samples[c] = channels[c].samples(line)
    elif coded.size:
        raise CorruptStream("a packet of sound has bytes left over")
    for c, source in copies.items():
        samples[c] = samples[source]
    return samples


def _read_range(reader: _Reader, stepped: bool) -> _Channel:
    lowest = reader.integer(LOWEST, HIGHEST - 1)
    highest = reader.integer(lowest + 1, HIGHEST)
    if not stepped:
        return _Channel(lowest, highest)
    step = reader.integer(2, HIGHEST - LOWEST)
    offset = reader.integer(0, step - 1)
    if offset + step * lowest < LOWEST or offset + step * highest > HIGHEST:
        raise CorruptStream("a channel has samples of more than 25 bits")
    return _Channel(lowest, highest, step, offset)


def _read_list(reader: _Reader, samples: int) -> _Channel:
    low, count = reader.integer(LOWEST, HIGHEST), reader.integer(2, max(samples // FEW, 2))
    gaps = decode_integers(reader.take(reader.integer(0, 2**31 - 1)), count - 1)
    listed = low + np.concatenate([[0], np.cumsum(gaps.astype(np.int64) + 1)])
    if gaps.min() < 0 or listed[-1] > HIGHEST:
        raise CorruptStream("a channel's values do not ascend, or have more than 25 bits")
    return _Channel(0, count - 1, listed=listed.astype(np.int32))


def _run(
    values: Integers,
    channels: Sequence[_Channel],
    effort: int,
    coder: NDArray[np.int64],
    coded: NDArray[np.uint8],
    decoding: bool,
) -> None:
    """Code the values [C, N] of all channels."""
    lowest, highest = (np.array([getattr(one, name) for one in channels], np.int64) for name in ("lowest", "highest"))
    predictor, model = EFFORTS[effort].predictor(len(channels)), EFFORTS[effort].model(len(channels))
    code_samples(values, lowest, highest, predictor, model, coder, coded, decoding)


def _four(value: int) -> bytes:
    return value.to_bytes(4, "little", signed=True)
