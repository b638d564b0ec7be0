"""The sound of a video: its packets copied, as they were coded, into a Matroska file of its own, and from there into others."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from contextlib import closing, contextmanager
from fractions import Fraction
from typing import Any, cast

import av

from ..errors import CorruptMedia, UnsupportedMedia
from ..limits import Limits
from ..signals import TICKS
from ..sources import LAYOUTS
from .ffmpeg import failures_are

__all__ = ["BITEXACT", "Copying", "Soundtrack", "packets_of", "sound_for", "start_of"]

# The name of the tag that says when the sound begins after the first frame, in `TICKS` of a second: negative where a coder's
# priming comes before. Times in the file itself begin at 0, as Matroska has no negative ones.
START = "LACONIC_START"
BITEXACT = av.container.Flags.bitexact.value  # no random identifiers: the same sound gives the same bytes
OPUS_RATE, CHANNEL_BITS = 48_000, 96_000  # Hz; bits per second and channel of sound that is coded anew
JITTER = Fraction(2, 1000)  # seconds: Matroska rounds times to milliseconds


class Soundtrack:
    """Gathers the packets of an audio stream while the video beside it is read."""

    def __init__(self, stream: Any, limits: Limits) -> None:
        self._stream, self._limits = stream, limits
        self._packets: list[Any] = []
        self._bytes = 0

    def add(self, packet: Any) -> None:
        """Keep a packet; raises `LimitExceeded` for more bytes of sound than are allowed."""
        if packet.is_corrupt:
            raise CorruptMedia("the sound is damaged or ends too early")
        if packet.size and packet.pts is not None:
            self._bytes += packet.size
            self._limits.check("max_audio_bytes", self._bytes, "the sound's length in bytes")
            self._packets.append(packet)

    def file(self, zero: Fraction) -> bytes:
        """Return the sound as a Matroska file, empty if there is none; `zero` is when the first frame appears, in seconds."""
        if not self._packets:
            return b""
        target = io.BytesIO()
        codec = self._stream.codec_context.name
        with (
            failures_are(UnsupportedMedia, f"sound of the kind {codec} is not carried"),
            closing(cast(Any, av.open(target, "w", format="matroska"))) as container,
        ):
            container.flags |= BITEXACT
            copy = container.add_stream_from_template(self._stream)
            first = self._packets[0].pts
            ticks = round((first * self._stream.time_base - zero) * TICKS)
            container.metadata.update({START: str(ticks)} if ticks else {})
            for packet in self._packets:
                packet.pts = packet.dts = packet.pts - first
                packet.stream = copy
                container.mux(packet)
        return target.getvalue()


def start_of(container: Any) -> Fraction:
    """Return when the sound in an opened file of `Soundtrack` begins, in seconds after the first frame."""
    try:
        ticks = int(container.metadata.get(START, 0))
    except ValueError:
        ticks = 0
    return Fraction(ticks, TICKS)


def packets_of(container: Any) -> Iterator[Any]:
    """Yield the packets of such a file, timed from the first frame on; a rounded time follows from the packets before it."""
    stream = container.streams.audio[0]
    base, start = stream.time_base, start_of(container)
    first, due = None, Fraction(0)
    for packet in container.demux(stream):
        if packet.size == 0 or packet.pts is None:
            continue
        first = packet.pts if first is None else first
        said = (packet.pts - first) * base
        at = due if abs(said - due) <= JITTER else said
        due = at + _seconds(packet, stream)
        packet.time_base = Fraction(1, TICKS * 1000)
        packet.pts = packet.dts = round((start + at) * TICKS * 1000)
        packet.duration = round((due - at) * TICKS * 1000)
        yield packet


def _seconds(packet: Any, stream: Any) -> Fraction:
    """Return how long a packet lasts: from its samples where the coder says how many, which is exact."""
    size, rate = stream.codec_context.frame_size, stream.codec_context.sample_rate
    return Fraction(size, rate) if size and rate else Fraction(packet.duration or 0) * stream.time_base


class Copying:
    """Moves the packets of a sound file into a container, as they are or coded anew, never further than the frames are."""

    def __init__(self, packets: Iterator[Any], container: Any) -> None:
        self._packets, self._container = packets, container
        self._next = next(packets, None)

    def until(self, seconds: Fraction | None) -> None:
        """Move what is heard up to a moment, or all."""
        while self._next is not None and (seconds is None or self._next.pts * self._next.time_base <= seconds):
            self._container.mux(self._next)
            self._next = next(self._packets, None)


@contextmanager
def sound_for(audio: bytes | None, container: Any, kinds: frozenset[str] | None, encoder: str) -> Iterator[Copying]:
    """Add a sound file's stream to an output container and give what moves its packets.

    Kinds of sound in `kinds` are copied (None: all), others coded by `encoder`. Raises `CorruptMedia` for a file that is none.
    """
    if not audio:
        yield Copying(iter(()), container)
        return
    with failures_are(CorruptMedia, "the sound is damaged"):
        file = cast(Any, av.open(io.BytesIO(audio), "r", "matroska", metadata_errors="replace"))
        if not file.streams.audio:
            raise CorruptMedia("the sound is damaged: it has no stream of sound")
    with closing(file) as source:
        stream = source.streams.audio[0]
        if kinds is None or stream.codec_context.codec.canonical_name in kinds:
            copy = container.add_stream_from_template(stream)
            yield Copying(_into(copy, packets_of(source)), container)
        else:
            yield Copying(_coded(source, container, encoder), container)


def _into(stream: Any, packets: Iterator[Any]) -> Iterator[Any]:
    for packet in packets:
        packet.stream = stream
        yield packet


def _coded(source: Any, container: Any, encoder: str) -> Iterator[Any]:
    """Yield the packets of a sound coded anew at 96 kbit/s a channel."""
    stream = source.streams.audio[0]
    start, rate = start_of(source), OPUS_RATE if encoder == "libopus" else stream.codec_context.sample_rate
    coded = container.add_stream(encoder, rate)
    layout = stream.codec_context.layout
    coded.layout = (
        LAYOUTS[layout.nb_channels - 1] if layout.name not in LAYOUTS and layout.nb_channels <= len(LAYOUTS) else layout
    )
    coded.bit_rate = CHANNEL_BITS * coded.layout.nb_channels
    coded.codec_context.open()
    resampler = av.AudioResampler(coded.format, coded.layout, rate, coded.codec_context.frame_size)

    def packets() -> Iterator[Any]:
        at = round(start * rate)
        for frame in itertools.chain(source.decode(stream), [None]):
            for piece in resampler.resample(frame):
                piece.pts, piece.time_base = at, Fraction(1, rate)
                at += piece.samples
                yield from coded.encode(piece)
        yield from coded.encode(None)

    return packets()
