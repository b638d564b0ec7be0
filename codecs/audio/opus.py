"""`opus`: Opus (RFC 6716) by libopus. One encoder runs through all of the sound; chunks of ten seconds decode apart.

A decoder that begins in the middle needs some packets before those that count, until it is where the encoder was: each chunk
repeats the packets of the 160 ms before it (twice what RFC 7845 asks for in section 4.6; then nothing is left to measure).
Sound of another rate than 48 kHz is resampled on both sides, which needs a little beside the chunk too.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from typing import Any, Literal, Self, cast

import av
import numpy as np
import soxr  # type: ignore[import-untyped]
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ..codec import CodecSettings, Progress, Stream
from ..errors import CorruptStream, UnsupportedMedia
from ..signals import Audio, AudioSamples
from ..sources import LAYOUTS, dtype_of_bits
from ..varint import varint
from ..video.ffmpeg import failures_are, parts_of
from .samples import PacketSamples, audio_of_packets, packets_of
from .writers import OPUS_LAYOUTS, kbps_of

__all__ = ["Opus", "OpusSettings"]

RATE = 48_000  # of Opus itself
SECONDS = 10  # of a chunk, so that one is a whole number of samples at every rate
PREROLL = 7680  # samples of Opus: 160 ms
MARGIN = 960  # samples of Opus on either side that resampling looks at
SLOWEST, FASTEST = 4_000, 768_000  # Hz: slower ones need more than the margin
FRAME, DELAY, APART = 16, 17, 18  # parameters: samples of a frame, of the encoder's delay; whether channels are coded apart
DEFAULT_FRAME, DEFAULT_DELAY = 960, 312
LONG_BELOW = 12.0  # kbit/s a channel: frames are longer, as their lengths and headers weigh more
MOST_KBPS = 256  # a channel
# Streams and pairs of channels among them, and which channel each is: as libopus orders 1 to 8 channels (RFC 7845, 5.1.1).
STREAMS = ((1, 0), (1, 1), (2, 1), (2, 2), (3, 2), (4, 2), (4, 3), (5, 3))
ORDERS = ("0", "01", "021", "0123", "04123", "041235", "0412356", "06123457")
APART_ORDERS = ("0", "01", "021", "0123", "02134", "021453", "0215643", "02167453")  # where no two channels are a pair
FloatSamples = NDArray[np.float32]


class OpusSettings(CodecSettings):
    """Settings of `opus`."""

    quality: float = Field(60, ge=0, le=100, description="0 (smallest file) to 100 (best): 6 to 160 kbit/s a channel")
    kbps: float | None = Field(None, ge=6, le=510, description="kbit/s of all channels, in place of a quality")
    effort: int = Field(9, ge=1, le=9, description="1 (fastest) to 9 (best): libopus's complexities 2 to 10")
    frame: Literal["20", "40", "60"] | None = Field(
        None, description="ms of a frame; not given: 60 below 12 kbit/s a channel, else 20"
    )

    @model_validator(mode="after")
    def _one_rate(self) -> Self:
        if self.kbps is not None and "quality" in self.model_fields_set:
            raise ValueError("a bit rate is given in place of a quality: give one of the two")
        return self


@dataclass(frozen=True)
class _Coding:
    """How an encoder runs: channels, whether they are coded apart, samples of a frame, bits per second and complexity."""

    channels: int
    apart: bool
    frame: int
    bits_a_second: int
    complexity: int


class Opus:
    """The codec. Takes all sound from 4 to 768 kHz; keeps its rate, length and depth."""

    id = "opus"
    signal = "audio"
    lossless = False
    overlaps = True
    native = True
    devices = ("cpu",)
    Settings = OpusSettings

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def encode(self, signal: Audio, settings: OpusSettings, progress: Progress | None = None) -> Stream:
        """Compress sound, reading it once; raises `UnsupportedMedia` for rates that are not taken."""
        channels, rate = signal.shape[0], signal.rate
        if not SLOWEST <= rate <= FASTEST:
            raise UnsupportedMedia(f"opus takes 4 to 768 kHz, not {rate:,} Hz")
        kbps = settings.kbps or kbps_of(settings.quality, channels)
        each = min(kbps / channels, MOST_KBPS)
        frame = 48 * int(settings.frame or (60 if each < LONG_BELOW else 20))
        apart = channels > 2 and not _fits(signal)
        coding = _Coding(channels, apart, frame, max(500, round(1000 * each * channels)), settings.effort + 1)
        delay, packets = _packets(_at_48k(signal, progress), coding)
        chunks = tuple(_chunks(packets, signal.shape[1], rate, frame, delay)) if signal.shape[1] else (b"",)
        params: dict[int, int | bool] = {} if frame == DEFAULT_FRAME else {FRAME: frame}
        params |= {} if delay == DEFAULT_DELAY else {DELAY: delay}
        params |= {APART: True} if apart else {}
        return Stream(self.id, signal.shape, chunks, bit_depth=signal.bits, params=params)

    def decode(self, stream: Stream, progress: Progress | None = None) -> Audio:
        """Restore the sound, whose samples are decoded as they are asked for; raises `CorruptStream`, here and then."""
        if stream.audio is None or len(stream.shape) != 2 or not SLOWEST <= stream.audio.rate <= FASTEST:
            raise CorruptStream("an opus stream holds sound of 4 to 768 kHz")
        (channels, count), rate, bits = stream.shape, stream.audio.rate, stream.bit_depth
        facts = [stream.params.get(key, usual) for key, usual in ((FRAME, DEFAULT_FRAME), (DELAY, DEFAULT_DELAY))]
        frame, delay = (fact if type(fact) is int else -1 for fact in facts)
        if frame not in (960, 1920, 2880) or not 0 <= delay < RATE:
            raise CorruptStream("the opus stream's frames are malformed")
        length = SECONDS * rate
        if len(stream.chunks) != max(1, -(-count // length)):
            raise CorruptStream(f"{count:,} samples in chunks of {length:,} are not {len(stream.chunks)} chunks")
        head = _head(channels, stream.params.get(APART) is True)

        def decode(number: int) -> AudioSamples:
            here = min(length, count - number * length)
            span = _Span(number, here, rate, frame, delay)
            wide = _decoded(stream.chunks[number], head, span, channels)
            return _as_bits(span.at_rate(wide), bits)

        if progress:
            progress(1.0, self.id)
        source = PacketSamples((channels, count), dtype_of_bits(bits), length, decode, stream.lost)
        return audio_of_packets(source, rate, bits)


@dataclass(frozen=True)
class _Span:
    """Where a chunk lies in the encoder's stream: chunk `number` with `count` samples at `rate`."""

    number: int
    count: int
    rate: int
    frame: int
    delay: int

    @property
    def margin(self) -> int:
        """How many samples of Opus are wanted beside those of the chunk, on either side."""
        return 0 if self.rate == RATE else MARGIN

    @property
    def first(self) -> int:
        """The first sample of Opus that is wanted, as the sound has them."""
        return max(0, self.number * SECONDS * RATE - self.margin)

    @property
    def last(self) -> int:
        """The sample of Opus after the last that is wanted."""
        return self.number * SECONDS * RATE + -(-self.count * RATE // self.rate) + self.margin

    @property
    def packets(self) -> tuple[int, int]:
        """The first packet that the chunk has, and the one after its last."""
        return max(0, self.first + self.delay - PREROLL) // self.frame, -(-(self.last + self.delay) // self.frame)

    def at_rate(self, wide: FloatSamples) -> FloatSamples:
        """Return the chunk's samples (C, count) from those of Opus from `first` on."""
        if self.rate == RATE:
            return wide
        # Resampling begins where both rates have a sample; what is missing before is silence, far from what counts.
        both = RATE // math.gcd(RATE, self.rate)
        begin = self.first // both * both
        padded = np.pad(wide, ((0, 0), (self.first - begin, 0)))
        skipped = (self.number * SECONDS * RATE - begin) * self.rate // RATE
        made = soxr.resample(padded.T, RATE, self.rate).reshape(-1, wide.shape[0]).T
        return cast(FloatSamples, np.ascontiguousarray(made[:, skipped : skipped + self.count]))


def _fits(signal: Audio) -> bool:
    """Whether channels are where Opus puts its one of low frequencies, if it has one: pairs that are none cost bits only."""
    if signal.shape[0] < 6:
        return True
    try:
        return [channel.name for channel in av.AudioLayout(signal.layout).channels][3] == "LFE"
    except (ValueError, IndexError):
        return False


def _at_48k(signal: Audio, progress: Progress | None) -> Iterator[FloatSamples]:
    """Yield the samples (C, n) as float32 at 48 kHz."""
    stream = None if signal.rate == RATE else soxr.ResampleStream(signal.rate, RATE, signal.shape[0], "float32")
    scale = np.float32(1 if signal.bits == 32 else 2.0 ** (1 - signal.bits))
    for block in packets_of(signal, max(1, signal.rate // 2), "opus", progress):
        wide = block.astype(np.float32) * scale
        yield wide if stream is None else _resampled(stream, wide, False)
    if stream is not None:
        yield _resampled(stream, np.zeros((signal.shape[0], 0), np.float32), True)


def _resampled(stream: Any, wide: FloatSamples, last: bool) -> FloatSamples:
    made = stream.resample_chunk(np.ascontiguousarray(wide.T), last=last)
    return cast(FloatSamples, made.reshape(-1, wide.shape[0]).T)


def _packets(blocks: Iterable[FloatSamples], coding: _Coding) -> tuple[int, Iterator[bytes]]:
    """Return the encoder's delay in samples, and what yields its packets, those of silence behind the sound last."""
    options = {
        "b": str(coding.bits_a_second),
        "compression_level": str(coding.complexity),
        "frame_duration": str(coding.frame // 48),
        "mapping_family": "255" if coding.apart else str(int(coding.channels > 2)),  # left open, 5 and 7 change places
    }
    layout = OPUS_LAYOUTS[coding.channels - 1]
    with failures_are(UnsupportedMedia, "libopus does not encode this sound"):
        context = cast(Any, av.CodecContext.create("libopus", "w"))
        context.layout, context.sample_rate, context.format, context.options = layout, RATE, "flt", options
        context.open()
        delay = int.from_bytes(bytes(context.extradata)[10:12], "little")
        if bytes(context.extradata)[18:19] != bytes([255 if coding.apart else coding.channels > 2]):
            raise UnsupportedMedia("libopus orders channels in a way that is not known")

    def packets() -> Iterator[bytes]:
        with failures_are(UnsupportedMedia, "libopus does not encode this sound"):
            for number, frame in enumerate(_frames(blocks, coding)):
                picture = cast(Any, av.AudioFrame).from_ndarray(frame.T.reshape(1, -1), "flt", layout)
                picture.sample_rate, picture.pts, picture.time_base = RATE, number * coding.frame, Fraction(1, RATE)
                yield from map(bytes, context.encode(picture))
            yield from map(bytes, context.encode(None))

    return delay, packets()


def _frames(blocks: Iterable[FloatSamples], coding: _Coding) -> Iterator[FloatSamples]:
    """Yield frames (C, frame) of the sound, and of silence for what chunks want beyond it."""
    held = np.zeros((coding.channels, 0), np.float32)
    silence = np.zeros((coding.channels, RATE), np.float32)
    for block in chain(blocks, [silence]):
        held = np.concatenate([held, block], axis=1)
        whole = held.shape[1] // coding.frame * coding.frame
        for at in range(0, whole, coding.frame):
            yield np.ascontiguousarray(held[:, at : at + coding.frame])
        held = held[:, whole:]


def _chunks(packets: Iterator[bytes], count: int, rate: int, frame: int, delay: int) -> Iterator[bytes]:
    """Yield the chunks, of packets of which some belong to two."""
    held: deque[bytes] = deque()
    at = 0  # the number of the first packet that is held
    for number in range(-(-count // (SECONDS * rate))):
        begin, end = _Span(number, min(SECONDS * rate, count - number * SECONDS * rate), rate, frame, delay).packets
        while at + len(held) < end:
            held.append(next(packets))
        while at < begin:
            held.popleft()
            at += 1
        yield b"".join(varint(len(packet)) + packet for packet in list(held)[: end - begin])


def _head(channels: int, apart: bool) -> bytes:
    """Return what an Opus decoder is told before the first packet (RFC 7845, 5.1), without a delay, which is cut off here."""
    streams, pairs = (channels, 0) if apart else STREAMS[channels - 1]
    order = bytes(map(int, (APART_ORDERS if apart else ORDERS)[channels - 1]))
    mapping = b"" if channels <= 2 else bytes([streams, pairs]) + order
    family = int(channels > 2)
    return b"OpusHead\x01" + bytes([channels]) + bytes(2) + RATE.to_bytes(4, "little") + bytes(2) + bytes([family]) + mapping


def _decoded(chunk: bytes, head: bytes, span: _Span, channels: int) -> FloatSamples:
    """Return the samples of Opus (C, n) that are wanted of a chunk; raises `CorruptStream` for other packets than it has."""
    begin, end = span.packets
    packets = parts_of(chunk)
    if len(packets) != end - begin:
        raise CorruptStream(f"a chunk has {len(packets)} opus packets, and not {end - begin}")
    wide = np.empty((channels, (end - begin) * span.frame), np.float32)
    with failures_are(CorruptStream, "an opus packet is damaged"):
        context = cast(Any, av.CodecContext.create("libopus", "r"))
        context.extradata, context.sample_rate, context.layout = head, RATE, LAYOUTS[channels - 1]
        context.options, context.thread_count = {"request_sample_fmt": "flt", "err_detect": "explode"}, 1
        for number, packet in enumerate(packets):
            at = number * span.frame
            if not packet:
                raise CorruptStream("an opus packet is empty")
            for decoded in context.decode(av.Packet(packet)):
                if decoded.samples != span.frame or len(decoded.layout.channels) != channels:
                    raise CorruptStream("an opus packet holds other sound than the header says")
                wide[:, at : at + span.frame] = decoded.to_ndarray().reshape(-1, channels).T
                break
            else:
                raise CorruptStream("an opus packet holds nothing")
    start = span.first + span.delay - begin * span.frame
    return np.ascontiguousarray(wide[:, start : start + span.last - span.first])


def _as_bits(wide: FloatSamples, bits: int) -> AudioSamples:
    """Return float samples as those of so many bits, clipped."""
    if bits == 32:
        return wide
    full = 2.0 ** (bits - 1)
    return cast(AudioSamples, np.clip(np.rint(wide.astype(np.float64) * full), -full, full - 1).astype(dtype_of_bits(bits)))
