"""The whole way from a signal to the bytes of an .lcn file and back. The file to read first.

signal ─ Codec.encode ─▶ Stream ─ container.write ─▶ bytes ─ container.read ─▶ Stream ─ Codec.decode ─▶ signal
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from . import compiling, container
from . import device as devices
from .audio.search import search_audio
from .codec import AudioFacts, Codec, CodecSettings, Progress, Stream, TargetCodec, VideoFacts
from .errors import CorruptStream, InvalidSettings, LaconicError, UnsupportedMedia, WeightsMissing
from .limits import Limits
from .registry import codec_class, codec_ids, open_codec
from .settings import codecs_at_once, codecs_with, is_lossless, make_settings, settings_used, takes
from .signals import Audio, Signal, Video
from .targets import Target, search
from .video.search import search_video
from .video.timing import pack_times, unpack_times

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "AUTO",
    "LOSSLESS",
    "NO_SETTINGS",
    "PREFERRED",
    "Encoded",
    "Target",
    "codec_of",
    "decode",
    "device_of",
    "encode",
    "finished",
    "packed",
    "test",
]

AUTO = "auto"
# What "auto" takes without a target: the first that is installed and takes the signal.
PREFERRED = ("image-transform", "jxl", "av1", "h264", "opus")
LOSSLESS = (
    "image-lossless",
    "jxl",
    "webp",
    "hevc",
    "h264",
    "audio-lossless",
    "flac",
)  # of whose files "auto" takes the smallest where nothing may be lost
NO_SETTINGS: Mapping[str, object] = MappingProxyType({})


@dataclass(frozen=True)
class Encoded:
    """An .lcn file, the codec and settings that made it, the seconds and device that it took, and the signal's pixels."""

    data: bytes
    codec: str
    settings: dict[str, object]
    seconds: float
    device: str
    pixels: int

    @property
    def bpp(self) -> float:
        """Bits of the whole file per pixel."""
        return 8 * len(self.data) / self.pixels


def encode(
    signal: Signal,
    codec: str = AUTO,
    settings: Mapping[str, object] = NO_SETTINGS,
    target: Target | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    among: Collection[str] | None = None,
) -> Encoded:
    """Compress a signal.

    `codec` "auto" is the first of `PREFERRED`. Where nothing may be lost it is the one of `LOSSLESS` that makes the smallest
    file; with a target it is the codec that does best (see `targets.search`); in both cases of those that have all the settings
    given, and of those in `among`, if that is given. Raises `InvalidSettings`, `UnsupportedMedia`, `WeightsMissing`,
    `DeviceUnavailable`, and whatever `progress` raises.
    """
    began = time.perf_counter()
    if target is not None:
        encoded = _encode_to_target(signal, codec, settings, target.sized(signal), device, progress, among)
    elif codec != AUTO:
        encoded = _encode_with(signal, codec, settings, device, progress)
    elif is_lossless(settings):
        encoded = _smallest_lossless(signal, settings, device, progress, among)
    else:
        preferred = [name for name in PREFERRED if name in codec_ids() and takes(codec_class(name), signal.kind)]
        encoded = next(_encode_with_each(signal, preferred, settings, device, lambda name: progress))
    return replace(encoded, seconds=time.perf_counter() - began)


def decode(
    data: bytes,
    limits: Limits | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    known: NDArray[np.uint8] | None = None,
    salvage: bool = False,
    whole: bool = True,
) -> Signal:
    """Restore the signal of an .lcn file; `known` are the samples that it was made without.

    A video's frames and sound's samples are decoded as they are asked for, and what they raise comes then. Without `whole`
    there may be more than memory holds: `array` is not for them. With `salvage` groups of frames, or packets, that are damaged
    are left out and named in `lost`.

    Raises `CorruptStream`, `LimitExceeded`, `UnsupportedMedia` for a codec that is not installed, `WeightsMissing` and
    `WeightsMismatch`; whatever the bytes, nothing else.
    """
    limits = limits or Limits()
    stream = container.read(data, limits, salvage)
    if stream.video and whole:
        limits.check("max_video_pixels", math.prod(stream.shape[:3]), "the video's number of pixels, of all frames")
    if stream.audio and whole:
        limits.check("max_samples", math.prod(stream.shape), "the sound's number of samples, of all channels")
    if known is not None:
        stream = replace(stream, known=known)
    codec = codec_of(stream, device)
    with compiling.reported(progress) as report:
        signal = codec.decode(stream, report)
    return finished(signal, stream)


