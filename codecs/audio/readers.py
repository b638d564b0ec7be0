"""Sound files to samples: one pass that decodes and counts all of them, and reading again what is asked for.

Containers are not believed: samples are counted by decoding them, with what coders put before and behind the sound cut off as
the file says. They stay in memory as long as they are few; beyond that the file is decoded again when samples are asked for.
"""

from __future__ import annotations

import io
import json
import math
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

import av
import numpy as np

from ..errors import CorruptMedia, UnsupportedMedia
from ..limits import Limits
from ..signals import ArraySamples, Audio, AudioSamples, SampleSource
from ..sources import LAYOUTS, dtype_of_bits
from ..video.ffmpeg import failures_are
from .framing import check_whole, promised_samples, samples_of_lame

__all__ = ["DEMUXERS", "SOUND_ONLY", "FileSamples", "Stored", "has_only_sound", "opened", "read_audio", "stated_size"]

DEMUXERS = {
    "wav": "wav",
    "aiff": "aiff",
    "flac": "flac",
    "mp3": "mp3",
    "aac": "aac",
    "ogg": "ogg",
    "m4a": "mp4",
    "mp4": "mp4",
    "mov": "mov",
    "webm": "webm",
    "mkv": "matroska",
    "avi": "avi",
}
SOUND_ONLY = {"mp4": "m4a", "mov": "m4a", "webm": "weba", "mkv": "mka"}  # what files of these kinds are without a video
DEMUXERS |= {"weba": "webm", "mka": "matroska"}
HELD_BYTES = 64 * 2**20  # of samples that stay in memory
MARKED = 5  # seconds from one place where decoding may begin to the next; it begins one place before what is wanted
FASTEST = 768_000  # Hz
MEASURED = {"wav", "aiff"}  # whose length is known before; FFmpeg calls the last packet of one from a pipe cut
# Words of containers about themselves, and not about the sound.
TECHNICAL = {"encoder", "duration", "language", "handler_name", "vendor_id", "creation_time", "itunsmpb", "encoded_by"}
TECHNICAL |= {"major_brand", "minor_version", "compatible_brands", "bps", "number_of_frames", "number_of_bytes"}
LAYOUT = re.compile(r"[a-zA-Z0-9.()+ ]{1,64}")
NAMED_BITS = {"pcm_s24le": 24, "pcm_s24be": 24, "pcm_s24daud": 24, "pcm_u24le": 24, "pcm_u24be": 24}


@dataclass(frozen=True)
class Stored:
    """How a stream stores samples: what each decoded frame must be, and the bits that integers have of theirs."""

    rate: int
    channels: int
    layout: str
    form: str  # FFmpeg's sample format, without the mark of planes
    bits: int

    @classmethod
    def of(cls, stream: Any) -> Stored:
        """Return what a stream says; raises `UnsupportedMedia` for rates and channels that `Audio` does not have."""
        context = stream.codec_context
        rate, channels = context.sample_rate, context.channels
        if not 1 <= rate <= FASTEST:
            raise UnsupportedMedia(f"sound at {rate:,} Hz is not read: 1 to {FASTEST:,} Hz are")
        if not 1 <= channels <= len(LAYOUTS):
            raise UnsupportedMedia(f"sound of {channels} channels is not read: 1 to {len(LAYOUTS)} are")
        if context.format is None:
            raise UnsupportedMedia("the file does not say what its samples are")
        form = context.format.name.removesuffix("p")
        name = context.layout.name
        known = LAYOUT.fullmatch(name) and not name.endswith(" channels")
        return cls(rate, channels, name if known else LAYOUTS[channels - 1], form, _bits(context, form))

    def packed(self, frame: Any) -> Any:
        """Return a frame as it is, but packed where PyAV would not find the end of its planes."""
        if self.channels < len(LAYOUTS) or not frame.format.is_planar:
            return frame
        stamp = frame.pts
        (packed,) = av.AudioResampler(self.form, frame.layout, frame.sample_rate).resample(frame)
        packed.pts = stamp
        return packed

    def samples(self, frame: Any) -> AudioSamples:
        """Return a frame's samples (C, n); raises `CorruptMedia` for one of another rate or form."""
        facts = frame.sample_rate, len(frame.layout.channels), frame.format.name.removesuffix("p")
        if facts != (self.rate, self.channels, self.form):
            raise CorruptMedia(f"the sound changes to {facts} from {(self.rate, self.channels, self.form)}")
        array = frame.to_ndarray()
        planes = array if frame.format.is_planar else array.reshape(-1, self.channels).T
        return cast(AudioSamples, np.ascontiguousarray(self._converted(planes)))

    def _converted(self, planes: Any) -> Any:
        if self.form == "u8":
            return planes.astype(np.int16) - 128
        if self.form in ("flt", "dbl"):
            return planes.astype(np.float32)
        width = 8 * planes.dtype.itemsize
        if self.bits == 32:
            return (planes * 2.0 ** (1 - width)).astype(np.float32)
        return (planes >> (width - self.bits)).astype(dtype_of_bits(self.bits))


