"""`flac`: FLAC (Xiph.Org, RFC 9639) by libFLAC. Every payload chunk is a FLAC stream of a stretch of about four seconds."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import soundfile  # type: ignore[import-untyped]
from pydantic import Field

from ..codec import CodecSettings, Progress, Stream
from ..errors import CorruptStream, UnsupportedMedia
from ..signals import Audio, AudioSamples
from ..sources import dtype_of_bits
from .samples import PacketSamples, audio_of_packets, packets_of

__all__ = ["Flac", "FlacSettings"]

LENGTH = 16  # the parameter that holds the samples of a chunk
BLOCK = 4096  # libFLAC's own: chunks are a whole number of blocks long
SECONDS = 4
NOMINAL_RATE = 48_000  # in all chunks: the header has the true one, and FLAC has none above 655,350 Hz
MOST = 2**24  # samples of a chunk
SIGNATURE, STREAMINFO, LAST = b"fLaC", 34, 0x80
SUBTYPES = {8: "PCM_S8", 16: "PCM_16", 24: "PCM_24"}


class FlacSettings(CodecSettings):
    """Settings of `flac`."""

    effort: int = Field(6, ge=1, le=9, description="1 (fastest) to 9 (smallest file): libFLAC's levels 0 to 8")


class Flac:
    """The codec. Takes sound of integers, 8 to 24 bits; always lossless."""

    id = "flac"
    signal = "audio"
    lossless = True
    overlaps = True
    native = True
    devices = ("cpu",)
    Settings = FlacSettings

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def encode(self, signal: Audio, settings: FlacSettings, progress: Progress | None = None) -> Stream:
        """Compress sound, a chunk at a time; raises `UnsupportedMedia` for float32, of which FLAC would keep 24 bits."""
        if signal.bits == 32:
            raise UnsupportedMedia("flac keeps integers of up to 24 bits, not float32: opus takes it, or scale to 24 bits")
        length = BLOCK * max(1, round(SECONDS * signal.rate / BLOCK))
        level = (settings.effort - 1) / 8
        chunks = [_flac(samples, signal.bits, level) for samples in packets_of(signal, length, self.id, progress)]
        return Stream(self.id, signal.shape, tuple(chunks) or (b"",), bit_depth=signal.bits, params={LENGTH: length})

    def decode(self, stream: Stream, progress: Progress | None = None) -> Audio:
        """Restore the sound, whose samples are decoded as they are asked for; raises `CorruptStream`, here and then."""
        length = stream.params.get(LENGTH)
        if stream.audio is None or len(stream.shape) != 2 or stream.bit_depth > 24:
            raise CorruptStream("a flac stream holds sound of up to 24 bits")
        if type(length) is not int or not 0 < length <= MOST:
            raise CorruptStream("the length of a chunk is missing or malformed")
        channels, count = stream.shape
        if len(stream.chunks) != max(1, -(-count // length)):
            raise CorruptStream(f"{count:,} samples in chunks of {length:,} are not {len(stream.chunks)} chunks")

        def decode(number: int) -> AudioSamples:
            here = min(length, count - number * length)
            return _samples(stream.chunks[number], (channels, here), stream.bit_depth)

        if progress:
            progress(1.0, self.id)
        source = PacketSamples((channels, count), dtype_of_bits(stream.bit_depth), length, decode, stream.lost)
        return audio_of_packets(source, stream.audio.rate, stream.bit_depth)


def _flac(samples: AudioSamples, bits: int, level: float) -> bytes:
    """Return samples (C, n) as a FLAC stream; those of depths between 8, 16 and 24 bits stand in the next of these."""
    width = _width(bits)
    wide: Any = samples.T
    if width != 16:  # libsndfile takes integers that fill their type from the top
        wide = wide.astype(np.int32) << (32 - width)
    file = io.BytesIO()
    with soundfile.SoundFile(
        file, "w", NOMINAL_RATE, samples.shape[0], SUBTYPES[width], format="FLAC", compression_level=level
    ) as sink:
        sink.write(np.ascontiguousarray(wide))
    return _bare(file.getvalue())


def _bare(data: bytes) -> bytes:
    """Return a FLAC stream with no block of metadata but the first, which decoding needs."""
    return data[:4] + bytes([LAST]) + data[5:42] + data[42 + sum(_metadata_sizes(data)) :]


def _metadata_sizes(data: bytes) -> Iterator[int]:
    at, last = 42, data[4] & LAST
    while not last:
        last, size = data[at] & LAST, 4 + int.from_bytes(data[at + 1 : at + 4], "big")
        yield size
        at += size


def _samples(data: bytes, shape: tuple[int, int], bits: int) -> AudioSamples:
    """Return the samples (C, n) of such a stream, and no more; raises `CorruptStream` for another number of them."""
    channels, count = shape
    width = _width(bits)
    try:
        if data[:8] != SIGNATURE + bytes([LAST, 0, 0, STREAMINFO]):
            raise CorruptStream("a chunk is no FLAC stream")
        with soundfile.SoundFile(io.BytesIO(data)) as source:
            if (source.channels, source.subtype) != (channels, SUBTYPES[width]) or source.frames != count:
                raise CorruptStream("a chunk holds other sound than the header says")
            array = source.read(count, "int16" if width == 16 else "int32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError, ValueError, TypeError) as error:
        if isinstance(error, CorruptStream):
            raise
        raise CorruptStream(f"a chunk is no FLAC stream: {error}") from error
    if array.shape != (count, channels):
        raise CorruptStream(f"a chunk holds {array.shape[0]:,} samples of {count:,}")
    array = array if width == 16 else array >> (32 - width)
    return cast(AudioSamples, np.ascontiguousarray(array.T).astype(dtype_of_bits(bits), copy=False))


def _width(bits: int) -> int:
    return 8 if bits == 8 else 16 if bits <= 16 else 24