def test(data: bytes, limits: Limits | None = None, device: str = "auto") -> None:
    """Check an .lcn file by decoding it, checksums of symbols included; raises as `decode` does."""
    signal = decode(data, limits, device, whole=False)
    if isinstance(signal, Audio):
        for _ in signal.source.read(0, signal.shape[1]):
            pass
    if isinstance(signal, Video):
        decoded = 0
        try:
            for _ in signal.source.read(0, signal.shape[0]):
                decoded += 1
        except CorruptStream as error:
            raise CorruptStream(f"frame {decoded} of {signal.shape[0]} does not decode: {error}") from error


def device_of(codec: type[Codec], device: str) -> str:
    """Return the device that a codec runs on when `device` is asked for; codecs with `devices` run only on those."""
    return devices.resolve(device) if "cuda" in getattr(codec, "devices", devices.DEVICES) else "cpu"


def codec_of(stream: Stream, device: str) -> Codec:
    """Return the codec, on its device, that decodes a stream.

    Raises `UnsupportedMedia` for one that is not installed, `CorruptStream` for one that does not make such signals.
    """
    if stream.codec not in codec_ids():
        raise UnsupportedMedia(
            f"the file needs the codec {stream.codec!r}, which is not installed; there are {', '.join(codec_ids())}"
        )
    kind = "video" if stream.video else "audio" if stream.audio else "image"
    if not takes(codec_class(stream.codec), kind):
        raise CorruptStream(f"the file says that it holds {kind} coded by {stream.codec}, which does not code such")
    return open_codec(stream.codec, device_of(codec_class(stream.codec), device))


def packed(stream: Stream, signal: Signal, settings: CodecSettings, seconds: float, device: str) -> Encoded:
    """Return the file of a stream, with what the signal has beside its samples."""
    metadata, video, audio = dict(signal.metadata), None, None
    if isinstance(signal, Audio):
        audio = AudioFacts(signal.rate, signal.layout)
    if isinstance(signal, Video):
        video = VideoFacts(signal.rate, signal.colour)
        metadata |= {} if signal.times is None else {"times": pack_times(signal.times)}
    data = container.write(replace(stream, metadata=metadata, video=video, audio=audio))
    return Encoded(data, stream.codec, settings_used(settings), seconds, device, signal.pixels)


def finished(signal: Signal, stream: Stream) -> Signal:
    """Return a decoded signal with what the stream says of it; raises `CorruptStream` where it is not what the header says."""
    if signal.shape != stream.shape or signal.bit_depth != stream.bit_depth:
        raise CorruptStream(f"the payload holds {signal.shape} at {signal.bit_depth} bits, not what the header says")
    metadata = dict(stream.metadata)
    packed_times = metadata.pop("times", None)
    if isinstance(signal, Audio) and stream.audio:
        return replace(signal, metadata=metadata, rate=stream.audio.rate, layout=stream.audio.layout)
    if not isinstance(signal, Video) or stream.video is None:
        return replace(signal, metadata=metadata)
    times = None if packed_times is None else unpack_times(packed_times, signal.shape[0])
    return replace(signal, metadata=metadata, rate=stream.video.rate, colour=stream.video.colour, times=times)


def _encode_with(
    signal: Signal,
    name: str,
    settings: Mapping[str, object],
    device: str,
    progress: Progress | None = None,
    target: Target | None = None,
) -> Encoded:
    began = time.perf_counter()
    kind = codec_class(name)
    if not takes(kind, signal.kind):
        others = ", ".join(codecs_with(signal.kind)) or "no codec"
        raise UnsupportedMedia(f"{name} takes {kind.signal}, not {signal.kind}; {others} does")
    chosen = make_settings(kind, settings)
    place = device_of(kind, device)
    codec = open_codec(name, place)
    with compiling.reported(progress) as report:
        if target is not None and isinstance(codec, TargetCodec):
            stream = codec.encode_to(signal, chosen, target, report)
        else:
            stream = codec.encode(signal, chosen, report)
    return packed(stream, signal, chosen, time.perf_counter() - began, place)