@dataclass(frozen=True, eq=False)
class FileSamples:
    """The samples of a sound file, a `SampleSource`: decoded again whenever they are asked for.

    `marks` are places where decoding may begin, each (number of the first sample, time stamp of the packet), ascending.
    """

    data: bytes
    name: str
    stored: Stored
    count: int
    marks: tuple[tuple[int, int], ...]
    limits: Limits

    @property
    def shape(self) -> tuple[int, int]:
        """(C, N)."""
        return self.stored.channels, self.count

    @property
    def dtype(self) -> np.dtype[Any]:
        """int16, int32 or float32."""
        return dtype_of_bits(self.stored.bits)

    def read(self, start: int, stop: int) -> Iterator[AudioSamples]:
        """Yield the samples start .. stop - 1."""
        near = bisect_right(self.marks, (start, 2**63)) - 1
        at = start
        if near > 0:
            for block in self._cut(self._from_mark(near), start, stop):
                at += block.shape[1]
                yield block
        if at == start < stop:
            for block in self._cut(self._from_beginning(), start, stop):
                at += block.shape[1]
                yield block
        if at < stop:
            raise CorruptMedia(f"there are {at:,} samples where there were {self.count:,}")

    def _from_beginning(self) -> Iterator[tuple[int, AudioSamples]]:
        with opened(self.data, self.name, self.limits) as (container, stream):
            for number, _, block in _decoded(container, stream, self.stored):
                yield number, block

    def _from_mark(self, near: int) -> Iterator[tuple[int, AudioSamples]]:
        """Yield blocks from a mark on, decoded from the one before it; none if seeking leads elsewhere."""
        with opened(self.data, self.name, self.limits) as (container, stream):
            container.seek(self.marks[near - 1][1], stream=stream)
            first: int | None = None
            number, stamp = self.marks[near]
            for count, shown, block in _decoded(container, stream, self.stored):
                if first is None:
                    if shown is not None and shown > stamp:
                        return
                    if shown != stamp:
                        continue
                    first = count
                yield number + count - first, block

    @staticmethod
    def _cut(blocks: Iterator[tuple[int, AudioSamples]], start: int, stop: int) -> Iterator[AudioSamples]:
        for number, block in blocks:
            part = block[:, max(0, start - number) : max(0, stop - number)]
            if part.shape[1]:
                yield part
            if number + block.shape[1] >= stop:
                return


def has_only_sound(data: bytes, name: str, limits: Limits) -> bool:
    """Whether a file of a kind that may hold a video ("mp4", "mov", "webm", "mkv") has sound and none; not if damaged."""
    if name not in SOUND_ONLY:
        return False
    try:
        with opened(data, name, limits) as (container, _):
            return not [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    except (CorruptMedia, UnsupportedMedia):
        return False


def stated_size(data: bytes, name: str, limits: Limits) -> tuple[int, int]:
    """Return how many samples of a channel a file says it has, at least 1, and its channels; nothing is decoded."""
    with opened(data, name, limits) as (container, stream):
        stored = Stored.of(stream)
        seconds = stream.duration * stream.time_base if stream.duration else Fraction(container.duration or 0, av.time_base)
        samples = max(1, math.ceil(seconds * stored.rate))
        limits.check("max_samples", samples * stored.channels, "the sound's number of samples, of all channels")
        return samples, stored.channels


def read_audio(data: bytes, name: str, limits: Limits) -> Audio:
    """Return the sound in a file, of a video its first; raises `LaconicError`s only.

    Integers of up to 24 bits stay integers; those of 32 bits, and what lossy coders give, become float32. A file that ends too
    early, or does not decode to its end, is `CorruptMedia`. Tags are JSON in `metadata["tags"]`, named as FFmpeg names them.
    """
    check_whole(data, name)
    with opened(data, name, limits) as (container, stream):
        stored = Stored.of(stream)
        tags = _tags({**container.metadata, **stream.metadata})
        most = _most(data, name, container)
        marks: list[tuple[int, int]] = []
        held: list[AudioSamples] | None = []
        count = size = 0
        with _breaking_off(lambda: count / stored.rate):
            for number, stamp, block in _decoded(container, stream, stored, name in ("m4a", "mp4", "mov")):
                block = block if most is None else block[:, : max(0, most - number)]
                count = number + block.shape[1]
                limits.check("max_samples", count * stored.channels, "the sound's number of samples, of all channels")
                if stamp is not None and (not marks or number >= marks[-1][0] + MARKED * stored.rate):
                    marks.append((number, stamp))
                size += block.nbytes
                if held is not None:
                    held.append(block)
                    held = held if size <= HELD_BYTES else None
    promised = promised_samples(data, name)
    if promised is not None and count < promised:
        raise CorruptMedia(f"the {name} file ends too early: {count:,} of {promised:,} samples are there")
    limits.check("max_metadata_bytes", len(tags), "the metadata's length in bytes")
    metadata = {"tags": tags} if tags else {}
    source: SampleSource = FileSamples(data, name, stored, count, tuple(marks), limits)
    if held is not None:
        empty = np.empty((stored.channels, 0), dtype_of_bits(stored.bits))
        source = ArraySamples(cast(AudioSamples, np.concatenate([empty, *held], axis=1)))
    return Audio(source, stored.rate, stored.bits, stored.layout, metadata)


@contextmanager
def opened(data: bytes, name: str, limits: Limits) -> Iterator[tuple[Any, Any]]:
    """Open a file and its first stream of sound, which decodes on one thread."""
    bounds = {"err_detect": "crccheck+explode", "threads": "1", "max_pixels": str(2 * limits.max_pixels + 2**16)}
    with failures_are(CorruptMedia, f"the {name} file is damaged"):
        file = cast(Any, av.open(io.BytesIO(data), "r", DEMUXERS[name], options=bounds, metadata_errors="replace"))
    with closing(file) as container:
        if not container.streams.audio:
            raise UnsupportedMedia(f"the {name} file has no sound")
        stream = container.streams.audio[0]
        if stream.codec_context is None:
            raise UnsupportedMedia(f"sound of this kind in {name} files is not decoded here")
        stream.codec_context.options = bounds
        stream.codec_context.thread_count = 1
        yield container, stream


def _decoded(
    container: Any, stream: Any, stored: Stored, trimmed: bool = False
) -> Iterator[tuple[int, int | None, AudioSamples]]:
    """Yield what packets decode to: the number of samples before, the packet's time stamp, and samples (C, n), n > 0.

    With `trimmed` the last packet gives no more samples than its container says it lasts: MP4 has no other way to say so.
    """
    number, last = 0, cast("tuple[int | None, AudioSamples, int] | None", None)
    with failures_are(CorruptMedia, "it does not decode"):
        for packet in container.demux(stream):
            if packet.is_corrupt and container.format.name not in MEASURED:
                raise CorruptMedia("a packet is cut")
            lasts = round((packet.duration or 0) * (packet.time_base or 0) * stored.rate)
            for frame in map(stored.packed, packet.decode()):
                if frame.is_corrupt:
                    raise CorruptMedia("a stretch is damaged")
                if last is not None:
                    yield number, last[0], last[1]
                    number += last[1].shape[1]
                    last = None
                if frame.samples:
                    last = packet.pts, stored.samples(frame), lasts
        if last is not None:
            stamp, block, lasts = last
            yield number, stamp, block[:, :lasts] if trimmed and lasts > 0 else block


@contextmanager
def _breaking_off(seconds: Callable[[], float]) -> Iterator[None]:
    """Say after how long a file that is damaged broke."""
    try:
        yield
    except CorruptMedia as error:
        raise CorruptMedia(f"the sound is damaged after {seconds():.3f} seconds: {error}") from error


def _most(data: bytes, name: str, container: Any) -> int | None:
    """Return how many samples a file has at most, where it says so beside its packets: iTunes does, and so does LAME."""
    found = re.match(r"\s*[0-9A-F]+ [0-9A-F]+ [0-9A-F]+ ([0-9A-F]{8,16})", container.metadata.get("iTunSMPB", ""))
    if found and int(found[1], 16):
        return int(found[1], 16)
    return samples_of_lame(data) if name == "mp3" else None


def _bits(context: Any, form: str) -> int:
    """Return how many bits the samples of a stream have."""
    if form == "u8":
        return 8
    extradata = bytes(context.extradata or b"")
    if context.name == "flac" and len(extradata) >= 34:
        raw = ((extradata[12] & 1) << 4 | extradata[13] >> 4) + 1
    elif context.name == "alac" and len(extradata) >= 36:
        raw = extradata[17]
    else:
        raw = NAMED_BITS.get(context.name, {"s16": 16}.get(form, 32))
    return raw if 8 <= raw <= {"s16": 16, "s32": 24}.get(form, 0) else 16 if form == "s16" else 32


def _tags(found: Mapping[str, str]) -> bytes:
    """Return what a file says of the sound as a JSON object; empty for nothing."""
    tags = {name.lower(): text for name, text in found.items() if name.lower() not in TECHNICAL and text}
    return json.dumps(tags, ensure_ascii=False, sort_keys=True).encode("utf-8", "replace") if tags else b""