def _smallest_lossless(
    signal: Signal,
    settings: Mapping[str, object],
    device: str,
    progress: Progress | None,
    among: Collection[str] | None,
) -> Encoded:
    """Return the smallest file of the codecs of `LOSSLESS` that have the settings and take the signal."""
    wanted = settings.keys() - {"lossless"}  # which needs to be no setting of codecs that are always lossless
    names = [
        name
        for name in LOSSLESS
        if (among is None or name in among)
        and name in codec_ids()
        and takes(codec_class(name), signal.kind)
        and wanted <= codec_class(name).Settings.model_fields.keys()
    ]

    def shared(name: str) -> Progress | None:
        first = names.index(name)
        return progress and (lambda part, stage: progress((first + part) / len(names), f"{name}, {stage}"))

    files = _encode_with_each(signal, names, settings, device, shared)
    return min(files, key=lambda file: len(file.data))


def _encode_with_each(
    signal: Signal,
    names: Sequence[str],
    settings: Mapping[str, object],
    device: str,
    progress_of: Callable[[str], Progress | None],
) -> Iterator[Encoded]:
    """Yield a file from every codec that takes the signal; raises the last refusal if none does."""
    refusal: LaconicError = InvalidSettings(f"no codec has all the settings {', '.join(settings)}")
    taken = False
    for name in names:
        try:
            yield _encode_with(signal, name, settings, device, progress_of(name))
            taken = True
        except (UnsupportedMedia, WeightsMissing) as error:
            refusal = error
    if not taken:
        raise refusal


def _searched(kind: str, settings: Mapping[str, object], among: Collection[str] | None) -> list[str]:
    """Return the codecs that "auto" tries for a target."""
    return [name for name in codecs_at_once(kind, "quality", *settings) if among is None or name in among]


def _encode_to_target(
    signal: Signal,
    codec: str,
    settings: Mapping[str, object],
    target: Target,
    device: str,
    progress: Progress | None,
    among: Collection[str] | None,
) -> Encoded:
    if "quality" in settings or is_lossless(settings):
        name = "quality" if "quality" in settings else "lossless"
        raise InvalidSettings(f"{name} contradicts a target of {target}: give one of the two")
    if isinstance(signal, Audio):
        codec = next(name for name in PREFERRED if takes(codec_class(name), signal.kind)) if codec == AUTO else codec
    names = [codec_class(codec).id] if codec != AUTO else _searched(signal.kind, settings, among)
    if not names:
        raise InvalidSettings(f"no codec has all the settings {', '.join(settings)}")
    chosen = codec_class(names[0])
    if codec != AUTO and issubclass(chosen, TargetCodec):
        return _encode_with(signal, codec, settings, device, progress, target)
    if isinstance(signal, Audio) and "kbps" in chosen.Settings.model_fields:
        if "kbps" in settings:
            raise InvalidSettings(f"kbps contradicts a target of {target}: give one of the two")
        return search_audio(
            signal, codec, settings, target, lambda choice, part: _encode_with(signal, codec, choice, device, part), progress
        )
    if "quality" not in chosen.Settings.model_fields:
        why = f": {codec} is always lossless" if chosen.lossless else ""
        raise InvalidSettings(f"{codec} has no quality to search for a target of {target}{why}")
    if isinstance(signal, Video):
        return search_video(
            signal,
            names,
            settings,
            target,
            encode=lambda video, name, choice, part: _encode_with(video, name, choice, device, part),
            decode=lambda data: decode(data, _limits_of(data, signal), device, whole=False),
            progress=progress,
        )
    return search(
        signal,
        names,
        settings,
        target,
        encode=lambda name, choice, part: _encode_with(signal, name, choice, device, part),
        decode=lambda data: decode(data, _limits_of(data, signal), device),
        progress=progress,
    )


def _limits_of(data: bytes, signal: Signal) -> Limits:
    """Return limits within which a file of a signal that was taken is decoded."""
    return Limits(max_input_bytes=len(data), max_pixels=signal.pixels, max_frames=signal.pixels, max_chunks=signal.pixels + 8)
